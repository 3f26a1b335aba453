"""A gate for every channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.channels import Multiplies, register_rule
from keras_rmda.gates.hard_concrete import (
    LARGEST,
    SMALLEST_UNIFORM,
    STRETCH,
    TEMPERATURE,
    Tensor,
    gate,
    log_alpha_of,
    mean_gate,
    probability_open,
)
from keras_rmda.platform import checks

FREE = -1.0
"""What `frozen` holds for a gate that trains."""


@keras.saving.register_keras_serializable(package="keras_rmda")
class Bounded(keras.constraints.Constraint):
    """Keeps a weight within [-bound, bound]."""

    def __init__(self, bound: float = LARGEST):
        self.bound = bound

    def __call__(self, w: Tensor) -> Tensor:
        return ops.clip(w, -self.bound, self.bound)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"bound": self.bound}


@keras.saving.register_keras_serializable(package="keras_rmda")
class L0Gate(keras.layers.Layer):
    """Multiplies every channel by a stochastic gate that can close: hard concrete gates with an L0 penalty.

    Formula: y_c = z_c x_c. In training z_c is a sample of the hard concrete distribution with parameter log alpha_c;
    at inference it is min(1, max(0, sigmoid(log alpha_c) (zeta - gamma) + gamma)). The loss gets the penalty
    strength * cost * sum_c P(z_c > 0), the expected number of open gates.

    |log alpha| stays below log 100, as in the authors' code.

    Args:
        strength: multiplier of the penalty, a finite number >= 0.
        axis: the channel axis.
        cost: what an open gate costs: weights or multiply-accumulates; for the layer before it, the authors count
            inputs * kernel area.
        open_probability: P(z_c > 0) at the beginning, in (0, 1). From 0.983 on, gates are 1 at inference.
        temperature: number > 0.
        stretch: (gamma, zeta) with gamma < 0 and zeta > 1.
        per_example: whether every example of a batch has gates of its own.
        with_gates: whether to return [y, z], for a `SharedL0Gate` elsewhere.
        seed: an integer; None for a random one.
        **layer_arguments: `name`, `dtype`, ... of Keras.

    Raises:
        ValueError: for an argument out of range; at the first call, if the channel axis is open.

    Example:
        >>> keras.Sequential([keras.Input((8,)), keras.layers.Dense(16), kr.layers.L0Gate(1e-3), keras.layers.ReLU()])

    Source: Louizos, Welling and Kingma 2018, arXiv:1712.01312.
    """

    def __init__(
        self,
        strength: float,
        axis: int = -1,
        cost: float = 1.0,
        open_probability: float = 0.99,
        temperature: float = TEMPERATURE,
        stretch: tuple[float, float] = STRETCH,
        per_example: bool = False,
        with_gates: bool = False,
        seed: int | None = None,
        **layer_arguments: Any,
    ):
        super().__init__(**layer_arguments)
        self.strength = checks.real("strength", strength)
        checks.real("axis", axis, minimum=-100)
        self.axis = int(axis)
        self.cost = checks.real("cost", cost)
        self.open_probability = checks.real(
            "open_probability", open_probability, maximum=1.0, open_minimum=True, open_maximum=True
        )
        self.temperature = checks.real("temperature", temperature, open_minimum=True)
        try:
            gamma, zeta = stretch
        except (TypeError, ValueError):
            gamma = zeta = 0.0
        if not gamma < 0.0 < 1.0 < zeta:
            raise ValueError(f"`stretch` must be (gamma, zeta), gamma < 0 and zeta > 1. Received: stretch={stretch!r}")
        self.stretch = (float(gamma), float(zeta))
        self.per_example = checks.truth("per_example", per_example)
        self.with_gates = checks.truth("with_gates", with_gates)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make one gate for each channel."""
        self.make_gates(self.channels_of(input_shape))

    def channels_of(self, input_shape: tuple[int | None, ...]) -> int:
        """Return the number of channels of an input."""
        if input_shape[self.axis] is None:
            raise ValueError(f"L0Gate needs a channel axis of a known size. Received: axis={self.axis}, {input_shape}")
        return input_shape[self.axis]

    def make_gates(self, channels: int) -> None:
        """Make the weights."""
        self.log_alpha = self.add_weight(
            name="log_alpha",
            shape=(channels,),
            initializer=keras.initializers.Constant(
                log_alpha_of(self.open_probability, self.temperature, self.stretch)
            ),
            constraint=Bounded(),
            dtype="float32",
            autocast=False,
        )
        self.make_frozen(channels)

    def make_frozen(self, channels: int) -> None:
        """Make the weight that holds the values of gates that train no more."""
        self.frozen = self.add_weight(
            name="frozen",
            shape=(channels,),
            initializer=keras.initializers.Constant(FREE),
            trainable=False,
            dtype="float32",
            autocast=False,
        )

    def call(self, x: Tensor, training: bool | None = None) -> Tensor:
        """Return the gated input, and with `with_gates` the gates, of shape (1 or examples, channels)."""
        return self.gated(x, ops.convert_to_tensor(self.log_alpha), training)

    def gated(self, x: Tensor, log_alpha: Tensor, training: bool | None) -> Tensor:
        """Return the input times gates with these log alpha; add the penalty."""
        frozen = ops.convert_to_tensor(self.frozen)
        if self.strength:
            probabilities = ops.where(frozen < 0, self.probabilities(log_alpha), 0.0)
            self.add_loss(self.strength * self.cost * ops.sum(probabilities))
        z = self.sampled(x, log_alpha) if training else mean_gate(log_alpha, self.stretch)
        z = ops.reshape(ops.where(frozen < 0, z, frozen), (-1, log_alpha.shape[-1]))
        y = multiplied(x, z, self.axis)
        return [y, z] if self.with_gates else y

    def sampled(self, x: Tensor, log_alpha: Tensor) -> Tensor:
        """Return gates of training: one for each channel, of each example or of the batch."""
        channels = log_alpha.shape[-1]
        shape = (ops.shape(x)[0], channels) if self.per_example else (channels,)
        u = keras.random.uniform(
            shape, SMALLEST_UNIFORM, 1.0 - SMALLEST_UNIFORM, dtype="float32", seed=self.seed_generator
        )
        return gate(log_alpha, u, self.temperature, self.stretch)

    def probabilities(self, log_alpha: Tensor | None = None) -> Tensor:
        """Return P(z > 0) for each channel."""
        log_alpha = ops.convert_to_tensor(self.log_alpha) if log_alpha is None else log_alpha
        return probability_open(log_alpha, self.temperature, self.stretch)

    def gates(self, log_alpha: Tensor | None = None) -> Tensor:
        """Return the gates of inference, one for each channel; 0 is closed."""
        log_alpha = ops.convert_to_tensor(self.log_alpha) if log_alpha is None else log_alpha
        frozen = ops.convert_to_tensor(self.frozen)
        return ops.where(frozen < 0, mean_gate(log_alpha, self.stretch), frozen)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """Return the mask of the input."""
        mask = previous_mask[0] if isinstance(previous_mask, list) else previous_mask
        return [mask, None] if self.with_gates else mask

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        names = ("strength", "axis", "cost", "open_probability", "temperature", "stretch", "per_example", "with_gates")
        return super().get_config() | {"seed": self.seed} | {name: getattr(self, name) for name in names}


def multiplied(x: Tensor, z: Tensor, axis: int) -> Tensor:
    """Return x times gates of shape (1 or examples, channels) along an axis."""
    shape = [1] * len(x.shape)
    shape[axis] = z.shape[-1]
    shape[0] = -1
    return x * ops.cast(ops.reshape(z, shape), x.dtype)


def factors(layer: L0Gate, read: Callable, others: list[np.ndarray]) -> np.ndarray:
    """Return the gates of inference for the converter, of the layer's own log alpha or a given one."""
    [log_alpha] = others or [read(layer.log_alpha)]
    frozen = read(layer.frozen)
    z = ops.convert_to_numpy(mean_gate(ops.convert_to_tensor(log_alpha, "float32"), layer.stretch))
    return np.where(frozen < 0, z, frozen)


register_rule(L0Gate, Multiplies(("log_alpha", "frozen"), factors))
