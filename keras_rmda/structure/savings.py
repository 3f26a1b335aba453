"""What a model saves if channels go."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from keras_rmda.channels.sites import Cut, Site
from keras_rmda.platform import checks
from keras_rmda.structure.trace import Trace


def savings(traced: Trace, roots: np.ndarray, table: Mapping[str, float] | str) -> np.ndarray:
    """Return what the removal of each atom saves: multiply-accumulates, or its part of the times of layers."""
    if isinstance(table, str):
        return saved_by(traced, roots, lambda site, cut: sum(call.macs(cut) for call in site.calls))
    names = [site.name for site in traced.sites.values()]
    unknown = [name for name in table if name not in names]
    if unknown:
        raise ValueError(f"`weights` names layers that the model does not have: {unknown!r}. It has: {names!r}")
    table = {name: checks.real(f"weights[{name!r}]", value) for name, value in table.items()}
    whole = Cut(traced.ties, np.ones(len(traced.ties.parent), dtype=bool))

    def time(site: Site, cut: Cut) -> float:
        everything = sum(call.macs(whole) for call in site.calls)
        return table.get(site.name, 0.0) * sum(call.macs(cut) for call in site.calls) / max(everything, 1)

    return saved_by(traced, roots, time)


def saved_by(traced: Trace, roots: np.ndarray, measure: Callable[[Site, Cut], float]) -> np.ndarray:
    """Return what the removal of each atom alone takes from a measure that is a sum over layers."""
    saved = np.zeros(len(roots))
    keep = np.ones(len(traced.ties.parent), dtype=bool)
    cut = Cut(traced.ties, keep)
    for site in traced.sites.values():
        everything = measure(site, cut)
        if not everything or site.opaque:  # of an opaque layer nothing goes
            continue
        own = [traced.ties.find(each).reshape(-1) for each in site.own.values() if np.ndim(each) > 0]
        counts = np.array([np.bincount(each, minlength=len(keep)) for each in own]).reshape(len(own), -1)[:, roots]
        alike: dict[tuple, float] = {}  # atoms that are as often behind each letter save as much
        for number in np.flatnonzero(counts.any(axis=0)):
            signature = tuple(counts[:, number])
            if signature not in alike:
                keep[roots[number]] = False
                alike[signature] = everything - measure(site, cut)
                keep[roots[number]] = True
            saved[number] += alike[signature]
    return saved
