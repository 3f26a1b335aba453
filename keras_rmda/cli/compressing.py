"""`keras-rmda compress`."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import keras

from keras_rmda.cli.common import check_drawing, shown_number, to_standard_error
from keras_rmda.compression import Compressed, compress
from keras_rmda.compression.progress import Progress
from keras_rmda.export import benchmark_tflite, export_tflite
from keras_rmda.export.devices import DeviceProfile, EnergyTable
from keras_rmda.platform import arrays, checks, files
from keras_rmda.platform.loading import load
from keras_rmda.structure.pictures import table

RUNS = 100
"""Measurements of the latency of a file."""


def run_compress(options: argparse.Namespace) -> None:
    """`keras-rmda compress`."""
    out = files.check_target(options.out, ".keras", "OUT")
    if options.quantization is not None:
        files.check_target(out.with_suffix(".tflite"), ".tflite", "OUT")
    if options.target is not None:
        options.target = number_or_text(options.target)
    if options.accuracy_loss is not None:
        checks.real("--accuracy-loss", options.accuracy_loss)
    checks.whole("--epochs", options.epochs, 2)
    checks.whole("--batch-size", options.batch_size, 1)
    if options.report is not None:
        check_drawing()
        files.check_target(options.report, ".html", "--report")
    data, test = arrays.read_pairs("--data", options.data)
    model = load(options.model, compile=True)
    keras.utils.set_random_seed(checks.whole("--seed", options.seed))
    result = compress(
        model, *data, target=options.target, metric=options.metric, accuracy_loss=options.accuracy_loss,
        epochs=options.epochs, batch_size=options.batch_size, validation_data=test, loss=options.loss,
        export=export_of(options), profile=profile_of(options),
        directory=options.directory, verbose=0, callbacks=() if options.quiet else [Progress(say=to_standard_error)],
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        first = kept(Path(options.model), out, folder) if options.report is not None else None
        with files.replacing(out) as temporary:
            result.model.save(temporary)
        figures = figures_of(options, model, result, out, data, test, first)
    if options.json:
        print(json.dumps(figures))
        return
    shown = [(name, *map(shown_number, pair)) for name, *pair in result.rows()]
    shown += [(key, *map(shown_number, figures[key])) for key in ("bytes", "latency_ms") if key in figures]
    print(table((str(out), "before", "after"), shown))


def kept(path: Path, out: Path, folder: str) -> Path:
    """Return where the model that was given stays: in a copy if what is written takes its place."""
    if not out.exists() or not out.samefile(path):
        return path
    return Path(shutil.copy2(path, Path(folder) / f"{path.stem}-before{path.suffix}"))


def figures_of(
    options: argparse.Namespace,
    model: keras.Model,
    result: Compressed,
    out: Path,
    data: tuple,
    test: tuple | None,
    first: Path | None,
) -> dict[str, Any]:
    """Return what the command tells, after it has written the page whose first model is `first`."""
    batch = 1 if options.metric == DeviceProfile.metric else None  # as in the files of a profile
    figures = {"path": str(out), "scored_on": "test data" if test else "training data"}
    report = result.report
    figures |= {"before": result.before, "after": result.after}
    figures |= {"parameters": (report.parameters, report.parameters_after), "macs": (report.macs, report.macs_after)}
    try:
        figures |= files_of(model, result, out, options.quantization, batch)
    except (RuntimeError, ValueError) as error:
        if options.quantization is not None:
            raise
        to_standard_error(f"bytes and latency are not measured: {checks.first_line(error)}")
    if options.report is not None:
        from keras_rmda.cli import page

        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "history.json"
            log.write_text(json.dumps(result.history))
            scored = test or data
            page.write_page(options.report, [first, out], None if isinstance(scored[1], dict) else scored, log)
        figures["report"] = options.report
    return figures


def number_or_text(target: str) -> float | str:
    """Return a target as a number where it is one, else as it is: with a unit."""
    try:
        return checks.real("--target", float(target), open_minimum=True)
    except ValueError:
        if target.replace(".", "").replace("-", "").isdigit():
            raise
        return target


def export_of(options: argparse.Namespace) -> dict[str, Any] | None:
    """Return how the file is written that a target is of."""
    is_of_file = options.metric in checks.FILE_METRICS and options.quantization not in (None, "float32")
    return {"quantization": options.quantization} if is_of_file else None


def profile_of(options: argparse.Namespace) -> DeviceProfile | EnergyTable | None:
    """Return what tells times, or energies, of a device."""
    if options.profile is None:
        return None
    return (EnergyTable if options.metric == EnergyTable.metric else DeviceProfile).load(options.profile)


def files_of(
    model: keras.Model, result: Compressed, out: Path, quantization: str | None, batch: int | None
) -> dict[str, Any]:
    """Return sizes and latencies of both models as TensorFlow Lite files; write the small one beside OUT if asked."""
    if keras.backend.backend() != "tensorflow":
        return {}
    with tempfile.TemporaryDirectory() as folder:
        whole = export_tflite(model, Path(folder) / "whole.tflite", strip=False, batch=batch)
        path = Path(folder) / "small.tflite" if quantization is None else out.with_suffix(".tflite")
        small = result.export(path, None if quantization == "float32" else quantization, batch=batch)
        first, second = benchmark_tflite([whole.path, small.path], runs=RUNS)
    figures = {"bytes": (whole.bytes, small.bytes), "latency_ms": (first.median, second.median)}
    return figures | ({} if quantization is None else {"tflite": str(path)})
