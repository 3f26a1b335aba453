"""What a compression says while it runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

SILENT, BAR, LINES = 0, 1, 2


def chosen_verbosity(verbose: Any) -> int:
    """Return the way to show progress: "auto" is a bar on a terminal and in a notebook, else a line per epoch."""
    if verbose == "auto":
        return BAR if sys.stdout.isatty() or "IPython" in sys.modules else LINES
    if verbose not in (SILENT, BAR, LINES):
        raise ValueError(f"`verbose` must be 'auto', 0, 1 or 2. Received: verbose={verbose!r}")
    return int(verbose)


class Progress(keras.callbacks.Callback):
    """Shows a phase: one bar for all of its epochs, or one line for each.

    Args:
        how: 0, 1 or 2, as `verbose` of `fit`.
        say: receives each line.
        title: what is being done, before each line.
        steps: per epoch.
        first: the epoch with which the phase begins.
        epochs: of all phases; None for those of this one.
    """

    def __init__(
        self,
        how: int = LINES,
        say: Callable[[str], None] = print,
        title: str = "",
        steps: int | None = None,
        first: int = 0,
        epochs: int | None = None,
    ):
        super().__init__()
        self.how, self.say, self.title, self.steps, self.first, self.epochs = how, say, title, steps, first, epochs
        self._bar: Any = None

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Draw the bar, which is not silent while the first step is compiled; one that is there goes on."""
        if self.how == BAR and self._bar is None:
            count = (self.params["epochs"] - self.first) * self.steps if self.steps else None
            self._bar = keras.utils.Progbar(count, stateless_metrics=[])
            self._done = 0
            self._bar.update(0)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Know where the bar stands, also in a training that goes on."""
        self._done = (epoch - self.first) * (self.steps or 0)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(self._done + batch + 1, list((logs or {}).items()), finalize=False)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Show the epoch's figures."""
        logs = logs or {}
        if self._bar is not None and self.steps:
            is_last = epoch + 1 == self.params["epochs"]
            self._bar.update(self._done + self.steps, list(logs.items()), finalize=is_last)
        if self.how == LINES:
            self.say(line(self.title, epoch + 1, self.epochs or self.params["epochs"], logs))


def line(title: str, epoch: int, epochs: int, logs: dict) -> str:
    """Return the figures of an epoch: the score of the validation where there is one, and what is left."""
    text = f"{title}  epoch {epoch:3d}/{epochs}".lstrip()
    validated = [key for key in logs if key.startswith("val_")] or [
        key for key in logs if not key.endswith("_left") and key not in ("learning_rate", *SPARSITY)
    ]
    text += "".join(f"  {key} {np.mean(logs[key]):.4g}" for key in validated[:3])
    text += "".join(f"  {key.removesuffix('_left')} left {logs[key]:.1%}" for key in logs if key.endswith("_left"))
    return text


SPARSITY = (
    *("zero_groups", "weighted_zero_groups", "zero_weights", "penalty"),
    *("macs", "removable_macs", "removable_parameters"),
)
"""What SparsityMonitor adds."""
