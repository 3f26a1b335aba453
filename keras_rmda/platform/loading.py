"""Models in files."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path

import keras


def load(path: str | Path, compile: bool = False) -> keras.Model:
    """Load a `.keras` file.

    Args:
        path: of the file.
        compile: whether with its optimizer, if all that it was compiled with is known here.

    Raises:
        ValueError: if it is missing or foreign.
    """
    if not Path(path).is_file():
        raise ValueError(f"MODEL: there is no such file. Received: {str(path)!r}")
    with warnings.catch_warnings(record=True) as caught:  # of no interest if there is an error
        model = _loaded(path, compile)
    for each in caught:
        warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    return model


def _loaded(path: str | Path, compile: bool) -> keras.Model:
    if compile:
        with contextlib.suppress(Exception):  # losses and metrics of the user's own are not known here
            return keras.models.load_model(path)
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises many types for foreign files
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"MODEL cannot be loaded as a .keras file. Received: {str(path)!r} ({reason})") from None
