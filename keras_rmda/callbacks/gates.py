"""The end of the search for gates."""

from __future__ import annotations

import warnings

import keras

from keras_rmda.gates.layer import L0Gate
from keras_rmda.gates.training import freeze
from keras_rmda.platform import checks, compat


class FreezeGates(keras.callbacks.Callback):
    """Fix all gates at their values of inference from an epoch on: the weights are tuned for what is left.

    Args:
        epoch: 0-based; the gates are fixed before it begins.

    Raises:
        ValueError: for an argument out of range; at the start of training, if the model has no gates.

    Example:
        >>> gated.fit(x, y, epochs=30, callbacks=[kr.callbacks.FreezeGates(20)])

    Source: Li and Ji 2021, arXiv:2107.00070: the authors' phase of fine-tuning.
    """

    def __init__(self, epoch: int):
        super().__init__()
        self.epoch = checks.whole("epoch", epoch)

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Refuse a model without gates; say if the training ends before."""
        if not any(isinstance(layer, L0Gate) for layer in compat.layers_of(self.model)):
            raise ValueError(
                f"FreezeGates fixes gates, and the model {self.model.name!r} has no gates: `keras_rmda.gates.insert` "
                "puts them in."
            )
        self._is_done = False
        epochs = self.params.get("epochs")
        if epochs is not None and epochs <= self.epoch:
            warnings.warn(
                f"FreezeGates({self.epoch}) fixes nothing: the training ends after epoch {epochs - 1}, counted from 0.",
                checks.SparsityWarning,
                stacklevel=2,
            )

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Fix the gates, once."""
        if epoch >= self.epoch and not self._is_done:
            freeze(self.model)
            self._is_done = True
