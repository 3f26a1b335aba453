"""Numbers that each are computed by themselves, and tensors that are the same for all samples."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.platform import arithmetic
from keras_rmda.platform.tracing.leaves import ForEachSample
from keras_rmda.platform.tracing.programs import Place, Step, Untraceable, is_same, settings
from keras_rmda.platform.tracing.shapes import (
    differ_in_ones,
    is_taken_for_a_bias,
    open_shape,
    shifted,
    with_axes,
)
from keras_rmda.platform.tracing.symbols import Symbol, Symbols

ELEMENTWISE = frozenset([
    "Add", "Subtract", "Multiply", "TrueDivide", "Divide", "FloorDivide", "Power", "Mod", "Maximum", "Minimum", "Where",
    "Arctan2", "Hypot", "Equal", "NotEqual", "Greater", "GreaterEqual", "Less", "LessEqual", "LogicalAnd", "LogicalOr",
    "LogicalXor", "BitwiseAnd", "BitwiseOr",
])  # fmt: skip
"""Operations of several tensors that are broadcast against each other."""


def elementwise(graph: Symbols, a: Step, b: Step) -> list[Symbol]:
    """Give all operands as many axes as the result has, so that first axes meet."""
    symbols, rank = [graph.symbol(x) for x in a.places], len(a.shapes[0])
    batched = any(each.batched for each in symbols)
    place = graph.batch_place(a, b) if batched else 0
    align = lambda x: _aligned(graph.symbol(x), rank, batched, place) if isinstance(x, Place) else x  # noqa: E731
    arguments, keyword_arguments = keras.tree.map_structure(align, graph.arguments(a, b))
    if _misplaces(graph, a, arguments):
        return [Symbol(ops.subtract(arguments[0], ops.negative(arguments[1])), batched)]
    [y] = keras.tree.flatten(a.operation(*arguments, **keyword_arguments))
    result = Symbol(y, batched)
    return [for_each_sample(graph, result, a, b) if not batched and graph.is_batch(a, b) else result]


def _misplaces(graph: Symbols, a: Step, arguments: tuple) -> bool:
    """Return whether Keras may take a sum for that of a tensor and a bias, which it adds along another axis."""
    if type(a.operation).__name__ != "Add" or len(arguments) != 2 or not arithmetic.misplaces_biases():
        return False
    shapes = [
        (1, *x.shape[1:]) if isinstance(each, Place) and not graph.symbol(each).batched else np.shape(x)
        for each, x in zip(a.arguments[0], arguments)
    ]
    return is_taken_for_a_bias(*shapes)


def _aligned(x: Symbol, rank: int, batched: bool, place: int = 0) -> Any:
    """Return a tensor with so many axes, if it is the same for all samples, and one more if none is batched.

    Where others are batched, along the axis `place`, its first axis becomes that one.
    """
    if x.batched:
        return x.tensor
    inner = tuple(x.tensor.shape[1:])
    if not batched:
        return with_axes(x.tensor, rank - len(inner))
    before = place - (rank - len(inner))  # its axes in front of that of the samples
    if before < 0:
        y = with_axes(x.tensor, rank - 1 - len(inner))
    elif inner[before] == 1:
        y = x.tensor[(slice(None), *[slice(None)] * before, 0)]
        y = with_axes(y, rank - 1 - len(y.shape[1:]))
    else:
        raise Untraceable("it has a weight of its own for each sample")
    return ops.moveaxis(y, 0, place) if place else y


def for_each_sample(graph: Symbols, x: Symbol, a: Step, b: Step) -> Symbol:
    """Repeat what is the same for all samples, as a program with a batch of its own has it."""
    inner, y = tuple(open_shape(a.shapes[0], b.shapes[0])[1:]), x.tensor
    if differ_in_ones(y.shape[1:], inner) or (None not in inner and np.prod(inner) == np.prod(y.shape[1:])):
        y = graph.inner(y, inner)
    elif type(a.operation).__name__ == "BroadcastTo" and None not in inner:
        y = _aligned(x, len(inner) + 1, batched=True)
        y = ops.broadcast_to(with_axes(y, len(inner) + 1 - len(y.shape)), (1, *inner))
    elif type(a.operation).__name__ == "BroadcastTo" and len(y.shape) == len(inner) + 2 and y.shape[1] == 1:
        y = y[:, 0]  # has the axis for samples already
        for axis, n in enumerate(inner, 1):
            if y.shape[axis] == 1 != n:
                if n is None:
                    raise Untraceable(f"it repeats a weight of its own by {a.called}")
                y = ops.repeat(y, n, axis=axis)
    else:
        raise Untraceable(f"it repeats a weight of its own by {a.called}")
    return Symbol(ForEachSample(name=graph.name("for_each_sample"))([y, graph.samples]))


def with_axis_more(graph: Symbols, a: Step, b: Step) -> Symbol:
    """Do with a weight, which has an axis more, what the code does."""
    if type(a.operation).__name__ != "Reshape" and not is_same(settings(a.operation), settings(b.operation)):
        raise Untraceable(f"it gives {a.called} numbers that depend on open sizes")
    if type(a.operation).__name__ in ("Concatenate", "Stack") and len(a.places) == len(a.arguments[0][0]):
        axis = a.operation.axis % len(a.shapes[0]) + 1
        return Symbol(type(a.operation)(axis=axis)([graph.symbol(each).tensor for each in a.places]), batched=False)
    [x], arguments = [graph.symbol(each).tensor for each in a.places[:1]], graph.arguments(a, b)[0]
    return Symbol(shifted(a, open_shape(a.shapes[0], b.shapes[0]), x, arguments, graph.name), batched=False)
