"""Other functions of TensorFlow, as operations of Keras: norms, matrices, sorting, segments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

from keras_rmda.platform.tracing.programs import Untraceable
from keras_rmda.platform.tracing.tensorflow.arguments import numbers


def norm(tensor: Any, ord: Any = "euclidean", axis: Any = None, keepdims: Any = None, name: Any = None) -> Any:
    """`tf.norm` of vectors: the Euclidean one, that of absolute values, or the largest of them."""
    axis, keeps = numbers(axis), bool(keepdims)
    if isinstance(axis, list) and ord not in ("euclidean", "fro"):
        raise Untraceable(f"it calls `tf.norm` of matrices with ord={ord!r}")
    if ord in ("euclidean", "fro", 2):
        return ops.sqrt(ops.sum(ops.square(tensor), axis=axis, keepdims=keeps))
    if ord not in (1, float("inf")):
        raise Untraceable(f"it calls `tf.norm` with ord={ord!r}")
    return (ops.sum if ord == 1 else ops.max)(ops.abs(tensor), axis=axis, keepdims=keeps)


def normalize(tensor: Any, ord: Any = "euclidean", axis: Any = None, name: Any = None) -> tuple:
    """`tf.linalg.normalize`: vectors of norm 1, and what their norms were."""
    norms = norm(tensor, ord, axis, keepdims=True)
    return tensor / norms, norms


def diag(diagonal: Any, name: Any = None) -> Any:
    """`tf.linalg.diag`: matrices with these diagonals, the main ones, and zeros elsewhere."""
    return ops.where(ops.eye(diagonal.shape[-1], dtype="bool"), ops.expand_dims(diagonal, -1), 0.0)


def crelu(features: Any, axis: int = -1, name: Any = None) -> Any:
    """`tf.nn.crelu`: the positive parts of numbers, and behind them those of their negatives."""
    return ops.relu(ops.concatenate([features, ops.negative(features)], axis=axis))


def sort(values: Any, axis: int = -1, direction: str = "ASCENDING", name: Any = None) -> Any:
    """`tf.sort`."""
    found = ops.sort(values, axis=axis)
    return found if direction == "ASCENDING" else ops.flip(found, axis)


def argsort(values: Any, axis: int = -1, direction: str = "ASCENDING", stable: bool = False, name: Any = None) -> Any:
    """`tf.argsort`."""
    return ops.cast(ops.argsort(values if direction == "ASCENDING" else ops.negative(values), axis=axis), "int32")


class TopK(NamedTuple):
    """What `tf.math.top_k` returns."""

    values: Any
    indices: Any


def top_k(input: Any, k: int = 1, sorted: bool = True, index_type: Any = None, name: Any = None) -> TopK:
    """`tf.math.top_k`."""
    return TopK(*ops.top_k(input, k, sorted))


def segment_sum(data: Any, segment_ids: Any, num_segments: Any, name: Any = None) -> Any:
    """`tf.math.unsorted_segment_sum`, of what has one axis of segments."""
    if len(segment_ids.shape) != 1:
        raise Untraceable("it calls `tf.math.unsorted_segment_sum` with segments of several axes")
    return ops.segment_sum(data, segment_ids, num_segments=numbers(num_segments))


def batch_normalization(
    x: Any, mean: Any, variance: Any, offset: Any, scale: Any, variance_epsilon: float, name: Any = None
) -> Any:
    """`tf.nn.batch_normalization`."""
    inverse = ops.rsqrt(variance + variance_epsilon)
    y = (x - mean) * (inverse if scale is None else inverse * scale)
    return y if offset is None else y + offset


OTHERS: dict[str, Callable] = {
    "adjoint": lambda matrix, name=None: ops.swapaxes(matrix, -1, -2),
    "argsort": argsort,
    "batch_normalization": batch_normalization,
    "cholesky": lambda input, name=None: ops.cholesky(input),
    "crelu": crelu,
    "det": lambda input, name=None: ops.det(input),
    "diag": diag,
    "diag_part": lambda input, name=None, k=0: ops.diagonal(input, offset=k, axis1=-2, axis2=-1),
    "divide_no_nan": lambda x, y, name=None: ops.divide_no_nan(x, y),
    "inv": lambda input, name=None: ops.inv(input),
    "matrix_transpose": lambda a, name=None: ops.swapaxes(a, -1, -2),
    "norm": norm,
    "normalize": normalize,
    "rank": lambda input, name=None: len(input.shape),
    "reciprocal_no_nan": lambda x, name=None: ops.divide_no_nan(ops.ones_like(x), x),
    "reduce_euclidean_norm": lambda input_tensor, axis=None, keepdims=False, name=None: norm(
        input_tensor, axis=axis, keepdims=keepdims
    ),
    "solve": lambda matrix, rhs, name=None: ops.solve(matrix, rhs),
    "sort": sort,
    "top_k": top_k,
    "trace": lambda x, name=None: ops.trace(x, axis1=-2, axis2=-1),
    "unsorted_segment_sum": segment_sum,
}
"""What stands for each function, by the name that TensorFlow has for it."""
