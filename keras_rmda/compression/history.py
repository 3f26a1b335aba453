"""What was logged in the epochs of all phases, also of those before a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras

from keras_rmda.platform import files

NAME = "history.json"


class History:
    """The logs of a training through several models, by epoch.

    Args:
        directory: where they are kept; None for nowhere.
    """

    def __init__(self, directory: Path | None):
        self._path = None if directory is None else directory / NAME
        self._epochs: dict[int, dict[str, Any]] = {}

    def note(self, epoch: int, phase: str, logs: dict[str, Any]) -> None:
        """Keep the logs of an epoch; one that was begun before and not ended is made again."""
        if not self._epochs and self._path is not None and self._path.exists():
            self._epochs = {int(key): value for key, value in json.loads(self._path.read_text()).items()}
        self._epochs[epoch] = logs | {"phase": phase}
        if self._path is not None:
            with files.replacing(self._path) as temporary:
                temporary.write_text(json.dumps(self._epochs, default=float))

    @property
    def columns(self) -> dict[str, list[Any]]:
        """What was logged as lists of equal length; what an epoch did not log is None, and what is left stays."""
        rows = [self._epochs[epoch] for epoch in sorted(self._epochs)]
        names = [name for row in rows for name in row if name != "phase"]
        found = {name: [row.get(name) for row in rows] for name in dict.fromkeys([*names, "phase"])}
        for name, column in found.items():
            for k in range(1, len(column) if name.endswith("_left") else 0):
                column[k] = column[k - 1] if column[k] is None else column[k]
        return found if rows else {}


class Notes(keras.callbacks.Callback):
    """Takes the logs of a phase, behind all other callbacks."""

    def __init__(self, history: History, phase: str):
        super().__init__()
        self._history, self._phase = history, phase

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Note them."""
        self._history.note(epoch, self._phase, dict(logs or {}))
