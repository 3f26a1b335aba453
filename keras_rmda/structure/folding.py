"""Where the numbers go by which gates multiply channels: into the weights of a layer next to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_rmda.channels.functions import is_homogeneous
from keras_rmda.channels.gates import Multiplies, Vanishes
from keras_rmda.channels.linear import LooksUp, Writes
from keras_rmda.channels.rule import State
from keras_rmda.channels.simple import Carries
from keras_rmda.channels.sites import Call, Site
from keras_rmda.structure.liveness import Plan

Factors = list[tuple[str, np.ndarray]]
"""Letters of the axes of a layer's weights, each with what the weights are multiplied by along them."""

NORMALIZED = "c"


@dataclass
class Folding:
    """What becomes of the layers that vanish.

    Attributes:
        factors: by `id` of a layer, what its weights are multiplied by.
        moved: calls whose outputs are multiplied now by the numbers of a gate behind them, and the call of that gate.
        rescaled: by `id` of a gate without a neighbour that takes its numbers, these.
    """

    factors: dict[int, Factors] = field(default_factory=dict)
    moved: list[tuple[Call, Call]] = field(default_factory=list)
    rescaled: dict[int, np.ndarray] = field(default_factory=dict)

    def weight(self, site: Site, name: str, value: np.ndarray) -> np.ndarray:
        """Return the value of a weight, multiplied by the numbers that its layer takes."""
        for letter, z in self.factors.get(id(site.layer), []):
            if letter == NORMALIZED:
                value = normalized(site.layer, name, value, z)
            elif letter in "".join(site.axes.get(name, "")):
                value = value * site.marked(name, letter, z)
        return value


def fold(plan: Plan, state: State | None = None) -> Folding:
    """Decide for every gate of a model.

    Args:
        plan: what stays of the model.
        state: what the numbers of gates are computed from; that of the plan if None.
    """
    result, neighbours, state = Folding(), Neighbours(plan), state or plan.state
    for site in plan.trace.sites.values():
        if not isinstance(site.rule, Multiplies):
            continue
        stays = plan.cut.stays(site.own["c"])
        zs = [site.rule.factors_of(call, state) for call in site.calls]
        behind_layers = all(call.inputs[0].index in neighbours.maker for call in site.calls)
        if behind_layers and all((z[stays] == 1).all() for z in zs):  # a model without layers is none
            continue
        found = [neighbours.of(call, z, stays) for call, z in zip(site.calls, zs)]
        if not all(found):
            result.rescaled[id(site.layer)] = zs[0]
            continue
        for call, z, (takers, passed) in zip(site.calls, zs, found):
            result.moved += [(each, call) for each in passed]
            for other, letter in takers:
                result.factors.setdefault(id(other.layer), []).append((letter, z))
    return result


Neighbourhood = tuple[list[tuple[Call, str]], list[Call]]
"""Calls that take the numbers of a gate, with letters of their axes, and those whose outputs are multiplied so."""


class Neighbours:
    """Finds layers whose weights can take the numbers of a gate.

    Args:
        plan: what stays of a model.
    """

    def __init__(self, plan: Plan):
        self.find = plan.trace.ties.find
        self.maker = {y.index: call for call in plan.trace.calls for y in call.outputs}
        self.readers: dict[int, list[Call]] = {}
        for call in plan.trace.calls:
            for x in [] if isinstance(call.site.rule, Vanishes) else [*call.inputs, *call.masks]:
                self.readers.setdefault(x.index, []).append(call)
        self.exposed = {y.index for y in plan.trace.outputs}

    def of(self, gate: Call, z: np.ndarray, stays: np.ndarray) -> Neighbourhood | None:
        """Return what takes the numbers of a gate, or None."""
        return self.before(gate, gate, bool((z[stays] == 0).any())) or self.behind(gate)

    def before(self, gate: Call, reader: Call, has_zeros: bool) -> Neighbourhood | None:
        """Return the layer that writes what only `reader` reads, the gate or a layer that its numbers pass through."""
        x = reader.inputs[0]
        call = self.maker.get(x.index)
        if call is None or self.readers[x.index] != [reader] or x.index in self.exposed or call.site.opaque:
            return None
        rule, rank = call.site.rule, len(x.shape)
        if getattr(rule, "subtracts", None):
            takes = call.alone and self.alike(call, gate, call.axis(x), "c")
            takes = takes and not (has_zeros and call.layer.gamma is None)
            return ([(call, NORMALIZED)], [call]) if takes else None
        if isinstance(rule, Carries) and is_homogeneous(call.layer) and len(call.inputs[0].shape) == rank:
            found = self.before(gate, call, has_zeros)
            return found and (found[0], [*found[1], call])
        if isinstance(rule, (Writes, LooksUp)) and call.alone and not call.site.shared:
            axis = rule.output_axis(call) if isinstance(rule, Writes) else rank - 1
            if is_homogeneous(getattr(call.layer, "activation", None)) and self.alike(call, gate, axis, "o"):
                return [(call, "q" if "q" in call.site.own else "o")], [call]
        return None

    def behind(self, gate: Call) -> Neighbourhood | None:
        """Return the linear layers that read the gate's output, if nothing else does."""
        y = gate.outputs[0]
        readers = self.readers.get(y.index, [])
        linear = [
            isinstance(call.site.rule, Writes)
            and call.alone
            and not call.site.shared
            and len(call.inputs) == 1
            and self.alike(call, gate, call.site.rule.input_axis(call), "i")
            for call in readers
        ]
        if y.index in self.exposed or not readers or not all(linear):
            return None
        return [(call, "p" if "p" in call.site.own else "i") for call in readers], []

    def alike(self, call: Call, gate: Call, axis: int, letter: str) -> bool:
        """Return whether the channels of a call are those of the gate, in their order."""
        own, channels = call.site.own.get(letter), gate.site.own["c"]
        if np.ndim(own) != 1 or axis != gate.site.rule.output_axis(gate):
            return False
        return own.shape == channels.shape and bool((self.find(own) == self.find(channels)).all())


def normalized(layer: Any, name: str, value: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return a weight of a batch normalization whose output is multiplied by z; without gamma the variance takes it."""
    if name in ("gamma", "beta"):
        return value * z
    if name == "moving_variance" and layer.gamma is None:
        positive = np.where(z > 0, z, 1.0)
        return (value + layer.epsilon) / positive**2 - layer.epsilon
    return value


def rescaling(site: Site, z: np.ndarray) -> keras.layers.Layer:
    """Return a plain layer that multiplies by the numbers that stay."""
    call = site.calls[0]
    axis, rank = site.rule.output_axis(call), len(call.shapes[0])
    scale = z.reshape([-1] + [1] * (rank - 1 - axis)).tolist()
    return keras.layers.Rescaling(scale, name=site.layer.name, dtype=site.layer.dtype_policy)
