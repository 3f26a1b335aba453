"""What the page shows of each model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from keras_rmda.export.benchmark import benchmark_tflite
from keras_rmda.export.contents import read_contents
from keras_rmda.export.devices import DeviceProfile
from keras_rmda.export.interpreter import Interpreter
from keras_rmda.platform.arrays import has_classes
from keras_rmda.platform.loading import load
from keras_rmda.structure import analyze


@dataclass(frozen=True)
class Entry:
    """One model of the page.

    Attributes:
        name: of its file.
        bytes: of its file.
        kind: "Keras", or what a `.tflite` file holds its weights in.
        parameters: number of weights.
        macs: multiply-accumulates per sample.
        latency: median in milliseconds on one thread, None for Keras models.
        score: on the data, None without.
        channels: by layer, of Keras models: (channels, those that `strip` would leave).
        milliseconds: the same, of the times by a profile.
    """

    name: str
    bytes: int
    kind: str
    parameters: int
    macs: int
    latency: float | None
    score: float | None
    channels: dict[str, tuple[int, int]]
    milliseconds: dict[str, tuple[float, float]]


def entry_of(path: Path, data: tuple[np.ndarray, np.ndarray] | None, profile: DeviceProfile | None = None) -> Entry:
    """Return what is known of a file without measuring time."""
    if path.suffix == ".tflite":
        contents = read_contents(path)
        weights = [tensor for tensor in contents.tensors if tensor.stored and len(tensor.shape) > 1]
        kind = max(weights, key=lambda tensor: tensor.stored).dtype.lower() if weights else "no weights"
        constants = sum(int(np.prod(tensor.shape)) for tensor in contents.tensors if tensor.stored)
        score = None if data is None else score_of(Interpreter(path).predict(data[0]), data[1], path)
        return Entry(path.name, contents.bytes, kind, constants, contents.macs, None, score, {}, {})
    model = load(path)
    report = analyze(model, profile)
    score = None if data is None else score_of(model.predict(data[0], verbose=0), data[1], path)
    widths = {each.name: (each.channels, each.channels - each.removable) for each in report.layers if each.channels}
    times = {each.name: (each.milliseconds, each.milliseconds_after) for each in report.layers if each.milliseconds}
    return Entry(path.name, path.stat().st_size, "Keras", report.parameters, report.macs, None, score, widths, times)


def with_latencies(entries: list[Entry], paths: list[Path], runs: int) -> list[Entry]:
    """Return the entries with the latencies of `.tflite` files, measured in turns."""
    files = [path for path in paths if path.suffix == ".tflite"]
    found = iter(benchmark_tflite(files, runs=runs) if files else [])
    return [
        replace(entry, latency=next(found).median) if path.suffix == ".tflite" else entry
        for entry, path in zip(entries, paths)
    ]


def score_of(outputs: Any, targets: np.ndarray, path: Path) -> float:
    """Return accuracy or mean squared error."""
    if not isinstance(outputs, np.ndarray):
        raise ValueError(f"Models with several outputs cannot be scored. Received: {str(path)!r}")
    is_one = outputs.shape[-1] == 1
    if not has_classes(targets) or (is_one and not np.isin(targets, (0, 1)).all()):
        return float(np.mean((outputs - targets.reshape(outputs.shape)) ** 2))
    if is_one:
        found = outputs > (0.5 if outputs.min() >= 0 and outputs.max() <= 1 else 0.0)  # logits are negative, too
    else:
        found = outputs.argmax(-1)
        targets = targets.argmax(-1) if targets.shape == outputs.shape else targets
    if found.size != targets.size:
        raise ValueError(
            f"Targets of the shape {targets.shape} are none for {str(path)!r}, whose outputs have {outputs.shape}."
        )
    return float((found.reshape(-1) == targets.reshape(-1)).mean())
