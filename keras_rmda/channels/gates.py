"""Rules of layers that multiply channels by numbers which are known at inference, and that `strip` leaves out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_rmda.channels.rule import Demand, Rule, State
from keras_rmda.channels.sites import Call, channel_axis
from keras_rmda.channels.tensors import Atoms, NotCovered, along

GONE = "-"
"""The letter of axes of weights that no stripped model has."""


class Vanishes(Rule):
    """A layer whose outputs are constants, which only layers read that vanish too.

    Args:
        values: (layer, read) -> the outputs, vectors of the last axis.

    Example:
        >>> kr.register_rule(MyNumbers, kr.channels.Vanishes(lambda layer, read: [read(layer.numbers)]))
    """

    vanishes = True

    def __init__(self, values: Callable[[Any, Callable], list[np.ndarray]]):
        self.values = values

    def letters(self, layer: Any) -> Mapping[str, str]:
        return {weight.path: GONE * len(weight.shape) for weight in layer.weights}

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        call.site.own[GONE] = 0
        return [along(ties.fresh(shape[-1]), len(shape), len(shape) - 1) for shape in call.shapes]

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        return [along(v, len(s), len(s) - 1) for v, s in zip(self.values(call.layer, state.read), call.shapes)]

    def demands(self, call: Call, state: State) -> list[Demand]:
        return []


@dataclass(frozen=True)
class Multiplies(Rule):
    """Each channel of the first input times a number >= 0; `strip` gives the numbers to the layers next to it.

    Args:
        weights: the names of its weights, which all vanish.
        factors: (layer, read, constants of the other inputs) -> one number for each channel.

    Example:
        >>> kr.register_rule(MyGate, kr.channels.Multiplies(("gate",), lambda layer, read, others: read(layer.gate)))
    """

    weights: tuple[str, ...]
    factors: Callable[[Any, Callable, list[np.ndarray]], np.ndarray]
    vanishes = True

    def letters(self, layer: Any) -> Mapping[str, str]:
        return {name: GONE for name in self.weights}

    def factors_of(self, call: Call, state: State) -> np.ndarray:
        """Return the numbers of a call, one for each channel."""
        others = [state.constants(x).reshape(-1) for x in call.inputs[1:]]
        return np.asarray(self.factors(call.layer, state.read, others), "float64")

    def output_axis(self, call: Call) -> int:
        """Return the axis of the channels."""
        return channel_axis(call.layer, len(call.shapes[0]))

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        x, axis = call.inputs[0], self.output_axis(call)
        if x.shape != call.shapes[0]:  # Keras forgets shapes of sparse tensors
            raise NotCovered(f"an input of shape {x.shape} and an output of shape {call.shapes[0]}")
        channels = x.channels(axis, ties)
        if any(other.atoms.size != len(channels) for other in call.inputs[1:]):
            raise NotCovered("numbers from a layer that stays")
        atoms = call.register("c", channels, ties)
        call.site.own[GONE] = 0
        return [along(atoms, len(x.shape), axis), *(along(atoms, len(s), len(s) - 1) for s in call.shapes[1:])]

    def staying(self) -> Multiplies:
        """Return the rule of the same layer in a model that it is not left out of."""
        return Stays(self.weights, self.factors)

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        z, axis = self.factors_of(call, state), self.output_axis(call)
        values = state.constants(call.inputs[0], axis)
        y = along(np.where(z == 0, 0.0, values * z), len(call.shapes[0]), axis)
        return [y, *(along(z, len(shape), len(shape) - 1) for shape in call.shapes[1:])]

    def demands(self, call: Call, state: State) -> list[Demand]:
        x, axis = call.inputs[0], self.output_axis(call)
        wanted = state.needed(call.outputs[0], axis) & (self.factors_of(call, state) != 0)
        return [(x, x.spread(wanted, axis), f"read by {call.site.name}")]


@dataclass(frozen=True)
class Stays(Multiplies):
    """The same in a model that goes on training: it keeps its gates, fewer of them."""

    vanishes = False

    def letters(self, layer: Any) -> Mapping[str, str]:
        return dict.fromkeys(self.weights, "c")
