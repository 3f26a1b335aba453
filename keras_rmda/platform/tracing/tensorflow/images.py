"""Functions of TensorFlow for images, as operations of Keras."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.platform.tracing.programs import Untraceable
from keras_rmda.platform.tracing.tensorflow.arguments import numbers


def resize(
    images: Any,
    size: Any,
    method: str = "bilinear",
    preserve_aspect_ratio: bool = False,
    antialias: bool = False,
    name: Any = None,
) -> Any:
    """`tf.image.resize` of images with channels last."""
    if preserve_aspect_ratio or method not in ("bilinear", "nearest", "bicubic", "lanczos3", "lanczos5"):
        raise Untraceable(f"it calls `tf.image.resize` with method={method!r}, or keeps the ratio of sides")
    x = images if method == "nearest" else ops.cast(images, "float32")
    return ops.image.resize(x, numbers(size), method, antialias, data_format="channels_last")


def resize_corners(
    images: Any,
    size: Any,
    method: Any = "bilinear",
    align_corners: bool = False,
    preserve_aspect_ratio: bool = False,
    name: Any = None,
) -> Any:
    """`tf.compat.v1.image.resize` of images whose corners stay: products with the shares of rows and columns."""
    known = [numbers(size), list(images.shape[1:3])]
    if not align_corners or preserve_aspect_ratio or method not in ("bilinear", 0) or None in known[1]:
        raise Untraceable("it calls `tf.compat.v1.image.resize` otherwise than with corners that stay, at known sizes")
    rows, columns = (shares(old, int(new)) for new, old in zip(*known))
    x = ops.einsum("bhwc,ih->biwc", ops.cast(images, "float32"), rows)
    return ops.einsum("bhwc,jw->bhjc", x, columns)


def shares(old: int, new: int) -> Any:
    """Return how much of each old position is in a new one, the first and the last of which are what they were."""
    places = np.arange(new) * ((old - 1) / max(new - 1, 1))
    return ops.convert_to_tensor(np.maximum(0.0, 1.0 - np.abs(places[:, None] - np.arange(old))), "float32")


def extract_patches(images: Any, sizes: Any, strides: Any, rates: Any, padding: str, name: Any = None) -> Any:
    """`tf.image.extract_patches`."""
    size, steps, rate = (tuple(numbers(x))[1:3] for x in (sizes, strides, rates))
    if max(steps) > 1 and max(rate) > 1:
        raise Untraceable("it calls `tf.image.extract_patches` with strides and rates, of which Keras has one")
    return ops.image.extract_patches(images, size, steps, rate, padding.lower(), data_format="channels_last")


def crop(
    image: Any, offset_height: int, offset_width: int, target_height: int, target_width: int, name: Any = None
) -> Any:
    """`tf.image.crop_to_bounding_box`."""
    rows, columns = (slice(a, a + n) for a, n in ((offset_height, target_height), (offset_width, target_width)))
    return image[..., rows, columns, :]


def grayscale(images: Any, name: Any = None) -> Any:
    """`tf.image.rgb_to_grayscale`, of images in floats."""
    if "float" not in keras.backend.standardize_dtype(images.dtype):
        raise Untraceable("it calls `tf.image.rgb_to_grayscale` of integers")
    return ops.sum(images * np.array([0.2989, 0.587, 0.114], images.dtype), axis=-1, keepdims=True)


def standardization(image: Any) -> Any:
    """`tf.image.per_image_standardization`, of images in floats."""
    if "float" not in keras.backend.standardize_dtype(image.dtype):
        raise Untraceable("it calls `tf.image.per_image_standardization` of integers")
    axes, count = (-3, -2, -1), math.prod(ops.shape(image)[-3:])
    deviation = ops.maximum(ops.std(image, axis=axes, keepdims=True), 1.0 / math.sqrt(count))
    return (image - ops.mean(image, axis=axes, keepdims=True)) / deviation


IMAGES: dict[str, Callable] = {
    "compat.v1.image.resize": resize_corners,
    "image.crop_to_bounding_box": crop,
    "image.extract_patches": extract_patches,
    "image.flip_left_right": lambda image: ops.flip(image, -2),
    "image.flip_up_down": lambda image: ops.flip(image, -3),
    "image.grayscale_to_rgb": lambda images, name=None: ops.repeat(images, 3, axis=-1),
    "image.per_image_standardization": standardization,
    "image.resize": resize,
    "image.rgb_to_grayscale": grayscale,
    "image.transpose": lambda image, name=None: ops.swapaxes(image, -3, -2),
}
"""What stands for each function, by the names of its module and its own: others of the same name are not of images."""
