"""All that the optimizers of this package share with Keras, written once.

An algorithm is four pure functions over the slots that it names (`init`, `advance`, `step`,
`structured`); this class owns the rest: which variable has which regularizer, the creation of slots,
scalars that advance exactly once per real step, restart, projection, configuration.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from numbers import Integral
from typing import Any, Literal

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from keras_rmda import _checks, _compat, assignment
from keras_rmda.assignment import Regularizers, own_regularizer
from keras_rmda.optimizers.joint import couplings, together
from keras_rmda.regularizers import Joint, ProximalRegularizer, Tensor, as_type_of

Scalars = dict[str, Tensor]
Slots = dict[str, Tensor]

COMPILE_FROM = 1_000_000
"""Parameters from which `jit_update="auto"` compiles; see `benchmarks/README.md`, update cost."""


class SparseOptimizer(keras.optimizers.Optimizer):
    """Base class of the optimizers that keep structured zeros exactly.

    A subclass states `slots` (one tensor per variable, in its shape), `scalars` (one number per optimizer, 0 at every
    start of a stage) and `hyperparameters` (attributes for `get_config`), and defines the pure functions below. `psi`
    is a regularizer or None, and `t` counts the steps of the current stage from 1.

    Args:
        learning_rate: float >= 0 or `keras.optimizers.schedules.LearningRateSchedule`.
        regularizer: for every kernel whose layer has none of ours of its own; or a dictionary from patterns of
            variable paths (the path itself, else a regular expression that matches all of it) to regularizers; None
            for no penalty.
        exclude: patterns of the paths of variables that `regularizer` does not apply to.
        skip_nonfinite: whether a step with a NaN or infinity in any gradient, after clipping, leaves weights and
            state as they were and is only counted, in `skipped_steps`.
        jit_update: whether XLA compiles the update on TensorFlow, whether the model is compiled by it or not; "auto"
            does so for models of a million parameters and more.
        **keras_optimizer_arguments: `clipnorm`, `gradient_accumulation_steps`, `name`, ... of Keras. `use_ema` is
            refused; `weight_decay` too where the algorithm would undo it.

    Raises:
        ValueError: naming argument and value, for anything out of range.
    """

    slots: tuple[str, ...] = ()
    scalars: tuple[str, ...] = ()
    hyperparameters: tuple[str, ...] = ()
    rebuilds_iterate = False
    """Whether the iterate is made anew from the slots at each step, so that changes to the weights do not last."""

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule,
        regularizer: Regularizers = None,
        exclude: Sequence[str] = (),
        skip_nonfinite: bool = False,
        jit_update: bool | Literal["auto"] = "auto",
        **keras_optimizer_arguments: Any,
    ):
        if not callable(learning_rate) and not isinstance(learning_rate, dict):
            _checks.real("learning_rate", learning_rate)
            if not isinstance(learning_rate, Integral):  # which Keras refuses
                learning_rate = float(learning_rate)
        self._check_keras_arguments(**keras_optimizer_arguments)
        exclude = exclude if isinstance(exclude, str) or not isinstance(exclude, Iterable) else tuple(exclude)
        assignment.check_patterns("exclude", exclude)
        _checks.one_of("jit_update", jit_update, (True, False, "auto"))
        super().__init__(learning_rate=learning_rate, **keras_optimizer_arguments)
        self.regularizer = assignment.checked(regularizer)
        self.exclude = exclude
        self.skip_nonfinite = _checks.truth("skip_nonfinite", skip_nonfinite)
        self.jit_update = jit_update
        self._skipped_steps = self._new_scalar("skipped_steps", dtype="int") if skip_nonfinite else None
        self._model = self._compiled_update = None
        _compat.leave_proximal_penalties_out_of_losses(applies_penalty_of)

    # ---- what an algorithm defines

    def init(self, w: Tensor, psi: ProximalRegularizer | None) -> Slots:
        """Return the slots at the start of a stage that begins at `w`."""
        return {name: ops.zeros_like(w) for name in self.slots}

    def advance(self, lr: Tensor, t: Tensor, **scalars: Tensor) -> Scalars:
        """Return the scalars of step `t` from those of the step before, and other numbers that `step` takes."""
        return scalars

    def step(
        self, w: Tensor, g: Tensor, lr: Tensor, psi: ProximalRegularizer | None, *, t: Tensor, **state: Tensor
    ) -> tuple[Tensor, Slots]:
        """Return the next iterate and slots for the gradient `g`; `state` holds scalars, slots and any momentum c."""
        raise NotImplementedError

    def structured(self, w: Tensor, psi: ProximalRegularizer, *, t: Tensor, **state: Tensor) -> Tensor:
        """Return the iterate that carries the exact zeros."""
        return w

    # ---- what the user calls

    @property
    def skipped_steps(self) -> Any:
        """The number of steps that `skip_nonfinite=True` has skipped."""
        if self._skipped_steps is None:
            raise AttributeError("Steps are skipped, and counted, with `skip_nonfinite=True` only.")
        return self._skipped_steps

    def restart(self) -> None:
        """Forget all history and start a new stage from the current weights, as a fresh optimizer would."""
        if not self.built:
            return
        for variable in [self._step_count, *self._scalars.values()]:
            variable.assign(ops.zeros((), variable.dtype))
        self._begin_stage()

    def structured_value(self, variable: keras.Variable) -> Tensor:
        """Return the iterate of `variable` that carries the exact zeros, inside the variable's constraint.

        Args:
            variable: a trainable variable that this optimizer was built with.

        Returns:
            A tensor of the variable's shape. A variable without regularizer has no structure: its own value.

        Raises:
            ValueError: if the optimizer does not know the variable.
        """
        return self.structured_values([variable])[0]

    def structured_values(self, variables: Iterable[keras.Variable]) -> list[Tensor]:
        """Return `structured_value` of each variable; those whose groups are coupled cost one computation together."""
        self._check_built()
        variables = list(variables)
        self._check_variables_are_known(variables)
        indices = [self._get_variable_index(variable) for variable in variables]
        values = self._asked(indices, self._structured, self._strengths)
        constraints = [self._trainable_variables[index].constraint for index in indices]
        return [
            values[index] if constraint is None else constraint(values[index])
            for index, constraint in zip(indices, constraints)
        ]

    def project(self, model: keras.Model | Iterable[keras.Variable]) -> None:
        """Write the iterates that carry the exact zeros into the model; `fit` ends with this by itself.

        Args:
            model: the model that is trained, or its trainable variables.

        Raises:
            ValueError: if the optimizer is not built.
        """
        self._check_built()
        variables = list(getattr(model, "trainable_variables", model))
        variables = [variable for variable in variables if self.penalty_of(variable) is not None]
        for variable, value in zip(variables, self.structured_values(variables)):
            variable.assign(value)

    def penalty_of(self, variable: keras.Variable) -> ProximalRegularizer | None:
        """Return the regularizer that this optimizer applies to `variable`, at the strength of the last step.

        None for a variable without one, and before the optimizer is built.
        """
        index = self._trainable_variables_indices.get(self._var_key(variable)) if self.built else None
        return None if index is None else self._penalty(index, self._strengths)

    def penalties(self) -> list[tuple[ProximalRegularizer | Joint, list[keras.Variable]]]:
        """Return every penalty, at the strength of the last step, with the variables that it is a function of."""
        self._check_built()
        found = []
        for coupling in self.couplings:
            share = self._penalty(coupling.indices[0], self._strengths)
            found.append((coupling.joint(share), [self._trainable_variables[index] for index in coupling.indices]))
        for index, variable in enumerate(self._trainable_variables):
            psi = self._penalty(index, self._strengths)
            if psi is not None and index not in self._coupling_of:
                found.append((psi, [variable]))
        return found

    # ---- what Keras calls

    def build(self, variables: list[keras.Variable]) -> None:
        """Create the state for `variables`; called by Keras before the first step."""
        if self.built:
            return
        super().build(variables)
        model = self._model and self._model()
        self._penalties = assignment.assign(variables, self.regularizer, self.exclude, model)
        self._step_count = self._new_scalar("step_count", dtype="int")
        self._scalars = {name: self._new_scalar(name) for name in self.scalars}
        self._strengths = {
            str(index): self._new_scalar("strength")
            for index, psi in enumerate(self._penalties)
            if psi is not None and isinstance(psi.strength, LearningRateSchedule)
        }
        self.couplings = couplings(self._penalties)
        for coupling in self.couplings:
            count = (len(coupling.shares[0].penalty.groups),)
            coupling.factors = self.add_variable(count, "ones", name="group_factors", aggregation="only_first_replica")
        self._coupling_of = {index: coupling for coupling in self.couplings for index in coupling.indices}
        self._slots = [
            {name: self.add_variable_from_reference(variable, name=name) for name in self.slots}
            for variable in variables
        ]
        self._has_begun = self._has_stepped = False
        self._begin_first_stage()
        _BUILT.add(self)

    def _backend_update_step(self, grads: list, trainable_variables: list, learning_rate: Any) -> None:
        """Update everything: the one hook that runs once per real step."""
        self._begin_again_if_unused()
        self._begin_first_stage()
        grads = [_compat.dense(gradient) for gradient in grads]
        indices = [self._get_variable_index(variable) for variable in trainable_variables]
        # What has no gradient goes along where its groups have one.
        for missing in sorted(
            {i for n in indices if n in self._coupling_of for i in self._coupling_of[n].indices} - {*indices}
        ):
            indices.append(missing)
            grads.append(ops.zeros_like(ops.convert_to_tensor(self._trainable_variables[missing])))
        indices = tuple(indices)
        if not self._compiles_update:
            self._update(grads, indices, learning_rate)
            return
        if self._compiled_update is None:
            self._compiled_update = _compat.compiled(self._update)
        self._compiled_update(grads, indices, ops.cast(learning_rate, keras.config.floatx()))

    def update_step(self, gradient: Any, variable: Any, learning_rate: dict[str, Tensor]) -> None:
        """Update one variable.

        Args:
            gradient: its gradient.
            variable: a raw backend variable on TensorFlow.
            learning_rate: the numbers of this step, from `_advance`; Keras hands on what it is given.
        """
        index = self._get_variable_index(variable)
        before = ops.cast(variable, variable.dtype)
        stepped = learning_rate["together"].get(str(index))
        if stepped is None:
            psi = self._penalty(index, learning_rate["strengths"])
            stepped = self._stepped(before, gradient, learning_rate["numbers"], index, psi)
        w, slots = stepped
        is_finite = learning_rate.get("is_finite")
        for name, value in slots.items():
            slot = self._slots[index][name]
            self.assign(slot, _unless_skipped(value, ops.cast(slot, before.dtype), is_finite))
        self.assign(variable, _unless_skipped(w, before, is_finite))

    def _all_reduce_sum_gradients(self, grads_and_vars: list) -> list:
        """Do nothing: `_update` has summed the gradients of all replicas, before anything looks at them."""
        return grads_and_vars

    def finalize_variable_values(self, var_list: list[keras.Variable]) -> None:
        """Project at the end of `fit`."""
        super().finalize_variable_values(var_list)
        if self.built:
            self.project(var_list)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, with current values of settable ones, as Keras does."""
        arguments = {
            "regularizer": assignment.serialized(self.regularizer),
            "exclude": list(self.exclude),
            "skip_nonfinite": self.skip_nonfinite,
            "jit_update": self.jit_update,
        }
        return super().get_config() | arguments | {name: getattr(self, name) for name in self.hyperparameters}

    # ---- helpers

    def _check_keras_arguments(self, weight_decay: Any = None, use_ema: bool = False, **others: Any) -> None:
        name = type(self).__name__
        if use_ema:
            raise ValueError(f"A moving average of the iterates of {name} holds no exact zeros. Received: use_ema=True")
        if weight_decay is not None:
            _checks.real("weight_decay", weight_decay)
        if weight_decay and self.rebuilds_iterate:
            raise ValueError(
                f"{name} makes its iterate anew from its own state at every step, so `weight_decay` would have no "
                "lasting effect. Use a penalty instead, such as keras_rmda.ElasticNet. "
                f"Received: weight_decay={weight_decay!r}"
            )

    def _check_built(self) -> None:
        if not self.built:
            raise ValueError("The optimizer has no iterates before its first step (or `build`).")

    def _apply_weight_decay(self, variables: list) -> None:
        """Do nothing: `update_step` decays, so that a skipped step does not."""

    @property
    def _compiles_update(self) -> bool:
        if self.jit_update == "auto":
            large = sum(math.prod(variable.shape) for variable in self._trainable_variables) >= COMPILE_FROM
            pays = large and all(psi is None or psi.compiles_well for psi in self._penalties)
        return (pays if self.jit_update == "auto" else self.jit_update) and not _compat.is_distributed()

    def _update(self, grads: list[Tensor], indices: tuple[int, ...], learning_rate: Tensor) -> None:
        variables = [self._trainable_variables[index] for index in indices]
        grads = _compat.summed_over_replicas(grads)
        numbers = self._advance(grads, learning_rate)
        gradient_of = dict(zip(indices, grads))
        ws = {index: ops.convert_to_tensor(self._trainable_variables[index]) for index in self._coupling_of}
        step = lambda index, psi: self._stepped(ws[index], gradient_of[index], numbers["numbers"], index, psi)  # noqa: E731
        coupled = [index for index in indices if index in self._coupling_of]
        stepped = self._asked(coupled, step, numbers["strengths"])
        numbers["together"] = {str(index): each for index, each in stepped.items()}
        super()._backend_update_step(grads, variables, numbers)

    def _stepped(
        self, w: Tensor, gradient: Tensor, numbers: Scalars, index: int, psi: ProximalRegularizer | None
    ) -> tuple[Tensor, Slots]:
        """Return the next value and slots of a variable."""
        numbers = {name: ops.cast(value, w.dtype) for name, value in numbers.items()}
        lr = numbers.pop("lr")
        slots = self._read(self._slots[index], w.dtype)
        decay = self.weight_decay if self._use_weight_decay(self._trainable_variables[index]) else None
        w = w - w * as_type_of(w, lr * decay) if decay else w
        return self.step(w, ops.cast(gradient, w.dtype), lr, psi, **numbers, **slots)

    def _structured(self, index: int, psi: ProximalRegularizer | None) -> Tensor:
        w = ops.convert_to_tensor(self._trainable_variables[index])
        if psi is None:
            return w
        t, scalars = ops.cast(self._step_count, w.dtype), self._read(self._scalars, w.dtype)
        return self.structured(w, psi, t=t, **scalars, **self._read(self._slots[index], w.dtype))

    def _asked(
        self, indices: Iterable[int], function: Callable[[int, Any], Any], strengths: dict[str, Tensor]
    ) -> dict[int, Any]:
        """Return, by number of the variable, a pure function of it and its penalty; coupled ones all at once."""
        results: dict[int, Any] = {}
        for index in indices:
            if index in results:
                continue
            psi, coupling = self._penalty(index, strengths), self._coupling_of.get(index)
            if coupling is None:
                results[index] = function(index, psi)
            else:
                functions = [partial(function, each) for each in coupling.indices]
                results |= zip(coupling.indices, together(functions, coupling.joint(psi)))
        return results

    def _advance(self, grads: list[Tensor], learning_rate: Tensor) -> dict[str, Any]:
        """Advance the scalars, exactly once per real step, and return all numbers of this step."""
        dtype = keras.config.floatx()
        lr = ops.cast(learning_rate, dtype)
        strengths = self._scheduled_strengths()
        is_finite = None
        if self.skip_nonfinite:
            is_finite = ops.all(ops.stack([ops.all(ops.isfinite(gradient)) for gradient in grads]))
            skipped = ops.cast(ops.logical_not(is_finite), self._skipped_steps.dtype)
            self._skipped_steps.assign_add(skipped)
            # Undone here, since Keras counts every call: schedules see only the steps that were made.
            calls = ops.cast(skipped * (self.gradient_accumulation_steps or 1), self._iterations.dtype)
            self._iterations.assign_sub(calls)

        def assign(variable: keras.Variable, value: Tensor) -> None:
            before = ops.convert_to_tensor(variable)
            variable.assign(_unless_skipped(ops.cast(value, variable.dtype), before, is_finite))

        t = ops.convert_to_tensor(self._step_count) + 1
        assign(self._step_count, t)
        t = ops.cast(t, dtype)
        scalars = self.advance(lr, t, **self._read(self._scalars, dtype))
        for name, variable in self._scalars.items():
            assign(variable, scalars[name])
        for index, value in strengths.items():
            assign(self._strengths[index], value)
        numbers = {"lr": lr, "t": t, **scalars, **self._momentum_at(t)}
        return {"numbers": numbers, "strengths": strengths} | ({} if is_finite is None else {"is_finite": is_finite})

    def _momentum_at(self, t: Tensor) -> dict[str, Tensor]:
        """Return {"c": the momentum of step t of the stage}, where the algorithm has one."""
        return {}

    def _penalty(self, index: int, strengths: dict[str, Tensor]) -> ProximalRegularizer | None:
        psi, strength = self._penalties[index], strengths.get(str(index))
        return psi if strength is None else psi.at(ops.convert_to_tensor(strength))

    def _begin_first_stage(self) -> None:
        # Where a trace on TensorFlow makes the model too, its weights have no values yet. TensorFlow then gives them
        # values and traces again before anything runs, and the stage begins in that second trace.
        if not self._has_begun and _compat.are_initialized(self._trainable_variables):
            self._has_begun = True
            with _compat.outside_of_traces():
                self._begin_stage()

    def _begin_again_if_unused(self) -> None:
        # Keras builds the optimizer of a model from a file before it loads the weights, and a clone's before they are
        # set: a stage without steps begins at the weights that are there when its first step is traced.
        if self._has_stepped or not self._has_begun or not _compat.can_read_outside_of_traces():
            return
        if _compat.are_initialized([self._step_count]):
            self._has_stepped = True
            with _compat.outside_of_traces():
                if int(ops.convert_to_numpy(self._step_count)) == 0:
                    self._begin_stage()

    def _scheduled_strengths(self) -> dict[str, Tensor]:
        iterations = ops.convert_to_tensor(self._iterations)
        return {index: ops.relu(self._penalties[int(index)].strength(iterations)) for index in self._strengths}

    def _begin_stage(self) -> None:
        strengths = self._scheduled_strengths()
        for index, value in strengths.items():
            self._strengths[index].assign(value)

        def init(index: int, psi: ProximalRegularizer | None) -> Slots:
            # A copy: JAX cannot donate one buffer as both a weight and a slot.
            return self.init(ops.copy(ops.convert_to_tensor(self._trainable_variables[index])), psi)

        for index, slots in self._asked(range(len(self._slots)), init, strengths).items():
            for name, value in slots.items():
                self._slots[index][name].assign(value)

    def _new_scalar(self, name: str, initializer: Any = "zeros", dtype: str | None = None) -> keras.Variable:
        return self.add_variable((), initializer, dtype=dtype, name=name, aggregation="only_first_replica")

    @staticmethod
    def _read(state: dict[str, keras.Variable], dtype: Any) -> dict[str, Tensor]:
        return {name: ops.cast(variable, dtype) for name, variable in state.items()}


def _unless_skipped(value: Tensor, before: Tensor, is_finite: Tensor | None) -> Tensor:
    return value if is_finite is None else ops.where(is_finite, value, before)


def bind(optimizer: Any, model: keras.Model) -> None:
    """Let an optimizer of ours know the layers of its variables."""
    if isinstance(optimizer, SparseOptimizer):
        optimizer._model = weakref.ref(model)


def applies_penalty_of(optimizer: Any, variable: keras.Variable) -> bool:
    """Return whether `optimizer` is ours and applies `variable`'s own regularizer by its proximal step.

    A model without an optimizer (None) is trained in a loop of the user's own: there, any of ours that was built with
    the variable counts.
    """
    if own_regularizer(variable) is None:
        return False
    if optimizer is None:
        return any(each.penalty_of(variable) is not None for each in _BUILT)
    if not isinstance(optimizer, SparseOptimizer):
        return False
    return not optimizer.built or optimizer.penalty_of(variable) is not None


_BUILT: weakref.WeakSet[SparseOptimizer] = weakref.WeakSet()

# Now, and not with the first optimizer: `model.compile(RMDA())` looks up `compile` before it makes the optimizer.
_compat.tell_optimizers_their_model(bind)
