"""Compare models that must compute the same."""

from __future__ import annotations

import contextlib
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda import _graphs

TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 1e-1, "float16": 1e-2}
"""Largest accepted difference of outputs, relative to the largest output: rounding, amplified by depth."""


class VerificationError(RuntimeError):
    """A model that was made of another does not compute the same."""


def random_inputs(model: keras.Model, batch: int = 2, open_axis: int = 32) -> list[np.ndarray]:
    """Return inputs of the model's shapes and types: normal numbers, or the integers 0 and 1, as words for strings.

    Args:
        model: the model.
        batch: the number of samples.
        open_axis: the size of axes that the model leaves open.

    Returns:
        One array for each input tensor.
    """
    random = np.random.default_rng(0)
    arrays = []
    for tensor in model.inputs:
        shape = [tensor.shape[0] or batch] + [open_axis if n is None else n for n in tensor.shape[1:]]
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        array = random.normal(size=shape) if "float" in dtype else random.integers(2, size=shape)
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


def difference(a: Any, b: Any) -> float:
    """Return max|a - b| / max(1e-3, max|a|), infinite where only one of them is finite."""
    a, b = (ops.convert_to_numpy(x).astype("float64") for x in (a, b))
    both = np.isfinite(a) & np.isfinite(b)
    if (np.isfinite(a) != np.isfinite(b)).any():
        return float("inf")
    return float(np.abs(a - b)[both].max(initial=0.0) / max(1e-3, np.abs(a[both]).max(initial=0.0)))


def outputs_of_both(
    model: keras.Model,
    other: keras.Model,
    inputs: Any = None,
    original: keras.Model | None = None,
    values: list[tuple[keras.Variable, Any]] | None = None,
) -> tuple[list, list, list]:
    """Run a model and what was made of it on the same inputs.

    Args:
        model: a model with a graph.
        other: what was made of it.
        inputs: structured as the model wants; None for random ones.
        original: what to run instead of the model, if that is only its graph.
        values: (variable, value), values that variables of the model have instead of their own.

    Returns:
        The inputs and the outputs of both, as flat lists.

    Raises:
        ValueError: if the model cannot run on the inputs.
        VerificationError: if only the other cannot.
    """
    try:
        flat = random_inputs(model) if inputs is None else flat_inputs(model, inputs)
        with keras.StatelessScope(values) if values else contextlib.nullcontext():
            a = _graphs.call(model, flat, original)
    except Exception as error:  # TensorFlow, JAX and NumPy raise many types
        which = "the given `inputs`: give others"
        if inputs is None:
            which = "random inputs, so that nothing can be verified: call this with `inputs=...`"
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"The model {model.name!r} cannot run on {which}. ({reason})") from error
    try:
        b = _graphs.call(other, flat)
    except Exception as error:
        raise VerificationError(
            f"The new model cannot run on what {model.name!r} runs on. The original is unchanged. This is an "
            f"error of keras_rmda or of a registered rule. ({' '.join(str(error).split())[:200]})"
        ) from error
    return flat, a, b
