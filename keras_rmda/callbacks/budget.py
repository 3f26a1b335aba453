"""Groups that are chosen by what the file of the model costs on a device."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_rmda.callbacks.choice import Groups
from keras_rmda.callbacks.goals import amount, profiles_of, shown
from keras_rmda.callbacks.knapsack import Knapsack
from keras_rmda.callbacks.ranking import KEPT, OF_THIN, thin, untouched
from keras_rmda.channels.sites import Cut
from keras_rmda.export.devices.costs import Costs
from keras_rmda.optimizers.joint import NEVER_AGAIN
from keras_rmda.platform import checks
from keras_rmda.structure.amounts import amounts
from keras_rmda.structure.liveness import plan

CLOSE = 0.98
"""How near to a limit guesses may come, where nothing is measured."""

BISECTIONS = 6

ATTEMPTS = 5
"""How many times a choice is made again where the file costs more than was guessed."""


class Budget(Groups):
    """The coupled groups of a model, chosen so that its file costs at most so much.

    What is `left` here is one number: 1 for the whole, 0 where every cost is as wanted, (x - goal) / (1 - goal) of the
    cost x that is farthest away, as a share of the whole's.

    Args:
        model: a compiled model.
        targets: by metric what is to be left.
        multiple_of, ranking: as of TargetSparsity.
        export: arguments of `export_tflite` for the file.
        profile: of the device, for times and energies.
    """

    def __init__(
        self,
        model: keras.Model,
        targets: Mapping[str, Any],
        multiple_of: int,
        ranking: str,
        export: Mapping[str, Any],
        profile: Any,
    ):
        self._targets, self._export, self._profiles = targets, dict(export), profiles_of(profile)
        if "arena" in targets:
            self._export.setdefault("micro", True)
        if "latency" in targets:
            self._export.setdefault("batch", 1)  # as in the files of a profile
        super().__init__(model, "macs", multiple_of, ranking)
        sizes = self._all_amounts(Cut(self._trace.ties, np.ones(len(self._trace.ties.parent), dtype=bool)))
        self.wholes = {metric: sizes[metric] for metric in targets}
        self._goals = {metric: self._goal_of(metric, each) for metric, each in targets.items()}
        if all(goal > 1 for goal in self._goals.values()):
            have = " and ".join(f"{shown(metric, size)} of {metric}" for metric, size in self.wholes.items())
            raise ValueError(
                f"The file of the model has {have}: a target is a share of that, less than 1, or at most as much. "
                f"Received: {', '.join(f'{metric}={target!r}' for metric, target in targets.items())}"
            )
        self._prepare()

    def _see(self, model: keras.Model, graph: keras.Model) -> None:
        self._costs_of = Costs(model, graph, self._trace, self._export, self._profiles)

    def _goal_of(self, metric: str, target: Any) -> float:
        """Return a target as a share of the whole, more than 1 where the whole file is within it."""
        number, is_share = amount(metric, target)
        return number if is_share else number / self.wholes[metric]

    def _all_amounts(self, cut: Cut) -> dict[str, float]:
        """Return what is left where this stays, exactly."""
        result: dict[str, float] = {}
        for metric in self._targets:
            if metric in checks.FILE_METRICS:
                result[metric] = self._costs_of.measured(metric, cut)
            else:
                result[metric] = amounts(self._plan, cut)[metric]
        return result

    def _prepare(self) -> None:
        """Find what stays of every axis, as a function of the widths of layers: a line in each of them."""
        self._sizes = np.bincount(self._layers)
        self._all = self._counts(np.zeros(self.count, dtype=bool))
        slopes = []
        for k, size in enumerate(self._sizes):
            zero = np.zeros(self.count, dtype=bool)
            zero[np.flatnonzero(self._layers == k)[: size // 2]] = True
            slopes.append((self._all - self._counts(zero)) / max(size // 2, 1))
        self._slopes = np.array(slopes).reshape(len(self._sizes), -1)

    def _cut(self, zero: np.ndarray) -> Cut:
        alive = np.bincount(self._names, ~zero) > 0
        return Cut(self._trace.ties, np.append(alive, True)[self._name_of_atom])

    def _counts(self, zero: np.ndarray) -> np.ndarray:
        return self._costs_of.file.sizes.of(self._cut(zero)).astype("float64")

    def _guesses(self, widths: np.ndarray) -> np.ndarray:
        """Return for rows of widths of layers each cost, as a share of the whole's."""
        counts = self._all - (self._sizes - widths) @ self._slopes
        return np.stack([self._guess(metric, counts, widths) / self.wholes[metric] for metric in self._targets], axis=1)

    def _guess(self, metric: str, counts: np.ndarray, widths: np.ndarray) -> np.ndarray:
        if metric in checks.FILE_METRICS:
            return self._costs_of.guessed(metric, counts)
        return np.array([amounts(self._plan, self._cut(self._thinned(row)))[metric] for row in widths])

    def _thinned(self, widths: np.ndarray) -> np.ndarray:
        """Return as many groups of each layer as are gone where so many stay, the last ones."""
        return gone_of([np.flatnonzero(self._layers == k)[::-1] for k in range(len(self._sizes))], widths)

    def _excess(self, shares: Mapping[str, float]) -> float:
        return max((shares[metric] - goal) / max(1.0 - goal, 1e-9) for metric, goal in self._goals.items())

    def _guessed(self, zero: np.ndarray) -> float:
        widths = np.bincount(self._layers, ~zero, minlength=len(self._sizes))
        return self._excess(dict(zip(self._targets, self._guesses(widths[None])[0])))

    def lefts(self, zero: np.ndarray | None = None) -> dict[str, float]:
        read = self._read if zero is None else partial(self._read, zero=np.append(zero, False))
        found = self._all_amounts(plan(self._trace, read).cut)
        return {metric: value / self.wholes[metric] for metric, value in found.items()}

    def left(self, zero: np.ndarray | None = None) -> float:
        return self._excess(self.lefts(zero))

    def told(self, left: float) -> str:
        goals = {metric: min(goal, 1.0) for metric, goal in self._goals.items()}
        return ", ".join(f"{goal + left * (1.0 - goal):.1%} of the {metric}" for metric, goal in goals.items())

    def wanted(self, goal: float) -> str:
        return self.told(goal)

    def possible(self, least: float) -> str:
        shares = self.lefts(self._cheapest)
        return " and ".join(
            f"{np.ceil(1000 * share) / 1000:g} of {metric}, or {shown(metric, share * self.wholes[metric])}"
            for metric, share in shares.items()
        )

    def share_of(self, target: Any) -> float:
        return 0.0

    def _least_widths(self) -> np.ndarray:
        return np.maximum(1, np.round(self._least * self._sizes)).astype(int)

    def aim(self, goal: float) -> None:
        self._least = KEPT if self._ranking == "magnitude" else OF_THIN * thin(self._layers, 0.0, self._guessed)

    def least(self) -> tuple[float, list[str]]:
        least = self._floor = self._least_widths()
        zero = self._thinned(least)
        left = self.left(zero)
        if left > 0.0:  # of stairs that lead up, too, the narrowest are not always the cheapest
            limits = CLOSE * np.array(list(self._goals.values()))
            ones = [np.ones(size) for size in self._sizes]
            wider = Knapsack(ones, least, lambda widths: self._guesses(widths) / limits, self._multiple)
            widths = wider.chosen(self._sizes)
            other = self._thinned(widths)
            if (found := self.left(other)) < left:
                self._floor, zero, left = widths, other, found
        self._cheapest, decided = zero, plan(self._trace, partial(self._read, zero=np.append(zero, False)))
        self._without_zeros.clear()
        return left, untouched(decided, "macs")

    def smallest(self, wanted: float, nearest: bool = False) -> np.ndarray:
        gone = self.factors == NEVER_AGAIN
        worth = self._worth(gone)
        orders, worths, start = [], [], []
        for k in range(len(self._sizes)):
            [own] = np.nonzero(self._layers == k)
            order = own[np.lexsort((self._norms[own], worth[own], ~gone[own]))]
            orders.append(order)
            worths.append(np.where(gone[order], 0.0, np.maximum(worth[order], 1e-30)))
            start.append(np.count_nonzero(~gone[own]))
        start, least = np.array(start), self._least_widths()
        limits = np.array([goal + (1.0 - goal) * wanted for goal in self._goals.values()])
        allowed = limits.copy()
        for _ in range(ATTEMPTS):
            costs = lambda widths, allowed=allowed: self._guesses(widths) / allowed  # noqa: E731
            widths = Knapsack(worths, np.minimum(least, start), costs, self._multiple).chosen(start)
            found = np.array(list(self.lefts(gone_of(orders, widths)).values()))
            if (found <= limits + 1e-9).all():
                break
            allowed = allowed * np.where(found > limits, 0.999 * limits / found, 1.0)
        else:
            ways = [self._within(limits, orders, np.minimum(self._floor, start), end) for end in (widths, start)]
            widths = max(ways, key=lambda way: sum(each[len(each) - n :].sum() for each, n in zip(worths, way)))
        self._without_zeros.clear()
        return gone_of(orders, widths)

    def _within(self, limits: np.ndarray, orders: list[np.ndarray], least: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Return the widths between the least and others that cost the most within the limits, by looking alone.

        How TensorFlow Lite for Microcontrollers plans its memory is not to be guessed: smaller tensors may need more.
        """
        best, low, high = least, 0.0, 1.0
        for _ in range(BISECTIONS):
            share = (low + high) / 2
            widths = least + np.floor(share * (end - least)).astype(int)
            widths = np.maximum(least, np.where(widths < self._sizes, widths - widths % self._multiple, widths))
            found = np.array(list(self.lefts(gone_of(orders, widths)).values()))
            if (found <= limits + 1e-9).all():
                best, low = widths, share
            else:
                high = share
        return best

    def _worth(self, gone: np.ndarray) -> np.ndarray:
        found = super()._worth(gone)
        return found * np.maximum(self._costs, 1e-30) if self._ranking == "fisher" else found


def gone_of(orders: list[np.ndarray], widths: np.ndarray) -> np.ndarray:
    """Return which groups go where each layer keeps so many, given the order in which those of a layer go."""
    zero = np.zeros(sum(map(len, orders)), dtype=bool)
    for order, width in zip(orders, widths):
        zero[order[: len(order) - int(width)]] = True
    return zero
