"""One model: what is validated, saved and restored is what training ends with."""

from __future__ import annotations

import keras

from keras_rmda.optimizers.models import optimizers_of
from keras_rmda.platform import checks, compat


class StructuredWeights(keras.callbacks.Callback):
    """Let everything but training see the structured weights, which hold the exact zeros.

    From the last step of an epoch to the next epoch the model holds `optimizer.structured_value` of every weight with a
    penalty: validation, all callbacks at the end of an epoch (checkpoints, EarlyStopping, TensorBoard) and what is left
    of an interrupted `fit` are structured. Then training goes on from its iterate, which is saved with the optimizer.

    Every `fit` with an optimizer of this package has one, as the first of its callbacks. Give one of your own to switch
    it off, as `keras.callbacks.SwapEMAWeights` is given to switch that on.

    Args:
        active: whether to; if not, only the end of `fit` writes the structured weights.

    Raises:
        ValueError: if `active` is not True or False.

    Example:
        >>> model.fit(x, y, callbacks=[kr.callbacks.StructuredWeights(active=False)])  # validate the iterate
    """

    def __init__(self, active: bool = True):
        super().__init__()
        self.active = checks.truth("active", active)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Give training its iterate back."""
        for optimizer in optimizers_of(self.model):
            optimizer.give_back()

    def on_test_begin(self, logs: dict | None = None) -> None:
        """Show the structured weights to validation."""
        self._show()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Show the structured weights to the callbacks that come after this one."""
        self._show()

    def on_interruption(self) -> None:
        """Show the structured weights of the last step that `fit` has made, whatever ended it."""
        compat.take_state_back(self.model)
        for optimizer in optimizers_of(self.model):
            optimizer.show()

    def _show(self) -> None:
        for optimizer in optimizers_of(self.model) if self.active else ():
            optimizer.show()
