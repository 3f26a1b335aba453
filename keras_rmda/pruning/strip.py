"""Rebuild a model without the channels that cannot matter, and verify that it computes the same."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda import _checks, _compat
from keras_rmda.pruning.liveness import Plan, Reader, plan
from keras_rmda.pruning.trace import Call, trace

TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 1e-1, "float16": 1e-2}
"""Largest accepted difference of outputs, relative to the largest output: rounding, amplified by depth."""


class VerificationError(RuntimeError):
    """The stripped model does not compute what the original does."""


def strip(model: keras.Model, tolerance: float | None = None, inputs: Any = None) -> keras.Model:
    """Return a smaller model that computes the same function at inference.

    A channel goes if no output can depend on it, or if it is a constant that its readers absorb exactly into their
    biases. This is decided by weights and graph alone. What stays, stays with its names and policies.

    Args:
        model: a built Sequential or Functional model, with zeros from anywhere. It is not changed.
        tolerance: largest accepted `max|a - b| / max(1e-3, max|a|)`; None for 1e-4 in float32.
        inputs: what both models are run on to compare them, structured as the model wants; None for random numbers.

    Returns:
        A new, uncompiled model with the same inputs and outputs, also when nothing can go.

    Raises:
        ValueError: if the model is not built or has no graph of layers, if `tolerance` is no positive number, if a
            layer cannot be made from its configuration, or if the model cannot run on `inputs`.
        VerificationError: naming the first layer that differs, if outputs differ by more than rounding.

    Example:
        >>> small = kr.strip(model)
        >>> small.count_params() < model.count_params()
        True
    """
    if tolerance is not None:
        _checks.real("tolerance", tolerance, open_minimum=True)
    decided = plan(trace(model), ops.convert_to_numpy)
    layers = {id(call.layer): (index, call) for index, call in reversed(list(enumerate(decided.trace.calls)))}

    def resized(layer: Any) -> Any:
        config = layer.get_config()
        _, call = layers.get(id(layer), (None, None))
        if call is not None and call.rule.width:
            config[call.rule.width] = len(kept(decided, call, "o"))
        return _compat.copied(layer, config)

    small = _compat.rebuilt(model, resized)
    pairs = [(old, new) for old, new in zip(model.layers, small.layers, strict=True) if old.weights]
    for old, new in pairs:
        index, call = layers[id(old)]
        new.set_weights(stripped_weights(decided, call, decided.readers.get(index)))
        _compat.finalize_states(new)
    verify(model, small, decided, tolerance, inputs)
    return small


def kept(plan: Plan, call: Call, letter: str) -> np.ndarray:
    """Return the indices that stay along a weight's axis of the given letter."""
    atoms = plan.trace.output_channels(call) if letter == "o" else plan.trace.input_channels(call)
    return np.flatnonzero(plan.keep[atoms])


def stripped_shape(plan: Plan, call: Call, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that the weight attribute `name` of a layer will have."""
    axes = call.rule.weights.get(name, "." * len(shape))
    return tuple(n if letter == "." else len(kept(plan, call, letter)) for n, letter in zip(shape, axes))


def stripped_weights(plan: Plan, call: Call, reader: Reader | None) -> list[np.ndarray]:
    """Return a layer's weights, sliced, with absorbed constants in the bias, in the layer's own order."""
    result = []
    for name, variable in call.named_weights():
        value = ops.convert_to_numpy(variable)
        axes = call.rule.weights.get(name, "")
        if reader is not None:
            needed = plan.needed[reader.inputs]
            if name == "kernel" and not needed.all():
                # What stays only because a layer needs a channel must not be read: it may compute anything now.
                value = np.where(np.expand_dims(needed, [k for k, a in enumerate(axes) if a != "i"]), value, 0)
            elif name == "bias":
                value = reader.folded(~needed).astype(value.dtype)
        for axis, letter in enumerate(axes):
            if letter != ".":
                value = np.take(value, kept(plan, call, letter), axis=axis)
        result.append(value)
    return result


def random_inputs(model: keras.Model, batch: int = 2, open_axis: int = 32) -> list[np.ndarray]:
    """Return inputs of the model's shapes and types: normal numbers, or the integers 0 and 1.

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
        is_float = "float" in keras.backend.standardize_dtype(tensor.dtype)
        arrays.append((random.normal(size=shape) if is_float else random.integers(2, size=shape)).astype(tensor.dtype))
    return arrays


def difference(a: Any, b: Any) -> float:
    """Return max|a - b| / max(1e-3, max|a|), infinite where only one of them is finite."""
    a, b = (ops.convert_to_numpy(x).astype("float64") for x in (a, b))
    both = np.isfinite(a) & np.isfinite(b)
    if (np.isfinite(a) != np.isfinite(b)).any():
        return float("inf")
    return float(np.abs(a - b)[both].max(initial=0.0) / max(1e-3, np.abs(a[both]).max(initial=0.0)))


def verify(
    model: keras.Model, small: keras.Model, plan: Plan, tolerance: float | None = None, inputs: Any = None
) -> float:
    """Compare a model and its stripped version on the same inputs.

    Returns:
        The largest relative difference.

    Raises:
        ValueError: if the model cannot run on the inputs.
        VerificationError: naming the first layer whose kept channels differ.
    """
    dtypes = {keras.backend.standardize_dtype(tensor.dtype) for tensor in keras.tree.flatten(model.outputs)}
    dtypes.add(model.dtype_policy.compute_dtype)
    tolerance = tolerance or max(TOLERANCE.get(dtype, 1e-4) for dtype in dtypes)
    try:
        flat = random_inputs(model) if inputs is None else keras.tree.flatten(inputs)
        a = _compat.call(model, flat)
    except Exception as error:  # TensorFlow, JAX and NumPy raise many types
        which = "random inputs" if inputs is None else "the given `inputs`"
        raise ValueError(
            f"The model {model.name!r} cannot run on {which}, so that stripping it cannot be verified. Call "
            f"strip(model, inputs=...) with data that it takes. ({' '.join(str(error).split())[:200]})"
        ) from error
    b = _compat.call(small, flat)
    worst = max(difference(x, y) for x, y in zip(a, b))
    if worst <= tolerance:
        return worst
    name = first_difference(model, small, plan, flat, tolerance)
    raise VerificationError(
        f"The stripped model differs from {model.name!r} by {worst:.3g} (tolerance {tolerance:g}), first at {name!r}. "
        "The original is unchanged. Layers that are random at inference and weights that are not finite cannot be "
        "verified; else this is an error of keras_rmda or of a registered rule."
    )


def first_difference(model: keras.Model, small: keras.Model, plan: Plan, inputs: list, tolerance: float) -> str:
    """Return the name of the first layer whose needed output channels differ between the two models."""
    pairs = list(zip(_compat.nodes(model), _compat.nodes(small)))
    pairs = [(old, new) for old, new in pairs if not old.is_input]
    a = keras.Model(model.inputs, [old.output_tensors[0] for old, _ in pairs])(inputs, training=False)
    b = keras.Model(small.inputs, [new.output_tensors[0] for _, new in pairs])(inputs, training=False)
    for (old, _), call, x, y in zip(pairs, plan.trace.calls, a, b):
        atoms, x, y = plan.trace.ids[call.outputs[0]], ops.convert_to_numpy(x), ops.convert_to_numpy(y)
        for axis in range(atoms.ndim):
            if atoms.shape[axis] > 1:
                atoms = atoms.reshape(-1)
                stays = np.flatnonzero(plan.keep[atoms])
                needed = plan.needed[atoms[stays]]
                x = np.compress(needed, np.take(x, stays, axis=axis + 1), axis=axis + 1)
                y = np.compress(needed, y, axis=axis + 1)
                break
        if difference(x, y) > tolerance:
            return old.operation.name
    return "the outputs only"
