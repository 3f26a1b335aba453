"""The folder of a run, by which it goes on after a kill."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_rmda.platform import files

SETTINGS = "compress.json"


def digest(weights: Sequence[np.ndarray]) -> str:
    """Return what tells these weights from others."""
    found = hashlib.sha256()
    for each in weights:
        found.update(np.ascontiguousarray(each).tobytes())
    return found.hexdigest()[:16]


def plain_numbers(optimizer: Any) -> dict[str, Any]:
    """Return the type of an optimizer and those of its settings that are numbers or words, but for its name."""
    try:
        settings = optimizer.get_config().items()
    except NotImplementedError:  # a schedule without a configuration
        settings = ()
    kept = {name: value for name, value in settings if isinstance(value, (bool, int, float, str)) and name != "name"}
    return {"type": type(optimizer).__name__} | kept


@contextlib.contextmanager
def kept_in(directory: Path | None, settings: dict[str, Any], begun: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what a run knew when it began, from its folder if it was killed; delete the folder when it has ended.

    Args:
        directory: the folder, or None.
        settings: what must be equal for a run to go on.
        begun: what it knows now.

    Raises:
        ValueError: if the folder is of another run, or of something else.
        RuntimeError: if somebody else has deleted it meanwhile.
    """
    if directory is None:
        yield begun
        return
    path, settings = directory / SETTINGS, json.loads(json.dumps(settings, default=lambda number: number.item()))
    if path.exists():
        known = json.loads(path.read_text())
        there = known["settings"]
        if differ := [name for name in settings if name not in there or there[name] != settings[name]]:
            shown = "; ".join(f"{name}: {there.get(name)!r} there, {settings[name]!r} here" for name in differ)
            raise ValueError(
                f"`directory` holds a run with other arguments ({shown}). Call it as before, with the same model, or "
                f"give another folder, or delete it. Received: directory={str(directory)!r}"
            )
        begun = known["begun"]
    elif directory.exists() and not directory.is_dir():
        raise ValueError(f"`directory` must be a folder. Received: directory={str(directory)!r}, a file")
    elif directory.exists() and any(directory.iterdir()):
        raise ValueError(
            f"`directory` must be a folder of its own: what is in it is deleted. Received: directory={str(directory)!r}"
        )
    else:
        directory.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as temporary:
            temporary.write_text(json.dumps({"settings": settings, "begun": begun}))
    try:
        yield begun
    except BaseException as error:
        if not path.exists() and isinstance(error, Exception):
            raise RuntimeError(
                f"The folder {str(directory)!r} was deleted while `compress` used it: two runs must not share one."
            ) from error
        if directory.is_dir() and [each.name for each in directory.iterdir()] == [SETTINGS]:  # nothing to go on from
            shutil.rmtree(directory, ignore_errors=True)
        raise
    shutil.rmtree(directory, ignore_errors=True)
