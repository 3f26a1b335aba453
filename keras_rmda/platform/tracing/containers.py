"""Layers of Keras that hold others, as graphs of these: a model at every step, cells on top of each other."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers as L

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
    """Return what a layer makes of every step: the steps of all samples are samples of its own."""
    if None in x.shape[2:]:
        raise Untraceable("what is inside gets open axes")
    y = layer.layer(StepsAsSamples(name="steps")(x))
    if not isinstance(y, keras.KerasTensor) or None in y.shape[1:]:
        raise Untraceable("the layer inside returns more than one tensor, or open axes")
    return SamplesAsSteps(name="samples")([y, x])


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
