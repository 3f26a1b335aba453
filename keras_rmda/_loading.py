"""Models in files."""

from __future__ import annotations

from pathlib import Path

import keras


def load(path: str | Path) -> keras.Model:
    """Load a `.keras` file.

    Raises:
        ValueError: if it is missing or foreign.
    """
    if not Path(path).is_file():
        raise ValueError(f"MODEL: there is no such file. Received: {str(path)!r}")
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises many types for foreign files
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"MODEL cannot be loaded as a .keras file. Received: {str(path)!r} ({reason})") from None
