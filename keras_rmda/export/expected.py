"""What a model makes of samples: that with which its file is compared."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from keras_rmda.export.differences import differs
from keras_rmda.export.interpreter import in_parts
from keras_rmda.export.prepared import Prepared, batch_size, called, in_float32
from keras_rmda.platform import lite

TOLERANCE = 1e-3
"""Largest accepted difference of a float32 file, relative to the largest output; far above rounding."""


def expected_of(model: Any, samples: list[dict[str, np.ndarray]], made: Prepared) -> list[list[np.ndarray]]:
    """Return what a model makes of samples, in float32, from the same states."""
    scope = keras.StatelessScope() if made.keeps_state else contextlib.nullcontext()
    with in_float32(model), lite.running(), scope:
        return outputs_of(model, samples, made.batch, made.is_coupled)


def depends_on_batch(
    model: Any, samples: list[dict[str, np.ndarray]], made: Prepared, expected: list, values: list
) -> bool:
    """Return whether a model makes something else of the sample at which its file is farthest off, where the model
    takes as few samples at once as the file.

    Args:
        model: the Keras model.
        samples: of one sample each, by the names of inputs.
        made: of the model.
        expected: what the model makes of all samples at once, as of `outputs_of`.
        values: what the file makes of them.
    """
    largest, number, row = farthest(expected, values)
    if largest <= TOLERANCE:
        return False
    rows = slice(row // made.batch * made.batch, (row // made.batch + 1) * made.batch)
    few = {name: x[rows] for name, x in alike(samples)[number].items()}
    found = expected_of(model, [few], replace(made, is_coupled=True))
    return any(differs(a[number][rows], b[0]) > TOLERANCE for a, b in zip(expected, found))


def farthest(expected: list[list[np.ndarray]], values: list[list[np.ndarray]]) -> tuple[float, int, int]:
    """Return the largest difference, relative to the largest number, and the batch and the row that have it."""
    found = (0.0, 0, 0)
    for arrays, others in zip(expected, values):
        for number, (a, b) in enumerate(zip(arrays, others)):
            if a.size and a.ndim and a.shape == b.shape:
                off = np.nan_to_num(np.abs(a.astype("float64") - b).reshape(len(a), -1).max(1))
                found = max(found, (float(off.max() / (np.abs(a).max() or 1)), number, int(off.argmax())))
    return found


def alike(samples: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """Return samples in batches, each of one size."""
    groups: dict[tuple, list[dict[str, np.ndarray]]] = {}
    for sample in samples:
        groups.setdefault(tuple(x.shape for x in sample.values()), []).append(sample)
    return [{name: np.concatenate([each[name] for each in group]) for name in group[0]} for group in groups.values()]


def outputs_of(
    model: Any, samples: list[dict[str, np.ndarray]], size: int | None, is_coupled: bool = False
) -> list[list[np.ndarray]]:
    """Return what a model makes of samples: for each output one array for all samples of a size.

    Args:
        model: the model.
        samples: of one sample each, by the names of inputs.
        size: how many its file takes at once.
        is_coupled: whether the model has to take as many, as what it makes of one depends on the others.
    """
    call, is_open = called(model), all(y.shape and y.shape[0] is None for y in (*model.inputs, *model.outputs))
    is_open &= not is_coupled

    def computed(arrays: list[np.ndarray]) -> list[np.ndarray]:
        return [np.asarray(y) for y in call(arrays)]

    results = []
    for batch in alike(samples):
        arrays = [batch[tensor.name] for tensor in model.inputs]
        outputs = computed(arrays) if is_open else []
        if not outputs or any(len(y) != len(arrays[0]) for y in outputs):  # outputs are not one for each sample
            outputs = in_parts(computed, arrays, size or batch_size(model) or 1)
        results.append(outputs)
    return [list(each) for each in zip(*results)]
