"""The layers of this package."""

from keras_rmda.gates.layer import L0Gate

__all__ = ["L0Gate"]
