"""Regularized modernized dual averaging."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from keras_rmda.optimizers.algorithm import Scalars, Slots
from keras_rmda.optimizers.assignment import Regularizers
from keras_rmda.optimizers.momentum import AveragingOptimizer
from keras_rmda.regularizers import ProximalRegularizer, Tensor


@keras.saving.register_keras_serializable(package="keras_rmda")
class RMDA(AveragingOptimizer):
    """Dual averaging with momentum; after finitely many steps its zeros are those of the solution.

    Formula, at step t of a stage with learning rate eta_t and momentum c:

        tau_t = tau_{t-1} + (eta_t / max(eta_1, ..., eta_t))^2
        s_t = eta_t sqrt(tau_t),  alpha_t = alpha_{t-1} + s_t,  beta_t = sqrt(tau_t)
        V_t = V_{t-1} + s_t G_t
        W~_t = argmin_W  alpha_t psi(W) + <V_t, W> + beta_t |W - W_0|^2 / 2
        W_t = (1 - c) W_{t-1} + c W~_t

    Where the learning rate is constant within a stage, tau_t = t, and this is the method as published. Where it falls
    within a stage (`ReduceLROnPlateau`, `CosineDecay`, ...) the clock tau slows down with it: by beta_t = sqrt(t) the
    weights would drift back to W_0. They do by (W_t - W_0) / (2 tau_t) times the increment of tau, which now vanishes
    faster than the steps do.

    With c < 1 the iterate W_t approaches zeros but holds none; W~_t holds them. `structured_value`, which validation
    sees and `fit` ends with, is W_t where W~_t is not zero. Train in stages (`callbacks.StagewiseSchedule`): the
    learning rate goes down, the momentum up to 1.

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
    scalars = ("s", "alpha", "tau", "largest")

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

    def advance(self, lr: Tensor, t: Tensor, *, s: Tensor, alpha: Tensor, tau: Tensor, largest: Tensor) -> Scalars:
        largest = ops.where(lr > largest, lr, largest)  # max(eta_1, ..., eta_t)
        tau = tau + ops.square(lr / or_one(largest))
        s = lr * ops.sqrt(tau)
        return {"s": s, "alpha": alpha + s, "tau": tau, "largest": largest}

    def step(self, w, g, lr, psi, *, t, c, s, alpha, tau, largest, w_0, v) -> tuple[Tensor, Slots]:
        v = v + s * g  # V_t = V_{t-1} + s_t G_t
        w_tilde = self.minimizer(psi, t=t, s=s, alpha=alpha, tau=tau, largest=largest, w_0=w_0, v=v)
        return (1.0 - c) * w + c * w_tilde, {"v": v}  # W_t = (1 - c) W_{t-1} + c W~_t

    def minimizer(self, psi, *, t, s, alpha, tau, largest, w_0, v) -> Tensor:
        beta = ops.sqrt(or_one(tau))  # beta_t = sqrt(tau_t); at t = 0, W~_0 = W_0
        w_hat = w_0 - v / beta
        return w_hat if psi is None else psi.prox(w_hat, alpha / beta)  # W~_t


def or_one(x: Tensor) -> Tensor:
    """Return x where it is positive, else 1: a divisor."""
    return ops.where(x > 0, x, ops.ones_like(x))
