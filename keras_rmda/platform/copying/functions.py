"""Functions of a user's: which objects are some, and which layers and weights they lead to."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from typing import Any

import keras
from keras.src.saving.keras_saveable import KerasSaveable

LIBRARIES = ("keras", "tensorflow", "numpy", "jax", "torch")
"""Packages whose functions hold no layers of a user's."""

WRAPPERS = ("build", "quantize")
"""Attributes that Keras puts into every new layer: functions around its methods."""


def is_function(x: Any) -> bool:
    """Return whether something is a function of somebody's, or an object that is called like one."""
    if not callable(x) or isinstance(x, type | KerasSaveable):
        return False
    module = type(x).__module__
    own = hasattr(x, "get_config") and (module.startswith("keras.") or ">" in keras.saving.get_registered_name(type(x)))
    return not own


def held_by(x: Any) -> Iterator[Any]:
    """Give what functions, containers and objects that are called like functions hold."""
    if isinstance(x, types.MethodType):
        yield from (x.__func__, x.__self__)
    elif isinstance(x, types.FunctionType):
        if not (x.__module__ or "").startswith(LIBRARIES):
            yield from (cell.cell_contents for cell in x.__closure__ or () if _is_filled(cell))
            yield from (*(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values())
            yield from (x.__globals__[name] for name in names_in(x.__code__) if name in x.__globals__)
    elif isinstance(x, functools.partial):
        yield from (x.func, *x.args, *x.keywords.values())
    elif isinstance(x, dict):
        yield from x.values()
    elif isinstance(x, list | tuple | set):
        yield from x
    elif hasattr(x, "__wrapped__"):
        yield x.__wrapped__
    elif callable(x) and not isinstance(x, type) and not type(x).__module__.startswith(LIBRARIES):
        yield from getattr(x, "__dict__", {}).values()


def reached(x: Any, owned: set[int], seen: set[int] | None = None) -> Iterator[Any]:
    """Give the layers and weights among `owned`, by `id`, that a function leads to."""
    seen = set() if seen is None else seen
    if id(x) in seen:
        return
    seen.add(id(x))
    if id(x) in owned:
        yield x
    elif not isinstance(x, KerasSaveable | keras.Variable | types.ModuleType):
        for each in held_by(x):
            yield from reached(each, owned, seen)


def names_in(code: types.CodeType) -> Iterator[str]:
    """Give the global names that a program looks up, with those of functions inside."""
    yield from code.co_names
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from names_in(each)


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False
