"""Histories of trainings."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

SHARES = (
    *("zero_groups", "weighted_zero_groups", "zero_weights"),
    *("removable_macs", "removable_parameters", "macs_left", "open_gates"),
)
"""What is drawn of a log beside accuracy: all of them are shares."""

MISSING = ("NA", "")
"""What CSVLogger writes where an epoch has no number, as without validation."""


def read_log(path: str | Path) -> dict[str, dict[str, list[float]]]:
    """Return histories by name.

    Raises:
        ValueError: if the file is missing, foreign or holds no history.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        if Path(path).suffix == ".csv":
            rows = list(csv.DictReader(io.StringIO(text)))
            content: Any = {key: numbers_of(row[key] for row in rows) for key in (rows[0] if rows else {})}
        else:
            content = json.loads(text)
        runs = any(isinstance(each, Mapping) for each in content.values())
        histories = {
            name: {key: [float(x) for x in values] for key, values in each.items() if are_numbers(values)}
            for name, each in (content if runs else {"training": content}).items()
            if isinstance(each, Mapping)
        }
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"The log cannot be read. Received: {str(path)!r} ({error})") from None
    if not any(curves(each) for each in histories.values()):
        raise ValueError(f"The log has no accuracy and no share of zeros. Received: {str(path)!r}")
    return histories


def numbers_of(words: Iterable[str]) -> list[float] | None:
    """Return the numbers of a column, NaN where there was none; None where there are none at all, or other words."""
    try:
        found = [float("nan" if word in MISSING else word) for word in words]
    except ValueError:
        return None
    return None if all(map(math.isnan, found)) else found


def are_numbers(values: Any) -> bool:
    """Return whether this is the column of a figure that was logged in every epoch."""
    return isinstance(values, list) and not any(value is None or isinstance(value, str) for value in values)


def curves(history: dict[str, list[float]]) -> dict[str, list[float]]:
    """Return what is drawn of a history."""
    accuracy = next((key for key in ("val_accuracy", "accuracy") if key in history), None)
    return {key: history[key] for key in ((accuracy,) if accuracy else ()) + SHARES if key in history}
