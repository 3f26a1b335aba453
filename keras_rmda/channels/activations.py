"""Constants through activations, normalizations and pooling."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.channels.rule import Read

ELEMENTWISE = frozenset([
    "linear", "relu", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu", "silu", "mish", "sigmoid", "hard_sigmoid",
    "log_sigmoid", "sparse_sigmoid", "hard_silu", "tanh", "hard_tanh", "tanh_shrink", "hard_shrink", "soft_shrink",
    "threshold", "softplus", "sparse_plus", "squareplus", "softsign", "exponential",
])  # fmt: skip
"""Names of the Keras activations that look at each number by itself."""


ELEMENTWISE_LAYERS = (keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU)


def is_elementwise(activation: Callable | None) -> bool:
    """Return whether an activation is known to look at each number by itself."""
    if activation is None or type(activation) in ELEMENTWISE_LAYERS:
        return True
    name = getattr(activation, "__name__", "")
    backends = [getattr(sys.modules.get(backend), "nn", None) for backend in ("tensorflow", "jax")]
    modules = [keras.activations, keras.ops, *backends]
    return name in ELEMENTWISE and any(getattr(module, name, None) is activation for module in modules)


PIECEWISE_LINEAR = frozenset(["linear", "relu", "leaky_relu"])
"""Names of the Keras activations with f(z x) = z f(x) for z >= 0."""

HOMOGENEOUS_LAYERS = (
    keras.layers.LeakyReLU, keras.layers.PReLU, keras.layers.Identity, keras.layers.Dropout,
    keras.layers.SpatialDropout1D, keras.layers.SpatialDropout2D, keras.layers.SpatialDropout3D,
    keras.layers.MaxPooling1D, keras.layers.MaxPooling2D, keras.layers.MaxPooling3D,
    keras.layers.AveragePooling1D, keras.layers.AveragePooling2D, keras.layers.AveragePooling3D,
    keras.layers.ZeroPadding1D, keras.layers.ZeroPadding2D, keras.layers.ZeroPadding3D,
)  # fmt: skip
"""Layers that change each channel by itself, at inference with f(z x) = z f(x) for z >= 0."""


def is_homogeneous(operation: Any) -> bool:
    """Return whether a layer or an activation is known to have f(z x) = z f(x) for z >= 0, in each channel."""
    if operation is None or type(operation) in HOMOGENEOUS_LAYERS:
        return True
    if type(operation) is keras.layers.Activation:
        return is_homogeneous(operation.activation)
    if type(operation) is keras.layers.ReLU:
        return operation.max_value is None and operation.threshold == 0
    return is_elementwise(operation) and getattr(operation, "__name__", "") in PIECEWISE_LINEAR


def evaluate(layer: Any, function: Callable, values: np.ndarray) -> np.ndarray:
    """Return `function(values)`, computed as `layer` would, with NaN, which stands for "not constant", kept."""
    if np.isnan(values).all():
        return values
    dtype = "float64" if layer.compute_dtype == "float64" else "float32"
    result = ops.convert_to_numpy(function(ops.convert_to_tensor(values, dtype=dtype))).astype("float64")
    return np.where(np.isnan(values), np.nan, result)


def unchanged(layer: Any, values: np.ndarray, read: Read) -> np.ndarray:
    """A constant stays what it is."""
    return values


def only_zero(layer: Any, values: np.ndarray, read: Read) -> np.ndarray:
    """A zero stays zero; another constant is none at the border."""
    return np.where(values == 0, 0.0, np.nan)


def normalized(layer: Any, values: np.ndarray, read: Read) -> np.ndarray:
    """Batch normalization at inference: gamma (x - mean) / sqrt(variance + epsilon) + beta."""
    mean, variance = (read(v).astype("float64") for v in (layer.moving_mean, layer.moving_variance))
    gamma = read(layer.gamma).astype("float64") if layer.scale else np.ones_like(mean)
    beta = read(layer.beta).astype("float64") if layer.center else np.zeros_like(mean)
    factor = gamma / np.sqrt(variance + layer.epsilon)
    return np.where(factor == 0, beta, (values - mean) * factor + beta)


def pooled(layer: Any, values: np.ndarray, read: Read) -> np.ndarray:
    """A mean or maximum of equal numbers; whether `same` padding counts depends on the backend."""
    return values if layer.padding == "valid" else only_zero(layer, values, read)
