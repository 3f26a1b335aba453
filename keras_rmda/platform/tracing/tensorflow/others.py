"""Other functions of TensorFlow, as operations of Keras: norms, sorting, segments, images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from keras_rmda.platform.tracing.programs import Untraceable
from keras_rmda.platform.tracing.tensorflow.arguments import numbers


def norm(tensor: Any, ord: Any = "euclidean", axis: Any = None, keepdims: Any = None, name: Any = None) -> Any:
    """`tf.norm` of vectors: the Euclidean one, that of absolute values, or the largest of them."""
    axis, keeps = numbers(axis), bool(keepdims)
    if isinstance(axis, list) and ord not in ("euclidean", "fro"):
        raise Untraceable(f"it calls `tf.norm` of matrices with ord={ord!r}")
    if ord in ("euclidean", "fro", 2):
        return ops.sqrt(ops.sum(ops.square(tensor), axis=axis, keepdims=keeps))
    if ord not in (1, float("inf")):
        raise Untraceable(f"it calls `tf.norm` with ord={ord!r}")
    return (ops.sum if ord == 1 else ops.max)(ops.abs(tensor), axis=axis, keepdims=keeps)


def crelu(features: Any, axis: int = -1, name: Any = None) -> Any:
    """`tf.nn.crelu`: the positive parts of numbers, and behind them those of their negatives."""
    return ops.relu(ops.concatenate([features, ops.negative(features)], axis=axis))


def sort(values: Any, axis: int = -1, direction: str = "ASCENDING", name: Any = None) -> Any:
    """`tf.sort`."""
    found = ops.sort(values, axis=axis)
    return found if direction == "ASCENDING" else ops.flip(found, axis)


def argsort(values: Any, axis: int = -1, direction: str = "ASCENDING", stable: bool = False, name: Any = None) -> Any:
    """`tf.argsort`."""
    return ops.cast(ops.argsort(values if direction == "ASCENDING" else ops.negative(values), axis=axis), "int32")


def top_k(input: Any, k: int = 1, sorted: bool = True, index_type: Any = None, name: Any = None) -> Any:
    """`tf.math.top_k`."""
    return ops.top_k(input, k, sorted)


def segment_sum(data: Any, segment_ids: Any, num_segments: Any, name: Any = None) -> Any:
    """`tf.math.unsorted_segment_sum`, of what has one axis of segments."""
    if len(segment_ids.shape) != 1:
        raise Untraceable("it calls `tf.math.unsorted_segment_sum` with segments of several axes")
    return ops.segment_sum(data, segment_ids, num_segments=numbers(num_segments))


def batch_normalization(
    x: Any, mean: Any, variance: Any, offset: Any, scale: Any, variance_epsilon: float, name: Any = None
) -> Any:
    """`tf.nn.batch_normalization`."""
    inverse = ops.rsqrt(variance + variance_epsilon)
    y = (x - mean) * (inverse if scale is None else inverse * scale)
    return y if offset is None else y + offset


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


OTHERS: dict[str, Callable] = {
    "compat.v1.image.resize": resize_corners,
    "argsort": argsort,
    "batch_normalization": batch_normalization,
    "crelu": crelu,
    "divide_no_nan": lambda x, y, name=None: ops.divide_no_nan(x, y),
    "image.resize": resize,
    "norm": norm,
    "rank": lambda input, name=None: len(input.shape),
    "reduce_euclidean_norm": lambda input_tensor, axis=None, keepdims=False, name=None: norm(
        input_tensor, axis=axis, keepdims=keepdims
    ),
    "sort": sort,
    "top_k": top_k,
    "unsorted_segment_sum": segment_sum,
}
"""What stands for each function, by the name that TensorFlow has for it, and of images by module, too."""
