"""Graphs of layers out of code: of subclassed models, and of blocks, which are layers that consist of layers."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_rmda import _graphs
from keras_rmda._compat import layers_of
from keras_rmda._graphs import Functional, nodes, tensors_in

IsKnown = Callable[[keras.Layer], bool]
"""Tells layers that must not be looked into, since it is known what they do."""


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
        graph = Functional(inputs, model.call(inputs), name=model.name)
        _refuse_variables(graph)
    except Exception as error:  # whatever the user's code raises
        raise ValueError(
            f"The model {model.name!r} of type {type(model).__name__} is subclassed, and its `call` cannot be traced "
            "on symbolic inputs: no graph of layers says what it computes. Write it with layers and `keras.ops`, with "
            f"one argument for all inputs, or as a Functional model. ({' '.join(str(error).split())[:200]})"
        ) from error
    graph._trainable = model._trainable
    return graph


def _expanded(model: keras.Model, is_known: IsKnown) -> keras.Model:
    """Return a model in which the blocks of a model with a graph are models with graphs."""
    calls: dict[int, list] = {}
    for node in _nodes_inside(model):
        if _is_block(node.operation) and not is_known(node.operation):
            calls.setdefault(id(node.operation), []).append(node)
    graphs = {key: _expanded(graph, is_known) for key, of in calls.items() if (graph := _traced(of)) is not None}
    return _graphs.rebuilt(model, lambda layer: graphs.get(id(layer), layer)) if graphs else model


def _nodes_inside(model: keras.Model) -> Iterator[Any]:
    """Give the calls in a graph and in those of the models inside."""
    for node in nodes(model):
        yield node
        if _graphs.is_inner_graph(node.operation):
            yield from _nodes_inside(node.operation)


def _is_block(layer: Any) -> bool:
    """Return whether a layer is not of Keras, and consists of layers that have all of its weights."""
    if not isinstance(layer, keras.Layer) or type(layer).__module__.startswith("keras.") or _graphs.has_graph(layer):
        return False
    inside = [each for each in layers_of(layer) if each is not layer]
    own = {id(weight) for weight in layer.weights} - {id(weight) for each in inside for weight in each.weights}
    return bool(inside) and not own and layer.activity_regularizer is None


def _traced(calls: list) -> keras.Model | None:
    """Return what a block makes of symbolic inputs, or None if its code does not say, or says several things."""
    layer = calls[0].operation
    given = [(node.arguments.args, dict(node.arguments.kwargs)) for node in calls]
    trains = any([keywords.pop("training", None) for _, keywords in given])
    if trains or len({_signature(each, layer) for each in given}) > 1:
        return None

    def graph(**training: Any) -> keras.Model:
        arguments, keyword_arguments = keras.tree.map_structure(lambda x: _input_like(x, layer), given[0])
        outputs = layer.call(*arguments, **keyword_arguments, **training)
        inputs = tensors_in((arguments, keyword_arguments))
        return Functional(inputs[0] if len(inputs) == 1 else inputs, outputs, name=layer.name)

    try:
        if "training" not in inspect.signature(layer.call).parameters:
            result = graph()
        else:
            # What the layers inside do at training is theirs; what the code itself does then is lost.
            result, others = graph(training=None), [graph(training=True), graph(training=False)]
            if any(_program(other) != _program(result) for other in others):
                return None
        _refuse_variables(result)
    except Exception:  # whatever the user's code raises: the block stays opaque
        return None
    result.dtype_policy, result._trainable = layer.dtype_policy, layer._trainable
    return result


def _input_like(x: Any, layer: keras.Layer) -> Any:
    """Return an input like a tensor that a layer gets, as it casts it, and anything else as it is."""
    return keras.Input(batch_shape=x.shape, dtype=_dtype(x, layer)) if isinstance(x, keras.KerasTensor) else x


def _signature(arguments: Any, layer: keras.Layer) -> str:
    """Return what code can make a difference between in arguments: shapes and types, and what is no tensor."""
    is_tensor = lambda x: isinstance(x, keras.KerasTensor)  # noqa: E731
    return repr(keras.tree.map_structure(lambda x: (x.shape, _dtype(x, layer)) if is_tensor(x) else repr(x), arguments))


def _dtype(x: keras.KerasTensor, layer: keras.Layer) -> str:
    """Return the type to which a layer casts a tensor."""
    return layer.compute_dtype if layer.autocast and "float" in x.dtype else x.dtype


def _program(model: keras.Model) -> list:
    """Return which layers and operations a graph calls, with which numbers."""
    steps = []
    for node in nodes(model):
        layer = node.operation
        numbers = [x for x in keras.tree.flatten(node.arguments.args) if isinstance(x, int | float)]
        if not node.is_input:
            steps.append((id(layer) if isinstance(layer, keras.Layer) else type(layer).__name__, numbers))
    return steps


def _refuse_variables(graph: keras.Model) -> None:
    """Raise `ValueError` if operations of a graph use weights that no layer of it brings along."""
    for node in nodes(graph):
        for x in keras.tree.flatten((node.arguments.args, node.arguments.kwargs)):
            if isinstance(x, keras.Variable):
                raise ValueError(f"the weight {x.path!r} is used outside of a layer")
