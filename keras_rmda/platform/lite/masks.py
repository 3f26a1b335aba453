"""Masked scores in front of a softmax, without the huge numbers that leave int8 no steps for all others."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator
from typing import Any

HUGE = -1e4
"""What is added to a score, or put in its place, to mask it, is lower than this."""

BELOW = 16.0
"""How far masked scores are below the lowest one: e^-16 is less than a step of int8 or int16."""

SELECTIONS = ("Select", "SelectV2")

MOVES = ("BroadcastTo", "Cast", "ExpandDims", "GatherV2", "Identity", "Reshape", "Squeeze", "StridedSlice", "Tile")
"""Operations of TensorFlow that leave numbers what they are."""


def nearer(logits: Any) -> Any:
    """Return for a tensor of a graph one in which masked scores are near the others; None if it has none.

    In int8 all scores share one scale: with -1e9 among them, or the lowest number that there is, all others are 0. So
    scores that would add nothing to a softmax are put a little below the lowest one.
    """
    import tensorflow as tf

    if not tf.is_symbolic_tensor(logits) or not logits.dtype.is_floating:
        return None
    kind, inputs = logits.op.type, list(logits.op.inputs)
    if kind in ("Reshape", "Transpose"):
        inside = nearer(inputs[0])
        return inside if inside is None else {"Reshape": tf.reshape, "Transpose": tf.transpose}[kind](inside, inputs[1])
    found = selected(*inputs) if kind in SELECTIONS else added(logits)
    if found is None:
        return None
    scores, is_masked = found
    # The negative of the highest negative: the lowest itself would take the others' steps, as the converter goes.
    lowest = -BELOW - tf.reduce_max(-1.0 * scores, keepdims=True)
    result = tf.where(is_masked, lowest, scores)
    result.set_shape(logits.shape)
    return result


def selected(condition: Any, a: Any, b: Any) -> tuple[Any, Any] | None:
    """Return the scores of a selection, and where they are masked; None if none of both is huge."""
    import tensorflow as tf

    return (a, tf.logical_not(condition)) if is_low(b) else (b, condition) if is_low(a) else None


def added(logits: Any) -> tuple[Any, Any] | None:
    """Return the scores of a sum, and where they are masked; None if nothing is added that masks."""
    import tensorflow as tf

    parts = [(sign, x, is_penalty(x, sign)) for sign, x in terms(logits)]
    scores = [sign * x if sign < 0 else x for sign, x, masks in parts if not masks]
    # In int8 zero is exact beside huge numbers, and no other small number is.
    masked = [tf.not_equal(x, 0.0) for _, x, masks in parts if masks]
    if not masked or not scores:
        return None
    return functools.reduce(operator.add, scores), functools.reduce(tf.logical_or, masked)


def terms(x: Any, sign: float = 1.0) -> Iterator[tuple[float, Any]]:
    """Yield the tensors that one is a sum of, with their signs."""
    kind = x.op.type if hasattr(x, "op") else ""
    if kind not in ("Add", "AddV2", "Sub"):
        yield sign, x
        return
    first, second = x.op.inputs
    yield from terms(first, sign)
    yield from terms(second, -sign if kind == "Sub" else sign)


def constant(x: Any) -> Any:
    """Return the value of a tensor that is known when the graph is made; None for others."""
    import tensorflow as tf

    return tf.get_static_value(x)


def is_huge(x: Any, sign: float = 1.0) -> bool:
    """Return whether a tensor is a constant that is lower everywhere than any score."""
    value = constant(x)
    return value is not None and value.size > 0 and bool((sign * value <= HUGE).all())


def is_low(x: Any) -> bool:
    """Return whether a tensor is lower everywhere than any score: a huge constant, or a sum with one."""
    return any(is_huge(each, sign) for sign, each in terms(x))


def is_penalty(x: Any, sign: float) -> bool:
    """Return whether a tensor holds huge numbers and zeros: a constant, a selection, or a mask times a huge number."""
    value = constant(x)
    if value is not None:
        return value.size > 1 and bool(((sign * value <= HUGE) | (value == 0)).all()) and bool((value != 0).any())
    kind, inputs = (x.op.type, list(x.op.inputs)) if hasattr(x, "op") else ("", [])
    if kind in MOVES:
        return is_penalty(inputs[0], sign)
    if kind in SELECTIONS:
        a, b = inputs[1:]
        return any(is_huge(one, sign) and is_zero(other) for one, other in ((a, b), (b, a)))
    return kind == "Mul" and any(is_huge(each, sign) for each in inputs)


def is_zero(x: Any) -> bool:
    """Return whether a tensor is a constant of zeros."""
    value = constant(x)
    return value is not None and not value.any()
