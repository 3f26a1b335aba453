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

from keras_rmda.tracing.programs import Untraceable

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
class Range(keras.layers.Layer):
    """The numbers 0, 1, 2, ... along an axis of a tensor, with a first axis of size 1 in the place of the batch axis.

    Args:
        axis: of the tensor.
        number_type: of the numbers.
    """

    def __init__(self, axis: int, number_type: str = "int32", **arguments: Any):
        super().__init__(**{"autocast": False} | arguments)
        self.axis, self.number_type = axis, number_type

    def build(self, input_shape: Any) -> None:
        pass

    def call(self, x: Any) -> Any:
        return ops.expand_dims(ops.arange(ops.shape(x)[self.axis], dtype=self.number_type), 0)

    def compute_output_spec(self, x: Any) -> keras.KerasTensor:
        return keras.KerasTensor((None, x.shape[self.axis]), dtype=self.number_type)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"axis": self.axis, "number_type": self.number_type}


class RangeOfProgram(Range):
    """The same without the first axis, as the code has it."""

    def call(self, x: Any) -> Any:
        return super().call(x)[0]

    def compute_output_spec(self, x: Any) -> keras.KerasTensor:
        return keras.KerasTensor((x.shape[self.axis],), dtype=self.number_type)


@contextlib.contextmanager
def symbolic_ranges() -> Iterator[None]:
    """Let code get tensors where it makes numbers up to the size of an axis."""
    shape, arange, minimum, cast = ops.shape, ops.arange, ops.minimum, ops.cast

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
        def of(size: Any, *arguments: Any, **keyword_arguments: Any) -> Any:
            sizes = size if isinstance(size, list | tuple) else (size,)
            if not any(isinstance(n, Size) for n in sizes):
                return make(size, *arguments, **keyword_arguments)
            result = make([1 if isinstance(n, Size) else n for n in sizes], *arguments, **keyword_arguments)
            for axis, n in enumerate(sizes):
                if isinstance(n, Size):
                    nothing = range_of(n, dtype="float32") * 0.0
                    for _ in sizes[axis + 1 :]:
                        nothing = ops.expand_dims(nothing, -1)
                    nothing = ops.cast(nothing, keras.backend.standardize_dtype(result.dtype))
                    # Not a sum: Keras takes some for those of a tensor and a bias.
                    result = ops.logical_or(result, nothing) if nothing.dtype == "bool" else result - nothing
            return result

        return of

    changed = {"shape": shape_of, "arange": range_of, "minimum": minimum_of, "cast": cast_of}
    changed |= {name: filled(getattr(ops, name)) for name in FILLED}
    before = {name: getattr(ops, name) for name in changed}
    for name, function in changed.items():
        setattr(ops, name, function)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(ops, name, function)
