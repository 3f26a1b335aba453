"""The files that a profile is measured with: operators of a model, and the model itself, at some widths."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_rmda.export.devices.elastic import Elastic
from keras_rmda.export.devices.operators import Kind, alone, shapes_of
from keras_rmda.export.flat import written
from keras_rmda.platform import files
from keras_rmda.structure.trace import as_graph, trace

FORMAT = 1
"""Of the files that profiles are kept in."""

WIDTHS = 10
"""How many choices of widths there are beside the whole model, and as many of full lanes."""

LANES = 16
"""Channels that devices compute at once, or a multiple of that."""

SMALLEST = 0.06
"""The smallest share of its groups that a layer has in them."""

SCRIPT = Path(__file__).with_name("measure.py")


def check_folder(folder: Path) -> None:
    """Raise `ValueError` if a folder is none, or not empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"The folder for a profile must be a new or an empty one. Received: {str(folder)!r}")


def write_files(
    model: keras.Model,
    folder: Path,
    quantizations: Sequence[str | None] = (None, "int8"),
    say: Callable[[str], None] = lambda text: None,
    known: Any = None,
) -> int:
    """Write the files that a device is to measure, what is in them, and the script that does it.

    Args:
        model: the model.
        folder: where to; made if missing.
        quantizations: number formats, as of `export_tflite`.
        say: receives lines of progress.
        known: a `DeviceProfile`, whose operators need not be measured again; the script puts its times to the others.

    Returns:
        How many files there are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    listed: list[dict[str, Any]] = []
    with as_graph(model) as graph:
        traced = trace(graph)
        for quantization in quantizations:
            name = quantization or "float32"
            say(f"writing the layers of {model.name} in {name}")
            elastic = Elastic(model, graph, traced, {"quantization": quantization, "batch": 1})
            listed += written_of(elastic, folder, name, known)
    plan = {"format": FORMAT, "model": model.name, "files": listed}
    if known is not None:
        plan["known"] = {"device": known.device, "threads": known.threads, "files": known.measured}
    (folder / "files.json").write_text(json.dumps(plan))
    shutil.copy(SCRIPT, folder / "measure.py")
    return len(listed)


def written_of(elastic: Elastic, folder: Path, prefix: str, known: Any = None) -> list[dict[str, Any]]:
    """Write the files of a model in one format, but for operators that a profile has; return what is in them."""
    listed: list[dict[str, Any]] = []
    seen: dict[Kind, set[tuple[int, ...]]] = {}
    for k, kept in enumerate(chosen_widths(elastic.layers.sizes)):
        model = elastic.at(elastic.sizes.of(elastic.layers.plan(kept).cut))
        parts = []
        for operator, kind in zip(model.subgraphs[0].operators, elastic.kinds):
            widths = kind.widths(shapes_of(model, operator))
            parts.append([asdict(kind), widths])
            points = seen.setdefault(kind, set())
            is_new = known is None or not known.has(kind, prefix)
            if is_new and widths not in points and len(points) < 2 * WIDTHS * max(len(kind.letters), 1):
                points.add(widths)
                name = f"{prefix}-{len(listed):04}-{kind.name.lower()}.tflite"
                put(folder / name, alone(model, operator))
                listed.append({"file": name, "quantization": prefix, "kind": asdict(kind), "widths": widths})
        name = f"{prefix}-whole-{k:02}.tflite"
        put(folder / name, written(model, 0))
        listed.append({"file": name, "quantization": prefix, "operators": parts})
    return listed


def chosen_widths(sizes: np.ndarray) -> list[np.ndarray]:
    """Return choices of widths: the whole model, and by turns some of any widths and of full lanes.

    Between the smallest and the whole width, every layer has them in another order. A model without layers to cut has
    one width.
    """
    random, found = np.random.default_rng(0), [sizes]
    some, lanes = (
        zip(*(random.permutation(np.geomspace(least, size, WIDTHS)) for least, size in zip(smallest, sizes)))
        for smallest in (SMALLEST * sizes, np.minimum(LANES, sizes))
    )
    for row, full in zip(some, lanes):
        found += [np.maximum(np.round(row), 1).astype(int), full_lanes(np.array(full), sizes)]
    return found


def full_lanes(kept: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the nearest widths that are multiples of `LANES`, in layers that are wider."""
    full = np.minimum(np.maximum(np.round(kept / LANES), 1) * LANES, sizes)
    return np.where(sizes > LANES, full, np.maximum(np.round(kept), 1)).astype(int)


def put(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    with files.replacing(path) as temporary:
        temporary.write_bytes(content)
