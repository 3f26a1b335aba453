"""What single layers and operations make of constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
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


def activated(layer: Any, values: np.ndarray, read: Read) -> np.ndarray:
    """The layer itself tells what it makes of a constant."""
    return evaluate(layer, layer.call, values)


def rescaled(layer: Any, values: np.ndarray, read: Read) -> np.ndarray:
    """Rescaling by a number, or by numbers for channels or positions, which make no constants where they differ."""
    scale, offset = (np.asarray(getattr(layer, name), "float64") for name in ("scale", "offset"))
    rows = [x.reshape(-1, x.shape[-1] if x.ndim else 1) for x in (scale, offset)]
    scale, offset = (np.where((x == x[0]).all(axis=0), x[0], np.nan) for x in rows)
    return np.where((scale == 0) | (values == 0), 0.0, values * scale) + offset


def scaled(layer: Any, values: np.ndarray, read: Read) -> np.ndarray:
    """One factor for each channel."""
    gamma = read(layer.gamma).astype("float64")
    return np.where(gamma == 0, 0.0, values * gamma)


def has_zero_gamma(layer: Any, read: Read) -> np.ndarray:
    """Return for each channel whether it is multiplied by zero."""
    return read(layer.gamma) == 0 if layer.gamma is not None else np.zeros(layer.moving_mean.shape, bool)


def everything(layer: Any, read: Read) -> np.ndarray:
    """No output depends on its input."""
    return np.ones(1, bool)


def product(layer: Any, operands: list) -> np.ndarray:
    """Zero times anything is zero."""
    zero = np.any(np.broadcast_arrays(*(np.asarray(x) == 0 for x in operands)), axis=0)
    result = operands[0]
    for each in operands[1:]:
        result = result * each
    return np.where(zero, 0.0, result)


def applied(operation: Any, *values: np.ndarray) -> np.ndarray:
    """Return an operation on constants, with NaN, which stands for "not constant", kept.

    A model rounds what it computes. Where the result is another one for numbers that differ by their rounding, as next
    to a step of `floor`, nobody knows it. Whole numbers are not rounded.
    """
    missing = np.any(np.broadcast_arrays(*map(np.isnan, values)), axis=0)
    if missing.all():
        return np.full(missing.shape, np.nan)
    off = [np.where(x == np.round(x), 0.0, ROUNDED * np.abs(x) + ROUNDED_ZERO) for x in values]
    at = lambda way: [x + way * (-1) ** k * by for k, (x, by) in enumerate(zip(values, off))]  # noqa: E731
    found, *near = (computed(operation, at(way)) for way in (0, 1, -1))
    is_steady = np.abs(near[0] - near[1]) <= STEADY * (1.0 + np.abs(found))
    return np.where(missing | ~is_steady, np.nan, found)


ROUNDED, ROUNDED_ZERO, STEADY = 2e-6, 2e-7, 1e-4
"""By how much, relative and beside zero, constants may be rounded; and by how much results may change then."""


def computed(operation: Any, values: list[np.ndarray]) -> np.ndarray:
    """Return what an operation makes of numbers."""
    dtype = "float32" if keras.backend.backend() == "jax" else "float64"
    result = operation.call(*(ops.convert_to_tensor(each, dtype) for each in values))
    return ops.convert_to_numpy(result).astype("float64")
