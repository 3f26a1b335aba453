"""What several commands need."""

from __future__ import annotations

import sys
from typing import Any

import keras

from keras_rmda.cli.arguments import UsageError
from keras_rmda.optimizers.models import optimizers_of
from keras_rmda.platform.loading import load


def load_structured(path: str) -> keras.Model:
    """Load a model with its optimizer, and let it hold the zeros that only the optimizer has."""
    model = load(path, compile=True)
    for optimizer in optimizers_of(model):
        if optimizer.hides_zeros():
            optimizer.project(model)
            print(f"keras-rmda: {path}: took the zeros from its optimizer {optimizer.name!r}", file=sys.stderr)
    return model


def shown_number(value: Any) -> str:
    """Return a number for people."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)


def to_standard_error(text: str) -> None:
    """Print a line of progress."""
    print(text, file=sys.stderr, flush=True)


def check_drawing() -> None:
    """Refuse a page without matplotlib before any work is done."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError(f"the report needs the extra packages of keras-rmda[demo]: {error}") from None
