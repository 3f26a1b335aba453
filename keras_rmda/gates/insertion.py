"""Put gates into a model that exists."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras
from keras import ops

from keras_rmda.gates.dependent import DIRECTIONS, DependentL0Gate, GateGenerator, SharedL0Gate
from keras_rmda.gates.hard_concrete import Tensor
from keras_rmda.gates.layer import L0Gate
from keras_rmda.gates.places import COSTS, Place, places_in
from keras_rmda.optimizers import assignment
from keras_rmda.platform import checks, graphs
from keras_rmda.platform.copying.copies import Copies
from keras_rmda.platform.copying.saving import made_savable
from keras_rmda.structure.trace import as_graph

KINDS = ("l0", "dep_l0")
WHERE = ("inside", "everywhere")


def insert(
    model: keras.Model,
    kind: Literal["l0", "dep_l0"] = "l0",
    strength: float = 1e-6,
    direction: Literal["forward", "backward"] = "forward",
    where: Literal["inside", "everywhere"] | Sequence[str] = "inside",
    cost: Literal["weights", "macs"] = "weights",
    per_example: bool = False,
    seed: int | None = None,
) -> keras.Model:
    """Return a copy of a model with a stochastic gate for each channel that the converter could remove.

    Gates stand behind a layer with a kernel, or behind the batch normalization that follows it, before the activation
    if that is a layer of its own. That closed gates remove their channels is checked here, by the converter itself;
    where fewer gates are enough there are fewer: one behind a depthwise convolution also serves the one before it.

    Args:
        model: a built model, as for `strip`. It is not changed.
        kind: "l0": each gate has a log alpha of its own; "dep_l0": that of a layer is computed from that of the layer
            before or behind it, for the gates of one graph; models inside have a chain of their own, and Sequential
            models inside no dependent gates.
        strength: multiplier of the penalty strength * sum cost * P(open); a finite number >= 0.
        direction: of the dependence, "forward" or "backward".
        where: "inside": channels that one layer writes, such as those inside of residual blocks; "everywhere": also
            those that several layers write, such as the stream of a residual network, with one gate for all of them;
            or patterns of names of layers.
        cost: "weights": inputs * kernel area of the layers that write a channel, as the authors weigh it; "macs": the
            multiply-accumulates that its removal saves.
        per_example: whether every example of a batch has gates of its own.
        seed: an integer; None for a random one.

    Returns:
        A new, uncompiled model with the weights of the old one. All gates begin open: at inference it computes what
        the old one does. With "dep_l0" it is Functional. Layers that are called several times have no gates behind
        them, nor have grouped convolutions with several channels in a group.

    Raises:
        ValueError: for an argument out of range, if the model is not built or has no graph of layers, if there is no
            channel to remove, or if a pattern matches no layer that can have gates.

    Example:
        >>> gated = kr.gates.insert(model, kind="dep_l0", strength=1e-6)
        >>> gated.compile(kr.gates.optimizer(keras.optimizers.SGD(0.1, momentum=0.9)), loss="mse")

    Source: Louizos, Welling and Kingma 2018, arXiv:1712.01312; Li and Ji 2021, arXiv:2107.00070.
    """
    checks.one_of("kind", kind, KINDS)
    checks.real("strength", strength)
    checks.one_of("direction", direction, DIRECTIONS)
    checks.one_of("cost", cost, COSTS)
    checks.truth("per_example", per_example)
    if not isinstance(where, list | tuple):
        checks.one_of("where", where, WHERE)
    else:
        assignment.check_patterns("where", where)
    if graphs.has_graph(model):
        graphs.nodes(model)
    if kind == "dep_l0" and isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    with as_graph(model) as graph:
        owners = graphs_in(graph)
        places = [place for place in places_in(graph, cost) if can_have_gates(place, owners, kind)]
        places = chosen(graph, places, where)
        arguments = {"strength": strength, "per_example": per_example}
        return Insertion(graph, places, owners, kind, direction, arguments, seed).gated(model)


def graphs_in(model: keras.Model) -> dict[int, keras.Model]:
    """Return, by `id` of a layer, the model in whose graph it is called."""
    found: dict[int, keras.Model] = {}
    for node in graphs.nodes(model):
        if graphs.is_inner_graph(node.operation):
            found |= graphs_in(node.operation)
        else:
            found[id(node.operation)] = model
    return found


def can_have_gates(place: Place, owners: dict[int, keras.Model], kind: str) -> bool:
    """Return whether the gates of a place are in one graph, and that one can have tensors for them."""
    [graph, *others] = {id(owners[id(call.layer)]): owners[id(call.layer)] for call in place.behind}.values()
    needs_tensors = kind == "dep_l0" or len(place.behind) > 1
    return not others and not (needs_tensors and isinstance(graph, keras.Sequential))


def chosen(model: keras.Model, places: list[Place], where: str | Sequence[str]) -> list[Place]:
    """Return the places that the user wants."""
    if where == "inside":
        result = [place for place in places if len(place.behind) == 1]
    elif where == "everywhere":
        result = places
    else:
        matches = lambda pattern, place: any(re.fullmatch(pattern, site.name) for site in place.writers)  # noqa: E731
        unused = [pattern for pattern in where if not any(matches(pattern, place) for place in places)]
        if unused:
            names = [site.name for place in places for site in place.writers]
            raise ValueError(f"`where` names no layer that can have gates: {unused!r}. Those are: {names!r}")
        result = [place for place in places if any(matches(pattern, place) for pattern in where)]
    if not result:
        raise ValueError(
            f"No channel of the model {model.name!r} can be removed by gates with where={where!r}. "
            "`keras_rmda.analyze(model)` says why they stay."
        )
    return result


class Insertion:
    """One copy of a model with gates.

    Args:
        model: the model.
        places: where the gates stand.
        owners: by `id` of a layer, the model in whose graph it is called.
        kind, direction: see `insert`.
        arguments: of the gates.
        seed: see `insert`.
    """

    def __init__(
        self,
        model: keras.Model,
        places: list[Place],
        owners: dict[int, keras.Model],
        kind: str,
        direction: str,
        arguments: dict[str, Any],
        seed: int | None,
    ):
        self.model, self.places, self.owners = model, places, owners
        self.kind, self.direction, self.arguments, self.seed = kind, direction, arguments, seed
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
        make = L0Gate if self.kind == "l0" else DependentL0Gate
        return make(
            axis=place.axis,
            cost=place.cost,
            with_gates=len(place.behind) > 1,
            seed=None if self.seed is None else self.seed + number,
            name=graphs.unused(f"{place.writers[0].layer.name}_gate", self.names),
            dtype=place.writers[0].layer.dtype_policy,
            **self.arguments,
        )

    def standing_behind(self, layer: Any) -> Callable[[Tensor], Tensor]:
        """Return what is called on the output of a layer."""
        number, _ = self.behind[id(layer)]
        gate, place = self.gates[number], self.places[number]
        if self.kind == "l0" and not gate.with_gates:
            return gate  # a layer, since Sequential models hold nothing else

        def call(x: Tensor) -> Tensor:
            if number in self.shared:
                name = graphs.unused(f"{gate.name}_shared", self.names)
                other = SharedL0Gate(place.axis, name=name, dtype=gate.dtype_policy)
                return other([x, self.shared[number]])
            y = gate(x if self.kind == "l0" else [x, self.log_alpha(number, layer, x)])
            if gate.with_gates:
                y, self.shared[number] = y
            return y

        return call

    def log_alpha(self, number: int, layer: Any, x: Tensor) -> Tensor:
        """Return what the generator of the layer's graph computes for a place; it hangs on the first gated tensor."""
        graph = self.owners[id(layer)]
        numbers = [k for k, place in enumerate(self.places) if self.owners[id(place.behind[0].layer)] is graph]
        if id(graph) not in self.alphas:
            channels = [len(self.places[k].roots) for k in numbers]
            name = graphs.unused("gate_generator", self.names)
            generator = GateGenerator(channels, self.direction, seed=self.seed, name=name)
            self.alphas[id(graph)] = generator(x)
        return self.alphas[id(graph)][numbers.index(number)]
