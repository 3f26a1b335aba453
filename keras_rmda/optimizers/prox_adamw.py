"""Proximal AdamW (ProxGen)."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from keras_rmda.optimizers.algorithm import Scalars, Slots
from keras_rmda.optimizers.assignment import Regularizers
from keras_rmda.optimizers.base import SparseOptimizer
from keras_rmda.optimizers.constants import DECAY, POSITIVE
from keras_rmda.platform import checks
from keras_rmda.regularizers import Tensor, as_type_of


@keras.saving.register_keras_serializable(package="keras_rmda")
class ProxAdamW(SparseOptimizer):
    """The adaptive baseline: AdamW, then the proximal map of the penalty in Adam's own metric.

    Formula, at step t with learning rate eta_t and decoupled weight decay lambda:

        M_t = beta_1 M_{t-1} + (1 - beta_1) G_t,  V_t = beta_2 V_{t-1} + (1 - beta_2) G_t^2
        D_t = sqrt(V_t / (1 - beta_2^t)) + epsilon
        W^_t = (1 - eta_t lambda) W_{t-1} - eta_t M_t / (1 - beta_1^t) / D_t
        W_t = argmin_W  eta_t psi(W) + <D_t, (W - W^_t)^2> / 2

    Args:
        learning_rate: float >= 0 or schedule.
        beta_1, beta_2: decay rates of the moments, in [0, 1).
        epsilon: number > 0 added to the metric.
        weight_decay: lambda >= 0; `exclude_from_weight_decay` of Keras applies.
        amsgrad: whether D_t uses the largest V so far.
        regularizer: psi for every kernel whose layer has none of ours, or a dictionary from patterns of variable
            paths to such; None for no penalty.
        **optimizer_arguments: `exclude`, `skip_nonfinite` and `jit_update` of `SparseOptimizer`; `clipnorm`,
            `gradient_accumulation_steps`, ... of Keras. `use_ema` is refused.

    Raises:
        ValueError: for an argument out of range, and for `use_ema`.

    Example:
        >>> model.compile(kr.ProxAdamW(1e-3, regularizer=kr.GroupLasso(1e-4)), loss="mse")

    Source: Yun, Lozano and Yang 2021, "Adaptive proximal gradient methods for structured neural networks".
    """

    hyperparameters: ClassVar = {"beta_1": DECAY, "beta_2": DECAY, "epsilon": POSITIVE, "amsgrad": checks.truth}

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        regularizer: Regularizers = None,
        name: str = "prox_adamw",
        **optimizer_arguments: Any,
    ):
        super().__init__(learning_rate, regularizer, name=name, weight_decay=weight_decay, **optimizer_arguments)
        self.beta_1, self.beta_2, self.epsilon, self.amsgrad = beta_1, beta_2, epsilon, amsgrad

    @property
    def slots(self) -> tuple[str, ...]:
        return ("m", "v", "v_max") if self.amsgrad else ("m", "v")

    def advance(self, lr: Tensor, t: Tensor) -> Scalars:
        beta_1, beta_2 = as_type_of(t, self.beta_1), as_type_of(t, self.beta_2)
        return {"rate": lr / (1.0 - ops.power(beta_1, t)), "correction": 1.0 / (1.0 - ops.power(beta_2, t))}

    def step(self, w, g, lr, psi, *, t, rate, correction, m, v, v_max=None) -> tuple[Tensor, Slots]:
        m = m + (1.0 - self.beta_1) * (g - m)  # M_t
        v = v + (1.0 - self.beta_2) * (ops.square(g) - v)  # V_t
        slots = {"m": m, "v": v}
        if self.amsgrad:
            slots["v_max"] = v = v_max + ops.relu(v - v_max)
        d = ops.sqrt(correction * v) + as_type_of(w, self.epsilon)  # D_t
        w_hat = w - rate * m / d  # W^_t; base.py has decayed w
        return w_hat if psi is None else psi.prox_in_metric(w_hat, lr, d), slots  # W_t
