"""Operations of TensorFlow that become others in a graph for TensorFlow Lite, whoever asks for them.

TensorFlow has no public way to be asked at every operation; checked with 2.21.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras_rmda.platform.lite import masks


def creating(rounded: str | None) -> Callable[[Callable], Callable]:
    """Return what makes of the method by which a graph creates operations one that takes others in their place.

    Args:
        rounded: "int8" or "int16" where numbers become such integers, None elsewhere.
    """
    table = ALWAYS | (ROUNDED if rounded else {}) | (INT16 if rounded == "int16" else {})

    def make(create: Callable) -> Callable:
        def created(graph: Any, kind: str, inputs: Any, *arguments: Any, **keywords: Any) -> Any:
            if kind in table:
                given = {"attributes": keywords.get("attrs") or {}} if kind in WITH_ATTRIBUTES else {}
                with graph.as_default():
                    result = table[kind](*inputs, **given)
                if result is not None:
                    return result.op
            return create(graph, kind, inputs, *arguments, **keywords)

        return created

    return make


def rolled(x: Any, shift: Any, axis: Any) -> Any:
    """Shift positions by picking them: TensorFlow Lite has no roll."""
    import tensorflow as tf

    shifts, axes = (tf.get_static_value(each) for each in (shift, axis))
    if axes is None or shifts is None:
        return None
    for steps, k in zip(shifts.reshape(-1), axes.reshape(-1)):
        k = int(k) % len(x.shape)
        count = x.shape[k] or tf.shape(x)[k]
        x = tf.gather(x, tf.math.floormod(tf.range(count) - int(steps), count), axis=k)
    return tf.identity(x)


def softplus(x: Any) -> Any:
    """Compute it without e^x, which is huge or infinite where x is large."""
    import tensorflow as tf

    return tf.nn.relu(x) + tf.math.log(1.0 + tf.exp(-1.0 * tf.abs(x)))


def selu(x: Any) -> Any:
    """Compute it of negative numbers where it is not linear."""
    import tensorflow as tf

    scale, alpha = 1.0507009873554805, 1.6732632423543772
    return scale * tf.nn.relu(x) + scale * alpha * tf.nn.elu(negative(x))


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


def product(x: Any, y: Any = None) -> Any:
    """Compute a square, or that of a difference, as a product."""
    x = x if y is None else x - y
    return x * x if x.dtype.is_floating else None


def compared(name: str) -> Callable[[Any, Any], Any]:
    """Return what compares integers with a constant as floats, which is exact: the converter wants ranges of them."""

    def comparison(x: Any, y: Any) -> Any:
        import tensorflow as tf

        values = [tf.get_static_value(each) for each in (x, y)]
        known = [each for each in values if each is not None]
        if not x.dtype.is_integer or not known or any((abs(each) > 2**24).any() for each in known):
            return None
        return getattr(tf.raw_ops, name)(x=tf.cast(x, "float32"), y=tf.cast(y, "float32"))

    return comparison


def expanded(x: Any, axis: Any) -> Any:
    """Compute new axes of truths and integers by a reshape: microcontrollers have nothing else for these."""
    import tensorflow as tf

    axis = tf.get_static_value(axis)
    if x.dtype.is_floating or axis is None or not x.shape.is_fully_defined():
        return None
    shape = list(x.shape)
    shape.insert(int(axis) % (len(shape) + 1), 1)
    return tf.reshape(x, shape)


def tiled(x: Any, multiples: Any) -> Any:
    """Compute copies along axes of one position by a broadcast, which microcontrollers have."""
    import tensorflow as tf

    counts = tf.get_static_value(multiples)
    if counts is None or not x.shape.is_fully_defined() or any(n != 1 and m != 1 for n, m in zip(x.shape, counts)):
        return None
    return tf.broadcast_to(x, [int(n * m) for n, m in zip(x.shape, counts)])


def one_hot(indices: Any, depth: Any, on: Any, off: Any, attributes: dict[str, Any]) -> Any:
    """Compute it of distances: in int8 its ones have another scale than it has, and microcontrollers lack it."""
    import tensorflow as tf

    count, ends = tf.get_static_value(depth), [tf.get_static_value(each) for each in (on, off)]
    axis = attributes["axis"].i if "axis" in attributes else -1
    if count is None:
        return None
    rank = len(indices.shape)
    axis = axis % (rank + 1)
    is_wide = tf.is_symbolic_tensor(indices) and indices.op.type == "Cast" and indices.op.inputs[0].dtype != tf.int64
    narrow = tf.cast(indices.op.inputs[0] if is_wide else indices, "int32")
    off_by = tf.expand_dims(narrow, axis) - tf.reshape(tf.range(int(count)), [-1] + [1] * (rank - axis))
    off_by = tf.maximum(tf.minimum(off_by, 1), -1)
    chosen = 1 - off_by * off_by  # the converter makes one operator again of comparisons
    return tf.cast(chosen, on.dtype) if ends == [1, 0] else tf.where(tf.cast(chosen, "bool"), on, off)


def integer(x: Any, attributes: dict[str, Any]) -> Any:
    """Make integers of floats before these are moved: of what int8 leaves of 3 there may be 2.98, and 2 of that."""
    import tensorflow as tf

    kind = tf.as_dtype(attributes["DstT"].type)
    if not (kind.is_integer and x.dtype.is_floating and tf.is_symbolic_tensor(x)):
        return None
    moves, source = [], x
    while source.op.type in MOVES:
        moves.append(source.op)
        source = source.op.inputs[0]
    was_integer = source.op.type == "Cast" and source.op.inputs[0].dtype.is_integer
    if not moves and not was_integer:
        return None
    narrow = tf.int32 if kind == tf.int64 else kind
    result = tf.cast(source.op.inputs[0] if was_integer else source, narrow)
    for each in reversed(moves):
        result = moved(each, result)
    return tf.identity(result) if narrow == kind else tf.cast(result, kind)


def moved(operation: Any, x: Any) -> Any:
    """Return what an operation that moves numbers makes of others, of another type."""
    import tensorflow as tf

    names = [each.name for each in operation.op_def.attr if each.type != "type"]
    values = {{"squeeze_dims": "axis"}.get(name, name): operation.get_attr(name) for name in names}
    arguments = [each.name for each in operation.op_def.input_arg]
    given = dict(zip(arguments, [x, *operation.inputs[1:]]))
    return getattr(tf.raw_ops, operation.type)(**given | values)


MOVES = ("ExpandDims", "GatherV2", "Identity", "Reshape", "Squeeze", "StridedSlice", "Transpose")
"""Operations that leave numbers what they are, and have them as their first input."""

WITH_ATTRIBUTES = ("Cast", "OneHot")

COMPARISONS = ("Equal", "NotEqual", "Greater", "GreaterEqual", "Less", "LessEqual")

ALWAYS = {"ExpandDims": expanded, "OneHot": one_hot, "Roll": rolled, "Selu": selu, "Softplus": softplus, "Tile": tiled}
"""What TensorFlow Lite has not, or has not everywhere, or computes of numbers that are too large."""


def softmax(logits: Any) -> Any:
    """Compute a softmax of masked scores that are near the others."""
    import tensorflow as tf

    near = masks.nearer(logits)
    return None if near is None else tf.nn.softmax(near)


ROUNDED = {"Cast": integer, "Softmax": softmax, "Minimum": minimum}
"""What would leave other numbers few steps."""

INT16 = {"Square": product, "SquaredDifference": product, **{name: compared(name) for name in COMPARISONS}}
"""What LiteRT has not for int16, or its converter cannot quantize to it."""
