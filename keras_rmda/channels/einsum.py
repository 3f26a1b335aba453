"""`EinsumDense`: linear along axes that an equation names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_rmda.channels.linear import Writes
from keras_rmda.channels.rule import Rule, State
from keras_rmda.channels.sites import Block, Call, Cut, Site, sizes
from keras_rmda.channels.tensors import NotCovered


@dataclass(frozen=True)
class WritesEinsum(Writes):
    """`EinsumDense`: reads along the last axis that the equation contracts, writes along the last that it makes."""

    weights: Mapping[str, str] = field(default_factory=lambda: {"kernel": "io", "bias": "o"})

    def letters(self, layer: Any) -> Mapping[str, str]:
        _, kernel, outputs = specification(layer)
        [i, o] = self._ends(layer)
        bias = outputs[min((outputs.index(letter) for letter in layer.bias_axes or ""), default=len(outputs)) :]
        return {
            "kernel": "".join({i: "i", o: "o"}.get(letter, ".") for letter in kernel),
            "bias": "".join("o" if letter == o and o in (layer.bias_axes or "") else "." for letter in bias),
        }

    def groups_by(self, layer: Any) -> Mapping[str, str]:
        inputs, kernel, outputs = specification(layer)
        letter = {(True, False): "i", (False, True): "o", (True, True): "c"}
        return {"kernel": "".join(letter[k in inputs, k in outputs] for k in kernel)}

    @staticmethod
    def _ends(layer: Any) -> tuple[str, str]:
        """Return the letters of the equation that are read and written."""
        inputs, kernel, outputs = specification(layer)
        read = [letter for letter in inputs if letter in kernel and letter not in outputs]
        written = [letter for letter in outputs if letter in kernel and letter not in inputs]
        if not read or not written or set(inputs) & set(kernel) & set(outputs):
            raise NotCovered(f"equation={layer.equation!r}")
        return read[-1], written[-1]

    def check(self, layer: Any) -> None:
        self._ends(layer)
        super().check(layer)

    def input_axis(self, call: Call) -> int:
        return _place(specification(call.layer)[0], self._ends(call.layer)[0], len(call.inputs[0].shape))

    def output_axis(self, call: Call) -> int:
        return _place(specification(call.layer)[2], self._ends(call.layer)[1], len(call.shapes[0]))

    def _is_vector(self, layer: Any) -> bool:
        """Return whether the layer writes along one axis, with a bias for it or none."""
        inputs, kernel, _ = specification(layer)
        written = [letter for letter in kernel if letter not in inputs]
        return len(written) == 1 and layer.bias_axes in (None, "", *written)

    def blocks(self, site: Site) -> list[Block]:
        # Keras on TensorFlow takes a bias of shape (n, 1) for one along the steps, where there are as many of them.
        several = len(site.layer.bias_axes or "") > 1
        return [Block([site.own["o"][None]], least=lambda rows: 2)] if several else []

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        return super().constants(call, state) if self._is_vector(call.layer) else Rule.constants(self, call, state)

    def absorbs(self, call: Call) -> bool:
        return self._is_vector(call.layer) and super().absorbs(call)

    def value(self, site: Site, name: str, value: np.ndarray, state: State) -> np.ndarray:
        return value if name == "bias" and not self._is_vector(site.layer) else super().value(site, name, value, state)

    def config(self, site: Site, config: dict[str, Any], cut: Cut) -> dict[str, Any]:
        shape = config["output_shape"]
        shape = list(shape) if isinstance(shape, list | tuple) else [shape]
        shape[specification(site.layer)[2].index(self._ends(site.layer)[1]) - 1] = cut.count(site, "o")
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
