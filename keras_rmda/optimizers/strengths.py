"""The strengths of an optimizer's penalties, as numbers that a compiled step reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from keras_rmda.regularizers import ProximalRegularizer, Tensor


class Strengths:
    """A variable for the strength of each penalty, whatever the number of weights that share it.

    What is set at a penalty is assigned to its variable; that of a schedule has the value of the last step.

    Args:
        penalties: one penalty, or None, for each weight.
        dtypes: the dtypes that their updates are computed in. No strength is rounded to less.
        new_scalar: makes a variable of the optimizer's state, from name, initializer and dtype.
    """

    def __init__(
        self,
        penalties: Sequence[ProximalRegularizer | None],
        dtypes: Sequence[str],
        new_scalar: Callable[[str, Callable, str], keras.Variable],
    ):
        self._penalties, self._dtypes = penalties, dtypes
        own = [psi and psi._strength for psi in penalties]
        self._strengths = list({id(each): each for each in own if each is not None}.values())
        numbers = {id(each): number for number, each in enumerate(self._strengths)}
        self._number_of = [None if each is None else numbers[id(each)] for each in own]
        self._schedules = {
            k: x.value for k, x in enumerate(self._strengths) if isinstance(x.value, LearningRateSchedule)
        }
        self.variables: list[keras.Variable] = []
        for number, strength in enumerate(self._strengths):
            initializer = "zeros" if number in self._schedules else _constant(strength.value)
            variable = new_scalar("strength", initializer, "float64" if "float64" in dtypes else "float32")
            strength.follow(variable)
            self.variables.append(variable)

    def at(self, iterations: Tensor) -> list[Tensor]:
        """Return the strengths of the step after so many."""
        return [
            ops.relu(self._schedules[number](iterations)) if number in self._schedules else ops.convert_to_tensor(each)
            for number, each in enumerate(self.variables)
        ]

    def at_start(self, iterations: Tensor) -> list[Tensor | None]:
        """Return the same for a stage that begins after so many, with None for what is no schedule.

        Where an optimizer is built within a trace of TensorFlow, its variables do not have their values yet.
        """
        return self._only_scheduled(self.at(iterations))

    def scheduled(self, strengths: Sequence[Tensor]) -> list[tuple[keras.Variable, Tensor]]:
        """Return which variables are to have which of these strengths."""
        return [(self.variables[number], strengths[number]) for number in self._schedules]

    def tell_penalties(self) -> None:
        """Give the penalties the strengths that were loaded into the variables, so that they say what acts."""
        for number, (variable, strength) in enumerate(zip(self.variables, self._strengths)):
            value = ops.convert_to_numpy(variable)
            if number not in self._schedules and value != np.asarray(strength.value, value.dtype):
                strength.set(float(value))

    def last(self) -> list[Tensor | None]:
        """Return those of the last step, with None for what is no schedule: a penalty says its number itself."""
        return self._only_scheduled(self.variables)

    def penalty(self, index: int, strengths: Sequence[Tensor | None]) -> ProximalRegularizer | None:
        """Return the penalty of a weight at one of these strengths."""
        psi, number = self._penalties[index], self._number_of[index]
        if psi is None or strengths[number] is None:
            return psi
        return psi.at(ops.cast(strengths[number], self._dtypes[index]))

    def _only_scheduled(self, strengths: Sequence[Tensor]) -> list[Tensor | None]:
        return [each if number in self._schedules else None for number, each in enumerate(strengths)]


def _constant(value: float) -> Callable[[tuple, str], Any]:
    return lambda shape, dtype: ops.convert_to_tensor(value, dtype)
