"""Layers of tf_keras that TensorFlow Model Optimization can round, in the place of layers of Keras 3."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_rmda.platform import graphs, lite, tfmot
from keras_rmda.platform.copying.copies import Copies, is_unknown
from keras_rmda.platform.copying.likeness import is_that_of_its_name

NEEDLESS = ("_initializer", "_regularizer", "_constraint")
"""Endings of arguments that a trained layer does not need, and that both versions write in different ways."""

RENAMED = {("LeakyReLU", "negative_slope"): "alpha"}
"""Arguments that have another name in tf_keras."""

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

DEPTHWISE = ("kernel_size", "strides", "padding", "depth_multiplier", "dilation_rate")
"""Arguments of a separable convolution that are of its first half."""

POINTWISE = ("filters", "use_bias", "activation")
"""Arguments of a separable convolution that are of its second half."""


@dataclass(frozen=True)
class Piece:
    """A layer of tf_keras with its weights, or a function to carry.

    Attributes:
        layer: None for a function.
        weights: of the layer.
        function: of Keras.
        name: for the layer that carries it.
    """

    layer: Any = None
    weights: Sequence[np.ndarray] = ()
    function: Any = None
    name: str = ""


def pieces(operation: Any, names: set[str], is_alone: bool, shape: tuple[int | None, ...]) -> list[Piece]:
    """Return what stands for a layer or operation of Keras, one after the other; nothing if there is no such.

    Args:
        operation: the layer.
        names: those taken; gets those of the layers.
        is_alone: whether a batch normalization gets a convolution before it that hands on what it gets, with which it
            becomes one in a file.
        shape: of its input.
    """
    legacy, name, kind = tfmot.tf_keras().layers, lite.scope_name(operation.name), type(operation).__name__
    if not isinstance(operation, keras.Layer):
        make = OPERATIONS.get(kind) if graphs.is_raw_operation(operation) else None
        return [Piece(make(legacy, operation, graphs.unused(name, names)))] if make else []
    function = getattr(operation, "activation", None)
    known = None if function is None else activation_name(function)
    is_apart = function is not None and known is None
    if is_apart and kind == "Activation":
        return []
    weights = [keras.ops.convert_to_numpy(v).astype("float32") for v in operation.weights]
    try:
        config = legacy_config(operation, {} if function is None else {"activation": known or "linear"})
        found = layers_of_kind(operation, config, weights, is_alone, shape)
    except Exception:  # tf_keras raises many types where arguments mean something else to it
        return []
    if not found:
        return []
    *first, last = [layer for layer, _ in found]
    for each in first:
        each._name = graphs.unused(f"{name}_{type(each).__name__.lower()}", names)
    last._name = graphs.unused(f"{name}_linear" if is_apart else name, names)
    activation = [Piece(function=function, name=graphs.unused(name, names))] if is_apart else []
    return [Piece(layer, given) for layer, given in found] + activation


def layers_of_kind(
    operation: Any, config: dict[str, Any], weights: list[np.ndarray], is_alone: bool, shape: tuple[int | None, ...]
) -> list[tuple[Any, list]]:
    """Return layers of tf_keras, each with its weights, that compute what a layer of Keras of a configuration does."""
    legacy, kind = tfmot.tf_keras().layers, type(operation).__name__
    if kind == "SeparableConv2D":
        depthwise = legacy.DepthwiseConv2D(use_bias=False, **{key: config[key] for key in DEPTHWISE})
        pointwise = legacy.Conv2D(kernel_size=1, **{key: config[key] for key in POINTWISE})
        return [(depthwise, weights[:1]), (pointwise, weights[1:])]
    if kind == "Reshape":  # tf_keras leaves a size to TensorFlow, whose converter does not find it for an open batch
        ends = operation.compute_output_shape(shape)[1:]
        config["target_shape"] = [-1 if n is None else n for n in ends]
    layer = getattr(legacy, kind).from_config(config)
    if kind != "BatchNormalization":
        return [(layer, weights)] if tfmot.can_quantize(layer) else []
    if not is_alone:
        return [(layer, weights)]
    if len(shape) != 4 or operation.axis not in (-1, 3):
        return []
    # TensorFlow's oneDNN takes a depthwise convolution of one channel for another one with a bias, and raises an error.
    several, options = len(weights[0]) > 1, {"use_bias": False, "trainable": False}
    same = legacy.DepthwiseConv2D(1, **options) if several else legacy.Conv2D(1, 1, **options)
    return [(same, [np.ones((1, 1, len(weights[0]), 1), "float32")]), (layer, weights)]


def legacy_config(layer: Any, changes: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of a layer as that of tf_keras of its name takes it."""
    kind = getattr(tfmot.tf_keras().layers, type(layer).__name__)
    if not type(layer).__module__.startswith("keras."):
        raise ValueError("It is another of the same name.")
    accepted = {key for each in kind.__mro__ for key in inspect.signature(each.__init__).parameters} | {"trainable"}
    config = Copies(layer).config_of(layer) | changes
    config = {RENAMED.get((kind.__name__, key), key): value for key, value in config.items()}
    config = {key: value for key, value in config.items() if key in accepted and not key.endswith(NEEDLESS)}
    return config | {"dtype": "float32"}


def activation_name(function: Any) -> str | None:
    """Return the name of the activation of tf_keras that a function is, if that can be rounded."""
    name = getattr(function, "__name__", "")
    try:
        legacy = tfmot.tf_keras().activations.get(name)
        is_known = not is_unknown(function) or is_that_of_its_name(function)
        return name if is_known and tfmot.can_round(legacy) else None
    except Exception:  # Keras raises many types for a name that it does not know
        return None
