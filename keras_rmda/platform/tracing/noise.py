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
    """Random numbers at training, and zeros at inference. It takes a tensor, and looks at nothing but its shape.

    Args:
        distribution: the function of `keras.random`.
        numbers: its arguments.
        sizes: of the axes of the result; None for those of the tensor.
        axes: for each axis of the result, the axis of the tensor that has its size; None for a size that is given.
        number_type: of the result.
    """

    def __init__(
        self,
        distribution: str,
        numbers: dict[str, float],
        sizes: list[int | None],
        axes: list[int | None],
        number_type: str,
        **arguments: Any,
    ):
        super().__init__(**arguments)
        self.distribution, self.numbers, self.number_type = distribution, dict(numbers), number_type
        self.sizes, self.axes, self.seed_generator = list(sizes), list(axes), keras.random.SeedGenerator()

    def _shape(self, shape: Any) -> tuple:
        return tuple(n if axis is None else shape[axis] for n, axis in zip(self.sizes, self.axes))

    def call(self, x: Any, training: bool | None = None) -> Any:
        shape = self._shape(ops.shape(x))
        if not training:
            return ops.zeros(shape, dtype=self.number_type)
        draw = getattr(keras.random, self.distribution)
        return draw(shape, **self.numbers, dtype=self.number_type, seed=self.seed_generator)

    def compute_output_spec(self, x: Any, training: bool | None = None) -> keras.KerasTensor:
        return keras.KerasTensor(self._shape(x.shape), dtype=self.number_type)

    def get_config(self) -> dict[str, Any]:
        config = {"distribution": self.distribution, "numbers": self.numbers, "number_type": self.number_type}
        return super().get_config() | config | {"sizes": list(self.sizes), "axes": list(self.axes)}


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

    def sizes_of(shape: Any) -> tuple[Any, list[int | None], list[int | None]]:
        """Return a tensor, and the sizes of a shape and axes of that tensor, as `Drawn` has them."""
        if not isinstance(shape, list | tuple):
            raise Untraceable("it draws random numbers of a shape that is no list of sizes")
        tensors = {id(n.tensor): n.tensor for n in shape if isinstance(n, Size)}
        of_batch = [k == 0 and n == batch and n != 1 for k, n in enumerate(shape)]
        if len(tensors) > 1 or not all(
            known or type(n) is int or isinstance(n, Size) for known, n in zip(of_batch, shape)
        ):
            raise Untraceable("it draws random numbers of sizes that are those of no tensor, nor known")
        axes = [n.axis if isinstance(n, Size) else 0 if known else None for known, n in zip(of_batch, shape)]
        sizes = [n if axis is None else None for n, axis in zip(shape, axes)]
        return next(iter(tensors.values()), anchor), sizes, axes

    def drawing(draw: Callable, distribution: str) -> Callable:
        def drawn(shape: Any, *arguments: Any, dtype: Any = None, seed: Any = None, **named: Any) -> Any:
            if depth[0]:
                return draw(shape, *arguments, dtype=dtype, seed=seed, **named)
            named.pop("name", None)
            given = dict(zip(DISTRIBUTIONS[distribution], arguments)) | named
            if len(arguments) > 2 or not all(isinstance(x, int | float) for x in given.values()):
                raise Untraceable(f"it draws random numbers by `{distribution}` with other arguments than numbers")
            tensor, sizes, axes = sizes_of(shape)
            number_type = keras.backend.standardize_dtype(dtype or keras.config.floatx())
            return Drawn(distribution, given, sizes, axes, number_type)(tensor)

        return drawn

    dropout = keras.random.dropout

    def dropped(inputs: Any, rate: float, noise_shape: Any = None, seed: Any = None) -> Any:
        if depth[0] or not isinstance(inputs, keras.KerasTensor):
            return dropout(inputs, rate, noise_shape, seed)
        if noise_shape is not None:
            noise_shape = [1 if n == 1 else None for n in noise_shape]
        return DroppedOut(rate, noise_shape)(inputs)

    def dropped_by_tensorflow(x: Any, rate: float, noise_shape: Any = None, seed: Any = None, name: Any = None) -> Any:
        if depth[0] or not isinstance(x, keras.KerasTensor):
            return of_tensorflow(x, rate, noise_shape, seed, name)
        return dropped(x, rate, noise_shape)

    tensorflow = sys.modules.get("tensorflow") if keras.backend.backend() == "tensorflow" else None
    of_tensorflow = getattr(getattr(tensorflow, "nn", None), "dropout", None)
    modules = [keras.random] + ([tensorflow.random] if tensorflow else [])
    changed = [(module, name, drawing(getattr(module, name), name)) for module in modules for name in DISTRIBUTIONS]
    changed += [(keras.random, "dropout", dropped)]
    changed += [(tensorflow.nn, "dropout", dropped_by_tensorflow)] if tensorflow else []
    before = [(module, name, getattr(module, name)) for module, name, _ in changed]
    for module, name, function in changed:
        setattr(module, name, function)
    try:
        yield
    finally:
        for module, name, function in before:
            setattr(module, name, function)
