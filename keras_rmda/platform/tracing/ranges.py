"""The numbers 0, 1, 2, ... along open axes, as symbolic tensors while code is traced.

Code asks for the size of an axis and makes numbers up to it, as causal masks and position embeddings want. While it is
traced, `ops.shape` gives sizes that know their axes, and `ops.arange` of such a size is a tensor of the graph.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import operator
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from keras_rmda.platform.tracing.leaves import Rearranging
from keras_rmda.platform.tracing.numbers import AtMost, Difference, Linear, Size
from keras_rmda.platform.tracing.programs import Untraceable

FILLED = ("zeros", "ones", "full")
"""Functions of `keras.ops` that make arrays of a shape."""


@keras.saving.register_keras_serializable(package="keras_rmda")
class Range(Rearranging):
    """Numbers up to the size of an axis of a tensor, with a first axis of size 1 in the place of the batch axis.

    Args:
        axis: of the tensor.
        number_type: of the numbers.
        start, stop: each a factor of the size, and what is added to it.
        step: 1 or -1.
    """

    def __init__(
        self,
        axis: int,
        number_type: str = "int32",
        start: tuple[int, int] = (0, 0),
        stop: tuple[int, int] = (1, 0),
        step: int = 1,
        **arguments: Any,
    ):
        super().__init__(**arguments)
        self.axis, self.number_type = axis, number_type
        self.start, self.stop, self.step = tuple(start), tuple(stop), step

    @property
    def is_plain(self) -> bool:
        """Whether they are 0, 1, 2, ..."""
        return (self.start, self.stop, self.step) == ((0, 0), (1, 0), 1)

    def _count(self, size: Any) -> Any:
        return ((self.stop[0] - self.start[0]) * size + self.stop[1] - self.start[1]) * self.step

    def call(self, x: Any) -> Any:
        size = ops.shape(x)[self.axis]
        if self.is_plain:
            return ops.expand_dims(ops.arange(size, dtype=self.number_type), 0)
        numbers = ops.arange(self._count(size), dtype="int32") * self.step + self.start[0] * size + self.start[1]
        return ops.expand_dims(ops.cast(numbers, self.number_type), 0)

    def compute_output_spec(self, x: Any) -> keras.KerasTensor:
        size = x.shape[self.axis]
        return keras.KerasTensor((None, None if size is None else max(self._count(size), 0)), dtype=self.number_type)

    def get_config(self) -> dict[str, Any]:
        config = {"axis": self.axis, "number_type": self.number_type}
        more = {"start": list(self.start), "stop": list(self.stop), "step": self.step}
        return super().get_config() | config | (more if not self.is_plain else {})


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
        return keras.KerasTensor(super().compute_output_spec(x).shape[1:], dtype=self.number_type)


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


@keras.saving.register_keras_serializable(package="keras_rmda")
class PaddedUpTo(PositionsUpTo):
    """Adds a number to the positions of a tensor until it has as many as another one has along an axis.

    Args:
        axis, size_axis, is_rest: as of `PositionsUpTo`; `is_rest` to add behind.
        value: the number.
    """

    def __init__(self, axis: int, size_axis: int, is_rest: bool = False, value: float = 0.0, **arguments: Any):
        super().__init__(axis, size_axis, is_rest, **arguments)
        self.value = value

    def call(self, inputs: list) -> Any:
        x, other = inputs
        n = ops.shape(other)[self.size_axis] - ops.shape(x)[self.axis]
        widths = [[0, 0] for _ in x.shape]
        widths[self.axis][self.is_rest] = n
        return ops.pad(x, widths, constant_values=ops.cast(self.value, x.dtype))

    def compute_output_spec(self, inputs: list) -> keras.KerasTensor:
        x, other = inputs
        shape = list(x.shape)
        shape[self.axis] = other.shape[self.size_axis]
        return keras.KerasTensor(shape, dtype=x.dtype)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"value": self.value}


@contextlib.contextmanager
def symbolic_ranges() -> Iterator[None]:
    """Let code get tensors where it makes numbers up to the size of an axis."""
    shape, arange, minimum, cast = ops.shape, ops.arange, ops.minimum, ops.cast
    ndim, symbolic = ops.ndim, lambda x: isinstance(x, keras.KerasTensor)
    broadcast_to, take, getitem = ops.broadcast_to, ops.take, keras.KerasTensor.__getitem__
    repeat, tile, slice_, pad, meshgrid = ops.repeat, ops.tile, ops.slice, ops.pad, ops.meshgrid

    def shape_of(x: Any) -> tuple:
        if not isinstance(x, keras.KerasTensor) or None in x.shape:
            return shape(x)
        return tuple(Size.of(x, k) if k else n for k, n in enumerate(x.shape))

    def range_of(*arguments: Any, **keyword_arguments: Any) -> Any:
        given = inspect.signature(arange).bind(*arguments, **keyword_arguments).arguments
        start, end = (0, given["start"]) if "stop" not in given else (given["start"], given["stop"])
        if end is None:  # which would be taken for no end at all
            raise Untraceable("it counts up to an open size")
        ends = [x for x in (start, end) if isinstance(x, Linear)]
        step, first = given.get("step", 1) or 1, ends[0].size if ends else None
        alike = all(x.size.tensor is first.tensor and x.size.axis == first.axis for x in ends)
        if not ends or not alike or step not in (1, -1) or not all(isinstance(x, int) for x in (start, end)):
            return arange(*arguments, **keyword_arguments)
        dtype = keras.backend.standardize_dtype(given.get("dtype") or "int32")
        terms = [(x.factor, x.plus) if isinstance(x, Linear) else (0, x) for x in (start, end)]
        return RangeOfProgram(first.axis, dtype, *terms, int(step))(first.tensor)

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

    def meshgrid_of(*arrays: Any, indexing: str = "xy") -> list:
        n = len(arrays)
        if not any(map(symbolic, arrays)) or any(len(x.shape) != 1 for x in arrays):
            return meshgrid(*arrays, indexing=indexing)
        places = [1, 0, *range(2, n)] if indexing == "xy" and n > 1 else range(n)
        missing = [[k for k in range(n) if k != place] for place in places]
        laid = [functools.reduce(ops.expand_dims, axes, x) for x, axes in zip(arrays, missing)]
        nothing = [x * 0 for x in laid]
        return [functools.reduce(operator.sub, [*nothing[:k], *nothing[k + 1 :]], x) for k, x in enumerate(laid)]

    def take_of(x: Any, indices: Any, axis: int | None = None) -> Any:
        made = getattr(getattr(indices, "_keras_history", None), "operation", None)
        if (
            not isinstance(made, RangeOfProgram)
            or not made.is_plain
            or axis is None
            or (axis == 0 and len(x.shape) == 2)
        ):
            return take(x, indices, axis=axis)
        return PositionsUpTo(axis % len(x.shape), made.axis)([x, made._inbound_nodes[0].input_tensors[0]])

    def slice_of(x: Any, start_indices: Any, shape: Any) -> Any:
        starts = start_indices if isinstance(start_indices, list | tuple) else ()
        for axis, (start, n) in enumerate(zip(starts, shape)):
            if isinstance(n, Size) and isinstance(x, keras.KerasTensor) and start == 0 and n != x.shape[axis]:
                x = PositionsUpTo(axis, n.axis)([x, n.tensor])
        return slice_(x, start_indices, shape)

    def pad_of(x: Any, pad_width: Any, mode: str = "constant", constant_values: Any = None) -> Any:
        widths = [list(each) for each in pad_width] if isinstance(pad_width, list | tuple) and x is not None else []
        known = [(k, i, n) for k, both in enumerate(widths) for i, n in enumerate(both) if isinstance(n, Difference)]
        if len(known) != 1 or mode != "constant" or len(widths) != len(getattr(x, "shape", ())):
            return pad(x, pad_width, mode, constant_values)
        [(axis, is_rest, n)] = known
        if n.other.tensor is not x or n.other.axis != axis or isinstance(constant_values, keras.KerasTensor):
            return pad(x, pad_width, mode, constant_values)
        widths[axis][is_rest] = 0
        x = pad(x, widths, mode, constant_values) if any(map(any, widths)) else x
        value = 0.0 if constant_values is None else float(constant_values)
        return PaddedUpTo(axis, n.size.axis, bool(is_rest), value)([x, n.size.tensor])

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
        "meshgrid": meshgrid_of,
        "pad": pad_of,
        "repeat": repeat_of,
        "slice": slice_of,
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
