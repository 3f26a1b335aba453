"""Which model an optimizer trains: it sees variables, but what an axis means is the affair of layers."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterable

import keras

from keras_rmda.platform import compat, hooks, nested
from keras_rmda.platform.checks import SparsityWarning
from keras_rmda.regularizers import ProximalRegularizer

_COMPILED: weakref.WeakKeyDictionary[keras.Model, None] = weakref.WeakKeyDictionary()
"""All compiled models, the latest last."""


def remember(model: keras.Model) -> None:
    """Keep in mind that this model was compiled just now, and warn of penalties that it has in vain."""
    _COMPILED.pop(model, None)
    _COMPILED[model] = None
    late = regularizers_set_late(model)
    if late:
        warnings.warn(
            f"These penalties do nothing, since their layers were built before: {', '.join(late)}. Give them to the "
            "constructors of the layers, or to the optimizer: regularizer={path: penalty}.",
            SparsityWarning,
            stacklevel=3,
        )


def regularizers_set_late(model: keras.Model) -> list[str]:
    """Return the attributes `..._regularizer` of layers that hold a penalty which the weight of that name lacks.

    Keras gives a weight its regularizer when the layer is built, and does not look at the attribute again.
    """
    found = []
    for layer in compat.layers_of(model) if model.built else []:
        for name, psi in list(vars(layer).items()):
            if name.endswith("_regularizer") and isinstance(psi, ProximalRegularizer):
                weight = getattr(layer, name.removesuffix("_regularizer"), None)
                if isinstance(weight, keras.Variable) and weight.regularizer is not psi:
                    found.append(f"{layer.name}.{name}")
    return found


def model_of(optimizer: keras.optimizers.Optimizer, variables: Iterable[keras.Variable]) -> weakref.ref | None:
    """Return, weakly, the model that has all of these variables and was compiled last, or None.

    Those that were compiled with this optimizer go first. An optimizer that is made only when another one is built,
    by a function for `MultiOptimizer`, was not there when its model was compiled.
    """
    wanted = {id(variable) for variable in variables}
    owners = [model for model in _COMPILED if wanted <= {id(variable) for variable in model.variables}]
    compiled_with_it = [model for model in owners if optimizer in nested.inner_optimizers(model.optimizer)]
    found = compiled_with_it or owners
    return weakref.ref(found[-1]) if found else None


# Now, and not with the first optimizer: `model.compile(RMDA())` looks up `compile` before it makes the optimizer.
hooks.tell_optimizers_their_model(remember)
