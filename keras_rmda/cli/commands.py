"""What the commands of the command line do."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import keras

from keras_rmda.cli.arguments import UsageError
from keras_rmda.cli.common import check_drawing, load_structured, to_standard_error
from keras_rmda.cli.compressing import run_compress
from keras_rmda.export import benchmark_tflite, export_tflite
from keras_rmda.export.benchmark import Ratio
from keras_rmda.export.contents import read_contents
from keras_rmda.export.devices import DeviceProfile
from keras_rmda.export.devices.writing import check_folder, write_files
from keras_rmda.platform import arrays, checks, files
from keras_rmda.structure import analyze, strip
from keras_rmda.structure.pictures import table


def run_demo(options: argparse.Namespace) -> None:
    """`keras-rmda demo`."""
    epochs = checks.whole("--epochs", options.epochs, 2) if options.epochs is not None else None
    if options.target_macs is not None:
        checks.real("--target-macs", options.target_macs, open_minimum=True)
    checks.whole("--seed", options.seed)
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
    from keras_rmda.cli import demo

    say = (lambda text: None) if options.quiet else demo.line_printer()
    rows = demo.run(options.output, options.seed, epochs or demo.EPOCHS, say, options.target_macs or demo.TARGET)
    if not options.quiet:
        say(f"wrote {options.output}: models, report.json, history.json, demo.png\n")
    if options.json:
        print((options.output / "report.json").read_text(), end="")
    else:
        print(demo.text_table(rows))


def run_inspect(options: argparse.Namespace) -> None:
    """`keras-rmda inspect`."""
    is_tflite = Path(options.model).suffix == ".tflite"
    if is_tflite and options.profile:
        raise UsageError(f"--profile is for .keras files; see `keras-rmda bench`. Received: {options.model!r}")
    profile = profile_in(options)
    report = read_contents(options.model) if is_tflite else analyze(load_structured(options.model), profile)
    print(json.dumps(report.to_dict()) if options.json else report)


def profile_in(options: argparse.Namespace) -> DeviceProfile | None:
    """Return the profile of a device that was given, if one was."""
    return None if options.profile is None else DeviceProfile.load(options.profile)


def run_strip(options: argparse.Namespace) -> None:
    """`keras-rmda strip`."""
    out = files.check_target(options.out, ".keras", "OUT")
    model = load_structured(options.model)
    report = analyze(model)
    if report.parameters_after == report.parameters:
        raise UsageError(f"no channel can be removed; `keras-rmda inspect` tells why. Received: {options.model!r}")
    small = strip(model)
    with files.replacing(out) as temporary:
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
    files.check_target(options.out, ".tflite", "OUT")
    data = arrays.read("--representative-data", options.representative_data) if options.representative_data else None
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


def run_profile(options: argparse.Namespace) -> None:
    """`keras-rmda profile`."""
    checks.whole("--threads", options.threads, 1, 1024)
    folder = options.output
    check_folder(folder)
    formats = [None if name == "float32" else name for name in options.quantization or ("float32", "int8")]
    known, model = profile_in(options), load_structured(options.model)
    if options.here:
        profile = DeviceProfile.measure(model, folder, formats, options.threads, to_standard_error, known)
        count = len(profile.measured)
        figures = {"folder": str(folder), "files": count, "profile": str(folder / "profile.json")}
        figures |= {"device": profile.device, "spread": profile.spread}
    else:
        count = write_files(model, folder, formats, to_standard_error, known)
        figures = {"folder": str(folder), "files": count}
    if options.json:
        print(json.dumps(figures))
    elif options.here:
        print(f"wrote {figures['profile']}: {count} files measured, rounds differ by {profile.spread:.1%}")
    else:
        print(f"wrote {count} files to {folder}: copy it to the device and run `python measure.py` there")


def run_bench(options: argparse.Namespace) -> None:
    """`keras-rmda bench`."""
    results = benchmark_tflite(options.files, threads=options.threads, runs=options.runs)
    ratios = [result.times_faster_than(results[0]) for result in results]
    profile = profile_in(options)
    rows = [
        {
            "path": str(result.path), "bytes": result.bytes, "median_ms": result.median,
            "p10_ms": result.percentile(10), "p90_ms": result.percentile(90),
            "times_faster_than_first": ratio.value, "low": ratio.low, "high": ratio.high,
        } | ({} if profile is None else {"predicted_ms": profile.milliseconds(result.path)})
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
    check_drawing()
    from keras_rmda.cli import page

    checks.whole("--runs", options.runs, 1)
    for path in options.models:
        if Path(path).suffix not in (".keras", ".h5", ".tflite") or not Path(path).is_file():
            raise UsageError(f"MODEL must be a .keras, .h5 or .tflite file that exists. Received: {path!r}")
    pairs, profile = arrays.read_pairs("--data", options.data) if options.data else (None, None), profile_in(options)
    entries = page.write_page(options.out, options.models, pairs[1] or pairs[0], options.log, options.runs, profile)
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


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "demo": run_demo,
    "compress": run_compress,
    "inspect": run_inspect,
    "strip": run_strip,
    "export": run_export,
    "profile": run_profile,
    "bench": run_bench,
    "report": run_report,
}
"""What runs, by the name of the command."""
