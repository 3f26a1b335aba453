"""The callbacks of a user, through trainings of several models that are one to them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import keras

from keras_rmda.callbacks import BackupAndRestore, TargetSparsity
from keras_rmda.callbacks.best import forget_best
from keras_rmda.platform import compat


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


def works_while_choosing(callback: keras.callbacks.Callback) -> bool:
    """Return whether a callback can take part in the choice: averages of weights with zeros have none."""
    return not isinstance(callback, keras.callbacks.SwapEMAWeights)


def remembers(callback: keras.callbacks.Callback, model: keras.Model) -> bool:
    """Return whether a callback holds variables or layers of a model, or arrays of the shapes of its weights."""
    parts = {id(each) for each in (*model.weights, *compat.layers_of(model)) if each is not model}
    shapes = [[tuple(each.shape) for each in held] for held in (model.weights, model.trainable_weights)]
    for value in vars(callback).values():
        held = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
        if any(id(each) in parts for each in held) or [getattr(each, "shape", None) for each in held] in shapes:
            return True
    return False


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

    A CSVLogger would empty its file at every beginning, TensorBoard begin anew. But those that look for the best forget
    what they have seen, of another model, and those that remember weights or layers of it begin anew.
    """
    if not is_first:
        forget_best(callbacks)
    for each in callbacks:
        each.set_params = partial(_set_params, each, epochs)
        if not (is_first or each.model is None or remembers(each, each.model)):
            each.on_train_begin = _nothing
        if not is_last:
            each.on_train_end = _nothing
    try:
        yield
    finally:
        for each in callbacks:
            for name in ("set_params", "on_train_begin", "on_train_end"):
                vars(each).pop(name, None)


def _set_params(callback: keras.callbacks.Callback, epochs: int, params: dict[str, Any]) -> None:
    type(callback).set_params(callback, {**params, "epochs": epochs})


def _nothing(logs: dict | None = None) -> None:
    """Do nothing."""
