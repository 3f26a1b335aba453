"""Penalties that know their proximal maps, as pure functions of tensors on any Keras backend.

A regularizer here is an ordinary `keras.regularizers.Regularizer` (`reg(w)` is its value) and also
answers what proximal algorithms ask: `prox`, `prox_in_metric` and `subgradient`.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any

import keras
from keras import ops

from keras_rmda import _checks

Tensor = Any

NAMED_GROUPS = ("input", "output", "kernel")
NEWTON_PASSES = 10
"""Enough for float64 rounding at a metric spread of 10^6 (see `GroupLasso.prox_in_metric`)."""


class ProximalRegularizer(keras.regularizers.Regularizer):
    """Base class: a penalty psi with its proximal maps.

    Args:
        strength: multiplier of the penalty, a finite number >= 0.

    Raises:
        ValueError: if `strength` is negative, not finite or not a number.
    """

    def __init__(self, strength: float):
        self.strength = _checks.real("strength", strength)

    def __call__(self, w: Tensor) -> Tensor:
        """Return psi(w), a scalar."""
        raise NotImplementedError

    def prox(self, w: Tensor, step: Tensor) -> Tensor:
        """Return argmin_u step * psi(u) + |u - w|^2 / 2, in the shape of `w`."""
        raise NotImplementedError

    def prox_in_metric(self, w: Tensor, step: Tensor, d: Tensor) -> Tensor:
        """Return argmin_u step * psi(u) + <d, (u - w)^2> / 2 for a diagonal metric d > 0."""
        raise NotImplementedError

    def subgradient(self, w: Tensor) -> Tensor:
        """Return one element of the subdifferential of psi at `w`; 0 where `w` is 0."""
        raise NotImplementedError

    def group_norms(self, w: Tensor) -> Tensor:
        """Return the Euclidean norm of every group that psi can make zero as a whole."""
        raise NotImplementedError

    def check_shape(self, shape: tuple[int, ...], path: str) -> None:
        """Raise `ValueError`, naming the variable `path`, if psi has no groups in this shape."""

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"strength": self.strength}

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


@keras.saving.register_keras_serializable(package="keras_rmda")
class L1(ProximalRegularizer):
    """Sum of absolute values: single weights become exactly zero.

    Formula: psi(w) = strength * sum_j |w_j|.

    Args:
        strength: multiplier of the penalty, a finite number >= 0.

    Raises:
        ValueError: if `strength` is negative, not finite or not a number.

    Example:
        >>> float(L1(0.5)(np.array([1.0, -2.0])))
        1.5

    Source: Tibshirani 1996, "Regression shrinkage and selection via the lasso".
    """

    def __call__(self, w: Tensor) -> Tensor:
        return self.strength * ops.sum(ops.abs(w))

    def prox(self, w: Tensor, step: Tensor) -> Tensor:
        return soft_threshold(w, step * self.strength)

    def prox_in_metric(self, w: Tensor, step: Tensor, d: Tensor) -> Tensor:
        return soft_threshold(w, step * self.strength / d)

    def subgradient(self, w: Tensor) -> Tensor:
        return self.strength * ops.sign(w)

    def group_norms(self, w: Tensor) -> Tensor:
        return ops.abs(w)


@keras.saving.register_keras_serializable(package="keras_rmda")
class GroupLasso(ProximalRegularizer):
    """Sum of Euclidean norms of groups: whole channels, neurons or kernels become exactly zero.

    Formula: psi(w) = strength * sum_g sqrt(size_g) * |w_g|_2.

    Args:
        strength: multiplier of the penalty, a finite number >= 0.
        groups: what forms one group in a kernel of shape (..., inputs, outputs):
            `"input"`, all weights that read one input channel (a channel that nobody reads can always be
            removed exactly); `"output"`, one filter; `"kernel"`, the weights of one (input, output) pair;
            or an axis, one group per index along it.
        scale_by_size: whether to weigh each group by the square root of its number of weights.

    Raises:
        ValueError: for a bad `strength` or unknown `groups`; later, naming the variable, if a variable
            has no such axis.

    Example:
        >>> float(GroupLasso(1.0, scale_by_size=False)(np.array([[3.0, 4.0], [0.0, 0.0]])))
        5.0

    Source: Yuan and Lin 2006, "Model selection and estimation in regression with grouped variables".
    """

    def __init__(self, strength: float, groups: str | int = "input", scale_by_size: bool = True):
        super().__init__(strength)
        if isinstance(groups, Integral) and not isinstance(groups, bool):
            groups = int(groups)
        elif groups not in NAMED_GROUPS:
            raise ValueError(
                f'`groups` must be "input", "output", "kernel" or an integer axis. Received: groups={groups!r}'
            )
        self.groups = groups
        self.scale_by_size = bool(scale_by_size)

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

        With b = d * w, the group is 0 where |b| <= t, and otherwise u = rho * b / (rho * d + t), where the
        scalar rho = |u| solves N(rho) = |b / (rho * d + t)| = 1. Newton's method on 1 / N - 1 from the lower
        bound (|b| - t) / max(d) is monotone; the number of passes is fixed, so that nothing is read back.
        """
        w = ops.convert_to_tensor(w)
        d = ops.broadcast_to(as_type_of(w, d), w.shape)
        t = self._threshold(w, step)
        b = d * w
        norm_b = self._norms(b)
        is_zero = norm_b <= t
        rho = ops.where(is_zero, ops.zeros_like(norm_b), (norm_b - t) / self._reduce(ops.max, d))
        # A zero group has no root; a denominator of at least 1 keeps its unused numbers finite.
        floor = ops.where(is_zero, ops.ones_like(norm_b), ops.zeros_like(norm_b)) + t
        for _ in range(NEWTON_PASSES):
            scaled = rho * d + floor
            n_squared = self._reduce(ops.sum, ops.square(b / scaled))
            slope = self._reduce(ops.sum, d * ops.square(b) / scaled**3)
            slope = ops.where(is_zero, ops.ones_like(slope), slope)
            rho = rho + n_squared * (ops.sqrt(n_squared) - 1.0) / slope
        return b * ops.where(is_zero, ops.zeros_like(rho), rho) / (rho * d + floor)

    def subgradient(self, w: Tensor) -> Tensor:
        w = ops.convert_to_tensor(w)
        norm = self._norms(w)
        safe = ops.where(norm == 0, ops.ones_like(norm), norm)
        return self._threshold(w, 1.0) * w / safe

    def group_norms(self, w: Tensor) -> Tensor:
        # sqrt has an infinite slope at 0; as an ordinary Keras penalty this is differentiated there.
        squares = self._reduce(ops.sum, ops.square(w))
        positive = squares != 0
        safe = ops.where(positive, squares, ops.ones_like(squares))
        return ops.where(positive, ops.sqrt(safe), ops.zeros_like(squares))

    def check_shape(self, shape: tuple[int, ...], path: str) -> None:
        rank = len(shape)
        if not isinstance(self.groups, int):
            fits = rank >= (1 if self.groups == "output" else 2)
        else:
            fits = -rank <= self.groups < rank
        if not fits:
            raise ValueError(
                f"{self!r} does not fit the variable {path!r} of shape {tuple(shape)}: it has no such axis. "
                "Exclude the variable or choose other `groups`."
            )

    def get_config(self) -> dict[str, Any]:
        return {"strength": self.strength, "groups": self.groups, "scale_by_size": self.scale_by_size}

    def _reduced_axes(self, rank: int) -> tuple[int, ...]:
        kept = {"input": (rank - 2,), "output": (rank - 1,), "kernel": (rank - 2, rank - 1)}.get(
            self.groups, (self.groups % rank if isinstance(self.groups, int) else -1,)
        )
        return tuple(axis for axis in range(rank) if axis not in kept)

    def _reduce(self, reduction: Callable, x: Tensor) -> Tensor:
        """Reduce each group to one number, axes kept. (No axes would mean all axes to PyTorch.)"""
        axes = self._reduced_axes(len(x.shape))
        return reduction(x, axis=axes, keepdims=True) if axes else x

    def _norms(self, w: Tensor) -> Tensor:
        return ops.sqrt(self._reduce(ops.sum, ops.square(w)))

    def _threshold(self, w: Tensor, step: Tensor) -> Tensor:
        size = 1
        for axis in self._reduced_axes(len(w.shape)):
            size *= w.shape[axis]
        weight = size**0.5 if self.scale_by_size else 1.0
        return as_type_of(w, step * (self.strength * weight))


def soft_threshold(w: Tensor, t: Tensor) -> Tensor:
    """Return sign(w) * max(|w| - t, 0), elementwise."""
    w = ops.convert_to_tensor(w)
    return ops.sign(w) * ops.maximum(ops.abs(w) - as_type_of(w, t), 0.0)


def as_type_of(w: Tensor, x: Tensor) -> Tensor:
    """Return `x` in the dtype of `w`. (`ops.cast` would take a Python float through float32.)"""
    return ops.convert_to_tensor(x, dtype=w.dtype)
