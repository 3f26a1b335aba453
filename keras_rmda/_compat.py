"""Every private or backend-specific call of Keras and TensorFlow, with its reason.

Checked with Keras 3.8 and 3.15 and TensorFlow 2.18 and 2.21.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import keras


def outside_of_traces() -> contextlib.AbstractContextManager:
    """Return a context in which assignments happen once, now, and not in every traced step.

    On TensorFlow an optimizer is built inside the traced training step.
    """
    if keras.backend.backend() == "tensorflow":
        return sys.modules["tensorflow"].init_scope()
    return contextlib.nullcontext()


def inner_optimizer(optimizer: Any) -> Any:
    """Return the optimizer inside Keras's `LossScaleOptimizer`, or `optimizer` itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def leave_proximal_penalties_out_of_losses(handles: Callable[[Any, keras.Variable], bool]) -> None:
    """Make `model.losses` skip the penalties that the model's own optimizer applies by its proximal step.

    Keras adds `variable.regularizer(variable)` to the loss and offers no hook to decide by optimizer, so
    the one method that collects these terms is wrapped, once, for models whose optimizer is ours.

    Args:
        handles: called with (optimizer, variable); whether the optimizer applies the variable's penalty.
    """
    original = keras.Model._get_regularization_losses
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def losses(model: keras.Model) -> list:
        optimizer = inner_optimizer(getattr(model, "optimizer", None))
        with without_regularizers([v for v in model.trainable_weights if handles(optimizer, v)]):
            return original(model)

    keras.Model._get_regularization_losses = losses


@contextlib.contextmanager
def without_regularizers(variables: list[keras.Variable]) -> Iterator[None]:
    """Take the regularizers off `variables` for the duration of the context."""
    taken = [variable.regularizer for variable in variables]
    try:
        for variable in variables:
            variable.regularizer = None
        yield
    finally:
        for variable, regularizer in zip(variables, taken):
            variable.regularizer = regularizer
