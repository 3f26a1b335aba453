"""Linearized Bregman iterations."""

from __future__ import annotations

from typing import Any

import keras
from keras.optimizers.schedules import LearningRateSchedule

from keras_rmda.optimizers.algorithm import Slots
from keras_rmda.optimizers.assignment import Regularizers
from keras_rmda.optimizers.bregman import ByPattern, MirrorMap, moved
from keras_rmda.optimizers.momentum import DECAY, MomentumOptimizer
from keras_rmda.regularizers import Tensor


@keras.saving.register_keras_serializable(package="keras_rmda")
class LinBreg(MirrorMap, MomentumOptimizer):
    """Linearized Bregman iterations: begins sparse (`sparsify`) and lets in only the weights that the loss asks for.

    Formula, at step t with learning rate tau_t and momentum beta:

        M_t = beta M_{t-1} + (1 - beta) tau_t G_t
        V_t = V_{t-1} - M_t,  V_0 = Theta_0 / delta + p_0,  p_0 a subgradient of psi at Theta_0
        Theta_t = prox_{delta psi}(delta V_t)

    A weight stays exactly zero until its dual variable leaves the dual ball of the penalty. Nothing is shrunk: the
    strength delays the entrance of weights, and an endless training would end dense.

    Multilevel, with `coarse_steps` = m > 0: weights enter in one step of m + 1 only. In the m steps behind it M_t and
    V_t move where Theta was not zero after it, and rest elsewhere. With exact gradients, and a loss whose gradient is
    L-Lipschitz, every step of either level lowers the loss by (1 / (delta tau_t) - L / 2) |Theta_t - Theta_{t-1}|^2 at
    least, where beta = 0 and tau_t < 2 / (delta L). `callbacks.Multilevel` makes the coarse steps on a network
    without the channels that rest.

    Args:
        learning_rate: float >= 0 or schedule.
        delta: number > 0; scales the steps of the weights that are not zero. Or a dictionary from patterns of variable
            paths to such, with 1 for all others: the authors have {".*kernel": delta}.
        momentum: beta in [0, 1) or schedule; 0 means none, and then it stays 0: no memory is kept for it.
        regularizer: psi for every kernel whose layer has none of ours, or a dictionary from patterns of variable
            paths to such; None for no penalty.
        rates: factors > 0 of the learning rate, by patterns of variable paths, with 1 for all others.
        coarse_steps: m, a whole number; 0 makes all steps dense. The authors have 99.
        **optimizer_arguments: `exclude`, `skip_nonfinite` and `jit_update` of `SparseOptimizer`; `clipnorm`,
            `gradient_accumulation_steps`, ... of Keras. `weight_decay` and `use_ema` are refused.

    Raises:
        ValueError: for an argument out of range, and for `weight_decay` or `use_ema`.

    Example:
        >>> kr.sparsify(model, density=0.01)
        >>> model.compile(kr.LinBreg(0.1, regularizer=kr.L1(0.1)), loss="mse")

    Source: Bungert et al. 2022, "A Bregman learning framework for sparse neural networks", arXiv:2105.04319;
    multilevel: Lunk, Scott and Bungert 2026, "Sparse training of neural networks based on multilevel mirror descent",
    arXiv:2602.03535.
    """

    slots = ("v", "m", "a")
    momentum_slot = "m"
    momentum_range = DECAY

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.1,
        delta: ByPattern = 1.0,
        momentum: float | LearningRateSchedule = 0.0,
        regularizer: Regularizers = None,
        rates: ByPattern = 1.0,
        coarse_steps: int = 0,
        name: str = "linbreg",
        **optimizer_arguments: Any,
    ):
        levels = {"delta": delta, "rates": rates, "coarse_steps": coarse_steps}
        super().__init__(learning_rate, regularizer, momentum, name=name, **levels, **optimizer_arguments)

    def step(self, w, g, lr, psi, *, t, c, v, m=None, a=None, delta) -> tuple[Tensor, Slots]:
        moves = self.moves(t, a)  # A_t
        m_next = lr * g if m is None else moved(moves, c * m + (1.0 - c) * lr * g, m)  # M_t
        v = moved(moves, v - m_next, v)  # V_t = V_{t-1} - M_t
        theta = self.to_primal(v, psi, delta)  # Theta_t
        return theta, {"v": v} | ({} if m is None else {"m": m_next}) | self.active(t, a, theta, psi)
