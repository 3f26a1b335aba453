"""The state of an algorithm, and its steps as Keras asks for them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.optimizers import assignment
from keras_rmda.optimizers.algorithm import Slots, precise
from keras_rmda.optimizers.binding import model_of
from keras_rmda.optimizers.joint import alike, couplings
from keras_rmda.optimizers.steps import Steps, assign_unless_skipped
from keras_rmda.optimizers.strengths import Strengths
from keras_rmda.platform import arithmetic, compat, replicas
from keras_rmda.regularizers import ProximalRegularizer


class Updates(Steps):
    """Base class of `SparseOptimizer`: owns the slots, scalars that advance once per real step, and stages."""

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

    @property
    def _follows_importance(self) -> bool:
        return any(coupling.importance is not None for coupling in self.couplings) if self.built else False

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

    def _partners(self, indices: Iterable[int]) -> list[int]:
        """Return the other variables whose groups are coupled with those of these."""
        coupled = [self._coupling_of[index].indices for index in indices if index in self._coupling_of]
        found = sorted(set().union(*coupled) - set(indices))
        if frozen := [each.path for each in map(self._trainable_variables.__getitem__, found) if not each.trainable]:
            raise ValueError(
                f"Weights of coupled groups are frozen now: {', '.join(frozen)}. Make a new optimizer, with groups "
                "that `coupled_groups(model)` makes anew."
            )
        return found

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
            assign_unless_skipped(variable, value, None)

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
