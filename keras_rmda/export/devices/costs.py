"""What a file costs at any widths: bytes, memory, time, energy."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_rmda.channels.sites import Cut
from keras_rmda.export.devices.elastic import Elastic
from keras_rmda.export.devices.sizes import Size
from keras_rmda.export.flat import written
from keras_rmda.export.micro import ALIGNMENT, persistent_bytes, shaped_buffers
from keras_rmda.structure.trace import Trace


class Costs:
    """What the file of a model costs: exactly, where this stays of it, and nearly, for many choices of widths at once.

    Args:
        model: the model.
        graph: the same with a graph.
        traced: its trace.
        export: arguments of `export_tflite` for the file.
        profiles: by `"latency"` and `"energy"`, where these are asked for, a `DeviceProfile` and an `EnergyTable`.

    Raises:
        UnknownSizeError, MissingOperatorError: if a cost cannot be known.
    """

    def __init__(
        self,
        model: keras.Model,
        graph: keras.Model,
        traced: Trace,
        export: Mapping[str, Any],
        profiles: Mapping[str, Any] | None = None,
    ):
        self.file = Elastic(model, graph, traced, export)
        self._quantization, self._profiles = export.get("quantization") or "float32", profiles or {}
        whole = self.file.numbered(self.file.whole)
        self._sizes = list(
            dict.fromkeys(n for shape in self.file.shapes.values() for n in shape if isinstance(n, Size))
        )
        self._place = {size: k for k, size in enumerate(self._sizes)}
        per_number = [each.stored / max(math.prod(each.shape), 1) for each in whole.tensors]
        self._stored = [(self._shape(k), size) for k, size in enumerate(per_number) if size]
        # Of each channel a scale, and a zero point that bias and kernel share.
        self._scaled = [
            (k, 12 if len(each.shape) > 1 else 4) for k, each in enumerate(whole.tensors) if each.channels > 1
        ]
        self._buffers = [
            (self._shape(k), each.bytes / max(math.prod(whole.tensors[k].shape), 1), each)
            for k, each in shaped_buffers(whole)
        ]
        self._kept = persistent_bytes(self.file.contents(self.file.whole))
        self._steps = len(whole.operators) + 1
        self._laws = {
            metric: [profile.law(kind, self._quantization) for kind in self.file.kinds]
            for metric, profile in self._profiles.items()
        }
        everything = self.file.whole[None]
        self._rest = len(written(self.file.at(self.file.whole), 0)) - self._weights(everything)[0]

    def measured(self, metric: str, cut: Cut) -> float:
        """Return the cost of the file where this stays: to the byte, or what the profile says."""
        if metric == "file_bytes":
            return self.file.bytes(cut)
        counts = self.file.sizes.of(cut)
        if metric == "arena":
            return self.file.contents(counts).arena_bytes
        return float(self.guessed(metric, counts[None])[0])

    def guessed(self, metric: str, counts: np.ndarray) -> np.ndarray:
        """Return the cost for each row of what stays of every axis, nearly."""
        values = self._values(counts)
        if metric == "file_bytes":
            return self._rest + self._weights(counts)
        if metric == "arena":
            live = np.zeros((self._steps, len(counts)))
            for shape, size, buffer in self._buffers:
                live[buffer.first : buffer.last + 1] += -(-size * self._count(shape, values) // ALIGNMENT) * ALIGNMENT
            return live.max(axis=0) + self._kept
        return self.parts(counts, metric)[0]

    def parts(self, counts: np.ndarray, metric: str = "latency") -> tuple[np.ndarray, np.ndarray]:
        """Return time or energy for each row, and that of every operator, which add up to it with that of the call."""
        values = self._values(counts)
        parts = np.stack(
            [
                law.values(values[:, [self._place[size] for size in widths]])
                for law, widths in zip(self._laws[metric], self.file.widths)
            ],
            axis=1,
        )
        return self._profiles[metric].call(self._quantization) + parts.sum(axis=1), parts

    def _values(self, counts: np.ndarray) -> np.ndarray:
        """Return the sizes of the file for each row of what stays."""
        if not self._sizes:
            return np.zeros((len(counts), 0))
        return np.stack([float(s.factor) * counts[:, list(s.counts)].prod(axis=1) for s in self._sizes], axis=1)

    def _weights(self, counts: np.ndarray) -> np.ndarray:
        values = self._values(counts)
        found = sum(size * self._count(shape, values) for shape, size in self._stored) + np.zeros(len(counts))
        for k, size in self._scaled:
            axis = self.file.shapes[0, k][self.file.scaled_axis(k)]
            found += size * (axis if isinstance(axis, int) else values[:, self._place[axis]])
        return found

    def _shape(self, number: int) -> tuple[float, list[int]]:
        """Return a tensor's shape as a number, and the places of the sizes that it is to be multiplied by."""
        shape = self.file.shapes[0, number]
        fixed = math.prod(n for n in shape if isinstance(n, int))
        return fixed, [self._place[n] for n in shape if isinstance(n, Size)]

    @staticmethod
    def _count(shape: tuple[float, list[int]], values: np.ndarray) -> np.ndarray:
        return shape[0] * values[:, shape[1]].prod(axis=1)


def milliseconds_of_layers(
    costs: Costs, cuts: tuple[Cut, Cut], macs: Mapping[str, int]
) -> tuple[dict[str, tuple[float, float]], tuple[float, float]]:
    """Return the times of layers, by name, before and after, and those of the whole file.

    An operator belongs to the layer that its output is called by; where several have become one, to that with the most
    multiply-accumulates. What belongs to none, and the call itself, is in the whole only.

    Args:
        costs: of the file.
        cuts: what stays before and after.
        macs: by the names of layers.
    """
    counts = np.stack([costs.file.sizes.of(cut) for cut in cuts])
    totals, parts = costs.parts(counts)
    found: dict[str, np.ndarray] = {}
    of_operators = [row["macs"] for row in costs.file.contents(counts[0]).rows()]
    for name, times, count in zip(costs.file.names, parts.T, of_operators):
        words = [re.sub(r"_\d+$", "", word) for word in re.split("[;/]", name)] + re.split("[;/]", name)
        owners = [layer for layer in macs if layer.rpartition("/")[2] in words]
        if not owners and count:  # what makes an output is called by that
            owners = [layer for layer in macs if macs[layer] == count and layer not in found]
        if owners:
            owner = max(owners, key=lambda layer: macs[layer])
            found[owner] = found.get(owner, np.zeros(2)) + times
    return {name: tuple(times.tolist()) for name, times in found.items()}, tuple(totals.tolist())
