"""One HTML file that shows what became of a model: sizes, speed, accuracy, channels per layer, and the training."""

from __future__ import annotations

import html
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from keras_rmda.cli.page.drawings import figure, size_against_score, training
from keras_rmda.cli.page.entries import Entry, entry_of, with_latencies
from keras_rmda.cli.page.logs import read_log
from keras_rmda.export.devices import DeviceProfile
from keras_rmda.platform import files
from keras_rmda.platform.arrays import has_classes

Layers = dict[str, tuple[float, float]]
"""By the name of a layer: how much it has, and how much `strip` would leave."""


def write_page(
    out: str | Path,
    paths: Sequence[str | Path],
    data: tuple[np.ndarray, np.ndarray] | None = None,
    log: str | Path | None = None,
    runs: int = 100,
    profile: DeviceProfile | None = None,
) -> list[Entry]:
    """Write the page.

    Args:
        out: the `.html` file.
        paths: `.keras` and `.tflite` files; all are compared with the first.
        data: inputs and targets to score the models on: accuracy for classes, else the mean squared error.
        log: the history of a training, as `.json` (`fit(...).history`, or several of them by name) or as `CSVLogger`
            writes it.
        runs: measurements of each `.tflite` file.
        profile: of a device: the times of layers are drawn, too.

    Returns:
        What the page shows of each model.

    Raises:
        ValueError: for a file that is missing or foreign.
        OSError: if `out` cannot be written.
        ModuleNotFoundError: if matplotlib is missing.
    """
    out = files.check_target(out, ".html", "OUT")
    histories = {} if log is None else read_log(log)
    entries = [entry_of(Path(path), data, profile) for path in paths]
    entries = with_latencies(entries, [Path(path) for path in paths], runs)
    text = page(entries, histories, "accuracy" if data and has_classes(data[1]) else "mean squared error", runs)
    with files.replacing(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return entries


def page(entries: list[Entry], histories: dict[str, dict], score: str, runs: int) -> str:
    """Return the HTML."""
    sections = [headline(entries, score), comparison(entries, score)]
    scored = [entry for entry in entries if entry.score is not None]
    if len(scored) > 1:
        sections.append(figure(f"Size against {score}", size_against_score(scored, score)))
    if histories:
        sections.append(figure("Training", training(histories)))
    drawn = [entry for entry in entries if entry.channels]
    for entry in drawn[1:] or drawn:
        sections.append(bars(f"Channels kept per layer: {entry.name}", entry.channels, drawn[0].channels))
        if entry.milliseconds:
            title = f"Milliseconds per layer: {entry.name}"
            sections.append(bars(title, entry.milliseconds, drawn[0].milliseconds, ".4f"))
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


def headline(entries: list[Entry], score: str) -> str:
    """Return the sentence that says what was won."""
    first, last = entries[0], entries[-1]
    parts = [times(first.bytes / last.bytes, "smaller", "larger")] if len(entries) > 1 else []
    if len(entries) > 1 and first.latency and last.latency:
        parts.append(times(first.latency / last.latency, "faster", "slower"))
    if len(entries) > 1 and first.score is not None:
        parts.append(f"{score} <strong>{shown(last.score, score)}</strong> after {shown(first.score, score)}")
    return f'<p class="headline">{html.escape(last.name)}: {", ".join(parts)}.</p>' if parts else ""


def times(ratio: float, more: str, less: str) -> str:
    """Say how many times more or less something is."""
    return f"<strong>{max(ratio, 1 / ratio):.1f} times</strong> {more if ratio >= 1 else less}"


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


def bars(title: str, values: Layers, whole: Layers, form: str = ",") -> str:
    """Return what is left of every layer, as bars, of what the first model has."""
    rows = []
    for name, (own, kept) in values.items():
        full = max(whole.get(name, (own, own))[0], own)
        bar = f'<div class="bar"><div style="width:{100 * kept / full:.1f}%"></div></div>'
        rows.append(f"<tr><th>{html.escape(name)}</th><td>{bar}</td><td>{kept:{form}} of {full:{form}}</td></tr>")
    head = f'<section><h2>{html.escape(title)}</h2>\n<table class="channels">\n'
    return head + "\n".join(rows) + "\n</table></section>"
