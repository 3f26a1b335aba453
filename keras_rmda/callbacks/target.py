"""A target instead of a strength."""

from __future__ import annotations

import math
import warnings
from typing import Literal

import keras
import numpy as np
from keras import ops

from keras_rmda.callbacks.best import forget_best
from keras_rmda.callbacks.choice import Groups
from keras_rmda.callbacks.session import Companion
from keras_rmda.optimizers.joint import NEVER_AGAIN
from keras_rmda.optimizers.models import optimizers_of
from keras_rmda.optimizers.notes import notes_of
from keras_rmda.platform import checks, compat, finite, nested

RANKINGS = ("magnitude", "fisher")

DECISIONS = 20
"""How many times groups are chosen on the way to the target."""

RELIEF = 0.7
"""The factor of the strength at each decision where the penalty alone makes more zero than is wanted."""

TOLERANCE = 0.02
"""The difference to the target that is not worth a warning."""

OPAQUE = 0.25
"""The share of the parameters in opaque layers that is worth one."""


class ImpossibleTargetError(ValueError):
    """A target is less than what is left when all goes that can be chosen."""


class TargetSparsity(Companion):
    """Move the strengths of coupled groups so that training ends at a target, within its own number of epochs.

    Formula: with progress p from 0 at `begin` to 1 at `end`, shares of the epochs, at most
    target + (1 - target) (1 - p)^3 of the metric may be left. At twenty decisions on the way as many groups as that
    needs get a strength that keeps them zero for good: those whose |w_g| is smallest, relative to the mean over their
    layer; a tenth of every layer is never chosen. Where the penalty alone makes more zero than is wanted in the end,
    the strength of the others goes down. At `end` the choice is final: what is left is no longer penalized, and a new
    stage begins.

    Until then, EarlyStopping, ModelCheckpoint and ReduceLROnPlateau forget the best that they have seen, of larger
    networks. Milestones of StagewiseSchedule that come earlier are moved behind it, with a warning.

    Works with every optimizer of this package whose regularizer has coupled groups. What `strip` would leave is
    measured by the converter at each decision: one group fewer would be too few. `logs` get `macs_left`, or whatever
    the metric is. Layers that the converter does not look into stay whole and count, with the multiply-accumulates that
    `analyze` estimates. A warning at the start says if more than a quarter of the parameters are in them.

    Args:
        target: what is to be left: a share in (0, 1), or a number of 1 and more in units of the metric.
        metric: `"macs"`, multiply-accumulates per sample; `"parameters"`; `"bytes"` of the weights as they are
            stored in the model; `"groups"`, the number of coupled groups.
        begin, end: shares of all epochs, 0 <= begin < end <= 1, between which groups are chosen.
        multiple_of: each layer keeps a multiple of this many groups, or all that it has. 16 suits CPUs, which compute
            that many channels at once: odd widths cost speed. The target is then met as nearly as that allows.
        ranking: which groups go first. `"magnitude"`: those with the smallest norm, relative to the mean over their
            layer, and a tenth of every layer stays. `"fisher"`: those that are worth the least for what they cost,
            (1/n) sum_t sum_{i in g} (w_i G_{t,i})^2 / c_g, where the mean over the steps forgets with .99 and c_g is
            what the removal of the group saves of the metric; every layer keeps two thirds of what it would have in a
            thin model of the target, one in which all layers keep the same share. It wants `parts="all"` of
            `coupled_groups`, and is what `compress` uses.

    Raises:
        ValueError: for an argument out of range; at the start of training, if there are two of these callbacks, if no
            optimizer has coupled groups, and if the target is more than the whole or less than what is left when all
            that can be chosen is. The message says which is the smallest possible target.

    Example:
        >>> psi = kr.GroupLasso(1e-4, groups=kr.coupled_groups(model))
        >>> model.compile(kr.RMDA(0.1, regularizer=psi), loss="mse")
        >>> model.fit(x, y, epochs=12, callbacks=[kr.callbacks.TargetSparsity(0.25)])

    Source: the schedule is that of Zhu and Gupta 2017, "To prune, or not to prune", arXiv:1710.01878.
    """

    def __init__(
        self,
        target: float,
        metric: Literal["macs", "parameters", "groups", "bytes"] = "macs",
        begin: float = 0.1,
        end: float = 0.6,
        multiple_of: int = 1,
        ranking: Literal["magnitude", "fisher"] = "magnitude",
    ):
        super().__init__()
        self.target = checks.real("target", target, open_minimum=True)
        checks.one_of("metric", metric, checks.METRICS)
        self.metric = metric
        self.begin = checks.real("begin", begin, maximum=1.0)
        self.end = checks.real("end", end, maximum=1.0)
        if self.begin >= self.end:
            raise ValueError(f"`begin` must be less than `end`. Received: begin={begin!r}, end={end!r}")
        self.multiple_of = checks.whole("multiple_of", multiple_of, 1)
        checks.one_of("ranking", ranking, RANKINGS)
        self.ranking = ranking
        self._groups: Groups | None = None
        self.writes = (f"{metric}_left",)

    def before_fit(self, callbacks: list[keras.callbacks.Callback]) -> None:
        """Refuse a second target; know those that look for the best."""
        super().before_fit(callbacks)
        targets = [each for each in callbacks if isinstance(each, TargetSparsity)]
        if len(targets) > 1:
            raise ValueError(
                "Two TargetSparsity would move the same strengths: give one. Received: "
                + ", ".join(f"TargetSparsity({each.target!r}, {each.metric!r})" for each in targets)
            )

        if self.ranking == "fisher" and self.model.built:
            for optimizer in optimizers_of(self.model):
                optimizer.follow_importance()
            self.model.train_function = None  # a step that was traced before would not know of it

    def earliest_stage(self, epochs: int) -> int:
        """Return the epoch before which the choice is final."""
        return math.ceil(round(self.end * epochs, 9))

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Find the groups; refuse a target that cannot be reached."""
        self._groups = groups = Groups(self.model, self.metric, self.multiple_of, self.ranking)
        opaque = sum(groups.opaque.values())
        if opaque > OPAQUE:
            largest = sorted(groups.opaque, key=groups.opaque.get, reverse=True)[:3]
            message = (
                f"{opaque:.0%} of the parameters of {self.model.name!r} stay, in layers that the converter does not "
                f"look into, such as {', '.join(largest)}: `keras_rmda.analyze` says why, and "
                "`keras_rmda.register_rule` teaches it a layer."
            )
            warnings.warn(message, checks.SparsityWarning, stacklevel=2)
        self._goal = self.target if self.target < 1 else self.target / groups.whole
        if self._goal > 1:
            raise ValueError(
                f"{self.model.name!r} has {groups.whole:,} {self.metric}: a target is a share of them, less than 1, or "
                f"a number, at most that. Received: target={self.target!r}"
            )
        groups.aim(self._goal)
        least = groups.least()
        if least > self._goal:
            raise ImpossibleTargetError(
                f"The smallest possible target is {possible(least, groups.whole)} {self.metric}, where a tenth of the "
                f"coupled groups of each layer of {self.model.name!r} stays: `keras_rmda.analyze` shows what is left. "
                f"Received: target={self.target!r}"
            )
        self._epoch, self._decisions, self._failed, self._settled = 0, 0, False, False

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Note where training is; one that was stopped goes on with the decisions that it had made."""
        self._epoch, note = epoch, notes_of(self.model).take("TargetSparsity", epoch)
        if note:
            self._decisions = int(note["decisions"])
            self._go_on(epoch / self.params["epochs"])  # if the copy is of the moment before
            self._groups.look()
        self._take_a_note(epoch)
        if not self._settled:
            forget_best(self.callbacks)
            self._settled = self._groups.is_final
        self._steps_before = self._steps

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Choose groups, if that is due."""
        steps = self.params.get("steps")
        share = (self._epoch + (batch + 1) / (steps or 1)) / self.params["epochs"]
        if steps and batch + 1 < steps and self._is_due(share):
            compat.take_state_back(self.model)
            self._go_on(share)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Choose groups, if that is due, and put the share that is left into `logs`."""
        self._failed = finite.stop_if_not_finite(self.model, epoch, logs)
        if self._steps > self._steps_before:
            self._go_on((epoch + 1) / self.params["epochs"])
        else:
            warnings.warn(
                f"No step was made in epoch {epoch + 1}, so TargetSparsity chose nothing: the data had no batches, or "
                "all gradients were skipped.",
                checks.SparsityWarning,
                stacklevel=2,
            )
        self._take_a_note(epoch + 1)
        self._groups.look()
        if logs is not None:
            logs[f"{self.metric}_left"] = self._groups.left()

    def after_fit(self) -> None:
        """Warn where the weights that are there now miss the target, unless the training has failed."""
        if self._failed:
            return
        logged = self._groups.left()
        self._groups.look(structured=False)
        left = self._groups.left()
        if abs(left - self._goal) > TOLERANCE:
            if not self._groups.is_final:
                why = f"it stopped before end={self.end} of the epochs"
            elif abs(left - logged) > TOLERANCE:
                why = f"a callback has put back weights of another time, after {logged:.1%} were left"
            else:
                why = f"single groups are large, or multiple_of={self.multiple_of} is"
            message = f"Training ended with {left:.1%} of the {self.metric}, not with {self._goal:.1%}: {why}."
            warnings.warn(message, checks.SparsityWarning, stacklevel=2)

    @property
    def _steps(self) -> int:
        # Keras 3.8 does not count those of a LossScaleOptimizer itself.
        inside = nested.inner_optimizers(self.model.optimizer)
        return sum(int(ops.convert_to_numpy(each.iterations)) for each in inside)

    def _take_a_note(self, epoch: int) -> None:
        notes_of(self.model).write("TargetSparsity", epoch, decisions=self._decisions)

    def _progress(self, share: float) -> float:
        return (share - self.begin) / (self.end - self.begin)

    def _is_due(self, share: float) -> bool:
        """Return whether groups are to be chosen at this share of the training."""
        return min(self._progress(share), 1.0) * DECISIONS >= self._decisions

    def _go_on(self, share: float) -> None:
        """Decide what is due at this share of the training."""
        groups, progress = self._groups, self._progress(share)
        if not self._is_due(share) or groups.is_final or finite.nonfinite_weights(self.model):  # no order to choose by
            return
        self._decisions = int(min(progress, 1.0) * DECISIONS) + 1
        self._take_a_note(self._epoch)
        groups.look()
        if progress >= 1:
            groups.finish(self._goal)
            return
        factors = groups.factors
        if groups.left() < self._goal:
            factors = np.where(factors == NEVER_AGAIN, factors, factors * RELIEF)
        wanted = self._goal + (1.0 - self._goal) * (1.0 - progress) ** 3
        groups.factors = np.where(groups.smallest(wanted), NEVER_AGAIN, factors)


def possible(least: float, whole: int) -> str:
    """Return the least share of a whole, rounded up to three digits, if that is below 1, and as a number."""
    scale = 10 ** (2 - math.floor(math.log10(max(least, 1e-9))))
    n = math.ceil(least * scale)
    share = (n if n / scale >= least else n + 1) / scale  # the product may have been rounded down
    number = f"{round(least * whole):,}"
    return f"{share:g}, or {number}" if share < 1 else number
