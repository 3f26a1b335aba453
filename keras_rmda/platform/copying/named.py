"""Functions that Keras reads back as others: it writes the name of a function, and finds its own of that name first.

A file of ours has a longer name in their places: where a function is public, how it is registered, or of what module it
is. For the first only Keras and the packages of its backends are looked into; the last is told by `custom_objects`, as
Keras wants it of functions that nobody registered. Checked with Keras 3.8 and 3.15.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import warnings
from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any

import keras

from keras_rmda.platform import compat
from keras_rmda.platform.checks import SparsityWarning
from keras_rmda.platform.copying.copies import Copies, inside_of
from keras_rmda.platform.copying.likeness import is_same_function
from keras_rmda.platform.copying.readable import is_read_by_keras, read_by_keras, unlike_when_read

SPACES = ("keras.ops", "keras.activations", "tensorflow.nn", "tensorflow.math", "jax.nn", "jax.numpy")
"""Where functions are that everybody has."""

MARK = "function "
"""What longer names begin with, so that they are nobody else's."""

NAMED = "_has_functions_by_longer_names"
"""The attribute of a layer whose functions have longer names in a file."""

UNTRUE = "_is_another_when_read"
"""The attribute of a layer that is not read back as it is, although nothing raises: why."""


def note_functions(layer: Any, known: dict[str, tuple[Any, Any]]) -> bool:
    """Return whether a layer needs longer names of its functions, or is another one when it is read; note which.

    Args:
        layer: a layer or operation of a graph, which Keras alone does not read back.
        known: functions that nobody registered, by name, with their layers; gets those of this layer.
    """
    for note in (NAMED, UNTRUE):
        vars(layer).pop(note, None)
    objects, read, unlike = compat.custom_objects(), lambda: read_by_keras(layer), None
    with contextlib.suppress(Exception):  # it has no configuration, which saving says
        with longer_names([layer]) as functions:
            if functions:  # else nothing is tried with classes that Keras does not know: it would run code of a user's
                objects |= {keras.saving.get_registered_name(type(x)): type(x) for x in inside_of(layer)}
            with keras.saving.CustomObjectScope(objects | functions):
                is_named = bool(functions) and is_read_by_keras(layer, tolerant=True)
        with keras.saving.CustomObjectScope(objects), contextlib.suppress(Exception):
            unlike = unlike_when_read(layer, read, tolerant=True)  # what raises is not another one
        by_name = {function.__name__: function for function in functions.values()}
        with keras.saving.CustomObjectScope(objects | by_name):
            if is_named and (unlike is not None or not is_read_by_keras(layer, tolerant=True)):
                vars(layer)[NAMED] = True
        if unlike is not None and not is_named:
            kind = type(layer).__name__
            vars(layer)[UNTRUE] = f"the {unlike!r} of the layer {layer.name!r} of type {kind} is another one there"
        for name, function in functions.items():
            if _is_to_be_told(name):
                other, there = known.setdefault(function.__name__, (function, layer))
                if not is_same_function(other, function):
                    places = f"in {there.name!r} and in {layer.name!r}"
                    vars(layer)[UNTRUE] = f"two functions are called {function.__name__!r}, {places}"
    return NAMED in vars(layer) or UNTRUE in vars(layer)


@contextlib.contextmanager
def longer_names(operations: list) -> Iterator[dict[str, Callable]]:
    """Let configurations of layers have longer names for functions, as far as there are; give these functions."""
    functions: dict[str, Callable] = {}
    given = [(each, Copies(each, name_of=longer_name)) for each in operations]
    configured = [(each, copies.config_of(each)) for each, copies in given]
    for _, copies in given:
        real = {name: function.stands_for for name, function in copies.functions.items()}
        functions |= {name: function for name, function in real.items() if name == longer_name(function)}
    for each, config in configured:
        vars(each)["get_config"] = lambda config=config: config
    try:
        yield functions
    finally:
        for each, _ in configured:
            del vars(each)["get_config"]


def longer_name(function: Any) -> str | None:
    """Return a name by which a function is found where a file is read; None for lambdas, and objects like functions."""
    name = getattr(function, "__name__", "<lambda>")
    for space in SPACES:
        if getattr(_space(space), name, None) is function:
            return f"{MARK}{space}.{name}"
    registered = keras.saving.get_registered_name(function)
    if registered != name and ">" in registered:
        return MARK + registered
    return f"{MARK}{function.__module__}.{name}" if name.isidentifier() else None


def functions_called(names: list[str]) -> dict[str, Callable]:
    """Return the functions of longer names.

    Raises:
        ValueError: naming one that is not known here.
    """
    found = {}
    for text in names:
        name = text.removeprefix(MARK)
        space, _, short = name.rpartition(".")
        if _is_to_be_told(text):
            found[text] = keras.saving.get_registered_object(short)
        else:
            found[text] = getattr(_space(space), short, None) or keras.saving.get_registered_object(name)
        if found[text] is None:
            how = f"custom_objects={{{short!r}: {short}}}" if _is_to_be_told(text) else f"what defines {name!r}"
            raise ValueError(
                f"The model has the function {name!r}, which is not known here, and Keras may have another of this "
                f"name. Read the file with {how}."
            )
    return found


def names_with_functions(config: dict[str, Any]) -> set[str]:
    """Return the names of layers in the configuration of a graph that have longer names for functions."""
    entries = [each for each in config["layers"] if "functions" not in each["config"]]  # those of models have their own
    return {each["config"].get("name") for each in entries if f'"{MARK}' in json.dumps(each)}


def note_again(operations: list, names: set[str]) -> None:
    """Note of layers that were read which of them have longer names for functions."""
    for each in operations:
        if each.name in names:
            vars(each)[NAMED] = True


def warn_of_untrue(operations: list) -> None:
    """Say which layers are not what will be read."""
    reasons = [vars(each)[UNTRUE] for each in operations if UNTRUE in vars(each)]
    if reasons:
        warnings.warn(
            f"This model is not what will be read from its file: {'; '.join(reasons)}. Keras finds functions by their "
            "names, and makes layers of their `get_config()`: register functions of names of their own by "
            "`keras.saving.register_keras_serializable`, and let `get_config()` say all.",
            SparsityWarning,
            stacklevel=2,
        )


def _is_to_be_told(name: str) -> bool:
    """Return whether the function of a longer name is neither public nor registered."""
    return ">" not in name and name.removeprefix(MARK).rpartition(".")[0] not in SPACES


def _space(name: str) -> Any:
    """Return the module of one of `SPACES`; None if the package is not here, or for other names."""
    if name not in SPACES:
        return None
    package, *path = name.split(".")
    try:
        return reduce(getattr, path, importlib.import_module(package))
    except (ImportError, AttributeError):
        return None
