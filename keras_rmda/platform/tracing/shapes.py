"""Shapes with open axes, and tensors that have a first axis of size 1 in front of those of a program."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.platform.tracing.programs import Place, Program, Step, Untraceable, settings

WITH_NUMBERS = frozenset([
    "Celu", "Clip", "Elu", "Gelu", "HardShrink", "LeakyRelu", "NanToNum", "Round", "SoftShrink", "Squareplus",
    "Threshold",
])  # fmt: skip
"""Operations that change each number by itself and have settings; others of one tensor that have none do, too."""

REDUCTIONS = frozenset(["Sum", "Mean", "Max", "Min", "Var", "Std", "Prod", "Any", "All"])
"""Operations that make one number of those along axes."""


def open_shape(shape: tuple, other: tuple) -> tuple:
    """Return a shape, open where it is another one at other sizes."""
    return tuple(n if n == m else None for n, m in zip(shape, other))


def differ_in_ones(shape: Sequence, other: Sequence) -> bool:
    """Return whether shapes are equal but for axes of size 1."""
    return [n for n in shape if n != 1] == [n for n in other if n != 1]


def is_taken_for_a_bias(shape: Sequence, other: Sequence) -> bool:
    """Return whether `ops.add` may add a tensor of the second shape to one of the first along a wrong axis.

    On TensorFlow, Keras takes any tensor with one axis of more than one number for a bias
    (`arithmetic.misplaces_biases`), which `x + y` of TensorFlow's own tensors does not.
    """
    known = {n for n in (*shape, *other) if n is not None}
    for batch, size in itertools.product({1, 2, *known}, {1, 3, *known}):
        a, b = ([n if n is not None else size if k else batch for k, n in enumerate(x)] for x in (shape, other))
        [place, *others] = [k for k, n in enumerate(b) if n > 1] or [0, 0]
        if others or len(a) < 2 or b[place] not in (a[1], a[-1]):
            continue
        if place - len(b) != (-1 if a[-1] == b[place] else 1 - len(a)) or len(b) > len(a):
            return True
    return False


def with_axes(x: Any, count: int) -> Any:
    """Return a tensor with more axes of size 1 behind the first; by an index, which keeps open axes."""
    return x[(slice(None), *[None] * count, ...)] if count else x


def with_inner(x: Any, shape: Sequence, name: Callable[[str], str]) -> Any:
    """Return a tensor with other axes behind the first; by an index if only axes of size 1 come or go."""
    old = list(x.shape[1:])
    if not differ_in_ones(old, shape):
        dtype = x.dtype if "float" in x.dtype else None  # a layer casts what is of another type than its own
        return keras.layers.Reshape(tuple(shape), name=name("reshape"), dtype=dtype)(x)
    key: list[Any] = [slice(None)]
    for n in shape:
        while n != 1 and old[0] == 1:
            key.append(0 * old.pop(0))
        key.append(None if n == 1 else slice(None))
        old = old if n == 1 else old[1:]
    return x[(*key, *[0] * len(old))]


def slice_key(programs: list[Program], a: Step, b: Step) -> tuple:
    """Return the index that does what `ops.slice` does at two sizes."""
    [place], starts = a.places[:1], [np.ravel(each.arguments[0][1]).tolist() for each in (a, b)]
    before = [each.shape(place) for each in (programs[0], programs[-1])]
    parts = []
    for k, (start, other) in enumerate(zip(*starts, strict=True)):
        sizes, ends = (a.shapes[0][k], b.shapes[0][k]), (before[0][k], before[1][k])
        if start != other:
            raise Untraceable("it gives `ops.slice` numbers that depend on open sizes")
        if sizes[0] + start == ends[0] and sizes[1] + start == ends[1]:
            parts.append(slice(start or None, None))
        elif sizes[0] == sizes[1]:
            parts.append(slice(start, start + sizes[0]))
        else:
            raise Untraceable("it gives `ops.slice` numbers that depend on open sizes")
    return tuple(parts)


def is_outer(operation: Any) -> bool:
    """Return whether an operation multiplies each number of a vector by each of another."""
    if type(operation).__name__ == "Einsum":
        return re.fullmatch(r"(\w),(?!\1)(\w)->\1\2", operation.subscripts.replace(" ", "")) is not None
    return type(operation).__name__ == "Outer"


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
        if shape.count(None) == 1 and None not in x.shape[1:]:  # behind layers that declare open sizes
            known = math.prod(n for n in shape if n is not None)
            shape = tuple(math.prod(x.shape[1:]) // known if n is None else n for n in shape)
        if not differ_in_ones(x.shape[1:], shape):
            if None in x.shape[1:] and shape.count(None) > 1:
                raise Untraceable("it reshapes to open sizes")
            shape = tuple(-1 if n is None else n for n in shape)
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
    if kind in REDUCTIONS and getattr(operation, "initial", None) is None:
        axes = range(rank) if axis is None else [axis] if isinstance(axis, int) else axis
        return type(operation)(tuple(each % rank + 1 for each in axes), keepdims=operation.keepdims)(x)
    if kind in ("Softmax", "LogSoftmax") and isinstance(axis, int):
        return type(operation)(axis % rank + 1)(x)
    if kind == "SegmentSum" and len(step.places) == 1:
        sums = ops.segment_sum(ops.swapaxes(x, 0, 1), arguments[1], num_segments=operation.num_segments)
        return ops.swapaxes(sums, 0, 1)
    if kind == "Tile" and isinstance(operation.repeats, list | tuple) and len(operation.repeats) == rank:
        return ops.tile(x, (1, *operation.repeats))
    if kind == "Repeat" and isinstance(axis, int):
        return ops.repeat(x, operation.repeats, axis=axis + 1 if axis >= 0 else axis)
    if (kind in ("Tril", "Triu") and rank > 1) or (kind == "Cumsum" and isinstance(axis, int) and axis < 0):
        return operation(x)
    if is_outer(operation) and rank == 1 and len(arguments) == 2 and len(step.places) == 1:
        first, second = arguments
        if isinstance(first, Place):
            return x[:, :, None] * np.reshape(ops.convert_to_numpy(second), -1)
        return x[:, None, :] * np.reshape(ops.convert_to_numpy(first), (-1, 1))
    if kind in WITH_NUMBERS or (set(settings(operation)) <= {"dtype", "sparse", "ragged"} and len(arguments) < 2):
        return operation(x)
    raise Untraceable(f"it uses a weight of its own in {step.called}")
