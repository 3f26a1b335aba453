"""All that the optimizers of this package share with Keras, written once.

An algorithm is four pure functions over the slots that it names (`init`, `advance`, `step`,
`structured`); this class owns the rest: which variable has which regularizer, the creation of slots,
scalars that advance exactly once per real step, restart, projection, configuration.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from keras_rmda import _checks, _compat
from keras_rmda.assignment import assign, own_regularizer
from keras_rmda.regularizers import ProximalRegularizer, Tensor

Scalars = dict[str, Tensor]
Slots = dict[str, Tensor]


class SparseOptimizer(keras.optimizers.Optimizer):
    """Base class of the optimizers that keep structured zeros exactly.

    A subclass states `slots` (one tensor per variable, in its shape) and `scalars` (one number per
    optimizer, 0 at every start of a stage) and defines the pure functions below. `psi` is a regularizer or
    None, and `t` counts the steps of the current stage from 1.

    Args:
        learning_rate: float or `keras.optimizers.schedules.LearningRateSchedule`.
        momentum: number in (0, 1] or a schedule of it; settable between steps, like `learning_rate`.
        regularizer: for every kernel whose layer has none of ours of its own; None for no penalty.
        **keras_optimizer_arguments: `clipnorm`, `gradient_accumulation_steps`, `name`, ... of Keras.

    Raises:
        ValueError: naming argument and value, for anything out of range.
    """

    slots: tuple[str, ...] = ()
    scalars: tuple[str, ...] = ()

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule,
        momentum: float | LearningRateSchedule,
        regularizer: ProximalRegularizer | None = None,
        **keras_optimizer_arguments: Any,
    ):
        if not callable(learning_rate):
            _checks.real("learning_rate", learning_rate)
        super().__init__(learning_rate=learning_rate, **keras_optimizer_arguments)
        regularizer = keras.regularizers.get(regularizer)
        if regularizer is not None and not isinstance(regularizer, ProximalRegularizer):
            raise ValueError(
                "`regularizer` must have a proximal map (keras_rmda.L1, keras_rmda.GroupLasso, ...) or be None. "
                f"Received: regularizer={regularizer!r}"
            )
        self.regularizer = regularizer
        if isinstance(momentum, dict):
            momentum = keras.saving.deserialize_keras_object(momentum)
        self._momentum = momentum
        if not isinstance(momentum, LearningRateSchedule):
            momentum = _checks.real("momentum", momentum, maximum=1.0, open_minimum=True)
            self._momentum = self._new_scalar("momentum", lambda shape, dtype: ops.convert_to_tensor(momentum, dtype))
        self._momentum_growth = self._new_scalar("momentum_growth")
        _compat.leave_proximal_penalties_out_of_losses(applies_penalty_of)

    # ---- what an algorithm defines

    def init(self, w: Tensor, psi: ProximalRegularizer | None) -> Slots:
        """Return the slots at the start of a stage that begins at `w`."""
        raise NotImplementedError

    def advance(self, lr: Tensor, t: Tensor, **scalars: Tensor) -> Scalars:
        """Return the scalars of step `t` from those of the step before."""
        return scalars

    def step(
        self,
        w: Tensor,
        g: Tensor,
        lr: Tensor,
        psi: ProximalRegularizer | None,
        *,
        t: Tensor,
        c: Tensor,
        **state: Tensor,
    ) -> tuple[Tensor, Slots]:
        """Return the next iterate and slots for the gradient `g`, momentum `c` and step count `t`."""
        raise NotImplementedError

    def structured(self, w: Tensor, psi: ProximalRegularizer, *, t: Tensor, **state: Tensor) -> Tensor:
        """Return the iterate that carries the exact zeros."""
        return w

    # ---- what the user calls

    @property
    def momentum(self) -> Any:
        """The momentum in (0, 1]: a variable, or the current value of a schedule."""
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
        self._momentum.assign(_checks.real("momentum", value, maximum=1.0, open_minimum=True))

    @property
    def momentum_growth(self) -> Any:
        """The exponent q of c_t = min(1, momentum * t^q) at step t of a stage; 0 keeps the momentum."""
        return self._momentum_growth

    @momentum_growth.setter
    def momentum_growth(self, value: float) -> None:
        self._momentum_growth.assign(_checks.real("momentum_growth", value))

    def restart(self) -> None:
        """Forget all history and start a new stage from the current weights, as a fresh optimizer would."""
        if not self.built:
            return
        for variable in self._stage_variables:
            variable.assign(ops.zeros((), variable.dtype))
        self._begin_stage()

    def structured_value(self, variable: keras.Variable) -> Tensor:
        """Return the iterate of `variable` that carries the exact zeros.

        Args:
            variable: a trainable variable that this optimizer was built with.

        Returns:
            A tensor of the variable's shape. A variable without regularizer has no structure: its own value.

        Raises:
            ValueError: if the optimizer does not know the variable.
        """
        self._check_built()
        self._check_variables_are_known([variable])
        index = self._get_variable_index(variable)
        w, psi = ops.convert_to_tensor(variable), self._penalties[index]
        if psi is None:
            return w
        t, scalars = ops.cast(self._step_count, w.dtype), self._read(self._scalars, w.dtype)
        return self.structured(w, psi, t=t, **scalars, **self._read(self._slots[index], w.dtype))

    def project(self, model: keras.Model | Iterable[keras.Variable]) -> None:
        """Write the iterates that carry the exact zeros into the model; `fit` ends with this by itself.

        Args:
            model: the model that is trained, or its trainable variables. A variable's constraint is kept.

        Raises:
            ValueError: if the optimizer is not built.
        """
        self._check_built()
        for variable in getattr(model, "trainable_variables", model):
            if self.penalty_of(variable) is not None:
                value = self.structured_value(variable)
                variable.assign(value if variable.constraint is None else variable.constraint(value))

    def penalty_of(self, variable: keras.Variable) -> ProximalRegularizer | None:
        """Return the regularizer that this optimizer applies to `variable`; None before it is built."""
        index = self._trainable_variables_indices.get(self._var_key(variable)) if self.built else None
        return None if index is None else self._penalties[index]

    # ---- what Keras calls

    def build(self, variables: list[keras.Variable]) -> None:
        """Create the state for `variables`; called by Keras before the first step."""
        if self.built:
            return
        super().build(variables)
        self._penalties = assign(variables, self.regularizer)
        self._step_count = self._new_scalar("step_count", dtype="int")
        self._scalars = {name: self._new_scalar(name) for name in self.scalars}
        self._slots = [
            {name: self.add_variable_from_reference(variable, name=name) for name in self.slots}
            for variable in variables
        ]
        self._has_begun = False
        self._begin_first_stage()

    @property
    def _stage_variables(self) -> list[keras.Variable]:
        return [self._step_count, *self._scalars.values()]

    def _backend_update_step(self, grads: list, trainable_variables: list, learning_rate: Any) -> None:
        """Advance the scalars, then the variables: the one hook that runs once per real step."""
        self._step_count.assign_add(1)
        dtype = keras.config.floatx()
        lr, t = ops.cast(learning_rate, dtype), ops.cast(self._step_count, dtype)
        for name, value in self.advance(lr, t, **self._read(self._scalars, dtype)).items():
            self._scalars[name].assign(value)
        self._begin_first_stage()
        super()._backend_update_step(grads, trainable_variables, learning_rate)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable; `variable` is a raw backend variable on TensorFlow."""
        index = self._get_variable_index(variable)
        w = ops.convert_to_tensor(variable)
        dtype = w.dtype
        t = ops.cast(self._step_count, dtype)
        growth = ops.power(t, ops.cast(self._momentum_growth, dtype))
        w_next, slots_next = self.step(
            w,
            ops.cast(ops.convert_to_tensor(gradient), dtype),
            ops.cast(learning_rate, dtype),
            self._penalties[index],
            t=t,
            c=ops.minimum(ops.cast(self.momentum, dtype) * growth, 1.0),
            **self._read(self._scalars, dtype),
            **self._read(self._slots[index], dtype),
        )
        for name, value in slots_next.items():
            self.assign(self._slots[index][name], value)
        self.assign(variable, w_next)

    def finalize_variable_values(self, var_list: list[keras.Variable]) -> None:
        """Project at the end of `fit`."""
        super().finalize_variable_values(var_list)
        if self.built:
            self.project(var_list)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, with current values of settable ones, as Keras does."""
        if isinstance(self._momentum, LearningRateSchedule):
            momentum = keras.saving.serialize_keras_object(self._momentum)
        else:
            momentum = float(ops.convert_to_numpy(self._momentum))
        regularizer = keras.regularizers.serialize(self.regularizer) if self.regularizer else None
        return super().get_config() | {"momentum": momentum, "regularizer": regularizer}

    # ---- helpers

    def _check_built(self) -> None:
        if not self.built:
            raise ValueError("The optimizer has no iterates before its first step (or `build`).")

    def _begin_first_stage(self) -> None:
        # Where a trace on TensorFlow makes the model too, its weights have no values yet. TensorFlow then gives them
        # values and traces again before anything runs, and the stage begins in that second trace.
        if not self._has_begun and _compat.are_initialized(self._trainable_variables):
            self._has_begun = True
            with _compat.outside_of_traces():
                self._begin_stage()

    def _begin_stage(self) -> None:
        for variable, psi, slots in zip(self._trainable_variables, self._penalties, self._slots):
            # A copy: JAX cannot donate one buffer as both a weight and a slot.
            for name, value in self.init(ops.copy(ops.convert_to_tensor(variable)), psi).items():
                slots[name].assign(value)

    def _new_scalar(self, name: str, initializer: Any = "zeros", dtype: str | None = None) -> keras.Variable:
        return self.add_variable((), initializer, dtype=dtype, name=name, aggregation="only_first_replica")

    @staticmethod
    def _read(state: dict[str, keras.Variable], dtype: Any) -> dict[str, Tensor]:
        return {name: ops.cast(variable, dtype) for name, variable in state.items()}


def applies_penalty_of(optimizer: Any, variable: keras.Variable) -> bool:
    """Return whether `optimizer` is ours and applies `variable`'s own regularizer by its proximal step."""
    if not isinstance(optimizer, SparseOptimizer) or own_regularizer(variable) is None:
        return False
    return not optimizer.built or optimizer.penalty_of(variable) is not None
