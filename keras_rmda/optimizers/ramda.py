"""Regularized adaptive momentum dual averaging."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from keras_rmda.optimizers.algorithm import Scalars, Slots
from keras_rmda.optimizers.assignment import Regularizers
from keras_rmda.optimizers.momentum import AveragingOptimizer
from keras_rmda.platform import checks
from keras_rmda.regularizers import ProximalRegularizer, Tensor, as_type_of


@keras.saving.register_keras_serializable(package="keras_rmda")
class RAMDA(AveragingOptimizer):
    """RMDA with a step size of its own for every weight, as Adam has: for attention and recurrent networks.

    Formula, at step t of a stage with learning rate eta_t and momentum c:

        s_t = eta_t sqrt(t),  alpha_t = alpha_{t-1} + s_t
        V_t = V_{t-1} + s_t G_t,  U_t = U_{t-1} + s_t G_t^2
        P_t = U_t^(1/3) + epsilon
        W~_t = argmin_W  alpha_t psi(W) + <V_t, W> + <P_t, (W - W_0)^2> / 2
        W_t = (1 - c) W_{t-1} + c W~_t

    The subproblem of the group lasso is solved by one scalar root per group (`GroupLasso.prox_in_metric`), where the
    authors iterate. Zeros, stages and the end of `fit` are as with RMDA. Weights without any gradient, such as those of
    a head that is not trained, have the metric epsilon and become zero at once: `exclude` them.

    Args:
        learning_rate: float >= 0 or schedule.
        momentum: c in (0, 1] or schedule; 1 means none.
        regularizer: psi for every kernel whose layer has none of ours, or a dictionary from patterns of variable
            paths to such; None for no penalty.
        epsilon: number > 0 added to the metric; settable between steps, like `learning_rate`.
        **optimizer_arguments: `exclude`, `skip_nonfinite` and `jit_update` of `SparseOptimizer`; `clipnorm`,
            `gradient_accumulation_steps`, ... of Keras. `weight_decay` and `use_ema` are refused.

    Raises:
        ValueError: for an argument out of range, and for `weight_decay` or `use_ema`.

    Example:
        >>> model.compile(kr.RAMDA(0.01, momentum=0.1, regularizer=kr.GroupLasso(1e-4)), loss="mse")

    Source: Huang and Lee 2024, "Regularized adaptive momentum dual averaging with an efficient inexact
    subproblem solver for training structured neural network", arXiv:2403.14398.
    """

    slots = ("w_0", "v", "u")
    scalars = ("s", "alpha")

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.01,
        momentum: float | LearningRateSchedule = 0.1,
        regularizer: Regularizers = None,
        epsilon: float = 1e-6,
        name: str = "ramda",
        **optimizer_arguments: Any,
    ):
        super().__init__(learning_rate, regularizer, momentum, name=name, **optimizer_arguments)
        epsilon = checks.real("epsilon", epsilon, open_minimum=True)
        self._epsilon = self._new_scalar("epsilon", lambda shape, dtype: ops.convert_to_tensor(epsilon, dtype))

    @property
    def epsilon(self) -> Any:
        """What is added to the metric: a variable, settable between steps, like `learning_rate`."""
        return self._epsilon

    @epsilon.setter
    def epsilon(self, value: float) -> None:
        self._epsilon.assign(checks.real("epsilon", value, open_minimum=True))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, with current values of settable ones, as Keras does."""
        return super().get_config() | {"epsilon": float(ops.convert_to_numpy(self._epsilon))}

    def init(self, w: Tensor, psi: ProximalRegularizer | None) -> Slots:
        return {"w_0": w, "v": ops.zeros_like(w), "u": ops.zeros_like(w)}

    def advance(self, lr: Tensor, t: Tensor, *, s: Tensor, alpha: Tensor) -> Scalars:
        s = lr * ops.sqrt(t)
        return {"s": s, "alpha": alpha + s}

    def step(self, w, g, lr, psi, *, t, c, s, alpha, w_0, v, u) -> tuple[Tensor, Slots]:
        v = v + s * g  # V_t = V_{t-1} + s_t G_t
        u = u + s * ops.square(g)  # U_t = U_{t-1} + s_t G_t^2
        w_tilde = self.minimizer(psi, t=t, s=s, alpha=alpha, w_0=w_0, v=v, u=u)
        return (1.0 - c) * w + c * w_tilde, {"v": v, "u": u}  # W_t = (1 - c) W_{t-1} + c W~_t

    def minimizer(self, psi, *, t, s, alpha, w_0, v, u) -> Tensor:
        p = cube_root(u) + as_type_of(u, self.epsilon)  # P_t = U_t^(1/3) + epsilon
        w_hat = w_0 - v / p
        return w_hat if psi is None else psi.prox_in_metric(w_hat, alpha, p)  # W~_t


def cube_root(x: Tensor) -> Tensor:
    """Return x^(1/3) for x >= 0, through the logarithm: a third of the time of a power; 0 goes through -infinity."""
    return ops.exp(ops.log(x) / 3.0)
