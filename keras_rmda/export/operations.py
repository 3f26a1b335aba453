"""Multiply-accumulates of the operators of TensorFlow Lite."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

Shape = tuple[Any, ...]
"""Sizes: numbers, or letters for those that vary."""


def multiplied(operator: str, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Shape | None:
    """Return the sizes whose product are the multiply-accumulates of an operator; None for one without a kernel.

    Args:
        operator: its name, such as "CONV_2D".
        inputs: shapes of its inputs, weights among them.
        outputs: shapes of its outputs.
    """
    if operator in ("CONV_2D", "FULLY_CONNECTED"):  # kernels: output, height, width, input
        return (*outputs[0], *inputs[1][1:])
    if operator == "DEPTHWISE_CONV_2D":
        return (*outputs[0], *inputs[1][1:-1])
    if operator in ("TRANSPOSE_CONV", "CONV_3D_TRANSPOSE"):  # inputs: shape, kernel, x
        return (*inputs[2], *inputs[1][:-1])
    if operator == "CONV_3D":  # kernel: depth, height, width, input, output
        return (*outputs[0], *inputs[1][:-1])
    if operator == "BATCH_MATMUL":
        rows, *_, last = outputs[0][-2], *inputs[0][-2:]  # the first matrix may be transposed
        return (*outputs[0], last if inputs[0][-2] == rows else inputs[0][-2])
    return None


def multiply_accumulates(operator: str, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """Return how many multiply-accumulates an operator makes for a sample, as `keras_rmda.analyze` counts them.

    Args:
        operator, inputs, outputs: as of `multiplied`.

    Returns:
        Their number; 0 for operators without a kernel.
    """
    sizes = multiplied(operator, inputs, outputs)
    return 0 if sizes is None else prod(sizes)
