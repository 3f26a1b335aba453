"""Rules of layers that make new channels as linear functions of the old ones: dense, convolutions, embeddings."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_rmda.channels.constants import evaluate
from keras_rmda.channels.functions import is_elementwise, is_of_any_width
from keras_rmda.channels.rule import Demand, Read, Rule, State
from keras_rmda.channels.sites import Block, Call, Cut, Site, channel_axis, sizes
from keras_rmda.channels.tensors import Atoms, Axes, NotCovered, along, as_axes
from keras_rmda.platform import arithmetic


@dataclass(frozen=True)
class Linear:
    """The effect of input channels on output channels.

    Attributes:
        kernel: of shape (groups, inputs of a group, positions, outputs of a group).
        reads: of shape (groups, inputs of a group, outputs of a group), whether there is an effect.

    Example:
        >>> kernel = np.eye(4, 6).reshape(1, 4, 1, 6)  # output k reads input k, of 4
        >>> effect = kr.channels.Linear(kernel, reads=(kernel != 0).any(axis=2))
        >>> effect.read(np.arange(6) < 2).tolist()  # which inputs the first two outputs read
        [True, True, False, False]
    """

    kernel: np.ndarray
    reads: np.ndarray

    def written(self, uniform: np.ndarray) -> np.ndarray:
        """Return which outputs read only the inputs that are `uniform`."""
        rows = self.reads & ~uniform.reshape(self.reads.shape[:2])[..., None]
        return ~rows.any(axis=1).reshape(-1)

    def read(self, needed: np.ndarray) -> np.ndarray:
        """Return which inputs the needed outputs read."""
        groups, _, n = self.reads.shape
        return (self.reads & needed.reshape(groups, 1, n)).any(axis=2).reshape(-1)

    def effect(self, constants: np.ndarray) -> np.ndarray:
        """Return what constant inputs add to each output, summed over positions; zeros cost nothing."""
        groups, _, _, n = self.kernel.shape
        constants = constants.reshape(self.kernel.shape[:2])
        used = np.flatnonzero((constants != 0).any(axis=0))
        sums = self.kernel[:, used].astype("float64").sum(axis=2)
        return np.einsum("gi,gio->go", constants[:, used], sums).reshape(groups * n)


def linear_kernel(layer: Any, read: Read, letters: str) -> Linear:
    """Return the effect of a kernel with the axes of these letters, in one group."""
    kernel = read(layer.kernel)
    rest = [k for k, letter in enumerate(letters) if letter not in "io"]
    kernel = np.transpose(kernel, [letters.index("i"), *rest, letters.index("o")])
    kernel = kernel.reshape(1, kernel.shape[0], -1, kernel.shape[-1])
    return Linear(kernel, (kernel != 0).any(axis=2))


def misplaced(call: Call) -> set[int]:
    """Return at how many channels Keras adds a bias along the last axis of what has its channels first."""
    axis, rank = channel_axis(call.layer, len(call.shapes[0])), len(call.shapes[0])
    if axis == rank - 1 or getattr(call.layer, "bias", None) is None or not arithmetic.misplaces_biases():
        return set()
    return {call.shapes[0][-1]} - {None, 1}


@dataclass(frozen=True)
class Writes(Rule):
    """New channels, each a linear function of the input channels, then an activation.

    Args:
        weights: see `Rule`. The `kernel` has one "i" and one "o"; a `bias` has "o".
        widths: the configuration key that holds the number of output channels, with "o".
        linear: (layer, read) -> `Linear`, for layers whose effect is not that of their kernel alone.
        has_borders: (layer) -> whether the sum over a kernel is not the same everywhere, so that only zeros are
            constants without borders; None for never.
        refusal: (layer) -> the reason why this rule does not cover this very layer, or None.

    Example:
        >>> kr.register_rule(MyDense, kr.channels.Writes({"kernel": "io"}, {"units": "o"}))
    """

    weights: Mapping[str, str | Sequence[str]]
    widths: Mapping[str, str] = field(default_factory=dict)
    linear: Callable[[Any, Read], Linear] | None = None
    has_borders: Callable[[Any], bool] | None = None
    refusal: Callable[[Any], str | None] | None = None

    def __post_init__(self) -> None:
        letters = self.weights.get("kernel", "")
        if self.linear is None and (letters.count("i"), letters.count("o")) != (1, 1):
            raise ValueError(f'`Writes` needs a kernel with one "i" and one "o". Received: {self.weights!r}')

    def shares(self, name: str) -> bool:
        return name == "kernel"

    def effect(self, site: Site, read: Read) -> Linear:
        """Return the effect of a layer's inputs on its outputs."""
        if self.linear is not None:
            return self.linear(site.layer, read)
        return linear_kernel(site.layer, read, site.axes["kernel"])

    def input_axis(self, call: Call) -> Axes:
        """Return the axis of the channels that are read, or several."""
        return call.axis(call.inputs[0])

    def output_axis(self, call: Call) -> Axes:
        """Return the axis of the channels that are written, or several."""
        return channel_axis(call.layer, len(call.shapes[0]))

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        [shape], axis = call.shapes, self.output_axis(call)
        read = call.inputs[0].channels(self.input_axis(call), ties)
        if shape[axis] is None:
            raise NotCovered("its output has an open channel axis")
        call.register("i", read, ties)
        return [along(call.fresh("o", ties, shape[axis]), len(shape), axis)]

    def avoids(self, site: Site) -> set[int]:
        return set().union(*map(misplaced, site.calls))

    def _is_as_wide_as_misplaced(self, call: Call) -> bool:
        return any(call.shapes[0][axis] in misplaced(call) for axis in as_axes(self.output_axis(call)))

    def _is_displaced(self, call: Call, state: State) -> bool:
        """Return whether Keras adds the bias that there is along another axis than that of the channels."""
        return self._is_as_wide_as_misplaced(call) and bool(np.any(state.read(call.layer.bias)))

    def _uniform(self, call: Call, state: State) -> tuple[np.ndarray, np.ndarray]:
        """Return the constants of the input, and which of them have the same effect everywhere."""
        constants = state.constants(call.inputs[0], self.input_axis(call))
        # At the border of same padding a nonzero constant meets zeros, and its effect is no single number.
        bordered = self.has_borders is not None and self.has_borders(call.layer)
        return constants, constants == 0 if bordered else ~np.isnan(constants)

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        [shape] = call.shapes
        constants, uniform = self._uniform(call, state)
        linear = self.effect(call.site, state.read)
        result = linear.effect(np.where(uniform, constants, 0.0))
        if getattr(call.layer, "bias", None) is not None:
            result = result + state.read(call.layer.bias).astype("float64").reshape(-1)
        result = np.where(linear.written(uniform) & (not self._is_displaced(call, state)), result, np.nan)
        activation = getattr(call.layer, "activation", None)
        if activation is not None:
            mixed = not is_elementwise(activation)
            result = np.full_like(result, np.nan) if mixed else evaluate(call.layer, activation, result)
        axes = as_axes(self.output_axis(call))
        return [along(result.reshape([shape[axis] for axis in axes]), len(shape), axes)]

    def demands(self, call: Call, state: State) -> list[Demand]:
        x, y, name = call.inputs[0], call.outputs[0], call.site.name
        wanted, activation = state.needed(y, self.output_axis(call)), getattr(call.layer, "activation", None)
        mixed = not is_elementwise(activation)
        if not wanted.any() and (not mixed or is_of_any_width(activation)):
            return []
        demands = []
        if mixed or self._is_displaced(call, state):
            wanted = np.ones_like(wanted)
        if mixed:
            demands.append((y, np.ones(y.atoms.shape, bool), f"mixed by the activation of {name}"))
        if self._is_displaced(call, state):
            demands.append((y, np.ones(y.atoms.shape, bool), f"bias of {name} that Keras adds along another axis"))
        constants, uniform = self._uniform(call, state)
        read, axis = self.effect(call.site, state.read).read(wanted), self.input_axis(call)
        wanted = read & (constants != 0)
        constant = wanted & ~np.isnan(constants)
        reasons = {f"read by {name}": wanted & ~constant, f"border of same padding in {name}": constant & ~uniform}
        if not self.absorbs(call):
            why = "has no bias for" if call.alone else "does not take, since it is called several times"
            reasons[f"constant that {name} {why}"] = constant & uniform
        if call.site.shared:  # what stays is read still, and must be what it was
            reasons[f"read by {name}, whose weights stay what they are"] = read & self._staying(call, state)
        return demands + [(x, x.spread(mask, axis), reason) for reason, mask in reasons.items()]

    def _staying(self, call: Call, state: State) -> np.ndarray:
        """Return which channels of the input stay."""
        x = call.inputs[0]
        return x.any(np.broadcast_to(state.cut.stays(x.atoms), x.atoms.shape), self.input_axis(call))

    def absorbs(self, call: Call) -> bool:
        """Return whether constants can go into the bias, or the mean of a batch normalization behind it."""
        takes = getattr(call.layer, "bias", None) is not None and not self._is_as_wide_as_misplaced(call)
        return call.alone and (takes or call.partner is not None)

    def absorbed(self, call: Call, state: State) -> np.ndarray:
        """Return what the constants among the inputs that are not needed add to each output."""
        constants, uniform = self._uniform(call, state)
        x, axis = call.inputs[0], self.input_axis(call)
        unused = ~state.needed(x, axis)
        if call.site.shared:
            unused &= ~self._staying(call, state)
        return self.effect(call.site, state.read).effect(np.where(uniform & unused, constants, 0.0))

    def value(self, site: Site, name: str, value: np.ndarray, state: State) -> np.ndarray:
        if name == "bias":
            added = self.absorbed(site.calls[0], state) if len(site.calls) == 1 else np.zeros(value.size)
            return value + added.reshape(value.shape)
        if name in site.shared:
            return value
        # What stays only because a layer needs a channel must not be read: it may compute anything now.
        used = np.any([state.needed(call.inputs[0], self.input_axis(call)) for call in site.calls], axis=0)
        axes = site.axes.get(name, "")
        return site.only(axes, value, "p" if "p" in site.own else "i", used)

    def macs(self, call: Call, cut: Cut) -> int:
        shape, axis = call.shapes[0], self.output_axis(call)
        # A transposed kernel meets every position of the input.
        if list(self.weights.get("kernel", ""))[-2:] == ["o", "i"]:
            shape, axis = call.inputs[0].shape, self.input_axis(call)
        positions = sizes(shape[:axis] + shape[axis + 1 :])
        weights = [(name, cut.shape(call.site, name, tuple(v.shape))) for name, v in call.site.weights()]
        return positions * sum(math.prod(shape) for name, shape in weights if name.endswith("kernel"))


@dataclass(frozen=True)
class WritesInGroups(Writes):
    """Grouped and depthwise convolutions: each group of outputs reads a group of inputs.

    Groups can go as a whole. What stays has as many inputs and outputs in each group: "p" and "q" within groups "G".
    """

    groups: Callable[[Any], int] = lambda layer: layer.groups

    def __post_init__(self) -> None:
        pass

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        [written] = super().atoms(call, ties)
        own, groups = call.site.own, self.groups(call.layer)
        own["p"], own["q"] = own["i"].reshape(groups, -1), own["o"].reshape(groups, -1)
        return [written]

    def blocks(self, site: Site) -> list[Block]:
        return [Block([site.own["p"], site.own["q"]])]

    def effect(self, site: Site, read: Read) -> Linear:
        kernel = read(site.layer.kernel)
        groups, n = site.own["p"].shape
        kernel = kernel.reshape(*kernel.shape[:-2], n, groups, -1) if self.linear is None else self.linear(kernel)
        rank = kernel.ndim - 3
        kernel = np.transpose(kernel, [rank + 1, rank, *range(rank), rank + 2]).reshape(groups, n, -1, kernel.shape[-1])
        return Linear(kernel, (kernel != 0).any(axis=2))


@dataclass(frozen=True)
class LooksUp(Rule):
    """`Embedding`: channels from a table, one row for each number: all positions of the numbers stay, or none."""

    weights: Mapping[str, str] = field(default_factory=lambda: {"embeddings": ".o"})
    widths: Mapping[str, str] = field(default_factory=lambda: {"output_dim": "o"})

    def shares(self, name: str) -> bool:
        return True

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        [shape], numbers = call.shapes, call.inputs[0].atoms.reshape(-1)
        ties.tie(numbers[:1], numbers)
        return [along(call.fresh("o", ties, shape[-1]), len(shape), len(shape) - 1)]

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        [shape], table = call.shapes, state.read(call.layer.embeddings).astype("float64")
        return [along(np.where((table == table[0]).all(axis=0), table[0], np.nan), len(shape), len(shape) - 1)]

    def demands(self, call: Call, state: State) -> list[Demand]:
        [x], [y] = call.inputs, call.outputs
        wanted = np.full(x.atoms.shape, state.needed(y).any())
        return [(x, wanted, f"read by {call.site.name}")]


@dataclass(frozen=True)
class Reverses(LooksUp):
    """`ReversibleEmbedding`: called with `reverse=True`, it reads channels: one number for each row of the table."""

    def letters(self, layer: Any) -> Mapping[str, str]:
        return {"embeddings": ".o"} | ({} if layer.tie_weights else {"reverse_embeddings": "o."})

    def reads(self, name: str) -> str:
        return "o" if name == "reverse_embeddings" else ""

    def _reversed(self, call: Call) -> bool:
        named = {key: x for key, x in call.arguments[1].items() if key != "training"}  # which every layer takes
        bound = inspect.signature(call.layer.call).bind(*call.arguments[0], **named)
        return bool(bound.arguments.get("reverse", False))

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        if not self._reversed(call):
            return super().atoms(call, ties)
        x = call.inputs[0]
        call.register("o", x.channels(len(x.shape) - 1, ties), ties)
        return [ties.fresh(*[1] * len(call.shapes[0]))]

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        return Rule.constants(self, call, state) if self._reversed(call) else super().constants(call, state)

    def demands(self, call: Call, state: State) -> list[Demand]:
        if not self._reversed(call):
            return super().demands(call, state)
        [x], [y] = call.inputs, call.outputs
        weight = call.layer.embeddings if call.layer.tie_weights else call.layer.reverse_embeddings
        rows = state.read(weight) if not call.layer.tie_weights else state.read(weight).T
        wanted = (rows != 0).any(axis=1) & state.needed(y).any()
        return [(x, x.spread(wanted, len(x.shape) - 1), f"read by {call.site.name}")]

    def macs(self, call: Call, cut: Cut) -> int:
        return sizes(call.shapes[0]) * cut.count(call.site, "o") if self._reversed(call) else 0
