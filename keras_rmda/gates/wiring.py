"""Copies of models with gates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from keras_rmda.gates.costs import Place
from keras_rmda.gates.dependent import DependentL0Gate, SharedL0Gate
from keras_rmda.gates.generator import GateGenerator
from keras_rmda.gates.hard_concrete import Tensor
from keras_rmda.gates.layer import L0Gate
from keras_rmda.gates.penalty import ChainPenalty
from keras_rmda.platform import graphs
from keras_rmda.platform.copying.copies import Copies
from keras_rmda.platform.copying.saving import made_savable


@dataclass(frozen=True)
class MadeWith:
    """What all gates of a model are made with.

    Attributes:
        strengths: of each place.
        direction: of the dependence; "none" for gates with a log alpha of their own.
        pairs: whether the cost is that of pairs of open gates.
        begin, per_example, seed, target, dual_rate: see `insert`.
        ones: the size of a_0; None for that of the first layer.
    """

    strengths: list[float]
    direction: str
    pairs: bool
    begin: str
    per_example: bool
    seed: int | None
    target: float | None
    dual_rate: float
    ones: int | None = None

    @property
    def penalized_together(self) -> bool:
        """Whether the penalty is one of all gates."""
        return self.pairs or self.target is not None

    @property
    def chained(self) -> bool:
        """Whether one layer has the log alphas of all gates."""
        return self.direction != "none" or self.penalized_together or self.begin == "published"

    def generator(self, places: list[Place], numbers: list[int], name: str) -> GateGenerator:
        """Return the layer that has the log alphas of these places, with their numbers among all."""
        penalty = None
        if self.penalized_together:
            costs, strengths = [place.cost for place in places], [self.strengths[k] for k in numbers]
            before = places[0].inputs if self.pairs else None
            penalty = ChainPenalty(costs, strengths, before, self.target, self.dual_rate)
        channels = [len(place.roots) for place in places]
        return GateGenerator(channels, self.direction, self.seed, self.begin, self.ones, penalty, name=name)


class Insertion:
    """One copy of a model with gates.

    Args:
        model: the model.
        places: where the gates stand.
        owners: by `id` of a layer, the model in whose graph it is called.
        made_with: what all gates are made with.
    """

    def __init__(self, model: keras.Model, places: list[Place], owners: dict[int, keras.Model], made_with: MadeWith):
        self.model, self.places, self.owners, self.made_with = model, places, owners, made_with
        self.names = {node.operation.name for node in graphs.nodes(model)}
        self.alphas: dict[int, list[Tensor]] = {}
        self.gates = [self.gate(number, place) for number, place in enumerate(places)]
        self.shared: dict[int, Tensor] = {}
        self.behind = {
            id(call.layer): (number, call.layer) for number, place in enumerate(places) for call in place.behind
        }

    def gated(self, original: keras.Model) -> keras.Model:
        """Return the copy of a model that may be the graph of `original`."""
        copies: list[tuple[Any, Any]] = []
        made: dict[int, list] = {}
        whole = Copies(self.model, made).whole

        def replaced(layer: Any) -> list:
            copy = whole(layer)
            copies.append((layer, copy))
            return [copy, self.standing_behind(layer)] if id(layer) in self.behind else [copy]

        result = graphs.rebuilt(self.model, replaced, made)
        for layer, copy in copies:
            if getattr(layer, "weights", None):
                copy.set_weights([ops.convert_to_numpy(variable) for variable in layer.weights])
                for old, new in zip(layer.weights, copy.weights, strict=True):
                    new.trainable = old.trainable
                graphs.finalize_states(copy)
        made_savable(result, original, made)
        return result

    def gate(self, number: int, place: Place) -> L0Gate:
        """Return the gates of a place."""
        given = self.made_with
        return (DependentL0Gate if given.chained else L0Gate)(
            strength=0.0 if given.penalized_together else given.strengths[number],
            axis=place.axis,
            cost=place.cost,
            per_example=given.per_example,
            with_gates=len(place.behind) > 1,
            seed=None if given.seed is None else given.seed + number,
            name=graphs.unused(f"{place.writers[0].layer.name}_gate", self.names),
            dtype=place.writers[0].layer.dtype_policy,
        )

    def standing_behind(self, layer: Any) -> Callable[[Tensor], Tensor]:
        """Return what is called on the output of a layer."""
        number, _ = self.behind[id(layer)]
        gate, place = self.gates[number], self.places[number]
        if not self.made_with.chained and not gate.with_gates:
            return gate  # a layer, since Sequential models hold nothing else

        def call(x: Tensor) -> Tensor:
            if number in self.shared:
                name = graphs.unused(f"{gate.name}_shared", self.names)
                other = SharedL0Gate(place.axis, name=name, dtype=gate.dtype_policy)
                return other([x, self.shared[number]])
            y = gate([x, self.log_alpha(number, layer, x)] if self.made_with.chained else x)
            if gate.with_gates:
                y, self.shared[number] = y
            return y

        return call

    def log_alpha(self, number: int, layer: Any, x: Tensor) -> Tensor:
        """Return what the generator of the layer's graph computes for a place; it hangs on the first gated tensor."""
        graph = self.owners[id(layer)]
        numbers = [k for k, place in enumerate(self.places) if self.owners[id(place.behind[0].layer)] is graph]
        if id(graph) not in self.alphas:
            name = graphs.unused("gate_generator", self.names)
            generator = self.made_with.generator([self.places[k] for k in numbers], numbers, name)
            self.alphas[id(graph)] = generator(x)
        return self.alphas[id(graph)][numbers.index(number)]
