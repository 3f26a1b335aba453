"""TensorFlow Lite for Microcontrollers (TFLM): which operators it has, and how it lays out its memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ALIGNMENT = 16


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

    The largest buffer first, each at the lowest place where it overlaps with none that is in use at the same time.
    """
    placed: list[tuple[int, int, Buffer]] = []
    for buffer in sorted(buffers, key=lambda each: -each.bytes):
        size = -(-buffer.bytes // ALIGNMENT) * ALIGNMENT
        begin = 0
        for start, end, other in sorted(placed, key=lambda each: each[:2]):
            if other.last < buffer.first or buffer.last < other.first:
                continue
            if start - begin >= size:
                break
            begin = max(begin, end)
        placed.append((begin, begin + size, buffer))
    return max((end for _, end, _ in placed), default=0)


_NAMES = (
    "ABS ADD ADD_N ARG_MAX ARG_MIN ASSIGN_VARIABLE AVERAGE_POOL_2D BATCH_MATMUL BATCH_TO_SPACE_ND BROADCAST_ARGS "
    "BROADCAST_TO CALL_ONCE CAST CEIL CONCATENATION CONV_2D COS CUMSUM DEPTH_TO_SPACE DEPTHWISE_CONV_2D "
    "DEQUANTIZE DIV DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP EQUAL EXP EXPAND_DIMS FILL FLOOR FLOOR_DIV "
    "FLOOR_MOD FULLY_CONNECTED GATHER GATHER_ND GREATER GREATER_EQUAL HARD_SWISH IF L2_NORMALIZATION L2_POOL_2D "
    "LEAKY_RELU LESS LESS_EQUAL LOG LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC LOG_SOFTMAX MAX_POOL_2D MAXIMUM "
    "MEAN MINIMUM MIRROR_PAD MUL NEG NOT_EQUAL PACK PAD PADV2 PRELU QUANTIZE READ_VARIABLE REDUCE_ALL REDUCE_MAX "
    "REDUCE_MIN RELU RELU6 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 ROUND RSQRT SELECT_V2 SHAPE "
    "SIN SLICE SOFTMAX SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE SQUEEZE "
    "STRIDED_SLICE SUB SUM SVDF TANH TRANSPOSE TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK VAR_HANDLE "
    "WHILE ZEROS_LIKE"
)
MICRO_OPERATORS = frozenset(_NAMES.split())
"""Operators that TFLM registers, asked of its interpreter of October 2026 one by one."""
