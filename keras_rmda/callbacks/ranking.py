"""The order in which groups go, and how many of them."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable

import keras
import numpy as np

from keras_rmda.platform import compat
from keras_rmda.structure.amounts import amounts_of, everything
from keras_rmda.structure.liveness import Plan

KEPT = 0.1
"""The share of the groups of every layer that are not chosen, so that no layer is cut off."""

OF_THIN = 2 / 3
"""The same under `ranking="fisher"`, as a share of what a thin model with the same target has."""

BISECTIONS = 20

GUESSES = 4
"""How many times the search for a number of groups trusts a guess before it halves what is left."""


class ImpossibleTargetError(ValueError):
    """A target is less than what is left when all goes that can be chosen."""


def relative(norms: np.ndarray, gone: np.ndarray, layers: np.ndarray) -> np.ndarray:
    """Return the norm of each group, relative to the mean over those of its layer that are not gone."""
    result = np.zeros(len(norms))
    for layer in range(layers.max() + 1):
        [own] = np.nonzero(layers == layer)
        mean = norms[own][~gone[own]].mean() if not gone[own].all() else 1.0
        result[own] = norms[own] / max(mean, 1e-30)
    return result


def places(worth: np.ndarray, norms: np.ndarray, gone: np.ndarray, layers: np.ndarray, least: float) -> np.ndarray:
    """Return each group's place in the order in which they go; their number for those that stay in any case.

    Args:
        worth: what the groups are ranked by: the least goes first.
        norms: what decides where that is equal.
        gone: which of them are gone, and go first.
        layers: the number of the layer of each.
        least: the share of every layer that stays.
    """
    count = len(worth)
    stays = np.zeros(count, dtype=bool)
    for layer in range(layers.max() + 1):
        [own] = np.nonzero(layers == layer)
        # Where structured values are zero, as at the start of DessiLBI, the weights themselves decide.
        order = np.lexsort((norms[own], worth[own], ~gone[own]))
        stays[own[order[-max(1, round(least * len(own))) :]]] = True
    order = np.lexsort((norms, worth, ~gone, stays))
    place = np.empty(count, dtype=int)
    place[order] = np.arange(count)
    return np.where(stays, count, place)


def in_multiples(place: np.ndarray, zero: np.ndarray, layers: np.ndarray, multiple: int) -> np.ndarray:
    """Return as many groups of each layer, the first of their order, as leave the nearest multiple."""
    result = np.zeros(len(place), dtype=bool)
    for layer in range(layers.max() + 1):
        [own] = np.nonzero(layers == layer)
        kept = np.count_nonzero(~zero[own])
        kept = min(len(own), max(1, round(kept / multiple)) * multiple)
        result[own[np.argsort(place[own], kind="stable")[: len(own) - kept]]] = True
    return result


def thin(layers: np.ndarray, goal: float, guessed: Callable[[np.ndarray], float]) -> float:
    """Return the share that all layers of a thin model keep, of which this much of the metric is left.

    Args:
        layers: the number of the layer of each group.
        goal: what is to be left.
        guessed: what is left if these groups go.
    """
    sizes = np.bincount(layers)
    number_in_layer = np.arange(len(layers)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    number = np.empty(len(layers), dtype=int)
    number[np.argsort(layers, kind="stable")] = number_in_layer
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        share = (low + high) / 2
        kept = number < np.maximum(1, np.round(share * sizes))[layers]
        low, high = (share, high) if guessed(~kept) <= goal else (low, share)
    return low


def fewest(count: int, wanted: float, measured: Callable[[int], float], guessed: Callable[[int], float]) -> int:
    """Return the least k below `count` for which `measured(k)` is at most what is wanted, or `count`.

    Only `measured` decides. Where it and the guess, shifted by what it was wrong at the last look, agree, two looks are
    enough: at k and at k - 1.

    Args:
        count: the largest answer.
        wanted: a number.
        measured: costly; never increases.
        guessed: cheap, and nearly the same.
    """
    low, high, shift, looks = -1, count, 0.0, 0
    while high - low > 1:
        k = (low + high) // 2
        if looks < GUESSES:
            between = range(low + 1, high)
            k = low + 1 + bisect.bisect_left(between, -wanted, key=lambda k: -(guessed(k) + shift))
            k = min(k, high - 1)
        found = measured(k)
        shift, looks = found - guessed(k), looks + 1
        low, high = (low, k) if found <= wanted else (k, high)
    return high


def possible(least: float, whole: int) -> str:
    """Return the least share of a whole, rounded up to three digits, if that is below 1, and as a number."""
    scale = 10 ** (2 - math.floor(math.log10(max(least, 1e-9))))
    n = math.ceil(least * scale)
    share = (n if n / scale >= least else n + 1) / scale  # the product may have been rounded down
    number = f"{round(least * whole):,}"
    return f"{share:g}, or {number}" if share < 1 else number


def impossible(model: keras.Model, smallest: str, whole: list[str], given: str) -> str:
    """Return why a target cannot be reached, what the smallest is that can, and of which layers nothing goes."""
    why = f"some coupled groups of each layer of {model.name!r} stay in any case"
    if whole:
        why += f", and all of layers of which no channel can go, most of it in {', '.join(whole[:3])}"
    frozen = [each.path for each in compat.frozen_weights(model)]
    if frozen:
        why += (
            f"; weights with `trainable=False`, such as {frozen[0]!r}, are not chosen: layers that are to get smaller "
            "must train, so set their `trainable` to True and compile anew"
        )
    return (
        f"The smallest possible target is {smallest}, where {why}. `keras_rmda.analyze` shows what is left. "
        f"Received: {given}"
    )


def untouched(decided: Plan, metric: str) -> list[str]:
    """Return the names of the layers of which a plan takes nothing, those with the most of a metric first."""
    found = {}
    for site in decided.trace.sites.values():
        before, after = (amounts_of(site, cut).get(metric, 0) for cut in (everything(decided), decided.cut))
        if before == after > 0:
            found[site.name] = after
    return sorted(found, key=found.get, reverse=True)
