"""Functions of TensorFlow that move numbers, as operations of Keras."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.platform.tracing.numbers import Size
from keras_rmda.platform.tracing.programs import Untraceable
from keras_rmda.platform.tracing.tensorflow.arguments import dtype_of, numbers


def transpose(a: Any, perm: Any = None, name: Any = None) -> Any:
    """`tf.transpose`."""
    return ops.transpose(a, None if perm is None else numbers(perm))


def split(value: Any, num_or_size_splits: Any, axis: int = 0, num: Any = None, name: Any = None) -> Any:
    """`tf.split`: a number of parts, or the sizes of all, of which one may be -1."""
    parts = numbers(num_or_size_splits)
    if isinstance(parts, list):
        rest = value.shape[axis] if -1 in parts else 0
        parts = [rest - sum(parts) - 1 if n == -1 else n for n in parts]
        return ops.split(value, np.cumsum(parts)[:-1].tolist(), axis=axis)
    return ops.split(value, parts, axis=axis)


def sliced(input_: Any, begin: Any, size: Any, name: Any = None) -> Any:
    """`tf.slice`: from places on, so many, or all where that is -1."""
    pairs = zip(numbers(begin), numbers(size), strict=True)
    return input_[tuple(slice(a or None, None if n == -1 else a + n) for a, n in pairs)]


def pad(tensor: Any, paddings: Any, mode: str = "CONSTANT", constant_values: Any = 0, name: Any = None) -> Any:
    """`tf.pad`."""
    constant = {"constant_values": constant_values} if mode.upper() == "CONSTANT" else {}
    return ops.pad(tensor, numbers(paddings), mode.lower(), **constant)


def gather(
    params: Any,
    indices: Any,
    validate_indices: Any = None,
    axis: int | None = None,
    batch_dims: int = 0,
    name: Any = None,
) -> Any:
    """`tf.gather`; with axes that go along, of the axis behind them."""
    batch_dims = batch_dims % (len(indices.shape) + 1) if batch_dims else 0
    if not batch_dims:
        return ops.take(params, indices, axis=axis or 0)
    if axis not in (None, 0, batch_dims):
        raise Untraceable(f"it calls `tf.gather` with batch_dims={batch_dims} and axis={axis}")
    given, rest, count = ops.shape(indices), params.shape[batch_dims + 1 :], len(indices.shape) - batch_dims
    places = indices if count == 1 else ops.reshape(indices, (*given[:batch_dims], math.prod(given[batch_dims:])))
    for _ in rest:
        places = ops.expand_dims(places, -1)
    taken = ops.take_along_axis(params, places, axis=batch_dims)
    return taken if count == 1 else ops.reshape(taken, (*given, *rest))


def gather_nd(params: Any, indices: Any, batch_dims: int = 0, name: Any = None) -> Any:
    """`tf.gather_nd` of one axis."""
    indices = indices if hasattr(indices, "shape") else np.array(indices)
    if indices.shape[-1] != 1:
        raise Untraceable("it calls `tf.gather_nd` with indices along several axes")
    return gather(params, indices[..., 0], axis=batch_dims, batch_dims=batch_dims)


def embedding_lookup(params: Any, ids: Any, max_norm: Any = None, name: Any = None) -> Any:
    """`tf.nn.embedding_lookup`."""
    if max_norm is not None:
        raise Untraceable("it calls `tf.nn.embedding_lookup` with max_norm")
    return ops.take(params, ids, axis=0)


def sequence_mask(lengths: Any, maxlen: Any = None, dtype: Any = None, name: Any = None) -> Any:
    """`tf.sequence_mask` up to a known length."""
    if maxlen is None:
        raise Untraceable("it calls `tf.sequence_mask` without maxlen")
    positions = ops.arange(maxlen, dtype=keras.backend.standardize_dtype(lengths.dtype))
    return ops.cast(ops.less(positions, ops.expand_dims(lengths, -1)), dtype_of(dtype, "bool"))


def one_hot(
    indices: Any,
    depth: int,
    on_value: Any = None,
    off_value: Any = None,
    axis: Any = None,
    dtype: Any = None,
    name: Any = None,
) -> Any:
    """`tf.one_hot` of zeros and ones."""
    if on_value not in (None, 1) or off_value not in (None, 0):
        raise Untraceable("it calls `tf.one_hot` with other numbers than 0 and 1")
    return ops.one_hot(indices, depth, axis=-1 if axis is None else axis, dtype=dtype_of(dtype, "float32"))


def arange(start: Any, limit: Any = None, delta: Any = 1, dtype: Any = None, name: Any = "range") -> Any:
    """`tf.range`."""
    given = (start,) if limit is None else (start, limit)
    default = "float32" if any(isinstance(n, float) for n in (*given, delta)) else "int32"
    return ops.arange(*given, **({} if delta == 1 else {"step": delta}), dtype=dtype_of(dtype, default))


def eye(num_rows: Any, num_columns: Any = None, batch_shape: Any = None, dtype: Any = None, name: Any = None) -> Any:
    """`tf.eye`."""
    if batch_shape is not None:
        raise Untraceable("it calls `tf.eye` with a batch_shape")
    columns = ops.arange(num_rows if num_columns is None else num_columns)
    return ops.cast(ops.equal(ops.expand_dims(ops.arange(num_rows), 1), columns), dtype_of(dtype, "float32"))


def band_part(input: Any, num_lower: int, num_upper: int, name: Any = None) -> Any:
    """`tf.linalg.band_part`: zeros outside of a band of the last two axes; -1 for all on a side."""
    # A band of at least the size of the axis is all of it, so that a limit alone says the same.
    below, above = (numbers(getattr(n, "limit", n)) for n in (num_lower, num_upper))
    if not all(isinstance(n, int) and not isinstance(n, Size) for n in (below, above)):
        raise Untraceable("it calls `tf.linalg.band_part` with numbers that it computes")
    ones = ops.ones_like(input, "int32")  # `ops.tril` takes no band that is wider than what it gets
    distance = ops.cumsum(ones, axis=-1) - ops.cumsum(ones, axis=-2)
    below, above = (BEYOND_ALL if n < 0 else n for n in (below, above))
    inside = ops.logical_and(ops.less_equal(distance, above), ops.greater_equal(distance, -below))
    return ops.where(inside, input, ops.zeros_like(input))


BEYOND_ALL = 2**30
"""More than any axis has."""


def space_to_depth(input: Any, block_size: int, data_format: str = "NHWC", name: Any = None) -> Any:
    """`tf.nn.space_to_depth`: the numbers of a block of positions as channels."""
    if data_format != "NHWC":
        raise Untraceable(f"it calls `tf.nn.space_to_depth` with data_format={data_format!r}")
    samples, *sizes, channels = ops.shape(input)
    height, width = (n // block_size for n in sizes)
    x = ops.reshape(input, (samples, height, block_size, width, block_size, channels))
    return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (samples, height, width, block_size**2 * channels))


def depth_to_space(input: Any, block_size: int, data_format: str = "NHWC", name: Any = None) -> Any:
    """`tf.nn.depth_to_space`: the reverse."""
    if data_format != "NHWC":
        raise Untraceable(f"it calls `tf.nn.depth_to_space` with data_format={data_format!r}")
    samples, height, width, channels = ops.shape(input)
    rest = channels // block_size**2
    x = ops.transpose(ops.reshape(input, (samples, height, width, block_size, block_size, rest)), (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (samples, height * block_size, width * block_size, rest))


def pooling(function: Callable) -> Callable:
    """Return `tf.nn.max_pool2d` or one like it."""

    def pooled(input: Any, ksize: Any, strides: Any, padding: Any, data_format: Any = None, name: Any = None) -> Any:
        inner = lambda x: tuple(x[1:-1]) if isinstance(x, list) and len(x) == len(input.shape) else x  # noqa: E731
        alone = lambda x: x[0] if isinstance(x, list) and len(x) == 1 else x  # noqa: E731
        if data_format not in (None, "NHWC", "NWC", "NDHWC") or not isinstance(padding, str):
            raise Untraceable("it calls a pooling of TensorFlow with channels first, or its own padding")
        size, steps = (alone(inner(numbers(x))) for x in (ksize, strides))
        return function(input, size, steps, padding.lower(), "channels_last")

    return pooled
