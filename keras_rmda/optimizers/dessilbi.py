"""Deep structurally splitting linearized Bregman iterations."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras.optimizers.schedules import LearningRateSchedule

from keras_rmda.optimizers.assignment import Regularizers
from keras_rmda.optimizers.constants import POSITIVE
from keras_rmda.optimizers.momentum import DECAY, MomentumOptimizer
from keras_rmda.optimizers.updates import Slots, on_support
from keras_rmda.regularizers import Tensor


@keras.saving.register_keras_serializable(package="keras_rmda")
class DessiLBI(MomentumOptimizer):
    """Splits the weights: W stays dense; a sparse copy Gamma takes in, structure by structure, what matters in W.

    Formula, at step t with learning rate alpha_t and momentum beta:

        B_t = beta B_{t-1} + G_t
        W_t = W_{t-1} - kappa alpha_t (B_t + (W_{t-1} - Gamma_{t-1}) / mu)
        Z_t = Z_{t-1} - (alpha_t / mu) (Gamma_{t-1} - W_{t-1}),  Z_0 = 0
        Gamma_t = kappa prox_psi(Z_t)

    The order in which groups enter Gamma is their order of importance (`callbacks.SolutionPath`). The sparse model,
    `structured_value`, is W where Gamma is not zero. During `fit` the metrics are those of the dense W; the end of
    `fit` writes the sparse model.

    Args:
        learning_rate: float >= 0 or schedule.
        kappa: number > 0, the step size of W and the scale of Gamma.
        mu: number > 0; the larger, the looser W is tied to Gamma.
        momentum: beta in [0, 1) or schedule; 0 means none, and then it stays 0: no memory is kept for it.
        regularizer: psi for every kernel whose layer has none of ours, or a dictionary from patterns of variable
            paths to such. Gamma fills over alpha_t / mu times the number of steps; the strength sets when. The
            authors use strength 1 and do not weigh groups by size. Variables without one are trained by momentum.
        **optimizer_arguments: `exclude`, `skip_nonfinite` and `jit_update` of `SparseOptimizer`; `weight_decay`,
            `clipnorm`, `gradient_accumulation_steps`, ... of Keras. `use_ema` is refused.

    Raises:
        ValueError: for an argument out of range, and for `use_ema`; at the first step, for NuclearNorm and
            NonNegativeL1.

    Example:
        >>> psi = kr.GroupLasso(1.0, "output", scale_by_size=False)
        >>> model.compile(kr.DessiLBI(0.1, regularizer=psi), loss="mse")

    Source: Fu et al. 2020, "DessiLBI: exploring structural sparsity of deep networks via differential inclusion
    paths", arXiv:2007.02010.
    """

    slots = ("gamma", "z", "b")
    momentum_slot = "b"
    hyperparameters: ClassVar = {"kappa": POSITIVE, "mu": POSITIVE}
    momentum_range = DECAY
    keeps_zeros = False

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.1,
        kappa: float = 1.0,
        mu: float = 20.0,
        momentum: float | LearningRateSchedule = 0.9,
        regularizer: Regularizers = None,
        name: str = "dessilbi",
        **optimizer_arguments: Any,
    ):
        super().__init__(learning_rate, regularizer, momentum, name=name, **optimizer_arguments)
        self.kappa, self.mu = kappa, mu

    def build(self, variables: list[keras.Variable]) -> None:
        """Create the state for `variables`; refuse penalties that say more than which weights are zero."""
        super().build(variables)
        for variable, psi in zip(variables, self._penalties):
            if psi is not None and not psi.has_support:
                raise ValueError(
                    f"DessiLBI's sparse model is W where Gamma is not zero, which keeps nothing of {psi!r} on the "
                    f"variable {variable.path!r}. Use another optimizer, or a penalty that makes groups zero."
                )

    def step(self, w, g, lr, psi, *, t, c, gamma, z, b=None) -> tuple[Tensor, Slots]:
        b_next = g if b is None else c * b + g  # B_t = beta B_{t-1} + G_t
        slots = {} if b is None else {"b": b_next}
        if psi is None:
            return w - self.kappa * lr * b_next, slots
        z = z - (lr / self.mu) * (gamma - w)  # Z_t
        w_next = w - self.kappa * lr * (b_next + (w - gamma) / self.mu)  # W_t
        gamma = self.kappa * psi.prox(z, 1.0)  # Gamma_t
        return w_next, slots | {"gamma": gamma, "z": z}

    def structured(self, w, psi, *, t, gamma, z, b=None) -> Tensor:
        return on_support(w, gamma)
