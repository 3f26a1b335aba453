"""What an operator costs, as a function of its widths."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

LANES = (1, 2, 4, 8, 16, 32)
"""How many channels a device may compute at once."""

GOOD = 1.05
"""By how much more than the least the squares of a choice of lanes may be."""

OCTAVES = 3.0
"""Over which what the formula leaves becomes another."""

UNLIKE = 0.5
"""How much of it is alike where one last step is full and the other is not, or one number of steps is odd."""

NOISE = 0.1
"""How much of it is taken for noise."""

Pattern = tuple[tuple[int | str, ...], ...]
"""The shapes of the tensors of an operator: numbers, and letters for widths."""


@dataclass(frozen=True)
class Law:
    """The time of an operator at one choice of everything but its widths.

    Formula: t = c_0 + sum_k c_k n_k + sum_w d_w m_w, where n_k counts the numbers of its k-th tensor, widths rounded up
    to multiples of the lanes that the device computes at once, and m_w those of the last step of the width w, if that
    is not full: it may take longer than a full one. All c and d >= 0. What that leaves, log(measured / t), is
    interpolated between the widths that were measured, as a Gaussian process.

    Attributes:
        terms: the shapes that count.
        letters: of its widths, in the order of their values.
        lanes: one for each letter.
        factors: c and d.
        points: the widths that were measured.
        left: the weight of each of them, in the interpolation.

    Source: for the interpolation, Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning", eq. 2.25.
    """

    terms: Pattern
    letters: tuple[str, ...]
    lanes: tuple[int, ...]
    factors: tuple[float, ...]
    points: tuple[tuple[float, ...], ...] = ()
    left: tuple[float, ...] = ()

    def values(self, widths: np.ndarray) -> np.ndarray:
        """Return the time, or another cost, for each row of widths."""
        times = features(self.terms, self.letters, self.lanes, widths) @ np.array(self.factors)
        if not self.points:
            return times
        return times * np.exp(alike(np.asarray(widths), np.array(self.points), self.lanes) @ np.array(self.left))

    def corrected(self, widths: np.ndarray, times: np.ndarray) -> Law:
        """Return the law that is also near what was measured at some widths."""
        likeness = alike(widths, widths, self.lanes) + NOISE * np.eye(len(widths))
        left = np.linalg.solve(likeness, np.log(times / self.values(widths)))
        return replace(self, points=tuple(map(tuple, widths.tolist())), left=tuple(left.tolist()))


def alike(one: np.ndarray, other: np.ndarray, lanes: Sequence[int]) -> np.ndarray:
    """Return how much what the formula leaves is alike at each row of widths and each of others."""
    result = np.ones((len(one), len(other)))
    for k, lane in enumerate(lanes):
        a, b = -(-one[:, None, k] // lane), -(-other[None, :, k] // lane)
        is_full = (one[:, None, k] % lane == 0) == (other[None, :, k] % lane == 0)
        is_even = (a % 2 == b % 2) | (lane == 1)
        result *= np.exp(-np.abs(np.log2(a / b)) / OCTAVES) * UNLIKE ** (2.0 - is_full - is_even)
    return result


def features(terms: Pattern, letters: Sequence[str], lanes: Sequence[int], widths: np.ndarray) -> np.ndarray:
    """Return the columns of the formula, for each row of widths."""
    widths = np.asarray(widths, dtype="float64")
    steps = {letter: -(-widths[:, k] // lane) * lane for k, (letter, lane) in enumerate(zip(letters, lanes))}
    columns = [np.ones(len(widths)), *(counted(shape, steps, len(widths)) for shape in terms)]
    for k, (letter, lane) in enumerate(zip(letters, lanes)):
        if lane > 1:
            last = {letter: lane * (widths[:, k] % lane != 0)}
            largest = max((each for each in terms if letter in each), key=lambda each: sum(n in steps for n in each))
            columns.append(counted(largest, steps | last, len(widths)))
    return np.stack(columns, axis=1)


def counted(shape: tuple[int | str, ...], sizes: dict[str, np.ndarray], count: int) -> np.ndarray:
    """Return how many numbers a shape has, for each of so many rows."""
    result = np.ones(count)
    for n in shape:
        result = result * (sizes[n] if isinstance(n, str) else n)
    return result


def terms_of(shapes: Pattern) -> Pattern:
    """Return the shapes with widths, each once, of which none is part of another: a bias is part of its output."""
    varying = list(dict.fromkeys(shape for shape in shapes if any(isinstance(n, str) for n in shape)))
    widths = [tuple(sorted(n for n in shape if isinstance(n, str))) for shape in varying]
    return tuple(shape for k, shape in enumerate(varying) if widths[k] not in widths[k + 1 :])


def fitted(cases: Sequence[tuple[Pattern, tuple[str, ...], np.ndarray, np.ndarray]]) -> list[Law]:
    """Return laws of operators of one kind, which have their lanes in common.

    Args:
        cases: for each the shapes that count, the letters, widths, and the milliseconds that were measured there.
    """
    count = max(len(letters) for _, letters, _, _ in cases)
    found: dict[tuple[int, ...], list[tuple[float, tuple[float, ...]]]] = {}
    for lanes in itertools.product(LANES, repeat=count) if count < 3 else [(1,) * count]:
        found[lanes] = [
            nonnegative(features(terms, letters, lanes, widths), times) for terms, letters, widths, times in cases
        ]
    # Of choices that are nearly as good the one with the fewest steps.
    left = {lanes: sum(error for error, _ in each) for lanes, each in found.items()}
    best = next(lanes for lanes in sorted(left) if left[lanes] <= GOOD * min(left.values()) + 1e-9)
    return [
        Law(terms, letters, best[: len(letters)], factors).corrected(widths, times)
        for (terms, letters, widths, times), (_, factors) in zip(cases, found[best])
    ]


def nonnegative(x: np.ndarray, y: np.ndarray) -> tuple[float, tuple[float, ...]]:
    """Return the relative squares that are left by the best factors >= 0 of some columns, and these."""
    a, best = x / y[:, None], (np.inf, (0.0,) * x.shape[1])
    scale = a.max(axis=0)
    some = np.flatnonzero(scale)
    for used in range(1, 2 ** len(some)):
        columns = [k for place, k in enumerate(some) if used >> place & 1]
        factors = np.linalg.lstsq(a[:, columns] / scale[columns], np.ones(len(y)), rcond=None)[0] / scale[columns]
        error = float(((a[:, columns] @ factors - 1.0) ** 2).sum())
        if (factors >= 0).all() and error < best[0] - 1e-12:
            result = np.zeros(x.shape[1])
            result[columns] = factors
            best = (error, tuple(result.tolist()))
    return best
