"""What a model was compiled with, and data in every form that `fit` takes: private calls of Keras.

Checked with Keras 3.8 and 3.15.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any

import keras
import numpy as np
from keras.src.trainers.data_adapters import array_data_adapter, array_slicing, get_data_adapter

COMPILED = (
    *("optimizer", "loss", "loss_weights", "metrics", "weighted_metrics"),
    *("run_eagerly", "steps_per_execution", "jit_compile"),
)
"""Arguments of `compile` that make sense for another model too."""


def compile_arguments(model: keras.Model) -> dict[str, Any]:
    """Return what a model was compiled with, as objects; empty for a model that was not.

    `get_compile_config` would give configurations, which functions and classes of a user's own may not have.
    """
    config = getattr(getattr(model, "_compile_config", None), "config", None) if model.compiled else None
    found = {key: value for key, value in (config or {}).items() if key in COMPILED}
    return found | ({"optimizer": model.optimizer} if model.compiled else {})


def with_new_metrics(structure: Any) -> Any:
    """Return arguments of `compile` with new metrics, so that two models do not share their states."""
    if isinstance(structure, dict):
        return {key: with_new_metrics(value) for key, value in structure.items()}
    if isinstance(structure, (list, tuple)):
        return type(structure)(with_new_metrics(each) for each in structure)
    if isinstance(structure, keras.Metric):
        try:
            config = structure.get_config()
            return structure if forgotten(structure, config) else type(structure).from_config(config)
        except Exception:  # a metric of a user's own without a configuration is shared
            return structure
    return structure


def forgotten(each: Any, config: dict[str, Any]) -> list[str]:
    """Return the arguments of a constructor that a configuration does not tell, as where a class of a user has none."""
    if type(each).__module__.partition(".")[0] in ("keras", "keras_rmda"):
        return []
    parameters = inspect.signature(type(each).__init__).parameters.values()
    named = [x.name for x in parameters if x.kind not in (x.VAR_POSITIONAL, x.VAR_KEYWORD)]
    return [name for name in named[1:] if name not in config]


def share_metrics(model: keras.Model, other: keras.Model) -> None:
    """Let steps of another model update the metrics of a model, the loss among them; both are compiled alike."""
    for name in ("_compile_loss", "_compile_metrics", "_loss_tracker"):
        setattr(other, name, getattr(model, name))


def split_off(arrays: tuple, share: float) -> tuple[tuple, tuple]:
    """Return arrays without their last samples, and these: as `fit` does for `validation_split`."""
    return array_slicing.train_validation_split(arrays, validation_split=share)


def number_of_batches(x: Any, y: Any, batch_size: int | None) -> float | None:
    """Return how many batches there are in data of any form that `fit` takes: infinity where they have no end.

    None where that is not known. Keras says None of both.
    """
    adapter = get_data_adapter(x, y, batch_size=batch_size)
    if adapter.num_batches is not None:
        return adapter.num_batches
    is_endless = isinstance(x, keras.utils.PyDataset) or (hasattr(x, "cardinality") and int(x.cardinality()) == ENDLESS)
    return float("inf") if is_endless else None


ENDLESS = -1
"""The cardinality of data of TensorFlow without an end; -2 is that of data which do not know it."""


def batches(x: Any, y: Any, batch_size: int | None, limit: int) -> Iterator[tuple]:
    """Yield the first batches of data of any form that `fit` takes, as `(x,)`, `(x, y)` or with weights, in NumPy."""
    adapter = get_data_adapter(x, y, batch_size=batch_size)
    with contextlib.closing(iter(adapter.get_numpy_iterator())) as found:
        for batch in islice(found, limit):
            yield batch if isinstance(batch, tuple) else (batch,)  # Keras does not wrap a single input


def named(batch: tuple) -> dict[str, Any]:
    """Return a batch as `fit` and `evaluate` take it; Keras takes texts as tensors of TensorFlow only."""

    def taken(x: Any) -> Any:
        is_text = getattr(getattr(x, "dtype", None), "kind", "") in "OSU" and isinstance(x, np.ndarray)
        return sys.modules["tensorflow"].constant(x) if is_text else x

    size = len(keras.tree.flatten(batch)[0])
    return dict(zip(("x", "y", "sample_weight"), keras.tree.map_structure(taken, batch))) | {"batch_size": size}


def are_arrays(x: Any, y: Any = None) -> bool:
    """Return whether data are arrays, which `fit` makes batches of, and not batches."""
    return array_data_adapter.can_convert_arrays((x, y))


def compiled_metrics(model: keras.Model) -> list[str]:
    """Return the names of the metrics of `compile`, in its order, of a model that was evaluated.

    `evaluate` gives them by the alphabet, together with losses and metrics of layers.
    """
    metrics = getattr(model, "_compile_metrics", None)
    return list(metrics.result()) if metrics is not None and metrics.built else []


def is_better_higher(model: keras.Model, name: str) -> bool | None:
    """Return whether a metric of a compiled model grows as the model gets better, by its own word; None without one."""
    metrics = [inner for each in model.metrics for inner in (each, *getattr(each, "metrics", ()))]
    direction = next((getattr(each, "_direction", None) for each in metrics if name.endswith(each.name)), None)
    return direction == "up" if direction else None


def scope_of(model: keras.Model) -> contextlib.AbstractContextManager:
    """Return the scope of the strategy that a model was made in; models of one training share it."""
    strategy = getattr(model, "distribute_strategy", None) if keras.backend.backend() == "tensorflow" else None
    return contextlib.nullcontext() if strategy is None else strategy.scope()
