"""When the model is cut while groups are chosen, and by what it goes on after a kill."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import keras

from keras_rmda.callbacks import BackupAndRestore, TargetSparsity
from keras_rmda.callbacks.best import KEEPERS
from keras_rmda.callbacks.cost import macs_of
from keras_rmda.compression.callbacks import remembers
from keras_rmda.platform import compat, files
from keras_rmda.structure.pairing import Shrunk
from keras_rmda.structure.shrinking import shrunk

POWER = 0.7
"""The time of a step grows with this power of its operations, until it is measured: a quarter of them takes .38."""

PAYS = 2.0
"""A cut saves more than this many times its cost."""


class Cuts(keras.callbacks.Callback):
    """Ends a `fit` where it pays to go on with a smaller model, and makes that.

    Formula: with n epochs of s seconds left, of a model that has a share m of its operations left, a cut saves
    n s (1 - m^p) seconds. Its cost are the seconds of the last one with the first step after it, which is traced anew;
    before the first one, twice the seconds of the trace. p is measured, too, from the second cut on.

    Args:
        model: the whole one, compiled.
        choice: what decides about its groups.
        callbacks: the user's. Those that remember weights or layers would begin anew with another model: they keep it
            whole.
        path: the file that tells after which epochs it was cut; None for none.
        last: the first epoch that is none any more.
        may_cut: whether to.

    Attributes:
        current: the model in training.
        epochs: those that began with a smaller one.
    """

    async_safe = True  # Keras would wait for every step else

    def __init__(
        self,
        model: keras.Model,
        choice: TargetSparsity,
        callbacks: Sequence[keras.callbacks.Callback],
        path: Path | None,
        last: int,
        may_cut: bool = True,
    ):
        super().__init__()
        self.current, self.last, self.may_cut = model, last, may_cut
        self._choice, self._callbacks, self._path = choice, callbacks, path
        self._known: list[int] = json.loads(path.read_text()) if path is not None and path.exists() else []
        self.epochs: list[int] = []
        self._macs = macs_of(model) if may_cut else 0.0
        self._power, self._cost, self._before = POWER, 0.0, None
        self._next: int | None = None
        self._seconds = 0.0

    # ---- what `fit` calls

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Start the clock of the first step, which is traced."""
        self._next, self._traced, self._begun = None, 0.0, time.perf_counter()

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Forget the clock of the epoch before."""
        self._first = self._end = None

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Know when the first step has ended."""
        self._steps = batch + 1
        if self._first is None:
            self._first, self._counted = time.perf_counter(), batch + 1

    def on_test_begin(self, logs: dict | None = None) -> None:
        """Stop the clock for validation."""
        self._end = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """End the `fit` if a cut pays."""
        if not self.may_cut or self._first is None or self._steps == self._counted:
            return
        step = ((self._end or time.perf_counter()) - self._first) / (self._steps - self._counted)
        self._seconds = step * self._steps
        if not self._traced:
            self._traced = max(self._first - self._begun - step, 1e-9)
            self._learn()
        if self._pays(self.last - epoch - 1):
            self._next = epoch + 1
            self._choice.pause()
            self.model.stop_training = True

    # ---- when

    def _learn(self) -> None:
        """Know from the first epoch after a cut what that has cost, and what it has saved."""
        if self._before is None:
            self._cost = self._cost or 2 * self._traced
            return
        share, seconds, spent = self._before
        self._cost, self._before = spent + self._traced, None
        saved = math.log(self._seconds / seconds) / math.log(share) if share < 1.0 else 0.0
        self._power = min(max(saved, 0.0), 1.0)

    def _pays(self, epochs: int) -> bool:
        """Return whether a cut now saves more than it costs, for so many epochs."""
        if not epochs or self._choice.groups.is_final:
            return False
        if any(remembers(each, self.model) for each in self._callbacks if not isinstance(each, KEEPERS)):
            return False
        left = self._choice.groups.macs() / self._macs
        return epochs * self._seconds * (1.0 - left**self._power) > PAYS * self._cost

    # ---- the cut

    def next_epoch(self) -> int | None:
        """Cut the model if that is due, and return the epoch that training goes on with; None if it has ended."""
        if self._next is None:
            return None
        begun = time.perf_counter()
        try:
            made = shrunk(self.current)
        except ValueError:  # nothing is zero for good, or what goes has a part in the loss: see `shrink`
            made = None
        if made is None or made.losses_count_what_is_gone:  # norms of groups count nothing at the strength that is here
            self.may_cut = False
            return self._next
        self._follow(made)
        macs = macs_of(made.small)
        self._before, self._macs = (macs / self._macs, self._seconds, time.perf_counter() - begun), macs
        self.epochs.append(self._next)
        if self._path is not None:
            with files.replacing(self._path) as temporary:
                temporary.write_text(json.dumps(self.epochs))
        return self._next

    def _follow(self, made: Shrunk) -> None:
        self._choice.groups.follow(made)
        self.current = made.small

    def restore(self, folder: Path | None) -> bool:
        """Make the next cut of a run that was killed, of the copy in a folder; return False if it had made no more."""
        if len(self.epochs) >= len(self._known):
            return False
        backup = BackupAndRestore(folder, delete_checkpoint=False)
        self._choice.set_params({"epochs": self.last})
        for each in (self._choice, backup):
            each.set_model(self.current)
        self._choice.before_fit([self._choice])
        backup.on_train_begin()
        compat.begin_at_epoch(self.current, None)
        self._choice.on_train_begin()
        self._choice.pause()
        self._follow(shrunk(self.current))
        self._macs = macs_of(self.current)
        self.epochs.append(self._known[len(self.epochs)])
        return True
