"""Functions of TensorFlow that add up numbers, as operations of Keras: products, reductions, convolutions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

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


def cumsum(x: Any, axis: int = 0, exclusive: bool = False, reverse: bool = False, name: Any = None) -> Any:
    """`tf.cumsum`."""
    if exclusive or reverse:
        raise Untraceable("it calls `tf.cumsum` with exclusive=True or reverse=True")
    return ops.cumsum(x, axis=axis)


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
        strides: Any,
        padding: str,
        data_format: Any = None,
        dilations: Any = None,
        name: Any = None,
    ) -> Any:
        inner = lambda x: x[1:-1] if isinstance(x, list) and len(x) == len(input.shape) else x  # noqa: E731
        if data_format not in (None, "NHWC", "NWC") or not isinstance(padding, str):
            raise Untraceable("it calls a convolution of TensorFlow with channels first, or its own padding")
        steps, rates = (inner(numbers(x)) for x in (strides, dilations or 1))
        steps, rates = (tuple(x) if isinstance(x, list) else x for x in (steps, rates))
        return function(input, filters, steps, padding.lower(), "channels_last", rates)

    return convolved
