"""Which model an optimizer trains: it sees variables, but what an axis means is the affair of layers."""

from __future__ import annotations

import weakref
from collections.abc import Iterable

import keras

from keras_rmda import _compat

_COMPILED: weakref.WeakKeyDictionary[keras.Model, None] = weakref.WeakKeyDictionary()
"""All compiled models, the latest last."""


def remember(model: keras.Model) -> None:
    """Keep in mind that this model was compiled just now."""
    _COMPILED.pop(model, None)
    _COMPILED[model] = None


def model_of(optimizer: keras.optimizers.Optimizer, variables: Iterable[keras.Variable]) -> weakref.ref | None:
    """Return, weakly, the model that has all of these variables and was compiled last, or None.

    Those that were compiled with this optimizer go first. An optimizer that is made only when another one is built,
    by a function for `MultiOptimizer`, was not there when its model was compiled.
    """
    wanted = {id(variable) for variable in variables}
    owners = [model for model in _COMPILED if wanted <= {id(variable) for variable in model.variables}]
    compiled_with_it = [model for model in owners if optimizer in _compat.inner_optimizers(model.optimizer)]
    found = compiled_with_it or owners
    return weakref.ref(found[-1]) if found else None


# Now, and not with the first optimizer: `model.compile(RMDA())` looks up `compile` before it makes the optimizer.
_compat.tell_optimizers_their_model(remember)
