"""Numbers that a file of a model has, such as sizes of its tensors, as functions of the channels that stay."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from keras_rmda.channels.sites import Cut
from keras_rmda.structure.trace import Trace

Count = tuple[int, str, int]
"""What is counted: the axis of a tensor, by number, or of the weight of a layer, by `id` and name."""


@dataclass(frozen=True)
class Size:
    """A number of a file: `factor` times the product of what stays along some axes of the model.

    Attributes:
        counts: the numbers of the axes, in the list of `Sizes`.
        factor: a number.
    """

    counts: tuple[int, ...]
    factor: Fraction


class Sizes:
    """What stays along every axis of a traced model: the numbers that those of its files are made of.

    Args:
        trace: the traced model.
    """

    def __init__(self, trace: Trace):
        self._trace = trace
        self._weights = [
            (site, name, tuple(variable.shape))
            for site in trace.sites.values()
            for name, variable in site.weights()
            if name and not site.opaque
        ]

    def of(self, cut: Cut) -> np.ndarray:
        """Return what stays of every axis: of all tensors, then of all weights; an open axis counts as 1."""
        tensors = [n or 1 for x in self._trace.tensors for n in cut.sizes(x)]
        weights = [n for site, name, shape in self._weights for n in cut.shape(site, name, shape)]
        return np.array([*tensors, *weights], dtype="int64")

    def runs(self) -> list[tuple[int, ...]]:
        """Return the numbers of all axes that stand side by side, such as a flattened image has."""
        ranks = [len(x.shape) for x in self._trace.tensors] + [len(shape) for _, _, shape in self._weights]
        starts = np.cumsum([0, *ranks]).tolist()
        found = {
            tuple(range(start + first, start + last + 1))
            for start, rank in zip(starts, ranks)
            for first in range(rank)
            for last in range(first, rank)
        }
        return sorted(found, key=lambda run: (len(run), run))


def known_by(sizes: Sizes, seen: list[np.ndarray]) -> Callable[[tuple[int, ...]], Size | int | None]:
    """Return what tells a number of a file by its values in several: the same ratios are the same size.

    Args:
        sizes: of the model.
        seen: what stays of every axis, in each of the files.

    Returns:
        A function of the values, which gives a number that never changes, a size, or None for one that is not known.
    """
    table = np.stack(seen, axis=1)
    known: dict[tuple[Fraction, ...], Size] = {}
    for run in sizes.runs():
        values = [math.prod(table[list(run), k].tolist()) for k in range(len(seen))]
        if values[0] and len(set(values)) > 1:
            varying = tuple(n for n in run if len(set(table[n].tolist())) > 1)
            first = math.prod(int(table[n, 0]) for n in varying)
            known.setdefault(ratios(values), Size(varying, Fraction(1, first)))

    def tell(values: tuple[int, ...]) -> Size | int | None:
        if len(set(values)) == 1:
            return values[0]
        size = known.get(ratios(values)) if values[0] else None
        return None if size is None else Size(size.counts, size.factor * values[0])

    return tell


def ratios(values: list[int] | tuple[int, ...]) -> tuple[Fraction, ...]:
    """Return numbers relative to the first of them."""
    return tuple(Fraction(int(value), int(values[0])) for value in values[1:])
