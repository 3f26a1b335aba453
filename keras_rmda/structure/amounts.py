"""How much of a model a cut leaves."""

from __future__ import annotations

import math

import keras
import numpy as np

from keras_rmda.channels.sites import Cut, Site
from keras_rmda.structure.liveness import Plan


def amounts(plan: Plan, cut: Cut | None = None) -> dict[str, int]:
    """Return how many `parameters`, `macs` and `bytes` of weights a plan leaves, or another cut of the same model."""
    cut = plan.cut if cut is None else cut
    found = {"parameters": 0, "macs": 0, "bytes": 0}
    for site in plan.trace.sites.values():
        for key, value in amounts_of(site, cut).items():
            found[key] += value
    return found


def amounts_of(site: Site, cut: Cut) -> dict[str, int]:
    """Return the same of one layer."""
    counts = [(math.prod(cut.shape(site, name, tuple(v.shape))), bytes_of(v)) for name, v in site.counted()]
    return {
        "parameters": sum(count for count, _ in counts),
        "bytes": sum(count * size for count, size in counts),
        "macs": sum(call.macs(cut) for call in site.calls),
    }


def bytes_of(variable: keras.Variable) -> int:
    """Return the bytes of one number of a variable."""
    return int("".join(each for each in variable.dtype if each.isdigit()) or 8) // 8


def everything(plan: Plan) -> Cut:
    """Return the cut that takes nothing."""
    return Cut(plan.trace.ties, np.ones_like(plan.cut.keep))
