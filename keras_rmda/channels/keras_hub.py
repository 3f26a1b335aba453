"""Rules of the layers of keras-hub that have weights or code of their own, by the names of their classes.

keras-hub is not imported: `table.row_of` looks here when it meets one of its layers. What is not here, consists of
other layers, and is traced.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_rmda.channels.attention import Attends
from keras_rmda.channels.linear import Reverses
from keras_rmda.channels.rule import Demand, Read, Rule, State
from keras_rmda.channels.simple import Carries, Mixes, only_input
from keras_rmda.channels.sites import Call, Cut, sizes
from keras_rmda.channels.tensors import Atoms, NotCovered, Tensor


@dataclass(frozen=True)
class MixesSlices(Mixes):
    """Mixes each slice along the last axis: of one head only, where the channels change from head to head.

    A slice stays or goes as a whole; "c", the positions within all of them, stay as long as one does. Several inputs,
    queries and keys, become as many outputs.

    Args:
        places: whether more inputs are where the others stand in a sequence, which no channel is cut of.
    """

    places: bool = False

    def _mixed(self, call: Call) -> list[Tensor]:
        """Return the inputs that become outputs."""
        return call.inputs[: len(call.full)] if self.places else call.inputs

    def batch_axes(self, call: Call) -> list[int | None]:
        if any(x.batch or not x.batched for x in self._mixed(call)):
            raise NotCovered("a batch axis that is not the first")
        return [0] * len(call.full)

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        inputs = self._mixed(call)
        if [x.shape for x in inputs] != call.shapes:
            raise NotCovered(f"inputs of shapes {[x.shape for x in inputs]} that become {call.shapes}")
        if getattr(call.layer, "feature_axis", -1) not in (-1, len(call.shapes[0])):  # with the batch axis
            raise NotCovered(f"feature_axis={call.layer.feature_axis}")
        for x in inputs:
            ties.tie(np.take(x.atoms, [0], call.axis(x)), x.atoms)
        x, made = inputs[0], [x.atoms for x in inputs]
        axis = call.axis(x)
        if x.atoms.shape[axis] == x.atoms.size:
            call.register("c", x.channels(axis, ties), ties)
            return made
        return [*made, call.fresh("c", ties, x.shape[axis])]

    def demands(self, call: Call, state: State) -> list[Demand]:
        demands, reason, inputs = [], f"mixed by {call.site.name}", self._mixed(call)
        for x, y in zip(inputs, call.outputs):
            wanted = state.needed(y).any(axis=call.axis(x), keepdims=True)
            demands.append((x, np.broadcast_to(wanted, x.atoms.shape), reason))
        is_needed = any(mask.any() for _, mask, _ in demands)
        for each in [*call.inputs[len(inputs) :], *call.outputs[len(inputs) :]]:
            demands.append((each, np.full(each.atoms.shape, is_needed), reason))
        return demands


@dataclass(frozen=True)
class FeedsForward(Rule):
    """A block that mixes all it gets, as a Fourier transform does, and has units "o" inside.

    Args:
        weights: see `Rule`; those that read the units have "o", too.
        widths: see `Rule`.
        reader: the kernel that reads the units.
    """

    weights: Mapping[str, str]
    widths: Mapping[str, str]
    reader: str

    def reads(self, name: str) -> str:
        return "o" if name == self.reader else ""

    def writes(self, name: str) -> str:
        return "" if name == self.reader else "o"

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        [shape], [x] = call.shapes, only_input(call)
        x.channels(len(x.shape) - 1, ties)
        return [ties.fresh(*[1] * len(shape)), call.fresh("o", ties, call.site.weight(self.reader).shape[0])]

    def demands(self, call: Call, state: State) -> list[Demand]:
        [x], [y, units] = call.inputs, call.outputs
        if not state.needed(y).any():
            return []
        read = (state.read(call.site.weight(self.reader)) != 0).any(axis=1)
        reason = f"mixed by {call.site.name}"
        return [(x, np.ones(x.atoms.shape, bool), reason), (units, read, f"read by {call.site.name}")]

    def macs(self, call: Call, cut: Cut) -> int:
        shapes = [cut.shape(call.site, name, tuple(v.shape)) for name, v in call.site.weights()]
        return sizes(call.shapes[0][:-1]) * sum(math.prod(shape) for shape in shapes if len(shape) > 1)


def of_norm(scale: str) -> MixesSlices:
    """Return the rule of a normalization over channels with a scale of this name."""
    return MixesSlices({scale: "c"})


def of_scale(scale: str, width: str) -> Carries:
    """Return the rule of a layer that multiplies each channel by a weight of this name."""

    def factors(layer: Any, read: Read) -> np.ndarray:
        return read(getattr(layer, scale)).astype("float64")

    return Carries(
        {scale: "c"},
        {width: "c"},
        constant=lambda layer, x, read: np.where(factors(layer, read) == 0, 0.0, x * factors(layer, read)),
        ignores=lambda layer, read: factors(layer, read) == 0,
    )


def positions(layer: Any, values: np.ndarray, read: Read) -> np.ndarray:
    """A column of the table of positions that says the same everywhere is a constant."""
    table = read(layer.position_embeddings).astype("float64")
    return np.where((table == table[0]).all(axis=0), table[0], np.nan)


def every_channel(layer: Any, read: Read) -> np.ndarray:
    """No position embedding depends on the numbers of its input."""
    return np.ones(layer.position_embeddings.shape[-1], bool)


def unchanged(layer: Any, values: np.ndarray, read: Read) -> np.ndarray:
    """At inference nothing happens."""
    return values


SCALES = (
    "RMSNormalization EdRecRMSNormalization Gemma3nRMSNorm Gemma4FrozenNorm GptOssLayerNormalization LlamaLayerNorm "
    "MistralLayerNormalization MixtralLayerNormalization Phi3LayerNorm QwenLayerNorm Qwen3LayerNorm Qwen3MoeLayerNorm "
    "Qwen3_5LayerNorm Qwen3_5RMSNormGated QwenMoeLayerNorm RoformerNorm"
)
"""Normalizations with a weight called `scale`."""

ROTATIONS = (
    "RotaryEmbedding LlamaRotaryEmbedding ESMRotaryEmbedding Phi3SuScaledRotaryEmbedding RoformrPositionalEmbedding "
    "SinePositionEncoding"
)
"""What turns channels in pairs, or adds waves to them, by where they stand among the others."""

F_NET = {
    "intermediate_dense/kernel": ".o",
    "intermediate_dense/bias": "o",
    "output_dense/kernel": "o.",
    "output_dense/bias": ".",
    **{f"{norm}/{name}": "." for norm in ("mixing_layer_norm", "output_layer_norm") for name in ("gamma", "beta")},
}
"""Letters of the weights of `FNetEncoder`."""

ROWS: dict[str, Rule] = {
    **dict.fromkeys(SCALES.split(), of_norm("scale")),
    **dict.fromkeys(ROTATIONS.split(), MixesSlices(places=True)),
    "T5LayerNorm": of_norm("weight"),
    "RmsNorm2d": of_norm("gamma"),
    "Gemma4VNorm": MixesSlices(),
    "DINOV2LayerScale": of_scale("lambda1", "hidden_dim"),
    "DINOV3LayerScale": of_scale("lambda1", "hidden_dim"),
    "LayerScale2d": of_scale("gamma", "dim"),
    **dict.fromkeys(("DropPath", "DINOV2DropPath", "DINOV3DropPath"), Carries(constant=unchanged)),
    "PositionEmbedding": Carries({"position_embeddings": ".c"}, constant=positions, ignores=every_channel),
    "ReversibleEmbedding": Reverses(),
    "FNetEncoder": FeedsForward(F_NET, {"intermediate_dim": "o"}, "output_dense/kernel"),
    "CachedMultiHeadAttention": Attends(),
    "WhisperCachedMultiHeadAttention": Attends(),
}
"""Rows of the layer table."""


def row_of(layer_class: type) -> Rule | None:
    """Return the row for a class, or None if it is not one of keras-hub, or none of these."""
    return ROWS.get(layer_class.__name__) if layer_class.__module__.startswith("keras_hub.") else None
