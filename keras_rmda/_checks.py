"""Argument checks whose messages name the argument and the value received."""

from __future__ import annotations

import math
from numbers import Integral, Real


def real(
    name: str,
    value: object,
    minimum: float = 0.0,
    maximum: float = math.inf,
    open_minimum: bool = False,
) -> float:
    """Return `value` as a float if it is a finite number inside the range.

    Args:
        name: the argument's name, for the message.
        value: what the caller passed.
        minimum, maximum: the allowed range.
        open_minimum: whether `minimum` itself is excluded.

    Returns:
        `float(value)`.

    Raises:
        ValueError: for everything else, with the value received.
    """
    bracket = "(" if open_minimum else "["
    message = f"`{name}` must be a number in {bracket}{minimum:g}, {maximum:g}]. Received: {name}={value!r}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(message)
    number = float(value)
    too_small = number <= minimum if open_minimum else number < minimum
    if not math.isfinite(number) or too_small or number > maximum:
        raise ValueError(message)
    return number


def whole(name: str, value: object, minimum: int = 0, maximum: int = 2**31 - 1) -> int:
    """Return `value` as an int if it is an integer inside the range, else raise `ValueError`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not minimum <= value <= maximum:
        raise ValueError(f"`{name}` must be an integer in [{minimum}, {maximum}]. Received: {name}={value!r}")
    return int(value)


def one_of(name: str, value: object, allowed: tuple) -> None:
    """Raise `ValueError` unless `value` is one of `allowed`."""
    if value not in allowed:
        choices = ", ".join(repr(choice) for choice in allowed)
        raise ValueError(f"`{name}` must be one of {choices}. Received: {name}={value!r}")
