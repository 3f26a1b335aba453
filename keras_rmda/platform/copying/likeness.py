"""Whether two layers, made by the same code, are the same in all but the values of weights."""

from __future__ import annotations

import functools
import types
from typing import Any

import keras
import numpy as np
from keras.src.saving.keras_saveable import KerasSaveable

from keras_rmda.platform.compat import layers_of
from keras_rmda.platform.copying.functions import WRAPPERS, is_function
from keras_rmda.platform.tracing.programs import is_array, is_same

BASICS = frozenset(vars(keras.layers.Layer()))
"""Attributes of layers that say nothing of what they compute."""

PLAIN = (bool, int, float, complex, str, bytes, range, slice, type, types.ModuleType, types.BuiltinFunctionType)


LOOKED_AT_ELSEWHERE = (
    *(KerasSaveable, keras.Variable, keras.KerasTensor),
    *(keras.initializers.Initializer, keras.random.SeedGenerator),
)
"""Layers inside are looked at by themselves; initial values do not stay, and random states are in the file."""


def are_alike(layer: Any, new: Any) -> bool:
    """Return whether two layers or operations have the same attributes and functions, and weights of the same shapes.

    An attribute that only one of them has comes with a call, or when weights are loaded.
    """
    return unlike(layer, new) is None


def unlike(layer: Any, new: Any) -> str | None:
    """Return the name of the first attribute that is another in the second of two layers; None if they are alike."""
    both = [layers_of(x) if isinstance(x, keras.Layer) else [x] for x in (layer, new)]
    if [type(x) for x in both[0]] != [type(x) for x in both[1]]:
        return "layers"
    for a, b in zip(*both):
        shapes = [[tuple(v.shape) for v in getattr(x, "weights", [])] for x in (a, b)]
        policies = [getattr(getattr(x, "dtype_policy", None), "name", None) for x in (a, b)]
        if shapes[0] != shapes[1]:
            return "weights"
        if policies[0] != policies[1]:
            return "dtype_policy"
        x, y = _own(a), _own(b)
        for key in x.keys() & y.keys():
            if not _is_same(x[key], y[key], set()):
                return key
    return None


def is_that_of_its_name(function: Any) -> bool:
    """Return whether a function, such as `tf.nn.relu`, computes what the one of its name does in Keras."""
    x = keras.ops.convert_to_tensor(np.linspace(-9.0, 9.0, 1024).reshape(16, 64), "float64")
    try:
        a, b = (keras.ops.convert_to_numpy(each(x)) for each in (keras.activations.get(function.__name__), function))
        return a.shape == b.shape and np.abs(a - b).max() < 1e-6 * np.abs(a).max()
    except Exception:  # whatever the user's code raises
        return False


def _own(layer: Any) -> dict[str, Any]:
    """Return what a class of somebody's, or of Keras, adds to a layer; TensorFlow's notes begin with `_self_`."""
    noted = lambda key, x: key in BASICS or key.startswith("_self_") or (key in WRAPPERS and is_function(x))  # noqa: E731
    return {key: value for key, value in vars(layer).items() if not noted(key, value)}


def _is_same(a: Any, b: Any, seen: set[tuple[int, int]]) -> bool:
    """Return whether two things are the same, as far as can be told without running them."""
    if a is b or (id(a), id(b)) in seen:
        return True
    seen.add((id(a), id(b)))
    if isinstance(a, LOOKED_AT_ELSEWHERE):
        return type(a) is type(b)
    if is_array(a) or isinstance(a, PLAIN) or a is None:
        return is_same(a, b)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):  # files make lists of tuples
        return len(a) == len(b) and all(_is_same(x, y, seen) for x, y in zip(a, b))
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_is_same(a[key], b[key], seen) for key in a)
    if isinstance(a, set | frozenset):
        return len(a) == len(b)
    if isinstance(a, types.FunctionType):
        return (a.__code__ is b.__code__ and _is_same(_held(a), _held(b), seen)) or _are_of_one_name(a, b)
    if isinstance(a, types.MethodType):
        return _is_same([a.__func__, a.__self__], [b.__func__, b.__self__], seen)
    if isinstance(a, functools.partial):
        return _is_same([a.func, a.args, a.keywords], [b.func, b.args, b.keywords], seen)
    if isinstance(a, types.CellType):
        return _is_same(_content(a), _content(b), seen)
    if hasattr(a, "__dict__"):
        return _is_same(vars(a), vars(b), seen)
    return type(a).__eq__ is object.__eq__ or bool(a == b)  # types of numbers and dates, but not locks


def is_same_function(a: Any, b: Any) -> bool:
    """Return whether two functions are made by the same code, and hold the same."""
    return _is_same(a, b, set())


def _are_of_one_name(a: Any, b: Any) -> bool:
    """Return whether two functions are one of Keras, and one of its name that computes the same."""
    known = getattr(keras.activations, a.__name__, None)
    return known is not None and any(x is known and is_that_of_its_name(y) for x, y in ((a, b), (b, a)))


def _held(function: types.FunctionType) -> list:
    return [list(function.__closure__ or ()), function.__defaults__, function.__kwdefaults__]


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # nothing yet
        return None
