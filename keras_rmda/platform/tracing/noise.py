"""Random numbers that code draws at training, as symbolic tensors while it is traced."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import ops

from keras_rmda.platform.tracing.leaves import Rearranging
from keras_rmda.platform.tracing.numbers import Size
from keras_rmda.platform.tracing.programs import Untraceable

DISTRIBUTIONS = {
    "normal": ("mean", "stddev"),
    "truncated_normal": ("mean", "stddev"),
    "uniform": ("minval", "maxval"),
}
"""Functions of `keras.random`, and of `tf.random`, with their numbers in the order in which both have them."""


@keras.saving.register_keras_serializable(package="keras_rmda")
class Drawn(Rearranging):
    """Random numbers at training, and zeros at inference, of sizes of axes of a tensor, at which it does not look.

    Args:
        distribution: the function of `keras.random`.
        numbers: its arguments.
        axes: for each axis of the result, the axis of the tensor that has its size; None for a size of 1.
        number_type: of the result.
    """

    def __init__(
        self, distribution: str, numbers: dict[str, float], axes: list[int | None], number_type: str, **arguments: Any
    ):
        super().__init__(**arguments)
        self.distribution, self.numbers, self.number_type = distribution, dict(numbers), number_type
        self.axes, self.seed_generator = list(axes), keras.random.SeedGenerator()

    def _shape(self, shape: Any) -> tuple:
        return tuple(1 if axis is None else shape[axis] for axis in self.axes)

    def call(self, x: Any, training: bool | None = None) -> Any:
        shape = self._shape(ops.shape(x))
        if not training:
            return ops.zeros(shape, dtype=self.number_type)
        draw = getattr(keras.random, self.distribution)
        return draw(shape, **self.numbers, dtype=self.number_type, seed=self.seed_generator)

    def compute_output_spec(self, x: Any, training: bool | None = None) -> keras.KerasTensor:
        return keras.KerasTensor(self._shape(x.shape), dtype=self.number_type)

    def get_config(self) -> dict[str, Any]:
        config = {"distribution": self.distribution, "numbers": self.numbers, "axes": list(self.axes)}
        return super().get_config() | config | {"number_type": self.number_type}


@keras.saving.register_keras_serializable(package="keras_rmda")
class DroppedOut(keras.layers.Dropout):
    """What `keras.random.dropout` makes of a tensor, at training."""


@keras.saving.register_keras_serializable(package="keras_rmda")
class AtTraining(Rearranging):
    """The first of two tensors at inference, the second at training."""

    def call(self, inputs: list, training: bool | None = None) -> Any:
        return inputs[1 if training else 0]

    def compute_mask(self, inputs: list, mask: Any = None) -> Any:
        return mask[0] if isinstance(mask, list | tuple) else mask

    def compute_output_spec(self, inputs: list, training: bool | None = None) -> keras.KerasTensor:
        return keras.KerasTensor(inputs[0].shape, dtype=inputs[0].dtype)


@contextlib.contextmanager
def symbolic_draws(anchor: Any, batch: int | None, depth: list[int]) -> Iterator[None]:
    """Let code get tensors where it draws random numbers, outside of the layers that it calls.

    Args:
        anchor: an input with samples in front.
        batch: how many these are; None if that is open.
        depth: how many layers are being called, inside of each other.
    """

    def axes_of(shape: Any) -> tuple[Any, list[int | None]]:
        """Return a tensor, and for each size of a shape which axis of it has that size; None for 1."""
        sizes = list(shape) if isinstance(shape, list | tuple) else []
        tensors = {id(n.tensor): n.tensor for n in sizes if isinstance(n, Size)}
        tensor = next(iter(tensors.values()), anchor)
        is_known = [isinstance(n, Size) or n == 1 or (k == 0 and n == batch) for k, n in enumerate(sizes)]
        if len(tensors) > 1 or not all(is_known) or not isinstance(shape, list | tuple):
            raise Untraceable("it draws random numbers of other shapes than its tensors have")
        return tensor, [n.axis if isinstance(n, Size) else None if n == 1 else 0 for n in sizes]

    def drawing(draw: Callable, distribution: str) -> Callable:
        def drawn(shape: Any, *arguments: Any, dtype: Any = None, seed: Any = None, **named: Any) -> Any:
            if depth[0]:
                return draw(shape, *arguments, dtype=dtype, seed=seed, **named)
            named.pop("name", None)
            given = dict(zip(DISTRIBUTIONS[distribution], arguments)) | named
            if len(arguments) > 2 or not all(isinstance(x, int | float) for x in given.values()):
                raise Untraceable(f"it draws random numbers by `{distribution}` with other arguments than numbers")
            tensor, axes = axes_of(shape)
            number_type = keras.backend.standardize_dtype(dtype or keras.config.floatx())
            return Drawn(distribution, given, axes, number_type)(tensor)

        return drawn

    dropout = keras.random.dropout

    def dropped(inputs: Any, rate: float, noise_shape: Any = None, seed: Any = None) -> Any:
        if depth[0] or not isinstance(inputs, keras.KerasTensor):
            return dropout(inputs, rate, noise_shape, seed)
        if noise_shape is not None:
            noise_shape = [1 if axis is None else None for axis in axes_of(noise_shape)[1]]
        return DroppedOut(rate, noise_shape)(inputs)

    tensorflow = sys.modules.get("tensorflow") if keras.backend.backend() == "tensorflow" else None
    modules = [keras.random] + ([tensorflow.random] if tensorflow else [])
    changed = [(module, name, getattr(module, name)) for module in modules for name in DISTRIBUTIONS]
    for module, name, function in changed:
        setattr(module, name, drawing(function, name))
    changed.append((keras.random, "dropout", dropout))
    keras.random.dropout = dropped
    try:
        yield
    finally:
        for module, name, function in changed:
            setattr(module, name, function)
