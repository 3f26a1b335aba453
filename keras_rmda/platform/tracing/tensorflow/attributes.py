"""What tensors of TensorFlow have and symbolic tensors of Keras have not, while code is traced."""

from __future__ import annotations

import contextlib
import operator
import sys
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_rmda.platform.tracing.tensorflow.arguments import numbers


class TensorShape(tuple):
    """A shape with what that of a tensor of TensorFlow has besides."""

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self)

    ndims = rank

    def as_list(self) -> list:
        """Return the sizes, None where they are open."""
        return list(self)

    def is_fully_defined(self) -> bool:
        """Return whether no size is open."""
        return None not in self


class ShapeTensor(tuple):
    """What `tf.shape` returns: sizes that code computes with as with one array."""

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        return ShapeTensor(found) if isinstance(key, slice) else found

    def _with(self, other: Any, function: Callable) -> ShapeTensor:
        other = numbers(other)
        others = other if isinstance(other, list | tuple) else [other] * len(self)
        return ShapeTensor(function(a, b) for a, b in zip(self, others, strict=True))

    def __add__(self, other: Any) -> ShapeTensor:
        return self._with(other, operator.add)

    def __sub__(self, other: Any) -> ShapeTensor:
        return self._with(other, operator.sub)

    def __mul__(self, other: Any) -> ShapeTensor:
        return self._with(other, operator.mul)

    def __floordiv__(self, other: Any) -> ShapeTensor:
        return self._with(other, operator.floordiv)

    __radd__, __rmul__ = __add__, __mul__


class DType(str):
    """The name of a type with what TensorFlow says of it, such as `min` and `is_floating`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.modules["tensorflow"].as_dtype(str(self)), name)


@contextlib.contextmanager
def attributes_of_tensorflow() -> Iterator[None]:
    """Let code ask symbolic tensors for shapes and types as it asks those of TensorFlow, and tell them known ones."""
    kind = keras.KerasTensor
    if hasattr(kind, "get_shape"):  # inside of such a context
        yield
        return
    shape, dtype = kind.shape, kind.dtype
    kind.shape = property(lambda x: TensorShape(shape.fget(x)), shape.fset)
    kind.dtype = property(lambda x: DType(dtype.fget(x)), dtype.fset)
    kind.get_shape = lambda x: x.shape
    kind.set_shape = lambda x, shape: None
    try:
        yield
    finally:
        kind.shape, kind.dtype = shape, dtype
        del kind.get_shape, kind.set_shape
