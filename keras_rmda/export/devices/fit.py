"""What the measured files of one number format tell of every operator, and of whole files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_rmda.export.devices.laws import Law, fitted, terms_of
from keras_rmda.export.devices.operators import Kind


@dataclass(frozen=True)
class Fit:
    """What a profile knows of one number format.

    Attributes:
        laws: how long each operator takes alone, as a function of its widths.
        call: the milliseconds of a call.
        scale: what operators gain or lose beside each other.
    """

    laws: dict[Kind, Law]
    call: float
    scale: float


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
    known, seen = [], []
    for each in mine:
        for_all = [(kind_of(kind), widths) for kind, widths in each.get("operators", ())]
        if for_all and all(kind in laws for kind, _ in for_all):
            parts = [laws[kind].values(np.array([widths]).reshape(1, -1))[0] for kind, widths in for_all]
            if (beyond := sum(max(part - call, 0.0) for part in parts)) > 0.0:
                known.append(beyond)
                seen.append(time_of(each))
    scale = float(np.median((np.array(seen) - call) / np.array(known))) if known else 1.0
    return Fit(laws, call, max(scale, 0.05))


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
