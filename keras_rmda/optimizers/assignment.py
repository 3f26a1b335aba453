"""Binding: which variable gets which proximal regularizer, along which axes."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import keras

from keras_rmda.channels.table import axes_of
from keras_rmda.platform import compat, graphs
from keras_rmda.platform.checks import SparsityWarning
from keras_rmda.regularizers import PenaltyPart, ProximalRegularizer

Regularizers = ProximalRegularizer | Mapping[str, ProximalRegularizer | None] | None
"""What an optimizer takes: one penalty for every kernel, or penalties by patterns of variable paths."""

NOT_KERNELS = ("bias", "beta", "gamma", "scale", "embedding", "alpha")
"""Parts of variable names that are no kernels even where they have two axes or more."""


def is_kernel(variable: keras.Variable) -> bool:
    """Return whether an optimizer's default regularizer applies: rank >= 2, no bias, embedding or scale."""
    name = variable.path.rsplit("/", 1)[-1]
    return len(variable.shape) >= 2 and not any(word in name for word in NOT_KERNELS)


def own_regularizer(variable: keras.Variable) -> ProximalRegularizer | None:
    """Return the proximal regularizer that the variable's layer was given, if any."""
    regularizer = getattr(variable, "regularizer", None)
    return regularizer if isinstance(regularizer, ProximalRegularizer) else None


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
        path = inside(around, variable.path.removeprefix(f"{model.name}/"))
        outer = ["/".join(around[:k]) + "/" for k in range(1, len(around) * (id(variable) in own))]
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


def axes_of_weights(model: keras.Model | None) -> dict[int, str]:
    """Return, by `id` of the variable, the letters that the layer table has for the axes of a model's weights."""
    layers = [] if model is None else compat.layers_of(model)
    return {
        id(getattr(layer, name)): letters
        for layer in layers
        for name, letters in axes_of(layer).items()
        if getattr(layer, name, None) is not None
    }


def assign(
    variables: Iterable[keras.Variable],
    regularizers: Regularizers,
    exclude: Sequence[str] = (),
    model: keras.Model | None = None,
) -> list[ProximalRegularizer | None]:
    """Return one regularizer, or None, for each variable.

    Args:
        variables: trainable variables, in the optimizer's order.
        regularizers: for every kernel whose layer has no proximal regularizer of its own, or a map from path
            patterns to regularizers. A layer's own wins.
        exclude: path patterns of variables that `regularizers` does not apply to.
        model: tells the layers of the variables, so that `groups="input"` and `"output"` follow the layer table.

    Returns:
        A list in the order of `variables`.

    Raises:
        ValueError: naming the variable, if a regularizer has no groups in its shape or two patterns match.
    """
    variables = list(variables)
    axes = axes_of_weights(model)
    known = {} if model is None else names_in(model)
    called = [known.get(id(variable), (variable.path,)) for variable in variables]
    within = {} if model is None else names_inside(model, variables)
    assigned, uses_default = [], False
    for variable, names in zip(variables, called):
        is_excluded = any(matches(pattern, names) for pattern in exclude)
        default = None if is_excluded else chosen(regularizers, variable, names, within.get(id(variable), ()))
        own = own_regularizer(variable)
        uses_default |= own is None and default is not None
        psi = own or default
        psi = psi.along(axes[id(variable)]) if psi and id(variable) in axes else psi
        if psi is not None:
            psi.check_shape(tuple(variable.shape), variable.path)
        assigned.append(psi)
    check_complete(regularizers, assigned)
    warn_of_unused(regularizers, exclude, called, uses_default)
    return assigned


def numbers_for(
    variables: Sequence[keras.Variable],
    argument: str,
    given: float | Mapping[str, float],
    default: float,
    model: keras.Model | None = None,
) -> list[float]:
    """Return for each variable the number that it is given: one for all, or that of its pattern, else the default."""
    if not isinstance(given, Mapping):
        return [given] * len(variables)
    known = {} if model is None else names_in(model)
    called = [known.get(id(variable), (variable.path,)) for variable in variables]
    found = [matching(given, names, argument) for names in called]
    warn_of_patterns_without_a_variable(given, called, argument)
    return [default if pattern is None else given[pattern] for pattern in found]


def chosen(
    regularizers: Regularizers, variable: keras.Variable, names: tuple[str, ...], within: tuple[str, ...] = ()
) -> ProximalRegularizer | None:
    """Return what an optimizer's `regularizer` argument says about a variable; coupled groups name theirs.

    `within` are its names in models inside, which count for coupled groups only.
    """
    if isinstance(regularizers, Mapping):
        pattern = matching(regularizers, names)
        regularizers = None if pattern is None else regularizers[pattern]
        applies = True
    else:
        applies = is_kernel(variable)
    bound = regularizers and regularizers.bound_to((*names, *within))
    return bound if applies or isinstance(bound, PenaltyPart) else None


def check_complete(regularizers: Regularizers, assigned: Sequence[ProximalRegularizer | None]) -> None:
    """Raise `ValueError` if a part of coupled groups has no variable, so that they could never be removed."""
    for psi in regularizers.values() if isinstance(regularizers, Mapping) else [regularizers]:
        bound = [each.path for each in assigned if isinstance(each, PenaltyPart) and each.penalty is psi]
        missing = [path for path in getattr(psi, "parts", ()) if path not in bound]
        if missing:
            raise ValueError(
                "The optimizer must train, and apply the penalty to, all variables of coupled groups. Call "
                "`coupled_groups` again for the model as it is now: frozen weights have no part in its groups, nor "
                f"have those that its `exclude` names. Missing: {', '.join(missing)}"
            )


def warn_of_unused(regularizers: Regularizers, exclude: Sequence[str], names: list, uses_default: bool) -> None:
    """Warn of patterns that match no variable, and of a regularizer that applies to none."""
    patterns = [*(regularizers if isinstance(regularizers, Mapping) else ()), *exclude]
    warn_of_patterns_without_a_variable(patterns, names)
    if isinstance(regularizers, ProximalRegularizer) and not uses_default:
        warnings.warn(
            f"{regularizers!r} applies to none of the {len(names)} variables: no kernel is without a "
            "regularizer of its own. Nothing will become sparse through it.",
            SparsityWarning,
            stacklevel=3,
        )


def warn_of_patterns_without_a_variable(patterns: Iterable[str], names: list, argument: str = "") -> None:
    """Warn of patterns that match none of the variables with these names."""
    unused = [pattern for pattern in patterns if not any(matches(pattern, each) for each in names)]
    if unused:
        paths = ", ".join(each[0] for each in names)
        whose = f"These patterns of `{argument}`" if argument else "These patterns"
        message = f"{whose} match no trainable variable: {unused!r}. The paths are: {paths}"
        warnings.warn(message, SparsityWarning, stacklevel=4)


def checked(regularizers: Callable | Mapping | str | None) -> Regularizers:
    """Return the `regularizer` argument of an optimizer, deserialized.

    Raises:
        ValueError: for anything without a proximal map, and for patterns that are no regular expressions.
    """
    if isinstance(regularizers, Mapping) and not {"class_name", "config"} <= set(regularizers):
        check_patterns("regularizer", regularizers)
        return {pattern: checked(value) for pattern, value in regularizers.items()}
    try:
        regularizer = keras.regularizers.get(regularizers)
    except (TypeError, ValueError):
        regularizer = regularizers
    if regularizer is not None and not isinstance(regularizer, ProximalRegularizer):
        raise ValueError(
            "`regularizer` must have a proximal map (keras_rmda.L1, keras_rmda.GroupLasso, ...), be a dictionary from "
            f"path patterns to such, or None. Received: regularizer={regularizer!r}"
        )
    return regularizer


def serialized(regularizers: Regularizers) -> dict | None:
    """Return the configuration from which `checked` makes the same."""
    if isinstance(regularizers, Mapping):
        return {pattern: serialized(value) for pattern, value in regularizers.items()}
    return keras.regularizers.serialize(regularizers) if regularizers else None


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
