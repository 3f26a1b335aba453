"""What an export is doing, for those who wait for it at a terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress(what: str) -> Iterator[Callable[[str], None]]:
    """Give a function that shows what is done, in one line that is gone in the end; nothing where nobody looks."""
    is_seen = sys.stderr is not None and sys.stderr.isatty()

    def say(text: str) -> None:
        if is_seen:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    try:
        yield lambda step: say(f"{what}: {step}")
    finally:
        say("")
