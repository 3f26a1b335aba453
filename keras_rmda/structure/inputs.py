"""What models are run on to be compared: random inputs, as many samples of them as are worth the time."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from keras_rmda.platform import graphs
from keras_rmda.structure.sizes import fills, open_size

SAMPLES, CORNER, MACS = 2, 32, 3e8
"""What is computed in float64: samples, or positions of one where that would take more multiply-accumulates."""

WHOLE = 5e9 if keras.backend.backend() == "tensorflow" else MACS
"""As many are computed in float64 in the place of float32: on TensorFlow in half a second of one core, else in 5."""


def random_inputs(
    model: keras.Model, batch: int = 2, open_axis: int | None = None, are_positive: bool = False
) -> list[np.ndarray]:
    """Return inputs of the model's shapes and types: normal numbers, or the integers 0 and 1, as words for strings.

    Args:
        model: the model.
        batch: the number of samples.
        open_axis: the size of axes that the model leaves open; None for the first of some that it takes.
        are_positive: whether numbers are to be between .1 and 1, as for a logarithm.

    Returns:
        One array for each input tensor.
    """
    random = np.random.default_rng(0)
    size = open_size(model) if open_axis is None else open_axis
    arrays = []
    for tensor in model.inputs:
        shape = [tensor.shape[0] or batch] + [size if n is None else n for n in tensor.shape[1:]]
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        numbers = random.uniform(0.1, 1.0, shape) if are_positive else random.normal(size=shape)
        array = numbers if "float" in dtype else random.integers(2, size=shape)
        arrays.append(array.astype(str if dtype == "string" else dtype))
    return arrays


def flat_inputs(model: keras.Model, inputs: Any) -> list:
    """Return the arrays of nested inputs in the order of the model's; a dictionary may name those of a list.

    Raises:
        ValueError: if there is no sample, which would verify nothing.
    """
    names = [tensor._keras_history.operation.name for tensor in model.inputs]
    if isinstance(inputs, dict) and set(inputs) == set(names):
        flat = [inputs[name] for name in names]
    else:
        flat = keras.tree.flatten(inputs)
    if any(len(x) == 0 for x in flat):
        raise ValueError(f"at least one sample is needed; received shapes {[tuple(np.shape(x)) for x in flat]}")
    return flat


def work(model: keras.Model) -> int:
    """Return about how many multiply-accumulates a model makes for a sample: its weights, at every position."""
    found = 0
    for node in graphs.all_nodes(model):
        if not graphs.is_inner_graph(node.operation):
            positions = max(math.prod(n or 1 for n in y.shape[1:-1]) for y in node.output_tensors)
            found += positions * sum(math.prod(v.shape) for v in getattr(node.operation, "weights", []))
    return found


def is_cheap(model: keras.Model, inputs: list) -> bool:
    """Return whether a model can be computed in float64 as fast as in float32, or nearly so.

    Convolutions in groups cannot: on TensorFlow they take 100 to 1,500 times as long as others.
    """
    nodes = graphs.all_nodes(model)
    return all(getattr(x.operation, "groups", 1) == 1 for x in nodes) and work(model) * len(inputs[0]) <= WHOLE


def cheap(model: keras.Model, inputs: list) -> list:
    """Return inputs that a model can be computed on in float64 without delay: few samples, or a corner of one."""
    macs = work(model)
    is_open = all(x.shape[0] is None for x in model.inputs)
    few = [x[:SAMPLES] for x in inputs] if is_open else inputs
    if macs * len(few[0]) <= MACS:
        return few
    corner = (slice(None, 1 if is_open else None), *[slice(CORNER)] * (max(np.ndim(x) for x in few) - 2))
    result = [x[corner[: max(1, np.ndim(x) - 1)]] for x in few]
    share = max(np.size(x) for x in result) / max(np.size(x) for x in few)
    if macs * len(few[0]) * share > MACS or not fills(model, [np.shape(x) for x in result]):
        raise ValueError("too much work, or too small a corner")
    return result
