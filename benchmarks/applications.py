"""Strip every network of keras.applications: what goes, whether the outputs stay, seconds and memory.

    python benchmarks/applications.py [--only NAME ...] [--dtype float64]

Weights and batch statistics are random. `unread`: a random half of the channels that can be cut is not read by any of
its readers. `unwritten`: a random half is written by nobody, that is, all kernels, biases and scales that write it are
zero. Both along residual sums, gates and concatenations, as the atoms of the converter say. Channels that a
normalization over channels mixes are left alone (ConvNeXt). Each network runs in a process of its own; results are
kept in `benchmarks/results/applications/` and not made again; the tables go to docs/applications.md.

With `--export` the networks with unread halves are stripped and written as float32 files, whose outputs are compared
with those of the networks as they were.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_rmda as kr
from keras_rmda.channels.simple import Mixes
from keras_rmda.channels.sites import Site
from keras_rmda.export.interpreter import Interpreter
from keras_rmda.structure.inputs import random_inputs
from keras_rmda.structure.trace import Trace, trace
from keras_rmda.structure.verification import difference

HERE = Path(__file__).resolve().parent
RESULTS, TABLE = HERE / "results" / "applications", HERE.parent / "docs" / "applications.md"
NAMES = sorted(name for name in vars(keras.applications) if name[0].isupper())
SIZE = 96
CASES = ("unread", "unwritten")
SHOWN = (
    "parameters",
    "parameters_after",
    "chosen",
    "removed",
    "difference",
    "strip_seconds",
    "export_seconds",
    "error",
)
TEXT = """\
Made by `python benchmarks/applications.py`, which says how: a random half of the channels that can be cut is unread or
unwritten, images of {size} x {size} (ConvNeXt in 64 bit: 32 x 32, since its convolutions take minutes there), 2 CPU
cores beside other jobs. `chosen`: written channels whose zeros were made; `gone`: what `strip` removed.
`difference`: `max|a - b| / max(1e-3, max|a|)` of the outputs. Seconds are those of `strip`, which runs both models.
All cases in 32 bit were repeated in November 2026: the same channels, parameters and operations, differences below
7e-7.
"""

FILES = """\
## Files

Made by `python benchmarks/applications.py --export`: the networks with unread halves, stripped and exported as float32.
Errors are those of the outputs, relative to the largest: of the file to the network before `strip`, and to the stripped
one. Both take 4 random images.
"""


def network(name: str, seed: int = 0) -> keras.Model:
    """Return a network of keras.applications for small images, with random weights and statistics."""
    keras.utils.set_random_seed(seed)
    size = 32 if name.startswith("ConvNeXt") and keras.config.floatx() == "float64" else SIZE
    model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classifier_activation=None)
    random = np.random.default_rng(seed)
    for weight in model.weights:
        if "moving_mean" in weight.path or "beta" in weight.path or "bias" in weight.path:
            weight.assign(random.normal(scale=0.1, size=weight.shape))
        elif "moving_variance" in weight.path or "gamma" in weight.path:
            weight.assign(random.uniform(0.5, 1.5, size=weight.shape))
    return model


def half(traced: Trace, seed: int = 0) -> np.ndarray:
    """Return for each atom whether it is chosen: a random half of those that can be cut."""
    free = np.ones(len(traced.ties.parent), dtype=bool)
    for atoms, _ in traced.pinned:
        free[traced.ties.find(atoms)] = False
    for call in traced.calls:
        if isinstance(call.site.rule, Mixes):
            free[traced.ties.find(call.inputs[0].atoms)] = False
    chosen = free & (np.random.default_rng(seed).random(free.size) < 0.5)
    pairs = [(site.own["p"], site.own["q"]) for site in traced.sites.values() if "p" in site.own]
    before = -1
    while before != (before := int(chosen.sum())):
        for read, written in pairs:  # a depthwise convolution has its inputs and outputs in common
            roots = traced.ties.find(read), traced.ties.find(written)
            both = chosen[roots[0]].all(axis=1) & free[roots[1]].all(axis=1)
            chosen[roots[0]], chosen[roots[1]] = both[:, None], both[:, None]
    return chosen


def zero(traced: Trace, chosen: np.ndarray, case: str) -> None:
    """Zero what reads, or what writes, the chosen atoms."""
    letters = {"unread": "ip", "unwritten": "oqc"}[case]
    for site in traced.sites.values():
        for name, variable in site.weights():
            axes = site.axes.get(name, "")
            if not any(letter in axis for axis in axes for letter in letters) or name == "moving_variance":
                continue
            if name == "moving_mean" and site.layer.gamma is not None:  # without it, 0 - mean would be left
                continue
            value = np.array(keras.ops.convert_to_numpy(variable))
            for letter in letters:
                if letter in site.own:
                    value = site.only(axes, value, letter, ~chosen[traced.ties.find(site.own[letter])].reshape(-1))
            variable.assign(value)


def cut_everywhere(site: Site, traced: Trace, chosen: np.ndarray) -> int:
    """Return how many chosen channels a layer writes."""
    return int(chosen[traced.ties.find(site.own["o"])].sum()) if "o" in site.own and not site.opaque else 0


def measure(name: str, case: str) -> dict[str, Any]:
    """Return what stripping a network took away, how long it took and how much the outputs differ."""
    model = network(name)
    traced = trace(model)
    chosen = half(traced)
    zero(traced, chosen, case)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    report = kr.analyze(model)
    analyzed = time.perf_counter()
    small = kr.strip(model, tolerance=1.0)
    stripped = time.perf_counter()
    inputs = random_inputs(model)[0]
    return {
        "parameters": report.parameters,
        "parameters_after": small.count_params(),
        "macs": report.macs,
        "macs_after": report.macs_after,
        "chosen": sum(cut_everywhere(site, traced, chosen) for site in traced.sites.values()),
        "removed": report.removable,
        "opaque": report.opaque,
        "difference": difference(model(inputs, training=False), small(inputs, training=False)),
        "analyze_seconds": analyzed - start,
        "strip_seconds": stripped - analyzed,
        "memory_bytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024,
        "model_bytes": sum(w.size * w.dtype.itemsize for w in model.get_weights()),
        "dtype": keras.config.floatx(),
        "versions": {"keras": keras.__version__, "numpy": np.__version__},
    }


def exported(name: str) -> dict[str, Any]:
    """Return how far the file of a stripped network is from the network, or why there is none."""
    model = network(name)
    traced = trace(model)
    zero(traced, half(traced), "unread")
    small = kr.strip(model, tolerance=1.0)
    inputs = random_inputs(model, batch=4)[0]
    result: dict[str, Any] = {"parameters": model.count_params(), "parameters_after": small.count_params()}
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        try:
            file = kr.export_tflite(small, Path(folder) / "model.tflite", strip=False)
        except RuntimeError as error:
            return result | {"error": str(error)}
        result |= {"export_seconds": time.perf_counter() - start, "bytes": file.bytes, "operators": file.operators}
        outputs = Interpreter(file.path).predict(inputs)
    expected = model(inputs, training=False)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return result | {
        "difference": difference(expected, outputs),
        "difference_to_stripped": file.max_difference,
        "difference_of_strip": difference(expected, small(inputs, training=False)),
        "memory_bytes": memory,
    }


def write_table(results: dict[tuple[str, str, str], dict[str, Any]]) -> None:
    """Write docs/applications.md."""
    lines = [
        "# The networks of keras.applications",
        "",
        *TEXT.format(size=SIZE).splitlines(),
        "",
        "| network | zeros | parameters | after | MACs | after | chosen | gone | error 32 bit | 64 bit | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in NAMES:
        for case in CASES:
            run = results.get((name, case, "float32"))
            if run is None:
                continue
            double = results.get((name, case, "float64"))
            exact = f"{double['difference']:.1e}" if double else ""
            lines.append(
                f"| {name} | {case} | {run['parameters']:,} | {run['parameters_after']:,} | {run['macs']:,} | "
                f"{run['macs_after']:,} | {run['chosen']:,} | {run['removed']:,} | {run['difference']:.1e} | "
                f"{exact} | {run['strip_seconds']:.1f} |"
            )
    lines += ["", *FILES.splitlines(), ""]
    lines += ["| network | bytes | error of strip and file | of the file alone |", "|---|---|---|---|"]
    for name in NAMES:
        run = results.get((name, "exported", "float32"))
        if run and "error" in run:
            lines.append(f"| {name} | none: {run['error']} | | |")
        elif run:
            lines.append(
                f"| {name} | {run['bytes']:,} | {run['difference']:.1e} | {run['difference_to_stripped']:.1e} |"
            )
    TABLE.write_text("\n".join(lines) + "\n")


def main() -> None:
    """Measure what is missing, each network in a process of its own, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME")
    parser.add_argument("--dtype", nargs="+", choices=["float32", "float64"], default=["float32", "float64"])
    parser.add_argument("--export", action="store_true", help="write files of the stripped networks, in 32 bit")
    parser.add_argument("--here", metavar="CASE", choices=(*CASES, "exported"), help="measure one case in this process")
    arguments = parser.parse_args()
    if arguments.here:
        keras.config.set_floatx(arguments.dtype[0])
        name, case = arguments.only[0], arguments.here
        print(json.dumps(exported(name) if case == "exported" else measure(name, case)))
        return
    RESULTS.mkdir(parents=True, exist_ok=True)
    dtypes, cases = (["float32"], ["exported"]) if arguments.export else (arguments.dtype, CASES)
    for dtype, name, case in itertools.product(dtypes, arguments.only, cases):
        path = RESULTS / f"{name}-{case}-{dtype}.json"
        if not path.exists():
            command = [sys.executable, __file__, "--only", name, "--dtype", dtype, "--here", case]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"{name} {case} {dtype} failed: {done.stderr[-500:]}", flush=True)
                continue
            path.write_text(done.stdout.splitlines()[-1] + "\n")
        run = json.loads(path.read_text())
        print(name, case, dtype, {key: run[key] for key in SHOWN if key in run}, flush=True)
        write_table(saved())


def saved() -> dict[tuple[str, str, str], dict[str, Any]]:
    """Return all results on disk."""
    return {tuple(path.stem.split("-")): json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}


if __name__ == "__main__":
    main()
