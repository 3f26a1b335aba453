"""`python -m keras_rmda`."""

import sys

from keras_rmda.cli import main

sys.exit(main())
