"""Cost of update, groups, strip and export from 10^5 to 10^8 parameters: `python benchmarks/scaling.py`.

The network has eight residual blocks of two 3 x 3 convolutions on 8 x 8 positions, and the same number of channels
everywhere, of which half are zero. Every size runs in a process of its own, which says how long each part takes and
how much memory the process has had at most by then. The exponent is the slope between the two largest sizes and over
all of them (least squares), in logarithms.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BLOCKS, POSITIONS = 8, 8
PARTS = ("build", "groups", "Adam", "RMDA", "analyze", "strip", "export")


def width_of(parameters: float) -> int:
    """Return the channels with which the network has about so many parameters."""
    return max(2, round((parameters / (2 * 9 * BLOCKS)) ** 0.5))


def network(width: int) -> Any:
    """Return the network."""
    import keras

    keras.utils.set_random_seed(0)
    inputs = keras.Input((POSITIONS, POSITIONS, 3))
    x = keras.layers.Conv2D(width, 3, padding="same", activation="relu")(inputs)
    for _ in range(BLOCKS):
        y = keras.layers.Conv2D(width, 3, padding="same", activation="relu")(x)
        x = keras.layers.Add()([x, keras.layers.Conv2D(width, 3, padding="same")(y)])
    return keras.Model(inputs, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x)))


def measure(parameters: float) -> dict[str, Any]:
    """Return seconds and memory of every part."""
    import keras
    from timing import update

    import keras_rmda as kr

    found: dict[str, Any] = {}

    def timed(part: str, function: Callable[[], Any], rounds: int = 1) -> Any:
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            result = function()
            times.append(time.perf_counter() - start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        found[part] = {"seconds": float(np.median(times)), "peak_gib": peak}
        return result

    model = timed("build", lambda: network(width_of(parameters)))
    variables = model.trainable_variables
    groups = timed("groups", lambda: kr.coupled_groups(model))
    rmda = kr.RMDA(1e-9, 0.5, kr.GroupLasso(1e-6, groups=groups))
    for name, optimizer in {"Adam": keras.optimizers.Adam(1e-9), "RMDA": rmda}.items():
        step = update(optimizer, variables)
        step()
        timed(name, step, 7)
    zero = np.append(np.arange(len(groups)) % 2 == 0, False)
    for variable in variables:
        ids = groups.members.get(variable.path.partition("/")[2], groups.members.get(variable.path))
        if ids is not None:
            variable.assign(np.where(zero[ids], 0.0, keras.ops.convert_to_numpy(variable)))
    timed("analyze", lambda: kr.analyze(model))
    small = timed("strip", lambda: kr.strip(model))
    with tempfile.TemporaryDirectory() as folder:
        timed("export", lambda: kr.export_tflite(small, Path(folder) / "m.tflite", strip=False))
    return found | {"parameters": model.count_params(), "stripped": small.count_params()}


def exponents(sizes: list[float], values: list[float]) -> str:
    """Return the slope over all sizes, and between the last two."""
    x, y = np.log(sizes), np.log(values)
    return f"{np.polyfit(x, y, 1)[0]:.2f}, {(y[-1] - y[-2]) / (x[-1] - x[-2]):.2f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=float, nargs="+", default=[1e5, 1e6, 1e7, 1e8])
    parser.add_argument("--one", type=float, help="(what a process is started with)")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one)))
        sys.exit()
    rows = []
    for size in options.sizes:
        command = [sys.executable, __file__, "--one", str(size)]
        said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        rows.append(json.loads(said.splitlines()[-1]))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    sizes = [row["parameters"] for row in rows]
    print("| seconds (GiB at most by then) |", " | ".join(f"{size:,}" for size in sizes), "| exponent: all, last |")
    print("| --- |" + " --- |" * (len(sizes) + 1))
    for part in PARTS:
        cells = [f"{row[part]['seconds']:.4g} ({row[part]['peak_gib']:.2g})" for row in rows]
        slope = exponents(sizes, [row[part]["seconds"] for row in rows]) if len(rows) > 1 else ""
        print("|", " | ".join([part, *cells, slope]), "|")
