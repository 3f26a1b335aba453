"""Linearized Bregman iterations."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras.optimizers.schedules import LearningRateSchedule

from keras_rmda.optimizers.assignment import Regularizers
from keras_rmda.optimizers.bregman import MirrorMap
from keras_rmda.optimizers.constants import POSITIVE
from keras_rmda.optimizers.momentum import DECAY, MomentumOptimizer
from keras_rmda.optimizers.updates import Slots
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

    Args:
        learning_rate: float >= 0 or schedule.
        delta: number > 0; scales the steps of the weights that are not zero.
        momentum: beta in [0, 1) or schedule; 0 means none, and then it stays 0: no memory is kept for it.
        regularizer: psi for every kernel whose layer has none of ours, or a dictionary from patterns of variable
            paths to such; None for no penalty.
        **optimizer_arguments: `exclude`, `skip_nonfinite` and `jit_update` of `SparseOptimizer`; `clipnorm`,
            `gradient_accumulation_steps`, ... of Keras. `weight_decay` and `use_ema` are refused.

    Raises:
        ValueError: for an argument out of range, and for `weight_decay` or `use_ema`.

    Example:
        >>> kr.sparsify(model, density=0.01)
        >>> model.compile(kr.LinBreg(0.1, regularizer=kr.L1(0.1)), loss="mse")

    Source: Bungert et al. 2022, "A Bregman learning framework for sparse neural networks", arXiv:2105.04319.
    """

    slots = ("v", "m")
    momentum_slot = "m"
    momentum_range = DECAY
    hyperparameters: ClassVar = {"delta": POSITIVE}

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.1,
        delta: float = 1.0,
        momentum: float | LearningRateSchedule = 0.0,
        regularizer: Regularizers = None,
        name: str = "linbreg",
        **optimizer_arguments: Any,
    ):
        super().__init__(learning_rate, regularizer, momentum, name=name, **optimizer_arguments)
        self.delta = delta

    def step(self, w, g, lr, psi, *, t, c, v, m=None) -> tuple[Tensor, Slots]:
        m_next = lr * g if m is None else c * m + (1.0 - c) * lr * g  # M_t
        v = v - m_next  # V_t = V_{t-1} - M_t
        return self.to_primal(v, psi), {"v": v} if m is None else {"v": v, "m": m_next}  # Theta_t
