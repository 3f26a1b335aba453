"""Fourier transforms as products with waves: TensorFlow Lite has one only, of 2, 4, 8 ... real numbers, in float.

Each function is made of the one of Keras that it stands for, which computes what is open or too long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from keras.src import backend

from keras_rmda.platform.lite.parts import apart

LONGEST, OF_OPERATOR = 2048, 256
"""The most positions of a product, and of one in the place of TensorFlow Lite's own operator, which holds no waves."""


def waves(length: int, frequencies: int) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines and sines of the first frequencies, in columns."""
    turns = np.outer(np.arange(length), np.arange(frequencies)) % length / length
    return np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)


def product(x: Any, matrix: np.ndarray) -> Any:
    """Return the product along the last axis."""
    import tensorflow as tf

    return tf.matmul(x, tf.constant(matrix, x.dtype))


def of_length(x: Any, length: int) -> Any:
    """Return a tensor whose last axis is cut off or filled up with zeros to a length."""
    import tensorflow as tf

    more = length - x.shape[-1]
    return x[..., :length] if more <= 0 else tf.pad(x, [(0, 0)] * (len(x.shape) - 1) + [(0, more)])


def is_short(x: Any, axes: int) -> bool:
    """Return whether the last axes of a tensor are known, and not too long for products."""
    return len(x.shape) > 1 and all(n is not None and n <= LONGEST for n in x.shape[-axes:])


def of_complex(fft: Callable) -> Callable:
    """Compute the transform of complex numbers, which are given and returned as two parts."""

    def of_complex(x: Any) -> tuple[Any, Any]:
        real, imaginary = map(backend.convert_to_tensor, x)
        if not is_short(real, 1):
            return fft(x)
        cosines, sines = waves(real.shape[-1], real.shape[-1])
        return (
            product(real, cosines) + product(imaginary, sines),
            product(imaginary, cosines) - product(real, sines),
        )

    return of_complex


def of_images(fft2: Callable, in_float: bool) -> Callable:
    """Compute the transform along the last two axes, one after the other.

    Where numbers have trained to be rounded, those in between have not: a product of such is one in float.
    """
    import tensorflow as tf

    def of_images(x: Any) -> tuple[Any, Any]:
        parts = tuple(map(backend.convert_to_tensor, x))
        if not is_short(parts[0], 2):
            return fft2(x)
        parts = tuple(map(apart, parts)) if in_float else parts
        for _ in range(2):
            parts = tuple(map(tf.linalg.matrix_transpose, backend.math.fft(parts)))
        return parts

    return of_images


def of_real(rfft: Callable) -> Callable:
    """Compute the transform of real numbers."""

    def of_real(x: Any, fft_length: int | None = None) -> tuple[Any, Any]:
        x = backend.convert_to_tensor(x)
        length = fft_length or x.shape[-1] or LONGEST + 1
        is_of_operator = length > OF_OPERATOR and length & (length - 1) == 0
        if not is_short(x, 1) or length > LONGEST or is_of_operator:
            return rfft(x, fft_length)
        cosines, sines = waves(length, length // 2 + 1)
        x = of_length(x, length)
        return product(x, cosines), product(x, -sines)

    return of_real


def to_real(irfft: Callable) -> Callable:
    """Compute the numbers of a transform of real ones."""

    def to_real(x: Any, fft_length: int | None = None) -> Any:
        real, imaginary = map(backend.convert_to_tensor, x)
        length = fft_length or 2 * ((real.shape[-1] or LONGEST) - 1)
        if not is_short(real, 1) or not 0 < length <= LONGEST:
            return irfft(x, fft_length)
        count = length // 2 + 1
        times = np.where(2 * np.arange(count) % length == 0, 1, 2) / length  # the others stand for two frequencies
        cosines, sines = (times[:, None] * part.T for part in waves(length, count))
        return product(of_length(real, count), cosines) - product(of_length(imaginary, count), sines)

    return to_real
