"""Rules of layers that make no new channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_rmda.channels.rule import Demand, Rule, State
from keras_rmda.channels.sites import Call, Cut, Site, channel_axis
from keras_rmda.channels.tensors import Atoms, NotCovered, Tensor, along


@dataclass(frozen=True)
class Carries(Rule):
    """The same channels, each changed by itself.

    Args:
        weights, widths: see `Rule`; the letter of the channels is "c".
        constant: (layer, values, read) -> the outputs for constant inputs, NaN where an input is not constant; None
            where there are none.
        mixes_positions: whether an output position depends on several input positions.
        arrays: configuration keys that hold one number for each channel, or one for all.
        ignores: (layer, read) -> for each channel, whether its output does not depend on its input.
        subtracts: the weight that is subtracted from the channels first, so that it can take constants, or None.
        refusal: (layer) -> the reason why this rule does not cover this very layer, or None.
        noisy: whether the layer may make something else than zero of zeros in training.

    Example:
        >>> kr.register_rule(MyScale, kr.channels.Carries({"scale": "c"}))
    """

    weights: Mapping[str, str] = field(default_factory=dict)
    widths: Mapping[str, str] = field(default_factory=dict)
    constant: Callable | None = None
    mixes_positions: bool = False
    arrays: tuple[str, ...] = ()
    ignores: Callable | None = None
    subtracts: str | None = None
    refusal: Callable[[Any], str | None] | None = None
    noisy: bool = False

    def __post_init__(self) -> None:
        if not all(set(letters) <= set("c.") for letters in self.weights.values()):
            raise ValueError(f'The letters of `weights` are "c" and ".". Received: {self.weights!r}')

    def _by_channel(self, call: Call) -> bool:
        """Return whether the layer has a channel axis; else every number is changed in the same way."""
        return (
            any(self.letters(call.layer).values())
            or bool(self.arrays)
            or self.mixes_positions
            or len(call.full[0]) != len(call.inputs[0].full)
        )

    def batch_axes(self, call: Call) -> list[int | None]:
        if len(call.inputs) != 1 or self._by_channel(call):
            return super().batch_axes(call)
        [x] = call.inputs
        return [x.batch if x.batched else None] * len(call.full)

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        [x], shape = only_input(call), call.shapes[0]
        if not self._by_channel(call):
            return [x.atoms]
        atoms = x.channels(call.axis(x), ties)
        axis = channel_axis(call.layer, len(shape))
        if shape[axis] != len(atoms):
            raise NotCovered(f"{len(atoms)} channels that become {shape[axis]}")
        call.register("c", atoms, ties)
        return [along(atoms, len(shape), axis)]

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        if self.constant is None:
            return super().constants(call, state)
        x, [shape] = call.inputs[0], call.shapes
        if not self._by_channel(call):
            return [self.constant(call.layer, state.constants(x), state.read)]
        result = self.constant(call.layer, state.constants(x, call.axis(x)), state.read)
        return [along(result, len(shape), channel_axis(call.layer, len(shape)))]

    def demands(self, call: Call, state: State) -> list[Demand]:
        x, y = call.inputs[0], call.outputs[0]
        reason = f"read by {call.site.name}"
        by_channel = self._by_channel(call)
        wanted = state.needed(y, call.axis(y) if by_channel else None)
        if self.ignores is not None:
            wanted = wanted & ~self.ignores(call.layer, state.read)
        return [(x, x.spread(wanted, call.axis(x)) if by_channel else wanted, reason)]

    def value(self, site: Site, name: str, value: np.ndarray, state: State) -> np.ndarray:
        writer = site.calls[0].partner
        if writer is None or name != self.subtracts:
            return value
        return value - writer.site.rule.absorbed(writer, state)

    def config(self, site: Site, config: dict[str, Any], cut: Cut) -> dict[str, Any]:
        config = super().config(site, config, cut)
        for key in self.arrays:
            value = config.get(key)  # a dictionary, where the layer holds an array
            array = np.asarray(getattr(site.layer, key) if isinstance(value, dict) else value)
            if array.ndim > 0 and array.shape[-1] > 1:
                config = config | {key: np.take(array, np.flatnonzero(cut.stays(site.own["c"])), axis=-1).tolist()}
        return config


@dataclass(frozen=True)
class Drops(Carries):
    """Noise at training only."""

    def config(self, site: Site, config: dict[str, Any], cut: Cut) -> dict[str, Any]:
        shape = config.get("noise_shape")
        if shape is None:
            return super().config(site, config, cut)
        # A number there is 1 or that of the input, which None stands for, too.
        return super().config(site, config, cut) | {"noise_shape": [n if n in (1, -1) else None for n in shape]}


@dataclass(frozen=True)
class Mixes(Rule):
    """The same channels, each changed by all: normalization over channels, softmax.

    Args:
        weights: see `Rule`; the letter of the channels is "c".
        ignores_zeros: whether a channel that is constantly zero has no part in the others, and stays zero.
        groups: (layer, number of channels) -> the number of groups of neighbours that mix, which can go as a whole.
        widths: see `Rule`; "G" stands for the groups.
        refusal: (layer) -> the reason why this rule does not cover this very layer, or None.

    Example:
        >>> kr.register_rule(MyNormalization, kr.channels.Mixes({"scale": "c", "offset": "c"}))
    """

    weights: Mapping[str, str] = field(default_factory=dict)
    ignores_zeros: bool = False
    groups: Callable[[Any, int], int] | None = None
    widths: Mapping[str, str] = field(default_factory=dict)
    refusal: Callable[[Any], str | None] | None = None

    def letters(self, layer: Any) -> Mapping[str, str]:
        ranks = {name: len(getattr(getattr(layer, name, None), "shape", (1,))) for name in self.weights}
        return {name: "." * (rank - 1) + "c" for name, rank in ranks.items()}

    def _within(self, call: Call) -> tuple[int, ...] | None:
        """Return the axes of positions that a softmax is over, or of channels of each row; None where all mix.

        Rows, such as heads, go as a whole then, and what is in one stays together. Weights are those of all rows.
        """
        x, axes, own = call.inputs[0], getattr(call.layer, "axis", -1), call.site.own.get("c")
        axes = [axes] if isinstance(axes, int) else axes
        rank = len(x.full)
        if np.ndim(own) > 0 or self.groups is not None or not isinstance(axes, list | tuple):
            return None
        axes = [axis % rank for axis in axes if -rank <= axis < rank]
        if not x.batched or x.batch in axes:
            return None
        axes = tuple(axis - (axis > x.batch) for axis in axes)
        others = [n for axis, n in enumerate(x.atoms.shape) if axis not in axes]
        only_positions = not self.weights and all(x.atoms.shape[axis] == 1 for axis in axes)
        return axes if max(others, default=1) > 1 or only_positions or own is not None else None

    def batch_axes(self, call: Call) -> list[int | None]:
        if len(call.inputs) != 1 or self._within(call) is None:
            return super().batch_axes(call)
        return [call.inputs[0].batch]

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        [x] = only_input(call)
        axes = self._within(call)
        if axes is not None:
            for axis in axes:
                ties.tie(np.take(x.atoms, [0], axis), x.atoms)
            call.site.own["c"] = x.shape[axes[-1]] or 0
            return [x.atoms]
        several = getattr(call.layer, "axis", None)
        if isinstance(several, list | tuple) and len(several) > 1 and several[-1] not in (-1, len(x.shape)):
            raise NotCovered(f"axis={several}")
        atoms = call.register("c", x.channels(call.axis(x), ties), ties)
        if self.groups is not None:
            rows = atoms.reshape(self.groups(call.layer, len(atoms)), -1)
            ties.tie(rows[:, :1], rows)
            call.site.own["G"] = rows[:, 0]
        return [along(atoms, len(x.shape), call.axis(x))]

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        if self.groups is not None:
            return [self._shifts(call, state)]
        if not self.ignores_zeros or self._within(call) is not None:
            return super().constants(call, state)
        return [np.where(state.constants(call.inputs[0]) == 0, 0.0, np.nan)]

    def _shifts(self, call: Call, state: State) -> np.ndarray:
        """Return beta for groups of zeros."""
        x, layer = call.inputs[0], call.layer
        axis = call.axis(x)
        zero = (state.constants(x, axis) == 0).reshape(self.groups(layer, x.shape[axis]), -1)
        zero = np.repeat(zero.all(axis=1), zero.shape[1])
        beta = np.zeros(len(zero)) if layer.beta is None else state.read(layer.beta).astype("float64")
        return along(np.where(zero, beta, np.nan), len(x.shape), axis)

    def demands(self, call: Call, state: State) -> list[Demand]:
        x, y = call.inputs[0], call.outputs[0]
        axes = self._within(call)
        if axes is not None:
            wanted = state.needed(y).any(axis=axes, keepdims=True)
            return [(x, np.broadcast_to(wanted, x.atoms.shape), f"read by {call.site.name}")]
        axis = call.axis(x)
        rows = state.needed(y, axis).reshape(self.groups(call.layer, x.shape[axis]) if self.groups else 1, -1)
        wanted = np.broadcast_to(rows.any(axis=1, keepdims=True), rows.shape).reshape(-1)
        if self.ignores_zeros:
            wanted = wanted & (state.constants(x, axis) != 0)
        return [(x, x.spread(wanted, axis), f"mixed by {call.site.name}")]


def only_input(call: Call) -> list[Tensor]:
    """Return the tensors that a call gets, if it is one."""
    if len(call.inputs) != 1:
        raise NotCovered(f"{len(call.inputs)} inputs")
    return call.inputs
