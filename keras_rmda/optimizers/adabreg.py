"""Linearized Bregman iterations with Adam's direction."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from keras_rmda.optimizers.assignment import Regularizers
from keras_rmda.optimizers.base import SparseOptimizer
from keras_rmda.optimizers.bregman import MirrorMap
from keras_rmda.optimizers.constants import DECAY, POSITIVE
from keras_rmda.optimizers.updates import Scalars, Slots
from keras_rmda.regularizers import Tensor, as_type_of


@keras.saving.register_keras_serializable(package="keras_rmda")
class AdaBreg(MirrorMap, SparseOptimizer):
    """LinBreg with Adam's direction in the dual variable.

    Formula, at step t with learning rate tau_t:

        M_t = beta_1 M_{t-1} + (1 - beta_1) G_t,  U_t = beta_2 U_{t-1} + (1 - beta_2) G_t^2
        V_t = V_{t-1} - tau_t M_t / (1 - beta_1^t) / (sqrt(U_t / (1 - beta_2^t)) + epsilon)
        Theta_t = prox_{delta psi}(delta V_t)

    with V_0 = Theta_0 / delta + p_0, p_0 a subgradient of psi at Theta_0.

    Args:
        learning_rate: float >= 0 or schedule.
        delta: number > 0; scales the steps of the weights that are not zero.
        beta_1, beta_2: decay rates of the moments, in [0, 1).
        epsilon: number > 0 added to the root.
        regularizer: psi for every kernel whose layer has none of ours, or a dictionary from patterns of variable
            paths to such; None for no penalty.
        **optimizer_arguments: `exclude`, `skip_nonfinite` and `jit_update` of `SparseOptimizer`; `clipnorm`,
            `gradient_accumulation_steps`, ... of Keras. `weight_decay` and `use_ema` are refused.

    Raises:
        ValueError: for an argument out of range, and for `weight_decay` or `use_ema`.

    Example:
        >>> kr.sparsify(model, density=0.01)
        >>> model.compile(kr.AdaBreg(1e-3, regularizer=kr.L1(0.1)), loss="mse")

    Source: Bungert et al. 2022, "A Bregman learning framework for sparse neural networks", arXiv:2105.04319.
    """

    slots = ("v", "m", "u")
    hyperparameters: ClassVar = {"delta": POSITIVE, "beta_1": DECAY, "beta_2": DECAY, "epsilon": POSITIVE}

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 1e-3,
        delta: float = 1.0,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        regularizer: Regularizers = None,
        name: str = "adabreg",
        **optimizer_arguments: Any,
    ):
        super().__init__(learning_rate, regularizer, name=name, **optimizer_arguments)
        self.delta, self.beta_1, self.beta_2, self.epsilon = delta, beta_1, beta_2, epsilon

    def advance(self, lr: Tensor, t: Tensor) -> Scalars:
        beta_1, beta_2 = as_type_of(t, self.beta_1), as_type_of(t, self.beta_2)
        return {"rate": lr / (1.0 - ops.power(beta_1, t)), "correction": 1.0 / (1.0 - ops.power(beta_2, t))}

    def step(self, w, g, lr, psi, *, t, rate, correction, v, m, u) -> tuple[Tensor, Slots]:
        m = m + (1.0 - self.beta_1) * (g - m)  # M_t
        u = u + (1.0 - self.beta_2) * (ops.square(g) - u)  # U_t
        v = v - rate * m / (ops.sqrt(correction * u) + as_type_of(w, self.epsilon))  # V_t
        return self.to_primal(v, psi), {"v": v, "m": m, "u": u}  # Theta_t
