"""What stands for each function of TensorFlow: a function of the same arguments that makes operations of Keras."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from keras import ops

from keras_rmda.platform.tracing.tensorflow.arguments import as_tensor, dtype_of, numbers
from keras_rmda.platform.tracing.tensorflow.attributes import ShapeTensor
from keras_rmda.platform.tracing.tensorflow.images import IMAGES
from keras_rmda.platform.tracing.tensorflow.others import OTHERS
from keras_rmda.platform.tracing.tensorflow.shapes import (
    arange,
    band_part,
    depth_to_space,
    embedding_lookup,
    eye,
    gather,
    gather_nd,
    one_hot,
    pad,
    pooling,
    sequence_mask,
    sliced,
    space_to_depth,
    split,
    transpose,
)
from keras_rmda.platform.tracing.tensorflow.sums import (
    add_n,
    argument,
    bias_add,
    convolution,
    cumulative,
    einsum,
    l2_normalize,
    matmul,
    moments,
    reduction,
    separable_convolution,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
    tensordot,
    transposed_convolution,
)


def plain(function: Callable) -> Callable:
    """Return a function of tensors, by position or by any name, which takes a name for its result, too."""
    return lambda *tensors, name=None, **named: function(*tensors, *named.values())


def minimum(x: Any, y: Any, name: Any = None) -> Any:
    """`tf.minimum`."""
    return ops.minimum(x, y)


def clip(t: Any, clip_value_min: Any, clip_value_max: Any, name: Any = None) -> Any:
    """`tf.clip_by_value`."""
    return ops.minimum(ops.maximum(t, clip_value_min), clip_value_max)


def named(text: str) -> dict[str, Callable]:
    """Return stand-ins for functions that Keras calls the same."""
    return {name: plain(getattr(ops, name)) for name in text.split()}


UNARY = named(
    "abs ceil cos cosh elu erf erfinv exp expm1 floor log log1p log_sigmoid logical_not negative reciprocal relu relu6 "
    "round rsqrt selu sigmoid sign silu sin sinh softplus softsign sqrt square stop_gradient tan tanh"
)
BINARY = named(
    "add divide equal greater greater_equal less less_equal logical_and logical_or logical_xor maximum "
    "multiply not_equal subtract"
)
OTHER_NAMES = {
    "acos": "arccos", "acosh": "arccosh", "asin": "arcsin", "asinh": "arcsinh", "atan": "arctan", "atan2": "arctan2",
    "atanh": "arctanh", "floordiv": "floor_divide", "floormod": "mod", "is_finite": "isfinite", "is_inf": "isinf",
    "is_nan": "isnan", "mod": "mod", "pow": "power", "realdiv": "true_divide", "rint": "round",
    "scalar_mul": "multiply", "truediv": "true_divide",
}  # fmt: skip
REDUCTIONS = {
    "reduce_all": ops.all, "reduce_any": ops.any, "reduce_logsumexp": ops.logsumexp, "reduce_max": ops.max,
    "reduce_mean": ops.mean, "reduce_min": ops.min, "reduce_prod": ops.prod, "reduce_std": ops.std,
    "reduce_sum": ops.sum, "reduce_variance": ops.var,
}  # fmt: skip

FUNCTIONS: dict[str, Callable] = {
    **IMAGES,
    **OTHERS,
    **UNARY,
    **BINARY,
    **{name: plain(getattr(ops, other)) for name, other in OTHER_NAMES.items()},
    **{name: reduction(function) for name, function in REDUCTIONS.items()},
    "add_n": add_n,
    "argmax": argument(ops.argmax),
    "argmin": argument(ops.argmin),
    "atrous_conv2d": lambda value, filters, rate, padding, name=None: convolution(ops.conv)(
        value, filters, padding=padding, dilations=rate
    ),
    "avg_pool": pooling(ops.average_pool),
    "avg_pool1d": pooling(ops.average_pool),
    "avg_pool2d": pooling(ops.average_pool),
    "avg_pool3d": pooling(ops.average_pool),
    "band_part": band_part,
    "bias_add": bias_add,
    "broadcast_to": lambda input, shape, name=None: ops.broadcast_to(input, numbers(shape)),
    "cast": lambda x, dtype, name=None: ops.cast(x, dtype_of(dtype, "")),
    "clip_by_value": clip,
    "concat": lambda values, axis, name=None: ops.concatenate(values, axis=axis),
    "conv1d": convolution(ops.conv),
    "conv2d": convolution(ops.conv),
    "conv2d_transpose": transposed_convolution,
    "conv3d": convolution(ops.conv),
    "convert_to_tensor": lambda value, dtype=None, dtype_hint=None, name=None: (
        as_tensor(value) if dtype is None else ops.cast(as_tensor(value), dtype_of(dtype, ""))
    ),
    "convolution": convolution(ops.conv),
    "count_nonzero": lambda input, axis=None, keepdims=None, dtype="int64", name=None: ops.sum(
        ops.cast(ops.not_equal(input, 0), dtype_of(dtype, "")), axis=numbers(axis), keepdims=bool(keepdims)
    ),
    "cumprod": cumulative(ops.cumprod, 1),
    "cumsum": cumulative(ops.cumsum, 0),
    "depth_to_space": depth_to_space,
    "depthwise_conv2d": convolution(ops.depthwise_conv),
    "einsum": einsum,
    "embedding_lookup": embedding_lookup,
    "ensure_shape": lambda x, shape, name=None: x,
    "expand_dims": lambda input, axis, name=None: ops.expand_dims(input, axis),
    "gather": gather,
    "gather_nd": gather_nd,
    "gelu": lambda features, approximate=False, name=None: ops.gelu(features, approximate),
    "identity": lambda input, name=None: input,
    "l2_loss": lambda t, name=None: ops.sum(ops.square(t)) / 2,
    "l2_normalize": l2_normalize,
    "leaky_relu": lambda features, alpha=0.2, name=None: ops.leaky_relu(features, alpha),
    "log_softmax": lambda logits, axis=None, name=None: ops.log_softmax(logits, -1 if axis is None else axis),
    "matmul": matmul,
    "matvec": lambda a, b, name=None: ops.squeeze(ops.matmul(a, ops.expand_dims(b, -1)), -1),
    "max_pool": pooling(ops.max_pool),
    "max_pool1d": pooling(ops.max_pool),
    "max_pool2d": pooling(ops.max_pool),
    "max_pool3d": pooling(ops.max_pool),
    "meshgrid": lambda *arrays, indexing="xy", name=None: ops.meshgrid(*arrays, indexing=indexing),
    "moments": moments,
    "one_hot": one_hot,
    "ones_like": lambda input, dtype=None, name=None: ops.ones_like(input, dtype_of(dtype, input.dtype)),
    "pad": pad,
    "repeat": lambda input, repeats, axis=None, name=None: ops.repeat(input, numbers(repeats), axis),
    "reshape": lambda tensor, shape, name=None: ops.reshape(tensor, numbers(shape)),
    "reverse": lambda tensor, axis, name=None: ops.flip(tensor, numbers(axis)),
    "roll": lambda input, shift, axis, name=None: ops.roll(input, numbers(shift), numbers(axis)),
    "separable_conv2d": separable_convolution,
    "sequence_mask": sequence_mask,
    "shape": lambda input, out_type=None, name=None: ShapeTensor(ops.shape(input)),
    "sigmoid_cross_entropy_with_logits": sigmoid_cross_entropy,
    "size": lambda input, out_type=None, name=None: math.prod(ops.shape(input)),
    "slice": sliced,
    "softmax_cross_entropy_with_logits": softmax_cross_entropy,
    "softmax": lambda logits, axis=None, name=None: ops.softmax(logits, -1 if axis is None else axis),
    "space_to_depth": space_to_depth,
    "split": split,
    "squared_difference": lambda x, y, name=None: ops.square(ops.subtract(x, y)),
    "squeeze": lambda input, axis=None, name=None: ops.squeeze(input, numbers(axis)),
    "stack": lambda values, axis=0, name=None: ops.stack(values, axis),
    "swish": lambda features, beta=1.0: features * ops.sigmoid(beta * features),
    "tensordot": tensordot,
    "tile": lambda input, multiples, name=None: ops.tile(input, numbers(multiples)),
    "transpose": transpose,
    "unstack": lambda value, num=None, axis=0, name=None: ops.unstack(value, num, axis),
    "where": lambda condition, x=None, y=None, name=None: ops.where(condition, x, y),
    "zeros_like": lambda input, dtype=None, name=None: ops.zeros_like(input, dtype_of(dtype, input.dtype)),
}
"""What stands for each function, by the name that TensorFlow has for it."""

TAKE_LISTS = frozenset(["add_n", "concat", "convert_to_tensor", "shape", "stack"])
"""Functions to which a list is several tensors; to others it is one, which TensorFlow stacks."""

OF_SIZES: dict[str, Callable] = {
    "eye": eye,
    "minimum": minimum,
    "fill": lambda dims, value, name=None: ops.full(numbers(dims), value),
    "ones": lambda shape, dtype=None, name=None: ops.ones(numbers(shape), dtype_of(dtype, "float32")),
    "range": arange,
    "zeros": lambda shape, dtype=None, name=None: ops.zeros(numbers(shape), dtype_of(dtype, "float32")),
}
"""The same of functions that get no tensors, but sizes."""
