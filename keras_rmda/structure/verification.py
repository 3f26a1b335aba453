"""Compare models that must compute the same."""

from __future__ import annotations

import contextlib
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.platform import compat, graphs
from keras_rmda.structure.inputs import flat_inputs, random_inputs

TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 1e-1, "float16": 1e-2}
"""Largest accepted difference of outputs, relative to the largest output: rounding, amplified by depth."""

Values = list[tuple[keras.Variable, Any]]


class VerificationError(RuntimeError):
    """A model that was made of another does not compute the same.

    The message names the first layer that differs: a rule of `register_rule` that is wrong, or a fault of this package.

    Example:
        >>> try:
        ...     small = kr.strip(model)
        ... except kr.VerificationError as error:
        ...     print(error)
    """


def difference(a: Any, b: Any) -> float:
    """Return max|a - b| / max(1e-3, max|a|), infinite where only one of them is finite."""
    a, b = (ops.convert_to_numpy(x).astype("float64") for x in (a, b))
    both = np.isfinite(a) & np.isfinite(b)
    if (np.isfinite(a) != np.isfinite(b)).any():
        return float("inf")
    return float(np.abs(a - b)[both].max(initial=0.0) / max(1e-3, np.abs(a[both]).max(initial=0.0)))


def tell_nothing(outputs: list) -> bool:
    """Return whether no number of an output is finite, so that it is like any other."""
    arrays = [ops.convert_to_numpy(y) for y in outputs if not isinstance(y, keras.KerasTensor)]
    return any(y.dtype.kind in "fc" and y.size and not np.isfinite(y).any() for y in arrays)


def tolerance_of(model: keras.Model) -> float:
    """Return the largest accepted difference of the outputs of a model and of what was made of it.

    It is that of the type with the fewest digits that the model computes in.
    """
    return max(TOLERANCE.get(dtype, 1e-4) for dtype in types_of(model))


def types_of(model: keras.Model) -> set[str]:
    """Return the types that a model computes in: those of its layers, and of what these take as it is."""
    layers = [layer for layer in compat.layers_of(model) if not is_input(layer)]
    tensors = [*model.outputs]
    for node in graphs.all_nodes(model):
        if not isinstance(node.operation, keras.Layer):
            tensors += node.output_tensors
        elif not node.operation.autocast:
            tensors += node.input_tensors
    dtypes = {keras.backend.standardize_dtype(x.dtype) for x in tensors} & set(TOLERANCE)
    return dtypes | {layer.compute_dtype for layer in layers}


def outputs_of_both(
    model: keras.Model,
    other: keras.Model,
    inputs: Any = None,
    original: keras.Model | None = None,
    values: Values | None = None,
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
    flat = None
    try:
        flat = random_inputs(model) if inputs is None else flat_inputs(model, inputs)
        scope = lambda: keras.StatelessScope(values) if values else contextlib.nullcontext()  # noqa: E731
        with scope():
            a = graphs.call(model, flat, original)
        if inputs is None and tell_nothing(a):
            flat = random_inputs(model, are_positive=True)
            with scope():
                a = graphs.call(model, flat, original)
        if tell_nothing(a):
            raise ArithmeticError("No number of an output is finite.")
        if any(isinstance(y, keras.KerasTensor) for y in a):
            raise TypeError(
                "A function inside, as a branch of `cond`, computes of a symbolic tensor of the model. Make it a layer."
            )
    except Exception as error:  # TensorFlow, JAX and NumPy raise many types
        which = "the given `inputs`: give others"
        if inputs is None:
            which = "random inputs, so that nothing can be verified: call this with `inputs=...`"
        reason = " ".join(str(error).split())[:200]
        layer = None if flat is None else failing(model, flat)
        reason = (
            reason if layer is None else f"The layer {layer.name!r} of type {type(layer).__name__} raises: {reason}"
        )
        raise ValueError(f"The model {model.name!r} cannot run on {which}. ({reason})") from error
    if original is not None:
        refuse_other_shapes(model, flat)
    try:
        b = graphs.call(other, flat)
    except Exception as error:
        raise VerificationError(
            f"The new model cannot run on what {model.name!r} runs on. The original is unchanged. This is an "
            f"error of keras_rmda or of a registered rule. ({' '.join(str(error).split())[:200]})"
        ) from error
    return flat, a, b


def refuse_other_shapes(model: keras.Model, inputs: list) -> None:
    """Raise `ValueError` if inputs have other shapes than a graph, which has those of the first call of its code."""
    wanted, given = [x.shape for x in model.inputs], [tuple(x.shape) for x in inputs]
    fits = lambda a, b: len(a) == len(b) and all(n in (None, m) for n, m in zip(a, b))  # noqa: E731
    if not all(map(fits, wanted, given)):
        raise ValueError(
            f"The model {model.name!r} was first called on inputs of the shapes {wanted}, and what is made of it takes "
            f"these; the given `inputs` have {given}. Give inputs of those shapes; or call a new model, before "
            "anything else, on `keras.Input`s with None for every open size, and load the weights into it."
        )


def failing(model: keras.Model, inputs: list) -> Any:
    """Return the layer or operation of a model that raises an error, or None."""
    called = []

    def call(node: Any, arguments: tuple, keyword_arguments: dict) -> Any:
        called.append(node.operation)
        return node.operation(*arguments, **keyword_arguments)

    try:
        graphs.replayed(model, [ops.convert_to_tensor(x) for x in inputs], call)
    except Exception:
        return called[-1] if called else None
    return None


def is_input(layer: keras.Layer) -> bool:
    """Return whether a layer is an input of a graph."""
    return isinstance(layer, keras.layers.InputLayer)
