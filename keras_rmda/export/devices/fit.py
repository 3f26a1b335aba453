"""What the measured files of one number format tell of every operator, and of whole files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from keras_rmda.export.devices.laws import Law, Pattern, counted, fitted, nonnegative, terms_of
from keras_rmda.export.devices.operators import Kind

SLOWEST = 0.05
"""The least that an operator may take beside others, of what it takes alone."""


@dataclass(frozen=True)
class Part:
    """What an operator adds to the time of a file.

    Formula: s max(t - c, 0) + w n, where t is the time of a file with it alone, c that of a call, and n the number of
    its weights.

    Attributes:
        law: how long it takes alone, as a function of its widths.
        call: the milliseconds of a call.
        weights: the shapes of its weights.
        scale: s, what operators gain or lose beside each other.
        fetching: w, the milliseconds that it takes to have a number again that other operators have driven out of
            caches.
    """

    law: Law
    call: float
    weights: Pattern
    scale: float = 1.0
    fetching: float = 0.0

    def values(self, widths: np.ndarray) -> np.ndarray:
        """Return the milliseconds for each row of widths."""
        return np.stack(self.columns(widths), axis=1) @ np.array([self.scale, self.fetching])

    def columns(self, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the two parts of the formula without their factors."""
        sizes = dict(zip(self.law.letters, np.asarray(widths).T))
        numbers = sum((counted(shape, sizes, len(widths)) for shape in self.weights), np.zeros(len(widths)))
        return np.maximum(self.law.values(widths) - self.call, 0.0), numbers


@dataclass(frozen=True)
class Fit:
    """What a profile knows of one number format.

    Attributes:
        parts: what each operator adds to a file.
        call: the milliseconds of a call.
    """

    parts: dict[Kind, Part]
    call: float


def fit(measured: Sequence[dict[str, Any]], quantization: str) -> Fit:
    """Return what measured files tell of a number format."""
    mine = [each for each in measured if each["quantization"] == quantization]
    points: dict[Kind, dict[tuple, float]] = {}
    for each in mine:
        if "kind" in each:
            points.setdefault(kind_of(each["kind"]), {})[tuple(each["widths"])] = time_of(each)
    names = sorted({(kind.name, len(kind.letters)) for kind in points})
    laws: dict[Kind, Law] = {}
    for name in names:
        kinds = [kind for kind in points if (kind.name, len(kind.letters)) == name]
        cases = []
        for kind in kinds:
            widths = np.array(list(points[kind]), dtype="float64").reshape(len(points[kind]), len(kind.letters))
            cases.append((terms_of(kind.shapes), kind.letters, widths, np.array(list(points[kind].values()))))
        laws |= dict(zip(kinds, fitted(cases)))
    call = min((time for each in points.values() for time in each.values()), default=0.0)
    parts = {kind: Part(law, call, kind.weights) for kind, law in laws.items()}
    known, seen = [], []
    for each in mine:
        there = [(parts.get(kind_of(kind)), widths) for kind, widths in each.get("operators", ())]
        if there and all(part is not None for part, _ in there):
            known.append(sum(np.ravel(part.columns(np.array([widths]).reshape(1, -1))) for part, widths in there))
            seen.append(time_of(each) - call)
    scale, fetching = together(np.array(known).reshape(-1, 2), np.array(seen))
    return Fit({kind: replace(part, scale=scale, fetching=fetching) for kind, part in parts.items()}, call)


def together(known: np.ndarray, seen: np.ndarray) -> tuple[float, float]:
    """Return the factors of both parts of the formula that explain whole files."""
    is_told = (seen > 0.0) & (known[:, 0] > 0.0)
    if not is_told.any():
        return 1.0, 0.0
    scale, fetching = nonnegative(known[is_told], seen[is_told])[1]
    return max(scale, SLOWEST), fetching


def kind_of(plain: dict[str, Any]) -> Kind:
    """Return an operator that is given as plain data."""
    return Kind(plain["name"], plain["options"], tuple(plain["types"]), tuple(tuple(each) for each in plain["shapes"]))


def time_of(each: dict[str, Any]) -> float:
    """Return the milliseconds of a file: of the round that was disturbed the least."""
    return float(min(each["milliseconds"]))


def spread(times: Sequence[float]) -> float:
    """Return how far rounds are from each other, relative to the time: the two that are nearest to the fastest."""
    near = sorted(times)[:2]
    return (near[-1] - near[0]) / near[0]
