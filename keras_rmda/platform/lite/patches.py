"""Patches of images, for which TensorFlow Lite has no operator: Keras multiplies by an identity matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from keras.src import backend


def patches(x: Any, size: list[int], strides: list[int], rates: list[int], padding: str) -> Any:
    """Return the patches of images with channels last, as channels of one position.

    Patches side by side are the image in another order, at no cost: as a convolution, which patches that overlap are,
    those of 16 x 16 x 3 numbers are 589,824 weights.
    """
    import tensorflow as tf

    _, height, width, channels = x.shape
    is_whole = height and width and (padding == "VALID" or height % size[0] == width % size[1] == 0)
    if is_whole and len({*size, *strides}) == 1 < size[0] and max(rates) == 1:
        x = x[:, : height // size[0] * size[0], : width // size[0] * size[0]]
        return tf.nn.space_to_depth(x, size[0])
    count = size[0] * size[1] * channels
    kernel = np.eye(count).reshape(*size, channels, count)
    return tf.nn.conv2d(x, tf.constant(kernel, x.dtype), strides, padding, dilations=rates)


def of_keras(extract_patches: Callable) -> Callable:
    """Compute what Keras's function does."""

    def of_keras(
        images: Any,
        size: Any,
        strides: Any = None,
        dilation_rate: Any = 1,
        padding: str = "valid",
        data_format: str | None = None,
    ) -> Any:
        images = backend.convert_to_tensor(images)
        is_last = backend.standardize_data_format(data_format) == "channels_last"
        if len(images.shape) != 4 or not is_last or not images.dtype.is_floating:
            return extract_patches(images, size, strides, dilation_rate, padding, data_format)
        pairs = [list(n) if isinstance(n, (tuple, list)) else [n] * 2 for n in (size, strides or size, dilation_rate)]
        return patches(images, *pairs, padding.upper())

    return of_keras


def of_tensorflow(x: Any, attributes: dict[str, Any]) -> Any:
    """Compute what `tf.image.extract_patches` does."""
    if not x.dtype.is_floating:
        return None
    numbers = [list(attributes[name].list.i)[1:3] for name in ("ksizes", "strides", "rates")]
    return patches(x, *numbers, attributes["padding"].s.decode())


def diagonal(values: Any, k: Any, rows: Any, columns: Any, padding: Any) -> Any:
    """Return a known square matrix as a constant: the converter computes the larger ones in the file, as no weights."""
    import tensorflow as tf

    known, *place = (tf.get_static_value(each) for each in (values, k, rows, columns, padding))
    if known is None or known.ndim != 1 or any(n is None for n in place):
        return None
    if [int(n) for n in np.ravel(place)] not in ([0, -1, -1, 0], [0, len(known), len(known), 0]):
        return None
    return tf.constant(np.diag(known))


def by_order(x: Any, attributes: dict[str, Any]) -> Any:
    """Put patches side by side into channels: the operator for it has no int16."""
    import tensorflow as tf

    _, height, width, channels = x.shape
    n = attributes["block_size"].i
    if not height or not width:
        return None
    x = tf.reshape(x, (-1, height // n, n, width // n, n, channels))
    x = tf.transpose(x, (0, 1, 3, 2, 4, 5))
    return tf.reshape(x, (-1, height // n, width // n, n * n * channels))
