"""What callbacks do with the learning rate and with a model: by their code, and that of the functions which it uses.

Nothing is called: a callback that is asked may write a file, or wait for somebody.
"""

from __future__ import annotations

import dis
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import keras

from keras_rmda.platform import compat

RATES = frozenset(["learning_rate", "lr", "_learning_rate"])
ASSIGN = frozenset(["assign", "set_value"])
"""Names by which code sets the learning rate of an optimizer."""

OTHERS = frozenset(["keras", "tensorflow", "jax", "torch", "numpy", "scipy", "builtins"])
"""Packages whose functions set no learning rate of somebody else's, but for the callbacks of Keras."""

FUNCTIONS = 500
"""How many functions are looked at."""

OF_KERAS = ("_model", "params")
"""Attributes of callbacks that Keras sets."""

READS = frozenset(["LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_CLASSDEREF"])
"""Instructions that read a variable which is none of the function's own."""


def set_rates(callbacks: Sequence[keras.callbacks.Callback]) -> bool:
    """Return whether a callback sets the learning rate, which must be a number then, and no schedule."""
    return any(sets_rate(code, own) for each in callbacks for code, own, _ in codes_of(each))


def stops(callback: keras.callbacks.Callback) -> bool:
    """Return whether a callback may end a training."""
    found = (each for code, _, _ in codes_of(callback) for each in dis.get_instructions(code))
    return any(each.opname == "STORE_ATTR" and each.argval == "stop_training" for each in found)


def name_of_any(parts: set[int], callback: keras.callbacks.Callback) -> str | None:
    """Return by what name a callback has one of these objects, by `id`: an attribute, or a variable of its code.

    One that has been in a `fit` of such a model may have taken its attributes there, as it will do again.
    """
    for name, value in () if id(callback.model) in parts else vars(callback).items():
        if name not in OF_KERAS and has_any(parts, value):
            return name
    for code, _, known in codes_of(callback):
        for each in dis.get_instructions(code):
            if each.opname in READS and has_any(parts, known.get(each.argval)):
                return each.argval
    return None


def has_any(parts: set[int], x: Any) -> bool:
    """Return whether something is one of these objects, by `id`, holds one, or is a model or layer around one."""
    held = list(held_by(x))
    held += [inside for each in held if isinstance(each, keras.Layer) for inside in compat.layers_of(each)]
    return any(id(each) in parts for each in held)


def elements(x: Any) -> list:
    """Return what a list, a tuple, a dictionary, a set or a queue holds; nothing of anything else."""
    return list(x.values()) if isinstance(x, dict) else list(x) if isinstance(x, list | tuple | set | deque) else []


def held_by(x: Any, depth: int = 4) -> Iterator[Any]:
    """Yield something and what it holds, also inside of each other."""
    yield x
    for each in elements(x) if depth else ():
        yield from held_by(each, depth - 1)


def codes_of(callback: keras.callbacks.Callback) -> Iterator[tuple[CodeType, str | None, dict[str, Any]]]:
    """Yield the code of a callback's methods and of all functions that it leads to.

    With what it calls its object, and the variables that it reads from outside.
    """
    waiting, seen = [*functions_of(callback, of_keras=True)], set()
    while waiting and len(seen) < FUNCTIONS:
        function, owner = waiting.pop()
        if function in seen:
            continue
        seen.add(function)
        own = next(iter(function.__code__.co_varnames), None) if owner is not None else None
        closed = zip(function.__code__.co_freevars, function.__closure__ or ())
        known = function.__globals__ | {name: cell.cell_contents for name, cell in closed if is_filled(cell)}
        names = set()
        for code in inside(function.__code__):
            names |= {*code.co_names, *code.co_freevars}
            yield code, own, known
        found = [known[name] for name in names if name in known]
        found += [
            vars(each)[name] for each in found if isinstance(each, ModuleType) for name in names & vars(each).keys()
        ]
        waiting += [pair for each in found for pair in functions_of(each)]


def functions_of(x: Any, of_keras: bool = False, depth: int = 4) -> Iterator[tuple[FunctionType, Any]]:
    """Yield functions that something is, or holds as an object or a class, and whose methods they are."""
    if isinstance(x, partial):
        x = x.func
    if isinstance(x, MethodType):
        yield from functions_of(x.__self__, of_keras, depth)
        x = x.__func__
    if isinstance(x, FunctionType):
        if is_of_users(x):
            yield x, None
        return
    kind = x if isinstance(x, type) else type(x)
    classes = [each for each in kind.__mro__ if each not in keras.callbacks.Callback.__mro__]
    if isinstance(x, ModuleType) or not depth or not (of_keras or any(map(is_of_users, classes))):
        return
    for each in classes if of_keras else filter(is_of_users, classes):
        made = {} if isinstance(x, type) else {"__init__": None}  # which has been called already
        for value in (vars(each) | made).values():
            function = getattr(value, "__func__", getattr(value, "fget", value))
            if isinstance(function, FunctionType):
                yield function, each
    for value in vars(x).values() if hasattr(x, "__dict__") and not isinstance(x, type) else ():
        for held in elements(value) or [value]:
            yield from functions_of(held, depth=depth - 1)


def is_of_users(x: Any) -> bool:
    """Return whether a function, class or module is in none of the packages that set nobody's learning rate."""
    name = x.__name__ if isinstance(x, ModuleType) else getattr(x, "__module__", None)
    return str(name).split(".")[0] not in OTHERS


def is_filled(cell: Any) -> bool:
    """Return whether a variable of an outer function has a value."""
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def inside(code: CodeType) -> Iterator[CodeType]:
    """Yield code and that of the functions that it makes."""
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from inside(each)


def sets_rate(code: CodeType, own: str | None) -> bool:
    """Return whether code sets an attribute like `learning_rate`, but of its own object, or assigns to a variable."""
    if RATES.intersection(code.co_names) and ASSIGN.intersection(code.co_names):
        return True
    if "setattr" in code.co_names and any(isinstance(x, str) and x in RATES for x in code.co_consts):
        return True
    before = None
    for each in dis.get_instructions(code):
        if each.opname == "STORE_ATTR" and each.argval in RATES:
            owner = before.argval if isinstance(before.argval, tuple) else (before.argval,)
            if own is None or owner[-1:] != (own,):
                return True
        before = each
    return False
