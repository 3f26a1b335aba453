"""Functions of Keras and TensorFlow as TensorFlow Lite has them; each is made of the one that it stands for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras.src import backend
from keras.src.ops import image


def picked(unstack: Callable) -> Callable:
    """Let truth values be picked one after the other: microcontrollers do not unpack these."""

    def picked(value: Any, num: int | None = None, axis: int = 0, name: str = "unstack") -> Any:
        count = value.shape[axis] if getattr(value, "dtype", None) == "bool" and axis == 0 else None
        return unstack(value, num, axis, name) if count is None else [value[k] for k in range(count)]

    return picked


def any_of(_: Callable) -> Callable:
    """Let a truth be sought by its contrary: microcontrollers have `all` only."""
    import tensorflow as tf

    def reduce_any(input_tensor: Any, *arguments: Any, **keywords: Any) -> Any:
        return tf.logical_not(tf.reduce_all(tf.logical_not(input_tensor), *arguments, **keywords))

    return reduce_any


def repeated(repeat: Callable) -> Callable:
    """Let copies be made along an axis of their own, in a number that the graph shows."""
    import tensorflow as tf

    def repeated(x: Any, repeats: Any, axis: int | None = None) -> Any:
        x = backend.convert_to_tensor(x)
        if not isinstance(repeats, int) or axis is None:
            return repeat(x, repeats, axis)
        axis = axis % len(x.shape)
        counts = [1] * (axis + 1) + [repeats] + [1] * (len(x.shape) - axis - 1)
        ends = [tf.shape(x)[k] if n is None else n for k, n in enumerate(x.shape)]
        ends[axis] *= repeats
        return tf.reshape(tf.tile(tf.expand_dims(x, axis + 1), counts), ends)

    return repeated


def pooled(pool: Callable) -> Callable:
    """Let volumes be pooled as images, and then along their depth: TensorFlow Lite pools images only."""
    import tensorflow as tf

    def pooled(x: Any, pool_size: Any, strides: Any = None, padding: str = "valid", data_format: Any = None) -> Any:
        data_format = backend.standardize_data_format(data_format)
        if len(x.shape) != 5 or data_format != "channels_last":
            return pool(x, pool_size, strides, padding, data_format)
        size, steps = ((n,) * 3 if isinstance(n, int) else tuple(n) for n in (pool_size, strides or pool_size))
        ends = [tf.shape(x)[k] if n is None else n for k, n in enumerate(x.shape)]
        x = tf.reshape(x, (-1, *ends[2:]))
        x = pool(x, size[1:], steps[1:], padding, data_format)
        sides = [tf.shape(x)[k] if x.shape[k] is None else x.shape[k] for k in (1, 2)]
        x = tf.reshape(x, (-1, ends[1], sides[0] * sides[1], ends[4]))
        x = pool(x, (size[0], 1), (steps[0], 1), padding, data_format)
        depth = tf.shape(x)[1] if x.shape[1] is None else x.shape[1]
        return tf.reshape(x, (-1, depth, *sides, ends[4]))

    return pooled


def extreme(name: str) -> Callable:
    """Return TensorFlow's `argmax` or `argmin` with the arguments of Keras."""
    import tensorflow as tf

    def extreme(x: Any, axis: int | None = None, keepdims: bool = False) -> Any:
        x = backend.convert_to_tensor(x)
        flat = tf.reshape(x, [-1]) if axis is None else x
        y = getattr(tf, name)(flat, axis=0 if axis is None else axis, output_type="int32")
        if not keepdims:
            return y
        return tf.reshape(y, [1] * len(x.shape)) if axis is None else tf.expand_dims(y, axis)

    return extreme


def taken(take: Callable) -> Callable:
    """Let negative indices, with which `take` counts from the end, become others by sums and products."""
    import tensorflow as tf

    def taken(x: Any, indices: Any, axis: int | None = None) -> Any:
        x = backend.convert_to_tensor(x)
        if isinstance(indices, (tf.SparseTensor, tf.RaggedTensor)) or not tf.is_tensor(indices):
            return take(x, indices, axis)
        flat, axis = (tf.reshape(x, [-1]), 0) if axis is None else (x, axis)
        count = tf.cast(flat.shape[axis] or tf.shape(flat)[axis], indices.dtype)
        minus_one_if_negative = tf.maximum(tf.minimum(indices, 0), -1)
        return tf.gather(flat, indices - count * minus_one_if_negative, axis=axis)

    return taken


def taken_along(take_along_axis: Callable) -> Callable:
    """Let indices along an axis be of int32: microcontrollers gather by no others."""
    import tensorflow as tf

    def taken_along(x: Any, indices: Any, axis: int | None = None) -> Any:
        x, indices = backend.convert_to_tensor(x), backend.convert_to_tensor(indices, "int32")
        last = len(x.shape) - 1
        if axis is None or any(
            a != b for k, (a, b) in enumerate(zip(x.shape, indices.shape)) if k != axis % (last + 1)
        ):
            return take_along_axis(x, indices, axis)
        x, indices = (keras.ops.swapaxes(each, axis, -1) for each in (x, indices))
        return keras.ops.swapaxes(tf.gather(x, indices, axis=-1, batch_dims=last), axis, -1)

    return taken_along


def masked(apply_masks: Callable) -> Callable:
    """Let a causal mask be compared positions: Keras's has an index that TensorFlow Lite has for known sizes only."""
    import tensorflow as tf

    def masked(logits: Any, mask: Any, is_causal: bool) -> Any:
        if is_causal:
            rows, columns = (tf.range(tf.shape(logits)[axis]) for axis in (2, 3))
            causal = tf.expand_dims(rows, 1) >= tf.expand_dims(columns, 0)
            mask = causal if mask is None else tf.logical_and(mask, causal)
        return logits if mask is None else tf.where(mask, logits, logits.dtype.min)

    return masked


def at_once(call: Callable) -> Callable:
    """Let a layer compute its steps as so many samples, not one after the other.

    Where their number is open, Keras takes the number of samples for it.
    """

    def at_once(self: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        if inputs.shape[1] is not None and inputs.shape[0] not in (None, 1):
            return call(self, inputs, training=training, mask=mask)
        layer, ends = self.layer, keras.ops.shape(inputs)
        given = {"training": training} if layer._call_has_training_arg else {}
        if layer._call_has_mask_arg and mask is not None:
            given["mask"] = keras.ops.reshape(mask, (-1, *keras.ops.shape(mask)[2:]))
        outputs = layer.call(keras.ops.reshape(inputs, (-1, *ends[2:])), **given)
        return keras.ops.reshape(outputs, (*ends[:2], *keras.ops.shape(outputs)[1:]))

    return at_once


def transformed(stft: Callable) -> Callable:
    """Let short-time Fourier transforms be convolutions: there are few operators for complex numbers, and in float."""
    import tensorflow as tf

    def transformed(
        x: Any,
        sequence_length: int,
        sequence_stride: int,
        fft_length: int,
        window: Any = "hann",
        center: bool = True,
    ) -> tuple[Any, Any]:
        x = backend.convert_to_tensor(x)
        with tf.init_scope():  # what it makes of frames that hold a single 1
            parts = stft(tf.eye(fft_length), sequence_length, fft_length, fft_length, window, False)
            kernel = tf.concat(parts, -1).numpy()
        if center:
            sides = [(0, 0)] * (len(x.shape) - 1) + [(fft_length // 2, fft_length // 2)]
            x = tf.pad(x, sides, mode="reflect")
        ends = [tf.shape(x)[k] if n is None else n for k, n in enumerate(x.shape)]
        flat = tf.reshape(x, (-1, ends[-1], 1))
        y = tf.nn.conv1d(flat, tf.cast(kernel, x.dtype), sequence_stride, "VALID")
        frames = tf.shape(y)[1] if y.shape[1] is None else y.shape[1]
        y = tf.reshape(y, (*ends[:-1], frames, kernel.shape[-1]))
        real, imaginary = tf.split(y, 2, axis=-1)
        return real, imaginary

    return transformed


def of_rank(quantile: Callable) -> Callable:
    """Let positions among sorted numbers be constants: Keras computes them of an open size, in float64."""
    import tensorflow as tf

    def of_rank(x: Any, q: Any, axis: Any = None, method: str = "linear", keepdims: bool = False) -> Any:
        x = backend.convert_to_tensor(x)
        rank, share = len(x.shape), tf.get_static_value(backend.convert_to_tensor(q))
        axes = range(rank) if axis is None else [axis] if isinstance(axis, int) else axis
        axes = sorted(k % rank for k in axes)
        if share is None or any(x.shape[k] is None for k in axes):
            return quantile(x, q, axis, method, keepdims)
        count = math.prod(x.shape[k] for k in axes)
        with tf.init_scope():  # what it makes of 0, 1, 2, ... is the position of what it makes of others
            found = quantile(tf.range(count, dtype="float32"), share.reshape(-1), 0, method).numpy()
        others = [k for k in range(rank) if k not in axes]
        ends = [tf.shape(x)[k] if x.shape[k] is None else x.shape[k] for k in others]
        ordered = tf.sort(tf.reshape(tf.transpose(x, [*others, *axes]), [*ends, count]))
        low = tf.gather(ordered, np.floor(found).astype("int32"), axis=-1)
        high = tf.gather(ordered, np.ceil(found).astype("int32"), axis=-1)
        y = tf.transpose(low + (high - low) * (found - np.floor(found)), [len(others), *range(len(others))])
        kept = [1 if k in axes else ends[others.index(k)] for k in range(rank)] if keepdims else ends
        return tf.reshape(y, [*share.shape, *kept])

    return of_rank


def resized(resize: Callable) -> Callable:
    """Let sizes be tensors, of which Keras asks whether they are positive."""

    def resized(images: Any, size: Any, *arguments: Any, **keywords: Any) -> Any:
        known = all(isinstance(n, int) for n in size)
        return (resize if known else image._resize)(images, size, *arguments, **keywords)

    return resized
