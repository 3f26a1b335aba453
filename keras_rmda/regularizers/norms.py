"""Proximal maps of sums of Euclidean norms, for groups of any shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import keras
from keras import ops

from keras_rmda import _compat
from keras_rmda.regularizers.base import Tensor, as_type_of

NEWTON = {"float64": (10, 1e-9), "float32": (8, 1e-5), "bfloat16": (5, 1e-2), "float16": (5, 1e-2)}
"""Passes that are enough for rounding at a metric spread of 10^6, the worst of 150,000 random groups, and the relative
move after which the next pass would change nothing (see `shrink_in_metric`)."""


class Grouping(Protocol):
    """Which weights, of one array or of several, form a group.

    Attributes:
        weights: the factor of each group's norm in the penalty, a number or like what `sum` returns.
    """

    weights: float | Tensor

    def sum(self, arrays: Sequence[Tensor]) -> Tensor:
        """Return one number for each group: the sum over it."""
        ...

    def spread(self, numbers: Tensor) -> list[Tensor]:
        """Return one number for each group as arrays that broadcast with the arrays of weights."""
        ...


class AlongAxes:
    """One group of one array for every index along some of its axes.

    Args:
        shape: of the array.
        kept: the axes whose indices tell one group from another.
        by_size: whether a group's norm counts the root of its size times.
    """

    def __init__(self, shape: tuple[int, ...], kept: Sequence[int], by_size: bool):
        kept = {axis % len(shape) for axis in kept}
        self.axes = tuple(axis for axis in range(len(shape)) if axis not in kept)
        self.weights = math.prod(shape[axis] for axis in self.axes) ** 0.5 if by_size else 1.0

    def sum(self, arrays: Sequence[Tensor]) -> Tensor:
        [x] = arrays
        return sum_over(x, self.axes)

    def spread(self, numbers: Tensor) -> list[Tensor]:
        return [numbers]


def sum_over(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return sums over increasing axes, which are kept. (No axes would mean all axes to PyTorch.)"""
    if len(x.shape) - 1 in axes:
        x, axes = _compat.row_sums(x), axes[:-1]
    return ops.sum(x, axis=axes, keepdims=True) if axes else x


def norms(ws: Sequence[Tensor], grouping: Grouping) -> Tensor:
    """Return the norm of each group."""
    return ops.sqrt(grouping.sum([ops.square(w) for w in ws]))


def smooth_norms(ws: Sequence[Tensor], grouping: Grouping) -> Tensor:
    """Return the norm of each group, with derivative 0 at 0, where that of the root is infinite."""
    squares = grouping.sum([ops.square(w) for w in ws])
    positive = squares != 0
    safe = ops.where(positive, squares, ops.ones_like(squares))
    return ops.where(positive, ops.sqrt(safe), ops.zeros_like(squares))


def shrink(ws: Sequence[Tensor], t: Tensor, grouping: Grouping) -> list[Tensor]:
    """Return argmin_u sum_g t_g |u_g| + |u - w|^2 / 2."""
    norm = norms(ws, grouping)
    # In this order of branches a NaN stays a NaN and does not become a quiet zero group.
    factor = ops.where(norm <= t, ops.zeros_like(norm), 1.0 - t / norm)
    return [w * each for w, each in zip(ws, grouping.spread(factor))]


def shrink_in_metric(ws: Sequence[Tensor], t: Tensor, ds: Sequence[Tensor], grouping: Grouping) -> list[Tensor]:
    """Return argmin_u sum_g t_g |u_g| + <d, (u - w)^2> / 2 for a diagonal metric d > 0.

    With b = d * w: u = 0 where |b| <= t, else u = rho * b / (rho * d + t), where the scalar rho = |u| of the group
    solves N(rho) = |b / (rho * d + t)| = 1. Newton's method on 1 / N - 1 is monotone from a lower bound: (|b| - t) over
    the mean of d with weights b^2, by Jensen's inequality. The number of passes is fixed, so that nothing is read back;
    on CPUs it is the largest, and three or four are usual.
    """
    passes, small = NEWTON[keras.backend.standardize_dtype(ws[0].dtype)]
    ds = [ops.broadcast_to(as_type_of(w, d), w.shape) for w, d in zip(ws, ds)]
    bs = [d * w for d, w in zip(ds, ws)]
    squares = grouping.sum([ops.square(b) for b in bs])
    norm = ops.sqrt(squares)
    is_zero = norm <= t
    zero, one = ops.zeros_like(norm), ops.ones_like(norm)
    weighted = grouping.sum([d * ops.square(b) for d, b in zip(ds, bs)])
    rho = ops.where(is_zero, zero, (norm - t) * squares / weighted)
    # A zero group has no root; a denominator of at least 1 keeps its unused numbers finite.
    floors = grouping.spread(ops.where(is_zero, one, zero) + t)

    def newton(rho: Tensor) -> tuple[Tensor, Tensor]:
        inverses = [1.0 / (r * d + floor) for r, d, floor in zip(grouping.spread(rho), ds, floors)]
        terms = [ops.square(b * inverse) for b, inverse in zip(bs, inverses)]
        n_squared = grouping.sum(terms)
        slopes = grouping.sum([term * d * inverse for term, d, inverse in zip(terms, ds, inverses)])
        move = n_squared * (ops.sqrt(n_squared) - 1.0) / ops.where(is_zero, one, slopes)
        # Convergence is quadratic: after a move this small nothing is left to gain.
        return rho + move, ops.any(move > small * rho)

    rho = _compat.iterated(newton, rho, passes)
    kept = grouping.spread(ops.where(is_zero, zero, rho))
    return [
        b * k / (r * d + floor) for b, k, r, d, floor in zip(bs, kept, grouping.spread(rho), ds, floors, strict=True)
    ]


def directions(ws: Sequence[Tensor], t: Tensor, grouping: Grouping) -> list[Tensor]:
    """Return t_g w_g / |w_g|, and 0 for zero groups."""
    norm = norms(ws, grouping)
    safe = ops.where(norm == 0, ops.ones_like(norm), norm)
    # The products before the quotient, as the reference trajectories round.
    return [a * w / b for a, w, b in zip(grouping.spread(t), ws, grouping.spread(safe))]
