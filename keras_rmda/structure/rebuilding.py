"""Make a model that holds only what a plan keeps: layers that lose channels anew, all others as copies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.channels.sites import Cut, Site
from keras_rmda.platform import compat, graphs
from keras_rmda.platform.copying.copies import Copies, lost_function
from keras_rmda.platform.copying.functions import is_function
from keras_rmda.platform.copying.saving import made_savable
from keras_rmda.structure.folding import Folding, fold, rescaling
from keras_rmda.structure.liveness import Plan
from keras_rmda.structure.verification import Values, VerificationError


def rebuilt_without(
    model: keras.Model, plan: Plan, folding: Folding, original: keras.Model
) -> tuple[keras.Model, Values, dict[int, Any]]:
    """Return a copy of a model that holds only what the plan keeps, and no gates; it is saved where `original` is.

    Also returned are the values of its weights before they were rounded, of those that were, and by `id` of layers what
    was made of them. The model has a graph, which may be that of a subclassed `original`.
    """
    exact: Values = []
    small, made = remade(model, plan, folding)
    for site, new in with_weights(plan, made):
        values = stripped_weights(plan, site, folding)
        new.set_weights(values)
        for new_weight, value in zip(new.weights, values, strict=True):
            if value.dtype == "float64" and (ops.convert_to_numpy(new_weight) != value).any():
                exact.append((new_weight, value))
            if getattr(getattr(new_weight, "regularizer", None), "is_of_gates", False):
                new_weight.regularizer = None
        graphs.finalize_states(new)
    made_savable(small, original, made)
    return small, exact, made


def remade(model: keras.Model, plan: Plan, folding: Folding) -> tuple[keras.Model, dict[int, Any]]:
    """Return the same before its weights have their values, and by `id` of its layers what was made of them."""
    known: dict[int, keras.Variable] = {}
    with compat.without_random_values():
        small, made = narrowed(model, plan, folding, plan.cut)
    for site in plan.trace.sites.values():
        for new in made[id(site.layer)][:1]:
            named = {key: getattr(site.layer, key) for key in replaced_initializers(site.layer)}
            vars(new).update({key: value for key, value in named.items() if is_function(value)})
            if (name := lost_function(site.layer, new)) is not None:
                raise VerificationError(
                    f"The copy of the layer {site.name!r} has another function as its {name!r}. The original is "
                    "unchanged. This is an error of keras_rmda."
                )
    for site, new in with_weights(plan, made):
        for old_weight, new_weight in zip(site.layer.weights, new.weights, strict=True):
            new_weight.trainable = old_weight.trainable
            new_weight._path = old_weight.path  # that of an inner model's would no longer tell what is around it
            shared = known.setdefault(id(old_weight), new_weight)
            if shared is not new_weight:
                compat.replace_variable(new, new_weight, shared)
    return small, made


def check_can_be_rebuilt(model: keras.Model, plan: Plan, removable: np.ndarray) -> None:
    """Raise `ValueError`, naming the layer, if no copy of a model can be made that holds only what the plan keeps.

    The layers are made and called, without values where they can be, and nothing is left of them. Those that any of
    the `removable` atoms belongs to are made as if they lost some.
    """
    least = plan.cut.keep.copy()
    least[removable] = False
    try:
        with compat.without_a_trace(has_values=False):
            _check_shapes(model, plan, Cut(plan.trace.ties, least))
    except Exception:  # a layer may need values; if that was not it, the error comes again
        with compat.without_a_trace(has_values=True):
            _check_shapes(model, plan, Cut(plan.trace.ties, least))


def _check_shapes(model: keras.Model, plan: Plan, least: Cut) -> None:
    for site, new in with_weights(plan, narrowed(model, plan, fold(plan), least)[1]):
        shapes = [plan.cut.of(site, name, np.empty(weight.shape, "int8")).shape for name, weight in site.weights()]
        made = [tuple(weight.shape) for weight in new.weights]
        if shapes != made:
            raise ValueError(
                f"The layer {site.layer.name!r} of type {type(site.layer).__name__} cannot be rebuilt: its "
                f"`get_config()` makes weights of the shapes {made}, where {shapes} are left."
            )


def with_weights(plan: Plan, made: dict[int, Any]) -> Iterator[tuple[Site, Any]]:
    """Yield the sites of layers with weights, with the layers that were made in their places."""
    for site in plan.trace.sites.values():
        if getattr(site.layer, "weights", None) and not site.rule.vanishes:
            [new] = made[id(site.layer)]
            yield site, new


def narrowed(model: keras.Model, plan: Plan, folding: Folding, least: Cut) -> tuple[keras.Model, dict[int, Any]]:
    """Return the same without the weights of the original, and by `id` of its layers what was made of them.

    Layers of which `least` takes nothing are copied as they are.
    """
    made: dict[int, list] = {}
    copies = Copies(model, made)

    def resized(layer: Any) -> Any:
        site = plan.trace.sites[id(layer)]
        if id(layer) in folding.rescaled:
            return rescaling(site, folding.rescaled[id(layer)][plan.cut.stays(site.own["c"])])
        if site.rule.vanishes:
            return []
        if is_whole(site, least):
            return copies.whole(layer)
        try:
            config = site.rule.config(site, copies.config_of(layer), plan.cut)
            return copies.resized(layer, config, replaced_initializers(layer))
        except ValueError:
            if keeps_its_weights(plan, site):  # a rotation of heads, say, of which there are fewer
                return copies.whole(layer)
            if getattr(layer, "weights", []) or not keeps_configuration(plan, site):
                raise
            return copies.whole(layer, is_built=False)

    def arguments_of(node: Any, *given: Any) -> tuple[tuple, dict]:
        call = plan.trace.by_node.get(id(node))  # models inside have none
        return given if call is None else call.site.rule.arguments(call, plan.cut, given)

    return graphs.rebuilt(model, resized, made, arguments_of), made


def is_whole(site: Site, cut: Cut) -> bool:
    """Return whether nothing is cut from a layer, nor from what it gets and gives."""
    atoms = [x.atoms for call in site.calls for x in [*call.inputs, *call.outputs]]
    own = [each for each in site.own.values() if np.ndim(each) > 0]
    return all(cut.stays(each).all() for each in [*atoms, *own])


def keeps_its_weights(plan: Plan, site: Site) -> bool:
    """Return whether nothing is cut from the weights of a layer, if it has any."""
    shapes = [(name, tuple(v.shape)) for name, v in site.weights()]
    return bool(shapes) and all(plan.cut.shape(site, name, shape) == shape for name, shape in shapes)


def keeps_configuration(plan: Plan, site: Site) -> bool:
    """Return whether a layer is the same whatever is cut from its inputs."""
    try:
        return not site.rule.config(site, {}, plan.cut)
    except Exception:  # a rule that reads what is in a configuration
        return False


def replaced_initializers(layer: Any) -> dict[str, str]:
    """Return zeros for the initializers of a layer that may know the shapes of uncut weights: arrays, functions."""
    named = {name: value for name, value in vars(layer).items() if name.endswith("_initializer")}
    knows = lambda value: is_function(value) or np.ndim(getattr(value, "value", 0)) > 0  # noqa: E731
    return {name: "zeros" for name, value in named.items() if knows(value)}


def stripped_weights(plan: Plan, site: Site, folding: Folding) -> list[np.ndarray]:
    """Return a layer's weights in its own order, sliced, with absorbed constants and gates; not yet rounded."""
    result = []
    for name, variable in site.weights():
        value = site.rule.value(site, name, ops.convert_to_numpy(variable), plan.state)
        result.append(plan.cut.of(site, name, folding.weight(site, name, value)))
    return result
