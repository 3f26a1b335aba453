"""Layers and operations of Keras 3 within models of tf_keras, which compute what Keras computes."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_rmda.platform import lite, tfmot
from keras_rmda.platform.lite import parts

AVERAGES = (
    "AveragePooling1D",
    "AveragePooling2D",
    "AveragePooling3D",
    "AveragePool",
    "Resize",
    "Resizing",
    "UpSampling2D",
)
"""Layers and operations that are not rounded: TensorFlow Lite computes them at one scale, that of what goes in. With a
narrower one of their own it would cut off what goes in."""


class Slot:
    """The place of a tensor among the arguments of a call."""


class Carried:
    """A layer or function of Keras with the arguments of one call.

    Args:
        function: what to call, with the arguments.
        arguments, keywords: those, with slots in the place of tensors.
        floats: for each output whether it holds floats.
        rounds: whether it rounds them, where rounding is trained.
        weights: of tf_keras, by the `id` of Keras's: those of calls before, which it shares; gets those of this one.

    Attributes:
        moves: whether it makes no numbers of its own. TensorFlow Lite moves numbers at the scale that they have. The
            first call in float tells.
    """

    def __init__(
        self,
        function: Any,
        arguments: tuple,
        keywords: dict[str, Any],
        floats: list[bool],
        rounds: bool,
        weights: dict[int, Any],
    ):
        self.function, self.arguments, self.keywords = function, arguments, keywords
        self.floats, self.rounds = floats, rounds
        self.moves: bool | None = None
        self.is_other = not lite.is_float32(function)
        self.variables = list(getattr(function, "variables", []))
        for variable in self.variables:
            if id(variable) not in weights:
                weights[id(variable)] = weight_of(variable)
        self.weights = [weights[id(variable)] for variable in self.variables]

    @property
    def has_numbers(self) -> bool:
        """Whether an argument is a number or an array of such, which another mask or index may bring out."""
        given = keras.tree.flatten((self.arguments, self.keywords))
        return any(isinstance(x, float) or "float" in str(getattr(x, "dtype", "")) for x in given)

    def __deepcopy__(self, memo: dict) -> Carried:
        """Return itself: tf_keras copies configurations."""
        return self

    def __call__(self, tensors: list, weights: list, training: bool) -> tuple[list, list, list]:
        """Return the outputs, what the layer makes of its weights, and the losses that it adds."""
        given = iter(tensors)
        arguments, keywords = keras.tree.map_structure(
            lambda x: next(given) if isinstance(x, Slot) else x, (self.arguments, self.keywords)
        )
        if getattr(self.function, "_call_has_training_arg", False):
            keywords = {"training": training} | keywords
        with lite.in_float32(self.function, has_others=True) if self.is_other else contextlib.nullcontext():
            with keras.StatelessScope(list(zip(self.variables, weights)), collect_losses=True) as scope:
                outputs = keras.tree.flatten(self.function(*arguments, **keywords))
            return outputs, [scope.get_current_value(v) for v in self.variables], scope.losses


def weight_of(variable: keras.Variable) -> Any:
    """Return a weight of tf_keras for one of Keras."""
    import tensorflow as tf

    value = keras.ops.convert_to_numpy(variable)
    value = value if value.dtype.kind in "iub" else value.astype("float32")
    return tf.Variable(value, trainable=variable.trainable, name=variable.path.replace("/", "_"))


def slots(arguments: tuple, keywords: dict, is_tensor: Callable[[Any], bool]) -> tuple[tuple, dict]:
    """Return the arguments of a call with slots in the place of tensors."""
    return keras.tree.map_structure(lambda x: Slot() if is_tensor(x) else x, (arguments, keywords))


@dataclass
class Quantizers:
    """What rounds kernels and outputs of a layer, by their numbers; tf_keras does not look into it."""

    kernels: dict[int, Callable] = field(default_factory=dict)
    outputs: dict[int, Callable] = field(default_factory=dict)


@functools.cache
def carrier() -> type:
    """Return the class of layers of tf_keras that carry one of Keras.

    Behind `rounded()` they round what they compute, and the kernels that they compute with, to 8 bits. What is between
    has no range of its own, so that the file computes it in float where TensorFlow Lite needs one.
    """
    import tensorflow as tf

    legacy, quantizers = tfmot.tf_keras(), tfmot.quantization().quantizers

    class Carrier(legacy.layers.Layer):
        def __init__(self, carried: Carried, rounds: bool = False, **keywords: Any):
            super().__init__(**keywords)
            self.carried, self.rounds, self.shared = carried, rounds, carried.weights
            self.quantizers = Quantizers()

        def build(self, shape: Any) -> None:
            super().build(shape)
            if not self.rounds:
                return
            of_kernels = quantizers.LastValueQuantizer(8, per_axis=False, symmetric=True, narrow_range=True)
            of_outputs = quantizers.MovingAverageQuantizer(8, per_axis=False, symmetric=False, narrow_range=False)
            for number, weight in enumerate(self.shared):
                if len(weight.shape) > 1 and weight.dtype.is_floating:
                    ranges = of_kernels.build(weight.shape, f"kernel_{number}", self)
                    self.quantizers.kernels[number] = functools.partial(of_kernels, weights=ranges)
            keeps = self.carried.moves or type(self.carried.function).__name__ in AVERAGES
            for number, is_float in enumerate(self.carried.floats):
                if is_float and not keeps:
                    ranges = of_outputs.build(None, f"output_{number}", self)
                    self.quantizers.outputs[number] = functools.partial(of_outputs, weights=ranges)

        def call(self, inputs: Any, training: Any = None) -> Any:
            return tf.autograph.experimental.do_not_convert(self.computed)(inputs, training)

        def computed(self, inputs: Any, training: Any) -> Any:
            is_training = training is True  # tf_keras gives something else while it makes a model only
            weights = rounded(self.shared, self.quantizers.kernels, is_training)
            given = [tfmot.with_mask(x) for x in keras.tree.flatten(inputs)]
            computed, after, losses = self.carried(given, weights, is_training)
            self.add_loss(losses)
            for number, (weight, value) in enumerate(zip(self.shared, after)):
                if is_training and not weight.trainable and number not in self.quantizers.kernels:
                    weight.assign(value)
            if self.carried.moves is None and tf.executing_eagerly():
                self.carried.moves = not self.carried.has_numbers and only_moves(given, computed)
            # The last step of a sequence is a state, too: each has a range of its own, and so is a tensor of its own.
            of_range = self.quantizers.outputs
            own = [parts.apart(y) if k and k in of_range else tf.identity(y) for k, y in enumerate(computed)]
            outputs = rounded(own, of_range, is_training)
            for y, without_mask in zip(computed, outputs):
                tfmot.hide_mask(y, without_mask)
            return outputs if len(outputs) > 1 else outputs[0]

        def get_config(self) -> dict[str, Any]:
            return super().get_config() | {"carried": self.carried, "rounds": self.rounds}

    return Carrier


def only_moves(given: list, computed: list) -> bool:
    """Return whether all numbers that a function computes are those of one tensor, or all of these and zeros."""
    inputs, outputs = ([np.asarray(x) for x in tensors if x.dtype.is_floating] for tensors in (given, computed))
    if len(inputs) != 1 or not outputs:
        return False
    found = np.concatenate([y.reshape(-1) for y in outputs])
    new = found[~np.isin(found, inputs[0])]
    return new.size == 0 or (not new.any() and bool(np.isin(inputs[0], found).all()))


def rounded(tensors: list, quantizers: dict[int, Callable], is_training: bool) -> list:
    """Return tensors, those rounded of which a quantizer is known by their number."""
    return [quantizers[k](x, is_training) if k in quantizers else x for k, x in enumerate(tensors)]
