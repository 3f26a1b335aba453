"""Where gates must stand so that the converter removes the channels that they close."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np

from keras_rmda.channels.rule import Demand, State
from keras_rmda.channels.sites import Call
from keras_rmda.channels.tensors import Tensor, varying
from keras_rmda.gates.costs import Place, area_of, cost_of, weights_of
from keras_rmda.structure.coupling import meaningless, tie_what_goes_together
from keras_rmda.structure.liveness import plan
from keras_rmda.structure.trace import Trace, trace


def places_in(model: keras.Model, cost: str, first_alone: bool = False) -> list[Place]:
    """Return all places for gates in a model, in order of execution, each with as few gates as are enough.

    Args:
        model: a model with a graph.
        cost: "weights": those of the layers that write a channel, for each of the channels; "macs": the
            multiply-accumulates that its removal saves; "pairs": the kernel area.
        first_alone: whether there is a place behind the first layer with a kernel, even if others write its channels.
    """
    traced = trace(model)
    tie_what_goes_together(traced)
    places = each_once(traced, [place for place in candidates(traced) if can_go(traced, place)])
    closing = Closing(traced, places)
    places = [place for place, works in zip(places, closing.works()) if works]
    closing = Closing(traced, places)
    closing.minimize()
    if first_alone:
        places += first_of(traced, places)
    for place in places:
        place.area = area_of(place)
        place.cost = cost_of(traced, place, cost)
        place.inputs = weights_of(traced, place) / max(place.area, 1.0)
    for place in places:
        if place.alone:
            continue
        kept = [closing.active[id(call)] for call in place.behind]
        place.writers = [each for each, stays in zip(place.writers, kept) if stays]
        place.behind = [each for each, stays in zip(place.behind, kept) if stays]
    order = {id(call): number for number, call in enumerate(traced.calls)}
    return sorted(places, key=lambda place: order[id(place.behind[0])])


def can_go(traced: Trace, place: Place) -> bool:
    """Return whether a place has several channels and none that stays anyway: of closed ones nothing would be left."""
    pinned = [traced.ties.find(atoms) for atoms, _ in traced.pinned]
    return len(place.roots) > 1 and not np.isin(place.roots, np.concatenate([*pinned, []])).any()


def each_once(traced: Trace, places: list[Place]) -> list[Place]:
    """Return places for different channels: of several for the same ones, the first whose gates are enough."""
    groups: dict[int, list[Place]] = {}
    for place in places:
        groups.setdefault(int(place.roots.min()), []).append(place)
    enough = lambda place: Closing(traced, [place]).works()[0]  # noqa: E731
    return [
        place for group in groups.values() for place in (group if group[1:] == [] else [*filter(enough, group)][:1])
    ]


def candidates(traced: Trace, calls: list[Call] | None = None) -> list[Place]:
    """Return a place for each set of channels, with a gate behind each of some calls, or all, that write them."""
    readers: dict[int, list[Call]] = {}
    for call in traced.calls:
        for x in call.inputs:
            readers.setdefault(x.index, []).append(call)
    places: dict[int, Place] = {}
    for call in traced.calls if calls is None else calls:
        site, own = call.site, call.site.own.get("o")
        if site.opaque or not call.alone or np.ndim(own) != 1 or len(call.shapes) != 1:
            continue
        roots, axis = traced.ties.find(own), written_axis(call, own)
        if len(np.unique(roots)) != len(roots) or axis is None:
            continue
        following = readers.get(call.outputs[0].index, [])
        normalized = len(following) == 1 and following[0].alone and getattr(following[0].site.rule, "subtracts", None)
        behind = following[0] if normalized else call
        known = places.setdefault(int(roots.min()), Place([], [], axis - len(call.shapes[0]), roots))
        if np.array_equal(known.roots, roots) and known.axis == axis - len(call.shapes[0]):
            known.writers.append(site)
            known.behind.append(behind)
    return [*places.values(), *(rows_in(traced) if calls is None else [])]


def rows_in(traced: Trace) -> list[Place]:
    """Return a place for each set of rows that go as a whole, such as the heads of attention that is written by hand.

    Gates stand where a tensor gets an axis for them.
    """
    makers = {y.index: call for call in traced.calls for y in call.outputs}
    places: dict[int, Place] = {}
    for call in traced.calls:
        writer = call
        while writer is not None and "o" not in writer.site.own:
            writer = makers.get(writer.inputs[0].index) if writer.inputs else None
        if writer is None or call.site.opaque or not call.alone or len(call.outputs) != 1:
            continue
        axis, roots = rows_of(traced, call.outputs[0])
        if axis is None or len(roots) == np.size(writer.site.own["o"]):
            continue
        if any(rows_of(traced, x)[0] is not None for x in call.inputs):
            continue
        known = places.setdefault(int(roots.min()), Place([], [], axis - len(call.shapes[0]), roots))
        if np.array_equal(known.roots, roots) and known.axis == axis - len(call.shapes[0]):
            known.writers.append(writer.site)
            known.behind.append(call)
    return list(places.values())


def rows_of(traced: Trace, x: Tensor) -> tuple[int | None, np.ndarray]:
    """Return the only axis along which the atoms of a tensor change, if no two are alike, and the atoms."""
    atoms = traced.ties.find(x.atoms)
    axes = varying(atoms)
    if len(axes) != 1 or x.batch or not x.batched:
        return None, atoms
    roots = np.moveaxis(atoms, axes[0], 0).reshape(atoms.shape[axes[0]], -1)[:, 0]
    return (axes[0] if len(np.unique(roots)) == len(roots) else None), roots


def written_axis(call: Call, own: np.ndarray) -> int | None:
    """Return the axis along which a call writes these channels and no others."""
    axes = [axis for axis, n in enumerate(call.outputs[0].atoms.shape) if n > 1 or len(own) == 1]
    return axes[-1] if len(axes) == 1 or len(own) == 1 else None


class Closed:
    """The rule of a layer with a gate behind it that closes some of its channels; else as without.

    Args:
        call: its only call.
        closing: which atoms are closed.
    """

    def __init__(self, call: Call, closing: Closing):
        self.call, self.rule, self.closing = call, call.site.rule, closing

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rule, name)

    def _closed(self) -> np.ndarray:
        closed = self.closing.closed[self.closing.traced.ties.find(self.call.outputs[0].atoms)]
        return closed & self.closing.active[id(self.call)]

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        [values] = self.rule.constants(call, state)
        return [np.where(self._closed(), 0.0, values)]

    def demands(self, call: Call, state: State) -> list[Demand]:
        index = call.outputs[0].index
        state.needs[index] = state.needs[index] & ~self._closed()
        return self.rule.demands(call, state)


@dataclass
class Closing:
    """Tells whether the converter removes channels whose gates are closed.

    Attributes:
        traced: the model.
        places: where there may be gates.
        active: by `id` of the call before it, whether there is a gate.
        closed: which atoms have closed gates.
    """

    traced: Trace
    places: list[Place]
    active: dict[int, bool] = field(default_factory=dict)
    closed: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))

    def __post_init__(self) -> None:
        self.active = {id(call): True for place in self.places for call in place.behind}

    def works(self) -> list[bool]:
        """Return for each place whether its gates remove their channels: of every two channels one is closed."""
        calls = [call for place in self.places for call in place.behind]
        rules = [call.site.rule for call in calls]
        kept = np.zeros(len(self.traced.ties.parent), bool)
        try:
            for call in calls:
                call.site.rule = Closed(call, self)
            for first in (0, 1):
                self.closed = np.zeros_like(kept)
                for place in self.places:
                    self.closed[place.roots[first::2]] = True
                kept |= plan(self.traced, meaningless).cut.keep & self.closed
        finally:
            for call, rule in zip(calls, rules):
                call.site.rule = rule
        return [not kept[place.roots].any() for place in self.places]

    def minimize(self) -> None:
        """Do without the gates that are not needed, the first ones first."""
        for k in range(max((len(place.behind) for place in self.places), default=0)):
            tried = [place for place in self.places if len(place.behind) > max(k, 1)]
            tried = [place for place in tried if sum(self.active[id(call)] for call in place.behind) > 1]
            for place in tried:
                self.active[id(place.behind[k])] = False
            works = {id(place): each for place, each in zip(self.places, self.works())}
            for place in tried:
                self.active[id(place.behind[k])] = not works[id(place)]


def first_of(traced: Trace, places: list[Place]) -> list[Place]:
    """Return a place for the gates of the first layer that writes channels, alone, if it has none yet."""
    for call in traced.calls:
        own = call.site.own.get("o")
        if call.site.opaque or np.ndim(own) != 1 or len(own) < 2:
            continue
        found = [place for place in candidates(traced, [call]) if call.site in place.writers]
        if any(place.writers == [call.site] for place in places):
            return []
        return [replace(place, alone=True) for place in found[:1]]
    return []
