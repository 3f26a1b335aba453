"""The arguments of the command line, which are parsed before Keras is imported: `--help` is there at once."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from keras_rmda.platform.checks import METRICS, QUANTIZATIONS

BAD_INPUT = 2
TARGET = "multiply-accumulates that are to be left: a share such as 0.25, or their number"


class UsageError(Exception):
    """Bad input, as one line that names the argument and its value."""


class Parser(argparse.ArgumentParser):
    """Reports errors as one line."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the whole usage."""
        raise UsageError(f"{message} (see {self.prog} --help)")


def complain(error: Exception) -> int:
    """Print an error as one line, and return the exit status."""
    line = " ".join(str(error).split()) or type(error).__name__
    print(f"keras-rmda: error: {line}", file=sys.stderr)
    return BAD_INPUT


def parser() -> Parser:
    """Return the parser of all commands."""
    top = Parser(
        prog="keras-rmda", description="Sparse training for Keras: see it work, inspect, strip, export, compare."
    )
    chosen = top.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    def command(name: str, text: str) -> Parser:
        sub = chosen.add_parser(name, help=text, description=text)
        sub.set_defaults(command=name)
        sub.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
        return sub

    demo = command("demo", "train, strip and export a small network on handwritten digits")
    demo.add_argument("--seed", type=int, default=0, help="of weights and data order (default: 0)")
    demo.add_argument("--epochs", type=int, default=None, help="of each training (default: 30)")
    demo.add_argument("--output", type=Path, default=Path("saved_models/demo"), help="folder (default: %(default)s)")
    demo.add_argument("--quiet", action="store_true", help="no progress")
    demo.add_argument("--target-macs", type=float, default=None, help=TARGET)

    small = command("compress", "train a model until a share of it is left, and write that")
    small.add_argument("model", metavar="MODEL", help="a .keras file, fresh or trained, compiled or not")
    small.add_argument("out", metavar="OUT", help="the .keras file to write")
    small.add_argument("--data", metavar="FILE", required=True, help=".npz with x, y, and x_test, y_test if any")
    small.add_argument(
        "--target", default=None, help='share that is to be left, a number, or "2 ms", "40 KB" (default: .25)'
    )
    small.add_argument("--metric", choices=METRICS, default="macs", help="of what (default: %(default)s)")
    small.add_argument(
        "--profile", metavar="FILE", help="of the device, for --metric latency; a table for energy: .json"
    )
    small.add_argument(
        "--accuracy-loss", type=float, default=None, help="as small as it gets, losing no more than this of its score"
    )
    small.add_argument("--epochs", type=int, default=30, help="of everything together (default: %(default)s)")
    small.add_argument("--batch-size", type=int, default=32, help="default: %(default)s")
    small.add_argument("--loss", help="a loss of Keras by name (default: the model's; cross-entropy for integers; mse)")
    small.add_argument(
        "--quantization", choices=["float32", *(name for name in QUANTIZATIONS if name)],
        help="write a .tflite file beside OUT too",
    )  # fmt: skip
    small.add_argument("--report", metavar="FILE", help="write a page about both models too: .html")
    small.add_argument("--directory", metavar="FOLDER", help="for copies, with which a run that is killed goes on")
    small.add_argument("--seed", type=int, default=0, help="of the order of the data (default: 0)")
    small.add_argument("--quiet", action="store_true", help="no progress")

    inspect = command(
        "inspect",
        "show what can be removed of a model and why the rest stays, or what is in a file",
    )
    inspect.add_argument("model", metavar="MODEL", help="a .keras or .tflite file")

    inspect.add_argument("--profile", metavar="FILE", help="of a device: show milliseconds of the layers, too")

    stripping = command("strip", "write the model without the channels that cannot matter")
    stripping.add_argument("model", metavar="MODEL", help="a .keras file")
    stripping.add_argument("out", metavar="OUT", help="the .keras file to write")

    export = command("export", "write a model as a TensorFlow Lite file")
    export.add_argument("model", metavar="MODEL", help="a .keras file")
    export.add_argument("out", metavar="OUT", help="the .tflite file to write")
    names = [name for name in QUANTIZATIONS if name]
    export.add_argument("--quantization", choices=names, help="default: none, float32")
    export.add_argument("--representative-data", metavar="FILE", help="inputs: .npy, or .npz by input name")
    export.add_argument("--no-strip", action="store_true", help="keep channels that cannot matter, and gates")
    export.add_argument("--sparse", action="store_true", help="store the places of nonzero weights, not zeros")
    export.add_argument("--int8-io", action="store_true", help="int8 inputs and outputs too")
    export.add_argument("--batch", type=int, help="samples at once (default: any number, or 1 where it must be fixed)")
    export.add_argument("--micro", action="store_true", help="a file that runs on microcontrollers, or an error")

    profile = command("profile", "measure how long the layers of a model take on a device, for targets of latency")
    profile.add_argument("model", metavar="MODEL", help="a .keras file")
    profile.add_argument("--output", metavar="FOLDER", type=Path, required=True, help="for the files and the script")
    profile.add_argument("--here", action="store_true", help="measure on this machine, now")
    profile.add_argument("--threads", type=int, default=1, help="of the interpreter, with --here (default: 1)")
    profile.add_argument(
        "--quantization", choices=["float32", *(name for name in QUANTIZATIONS if name)], action="append",
        help="a number format; may be given several times (default: float32 and int8)",
    )  # fmt: skip

    profile.add_argument("--profile", metavar="FILE", help="of the device: measure only what this one lacks")

    bench = command("bench", "compare the latency of TensorFlow Lite files")
    bench.add_argument("files", metavar="FILE", nargs="+", help="a .tflite file")
    bench.add_argument("--threads", type=int, default=1, help="of each interpreter (default: 1)")
    bench.add_argument("--profile", metavar="FILE", help="of this device: show what it predicts, too")
    bench.add_argument("--runs", type=int, default=100, help="measurements of each file (default: 100)")

    report = command("report", "write a page that compares models, to show to others")
    report.add_argument("out", metavar="OUT", help="the .html file to write")
    report.add_argument(
        "models", metavar="MODEL", nargs="+", help=".keras and .tflite files; the first is the whole one"
    )
    report.add_argument(
        "--data", metavar="FILE", help=".npz with x_test and y_test, or x and y, to score the models on"
    )
    report.add_argument("--log", metavar="FILE", help="history of a training: .json, or .csv as CSVLogger writes it")
    report.add_argument("--profile", metavar="FILE", help="of a device: draw milliseconds of each layer, too")
    report.add_argument("--runs", type=int, default=100, help="measurements of each .tflite file (default: 100)")
    return top
