"""Optimizers with a momentum: a variable like the learning rate, or a schedule."""

from __future__ import annotations

import math
import warnings
from typing import Any

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from keras_rmda.optimizers.algorithm import on_support
from keras_rmda.optimizers.assignment import Regularizers
from keras_rmda.optimizers.base import SparseOptimizer
from keras_rmda.platform import checks
from keras_rmda.regularizers import ProximalRegularizer, Tensor

FRACTION = {"maximum": 1.0, "open_minimum": True}
"""A momentum that is the share of the new, in (0, 1]."""

DECAY = {"maximum": 1.0, "open_maximum": True}
"""A momentum that is the share of the old, in [0, 1)."""

FAR = 0.1
"""The relative distance of structured values to the iterate at the end of `fit` that is worth a warning."""


class MomentumOptimizer(SparseOptimizer):
    """Base class of the optimizers whose `step` takes a momentum `c`.

    Args:
        learning_rate: float >= 0 or schedule.
        regularizer: as in `SparseOptimizer`.
        momentum: number in `momentum_range` or schedule of it; settable between steps, like `learning_rate`.
        **optimizer_arguments: of `SparseOptimizer`.

    Raises:
        ValueError: naming argument and value, for anything out of range.
    """

    momentum_range: dict[str, Any] = FRACTION
    """The bounds of the momentum, for `checks.real`."""
    momentum_slot: str | None = None
    """The slot that is not kept where the momentum is 0."""

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule,
        regularizer: Regularizers,
        momentum: float | LearningRateSchedule,
        **optimizer_arguments: Any,
    ):
        super().__init__(learning_rate, regularizer, **optimizer_arguments)
        if isinstance(momentum, dict):
            momentum = keras.saving.deserialize_keras_object(momentum)
        self._momentum = momentum
        if not isinstance(momentum, LearningRateSchedule):
            momentum = checks.real("momentum", momentum, **self.momentum_range)
            if momentum == 0:
                self.slots = tuple(name for name in self.slots if name != self.momentum_slot)
            self._momentum = self._new_scalar("momentum", lambda shape, dtype: ops.convert_to_tensor(momentum, dtype))

    @property
    def momentum(self) -> Any:
        """The momentum: a variable, or the current value of a schedule."""
        if isinstance(self._momentum, LearningRateSchedule):
            return self._momentum(self._iterations)
        return self._momentum

    @momentum.setter
    def momentum(self, value: float) -> None:
        if isinstance(self._momentum, LearningRateSchedule):
            raise TypeError(
                "This optimizer was created with a schedule as its `momentum`, which is hence not settable. "
                f"Received: momentum={value!r}"
            )
        value = checks.real("momentum", value, **self.momentum_range)
        if value > 0 and self.momentum_slot and self.momentum_slot not in self.slots:
            raise ValueError(
                "This optimizer was created with momentum=0.0, without memory for it. Create it with the first "
                f"momentum that you need. Received: momentum={value!r}"
            )
        self._momentum.assign(value)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, with current values of settable ones, as Keras does."""
        if isinstance(self._momentum, LearningRateSchedule):
            momentum = keras.saving.serialize_keras_object(self._momentum)
        else:
            momentum = float(ops.convert_to_numpy(self._momentum))
        return super().get_config() | {"momentum": momentum}

    def _momentum_at(self, t: Tensor) -> dict[str, Tensor]:
        return {"c": ops.cast(self.momentum, t.dtype)}


class AveragingOptimizer(MomentumOptimizer):
    """Base class of dual averaging: the iterate moves by the fraction `momentum` towards a minimizer."""

    rebuilds_iterate = True

    def __init__(self, *arguments: Any, **optimizer_arguments: Any):
        super().__init__(*arguments, **optimizer_arguments)
        self._momentum_growth = self._new_scalar("momentum_growth")

    @property
    def momentum_growth(self) -> Any:
        """The exponent q of c_t = min(1, momentum * t^q) at step t of a stage; 0 keeps the momentum."""
        return self._momentum_growth

    @momentum_growth.setter
    def momentum_growth(self, value: float) -> None:
        self._momentum_growth.assign(checks.real("momentum_growth", value))

    def minimizer(self, psi: ProximalRegularizer | None, *, t: Tensor, **state: Tensor) -> Tensor:
        """Return W~_t, the minimizer of the subproblem of a step, from the state behind it."""
        raise NotImplementedError

    def structured(self, w: Tensor, psi: ProximalRegularizer, *, t: Tensor, **state: Tensor) -> Tensor:
        """Return W_t on the support of W~_t, which is as sparse and much less noisy; W~_t if psi asks for more."""
        w_tilde = self.minimizer(psi, t=t, **state)
        return on_support(w, w_tilde) if psi.has_support else w_tilde

    def finalize_variable_values(self, var_list: list[keras.Variable]) -> None:
        """Show the structured values at the end of `fit`; warn if training has ended far from them."""
        super().finalize_variable_values(var_list)
        distance = self.distance()
        if FAR < distance < math.inf:
            warnings.warn(
                f"`fit` ended with structured weights that are {distance:.0%} away from those that training goes on "
                "with, whose loss it has shown; validation shows that of the structured ones. A last stage brings them "
                "together: `callbacks.StagewiseSchedule`, or momentum=1.0 throughout.",
                checks.SparsityWarning,
                stacklevel=2,
            )

    def _momentum_at(self, t: Tensor) -> dict[str, Tensor]:
        growth = ops.power(t, ops.cast(self._momentum_growth, t.dtype))
        return {"c": ops.clip(super()._momentum_at(t)["c"] * growth, 0.0, 1.0)}
