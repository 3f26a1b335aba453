"""A place for gates, and what an open gate costs there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_rmda.channels.sites import Call, Cut, Site
from keras_rmda.structure.savings import savings
from keras_rmda.structure.trace import Trace

COSTS = ("weights", "macs", "pairs")
FREE = "."
"""The letter of axes of kernels that nothing is cut from, such as those of the positions of a convolution."""


@dataclass
class Place:
    """Channels that close together, and the layers behind which their gates stand.

    Attributes:
        writers: the layers that write these channels, in order of execution.
        behind: the layers, of the same order, whose outputs gates multiply.
        axis: of the gates, counted from the end.
        roots: the atoms.
        cost: what an open gate costs; for "pairs", with each open gate of the layer before it.
        area: the kernel area of the writers: their weights for one input and one output channel.
        inputs: the input channels of the writers.
        alone: whether the gates close one writer of channels that others write too.
    """

    writers: list[Site]
    behind: list[Call]
    axis: int
    roots: np.ndarray
    cost: float = 0.0
    area: float = 1.0
    inputs: float = 1.0
    alone: bool = False

    @property
    def name(self) -> str:
        """The name of the layer before the first gate, with those of models around it."""
        return self.writers[0].name


def weights_of(traced: Trace, place: Place) -> float:
    """Return how many weights the writers of a place have for each of its channels."""
    whole = Cut(traced.ties, np.ones(len(traced.ties.parent), bool))
    sizes = [int(np.prod(whole.shape(site, name, tuple(v.shape)))) for site, name, v in kernels(place.writers)]
    return sum(sizes) / len(place.roots)


def area_of(place: Place) -> float:
    """Return how many weights the writers of a place have for one of its channels and one input channel."""
    axes = [(site.rule.groups_by(site.layer)[name], v.shape) for site, name, v in kernels(place.writers)]
    axes = [(letters, shape) for letters, shape in axes if "o" in letters] or axes
    return float(sum(np.prod([n for letter, n in zip(*each) if letter == FREE]) for each in axes))


def kernels(writers: list[Site]) -> list[tuple[Site, str, Any]]:
    """Return the kernels of layers, with the layers and the names that their rules have for them."""
    return [
        (site, name, v) for site in writers for name, v in site.weights() if name.endswith(("kernel", "embeddings"))
    ]


def cost_of(traced: Trace, place: Place, cost: str) -> float:
    """Return what an open gate of a place costs."""
    if cost == "macs":
        return 0.0 if place.alone else float(savings(traced, place.roots, "macs").mean())
    return place.area if cost == "pairs" else weights_of(traced, place)
