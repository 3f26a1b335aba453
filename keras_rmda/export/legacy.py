"""Keras 3 models as models of tf_keras, the Keras that TensorFlow Model Optimization works with."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_rmda import _checks, _compat, _graphs, _tfmot
from keras_rmda._copies import Copies, is_unknown
from keras_rmda.pruning.verification import difference, random_inputs

TOLERANCE, LESS_PRECISE = 1e-4, 0.1
"""Largest accepted difference of outputs, relative to the largest, from models in float32 and in fewer bits."""

NEEDLESS = ("_initializer", "_regularizer", "_constraint")
"""Endings of arguments that a trained layer does not need, and that both versions write in different ways."""

RENAMED = {("LeakyReLU", "negative_slope"): "alpha"}
"""Arguments that have another name in tf_keras."""

LEFT_OUT = (keras.layers.Lambda, keras.layers.Wrapper, keras.layers.RNN)
"""Layers that hold functions or other layers."""

OPERATIONS: dict[str, Callable[[Any, Any, str], Any]] = {
    "Add": lambda layers, operation, name: layers.Add(name=name),
    "Concatenate": lambda layers, operation, name: layers.Concatenate(operation.axis, name=name),
    "Relu": lambda layers, operation, name: layers.ReLU(name=name),
    "ReLU": lambda layers, operation, name: layers.ReLU(
        operation.max_value, operation.negative_slope, operation.threshold, name=name
    ),
    "Relu6": lambda layers, operation, name: layers.ReLU(6.0, name=name),
}
"""Operations of `keras.ops` in a graph, such as x + y, as layers."""


class Unsupported(ValueError):
    """A layer that tf_keras or TensorFlow Model Optimization does not have."""


def as_tf_keras(model: keras.Model) -> Any:
    """Return a `tf_keras.Model` that computes what a Keras 3 model does; models inside are written out.

    Args:
        model: a built Functional or Sequential model.

    Returns:
        An uncompiled model in float32 with the names of layers and inputs, and the outputs as a flat list.

    Raises:
        Unsupported: naming the layers that it cannot have.
        ValueError: if the model has no graph of layers.
    """
    legacy = _tfmot.tf_keras()
    made: dict[int, Any] = {}
    names: set[str] = set()
    refused: dict[str, str] = {}

    def call(node: Any, arguments: tuple, keywords: dict[str, Any]) -> Any:
        operation, keywords = node.operation, _graphs.without_masks(keywords)
        keywords = {key: value for key, value in keywords.items() if key != "training"}  # as the whole model is called
        if _graphs.is_inner_graph(operation):
            return _graphs.replayed(operation, _graphs.inputs_given(operation, arguments, keywords), call)
        try:
            if id(operation) in made:
                return called(made[id(operation)], operation, arguments, keywords)
            made[id(operation)] = copy = legacy_layer(legacy, operation, _graphs.unused(operation.name, names))
            outputs = called(copy, operation, arguments, keywords)
            copy_weights(operation, copy)
            return outputs
        except Exception as error:  # tf_keras raises many types
            refused[operation.name] = f"{type(operation).__name__}: {_checks.first_line(error)}"
            return [legacy.Input(x.shape[1:], x.shape[0], dtype=x.dtype) for x in node.output_tensors]

    inputs = [
        legacy.Input(x.shape[1:], x.shape[0], name=x.name, dtype=keras.backend.standardize_dtype(x.dtype))
        for x in _graphs.inputs_of(model)
    ]
    outputs = keras.tree.flatten(_graphs.replayed(model, inputs, call))
    refuse(refused, "tf_keras")
    result = legacy.Model(inputs, outputs if len(outputs) > 1 else outputs[0], name=model.name)
    verify(model, result)
    return result


def legacy_layer(legacy: Any, operation: Any, name: str) -> Any:
    """Return a layer of tf_keras for a layer or operation of Keras."""
    if not isinstance(operation, keras.Layer):
        if type(operation).__name__ not in OPERATIONS or not _graphs.is_raw_operation(operation):
            raise Unsupported("there is no layer for this operation")
        return OPERATIONS[type(operation).__name__](legacy.layers, operation, name)
    kind = getattr(legacy.layers, type(operation).__name__, None)
    if isinstance(operation, LEFT_OUT):
        raise Unsupported("it holds functions or other layers")
    if kind is None or not type(operation).__module__.startswith("keras."):
        raise Unsupported("there is no such layer")
    accepted = {key for each in kind.__mro__ for key in inspect.signature(each.__init__).parameters} | {"trainable"}
    config = {key: function_of(operation, key, value) for key, value in Copies(operation).config_of(operation).items()}
    config = {RENAMED.get((kind.__name__, key), key): value for key, value in config.items()}
    config = {key: value for key, value in config.items() if key in accepted and not key.endswith(NEEDLESS)}
    return kind.from_config(config | {"name": name, "dtype": "float32"})


def function_of(layer: Any, key: str, value: Any) -> Any:
    """Return the value of a configuration, or a function in its place that is not the one of its name in tf_keras.

    It has a name of its own, since TensorFlow Model Optimization copies layers by names.
    """
    function = getattr(layer, key, None)
    if not is_unknown(function) or isinstance(function, list | dict):
        return value
    if is_that_of_its_name(function):
        return function.__name__

    def named(*arguments: Any, **keywords: Any) -> Any:
        return function(*arguments, **keywords)

    named.__name__, named.stands_for = f"{layer.name}_{key}", function
    return named


def is_that_of_its_name(function: Any) -> bool:
    """Return whether a function, such as `tf.nn.relu`, computes what the one of its name does in Keras."""
    x = keras.ops.convert_to_tensor(np.linspace(-9.0, 9.0, 1024).reshape(16, 64), "float64")
    try:
        known = keras.activations.get(function.__name__)
        return difference(known(x), function(x)) < 1e-6
    except Exception:  # whatever the user's code raises
        return False


def functions_in(model: Any) -> dict[str, Any]:
    """Return the functions of a model of tf_keras that are not its own, by their names."""
    return {x.__name__: x for layer in model.layers for x in vars(layer).values() if hasattr(x, "stands_for")}


def called(layer: Any, operation: Any, arguments: tuple, keywords: dict[str, Any]) -> Any:
    """Return what a layer of tf_keras makes of the arguments of a layer or operation of Keras."""
    if isinstance(operation, keras.Layer):
        return layer(*arguments, **{key: value for key, value in keywords.items() if value is not None})
    tensors = keras.tree.flatten((arguments, keywords))
    if any(isinstance(x, (int, float, np.ndarray)) for x in tensors):
        raise Unsupported("one of its arguments is a constant")
    return layer(tensors if len(tensors) > 1 else tensors[0])


def copy_weights(layer: Any, copy: Any) -> None:
    """Give a layer of tf_keras the weights of a Keras layer."""
    weights = [keras.ops.convert_to_numpy(v).astype("float32") for v in getattr(layer, "weights", [])]
    if weights:
        copy.set_weights(weights)


@_compat.full_precision()
def verify(model: keras.Model, copy: Any) -> None:
    """Compare both models on random inputs.

    Raises:
        Unsupported: if they differ.
    """
    inputs = random_inputs(model)
    expected = keras.tree.flatten(_graphs.call(model, inputs))
    try:
        found = keras.tree.flatten(copy(inputs if len(inputs) > 1 else inputs[0], training=False))
    except Exception as error:  # tf_keras raises many types
        raise Unsupported(
            f"tf_keras cannot run the model {model.name!r} on random inputs: {_checks.first_line(error)}"
        ) from error
    largest = max(difference(a, np.asarray(b)) for a, b in zip(expected, found, strict=True))
    precise = all(layer.compute_dtype in ("float32", "float64") for layer in _compat.layers_of(model))
    if not largest <= (TOLERANCE if precise else LESS_PRECISE):
        raise Unsupported(
            f"The model {model.name!r} computes something else in tf_keras: outputs differ by {largest:.3g} relative "
            "to the largest. Arguments of its layers mean something else there."
        )


def refuse(layers: dict[str, str], what: str) -> None:
    """Raise an error if there is any layer; `layers` are reasons by name."""
    if layers:
        listed = "; ".join(f"{name!r} ({reason})" for name, reason in layers.items())
        raise Unsupported(f"Quantization-aware training cannot have these layers, because of {what}: {listed}")
