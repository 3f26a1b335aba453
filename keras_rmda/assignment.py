"""Which variable gets which proximal regularizer."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import keras

from keras_rmda.regularizers import ProximalRegularizer

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


def assign(
    variables: Iterable[keras.Variable], default: ProximalRegularizer | None
) -> list[ProximalRegularizer | None]:
    """Return one regularizer, or None, for each variable.

    Args:
        variables: trainable variables, in the optimizer's order.
        default: for every kernel whose layer has no proximal regularizer of its own. A layer's own wins.

    Returns:
        A list in the order of `variables`.

    Raises:
        ValueError: naming the variable, if a regularizer has no groups in its shape.
    """
    variables = list(variables)
    assigned = [own_regularizer(v) or (default if is_kernel(v) else None) for v in variables]
    for variable, regularizer in zip(variables, assigned):
        if regularizer is not None:
            regularizer.check_shape(tuple(variable.shape), variable.path)
    if default is not None and default not in assigned:
        warnings.warn(
            f"{default!r} applies to none of the {len(variables)} variables: no kernel is without a "
            "regularizer of its own. Nothing will become sparse through it.",
            stacklevel=2,
        )
    return assigned
