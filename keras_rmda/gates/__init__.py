"""Stochastic gates that close channels."""

from keras_rmda.gates.expected_l2 import decay
from keras_rmda.gates.insertion import insert
from keras_rmda.gates.training import freeze, optimizer, unfreeze

__all__ = ["decay", "freeze", "insert", "optimizer", "unfreeze"]
