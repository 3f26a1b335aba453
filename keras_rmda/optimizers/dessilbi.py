"""Deep structurally splitting linearized Bregman iterations."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from keras_rmda.optimizers.algorithm import Slots, on_support
from keras_rmda.optimizers.assignment import Regularizers
from keras_rmda.optimizers.constants import POSITIVE, number
from keras_rmda.optimizers.momentum import DECAY, MomentumOptimizer
from keras_rmda.platform import checks
from keras_rmda.regularizers import Tensor


@keras.saving.register_keras_serializable(package="keras_rmda")
class DessiLBI(MomentumOptimizer):
    """Splits the weights: W stays dense; a sparse copy Gamma takes in, structure by structure, what matters in W.

    Formula, at step t with learning rate alpha_t and momentum beta:

        D_t = G_t + weight_decay W_{t-1} for kernels, and G_t for biases and scales
        B_t = beta B_{t-1} + (1 - dampening) D_t,  B_1 = D_1
        W_t = W_{t-1} - kappa alpha_t (B_t + (W_{t-1} - Gamma_{t-1}) / mu)
        Z_t = Z_{t-1} - (alpha_t / mu) (Gamma_{t-1} - W_{t-1}),  Z_0 = 0
        Gamma_t = kappa prox_psi(Z_t)

    With `nesterov`, D_t + beta B_t takes the place of B_t in W_t. With `freeze_support`, what is in Gamma's support
    trains no more: neither W nor Z.

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
        dampening: number in [0, 1].
        nesterov: True or False; True wants a momentum, and no dampening.
        freeze_support: True or False, settable between steps, like `learning_rate`; None for False for good.
        **optimizer_arguments: `exclude`, `skip_nonfinite` and `jit_update` of `SparseOptimizer`; `weight_decay`, added
            to the gradients of kernels, `clipnorm`, `gradient_accumulation_steps`, ... of Keras. `use_ema` is refused.

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
    hyperparameters: ClassVar = {
        "kappa": POSITIVE,
        "mu": POSITIVE,
        "dampening": number(maximum=1.0),
        "nesterov": checks.truth,
    }
    couples_decay = True
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
        dampening: float = 0.0,
        nesterov: bool = False,
        freeze_support: bool | None = None,
        **optimizer_arguments: Any,
    ):
        super().__init__(learning_rate, regularizer, momentum, name=name, **optimizer_arguments)
        self.kappa, self.mu, self.dampening, self.nesterov = kappa, mu, dampening, nesterov
        if nesterov and (dampening or "b" not in self.slots):
            raise ValueError(
                "`nesterov` wants a momentum, and no dampening. "
                f"Received: nesterov=True, momentum={momentum!r}, dampening={dampening!r}"
            )
        self._freeze_support = None
        if freeze_support is not None:
            value = float(checks.truth("freeze_support", freeze_support))
            self._freeze_support = self._new_scalar(
                "freeze_support", lambda shape, dtype: ops.full(shape, value, dtype)
            )

    @property
    def freeze_support(self) -> bool | None:
        """Whether what is in the support trains no more."""
        return None if self._freeze_support is None else bool(ops.convert_to_numpy(self._freeze_support))

    @freeze_support.setter
    def freeze_support(self, value: bool) -> None:
        value = checks.truth("freeze_support", value)
        if self._freeze_support is None:
            raise ValueError(
                "This optimizer was created with freeze_support=None, for good: create it with False, or True. "
                f"Received: freeze_support={value!r}"
            )
        self._freeze_support.assign(float(value))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, with current values of settable ones, as Keras does."""
        return super().get_config() | {"freeze_support": self.freeze_support}

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
        slots = {}
        if b is not None:
            rest = ops.where(t > 1, ops.cast(1.0 - self.dampening, w.dtype), ops.ones_like(t))
            slots["b"] = c * b + rest * g  # B_t
            g = g + c * slots["b"] if self.nesterov else slots["b"]
        if psi is None:
            return w - self.kappa * lr * g, slots
        z_step = (lr / self.mu) * (gamma - w)
        w_step = self.kappa * lr * (g + (w - gamma) / self.mu)
        if self._freeze_support is not None:
            stays = ops.cast(gamma == 0, w.dtype)
            moves = 1.0 + ops.cast(self._freeze_support, w.dtype) * (stays - 1.0)
            z_step, w_step = moves * z_step, moves * w_step
        z = z - z_step  # Z_t
        gamma = self.kappa * psi.prox(z, 1.0)  # Gamma_t
        return w - w_step, slots | {"gamma": gamma, "z": z}  # W_t

    def structured(self, w, psi, *, t, gamma, z, b=None) -> Tensor:
        return on_support(w, gamma)
