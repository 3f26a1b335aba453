"""Groups of weights that lie on several variables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.platform import arithmetic
from keras_rmda.regularizers.base import ProximalRegularizer, Strength, Tensor, in_full_precision
from keras_rmda.regularizers.norms import AlongAxes, Grouping, norms, sum_over


@keras.saving.register_keras_serializable(package="keras_rmda")
class CoupledGroups:
    """Groups of weights of a whole model, each over slices of several variables; made by `coupled_groups`.

    Args:
        members: for each variable, by its path without the name of the model, the number of the group that each of
            its weights belongs to, -1 for none: an array of integers with the variable's axes, of size 1 along
            those on which the numbers do not change.
        weights: for each group, the factor of its norm in the penalty, a finite number >= 0.
        names: for each group, what it is.

    Raises:
        ValueError: if the arguments do not fit each other.

    Example:
        >>> groups = CoupledGroups({"first/kernel": [[0, 0, 1]], "second/kernel": [[0], [0], [1]]}, [1, 1], ["a", "b"])
        >>> kr.GroupLasso(1e-3, groups=groups)
    """

    def __init__(self, members: Mapping[str, Any], weights: Sequence[float], names: Sequence[str]):
        self.members = {path: np.asarray(ids, dtype="int32") for path, ids in members.items()}
        self.weights = np.asarray(weights, dtype="float64").reshape(-1)
        self.names = list(names)
        largest = max((int(ids.max(initial=-1)) for ids in self.members.values()), default=-1)
        if len(self.names) != len(self.weights) or largest >= len(self.weights):
            raise ValueError(
                "`members`, `weights` and `names` must be of equally many groups. Received: "
                f"{largest + 1} groups, {len(self.weights)} weights, {len(self.names)} names"
            )
        if not (np.isfinite(self.weights) & (self.weights >= 0)).all():
            raise ValueError(f"`weights` must be finite numbers >= 0. Received: weights={weights!r}")

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"<{len(self)} coupled groups in {len(self.members)} variables>"

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain data."""
        members = {path: ids.tolist() for path, ids in self.members.items()}
        return {"members": members, "weights": self.weights.tolist(), "names": self.names}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> CoupledGroups:
        """Return the groups of a configuration."""
        return cls(**config)

    def path_among(self, names: Sequence[str]) -> str | None:
        """Return which of a variable's names is a member, or None."""
        if len(names) == 1:  # the model is not known, so its name may stand in front
            names = (*names, names[0].partition("/")[2])
        return next((name for name in names if name in self.members), None)

    def check_shape(self, shape: tuple[int, ...], path: str) -> None:
        """Raise `ValueError` if the groups were made for another shape of a member."""
        ids = self.members[path]
        if ids.ndim != len(shape) or any(n not in (1, size) for n, size in zip(ids.shape, shape)):
            raise ValueError(
                f"The coupled groups do not fit the variable {path!r} of shape {shape}: they were made for another "
                f"model. Call `coupled_groups` for this one. Received: group numbers of shape {ids.shape}"
            )


class AcrossVariables:
    """The `Grouping` of the weights of several variables.

    Args:
        groups: the groups.
        paths: the members, in the order of the arrays.
        by_size: whether to use the weights of the groups; else all count alike.
        factors: another factor for each group; None for none.
        absent: for each group the squares of weights that are in none of the arrays; None for none.
    """

    def __init__(
        self,
        groups: CoupledGroups,
        paths: Sequence[str],
        by_size: bool,
        factors: Tensor | None = None,
        absent: Tensor | None = None,
    ):
        self.absent = None if absent is None else ops.append(absent, 0.0)
        self.count = len(groups)
        # What is in no group forms one that costs nothing, and so stays as it is.
        self.ids = [np.where(ids < 0, self.count, ids) for ids in (groups.members[path] for path in paths)]
        self.every_id = np.concatenate([ids.reshape(-1) for ids in self.ids])
        weights = groups.weights if by_size else np.ones(self.count)
        self.weights = np.append(weights, 0.0)
        if factors is not None:
            self.weights = ops.convert_to_tensor(self.weights, factors.dtype) * ops.append(factors, 0.0)

    def sum(self, arrays: Sequence[Tensor]) -> Tensor:
        parts = []
        for x, ids in zip(arrays, self.ids, strict=True):
            axes = tuple(k for k, n in enumerate(ids.shape) if n == 1)
            parts.append(ops.reshape(sum_over(x, axes), (-1,)))
        return ops.segment_sum(ops.concatenate(parts), self.every_id, num_segments=self.count + 1)

    def sizes(self, arrays: Sequence[Tensor]) -> np.ndarray:
        counts = (
            math.prod(x.shape) // ids.size * np.bincount(ids.reshape(-1), minlength=self.count + 1)
            for x, ids in zip(arrays, self.ids)
        )
        return np.maximum(sum(counts), 1)

    def spread(self, numbers: Tensor) -> list[Tensor]:
        return [arithmetic.chosen(numbers, ids) for ids in self.ids]


class JointPenalty:
    """A penalty of groups on several variables: the same maps, of a list for every argument.

    Args:
        penalty: the penalty.
        grouping: which of their weights form a group.
    """

    def __init__(self, penalty: ProximalRegularizer, grouping: Grouping):
        self.penalty = penalty
        self.grouping = grouping

    @in_full_precision
    def __call__(self, ws: Sequence[Tensor]) -> Tensor:
        return self.penalty._value(ws, self.grouping)

    @in_full_precision
    def prox(self, ws: Sequence[Tensor], steps: Sequence[Tensor]) -> list[Tensor]:
        return self.penalty._prox(ws, steps[0], self.grouping)

    @in_full_precision
    def prox_in_metric(self, ws: Sequence[Tensor], steps: Sequence[Tensor], ds: Sequence[Tensor]) -> list[Tensor]:
        return self.penalty._prox_in_metric(ws, steps[0], ds, self.grouping)

    @in_full_precision
    def subgradient(self, ws: Sequence[Tensor]) -> list[Tensor]:
        return self.penalty._subgradient(ws, self.grouping)

    @in_full_precision
    def group_norms(self, ws: Sequence[Tensor]) -> Tensor:
        return self.penalty._group_norms(ws, self.grouping)[: self.grouping.count]


class PenaltyPart(ProximalRegularizer):
    """The part of a penalty of coupled groups that concerns one variable; it has no map of its own.

    Args:
        penalty: the penalty.
        path: which of the members the variable is.
    """

    def __init__(self, penalty: ProximalRegularizer, path: str):
        self.penalty = penalty
        self.path = path

    @property
    def _strength(self) -> Strength:
        return self.penalty._strength

    def at(self, strength: Tensor) -> PenaltyPart:
        return PenaltyPart(self.penalty.at(strength), self.path)

    def group_norms(self, w: Tensor) -> Tensor:
        """Return, in the shape of the group numbers, the norm of the part of each group in this variable."""
        w, ids = ops.convert_to_tensor(w), self.penalty.groups.members[self.path]
        kept = [k for k, n in enumerate(ids.shape) if n > 1]
        return ops.where(ids < 0, 1.0, norms([w], AlongAxes(w.shape, kept, by_size=False)))

    def check_shape(self, shape: tuple[int, ...], path: str) -> None:
        self.penalty.groups.check_shape(shape, self.path)
