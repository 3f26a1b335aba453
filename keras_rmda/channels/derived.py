"""Rules of what code makes of weights of its own (`tracing/derived.py`): which axes of these are channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from keras import ops

from keras_rmda.channels.axes import axes_of
from keras_rmda.channels.linear import Linear, Read, Writes
from keras_rmda.channels.rule import Demand, Rule, State
from keras_rmda.channels.sites import Call, Cut, Site, sizes
from keras_rmda.channels.tensors import Atoms, NotCovered, along
from keras_rmda.channels.weights import channel_axis_of

OTHER = "STVXYZ"
"""Letters of axes that are summed over."""


def letters_of(layer: Any, letters: str) -> dict[str, str]:
    """Return the letters of weights and arrays, where those of what is made of them are these."""
    axes = axes_of(layer)
    wanted = {label: letter for label, letter in zip(axes.made, letters, strict=True) if letter != "."}
    others = sorted(set().union(*axes.given) & axes.summed - set(wanted) - {None})
    wanted |= dict(zip(others, OTHER))
    letter = lambda label: "." if label in axes.fixed else wanted.get(label, ".")  # noqa: E731
    return {name: "".join(map(letter, given)) for name, given in zip(layer.names, axes.given)}


def made_of(layer: Any, read: Read) -> np.ndarray:
    """Return what is made of weights."""
    values = [read(getattr(layer, f"weight_{k}")).astype("float64") for k in range(len(layer.shapes))]
    arrays = [x.astype("float64") if "float" in str(x.dtype) else x for x in layer.numbers]
    return ops.convert_to_numpy(layer.recipe.made_of([ops.convert_to_tensor(x) for x in [*values, *arrays]]))


class Made:
    """What both rules have in common: axes that are added up, and along which nothing can go."""

    sums = True

    def shares(self, name: str) -> bool:
        return True

    def is_added_up(self, layer: Any, letter: str, axis: int) -> bool | None:
        """Return whether an axis of what is made is added up; None if nothing can go along it."""
        axes = axes_of(layer)
        label = axes.made[axis]
        return None if label in axes.fixed else label in axes.summed

    def others(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        """Return atoms of axes that are added up, and are none of what is made."""
        found: dict[str, int] = {}
        for name, letters in self.letters(call.layer).items():
            shape = getattr(call.layer, name).shape
            found |= {letter: n for letter, n in zip(letters, shape) if letter in OTHER}
        return [call.fresh(letter, ties, n) for letter, n in sorted(found.items())]

    def weighs(self, call: Call, letter: str, state: State) -> np.ndarray:
        """Return for each position behind a letter whether any weight there is not zero, of what stays besides."""
        site, result = call.site, np.zeros(len(call.site.own[letter]), bool)
        for name, letters in self.letters(call.layer).items():
            if letter in letters and name.startswith("weight"):
                used = state.read(getattr(call.layer, name)) != 0
                for each in set(letters) - {".", letter}:
                    used = site.only(letters, used, each, state.cut.stays(site.own[each]))
                result |= used.any(axis=tuple(k for k, each in enumerate(letters) if each != letter))
        return result

    def demands_of_others(self, call: Call, state: State) -> list[Demand]:
        """Return what of the other axes must stay since it is added up."""
        extra = call.outputs[len(call.shapes) :]
        letters = sorted({x for each in self.letters(call.layer).values() for x in each} & set(OTHER))
        why = f"added up by {call.site.name}"
        return [(y, self.weighs(call, letter, state), why) for y, letter in zip(extra, letters)]

    def config_of(self, site: Site, config: dict[str, Any], cut: Cut, shape: list) -> dict[str, Any]:
        """Return the configuration with what stays of weights and arrays."""
        shapes = [list(cut.shape(site, f"weight_{k}", each)) for k, each in enumerate(site.layer.shapes)]
        numbers = [cut.of(site, f"numbers_{k}", each).tolist() for k, each in enumerate(site.layer.numbers)]
        return config | {"shapes": shapes, "numbers": numbers, "shape": shape}


@dataclass(frozen=True)
class WritesMade(Made, Writes):
    """New channels by a kernel that is made of weights."""

    weights: Mapping[str, str] = field(default_factory=dict)
    linear: Callable[[Any, Read], Linear] = lambda layer, read: _linear(layer, read)
    has_borders: Callable[[Any], bool] = lambda layer: getattr(layer.operation, "padding", "valid") != "valid"

    def letters(self, layer: Any) -> Mapping[str, str]:
        return letters_of(layer, kernel_letters(layer))

    def reads(self, name: str) -> str:
        return "i"

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        letters = kernel_letters(call.layer)
        labels = axes_of(call.layer).made
        if labels[letters.index("i")] == labels[letters.index("o")] is not None:
            raise NotCovered("a kernel that is the same along both axes")
        return [*super().atoms(call, ties), *self.others(call, ties)]

    def absorbs(self, call: Call) -> bool:
        return False

    def demands(self, call: Call, state: State) -> list[Demand]:
        x, y, letters = call.inputs[0], call.outputs[0], kernel_letters(call.layer)
        demands = super().demands(call, state) + self.demands_of_others(call, state)
        for tensor, axis, letter in ((x, self.input_axis(call), "i"), (y, self.output_axis(call), "o")):
            adds = self.is_added_up(call.layer, letter, letters.index(letter))
            if adds is None:
                demands.append((tensor, np.ones(tensor.atoms.shape, bool), f"mixed by {call.site.name}"))
            elif adds:
                weighs = self.weighs(call, letter, state)
                demands.append((tensor, tensor.spread(weighs, axis), f"added up by {call.site.name}"))
        return demands

    def value(self, site: Site, name: str, value: np.ndarray, state: State) -> np.ndarray:
        return value

    def config(self, site: Site, config: dict[str, Any], cut: Cut) -> dict[str, Any]:
        shape = [
            n if letter == "." else cut.count(site, letter)
            for n, letter in zip(site.layer.shape, kernel_letters(site.layer))
        ]
        return self.config_of(site, config, cut, shape)

    def macs(self, call: Call, cut: Cut) -> int:
        letters, shape = kernel_letters(call.layer), call.layer.shape
        kernel = [n if letter == "." else cut.count(call.site, letter) for n, letter in zip(shape, letters)]
        turned = letters.endswith("oi") and len(letters) > 2
        whole, axis = (
            (call.inputs[0].shape, self.input_axis(call)) if turned else (call.shapes[0], self.output_axis(call))
        )
        return sizes(whole[:axis] + whole[axis + 1 :]) * math.prod(kernel)


@dataclass(frozen=True)
class HoldsMade(Made, Rule):
    """A tensor that is made of weights."""

    def _axis(self, layer: Any) -> int | None:
        return channel_axis_of(layer.shape)

    def letters(self, layer: Any) -> Mapping[str, str]:
        axis = self._axis(layer)
        return letters_of(layer, "".join("c" if k == axis else "." for k in range(len(layer.shape))))

    def batch_axes(self, call: Call) -> list[int | None]:
        return [0]

    def helps(self, name: str) -> str:
        return "c"

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        shape, axis = call.layer.shape, self._axis(call.layer)
        more = self.others(call, ties)
        if axis is None:
            return [ties.fresh(*[1] * len(shape)), *more]
        return [along(call.fresh("c", ties, shape[axis]), len(shape), axis), *more]

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        return [made_of(call.layer, state.read)]  # NaN where positions differ

    def demands(self, call: Call, state: State) -> list[Demand]:
        y, axis, demands = call.outputs[0], self._axis(call.layer), self.demands_of_others(call, state)
        adds = False if axis is None else self.is_added_up(call.layer, "c", axis)
        if adds is None:
            demands.append((y, np.ones(y.atoms.shape, bool), f"mixed by {call.site.name}"))
        elif adds:
            demands.append((y, y.spread(self.weighs(call, "c", state), axis), f"added up by {call.site.name}"))
        return demands

    def config(self, site: Site, config: dict[str, Any], cut: Cut) -> dict[str, Any]:
        axis = self._axis(site.layer)
        shape = [n if k != axis else int(cut.stays(site.own["c"]).sum()) for k, n in enumerate(site.layer.shape)]
        return self.config_of(site, config, cut, shape)


def kernel_letters(layer: Any) -> str:
    """Return the letters of the axes of a kernel."""
    turned = type(layer.operation).__name__ == "ConvTranspose"
    return "." * (len(layer.shape) - 2) + ("oi" if turned else "io")


def _linear(layer: Any, read: Read) -> Linear:
    kernel, letters = made_of(layer, read), kernel_letters(layer)
    kernel = (
        np.moveaxis(kernel, letters.index("i"), 0) if letters[-1] == "o" else np.moveaxis(kernel, [-1, -2], [0, -1])
    )
    kernel = kernel.reshape(1, kernel.shape[0], -1, kernel.shape[-1])
    return Linear(kernel, (kernel != 0).any(axis=2))


def of_derived(layer: Any) -> Rule:
    """Return the rule of a layer."""
    return HoldsMade() if layer.operation is None else WritesMade()
