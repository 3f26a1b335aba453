"""Rules of the small layers that stand for what code does at training with random numbers (`tracing/noise.py`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_rmda.channels.rule import Demand, Rule, State
from keras_rmda.channels.sites import Call, Cut, Site
from keras_rmda.channels.tensors import Atoms, NotCovered, along
from keras_rmda.channels.weights import ForEach, channel_axis_of

SOME = 0.999
"""In the place of random numbers, so that what is made of them for a channel of zeros is a constant, too."""


@dataclass(frozen=True)
class Draws(Rule):
    """Random numbers at training, zeros at inference, of sizes of axes of a tensor whose own numbers do not matter."""

    def batch_axes(self, call: Call) -> list[int | None]:
        [x] = call.inputs
        if not x.batched or x.batch:
            raise NotCovered("a batch axis that is not the first")
        return [0]

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        [x], sizes = call.inputs, call.layer.sizes[1:]
        axes = [None if axis is None else axis - 1 for axis in call.layer.axes[1:]]
        named = [axis for axis in axes if axis is not None]
        others = [k for k in range(x.atoms.ndim) if k not in named]
        if any(x.atoms.shape[k] > 1 for k in named):  # it has the channels of the tensor
            if any(x.atoms.shape[k] > 1 for k in others) or len(set(named)) < len(named):
                raise NotCovered(f"axes={call.layer.axes}, where channels are along others")
            kept = x.atoms.transpose(*named, *others).reshape([x.atoms.shape[k] for k in named])
            return [np.expand_dims(kept, tuple(k for k, axis in enumerate(axes) if axis is None))]
        own = channel_axis_of([n or 1 for n in sizes])
        if own is None:
            return [ties.fresh(*[1] * len(sizes))]
        return [along(call.fresh("c", ties, sizes[own]), len(sizes), own)]

    def config(self, site: Site, config: dict[str, Any], cut: Cut) -> dict[str, Any]:
        if "c" not in site.own:
            return config
        sizes = list(config["sizes"])
        sizes[1 + channel_axis_of([n or 1 for n in sizes[1:]])] = cut.count(site, "c")
        return config | {"sizes": sizes}

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        # The zeros of inference would say that what they are multiplied by is needed nowhere.
        return [np.full(call.outputs[0].atoms.shape, SOME)]

    def demands(self, call: Call, state: State) -> list[Demand]:
        return []


@dataclass(frozen=True)
class Chooses(ForEach):
    """A tensor at inference, and what code makes of it with random numbers at training; both have the same channels."""

    noisy = True

    def batch_axes(self, call: Call) -> list[int | None]:
        x, other = call.inputs
        if (x.batched, x.batch) != (other.batched, other.batch):
            raise NotCovered("batch axes that differ")
        return [x.batch if x.batched else None]

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        x, other = np.broadcast_arrays(*(each.atoms for each in call.inputs))
        ties.tie(x, other)
        return [x]

    def demands(self, call: Call, state: State) -> list[Demand]:
        needed, why = state.needed(call.outputs[0]), f"read by {call.site.name}"
        return [(x, fitted_to(needed, x.atoms.shape), why) for x in call.inputs]


def fitted_to(needed: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return what is needed of a tensor whose axes of one atom are repeated."""
    axes = tuple(axis for axis, n in enumerate(shape) if n == 1)
    return needed.any(axis=axes, keepdims=True) if axes else needed
