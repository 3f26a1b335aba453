"""Proximal stochastic gradient descent with momentum."""

from __future__ import annotations

from typing import Any

import keras
from keras.optimizers.schedules import LearningRateSchedule

from keras_rmda.optimizers.algorithm import Slots
from keras_rmda.optimizers.assignment import Regularizers
from keras_rmda.optimizers.momentum import MomentumOptimizer
from keras_rmda.regularizers import Tensor


@keras.saving.register_keras_serializable(package="keras_rmda")
class ProxSGD(MomentumOptimizer):
    """The baseline: a gradient step, then the proximal map of the penalty.

    Formula, at step t with learning rate eta_t and momentum c:

        M_t = (1 - c) M_{t-1} + c G_t,  M_0 = 0
        W_t = argmin_W  eta_t psi(W) + |W - (W_{t-1} - eta_t M_t)|^2 / 2

    Args:
        learning_rate: float >= 0 or schedule.
        momentum: c in (0, 1] or schedule; 1 means none. (1 - c is what Keras's SGD calls momentum.)
        regularizer: psi for every kernel whose layer has none of ours, or a dictionary from patterns of variable
            paths to such; None for no penalty.
        **optimizer_arguments: `exclude`, `skip_nonfinite` and `jit_update` of `SparseOptimizer`; `weight_decay`,
            `clipnorm`, `gradient_accumulation_steps`, ... of Keras. `use_ema` is refused.

    Raises:
        ValueError: for an argument out of range, and for `use_ema`.

    Example:
        >>> model.compile(kr.ProxSGD(0.1, regularizer=kr.GroupLasso(1e-4)), loss="mse")

    Source: Yang et al. 2020, "ProxSGD: training structured neural networks under regularization and constraints";
    as the baseline MSGD of Huang and Lee 2022, arXiv:2112.02612.
    """

    slots = ("m",)

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.1,
        momentum: float | LearningRateSchedule = 0.1,
        regularizer: Regularizers = None,
        name: str = "prox_sgd",
        **optimizer_arguments: Any,
    ):
        super().__init__(learning_rate, regularizer, momentum, name=name, **optimizer_arguments)

    def step(self, w, g, lr, psi, *, t, c, m) -> tuple[Tensor, Slots]:
        m = (1.0 - c) * m + c * g  # M_t = (1 - c) M_{t-1} + c G_t
        w = w - lr * m
        return w if psi is None else psi.prox(w, lr), {"m": m}  # W_t
