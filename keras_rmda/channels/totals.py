"""Sums of what one tensor has along axes, and what is made of them: means, norms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_rmda.channels.contraction import Contracts
from keras_rmda.channels.equations import Equation, of_sum
from keras_rmda.channels.moves import Reduces, inner_axis
from keras_rmda.channels.positions import axes_of
from keras_rmda.channels.rule import Demand, Rule, State
from keras_rmda.channels.sites import Block, Call, Cut
from keras_rmda.channels.tensors import Atoms


@dataclass(frozen=True)
class Sums(Contracts):
    """`ops.sum` over positions or channels."""

    equation: Callable[[Call], Equation] = of_sum

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        """A constant is one times the number of positions."""
        [zero], factor, out = super().constants(call, state), *self._factors(call)
        summed = [k for k, label in enumerate(out.labels) if label not in out.axes]
        values = factor.laid(state.constants(factor.x))
        counts = [factor.x.full[factor.axes.index(out.labels[k])] or np.nan for k in summed]
        if any(values.shape[k] > 1 for k in summed):
            return [zero]
        values = values.squeeze(tuple(summed)).transpose(out.order(out.labels))
        return [np.where(values == 0, 0.0, values * np.prod(counts))]


def of_matrices(operation: Any) -> str | None:
    """Return why a norm is not the root of a sum of squares, or a sum of absolute values, else None."""
    along = operation.axis is not None and len(operation.axis)
    known = (None, 1, 2) if along == 1 else (None, "fro")
    return None if operation.ord in known else f"ord={operation.ord!r} and axis={operation.axis}"


@dataclass(frozen=True)
class Norms(Sums):
    """`ops.norm`: zeros have no part in it."""

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        return [np.where(each == 0, 0.0, np.nan) for each in super().constants(call, state)]


@dataclass(frozen=True)
class Means(Rule):
    """`ops.mean` over positions; over channels a sum, divided by as many as there were.

    Args:
        over_positions, over_channels: what is done otherwise.
    """

    over_positions: Rule = field(default_factory=Reduces)
    over_channels: Rule = field(default_factory=Sums)
    sums = True

    def _rule(self, call: Call) -> Rule:
        [x] = call.inputs
        axes = [inner_axis(x, axis) for axis in axes_of(call) if not (x.batched and axis == x.batch)]
        return self.over_channels if any(x.atoms.shape[axis] > 1 for axis in axes) else self.over_positions

    def batch_axes(self, call: Call) -> list[int | None]:
        return self.over_positions.batch_axes(call)

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        return self._rule(call).atoms(call, ties)

    def rows(self, call: Call, ties: Atoms) -> list[Block]:
        return self._rule(call).rows(call, ties)

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        found = self._rule(call).constants(call, state)
        return (
            found if self._rule(call) is self.over_positions else [np.where(each == 0, 0.0, np.nan) for each in found]
        )

    def demands(self, call: Call, state: State) -> list[Demand]:
        return self._rule(call).demands(call, state)

    def arguments(self, call: Call, cut: Cut, given: tuple[tuple, dict]) -> tuple[tuple, dict]:
        [x] = call.inputs
        kept, full = cut.sizes(x), x.shape
        share = 1.0
        for axis in (inner_axis(x, each) for each in axes_of(call)):
            share *= 1.0 if x.atoms.shape[axis] == 1 else float(kept[axis]) / full[axis]
        if share == 1.0:
            return given
        (numbers, *others), named = (
            given if given[0] else ((given[1]["x"],), {k: v for k, v in given[1].items() if k != "x"})
        )
        return (numbers * share, *others), named
