"""How long `kr.compress` takes, cutting as it goes or not, over a dense training of equal epochs.

    python benchmarks/compress_time.py [--tasks resnet20 ...] [--repeats 3] [--once]

The trainings are short, so that a trace weighs much: `steps` compares the steps alone, with the decisions between them,
and `always` cuts whatever can be cut after every epoch, whether that pays or not. Both are nearer to long trainings.

Every run is a JSON file under benchmarks/results/compress_time/, which is not made again; methods alternate, and
`--once` makes the next run only. Images and texts are random numbers: what is learned from them does not matter here.
A quarter of the multiply-accumulates is left. Seconds are those of the whole call, with all traces and looks; `CPU` are
those of the processors, which other work on the machine changes less. `training_macs` are those of the steps, as a
share of dense training's.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from experiment import print_table, write_json
from keras import layers as L

import keras_rmda as kr
from keras_rmda.compression import cutting

RESULTS = Path(__file__).resolve().parent / "results" / "compress_time"
METHODS = ("dense", "whole", "shrink", "always")
"""A dense training, `compress(shrink=False)`, `compress`, and the same with cuts that cost nothing."""


def resnet20() -> keras.Model:
    """Return the ResNet of CIFAR-10 with twenty layers."""

    def convolution(n: int, size: int, strides: int, x: Any) -> Any:
        return L.BatchNormalization()(L.Conv2D(n, size, strides, padding="same", use_bias=False)(x))

    inputs = L.Input((32, 32, 3))
    x = L.ReLU()(convolution(16, 3, 1, inputs))
    for n, strides in ((16, 1), (32, 2), (64, 2)):
        for block in range(3):
            y = L.ReLU()(convolution(n, 3, 1 if block else strides, x))
            y = convolution(n, 3, 1, y)
            x = x if block or strides == 1 else convolution(n, 1, strides, x)
            x = L.ReLU()(L.add([x, y]))
    return keras.Model(inputs, L.Dense(10, "softmax")(L.GlobalAveragePooling2D()(x)), name="resnet20")


def mobilenet() -> keras.Model:
    """Return MobileNetV2 for images of 96 pixels."""
    return keras.applications.MobileNetV2((96, 96, 3), weights=None, classes=10)


def transformer() -> keras.Model:
    """Return four blocks of a transformer for texts of 64 tokens."""
    inputs = L.Input((64,), dtype="int32")
    x = L.Embedding(1000, 128)(inputs)
    for _ in range(4):
        y = L.LayerNormalization()(x)
        x = L.add([x, L.MultiHeadAttention(8, 16)(y, y)])
        y = L.Dense(512, "gelu")(L.LayerNormalization()(x))
        x = L.add([x, L.Dense(128)(y)])
    x = L.GlobalAveragePooling1D()(L.LayerNormalization()(x))
    return keras.Model(inputs, L.Dense(10, "softmax")(x), name="transformer")


def images(size: int) -> Callable[[int], np.ndarray]:
    """Return what makes so many images."""
    return lambda n: np.random.default_rng(0).normal(size=(n, size, size, 3)).astype("float32")


def texts(n: int) -> np.ndarray:
    """Return so many texts."""
    return np.random.default_rng(0).integers(0, 1000, (n, 64))


PAYS = cutting.PAYS

TASKS: dict[str, tuple[Callable, Callable, int, int]] = {
    "resnet20": (resnet20, images(32), 8192, 128),
    "mobilenet": (mobilenet, images(96), 1024, 32),
    "transformer": (transformer, texts, 4096, 64),
}
"""Network, data, samples and batch size."""

EPOCHS = 20


def run(name: str, method: str) -> dict[str, Any]:
    """Return the figures of one training."""
    network, data, count, batch_size = TASKS[name]
    keras.utils.set_random_seed(0)
    model, x = network(), data(count)
    y = np.random.default_rng(1).integers(0, 10, count)
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    cost, begun, used = kr.callbacks.TrainingCost(), time.perf_counter(), time.process_time()
    how = {"epochs": EPOCHS, "batch_size": batch_size, "verbose": 0, "callbacks": [cost]}
    if method == "dense":
        history = model.fit(x, y, **how).history
    else:
        cutting.PAYS = 0.0 if method == "always" else PAYS
        history = kr.compress(model, x, y, target=0.25, shrink=method != "whole", **how).history
    seconds = time.perf_counter() - begun
    spent = {"seconds": seconds, "cpu_seconds": time.process_time() - used}
    return spent | {key: history[key] for key in ("training_macs", "seconds_per_step")}


def main() -> None:
    """Make the runs that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=sorted(TASKS), default=list(TASKS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--once", action="store_true", help="make the next run only")
    parser.add_argument("--table", action="store_true", help="print what there is")
    options = parser.parse_args()
    for repeat in range(options.repeats) if not options.table else ():
        for name in options.tasks:
            for method in METHODS:
                path = RESULTS / f"{name}-{method}-{repeat}.json"
                if not path.exists():
                    found = {"task": name, "method": method, "repeat": repeat} | run(name, method)
                    write_json(path, found)
                    print(name, method, f"{found['seconds']:.1f} s", f"{found['training_macs'][-1]:.3f}", flush=True)
                    if options.once:
                        return
    table(options)


def table(options: argparse.Namespace) -> None:
    """Print medians: seconds, as a share of dense training's, and the operations of all steps."""
    runs, rows = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))], []
    for name in options.tasks:
        of = {method: [each for each in runs if (each["task"], each["method"]) == (name, method)] for method in METHODS}
        dense = [median(x) for x in zip(*map(figures, of["dense"]))] if of["dense"] else [math.nan] * 4
        whole, processors, alone, _ = dense
        for method in METHODS:
            if found := of[method]:
                seconds, cpu, steps, macs = (median(x) for x in zip(*map(figures, found)))
                shares = [f"{seconds / whole:.2f}", f"{cpu / processors:.2f}", f"{steps / alone:.2f}"]
                rows.append([name, method, len(found), f"{seconds:.1f}", *shares, f"{macs:.3f}"])
    header = ["task", "method", "runs", "seconds", "share", "CPU", "steps", "operations"]
    print_table("compress over dense training", header, rows)


def figures(run: dict[str, Any]) -> tuple[float, ...]:
    """Return seconds of a run, of the processors, of a step in the mean over the epochs, and its operations."""
    return run["seconds"], run["cpu_seconds"], mean(run["seconds_per_step"]), run["training_macs"][-1]


if __name__ == "__main__":
    main()
