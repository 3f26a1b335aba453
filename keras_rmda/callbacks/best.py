"""Callbacks of Keras that keep the best of something."""

from __future__ import annotations

from collections.abc import Iterable

import keras
import numpy as np

KEEPERS = (keras.callbacks.EarlyStopping, keras.callbacks.ModelCheckpoint, keras.callbacks.ReduceLROnPlateau)


def forget_best(callbacks: Iterable[keras.callbacks.Callback]) -> None:
    """Let callbacks begin anew to look for the best: what they have seen cannot be compared with what comes."""
    for each in callbacks:
        if isinstance(each, KEEPERS) and getattr(each, "monitor_op", None) is not None:
            kind = next(kind for kind in KEEPERS if isinstance(each, kind))
            kind.on_train_begin(each)  # that of Keras: a class of a user's own may open files in its own
            if each.best is not None:
                each.best = -np.inf if each.monitor_op(1.0, 0.0) else np.inf
