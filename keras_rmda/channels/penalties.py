"""Penalties and constraints of a user's own, which may take one number of channels only, or depend on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

BY_ITSELF = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)
"""Penalties to which a zero adds nothing. Those of this package weigh groups by their sizes, as their formulas say."""

CLOSE = 1e-3
"""The share of a penalty by which it may differ: it is computed in float32."""


def fixed_outputs(layer: Any) -> str:
    """Return why what a layer gives stays: its activity regularizer takes these channels, not one less; or ""."""
    regularizer = getattr(layer, "activity_regularizer", None)
    for shape in shapes_of_outputs(layer) if regularizer is not None else ():
        if takes(regularizer, shape) and not takes(regularizer, smaller(shape, -1)):
            return f"read by its activity regularizer, which takes {shape[-1]} channels only"
    return ""


def fixed_weights(layer: Any) -> str:
    """Return why what a layer takes and gives stays: a penalty or constraint takes one shape only; or ""."""
    for weight in layer.weights if isinstance(layer, keras.Layer) else ():
        shape = tuple(weight.shape)
        for name in ("regularizer", "constraint"):
            function = getattr(weight, name, None)
            if function is None or is_of_libraries(function) or not takes(function, shape):
                continue
            if not all(takes(function, smaller(shape, axis)) for axis, n in enumerate(shape) if n > 1):
                return f"the {name} of its {weight.name} takes the shape {shape} only"
    return ""


def counting(old: Any, new: Any) -> Iterator[str]:
    """Yield which penalties of a layer are others where channels are gone than where they are zero."""
    pairs = zip(old.weights, new.weights) if len(old.weights) == len(new.weights) else ()
    for before, after in pairs:
        regularizer = getattr(after, "regularizer", None)
        if regularizer is not None and before.shape != after.shape and len(before.shape) == len(after.shape):
            value = keras.ops.convert_to_numpy(after)
            if changes(regularizer, value, tuple(before.shape)):
                yield f"the regularizer of {after.name}"
    regularizer = getattr(new, "activity_regularizer", None)
    for first, second in zip(shapes_of_outputs(old), shapes_of_outputs(new)) if regularizer is not None else ():
        if first != second and changes(regularizer, np.linspace(0.5, 1.5, int(np.prod(second))).reshape(second), first):
            yield "its activity regularizer"


def changes(regularizer: Callable[[Any], Any], value: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Return whether a penalty is another where zeros fill an array up to a shape."""
    if type(regularizer) in BY_ITSELF or type(regularizer).__module__.startswith("keras_rmda."):
        return False
    padded = np.pad(value, [(0, max(n - m, 0)) for n, m in zip(shape, value.shape)])
    try:
        small, whole = (float(regularizer(keras.ops.cast(each, "float32"))) for each in (value, padded))
    except Exception:  # whatever the user's code raises
        return False
    return abs(small - whole) > CLOSE * max(abs(small), abs(whole))


def takes(function: Callable[[Any], Any], shape: tuple[int, ...]) -> bool:
    """Return whether a function takes an array of a shape."""
    try:
        function(keras.ops.zeros(shape))
    except Exception:  # whatever the user's code raises
        return False
    return True


def smaller(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """Return a shape with one less along an axis."""
    changed = list(shape)
    changed[axis] = max(shape[axis] - 1, 1)
    return tuple(changed)


def shapes_of_outputs(layer: Any) -> list[tuple[int, ...]]:
    """Return the shapes that a layer has given, each once, with 1 for open sizes."""
    nodes = getattr(layer, "_inbound_nodes", [])
    return list(dict.fromkeys(tuple(n or 1 for n in y.shape) for node in nodes for y in node.output_tensors))


def is_of_libraries(function: Any) -> bool:
    """Return whether Keras or this package has a penalty or constraint, which takes any number of channels."""
    return type(function).__module__.partition(".")[0] in ("keras", "keras_rmda")
