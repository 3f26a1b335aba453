"""Penalties of groups of weights."""

from __future__ import annotations

import copy
import math
from numbers import Integral
from typing import Any

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from keras_rmda import _checks, _compat
from keras_rmda.regularizers.base import ProximalRegularizer, Tensor, as_type_of, soft_threshold

LETTERS = {"input": "ic", "output": "ocm", "kernel": "iocm"}
"""For each name of groups the letters of the layer table whose axes tell one group from another."""

CONVENTION = "io"
"""The letters of the last two axes of a weight whose layer is not known."""

NEWTON = {"float64": (10, 1e-9), "float32": (8, 1e-5), "bfloat16": (5, 1e-2), "float16": (5, 1e-2)}
"""Passes that are enough for rounding at a metric spread of 10^6, the worst of 150,000 random groups, and the relative
move after which the next pass would change nothing (see `GroupLasso.prox_in_metric`)."""


@keras.saving.register_keras_serializable(package="keras_rmda")
class GroupLasso(ProximalRegularizer):
    """Sum of Euclidean norms of groups: whole channels, neurons or kernels become exactly zero.

    Formula: psi(w) = strength * sum_g sqrt(size_g) * |w_g|_2.

    Args:
        strength: multiplier of the penalty, a finite number >= 0 or a schedule of it.
        groups: what forms one group. `"input"`: all weights that read one input channel (a channel that nobody
            reads can always be removed exactly); `"output"`: one filter; `"kernel"`: the weights of one (input,
            output) pair; or an axis, one group per index along it. The names follow the layer table where an
            optimizer knows the layer; elsewhere the last two axes are (inputs, outputs).
        scale_by_size: whether to weigh each group by the square root of its number of weights.

    Raises:
        ValueError: for a bad `strength` or unknown `groups`; later, naming the variable, if a variable
            has no such axis.

    Example:
        >>> float(GroupLasso(1.0, scale_by_size=False)(np.array([[3.0, 4.0], [0.0, 0.0]])))
        5.0

    Source: Yuan and Lin 2006, "Model selection and estimation in regression with grouped variables".
    """

    def __init__(self, strength: float | LearningRateSchedule, groups: str | int = "input", scale_by_size: bool = True):
        super().__init__(strength)
        if not (isinstance(groups, Integral) and not isinstance(groups, bool)):
            _checks.one_of("groups", groups, tuple(LETTERS))
        self.groups = groups if isinstance(groups, str) else int(groups)
        self.scale_by_size = _checks.truth("scale_by_size", scale_by_size)
        self._axes = CONVENTION

    def __call__(self, w: Tensor) -> Tensor:
        w = ops.convert_to_tensor(w)
        return ops.sum(self._threshold(w, 1.0) * self.group_norms(w))

    def prox(self, w: Tensor, step: Tensor) -> Tensor:
        w = ops.convert_to_tensor(w)
        norm, t = self._norms(w), self._threshold(w, step)
        # In this order of branches a NaN stays a NaN and does not become a quiet zero group.
        return w * ops.where(norm <= t, ops.zeros_like(norm), 1.0 - t / norm)

    def prox_in_metric(self, w: Tensor, step: Tensor, d: Tensor) -> Tensor:
        """Return argmin_u step * psi(u) + <d, (u - w)^2> / 2 for a diagonal metric d > 0.

        With b = d * w and t the group's threshold: u = 0 where |b| <= t, else u = rho * b / (rho * d + t), where the
        scalar rho = |u| solves N(rho) = |b / (rho * d + t)| = 1. Newton's method on 1 / N - 1 is monotone from a lower
        bound: (|b| - t) over the mean of d with weights b^2, by Jensen's inequality. The number of passes is fixed, so
        that nothing is read back; on CPUs it is the largest, and three or four are usual.
        """
        w = ops.convert_to_tensor(w)
        passes, small = NEWTON[keras.backend.standardize_dtype(w.dtype)]
        d = ops.broadcast_to(as_type_of(w, d), w.shape)
        t = self._threshold(w, step)
        b = d * w
        squares = self._sum(ops.square(b))
        norm = ops.sqrt(squares)
        is_zero = norm <= t
        zero, one = ops.zeros_like(norm), ops.ones_like(norm)
        rho = ops.where(is_zero, zero, (norm - t) * squares / self._sum(d * ops.square(b)))
        # A zero group has no root; a denominator of at least 1 keeps its unused numbers finite.
        floor = ops.where(is_zero, one, zero) + t

        def newton(rho: Tensor) -> tuple[Tensor, Tensor]:
            inverse = 1.0 / (rho * d + floor)
            terms = ops.square(b * inverse)
            n_squared = self._sum(terms)
            slope = ops.where(is_zero, one, self._sum(terms * d * inverse))
            move = n_squared * (ops.sqrt(n_squared) - 1.0) / slope
            # Convergence is quadratic: after a move this small nothing is left to gain.
            return rho + move, ops.any(move > small * rho)

        rho = _compat.iterated(newton, rho, passes)
        return b * ops.where(is_zero, zero, rho) / (rho * d + floor)

    def subgradient(self, w: Tensor) -> Tensor:
        w = ops.convert_to_tensor(w)
        norm = self._norms(w)
        return self._threshold(w, 1.0) * w / ops.where(norm == 0, ops.ones_like(norm), norm)

    def group_norms(self, w: Tensor) -> Tensor:
        # sqrt has an infinite slope at 0; as an ordinary Keras penalty this is differentiated there.
        squares = self._sum(ops.square(w))
        positive = squares != 0
        safe = ops.where(positive, squares, ops.ones_like(squares))
        return ops.where(positive, ops.sqrt(safe), ops.zeros_like(squares))

    def along(self, axes: str) -> GroupLasso:
        other = copy.copy(self)
        other._axes = axes
        return other

    def check_shape(self, shape: tuple[int, ...], path: str) -> None:
        kept = self._kept_axes()
        if not kept or not all(-len(shape) <= axis < len(shape) for axis in kept):
            raise ValueError(
                f"{self!r} does not fit the variable {path!r} of shape {tuple(shape)}: it has no such axis. "
                "Exclude the variable or choose other `groups`."
            )

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"groups": self.groups, "scale_by_size": self.scale_by_size}

    @property
    def _group_strength(self) -> Tensor:
        return self._lambda

    def _kept_axes(self) -> tuple[int, ...]:
        """Return the axes whose indices tell one group from another, as negative or user-given numbers."""
        if isinstance(self.groups, int):
            return (self.groups,)
        letters = LETTERS[self.groups]
        return tuple(k - len(self._axes) for k, letter in enumerate(self._axes) if letter in letters)

    def _reduced_axes(self, rank: int) -> tuple[int, ...]:
        kept = {axis % rank for axis in self._kept_axes()}
        return tuple(axis for axis in range(rank) if axis not in kept)

    def _sum(self, x: Tensor) -> Tensor:
        """Sum over each group, axes kept. (No axes would mean all axes to PyTorch.)"""
        axes = self._reduced_axes(len(x.shape))
        if len(x.shape) - 1 in axes:
            x, axes = _compat.row_sums(x), axes[:-1]
        return ops.sum(x, axis=axes, keepdims=True) if axes else x

    def _norms(self, w: Tensor) -> Tensor:
        return ops.sqrt(self._sum(ops.square(w)))

    def _threshold(self, w: Tensor, step: Tensor) -> Tensor:
        size = math.prod(w.shape[axis] for axis in self._reduced_axes(len(w.shape)))
        weight = size**0.5 if self.scale_by_size else 1.0
        return as_type_of(w, step * (self._group_strength * weight))


@keras.saving.register_keras_serializable(package="keras_rmda")
class SparseGroupLasso(GroupLasso):
    """Group lasso with L1: whole groups become zero, and single weights in the groups that stay.

    Formula: psi(w) = strength * (l1_ratio * |w|_1 + (1 - l1_ratio) * sum_g sqrt(size_g) * |w_g|_2).

    Its proximal map is that of L1 followed by that of the group lasso, in every diagonal metric.

    Args:
        strength: multiplier of the penalty, a finite number >= 0 or a schedule of it.
        l1_ratio: share of L1, in [0, 1].
        groups: what forms one group, as in `GroupLasso`.
        scale_by_size: whether to weigh each group by the square root of its number of weights.

    Raises:
        ValueError: for an argument out of range; later, naming the variable, if a variable has no such axis.

    Example:
        >>> float(SparseGroupLasso(1.0, 0.5, scale_by_size=False)(np.array([[3.0, 4.0], [0.0, 0.0]])))
        6.0

    Source: Simon et al. 2013, "A sparse-group lasso".
    """

    def __init__(
        self,
        strength: float | LearningRateSchedule,
        l1_ratio: float = 0.5,
        groups: str | int = "input",
        scale_by_size: bool = True,
    ):
        super().__init__(strength, groups, scale_by_size)
        self.l1_ratio = _checks.real("l1_ratio", l1_ratio, maximum=1.0)

    def __call__(self, w: Tensor) -> Tensor:
        return super().__call__(w) + self._l1 * ops.sum(ops.abs(w))

    def prox(self, w: Tensor, step: Tensor) -> Tensor:
        return super().prox(soft_threshold(w, step * self._l1), step)

    def prox_in_metric(self, w: Tensor, step: Tensor, d: Tensor) -> Tensor:
        return super().prox_in_metric(soft_threshold(w, step * self._l1 / d), step, d)

    def subgradient(self, w: Tensor) -> Tensor:
        return super().subgradient(w) + self._l1 * ops.sign(w)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"l1_ratio": self.l1_ratio}

    @property
    def _l1(self) -> Tensor:
        return self._lambda * self.l1_ratio

    @property
    def _group_strength(self) -> Tensor:
        return self._lambda * (1.0 - self.l1_ratio)
