"""Convolutions: plain, transposed, separable, depthwise and in groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_rmda.channels.linear import Linear, Writes, WritesInGroups
from keras_rmda.channels.rule import Read, Rule
from keras_rmda.channels.sites import Call


def pads(layer: Any) -> bool:
    """Return whether a convolution sees zeros beyond the border, so that a constant input is none at the border."""
    return getattr(layer, "padding", "valid") != "valid" and any(size > 1 for size in layer.kernel_size)


def overlaps(layer: Any) -> bool:
    """Return whether the positions of a transposed convolution are sums of different parts of the kernel."""
    return any(size > 1 for size in (*layer.kernel_size, *layer.strides))


def separable(layer: Any, read: Read) -> Linear:
    """Return the effect of a depthwise kernel followed by a pointwise one."""
    depthwise, pointwise = read(layer.depthwise_kernel), read(layer.pointwise_kernel)
    *_, n, m = depthwise.shape
    depthwise = depthwise.reshape(-1, n, m)
    pointwise = pointwise.reshape(n, m, -1)
    kernel = np.einsum("im,imo->io", depthwise.astype("float64").sum(axis=0), pointwise)
    reads = np.any([(depthwise[..., j] != 0).any(axis=0)[:, None] & (pointwise[:, j] != 0) for j in range(m)], axis=0)
    return Linear(kernel[None, :, None], reads[None])


@dataclass(frozen=True)
class Separates(Writes):
    """Separable convolutions: "j" are the channels between the two kernels, several for each input."""

    def atoms(self, call: Call, ties: Any) -> list[np.ndarray]:
        written = super().atoms(call, ties)
        call.site.own["j"] = np.repeat(call.site.own["i"], call.layer.depth_multiplier)
        return written

    def reads(self, name: str) -> str:
        return "ij"


def convolution(n: int) -> Callable[[Any], Rule]:
    """Return the choice between the rules of convolutions over `n` axes with and without groups."""
    whole = Writes({"kernel": "." * n + "io", "bias": "o"}, {"filters": "o"}, has_borders=pads)
    letters = {"kernel": (*"." * n, "p", "Gq"), "bias": ("Gq",)}
    grouped = WritesInGroups(letters, {"filters": "Gq", "groups": "G"}, has_borders=pads)
    return lambda layer: grouped if layer.groups > 1 else whole


def depthwise(n: int) -> Rule:
    """Return the rule of depthwise convolutions over `n` axes."""
    letters = {"kernel": (*"." * n, "Gp", "q"), "bias": ("Gq",)}
    return WritesInGroups(
        letters,
        {"depth_multiplier": "q"},
        linear=lambda kernel: kernel.reshape(*kernel.shape[:-2], 1, *kernel.shape[-2:]),
        has_borders=pads,
        groups=lambda layer: layer.kernel.shape[-2],
    )
