"""Stages of dual averaging."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import keras
from keras import ops

from keras_rmda.callbacks.session import Companion
from keras_rmda.optimizers.base import SparseOptimizer
from keras_rmda.optimizers.models import optimizers_of
from keras_rmda.optimizers.momentum import AveragingOptimizer
from keras_rmda.optimizers.notes import Notes
from keras_rmda.optimizers.ramda import RAMDA
from keras_rmda.platform import checks


class StagewiseSchedule(Companion):
    """Train in stages: at each milestone the learning rate goes down, the momentum up, and history is forgotten.

    Formula, before epoch m of `milestones`: learning_rate <- factor * learning_rate,
    momentum <- min(1, momentum / factor), `optimizer.restart()`. In the last stage the momentum grows with the
    step t of the stage as min(1, momentum * sqrt(t)), so that in the end the iterate is its structured value.
    With `style="ramda"` the momentum is kept until the last stage, and RAMDA's epsilon <- factor * epsilon.
    Optimizers that do not average their iterates (all but RMDA and RAMDA) keep momentum and history: for them only the
    learning rate goes down.

    Args:
        milestones: increasing 0-based epochs; each is applied before that epoch begins.
        factor: number in (0, 1) that multiplies the learning rate.
        style: `"rmda"`, or `"ramda"` for the schedule of RAMDA's authors.

    Raises:
        ValueError: for bad arguments; at the start of training if the optimizer is not one of this package or
            its learning rate or momentum is a schedule of its own.

    Example:
        >>> model.fit(x, y, epochs=30, callbacks=[kr.callbacks.StagewiseSchedule([15, 25])])

    Source: Huang and Lee 2022, arXiv:2112.02612, section 5; for `"ramda"` Huang and Lee 2024, arXiv:2403.14398,
    with their code.
    """

    def __init__(self, milestones: Sequence[int], factor: float = 0.1, style: Literal["rmda", "ramda"] = "rmda"):
        super().__init__()
        try:
            milestones = [checks.whole("milestones", epoch) for epoch in milestones]
        except TypeError:
            raise ValueError(f"`milestones` must be a sequence of epochs. Received: {milestones!r}") from None
        if not milestones or any(a >= b for a, b in pairwise(milestones)):
            raise ValueError(f"`milestones` must be increasing and not empty. Received: milestones={milestones!r}")
        self.milestones = milestones
        self.factor = checks.real("factor", factor, maximum=1.0, open_minimum=True)
        if self.factor == 1.0:
            raise ValueError(f"`factor` must be less than 1. Received: factor={factor!r}")
        checks.one_of("style", style, ("rmda", "ramda"))
        self.style = style

    @property
    def _optimizers(self) -> list[SparseOptimizer]:
        ours = optimizers_of(self.model)
        if not ours:
            name, why = type(getattr(self.model, "optimizer", None)).__name__, ""
            if not self.model.built:
                why = ", which may hold such when the model is built: give it a keras.Input"
            raise ValueError(
                "StagewiseSchedule sets the stages of optimizers of keras_rmda, such as RMDA. "
                f"Received: optimizer={name}{why}"
            )
        return ours

    @property
    def _notes(self) -> Notes:
        return self._optimizers[0].notes

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Refuse what cannot be scheduled; move milestones that come too early for others."""
        epochs = self.params["epochs"]
        companions = [each for each in self.callbacks if isinstance(each, Companion)]
        earliest = max((each.earliest_stage(epochs) for each in companions), default=0)
        self._due = [max(epoch, earliest + k) for k, epoch in enumerate(self.milestones)]
        if self._due != self.milestones:
            self._warn(f"moved to {self._due}, behind the choice of TargetSparsity, which is final before {earliest}")
        if self._due[-1] >= epochs:
            self._warn(
                f"too late: the last stage would begin before epoch {self._due[-1]}, of {epochs}, counted from 0"
            )
        for optimizer in self._optimizers:
            for name in (
                ("learning_rate", "momentum") if isinstance(optimizer, AveragingOptimizer) else ("learning_rate",)
            ):
                if not isinstance(getattr(optimizer, f"_{name}"), keras.Variable):
                    raise ValueError(f"StagewiseSchedule sets the {name}, but the optimizer's {name} is a schedule.")

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Begin a stage, unless a training that was stopped within this epoch had begun it."""
        note = self._notes.take("StagewiseSchedule", epoch)
        self._notes.write("StagewiseSchedule", epoch)
        if note and note["epoch"] == epoch:
            return
        for optimizer in self._optimizers:
            if epoch in self._due:
                optimizer.learning_rate = float(ops.convert_to_numpy(optimizer.learning_rate)) * self.factor
            if isinstance(optimizer, AveragingOptimizer):
                self._average_anew(optimizer, epoch)

    def _warn(self, what: str) -> None:
        message = f"The milestones {self.milestones} of StagewiseSchedule are {what}."
        warnings.warn(message, checks.SparsityWarning, stacklevel=3)

    def _average_anew(self, optimizer: AveragingOptimizer, epoch: int) -> None:
        if epoch == 0:
            optimizer.momentum_growth = 0.0
        if epoch in self._due:
            if self.style == "rmda":
                optimizer.momentum = min(1.0, float(ops.convert_to_numpy(optimizer.momentum)) / self.factor)
            elif isinstance(optimizer, RAMDA):
                optimizer.epsilon = float(ops.convert_to_numpy(optimizer.epsilon)) * self.factor
            optimizer.restart()
        if epoch == self._due[-1]:
            optimizer.momentum_growth = 0.5
