"""The end of the search for gates."""

from __future__ import annotations

import keras

from keras_rmda.gates.training import freeze
from keras_rmda.platform import checks


class FreezeGates(keras.callbacks.Callback):
    """Fix all gates at their values of inference from an epoch on: the weights are tuned for what is left.

    Args:
        epoch: 0-based; the gates are fixed before it begins.

    Raises:
        ValueError: for an argument out of range; when the epoch comes, if the model has no gates.

    Example:
        >>> gated.fit(x, y, epochs=30, callbacks=[kr.callbacks.FreezeGates(20)])

    Source: Li and Ji 2021, arXiv:2107.00070: the authors' phase of fine-tuning.
    """

    def __init__(self, epoch: int):
        super().__init__()
        self.epoch = checks.whole("epoch", epoch)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Fix the gates."""
        if epoch == self.epoch:
            freeze(self.model)
