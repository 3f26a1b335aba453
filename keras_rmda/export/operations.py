"""Multiply-accumulates of the operators of TensorFlow Lite."""

from __future__ import annotations

from math import prod

Shape = tuple[int, ...]


def multiply_accumulates(operator: str, inputs: list[Shape], outputs: list[Shape]) -> int:
    """Return how many multiply-accumulates an operator makes for a sample, as `keras_rmda.analyze` counts them.

    Args:
        operator: its name, such as "CONV_2D".
        inputs: shapes of its inputs, weights among them.
        outputs: shapes of its outputs.

    Returns:
        Their number; 0 for operators without a kernel.
    """
    if operator in ("CONV_2D", "FULLY_CONNECTED", "DEPTHWISE_CONV_2D"):  # kernels: output, height, width, input
        kernel = inputs[1]
        return prod(outputs[0]) * prod(kernel[1:-1] if operator == "DEPTHWISE_CONV_2D" else kernel[1:])
    if operator == "TRANSPOSE_CONV":  # inputs: shape, kernel, x
        return prod(inputs[2]) * prod(inputs[1][:-1])
    if operator == "CONV_3D":  # kernel: depth, height, width, input, output
        return prod(outputs[0]) * prod(inputs[1][:-1])
    if operator == "BATCH_MATMUL":
        return prod(outputs[0]) * inputs[0][-1]
    return 0
