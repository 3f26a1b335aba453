"""Proximal maps of sums of Euclidean norms, for groups of any shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import keras
import numpy as np
from keras import ops

from keras_rmda.platform import arithmetic
from keras_rmda.regularizers.base import LARGEST, Tensor, as_type_of, threshold

PASSES = 14
"""Enough for rounding in the worst of 160,000 random groups, of weights and metrics from 1e-30 to 1e30. Where the
metric spreads by 1e8 or less 8 are enough, and on CPUs no more than needed are made."""

SETTLED = {"float64": 1e-9, "float32": 1e-4}
"""The relative move after which the next pass would change nothing: convergence is quadratic."""

SLOW = 0.25
"""Where N^2 falls by less than this power of rho^-2, its logarithm is the better model."""


class Grouping(Protocol):
    """Which weights, of one array or of several, form a group.

    Attributes:
        weights: the factor of each group's norm in the penalty, a number or like what `sum` returns.
        absent: like what `sum` returns, what is missing there of the squares of a group, since a part of it is in no
            array; None for nothing.
    """

    weights: float | Tensor
    absent: Tensor | None

    def sum(self, arrays: Sequence[Tensor]) -> Tensor:
        """Return one number for each group: the sum over it."""
        ...

    def sizes(self, arrays: Sequence[Tensor]) -> float | np.ndarray:
        """Return, for each group or for all, the number of its elements."""
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
        size: the size that it counts by, if another than that of the groups.
    """

    absent = None

    def __init__(self, shape: tuple[int, ...], kept: Sequence[int], by_size: bool, size: float | None = None):
        kept = {axis % len(shape) for axis in kept}
        self.axes = tuple(axis for axis in range(len(shape)) if axis not in kept)
        self.kept_shape = tuple(size if axis in kept else 1 for axis, size in enumerate(shape))
        self.size = float(math.prod(shape[axis] for axis in self.axes))
        self.weights = (self.size if size is None else float(size)) ** 0.5 if by_size else 1.0

    def sum(self, arrays: Sequence[Tensor]) -> Tensor:
        [x] = arrays
        return sum_over(x, self.axes)

    def sizes(self, arrays: Sequence[Tensor]) -> float:
        return self.size

    def spread(self, numbers: Tensor) -> list[Tensor]:
        return [numbers]


class SideBySide:
    """The groups of several arrays, each with a grouping of its own, as one: what is done with the numbers of groups
    is done once for all arrays.

    Args:
        groupings: one for each array.
    """

    absent = None

    def __init__(self, groupings: Sequence[AlongAxes]):
        self.groupings = groupings
        self.counts = [math.prod(each.kept_shape) for each in groupings]
        self.count = sum(self.counts)
        self.weights = np.repeat([each.weights for each in groupings], self.counts)

    def sum(self, arrays: Sequence[Tensor]) -> Tensor:
        sums = [each.sum([x]) for each, x in zip(self.groupings, arrays, strict=True)]
        return ops.concatenate([ops.reshape(each, (-1,)) for each in sums])

    def sizes(self, arrays: Sequence[Tensor]) -> np.ndarray:
        return np.repeat([each.size for each in self.groupings], self.counts)

    def spread(self, numbers: Tensor) -> list[Tensor]:
        parts = ops.split(numbers, np.cumsum(self.counts)[:-1].tolist())
        return [ops.reshape(part, each.kept_shape) for part, each in zip(parts, self.groupings)]


def sum_over(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return sums over increasing axes, which are kept. (No axes would mean all axes to PyTorch.)"""
    if len(x.shape) - 1 in axes:
        x, axes = arithmetic.row_sums(x), axes[:-1]
    return ops.sum(x, axis=axes, keepdims=True) if axes else x


def scaled(ws: Sequence[Tensor], grouping: Grouping) -> tuple[list[Tensor], Tensor]:
    """Return weights times a power of two for each group, so that squares neither vanish nor overflow; the powers.

    The power is 1 where the sum of a group is between 2^-8 and 2^8: nothing is rounded differently there.
    """
    sums = ops.stop_gradient(grouping.sum([ops.abs(w) for w in ws]))
    exponents = ops.round(ops.log2(ops.clip(sums, 2.0**-100, 2.0**100)) / 16.0)
    powers = ops.power(as_type_of(sums, 2.0), -16.0 * exponents)
    return [w * power for w, power in zip(ws, grouping.spread(powers))], powers


def norms(ws: Sequence[Tensor], grouping: Grouping) -> Tensor:
    """Return the norm of each group, with derivative 0 at 0, where that of the root is infinite."""
    ws, powers = scaled(ws, grouping)
    squares = grouping.sum([ops.square(w) for w in ws])
    positive = squares != 0
    safe = ops.where(positive, squares, ops.ones_like(squares))
    return ops.where(positive, ops.sqrt(safe), ops.zeros_like(squares)) / powers


def shrink(ws: Sequence[Tensor], step: Tensor, strengths: Tensor, grouping: Grouping) -> list[Tensor]:
    """Return argmin_u step * sum_g strength_g |u_g| + |u - w|^2 / 2.

    Squares are of w / t, with the threshold t: one that vanishes is below it, and infinity is as good as any number far
    above it.
    """
    large = LARGEST[keras.backend.standardize_dtype(ws[0].dtype)]
    t = as_type_of(ws[0], step) * strengths
    one = ops.ones_like(t)
    inverse = ops.where(t > 0, one / ops.clip(t, 1.0 / large, large), one)
    squares = grouping.sum([ops.square(w * each) for w, each in zip(ws, grouping.spread(inverse))])
    if grouping.absent is not None:
        squares = squares + as_type_of(squares, grouping.absent) * ops.square(inverse)
    n = ops.sqrt(squares)
    # In this order of branches a NaN stays a NaN and does not become a quiet zero group.
    factor = ops.where(n <= 1.0, ops.zeros_like(n), 1.0 - 1.0 / n)
    factor = ops.where(t > 0, factor, ops.ones_like(n))
    return [w * each for w, each in zip(ws, grouping.spread(factor))]


def shrink_in_metric(
    ws: Sequence[Tensor], step: Tensor, strengths: Tensor, ds: Sequence[Tensor], grouping: Grouping
) -> list[Tensor]:
    """Return argmin_u step * sum_g strength_g |u_g| + <d, (u - w)^2> / 2 for a diagonal metric d > 0.

    With c = step * strength / d: u = 0 where |w / c| <= 1, else u = rho * w / (rho + c), where the scalar rho = |u| of
    the group solves N(rho) = |w / (rho + c)| = 1. Every quotient is at most the size of the group where rho is at least
    the mean of (|w| - c)+, which is below the root: the root of a single weight is |w| - c. 1 / N is concave: Newton's
    method on 1 / N - 1 gives a lower bound of the root from any place. It is exact where all c are equal and slow where
    they are of many orders of magnitude. There N^2 is taken as linear in log(rho), and no pass brings less than half of
    the way, in logarithms, to an upper bound.

    The number of passes is fixed, so that nothing is read back; on CPUs it is the largest, and two to four are usual.
    """
    dtype = keras.backend.standardize_dtype(ws[0].dtype)
    large, settled = LARGEST[dtype], SETTLED[dtype]
    cs = [ops.clip(threshold(w, step, q, d), 1.0 / large, large) for w, q, d in zip(ws, grouping.spread(strengths), ds)]

    def measured(rho: Tensor) -> tuple[Tensor, Tensor]:
        """Return N^2, and minus half of its derivative."""
        inverses = [1.0 / (r + c) for r, c in zip(grouping.spread(rho), cs)]
        terms = [ops.square(w * inverse) for w, inverse in zip(ws, inverses)]
        return grouping.sum(terms), grouping.sum([term * inverse for term, inverse in zip(terms, inverses)])

    mean = grouping.sum([ops.relu(ops.abs(w) - c) for w, c in zip(ws, cs)]) / as_type_of(ws[0], grouping.sizes(ws))
    square, slope = measured(mean)
    is_zero = ops.logical_and(mean == 0, square <= 1.0)
    zero, one = ops.zeros_like(square), ops.ones_like(square)
    # A zero group has no root; numbers of 1 keep what is unused finite.
    slope = ops.where(is_zero, one, slope)
    low = ops.where(is_zero, one, mean + (ops.sqrt(square) - 1.0) * square / slope)
    high = grouping.sum([ops.abs(w) for w in ws])

    def narrower(state: tuple[Tensor, Tensor, Tensor]) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        rho, low, high = state
        square, slope = measured(rho)
        slope = ops.where(is_zero, one, rho * slope)
        newton = rho * (1.0 + (ops.sqrt(square) - 1.0) * square / slope)
        high = ops.where(ops.logical_and(square < 1.0, rho < high), rho, high)
        # Far below rho, the difference is nothing but rounding.
        low = ops.where(ops.logical_and(newton > low, newton > 0.5 * rho), newton, low)
        middle = ops.sqrt(low) * ops.sqrt(high)
        leap = rho * ops.exp(ops.clip((square - 1.0) / (2.0 * slope), -80.0, 80.0))
        leap = ops.where(ops.logical_and(leap > low, leap < middle), leap, middle)
        is_slow = slope < SLOW * square
        moves = ops.abs(newton - rho) > settled * rho
        return (ops.where(is_slow, leap, low), low, high), ops.any(ops.logical_and(moves, ops.logical_not(is_zero)))

    rho = arithmetic.iterated(narrower, (low, low, high), PASSES)[1]
    # |w / (rho + c)| is at most 1, where rho / (rho + c) can vanish. What costs nothing stays as it is.
    kept, free = ops.where(is_zero, zero, rho), ops.broadcast_to(strengths == 0, rho.shape)
    return [
        ops.where(f, w, k * (w / (r + c)))
        for w, c, f, k, r in zip(ws, cs, *map(grouping.spread, (free, kept, rho)), strict=True)
    ]


def directions(ws: Sequence[Tensor], strengths: Tensor, grouping: Grouping) -> list[Tensor]:
    """Return strength_g w_g / |w_g|, and 0 for zero groups."""
    ws = scaled(ws, grouping)[0]
    norm = norms(ws, grouping)
    safe = ops.where(norm == 0, ops.ones_like(norm), norm)
    # The products before the quotient, as the reference trajectories round.
    return [a * w / b for a, w, b in zip(grouping.spread(strengths), ws, grouping.spread(safe))]
