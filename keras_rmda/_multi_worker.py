"""Keras's `fit` under TensorFlow's MultiWorkerMirroredStrategy: the two places where stock Keras fails, replaced.

Checked with Keras 3.8 and 3.15 and TensorFlow 2.18 and 2.21; keras issue 20585.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import keras
from keras import tree


def replace() -> None:
    """Replace both, once."""
    from keras.src.backend.tensorflow import trainer

    if hasattr(trainer.reduce_per_replica, "__wrapped__"):
        return
    trainer.reduce_per_replica = _reduced(trainer.reduce_per_replica)
    keras.Model._maybe_symbolic_build = _built(keras.Model._maybe_symbolic_build)


def _is_ours(strategy: Any) -> bool:
    return isinstance(strategy, sys.modules["tensorflow"].distribute.MultiWorkerMirroredStrategy)


def _reduced(original: Any) -> Any:
    """Return the mean over all workers, where Keras takes one along an axis that scalars do not have."""

    @functools.wraps(original)
    def reduce_per_replica(values: Any, strategy: Any, reduction: str) -> Any:
        if not _is_ours(strategy) or reduction not in ("auto", "mean"):
            return original(values, strategy, reduction)
        return tree.map_structure(lambda value: strategy.reduce("MEAN", value, axis=None), values)

    return reduce_per_replica


def _built(original: Any) -> Any:
    """Build with the batch of one replica: only shapes matter, and Keras's mean over replicas cannot be made there."""

    @functools.wraps(original)
    def _maybe_symbolic_build(model: keras.Model, iterator: Any = None, data_batch: Any = None) -> None:
        strategy = model._distribute_strategy
        if iterator is None or not _is_ours(strategy):
            original(model, iterator, data_batch)
            return
        *_, batches = next(iter(iterator))
        data_batch = tree.map_structure(lambda value: strategy.experimental_local_results(value)[0], next(batches))
        with strategy.scope():
            model._symbolic_build(data_batch=data_batch)

    return _maybe_symbolic_build
