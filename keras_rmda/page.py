"""One HTML file that shows what became of a model: sizes, speed, accuracy, channels per layer, and the training."""

from __future__ import annotations

import csv
import html
import io
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_rmda import _files
from keras_rmda._loading import load
from keras_rmda.export.benchmark import Interpreter, benchmark_tflite
from keras_rmda.export.contents import read_contents
from keras_rmda.pruning import analyze

SHARES = ("zero_groups", "zero_weights", "removable_macs", "removable_parameters", "macs_left", "open_gates")
"""What is drawn of a log beside accuracy: all of them are shares."""


@dataclass(frozen=True)
class Entry:
    """One model of the page.

    Attributes:
        name: of its file.
        bytes: of its file.
        kind: "Keras", or what a `.tflite` file holds its weights in.
        parameters: number of weights.
        macs: multiply-accumulates per sample.
        latency: median in milliseconds on one thread, None for Keras models.
        score: on the data, None without.
        channels: by layer, of Keras models: (channels, those that `strip` would leave).
    """

    name: str
    bytes: int
    kind: str
    parameters: int
    macs: int
    latency: float | None
    score: float | None
    channels: dict[str, tuple[int, int]]


def write_page(
    out: str | Path,
    paths: Sequence[str | Path],
    data: tuple[np.ndarray, np.ndarray] | None = None,
    log: str | Path | None = None,
    runs: int = 100,
) -> list[Entry]:
    """Write the page.

    Args:
        out: the `.html` file.
        paths: `.keras` and `.tflite` files; all are compared with the first.
        data: inputs and targets to score the models on: accuracy for classes, else the mean squared error.
        log: the history of a training, as `.json` (`fit(...).history`, or several of them by name) or as `CSVLogger`
            writes it.
        runs: measurements of each `.tflite` file.

    Returns:
        What the page shows of each model.

    Raises:
        ValueError: for a file that is missing or foreign.
        OSError: if `out` cannot be written.
        ModuleNotFoundError: if matplotlib is missing.
    """
    out = _files.check_target(out, ".html", "OUT")
    histories = {} if log is None else read_log(log)
    entries = [entry_of(Path(path), data) for path in paths]
    entries = with_latencies(entries, [Path(path) for path in paths], runs)
    text = page(entries, histories, "accuracy" if data and is_classes(data[1]) else "mean squared error", runs)
    with _files.replacing(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return entries


def entry_of(path: Path, data: tuple[np.ndarray, np.ndarray] | None) -> Entry:
    """Return what is known of a file without measuring time."""
    if path.suffix == ".tflite":
        contents = read_contents(path)
        weights = [tensor for tensor in contents.tensors if tensor.stored and len(tensor.shape) > 1]
        kind = max(weights, key=lambda tensor: tensor.stored).dtype.lower() if weights else "no weights"
        constants = sum(int(np.prod(tensor.shape)) for tensor in contents.tensors if tensor.stored)
        score = None if data is None else score_of(Interpreter(path).predict(data[0]), data[1], path)
        return Entry(path.name, contents.bytes, kind, constants, contents.macs, None, score, {})
    model = load(path)
    report = analyze(model)
    score = None if data is None else score_of(model.predict(data[0], verbose=0), data[1], path)
    widths = {each.name: (each.channels, each.channels - each.removable) for each in report.layers if each.channels}
    return Entry(path.name, path.stat().st_size, "Keras", report.parameters, report.macs, None, score, widths)


def with_latencies(entries: list[Entry], paths: list[Path], runs: int) -> list[Entry]:
    """Return the entries with the latencies of `.tflite` files, measured in turns."""
    files = [path for path in paths if path.suffix == ".tflite"]
    found = iter(benchmark_tflite(files, runs=runs) if files else [])
    return [
        Entry(**vars(entry) | {"latency": next(found).median}) if path.suffix == ".tflite" else entry
        for entry, path in zip(entries, paths)
    ]


def is_classes(targets: np.ndarray) -> bool:
    """Return whether targets are classes."""
    return np.issubdtype(targets.dtype, np.integer)


def score_of(outputs: Any, targets: np.ndarray, path: Path) -> float:
    """Return accuracy or mean squared error."""
    if not isinstance(outputs, np.ndarray):
        raise ValueError(f"Models with several outputs cannot be scored. Received: {str(path)!r}")
    if not is_classes(targets):
        return float(np.mean((outputs - targets.reshape(outputs.shape)) ** 2))
    found = outputs.argmax(-1) if outputs.shape[-1] > 1 else (outputs[..., 0] > 0.5)
    return float((found.reshape(-1) == targets.reshape(-1)).mean())


def read_log(path: str | Path) -> dict[str, dict[str, list[float]]]:
    """Return histories by name.

    Raises:
        ValueError: if the file is missing, foreign or holds no history.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        if Path(path).suffix == ".csv":
            rows = list(csv.DictReader(io.StringIO(text)))
            content: Any = {key: [float(row[key]) for row in rows] for key in (rows[0] if rows else {})}
        else:
            content = json.loads(text)
        runs = any(isinstance(each, Mapping) for each in content.values())
        histories = {
            name: {key: [float(x) for x in values] for key, values in each.items() if isinstance(values, list)}
            for name, each in (content if runs else {"training": content}).items()
            if isinstance(each, Mapping)
        }
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"The log cannot be read. Received: {str(path)!r} ({error})") from None
    if not any(curves(each) for each in histories.values()):
        raise ValueError(f"The log has no accuracy and no share of zeros. Received: {str(path)!r}")
    return histories


def curves(history: dict[str, list[float]]) -> dict[str, list[float]]:
    """Return what is drawn of a history."""
    accuracy = next((key for key in ("val_accuracy", "accuracy") if key in history), None)
    return {key: history[key] for key in ((accuracy,) if accuracy else ()) + SHARES if key in history}


def page(entries: list[Entry], histories: dict[str, dict], score: str, runs: int) -> str:
    """Return the HTML."""
    sections = [headline(entries, score), comparison(entries, score)]
    scored = [entry for entry in entries if entry.score is not None]
    if len(scored) > 1:
        sections.append(figure(f"Size against {score}", size_against_score(scored, score)))
    if histories:
        sections.append(figure("Training", training(histories)))
    sections += [channels(entry, entries) for entry in entries if entry.channels and entry is not first_keras(entries)]
    if len([entry for entry in entries if entry.channels]) == 1:
        sections.append(channels(first_keras(entries), entries))
    measured = f"Latency: median of {runs} runs of one sample, files in turns, one thread"
    made = f"{measured} ({platform.machine()}, {os.cpu_count()} cores). Keras {keras.__version__}."
    style = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    title = html.escape(f"{entries[0].name} and what became of it")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
        + "\n".join(sections)
        + f"\n<footer>{html.escape(made)}</footer>\n</main>\n</body>\n</html>\n"
    )


def first_keras(entries: list[Entry]) -> Entry | None:
    """Return the first Keras model."""
    return next((entry for entry in entries if entry.channels), None)


def headline(entries: list[Entry], score: str) -> str:
    """Return the sentence that says what was won."""
    first, last = entries[0], entries[-1]
    timed = [entry for entry in entries if entry.latency]
    parts = [f"<strong>{first.bytes / last.bytes:.1f} times</strong> smaller"] if len(entries) > 1 else []
    if len(timed) > 1:
        parts.append(f"<strong>{timed[0].latency / timed[-1].latency:.1f} times</strong> faster")
    if len(entries) > 1 and first.score is not None:
        parts.append(f"{score} <strong>{shown(last.score, score)}</strong> after {shown(first.score, score)}")
    return f'<p class="headline">{html.escape(last.name)}: {", ".join(parts)}.</p>' if parts else ""


def shown(value: float | None, score: str) -> str:
    """Return a score for people."""
    if value is None:
        return "-"
    return f"{value:.2%}" if score == "accuracy" else f"{value:.4g}"


def comparison(entries: list[Entry], score: str) -> str:
    """Return the table of all models."""
    timed = next((entry.latency for entry in entries if entry.latency), None)
    header = ["file", "weights", "parameters", "MACs", "bytes", "smaller", "latency", "faster"]
    header += [score] if any(entry.score is not None for entry in entries) else []
    rows = []
    for entry in entries:
        cells = [entry.name, entry.kind, f"{entry.parameters:,}", f"{entry.macs:,}", f"{entry.bytes:,}"]
        cells.append(f"{entries[0].bytes / entry.bytes:.1f}x")
        cells.append(f"{entry.latency:.3f} ms" if entry.latency else "-")
        cells.append(f"{timed / entry.latency:.1f}x" if entry.latency else "-")
        rows.append(cells + [shown(entry.score, score)] * (len(header) - len(cells)))
    body = "\n".join(table_row(cells, "td") for cells in rows)
    table = f"<thead>{table_row(header, 'th')}</thead>\n<tbody>\n{body}\n</tbody>"
    return f'<div class="wide"><table class="models">\n{table}</table></div>'


def table_row(cells: list[str], tag: str) -> str:
    """Return a row of a table."""
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def channels(entry: Entry, entries: list[Entry]) -> str:
    """Return how many channels every layer keeps, as bars, of those of the first Keras model."""
    whole = first_keras(entries).channels
    rows = []
    for name, (own, kept) in entry.channels.items():
        full = max(whole.get(name, (own, own))[0], own)
        share = f"{100 * kept / full:.1f}%"
        bar = f'<div class="bar"><div style="width:{share}"></div></div>'
        rows.append(f"<tr><th>{html.escape(name)}</th><td>{bar}</td><td>{kept:,} of {full:,}</td></tr>")
    title = f"Channels kept per layer: {html.escape(entry.name)}"
    return f'<section><h2>{title}</h2>\n<table class="channels">\n' + "\n".join(rows) + "\n</table></section>"


def figure(title: str, drawing: Any) -> str:
    """Return a drawing of matplotlib within the page."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif"}):
        drawing.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{html.escape(title)}" ', 1)
    return f"<section><h2>{html.escape(title)}</h2>\n{svg}</section>"


def axes(xlabel: str, ylabel: str, height: float = 3.6) -> tuple[Any, Any]:
    """Return an empty figure and its axes."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(8, height), layout="constrained")
    area = drawing.subplots()
    area.set(xlabel=xlabel, ylabel=ylabel)
    area.grid(color="0.9")
    area.set_axisbelow(True)
    area.spines[["top", "right"]].set_visible(False)
    return drawing, area


def size_against_score(entries: list[Entry], score: str) -> Any:
    """Draw each model's score over its bytes."""
    from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter

    drawing, area = axes("kilobytes", score)
    area.set_xscale("log")
    area.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    area.xaxis.set_major_formatter("{x:,g}")
    area.xaxis.set_minor_formatter(NullFormatter())
    if score == "accuracy":
        area.yaxis.set_major_formatter(PercentFormatter(1.0))
    for entry in entries:
        marker = "s" if entry.channels else "o"
        area.plot(entry.bytes / 1000, entry.score, marker, markersize=8, alpha=0.8, label=entry.name)
    area.margins(x=0.1, y=0.2)
    drawing.legend(loc="outside lower center", ncols=3, frameon=False)
    return drawing


def training(histories: dict[str, dict]) -> Any:
    """Draw accuracy and shares of zeros over the epochs."""
    drawing, area = axes("epoch", "share", 4.2)
    for name, history in histories.items():
        for key, values in curves(history).items():
            label = key.removeprefix("val_").replace("_", " ")
            style = "--" if "accuracy" in key else "-"
            area.plot(np.arange(1, len(values) + 1), values, style, label=f"{name}: {label}")
    area.set_ylim(0, 1.02)
    drawing.legend(loc="outside lower center", ncols=2, frameon=False)
    return drawing
