"""Layers of Keras that hold others, as graphs of these: a model at every step, cells on top of each other."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers as L

from keras_rmda.platform import graphs
from keras_rmda.platform.graphs import Functional
from keras_rmda.platform.tracing.leaves import SamplesAsSteps, StepsAsSamples
from keras_rmda.platform.tracing.programs import Untraceable


def is_container(layer: Any) -> bool:
    """Return whether a layer of Keras holds a model, a layer of a user's or several cells, which say what it does."""
    if type(layer) is L.TimeDistributed:
        inner = layer.layer
        return isinstance(inner, keras.Model) or is_container(inner) or not type(inner).__module__.startswith("keras.")
    return type(layer) is L.RNN and isinstance(layer.cell, L.StackedRNNCells)


def graph_of(layer: keras.Layer, arguments: tuple, keyword_arguments: dict) -> Functional:
    """Return what such a layer computes at inference.

    Raises:
        Untraceable: if it is called with more than one tensor, or where no graph says the same.
    """
    given = [x for x in keras.tree.flatten((arguments, keyword_arguments)) if x is not None]
    if (
        len(given) != 1
        or not isinstance(given[0], keras.KerasTensor)
        or getattr(given[0], "_keras_mask", None) is not None
    ):
        raise Untraceable("it is called with a mask, or with a state")
    inputs = keras.Input(given[0].shape[1:], dtype=given[0].dtype)
    outputs = (distributed if type(layer) is L.TimeDistributed else stacked)(layer, inputs)
    result = Functional(inputs, outputs, name=layer.name)
    result.dtype_policy, result._trainable = layer.dtype_policy, layer._trainable
    return result


def distributed(layer: L.TimeDistributed, x: Any) -> Any:
    """Return what a layer makes of every step: the steps of all samples are samples of its own.

    What keeps statistics of batches, such as batch normalization, sees one step of all samples after the other.
    """
    if None in x.shape[2:]:
        raise Untraceable("what is inside gets open axes")
    y = StepsAsSamples(name="steps")(x)
    y = _step_by_step(layer.layer, [y], x) if keeps_statistics(layer.layer) else layer.layer(y)
    if not isinstance(y, keras.KerasTensor) or None in y.shape[1:]:
        raise Untraceable("the layer inside returns more than one tensor, or open axes")
    return SamplesAsSteps(name="samples")([y, x])


def keeps_statistics(layer: Any) -> bool:
    """Return whether training changes variables of a layer, by the batch that it gets, or adds losses of the batch."""
    inside = layer._flatten_layers() if isinstance(layer, keras.Layer) else ()
    return any(isinstance(each, L.BatchNormalization) or _has_statistics(each) for each in inside)


def _has_statistics(layer: keras.Layer) -> bool:
    variables = layer._non_trainable_variables
    return getattr(layer, "activity_regularizer", None) is not None or (layer.trainable and bool(variables))


def _step_by_step(model: Any, inputs: list, steps: Any) -> Any:
    """Return what a model makes of samples that are the steps of others, which it sees one after the other."""
    if not graphs.has_graph(model):
        raise Untraceable("what is inside keeps statistics of each step, or has losses")
    around: dict[int, keras.Layer] = {}

    def call(node: Any, arguments: tuple, keyword_arguments: dict) -> Any:
        operation = node.operation
        if not keeps_statistics(operation) or keyword_arguments.get("training") is False:
            return operation(*arguments, **keyword_arguments)
        given = [x for x in keras.tree.flatten((arguments, keyword_arguments)) if isinstance(x, keras.KerasTensor)]
        if isinstance(operation, keras.Model):
            return _step_by_step(operation, given, steps)
        is_told = any(x is not None for x in keyword_arguments.values())
        if len(given) != 1 or is_told or getattr(operation, "activity_regularizer", None) is not None:
            raise Untraceable(f"{operation.name!r} inside keeps statistics of each step, or has losses")
        layer = around.setdefault(id(operation), L.TimeDistributed(operation, name=f"{operation.name}_at_steps"))
        y = layer(SamplesAsSteps(name=f"{operation.name}_samples")([*given, steps]))
        return StepsAsSamples(name=f"{operation.name}_steps")(y)

    return graphs.replayed(model, inputs, call)


def stacked(layer: L.RNN, x: Any) -> Any:
    """Return what cells on top of each other make of a sequence: layers, one behind the other, with these cells."""
    if layer.return_state or layer.stateful or any(isinstance(cell, L.StackedRNNCells) for cell in layer.cell.cells):
        raise Untraceable("it returns or keeps states")
    last = len(layer.cell.cells) - 1
    for k, cell in enumerate(layer.cell.cells):
        settings = {
            "return_sequences": layer.return_sequences or k < last,
            "go_backwards": layer.go_backwards and k == 0,
        }
        x = L.RNN(cell, unroll=layer.unroll, name=f"cell_{k}", dtype=layer.dtype_policy, **settings)(x)
    return x
