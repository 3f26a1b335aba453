"""Optimizers that train networks into exact structured sparsity."""

from keras_rmda.optimizers.rmda import RMDA

__all__ = ["RMDA"]
