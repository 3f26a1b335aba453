"""What the commands of the command line do."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import keras

from keras_rmda import _arrays, _checks, _files
from keras_rmda._loading import load
from keras_rmda.export import benchmark_tflite, export_tflite
from keras_rmda.export.benchmark import Ratio
from keras_rmda.export.contents import read_contents
from keras_rmda.optimizers.models import optimizers_of
from keras_rmda.pruning import analyze, strip
from keras_rmda.pruning.report import table


class UsageError(Exception):
    """Bad input, as one line that names the argument and its value."""


def load_structured(path: str) -> keras.Model:
    """Load a model with its optimizer, and let it hold the zeros that only the optimizer has."""
    model = load(path, compile=True)
    for optimizer in optimizers_of(model):
        if optimizer.hides_zeros():
            optimizer.project(model)
            print(f"keras-rmda: {path}: took the zeros from its optimizer {optimizer.name!r}", file=sys.stderr)
    return model


def run_demo(options: argparse.Namespace) -> None:
    """`keras-rmda demo`."""
    epochs = _checks.whole("--epochs", options.epochs, 1) if options.epochs is not None else None
    if options.target_macs is not None:
        _checks.real("--target-macs", options.target_macs, open_minimum=True)
    _checks.whole("--seed", options.seed)
    nearest = next(folder for folder in (options.output, *options.output.absolute().parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise UsageError(f"--output cannot be written. Received: {str(options.output)!r}")
    if keras.backend.backend() != "tensorflow":
        raise UsageError(f"the demo needs KERAS_BACKEND=tensorflow. Received: {keras.backend.backend()!r}")
    try:
        import matplotlib  # noqa: F401
        import sklearn  # noqa: F401
        import tensorflow_datasets  # noqa: F401
    except ImportError as error:
        raise UsageError(f"the demo needs the extra packages of keras-rmda[demo]: {error}") from None
    from keras_rmda import demo

    say = (lambda text: None) if options.quiet else demo.line_printer()
    rows = demo.run(options.output, options.seed, epochs or demo.EPOCHS, say, options.target_macs)
    if not options.quiet:
        say(f"wrote {options.output}: models, report.json, history.json, demo.png\n")
    if options.json:
        print((options.output / "report.json").read_text(), end="")
    else:
        print(demo.text_table(rows))


def run_train(options: argparse.Namespace) -> None:
    """`keras-rmda train`."""
    from keras_rmda import train

    out = _files.check_target(options.out, ".keras", "OUT")
    if options.target_macs is not None:
        _checks.real("--target-macs", options.target_macs, open_minimum=True)
    _checks.whole("--epochs", options.epochs, 3)
    _checks.whole("--batch-size", options.batch_size, 1)
    _checks.real("--learning-rate", options.learning_rate, open_minimum=True)
    _checks.real("--strength", options.strength, open_minimum=True)
    data, test = _arrays.read_pairs("--data", options.data)
    model = load(options.model)
    keras.utils.set_random_seed(_checks.whole("--seed", options.seed))
    loss = options.loss or train.default_loss(model, data[1])
    say = [] if options.quiet else [train.Progress(lambda text: print(text, file=sys.stderr, flush=True))]
    train.train(
        *(model, data, loss, options.target_macs, options.epochs, options.batch_size, options.learning_rate),
        strength=options.strength, callbacks=say, validation_data=test,
    )  # fmt: skip
    report, small = analyze(model), strip(model)
    scores = model.evaluate(*(test or data), verbose=0, return_dict=True)
    with _files.replacing(out) as temporary:
        small.save(temporary)
    figures = {"parameters": report.parameters, "parameters_after": report.parameters_after}
    figures |= {"macs": report.macs, "macs_after": report.macs_after, "bytes": out.stat().st_size, "path": str(out)}
    figures |= {f"test_{key}" if test else key: value for key, value in scores.items()}
    if options.json:
        print(json.dumps(figures))
        return
    print(table(tuple(figures), [tuple(f"{v:.4f}" if isinstance(v, float) else v for v in figures.values())]))


def run_inspect(options: argparse.Namespace) -> None:
    """`keras-rmda inspect`."""
    is_tflite = Path(options.model).suffix == ".tflite"
    report = read_contents(options.model) if is_tflite else analyze(load_structured(options.model))
    print(json.dumps(report.to_dict()) if options.json else report)


def run_strip(options: argparse.Namespace) -> None:
    """`keras-rmda strip`."""
    out = _files.check_target(options.out, ".keras", "OUT")
    model = load_structured(options.model)
    report = analyze(model)
    if report.parameters_after == report.parameters:
        raise UsageError(f"no channel can be removed; `keras-rmda inspect` tells why. Received: {options.model!r}")
    small = strip(model)
    with _files.replacing(out) as temporary:
        small.save(temporary)
    figures = {"parameters": report.parameters, "parameters_after": report.parameters_after}
    figures |= {"macs": report.macs, "macs_after": report.macs_after, "removed_channels": report.removable}
    figures |= {"bytes": out.stat().st_size, "path": str(out)}
    if options.json:
        print(json.dumps(figures))
        return
    before, after = ("before", report.parameters, report.macs), ("after", report.parameters_after, report.macs_after)
    print(table((str(out), "parameters", "MACs"), [before, after]))


def run_export(options: argparse.Namespace) -> None:
    """`keras-rmda export`."""
    _files.check_target(options.out, ".tflite", "OUT")
    data = _arrays.read("--representative-data", options.representative_data) if options.representative_data else None
    how = {"strip": not options.no_strip, "sparse": options.sparse, "int8_io": options.int8_io, "micro": options.micro}
    how["batch"] = options.batch
    file = export_tflite(load_structured(options.model), options.out, options.quantization, data, **how)
    figures = asdict(file) | {"path": str(file.path)}
    if options.json:
        print(json.dumps(figures))
        return
    cells = {key: f"{value:.3g}" if isinstance(value, float) else value for key, value in figures.items()}
    shown = {key.replace("_", " "): cell for key, cell in cells.items() if not isinstance(cell, (dict, tuple))}
    print(table(tuple(shown), [tuple(shown.values())]))


def run_bench(options: argparse.Namespace) -> None:
    """`keras-rmda bench`."""
    results = benchmark_tflite(options.files, threads=options.threads, runs=options.runs)
    ratios = [result.times_faster_than(results[0]) for result in results]
    rows = [
        {
            "path": str(result.path), "bytes": result.bytes, "median_ms": result.median,
            "p10_ms": result.percentile(10), "p90_ms": result.percentile(90),
            "times_faster_than_first": ratio.value, "low": ratio.low, "high": ratio.high,
        }
        for result, ratio in zip(results, ratios)
    ]  # fmt: skip
    if options.json:
        print(json.dumps({"threads": options.threads, "runs": options.runs, "files": rows}))
        return
    shown = [tuple(v if isinstance(v, (int, str)) else f"{v:.3f}" for v in row.values()) for row in rows]
    print(table(tuple(key.replace("_", " ") for key in rows[0]), shown))
    for result, ratio in zip(results[1:], ratios[1:]):
        print(sentence(result.path, results[0].path, ratio))


def run_report(options: argparse.Namespace) -> None:
    """`keras-rmda report`."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError(f"the report needs the extra packages of keras-rmda[demo]: {error}") from None
    from keras_rmda import page

    _checks.whole("--runs", options.runs, 1)
    for path in options.models:
        if Path(path).suffix not in (".keras", ".tflite") or not Path(path).is_file():
            raise UsageError(f"MODEL must be a .keras or .tflite file that exists. Received: {path!r}")
    pairs = _arrays.read_pairs("--data", options.data) if options.data else (None, None)
    entries = page.write_page(options.out, options.models, pairs[1] or pairs[0], options.log, options.runs)
    if options.json:
        print(json.dumps({"path": options.out, "models": [asdict(entry) for entry in entries]}))
    else:
        print(f"wrote {options.out}: {len(entries)} models")


def sentence(path: Path, first: Path, ratio: Ratio) -> str:
    """Say who is faster and by how much."""
    if ratio.low <= 1.0 <= ratio.high:
        return f"{path} and {first} are equally fast, as far as these runs tell"
    times, low, high = (ratio.value, ratio.low, ratio.high)
    word = "faster"
    if times < 1.0:
        times, low, high, word = 1.0 / times, 1.0 / high, 1.0 / low, "slower"
    return f"{path} is {times:.2f} times {word} than {first} ({low:.2f} to {high:.2f} with 95 % confidence)"
