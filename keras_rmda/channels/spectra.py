"""Fourier transforms along positions, by real and imaginary parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from keras_rmda.channels.rule import Demand, Rule, State
from keras_rmda.channels.sites import Call
from keras_rmda.channels.tensors import Atoms, NotCovered


@dataclass(frozen=True)
class Transforms(Rule):
    """A Fourier transform along the last axes: each channel by itself, and a part of a number with the other part.

    Args:
        axes: along how many.
    """

    axes: int = 1

    def batch_axes(self, call: Call) -> list[int | None]:
        first = call.inputs[0]
        if not all(x.batched and x.full == first.full and x.batch == first.batch for x in call.inputs):
            raise NotCovered("parts that are not of the same samples")
        if first.batch >= len(first.full) - self.axes:
            raise NotCovered("its axis, over the batch")
        return [first.batch] * len(call.shapes)

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        tied = np.broadcast_arrays(*(x.atoms for x in call.inputs))
        if max(tied[0].shape[-self.axes :]) > 1:
            raise NotCovered("its axis, over channels")
        for other in tied[1:]:
            ties.tie(tied[0], other)
        return [tied[0]] * len(call.shapes)

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        given = np.broadcast_arrays(*(state.constants(x) for x in call.inputs))
        return [np.where(np.all(np.array(given) == 0, axis=0), 0.0, np.nan)] * len(call.shapes)

    def demands(self, call: Call, state: State) -> list[Demand]:
        needed = np.any([state.needed(y) for y in call.outputs], axis=0)
        return [(x, x.unrepeated(needed), f"read by {call.site.name}") for x in call.inputs]
