"""What a model holds between the steps of a training: the structured values, outside of training, or the iterate.

Training goes on from the iterate, which has no exact zeros under RMDA, RAMDA and DessiLBI; everything else wants the
structured values. `show` writes these into the model and keeps the iterate, as a part of the optimizer's state;
`give_back` is for the next step. What a user writes into the weights in between stays: it is never mixed with values
of another moment, and training goes on from it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.optimizers.algorithm import Algorithm, precise
from keras_rmda.optimizers.likeness import are_same, distance, is_equal, sums_of
from keras_rmda.optimizers.notes import Notes
from keras_rmda.optimizers.updates import Updates
from keras_rmda.platform import checks, compat, replicas
from keras_rmda.regularizers import Tensor

WITNESSES = 2
"""The number of variables, the smallest, whose values of the last step tell whether the weights have been changed."""


class Shown(Updates):
    """Base class of `SparseOptimizer`: writes structured values into the model, and gives the iterate back."""

    def __init__(self, *arguments: Any, **keyword_arguments: Any):
        super().__init__(*arguments, **keyword_arguments)
        self.notes = Notes()
        self._iterate: dict[int, Tensor] = {}
        self._shown: dict[int, np.ndarray] = {}
        self._shown_at = 0
        self._loaded: dict[str, np.ndarray] | None = None

    # ---- what the user calls

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
        return self._structured_of([self._get_variable_index(variable) for variable in variables])

    def project(self, model: keras.Model | Iterable[keras.Variable]) -> None:
        """Write the values that carry the exact zeros into the model, for good; `fit` shows them by itself.

        Only for loops of the user's own, and where `fit` was left in the middle of an epoch. Weights that are not those
        of the last step, such as restored ones, are left as they are, with a warning: the zeros are of another moment.

        Args:
            model: the model that is trained, or its trainable variables.

        Raises:
            ValueError: if the optimizer is not built, and no state for it was loaded.
        """
        variables = list(getattr(model, "trainable_variables", model))
        if self.is_waiting:
            self.build(variables)
        self._check_built()
        indices = [self._get_variable_index(variable) for variable in variables if self.penalty_of(variable)]
        if not self._is_as_left():
            warnings.warn(
                f"`project` changes nothing: the weights are not those that the last step of {self.name!r} has left. "
                "If they were restored from the end of an epoch, they are structured as they are.",
                checks.SparsityWarning,
                stacklevel=2,
            )
        elif not self._is_shown:
            self._write(indices)
            self._see()

    def show(self) -> None:
        """Write the structured values into the model, and keep its iterate for `give_back`."""
        if not (self._separates or self.rebuilds_iterate) or not self.built or not compat.have_values(self.variables):
            return
        if self._is_shown or not self._steps:
            return
        self._iterate = {}
        if self._separates:
            indices = [index for index in self._penalized if self._trainable_variables[index].trainable]
            iterate = {index: ops.copy(self._value(index)) for index in indices}
            self._write(indices)
            self._iterate = {k: value for k, value in iterate.items() if not is_equal(value, self._value(k))}
        self._shown = {index: sums_of(self._value(index)) for index in range(len(self._trainable_variables))}
        self._shown_at = self._steps

    def give_back(self) -> None:
        """Write the iterate back into the model; begin a stage if its weights have been changed from outside."""
        if not self.built:
            return
        if not self._steps:  # a stage begins at the weights that are there
            self._begin_stage()
        elif self._is_as_left():
            for index, value in self._iterate.items() if self._is_shown else ():
                self._trainable_variables[index].assign(ops.cast(value, self._trainable_variables[index].dtype))
        elif self.rebuilds_iterate:
            warnings.warn(
                f"The weights have changed since the last step of {self.name!r}: it forgets its history, and training "
                "goes on from these weights. Call `optimizer.restart()` yourself to say that this is meant.",
                checks.SparsityWarning,
                stacklevel=2,
            )
            self.restart()
        self._iterate, self._shown = {}, {}

    def hides_zeros(self) -> bool:
        """Return whether the structured values have zeros where the weights have none."""
        if not self._separates or not self.built or self._is_shown or not self._steps:
            return False
        zeros = [(k, value == 0) for k, value in zip(self._penalized, self._structured_of(self._penalized))]
        return any(bool(ops.any(ops.logical_and(zero, self._value(index) != 0))) for index, zero in zeros)

    @property
    def is_waiting(self) -> bool:
        """Whether a state was loaded that `build` is going to use."""
        return self._loaded is not None

    def distance(self) -> float:
        """Return |iterate - structured values| / |iterate| of all weights with a penalty, while these are shown."""
        if not self._is_shown:
            return 0.0
        values = {index: self._value(index) for index in self._penalized}
        return distance([self._iterate.get(index, value) for index, value in values.items()], list(values.values()))

    def restart(self) -> None:
        """Forget all history and start a new stage from the current weights, as a fresh optimizer would."""
        if not self.built:
            return
        self._iterate, self._shown = {}, {}
        for variable in [self._step_count, *self._scalars.values()]:
            variable.assign(ops.zeros((), variable.dtype))
        self._begin_stage()
        self._see()

    def hand_over(self, other: Shown, moved: Callable[[keras.Variable, Tensor], tuple[keras.Variable, Any]]) -> None:
        """Give an optimizer of the same weights in another model what this one keeps besides its variables.

        Args:
            other: the optimizer; weights and variables of both are those of the same step.
            moved: returns for a weight, and a value of it, the weight of the other model and the value there.
        """
        self.notes.copy_to(other.notes)
        iterate = self._iterate if self._is_shown else {}
        others = [moved(self._trainable_variables[index], value) for index, value in iterate.items()]
        other._iterate = {other._get_variable_index(x): ops.convert_to_tensor(value) for x, value in others}
        other._shown = {index: sums_of(other._value(index)) for index in other._iterate}
        other._shown_at = other._steps
        changed = 0.0 if self._is_as_left() else 1.0  # then the other one is to notice it, too
        for index, witness in other._witnesses.items():
            value = other._iterate.get(index, other._value(index))
            witness.assign(ops.cast(value, witness.dtype) + changed)
        other._strengths.tell_penalties()

    # ---- what Keras calls

    def build(self, variables: list[keras.Variable]) -> None:
        """Create the state for `variables`, and fill it with one that was loaded before."""
        if self.built:
            return
        super().build(variables)
        sizes = [math.prod(variable.shape) for variable in variables]
        self._witnesses = {
            index: self.add_variable_from_reference(variables[index], name="witness")
            for index in sorted(np.argsort(sizes, kind="stable")[:WITNESSES].tolist())
        }
        if self.is_waiting:
            with compat.outside_of_traces():
                self.load_own_variables(self._loaded)

    def apply(self, grads: list, trainable_variables: list | None = None) -> None:
        """Make a step, and keep what it has left in the smallest variables."""
        super().apply(grads, trainable_variables)
        self._see()

    def finalize_variable_values(self, var_list: list[keras.Variable]) -> None:
        """Show the structured values at the end of `fit`."""
        super().finalize_variable_values(var_list)
        self.show()

    def save_own_variables(self, store: Any) -> None:
        """Save the state, what callbacks keep with it, and the iterate while the structured values are shown."""
        super().save_own_variables(store)
        self.notes.save(store)
        if self._follows_importance:
            store["importance.follows"] = np.asarray(True)
        for index, value in self._iterate.items() if self._is_shown else ():
            store[f"iterate.{index}"] = ops.convert_to_numpy(ops.cast(value, precise(value.dtype)))
            store[f"shown.{index}"] = self._shown[index]

    def load_own_variables(self, store: Any) -> None:
        """Load the state, and what was saved with it; before `build`, keep it until then."""
        self._loaded = None
        found = self.notes.load(store)
        if self.built:
            self._agree_on_importance(found)
        if len(found) != len(self.variables):
            if not self.built:
                self._loaded = {key: np.asarray(store[key]) for key in store.keys()}  # noqa: SIM118
                return
            warnings.warn(
                f"The optimizer {self.name!r} begins anew: it has {len(self.variables)} variables, the file "
                f"{len(found)}. It was saved before its first step, or is another one.",
                checks.SparsityWarning,
                stacklevel=2,
            )
            return
        super().load_own_variables(found)
        if not self.built:
            return
        self._strengths.tell_penalties()
        self._iterate = {int(key): value for key, value in self.notes.loaded("iterate").items()}
        self._shown = {int(key): value for key, value in self.notes.loaded("shown").items()}
        self._shown_at = self._steps

    # ---- helpers

    def _agree_on_importance(self, found: dict[str, np.ndarray]) -> None:
        """Follow the importance of groups if a file has it, or add to a file what is followed here: the last ones."""
        if self.notes.loaded("importance"):
            self.follow_importance()
        elif self._follows_importance:
            values = [ops.convert_to_numpy(each.importance) for each in self.couplings]
            found |= {str(len(found) + k): value for k, value in enumerate(values)}

    @property
    def _separates(self) -> bool:
        """Whether the structured values are others than the iterate."""
        return type(self).structured is not Algorithm.structured

    @property
    def _penalized(self) -> list[int]:
        return [index for index, psi in enumerate(self._penalties) if psi is not None]

    @property
    def _steps(self) -> int:
        return int(ops.convert_to_numpy(self._step_count))

    @property
    def _is_shown(self) -> bool:
        """Whether the structured values were written after the last step."""
        return bool(self._shown) and self._shown_at == self._steps

    def _is_as_left(self) -> bool:
        """Return whether the weights are those that the last step, or `show` after it, has left."""
        if not self._steps:
            return True
        shown = self._shown if self._is_shown else {}
        witnesses = [index for index in self._witnesses if index not in self._iterate or not shown]
        if not all(is_equal(ops.convert_to_tensor(self._witnesses[k]), self._value(k)) for k in witnesses):
            return False
        return all(are_same(sums, sums_of(self._value(index))) for index, sums in shown.items())

    def _see(self) -> None:
        """Keep the values of the witnesses."""
        for index, witness in self._witnesses.items():
            # A copy: JAX cannot donate one buffer as both a weight and a witness.
            value = ops.copy(ops.convert_to_tensor(replicas.copy_here(self._trainable_variables[index])))
            replicas.assign_here(witness, ops.cast(value, witness.dtype))

    def _precise_iterate(self, index: int) -> Tensor:
        if not self._is_shown or index not in self._iterate:
            return super()._precise_iterate(index)
        return ops.cast(self._iterate[index], precise(self._trainable_variables[index].dtype))

    def _value(self, index: int) -> Tensor:
        return ops.convert_to_tensor(self._trainable_variables[index])

    def _structured_of(self, indices: list[int]) -> list[Tensor]:
        values = dict(self._asked(indices, self._structured, self._strengths.variables))
        constraints = [self._trainable_variables[index].constraint for index in indices]
        return [
            values[index] if constraint is None else constraint(values[index])
            for index, constraint in zip(indices, constraints)
        ]

    def _write(self, indices: list[int]) -> None:
        for index, value in zip(indices, self._structured_of(indices)):
            self._trainable_variables[index].assign(value)

    def _check_built(self) -> None:
        if not self.built:
            raise ValueError("The optimizer has no iterates before its first step (or `build`).")
