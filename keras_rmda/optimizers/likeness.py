"""How it is told whether weights are those that they were."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from keras import ops

from keras_rmda.optimizers.algorithm import precise
from keras_rmda.regularizers import Tensor

SAME = 1e-5
"""The relative difference of sums over weights up to which these are the same: sums round in whatever order."""


def distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Return |a - b| / |a| over lists of tensors; 0 where both are the same."""
    squares = np.zeros(2)
    for x, y in zip(a, b, strict=True):
        x, y = ops.cast(x, precise(x.dtype)), ops.cast(y, precise(x.dtype))
        sums = [ops.sum(ops.square(x - y)), ops.sum(ops.square(x))]
        squares += [float(ops.convert_to_numpy(each)) for each in sums]
    return math.sqrt(squares[0] / squares[1]) if squares.all() else math.inf if squares[0] else 0.0


def is_equal(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are the same to the bit, NaN included."""
    b = ops.cast(b, a.dtype)
    same = ops.logical_or(ops.equal(a, b), ops.logical_and(ops.isnan(a), ops.isnan(b)))
    return bool(ops.convert_to_numpy(ops.all(same)))


def sums_of(w: Tensor) -> np.ndarray:
    """Return sums over a tensor by which its value is known again: of w, |w| and w^2."""
    w = ops.convert_to_numpy(w).astype("float64")
    return np.array([w.sum(), np.abs(w).sum(), np.square(w).sum()])


def are_same(a: np.ndarray, b: np.ndarray) -> bool:
    """Return whether these sums are of the same weights."""
    return np.allclose(a, b, rtol=SAME, atol=SAME * a[1], equal_nan=True)
