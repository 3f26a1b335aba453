"""Operations of TensorFlow that become others in a graph for TensorFlow Lite, whoever asks for them.

TensorFlow has no public way to be asked at every operation; checked with 2.21.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras_rmda.platform.lite import axes, patches
from keras_rmda.platform.lite.integers import INT16, ROUNDED
from keras_rmda.platform.lite.parts import AWARE, INT8, negative


def creating(rounded: str | None) -> Callable[[Callable], Callable]:
    """Return what makes of the method by which a graph creates operations one that takes others in their place.

    Args:
        rounded: "int8" or "int16" where numbers become such integers, "aware" where they have trained so; None.
    """
    table = ALWAYS | {"int8": ROUNDED | INT8, "int16": ROUNDED | INT16, "aware": AWARE}.get(rounded, {})

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


def expanded(x: Any, axis: Any) -> Any:
    """Compute new axes of truths and integers by a reshape: microcontrollers have nothing else for these."""
    import tensorflow as tf

    axis = tf.get_static_value(axis)
    if x.dtype.is_floating or axis is None or not x.shape.is_fully_defined():
        return None
    shape = list(x.shape)
    shape.insert(int(axis) % (len(shape) + 1), 1)
    return tf.reshape(x, shape)


def of_shape(x: Any, attributes: dict[str, Any]) -> Any:
    """Believe what code says of a shape: TensorFlow Lite has nothing that looks."""
    import tensorflow as tf

    result = tf.identity(x)
    result.set_shape(tf.TensorShape(attributes["shape"].shape))
    return result


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


WITH_ATTRIBUTES = (
    "BiasAdd", "Cast", "ConcatV2", "Einsum", "EnsureShape", "ExtractImagePatches", "FakeQuantWithMinMaxVars", "OneHot",
    "Pack", "Relu", "SpaceToDepth", "StridedSlice", "Sum",
)  # fmt: skip

ALWAYS = {
    "EnsureShape": of_shape,
    "ExpandDims": expanded,
    "ExtractImagePatches": patches.of_tensorflow,
    "MatrixDiagV3": patches.diagonal,
    "OneHot": one_hot,
    "Reshape": axes.of_sizes,
    "Roll": rolled,
    "Selu": selu,
    "Softplus": softplus,
    "StridedSlice": axes.sliced,
    "Tile": tiled,
    "Transpose": axes.transposed,
}
"""What TensorFlow Lite has not, or has not everywhere, or computes of numbers that are too large."""
