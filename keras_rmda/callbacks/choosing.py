"""A target that groups are chosen for: which of them are zero for good."""

from __future__ import annotations

import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.callbacks.best import forget_best
from keras_rmda.callbacks.budget import Budget
from keras_rmda.callbacks.choice import Groups
from keras_rmda.callbacks.ranking import ImpossibleTargetError, impossible
from keras_rmda.callbacks.session import bring_back
from keras_rmda.optimizers.joint import NEVER_AGAIN
from keras_rmda.optimizers.notes import notes_of
from keras_rmda.platform import checks, compat, finite, nested

DECISIONS = 20
"""How many times groups are chosen on the way to the target."""

RELIEF = 0.7
"""The factor of the strength at each decision where the penalty alone makes more zero than is wanted."""

TOLERANCE = 0.02
"""The difference to the target that is not worth a warning."""

OPAQUE = 0.25
"""The share of the parameters in opaque layers that is worth one."""


class Choosing:
    """What TargetSparsity does with `control="choice"`.

    Args:
        settings: the TargetSparsity, with its arguments as attributes.
    """

    def __init__(self, settings: Any):
        self.settings = settings
        self.groups: Groups | None = None
        self.pauses = False

    def on_train_begin(self, model: keras.Model, params: dict) -> None:
        """Find the groups; refuse a target that cannot be reached."""
        self.model, self._params = model, params
        if self.pauses:
            self.pauses = False
            return
        what = self.settings
        if set(what.targets) & set(checks.FILE_METRICS):
            groups = Budget(model, what.targets, what.multiple_of, what.ranking, what.export, what.profile)
        else:
            groups = Groups(model, what.metric, what.multiple_of, what.ranking)
        self.groups = groups
        opaque = sum(groups.opaque.values())
        if opaque > OPAQUE:
            largest = sorted(groups.opaque, key=groups.opaque.get, reverse=True)[:3]
            message = (
                f"{opaque:.0%} of the parameters of {model.name!r} stay, in layers that the converter does not "
                f"look into, such as {', '.join(largest)}: `keras_rmda.analyze` says why, and "
                "`keras_rmda.register_rule` teaches it a layer."
            )
            warnings.warn(message, checks.SparsityWarning, stacklevel=3)
        self.goal = groups.share_of(what.target)
        groups.aim(self.goal)
        least, whole = groups.least()
        if least > self.goal:
            raise ImpossibleTargetError(impossible(model, groups.possible(least), whole, what.given))
        self._epoch, self._decisions, self._failed, self._settled = 0, 0, False, False
        self._steps_of_epoch, self._batches = what.steps, None
        self._begins, self._was_final = True, groups.is_final

    def on_epoch_begin(self, epoch: int, callbacks: list) -> None:
        """Note where training is; one that was stopped goes on with the decisions that it had made."""
        self._epoch, note = epoch, notes_of(self.model).take("TargetSparsity", epoch)
        if note and note.get("goal", self.goal) == self.goal:
            self._decisions = int(note["decisions"])
            self._go_on(epoch / self._params["epochs"])  # if the copy is of the moment before
            self.groups.refresh()
        elif self._begins and self._leaves_more():
            self.groups.reopen()
            self._was_final = False
        self._begins = False
        self._take_a_note(epoch)
        if not self._settled:
            forget_best(callbacks)
            self._settled = self.groups.is_final
        self._steps_before = self._steps

    def on_train_batch_end(self, batch: int, callbacks: list) -> None:
        """Choose groups, if that is due."""
        self._batches, steps = batch + 1, self._params.get("steps") or self._steps_of_epoch
        share = (self._epoch + (batch + 1) / (steps or 1)) / self._params["epochs"]
        if steps and batch + 1 < steps and self._is_due(share):
            compat.take_state_back(self.model)
            bring_back(callbacks)
            self._go_on(share)

    def on_epoch_end(self, epoch: int, logs: dict | None) -> None:
        """Choose groups, if that is due, and put the share that is left into `logs`."""
        self._failed = finite.stop_if_not_finite(self.model, epoch, logs)
        self._steps_of_epoch = self._steps_of_epoch or self._batches  # only now is it known how long the data are
        if self._steps > self._steps_before:
            self._go_on((epoch + 1) / self._params["epochs"])
        else:
            warnings.warn(
                f"No step was made in epoch {epoch + 1}, so TargetSparsity chose nothing: the data had no batches, "
                "all gradients were skipped, or they are accumulated over more steps than an epoch has.",
                checks.SparsityWarning,
                stacklevel=3,
            )
        self._take_a_note(epoch + 1)
        self.groups.refresh()
        if logs is not None:
            logs.update({f"{metric}_left": left for metric, left in self.groups.lefts().items()})

    def after_fit(self) -> None:
        """Warn where the weights that are there now miss the target, unless the training has failed."""
        if self._failed or self.pauses:
            return
        groups = self.groups
        logged = groups.left()
        groups.refresh(structured=False)
        left = groups.left()
        # A file that costs less than it may is none to warn of.
        if left - self.goal > TOLERANCE or (self.goal - left > TOLERANCE and not isinstance(groups, Budget)):
            if not groups.is_final:
                why = f"it stopped before end={self.settings.end} of the epochs"
            elif abs(left - logged) > TOLERANCE:
                why = f"a callback has put back weights of another time, after {groups.told(logged)} were left"
            elif self._was_final and left < self.goal:
                why = "what an earlier training has chosen stays zero"
            elif not groups.are_clear():
                why = "a callback has changed weights of groups that were zero for good"
            else:
                multiple = self.settings.multiple_of
                why = "single groups are large" + (f", as multiple_of={multiple} may be" if multiple > 1 else "")
            message = f"Training ended with {groups.told(left)}, not with {groups.wanted(self.goal)}: {why}."
            warnings.warn(message, checks.SparsityWarning, stacklevel=3)

    @property
    def _steps(self) -> int:
        # Keras 3.8 does not count those of a LossScaleOptimizer itself.
        inside = nested.inner_optimizers(self.model.optimizer)
        return sum(int(ops.convert_to_numpy(each.iterations)) for each in inside)

    def _take_a_note(self, epoch: int) -> None:
        notes_of(self.model).write("TargetSparsity", epoch, decisions=self._decisions, goal=self.goal)

    def _leaves_more(self) -> bool:
        """Return whether the choice of an earlier training is final, and more groups have to go for this target."""
        groups = self.groups
        if not self._was_final or groups.left() - self.goal <= TOLERANCE:
            return False
        return bool((groups.smallest(self.goal, nearest=True) & (groups.factors != NEVER_AGAIN)).any())

    def _progress(self, share: float) -> float:
        return (share - self.settings.begin) / (self.settings.end - self.settings.begin)

    def _is_due(self, share: float) -> bool:
        """Return whether groups are to be chosen at this share of the training."""
        return min(self._progress(share), 1.0) * DECISIONS >= self._decisions

    def _go_on(self, share: float) -> None:
        """Decide what is due at this share of the training."""
        groups, progress = self.groups, self._progress(share)
        if not self._is_due(share) or groups.is_final or finite.nonfinite_weights(self.model):  # no order to choose by
            return
        self._decisions = int(min(progress, 1.0) * DECISIONS) + 1
        self._take_a_note(self._epoch)
        groups.refresh()
        if progress >= 1:
            groups.finish(self.goal)
            return
        factors = groups.factors
        if groups.left() < self.goal:
            factors = np.where(factors == NEVER_AGAIN, factors, factors * RELIEF)
        wanted = self.goal + (1.0 - self.goal) * (1.0 - progress) ** 3
        groups.factors = np.where(groups.smallest(wanted), NEVER_AGAIN, factors)
