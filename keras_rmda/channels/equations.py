"""Which axes are summed over in products of tensors, by operation."""

from __future__ import annotations

import numpy as np

from keras_rmda.channels.merges import operands
from keras_rmda.channels.positions import axes_of
from keras_rmda.channels.sites import Call
from keras_rmda.channels.tensors import NotCovered, Tensor
from keras_rmda.platform.tracing.labels import EQUATIONS, Equation


def ranks_of(call: Call) -> list[int]:
    """Return the numbers of axes of the operands."""
    return [len(x.full if isinstance(x, Tensor) else x.shape) for x in operands(call)]


def of_operation(call: Call) -> Equation:
    """Return what an operation of `keras.ops` sums over.

    A tensor that has one position along an axis of others, as keys that several queries share, does not have that axis.
    """
    try:
        axes, out = EQUATIONS[type(call.layer).__name__](call.layer, ranks_of(call))
    except ValueError as error:
        raise NotCovered(str(error)) from None
    given = operands(call)
    larger = {label for x, labels in zip(given, axes) for n, label in zip(_sizes(x), labels, strict=True) if n != 1}
    is_one = lambda n, label: n == 1 and label in larger  # noqa: E731
    axes = [
        [f"one{k}{label}" if is_one(n, label) else label for n, label in zip(_sizes(x), labels, strict=True)]
        for k, (x, labels) in enumerate(zip(given, axes))
    ]
    return axes, out


def _sizes(x: Tensor | np.ndarray) -> tuple[int | None, ...]:
    """Return the sizes of the axes of an operand, None for those of an array."""
    return x.full if isinstance(x, Tensor) else (None,) * x.ndim


def of_batch_dot(call: Call) -> Equation:
    """The layer `Dot`: one axis of each sample; the batch is the first axis of all."""
    ranks, axes = [len(x.full) for x in call.inputs], call.layer.axes
    first, second = [axes, axes] if isinstance(axes, int) else axes
    a, b = ["batch", *(f"a{k}" for k in range(1, ranks[0]))], ["batch", *(f"b{k}" for k in range(1, ranks[1]))]
    a[first] = b[second] = "k"
    out = [label for label in [*a, *b[1:]] if label != "k"]
    return [a, b], out if len(out) > 1 else [*out, "one"]


def of_sum(call: Call) -> Equation:
    """A sum over axes of one tensor."""
    axes, keeps = axes_of(call), call.layer.keepdims
    full = list(range(len(call.inputs[0].full)))
    return [full], [f"one{k}" if k in axes else k for k in full if keeps or k not in axes]
