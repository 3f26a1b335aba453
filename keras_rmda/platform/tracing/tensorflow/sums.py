"""Functions of TensorFlow that add up numbers, as operations of Keras: products, reductions, convolutions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_rmda.platform.tracing.programs import Untraceable
from keras_rmda.platform.tracing.tensorflow.arguments import as_tensor, dtype_of, numbers


def matmul(a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False, name: Any = None) -> Any:
    """`tf.matmul`."""
    a, b = as_tensor(a), as_tensor(b)
    turned = lambda x, turns: ops.swapaxes(x, -1, -2) if turns else x  # noqa: E731
    return ops.matmul(turned(a, transpose_a), turned(b, transpose_b))


def tensordot(a: Any, b: Any, axes: Any, name: Any = None) -> Any:
    """`tf.tensordot`: over so many axes, or one of each, or several of each."""
    axes = numbers(axes)
    return ops.tensordot(a, b, axes if isinstance(axes, int) else [n if isinstance(n, list) else [n] for n in axes])


def einsum(equation: str, *inputs: Any, name: Any = None) -> Any:
    """`tf.einsum`."""
    return ops.einsum(equation, *inputs)


def add_n(inputs: list, name: Any = None) -> Any:
    """`tf.add_n`."""
    return functools.reduce(ops.add, inputs)


def reduction(function: Callable) -> Callable:
    """Return a function that reduces axes."""

    def reduced(input_tensor: Any, axis: Any = None, keepdims: bool = False, name: Any = None) -> Any:
        return function(input_tensor, axis=numbers(axis), keepdims=keepdims)

    return reduced


def argument(function: Callable) -> Callable:
    """Return `tf.argmax` or `tf.argmin`."""

    def found(input: Any, axis: Any = None, output_type: Any = "int64", name: Any = None) -> Any:
        return ops.cast(function(input, axis=axis or 0), dtype_of(output_type, "int64"))

    return found


def cumulative(function: Callable, start: int) -> Callable:
    """Return `tf.cumsum`, or another function that begins with such a number."""

    def accumulated(x: Any, axis: int = 0, exclusive: bool = False, reverse: bool = False, name: Any = None) -> Any:
        turned = lambda y: ops.flip(y, axis) if reverse else y  # noqa: E731
        y = function(turned(x), axis=axis)
        if exclusive:  # of those before
            place, rank = axis % len(x.shape), len(x.shape)
            y = ops.pad(y, [[int(k == place), 0] for k in range(rank)], constant_values=start)
            y = y[tuple(slice(None, -1) if k == place else slice(None) for k in range(rank))]
        return turned(y)

    return accumulated


def moments(x: Any, axes: Any, shift: Any = None, keepdims: bool = False, name: Any = None) -> tuple:
    """`tf.nn.moments`."""
    axes = numbers(axes)
    return ops.mean(x, axes, keepdims=keepdims), ops.var(x, axes, keepdims=keepdims)


def bias_add(value: Any, bias: Any, data_format: Any = None, name: Any = None) -> Any:
    """`tf.nn.bias_add`, along the last axis."""
    if data_format is not None and data_format.startswith("NC"):
        raise Untraceable("it calls `tf.nn.bias_add` with channels first")
    return value + bias


def l2_normalize(x: Any, axis: Any = None, epsilon: float = 1e-12, name: Any = None) -> Any:
    """`tf.nn.l2_normalize`."""
    return x * ops.rsqrt(ops.maximum(ops.sum(ops.square(x), axis=numbers(axis), keepdims=True), epsilon))


def convolution(function: Callable) -> Callable:
    """Return `tf.nn.conv2d` or one like it."""

    def convolved(
        input: Any,
        filters: Any,
        strides: Any = None,
        padding: Any = "VALID",
        data_format: Any = None,
        dilations: Any = None,
        name: Any = None,
    ) -> Any:
        if data_format not in CHANNELS_LAST:
            raise Untraceable("it calls a convolution of TensorFlow with channels first")
        if not isinstance(padding, str):
            input, padding = ops.pad(input, numbers(padding)), "VALID"
        steps, rates = (of_positions(x, input) for x in (strides, dilations))
        return function(input, filters, steps, padding.lower(), "channels_last", rates)

    return convolved


CHANNELS_LAST = (None, "NWC", "NHWC", "NDHWC")


def of_positions(x: Any, input: Any) -> Any:
    """Return what a convolution has for each axis of positions, of one number, of these, or of all axes; 1 for None."""
    x = numbers(1 if x is None else x)
    return tuple(x[1:-1] if len(x) == len(input.shape) else x) if isinstance(x, list) else x


def transposed_convolution(
    input: Any,
    filters: Any,
    output_shape: Any,
    strides: Any,
    padding: str = "SAME",
    data_format: Any = None,
    dilations: Any = None,
    name: Any = None,
) -> Any:
    """`tf.nn.conv2d_transpose` or one like it, to the sizes that Keras makes."""
    if data_format not in CHANNELS_LAST:
        raise Untraceable("it calls a convolution of TensorFlow with channels first")
    if not isinstance(filters, keras.KerasTensor):  # Keras's operation mixes up its arguments; layers can do it
        raise Untraceable("it calls a transposed convolution of TensorFlow with other filters than a weight")
    steps, rates = (of_positions(x, input) for x in (strides, dilations))
    y = ops.conv_transpose(input, filters, steps, padding.lower(), None, "channels_last", rates)
    if list(y.shape[1:]) != numbers(output_shape)[1:]:
        raise Untraceable("it calls a transposed convolution of TensorFlow for other sizes than Keras makes")
    return y


def separable_convolution(
    input: Any,
    depthwise_filter: Any,
    pointwise_filter: Any,
    strides: Any,
    padding: Any,
    data_format: Any = None,
    dilations: Any = None,
    name: Any = None,
) -> Any:
    """`tf.nn.separable_conv2d`."""
    y = convolution(ops.depthwise_conv)(input, depthwise_filter, strides, padding, data_format, dilations)
    return convolution(ops.conv)(y, pointwise_filter)


def sigmoid_cross_entropy(labels: Any = None, logits: Any = None, name: Any = None) -> Any:
    """`tf.nn.sigmoid_cross_entropy_with_logits`."""
    return ops.relu(logits) - logits * labels + ops.log1p(ops.exp(ops.negative(ops.abs(logits))))


def softmax_cross_entropy(labels: Any, logits: Any, axis: int = -1, name: Any = None) -> Any:
    """`tf.nn.softmax_cross_entropy_with_logits`."""
    return ops.negative(ops.sum(labels * ops.log_softmax(logits, axis=axis), axis=axis))
