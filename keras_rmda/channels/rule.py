"""What a layer does to channels: the base of all rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from keras_rmda.channels.sites import Block, Call, Cut, Site, sizes, weight_named
from keras_rmda.channels.tensors import Atoms, Axes, NotCovered, Tensor
from keras_rmda.platform.compat import layers_of

Read = Callable[[Any], np.ndarray]
"""Returns the value of a variable."""

Demand = tuple[Tensor, np.ndarray, str]
"""A tensor, which of its atoms are needed, and what for."""


@dataclass
class State:
    """What is known of the channels of a model with its present weights.

    Attributes:
        read: returns the value of a variable.
        values: by number of a tensor, its constants, NaN where a channel is none; shaped like its atoms.
        needs: by number of a tensor, which of its channels an output of the model depends on.
        cut: what stays.
    """

    read: Read
    cut: Cut | None = None
    values: dict[int, np.ndarray] = field(default_factory=dict)
    needs: dict[int, np.ndarray] = field(default_factory=dict)

    def constants(self, tensor: Tensor, axis: Axes | None = None) -> np.ndarray:
        """Return a tensor's constants, or those along an axis, NaN where positions differ."""
        values = self.values[tensor.index]
        return values if axis is None else tensor.constants(values, axis)

    def needed(self, tensor: Tensor, axis: Axes | None = None) -> np.ndarray:
        """Return what is needed of a tensor, or whether anything is along an axis."""
        needs = self.needs[tensor.index]
        return needs if axis is None else tensor.any(needs, axis)


class Rule:
    """What a layer class does to channels. Subclasses say how atoms, constants and needs go through a call.

    Attributes:
        weights: for each weight one letter per axis: "i" reads the input channels, "o" writes the output channels, "c"
            goes along with the channels, "m" counts several outputs of one channel, "." is none of these; a rule may
            use others. Several letters for one axis stand for their product. Names are attributes of the layer or
            ends of variable paths. Regularizers find their groups by these letters.
        widths: for each configuration key that holds a number of channels, its letters.
        refusal: (layer) -> the reason why this rule does not cover this very layer, or None.
        sums: whether channels are added up without weights, so that those that stay must be what they were.
        vanishes: whether a stripped model does without the layer: its first input stands for its output.
        trains: whether training=True may change what the layer computes.
        noisy: whether it may make something else than zero of zeros then.

    Example:
        >>> class Counted(kr.channels.Carries):  # takes the rest from another rule
        ...     def macs(self, call, cut):
        ...         return int(cut.stays(call.site.own["c"]).sum())
        >>> kr.register_rule(MyScale, Counted({"scale": "c"}))
    """

    weights: Mapping[str, str | Sequence[str]]
    widths: Mapping[str, str]
    refusal: Callable[[Any], str | None] | None
    sums: bool = False
    vanishes: bool = False
    trains: bool = True
    noisy: bool = False

    def reads(self, name: str) -> str:
        """Return the letters of the channels that a weight of this name reads, if it has them."""
        return "ip"

    def writes(self, name: str) -> str:
        """Return the letters of the channels that a weight of this name writes or scales, if it has them."""
        return "oqc"

    def helps(self, name: str) -> str:
        """Return the letters of the channels that are read without weights where a weight of this name is zero.

        A zero may multiply what a sum reads. It counts where no weight reads a channel that could then go.
        """
        return ""

    def shares(self, name: str) -> bool:
        """Return whether another layer may have a weight of this name, too, and lose the same of it.

        Then nothing but its size changes: what is in `Site.shared` must be left as it is by `value`.
        """
        return False

    def letters(self, layer: Any) -> Mapping[str, str | Sequence[str]]:
        """Return `weights` for this very layer."""
        return getattr(self, "weights", {})

    def groups_by(self, layer: Any) -> Mapping[str, str]:
        """Return the letters by which regularizers find their groups: i, o, c, m and ".", one for each axis."""
        known = {"p": "i", "q": "m", "Gq": "o", "Gp": "c", "j": "i"}
        return {name: "".join(known.get(axis, axis) for axis in axes) for name, axes in self.letters(layer).items()}

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        """Return the atoms of each output; register those of the weights. `NotCovered` makes the layer opaque."""
        raise NotImplementedError

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        """Return the constants of each output for those of the inputs, NaN where a channel is none."""
        return [np.full([1] * len(shape), np.nan) for shape in call.shapes]

    def demands(self, call: Call, state: State) -> list[Demand]:
        """Return what the needed channels of the outputs depend on."""
        raise NotImplementedError

    def batch_axes(self, call: Call) -> list[int | None]:
        """Return where the batch axis of each output is; None where it has none."""
        if any(x.batch or not x.batched for x in call.inputs):
            raise NotCovered("a batch axis that is not the first")
        return [0] * len(call.full)

    def copies(self, call: Call) -> Fraction | int:
        """Return how many rows of the outputs' batch axis one of the inputs becomes."""
        return 1

    def rows(self, call: Call, ties: Atoms) -> list[Block]:
        """Return which rows of its tensors must stay together; tie atoms where its rows cannot differ.

        Asked when the `width` of every tensor is known, and again as long as any rule ties.
        """
        return []

    def blocks(self, site: Site) -> list[Block]:
        """Return what must stay in equal numbers."""
        return []

    def avoids(self, site: Site) -> set[int]:
        """Return the widths at which Keras would compute something else."""
        return set()

    def value(self, site: Site, name: str, value: np.ndarray, state: State) -> np.ndarray:
        """Return the value of a weight of the stripped layer, before anything is cut out of it, or rounded."""
        return value

    def config(self, site: Site, config: dict[str, Any], cut: Cut) -> dict[str, Any]:
        """Return the layer's configuration with the numbers of channels that stay."""
        wanted = {key: cut.count(site, letters) for key, letters in getattr(self, "widths", {}).items()}
        return config | {key: n for key, n in wanted.items() if config.get(key) is not None}

    def arguments(self, call: Call, cut: Cut, given: tuple[tuple, dict]) -> tuple[tuple, dict]:
        """Return the arguments of a call in the stripped model, where `given` are those with its tensors."""
        return given

    def macs(self, call: Call, cut: Cut) -> int:
        """Return the multiply-accumulates per sample of a call of what stays."""
        return 0

    def check(self, layer: Any) -> None:
        """Raise `NotCovered` where the rule does not cover a layer."""
        refusal = getattr(self, "refusal", None)
        reason = refusal(layer) if refusal else None
        if reason is None:
            known = {id(weight_named(layer, name)) for name in self.letters(layer)}
            strange = [weight.path for weight in getattr(layer, "weights", []) if id(weight) not in known]
            reason = _unnamed(layer, strange) if strange else None
        if reason is not None:
            raise NotCovered(reason)


def _unnamed(layer: Any, paths: list[str]) -> str:
    """Return why a layer of the table has more weights than its rule names, or others."""
    inside = layers_of(layer)
    if any(getattr(each, "lora_enabled", False) for each in inside):
        return (
            "weights of `enable_lora`, which are added to its kernel: `save_weights`, and `load_weights` of a model "
            "without them, makes them part of it"
        )
    modes = [mode for mode in (getattr(each, "quantization_mode", None) for each in inside) if mode is not None]
    if modes:
        return f"weights that `quantize({modes[0]!r})` has rounded: train and strip the model before"
    return f"weights that its rule does not name: {', '.join(paths)}"


class Opaque(Rule):
    """Not known: everything that touches it stays as it is."""

    def batch_axes(self, call: Call) -> list[int | None]:
        return [0 if shape else None for shape in call.full]

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        return [ties.fresh(*[1] * len(shape)) for shape in call.shapes]

    def demands(self, call: Call, state: State) -> list[Demand]:
        if not any(state.needed(y).any() for y in call.outputs):
            return []
        return [(x, np.ones(x.atoms.shape, bool), f"opaque: {call.site.name}") for x in call.inputs]

    def macs(self, call: Call, cut: Cut) -> int:
        """Return an estimate: every matrix or kernel meets every position of the largest output.

        Embeddings are looked up, or added, and count nothing.
        """
        first = getattr(call.layer, "data_format", None) == "channels_first"
        positions = max((sizes(shape[1:] if first else shape[:-1]) for shape in call.shapes), default=1)
        shapes = [tuple(v.shape) for _, v in call.site.weights() if len(v.shape) > 1 and "embedding" not in v.name]
        return positions * sum(math.prod(shape) for shape in shapes)

    def check(self, layer: Any) -> None:
        pass


OPAQUE = Opaque()
