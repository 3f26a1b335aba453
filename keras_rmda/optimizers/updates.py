"""The state of an algorithm and its steps, as Keras asks for them.

An algorithm is four pure functions over the slots that it names (`init`, `advance`, `step`, `structured`); this class
owns the creation of slots, scalars that advance exactly once per real step, stages, and steps of coupled variables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.optimizers import assignment
from keras_rmda.optimizers.binding import model_of
from keras_rmda.optimizers.joint import alike, answered_jointly, couplings
from keras_rmda.optimizers.strengths import Strengths
from keras_rmda.platform import arithmetic, compat, replicas
from keras_rmda.regularizers import JointPenalty, ProximalRegularizer, Tensor, as_type_of

Scalars = dict[str, Tensor]
Slots = dict[str, Tensor]

COMPILE_FROM = 1_000_000
"""Parameters from which `jit_update="auto"` compiles; see `benchmarks/README.md`, update cost."""


REMEMBERS = 0.99
"""The share of the importance of groups that is of the steps before."""


class Updates(keras.optimizers.Optimizer):
    """Base class of `SparseOptimizer`: makes steps.

    A subclass states `slots` (one tensor per variable, in its shape) and `scalars` (one number per optimizer, 0 at
    every start of a stage), and defines the pure functions below. `psi` is a regularizer or None, and `t` counts the
    steps of the current stage from 1.
    """

    slots: tuple[str, ...] = ()
    scalars: tuple[str, ...] = ()
    rebuilds_iterate = False
    """Whether the iterate is made anew from the slots at each step, so that changes to the weights do not last."""
    couples_decay = False
    """Whether `weight_decay` is added to the gradients of kernels; else it shrinks all weights by itself."""
    keeps_zeros = True
    """Whether what the penalty makes zero is zero in the iterate, too, which gradients are taken at."""

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

    def numbers_of(self, index: int) -> dict[str, Any]:
        """Return what `init` and `step` of a variable take besides, by its number: constants of its own."""
        return {}

    # ---- what Keras calls

    def build(self, variables: list[keras.Variable]) -> None:
        """Create the state for `variables`; called by Keras before the first step."""
        if self.built:
            return
        self._model = model_of(self, variables)
        model = self._model and self._model()
        self._penalties = assignment.assign(variables, self.regularizer, self.exclude, model)
        super().build(variables)
        self._step_count = self._new_scalar("step_count", dtype="int")
        self._scalars = {name: self._new_scalar(name) for name in self.scalars}
        if self.skip_nonfinite:
            self._skipped_steps = self._new_scalar("skipped_steps", dtype="int")
        dtypes = [precise(variable.dtype) for variable in variables]
        self._strengths = Strengths(self._penalties, dtypes, self._new_scalar)
        self.couplings = couplings(self._penalties)
        for coupling in self.couplings:
            count = (len(coupling.groups),)
            coupling.factors = self.add_variable(count, "ones", name="group_factors", aggregation="only_first_replica")
        self._alike = alike(self._penalties, dtypes)
        self._coupling_of = {index: coupling for coupling in self.couplings for index in coupling.indices}
        self._slots = [
            {name: self.add_variable_from_reference(variable, name=name) for name in self.slots}
            for variable in variables
        ]
        self._has_begun, self._has_stepped = False, set()
        self._begin_first_stage()

    def follow_importance(self) -> None:
        """Let steps keep the importance of every coupled group g, the running mean of sum_{i in g} (w_i g_i)^2.

        It is the diagonal of the empirical Fisher matrix, at the scale of the weights: half of it is what the loss
        grows by, to second order, if the group becomes zero.
        """
        for coupling in self.couplings:
            if coupling.importance is None:
                coupling.importance = self.add_variable(
                    coupling.factors.shape, "zeros", name="group_importance", aggregation="only_first_replica"
                )
                self._compiled_updates.clear()

    def closed(self, index: int) -> np.ndarray | None:
        """Return which weights of a variable are zero and stay zero for good, since their groups were closed."""
        coupling = self._coupling_of.get(index)
        if coupling is None or not self.keeps_zeros:
            return None
        is_open = ops.convert_to_numpy(coupling.is_open(index))
        return ~is_open & (ops.convert_to_numpy(self._precise_iterate(index)) == 0)

    def add_variable(self, shape: tuple, initializer: Any = "zeros", dtype: str | None = None, **others: Any) -> Any:
        """Create a variable of the state, which has float32 where the weights have half as many bits."""
        return super().add_variable(shape, initializer, precise(dtype) if dtype else None, **others)

    def apply(self, grads: list, trainable_variables: list | None = None) -> None:
        """Sum the gradients of all replicas, then clip, accumulate and apply them as Keras does with those of one."""
        replicas.check_step_can_be_distributed(self._model and self._model())
        grads = [gradient if gradient is None else arithmetic.dense(gradient) for gradient in grads]
        grads = replicas.summed_over_replicas(grads)
        # Variables that TensorFlow makes in a trace get their values before it if these depend on nothing in it.
        with compat.after(grads if self.built else []):
            super().apply([None if g is None else ops.cast(g, precise(g.dtype)) for g in grads], trainable_variables)

    def _backend_increment_gradient_accumulators(self, grads: list, acc_grads: list) -> None:
        """Accumulate on every replica: the gradients are those of all."""
        for gradient, accumulated in zip(grads, acc_grads):
            replicas.assign_here(accumulated, ops.convert_to_tensor(accumulated) + gradient)

    def _backend_apply_gradients(self, grads: list, trainable_variables: list) -> None:
        """Know which variables the gradients belong to when they are clipped."""
        self._clipped = tuple(self._get_variable_index(variable) for variable in trainable_variables)
        super()._backend_apply_gradients(grads, trainable_variables)

    def _clip_gradients(self, grads: list) -> list:
        """Clip; weights that stay zero for good do not count in the norm of a step."""
        if (self.clipnorm or self.global_clipnorm) and self.keeps_zeros:
            couplings = [self._coupling_of.get(index) for index in self._clipped]
            grads = [
                g if c is None else ops.where(c.is_open(index), g, ops.zeros_like(g))
                for index, c, g in zip(self._clipped, couplings, grads, strict=True)
            ]
        return super()._clip_gradients(grads)

    def _backend_update_step(self, grads: list, trainable_variables: list, learning_rate: Any) -> None:
        """Update everything: the one hook that runs once per real step."""
        self._begin_again_if_unused()
        self._begin_first_stage()
        indices = [self._get_variable_index(variable) for variable in trainable_variables]
        for missing in self._partners(indices):  # what has no gradient goes along where its groups have one
            indices.append(missing)
            grads.append(ops.zeros_like(ops.convert_to_tensor(self._trainable_variables[missing])))
        indices = tuple(indices)
        if not self._compiles_update:
            self._update(grads, indices, learning_rate)
            return
        replica = self._replica()
        if replica not in self._compiled_updates:
            self._compiled_updates[replica] = arithmetic.compiled(self._update)
        self._compiled_updates[replica](grads, indices, ops.cast(learning_rate, keras.config.floatx()))

    def _apply_weight_decay(self, variables: list) -> None:
        """Do nothing: `_stepped` decays, so that a skipped step does not."""

    # ---- helpers

    @property
    def _compiles_update(self) -> bool:
        if self.jit_update == "auto":
            large = sum(math.prod(variable.shape) for variable in self._trainable_variables) >= COMPILE_FROM
            pays = large and all(psi is None or psi.compiles_well for psi in self._penalties)
        return pays if self.jit_update == "auto" else self.jit_update

    def _partners(self, indices: Iterable[int]) -> list[int]:
        """Return the other variables whose groups are coupled with those of these."""
        coupled = [self._coupling_of[index].indices for index in indices if index in self._coupling_of]
        return sorted(set().union(*coupled) - set(indices))

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
                _assign_unless_skipped(coupling.importance, found, is_finite)

        def stepped(index: int, psi: ProximalRegularizer | None) -> tuple[Tensor, Slots]:
            return self._stepped(gradients[index], numbers, index, psi)

        for index, (w, slots) in self._asked(indices, stepped, strengths):
            values = [(self._slots[index][name], value) for name, value in slots.items()]
            for variable, value in [*values, (self._trainable_variables[index], w)]:
                _assign_unless_skipped(variable, value, is_finite)

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
        _assign_unless_skipped(self._step_count, t, is_finite)
        t = ops.cast(t, dtype)
        scalars = self.advance(lr, t, **self._read(self._scalars, dtype))
        for name, variable in self._scalars.items():
            _assign_unless_skipped(variable, scalars[name], is_finite)
        for variable, value in self._strengths.scheduled(strengths):
            _assign_unless_skipped(variable, value, is_finite)
        return {"lr": lr, "t": t, **scalars, **self._momentum_at(t)}, strengths, is_finite

    def _momentum_at(self, t: Tensor) -> dict[str, Tensor]:
        """Return {"c": the momentum of step t of the stage}, where the algorithm has one."""
        return {}

    def _begin_first_stage(self) -> None:
        # Where a trace on TensorFlow makes the model too, its weights have no values yet. TensorFlow then gives them
        # values and traces again before anything runs, and the stage begins in that second trace.
        if not self._has_begun and compat.are_initialized(self._trainable_variables):
            self._has_begun = True
            with compat.outside_of_traces():
                self._begin_stage()

    def _begin_again_if_unused(self) -> None:
        # Keras builds the optimizer of a model from a file before it loads the weights, and a clone's before they are
        # set: a stage without steps begins at the weights that are there when its first step is traced.
        replica = self._replica()
        if replica in self._has_stepped or not self._has_begun or not compat.can_read_outside_of_traces():
            return
        if compat.are_initialized([self._step_count]):
            self._has_stepped.add(replica)
            with compat.outside_of_traces():
                if int(ops.convert_to_numpy(self._step_count)) == 0:
                    self._begin_stage()

    def _begin_stage(self) -> None:
        strengths = self._strengths.at_start(ops.convert_to_tensor(self._iterations))
        for variable, value in self._strengths.scheduled(strengths):
            _assign_unless_skipped(variable, value, None)

        def init(index: int, psi: ProximalRegularizer | None) -> Slots:
            # A copy: JAX cannot donate one buffer as both a weight and a slot.
            return self.init(ops.copy(self._precisely(index)), psi, **self.numbers_of(index))

        for index, slots in self._asked(range(len(self._slots)), init, strengths):
            for name, value in slots.items():
                replicas.assign_here(self._slots[index][name], value)

    def _replica(self) -> int:
        """Return what tells the replicas of a strategy apart."""
        return id(replicas.copy_here(self._iterations))

    def _new_scalar(self, name: str, initializer: Any = "zeros", dtype: str | None = None) -> keras.Variable:
        return self.add_variable((), initializer, dtype=dtype, name=name, aggregation="only_first_replica")

    @staticmethod
    def _read(state: dict[str, keras.Variable], dtype: Any) -> dict[str, Tensor]:
        return {name: ops.cast(variable, dtype) for name, variable in state.items()}


def precise(dtype: Any) -> str:
    """Return the dtype of the state, and of the computation, for weights of this one."""
    dtype = keras.backend.standardize_dtype(dtype)
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def on_support(w: Tensor, other: Tensor) -> Tensor:
    """Return w where `other` is not zero, else 0; a product, so that a NaN in w stays one."""
    return w * ops.cast(other != 0, w.dtype)


def _assign_unless_skipped(variable: keras.Variable, value: Tensor, is_finite: Tensor | None) -> None:
    value = ops.cast(value, variable.dtype)
    if is_finite is not None:
        value = ops.where(is_finite, value, ops.convert_to_tensor(variable))
    replicas.assign_here(variable, value)
