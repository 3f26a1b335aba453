"""Penalties that know their proximal maps, as pure functions of tensors on any Keras backend.

A regularizer here is an ordinary `keras.regularizers.Regularizer` (`reg(w)` is its value) and also
answers what proximal algorithms ask: `prox`, `prox_in_metric` and `subgradient`.
"""

from keras_rmda.regularizers.base import ProximalRegularizer, Tensor, as_type_of
from keras_rmda.regularizers.coupled import CoupledGroups, JointPenalty, PenaltyPart
from keras_rmda.regularizers.elementwise import L1, ElasticNet, NonNegativeL1
from keras_rmda.regularizers.groups import GroupLasso, SparseGroupLasso
from keras_rmda.regularizers.nuclear import NuclearNorm

__all__ = [
    "L1",
    "CoupledGroups",
    "ElasticNet",
    "GroupLasso",
    "JointPenalty",
    "NonNegativeL1",
    "NuclearNorm",
    "PenaltyPart",
    "ProximalRegularizer",
    "SparseGroupLasso",
    "Tensor",
    "as_type_of",
]
