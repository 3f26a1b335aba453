"""Rules of the small layers that stand for weights of a user's layer (`tracing/leaves.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_rmda.channels.rule import Demand, Rule, State
from keras_rmda.channels.sites import Call, Cut, Site
from keras_rmda.channels.tensors import Atoms, along


def channel_axis_of(shape: tuple[int, ...]) -> int | None:
    """Return the axis of a weight that is taken for that of channels: the last of more than one number."""
    return next((axis for axis in reversed(range(len(shape))) if shape[axis] > 1), None)


@dataclass(frozen=True)
class Holds(Rule):
    """A weight as a tensor: constants along its channels, if it does not vary along other axes."""

    def letters(self, layer: Any) -> Mapping[str, str]:
        axis = channel_axis_of(layer.shape)
        return {"value": "".join("c" if k == axis else "." for k in range(len(layer.shape)))}

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        shape, axis = call.layer.shape, channel_axis_of(call.layer.shape)
        if axis is None:
            return [ties.fresh(*[1] * len(shape))]
        return [along(call.fresh("c", ties, shape[axis]), len(shape), axis)]

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        return [state.read(call.layer.value).astype("float64")]  # NaN where positions differ

    def demands(self, call: Call, state: State) -> list[Demand]:
        return []

    def config(self, site: Site, config: dict[str, Any], cut: Cut) -> dict[str, Any]:
        return config | {"shape": list(cut.shape(site, "value", tuple(site.layer.shape)))}


@dataclass(frozen=True)
class ForEach(Rule):
    """A tensor repeated for the samples of another, whose numbers do not matter."""

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        return [call.inputs[0].atoms]

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        return [state.constants(call.inputs[0])]

    def demands(self, call: Call, state: State) -> list[Demand]:
        return [(call.inputs[0], state.needed(call.outputs[0]), f"read by {call.site.name}")]


@dataclass(frozen=True)
class Counts(Rule):
    """Numbers along an axis of a tensor whose own numbers do not matter."""

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        return [ties.fresh(*[1] * len(shape)) for shape in call.shapes]

    def demands(self, call: Call, state: State) -> list[Demand]:
        return []
