"""What variables are called, and which of them a pattern means."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import keras

from keras_rmda.platform import compat, graphs


def names_of(variable: keras.Variable, model: keras.Model | None) -> tuple[str, ...]:
    """Return what a variable is called, beginning with what nothing else in the model is called: see `names_in`."""
    return (variable.path,) if model is None else names_in(model).get(id(variable), (variable.path,))


def names_in(model: keras.Model) -> dict[int, tuple[str, ...]]:
    """Return, by `id`, what the variables of a model are called, beginning with what only one is called.

    Each has its path, and its path behind the names of the models and layers around it, where the path does not begin
    with them; both with and without the name of the model. The paths of a Sequential model begin with its name, those
    of the same model loaded from a file do not, and two models inside may have equal paths.
    """
    bare = {id(v): v.path.removeprefix(f"{model.name}/") for v in model.variables}
    around = dict((id(v), names) for v, names in compat.variables_with_owners(model))
    long = {key: inside(around.get(key, ()), path) for key, path in bare.items()}
    counts = Counter(bare.values())
    owner = {path: key for key, path in bare.items() if counts[path] == 1}
    for key, path in long.items():
        if owner.setdefault(path, key) != key and counts[bare[key]] > 1:  # two layers of one name in one place
            long[key] = graphs.unused(path, taken := set(owner))
            owner |= dict.fromkeys(taken - set(owner), key)
    found = {}
    for key, path in bare.items():
        names = (path, long[key]) if counts[path] == 1 else (long[key], path)
        found[key] = tuple(
            each
            for name in dict.fromkeys(names)
            if owner.get(name, key) == key
            for each in (name, f"{model.name}/{name}")
        )
    return found


def inside(around: Sequence[str], path: str) -> str:
    """Return a path behind the names of what is around a variable, as far as it does not begin with them."""
    for k in range(len(around)):
        if f"{path}/".startswith("/".join(around[k:]) + "/"):
            return "/".join([*around[:k], path])
    return "/".join([*around[:-1], path])


def names_inside(model: keras.Model, variables: Iterable[keras.Variable]) -> dict[int, tuple[str, ...]]:
    """Return, by `id`, what only one of the variables is called in a model inside, of which coupled groups may be."""
    found, own = {}, {id(variable) for variable in variables}
    for variable, around in compat.variables_with_owners(model):  # the longest last
        if id(variable) in own:
            path = inside(around, variable.path.removeprefix(f"{model.name}/"))
            outer = ["/".join(around[:k]) + "/" for k in range(1, len(around))]
            found[id(variable)] = [path.removeprefix(each) for each in outer if path.startswith(each)]
    counts = Counter(name for names in found.values() for name in names)
    return {key: tuple(name for name in names if counts[name] == 1) for key, names in found.items()}


def matches(pattern: str, names: tuple[str, ...]) -> bool:
    """Return whether a pattern is one of a variable's names, or a regular expression that matches all of one."""
    return pattern in names or any(re.fullmatch(pattern, name) for name in names)


def matching(patterns: Iterable[str], names: tuple[str, ...], argument: str = "regularizer") -> str | None:
    """Return the one pattern of an argument that matches a variable, or a layer; its very name goes before expressions.

    Raises:
        ValueError: if several expressions match.
    """
    found = [pattern for pattern in patterns if matches(pattern, names)]
    exact = [pattern for pattern in found if pattern in names]
    if len(exact or found) > 1:
        raise ValueError(f"Several patterns of `{argument}` match {names[0]!r}: {found!r}")
    return (exact or found or [None])[0]


def check_patterns(name: str, patterns: Iterable[str]) -> None:
    """Raise `ValueError` unless all are regular expressions."""
    if isinstance(patterns, str) or not isinstance(patterns, Iterable):
        raise ValueError(f"`{name}` must be a list of patterns. Received: {name}={patterns!r}")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except (TypeError, re.error) as error:
            raise ValueError(
                f"`{name}` must hold variable paths or regular expressions of them. Received: {pattern!r} ({error})"
            ) from None
