"""Rebuild a model without the channels that cannot matter, and verify that it computes the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda import _checks, _compat, _finite, _graphs
from keras_rmda.channels.sites import Site
from keras_rmda.optimizers.models import warn_of_hidden_zeros
from keras_rmda.pruning.folding import Folding, fold, rescaling
from keras_rmda.pruning.liveness import Plan, plan
from keras_rmda.pruning.trace import as_graph, trace
from keras_rmda.pruning.verification import TOLERANCE, VerificationError, difference, outputs_of_both


def strip(
    model: keras.Model,
    tolerance: float | None = None,
    inputs: Any = None,
    round_to: int = 1,
    strict: bool = False,
) -> keras.Model:
    """Return a smaller model that computes the same function at inference.

    A channel goes if no output can depend on it, or if it is a constant that its readers absorb exactly into their
    biases. This is decided by weights and graph alone. What stays, stays with its names and policies.

    Gates (`layers.L0Gate`, what `gates.insert` puts in) are left out: closed ones take their channels along, the values
    of open ones go into the weights of a layer next to them, or a Rescaling layer where there is none.

    Args:
        model: a built Sequential or Functional model, with zeros from anywhere, or a subclassed one whose `call` uses
            layers and `keras.ops` only. It is not changed.
        tolerance: largest accepted `max|a - b| / max(1e-3, max|a|)`; None for 1e-4 in float32.
        inputs: what both models are run on to compare them, structured as the model wants; None for random numbers.
        round_to: widths become multiples of this, by channels that compute what nobody reads: 8 suits many devices.
            A layer gets no wider than it was.
        strict: whether to raise instead of keeping what touches a layer that the layer table does not know.

    Returns:
        A new, uncompiled model with the same inputs and outputs, also when nothing can go. What was subclassed is
        Functional, and computes at training what the original does at inference wherever its code asks for `training`.

    Raises:
        ValueError: if the model is not built, has no graph of layers or weights that are not finite, if an argument is
            out of range, if a layer cannot be made from its configuration, or if the model cannot run on `inputs`.
        VerificationError: naming the first layer that differs, if outputs differ by more than rounding.

    Example:
        >>> small = kr.strip(model)
        >>> small.count_params() < model.count_params()
        True
    """
    if tolerance is not None:
        _checks.real("tolerance", tolerance, open_minimum=True)
    _checks.whole("round_to", round_to, minimum=1)
    _checks.truth("strict", strict)
    warn_of_hidden_zeros(model)
    with as_graph(model) as graph:
        _finite.check_finite(model)
        decided = plan(trace(graph), ops.convert_to_numpy, round_to)
        if strict:
            refuse_opaque(graph, decided)
        folding = fold(decided)
        small = rebuilt_without(graph, decided, folding)
        verify(graph, small, decided, folding, tolerance, inputs, model)
    return small


def rebuilt_without(model: keras.Model, plan: Plan, folding: Folding) -> keras.Model:
    """Return a copy of a model with a graph that holds only what the plan keeps, and no gates."""
    small, made = narrowed(model, plan, folding)
    for site, new in _with_weights(plan, made):
        new.set_weights(stripped_weights(plan, site, folding))
        for old_weight, new_weight in zip(site.layer.weights, new.weights, strict=True):
            new_weight.trainable = old_weight.trainable
        _graphs.finalize_states(new)
    return small


def check_can_be_rebuilt(model: keras.Model, plan: Plan) -> None:
    """Raise `ValueError`, naming the layer, if no copy of a model can be made that holds only what the plan keeps.

    The layers are made and called, without values where they can be, and nothing is left of them.
    """
    try:
        with _compat.without_a_trace(has_values=False):
            _check_shapes(model, plan)
    except Exception:  # a layer may need values; if that was not it, the error comes again
        with _compat.without_a_trace(has_values=True):
            _check_shapes(model, plan)


def _check_shapes(model: keras.Model, plan: Plan) -> None:
    for site, new in _with_weights(plan, narrowed(model, plan, fold(plan))[1]):
        shapes = [plan.cut.of(site, name, np.empty(weight.shape, "int8")).shape for name, weight in site.weights()]
        made = [tuple(weight.shape) for weight in new.weights]
        if shapes != made:
            raise ValueError(
                f"The layer {site.layer.name!r} of type {type(site.layer).__name__} cannot be rebuilt: its "
                f"`get_config()` makes weights of the shapes {made}, where {shapes} are left."
            )


def _with_weights(plan: Plan, made: dict[int, Any]) -> Iterator[tuple[Site, Any]]:
    """Yield the sites of layers with weights, with the layers that were made in their places."""
    for site in plan.trace.sites.values():
        if getattr(site.layer, "weights", None) and not site.rule.vanishes:
            [new] = made[id(site.layer)]
            yield site, new


def narrowed(model: keras.Model, plan: Plan, folding: Folding) -> tuple[keras.Model, dict[int, Any]]:
    """Return the same without the weights of the original, and by `id` of its layers what was made of them."""
    made: dict[int, Any] = {}

    def resized(layer: Any) -> Any:
        site = plan.trace.sites[id(layer)]
        if id(layer) in folding.rescaled:
            return rescaling(site, folding.rescaled[id(layer)][plan.cut.stays(site.own["c"])])
        if site.rule.vanishes:
            return []
        config = site.rule.config(site, _graphs.config_of(layer), plan.cut)
        return _graphs.copied(layer, config | replaced_initializers(layer))

    return _graphs.rebuilt(model, resized, made), made


def replaced_initializers(layer: Any) -> dict[str, str]:
    """Return zeros for the initializers of a layer that hold arrays, which have the shapes of uncut weights."""
    named = {name: value for name, value in vars(layer).items() if name.endswith("_initializer")}
    return {name: "zeros" for name, value in named.items() if np.ndim(getattr(value, "value", 0)) > 0}


def refuse_opaque(model: keras.Model, plan: Plan) -> None:
    """Raise `ValueError` if there are layers that the converter does not look into."""
    opaque = plan.trace.opaque
    if opaque:
        listed = "; ".join(f"{name}: {why}" for name, why in opaque.items())
        raise ValueError(f"The model {model.name!r} has layers that `strip(strict=True)` does not look into: {listed}")


def stripped_weights(plan: Plan, site: Site, folding: Folding) -> list[np.ndarray]:
    """Return a layer's weights, sliced, with absorbed constants and gates, in the layer's own order."""
    result = []
    for name, variable in site.weights():
        value = site.rule.value(site, name, ops.convert_to_numpy(variable), plan.state)
        result.append(plan.cut.of(site, name, folding.weight(site, name, value)))
    return result


def verify(
    model: keras.Model,
    small: keras.Model,
    plan: Plan,
    folding: Folding,
    tolerance: float | None = None,
    inputs: Any = None,
    original: keras.Model | None = None,
) -> float:
    """Compare a model, or the subclassed model `original` that it is the graph of, and its stripped version.

    Returns:
        The largest relative difference.

    Raises:
        ValueError: if the model cannot run on the inputs.
        VerificationError: naming the first layer whose kept channels differ.
    """
    dtypes = {keras.backend.standardize_dtype(tensor.dtype) for tensor in keras.tree.flatten(model.outputs)}
    dtypes.add(model.dtype_policy.compute_dtype)
    tolerance = tolerance or max(TOLERANCE.get(dtype, 1e-4) for dtype in dtypes)
    flat, a, b = outputs_of_both(model, small, inputs, original)
    worst = max(difference(x, y) for x, y in zip(a, b))
    if worst <= tolerance:
        return worst
    name = first_difference(model, small, plan, folding, flat, tolerance)
    raise VerificationError(
        f"The stripped model differs from {model.name!r} by {worst:.3g} (tolerance {tolerance:g}), first at {name!r}. "
        "The original is unchanged. Layers that are random at inference and weights that are not finite cannot be "
        "verified; else this is an error of keras_rmda or of a registered rule."
    )


def first_difference(
    model: keras.Model, small: keras.Model, plan: Plan, folding: Folding, inputs: list, tolerance: float
) -> str:
    """Return the name of the first layer whose needed output channels differ between the two models."""
    outputs = dict(zip(map(id, plan.trace.calls), outputs_of_calls(model, inputs), strict=True))
    outputs |= {id(call): outputs[id(gate)][:1] for call, gate in folding.moved}
    kept = [call for call in plan.trace.calls if not call.site.rule.vanishes or id(call.layer) in folding.rescaled]
    for call, after in zip(kept, outputs_of_calls(small, inputs), strict=True):
        before = outputs[id(call)]
        for tensor, x, y in zip(call.outputs, before, after):
            atoms, needs = plan.trace.ties.find(tensor.atoms), plan.state.needed(tensor)
            for axis in range(atoms.ndim):
                first = np.take(atoms, [0], axis)
                if (atoms == first).all() or atoms.shape[axis] == 1:
                    continue
                stays = plan.cut.stays(np.moveaxis(atoms, axis, 0).reshape(atoms.shape[axis], -1)[:, 0])
                needed = np.moveaxis(needs, axis, 0).reshape(needs.shape[axis], -1).any(axis=1)
                x = np.compress(needed, x, axis=axis + 1)
                y = np.compress(needed[stays], y, axis=axis + 1)
                break
            if needs.any() and (x.shape != y.shape or difference(x, y) > tolerance):
                return call.site.name
    return "the outputs only"


def outputs_of_calls(model: keras.Model, inputs: list) -> list[list[np.ndarray]]:
    """Return the outputs of every call of a layer, in order of execution, those inside of inner models too."""
    found = []

    def call(node: Any, arguments: tuple, keyword_arguments: dict) -> list:
        if _graphs.is_inner_graph(node.operation):
            given = keras.tree.flatten((arguments, _graphs.without_masks(keyword_arguments)))
            given = [x for x in given if keras.ops.is_tensor(x)]
            return keras.tree.flatten(_graphs.replayed(node.operation, given, call))
        outputs = keras.tree.flatten(node.operation(*arguments, **keyword_arguments))
        found.append([ops.convert_to_numpy(y) for y in outputs])
        return outputs

    _graphs.replayed(model, [ops.convert_to_tensor(x) for x in inputs], call)
    return found
