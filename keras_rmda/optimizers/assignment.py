"""Binding: which variable gets which proximal regularizer, along which axes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence

import keras

from keras_rmda.channels.table import axes_of
from keras_rmda.optimizers.names import check_patterns, matches, matching, names_in, names_inside
from keras_rmda.platform import compat
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
                "have those that its `exclude` names, or whose layers have a penalty of their own. Missing: "
                + ", ".join(missing)
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
