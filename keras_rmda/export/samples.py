"""Inputs for the quantizer and for the check of a file, in whatever form they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

SAMPLES = 200
"""How many samples are used, at most."""


def representative_samples(model: keras.Model, data: Any) -> Iterator[dict[str, np.ndarray]]:
    """Yield inputs of one sample each, by name.

    Raises:
        ValueError: if names, numbers or shapes do not fit the model, or there is no sample.
    """
    names = [tensor.name for tensor in model.inputs]
    count = 0
    for batch in _batches(data):
        arrays = _in_order(batch, names)
        for array, tensor in zip(arrays, model.inputs):
            expected = tuple(tensor.shape[1:])
            fits = array.ndim == len(expected) + 1 and all(n in (None, m) for n, m in zip(expected, array.shape[1:]))
            if not fits:
                raise ValueError(
                    f"`representative_data` for the input {tensor.name!r} must have shape (samples, "
                    f"{', '.join(map(str, expected))}). Received: shape={array.shape}"
                )
        lengths = {len(array) for array in arrays}
        if len(lengths) > 1:
            raise ValueError(f"`representative_data` has inputs of different lengths. Received: {sorted(lengths)}")
        for k in range(lengths.pop()):
            count += 1
            yield {
                t.name: array[k : k + 1].astype(keras.backend.standardize_dtype(t.dtype))
                for array, t in zip(arrays, model.inputs)
            }
    if not count:
        raise ValueError("`representative_data` has no samples.")


def _batches(data: Any) -> Iterable:
    if isinstance(data, (Mapping, Sequence, np.ndarray)):
        return [data]
    if isinstance(data, Callable) and not hasattr(data, "element_spec"):
        return data()
    if isinstance(data, Iterator):
        return data
    if hasattr(data, "element_spec"):
        return (batch[0] if isinstance(batch, tuple) else batch for batch in data)
    if hasattr(data, "__array__"):
        return [np.asarray(data)]
    raise ValueError(
        "`representative_data` must be an array, a list or dict of arrays, a tf.data.Dataset, a generator or a "
        "callable. "
        f"Received: {type(data).__name__}"
    )


def _in_order(batch: Any, names: list[str]) -> list[np.ndarray]:
    if isinstance(batch, Mapping):
        if set(batch) != set(names):
            raise ValueError(f"`representative_data` must have the inputs {names}. Received: {sorted(map(str, batch))}")
        batch = [batch[name] for name in names]
    elif not isinstance(batch, (list, tuple)):
        batch = [batch]
    if len(batch) != len(names):
        raise ValueError(f"`representative_data` must have {len(names)} inputs. Received: {len(batch)}")
    arrays = [np.asarray(array) for array in batch]
    for array in arrays:
        if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
            raise ValueError(f"`representative_data` must be finite numbers. Received: dtype={array.dtype}")
    return arrays


def first_samples(model: keras.Model, data: Any) -> list[dict[str, np.ndarray]]:
    """Return the first 200 samples at most."""
    return [sample for _, sample in zip(range(SAMPLES), representative_samples(model, data))]
