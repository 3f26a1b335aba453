"""Penalties of groups of weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from keras_rmda.platform import checks
from keras_rmda.regularizers.base import (
    ProximalRegularizer,
    Tensor,
    as_type_of,
    in_full_precision,
    limited,
    soft_threshold,
    threshold,
)
from keras_rmda.regularizers.coupled import AcrossVariables, CoupledGroups, JointPenalty, PenaltyPart
from keras_rmda.regularizers.norms import AlongAxes, Grouping, SideBySide, directions, norms, shrink, shrink_in_metric

Groups = str | int | CoupledGroups
"""What forms a group: a name of `LETTERS`, an axis, or numbers for all weights of a model."""

LETTERS = {"input": "ic", "output": "ocm", "kernel": "iocm"}
"""For each name of groups the letters of the layer table whose axes tell one group from another."""

CONVENTION = "io"
"""The letters of the last two axes of a weight whose layer is not known."""


@keras.saving.register_keras_serializable(package="keras_rmda")
class GroupLasso(ProximalRegularizer):
    """Sum of Euclidean norms of groups: whole channels, neurons or kernels become exactly zero.

    Formula: psi(w) = strength * sum_g sqrt(size_g) * |w_g|_2.

    Args:
        strength: multiplier of the penalty, a finite number >= 0 or a schedule of it.
        groups: what forms one group. `"input"`: all weights that read one input channel (a channel that nobody
            reads can always be removed exactly); `"output"`: one filter; `"kernel"`: the weights of one (input,
            output) pair; an axis, one group per index along it; or `coupled_groups(model)`, whose groups span
            several variables. The names follow the layer table where an optimizer knows the layer; elsewhere the
            last two axes are (inputs, outputs).
        scale_by_size: whether to weigh each group by the square root of its number of weights, or by what
            `coupled_groups` was asked for.
        size: the number of weights by which a group counts, if another than its own: that before `shrink` has cut.

    Raises:
        ValueError: for a bad `strength` or unknown `groups`; later, naming the variable, if a variable
            has no such axis.

    Example:
        >>> float(GroupLasso(1.0, scale_by_size=False)(np.array([[3.0, 4.0], [0.0, 0.0]])))
        5.0

    Source: Yuan and Lin 2006, "Model selection and estimation in regression with grouped variables".
    """

    def __init__(
        self,
        strength: float | LearningRateSchedule,
        groups: Groups = "input",
        scale_by_size: bool = True,
        size: float | None = None,
    ):
        super().__init__(strength)
        if isinstance(groups, dict):
            groups = keras.saving.deserialize_keras_object(groups)
        if isinstance(groups, Integral) and not isinstance(groups, bool):
            groups = int(groups)
        elif not isinstance(groups, CoupledGroups):
            checks.one_of("groups", groups, tuple(LETTERS))
        self.groups = groups
        self.scale_by_size = checks.truth("scale_by_size", scale_by_size)
        self.size = size if size is None else checks.real("size", size, open_minimum=True)
        self._axes = CONVENTION

    @in_full_precision
    def __call__(self, w: Tensor) -> Tensor:
        return self._value(*self._alone(w))

    @in_full_precision
    def prox(self, w: Tensor, step: Tensor) -> Tensor:
        [w], grouping = self._alone(w)
        return self._prox([w], step, grouping)[0]

    @in_full_precision
    def prox_in_metric(self, w: Tensor, step: Tensor, d: Tensor) -> Tensor:
        [w], grouping = self._alone(w)
        return self._prox_in_metric([w], step, [d], grouping)[0]

    @in_full_precision
    def subgradient(self, w: Tensor) -> Tensor:
        return self._subgradient(*self._alone(w))[0]

    @in_full_precision
    def group_norms(self, w: Tensor) -> Tensor:
        return self._group_norms(*self._alone(w))

    def grouping(self, shape: tuple[int, ...]) -> Grouping:
        return AlongAxes(shape, self._kept_axes(), self.scale_by_size, self.size)

    @staticmethod
    def beside(penalties: Sequence[GroupLasso], shapes: Sequence[tuple[int, ...]]) -> JointPenalty:
        """Return penalties that differ by `along` only as one, on arrays of these shapes."""
        return JointPenalty(
            penalties[0], SideBySide([psi.grouping(tuple(shape)) for psi, shape in zip(penalties, shapes)])
        )

    def along(self, axes: str) -> GroupLasso:
        other = copy.copy(self)
        other._axes = axes
        return other

    @property
    def parts(self) -> Sequence[str]:
        return tuple(self.groups.members) if isinstance(self.groups, CoupledGroups) else ()

    def bound_to(self, names: Sequence[str]) -> ProximalRegularizer | None:
        if not isinstance(self.groups, CoupledGroups):
            return self
        path = self.groups.path_among(names)
        return path and PenaltyPart(self, path)

    def among(self, paths: Sequence[str], factors: Tensor | None = None, absent: Tensor | None = None) -> JointPenalty:
        """Return this penalty of coupled groups on the members of these paths, with a factor for each group.

        `absent` are the squares of weights of the groups that are elsewhere, as the proximal map counts them.
        """
        return JointPenalty(self, AcrossVariables(self.groups, paths, self.scale_by_size, factors, absent))

    def check_shape(self, shape: tuple[int, ...], path: str) -> None:
        self._check_alone()
        kept = self._kept_axes()
        if not kept or not all(-len(shape) <= axis < len(shape) for axis in kept):
            raise ValueError(
                f"{self!r} does not fit the variable {path!r} of shape {tuple(shape)}: it has no such axis. "
                "Exclude the variable or choose other `groups`."
            )

    def get_config(self) -> dict[str, Any]:
        groups = self.groups
        if isinstance(groups, CoupledGroups):
            groups = keras.saving.serialize_keras_object(groups)
        size = {} if self.size is None else {"size": self.size}
        return super().get_config() | {"groups": groups, "scale_by_size": self.scale_by_size} | size

    def soften(self, w: Tensor, step: Tensor) -> Tensor:
        """Return what the map of groups is applied to in the proximal map."""
        return w

    # ---- the same on lists of arrays, whose groups are those of a `Grouping`

    def _value(self, ws: Sequence[Tensor], grouping: Grouping) -> Tensor:
        return ops.sum(self._strengths(ws, grouping) * self._group_norms(ws, grouping))

    def _prox(self, ws: Sequence[Tensor], step: Tensor, grouping: Grouping) -> list[Tensor]:
        return shrink(ws, step, self._strengths(ws, grouping), grouping)

    def _prox_in_metric(
        self, ws: Sequence[Tensor], step: Tensor, ds: Sequence[Tensor], grouping: Grouping
    ) -> list[Tensor]:
        return shrink_in_metric(ws, step, self._strengths(ws, grouping), ds, grouping)

    def _subgradient(self, ws: Sequence[Tensor], grouping: Grouping) -> list[Tensor]:
        return directions(ws, self._strengths(ws, grouping), grouping)

    def _group_norms(self, ws: Sequence[Tensor], grouping: Grouping) -> Tensor:
        return norms(ws, grouping)

    @property
    def _group_strength(self) -> Tensor:
        return self._lambda

    def _strengths(self, ws: Sequence[Tensor], grouping: Grouping) -> Tensor:
        """Return the factor of each group's norm in the penalty."""
        return limited(as_type_of(ws[0], self._group_strength) * as_type_of(ws[0], grouping.weights))

    def _alone(self, w: Tensor) -> tuple[list[Tensor], Grouping]:
        """Return one array as a list, with the grouping along its axes."""
        self._check_alone()
        w = ops.convert_to_tensor(w)
        return [w], self.grouping(tuple(w.shape))

    def _check_alone(self) -> None:
        if isinstance(self.groups, CoupledGroups):
            raise ValueError(
                f"The groups of {self!r} span several variables, so that it is no penalty of a single one. Give it to "
                "an optimizer of keras_rmda, as `regularizer`."
            )

    def _kept_axes(self) -> tuple[int, ...]:
        """Return the axes whose indices tell one group from another, as negative or user-given numbers."""
        if isinstance(self.groups, int):
            return (self.groups,)
        letters = LETTERS[self.groups]
        return tuple(k - len(self._axes) for k, letter in enumerate(self._axes) if letter in letters)


@keras.saving.register_keras_serializable(package="keras_rmda")
class SparseGroupLasso(GroupLasso):
    """Group lasso with L1: whole groups become zero, and single weights in the groups that stay.

    Formula: psi(w) = strength * (l1_ratio * |w|_1 + (1 - l1_ratio) * sum_g sqrt(size_g) * |w_g|_2).

    Its proximal map is that of L1 followed by that of the group lasso, in every diagonal metric.

    Args:
        strength: multiplier of the penalty, a finite number >= 0 or a schedule of it.
        l1_ratio: share of L1, in [0, 1].
        groups: what forms one group, as in `GroupLasso`.
        scale_by_size: whether to weigh each group by the square root of its number of weights.
        size: the number of weights by which a group counts, as in `GroupLasso`.

    Raises:
        ValueError: for an argument out of range; later, naming the variable, if a variable has no such axis.

    Example:
        >>> float(SparseGroupLasso(1.0, 0.5, scale_by_size=False)(np.array([[3.0, 4.0], [0.0, 0.0]])))
        6.0

    Source: Simon et al. 2013, "A sparse-group lasso".
    """

    def __init__(
        self,
        strength: float | LearningRateSchedule,
        l1_ratio: float = 0.5,
        groups: Groups = "input",
        scale_by_size: bool = True,
        size: float | None = None,
    ):
        super().__init__(strength, groups, scale_by_size, size)
        self.l1_ratio = checks.real("l1_ratio", l1_ratio, maximum=1.0)

    def _value(self, ws: Sequence[Tensor], grouping: Grouping) -> Tensor:
        return super()._value(ws, grouping) + self._l1 * sum(ops.sum(ops.abs(w)) for w in ws)

    def soften(self, w: Tensor, step: Tensor) -> Tensor:
        return soft_threshold(w, step * self._l1)

    def _prox(self, ws: Sequence[Tensor], step: Tensor, grouping: Grouping) -> list[Tensor]:
        return super()._prox([self.soften(w, step) for w in ws], step, grouping)

    def _prox_in_metric(
        self, ws: Sequence[Tensor], step: Tensor, ds: Sequence[Tensor], grouping: Grouping
    ) -> list[Tensor]:
        ws = [soft_threshold(w, threshold(w, step, self._l1, d)) for w, d in zip(ws, ds)]
        return super()._prox_in_metric(ws, step, ds, grouping)

    def _subgradient(self, ws: Sequence[Tensor], grouping: Grouping) -> list[Tensor]:
        return [s + self._l1 * ops.sign(w) for s, w in zip(super()._subgradient(ws, grouping), ws)]

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"l1_ratio": self.l1_ratio}

    @property
    def _l1(self) -> Tensor:
        return self._lambda * self.l1_ratio

    @property
    def _group_strength(self) -> Tensor:
        return self._lambda * (1.0 - self.l1_ratio)
