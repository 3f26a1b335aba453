"""Programs in processes of their own, where they may crash."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

CHILD = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"
"""What Python is given: with a program's path, it would look for modules beside that first."""


def run_apart(program: Path, sent: bytes, seconds: float | None = None) -> bytes:
    """Return what a program writes for what is sent to it.

    Raises:
        RuntimeError: saying how it ended, if it did so by a signal or with an error.
        subprocess.TimeoutExpired: if it takes more than so many seconds.
    """
    arguments = [sys.executable, "-c", CHILD, str(program)]
    process = subprocess.run(arguments, input=sent, stdout=subprocess.PIPE, check=False, timeout=seconds)
    if process.returncode:
        code = process.returncode
        names = [each.name for each in signal.Signals if each == -code]
        raise RuntimeError(f"its process ended ({names[0] if names else f'status {code}'}).")
    return process.stdout
