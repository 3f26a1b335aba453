"""Images that get other borders or sizes: `ops.pad`, `Resizing`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_rmda.channels.rule import Read, State
from keras_rmda.channels.simple import Carries
from keras_rmda.channels.sites import Call
from keras_rmda.channels.tensors import Tensor


def spatial_padding(operation: Any) -> str | None:
    """`ops.pad` must not make channels; the last axis is taken for theirs."""
    return None if tuple(operation.pad_width[-1]) == (0, 0) else f"pad_width={operation.pad_width}"


def of_samples(operation: Any) -> str | None:
    """`ops.image.resize` takes the first of three axes for one of positions."""
    shape = operation._inbound_nodes[-1].input_tensors[0].shape
    return None if len(shape) == 4 else f"an input of shape {tuple(shape)}"


@dataclass(frozen=True)
class Pads(Carries):
    """`ops.pad`: a constant stays one behind a border of the same number, or of itself."""

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        [values] = super().constants(call, state)
        if call.layer.mode != "constant":
            return [values]
        border = [x for x in keras.tree.flatten(call.arguments) if not isinstance(x, Tensor) and x is not None]
        return [np.where(values == (border[0] if border else 0.0), values, np.nan)]


@dataclass(frozen=True)
class Resizes(Carries):
    """`Resizing`, which Keras calls with training=True wherever nobody says otherwise, and which does not mind."""

    trains = False


def resized(layer: Any, values: np.ndarray, read: Read) -> np.ndarray:
    """A constant image keeps its constant, except behind a border of another number."""
    return np.where(values == layer.fill_value, values, np.nan) if layer.pad_to_aspect_ratio else values
