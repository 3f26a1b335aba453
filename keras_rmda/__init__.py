"""Train Keras 3 models into exact structured sparsity, cut the zeros out, ship a small TFLite file."""

from keras_rmda.optimizers import RMDA
from keras_rmda.regularizers import L1, GroupLasso

__all__ = ["L1", "RMDA", "GroupLasso"]
