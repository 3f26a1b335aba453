"""The callbacks of a user, through trainings of several models that are one to them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import keras

from keras_rmda.callbacks import BackupAndRestore, TargetSparsity
from keras_rmda.callbacks.best import forget_best

SETS_RATE = (keras.callbacks.LearningRateScheduler, keras.callbacks.ReduceLROnPlateau)


def checked(callbacks: Any) -> list[keras.callbacks.Callback]:
    """Return callbacks as a list; refuse those that cannot be there.

    Raises:
        ValueError: for those whose work `compress` does itself.
    """
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks = callbacks.callbacks
    listed = (
        keras.tree.flatten(list(callbacks or ()))
        if not isinstance(callbacks, keras.callbacks.Callback)
        else [callbacks]
    )
    for each in listed:
        if not isinstance(each, keras.callbacks.Callback):
            raise ValueError(f"`callbacks` must be callbacks of Keras. Received: {each!r}")
        if isinstance(each, (BackupAndRestore, keras.callbacks.BackupAndRestore)):
            raise ValueError(
                "`compress` trains models of different sizes, which one backup cannot hold: give `compress` a folder "
                f"as `directory` instead. Received: {type(each).__name__} in `callbacks`"
            )
        if isinstance(each, TargetSparsity):
            raise ValueError("`compress` chooses by a TargetSparsity of its own: give it `target` and `metric`.")
    return listed


def set_rates(callbacks: Sequence[keras.callbacks.Callback]) -> bool:
    """Return whether a callback sets the learning rate, which must not be a schedule then."""
    return any(isinstance(each, SETS_RATE) for each in callbacks)


class GoOn(keras.callbacks.Callback):
    """Lets no other callback end the choice before it is final: what is to be stopped is the training after it.

    One that stops at a score would else stop at once where the model was trained, with nothing removed.
    """

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Go on, unless the training has failed."""
        if "nonfinite_weights" not in (logs or {}):
            self.model.stop_training = False


@contextlib.contextmanager
def part_of_one_training(
    callbacks: Sequence[keras.callbacks.Callback], epochs: int, is_first: bool, is_last: bool
) -> Iterator[None]:
    """Let callbacks see a `fit` as a part of one training of so many epochs, which begins and ends once.

    A CSVLogger would empty its file at every beginning, TensorBoard begin anew. Those that look for the best forget
    what they have seen, of another model.
    """
    silenced = ["on_train_begin"] * (not is_first) + ["on_train_end"] * (not is_last)
    if not is_first:
        forget_best(callbacks)
    for each in callbacks:
        each.set_params = partial(_set_params, each, epochs)
        for name in silenced:
            setattr(each, name, _nothing)
    try:
        yield
    finally:
        for each in callbacks:
            for name in ("set_params", *silenced):
                vars(each).pop(name, None)


def _set_params(callback: keras.callbacks.Callback, epochs: int, params: dict[str, Any]) -> None:
    type(callback).set_params(callback, {**params, "epochs": epochs})


def _nothing(logs: dict | None = None) -> None:
    """Do nothing."""
