"""One step of an algorithm on all variables: from the gradients to the next weights, slots and scalars."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import keras
from keras import ops

from keras_rmda.optimizers.algorithm import Algorithm, Scalars, Slots, precise
from keras_rmda.optimizers.joint import answered_jointly
from keras_rmda.platform import replicas
from keras_rmda.regularizers import JointPenalty, ProximalRegularizer, Tensor, as_type_of

COMPILE_FROM = 500_000
"""Parameters from which `jit_update="auto"` compiles; see `benchmarks/README.md`, "Compiled or not"."""

REMEMBERS = 0.99
"""The share of the importance of groups that is of the steps before."""


class Steps(Algorithm, keras.optimizers.Optimizer):
    """Base class of `Updates`, which creates the state: makes one step of all variables, coupled ones together."""

    @property
    def _compiles_update(self) -> bool:
        if self.jit_update == "auto":
            large = sum(math.prod(variable.shape) for variable in self._trainable_variables) >= COMPILE_FROM
            pays = large and all(psi is None or psi.compiles_well for psi in self._penalties)
        return pays if self.jit_update == "auto" else self.jit_update

    def _update(self, grads: list[Tensor], indices: tuple[int, ...], learning_rate: Tensor) -> None:
        """Make one step of these variables; every replica makes the same on copies of its own."""
        numbers, strengths, is_finite = self._advance(grads, learning_rate)
        gradients = dict(zip(indices, grads))
        for coupling in self.couplings:
            if coupling.importance is not None and gradients.keys() >= set(coupling.indices):
                products = [self._precisely(index) * gradients[index] for index in coupling.indices]
                found = coupling.joint(coupling.parts[0]).grouping.sum([ops.square(each) for each in products])
                known, count = ops.convert_to_tensor(coupling.importance), coupling.importance.shape[0]
                found = known + (1.0 - REMEMBERS) * (ops.cast(found[:count], known.dtype) - known)
                assign_unless_skipped(coupling.importance, found, is_finite)

        def stepped(index: int, psi: ProximalRegularizer | None) -> tuple[Tensor, Slots]:
            return self._stepped(gradients[index], numbers, index, psi)

        for index, (w, slots) in self._asked(indices, stepped, strengths):
            values = [(self._slots[index][name], value) for name, value in slots.items()]
            for variable, value in [*values, (self._trainable_variables[index], w)]:
                assign_unless_skipped(variable, value, is_finite)

    def _stepped(
        self, gradient: Tensor, numbers: Scalars, index: int, psi: ProximalRegularizer | None
    ) -> tuple[Tensor, Slots]:
        """Return the next value and slots of a variable."""
        w = self._precisely(index)
        numbers = {name: ops.cast(value, w.dtype) for name, value in numbers.items()}
        lr = numbers.pop("lr")
        slots = self._read(self._slots[index], w.dtype)
        decay = self.weight_decay if self._use_weight_decay(self._trainable_variables[index]) else None
        gradient = ops.cast(gradient, w.dtype)
        if decay and self.couples_decay:
            gradient = gradient + decay * w if len(w.shape) > 1 else gradient
        elif decay:
            w = w - w * as_type_of(w, lr * decay)
        return self.step(w, gradient, lr, psi, **numbers, **slots, **self.numbers_of(index))

    def _structured(self, index: int, psi: ProximalRegularizer | None) -> Tensor:
        w, dtype = self._precise_iterate(index), self._trainable_variables[index].dtype
        if psi is None:
            return ops.cast(w, dtype)
        t, scalars = ops.cast(self._step_count, w.dtype), self._read(self._scalars, w.dtype)
        return ops.cast(self.structured(w, psi, t=t, **scalars, **self._read(self._slots[index], w.dtype)), dtype)

    def _precisely(self, index: int) -> Tensor:
        """Return the value of a variable in the dtype that its updates are computed in."""
        variable = self._trainable_variables[index]
        return ops.cast(ops.convert_to_tensor(variable), precise(variable.dtype))

    def _precise_iterate(self, index: int) -> Tensor:
        """Return the iterate of a variable, wherever it is kept between the steps."""
        return self._precisely(index)

    def _asked(
        self, indices: Iterable[int], function: Callable[[int, Any], Any], strengths: Sequence[Tensor]
    ) -> Iterator[tuple[int, Any]]:
        """Yield, with the numbers of variables, a pure function of each and its penalty."""
        waiting = dict.fromkeys(indices)
        while waiting:
            index = next(iter(waiting))
            several, joint = self._together_with(index, waiting, strengths)
            if joint is None:
                yield index, function(index, self._strengths.penalty(index, strengths))
            else:
                yield from zip(several, answered_jointly([partial(function, each) for each in several], joint))
            for each in several:
                del waiting[each]

    def _together_with(
        self, index: int, waiting: Iterable[int], strengths: Sequence[Tensor]
    ) -> tuple[list[int], JointPenalty | None]:
        """Return which variables are updated with this one, and the penalty on all of them; None if it is alone."""
        coupling = self._coupling_of.get(index)
        if coupling is not None:
            return coupling.indices, coupling.joint(self._strengths.penalty(index, strengths))
        by_xla = self._compiles_update or keras.backend.backend() == "jax"  # it does no better with several
        several = [each for each in self._alike.get(index, []) if each in waiting]
        if by_xla or len(several) < 2:
            return [index], None
        penalties = [self._strengths.penalty(each, strengths) for each in several]
        return several, penalties[0].beside(penalties, [self._trainable_variables[each].shape for each in several])

    def _advance(self, grads: list[Tensor], learning_rate: Tensor) -> tuple[Scalars, list[Tensor], Tensor | None]:
        """Advance the scalars, exactly once per real step.

        Returns:
            The numbers of this step, the strengths, and whether the step is to be made (None: it is).
        """
        dtype = keras.config.floatx()
        lr = ops.cast(learning_rate, dtype)
        strengths = self._strengths.at(ops.convert_to_tensor(self._iterations))
        is_finite = None
        if self.skip_nonfinite:
            is_finite = ops.all(ops.stack([ops.all(ops.isfinite(gradient)) for gradient in grads]))
            skipped = ops.cast(ops.logical_not(is_finite), self._skipped_steps.dtype)
            replicas.assign_here(self._skipped_steps, self._skipped_steps + skipped)
            # Undone here, since Keras counts every call: schedules see only the steps that were made.
            calls = ops.cast(skipped * (self.gradient_accumulation_steps or 1), self._iterations.dtype)
            replicas.assign_here(self._iterations, self._iterations - calls)
        t = ops.convert_to_tensor(self._step_count) + 1
        assign_unless_skipped(self._step_count, t, is_finite)
        t = ops.cast(t, dtype)
        scalars = self.advance(lr, t, **self._read(self._scalars, dtype))
        for name, variable in self._scalars.items():
            assign_unless_skipped(variable, scalars[name], is_finite)
        for variable, value in self._strengths.scheduled(strengths):
            assign_unless_skipped(variable, value, is_finite)
        return {"lr": lr, "t": t, **scalars, **self._momentum_at(t)}, strengths, is_finite

    def _momentum_at(self, t: Tensor) -> dict[str, Tensor]:
        """Return {"c": the momentum of step t of the stage}, where the algorithm has one."""
        return {}

    @staticmethod
    def _read(state: dict[str, keras.Variable], dtype: Any) -> dict[str, Tensor]:
        return {name: ops.cast(variable, dtype) for name, variable in state.items()}


def assign_unless_skipped(variable: keras.Variable, value: Tensor, is_finite: Tensor | None) -> None:
    """Assign a value to a variable where the step is made; None says that it is."""
    value = ops.cast(value, variable.dtype)
    if is_finite is not None:
        value = ops.where(is_finite, value, ops.convert_to_tensor(variable))
    replicas.assign_here(variable, value)
