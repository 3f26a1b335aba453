"""What tensors of TensorFlow have and symbolic tensors of Keras have not, while code is traced."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras


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


@contextlib.contextmanager
def attributes_of_tensorflow() -> Iterator[None]:
    """Let code ask symbolic tensors for shapes as it asks those of TensorFlow, and tell them known ones."""
    if hasattr(keras.KerasTensor, "get_shape"):  # inside of such a context
        yield
        return
    shape = keras.KerasTensor.shape
    keras.KerasTensor.shape = property(lambda x: TensorShape(shape.fget(x)), shape.fset)
    keras.KerasTensor.get_shape = lambda x: x.shape
    keras.KerasTensor.set_shape = lambda x, shape: None
    try:
        yield
    finally:
        keras.KerasTensor.shape = shape
        del keras.KerasTensor.get_shape, keras.KerasTensor.set_shape
