"""Arrays in files of NumPy."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

Arrays = np.ndarray | dict[str, np.ndarray]
Pair = tuple[Arrays, Arrays]


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

    Several inputs or targets have names behind a slash: `x/image`, `y/class`. They come as dictionaries.

    Args:
        name: what errors call the path.
        path: of the file.

    Raises:
        ValueError: if the file is missing or foreign, or has other arrays.
    """
    arrays = read(name, path)
    found: dict[str, Any] = {}
    for key, array in arrays.items() if isinstance(arrays, dict) else ():
        part, slash, inner = key.partition("/")
        if slash and isinstance(found.setdefault(part, {}), dict):
            found[part][inner] = array
        elif not slash:
            found[part] = array
    names = sorted(arrays) if isinstance(arrays, dict) else "one array without a name"
    if sorted(found) not in (["x", "y"], ["x", "x_test", "y", "y_test"]):
        raise ValueError(f"{name} must hold x and y, and x_test and y_test or neither. Received: {path!r}, {names!r}")
    pairs = [(found[x], found[y]) for x, y in (("x", "y"), ("x_test", "y_test")) if x in found]
    for pair in pairs:
        flat = [each for part in pair for each in (part.values() if isinstance(part, dict) else (part,))]
        if any(each.ndim == 0 for each in flat):
            raise ValueError(f"{name} must hold arrays with samples along their first axis. Received: single numbers")
        counts = [len(each) for each in flat]
        if not min(counts) or len(set(counts)) > 1:
            received = ", ".join(map(str, counts))
            raise ValueError(f"{name} must hold equally many inputs and targets, at least one. Received: {received}")
    return pairs[0], pairs[1] if len(pairs) > 1 else None


def has_classes(y: Any) -> bool:
    """Return whether targets are classes."""
    return isinstance(y, np.ndarray) and np.issubdtype(y.dtype, np.integer)


def spread(samples: Sequence[Any], count: int) -> list[Any]:
    """Return so many of the samples, from the first to the last: data are often sorted."""
    if not count or not len(samples):
        return []
    return [samples[k] for k in sorted({round(k) for k in np.linspace(0, len(samples) - 1, count)})]
