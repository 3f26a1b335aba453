"""Graphs of Keras models: walking, rebuilding and calling them. Keras has no public way to walk one.

Checked with Keras 3.8 and 3.15.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import ops
from keras.src.models.functional import Functional  # the class of `keras.Model(inputs, outputs)`

from keras_rmda.platform.compat import layers_of
from keras_rmda.platform.hidden import carried_by, carry, with_masks
from keras_rmda.platform.tolerant import tolerant_symbols


def has_graph(model: Any) -> bool:
    """Return whether a model computes what its graph of layers says: with a `call` of its own it does not."""
    return getattr(type(model), "call", None) in (keras.Sequential.call, Functional.call)


def nodes(model: keras.Model) -> list:
    """Return the nodes of a model's graph in order of execution.

    Keras has no public way to walk a graph; `_nodes_by_depth` is what its own cloning and saving use.

    Raises:
        ValueError: if the model has no graph of layers.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(f"Expected a keras.Model. Received: {model!r} of type {type(model).__name__}")
    if not has_graph(model):
        raise ValueError(
            f"The model {model.name!r} of type {type(model).__name__} is subclassed, with a `call` of its own: "
            "no graph of layers says what it computes. Write it as a Functional or Sequential model."
        )
    if not model.built or functional(model) is None:
        raise ValueError(
            f"The model {model.name!r} is not built: it has no shapes and no weights yet. "
            "Give it a `keras.Input`, call `model.build(input_shape)`, or call it on data first."
        )
    by_depth = functional(model)._nodes_by_depth
    # Copies must call a layer in the same order: Keras 3.15 cannot always sort a graph that is called in another.
    order = lambda node: node.operation._inbound_nodes.index(node)  # noqa: E731
    return [node for depth in sorted(by_depth, reverse=True) for node in sorted(by_depth[depth], key=order)]


def all_nodes(model: keras.Model) -> Iterator[Any]:
    """Yield the nodes of a model's graph, each followed by those of the model that it calls."""
    for node in nodes(model):
        yield node
        if is_inner_graph(node.operation):
            yield from all_nodes(node.operation)


def is_shape(shape: Any) -> bool:
    """Return whether something is the shape of one tensor."""
    return isinstance(shape, list | tuple) and bool(shape) and all(n is None or isinstance(n, int) for n in shape)


def tensors_in(structure: Any) -> list:
    """Return the symbolic tensors in a nested structure of arguments."""
    return [x for x in keras.tree.flatten(structure) if isinstance(x, keras.KerasTensor)]


def without_masks(keyword_arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call that are no masks, which Keras adds to those of models inside."""
    return {key: value for key, value in keyword_arguments.items() if not key.endswith("mask")}


def inputs_given(model: keras.Model, arguments: tuple, keyword_arguments: dict[str, Any]) -> list:
    """Return what a call gives to each input of a model with a graph, in their order; None to one that is optional."""
    given = arguments[0] if arguments else keyword_arguments["inputs"]
    wanted = functional(model).input
    if isinstance(given, dict):  # which may hold more than the model takes
        names = [x.name for x in functional(model).inputs]
        given = {key: given[key] for key in wanted} if isinstance(wanted, dict) else [given[name] for name in names]
    return keras.tree.flatten(given)


def is_fitted(model: keras.Model, arguments: tuple, keyword_arguments: dict[str, Any]) -> bool:
    """Return whether a call gives a model with a graph tensors of as many axes as its inputs have."""
    given = inputs_given(model, arguments, keyword_arguments)
    return all(x is None or len(x.shape) == len(y.shape) for x, y in zip(given, inputs_of(model), strict=True))


def fitted(model: keras.Model, arguments: tuple, keyword_arguments: dict[str, Any]) -> tuple[tuple, dict]:
    """Return the arguments of a call of a model with a graph, with a last axis of size 1 added or left out.

    Keras does so by itself where an input has it and the tensor has not, or the other way round.
    """
    changed: dict[int, Any] = {}
    for x, y in zip(inputs_given(model, arguments, keyword_arguments), inputs_of(model), strict=True):
        if x is not None and len(x.shape) != len(y.shape):
            changed[id(x)] = ops.squeeze(x, -1) if len(x.shape) > len(y.shape) else ops.expand_dims(x, -1)
    return keras.tree.map_structure(lambda x: changed.get(id(x), x), (arguments, keyword_arguments))


def replayed(model: keras.Model, inputs: list, call: Callable[[Any, tuple, dict], Any]) -> Any:
    """Go through a model's graph in order of execution, with anything in the place of its tensors.

    Args:
        model: a model with a graph.
        inputs: what stands for the inputs.
        call: called with (node, arguments, keyword arguments) of each call; returns what stands for the outputs.

    Returns:
        What stands for the outputs, structured as those.
    """
    steps, graph = nodes(model), functional(model)
    known = dict(zip(map(id, keras.tree.flatten(graph.inputs)), inputs, strict=True))
    for node in steps:
        if not node.is_input:
            given = (node.arguments.args, node.arguments.kwargs)
            arguments, keyword_arguments = keras.tree.map_structure(lambda x: known.get(id(x), x), given)
            outputs = keras.tree.flatten(call(node, arguments, keyword_arguments))
            if len(outputs) != len(node.output_tensors):  # else None is one that is declared and not made
                outputs = [y for y in outputs if y is not None]
                outputs += [None] * (len(node.output_tensors) - len(outputs))
            known.update(zip(map(id, node.output_tensors), outputs, strict=True))
    return keras.tree.map_structure(lambda x: known[id(x)], graph.output)


def check_call(model: keras.Model) -> None:
    """Raise `ValueError` if a model has steps of its own, and no `call`."""
    if type(model).call is keras.Model.call:
        raise ValueError(
            f"The model {model.name!r} of type {type(model).__name__} has no `call`: nothing says what it computes. "
            "Give it one, or take the models inside one by one."
        )


def has_masks(model: keras.Model) -> bool:
    """Return whether any tensor in a model's graph, or in those of models inside, carries a mask."""
    made = [y for node in all_nodes(model) for y in node.output_tensors]
    return any(getattr(y, "_keras_mask", None) is not None for y in made)


def inputs_of(model: keras.Model) -> list:
    """Return the input tensors of a model's graph.

    Raises:
        ValueError: if the model has no graph of layers.
    """
    nodes(model)
    return keras.tree.flatten(functional(model).inputs)


def functional(model: keras.Model) -> Any:
    """Return the Functional model inside a Sequential one, else the model."""
    return model._functional if isinstance(model, keras.Sequential) else model


def is_raw_operation(operation: Any) -> bool:
    """Return whether an operation of a graph is one of `keras.ops` or `keras.activations`, no layer."""
    module = type(operation).__module__
    return not isinstance(operation, keras.Layer) and module.startswith(("keras.src.ops", "keras.src.activations"))


def name_apart(outputs: Any) -> None:
    """Give every layer and operation behind symbolic tensors a name that no other there has; inputs keep theirs.

    Code may have several of one name, which Keras refuses in a graph.
    """
    found: dict[int, Any] = {}
    waiting = keras.tree.flatten(outputs)
    while waiting:
        history = waiting.pop()._keras_history
        if id(history.operation) not in found:
            found[id(history.operation)] = history.operation
            waiting += [x for node in history.operation._inbound_nodes for x in node.input_tensors]
    inputs = [each for each in found.values() if isinstance(each, keras.layers.InputLayer)]
    names = {each.name for each in inputs}
    for each in found.values():
        if not isinstance(each, keras.layers.InputLayer):
            each.name = unused(each.name, names)


def unused(name: str, names: set[str]) -> str:
    """Return a name that is not yet in `names`, that with the fewest underscores behind it, and add it."""
    while name in names:
        name += "_"
    names.add(name)
    return name


def rebuilt(
    model: keras.Model,
    replace: Callable[[Any], Any],
    made: dict[int, Any] | None = None,
    arguments_of: Callable[[Any, tuple, dict], tuple[tuple, dict]] = lambda node, *given: given,
    graph_of: Callable[[Any, tuple, dict], Any] = lambda layer, *given: layer,
) -> keras.Model:
    """Return an uncompiled copy of a model's graph in which each layer is `replace(layer)`.

    That is a layer, or a list of layers to call one after the other. Where the first is of another class, or there is
    none, they get the first input only, and what they make of it stands for all outputs. Models inside, if they have a
    graph, are rebuilt too, and what is shared stays shared. `keras.models.clone_model` would also compile the copy,
    with a copy of the optimizer and the loss, and give models inside inputs of the old shapes.

    Args:
        model: a model with a graph.
        replace: called once with each layer or raw operation that is no model with a graph.
        made: by `id`, what has been made of layers so far.
        arguments_of: called with (node, arguments, keyword arguments) of each call in the copy; returns other ones.
        graph_of: called before `replace` with (layer, arguments, keyword arguments) of the first call in the copy;
            returns what stands for the layer.
    """
    inputs = [fresh_input(x, x.shape) for x in inputs_of(model)]
    with tolerant_symbols():
        return _rebuilt_on(model, inputs, replace, {} if made is None else made, arguments_of, graph_of)


def fresh_input(tensor: Any, batch_shape: tuple) -> Any:
    """Return a new input like one of a model, with another shape; what was open stays open."""
    layer = tensor._keras_history.operation
    batch_shape = tuple(None if old is None else new for old, new in zip(tensor.shape, batch_shape))
    config = {"optional": getattr(layer, "optional", False)} | layer.get_config() | {"batch_shape": batch_shape}
    result = keras.layers.InputLayer(**config).output
    result.name = tensor.name  # by which files for devices and dictionaries of inputs call it
    return result


def _rebuilt_on(
    model: keras.Model,
    inputs: list,
    replace: Callable[[Any], Any],
    made: dict[int, Any],
    arguments_of: Callable,
    graph_of: Callable,
) -> keras.Model:
    """Return a copy of a model that takes these tensors of `keras.Input`."""

    def new(layer: Any, arguments: tuple, keyword_arguments: dict) -> list:
        if id(layer) not in made:
            if is_inner_graph(layer):
                given = inputs_given(layer, arguments, keyword_arguments)
                fresh = [
                    fresh_input(x, x.shape if y is None else (*x.shape[:1], *y.shape[1:]))
                    for x, y in zip(inputs_of(layer), given, strict=True)
                ]
                made[id(layer)] = [_rebuilt_on(layer, fresh, replace, made, arguments_of, graph_of)]
            else:
                replaced = replace(graph_of(layer, arguments, keyword_arguments))
                made[id(layer)] = replaced if isinstance(replaced, list) else [replaced]
        return made[id(layer)]

    are_explicit = False  # masks: behind blocks that become models, nothing else tells where they are

    def call(node: Any, arguments: tuple, keyword_arguments: dict) -> Any:
        nonlocal are_explicit
        operation = node.operation
        if is_inner_graph(operation) and not is_fitted(operation, arguments, keyword_arguments):
            arguments, keyword_arguments = fitted(operation, arguments, keyword_arguments)
        is_graph = has_graph(operation)
        masked = keyword_arguments if is_graph else with_masks(operation, arguments, keyword_arguments)
        layers, masks = new(operation, arguments, masked), []
        if layers and has_graph(layers[0]):
            if not is_graph:  # a block's, which takes all tensors as one argument
                masks = getattr(layers[0], "masks_behind", lambda *_: [])(arguments, masked, len(node.output_tensors))
                tensors = tensors_in((arguments, masked))
                tensors += [mask for mask in carried_by(tensors) if mask is not None]
                arguments, keyword_arguments = (tensors[0] if len(tensors) == 1 else tensors,), {}
        elif not layers or type(layers[0]) is not type(operation):
            x = functools.reduce(lambda x, layer: layer(x), layers, tensors_in(arguments)[0])
            return [x] * len(node.output_tensors)
        elif are_explicit:
            keyword_arguments = masked
        first, *others = layers
        arguments, keyword_arguments = arguments_of(node, arguments, keyword_arguments)
        try:
            outputs = first(*arguments, **keyword_arguments)
        except Exception as error:
            raise refusal(operation, ", since it cannot be called in the copy", error) from error
        for y, mask in zip(keras.tree.flatten(outputs), masks):
            carry(y, mask)
            are_explicit = are_explicit or mask is not None
        return functools.reduce(lambda x, layer: layer(x), others, outputs)

    outputs = replayed(model, inputs, call)
    if type(model) is keras.Sequential:
        layers = [layer for old in model.layers for layer in made[id(old)]]
        result = keras.Sequential([inputs[0], *layers], name=model.name)
    else:
        structured = keras.tree.pack_sequence_as(functional(model).input, inputs)
        result = Functional(structured, outputs, name=model.name)
    result.dtype_policy = model.dtype_policy
    result._trainable = model._trainable  # the setter would also set those of all layers inside
    return result


def is_inner_graph(operation: Any) -> bool:
    """Return whether an operation of a graph is a model whose own graph says what it computes."""
    return isinstance(operation, keras.Model) and has_graph(operation) and operation.built


def refusal(layer: Any, why: str, error: Exception) -> ValueError:
    """Return the error that says why a layer cannot be rebuilt."""
    reason = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())[:300]  # Keras prints in bold letters
    return ValueError(f"The layer {layer.name!r} of type {type(layer).__name__} cannot be rebuilt{why}: {reason}")


def call(model: keras.Model, inputs: list, original: keras.Model | None = None) -> list:
    """Return the outputs of a model at inference for a flat list of inputs.

    With `original` it is called instead, on inputs that are structured as those of `model`.
    """
    single = isinstance(model, keras.Sequential)
    structured = inputs[0] if single else keras.tree.pack_sequence_as(model.input, inputs)
    return keras.tree.flatten((model if original is None else original)(structured, training=False))


def finalize_states(layer: keras.Layer) -> None:
    """Recompute what preprocessing layers, such as Normalization, derive from their weights."""
    for each in layers_of(layer):
        if hasattr(each, "finalize_state"):
            each.finalize_state()
