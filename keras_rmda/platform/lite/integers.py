"""Operations of TensorFlow that become others where a file computes in integers: its quantizer does these badly."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

from keras_rmda.platform.lite import masks
from keras_rmda.platform.lite.parts import MOVES, minimum
from keras_rmda.platform.lite.patches import by_order


def limited(comparison: str) -> Callable[[Any, Any], Any]:
    """Return what takes a constant where numbers are over or under it, in float: in int16 a huge one turns around."""

    def extreme(x: Any, y: Any) -> Any:
        import tensorflow as tf

        x, y = (y, x) if tf.get_static_value(x) is not None else (x, y)
        value = tf.get_static_value(y)
        if not x.dtype.is_floating or value is None or not (abs(value) > FAR).any():
            return None
        return tf.where(getattr(tf, comparison)(x, y), x, y)

    return extreme


def smaller(x: Any, y: Any) -> Any:
    """Compute a minimum of int16."""
    result = minimum(x, y)
    return limited("less")(x, y) if result is None else result


def root(x: Any) -> Any:
    """Compute one divided by a root of a root, squared: the table of int16 has few steps where numbers are small."""
    import tensorflow as tf

    if tf.is_symbolic_tensor(x) and x.op.type == "Sqrt":
        return None
    fourth = tf.math.rsqrt(tf.sqrt(x))
    return fourth * fourth


def logarithm(x: Any) -> Any:
    """Compute a logarithm of a root of a root, for the same reason."""
    import tensorflow as tf

    is_root = tf.is_symbolic_tensor(x) and x.op.type == "Sqrt" and x.op.inputs[0].op.type == "Sqrt"
    return None if is_root else 4.0 * tf.math.log(tf.sqrt(tf.sqrt(x)))


def padded(x: Any, sides: Any, value: Any) -> Any:
    """Pad with zeros what is less by a number, and add that: LiteRT has no other one for int16."""
    import tensorflow as tf

    number = tf.get_static_value(value)
    if number is None or not x.dtype.is_floating or not abs(number) < -masks.HUGE:
        return None
    return tf.pad(x - number, sides) + number


def product(x: Any, y: Any = None) -> Any:
    """Compute a square, or that of a difference, as a product."""
    x = x if y is None else x - y
    return x * x if x.dtype.is_floating else None


def total(x: Any, axes: Any, attributes: dict[str, Any]) -> Any:
    """Compute a sum of the mean: the quantizer gives sums of int16 the scale of what goes in, which cuts them off."""
    import tensorflow as tf

    along = tf.get_static_value(axes)
    if not x.dtype.is_floating or along is None:
        return None
    sizes = [x.shape[int(k)] for k in along.reshape(-1)]
    counts = [tf.shape(x)[int(k)] if n is None else n for k, n in zip(along.reshape(-1), sizes)]
    count = tf.cast(functools.reduce(operator.mul, counts, 1), x.dtype)
    keeps = "keep_dims" in attributes and attributes["keep_dims"].b
    return tf.reduce_mean(x, along.reshape(-1).tolist(), keepdims=keeps) * count


def einsum(x: Any, *others: Any, attributes: dict[str, Any]) -> Any:
    """Compute a sum that is written as an einsum of one tensor."""
    import tensorflow as tf

    source, _, target = attributes["equation"].s.decode().replace(" ", "").partition("->")
    if others or "." in source or len(set(source)) < len(source) or not x.dtype.is_floating:
        return None
    left = [letter for letter in source if letter in target]
    result = tf.reduce_sum(x, [k for k, letter in enumerate(source) if letter not in target])
    return tf.transpose(result, [left.index(letter) for letter in target])


def softmax(logits: Any) -> Any:
    """Compute a softmax of masked scores that are near the others."""
    import tensorflow as tf

    near = masks.nearer(logits)
    return None if near is None else tf.nn.softmax(near)


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


FAR = 100.0
"""Constants beyond this may be too far from other numbers for a scale of theirs."""

ROUNDED = {"Cast": integer, "Softmax": softmax}
"""What would leave other numbers few steps."""

SQUARES = ("Square", "SquaredDifference")

INT16 = {
    "Einsum": einsum,
    "Log": logarithm,
    "Maximum": limited("greater"),
    "Minimum": smaller,
    "PadV2": padded,
    "Rsqrt": root,
    "SpaceToDepth": by_order,
    "Sum": total,
    **dict.fromkeys(SQUARES, product),
}
"""What LiteRT has not for int16, or its converter cannot quantize to it, or not well."""
