"""`compress`: a model, its data and a target in; a smaller model out."""

from keras_rmda.compression.compress import compress
from keras_rmda.compression.result import Compressed

__all__ = ["Compressed", "compress"]
