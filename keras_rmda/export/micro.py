"""How TensorFlow Lite for Microcontrollers (TFLM) lays out its memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

ALIGNMENT = 16

SCRATCH = {"INT8": 4, "INT16": 8}
"""By the type of a transposed convolution's output, the bytes of the sum that TFLM keeps for each number of it."""


def aligned(size: int) -> int:
    """Return a number of bytes as TFLM gives them."""
    return -(-size // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True)
class Buffer:
    """A tensor that is computed.

    Attributes:
        bytes: its size.
        first, last: the steps at which it is first and last used.
    """

    bytes: int
    first: int
    last: int


def planned(buffers: Sequence[Buffer]) -> int:
    """Return the bytes that all buffers need together: TFLM's greedy plan.

    The largest buffer first, and of equal ones the last, each at the lowest place where it overlaps with none that is
    in use at the same time.
    """
    placed: list[tuple[int, int, Buffer]] = []
    for buffer in sorted(reversed(buffers), key=lambda each: -aligned(each.bytes)):
        size = aligned(buffer.bytes)
        begin = 0
        for start, end, other in sorted(placed, key=lambda each: each[:2]):
            if other.last < buffer.first or buffer.last < other.first:
                continue
            if start - begin >= size:
                break
            begin = max(begin, end)
        placed.append((begin, begin + size, buffer))
    return max((end for _, end, _ in placed), default=0)


def buffers(graph: Any) -> list[Buffer]:
    """Return what a file's graph computes, with the first and the last operator that use it."""
    return [buffer for _, buffer in shaped_buffers(graph)]


def shaped_buffers(graph: Any) -> list[tuple[int, Buffer]]:
    """Return the same, each with the number of a tensor of as many numbers."""
    last = len(graph.operators)
    first_use = dict.fromkeys(graph.inputs, 0)
    last_use = dict.fromkeys(graph.outputs, last)
    scratch = []
    for step, operator in enumerate(graph.operators):
        for number in operator.outputs:
            first_use.setdefault(number, step)
            last_use.setdefault(number, step)
        for number in operator.inputs:
            last_use[number] = max(step, last_use.get(number, step))
        output = graph.tensors[operator.outputs[0]] if operator.outputs else None
        if operator.name == "TRANSPOSE_CONV" and output.dtype in SCRATCH:
            sums = Buffer(math.prod(output.shape) * SCRATCH[output.dtype], step, step)
            scratch.append((operator.outputs[0], sums))
    computed = [
        (number, Buffer(graph.tensors[number].bytes, begin, last_use.get(number, begin)))
        for number, begin in sorted(first_use.items())
        if not graph.tensors[number].stored
    ]
    return computed + scratch


def persistent_bytes(graph: Any) -> int:
    """Return what stays for the whole run: descriptions of tensors and operators, multipliers of channels.

    Fitted to the recordings of TFLM on a 64-bit machine for 12 files of 6 networks; the largest error is 211 bytes.
    """
    channels = 0
    for operator in graph.operators:
        if "CONV" in operator.name:
            channels += graph.tensors[operator.outputs[0]].shape[-1]
        elif operator.name == "FULLY_CONNECTED" and graph.tensors[operator.inputs[1]].dtype == "INT8":
            channels += graph.tensors[operator.inputs[1]].channels
    return 475 + 24 * len(graph.tensors) + 167 * len(graph.operators) + 8 * channels
