"""What a compiled model has to do with optimizers of this package."""

from __future__ import annotations

import warnings

import keras

from keras_rmda import _checks, _compat
from keras_rmda.optimizers.base import SparseOptimizer


def optimizers_of(model: keras.Model) -> list[SparseOptimizer]:
    """Return the optimizers of this package that a model is compiled with; those with a waiting state are built."""
    outer = getattr(model, "optimizer", None)
    found = [each for each in _compat.inner_optimizers(outer) if isinstance(each, SparseOptimizer)]
    if model.built and any(each.is_waiting for each in found):
        outer.build(model.trainable_variables)
    return found


def hide_zeros(model: keras.Model) -> bool:
    """Return whether a model's optimizer holds zeros that the weights do not have."""
    return any(optimizer.hides_zeros() for optimizer in optimizers_of(model))


def warn_of_hidden_zeros(model: keras.Model) -> None:
    """Say how to get the zeros that a model's optimizer holds and its weights do not have."""
    if hide_zeros(model):
        warnings.warn(
            f"The optimizer of {model.name!r} holds zeros that the weights do not have, so they are not removed: call "
            "`model.optimizer.project(model)` first. At the end of `fit`, and of its epochs, they are there by itself.",
            _checks.SparsityWarning,
            stacklevel=3,
        )
