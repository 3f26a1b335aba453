"""The ranges that a calibrated file hands to the quantizer, before it rounds. Another process loads this file alone."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

WORST = 1 / 32
"""Of the range of what comes out: a larger error by rounding one number that goes in is not taken."""

LEVELS, KERNEL = 255, 127
"""Steps of int8, and of one sign of a kernel."""

LIMITS = ("MAXIMUM", "MINIMUM")

WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
"""Operators that add up products of their first input with their second, a constant."""

FINEST = 1 / 64
"""Of one step of such a sum, at its largest weight: the finest step of what comes out. LiteRT refuses 1/256."""

STEEP = {"DIV": lambda x: 1 / x, "LOG": math.log, "RSQRT": lambda x: x**-0.5, "SQRT": math.sqrt}
"""Functions that are steep near 0, of the last of their inputs."""

PRODUCTS = (
    "BATCH_MATMUL", "CONV_2D", "CONV_3D", "CONV_3D_TRANSPOSE", "DEPTHWISE_CONV_2D", "EMBEDDING_LOOKUP",
    "FULLY_CONNECTED", "GATHER", "GATHER_ND", "TRANSPOSE_CONV", "UNIDIRECTIONAL_SEQUENCE_LSTM", "WHILE",
)  # fmt: skip
"""Operators with weights, or large ones, which compute in integers whatever is around them."""


MOVES = (
    "AVERAGE_POOL_2D", "BATCH_TO_SPACE_ND", "BROADCAST_TO", "CONCATENATION", "DEPTH_TO_SPACE", "DYNAMIC_UPDATE_SLICE",
    "EXPAND_DIMS", "MAXIMUM", "MAX_POOL_2D", "MINIMUM", "MIRROR_PAD", "PACK", "PAD", "PADV2", "REDUCE_MAX",
    "REDUCE_MIN", "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "REVERSE_V2", "SELECT", "SELECT_V2",
    "SLICE", "SPACE_TO_BATCH_ND", "SPACE_TO_DEPTH", "SPLIT", "SPLIT_V", "SQUEEZE", "STRIDED_SLICE", "TILE",
    "TRANSPOSE", "UNPACK",
)  # fmt: skip
"""Operators whose inputs and outputs share one scale: all of these are integers, or none."""


class Ranges:
    """The ranges of a file.

    Args:
        model: the file as objects, with the ranges that were seen; these are changed.
    """

    def __init__(self, model: Any):
        self.model, self.graph = model, model.subgraphs[0]
        self.operators = self.graph.operators or []
        self.makers = {int(k): each for each in self.operators for k in all_of(each.outputs)}
        self.readers: dict[int, list] = {}
        for each in self.operators:
            for k in all_of(each.inputs):
                self.readers.setdefault(int(k), []).append(each)

    def name_of(self, operator: Any) -> str:
        """Return the name of an operator's kind."""
        code = self.model.operatorCodes[operator.opcodeIndex]
        return names().get(max(code.builtinCode, code.deprecatedBuiltinCode), "")

    def of(self, number: int) -> tuple[float, float] | None:
        """Return the lowest and the highest number of a tensor; None if nobody saw them."""
        found = self.graph.tensors[number].quantization if number >= 0 else None
        if found is None or found.min is None or found.max is None or len(found.min) != 1:
            return None
        return float(found.min[0]), float(found.max[0])

    def check(self) -> None:
        """Give what is infinite the range to which it is limited; raise `RuntimeError` where nothing limits it.

        The quantizer ends the process.
        """
        for number, tensor in enumerate(self.graph.tensors):
            if self.is_finite(number):
                continue
            found = [each for each in self.readers.get(number, []) if self.name_of(each) in LIMITS]
            limited = [int(each.outputs[0]) for each in found]
            if not limited or len(found) < len(self.readers[number]) or not all(map(self.is_finite, limited)):
                raise RuntimeError(
                    "it computes infinite numbers of the representative data, which integers are not. Keep them "
                    "finite: add a small number before a division, a root or a logarithm, or limit what comes out."
                )
            ranges = self.graph.tensors[limited[0]].quantization
            tensor.quantization.min, tensor.quantization.max = ranges.min, ranges.max

    def widen(self) -> None:
        """Give sums of products that are 0 for all samples, or nearly, no finer steps than LiteRT takes for them.

        So is a layer whose units are all off.
        """
        for each in self.operators:
            if self.name_of(each) not in WEIGHTED:
                continue
            given, kernel, number = int(each.inputs[0]), int(each.inputs[1]), int(each.outputs[0])
            if None in (self.of(given), self.of(number)):
                continue
            (low, high), least = self.of(number), FINEST * extent(*self.of(given)) * self.largest(kernel) / KERNEL
            if extent(low, high) < least:
                ranges = self.graph.tensors[number].quantization
                ranges.min, ranges.max = ([-least], [max(high, 0.0)]) if low < 0 else ([0.0], [least])

    def largest(self, number: int) -> float:
        """Return the largest absolute value of a constant; 0 for what is none."""
        data = self.model.buffers[self.graph.tensors[number].buffer].data
        return 0.0 if data is None or not len(data) else float(np.abs(np.frombuffer(bytes(data), "float32")).max())

    def is_finite(self, number: int) -> bool:
        """Return whether the range of a tensor is, if it has one."""
        return all(map(math.isfinite, self.of(number) or ()))

    def leave_in_float(self) -> None:
        """Take the ranges from tensors that int8 has too few steps for, so that they stay in float.

        These are numbers near 0 of which a logarithm or root is taken, or by which something is divided, terms far
        larger than their sum, and factors far larger than their product. What they are computed of stays in float too,
        up to the last product with weights.
        """
        waiting = [k for each in self.operators for k in self.coarse(each)]
        found: set[int] = set()
        while waiting:
            number = waiting.pop()
            if number not in found and self.may_be_float(number):
                found.add(number)
                waiting += map(int, all_of(self.makers[number].inputs))
        while split := {k for each in self.operators if self.name_of(each) in MOVES for k in self.apart(each, found)}:
            found -= split
        for number in found:
            ranges = self.graph.tensors[number].quantization
            ranges.min = ranges.max = None

    def may_be_float(self, number: int) -> bool:
        """Return whether nothing needs a tensor in integers."""
        if number not in self.makers or self.of(number) is None or number in self.graph.outputs:
            return False
        return not any(self.name_of(each) in PRODUCTS for each in (self.makers[number], *self.readers.get(number, [])))

    def apart(self, move: Any, found: set[int]) -> set[int]:
        """Return which tensors of an operator are in a set, if others are not that have ranges."""
        ranged = {k for k in around(move) if self.of(k) is not None}
        return set() if ranged <= found else ranged & found

    def coarse(self, operator: Any) -> Iterator[int]:
        """Yield the inputs of an operator that have too few steps in int8 for what it makes of them."""
        name, numbers = self.name_of(operator), [int(k) for k in all_of(operator.inputs)]
        results = [self.of(int(k)) for k in all_of(operator.outputs)]
        ranges, result = [self.of(k) for k in numbers], results[0] if results else None
        if None in (result, *ranges[-1:]):
            return
        if name in STEEP:
            if off_near_zero(STEEP[name], *ranges[-1]) > WORST:
                yield numbers[-1]
        elif name in ("ADD", "SUB", "MUL") and None not in ranges:
            widths, width = [extent(*each) for each in ranges], extent(*result)
            others = widths[::-1] if name == "MUL" else [1.0, 1.0]
            for number, one, other in zip(numbers, widths, others):
                if one * other / (2 * LEVELS) > WORST * width > 0:
                    yield number


def all_of(numbers: Any) -> Any:
    """Return the numbers of tensors; an empty vector of a file is read as None."""
    return () if numbers is None else numbers


def around(operator: Any) -> list[int]:
    """Return the numbers of all tensors of an operator."""
    return [int(k) for k in (*all_of(operator.inputs), *all_of(operator.outputs))]


def extent(low: float, high: float) -> float:
    """Return the width of a range, which in int8 has 0 in it."""
    return max(high, 0.0) - min(low, 0.0)


def off_near_zero(function: Any, low: float, high: float) -> float:
    """Return how far a function may be off by rounding the number nearest to 0, relative to all that it makes."""
    nearest = low if low > 0 else -high if high < 0 else 0.0
    if nearest <= 0:
        return math.inf if high > low else 0.0
    farthest, half = max(abs(low), abs(high)), extent(low, high) / (2 * LEVELS)
    width = abs(function(farthest) - function(nearest))
    return abs(function(nearest + half) - function(nearest)) / width if width else 0.0


@functools.cache
def names() -> dict[int, str]:
    """Return the names of operators by their numbers in the schema."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    return {number: name for name, number in vars(BuiltinOperator).items() if isinstance(number, int)}
