"""`EinsumDense`: linear along axes that an equation names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_rmda.channels.linear import Linear, Writes
from keras_rmda.channels.rule import Read, Rule, State
from keras_rmda.channels.sites import Block, Call, Cut, Site, sizes
from keras_rmda.channels.tensors import Atoms, Axes, NotCovered, along, as_axes


@dataclass(frozen=True)
class WritesEinsum(Writes):
    """`EinsumDense`: reads along the axes that the equation contracts, writes along those that it makes.

    Where one of both are two, heads and the positions in each, heads "G" go as a whole, and each keeps as many
    positions. Of more axes the last is cut. Where the kernel has an axis of the input that stays one of the output, as
    that of experts, all positions there have the same channels.
    """

    weights: Mapping[str, str] = field(default_factory=lambda: {"kernel": "io", "bias": "o"})

    def letters(self, layer: Any) -> Mapping[str, str]:
        _, kernel, outputs = specification(layer)
        read, written = self._ends(layer)
        known = {
            letter: name
            for letters, last in ((read, "i"), (written, "o"))
            for letter, name in zip(letters[::-1], (last, "G"))
        }
        axes = layer.bias_axes or ""
        bias = outputs[min((outputs.index(letter) for letter in axes), default=len(outputs)) :]
        return {
            "kernel": "".join(known.get(letter, ".") for letter in kernel),
            "bias": "".join(known[letter] if letter in written and letter in axes else "." for letter in bias),
        }

    def groups_by(self, layer: Any) -> Mapping[str, str]:
        inputs, kernel, outputs = specification(layer)
        letter = {(True, False): "i", (False, True): "o", (True, True): "c"}
        return {"kernel": "".join(letter[k in inputs, k in outputs] for k in kernel)}

    @staticmethod
    def _ends(layer: Any) -> tuple[str, str]:
        """Return the letters of the equation along which channels are read and written: one, or heads and positions."""
        inputs, kernel, outputs = specification(layer)
        read = [letter for letter in inputs if letter in kernel and letter not in outputs]
        written = [letter for letter in outputs if letter in kernel and letter not in inputs]
        if not read or not written:
            raise NotCovered(f"equation={layer.equation!r}")
        heads = len(read) * len(written) == 2 and set(layer.bias_axes or "") in (set(), set(written))
        return tuple("".join(letters if heads else letters[-1:]) for letters in (read, written))

    def check(self, layer: Any) -> None:
        self._ends(layer)
        super().check(layer)

    def input_axis(self, call: Call) -> Axes:
        return _places(specification(call.layer)[0], self._ends(call.layer)[0], len(call.inputs[0].shape))

    def output_axis(self, call: Call) -> Axes:
        return _places(specification(call.layer)[2], self._ends(call.layer)[1], len(call.shapes[0]))

    def effect(self, site: Site, read: Read) -> Linear:
        _, letters, _ = specification(site.layer)
        first, last = self._ends(site.layer)
        rest = [letter for letter in letters if letter not in first + last]
        kernel = np.transpose(read(site.layer.kernel), [letters.index(each) for each in (*first, *rest, *last)])
        inputs, outputs = (math.prod(kernel.shape[: len(first)]), math.prod(kernel.shape[kernel.ndim - len(last) :]))
        kernel = kernel.reshape(1, inputs, -1, outputs)
        return Linear(kernel, (kernel != 0).any(axis=2))

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        [x], [shape] = call.inputs, call.shapes
        read, written = (as_axes(axis) for axis in (self.input_axis(call), self.output_axis(call)))
        if any(shape[axis] is None for axis in written):
            raise NotCovered("its output has an open channel axis")
        call.register("i", x.channels(read, ties).reshape([x.shape[axis] for axis in read]), ties)
        atoms = call.fresh("o", ties, *(shape[axis] for axis in written))
        return [along(atoms, len(shape), written)]

    def rows(self, call: Call, ties: Atoms) -> list[Block]:
        for x, axes in ((call.inputs[0], self.input_axis(call)), (call.outputs[0], self.output_axis(call))):
            if x.width is not None and x.width != as_axes(axes)[-1]:
                x.channels(x.width, ties)
        return []

    def _is_complete(self, layer: Any) -> bool:
        """Return whether the layer writes only along the axes that are cut, with a number for each or none to add."""
        inputs, kernel, outputs = specification(layer)
        if set(inputs) & set(kernel) & set(outputs):  # another kernel at each position there
            return False
        written = "".join(letter for letter in kernel if letter not in inputs)
        ends = self._ends(layer)[1]
        return len(written) == len(ends) and set(layer.bias_axes or "") in (set(), set(ends))

    def blocks(self, site: Site) -> list[Block]:
        matrices = [site.own[letter] for letter in "io" if site.own[letter].ndim > 1]
        # Keras on TensorFlow takes a bias of shape (n, 1) for one along the steps, where there are as many of them.
        if len(site.layer.bias_axes or "") > 1:
            own = site.own["o"]
            return [
                Block([own if own.ndim > 1 else own[None]], least=lambda rows: 2 if rows > 1 or own.ndim == 1 else 1)
            ]
        return [Block(matrices)] if matrices else []

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        return super().constants(call, state) if self._is_complete(call.layer) else Rule.constants(self, call, state)

    def absorbs(self, call: Call) -> bool:
        return self._is_complete(call.layer) and super().absorbs(call)

    def value(self, site: Site, name: str, value: np.ndarray, state: State) -> np.ndarray:
        return (
            value if name == "bias" and not self._is_complete(site.layer) else super().value(site, name, value, state)
        )

    def config(self, site: Site, config: dict[str, Any], cut: Cut) -> dict[str, Any]:
        shape = config["output_shape"]
        shape = list(shape) if isinstance(shape, list | tuple) else [shape]
        for letter, name in zip(reversed(self._ends(site.layer)[1]), "oG"):
            shape[specification(site.layer)[2].index(letter) - 1] = cut.count(site, name)
        return config | {"output_shape": shape}

    def macs(self, call: Call, cut: Cut) -> int:
        _, kernel, outputs = specification(call.layer)
        kept = [_place(outputs, letter, len(call.shapes[0])) for letter in outputs if letter in kernel]
        positions = sizes(tuple(n for axis, n in enumerate(call.shapes[0]) if axis not in kept))
        return positions * math.prod(cut.shape(call.site, "kernel", tuple(call.layer.kernel.shape)))


def specification(layer: Any) -> tuple[str, str, str]:
    """Return the letters of the input, the kernel and the output; "0" for an ellipsis."""
    inputs, kernel, outputs = re.split(",|->", layer.equation.replace("...", "0").replace(" ", ""))
    return inputs, kernel, outputs


def _place(letters: str, letter: str, rank: int) -> int:
    """Return the axis of a letter, without the batch axis; "0" stands for as many axes as `rank` wants."""
    k = letters.index(letter)
    return k - 1 if "0" not in letters[:k] else rank - (len(letters) - k)


def _places(letters: str, wanted: str, rank: int) -> Axes:
    """Return the axis of a letter, or those of several."""
    axes = tuple(_place(letters, letter, rank) for letter in wanted)
    return axes if len(axes) > 1 else axes[0]
