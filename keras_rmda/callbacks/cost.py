"""What training costs: operations and seconds."""

from __future__ import annotations

import time
import weakref
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.callbacks.session import Companion
from keras_rmda.channels.sites import Cut
from keras_rmda.optimizers.notes import notes_of
from keras_rmda.platform import nested
from keras_rmda.structure.trace import as_graph, trace


class TrainingCost(Companion):
    """Put what training has cost so far into `logs` at the end of every epoch.

    Formula: training_macs = sum_t macs(model of step t) / sum_t macs(dense), over all steps t since epoch 0, with the
    multiply-accumulates per sample that `analyze` counts: those of the model as it is trained, in which a zero costs
    what any other number does. A step forward and backward takes about three times as many in both, so that the share
    is the same. `seconds_per_step` is the mean of the epoch without its first step, which may be traced, and without
    validation.

    Give the same object to the next `fit` when a model has become smaller (`shrink`, `strip`): it goes on, and the
    model of the first epoch is the dense one. A training that is taken up from a file of an optimizer of this package
    goes on, too. Epoch 0 begins anew.

    Args:
        dense: what is compared with: a model, or a number of multiply-accumulates per sample; None for the model of the
            first epoch.

    Raises:
        ValueError: if `dense` is something else; when training begins, if a model has no graph.

    Example:
        >>> cost = kr.callbacks.TrainingCost()
        >>> model.fit(x, y, epochs=10, callbacks=[cost])
        >>> kr.shrink(model).fit(x, y, initial_epoch=10, epochs=30, callbacks=[cost])
    """

    writes = ("training_macs", "seconds_per_step")
    async_safe = True  # Keras would wait for every step else

    def __init__(self, dense: keras.Model | float | None = None):
        super().__init__()
        is_number = isinstance(dense, int | float) and not isinstance(dense, bool) and 0 < dense < float("inf")
        if not (dense is None or is_number or isinstance(dense, keras.Model)):
            raise ValueError(f"`dense` must be a model, a number > 0 or None. Received: dense={dense!r}")
        self._given = macs_of(dense) if isinstance(dense, keras.Model) else dense
        self._dense = self._given
        self._measured: weakref.ref | None = None
        self._macs = self._all = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Measure a model that is new; start the clock."""
        if epoch == 0:
            self._macs, self._all, self._dense, self._measured = 0.0, 0.0, self._given, None
        if self._measured is None or self._measured() is not self.model:
            self._own, self._measured = macs_of(self.model), weakref.ref(self.model)
        notes = notes_of(self.model)
        note = notes.take("TrainingCost", epoch) if notes else None
        if note:
            self._macs, self._all, self._dense = (float(note[key]) for key in ("macs", "all", "dense"))
        self._dense = self._dense or self._own
        self._steps_before, self._first, self._end = self._steps, None, None
        self._begin = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Know when the first step has ended."""
        if self._first is None:
            self._first = (time.perf_counter(), batch + 1)

    def on_test_begin(self, logs: dict | None = None) -> None:
        """Stop the clock for validation."""
        self._end = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Put the figures into `logs`."""
        end = self._end or time.perf_counter()
        steps = self._steps - self._steps_before
        spared = sum(each.saved_macs() for each in self.callbacks if isinstance(each, Companion))
        self._macs += steps * self._own - spared
        self._all += steps * self._dense
        if notes := notes_of(self.model):
            notes.write("TrainingCost", epoch + 1, macs=self._macs, all=self._all, dense=self._dense)
        if logs is not None and steps:
            begin, traced = self._first or (self._begin, 0)
            begin, traced = (begin, traced) if traced < steps else (self._begin, 0)
            logs["training_macs"] = self._macs / max(self._all, 1.0)
            logs["seconds_per_step"] = (end - begin) / (steps - traced)

    @property
    def _steps(self) -> int:
        return max(int(ops.convert_to_numpy(x._iterations)) for x in nested.inner_optimizers(self.model.optimizer))


def macs_of(model: keras.Model) -> float:
    """Return the multiply-accumulates per sample of a model, with all of its channels."""
    try:
        with as_graph(model) as graph:
            traced = trace(graph)
    except ValueError as error:
        raise ValueError(f"TrainingCost cannot count the multiply-accumulates. {error}") from error
    cut: Any = Cut(traced.ties, np.ones(len(traced.ties.parent), dtype=bool))
    return float(sum(call.macs(cut) for call in traced.calls))
