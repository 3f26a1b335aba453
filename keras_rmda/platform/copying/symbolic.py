"""Graphs of layers out of code: of subclassed models, and of blocks, which are layers that consist of layers."""

from __future__ import annotations

import contextlib
import functools
import itertools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_rmda.platform import graphs
from keras_rmda.platform.compat import layers_of
from keras_rmda.platform.copying.shapes_in_model import ShapesInModel, is_of_no_sample
from keras_rmda.platform.graphs import has_graph, nodes
from keras_rmda.platform.hidden import carried_by, mask_of, masks_behind
from keras_rmda.platform.runs import first_calls
from keras_rmda.platform.tolerant import MADE_BY_CODE
from keras_rmda.platform.tracing import Untraceable, dtype_for, traced, traced_model
from keras_rmda.platform.tracing.containers import graph_of, is_container
from keras_rmda.platform.tracing.tensorflow import tensorflow_as_operations

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
    MADE_BY_CODE.clear()  # layers may have changed
    with _forgetting_calls(model):
        graph = _graph_of(model)
        shapes = ShapesInModel(graph)
        yield _expanded(graph, is_known, shapes, all(x.shape[:1] != (None,) for x in graph.inputs))


@contextlib.contextmanager
def _forgetting_calls(model: keras.Model) -> Iterator[None]:
    """Let the layers of a model forget, behind the context, how they were called inside, and on which tensors.

    Keras remembers all calls on symbolic tensors, and `layer.output` raises where there are several.
    """
    layers = layers_of(model) if isinstance(model, keras.Model) else []
    inner = [layer for layer in layers if graphs.is_inner_graph(layer)]
    layers += [node.operation for graph in inner for node in nodes(graph)]
    counts = [(layer, layer.name, len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in layers]
    try:
        yield
    finally:
        for layer, name, inbound, outbound in counts:
            layer.name = name
            del layer._inbound_nodes[inbound:], layer._outbound_nodes[outbound:]


def _graph_of(model: keras.Model) -> keras.Model:
    """Return a model with a graph that has the layers of this one."""
    if not isinstance(model, keras.Model) or graphs.has_graph(model):
        nodes(model)
        return model
    graphs.check_call(model)
    if not model.built:
        raise ValueError(
            f"The model {model.name!r} is not built: it has no shapes and no weights yet. Call it on data first."
        )
    known = getattr(graphs.functional(model), "inputs", None) or model.get_build_config()
    if not known:
        known = inputs_like_those_inside(model)
    if not known:
        cause = innermost(model)
        raise ValueError(
            f"The model {model.name!r} of type {type(model).__name__} is subclassed, and nobody knows the shapes of "
            f"its inputs: Keras cannot run the `call` of {cause.name!r} of type {type(cause).__name__} on symbolic "
            "tensors, as `model(keras.Input(...))` shows; write it with `keras.ops` that take sizes of None, too."
        )
    if isinstance(known, dict) and "input_shape" not in known:
        raise ValueError(
            f"The model {model.name!r} of type {type(model).__name__} is subclassed, and its `build` takes several "
            "shapes: write it with one argument for all inputs, or as a Functional model."
        )

    if isinstance(known, dict):
        inputs = of_a_type_that_runs(model, known["input_shape"])
    else:
        inputs = keras.tree.map_structure(lambda x: graphs.fresh_input(x, x.shape), graphs.functional(model).input)
    try:
        return traced_model(model, inputs)
    except Untraceable as why:
        raise ValueError(
            f"The model {model.name!r} of type {type(model).__name__} is subclassed, and its `call` cannot be traced "
            "on symbolic inputs: no graph of layers says what it computes. Write it with layers and `keras.ops`, with "
            f"one argument for all inputs, or as a Functional model. ({why})"
        ) from why


def of_a_type_that_runs(model: keras.Model, shapes: Any) -> Any:
    """Return symbolic inputs of these shapes, of numbers, or else of integers, which indices have to be.

    Keras writes down the shapes that a model was built with, but not their types, and lets symbolic tensors of any type
    be indices.
    """

    def inputs(shape: Any, types: Iterator[str], make: Callable, name: str | None = None) -> Any:
        if isinstance(shape, dict):
            return {key: inputs(each, types, make, key) for key, each in shape.items()}
        if any(isinstance(each, list | tuple) for each in shape):
            return [inputs(each, types, make) for each in shape]
        return make(tuple(shape[1:]), next(types), name)

    count = len(keras.tree.flatten(inputs(shapes, itertools.repeat(""), lambda *given: 0)))
    zeros = lambda shape, dtype, name: keras.ops.zeros((1, *(n or 8 for n in shape)), dtype)  # noqa: E731
    ways = itertools.product(("float32", "int32"), repeat=count) if count < 4 else []
    for types in (*ways, ("float32",) * count, ("int32",) * count):
        with contextlib.suppress(Exception), keras.StatelessScope():  # whatever the user's code raises or assigns
            model(inputs(shapes, iter(types), zeros), training=False)
            break
    else:
        types = ("float32",) * count
    return inputs(shapes, iter(types), lambda shape, dtype, name: keras.Input(shape, dtype=dtype, name=name))


def inputs_like_those_inside(model: keras.Model) -> dict[str, tuple] | None:
    """Return, as Keras writes it down, the shape of an only input: one with which all layers inside get what they got.

    Keras writes down that of layers, but not that of a model whose `call` it can run on numbers only.
    """
    built = [layer.get_build_config() or {} if layer.built else {} for layer in layers_of(model)]
    known = [(layer, x.get("input_shape")) for layer, x in zip(layers_of(model), built)]
    known = [(layer, tuple(shape)) for layer, shape in known[1:] if graphs.is_shape(shape) and None not in shape]
    for shape in dict.fromkeys(shape for _, shape in known):
        with contextlib.suppress(Exception), keras.StatelessScope():  # whatever the user's code raises or assigns
            called = first_calls(model, keras.ops.zeros(shape))
            if all(called.get(id(layer), expected) == expected for layer, expected in known):
                return {"input_shape": (None, *shape[1:])}
    return None


def innermost(model: keras.Model) -> keras.Layer:
    """Return the innermost layer whose `call` Keras could not run on symbolic tensors, for a model built by numbers.

    Keras builds what has layers inside by such a run, and notes the shapes of inputs only where that works.
    """
    consists = lambda layer: getattr(layer, "_layers", []) and not type(layer).__module__.startswith("keras.")  # noqa: E731
    failed = [layer for layer in layers_of(model) if consists(layer) and not layer.get_build_config()]
    is_last = lambda layer: not any(x in failed for x in layers_of(layer) if x is not layer)  # noqa: E731
    return next(filter(is_last, failed), model)


def _expanded(model: keras.Model, is_known: IsKnown, shapes: ShapesInModel, is_of_samples: bool) -> keras.Model:
    """Return a model in which the blocks of a model with a graph are models with graphs, and get what they take.

    `shapes` tells the shapes of the tensors in it.

    Where the whole model takes any number of samples, a tensor whose first axis is of known size has none for them;
    `is_of_samples` is false there.
    """
    calls: dict[int, list] = {}
    is_fitted, read = True, keras.tree.flatten(graphs.functional(model).outputs)
    is_dense = not any(x.sparse for x in graphs.inputs_of(model))
    for node in _nodes_inside(model):
        read += node.input_tensors
        if graphs.is_inner_graph(node.operation):
            given = node.operation, node.arguments.args, node.arguments.kwargs
            is_fitted = is_fitted and graphs.is_fitted(*given)
            shapes.note(graphs.inputs_of(node.operation), graphs.inputs_given(*given))
        is_fitted = is_fitted and not (is_dense and _takes_sparse(node))
        if is_container(node.operation) or (_is_code(node.operation) and not is_known(node.operation)):
            calls.setdefault(id(node.operation), []).append(node)
    expansions = {}

    def expanded(layer: Any, *given: Any) -> Any:
        """Return the graph of a block, on what it gets from the graphs of those before it: they may declare others."""
        if id(layer) in calls:
            try:
                graph = _traced(calls[id(layer)], given, is_of_samples, read, shapes)
                expansions[id(layer)] = _expanded(graph, is_known, shapes, is_of_samples)
            except Untraceable as why:
                UNTRACEABLE[layer] = str(why)
        return expansions.get(id(layer), layer)

    if not calls and is_fitted:
        return model
    result = graphs.rebuilt(model, lambda layer: layer, graph_of=expanded)
    return result if expansions or not is_fitted else model


def _takes_sparse(node: Any) -> bool:
    """Return whether code has got a tensor that Keras calls sparse, as it does with `x * 2.0`, and forgot its shape."""
    is_of_keras = type(node.operation).__module__.startswith("keras.")
    return not is_of_keras and any(x.sparse for x in node.input_tensors)


def _nodes_inside(model: keras.Model) -> Iterator[Any]:
    """Give the calls in a graph and in those of the models inside."""
    for node in nodes(model):
        yield node
        if graphs.is_inner_graph(node.operation):
            yield from _nodes_inside(node.operation)


CELLS = (keras.layers.SimpleRNNCell, keras.layers.GRUCell, keras.layers.LSTMCell)
"""Layers of Keras that code calls in loops of its own, and whose code says what one step computes."""


def _is_code(layer: Any) -> bool:
    """Return whether a layer is not of Keras, or is a function, so that its code has to say what it computes."""
    if is_function(layer):
        return getattr(layer, "mask", None) is None
    if type(layer) in CELLS:
        return True
    return isinstance(layer, keras.Layer) and not type(layer).__module__.startswith("keras.") and not has_graph(layer)


def is_function(layer: Any) -> bool:
    """Return whether a layer of Keras is nothing but a function of the user's."""
    return type(layer) in (keras.layers.Lambda, keras.layers.Activation)


def _traced(
    calls: list, first: tuple[tuple, dict], is_of_samples: bool, read: list, shapes: ShapesInModel
) -> keras.Model:
    """Return the graph of a layer's code on these arguments of the first call, if all calls say the same.

    What a layer declares behind all that it makes is None, and must be none of the tensors that are `read`.
    """
    layer = calls[0].operation
    if layer.activity_regularizer is not None:
        raise Untraceable("it has an activity regularizer")
    given = [(node.arguments.args, dict(node.arguments.kwargs)) for node in calls]
    if len({tuple(mask is None for mask in carried_by(each)) for each in given}) > 1:
        raise Untraceable("it gets masks at some calls, and none at others")
    if any([keywords.pop("training", None) for _, keywords in given]):
        raise Untraceable("it is called with training=True")
    if len({_signature(each, layer) for each in given}) > 1:
        raise Untraceable("it is called in several ways, or on several shapes")
    arguments, keyword_arguments = first
    keyword_arguments = {key: x for key, x in keyword_arguments.items() if key != "training"}
    if is_container(layer):
        graph = graph_of(layer, arguments, keyword_arguments)
    else:
        masks = carried_by((arguments, keyword_arguments))
        tensors = graphs.tensors_in((arguments, keyword_arguments))
        samples_elsewhere = not is_of_samples and any(map(is_without_samples_in_front, tensors))
        before = [[*graphs.tensors_in(each), *(x for x in carried_by(each) if x is not None)] for each in given]
        sizes = lambda: shapes.sizes(before, samples_elsewhere)  # noqa: E731
        graph = traced(layer, arguments, keyword_arguments, masks, is_of_samples, sizes, samples_elsewhere)
        for each in before if len(before[0]) == len(graph.inputs) else ():  # else masks are known here only
            shapes.note(graph.inputs, each)
        if any(mask_of(y) is not None for node in calls for y in node.output_tensors):
            graph.masks_behind = functools.partial(_masks_behind, layer)
            graph.masks_behind(arguments, keyword_arguments, len(graph.outputs))
    made, declared = len(keras.tree.flatten(graph.outputs)), len(calls[0].output_tensors)
    surplus = {id(y) for node in calls for y in node.output_tensors[made:]}
    if made > declared or any(id(x) in surplus for x in read):
        raise Untraceable(f"it returns {made} tensors, and declares {declared}")
    return graph


def is_without_samples_in_front(x: Any) -> bool:
    """Return whether the first axis of a tensor may be none of samples in a model of any number of samples."""
    return is_of_no_sample(x) if x.shape[:1] == (None,) else None in x.shape[1:]


def _masks_behind(layer: keras.Layer, arguments: tuple, keyword_arguments: dict, count: int) -> list:
    """Return the masks that the outputs of a block carry."""
    try:
        with tensorflow_as_operations():
            return masks_behind(layer, arguments, keyword_arguments, count)
    except Exception as error:  # whatever the user's code raises
        reason = " ".join(str(error).split())[:200]
        raise Untraceable(f"its `compute_mask` does not take symbolic tensors: {reason}") from error


def _signature(arguments: Any, layer: keras.Layer) -> str:
    """Return what code can make a difference between in arguments: shapes and types, and what is no tensor."""
    is_tensor = lambda x: isinstance(x, keras.KerasTensor)  # noqa: E731
    describe = lambda x: (x.shape, dtype_for(x, layer)) if is_tensor(x) else repr(x)  # noqa: E731
    return repr(keras.tree.map_structure(describe, arguments))
