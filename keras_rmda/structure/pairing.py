"""A model in training and a smaller one that goes on in its place: what one has come to, in the other."""

from __future__ import annotations

from dataclasses import dataclass

import keras

from keras_rmda.structure.kept import Kept
from keras_rmda.structure.states import cut_state, lift_state, pairs


@dataclass(frozen=True)
class Shrunk:
    """A model and the smaller one that was made of it, both compiled, with optimizers of one kind.

    Attributes:
        model, small: both.
        kept: which weights of the model the smaller one has.
        steps_count_what_is_gone, losses_count_what_is_gone: whether steps of the model differ by weights that act on
            nothing and are not zero: in norms of groups and weights, or by penalties in the loss.
    """

    model: keras.Model
    small: keras.Model
    kept: Kept
    steps_count_what_is_gone: bool = False
    losses_count_what_is_gone: bool = False

    def lift(self) -> None:
        """Write weights and state of the smaller model into the model; what it does not have is zero there."""
        for variable in self._held():
            variable.assign(self.kept.filled(variable, self.kept.small[id(variable)], 0))
        for old, new in pairs(self.model.optimizer, self.small.optimizer):
            lift_state(old, new, self.kept, new)

    def drop(self) -> None:
        """Write what the smaller model has of the weights and the state of the model into it."""
        for variable in self._held():
            self.kept.small[id(variable)].assign(self.kept.cut(variable, variable))
        for old, new in pairs(self.model.optimizer, self.small.optimizer):
            cut_state(old, new, self.kept)

    def and_then(self, other: Shrunk) -> Shrunk:
        """Return the model with the one that `other` has made of the smaller one."""
        kept = Kept()
        for variable in self._held():
            middle = self.kept.small[id(variable)]
            if id(middle) in other.kept.small:
                kept.small[id(variable)] = other.kept.small[id(middle)]
                kept.places[id(variable)] = other.kept.cut(middle, self.kept.places[id(variable)])
        return Shrunk(self.model, other.small, kept)

    def _held(self) -> list[keras.Variable]:
        return [variable for variable in self.model.weights if id(variable) in self.kept.small]
