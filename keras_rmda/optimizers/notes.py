"""What callbacks keep with an optimizer, so that a training that was stopped goes on where it was.

An optimizer's state is in every file of a model's weights; what a callback has decided is not. It leaves a note at the
optimizer, which is saved and loaded with its variables, by `model.save`, `save_weights` and every callback that uses
them. A note that was loaded is taken once, at the first epoch of the training that goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_rmda.platform import nested

Note = dict[str, Any]


class Notes:
    """The notes at one optimizer: arrays, by the writer's name and their own."""

    def __init__(self) -> None:
        self._written: dict[str, Note] = {}
        self._loaded: dict[str, Note] = {}

    def write(self, name: str, epoch: int, **arrays: Any) -> None:
        """Replace the note of this name.

        Args:
            name: the writer's, without a dot.
            epoch: the epoch that is running, or the next between epochs.
            **arrays: what is to be known again.
        """
        self._written[name] = {"epoch": epoch, **arrays}

    def take(self, name: str, epoch: int) -> Note | None:
        """Return the note of this name, if one was loaded that a training can go on from at the begin of this epoch.

        A note of the epoch before is one: the file may be written before the writer notes that its epoch has ended.
        """
        note = self._loaded.pop(name, None)
        return note if note and epoch - 1 <= int(note["epoch"]) <= epoch else None

    def loaded(self, name: str) -> Note:
        """Return the note of this name as it was loaded, of whatever epoch, once."""
        return self._loaded.pop(name, {})

    def copy_to(self, other: Notes) -> None:
        """Give other notes these, as if they had been saved and loaded."""
        other._written = {name: dict(note) for name, note in self._written.items()}
        other._loaded = {name: dict(note) for name, note in self._written.items()}

    def save(self, store: Any) -> None:
        """Write all notes into what Keras gives an optimizer to save its variables in."""
        for name, note in self._written.items():
            for key, value in note.items():
                store[f"{name}.{key}"] = np.asarray(value)

    def load(self, store: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Read all notes, and return the rest."""
        self._loaded, rest = {}, {}
        for key in store.keys():  # noqa: SIM118  Keras gives an object that knows no more
            name, dot, key_of_note = key.partition(".")
            if dot:
                self._loaded.setdefault(name, {})[key_of_note] = np.asarray(store[key])
            else:
                rest[key] = store[key]
        return rest


def notes_of(model: keras.Model) -> Notes | None:
    """Return the notes at a model's optimizer, the first of this package; None if there is none."""
    found = [each.notes for each in nested.inner_optimizers(model.optimizer) if hasattr(each, "notes")]
    return found[0] if found else None
