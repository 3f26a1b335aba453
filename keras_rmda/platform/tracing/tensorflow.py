"""Functions of TensorFlow that code calls on symbolic tensors, as operations of Keras while it is traced.

TensorFlow does not take the symbolic tensors of Keras. Each function here has the arguments of the one that it stands
for, and computes the same.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.platform.tracing.leaves import Numbers
from keras_rmda.platform.tracing.programs import Untraceable, is_array
from keras_rmda.platform.tracing.ranges import Size

MODULES = ("", "math", "nn", "linalg", "image")
"""Where TensorFlow has its functions, many of them twice."""


def numbers(x: Any) -> Any:
    """Return numbers, which may be an array or nested, as those of Python; sizes stay what they are."""
    if is_array(x):
        return np.asarray(ops.convert_to_numpy(x)).tolist()
    return [numbers(each) for each in x] if isinstance(x, list | tuple) else x


def dtype_of(dtype: Any, default: str) -> str:
    """Return the name of a type."""
    return default if dtype is None else keras.backend.standardize_dtype(dtype)


# ---- shapes


def transpose(a: Any, perm: Any = None, name: Any = None) -> Any:
    """`tf.transpose`."""
    return ops.transpose(a, None if perm is None else numbers(perm))


def split(value: Any, num_or_size_splits: Any, axis: int = 0, num: Any = None, name: Any = None) -> Any:
    """`tf.split`: a number of parts, or the sizes of all, of which one may be -1."""
    parts = numbers(num_or_size_splits)
    if isinstance(parts, list):
        rest = value.shape[axis] if -1 in parts else 0
        parts = [rest - sum(parts) - 1 if n == -1 else n for n in parts]
        return ops.split(value, np.cumsum(parts)[:-1].tolist(), axis=axis)
    return ops.split(value, parts, axis=axis)


def sliced(input_: Any, begin: Any, size: Any, name: Any = None) -> Any:
    """`tf.slice`: from places on, so many, or all where that is -1."""
    pairs = zip(numbers(begin), numbers(size), strict=True)
    return input_[tuple(slice(a or None, None if n == -1 else a + n) for a, n in pairs)]


def pad(tensor: Any, paddings: Any, mode: str = "CONSTANT", constant_values: Any = 0, name: Any = None) -> Any:
    """`tf.pad`."""
    constant = {"constant_values": constant_values} if mode.upper() == "CONSTANT" else {}
    return ops.pad(tensor, numbers(paddings), mode.lower(), **constant)


def gather(
    params: Any,
    indices: Any,
    validate_indices: Any = None,
    axis: int | None = None,
    batch_dims: int = 0,
    name: Any = None,
) -> Any:
    """`tf.gather`; with axes that go along, of the axis behind them."""
    batch_dims = batch_dims % (len(indices.shape) + 1) if batch_dims else 0
    if not batch_dims:
        return ops.take(params, indices, axis=axis or 0)
    if axis not in (None, 0, batch_dims):
        raise Untraceable(f"it calls `tf.gather` with batch_dims={batch_dims} and axis={axis}")
    given, rest, count = ops.shape(indices), params.shape[batch_dims + 1 :], len(indices.shape) - batch_dims
    places = indices if count == 1 else ops.reshape(indices, (*given[:batch_dims], math.prod(given[batch_dims:])))
    for _ in rest:
        places = ops.expand_dims(places, -1)
    taken = ops.take_along_axis(params, places, axis=batch_dims)
    return taken if count == 1 else ops.reshape(taken, (*given, *rest))


def one_hot(
    indices: Any,
    depth: int,
    on_value: Any = None,
    off_value: Any = None,
    axis: Any = None,
    dtype: Any = None,
    name: Any = None,
) -> Any:
    """`tf.one_hot` of zeros and ones."""
    if on_value not in (None, 1) or off_value not in (None, 0):
        raise Untraceable("it calls `tf.one_hot` with other numbers than 0 and 1")
    return ops.one_hot(indices, depth, axis=-1 if axis is None else axis, dtype=dtype_of(dtype, "float32"))


def arange(start: Any, limit: Any = None, delta: Any = 1, dtype: Any = None, name: Any = "range") -> Any:
    """`tf.range`."""
    given = (start,) if limit is None else (start, limit)
    default = "float32" if any(isinstance(n, float) for n in (*given, delta)) else "int32"
    return ops.arange(*given, **({} if delta == 1 else {"step": delta}), dtype=dtype_of(dtype, default))


def eye(num_rows: Any, num_columns: Any = None, batch_shape: Any = None, dtype: Any = None, name: Any = None) -> Any:
    """`tf.eye`."""
    if batch_shape is not None:
        raise Untraceable("it calls `tf.eye` with a batch_shape")
    columns = ops.arange(num_rows if num_columns is None else num_columns)
    return ops.cast(ops.equal(ops.expand_dims(ops.arange(num_rows), 1), columns), dtype_of(dtype, "float32"))


def band_part(input: Any, num_lower: int, num_upper: int, name: Any = None) -> Any:
    """`tf.linalg.band_part`: zeros outside of a band of the last two axes; -1 for all on a side."""
    # A band of at least the size of the axis is all of it, so that a limit alone says the same.
    below, above = (numbers(getattr(n, "limit", n)) for n in (num_lower, num_upper))
    if not all(isinstance(n, int) and not isinstance(n, Size) for n in (below, above)):
        raise Untraceable("it calls `tf.linalg.band_part` with numbers that it computes")
    ones = ops.ones_like(input, "int32")  # `ops.tril` takes no band that is wider than what it gets
    distance = ops.cumsum(ones, axis=-1) - ops.cumsum(ones, axis=-2)
    below, above = (BEYOND_ALL if n < 0 else n for n in (below, above))
    inside = ops.logical_and(ops.less_equal(distance, above), ops.greater_equal(distance, -below))
    return ops.where(inside, input, ops.zeros_like(input))


BEYOND_ALL = 2**30
"""More than any axis has."""


def space_to_depth(input: Any, block_size: int, data_format: str = "NHWC", name: Any = None) -> Any:
    """`tf.nn.space_to_depth`: the numbers of a block of positions as channels."""
    if data_format != "NHWC":
        raise Untraceable(f"it calls `tf.nn.space_to_depth` with data_format={data_format!r}")
    samples, *sizes, channels = ops.shape(input)
    height, width = (n // block_size for n in sizes)
    x = ops.reshape(input, (samples, height, block_size, width, block_size, channels))
    return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (samples, height, width, block_size**2 * channels))


def depth_to_space(input: Any, block_size: int, data_format: str = "NHWC", name: Any = None) -> Any:
    """`tf.nn.depth_to_space`: the reverse."""
    if data_format != "NHWC":
        raise Untraceable(f"it calls `tf.nn.depth_to_space` with data_format={data_format!r}")
    samples, height, width, channels = ops.shape(input)
    rest = channels // block_size**2
    x = ops.transpose(ops.reshape(input, (samples, height, width, block_size, block_size, rest)), (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (samples, height * block_size, width * block_size, rest))


def pooling(function: Callable) -> Callable:
    """Return `tf.nn.max_pool2d` or one like it."""

    def pooled(input: Any, ksize: Any, strides: Any, padding: Any, data_format: Any = None, name: Any = None) -> Any:
        inner = lambda x: tuple(x[1:-1]) if isinstance(x, list) and len(x) == len(input.shape) else x  # noqa: E731
        alone = lambda x: x[0] if isinstance(x, list) and len(x) == 1 else x  # noqa: E731
        if data_format not in (None, "NHWC", "NWC", "NDHWC") or not isinstance(padding, str):
            raise Untraceable("it calls a pooling of TensorFlow with channels first, or its own padding")
        size, steps = (alone(inner(numbers(x))) for x in (ksize, strides))
        return function(input, size, steps, padding.lower(), "channels_last")

    return pooled


# ---- products and sums


def matmul(a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False, name: Any = None) -> Any:
    """`tf.matmul`."""
    turned = lambda x, turns: ops.swapaxes(x, -1, -2) if turns else x  # noqa: E731
    return ops.matmul(turned(a, transpose_a), turned(b, transpose_b))


def einsum(equation: str, *inputs: Any, name: Any = None) -> Any:
    """`tf.einsum`."""
    return ops.einsum(equation, *inputs)


def add_n(inputs: list, name: Any = None) -> Any:
    """`tf.add_n`."""
    return functools.reduce(ops.add, inputs)


def reduction(function: Callable) -> Callable:
    """Return a function that reduces axes."""

    def reduced(input_tensor: Any, axis: Any = None, keepdims: bool = False, name: Any = None) -> Any:
        return function(input_tensor, axis=numbers(axis), keepdims=keepdims)

    return reduced


def argument(function: Callable) -> Callable:
    """Return `tf.argmax` or `tf.argmin`."""

    def found(input: Any, axis: Any = None, output_type: Any = "int64", name: Any = None) -> Any:
        return ops.cast(function(input, axis=axis or 0), dtype_of(output_type, "int64"))

    return found


def cumsum(x: Any, axis: int = 0, exclusive: bool = False, reverse: bool = False, name: Any = None) -> Any:
    """`tf.cumsum`."""
    if exclusive or reverse:
        raise Untraceable("it calls `tf.cumsum` with exclusive=True or reverse=True")
    return ops.cumsum(x, axis=axis)


def moments(x: Any, axes: Any, shift: Any = None, keepdims: bool = False, name: Any = None) -> tuple:
    """`tf.nn.moments`."""
    axes = numbers(axes)
    return ops.mean(x, axes, keepdims=keepdims), ops.var(x, axes, keepdims=keepdims)


def bias_add(value: Any, bias: Any, data_format: Any = None, name: Any = None) -> Any:
    """`tf.nn.bias_add`, along the last axis."""
    if data_format is not None and data_format.startswith("NC"):
        raise Untraceable("it calls `tf.nn.bias_add` with channels first")
    return value + bias


def l2_normalize(x: Any, axis: Any = None, epsilon: float = 1e-12, name: Any = None) -> Any:
    """`tf.nn.l2_normalize`."""
    return x * ops.rsqrt(ops.maximum(ops.sum(ops.square(x), axis=numbers(axis), keepdims=True), epsilon))


def convolution(function: Callable) -> Callable:
    """Return `tf.nn.conv2d` or one like it."""

    def convolved(
        input: Any,
        filters: Any,
        strides: Any,
        padding: str,
        data_format: Any = None,
        dilations: Any = None,
        name: Any = None,
    ) -> Any:
        inner = lambda x: x[1:-1] if isinstance(x, list) and len(x) == len(input.shape) else x  # noqa: E731
        if data_format not in (None, "NHWC", "NWC") or not isinstance(padding, str):
            raise Untraceable("it calls a convolution of TensorFlow with channels first, or its own padding")
        steps, rates = (inner(numbers(x)) for x in (strides, dilations or 1))
        steps, rates = (tuple(x) if isinstance(x, list) else x for x in (steps, rates))
        return function(input, filters, steps, padding.lower(), "channels_last", rates)

    return convolved


# ---- each number by itself


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
    "abs ceil cos cosh elu erf exp expm1 floor log log1p log_sigmoid logical_not negative reciprocal relu relu6 round "
    "rsqrt selu sigmoid sign silu sin sinh softplus softsign sqrt square stop_gradient tan tanh"
)
BINARY = named(
    "add divide equal greater greater_equal less less_equal logical_and logical_or logical_xor maximum "
    "multiply not_equal subtract"
)
OTHER_NAMES = {
    "acos": "arccos", "asin": "arcsin", "atan": "arctan", "atan2": "arctan2", "floordiv": "floor_divide",
    "floormod": "mod", "is_nan": "isnan", "mod": "mod", "pow": "power", "truediv": "true_divide",
}  # fmt: skip
REDUCTIONS = {
    "reduce_all": ops.all, "reduce_any": ops.any, "reduce_logsumexp": ops.logsumexp, "reduce_max": ops.max,
    "reduce_mean": ops.mean, "reduce_min": ops.min, "reduce_prod": ops.prod, "reduce_std": ops.std,
    "reduce_sum": ops.sum, "reduce_variance": ops.var,
}  # fmt: skip

FUNCTIONS: dict[str, Callable] = {
    **UNARY,
    **BINARY,
    **{name: plain(getattr(ops, other)) for name, other in OTHER_NAMES.items()},
    **{name: reduction(function) for name, function in REDUCTIONS.items()},
    "add_n": add_n,
    "argmax": argument(ops.argmax),
    "argmin": argument(ops.argmin),
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
    "convert_to_tensor": lambda value, dtype=None, dtype_hint=None, name=None: (
        value if dtype is None else ops.cast(value, dtype_of(dtype, ""))
    ),
    "cumsum": cumsum,
    "depth_to_space": depth_to_space,
    "depthwise_conv2d": convolution(ops.depthwise_conv),
    "einsum": einsum,
    "ensure_shape": lambda x, shape, name=None: x,
    "expand_dims": lambda input, axis, name=None: ops.expand_dims(input, axis),
    "gather": gather,
    "gelu": lambda features, approximate=False, name=None: ops.gelu(features, approximate),
    "identity": lambda input, name=None: input,
    "l2_normalize": l2_normalize,
    "leaky_relu": lambda features, alpha=0.2, name=None: ops.leaky_relu(features, alpha),
    "log_softmax": lambda logits, axis=None, name=None: ops.log_softmax(logits, -1 if axis is None else axis),
    "matmul": matmul,
    "matvec": lambda a, b, name=None: ops.squeeze(ops.matmul(a, ops.expand_dims(b, -1)), -1),
    "max_pool": pooling(ops.max_pool),
    "max_pool1d": pooling(ops.max_pool),
    "max_pool2d": pooling(ops.max_pool),
    "max_pool3d": pooling(ops.max_pool),
    "moments": moments,
    "one_hot": one_hot,
    "ones_like": lambda input, dtype=None, name=None: ops.ones_like(input, dtype_of(dtype, input.dtype)),
    "pad": pad,
    "repeat": lambda input, repeats, axis=None, name=None: ops.repeat(input, numbers(repeats), axis),
    "reshape": lambda tensor, shape, name=None: ops.reshape(tensor, numbers(shape)),
    "reverse": lambda tensor, axis, name=None: ops.flip(tensor, numbers(axis)),
    "roll": lambda input, shift, axis, name=None: ops.roll(input, numbers(shift), numbers(axis)),
    "shape": lambda input, out_type=None, name=None: ops.shape(input),
    "slice": sliced,
    "softmax": lambda logits, axis=None, name=None: ops.softmax(logits, -1 if axis is None else axis),
    "space_to_depth": space_to_depth,
    "split": split,
    "squared_difference": lambda x, y, name=None: ops.square(ops.subtract(x, y)),
    "squeeze": lambda input, axis=None, name=None: ops.squeeze(input, numbers(axis)),
    "stack": lambda values, axis=0, name=None: ops.stack(values, axis),
    "swish": lambda features, beta=1.0: features * ops.sigmoid(beta * features),
    "tensordot": lambda a, b, axes, name=None: ops.tensordot(a, b, numbers(axes)),
    "tile": lambda input, multiples, name=None: ops.tile(input, numbers(multiples)),
    "transpose": transpose,
    "unstack": lambda value, num=None, axis=0, name=None: ops.unstack(value, num, axis),
    "where": lambda condition, x=None, y=None, name=None: ops.where(condition, x, y),
    "zeros_like": lambda input, dtype=None, name=None: ops.zeros_like(input, dtype_of(dtype, input.dtype)),
}
"""What stands for each function, by the name that TensorFlow has for it."""

OF_SIZES: dict[str, Callable] = {
    "eye": eye,
    "minimum": minimum,
    "fill": lambda dims, value, name=None: ops.full(numbers(dims), value),
    "ones": lambda shape, dtype=None, name=None: ops.ones(numbers(shape), dtype_of(dtype, "float32")),
    "range": arange,
    "zeros": lambda shape, dtype=None, name=None: ops.zeros(numbers(shape), dtype_of(dtype, "float32")),
}
"""The same of functions that get no tensors, but sizes."""


MISSED: list[str] = []
"""Functions of TensorFlow that got symbolic tensors and for which nothing stands, since this was last emptied."""

KEPT: dict[Callable, Callable] = {}
"""What stands for functions now, where code has kept the functions themselves, as in `self.activation = tf.nn.relu`."""


@functools.cache
def dispatcher(tensorflow: Any) -> Any:
    """Let TensorFlow ask `KEPT` before it raises since it cannot take a symbolic tensor of Keras; once."""

    class OfKept(tensorflow.__internal__.dispatch.GlobalOpDispatcher):  # which is not public
        def handle(self, op: Any, arguments: Any, keyword_arguments: Any) -> Any:
            if (stand_in := KEPT.get(inspect.unwrap(op))) is not None:
                return stand_in(*arguments, **keyword_arguments)
            MISSED.append(re.sub(r"_v\d$", "", getattr(op, "__name__", "a function")))
            return self.NOT_SUPPORTED

    made = OfKept()
    made.register()
    return made


def constant(x: Any, key: Any) -> Callable | None:
    """Return what indexes an array by the size of an axis, as code does with a table of positions; None for others."""
    sizes = [n for part in (key if isinstance(key, tuple) else (key,)) for n in bounds(part) if isinstance(n, Size)]
    if not sizes or isinstance(x, keras.KerasTensor) or not hasattr(x, "numpy"):
        return None

    def indexed(x: Any, key: Any) -> Any:
        array = x.numpy()
        kept = (array.shape, array.reshape(-1).tolist(), keras.backend.standardize_dtype(x.dtype))
        return Numbers(*kept)(sizes[0].tensor)[key]

    return indexed


def bounds(part: Any) -> tuple:
    """Return where a slice begins and ends."""
    return (part.start, part.stop) if isinstance(part, slice) else ()


@contextlib.contextmanager
def tensorflow_as_operations() -> Iterator[None]:
    """Let code call functions of TensorFlow on symbolic tensors, and on the sizes of open axes."""
    tensorflow = sys.modules.get("tensorflow") if keras.backend.backend() == "tensorflow" else None
    if tensorflow:
        dispatcher(tensorflow)
    changed: list[tuple[Any, str, Callable]] = []
    getitem = getattr(getattr(tensorflow, "Tensor", None), "__getitem__", None)
    kept = dict(KEPT)
    MISSED.clear()
    inside: list[str] = []  # what stands in now, whose own calls of TensorFlow are meant as they are

    def instead(function: Callable, stand_in: Callable, kinds: tuple[type, ...]) -> Callable:
        @functools.wraps(function)
        def called(*arguments: Any, **keyword_arguments: Any) -> Any:
            given = keras.tree.flatten((arguments, keyword_arguments))
            if inside or not any(isinstance(x, kinds) for x in given):
                return function(*arguments, **keyword_arguments)
            inside.append(function.__name__)
            try:
                return stand_in(*arguments, **keyword_arguments)
            finally:
                inside.pop()

        return called

    if tensorflow:
        changed.append((tensorflow.Tensor, "__getitem__", getitem))
        tensorflow.Tensor.__getitem__ = lambda x, key: (constant(x, key) or getitem)(x, key)
    for path in MODULES if tensorflow else ():
        module = getattr(tensorflow, path) if path else tensorflow
        for functions, kinds in ((FUNCTIONS, (keras.KerasTensor,)), (OF_SIZES, (keras.KerasTensor, Size))):
            for name, stand_in in functions.items():
                if callable(function := getattr(module, name, None)):
                    changed.append((module, name, function))
                    setattr(module, name, instead(function, stand_in, kinds))
                    KEPT.setdefault(inspect.unwrap(function), stand_in)
    try:
        yield
    finally:
        KEPT.clear()
        KEPT.update(kept)
        for module, name, function in changed:
            setattr(module, name, function)
