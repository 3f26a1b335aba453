"""Steps of several variables at once: where their weights form groups together, and where it is cheaper.

The functions of an algorithm are those of one variable, and ask their penalty a question or none. For several
variables each function runs up to there; all questions are answered as one; then the functions run again, with the
answers. Compilers see that the second run begins like the first, and compute it once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.platform import arithmetic
from keras_rmda.regularizers import (
    CoupledGroups,
    GroupLasso,
    JointPenalty,
    PenaltyPart,
    ProximalRegularizer,
    SparseGroupLasso,
    Tensor,
)

NEVER_AGAIN = 2.0**66
"""The factor of the strength of groups that are to stay zero: larger than all that comes, exact in every dtype."""


@dataclass
class Coupling:
    """Variables of an optimizer whose weights form groups together.

    Attributes:
        indices: the numbers of the variables.
        parts: the penalty on each of them.
        factors: a number >= 0 for each group, that multiplies its strength; 1 at first.
        importance: for each group the running mean of sum (w g)^2; None where nobody has asked for it.
        absent: for each group the squares of weights that rest in a larger model; None where there is none.
    """

    indices: list[int]
    parts: list[PenaltyPart]
    factors: keras.Variable | None = None
    importance: keras.Variable | None = None
    absent: keras.Variable | None = None

    @property
    def penalty(self) -> ProximalRegularizer:
        """The penalty that all of them are parts of."""
        return self.parts[0].penalty

    @property
    def groups(self) -> CoupledGroups:
        """The groups of their weights."""
        return self.penalty.groups

    def joint(self, part: PenaltyPart) -> JointPenalty:
        """Return the penalty on all variables, at the strength of this part."""
        absent = None if self.absent is None else ops.convert_to_tensor(self.absent)
        return part.penalty.among([each.path for each in self.parts], ops.convert_to_tensor(self.factors), absent)

    def groups_of(self, index: int) -> np.ndarray:
        """Return the number of the group of each weight of a variable, in a shape that broadcasts; -1 for none."""
        return self.groups.members[self.parts[self.indices.index(index)].path]

    def is_open(self, index: int) -> Tensor:
        """Return for each weight of a variable whether its group may be something else than zero."""
        is_open = ops.concatenate([ops.convert_to_tensor(self.factors) < NEVER_AGAIN, ops.ones((1,), "bool")])
        groups = self.groups_of(index)
        return arithmetic.chosen(is_open, np.where(groups < 0, self.factors.shape[0], groups))


def couplings(penalties: Sequence[ProximalRegularizer | None]) -> list[Coupling]:
    """Return which of the variables with these penalties are coupled."""
    found: dict[int, Coupling] = {}
    for index, psi in enumerate(penalties):
        if isinstance(psi, PenaltyPart):
            coupling = found.setdefault(id(psi.penalty), Coupling([], []))
            coupling.indices.append(index)
            coupling.parts.append(psi)
    return list(found.values())


def alike(penalties: Sequence[ProximalRegularizer | None], dtypes: Sequence[str]) -> dict[int, list[int]]:
    """Return, by the number of a variable, all whose penalty is the same group lasso along whichever axes.

    The numbers of their groups lie side by side in one array: what an exact map does with them, in a metric some forty
    small operations per pass, is done once for the whole model.
    """
    found: dict[tuple, list[int]] = {}
    for index, psi in enumerate(penalties):
        if type(psi) in (GroupLasso, SparseGroupLasso):  # a class of a user's own may have other maps
            found.setdefault((id(psi._strength), repr(psi), dtypes[index]), []).append(index)
    return {index: indices for indices in found.values() for index in indices}


class Respondent:
    """Stands for the penalty of one variable: gives the answers that it was made with, then notes a question."""

    has_support = True

    def __init__(self, answers: Sequence[Tensor]):
        self._answers = list(answers)
        self.question: tuple | None = None

    def _respond(self, method: str, w: Tensor, *rest: Any) -> Tensor:
        if self._answers:
            return self._answers.pop(0)
        self.question = self.question or (method, w, *rest)
        return w

    def prox(self, w: Tensor, step: Tensor) -> Tensor:
        return self._respond("prox", w, step)

    def prox_in_metric(self, w: Tensor, step: Tensor, d: Tensor) -> Tensor:
        return self._respond("prox_in_metric", w, step, d)

    def subgradient(self, w: Tensor) -> Tensor:
        return self._respond("subgradient", w)


def answered_jointly(functions: Sequence[Callable[[Respondent], Any]], joint: JointPenalty) -> list[Any]:
    """Return what pure functions of a penalty return, if all of them ask it the same questions, answered jointly."""
    answers: list[list[Tensor]] = [[] for _ in functions]
    while True:
        respondents = [Respondent(each) for each in answers]
        results = [function(each) for function, each in zip(functions, respondents)]
        questions = [each.question for each in respondents if each.question]
        if not questions:
            return results
        [method] = {question[0] for question in questions}
        replies = getattr(joint, method)(*zip(*(question[1:] for question in questions)))
        for known, reply in zip(answers, replies, strict=True):
            known.append(reply)
