"""The folder of a run, by which it goes on after a kill."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_rmda.platform import files

SETTINGS = "compress.json"


@contextlib.contextmanager
def kept_in(directory: Path | None, settings: dict[str, Any], begun: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what a run knew when it began, from its folder if it was killed; delete the folder when it has ended.

    Args:
        directory: the folder, or None.
        settings: what must be equal for a run to go on.
        begun: what it knows now.

    Raises:
        ValueError: if the folder is of another run, or of something else.
    """
    if directory is None:
        yield begun
        return
    path = directory / SETTINGS
    if path.exists():
        known = json.loads(path.read_text())
        if known["settings"] != settings:
            raise ValueError(
                f"`directory` holds a run with other arguments: {known['settings']!r}. Give another folder, or delete "
                f"it. Received: directory={str(directory)!r} for {settings!r}"
            )
        begun = known["begun"]
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
    except BaseException:
        if [each.name for each in directory.iterdir()] == [SETTINGS]:  # nothing to go on from
            shutil.rmtree(directory, ignore_errors=True)
        raise
    shutil.rmtree(directory, ignore_errors=True)
