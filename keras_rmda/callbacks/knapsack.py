"""Which groups go where costs are stairs: a width is worth having or not, whatever the groups between are worth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

STALE = 3
"""How many of the best moves are looked at again before one is made."""


FINE, COARSE = 48, 8
"""Of layers of so many groups and more, only multiples of the second number are looked at, until the last step."""


class Knapsack:
    """What every layer keeps, so that costs are at most what is wanted and what goes is worth little.

    Formula: of all moves of a layer k from its width n_k to a smaller m, the one that loses the least worth for what it
    saves, (sum of the worth between m and n_k) / sum_j min(saved_j, excess_j), until no cost exceeds what is wanted;
    then what fits is put back, the most worth first.

    Args:
        worths: for each layer the worth of its groups, in the order in which they go.
        least: how many each layer keeps in any case.
        costs: returns for rows of widths the costs, as shares of what is wanted: one column each.
        multiple: widths are multiples of this, or all.
    """

    def __init__(
        self,
        worths: list[np.ndarray],
        least: np.ndarray,
        costs: Callable[[np.ndarray], np.ndarray],
        multiple: int = 1,
    ):
        self._worths, self._least, self._costs = worths, least, costs
        self._lost = [np.concatenate([[0.0], np.cumsum(each)]) for each in worths]
        self._sizes = np.array([len(each) for each in worths])
        self._multiple = multiple

    def chosen(self, start: np.ndarray) -> np.ndarray:
        """Return the widths, from those that are left now."""
        widths = start.copy()
        costs = self._costs(widths[None])[0]
        moves = [self._best(widths, costs, k) for k in range(len(widths))]
        while (costs > 1.0).any():
            for _ in range(STALE):
                k = min(range(len(moves)), key=lambda k: moves[k][0])
                moves[k] = self._best(widths, costs, k)
            k = min(range(len(moves)), key=lambda k: moves[k][0])
            ratio, width = moves[k]
            if not np.isfinite(ratio):
                moves = [self._best(widths, costs, k) for k in range(len(widths))]
                if not any(np.isfinite(each) for each, _ in moves):
                    break
                continue
            widths[k] = width
            costs = self._costs(widths[None])[0]
            moves[k] = self._best(widths, costs, k)
        return self._filled(widths, start)

    def _possible(self, k: int, low: int, high: int) -> np.ndarray:
        """Return the widths of a layer from one to below another that are worth a look."""
        found = np.arange(low, high)
        step = self._multiple if self._multiple > 1 or self._sizes[k] < FINE else COARSE
        return found[(found % step == 0) | (found == low)]

    def _rows(self, widths: np.ndarray, k: int, values: np.ndarray) -> np.ndarray:
        rows = np.repeat(widths[None], len(values), axis=0)
        rows[:, k] = values
        return rows

    def _best(self, widths: np.ndarray, costs: np.ndarray, k: int) -> tuple[float, int]:
        """Return what the best move of a layer loses for what it saves, and its new width."""
        possible = self._possible(k, int(self._least[k]), int(widths[k]))
        if not len(possible):
            return np.inf, int(widths[k])
        found = self._costs(self._rows(widths, k, possible))
        excess = np.maximum(costs - 1.0, 0.0)
        saved = np.minimum(costs - found, excess).sum(axis=1)
        gone = self._sizes[k] - possible
        lost = self._lost[k][gone] - self._lost[k][self._sizes[k] - widths[k]]
        ratios = np.where(saved > 1e-9, lost / np.maximum(saved, 1e-9), np.inf)
        best = len(ratios) - 1 - int(np.argmin(ratios[::-1]))  # of equal ones the widest
        return float(ratios[best]), int(possible[best])

    def _filled(self, widths: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Return widths with what fits of what is gone put back."""
        order = np.argsort([-self._worths[k][self._sizes[k] - widths[k] - 1] if widths[k] < start[k] else 0.0
                            for k in range(len(widths))])  # fmt: skip
        for k in order:
            possible = np.arange(int(widths[k]) + 1, int(start[k]) + 1)
            possible = possible[(possible % self._multiple == 0) | (possible == self._sizes[k])]
            if len(possible):
                fits = (self._costs(self._rows(widths, k, possible)) <= 1.0).all(axis=1)
                if fits.any():
                    widths[k] = possible[fits].max()
        return widths
