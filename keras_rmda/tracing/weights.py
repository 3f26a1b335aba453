"""Weights of a layer's own, as symbolic tensors while its code is traced."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from keras_rmda.tracing.programs import Untraceable


def own_variables(layer: keras.Layer) -> list[keras.Variable]:
    """Return the weights of a layer that are not those of layers inside."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def dtype_for(x: Any, layer: keras.Layer) -> str:
    """Return the type to which a layer casts a tensor or weight."""
    return layer.compute_dtype if layer.autocast and "float" in x.dtype else x.dtype


class WeightTensor(keras.KerasTensor):
    """A symbolic tensor in the place of a weight."""

    @classmethod
    def of(cls, variable: keras.Variable, dtype: str) -> WeightTensor:
        """Return one like a variable."""
        tensor = keras.Input(batch_shape=variable.shape, dtype=dtype)
        tensor.__class__ = cls
        return tensor

    @property
    def value(self) -> WeightTensor:
        """The tensor itself, as of a variable."""
        return self

    def assign(self, value: Any) -> None:
        """Refuse."""
        raise Untraceable("it assigns to a weight of its own")

    assign_add = assign_sub = assign


@contextlib.contextmanager
def weights_as_inputs(layer: keras.Layer) -> Iterator[list]:
    """Let the attributes of a layer hold symbolic tensors in the places of its own weights; gives those tensors."""
    variables = own_variables(layer)
    tensors = [WeightTensor.of(v, dtype_for(v, layer)) for v in variables]
    instead = {id(v): x for v, x in zip(variables, tensors)}
    changed: list[tuple[Any, Any, Any, Any]] = []

    def replace(container: Any, keys: Any, put: Any) -> None:
        for key, value in list(keys):
            if id(value) in instead:
                changed.append((put, container, key, value))
                put(container, key, instead[id(value)])
            elif isinstance(value, list):
                replace(value, enumerate(value), list.__setitem__)
            elif isinstance(value, dict):
                replace(value, value.items(), dict.__setitem__)

    attributes = vars(layer)
    bookkeeping = ("_trainable_variables", "_non_trainable_variables", "_tracker", "_self_")
    replace(attributes, [x for x in attributes.items() if not x[0].startswith(bookkeeping)], dict.__setitem__)
    try:
        yield tensors
    finally:
        for put, container, key, value in reversed(changed):
            put(container, key, value)
