"""Graphs of layers out of code: of subclassed models, and of blocks, which are layers that consist of layers."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_rmda import _graphs
from keras_rmda._compat import layers_of
from keras_rmda._graphs import has_graph, nodes
from keras_rmda.tracing import Untraceable, dtype_for, traced, traced_model

IsKnown = Callable[[keras.Layer], bool]
"""Tells layers that must not be looked into, since it is known what they do."""

UNTRACEABLE: weakref.WeakKeyDictionary[keras.Layer, str] = weakref.WeakKeyDictionary()
"""Why the code of layers could not be traced when it was last tried."""


@contextlib.contextmanager
def as_graph(model: keras.Model, is_known: IsKnown) -> Iterator[keras.Model]:
    """Give, inside the context, a model whose graph says what a model computes, and which has the same layers.

    That is the model itself; or what its `call` makes of symbolic inputs, if it is subclassed. The same is done with
    the blocks inside: calls of one become calls of a model of the same name. Behind the context the layers have
    forgotten the calls on symbolic inputs.

    Args:
        model: a built model.
        is_known: tells blocks that stay as they are.

    Raises:
        ValueError: if the model is not built, or its `call` cannot be traced.
    """
    with _forgetting_calls(model):
        yield _expanded(_graph_of(model), is_known)


@contextlib.contextmanager
def _forgetting_calls(model: keras.Model) -> Iterator[None]:
    """Let the layers of a model forget, behind the context, on which symbolic tensors they were called inside.

    Keras remembers all such calls, and `layer.output` raises where there are several.
    """
    layers = layers_of(model) if isinstance(model, keras.Model) else []
    graphs = [layer for layer in layers if _graphs.is_inner_graph(layer)]
    layers += [node.operation for graph in graphs for node in nodes(graph)]
    counts = [(layer, len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in layers]
    try:
        yield
    finally:
        for layer, inbound, outbound in counts:
            del layer._inbound_nodes[inbound:], layer._outbound_nodes[outbound:]


def _graph_of(model: keras.Model) -> keras.Model:
    """Return a model with a graph that has the layers of this one."""
    if not isinstance(model, keras.Model) or _graphs.has_graph(model):
        nodes(model)
        return model
    known = model.built and (getattr(_graphs.functional(model), "inputs", None) or model.get_build_config())
    if not known:
        raise ValueError(
            f"The model {model.name!r} is not built: it has no shapes and no weights yet. Call it on data first."
        )

    def symbolic(shape: Any, name: str | None = None) -> Any:
        if isinstance(shape, dict):
            return {key: symbolic(each, key) for key, each in shape.items()}
        if any(isinstance(each, list | tuple) for each in shape):
            return [symbolic(each) for each in shape]
        return keras.Input(shape=tuple(shape[1:]), name=name)

    if isinstance(known, dict):
        inputs = symbolic(known["input_shape"])
    else:
        inputs = keras.tree.map_structure(lambda x: _graphs.fresh_input(x, x.shape), _graphs.functional(model).input)
    try:
        return traced_model(model, inputs)
    except Untraceable as why:
        raise ValueError(
            f"The model {model.name!r} of type {type(model).__name__} is subclassed, and its `call` cannot be traced "
            "on symbolic inputs: no graph of layers says what it computes. Write it with layers and `keras.ops`, with "
            f"one argument for all inputs, or as a Functional model. ({why})"
        ) from why


def _expanded(model: keras.Model, is_known: IsKnown) -> keras.Model:
    """Return a model in which the blocks of a model with a graph are models with graphs."""
    calls: dict[int, list] = {}
    for node in _nodes_inside(model):
        if _is_code(node.operation) and not is_known(node.operation):
            calls.setdefault(id(node.operation), []).append(node)
    graphs = {}
    for key, of in calls.items():
        try:
            graphs[key] = _expanded(_traced(of), is_known)
        except Untraceable as why:
            UNTRACEABLE[of[0].operation] = str(why)
    return _graphs.rebuilt(model, lambda layer: graphs.get(id(layer), layer)) if graphs else model


def _nodes_inside(model: keras.Model) -> Iterator[Any]:
    """Give the calls in a graph and in those of the models inside."""
    for node in nodes(model):
        yield node
        if _graphs.is_inner_graph(node.operation):
            yield from _nodes_inside(node.operation)


def _is_code(layer: Any) -> bool:
    """Return whether a layer is not of Keras, or is a function, so that its code has to say what it computes."""
    if is_function(layer):
        return getattr(layer, "mask", None) is None
    return isinstance(layer, keras.Layer) and not type(layer).__module__.startswith("keras.") and not has_graph(layer)


def is_function(layer: Any) -> bool:
    """Return whether a layer of Keras is nothing but a function of the user's."""
    return type(layer) in (keras.layers.Lambda, keras.layers.Activation)


def _traced(calls: list) -> keras.Model:
    """Return the graph of a layer's code, if it says the same at all of its calls."""
    layer = calls[0].operation
    if layer.activity_regularizer is not None:
        raise Untraceable("it has an activity regularizer")
    given = [(node.arguments.args, dict(node.arguments.kwargs)) for node in calls]
    if any([keywords.pop("training", None) for _, keywords in given]):
        raise Untraceable("it is called with training=True")
    if len({_signature(each, layer) for each in given}) > 1:
        raise Untraceable("it is called in several ways, or on several shapes")
    return traced(layer, *given[0])


def _signature(arguments: Any, layer: keras.Layer) -> str:
    """Return what code can make a difference between in arguments: shapes and types, and what is no tensor."""
    is_tensor = lambda x: isinstance(x, keras.KerasTensor)  # noqa: E731
    describe = lambda x: (x.shape, dtype_for(x, layer)) if is_tensor(x) else repr(x)  # noqa: E731
    return repr(keras.tree.map_structure(describe, arguments))
