"""Gates that depend on each other: a layer's log alpha is computed from that of the layer before or behind it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from keras_rmda.channels import Vanishes, register_rule
from keras_rmda.gates.hard_concrete import LARGEST, Tensor
from keras_rmda.gates.layer import Bounded
from keras_rmda.gates.penalty import ChainPenalty
from keras_rmda.platform import checks

DIRECTIONS = ("forward", "backward", "none")
BEGINNINGS = ("open", "published")
BIAS = 3.0
"""Where the authors start the biases of generators: log(100) tanh(3) is a gate that is almost always open."""


@keras.saving.register_keras_serializable(package="keras_rmda")
class GateGenerator(keras.layers.Layer):
    """Computes the log alpha of all gates of a network, layer by layer: the dependency model of Dep-L0.

    Formula: a_0 = 1,  a_k = log(100) tanh(W_k a_(k-1) + b_k), for the layers in their order ("forward") or in the
    opposite one ("backward"). a_k holds the log alpha of the gates of the k-th layer. With "none" it is a weight:
    a_k = b_k.

    It exists in training and until `strip`.

    Args:
        channels: the number of gates of each layer, in the order of the network.
        direction: "forward", "backward" or "none".
        seed: of the weights, an integer; None for a random one.
        begin: "open": the matrices are so small that no gate begins closed; "published": as the authors begin, with
            W_k from U(-1/sqrt(n), 1/sqrt(n)) for n inputs and b_k from N(3, 0.01).
        ones: the size of a_0; None for that of the first layer.
        penalty: a `ChainPenalty` on all gates, or its configuration; None for none here.
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
        direction: Literal["forward", "backward", "none"] = "forward",
        seed: int | None = None,
        begin: Literal["open", "published"] = "open",
        ones: int | None = None,
        penalty: ChainPenalty | dict | None = None,
        **layer_arguments: Any,
    ):
        super().__init__(**layer_arguments)
        self.supports_masking = True
        if not isinstance(channels, list | tuple) or not channels:
            raise ValueError(f"`channels` must be a list of integers. Received: channels={channels!r}")
        self.channels = [checks.whole(f"channels[{k}]", n, minimum=1) for k, n in enumerate(channels)]
        checks.one_of("direction", direction, DIRECTIONS)
        self.direction = direction
        checks.one_of("begin", begin, BEGINNINGS)
        self.begin = begin
        self.ones = ones if ones is None else checks.whole("ones", ones, minimum=1)
        self.penalty = ChainPenalty(**penalty) if isinstance(penalty, dict) else penalty
        self.seed = seed

    def build(self, input_shape: Any) -> None:
        """Make a matrix and a bias for each layer."""
        self.matrices, self.biases = {}, {}
        before = self.ones or self.channels[self.order()[0]]
        for k in self.order():
            n = self.channels[k]
            if self.direction != "none":
                self.matrices[k] = self.made(k, "log_alpha_kernel", (before, n), self.uniform(before, k))
            self.biases[k] = self.made(k, "log_alpha_bias", (n,), self.bias(k), Bounded())
            before = n
        if self.penalty:
            self.stopped = self.state("stopped")
            if self.penalty.target is not None:
                self.multiplier = self.state("multiplier")

    def state(self, name: str) -> keras.Variable:
        """Return a new number that is not trained."""
        return self.add_weight(
            name=name, shape=(), initializer="zeros", trainable=False, dtype="float32", autocast=False
        )

    def uniform(self, n_in: int, k: int) -> keras.initializers.Initializer:
        """Return what the matrix of the k-th layer begins with."""
        bound = 1 / math.sqrt(n_in) if self.begin == "published" else small(n_in)
        return keras.initializers.RandomUniform(-bound, bound, seed=None if self.seed is None else self.seed + k)

    def bias(self, k: int) -> keras.initializers.Initializer:
        """Return what the bias of the k-th layer begins with."""
        if self.begin == "open":
            return keras.initializers.Constant(BIAS)
        seed = None if self.seed is None else self.seed + len(self.channels) + k
        return keras.initializers.RandomNormal(BIAS, 0.01, seed=seed)

    def made(self, k: int, name: str, shape: tuple[int, ...], initializer: Any, bound: Any = None) -> keras.Variable:
        """Return a new weight for the k-th layer; a log alpha itself is bounded."""
        return self.add_weight(
            name=f"{name}_{k}",
            shape=shape,
            initializer=initializer,
            constraint=bound if self.direction == "none" else None,
            dtype="float32",
            autocast=False,
        )

    def order(self) -> list[int]:
        """Return the layers in the order of their generators."""
        return list(range(len(self.channels)))[:: -1 if self.direction == "backward" else 1]

    def call(self, x: Tensor, training: bool | None = None) -> list[Tensor]:
        """Return the log alpha of every layer's gates; add the penalty."""
        alphas = self.current()
        if self.penalty:
            trains = 1.0 - ops.convert_to_tensor(self.stopped)
            self.add_loss(trains * self.penalized(alphas, bool(training)))
        return alphas

    def current(self) -> list[Tensor]:
        """Return the log alpha of every layer's gates, from the weights as they are."""
        matrices, biases = (
            {k: ops.convert_to_tensor(v) for k, v in each.items()} for each in (self.matrices, self.biases)
        )
        return self.log_alphas(matrices, biases)

    def penalized(self, alphas: list[Tensor], training: bool) -> Tensor:
        """Return the penalty; in training, a step of the multiplier follows."""
        if self.penalty.target is None:
            return self.penalty.penalty(alphas)
        excess = self.penalty.share(alphas) - self.penalty.target
        loss = ops.stop_gradient(ops.convert_to_tensor(self.multiplier)) * excess
        if training:
            step = ops.stop_gradient(self.penalty.dual_rate * excess)
            self.multiplier.assign(ops.where(step > 0, self.multiplier + step, ops.zeros_like(step)))
        return loss

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> None:
        """Return no mask: what it computes does not depend on its input."""

    def log_alphas(self, matrices: dict[int, Tensor], biases: dict[int, Tensor]) -> list[Tensor]:
        """Return the chain a_1, a_2, ... in the order of the network."""
        result: dict[int, Tensor] = {}
        a = ops.ones((1, self.ones or self.channels[self.order()[0]]), dtype="float32")
        for k in self.order():
            if self.direction == "none":
                a = ops.reshape(biases[k], (1, -1))
            else:
                a = LARGEST * ops.tanh(ops.matmul(a, matrices[k]) + biases[k])
            result[k] = a
        return [result[k] for k in range(len(self.channels))]

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        names = ("channels", "direction", "seed", "begin", "ones")
        config = super().get_config() | {name: getattr(self, name) for name in names}
        return config | {"penalty": self.penalty and self.penalty.get_config()}


def small(n_in: int) -> float:
    """Return a bound of random numbers with which no gate begins closed, whatever its inputs in [-log 100, log 100]."""
    # The gate of inference is 1 for log alpha above 2.4 = log(100) tanh(.577), and the sum of inputs is below 2.31.
    return (BIAS - 0.69) / (n_in * math.log(100.0))


def generated(layer: GateGenerator, read: Callable) -> list[np.ndarray]:
    """Return all log alphas for the converter."""
    matrices, biases = (
        {k: ops.convert_to_tensor(read(v), "float32") for k, v in each.items()}
        for each in (layer.matrices, layer.biases)
    )
    return [ops.convert_to_numpy(a).reshape(-1) for a in layer.log_alphas(matrices, biases)]


register_rule(GateGenerator, Vanishes(generated))
