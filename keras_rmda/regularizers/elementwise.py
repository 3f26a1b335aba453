"""Penalties of single weights."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from keras_rmda.platform import checks
from keras_rmda.regularizers.base import (
    ProximalRegularizer,
    Tensor,
    as_type_of,
    in_full_precision,
    soft_threshold,
    threshold,
)


class ElementwiseRegularizer(ProximalRegularizer):
    """Base class of penalties that are sums over single weights: every weight is a group."""

    def prox(self, w: Tensor, step: Tensor) -> Tensor:
        return self.prox_in_metric(w, step, 1.0)

    def group_norms(self, w: Tensor) -> Tensor:
        return ops.abs(w)


@keras.saving.register_keras_serializable(package="keras_rmda")
class L1(ElementwiseRegularizer):
    """Sum of absolute values: single weights become exactly zero.

    Formula: psi(w) = strength * sum_j |w_j|.

    Args:
        strength: multiplier of the penalty, a finite number >= 0 or a schedule of it.

    Raises:
        ValueError: if `strength` is negative, not finite or not a number.

    Example:
        >>> float(L1(0.5)(np.array([1.0, -2.0])))
        1.5

    Source: Tibshirani 1996, "Regression shrinkage and selection via the lasso".
    """

    @in_full_precision
    def __call__(self, w: Tensor) -> Tensor:
        return self._lambda * ops.sum(ops.abs(w))

    @in_full_precision
    def prox_in_metric(self, w: Tensor, step: Tensor, d: Tensor) -> Tensor:
        w = ops.convert_to_tensor(w)
        return soft_threshold(w, threshold(w, step, self._lambda, d))

    def subgradient(self, w: Tensor) -> Tensor:
        return self._lambda * ops.sign(w)


@keras.saving.register_keras_serializable(package="keras_rmda")
class NonNegativeL1(ElementwiseRegularizer):
    """L1 on weights that may not be negative.

    Formula: psi(w) = strength * sum_j w_j where every w_j >= 0, infinite elsewhere.

    Use it with the optimizers of this package: as an ordinary Keras penalty it makes the loss infinite as soon as
    a weight is negative. Bregman training begins at max(w, 0).

    Args:
        strength: multiplier of the penalty, a finite number >= 0 or a schedule of it.

    Raises:
        ValueError: if `strength` is negative, not finite or not a number.

    Example:
        >>> kr.NonNegativeL1(0.5).prox(np.array([-3.0, 0.2, 2.0]), 1.0)  # [0, 0, 1.5]

    Source: Bungert et al. 2022, "A Bregman learning framework for sparse neural networks", arXiv:2105.04319.
    """

    has_support = False

    @in_full_precision
    def __call__(self, w: Tensor) -> Tensor:
        w = ops.convert_to_tensor(w)
        outside = ops.where(ops.any(w < 0), as_type_of(w, float("inf")), as_type_of(w, 0.0))
        return self._lambda * ops.sum(ops.abs(w)) + outside

    @in_full_precision
    def prox_in_metric(self, w: Tensor, step: Tensor, d: Tensor) -> Tensor:
        w = ops.convert_to_tensor(w)
        return ops.relu(w - threshold(w, step, self._lambda, d))

    def subgradient(self, w: Tensor) -> Tensor:
        return self._lambda * ops.sign(w)


@keras.saving.register_keras_serializable(package="keras_rmda")
class ElasticNet(ElementwiseRegularizer):
    """L1 with a quadratic term: single zeros, and the weights that stay are kept small.

    Formula: psi(w) = strength * sum_j (l1_ratio * |w_j| + (1 - l1_ratio) * w_j^2 / 2).

    Args:
        strength: multiplier of the penalty, a finite number >= 0 or a schedule of it.
        l1_ratio: share of L1, in [0, 1]; 1 is L1, 0 makes no zeros.

    Raises:
        ValueError: for an argument out of range.

    Example:
        >>> float(ElasticNet(1.0, l1_ratio=0.5)(np.array([2.0])))
        2.0

    Source: Zou and Hastie 2005, "Regularization and variable selection via the elastic net".
    """

    def __init__(self, strength: float | LearningRateSchedule, l1_ratio: float = 0.5):
        super().__init__(strength)
        self.l1_ratio = checks.real("l1_ratio", l1_ratio, maximum=1.0)

    @in_full_precision
    def __call__(self, w: Tensor) -> Tensor:
        w = ops.convert_to_tensor(w)
        root = ops.sqrt(as_type_of(w, self._l2) / 2.0)
        return self._l1 * ops.sum(ops.abs(w)) + ops.sum(ops.square(root * w))

    @in_full_precision
    def prox_in_metric(self, w: Tensor, step: Tensor, d: Tensor) -> Tensor:
        w = ops.convert_to_tensor(w)
        d = as_type_of(w, d)
        # The factor is d / (d + step l2), which can be smaller than any number: half of it twice, as exponents go.
        root = ops.sqrt(d) / ops.sqrt(d + as_type_of(w, step) * as_type_of(w, self._l2))
        return soft_threshold(w, threshold(w, step, self._l1, d)) * root * root

    @in_full_precision
    def subgradient(self, w: Tensor) -> Tensor:
        return self._l1 * ops.sign(w) + self._l2 * ops.convert_to_tensor(w)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"l1_ratio": self.l1_ratio}

    @property
    def _l1(self) -> Tensor:
        return self._lambda * self.l1_ratio

    @property
    def _l2(self) -> Tensor:
        return self._lambda * (1.0 - self.l1_ratio)
