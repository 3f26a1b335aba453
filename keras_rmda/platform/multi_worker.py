"""Keras's `fit` under TensorFlow's MultiWorkerMirroredStrategy: the places where stock Keras fails, replaced.

Checked with Keras 3.8, 3.9, 3.12 and 3.15 and TensorFlow 2.18 and 2.21; keras issue 20585.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import keras
from keras import tree


def replace(version: tuple[int, int]) -> None:
    """Replace those that this version of Keras needs, once."""
    from keras.src.backend.tensorflow import trainer

    if hasattr(trainer.reduce_per_replica, "__wrapped__"):
        return
    trainer.reduce_per_replica = _reduced(trainer.reduce_per_replica)
    keras.Model._maybe_symbolic_build = _built(keras.Model._maybe_symbolic_build)
    if version < (3, 10):
        keras.metrics.Metric.add_variable = _counted_by_each(keras.metrics.Metric.add_variable)


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


def _counted_by_each(original: Any) -> Any:
    """Let every replica count for itself what is summed when it is read, as Keras does since 3.10.

    Before, what all replicas have counted is summed at every step: it doubles with two of them, and ends as nan.
    """
    tensorflow = sys.modules["tensorflow"]

    def on_read(create: Any, **arguments: Any) -> Any:
        return create(**arguments | {"synchronization": tensorflow.VariableSynchronization.ON_READ})

    def within(function: Any, *arguments: Any, **others: Any) -> Any:
        with tensorflow.variable_creator_scope(on_read):
            return function(*arguments, **others)

    @functools.wraps(original)
    def add_variable(metric: keras.metrics.Metric, *arguments: Any, **others: Any) -> Any:
        if not _is_ours(tensorflow.distribute.get_strategy()):
            return original(metric, *arguments, **others)
        variable = within(original, metric, *arguments, **others)
        # Where a model is built on symbols, TensorFlow's variable is made later.
        variable._deferred_initialize = functools.partial(within, variable._deferred_initialize)
        return variable

    return add_variable
