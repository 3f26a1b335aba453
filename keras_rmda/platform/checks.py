"""Argument checks whose messages name the argument and the value received, and the category of our warnings."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from numbers import Integral, Real

FILE_METRICS = ("file_bytes", "arena", "latency", "energy")
"""What a target can be of that is a property of the file of a model."""

METRICS = ("macs", "parameters", "groups", "bytes", *FILE_METRICS)
"""What a target can be of."""

QUANTIZATIONS = (None, "float16", "dynamic", "int8", "int16x8")
"""The number formats of files."""


class SparsityWarning(UserWarning):
    """What a training, or a file of one, will not do as its user may expect.

    Every warning of this package is one.

    Example:
        >>> warnings.simplefilter("error", keras_rmda.SparsityWarning)
    """


def real(
    name: str,
    value: object,
    minimum: float = 0.0,
    maximum: float = math.inf,
    open_minimum: bool = False,
    open_maximum: bool = False,
) -> float:
    """Return `value` as a float if it is a finite number inside the range.

    Args:
        name: the argument's name, for the message.
        value: what the caller passed.
        minimum, maximum: the allowed range.
        open_minimum, open_maximum: whether the bound itself is excluded.

    Returns:
        `float(value)`.

    Raises:
        ValueError: for everything else, with the value received.
    """
    opening, closing = "(" if open_minimum else "[", ")" if open_maximum or maximum == math.inf else "]"
    message = f"`{name}` must be a number in {opening}{minimum:g}, {maximum:g}{closing}. Received: {name}={value!r}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(message)
    number = float(value)
    too_small = number <= minimum if open_minimum else number < minimum
    too_large = number >= maximum if open_maximum else number > maximum
    if not math.isfinite(number) or too_small or too_large:
        raise ValueError(message)
    return number


def whole(name: str, value: object, minimum: int = 0, maximum: int = 2**31 - 1) -> int:
    """Return `value` as an int if it is an integer inside the range, else raise `ValueError`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not minimum <= value <= maximum:
        raise ValueError(f"`{name}` must be an integer in [{minimum}, {maximum}]. Received: {name}={value!r}")
    return int(value)


def one_of(name: str, value: object, allowed: tuple) -> None:
    """Raise `ValueError` unless `value` is one of `allowed`."""
    if not any(type(value) is type(choice) and value == choice for choice in allowed):
        choices = ", ".join(repr(choice) for choice in allowed)
        raise ValueError(f"`{name}` must be one of {choices}. Received: {name}={value!r}")


def truth(name: str, value: object) -> bool:
    """Return `value` if it is True or False, else raise `ValueError`."""
    if not isinstance(value, bool):
        raise ValueError(f"`{name}` must be True or False. Received: {name}={value!r}")
    return value


def first_line(error: Exception) -> str:
    """Return what an error says first, or its type: without the layer and the code in which Keras says that it came."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines()]
    said = [line for line in lines if line and not line.startswith("Exception encountered when calling")]
    if said[:1] == ["Graph execution error:"]:  # TensorFlow says the reason last, before the node
        said = [line for line, after in pairwise(said) if after.startswith("[[{{node")] or said[1:]
    if said[:1] == ["in user code:"]:
        said = [line.partition(": ")[2] for line in said if re.match(r"\w*(Error|Exception): ", line)] or said
    return (said or lines or [""])[0] or type(error).__name__
