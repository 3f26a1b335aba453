"""Images that get other borders or sizes: `ops.pad`, `Resizing`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_rmda.channels.constants import unchanged
from keras_rmda.channels.rule import Demand, Read, Rule, State
from keras_rmda.channels.simple import Carries
from keras_rmda.channels.sites import Call, Cut, Site
from keras_rmda.channels.tensors import Atoms, NotCovered, Tensor


def of_pad(operation: Any) -> Rule:
    """Return the rule of an `ops.pad`; the last axis is taken for that of the channels."""
    widths = operation.pad_width
    return Pads(mixes_positions=True, constant=unchanged) if tuple(widths[-1]) == (0, 0) else Widens()


def of_samples(operation: Any) -> str | None:
    """Functions of `ops.image` take the first of three axes for one of positions."""
    shape = operation._inbound_nodes[-1].input_tensors[0].shape
    return None if len(shape) == 4 else f"an input of shape {tuple(shape)}"


@dataclass(frozen=True)
class Pads(Carries):
    """`ops.pad`: a constant stays one behind a border of the same number, or of itself."""

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        [values] = super().constants(call, state)
        return [values if call.layer.mode != "constant" else np.where(values == number_of(call), values, np.nan)]


def number_of(call: Call) -> float:
    """Return the number at the border of an `ops.pad`."""
    found = [x for x in keras.tree.flatten(call.arguments) if not isinstance(x, Tensor) and x is not None]
    return float(found[0]) if found else 0.0


@dataclass(frozen=True)
class Widens(Rule):
    """`ops.pad` along the channels: some of one number before those that are there, and some behind them.

    Where the last axis is one of positions, as that of scores, there are no more channels.
    """

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        [x], widths = call.inputs, call.layer.pad_width
        changing = [k for k, n in enumerate(x.atoms.shape[:-1]) if n > 1 and tuple(widths[k + 1]) != (0, 0)]
        if call.layer.mode != "constant" or len(widths) < 2 or widths[0][0] or widths[0][1] or changing:
            raise NotCovered(f"pad_width={widths} and mode={call.layer.mode!r}")
        if x.atoms.shape[-1] == 1:
            return [x.atoms]
        return [self._joined(call, x.atoms, call.fresh("b", ties, sum(widths[-1])))]

    @staticmethod
    def _joined(call: Call, inner: np.ndarray, border: np.ndarray) -> np.ndarray:
        """Return an array like the atoms of the input between one of numbers at its border."""
        inner, before = (
            np.broadcast_to(inner, (*inner.shape[:-1], call.inputs[0].shape[-1])),
            call.layer.pad_width[-1][0],
        )
        parts = [np.broadcast_to(each, (*inner.shape[:-1], len(each))) for each in (border[:before], border[before:])]
        return np.concatenate([parts[0], inner, parts[1]], axis=-1)

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        values, number = state.constants(call.inputs[0]), number_of(call)
        if any(tuple(width) != (0, 0) for width in call.layer.pad_width[:-1]):
            values = np.where(values == number, values, np.nan)
        if "b" not in call.site.own:
            return [np.where(values == number, values, np.nan)]
        return [self._joined(call, values, np.full(sum(call.layer.pad_width[-1]), number))]

    def demands(self, call: Call, state: State) -> list[Demand]:
        [x], needed, before = call.inputs, state.needed(call.outputs[0]), call.layer.pad_width[-1][0]
        inner = needed[..., before : before + x.shape[-1]] if "b" in call.site.own else needed
        return [(x, x.unrepeated(inner), f"read by {call.site.name}")]

    def config(self, site: Site, config: dict[str, Any], cut: Cut) -> dict[str, Any]:
        if "b" not in site.own:
            return config
        before = site.layer.pad_width[-1][0]
        widths = [int(cut.stays(each).sum()) for each in np.split(site.own["b"], [before])]
        return config | {"pad_width": (*map(tuple, site.layer.pad_width[:-1]), tuple(widths))}


@dataclass(frozen=True)
class Resizes(Carries):
    """`Resizing`, which Keras calls with training=True wherever nobody says otherwise, and which does not mind."""

    trains = False


def resized(layer: Any, values: np.ndarray, read: Read) -> np.ndarray:
    """A constant image keeps its constant, except behind a border of another number."""
    return np.where(values == layer.fill_value, values, np.nan) if layer.pad_to_aspect_ratio else values
