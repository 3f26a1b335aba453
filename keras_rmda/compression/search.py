"""The smallest model whose score holds."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field

import keras

import keras_rmda.compression.recipe as recipe
from keras_rmda.callbacks.ranking import ImpossibleTargetError
from keras_rmda.compression.run import Run
from keras_rmda.compression.scores import Score, Scores
from keras_rmda.compression.steps import copy_of
from keras_rmda.platform import checks
from keras_rmda.structure.amounts import amounts, everything
from keras_rmda.structure.liveness import plan
from keras_rmda.structure.strip import meaningless
from keras_rmda.structure.trace import as_graph, trace

STAGES = 5
"""How many targets the epochs are divided among."""

PATIENCE = 0.5
"""The share of the epochs left in which a model that does not hold is tuned on, before its target is given up."""

STEP, CAREFUL = 0.5, 0.7
"""What is left at a target, as a share of what is left now: of a model that held at once, and after more tuning."""

LONG = 3
"""Behind a model that did not hold at once, the next one has all epochs that are left, if these are fewer stages."""

CLOSE = 1.25
"""Where the smallest that holds and the largest that does not differ by less than this factor, the search ends."""


@dataclass
class Limit:
    """How far the score may fall.

    Attributes:
        run: the run.
        score: which figure.
        before: of the model that was given.
        allowed: how much worse it may get.
        scores: those of the last model that held.
    """

    run: Run
    score: Score
    before: Scores
    allowed: float
    scores: Scores = field(default_factory=dict)

    def holds(self, model: keras.Model, share: float) -> bool:
        """Return whether a compiled model is good enough; remember its scores if it is."""
        found, name = self.run.finished(model), self.score.name
        is_good = self.score.loss(self.before, found) <= self.allowed
        says = "holds" if is_good else "too little"
        self.run.say(f"{share:.1%} left: {name} {found[name]:.4g}, before {self.before[name]:.4g}: {says}")
        if is_good:
            self.scores = found
        return is_good


def smallest_that_holds(run: Run, model: keras.Model, limit: Limit) -> keras.Model:
    """Halve what is left until the score breaks, then take smaller steps, within the epochs of the run.

    Returns:
        The last model that held; a copy of `model`, with a warning, if none did.
    """
    whole = whole_of(model, run.metric)
    held, share, broken, first, number, is_easy = model, 1.0, 0.0, 0, 0, True
    limit.scores = dict(limit.before)
    each = max(recipe.SHORTEST, run.epochs // STAGES)
    while run.epochs - first >= recipe.SHORTEST and not (broken and share < CLOSE * broken):
        room = each + recipe.SHORTEST if is_easy else LONG * each
        last = first + each if run.epochs - first >= room else run.epochs
        step = STEP if is_easy else CAREFUL
        target, number = math.sqrt(share * broken) if broken else share * step, number + 1
        try:
            small = run.stage(copy_of(held), max(target * whole, 1.0), first, last, f"stage-{number}")
        except ImpossibleTargetError as error:
            run.say(f"{target:.1%} left: {error}")
            broken = target
            continue
        first, holds = last, limit.holds(small, target)
        is_easy = holds
        if not holds and (more := math.ceil(PATIENCE * (run.epochs - first))):
            run.tune(small, first, first + more, f"stage-{number}-more")
            first, holds = first + more, limit.holds(small, target)
        if holds:
            held, share = small, target
        else:
            broken = target
    if share == 1.0:
        warnings.warn(
            f"No smaller model held its {limit.score.name} within {limit.allowed:g}: nothing was removed. Try more "
            "`epochs`, or a larger `accuracy_loss`.",
            checks.SparsityWarning,
            stacklevel=3,
        )
    elif first < run.epochs:
        kept = held.get_weights()
        run.tune(held, first, run.epochs, "last")
        if not limit.holds(held, share):
            held.set_weights(kept)
    return held


def whole_of(model: keras.Model, metric: str) -> float:
    """Return how much of a metric a model has."""
    if metric == "groups":
        return len(recipe.groups(model))
    with as_graph(model) as graph:
        decided = plan(trace(graph), meaningless)
        return amounts(decided, everything(decided))[metric]


def check_trained(model: keras.Model, is_trained: bool) -> None:
    """Refuse a model whose score says nothing."""
    if not is_trained:
        raise ValueError(
            f"`accuracy_loss` is counted from the score of a trained model, and {model.name!r} computes nothing "
            "that it has learned: train it first, or give `target`."
        )
