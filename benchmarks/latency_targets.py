"""Targets of milliseconds against targets of operations, at equal measured latency; and a microcontroller's memory.

    python benchmarks/latency_targets.py profile     measures this machine; nothing else should run
    TFDS_DATA_DIR=... python benchmarks/latency_targets.py train [--networks ...] [--seeds 0 1 2]
    python benchmarks/latency_targets.py measure     measures all files in turns, alone, and prints the tables

`kr.compress` with the same data, epochs and recipe: ResNet-8 and a small MobileNetV2 on Fashion-MNIST (networks, images
and rates of removable.py), the DS-CNN of MLPerf Tiny on made spectrograms (everyday.py), the network of the demo on
digits. `macs` has targets in operations, `macs-16` the same in widths that are multiples of 16, and `latency` targets
in time: those that `macs` has come to when the benchmark was written, so that both can be compared, and a half and a
quarter. `latency-int8` is the same for files in int8. `micro` is the DS-CNN in 20 KB of flash and 16 KB of RAM, in
int8, run by TensorFlow Lite for Microcontrollers; whole, it takes 33 and 24 KB.

Every run leaves a JSON file in benchmarks/results/latency_targets/ and is not made again; files are in
benchmarks/scratch/. Files are measured on one thread, as `measure.py` of a profile does it; latencies are shares of the
whole network's in the same number format.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import everyday
import keras
import numpy as np
import removable
from compress import cosine
from experiment import decayed, fashion_mnist, mean_sd, milestones, print_table, write_json

import keras_rmda as kr
from keras_rmda.cli import demo
from keras_rmda.datasets import digits
from keras_rmda.export.devices.measure import measured

HERE = Path(__file__).resolve().parent
RESULTS, SCRATCH = HERE / "results" / "latency_targets", HERE / "scratch" / "latency_targets"
FLASH, RAM, SPARE = 20_000, 16_000, 500
MICRO = {"quantization": "int8", "int8_io": True, "micro": True}
TARGETS: dict[str, list[tuple[str, Any]]] = {
    "resnet8": [*(("macs", t) for t in (0.5, 0.25, 0.1)), *(("latency", t) for t in (0.74, 0.525, 0.5, 0.31, 0.25))],
    "mobile": [*(("macs", t) for t in (0.5, 0.25, 0.1)), *(("latency", t) for t in (0.75, 0.525, 0.5, 0.354, 0.25))],
    "ds_cnn": [*(("macs", t) for t in (0.5, 0.25, 0.1)), *(("latency", t) for t in (0.5, 0.35, 0.25)), ("micro", None)],
    "demo": [*(("macs", t) for t in (0.5, 0.25, 0.1)), *(("latency", t) for t in (0.5, 0.25))],
}
TARGETS["resnet8"] += [("macs-16", 0.6)]  # the smallest that is possible is .55: its first layers have 16 filters
for name in ("mobile", "ds_cnn"):
    TARGETS[name] += [("macs-16", 0.5), ("macs-16", 0.25)]
for name in TARGETS:
    TARGETS[name] += [("latency-int8", 0.5), ("latency-int8", 0.25)]
EPOCHS = 12


def whole(name: str) -> keras.Model:
    """Return a network with random weights."""
    return {"ds_cnn": everyday.ds_cnn, "demo": demo.network}.get(name, removable.NETWORKS.get(name))()


def task(name: str) -> tuple[Callable[[keras.Model], None], tuple, int]:
    """Return what compiles a network, its data, and its batch size."""
    if name == "ds_cnn":
        one = everyday.TASKS[name]
        compiles = lambda model: model.compile(keras.optimizers.Adam(cosine(one)), one.loss, metrics=[one.metric])  # noqa: E731
        return compiles, one.data(*one.sizes), one.batch_size
    if name == "demo":
        train, test = digits.load(str(SCRATCH / "tfds"))
        compiles = lambda model: model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])  # noqa: E731
        return compiles, (*train, *test), demo.BATCH_SIZE
    size, loaded = removable.BATCH_SIZE, fashion_mnist()
    data = type(loaded)(*(each[: removable.IMAGES] for each in (loaded.x, loaded.y)), loaded.x_test, loaded.y_test)
    data = data.standardized(0.286, 0.353)
    steps = -(-len(data.x) // size)

    def compiles(model: keras.Model) -> None:
        rate = decayed(removable.RATE["sgd"], milestones(EPOCHS, *removable.SHARES), steps)
        model.compile(keras.optimizers.SGD(rate, momentum=0.9), removable.LOSS, metrics=["accuracy"])

    return compiles, (data.x, data.y, data.x_test, data.y_test), size


def profile(names: list[str]) -> None:
    """Measure the networks on this machine."""
    for name in names:
        folder = SCRATCH / f"{name}-profile"
        shutil.rmtree(folder, ignore_errors=True)
        begun = time.perf_counter()
        found = kr.DeviceProfile.measure(whole(name), folder)
        RESULTS.mkdir(parents=True, exist_ok=True)
        found.save(RESULTS / f"profile-{name}.json")
        print(f"{name}: {time.perf_counter() - begun:.0f} s, rounds differ by {found.spread:.1%}", flush=True)


def how(name: str, metric: str, target: Any) -> dict[str, Any]:
    """Return the arguments of `compress` that tell the runs from each other."""
    if metric == "micro":
        return {"targets": {"file_bytes": FLASH, "arena": RAM - SPARE}, "export": MICRO}
    if metric.startswith("latency"):
        known = kr.DeviceProfile.load(RESULTS / f"profile-{name}.json")
        return {"target": target, "metric": "latency", "profile": known, "export": {"quantization": format_of(metric)}}
    return {"target": target, "multiple_of": 16 if metric == "macs-16" else 1}


def format_of(metric: str) -> str | None:
    """Return the number format of the files of a kind of run."""
    return "int8" if metric == "latency-int8" else None


def train(names: list[str], seeds: list[int]) -> None:
    """Make the runs that are missing."""
    for seed in seeds:
        for name in names:
            (compiles, data, size), missing = (None, None, 0), []
            for metric, target in TARGETS[name]:
                if not (RESULTS / f"{run_name(name, metric, target, seed)}.json").exists():
                    missing.append((metric, target))
            if missing:
                compiles, data, size = task(name)
            for metric, target in missing:
                one(name, metric, target, seed, compiles, data, size)


def run_name(name: str, metric: str, target: Any, seed: int) -> str:
    """Return what the files of a run are called."""
    return f"{name}-{metric}-{target}-seed{seed}"


def one(name: str, metric: str, target: Any, seed: int, compiles: Callable, data: tuple, size: int) -> None:
    """Make a run."""
    keras.utils.set_random_seed(seed)
    model, begun = whole(name), time.perf_counter()
    compiles(model)
    result = kr.compress(model, *data[:2], epochs=EPOCHS, batch_size=size, verbose=0, **how(name, metric, target))
    seconds, path = time.perf_counter() - begun, SCRATCH / f"{run_name(name, metric, target, seed)}.tflite"
    path.parent.mkdir(parents=True, exist_ok=True)
    file = result.export(path, **(MICRO if metric == "micro" else {"quantization": format_of(metric), "batch": 1}))
    score = result.model.evaluate(*data[2:], 250, verbose=0, return_dict=True)["accuracy"]
    found = {"network": name, "metric": metric, "target": target, "seed": seed, "accuracy": float(score)}
    found |= {"macs": result.report.macs_after / result.report.macs, "bytes": file.bytes, "seconds": seconds}
    found["widths"] = [each.channels for each in kr.analyze(result.model).layers if each.channels]
    if metric.startswith("latency"):
        found["predicted"] = result.history["latency_left"][-1]
    if metric == "micro":
        found |= {"arena": file.arena_bytes, "file_accuracy": accuracy_of(path, *data[2:])}
    write_json(RESULTS / f"{run_name(name, metric, target, seed)}.json", found)
    print(name, metric, target, seed, f"{score:.4f} ({seconds:.0f} s)", flush=True)


def accuracy_of(path: Path, x: np.ndarray, y: np.ndarray) -> float:
    """Return the accuracy of a file on test data, run by TensorFlow Lite for Microcontrollers with so much memory."""
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_file(str(path), arena_size=RAM)
    about = interpreter.get_input_details(0)
    scale, zero = about["quantization_parameters"]["scales"][0], about["quantization_parameters"]["zero_points"][0]
    integers = np.clip(np.round(x / scale + zero), -128, 127).astype("int8")
    right = 0
    for sample, wanted in zip(integers, y):
        interpreter.set_input(sample[None], 0)
        interpreter.invoke()
        right += int(interpreter.get_output(0).argmax() == wanted)
    return right / len(y)


def measure(names: list[str]) -> None:
    """Measure the files that there are, in turns, and keep their times as shares of the whole network's."""
    for name in names:
        runs = [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"{name}-*.json"))]
        paths = {run_name(*(run[key] for key in ("network", "metric", "target", "seed"))): run for run in runs}
        timed = {key: run for key, run in paths.items() if run["metric"] != "micro"}
        files = [SCRATCH / f"{key}.tflite" for key in timed]
        if not files or not all(path.exists() for path in files):
            continue
        dense = {quantization: written_whole(name, quantization) for quantization in (None, "int8")}
        rounds = measured(SCRATCH, [path.name for path in (*dense.values(), *files)], 1, str)
        times = {each: min(found) for each, found in rounds.items()}
        for key, run in timed.items():
            share = times[f"{key}.tflite"] / times[dense[format_of(run["metric"])].name]
            write_json(RESULTS / f"{key}.json", run | {"latency": share})


def written_whole(name: str, quantization: str | None) -> Path:
    """Return the file of a whole network with random weights."""
    model = whole(name)
    samples = np.random.default_rng(0).normal(size=(4, *model.input_shape[1:])).astype("float32")
    given = {"batch": 1, "strip": False} | ({"representative_data": samples} if quantization else {})
    return kr.export_tflite(model, SCRATCH / f"{name}-whole-{quantization}.tflite", quantization, **given).path


def column(runs: list[dict[str, Any]], key: str) -> str:
    """Return a share over seeds in per cent, where runs have it."""
    found = [100 * each[key] for each in runs if key in each]
    return mean_sd(found) if found else ""


def table(names: list[str]) -> None:
    """Print what there is."""
    rows = []
    for name in names:
        for metric, target in TARGETS[name]:
            paths = sorted(RESULTS.glob(f"{name}-{metric}-{target}-seed*.json"))
            found = [json.loads(path.read_text()) for path in paths]
            if found:
                cells = [column(found, key) for key in ("accuracy", "macs", "predicted", "latency")]
                kilobytes = mean_sd([each["bytes"] / 1000 for each in found], 1)
                rows.append([name, metric, str(target), len(found), *cells, kilobytes])
    header = ["network", "metric", "target", "seeds", "accuracy %", "MACs %", "predicted %", "latency %", "kB"]
    print_table("Targets of milliseconds and of operations", header, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("profile", "train", "measure", "table"))
    parser.add_argument("--networks", nargs="+", choices=sorted(TARGETS), default=list(TARGETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    if options.what == "train" and "TFDS_DATA_DIR" not in os.environ:
        sys.exit("TFDS_DATA_DIR must name the folder of the prepared data set fashion_mnist.")
    if options.what == "profile":
        profile(options.networks)
    elif options.what == "train":
        train(options.networks, options.seeds)
    elif options.what == "measure":
        measure(options.networks)
    table(options.networks)
