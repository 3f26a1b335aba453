"""Small layers for what the code of a user's layer does with weights of its own."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_rmda import _compat


@keras.saving.register_keras_serializable(package="keras_rmda")
class Weight(keras.layers.Layer):
    """A weight as a tensor of a graph, with a first axis in the place of the batch axis: of size 1, and called open.

    Args:
        shape: of the weight.

    It takes any tensor of the graph, and does not look at it.
    """

    def __init__(self, shape: tuple[int, ...], **arguments: Any):
        super().__init__(**arguments)
        self.shape = tuple(shape)

    def build(self, input_shape: Any) -> None:
        self.value = self.add_weight(shape=self.shape, initializer="zeros", name="value")

    def call(self, x: Any) -> Any:
        return ops.expand_dims(ops.convert_to_tensor(self.value), 0)

    def compute_output_spec(self, x: Any) -> keras.KerasTensor:
        dtype = self.compute_dtype if "float" in self.value.dtype and self.autocast else self.value.dtype
        return keras.KerasTensor((None, *self.shape), dtype=dtype)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"shape": list(self.shape)}


@keras.saving.register_keras_serializable(package="keras_rmda")
class ForEachSample(keras.layers.Layer):
    """Repeats a tensor with a first axis of size 1 for each sample of another, as a class token is."""

    def build(self, input_shape: Any) -> None:
        pass

    def call(self, inputs: list) -> Any:
        x, samples = inputs
        return ops.broadcast_to(x, (ops.shape(samples)[0], *x.shape[1:]))

    def compute_output_spec(self, inputs: list) -> keras.KerasTensor:
        x, samples = inputs
        return keras.KerasTensor((samples.shape[0], *x.shape[1:]), dtype=x.dtype)


def held(layer: keras.Layer, input_shape: Any, **weights: keras.Variable) -> keras.Layer:
    """Return a layer, built, whose weights of these names are variables that exist."""
    layer.build(input_shape)
    for name, variable in weights.items():
        _compat.replace_variable(layer, getattr(layer, name), variable)
    return layer
