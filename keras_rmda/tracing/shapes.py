"""Shapes with open axes, and tensors that have a first axis of size 1 in front of those of a program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_rmda.tracing.programs import Step, Untraceable, settings


def open_shape(shape: tuple, other: tuple) -> tuple:
    """Return a shape, open where it is another one at other sizes."""
    return tuple(n if n == m else None for n, m in zip(shape, other))


def differ_in_ones(shape: Sequence, other: Sequence) -> bool:
    """Return whether shapes are equal but for axes of size 1."""
    return [n for n in shape if n != 1] == [n for n in other if n != 1]


def with_axes(x: Any, count: int) -> Any:
    """Return a tensor with more axes of size 1 behind the first; by an index, which keeps open axes."""
    return x[(slice(None), *[None] * count, ...)] if count else x


def with_inner(x: Any, shape: Sequence, name: Callable[[str], str]) -> Any:
    """Return a tensor with other axes behind the first; by an index if only axes of size 1 come or go."""
    old = list(x.shape[1:])
    if not differ_in_ones(old, shape):
        return keras.layers.Reshape(tuple(shape), name=name("reshape"))(x)
    key: list[Any] = [slice(None)]
    for n in shape:
        while n != 1 and old[0] == 1:
            key.append(0 * old.pop(0))
        key.append(None if n == 1 else slice(None))
        old = old if n == 1 else old[1:]
    return x[(*key, *[0] * len(old))]


def shifted(step: Step, shape: tuple, x: Any, arguments: tuple, name: Callable[[str], str]) -> Any:
    """Return what a step of a program makes of a tensor that has one axis more, in front.

    Args:
        step: the step.
        shape: of its output in the program, with open axes.
        x: the tensor.
        arguments: of the step.
        name: makes names of layers.

    Raises:
        Untraceable: if it is not known what the step does to axes.
    """
    operation, axis = step.operation, getattr(step.operation, "axis", None)
    kind, rank = type(operation).__name__, len(x.shape) - 1
    if kind == "Reshape":
        if not differ_in_ones(x.shape[1:], shape) and None in (*shape, *x.shape[1:]):
            raise Untraceable("it reshapes to open sizes")
        return with_inner(x, shape, name)
    if kind in ("ExpandDims", "Squeeze") and isinstance(axis, int):
        return type(operation)(axis + 1 if axis >= 0 else axis)(x)
    if kind == "Transpose":
        return ops.transpose(x, (0, *(axis % rank + 1 for axis in operation.axes or range(rank)[::-1])))
    if kind == "GetItem":
        key = arguments[1]
        return x[(slice(None), *(key if isinstance(key, tuple) else (key,)))]
    if kind == "Take" and isinstance(axis, int):
        return ops.take(x, arguments[1], axis=axis + 1 if axis >= 0 else axis)
    if set(settings(operation)) <= {"dtype"}:  # each number by itself
        return operation(x)
    raise Untraceable(f"it uses a weight of its own in {step.called}")
