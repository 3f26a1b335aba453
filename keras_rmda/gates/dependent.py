"""Gates whose log alpha, or whose value, comes from elsewhere."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_rmda.channels import Multiplies, register_rule
from keras_rmda.gates.hard_concrete import Tensor
from keras_rmda.gates.layer import L0Gate, factors, multiplied
from keras_rmda.platform import checks


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


register_rule(DependentL0Gate, Multiplies(("frozen",), factors))
register_rule(SharedL0Gate, Multiplies((), lambda layer, read, others: others[0]))
