"""Layers of Keras around another: what the layer inside does, at every step where that is so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_rmda.channels.rule import Demand, Rule, State
from keras_rmda.channels.sites import Block, Call, Cut, Site
from keras_rmda.channels.tensors import Atoms, NotCovered, Tensor
from keras_rmda.platform.copying.symbolic import UNTRACEABLE


@dataclass(frozen=True)
class Wraps(Rule):
    """What the layer inside does.

    Args:
        rule_of: returns the rule of a layer.
        more: (letters of the layer inside) -> those of the weights that the layer around has besides.
    """

    rule_of: Callable[[Any], Rule]
    more: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda letters: {}

    def inside(self, x: Tensor) -> Tensor:
        """Return a tensor as the layer inside gets it."""
        return x

    def around(self, array: np.ndarray) -> np.ndarray:
        """Return what is said of a tensor of the layer inside, as it is around."""
        return array

    def known(self, values: np.ndarray) -> np.ndarray:
        """Return constants, NaN for others, as they are inside."""
        return values

    def wanted(self, needs: np.ndarray) -> np.ndarray:
        """Return needs as they are inside."""
        return needs

    def letters(self, layer: Any) -> Mapping[str, str | Sequence[str]]:
        letters = self.rule_of(layer.layer).letters(layer.layer)
        return {**letters, **self.more(letters)}

    def check(self, layer: Any) -> None:
        if isinstance(layer.layer, type(layer)):
            raise NotCovered("another one inside")
        if layer in UNTRACEABLE:  # a model, or a block
            raise NotCovered(UNTRACEABLE[layer])
        self.rule_of(layer.layer).check(layer.layer)

    def _inner(self, site: Site) -> Site:
        """Return the layer inside with its calls, which share atoms with those of the wrapper."""
        inner = Site(site.layer.layer, self.rule_of(site.layer.layer), site.name, own=site.own)
        for call in site.calls:
            inputs, outputs = ([self.inside(x) for x in tensors] for tensors in (call.inputs, call.outputs))
            inner.calls.append(self._inner_call(inner, call, inputs, outputs))
        return inner

    def _inner_call(self, site: Site, call: Call, inputs: list[Tensor], outputs: list[Tensor]) -> Call:
        """Return a call of the layer inside."""
        shapes = [self.inside(Tensor(0, np.empty([1] * len(shape)), shape)).shape for shape in call.shapes]
        full = [(None, *shape) for shape in shapes]
        return Call(site, inputs, shapes, (tuple(inputs), {}), outputs, full=full, batch=[0] * len(shapes))

    def _of(self, call: Call) -> Call:
        """Return the inner call of a call."""
        inner = self._inner(call.site)
        return next(each for each, outer in zip(inner.calls, call.site.calls) if outer is call)

    def _state(self, state: State, site: Site) -> State:
        """Return what is known of the tensors inside."""
        inner = State(state.read, state.cut)
        for call in site.calls:
            for x in [*call.inputs, *call.outputs]:
                if x.index in state.values:
                    inner.values[x.index] = self.known(state.values[x.index])
                if x.index in state.needs:
                    inner.needs[x.index] = self.wanted(state.needs[x.index])
        return inner

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        [x], inner = call.inputs, self.rule_of(call.layer.layer)
        site = Site(call.layer.layer, inner, call.site.name, own=call.site.own)
        found = inner.atoms(self._inner_call(site, call, [self.inside(x)], []), ties)
        return [self.around(each) for each in found]

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        inner = self._of(call)
        return [self.around(each) for each in inner.site.rule.constants(inner, self._state(state, call.site))]

    def demands(self, call: Call, state: State) -> list[Demand]:
        inner = self._of(call)
        outer = {x.index: x for x in [*call.inputs, *call.outputs]}
        demands = inner.site.rule.demands(inner, self._state(state, call.site))
        return [(outer[x.index], np.broadcast_to(mask, outer[x.index].atoms.shape), why) for x, mask, why in demands]

    def value(self, site: Site, name: str, value: np.ndarray, state: State) -> np.ndarray:
        inner = self._inner(site)
        return inner.rule.value(inner, name, value, self._state(state, site)) if name in inner.axes else value

    def blocks(self, site: Site) -> list[Block]:
        return self.rule_of(site.layer.layer).blocks(site)

    def config(self, site: Site, config: dict[str, Any], cut: Cut) -> dict[str, Any]:
        inner = self._inner(site)
        changed = inner.rule.config(inner, config["layer"]["config"], cut)
        return config | {"layer": config["layer"] | {"config": changed, "build_config": None}}

    def macs(self, call: Call, cut: Cut) -> int:
        inner = self._of(call)
        return inner.site.rule.macs(inner, cut)


@dataclass(frozen=True)
class Distributes(Wraps):
    """The same at every step."""

    def inside(self, x: Tensor) -> Tensor:
        return Tensor(x.index, x.atoms[0], x.shape[1:])

    def around(self, array: np.ndarray) -> np.ndarray:
        return array[None]

    def known(self, values: np.ndarray) -> np.ndarray:
        return np.where((values == values[:1]).all(axis=0), values[0], np.nan)

    def wanted(self, needs: np.ndarray) -> np.ndarray:
        return needs.any(axis=0)

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        [x] = call.inputs
        if len(x.shape) < 2:
            raise NotCovered(f"an input of shape {x.shape}")
        ties.tie(x.atoms[:1], x.atoms)
        return super().atoms(call, ties)

    def macs(self, call: Call, cut: Cut) -> int:
        return (call.inputs[0].shape[0] or 1) * super().macs(call, cut)


def normalized_spectrally(letters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the letters of what `SpectralNormalization` has: a vector along the last axis of the kernel."""
    if "kernel" not in letters:  # an Embedding, whose numbers it casts to the type of its inputs
        raise NotCovered("a layer inside without a kernel")
    return {"vector_u": (".", letters["kernel"][-1])}
