"""Which of the figures of a model is its score, and whether it has become worse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import keras

from keras_rmda.platform import fitting

Scores = dict[str, float]

FAR_BELOW = 0.1
"""The share of its score that a trained model may lose without a warning."""


@dataclass(frozen=True)
class Score:
    """A figure that `evaluate` gives.

    Attributes:
        name: of the figure.
        is_better_higher: whether more of it is better.
    """

    name: str
    is_better_higher: bool

    def loss(self, before: Scores, after: Scores) -> float:
        """Return how much worse it is after: a difference, or a share of `before` for figures that fall."""
        a, b = before[self.name], after[self.name]
        return a - b if self.is_better_higher else (b - a) / max(abs(a), 1e-12)

    def is_far_below(self, before: Scores, after: Scores) -> bool:
        """Return whether a good part of the score is lost."""
        return self.loss(before, after) > FAR_BELOW * (abs(before[self.name]) if self.is_better_higher else 1.0)


GROW = ("acc", "auc", "precision", "recall", "f1", "fbeta", "iou", "dice", "r2", "psnr", "ssim", "top", "cosine")
"""Parts of the names of metrics that grow, where nothing else tells."""


def score_of(model: keras.Model, scores: Scores, without: Sequence[Scores] = ()) -> Score:
    """Return the first metric of a compiled model, or its loss where there is none.

    Args:
        model: one that was evaluated.
        scores: of the model.
        without: first of the model on some samples, then of models without what it has learned. A metric that does not
            say itself which direction is better was better before.
    """
    names = [name for name in fitting.compiled_metrics(model) if name in scores]
    names += [name for name in scores if name != "loss" and not name.endswith("_loss")]
    if not names:
        return Score("loss", False)
    name = names[0]
    grows = fitting.is_better_higher(model, name)
    if grows is None:
        first, *others = [each[name] for each in without if name in each] or [0.0]
        above, below = (bool(others) and all(map(how, others)) for how in (first.__gt__, first.__lt__))
        grows = above if above != below else any(part in name.lower() for part in GROW)
    return Score(name, grows)
