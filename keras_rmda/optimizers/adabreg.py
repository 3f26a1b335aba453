"""Linearized Bregman iterations with Adam's direction."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from keras_rmda.optimizers.algorithm import Scalars, Slots
from keras_rmda.optimizers.assignment import Regularizers
from keras_rmda.optimizers.base import SparseOptimizer
from keras_rmda.optimizers.bregman import ByPattern, MirrorMap, moved
from keras_rmda.optimizers.constants import DECAY, POSITIVE
from keras_rmda.regularizers import Tensor, as_type_of


@keras.saving.register_keras_serializable(package="keras_rmda")
class AdaBreg(MirrorMap, SparseOptimizer):
    """LinBreg with Adam's direction in the dual variable.

    Formula, at step t with learning rate tau_t:

        M_t = beta_1 M_{t-1} + (1 - beta_1) G_t,  U_t = beta_2 U_{t-1} + (1 - beta_2) G_t^2
        V_t = V_{t-1} - tau_t M_t / (1 - beta_1^t) / (sqrt(U_t / (1 - beta_2^t)) + epsilon)
        Theta_t = prox_{delta psi}(delta V_t)

    with V_0 = Theta_0 / delta + p_0, p_0 a subgradient of psi at Theta_0.

    Multilevel, with `coarse_steps` = m > 0, as LinBreg: M_t, U_t and V_t rest where Theta was zero after the last dense
    step, which is one in m + 1. In the corrections every weight then has the number n of its own steps in the place of
    t.

    Args:
        learning_rate: float >= 0 or schedule.
        delta: number > 0; scales the steps of the weights that are not zero. Or a dictionary from patterns of variable
            paths to such, with 1 for all others.
        beta_1, beta_2: decay rates of the moments, in [0, 1).
        epsilon: number > 0 added to the root.
        regularizer: psi for every kernel whose layer has none of ours, or a dictionary from patterns of variable
            paths to such; None for no penalty.
        rates: factors > 0 of the learning rate, by patterns of variable paths, with 1 for all others.
        coarse_steps: m, a whole number; 0 makes all steps dense.
        **optimizer_arguments: `exclude`, `skip_nonfinite` and `jit_update` of `SparseOptimizer`; `clipnorm`,
            `gradient_accumulation_steps`, ... of Keras. `weight_decay` and `use_ema` are refused.

    Raises:
        ValueError: for an argument out of range, and for `weight_decay` or `use_ema`.

    Example:
        >>> kr.sparsify(model, density=0.01)
        >>> model.compile(kr.AdaBreg(1e-3, regularizer=kr.L1(0.1)), loss="mse")

    Source: Bungert et al. 2022, "A Bregman learning framework for sparse neural networks", arXiv:2105.04319;
    multilevel: after Lunk, Scott and Bungert 2026, arXiv:2602.03535, who have LinBreg.
    """

    slots = ("v", "m", "u", "a", "n")
    hyperparameters: ClassVar = MirrorMap.hyperparameters | {"beta_1": DECAY, "beta_2": DECAY, "epsilon": POSITIVE}

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 1e-3,
        delta: ByPattern = 1.0,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        regularizer: Regularizers = None,
        rates: ByPattern = 1.0,
        coarse_steps: int = 0,
        name: str = "adabreg",
        **optimizer_arguments: Any,
    ):
        levels = {"delta": delta, "rates": rates, "coarse_steps": coarse_steps}
        super().__init__(learning_rate, regularizer, name=name, **levels, **optimizer_arguments)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

    def advance(self, lr: Tensor, t: Tensor) -> Scalars:
        return {} if self.coarse_steps else self.corrections(t)

    def corrections(self, t: Tensor) -> Scalars:
        """Return 1 / (1 - beta^t) of both moments."""
        betas = as_type_of(t, self.beta_1), as_type_of(t, self.beta_2)
        return dict(zip(("of_m", "of_u"), (1.0 / (1.0 - ops.power(beta, t)) for beta in betas)))

    def step(self, w, g, lr, psi, *, t, v, m, u, of_m=None, of_u=None, a=None, n=None, delta) -> tuple[Tensor, Slots]:
        moves, counted = self.moves(t, a), {}  # A_t
        if n is not None:
            counted["n"] = n = moved(moves, n + 1.0, n)
            of_m, of_u = self.corrections(ops.maximum(n, 1.0)).values()
        m = moved(moves, m + (1.0 - self.beta_1) * (g - m), m)  # M_t
        u = moved(moves, u + (1.0 - self.beta_2) * (ops.square(g) - u), u)  # U_t
        v = moved(moves, v - lr * of_m * m / (ops.sqrt(of_u * u) + as_type_of(w, self.epsilon)), v)  # V_t
        theta = self.to_primal(v, psi, delta)  # Theta_t
        return theta, {"v": v, "m": m, "u": u} | counted | self.active(t, a, theta, psi)
