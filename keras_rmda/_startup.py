"""Imports Keras; quietly where keras_rmda runs as a program.

TensorFlow prints several lines to standard error when it is imported, partly before its own log level counts. A
program whose errors are one line cannot have that; a library must not hide it.
"""

import os
import sys
from pathlib import Path

# While Python looks for the package of `python -m keras_rmda`, the program's name is "-m".
if Path(sys.argv[0]).stem == "keras-rmda" or sys.argv[0] == "-m":
    from keras_rmda._files import silenced

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with silenced(2):
        import keras  # noqa: F401
