"""Tables and pictures for notebooks."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def table(header: tuple, rows: list[tuple]) -> str:
    """Return text columns: numbers with thousands separators to the right, words to the left.

    Args:
        header: the column titles.
        rows: cells of any type; floats are expected as text, formatted by the caller.

    Returns:
        Lines joined by newlines, a rule below the header.
    """
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[k]) for row in cells) for k in range(len(header))]
    numeric = [any(isinstance(row[k], int) for row in rows) for k in range(len(header))]
    lines = [
        "  ".join(c.rjust(w) if right else c.ljust(w) for c, w, right in zip(row, widths, numeric)).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "-" * max(len(line) for line in lines), *lines[1:]])


def html_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return an HTML table: numbers with thousands separators to the right, words to the left."""

    def cell(value: Any, kind: str) -> str:
        side, text = ("right", f"{value:,}") if isinstance(value, int) else ("left", html.escape(str(value)))
        return f"<{kind} style='text-align:{side}'>{text}</{kind}>"

    lines = ["".join(cell(each, "th") for each in header)]
    lines += [cell(row[0], "th") + "".join(cell(each, "td") for each in row[1:]) for row in rows]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def draw_widths(names: Sequence[str], channels: Sequence[int], kept: Sequence[int], axes: Any = None) -> Any:
    """Draw a bar for each layer: its channels, and before them those that are kept.

    Args:
        names: of the layers, from the first, which is drawn on top.
        channels, kept: numbers.
        axes: matplotlib axes; None for new ones.

    Returns:
        The axes.
    """
    axes = axes or new_axes(height=1 + 0.25 * len(names))
    places = range(len(names))
    axes.barh(places, channels, color="#d4d4d8", label="channels")
    axes.barh(places, kept, color="#4051b5", label="kept")
    for place, whole, left in zip(places, channels, kept):
        axes.annotate(f" {left} of {whole}", (whole, place), va="center", fontsize="x-small")
    axes.set_yticks(places, names, fontsize="x-small")
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set(xlabel="channels")
    axes.legend(fontsize="small")
    return axes


def draw_training(history: Mapping[str, Sequence[Any]], score: str, axes: Any = None) -> Any:
    """Draw a score over the epochs, and on a second scale the share of the model that is left.

    Args:
        history: one list per name; names of shares end in `_left`, and `phase` tells what each epoch was for.
        score: the name of the score; the same one on validation data is drawn too.
        axes: matplotlib axes; None for new ones.

    Returns:
        The axes.
    """
    axes = axes or new_axes(height=4)
    for name, style in ((score, ":"), (f"val_{score}", "-")):
        if name in history:
            axes.plot(history[name], style, color="#4051b5", label=name)
    phases = history.get("phase", [])
    for epoch in (k for k in range(1, len(phases)) if phases[k] != phases[k - 1]):
        axes.axvline(epoch - 0.5, color="#d4d4d8")
        axes.annotate(
            f" {phases[epoch]}", (epoch - 0.5, 1), xycoords=("data", "axes fraction"), fontsize="x-small", va="top"
        )
    axes.set(xlabel="epoch", ylabel=score)
    left = axes.twinx()
    for name in (name for name in history if name.endswith("_left")):
        left.plot(history[name], color="#f59e0b", label=name)
    left.set(ylabel="share that is left", ylim=(0, 1.05))
    lines = [*axes.get_legend_handles_labels()[0], *left.get_legend_handles_labels()[0]]
    axes.legend(handles=lines, fontsize="small", loc="lower right")
    return axes


def new_axes(height: float) -> Any:
    """Return matplotlib axes of a figure of their own, this many inches high."""
    from matplotlib import pyplot

    return pyplot.figure(figsize=(6, height), layout="constrained").add_subplot()
