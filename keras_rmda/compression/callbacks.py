"""The callbacks of a user, through trainings of several models that are one to them."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_rmda.callbacks import BackupAndRestore, TargetSparsity
from keras_rmda.callbacks.best import KEEPERS, forget_best
from keras_rmda.compression.rates import OF_KERAS, elements, has_any, held_by, name_of_any, stops
from keras_rmda.platform import checks, compat

Attributes = dict[str, Any]


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


def remembers(callback: keras.callbacks.Callback, model: keras.Model, smaller: keras.Model | None = None) -> bool:
    """Return whether a callback holds something of a model that a smaller one does not have; None for any.

    That are variables and layers, arrays of the shapes of all weights, and any array with the shape of a weight that
    the smaller model has no more; also in lists, dictionaries and the like inside of each other.
    """
    parts = {id(each) for each in (*model.weights, *compat.layers_of(model)) if each is not model}
    whole = [shapes_of(model.weights), shapes_of(model.trainable_weights)]
    gone = {*filter(None, whole[0])} - {*(() if smaller is None else shapes_of(smaller.weights))}
    for name, value in vars(callback).items():
        if name in OF_KERAS:
            continue
        held = list(held_by(value))
        if has_any(parts, value) or gone.intersection(shapes_of(held)):
            return True
        if any(shapes_of(elements(each)) in whole for each in held):
            return True
    return False


def shapes_of(arrays: Iterable[Any]) -> list[tuple | None]:
    """Return the shapes of arrays and variables; None for all else."""
    shapes = (getattr(each, "shape", None) for each in arrays)
    return [None if shape is None else tuple(shape) for shape in shapes]


def stops_by_itself(callback: keras.callbacks.Callback) -> bool:
    """Return whether a callback of a user's own ends trainings, by what it has seen: of the larger model, too much."""
    return not isinstance(callback, KEEPERS) and not type(callback).__module__.startswith("keras.") and stops(callback)


class GoOn(keras.callbacks.Callback):
    """Lets no other callback end the choice before it is final: what is to be stopped is the training after it.

    One that stops at a score would else stop at once where the model was trained, with nothing removed. What others do
    to the weights of groups that are zero for good is undone.

    Args:
        choice: what chooses.
    """

    def __init__(self, choice: TargetSparsity):
        super().__init__()
        self._choice = choice

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Know the optimizer."""
        self._optimizer = self.model.optimizer

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Refuse another optimizer."""
        if self.model.optimizer is not self._optimizer:
            raise ValueError(
                f"A callback has compiled the model anew in epoch {epoch + 1}, while groups are chosen by the "
                "optimizer of `compress`. Compile the model before, as it is to be trained, or call `compress` without "
                "that callback, and train its result on with it."
            )

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Go on, unless the training has failed."""
        self.on_epoch_begin(epoch)
        groups = self._choice.groups
        if groups.is_final:
            groups.refresh(structured=False)
            if not groups.are_clear():
                groups.clear()
        if "nonfinite_weights" not in (logs or {}):
            self.model.stop_training = False


def warn_of_what_is_used(callbacks: Sequence[keras.callbacks.Callback], model: keras.Model) -> None:
    """Say which callbacks use the model that was given, its optimizer or a layer, since copies are trained."""
    parts = {id(each) for each in (model, *compat.layers_of(model), *model.weights, getattr(model, "optimizer", None))}
    for each in callbacks:
        name = name_of_any(parts - {id(None)}, each)
        if name is not None:
            warnings.warn(
                f"The callback {type(each).__name__} uses {name!r}, which is the model that was given to `compress`, "
                "its optimizer, or a part of it. That stays as it is, since `compress` trains copies, which get "
                "smaller: a callback finds the one in training as `self.model`.",
                checks.SparsityWarning,
                stacklevel=3,
            )


def attributes_of(callback: keras.callbacks.Callback) -> Attributes:
    """Return the attributes of a callback as they are, also when it changes them."""
    return {name: without_ties(value) for name, value in vars(callback).items() if name not in OF_KERAS}


def without_ties(x: Any) -> Any:
    """Return a copy of lists, dictionaries and sets, also inside of each other; all else as it is."""
    if type(x) in (list, tuple, set):
        return type(x)(without_ties(each) for each in x)
    if type(x) is dict:
        return {key: without_ties(value) for key, value in x.items()}
    return x


def begin_anew(callback: keras.callbacks.Callback, attributes: Attributes) -> None:
    """Give a callback the attributes that it had before the training, but for lists of numbers, which are logs."""
    kept = {name: value for name, value in vars(callback).items() if name in OF_KERAS or is_log(value)}
    vars(callback).clear()
    vars(callback).update({name: without_ties(value) for name, value in attributes.items()} | kept)


def is_log(x: Any) -> bool:
    """Return whether something is a list of what was seen, and holds nothing of a model."""
    return isinstance(x, list) and bool(x) and all(isinstance(each, (int, float, str, np.number)) for each in x)


REPLACED = ("set_params", "on_train_begin", "on_train_end")
"""Methods of callbacks that are others in a part of a training; those of a LambdaCallback are attributes of it."""


class OneTraining:
    """Lets callbacks see several `fit` as one training of so many epochs, which begins and ends once.

    A CSVLogger would empty its file at every beginning, TensorBoard begin anew. But those that look for the best forget
    what they have seen, of another model; those that remember weights or layers of it, or stop trainings, begin anew.

    Args:
        callbacks: of a user.
        epochs: of everything together.
    """

    def __init__(self, callbacks: Sequence[keras.callbacks.Callback], epochs: int):
        self._callbacks, self._epochs = callbacks, epochs
        self._before: list[Attributes] | None = None
        self._has_ended = False

    @contextlib.contextmanager
    def part(self, model: keras.Model, last: int) -> Iterator[None]:
        """Let the callbacks see a `fit` of a model up to an epoch as a part."""
        if self._before is None:
            self._before = [attributes_of(each) for each in self._callbacks]
        else:
            forget_best(self._callbacks)
            for each, before in zip(self._callbacks, self._before):
                if each.model is not None and (remembers(each, each.model, model) or stops_by_itself(each)):
                    begin_anew(each, before)
                elif each.model is not None:
                    each.on_train_begin = _nothing
        self._has_ended = last >= self._epochs
        for each in self._callbacks:
            each.set_params = partial(_set_params, each, self._epochs)
            if not self._has_ended:
                each.on_train_end = _nothing
        try:
            yield
        finally:
            for each, before in zip(self._callbacks, self._before):
                for name in REPLACED:
                    vars(each).pop(name, None)
                vars(each).update({name: before[name] for name in REPLACED if name in before})

    def end(self, logs: dict[str, Any]) -> None:
        """Tell the callbacks that the training has ended, if that was before its last epoch."""
        for each in self._callbacks if self._before is not None and not self._has_ended else ():
            each.on_train_end(logs)


def _set_params(callback: keras.callbacks.Callback, epochs: int, params: dict[str, Any]) -> None:
    type(callback).set_params(callback, {**params, "epochs": epochs})


def _nothing(logs: dict | None = None) -> None:
    """Do nothing."""
