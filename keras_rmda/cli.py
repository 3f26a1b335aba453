"""The command line: `keras-rmda demo | train | inspect | strip | export | bench`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import keras

from keras_rmda import _arrays, _checks, _compat, _files
from keras_rmda.export import benchmark_tflite, export_tflite
from keras_rmda.export.contents import read_contents
from keras_rmda.export.tflite import QUANTIZATIONS
from keras_rmda.pruning import analyze, strip
from keras_rmda.pruning.report import table

BAD_INPUT = 2
TARGET = "multiply-accumulates that are to be left: a share such as 0.25, or their number"


class UsageError(Exception):
    """Bad input, as one line that names the argument and its value."""


class Parser(argparse.ArgumentParser):
    """Reports errors as one line."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the whole usage."""
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; None for those of the process.

    Returns:
        The exit status: 0, or 2 for bad input, with one line on standard error and no file touched.
    """
    try:
        options = parser().parse_args(arguments)
        with _compat.quiet_tensorflow():
            options.run(options)
    except (UsageError, ValueError, OSError, RuntimeError, ModuleNotFoundError) as error:
        line = " ".join(str(error).split()) or type(error).__name__
        print(f"keras-rmda: error: {line}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("\nkeras-rmda: interrupted", file=sys.stderr)
        return 130
    return 0


def parser() -> Parser:
    """Return the parser of all commands."""
    top = Parser(
        prog="keras-rmda", description="Sparse training for Keras: see it work, inspect, strip, export, compare."
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    def command(name: str, run: Any, text: str) -> Parser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        sub.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
        return sub

    demo = command("demo", run_demo, "train, strip and export a small network on handwritten digits")
    demo.add_argument("--seed", type=int, default=0, help="of weights and data order (default: 0)")
    demo.add_argument("--epochs", type=int, default=None, help="of each training (default: 30)")
    demo.add_argument("--output", type=Path, default=Path("saved_models/demo"), help="folder (default: %(default)s)")
    demo.add_argument("--quiet", action="store_true", help="no progress")
    demo.add_argument("--target-macs", type=float, default=None, help=TARGET)

    training = command("train", run_train, "train a model into structure, and write it without what became zero")
    training.add_argument("model", metavar="MODEL", help="a .keras file: architecture and weights to begin with")
    training.add_argument("out", metavar="OUT", help="the .keras file to write")
    training.add_argument("--data", metavar="FILE", required=True, help=".npz with x, y, and x_test, y_test if any")
    training.add_argument("--target-macs", type=float, default=None, help=TARGET)
    training.add_argument("--epochs", type=int, default=30, help="default: %(default)s")
    training.add_argument("--batch-size", type=int, default=32, help="default: %(default)s")
    training.add_argument("--learning-rate", type=float, default=0.3, help="of the first stage (default: %(default)s)")
    training.add_argument("--strength", type=float, default=1e-4, help="of the penalty (default: %(default)s)")
    training.add_argument("--loss", help="a loss of Keras by name (default: cross entropy for integers, else mse)")
    training.add_argument("--seed", type=int, default=0, help="of the order of the data (default: 0)")
    training.add_argument("--quiet", action="store_true", help="no progress")

    inspect = command(
        "inspect", run_inspect, "show what can be removed of a model and why the rest stays, or what is in a file"
    )
    inspect.add_argument("model", metavar="MODEL", help="a .keras or .tflite file")

    stripping = command("strip", run_strip, "write the model without the channels that cannot matter")
    stripping.add_argument("model", metavar="MODEL", help="a .keras file")
    stripping.add_argument("out", metavar="OUT", help="the .keras file to write")

    export = command("export", run_export, "write a model as a TensorFlow Lite file")
    export.add_argument("model", metavar="MODEL", help="a .keras file")
    export.add_argument("out", metavar="OUT", help="the .tflite file to write")
    names = [name for name in QUANTIZATIONS if name]
    export.add_argument("--quantization", choices=names, help="default: none, float32")
    export.add_argument("--representative-data", metavar="FILE", help="inputs: .npy, or .npz by input name")
    export.add_argument("--no-strip", action="store_true", help="keep channels that cannot matter, and gates")
    export.add_argument("--sparse", action="store_true", help="store the places of nonzero weights, not zeros")
    export.add_argument("--int8-io", action="store_true", help="int8 inputs and outputs too")

    bench = command("bench", run_bench, "compare the latency of TensorFlow Lite files")
    bench.add_argument("files", metavar="FILE", nargs="+", help="a .tflite file")
    bench.add_argument("--threads", type=int, default=1, help="of each interpreter (default: 1)")
    bench.add_argument("--runs", type=int, default=100, help="measurements of each file (default: 100)")
    return top


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
    report = read_contents(options.model) if is_tflite else analyze(load(options.model))
    print(json.dumps(report.to_dict()) if options.json else report)


def run_strip(options: argparse.Namespace) -> None:
    """`keras-rmda strip`."""
    out = _files.check_target(options.out, ".keras", "OUT")
    model = load(options.model)
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
    how = {"strip": not options.no_strip, "sparse": options.sparse, "int8_io": options.int8_io}
    file = export_tflite(load(options.model), options.out, options.quantization, data, **how)
    figures = asdict(file) | {"path": str(file.path)}
    if options.json:
        print(json.dumps(figures))
        return
    cells = {key: f"{value:.3g}" if isinstance(value, float) else value for key, value in figures.items()}
    shown = {key.replace("_", " "): cell for key, cell in cells.items() if key not in ("operators", "not_micro")}
    print(table(tuple(shown), [tuple(shown.values())]))


def run_bench(options: argparse.Namespace) -> None:
    """`keras-rmda bench`."""
    results = benchmark_tflite(options.files, threads=options.threads, runs=options.runs)
    rows = [
        {
            "path": str(result.path), "bytes": result.bytes, "median_ms": result.median,
            "p10_ms": result.percentile(10), "p90_ms": result.percentile(90),
            "times_faster_than_first": results[0].median / result.median,
        }
        for result in results
    ]  # fmt: skip
    if options.json:
        print(json.dumps({"threads": options.threads, "runs": options.runs, "files": rows}))
        return
    print(
        table(tuple(rows[0]), [tuple(v if isinstance(v, (int, str)) else f"{v:.3f}" for v in r.values()) for r in rows])
    )


def load(path: str) -> keras.Model:
    """Load a `.keras` file.

    Raises:
        UsageError: if it is missing or foreign.
    """
    if not Path(path).is_file():
        raise UsageError(f"MODEL: there is no such file. Received: {path!r}")
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises many types for foreign files
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"MODEL cannot be loaded as a .keras file. Received: {path!r} ({reason})") from None
