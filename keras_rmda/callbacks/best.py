"""Callbacks of Keras that keep the best of something."""

from __future__ import annotations

from collections.abc import Iterable
from weakref import WeakKeyDictionary

import keras
import numpy as np

KEEPERS = (keras.callbacks.EarlyStopping, keras.callbacks.ModelCheckpoint, keras.callbacks.ReduceLROnPlateau)

THRESHOLDS: WeakKeyDictionary[keras.callbacks.Callback, float] = WeakKeyDictionary()
"""What a callback was made with as its first best: `initial_value_threshold`, which Keras keeps nowhere else."""


def note_thresholds(callbacks: Iterable[keras.callbacks.Callback]) -> None:
    """Remember with what callbacks begin that have not been in a training yet."""
    for each in callbacks:
        is_new = isinstance(each, keras.callbacks.ModelCheckpoint) and not hasattr(each, "_current_epoch")
        if is_new and each.best is not None and np.isfinite(each.best):
            THRESHOLDS[each] = float(each.best)


def forget_best(callbacks: Iterable[keras.callbacks.Callback]) -> None:
    """Let callbacks begin anew to look for the best: what they have seen cannot be compared with what comes."""
    for each in callbacks:
        if isinstance(each, KEEPERS) and getattr(each, "monitor_op", None) is not None:
            kind = next(kind for kind in KEEPERS if isinstance(each, kind))
            kind.on_train_begin(each)  # that of Keras: a class of a user's own may open files in its own
            if each.best is not None:
                each.best = THRESHOLDS.get(each, -np.inf if each.monitor_op(1.0, 0.0) else np.inf)
