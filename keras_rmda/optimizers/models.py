"""What a compiled model has to do with optimizers of this package."""

from __future__ import annotations

import warnings
from typing import Any

import keras

from keras_rmda.optimizers.base import SparseOptimizer
from keras_rmda.platform import checks, nested


def optimizers_of(model: keras.Model) -> list[SparseOptimizer]:
    """Return the optimizers of this package that train a model, from inside of whatever others.

    Some are made only when the model's optimizer is built, so that is done here where the model has its variables.
    """
    outer = getattr(model, "optimizer", None)
    if outer is not None and model.built and not outer.built:
        outer.build(model.trainable_variables)
    return ours_in(outer)


def ours_in(optimizer: Any) -> list[SparseOptimizer]:
    """Return the optimizers of this package inside of another, or itself."""
    return [each for each in nested.inner_optimizers(optimizer) if isinstance(each, SparseOptimizer)]


def may_have_ours(model: keras.Model) -> bool:
    """Return whether a model is trained by an optimizer of this package, or may be when it is built."""
    outer = getattr(model, "optimizer", None)
    return bool(ours_in(outer)) or nested.makes_optimizers_when_built(outer)


def hide_zeros(model: keras.Model) -> bool:
    """Return whether a model's optimizer holds zeros that the weights do not have."""
    outer = getattr(model, "optimizer", None)
    has_state = any(each.built or each.is_waiting for each in ours_in(outer))
    return has_state and any(optimizer.hides_zeros() for optimizer in optimizers_of(model))


def warn_of_hidden_zeros(model: keras.Model) -> None:
    """Say how to get the zeros that a model's optimizer holds and its weights do not have."""
    if hide_zeros(model):
        warnings.warn(
            f"The optimizer of {model.name!r} holds zeros that the weights do not have, so they are not removed: call "
            "`model.optimizer.project(model)` first. At the end of `fit`, and of its epochs, they are there by itself.",
            checks.SparsityWarning,
            stacklevel=3,
        )
