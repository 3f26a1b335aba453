"""Arrays in files of NumPy."""

from __future__ import annotations

import zipfile
from typing import Any

import numpy as np

Pair = tuple[np.ndarray, np.ndarray]


def read(name: str, path: str) -> Any:
    """Read an array from `.npy`, or a dictionary of arrays from `.npz`.

    Args:
        name: what errors call the path.
        path: of the file.

    Raises:
        ValueError: if the file is missing or foreign.
    """
    try:
        with open(path, "rb") as file:
            content = np.load(file, allow_pickle=False)
            return content if isinstance(content, np.ndarray) else dict(content)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{name} cannot be read. Received: {path!r} ({error})") from None


def read_pairs(name: str, path: str) -> tuple[Pair, Pair | None]:
    """Read x and y for training, and x_test and y_test or None, from `.npz`.

    Args:
        name: what errors call the path.
        path: of the file.

    Raises:
        ValueError: if the file is missing or foreign, or has other arrays.
    """
    arrays = read(name, path)
    names = sorted(arrays) if isinstance(arrays, dict) else "one array without a name"
    if names not in (["x", "y"], ["x", "x_test", "y", "y_test"]):
        raise ValueError(f"{name} must hold x and y, and x_test and y_test or neither. Received: {path!r}, {names!r}")
    pairs = [(arrays[x], arrays[y]) for x, y in (("x", "y"), ("x_test", "y_test")) if x in arrays]
    for x, y in pairs:
        if not len(x) or len(x) != len(y):
            raise ValueError(f"{name} must hold equally many inputs and targets. Received: {len(x)}, {len(y)}")
    return pairs[0], pairs[1] if len(pairs) > 1 else None
