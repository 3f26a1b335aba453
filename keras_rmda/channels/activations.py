"""Constants through activations, normalizations and pooling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from keras_rmda.channels.rule import Read


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
