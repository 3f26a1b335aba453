"""What matplotlib draws on the page."""

from __future__ import annotations

import html
import io
from typing import Any

import numpy as np

from keras_rmda.cli.page.entries import Entry
from keras_rmda.cli.page.logs import curves


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
