"""The data of a training, in any form that `fit` takes."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_rmda.platform import checks, fitting
from keras_rmda.platform.arrays import spread

NO_SAMPLE = "The validation data hold no sample: nothing tells how good a model is."

MANY = 100_000
"""Counted batches after which a user is told what is going on."""


def is_iterator(x: Any) -> bool:
    """Return whether data are given one after the other, once."""
    return inspect.isgenerator(x) or hasattr(x, "__next__")


def ends(validation_data: Any) -> bool:
    """Return whether validation data have an end, as far as they know."""
    if validation_data is None or isinstance(validation_data, (tuple, list)):
        return True
    return not is_iterator(validation_data) and fitting.number_of_batches(validation_data, None, None) != float("inf")


class Data:
    """Training data, and what the scores are computed on.

    Args:
        x, y, sample_weight, batch_size, steps_per_epoch: as for `fit`.
        validation_data, validation_split, validation_steps, validation_batch_size: as for `fit`; without any, scores
            are those of the training data.

    Raises:
        ValueError: for data that cannot be gone through more than once, without batches or whose number is not known.
    """

    def __init__(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        batch_size: int | None = None,
        steps_per_epoch: int | None = None,
        validation_data: Any = None,
        validation_split: float = 0.0,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
    ):
        if checks.real("validation_split", validation_split, maximum=1.0, open_maximum=True):
            if validation_data is not None:
                raise ValueError("Give `validation_data` or `validation_split`, not both.")
            (x, y, sample_weight), validation_data = fitting.split_off((x, y, sample_weight), validation_split)
        if steps_per_epoch is None and is_iterator(x):
            raise ValueError(
                "A generator has no length: give `steps_per_epoch`, and a generator that does not end. "
                f"Received: x of type {type(x).__name__}"
            )
        if validation_steps is None and not ends(validation_data):
            raise ValueError(
                "The validation data have no end that is known: give `validation_steps`. "
                f"Received: validation_data of type {type(validation_data).__name__}"
            )
        arrays = keras.tree.flatten(validation_data[0]) if isinstance(validation_data, (tuple, list)) else []
        if any(getattr(each, "shape", ())[:1] == (0,) for each in arrays):
            raise ValueError(NO_SAMPLE)
        self._x, self._y, self._weight = x, y, sample_weight
        self._batch_size = batch_size
        self._given_steps = steps_per_epoch
        self.validation_data = validation_data
        self._validation = {"steps": validation_steps, "batch_size": validation_batch_size or batch_size}
        self.steps = steps_per_epoch or self._counted()

    def _counted(self) -> int:
        """Return the number of batches of an epoch, by a pass through the data where they do not know it."""
        count = fitting.number_of_batches(self._x, self._y, self._size)
        if count is None:
            count = 0
            for _ in self.batches(sys.maxsize):
                count += 1
                if count == MANY:
                    warnings.warn(
                        f"The training data do not know their length, and {MANY:,} batches have been counted so "
                        "far: if they have no end, give `steps_per_epoch`.",
                        checks.SparsityWarning,
                        stacklevel=4,
                    )
        if count < 1:
            raise ValueError("The training data hold no batch.")
        if count == float("inf"):
            raise ValueError("The training data have no end: give `steps_per_epoch`.")
        return int(count)

    @property
    def goes_on(self) -> bool:
        """Whether an epoch begins with the data behind those of the one before."""
        return self._given_steps is not None

    @property
    def _size(self) -> int | None:
        """Of batches, which only arrays take."""
        return self._batch_size if self.is_arrays else None

    @property
    def is_arrays(self) -> bool:
        """Whether the data are arrays, which `fit` makes batches of."""
        return fitting.are_arrays(self._x, self._y)

    def batches(self, limit: int) -> Iterator[tuple]:
        """Yield the first batches, as `(x,)`, `(x, y)` or `(x, y, weights)` of NumPy arrays."""
        try:
            yield from fitting.batches(self._x, self._y, self._size, limit)
        except ValueError as error:
            if not is_iterator(self._x):
                raise
            raise ValueError(
                "The generator has ended, and `compress` goes through the data more than once: give a generator that "
                "does not end, a PyDataset or a tf.data.Dataset."
            ) from error

    def first(self, count: int, limit: int | None = None) -> list[tuple]:
        """Return the first batches: as many as have so many samples, and at most `limit`."""
        found = []
        for batch in self.batches(count if limit is None else limit):
            found.append(batch)
            count -= len(keras.tree.flatten(batch)[0])
            if count <= 0:
                break
        return found

    def samples(self, limit: int) -> Any:
        """Return inputs in the structure of the model's: of arrays from everywhere, since they are often sorted."""
        flat = keras.tree.flatten(self._x)
        if flat and all(isinstance(each, np.ndarray) and each.ndim for each in flat):
            rows = spread(range(len(flat[0])), limit)
            return keras.tree.map_structure(lambda each: each[rows], self._x)
        parts = [x for x, *_ in self.first(limit)]
        return keras.tree.map_structure(lambda *parts: np.concatenate(parts)[:limit], *parts)

    def fit(self, model: keras.Model, **arguments: Any) -> keras.callbacks.History:
        """Train a model on the data."""
        weights = {} if self._weight is None else {"sample_weight": self._weight}
        validation = {f"validation_{key}": value for key, value in self._validation.items() if value is not None}
        if self.validation_data is None:
            validation = {}
        return model.fit(
            self._x,
            self._y,
            batch_size=self._size,
            steps_per_epoch=self._given_steps,
            validation_data=self.validation_data,
            **weights,
            **validation,
            **arguments,
        )

    def score(self, model: keras.Model) -> dict[str, float]:
        """Return loss and metrics of a compiled model, on the validation data if there are such.

        A metric that has a value for each class counts by its mean.
        """
        if self.validation_data is None:
            weights = {} if self._weight is None else {"sample_weight": self._weight}
            found = model.evaluate(
                self._x, self._y, self._size, 0, steps=self._given_steps, return_dict=True, **weights
            )
        else:
            parts = self.validation_data if isinstance(self.validation_data, (tuple, list)) else (self.validation_data,)
            named = dict(zip(("x", "y", "sample_weight"), parts))
            how = dict(self._validation)
            if not fitting.are_arrays(named.get("x"), named.get("y")):
                how["batch_size"] = None
            found = model.evaluate(**named, **how, verbose=0, return_dict=True)
        return {key: float(np.mean(value)) for key, value in found.items()}
