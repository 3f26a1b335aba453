"""A target that the strength of penalties is moved towards, of whatever groups these are."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.callbacks.best import forget_best
from keras_rmda.callbacks.laws import Feedback, StrengthLaw
from keras_rmda.callbacks.session import bring_back
from keras_rmda.optimizers.bregman import MirrorMap
from keras_rmda.optimizers.models import optimizers_of
from keras_rmda.optimizers.notes import notes_of
from keras_rmda.platform import checks, compat, finite
from keras_rmda.regularizers import JointPenalty
from keras_rmda.regularizers.base import Strength
from keras_rmda.structure.amounts import amounts, everything
from keras_rmda.structure.liveness import plan
from keras_rmda.structure.trace import as_graph, trace

METRICS = ("weights", *checks.METRICS)

SMALLEST, LARGEST = 1e-30, 1e30
"""What a strength is kept between."""

LOOKS = 500
"""The number of looks at the density that a training is to have."""

EVERY = 50
"""The largest number of steps between two, if nobody has said it."""

TOLERANCE = 0.02
"""The difference to the target that is not worth a warning, or a quarter of a target that is smaller."""


class Densities:
    """The densities of a model under optimizers of this package.

    Args:
        model: a compiled model.
        metric: what is measured: one of `METRICS`.
    """

    def __init__(self, model: keras.Model, metric: str):
        self.optimizers = [each for each in optimizers_of(model) if each.built and each.penalties()]
        if not self.optimizers:
            raise ValueError(
                "TargetSparsity moves the strengths of penalties. Give an optimizer of keras_rmda a `regularizer`, "
                f"such as L1(0.1). Received: optimizer={type(model.optimizer).__name__}"
            )
        self._metric, self._trace = metric, None
        if metric not in ("weights", "groups"):
            with as_graph(model) as graph:
                self._trace = trace(graph)
        self.whole = self._measured()[1]

    @property
    def strengths(self) -> list[Strength]:
        """The strengths of all penalties, each once."""
        penalties = [psi.penalty if isinstance(psi, JointPenalty) else psi for psi, _ in self._penalties()]
        return list({id(psi._strength): psi._strength for psi in penalties}.values())

    def left(self, structured: bool = True) -> float:
        """Return the share that is left: of the weights under penalties, their groups, or what `strip` would leave."""
        part, whole = self._measured(structured)
        return part / whole

    def _penalties(self) -> list[tuple[Any, Sequence[keras.Variable]]]:
        return [each for optimizer in self.optimizers for each in optimizer.penalties()]

    def _measured(self, structured: bool = True) -> tuple[float, float]:
        part, whole, values = 0, 0, {}
        for optimizer in self.optimizers:
            for psi, variables in optimizer.penalties():
                found = optimizer.structured_values(variables) if structured else variables
                found = [ops.cast(value, "float32") for value in found]
                if self._metric == "weights":
                    part += sum(int(ops.convert_to_numpy(ops.count_nonzero(value))) for value in found)
                    whole += sum(int(np.prod(value.shape)) for value in found)
                elif self._metric == "groups":
                    norms = ops.convert_to_numpy(psi.group_norms(found if isinstance(psi, JointPenalty) else found[0]))
                    part, whole = part + np.count_nonzero(norms), whole + norms.size
                else:
                    values |= {id(v): ops.convert_to_numpy(value) for v, value in zip(variables, found)}
        if self._trace is None:
            return part, whole
        read = lambda v: values[id(v)] if id(v) in values else ops.convert_to_numpy(v)  # noqa: E731
        found = plan(self._trace, read)
        return amounts(found)[self._metric], amounts(found, everything(found))[self._metric]


class MovingStrength:
    """What TargetSparsity does where a law moves the strengths of all penalties, and nothing is chosen.

    Args:
        target: what is to be left, a share or a number.
        metric: of what.
        begin, end: shares of the epochs between which strengths move.
        law: how.
    """

    groups = None  # nothing is chosen

    def __init__(self, target: float, metric: str, begin: float, end: float, law: StrengthLaw):
        self.target, self.metric, self.begin, self.end, self.law = target, metric, begin, end, law

    def on_train_begin(self, model: keras.Model, params: dict) -> None:
        """Find the strengths; refuse what cannot be moved, and a target that is more than all."""
        self.model, self._epochs, self._steps = model, params["epochs"], params.get("steps")
        self._densities = Densities(model, self.metric)
        self._goal = self.target if self.target < 1 else self.target / self._densities.whole
        if self._goal > 1:
            raise ValueError(
                f"{model.name!r} has {self._densities.whole:,} {self.metric} under penalties: a target is a share of "
                f"them, less than 1, or a number, at most that. Received: target={self.target!r}"
            )
        for strength in self._densities.strengths:
            if not isinstance(strength.value, int | float):
                raise ValueError(
                    f"{self.law!r} sets the `strength` of penalties, and this one is a schedule or a tensor: give a "
                    f"number. Received: {strength.value!r}"
                )
            if strength.value == 0 and isinstance(self.law, Feedback):
                raise ValueError(f"{self.law!r} multiplies a `strength`, which must be more than 0. Received: 0.0")
        self.law.reset()
        self._every = self.law.every
        if self._every is None and isinstance(self.law, Feedback):
            self._every = min(EVERY, max(1, (self._steps or EVERY) * self._epochs // LOOKS))
        self._since, self._settled, self._failed = 0, False, False

    def on_epoch_begin(self, epoch: int, callbacks: list) -> None:
        """Go on with a training that was stopped."""
        self._epoch, self._last = epoch, 0
        note = notes_of(self.model).take("TargetSparsity", epoch)
        if note and "since" in note:
            self.law.state, self._since = note, int(note["since"])
        self._take_a_note(epoch)
        if not self._settled:
            forget_best(callbacks)

    def on_train_batch_end(self, batch: int, callbacks: list) -> None:
        """Look, if that is due."""
        self._since, self._last = self._since + batch + 1 - self._last, batch + 1
        if self._every and self._since >= self._every and self._acts((batch + 1) / (self._steps or batch + 1)):
            compat.take_state_back(self.model)
            bring_back(callbacks)
            self._look()
            self._since = 0

    def on_epoch_end(self, epoch: int, logs: dict | None) -> None:
        """Look, if that is due; put density and strength into `logs`."""
        self._failed = finite.stop_if_not_finite(self.model, epoch, logs)
        if not self._every and self._acts(1.0) and not self._failed:
            self._look()
        left = self._densities.left()
        self._settled |= self._is_near(left)
        self._take_a_note(epoch + 1)
        if logs is not None:
            logs[f"{self.metric}_left"] = left
            logs["strength"] = max(float(each.value) for each in self._densities.strengths)

    def after_fit(self) -> None:
        """Warn where the target was missed, unless the training has failed."""
        left = self._densities.left(structured=False)
        if self._failed or self._is_near(left):
            return
        warnings.warn(
            f"Training ended with {left:.1%} of the {self.metric}, not with {self._goal:.1%}: the strength is still on "
            f"its way, which takes more steps or larger ones of {self.law!r}; or weights that are zero have no "
            "gradients, as those of a unit behind ReLU without weights and bias (`sparsify(model, bias=...)`).",
            checks.SparsityWarning,
            stacklevel=3,
        )

    def _acts(self, share_of_epoch: float) -> bool:
        return self.begin <= (self._epoch + share_of_epoch) / self._epochs <= self.end

    def _is_near(self, left: float) -> bool:
        return abs(left - self._goal) <= min(TOLERANCE, 0.25 * self._goal)

    def _look(self) -> None:
        """Move all strengths as the law wants it for the density that is there."""
        gap = float(self._densities.left() - self._goal)
        self.law.see(gap)
        changed = False
        for strength in self._densities.strengths:
            value = self.law.moved(strength.value, gap)
            value = min(max(value, SMALLEST), LARGEST) if value else 0.0
            changed |= value != strength.value
            strength.set(value)
        if changed and self.law.rebuilds_dual:
            for optimizer in self._densities.optimizers:
                if isinstance(optimizer, MirrorMap):
                    optimizer.rebuild_dual()

    def _take_a_note(self, epoch: int) -> None:
        notes_of(self.model).write("TargetSparsity", epoch, since=self._since, **self.law.state)
