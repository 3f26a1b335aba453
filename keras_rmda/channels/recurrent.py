"""SimpleRNN, LSTM, GRU, one way or both."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers as L

from keras_rmda.channels.constants import evaluate
from keras_rmda.channels.functions import is_elementwise
from keras_rmda.channels.rule import Demand, Read, Rule, State
from keras_rmda.channels.sites import Block, Call, Cut, Site, sizes
from keras_rmda.channels.tensors import Atoms, NotCovered, along

CONVOLUTIONAL = (L.ConvLSTM1D, L.ConvLSTM2D, L.ConvLSTM3D)

CELLS = {L.SimpleRNNCell: (1, 0), L.LSTMCell: (4, 2), L.GRUCell: (3, 2)}
"""The number of gates, and which of them makes the candidate: without it a state that begins at zero stays zero."""


def gates_of(layer: Any) -> tuple[int, int] | None:
    """Return the number of gates of a layer, and which of them makes the candidate; None for an unknown cell."""
    return (4, 2) if type(layer) in CONVOLUTIONAL else CELLS.get(type(layer.cell))


LETTERS = (("u", "g"), ("U", "h"))
"""Of each direction: its units, and its gates."""


KNOWN = (L.SimpleRNN, L.LSTM, L.GRU, L.RNN, *CONVOLUTIONAL)


def directions(layer: Any) -> list[Any]:
    """Return the layers that go forward and backward, or the layer alone."""
    return [layer.forward_layer, layer.backward_layer] if isinstance(layer, L.Bidirectional) else [layer]


@dataclass(frozen=True)
class Recurs(Rule):
    """New channels, the units, each made from the inputs and from all units one step before."""

    def letters(self, layer: Any) -> Mapping[str, str | Sequence[str]]:
        named = {}
        for each, (u, g) in zip(directions(layer), LETTERS):
            if type(each) not in KNOWN or gates_of(each) is None:  # a cell of a user's own has any weights
                continue
            cell = each.cell
            positions = ["."] * (len(cell.kernel.shape) - 2)
            named |= {cell.kernel.path: (*positions, "i", g), cell.recurrent_kernel.path: (*positions, u, g)}
            if cell.bias is not None:
                named[cell.bias.path] = (".", g)[2 - len(cell.bias.shape) :]
        return named

    def reads(self, name: str) -> str:
        return "iuU"

    def writes(self, name: str) -> str:
        return "gh"

    def check(self, layer: Any) -> None:
        for each in directions(layer):
            if type(each) not in KNOWN or gates_of(each) is None:
                inside = each.cell if type(each) in KNOWN else each
                raise NotCovered(f"a {type(inside).__name__} inside")
            if getattr(each, "data_format", None) == "channels_first":
                raise NotCovered("data_format='channels_first'")
            if each.stateful:
                raise NotCovered("stateful=True")
            if not all(is_elementwise(getattr(each, name, None)) for name in ("activation", "recurrent_activation")):
                raise NotCovered("an activation that mixes its units")
        super().check(layer)

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        x, *states = call.inputs
        layer = call.layer
        bound = inspect.signature(layer.call).bind(*call.arguments[0], **call.arguments[1]).arguments
        given = [y for y in keras.tree.flatten(bound.get("initial_state")) if y is not None]
        if len(given) != len(states) or any(y is not state for y, state in zip(given, states)):
            raise NotCovered("an initial state that is a constant, or a mask given by position")
        if len(states) % len(directions(layer)):
            raise NotCovered(f"{len(states)} states")
        call.register("i", x.channels(len(x.shape) - 1, ties), ties)
        units = []
        for each, (u, g) in zip(directions(layer), LETTERS):
            units.append(call.fresh(u, ties, units_of(each)))
            call.site.own[g] = np.tile(units[-1], gates_of(each)[0])
        per_direction = len(states) // len(units)
        for k, state in enumerate(states):
            ties.tie(units[k // per_direction], state.channels(len(state.shape) - 1, ties))
        mode = getattr(layer, "merge_mode", "concat")
        if mode is None:
            outputs = list(units)
        elif mode == "concat":
            outputs = [np.concatenate(units)]
        else:
            ties.tie(units[0], units[-1])
            outputs = [units[0]]
        per_direction = (len(call.shapes) - len(outputs)) // len(units)
        outputs += [each for each in units for _ in range(per_direction)]
        return [along(each, len(shape), len(shape) - 1) for each, shape in zip(outputs, call.shapes, strict=True)]

    def _zeros(self, call: Call, state: State) -> list[np.ndarray]:
        """Return for each direction which units are zero at all times.

        The largest set that nothing from outside reaches: no input or initial state that is not zero, no bias, and no
        unit that is not in the set.
        """
        x, *states = call.inputs
        read = state.constants(x, len(x.shape) - 1) != 0
        layers, result = directions(call.layer), []
        for number, each in enumerate(layers):
            gates, candidate = gates_of(each)
            kernel, recurrent, bias = (_by_gate(each, name, gates, state.read) for name in WEIGHTS)
            zero = ~(kernel[read, candidate] != 0).any(axis=0) & ~(bias[..., candidate, :] != 0).any(axis=0)
            if evaluate(each, each.cell.activation, np.zeros(1))[0] != 0:
                zero = np.zeros_like(zero)
            for s in states[number * len(states) // len(layers) :][: len(states) // len(layers)]:
                zero &= state.constants(s, len(s.shape) - 1) == 0
            while True:
                reached = (recurrent[~zero, candidate] != 0).any(axis=0)
                if not (zero & reached).any():
                    break
                zero &= ~reached
            result.append(zero)
        return result

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        zeros = [np.where(zero, 0.0, np.nan) for zero in self._zeros(call, state)]
        mode = getattr(call.layer, "merge_mode", "concat")
        merged = np.concatenate(zeros) if mode == "concat" else zeros[0] + zeros[-1]
        if mode == "mul":
            merged = np.where((zeros[0] == 0) | (zeros[-1] == 0), 0.0, np.nan)
        outputs = list(zeros) if mode is None else [merged]
        per_direction = (len(call.shapes) - len(outputs)) // len(zeros)
        outputs += [each for each in zeros for _ in range(per_direction)]
        return [along(each, len(shape), len(shape) - 1) for each, shape in zip(outputs, call.shapes)]

    def _needed(self, call: Call, state: State) -> list[np.ndarray]:
        """Return for each direction which units the needed outputs depend on."""
        layers = directions(call.layer)
        needed = [state.needed(y, len(y.shape) - 1) for y in call.outputs]
        mode = getattr(call.layer, "merge_mode", "concat")
        if len(layers) == 1:
            return [np.any(needed, axis=0)]
        units = units_of(layers[0])
        if mode is None:
            first, rest = needed[:2], needed[2:]
        elif mode == "concat":
            first, rest = [needed[0][:units], needed[0][units:]], needed[1:]
        else:
            first, rest = [needed[0], needed[0]], needed[1:]
        half = len(rest) // 2
        return [np.any([first[0], *rest[:half]], axis=0), np.any([first[1], *rest[half:]], axis=0)]

    def demands(self, call: Call, state: State) -> list[Demand]:
        x, *states = call.inputs
        name, layers = call.site.name, directions(call.layer)
        wanted, closed = np.zeros(x.shape[-1], bool), []
        for each, needed, zero in zip(layers, self._needed(call, state), self._zeros(call, state)):
            gates, _ = gates_of(each)
            kernel, recurrent, _ = (_by_gate(each, name, gates, state.read) for name in WEIGHTS)
            while True:
                read = (recurrent[:, :, needed] != 0).any(axis=(1, 2)) & ~zero & ~needed
                if not read.any():
                    break
                needed = needed | read
            closed.append(needed)
            wanted |= (kernel[:, :, needed] != 0).any(axis=(1, 2))
        wanted &= state.constants(x, len(x.shape) - 1) != 0
        demands = [(x, x.spread(wanted, len(x.shape) - 1), f"read by {name}")]
        for k, s in enumerate(states):
            demands.append((s, s.spread(closed[k * len(layers) // len(states)], len(s.shape) - 1), f"read by {name}"))
        mode = getattr(call.layer, "merge_mode", "concat")
        tensors = call.outputs if mode is None else call.outputs[:1] * len(layers)
        for k, (y, needed) in enumerate(zip(tensors, closed)):
            if mode == "concat" and len(layers) == 2:
                other = np.zeros_like(closed[1 - k])
                needed = np.concatenate([needed, other] if k == 0 else [other, needed])
            demands.append((y, y.spread(needed, len(y.shape) - 1), f"read by {name}"))
        return demands

    def value(self, site: Site, name: str, value: np.ndarray, state: State) -> np.ndarray:
        axes = site.axes.get(name)
        letter = next((each for each in axes or () if each != "."), None)
        if letter == "i":
            used = [state.needed(call.inputs[0], len(call.inputs[0].shape) - 1) for call in site.calls]
            return site.only(axes, value, "i", np.any(used, axis=0))
        if letter not in ("u", "U"):
            return value
        direction = [u for u, _ in LETTERS].index(letter)
        used = [self._needed(call, state)[direction] for call in site.calls]
        return site.only(axes, value, letter, np.any(used, axis=0))

    def blocks(self, site: Site) -> list[Block]:
        # Keras takes the outputs of both directions to be of one size.
        both = [site.own[u][None] for u, _ in LETTERS if u in site.own]
        return [Block(both, same=True)]

    def config(self, site: Site, config: dict[str, Any], cut: Cut) -> dict[str, Any]:
        if not isinstance(site.layer, L.Bidirectional):
            return with_units(site.layer, config, cut.count(site, "u"))
        config = dict(config)
        for key, (u, _) in zip(("layer", "backward_layer"), LETTERS):
            inner = config[key]
            layer = directions(site.layer)[key == "backward_layer"]
            changed = with_units(layer, inner["config"], cut.count(site, u))
            config[key] = inner | {"config": changed, "build_config": None}
        return config

    def macs(self, call: Call, cut: Cut) -> int:
        steps = call.inputs[0].shape[0] or 1
        if type(call.layer) in CONVOLUTIONAL:  # every position of the output
            steps *= sizes(call.shapes[0][1 if call.layer.return_sequences else 0 : -1])
        weights = [(name, cut.shape(call.site, name, tuple(v.shape))) for name, v in call.site.weights()]
        return steps * sum(int(np.prod(shape)) for name, shape in weights if name.endswith("kernel"))


WEIGHTS = ("kernel", "recurrent_kernel", "bias")


def units_of(layer: Any) -> int:
    """Return the number of units of a recurrent layer."""
    return layer.filters if type(layer) in CONVOLUTIONAL else layer.cell.units


def with_units(layer: Any, config: dict[str, Any], units: int) -> dict[str, Any]:
    """Return the configuration of a recurrent layer for another number of units."""
    if type(layer) in CONVOLUTIONAL:
        return config | {"filters": units}
    if type(layer) is not L.RNN:
        return config | {"units": units}
    cell = config["cell"]
    return config | {"cell": cell | {"config": cell["config"] | {"units": units}, "build_config": None}}


def _by_gate(layer: Any, name: str, gates: int, read: Read) -> np.ndarray:
    """Return a weight of a cell with its last axis split into (gates, units), of a kernel the sum of sizes."""
    variable, units = getattr(layer.cell, name), units_of(layer)
    value = np.zeros((1, gates * units)) if variable is None else read(variable)
    if value.ndim > 2:
        value = np.abs(value).sum(axis=tuple(range(value.ndim - 2)))
    return value.reshape(*(value.shape[:-1] if value.ndim > 1 else (1,)), gates, units)
