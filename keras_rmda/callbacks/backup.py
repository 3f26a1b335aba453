"""Training that survives being killed."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_rmda.platform import compat, files, finite, replicas

WEIGHTS, REST = "model.weights.h5", "rest.npz"


class BackupAndRestore(keras.callbacks.Callback):
    """Keep a copy of the training after every epoch; the same training, started again, goes on from it.

    What is kept: weights, the optimizer with all of its state, what the callbacks of this package have decided, and the
    states of random numbers in layers. It ends with the weights of a training that was never stopped, if what an epoch
    sees depends on its number alone: give `fit` data that are shuffled so, or not (see docs/scale.md). Make it the last
    of all callbacks: what those behind it do at the end of an epoch is not in its copy. A copy counts when it is
    complete and on the disk, in one step of the file system: a kill at any moment leaves the one before.

    `keras.callbacks.BackupAndRestore` works too, with the same decisions, but writes over its only copy: a kill in that
    moment loses it. It does not keep random numbers, and its copies within an epoch repeat what the epoch had seen.

    Args:
        backup_dir: a folder of its own, made if it is not there. All workers must see the same one.
        delete_checkpoint: whether to delete the copy when training has ended.

    Raises:
        ValueError: if the folder holds something else; at the start of training, if the model is not built, the copy
            is of another one, or workers see different copies.
        OSError: at the start of training, if the folder cannot be made.

    Example:
        >>> model.fit(x, y, epochs=9, shuffle=False, callbacks=[kr.callbacks.BackupAndRestore("backup")])
    """

    def __init__(self, backup_dir: str | Path, delete_checkpoint: bool = True):
        super().__init__()
        if not isinstance(backup_dir, str | Path) or not str(backup_dir):
            raise ValueError(f"`backup_dir` must be a str or pathlib.Path. Received: backup_dir={backup_dir!r}")
        self.backup_dir = Path(backup_dir)
        self.delete_checkpoint = delete_checkpoint
        others = [path.name for path in self.backup_dir.glob("*") if not path.name.startswith(("epoch-", ".part-"))]
        if self.backup_dir.exists() and (others or not self.backup_dir.is_dir()):
            raise ValueError(
                "`backup_dir` must be a folder of its own: what is in it is deleted. "
                f"Received: backup_dir={str(backup_dir)!r}, which holds {sorted(others)[:3]}"
            )

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Restore the newest copy."""
        if not self.model.built:
            raise ValueError("BackupAndRestore restores weights: build the model before `fit`, with a keras.Input.")
        if self._is_chief:  # now, and not after an epoch, if it cannot be
            self.backup_dir.mkdir(parents=True, exist_ok=True)
            for part in self.backup_dir.glob(".part-*"):  # what a kill has left
                shutil.rmtree(part)
        copies = self._copies()
        number = _number(copies[-1]) if copies else 0
        if not replicas.agree_on(number, getattr(self.model, "distribute_strategy", None)):
            raise ValueError(
                "The workers see different copies: `backup_dir` must be one folder that all of them see. "
                f"Received: backup_dir={str(self.backup_dir)!r}, in which this worker sees {number} epochs"
            )
        if not copies:
            return
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        self.model.load_weights(copies[-1] / WEIGHTS)
        with np.load(copies[-1] / REST) as rest:
            for variable, value in zip(self._random_states(), rest.values(), strict=True):
                variable.assign(value)
        compat.begin_at_epoch(self.model, number)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Let later calls of `fit` begin where they say, also if this one ends by an error."""
        compat.begin_at_epoch(self.model, None)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Write a copy, then delete the one before; of several workers, the chief does.

        What is not finite is no copy to go on from: the one before stays.
        """
        self._has_failed = bool(finite.nonfinite_weights(self.model))
        if not self._is_chief or self._has_failed:
            return
        part = self._part()
        part.mkdir()
        with replicas.alone():
            self.model.save_weights(part / WEIGHTS)
        np.savez(part / REST, *map(ops.convert_to_numpy, self._random_states()))
        before = self._copies()
        files.write_through(*part.iterdir(), part)
        os.rename(part, self.backup_dir / f"epoch-{epoch + 1:06d}")
        files.write_through(self.backup_dir)
        for path in before:
            self._delete(path)

    def on_train_end(self, logs: dict | None = None) -> None:
        """Delete the copy, unless the training has failed."""
        compat.begin_at_epoch(self.model, None)
        if self.delete_checkpoint and self._is_chief and not getattr(self, "_has_failed", False):
            for path in self._copies():
                self._delete(path)
            shutil.rmtree(self.backup_dir, ignore_errors=True)

    @property
    def _is_chief(self) -> bool:
        return replicas.is_chief(getattr(self.model, "distribute_strategy", None))

    def _copies(self) -> list[Path]:
        """Return all complete copies, the newest last."""
        return sorted(self.backup_dir.glob("epoch-*"), key=_number)

    def _part(self) -> Path:
        return self.backup_dir / f".part-{secrets.token_hex(4)}"

    def _delete(self, path: Path) -> None:
        """Delete a copy that counts no more from the first moment on."""
        part = self._part()
        os.rename(path, part)
        shutil.rmtree(part)

    def _random_states(self) -> list[keras.Variable]:
        """Return the variables of a model that Keras does not save: the states of random numbers."""
        known = {id(variable) for variable in self.model.weights}
        return [variable for variable in self.model.variables if id(variable) not in known]


def _number(path: Path) -> int:
    return int(path.name.partition("-")[2])
