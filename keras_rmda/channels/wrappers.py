"""`TimeDistributed`: the rule of the layer inside, for every position of the first axis."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_rmda._symbolic import UNTRACEABLE
from keras_rmda.channels.rule import Demand, Rule, State
from keras_rmda.channels.sites import Block, Call, Cut, Site
from keras_rmda.channels.tensors import Atoms, NotCovered, Tensor


@dataclass(frozen=True)
class Distributes(Rule):
    """What the layer inside does, at every step.

    Args:
        rule_of: returns the rule of a layer.
    """

    rule_of: Callable[[Any], Rule]

    def letters(self, layer: Any) -> Mapping[str, str | Sequence[str]]:
        return self.rule_of(layer.layer).letters(layer.layer)

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
            inputs, outputs = ([_step(x) for x in tensors] for tensors in (call.inputs, call.outputs))
            inner.calls.append(_inner_call(inner, call, inputs, outputs))
        return inner

    def _of(self, call: Call) -> Call:
        """Return the inner call of a call."""
        inner = self._inner(call.site)
        return next(each for each, outer in zip(inner.calls, call.site.calls) if outer is call)

    def _state(self, state: State, site: Site) -> State:
        """Return what is known of the tensors at one step."""
        inner = State(state.read, state.cut)
        for call in site.calls:
            for x in [*call.inputs, *call.outputs]:
                if x.index in state.values:
                    rows = state.values[x.index]
                    same = (rows == rows[:1]).all(axis=0)
                    inner.values[x.index] = np.where(same, rows[0], np.nan)
                if x.index in state.needs:
                    inner.needs[x.index] = state.needs[x.index].any(axis=0)
        return inner

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        [x] = call.inputs
        if len(x.shape) < 2:
            raise NotCovered(f"an input of shape {x.shape}")
        ties.tie(x.atoms[:1], x.atoms)
        inner = self.rule_of(call.layer.layer)
        site = Site(call.layer.layer, inner, call.site.name, own=call.site.own)
        [result] = inner.atoms(_inner_call(site, call, [_step(x)], []), ties)
        return [result[None]]

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        inner = self._of(call)
        return [each[None] for each in inner.site.rule.constants(inner, self._state(state, call.site))]

    def demands(self, call: Call, state: State) -> list[Demand]:
        inner = self._of(call)
        outer = {x.index: x for x in [*call.inputs, *call.outputs]}
        demands = inner.site.rule.demands(inner, self._state(state, call.site))
        return [(outer[x.index], np.broadcast_to(mask, outer[x.index].atoms.shape), why) for x, mask, why in demands]

    def value(self, site: Site, name: str, value: np.ndarray, state: State) -> np.ndarray:
        inner = self._inner(site)
        return inner.rule.value(inner, name, value, self._state(state, site))

    def blocks(self, site: Site) -> list[Block]:
        return self.rule_of(site.layer.layer).blocks(site)

    def config(self, site: Site, config: dict[str, Any], cut: Cut) -> dict[str, Any]:
        inner = self._inner(site)
        changed = inner.rule.config(inner, config["layer"]["config"], cut)
        return config | {"layer": config["layer"] | {"config": changed, "build_config": None}}

    def macs(self, call: Call, cut: Cut) -> int:
        inner = self._of(call)
        return (call.inputs[0].shape[0] or 1) * inner.site.rule.macs(inner, cut)


def _step(x: Tensor) -> Tensor:
    """Return a tensor at one step."""
    return Tensor(x.index, x.atoms[0], x.shape[1:])


def _inner_call(site: Site, call: Call, inputs: list[Tensor], outputs: list[Tensor]) -> Call:
    """Return a call of the layer inside, at one step."""
    shapes = [shape[1:] for shape in call.shapes]
    full = [(None, *shape) for shape in shapes]
    return Call(site, inputs, shapes, (tuple(inputs), {}), outputs, full=full, batch=[0] * len(shapes))
