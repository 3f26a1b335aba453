"""Parts of numbers in int8, which have less of a range than all: the quantizer would cut off the others by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def negative(x: Any) -> Any:
    """Compute the minimum with 0 without a difference, which microcontrollers refuse where it is always 0."""
    import tensorflow as tf

    return -1.0 * tf.nn.relu(-1.0 * x)


def minimum(x: Any, y: Any) -> Any:
    """Cut numbers off at 0: what the converter makes of a minimum takes the steps of int8 from its input.

    At other numbers differences would do that, which have no steps where numbers are far away, or infinite.
    """
    import tensorflow as tf

    x, y = (y, x) if tf.get_static_value(x) is not None else (x, y)
    value = tf.get_static_value(y)
    if value is None or value.any() or value.size != 1 or not x.dtype.is_floating:
        return None
    return negative(x)


def apart(x: Any) -> Any:
    """Return a tensor of its own that holds the same: what the quantizer says of its range is not said of the other.

    A product with 1 would be none; this one is off by a rounding of float32.
    """
    return x * ALMOST_ONE


def is_apart(x: Any) -> bool:
    """Return whether a tensor needs no other of its own: it has one, or is a constant."""
    import tensorflow as tf

    if tf.get_static_value(x) is not None or not tf.is_symbolic_tensor(x):
        return True
    if x.op.type in BOUNDLESS:  # the limit gives them a range
        return True
    values = [tf.get_static_value(each) for each in x.op.inputs] if x.op.type == "Mul" else []
    return any(value is not None and value.size == 1 and value.reshape(-1)[0] == ALMOST_ONE for value in values)


def of_own_range(name: str) -> Callable[[Any, Any], Any]:
    """Return what takes the larger or smaller of two, whose range would become that of both, elsewhere too."""

    def extreme(x: Any, y: Any) -> Any:
        import tensorflow as tf

        if not x.dtype.is_floating or (is_apart(x) and is_apart(y)):
            return None
        return getattr(tf, name)(*(each if is_apart(each) else apart(each) for each in (x, y)))

    return extreme


def selection(condition: Any, x: Any, y: Any) -> Any:
    """Select by what numbers are themselves: the range of what is taken would become that of what is not."""
    import tensorflow as tf

    chosen = [each for each in (x, y) if each.dtype.is_floating and not is_apart(each) and comes_of(condition, each)]
    if not chosen or not tf.is_symbolic_tensor(condition):
        return None
    x, y = (apart(each) if any(each is other for other in chosen) else each for each in (x, y))
    return tf.where(condition, x, y)


def of_two(name: str) -> Callable:
    """Return what takes one or the other of numbers that have trained with scales of their own.

    The converter wants one scale for both and for what comes out. In float they need none.
    """

    def of_two(*inputs: Any) -> Any:
        import tensorflow as tf

        *condition, x, y = inputs
        is_limit = not condition and any(tf.get_static_value(each) is not None for each in (x, y))
        if not x.dtype.is_floating or is_limit:  # what is cut off has the range of what is left
            return None
        if is_apart(x) and is_apart(y):
            return None
        return getattr(tf, name)(*condition, *(each if is_apart(each) else apart(each) for each in (x, y)))

    return of_two


def divided(x: Any, y: Any) -> Any:
    """Divide in float what has trained so: LiteRT fails at a divisor that is 0 among integers."""
    return None if not x.dtype.is_floating or is_apart(y) else x / apart(y)


def before_reshape(make: Callable) -> Callable:
    """Return what computes of a product of rows before these are steps of a sequence again.

    So a dense layer of sequences ends where it has trained to be rounded, and is one of integers. Between its product
    and its bias there is no range.
    """

    def moved(x: Any, *others: Any, attributes: dict[str, Any]) -> Any:
        import tensorflow as tf

        if not symbolic(x) or x.op.type != "Reshape" or x.op.inputs[0].op.type not in DENSE:
            return None
        result = tf.reshape(make(x.op.inputs[0], *others, attributes), x.op.inputs[1])
        result.set_shape(x.shape)
        return result

    return moved


def biased(x: Any, bias: Any, attributes: dict[str, Any]) -> Any:
    """Add a bias."""
    import tensorflow as tf

    return tf.nn.bias_add(x, bias)


def cut_off(x: Any, attributes: dict[str, Any]) -> Any:
    """Cut off negative numbers."""
    import tensorflow as tf

    return tf.nn.relu(x)


def rounded(x: Any, low: Any, high: Any, attributes: dict[str, Any]) -> Any:
    """Round as in training."""
    import tensorflow as tf

    how = {"num_bits": attributes["num_bits"].i, "narrow_range": attributes["narrow_range"].b}
    return tf.quantization.fake_quant_with_min_max_vars(x, low, high, **how)


def concatenated(*inputs: Any, attributes: dict[str, Any]) -> Any:
    """Let parts that are put together have ranges of their own; the last input is the axis."""
    import tensorflow as tf

    *parts, axis = inputs
    return of_parts(parts, lambda parts: tf.concat(parts, tf.get_static_value(axis)))


def of_one_scale(*inputs: Any, attributes: dict[str, Any]) -> Any:
    """Let parts that have trained with scales of their own be put together, for which the converter wants one scale.

    It rounds again what layers of tf_keras have rounded. What is carried becomes a tensor of its own, rounded once,
    when it is put together, and so do parts that were moved before.
    """
    import tensorflow as tf

    *parts, axis = inputs
    found = [unrounded(x) if is_rounded(x) else apart(x) if is_rounded(behind_moves(x)) else x for x in parts]
    return tf.concat(found, tf.get_static_value(axis)) if any(a is not b for a, b in zip(parts, found)) else None


def unrounded(x: Any) -> Any:
    """Return what was rounded, as a tensor of its own if moving it has made it; others may read it with its scale."""
    before = x.op.inputs[0]
    return apart(before) if before.op.type in MOVES else x


def is_rounded(x: Any) -> bool:
    """Return whether a tensor holds what was rounded as in training."""
    return symbolic(x) and x.op.type == "FakeQuantWithMinMaxVars"


def packed(*parts: Any, attributes: dict[str, Any]) -> Any:
    """Let parts that are stacked have ranges of their own."""
    import tensorflow as tf

    return of_parts(parts, lambda parts: tf.stack(parts, attributes["axis"].i))


def of_parts(parts: Any, make: Callable[[list], Any]) -> Any:
    """Return what is made of parts, each with a range of its own that has a smaller one than what it is a part of."""
    found = [apart(x) if x.dtype.is_floating and is_part(x) else x for x in parts]
    return make(found) if any(a is not b for a, b in zip(parts, found)) else None


def is_part(x: Any) -> bool:
    """Return whether numbers are some of others, or averages of them.

    Columns of an input are not: these are picked in float, before any rounding.
    """
    moved = behind_moves(x)
    kind = moved.op.type if symbolic(moved) else ""
    if kind in ("Slice", "StridedSlice"):
        source = behind_moves(moved.op.inputs[0])
        return not (symbolic(source) and source.op.type == "Placeholder")
    return kind in PARTS


def behind_moves(x: Any) -> Any:
    """Return the tensor whose numbers one has, elsewhere only."""
    while symbolic(x) and x.op.type not in PARTS and x.op.type in MOVES:
        x = x.op.inputs[0]
    return x


def symbolic(x: Any) -> bool:
    """Return whether a tensor is one of a graph."""
    import tensorflow as tf

    return tf.is_symbolic_tensor(x)


def comes_of(x: Any, source: Any) -> bool:
    """Return whether a tensor is computed from another one."""
    waiting, seen = [x], set()
    while waiting:
        each = waiting.pop()
        if each is source or (each.op is source.op and each.value_index == source.value_index):
            return True
        if each.op.name not in seen:
            seen.add(each.op.name)
            waiting += each.op.inputs
    return False


def smaller(x: Any, y: Any) -> Any:
    """Compute a minimum of int8."""
    result = minimum(x, y)
    return of_own_range("minimum")(x, y) if result is None else result


MOVES = ("ExpandDims", "GatherV2", "Identity", "Reshape", "ReverseV2", "Squeeze", "StridedSlice", "Transpose")
"""Operations that leave numbers what they are, and have them as their first input."""

PARTS = ("AvgPool", "Max", "MaxPool", "Min", "ResizeBilinear", "Slice", "Split", "SplitV", "StridedSlice", "Unpack")
"""Operations that leave less than all numbers, and that the quantizer gives one range with what they take."""

BOUNDLESS = ("Exp", "Inv", "Log", "Pow", "RealDiv", "Reciprocal", "Rsqrt")
"""Operations that may make infinite numbers."""

ALMOST_ONE = np.float32(1 + 2**-23)
"""The number next to 1."""

INT8 = {
    "ConcatV2": concatenated,
    "Maximum": of_own_range("maximum"),
    "Minimum": smaller,
    "Pack": packed,
    "Select": selection,
    "SelectV2": selection,
}
"""What would cut off other numbers: the converter gives to what goes in the range of what comes out."""

DENSE = ("BiasAdd", "MatMul", "Relu")
"""Operations of a dense layer."""

AWARE = {
    "BiasAdd": before_reshape(biased),
    "ConcatV2": of_one_scale,
    "FakeQuantWithMinMaxVars": before_reshape(rounded),
    "Maximum": of_two("maximum"),
    "Minimum": of_two("minimum"),
    "RealDiv": divided,
    "Relu": before_reshape(cut_off),
    "Select": of_two("where"),
    "SelectV2": of_two("where"),
}
"""What becomes another in a model that has trained with rounding."""
