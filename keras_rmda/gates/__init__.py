"""Stochastic gates that close channels."""

from keras_rmda.gates.insertion import insert
from keras_rmda.gates.training import freeze, optimizer, unfreeze

__all__ = ["freeze", "insert", "optimizer", "unfreeze"]
