"""Weights that several layers have: one array, so that what goes of it goes in all of them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from keras_rmda.channels.rule import OPAQUE
from keras_rmda.channels.sites import Site
from keras_rmda.channels.tensors import Atoms
from keras_rmda.platform.copying.copies import weights_read

Pinned = list[tuple[np.ndarray, str]]
"""Atoms that stay, with reasons."""


def holders_of(sites: list[Site]) -> dict[int, list[tuple[Site, str]]]:
    """Return, by `id`, the weights of layers, each with the layers that have it and its name there."""
    found: dict[int, list[tuple[Site, str]]] = {}
    for site in sites:
        for name, variable in site.weights():
            found.setdefault(id(variable), []).append((site, name))
    return found


def keep_what_cannot_be_shared(sites: list[Site]) -> list[Site]:
    """Make layers opaque whose weights others have that are opaque, or read by a function, or cut in another way.

    Returns:
        The layers that have become opaque.
    """
    changed: list[Site] = []
    owned = {id(x) for site in sites for x in (site.layer, *getattr(site.layer, "weights", []))}
    read_by = [(site, weights_read(site.layer, owned)) for site in sites]
    holders, before = holders_of(sites), -1
    while before != (before := len(changed)):
        for reader, weights in read_by:
            own = {id(v) for v in getattr(reader.layer, "weights", [])}
            for weight in weights:
                for site, name in holders.get(id(weight), []):
                    if site is reader or site.opaque:
                        continue
                    names = [each for other, each in holders[id(weight)] if other is reader]
                    if reader.opaque or id(weight) not in own or not _are_alike(site, name, reader, names[0]):
                        why = f"{type(site.layer).__name__} with weights that {reader.name} has, too"
                        site.rule, site.opaque = OPAQUE, why
                        changed.append(site)
    return changed


def _are_alike(a: Site, name: str, b: Site, other: str) -> bool:
    """Return whether two layers can have one weight, of which both lose the same."""
    if not (name and other and a.rule.shares(name) and b.rule.shares(other)):
        return False
    (axes, owns), (others, theirs) = _axes(a, name), _axes(b, other)
    if axes == others and all(_shape(x) == _shape(y) for x, y in zip(owns, theirs)):
        return True
    return all(x is None or np.ndim(x) == 1 for x in (*owns, *theirs))


def _axes(site: Site, name: str) -> tuple[list[str], list[Any]]:
    """Return the letters of the axes of a weight, and what stands for each: atoms, or None where nothing is cut."""
    axes = list(site.axes[name])
    row = site.row("".join(axes)) is not None
    return axes, [None if axis in (".", "m") and not row else site.own.get(axis, 0) for axis in axes]


def _shape(x: Any) -> tuple:
    return () if x is None else np.shape(x)


def tie_shared_weights(sites: list[Site], ties: Atoms) -> Pinned:
    """Tie the channels along the axes of one weight in all layers that have it; note that it is shared.

    Returns:
        The channels along axes of which one of the layers can lose none.
    """
    pinned: Pinned = []
    for key, found in holders_of(sites).items():
        for site, _ in found[1:]:
            site.elsewhere.add(key)
        found = [(site, name) for site, name in found if name and not site.opaque]
        for site, name in found if len(found) > 1 else ():
            site.shared.add(name)
        for (first, name), (site, other) in itertools.pairwise(found):
            for a, b in zip(_axes(first, name)[1], _axes(site, other)[1]):
                if np.ndim(a) > 0 and np.ndim(b) > 0:
                    ties.tie(a, b)
                elif np.ndim(a) > 0 or np.ndim(b) > 0:
                    atoms = (a if np.ndim(a) > 0 else b).reshape(-1)
                    pinned.append((atoms, f"weight shared by {first.name} and {site.name}"))
    return pinned
