"""The weights of a small model in the large one that it was made from."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.platform import compat
from keras_rmda.structure.decisions import staying
from keras_rmda.structure.kept import Kept, as_number, places, random_states
from keras_rmda.structure.liveness import Plan, plan
from keras_rmda.structure.shrinking import follow_like
from keras_rmda.structure.states import copied_optimizer, inside, lift_state, pairs
from keras_rmda.structure.trace import as_graph, trace
from keras_rmda.structure.verification import difference, outputs_of_both, tolerance_of


def lift(model: keras.Model, small: keras.Model, inputs: Any = None) -> None:
    """Write a small model, trained on or not, into the model that it was made from, which then computes the same.

    What is not in the small model becomes zero. Where both are in training with optimizers of one kind, the state is
    written, too, that of an optimizer before its first step for what is not in the small model: training goes on in the
    large one as it would in the small one.

    Args:
        model: a model with the zeros, and the decisions, that it had when the small one was made.
        small: what `shrink` or `strip` has made of it.
        inputs: what both are run on to compare them, as of `strip`.

    Raises:
        ValueError: if `small` was not made from `model` as it is now. Nothing is written then.

    Example:
        >>> small = kr.shrink(model)
        >>> small.fit(x, y, epochs=10)
        >>> kr.lift(model, small)
    """
    for each in (model, small):
        compat.take_state_back(each)
    with as_graph(model) as graph:
        kept = found_in(model, graph, small)
        olds = {id(old): old for old in model.weights}
        values = [(olds[key], kept.filled(olds[key], other, 0)) for key, other in kept.small.items() if key in olds]
        before = [(variable, as_number(variable)) for variable, _ in values]
        try:
            for variable, value in values:
                variable.assign(value)
            with compat.restored(model.non_trainable_variables):
                _, a, b = outputs_of_both(graph, small, inputs, model)
            if max(difference(x, y) for x, y in zip(a, b)) > tolerance_of(graph):
                raise ValueError(refusal(model, small, "it computes something else"))
        except Exception:
            for variable, value in before:
                variable.assign(value)
            raise
        for old, new in kept.layers:
            for variable, other in zip(random_states(old), random_states(new)):
                variable.assign(as_number(other))
        if is_trained(model) and is_trained(small):
            lift_optimizer(model, small, kept)


def found_in(model: keras.Model, graph: keras.Model, small: keras.Model) -> Kept:
    """Return which weights of a model a smaller one has: by what stays in training, or of what `strip` leaves."""
    plans = (
        lambda: staying(model, graph, "decided"),
        lambda: staying(model, graph, "all"),
        lambda: plan(trace(graph), ops.convert_to_numpy),
    )
    reasons = []
    for each in plans:
        try:
            return matched(each(), small)
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError(refusal(model, small, reasons[-1]))


def matched(decided: Plan, small: keras.Model) -> Kept:
    """Return the weights of a smaller model by their paths; `ValueError` if one has another shape than what stays."""
    kept, by_path = Kept(), {variable.path: variable for variable in small.weights}
    layers = {layer.name: layer for layer in compat.layers_of(small)}
    for site in decided.trace.sites.values():
        for name, variable in site.weights():
            stays, other = places(decided, site, name, variable), by_path.get(variable.path)
            shape = None if other is None else tuple(other.shape)
            if shape != stays.shape and (stays.size or other is not None):
                raise ValueError(f"its weight {variable.path!r} would have the shape {stays.shape}. Received: {shape}")
            if other is not None:
                kept.small[id(variable)], kept.places[id(variable)] = other, stays
        if site.name in layers:
            kept.layers.append((site.layer, layers[site.name]))
    return kept


def refusal(model: keras.Model, small: keras.Model, why: str) -> str:
    """Return why a small model is not one of a model."""
    return f"{small.name!r} was not stripped or shrunk from {model.name!r} with the zeros that it has now: {why}"


def is_trained(model: keras.Model) -> bool:
    """Return whether a model has an optimizer with a state."""
    return bool(getattr(model, "compiled", False)) and getattr(model.optimizer, "built", False)


def lift_optimizer(model: keras.Model, small: keras.Model, kept: Kept) -> None:
    """Write the state of the optimizer of a small model into that of the model, if they are of one kind."""
    trained = [id(each) for each in model.optimizer._trainable_variables]
    if not pairs(model.optimizer, small.optimizer) or not set(trained) <= kept.small.keys():
        return
    itself = Kept()
    for variable in small.weights:
        itself.small[id(variable)] = variable
        itself.places[id(variable)] = np.arange(int(np.prod(variable.shape))).reshape(variable.shape)
    fresh = copied_optimizer(small.optimizer, itself, small)
    fresh.build(small.trainable_variables)
    for old, new in zip(inside(small.optimizer), inside(fresh)):
        follow_like(old, new)
    for (old, new), (_, first) in zip(pairs(model.optimizer, small.optimizer), pairs(small.optimizer, fresh)):
        lift_state(old, new, kept, first)
