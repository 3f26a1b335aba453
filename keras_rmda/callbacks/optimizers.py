"""The optimizers that callbacks deal with."""

from __future__ import annotations

import keras

from keras_rmda import _nested
from keras_rmda.optimizers.base import SparseOptimizer


def optimizers_of(model: keras.Model) -> list[SparseOptimizer]:
    """Return the optimizers of this package that train a model, from inside of whatever others.

    Some are made only when the model's optimizer is built, so that is done here where the model has its variables.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and model.built and not optimizer.built:
        optimizer.build(model.trainable_variables)
    return [each for each in _nested.inner_optimizers(optimizer) if isinstance(each, SparseOptimizer)]
