"""Put gates into a model that exists."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras

from keras_rmda.gates.costs import COSTS, Place
from keras_rmda.gates.generator import BEGINNINGS
from keras_rmda.gates.places import places_in
from keras_rmda.gates.presets import fitting, settings, strength_or, strengths_of
from keras_rmda.gates.wiring import Insertion, MadeWith
from keras_rmda.optimizers.names import check_patterns
from keras_rmda.platform import checks, graphs
from keras_rmda.structure.trace import as_graph

KINDS = ("l0", "dep_l0")
DIRECTIONS = ("forward", "backward")
WHERE = ("inside", "everywhere", "published")
STRENGTH = 1e-6


def insert(
    model: keras.Model,
    kind: Literal["l0", "dep_l0"] = "l0",
    strength: float | Mapping[str, float] | None = None,
    direction: Literal["forward", "backward"] = "forward",
    where: Literal["inside", "everywhere", "published"] | Sequence[str] = "inside",
    cost: Literal["weights", "macs", "pairs"] = "weights",
    per_example: bool = False,
    seed: int | None = None,
    begin: Literal["open", "published"] = "open",
    preset: Literal["published"] | None = None,
    target: float | None = None,
    dual_rate: float = 1e-2,
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
        strength: multiplier of the penalty strength * sum cost * P(open); a finite number >= 0; or such numbers by
            patterns of names of layers, one for every layer that gets gates; None for 1e-6, or that of the preset.
        direction: of the dependence, "forward" or "backward".
        where: "inside": channels that one layer writes, such as those inside of residual blocks; "everywhere": also
            those that several layers write, such as the stream of a residual network, with one gate for all of them;
            "published": "inside", and behind the first layer with a kernel, even where its channels live on, as in
            the stem of the authors' ResNet-56; or patterns of names of layers.
        cost: "weights": inputs * kernel area of the layers that write a channel, as Louizos et al. count; "macs": the
            multiply-accumulates that its removal saves; "pairs": the penalty is strength * kernel area * E[open gates
            of the gated layer before] * E[open gates], as the authors of Dep-L0 count; before the first gated layer
            are all of its inputs.
        per_example: whether every example of a batch has gates of its own.
        seed: an integer; None for a random one.
        begin: "open": at inference the new model computes what the old one does; "published": generators begin as
            their authors' do, with seven gates in a hundred closed, and log alphas of gates of their own at N(3, .01).
        preset: "published" for the authors' settings of VGG16 with batch normalization, ResNet-56 and ResNet-50: where
            gates stand, what they cost, how they begin, one sample for each example, and the strength of kind and
            direction, unless you give another one.
        target: a share in (0, 1) of the cost of all gates of a chain, to be left: instead of a strength, a multiplier
            that grows while more is left and becomes 0 when less is.
        dual_rate: number > 0 by which, times the share that is too much, the multiplier of `target` grows in each step.
            The authors take 7e-4 for 78,000 steps; the product of rate and steps counts.

    Returns:
        A new, uncompiled model with the weights of the old one. With begin="open" all gates begin open. With "dep_l0",
        "pairs", a target or begin="published" it is Functional. Layers that are called several times have no gates
        behind them, nor have grouped convolutions with several channels in a group.

    Raises:
        ValueError: for an argument out of range, if the model is not built or has no graph of layers, if there is no
            channel to remove, if a pattern matches no layer that can have gates, if a layer has no strength, or if the
            preset is of other networks.

    Example:
        >>> gated = kr.gates.insert(model, kind="dep_l0", strength=1e-6)
        >>> gated.compile(kr.gates.optimizer(keras.optimizers.SGD(0.1, momentum=0.9)), loss="mse")

    Source: Louizos, Welling and Kingma 2018, arXiv:1712.01312; Li and Ji 2021, arXiv:2107.00070; for `target`
    Gallego-Posada et al. 2022, arXiv:2208.04425.
    """
    checks.one_of("kind", kind, KINDS)
    checks.one_of("direction", direction, DIRECTIONS)
    checks.one_of("cost", cost, COSTS)
    checks.truth("per_example", per_example)
    checks.one_of("begin", begin, BEGINNINGS)
    checks.one_of("preset", preset, (None, "published"))
    checks.real("dual_rate", dual_rate, open_minimum=True)
    if target is not None:
        checks.real("target", target, maximum=1.0, open_minimum=True, open_maximum=True)
        if strength is not None or preset is not None:
            raise ValueError(
                "Give a `target` or a strength: the multiplier of a target is found in training. "
                f"Received: target={target!r}, strength={strength!r}, preset={preset!r}"
            )
    if isinstance(strength, Mapping):
        check_patterns("strength", strength)
    for each in strength.values() if isinstance(strength, Mapping) else [STRENGTH if strength is None else strength]:
        checks.real("strength", each)
    if not isinstance(where, list | tuple):
        checks.one_of("where", where, WHERE)
    else:
        check_patterns("where", where)
    if graphs.has_graph(model):
        graphs.nodes(model)
    chosen_with = {"cost": cost, "per_example": per_example, "begin": begin, "where": where}
    defaults = {"cost": "weights", "per_example": False, "begin": "open", "where": "inside"}
    if preset and chosen_with != defaults:
        raise ValueError(
            f"preset='published' sets {', '.join(defaults)} itself: leave them out, or the preset. "
            f"Received: {', '.join(f'{name}={v!r}' for name, v in chosen_with.items() if v != defaults[name])}"
        )
    chained = kind == "dep_l0" or cost == "pairs" or target is not None or begin == "published" or preset is not None
    if chained and isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    with as_graph(model) as graph:
        owners = graphs_in(graph)
        where, cost = ("published", "pairs") if preset else (where, cost)
        places = [
            place for place in places_in(graph, cost, where == "published") if can_have_gates(place, owners, chained)
        ]
        places = chosen(graph, places, where)
        given: dict[str, Any] = {"per_example": per_example, "begin": begin}
        if preset:
            found = fitting(places, model.name)
            given = settings(found, kind, direction) | {"ones": found.ones}
            cost, strength = given.pop("cost"), strength_or(given.pop("strength"), strength)
            for place in places:
                place.cost = place.area if cost == "pairs" else place.inputs * place.area**2
        made_with = MadeWith(
            strengths=strengths_of(strength_or(STRENGTH, strength), places),
            direction=direction if kind == "dep_l0" else "none",
            pairs=cost == "pairs",
            seed=seed,
            target=target,
            dual_rate=dual_rate,
            **given,
        )
        return Insertion(graph, places, owners, made_with).gated(model)


def graphs_in(model: keras.Model) -> dict[int, keras.Model]:
    """Return, by `id` of a layer, the model in whose graph it is called."""
    found: dict[int, keras.Model] = {}
    for node in graphs.nodes(model):
        if graphs.is_inner_graph(node.operation):
            found |= graphs_in(node.operation)
        else:
            found[id(node.operation)] = model
    return found


def can_have_gates(place: Place, owners: dict[int, keras.Model], chained: bool) -> bool:
    """Return whether the gates of a place are in one graph, and that one can have tensors for them."""
    [graph, *others] = {id(owners[id(call.layer)]): owners[id(call.layer)] for call in place.behind}.values()
    needs_tensors = chained or len(place.behind) > 1
    return not others and not (needs_tensors and isinstance(graph, keras.Sequential))


def chosen(model: keras.Model, places: list[Place], where: str | Sequence[str]) -> list[Place]:
    """Return the places that the user wants."""
    if where in ("inside", "published"):
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
        others = ", ".join(site.name for place in places for site in place.writers)
        way_out = (
            f'Several layers write each of those that can: {others}. `where="everywhere"` puts gates behind these, too.'
            if places
            else "Gates stand behind layers with a kernel whose channels nothing needs as a whole; layers that are "
            "called several times, units of recurrent layers and heads get none. `keras_rmda.analyze(model)` says "
            "which channels zeros can remove."
        )
        raise ValueError(
            f"No channel of the model {model.name!r} can be removed by gates with where={where!r}. {way_out}"
        )
    return result
