"""Regularized modernized dual averaging."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from keras_rmda.assignment import Regularizers
from keras_rmda.optimizers.momentum import AveragingOptimizer
from keras_rmda.optimizers.updates import Scalars, Slots
from keras_rmda.regularizers import ProximalRegularizer, Tensor


@keras.saving.register_keras_serializable(package="keras_rmda")
class RMDA(AveragingOptimizer):
    """Dual averaging with momentum; after finitely many steps its zeros are those of the solution.

    Formula, at step t of a stage with learning rate eta_t and momentum c:

        s_t = eta_t sqrt(t),  alpha_t = alpha_{t-1} + s_t,  beta_t = sqrt(t)
        V_t = V_{t-1} + s_t G_t
        W~_t = argmin_W  alpha_t psi(W) + <V_t, W> + beta_t |W - W_0|^2 / 2
        W_t = (1 - c) W_{t-1} + c W~_t

    With c < 1 the iterate W_t approaches zeros but holds none; W~_t holds them: `structured_value`.
    The end of `fit` writes W~_t into the regularized variables. Train in stages
    (`callbacks.StagewiseSchedule`): the learning rate goes down, the momentum up to 1.

    Args:
        learning_rate: float >= 0 or schedule.
        momentum: c in (0, 1] or schedule; 1 means none.
        regularizer: psi for every kernel whose layer has none of ours, or a dictionary from patterns of variable
            paths to such; None for no penalty.
        **optimizer_arguments: `exclude`, `skip_nonfinite` and `jit_update` of `SparseOptimizer`; `clipnorm`,
            `gradient_accumulation_steps`, ... of Keras. `weight_decay` and `use_ema` are refused.

    Raises:
        ValueError: for an argument out of range, and for `weight_decay` or `use_ema`.

    Example:
        >>> model.compile(kr.RMDA(0.1, momentum=0.1, regularizer=kr.GroupLasso(1e-4)), loss="mse")

    Source: Huang and Lee 2022, "Training structured neural networks through manifold identification and
    variance reduction", arXiv:2112.02612.
    """

    slots = ("w_0", "v")
    scalars = ("s", "alpha")

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.1,
        momentum: float | LearningRateSchedule = 0.1,
        regularizer: Regularizers = None,
        name: str = "rmda",
        **optimizer_arguments: Any,
    ):
        super().__init__(learning_rate, regularizer, momentum, name=name, **optimizer_arguments)

    def init(self, w: Tensor, psi: ProximalRegularizer | None) -> Slots:
        return {"w_0": w, "v": ops.zeros_like(w)}

    def advance(self, lr: Tensor, t: Tensor, *, s: Tensor, alpha: Tensor) -> Scalars:
        s = lr * ops.sqrt(t)
        return {"s": s, "alpha": alpha + s}

    def step(self, w, g, lr, psi, *, t, c, s, alpha, w_0, v) -> tuple[Tensor, Slots]:
        v = v + s * g  # V_t = V_{t-1} + s_t G_t
        w_tilde = self.structured(w, psi, t=t, s=s, alpha=alpha, w_0=w_0, v=v)
        return (1.0 - c) * w + c * w_tilde, {"v": v}  # W_t = (1 - c) W_{t-1} + c W~_t

    def structured(self, w, psi, *, t, s, alpha, w_0, v) -> Tensor:
        beta = ops.sqrt(ops.where(t > 0, t, ops.ones_like(t)))  # beta_t = sqrt(t); at t = 0, W~_0 = W_0
        w_hat = w_0 - v / beta
        return w_hat if psi is None else psi.prox(w_hat, alpha / beta)  # W~_t
