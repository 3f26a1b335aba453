"""Gates that depend on each other: a layer's log alpha is computed from that of the layer before or behind it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from keras_rmda.channels import Multiplies, Vanishes, register_rule
from keras_rmda.gates.hard_concrete import LARGEST, Tensor
from keras_rmda.gates.layer import L0Gate, factors, multiplied
from keras_rmda.platform import checks

DIRECTIONS = ("forward", "backward")
BIAS = 3.0
"""Where the authors start the biases of generators: log(100) tanh(3) is a gate that is almost always open."""


@keras.saving.register_keras_serializable(package="keras_rmda")
class GateGenerator(keras.layers.Layer):
    """Computes the log alpha of all gates of a network, layer by layer: the dependency model of Dep-L0.

    Formula: a_0 = 1,  a_k = log(100) tanh(W_k a_(k-1) + b_k), for the layers in their order ("forward") or in the
    opposite one ("backward"). a_k holds the log alpha of the gates of the k-th layer.

    It exists in training and until `strip`.

    Args:
        channels: the number of gates of each layer, in the order of the network.
        direction: "forward" or "backward".
        seed: of the matrices, an integer; None for a random one.
        **layer_arguments: `name`, `dtype`, ... of Keras.

    Returns:
        When called on any tensor, whose values do not matter: a list of tensors (1, channels), one for each layer.

    Raises:
        ValueError: for an argument out of range.

    Example:
        >>> first, second = GateGenerator([6, 16])(x)

    Source: Li and Ji 2021, "Dep-L0: Improving L0-based network sparsification via dependency modeling",
    arXiv:2107.00070.
    """

    def __init__(
        self,
        channels: list[int],
        direction: Literal["forward", "backward"] = "forward",
        seed: int | None = None,
        **layer_arguments: Any,
    ):
        super().__init__(**layer_arguments)
        self.supports_masking = True
        if not isinstance(channels, list | tuple) or not channels:
            raise ValueError(f"`channels` must be a list of integers. Received: channels={channels!r}")
        self.channels = [checks.whole(f"channels[{k}]", n, minimum=1) for k, n in enumerate(channels)]
        checks.one_of("direction", direction, DIRECTIONS)
        self.direction = direction
        self.seed = seed

    def build(self, input_shape: Any) -> None:
        """Make a matrix and a bias for each layer; all gates begin open."""
        self.matrices, self.biases = {}, {}
        before = None
        for k in self.order():
            n_in, n_out = self.channels[k if before is None else before], self.channels[k]
            self.matrices[k] = self.made(
                k,
                "log_alpha_kernel",
                (n_in, n_out),
                keras.initializers.RandomUniform(*small(n_in), seed=None if self.seed is None else self.seed + k),
            )
            self.biases[k] = self.made(k, "log_alpha_bias", (n_out,), keras.initializers.Constant(BIAS))
            before = k

    def made(self, k: int, name: str, shape: tuple[int, ...], initializer: Any) -> keras.Variable:
        """Return a new weight for the k-th layer."""
        return self.add_weight(
            name=f"{name}_{k}", shape=shape, initializer=initializer, dtype="float32", autocast=False
        )

    def order(self) -> list[int]:
        """Return the layers in the order of their generators."""
        return list(range(len(self.channels)))[:: 1 if self.direction == "forward" else -1]

    def call(self, x: Tensor) -> list[Tensor]:
        """Return the log alpha of every layer's gates."""
        matrices, biases = (
            {k: ops.convert_to_tensor(v) for k, v in each.items()} for each in (self.matrices, self.biases)
        )
        return self.log_alphas(matrices, biases)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> None:
        """Return no mask: what it computes does not depend on its input."""

    def log_alphas(self, matrices: dict[int, Tensor], biases: dict[int, Tensor]) -> list[Tensor]:
        """Return the chain a_1, a_2, ... in the order of the network."""
        result: dict[int, Tensor] = {}
        a = ops.ones((1, self.channels[self.order()[0]]), dtype="float32")
        for k in self.order():
            a = result[k] = LARGEST * ops.tanh(ops.matmul(a, matrices[k]) + biases[k])
        return [result[k] for k in range(len(self.channels))]

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return super().get_config() | {"channels": self.channels, "direction": self.direction, "seed": self.seed}


def small(n_in: int) -> tuple[float, float]:
    """Return bounds of a random matrix with which no gate begins closed, whatever its inputs in [-log 100, log 100]."""
    # The gate of inference is 1 for log alpha above 2.4 = log(100) tanh(.577), and the sum of inputs is below 2.31.
    bound = (BIAS - 0.69) / (n_in * math.log(100.0))
    return -bound, bound


@keras.saving.register_keras_serializable(package="keras_rmda")
class DependentL0Gate(L0Gate):
    """An `L0Gate` whose log alpha comes from a `GateGenerator`: called on [x, log_alpha].

    Args:
        strength, axis, cost, temperature, stretch, per_example, with_gates, seed: as of `L0Gate`.
        **layer_arguments: `name`, `dtype`, ... of Keras.

    Example:
        >>> [log_alpha] = GateGenerator([16])(inputs)
        >>> x = DependentL0Gate(1e-3)([x, log_alpha])

    Source: Li and Ji 2021, arXiv:2107.00070.
    """

    def __init__(self, strength: float, **arguments: Any):
        super().__init__(strength, **arguments, autocast=False)  # only x is cast: log alpha keeps its precision

    def make_gates(self, channels: int) -> None:
        """Make no log alpha."""
        self.make_frozen(channels)

    def build(self, input_shape: list) -> None:
        """Check that there is one log alpha for each channel."""
        shape, alphas = input_shape
        channels = self.channels_of(shape)
        if alphas[-1] != channels:
            raise ValueError(f"DependentL0Gate needs {channels} log alphas. Received: shapes {input_shape}")
        self.make_gates(channels)

    def call(self, x: list[Tensor], training: bool | None = None) -> Tensor:
        """Return the gated input, and with `with_gates` the gates."""
        x, log_alpha = x
        return self.gated(ops.cast(x, self.compute_dtype), ops.reshape(log_alpha, (-1,)), training)


@keras.saving.register_keras_serializable(package="keras_rmda")
class SharedL0Gate(keras.layers.Layer):
    """Multiplies by the gates of another layer: called on [x, z], for channels that must close together.

    Args:
        axis: the channel axis of x.
        **layer_arguments: `name`, `dtype`, ... of Keras.

    Example:
        >>> x, z = kr.layers.L0Gate(1e-3, with_gates=True)(x)
        >>> y = SharedL0Gate()([y, z])
    """

    def __init__(self, axis: int = -1, **layer_arguments: Any):
        super().__init__(**layer_arguments, autocast=False)
        self.supports_masking = True
        self.axis = int(checks.real("axis", axis, minimum=-100))

    def call(self, x: list[Tensor]) -> Tensor:
        """Return the gated input."""
        x, z = x
        return multiplied(ops.cast(x, self.compute_dtype), z, self.axis)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """Return the mask of x."""
        return previous_mask[0] if isinstance(previous_mask, list) else previous_mask

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return super().get_config() | {"axis": self.axis}


def generated(layer: GateGenerator, read: Callable) -> list[np.ndarray]:
    """Return all log alphas for the converter."""
    matrices, biases = (
        {k: ops.convert_to_tensor(read(v), "float32") for k, v in each.items()}
        for each in (layer.matrices, layer.biases)
    )
    return [ops.convert_to_numpy(a).reshape(-1) for a in layer.log_alphas(matrices, biases)]


register_rule(GateGenerator, Vanishes(generated))
register_rule(DependentL0Gate, Multiplies(("frozen",), factors))
register_rule(SharedL0Gate, Multiplies((), lambda layer, read, others: others[0]))
