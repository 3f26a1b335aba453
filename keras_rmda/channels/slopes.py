"""PReLU, whose slopes vary along any axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_rmda.channels.rule import Demand, Read, State
from keras_rmda.channels.simple import Carries, only_input
from keras_rmda.channels.sites import Call
from keras_rmda.channels.tensors import NotCovered, along, fitted


def parametric(layer: Any, values: np.ndarray, read: Read) -> np.ndarray:
    """PReLU: positive constants stay; others are multiplied by a slope, if that is the same at all positions."""
    slopes = fitted(read(layer.alpha).astype("float64"), values)
    return np.where((values >= 0) | np.isnan(values), values, values * slopes)


@dataclass(frozen=True)
class Slopes(Carries):
    """PReLU: slopes along any axes, whose letters are their numbers. One of them is that of the channels."""

    def letters(self, layer: Any) -> dict[str, str]:
        return {"alpha": "".join("." if n == 1 else str(axis) for axis, n in enumerate(layer.alpha.shape))}

    def groups_by(self, layer: Any) -> dict[str, str]:
        rank = len(layer.alpha.shape)
        return {"alpha": "." * rank if rank in (layer.shared_axes or ()) else "." * (rank - 1) + "c"}

    def writes(self, name: str) -> str:
        return "0123456789"

    def atoms(self, call: Call, ties: Any) -> list[np.ndarray]:
        [x], own = only_input(call), call.site.own
        varying = [axis for axis, n in enumerate(x.atoms.shape) if n > 1]
        channels = varying[-1] if varying else len(x.shape) - 1
        atoms = x.channels(channels, ties)
        for axis, n in enumerate(call.layer.alpha.shape):
            known = atoms if axis == channels else n
            if np.ndim(own.setdefault(str(axis), known)) != np.ndim(known):
                raise NotCovered("channels along another axis at another call")
            if axis == channels:
                call.register(str(axis), atoms, ties)
        return [along(atoms, len(x.shape), channels)] if varying else [x.atoms]

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        return [parametric(call.layer, fitted(state.constants(call.inputs[0]), call.outputs[0].atoms), state.read)]

    def demands(self, call: Call, state: State) -> list[Demand]:
        [x], [y] = call.inputs, call.outputs
        return [(x, np.broadcast_to(state.needed(y), x.atoms.shape), f"read by {call.site.name}")]
