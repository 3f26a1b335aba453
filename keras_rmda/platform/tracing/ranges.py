"""The numbers 0, 1, 2, ... along open axes, as symbolic tensors while code is traced.

Code asks for the size of an axis and makes numbers up to it, as causal masks and position embeddings want. While it is
traced, `ops.shape` gives sizes that know their axes, and `ops.arange` of such a size is a tensor of the graph.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from keras_rmda.platform.tracing.leaves import Rearranging
from keras_rmda.platform.tracing.programs import Untraceable

FILLED = ("zeros", "ones", "full")
"""Functions of `keras.ops` that make arrays of a shape."""


class Size(int):
    """A number that is the size of an axis of a symbolic tensor."""

    tensor: Any
    axis: int
    dtype = "int32"  # as Keras asks

    @classmethod
    def of(cls, tensor: Any, axis: int) -> Size:
        """Return the size of an axis."""
        size = cls(tensor.shape[axis])
        size.tensor, size.axis = tensor, axis
        return size


class AtMost(int):
    """The smaller of the size of an axis and a number, the limit: as windows of attention are wide."""

    limit: int

    @classmethod
    def of(cls, size: Size, limit: int) -> AtMost:
        """Return the smaller of both."""
        result = cls(min(size, limit))
        result.limit = limit
        return result


@keras.saving.register_keras_serializable(package="keras_rmda")
class Range(Rearranging):
    """The numbers 0, 1, 2, ... along an axis of a tensor, with a first axis of size 1 in the place of the batch axis.

    Args:
        axis: of the tensor.
        number_type: of the numbers.
    """

    def __init__(self, axis: int, number_type: str = "int32", **arguments: Any):
        super().__init__(**arguments)
        self.axis, self.number_type = axis, number_type

    def call(self, x: Any) -> Any:
        return ops.expand_dims(ops.arange(ops.shape(x)[self.axis], dtype=self.number_type), 0)

    def compute_output_spec(self, x: Any) -> keras.KerasTensor:
        return keras.KerasTensor((None, x.shape[self.axis]), dtype=self.number_type)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"axis": self.axis, "number_type": self.number_type}


@keras.saving.register_keras_serializable(package="keras_rmda")
class Count(Range):
    """The size of an axis of a tensor, as a vector of one number; args as of `Range`."""

    def call(self, x: Any) -> Any:
        return ops.reshape(ops.cast(ops.shape(x)[self.axis], self.number_type), (1,))

    def compute_output_spec(self, x: Any) -> keras.KerasTensor:
        return keras.KerasTensor((None,), dtype=self.number_type)


class RangeOfProgram(Range):
    """The same without the first axis, as the code has it."""

    def call(self, x: Any) -> Any:
        return super().call(x)[0]

    def compute_output_spec(self, x: Any) -> keras.KerasTensor:
        return keras.KerasTensor((x.shape[self.axis],), dtype=self.number_type)


@keras.saving.register_keras_serializable(package="keras_rmda")
class PositionsUpTo(Rearranging):
    """The first positions of a tensor, as many as another one has along an axis; or those behind them.

    Args:
        axis: of the tensor.
        size_axis: of the other one.
        is_rest: whether it is those behind.
    """

    def __init__(self, axis: int, size_axis: int, is_rest: bool = False, **arguments: Any):
        super().__init__(**arguments)
        self.axis, self.size_axis, self.is_rest = axis, size_axis, is_rest

    def call(self, inputs: list) -> Any:
        x, other = inputs
        n = ops.shape(other)[self.size_axis]
        return x[(*[slice(None)] * self.axis, slice(n, None) if self.is_rest else slice(None, n))]

    def compute_output_spec(self, inputs: list) -> keras.KerasTensor:
        x, other = inputs
        shape, n = list(x.shape), other.shape[self.size_axis]
        if n is None or shape[self.axis] is None:
            shape[self.axis] = None
        else:
            shape[self.axis] = max(shape[self.axis] - n, 0) if self.is_rest else min(shape[self.axis], n)
        return keras.KerasTensor(shape, dtype=x.dtype)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"axis": self.axis, "size_axis": self.size_axis, "is_rest": self.is_rest}


@contextlib.contextmanager
def symbolic_ranges() -> Iterator[None]:
    """Let code get tensors where it makes numbers up to the size of an axis."""
    shape, arange, minimum, cast = ops.shape, ops.arange, ops.minimum, ops.cast
    ndim, symbolic = ops.ndim, lambda x: isinstance(x, keras.KerasTensor)
    broadcast_to, take, getitem = ops.broadcast_to, ops.take, keras.KerasTensor.__getitem__
    repeat, tile = ops.repeat, ops.tile

    def shape_of(x: Any) -> tuple:
        if not isinstance(x, keras.KerasTensor) or None in x.shape:
            return shape(x)
        return tuple(Size.of(x, k) if k else n for k, n in enumerate(x.shape))

    def range_of(*arguments: Any, **keyword_arguments: Any) -> Any:
        given = inspect.signature(arange).bind(*arguments, **keyword_arguments).arguments
        start, end = (0, given["start"]) if "stop" not in given else (given["start"], given["stop"])
        if end is None:  # which would be taken for no end at all
            raise Untraceable("it counts up to an open size")
        if not isinstance(end, Size) or isinstance(start, Size) or start != 0 or given.get("step", 1) not in (None, 1):
            return arange(*arguments, **keyword_arguments)
        dtype = keras.backend.standardize_dtype(given.get("dtype") or "int32")
        return RangeOfProgram(end.axis, dtype)(end.tensor)

    def minimum_of(x1: Any, x2: Any) -> Any:
        size, limit = (x1, x2) if isinstance(x1, Size) else (x2, x1)
        known = isinstance(size, Size) and isinstance(limit, int) and not isinstance(limit, Size)
        return AtMost.of(size, limit) if known else minimum(x1, x2)

    def cast_of(x: Any, dtype: Any) -> Any:
        return x if isinstance(x, AtMost) and "int" in keras.backend.standardize_dtype(dtype) else cast(x, dtype)

    def filled(make: Any) -> Any:
        def of(shape: Any, *arguments: Any, **keyword_arguments: Any) -> Any:
            sizes = shape if isinstance(shape, list | tuple) else (shape,)
            if not any(isinstance(n, Size) for n in sizes):
                return make(shape, *arguments, **keyword_arguments)
            result = make([1 if isinstance(n, Size) else n for n in sizes], *arguments, **keyword_arguments)
            return repeated(result, sizes)

        return of

    def repeated(x: Any, sizes: Any) -> Any:
        """Repeat along axes of size 1 that must have the size of an axis."""
        for axis, n in enumerate(sizes):
            place = axis - len(sizes) + len(x.shape)
            if isinstance(n, Size) and (place < 0 or x.shape[place] == 1):
                nothing = range_of(n, dtype="float32") * 0.0
                for _ in sizes[axis + 1 :]:
                    nothing = ops.expand_dims(nothing, -1)
                nothing = ops.cast(nothing, keras.backend.standardize_dtype(x.dtype))
                # Not a sum: Keras takes some for those of a tensor and a bias.
                x = ops.logical_or(x, nothing) if nothing.dtype == "bool" else x - nothing
        return x

    def broadcast_of(x: Any, shape: Any) -> Any:
        if not isinstance(shape, list | tuple) or not hasattr(x, "shape"):
            return broadcast_to(x, shape)
        return broadcast_to(repeated(x, shape), shape)

    def repeat_of(x: Any, repeats: Any, axis: int | None = None) -> Any:
        if not isinstance(repeats, Size) or axis is None or x.shape[axis] != 1:
            return repeat(x, repeats, axis=axis)
        return repeated(x, [repeats if k == axis % len(x.shape) else 1 for k in range(len(x.shape))])

    def tile_of(x: Any, repeats: Any) -> Any:
        sizes = repeats if isinstance(repeats, list | tuple) else ()
        if not any(isinstance(n, Size) for n in sizes) or not hasattr(x, "shape"):
            return tile(x, repeats)
        shape = [1] * (len(sizes) - len(x.shape)) + list(x.shape)
        if any(isinstance(n, Size) and m != 1 for n, m in zip(sizes, shape[len(shape) - len(sizes) :])):
            return tile(x, repeats)
        known = [1 if isinstance(n, Size) else n for n in sizes]
        return repeated(x if set(known) == {1} else tile(x, known), sizes)

    def take_of(x: Any, indices: Any, axis: int | None = None) -> Any:
        made = getattr(getattr(indices, "_keras_history", None), "operation", None)
        if not isinstance(made, RangeOfProgram) or axis is None or (axis == 0 and len(x.shape) == 2):
            return take(x, indices, axis=axis)
        return PositionsUpTo(axis % len(x.shape), made.axis)([x, made._inbound_nodes[0].input_tensors[0]])

    def getitem_of(x: keras.KerasTensor, key: Any) -> Any:
        parts, axis = list(key) if isinstance(key, tuple) else [key], 0
        for k, part in enumerate(parts):
            if part is Ellipsis:
                axis = len(x.shape) - sum(each is not None for each in parts[k + 1 :]) - 1
            elif isinstance(part, slice) and part.step in (None, 1) and isinstance(x, keras.KerasTensor):
                size, is_rest = (part.start, True) if part.stop is None else (part.stop, False)
                is_part = isinstance(size, Size) and (is_rest or part.start in (None, 0))
                if is_part and (size.tensor is not x or size.axis != axis):
                    x, parts[k] = PositionsUpTo(axis, size.axis, is_rest)([x, size.tensor]), slice(None)
            axis += part is not None
        return getitem(x, tuple(parts))

    changed = {"shape": shape_of, "arange": range_of, "minimum": minimum_of, "cast": cast_of}
    changed |= {
        "broadcast_to": broadcast_of,
        "repeat": repeat_of,
        "take": take_of,
        "tile": tile_of,
        "ndim": lambda x: len(x.shape) if symbolic(x) else ndim(x),
    }
    changed |= {name: filled(getattr(ops, name)) for name in FILLED}
    before = {name: getattr(ops, name) for name in changed}
    for name, function in changed.items():
        setattr(ops, name, function)
    keras.KerasTensor.__getitem__ = getitem_of
    keras.KerasTensor.__array_ufunc__ = None  # so that NumPy leaves `array * x` to `x`, as it does for a tensor
    try:
        yield
    finally:
        keras.KerasTensor.__getitem__ = getitem
        if hasattr(keras.KerasTensor, "__array_ufunc__"):
            del keras.KerasTensor.__array_ufunc__
        for name, function in before.items():
            setattr(ops, name, function)
