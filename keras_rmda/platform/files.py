"""Writing files so that a failure or a kill leaves the old file or none."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path


def check_target(path: str | Path, suffix: str, name: str = "path") -> Path:
    """Check that a file can be written before any work is done.

    Args:
        path: where to write.
        suffix: the required ending, such as ".tflite".
        name: the argument's name, for the message.

    Returns:
        The path.

    Raises:
        ValueError: if the type or the ending is wrong, or the path is a folder.
        OSError: if the folder is missing or not writable.
    """
    if not isinstance(path, (str, Path)):
        raise ValueError(f"`{name}` must be a str or pathlib.Path. Received: {name}={path!r}")
    path = Path(path)
    if path.suffix != suffix:
        raise ValueError(f"`{name}` must end in {suffix!r}. Received: {name}={str(path)!r}")
    if path.is_dir():
        raise ValueError(f"`{name}` is a folder. Received: {name}={str(path)!r}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"The folder of `{name}` does not exist. Received: {name}={str(path)!r}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"The folder of `{name}` is not writable. Received: {name}={str(path)!r}")
    return path


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, with the same ending, that replaces it if the block succeeds.

    Args:
        path: the file to be written or replaced.

    Example:
        >>> with replacing("model.keras") as temporary:
        ...     model.save(temporary)
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_through(*paths: Path) -> None:
    """Wait until files and folders are on the disk: a machine may end with its processes."""
    if os.name != "posix":  # elsewhere folders cannot be opened
        return
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # what file systems say that have no such call
                raise
        finally:
            os.close(descriptor)


SILENCE = threading.RLock()


@contextlib.contextmanager
def silenced(*descriptors: int) -> Iterator[None]:
    """Send what Python and native code print to file descriptors (1 for output, 2 for errors) nowhere.

    One thread after the other: the descriptors are those of the whole process.
    """
    streams = {1: contextlib.redirect_stdout, 2: contextlib.redirect_stderr}
    with SILENCE, contextlib.ExitStack() as stack:
        nowhere = stack.enter_context(open(os.devnull, "w"))
        for descriptor in descriptors:
            stack.enter_context(streams[descriptor](nowhere))
            copy = os.dup(descriptor)
            stack.callback(os.close, copy)
            stack.callback(os.dup2, copy, descriptor)
            os.dup2(nowhere.fileno(), descriptor)
        yield
