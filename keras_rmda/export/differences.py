"""By how much outputs of a file differ from those of its model, output by output and channel by channel."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_rmda.platform import checks, ends
from keras_rmda.structure.verification import difference

ROUNDING = 1e-5
"""A channel that changes by less, relative to its largest number, is a constant: float32 rounds that much."""

FAR = 0.15
"""Of the range of an output: by how much a file may differ from its model without a warning."""

FEW = 16
"""Of fewer samples the range is no range."""

CLASSES = ("SOFTMAX", "LOG_SOFTMAX")
"""Operators that make an output numbers for classes."""

CLASS_LOSSES = "categorical"
"""What is in the names of Keras's losses for classes."""


@dataclass(frozen=True)
class OutputDifference:
    """By how much one output of a file differs.

    Attributes:
        largest: max|a - b| / max|a|; the share of numbers that differ where they are integers.
        worst: the same of the worst channel, relative to its own range over samples and positions; of all channels
            together where they are numbers for classes, which share a range by what they mean.
        constant: channels that are constant in the file and not in the model.
        agreement: share of samples and positions with the same largest channel; None where these are no classes.
    """

    largest: float
    worst: float
    constant: tuple[int, ...]
    agreement: float | None


@np.errstate(invalid="ignore")  # infinite numbers less infinite ones
def compared_output(expected: Sequence[np.ndarray], found: Sequence[np.ndarray], are_classes: bool) -> OutputDifference:
    """Compare an output of a file with that of its model.

    Args:
        expected: of the model, one array for all samples of a size.
        found: of the file.
        are_classes: whether the channels, along the last axis, are numbers for classes.
    """
    if any(a.shape != b.shape for a, b in zip(expected, found, strict=True)):
        return OutputDifference(np.inf, np.inf, (), None)
    channels = expected[0].shape[-1] if expected[0].ndim > 1 else 1
    a, b = (np.concatenate([each.reshape(-1, channels) for each in arrays]) for arrays in (expected, found))
    if not a.size:
        return OutputDifference(0.0, 0.0, (), None)
    if a.dtype.kind not in "fiu":
        a, b = np.unique(np.concatenate([a, b]), return_inverse=True)[1].reshape(2, *a.shape)
    largest = max(differs(one, other) for one, other in zip(expected, found, strict=True))
    if a.dtype.kind != "f":
        return OutputDifference(largest, largest, constant_only(a, b), None)
    worst = largest if are_classes or len(a) == 1 else max(relative_to_range(a, b))
    constant = constant_only(a, b)
    if are_classes and len(constant) < channels:  # a class that never wins may well be 0 all the time
        constant = ()
    same = are_classes and channels > 1
    agreement = float(np.mean(np.argmax(a, -1) == np.argmax(b, -1))) if same else None
    return OutputDifference(largest, float(worst), constant, agreement)


def differs(a: np.ndarray, b: np.ndarray) -> float:
    """Return by how much arrays differ, relative to the largest number; of integers the share that does."""
    if a.shape != b.shape:
        return float("inf")
    return difference(a, b) if a.dtype.kind == "f" else float(np.mean(a != b)) if a.size else 0.0


def relative_to_range(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return for each channel max|a - b| relative to its range, or to its largest number if it is a constant."""
    is_same = (a == b) | (np.isnan(a) & np.isnan(b))
    off = np.abs(np.where(np.isfinite(a) & np.isfinite(b), a.astype("float64") - b, np.where(is_same, 0.0, np.inf)))
    finite = np.where(np.isfinite(a), a, 0.0)
    peak = np.abs(finite).max(0)
    unit = np.where(is_constant(finite), np.where(peak > 0, peak, max(1e-3, peak.max())), np.ptp(finite, 0))
    return off.max(0) / unit


def constant_only(a: np.ndarray, b: np.ndarray) -> tuple[int, ...]:
    """Return the channels that are constant in `b` and not in `a`."""
    return tuple(int(k) for k in np.flatnonzero((np.ptp(b.astype("float64"), 0) == 0) & ~is_constant(a)))


def is_constant(a: np.ndarray) -> np.ndarray:
    """Return for each channel whether rounding alone makes its numbers differ."""
    a = a.astype("float64")
    return ~(np.ptp(a, 0) > ROUNDING * np.abs(a).max(0))


def losses_of(model: Any, count: int) -> list[bool]:
    """Return for each output of a model whether it was compiled with a loss for classes."""
    loss = getattr(model, "loss", None)
    if isinstance(loss, dict):
        loss = ends.by_output(model, loss)
    losses = loss if isinstance(loss, (list, tuple)) else [loss]
    named = [each if isinstance(each, str) else getattr(each, "name", getattr(each, "__name__", "")) for each in losses]
    found = [CLASS_LOSSES in str(name) for name in named]
    return found if len(found) == count else [False] * count


def warn_of_differences(outputs: dict[str, OutputDifference], samples: int) -> None:
    """Warn of outputs of a file that are far from those of its model, or constant where these are not.

    Args:
        outputs: by name.
        samples: how many were compared.
    """
    for name, each in outputs.items():
        far = each.worst if samples >= FEW else each.largest
        if each.constant:
            what = (
                f"is constant in the channels {list(each.constant)}, which vary in the model: their numbers are less "
                "than one step of the scale that all channels share. Make them an output of their own, or bring all "
                "channels to one range."
            )
        elif far > FAR:
            what = (
                f"is off by {far:.0%} of its range (in so many of its numbers, where these are integers) on "
                f"{samples} samples. See what that costs on data of yours; formats of more bits are closer, and "
                "so are models trained by `quantization_aware`."
            )
        else:
            continue
        warnings.warn(f"In the file the output {name!r} {what}", checks.SparsityWarning, stacklevel=3)
