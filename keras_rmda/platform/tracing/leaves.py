"""Small layers for what the code of a user's layer does with weights of its own."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from keras_rmda.platform import compat


@keras.saving.register_keras_serializable(package="keras_rmda")
class Weight(keras.layers.Layer):
    """A weight as a tensor of a graph, with a first axis in the place of the batch axis: of size 1, and called open.

    Args:
        shape: of the weight.
        number_type: its type; None for that of the layer.

    It takes any tensor of the graph, and does not look at it.
    """

    def __init__(self, shape: tuple[int, ...], number_type: str | None = None, **arguments: Any):
        super().__init__(**arguments)
        self.shape, self.number_type = tuple(shape), number_type

    def build(self, input_shape: Any) -> None:
        self.value = self.add_weight(shape=self.shape, initializer="zeros", dtype=self.number_type, name="value")

    def call(self, x: Any) -> Any:
        return ops.expand_dims(ops.convert_to_tensor(self.value), 0)

    def compute_output_spec(self, x: Any) -> keras.KerasTensor:
        dtype = self.compute_dtype if "float" in self.value.dtype and self.autocast else self.value.dtype
        return keras.KerasTensor((None, *self.shape), dtype=dtype)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"shape": list(self.shape), "number_type": self.number_type}


class Rearranging(keras.layers.Layer):
    """A layer without weights that leaves numbers in the type that they have, whatever the policy is."""

    def __init__(self, **arguments: Any):
        super().__init__(**{"autocast": False} | arguments)

    def build(self, input_shape: Any) -> None:
        pass


@keras.saving.register_keras_serializable(package="keras_rmda")
class AddsLosses(Rearranging):
    """The first of several tensors as it is; the others are losses of the model, as code gives them to `add_loss`.

    Args:
        only_at_training: whether they are none at inference.
        only_at_inference: whether they are none at training.
    """

    def __init__(self, only_at_training: bool = False, only_at_inference: bool = False, **arguments: Any):
        super().__init__(**arguments)
        self.only_at_training, self.only_at_inference = only_at_training, only_at_inference
        self.supports_masking = True

    def call(self, inputs: list, training: bool | None = None) -> Any:
        x, *losses = inputs
        if not (self.only_at_inference if training else self.only_at_training):
            for each in losses:
                self.add_loss(each)
        return x

    def compute_mask(self, inputs: list, mask: Any = None) -> Any:
        return mask[0] if isinstance(mask, list | tuple) else mask

    def compute_output_spec(self, inputs: list, training: bool | None = None) -> keras.KerasTensor:
        return keras.KerasTensor(inputs[0].shape, dtype=inputs[0].dtype)

    def get_config(self) -> dict[str, Any]:
        only_at = {"only_at_training": self.only_at_training, "only_at_inference": self.only_at_inference}
        return super().get_config() | only_at


@keras.saving.register_keras_serializable(package="keras_rmda")
class UpdatesMetric(AddsLosses):
    """The first of two tensors as it is; the other one updates a metric of the model, as code does it.

    Args:
        metric: a metric, of which it has a copy.
        only_at_training, only_at_inference: as of `AddsLosses`.
    """

    def __init__(self, metric: Any, **arguments: Any):
        super().__init__(**arguments)
        read = keras.saving.deserialize_keras_object
        self.metric = read(metric) if isinstance(metric, dict) else type(metric).from_config(metric.get_config())

    def call(self, inputs: list, training: bool | None = None) -> Any:
        x, number = inputs
        if not (self.only_at_inference if training else self.only_at_training):
            self.metric.update_state(number)
        return x

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"metric": keras.saving.serialize_keras_object(self.metric)}


@keras.saving.register_keras_serializable(package="keras_rmda")
class ForEachSample(Rearranging):
    """Repeats a tensor with a first axis of size 1 for each sample of another, as a class token is."""

    def call(self, inputs: list) -> Any:
        x, samples = inputs
        return ops.broadcast_to(x, (ops.shape(samples)[0], *ops.shape(x)[1:]))

    def compute_output_spec(self, inputs: list) -> keras.KerasTensor:
        x, samples = inputs
        return keras.KerasTensor((samples.shape[0], *x.shape[1:]), dtype=x.dtype)


@keras.saving.register_keras_serializable(package="keras_rmda")
class WithoutSamples(Rearranging):
    """A tensor with a first axis of size 1 in the place of the batch axis, without this axis, as code has weights."""

    def call(self, x: Any) -> Any:
        return ops.squeeze(x, 0)

    def compute_output_spec(self, x: Any) -> keras.KerasTensor:
        return keras.KerasTensor(x.shape[1:], dtype=x.dtype)


@keras.saving.register_keras_serializable(package="keras_rmda")
class AsOneSample(Rearranging):
    """The reverse."""

    def call(self, x: Any) -> Any:
        return ops.expand_dims(x, 0)

    def compute_output_spec(self, x: Any) -> keras.KerasTensor:
        return keras.KerasTensor((None, *x.shape), dtype=x.dtype)


@keras.saving.register_keras_serializable(package="keras_rmda")
class OverSamples(Rearranging):
    """The sum over samples, or their mean, as one sample.

    Args:
        is_mean: whether it is the mean.
    """

    def __init__(self, is_mean: bool, **arguments: Any):
        super().__init__(**arguments)
        self.is_mean = is_mean

    def call(self, x: Any) -> Any:
        return (ops.mean if self.is_mean else ops.sum)(x, axis=0, keepdims=True)

    def compute_output_spec(self, x: Any) -> keras.KerasTensor:
        dense = keras.KerasTensor(x.shape, dtype=x.dtype)  # Keras takes what is multiplied by a number for sparse
        made = super().compute_output_spec(dense)
        return keras.KerasTensor((None, *made.shape[1:]), dtype=made.dtype)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"is_mean": self.is_mean}


@keras.saving.register_keras_serializable(package="keras_rmda")
class Numbers(Rearranging):
    """An array as a tensor of a graph, without a batch axis. It takes any tensor of the graph, and does not look at it.

    Args:
        shape: of the array.
        numbers: all of them, in one list.
        number_type: their type.
    """

    def __init__(self, shape: tuple[int, ...], numbers: list, number_type: str, **arguments: Any):
        super().__init__(**arguments)
        self.shape, self.numbers, self.number_type = tuple(shape), list(numbers), number_type

    @classmethod
    def of(cls, x: Any, **arguments: Any) -> Numbers:
        """Return the layer of an array."""
        array = ops.convert_to_numpy(x)
        return cls(array.shape, array.reshape(-1).tolist(), keras.backend.standardize_dtype(x.dtype), **arguments)

    def call(self, x: Any) -> Any:
        return ops.reshape(ops.convert_to_tensor(self.numbers, self.number_type), self.shape)

    def compute_output_spec(self, x: Any) -> keras.KerasTensor:
        return keras.KerasTensor(self.shape, dtype=self.number_type)

    def get_config(self) -> dict[str, Any]:
        config = {"shape": list(self.shape), "numbers": self.numbers, "number_type": self.number_type}
        return super().get_config() | config


@keras.saving.register_keras_serializable(package="keras_rmda")
class Filled(Rearranging):
    """One number at so many positions, in front of a tensor or behind it, whose other axes it has.

    Args:
        axis: of the positions.
        count: how many.
        number: the number.
        number_type: its type.
    """

    def __init__(self, axis: int, count: int, number: float, number_type: str, **arguments: Any):
        super().__init__(**arguments)
        self.axis, self.count, self.number, self.number_type = axis, count, number, number_type

    def _shape(self, shape: tuple) -> tuple:
        return (*shape[: self.axis], self.count, *shape[self.axis + 1 :])

    def call(self, x: Any) -> Any:
        return ops.full(self._shape(ops.shape(x)), self.number, dtype=self.number_type)

    def compute_output_spec(self, x: Any) -> keras.KerasTensor:
        return keras.KerasTensor(self._shape(x.shape), dtype=self.number_type)

    def get_config(self) -> dict[str, Any]:
        config = {"axis": self.axis, "count": self.count, "number": self.number, "number_type": self.number_type}
        return super().get_config() | config


@keras.saving.register_keras_serializable(package="keras_rmda")
class StepsAsSamples(Rearranging):
    """Takes the steps of all samples, along the second axis, for samples."""

    def call(self, x: Any) -> Any:
        return ops.reshape(x, (-1, *x.shape[2:]))

    def compute_output_spec(self, x: Any) -> keras.KerasTensor:
        return keras.KerasTensor((None, *x.shape[2:]), dtype=x.dtype)


@keras.saving.register_keras_serializable(package="keras_rmda")
class SamplesAsSteps(Rearranging):
    """The reverse: takes samples for the steps of those of another tensor, which has as many along its second axis."""

    def call(self, inputs: list) -> Any:
        x, steps = inputs
        return ops.reshape(x, (-1, ops.shape(steps)[1], *x.shape[1:]))

    def compute_output_spec(self, inputs: list) -> keras.KerasTensor:
        x, steps = inputs
        return keras.KerasTensor((None, steps.shape[1], *x.shape[1:]), dtype=x.dtype)


@keras.saving.register_keras_serializable(package="keras_rmda")
class PositionsLike(Rearranging):
    """Gives positions along the second axis the axes of those of another tensor, which has as many in several axes.

    Args:
        count: of these axes.
    """

    def __init__(self, count: int, **arguments: Any):
        super().__init__(**arguments)
        self.count = count

    def call(self, inputs: list) -> Any:
        x, other = inputs
        return ops.reshape(x, (-1, *ops.shape(other)[1 : self.count + 1], *x.shape[2:]))

    def compute_output_spec(self, inputs: list) -> keras.KerasTensor:
        x, other = inputs
        return keras.KerasTensor((*x.shape[:1], *other.shape[1 : self.count + 1], *x.shape[2:]), dtype=x.dtype)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"count": self.count}


@keras.saving.register_keras_serializable(package="keras_rmda")
class Regrouped(Rearranging):
    """A reshape that keeps the samples, and makes neighbouring axes of others, whatever the open sizes are.

    Args:
        target_shape: the sizes without the samples, -1 where they are open.
        segments: for axes that hold the same numbers: the first of them and how many, before and after; at most one
            of those after is open. The axis of the samples counts.
    """

    def __init__(self, target_shape: tuple[int, ...], segments: list, **arguments: Any):
        super().__init__(**arguments)
        self.target_shape, self.segments = tuple(target_shape), [tuple(each) for each in segments]

    def call(self, x: Any) -> Any:
        given, asked, shape = ops.shape(x), (-1, *self.target_shape), []
        for first, count, start, length in self.segments:
            sizes = asked[start : start + length]
            known = math.prod(n for n in sizes if n != -1)
            shape += [n if n != -1 else math.prod(given[first : first + count]) // known for n in sizes]
        return ops.reshape(x, shape)

    def compute_output_spec(self, x: Any) -> keras.KerasTensor:
        return keras.KerasTensor((x.shape[0], *(None if n == -1 else n for n in self.target_shape)), dtype=x.dtype)

    def get_config(self) -> dict[str, Any]:
        config = {"target_shape": list(self.target_shape), "segments": [list(each) for each in self.segments]}
        return super().get_config() | config


@keras.saving.register_keras_serializable(package="keras_rmda")
class Exchanged(Rearranging):
    """A reshape to sizes of its own axes, as that which shifts scores by their distances.

    Args:
        target_shape: the sizes, -1 where they are open.
        axes: for each of those that are open, the axis before it that is as large.
    """

    def __init__(self, target_shape: tuple[int, ...], axes: list[int], **arguments: Any):
        super().__init__(**arguments)
        self.target_shape, self.axes = tuple(target_shape), list(axes)

    def call(self, x: Any) -> Any:
        given, axes = ops.shape(x), iter(self.axes)
        return ops.reshape(x, [given[next(axes)] if n == -1 else n for n in self.target_shape])

    def compute_output_spec(self, x: Any) -> keras.KerasTensor:
        return keras.KerasTensor([None if n == -1 else n for n in self.target_shape], dtype=x.dtype)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"target_shape": list(self.target_shape), "axes": self.axes}


def held(layer: keras.Layer, input_shape: Any, **weights: keras.Variable) -> keras.Layer:
    """Return a layer, built, whose weights of these names are variables that exist."""
    layer.build(input_shape)
    for name, variable in weights.items():
        compat.replace_variable(layer, getattr(layer, name), variable)
    return layer
