"""Imports Keras; where keras_rmda runs as a program, quietly, quickly, and only if its arguments are right.

TensorFlow prints several lines to standard error when it is imported, partly before its own log level counts. A
program whose errors are one line cannot have that; a library must not hide it. And the import takes seconds: nobody
wants to wait for them to read `--help`.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

OPTIONAL = ("jax", "sklearn", "matplotlib")
"""What TensorFlow and Keras import where it is there, and do without where it is not: two fifths of the time."""


def is_program() -> bool:
    """Return whether this process is `keras-rmda`, or Python looks for the package of `python -m keras_rmda`."""
    if Path(sys.argv[0]).stem == "keras-rmda":
        return True
    return sys.argv[0] == "-m" and sys.orig_argv[-len(sys.argv)].removeprefix("-m") == "keras_rmda"


def backend() -> str:
    """Return the backend that Keras will have, as it finds it."""
    folder = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    try:
        chosen = json.loads((folder / "keras.json").read_text()).get("backend")
    except (OSError, ValueError, AttributeError):
        chosen = None
    return os.environ.get("KERAS_BACKEND") or chosen or "tensorflow"


@contextlib.contextmanager
def without(names: Sequence[str]) -> Iterator[None]:
    """Let imports of these packages fail meanwhile, unless they have been imported; afterwards they are as before."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


if is_program():
    from keras_rmda.cli.arguments import UsageError, complain, parser
    from keras_rmda.platform.files import silenced

    try:
        parser().parse_args()
    except UsageError as error:
        sys.exit(complain(error))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with silenced(2), without(OPTIONAL if backend() == "tensorflow" else ()):
        import keras  # noqa: F401
