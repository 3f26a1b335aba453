"""Which operators TensorFlow Lite for Microcontrollers (TFLM) has, and for numbers of which types."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

LETTERS = {
    "FLOAT32": "f", "FLOAT16": "e", "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "l", "UINT8": "B", "BOOL": "?",
    "INT4": "4", "RESOURCE": "r",
}  # fmt: skip

ANY = "any"
"""In the place of types: an operator that TFLM has, and that nobody asked for single types."""

TYPES = {
    "ABS": "b>b f>f h>h",
    "ADD": "b>b f>f h>h i>i",
    "ADD_N": "f>f",
    "ARG_MAX": "bi>i fi>i",
    "ARG_MIN": "bi>i fi>i",
    "AVERAGE_POOL_2D": "b>b f>f h>h",
    "BATCH_MATMUL": "b>b f>f h>h",
    "BATCH_TO_SPACE_ND": "bi>b fi>f",
    "BROADCAST_ARGS": "i>i l>l",
    "BROADCAST_TO": "?i>? ?l>? Bi>B Bl>B bi>b bl>b fi>f fl>f hi>h hl>h i>i il>i l>l li>l",
    "CAST": "?>b ?>f ?>h ?>i b>? b>f b>h b>i f>? f>b f>h f>i h>? h>b h>f h>i i>? i>b i>f i>h",
    "CEIL": "f>f",
    "CONCATENATION": "?>? b>b f>f h>h i>i l>l",
    "CONV_2D": "b4i>b bi>b f>f hbl>h",
    "COS": "f>f",
    "CUMSUM": "fi>f",
    "DEPTHWISE_CONV_2D": "b4i>b bi>b f>f hb>h hbl>h",
    "DEPTH_TO_SPACE": "b>b f>f",
    "DEQUANTIZE": "B>f b>f h>f",
    "DIV": "b>b f>f i>i",
    "DYNAMIC_UPDATE_SLICE": "bi>b fi>f hi>h i>i",
    "ELU": "b>b f>f",
    "EMBEDDING_LOOKUP": "ib>b if>f",
    "EQUAL": "?>? b>? f>? i>? l>?",
    "EXP": "f>f",
    "EXPAND_DIMS": "bi>b fi>f hi>h",
    "FILL": "i>i ib>b if>f",
    "FLOOR": "f>f",
    "FLOOR_DIV": "f>f",
    "FLOOR_MOD": "f>f",
    "FULLY_CONNECTED": "b4i>b b>b bi>b f>f hb>h hbi>h hbl>h",
    "GATHER": "bi>b fi>f",
    "GATHER_ND": "bi>b fi>f",
    "GREATER": "b>? f>? h>? i>? l>?",
    "GREATER_EQUAL": "b>? f>? i>? l>?",
    "HARD_SWISH": "b>b f>f",
    "L2_NORMALIZATION": "b>b f>f",
    "L2_POOL_2D": "f>f",
    "LEAKY_RELU": "b>b f>f h>h",
    "LESS": "b>? f>? i>? l>?",
    "LESS_EQUAL": "b>? f>? i>? l>?",
    "LOG": "f>f",
    "LOGICAL_AND": "?>?",
    "LOGICAL_NOT": "?>?",
    "LOGICAL_OR": "?>?",
    "LOGISTIC": "b>b f>f h>h",
    "LOG_SOFTMAX": "b>b f>f",
    "MAXIMUM": "b>b f>f h>h i>i l>l",
    "MAX_POOL_2D": "b>b f>f h>h",
    "MEAN": "bi>b fi>f hi>h",
    "MINIMUM": "b>b f>f h>h i>i l>l",
    "MIRROR_PAD": "bi>b fi>f",
    "MUL": "b>b f>f h>h i>i",
    "NEG": "f>f",
    "NOT_EQUAL": "?>? b>? f>? i>? l>?",
    "PACK": "b>b f>f h>h i>i l>l",
    "PAD": "bi>b fi>f hi>h i>i",
    "PADV2": "bib>b fif>f hih>h i>i",
    "PRELU": "b>b f>f",
    "QUANTIZE": "B>b b>B b>b b>h f>b f>h h>b h>h i>b i>h",
    "REDUCE_ALL": "?i>?",
    "REDUCE_MAX": "bi>b fi>f",
    "REDUCE_MIN": "bi>b fi>f",
    "RELU": "b>b f>f h>h",
    "RELU6": "b>b f>f h>h",
    "RESHAPE": "?>? ?i>? B>B Bi>B b>b bi>b f>f fi>f h>h hi>h i>i l>l li>l",
    "RESIZE_BILINEAR": "bi>b fi>f",
    "RESIZE_NEAREST_NEIGHBOR": "bi>b fi>f hi>h",
    "REVERSE_V2": "?i>? Bi>B bi>b fi>f hi>h i>i li>l",
    "ROUND": "f>f",
    "RSQRT": "b>b f>f",
    "SELECT_V2": "?b>b ?f>f ?h>h",
    "SHAPE": "?>i B>i b>i f>i h>i i>i l>i",
    "SIN": "f>f",
    "SLICE": "?i>? bi>b fi>f hi>h i>i",
    "SOFTMAX": "b>b b>h f>f h>h",
    "SPACE_TO_BATCH_ND": "bi>b fi>f",
    "SPACE_TO_DEPTH": "b>b f>f",
    "SPLIT": "i>i ib>b if>f ih>h",
    "SPLIT_V": "bi>b fi>f hi>h i>i",
    "SQRT": "f>f",
    "SQUARE": "f>f",
    "SQUARED_DIFFERENCE": "b>b f>f i>i",
    "SQUEEZE": "?>? B>B b>b f>f h>h i>i l>l",
    "STRIDED_SLICE": "?i>? bi>b fi>f hi>h i>i",
    "SUB": "b>b f>f h>h i>i",
    "SUM": "bi>b fi>f hi>h",
    "TANH": "b>b f>f h>h",
    "TRANSPOSE": "bi>b fi>f hi>h",
    "TRANSPOSE_CONV": "ib>b ibh>h ibhi>h ibhl>h ibi>b if>f",
    "UNPACK": "b>b f>f h>h i>i",
    "ZEROS_LIKE": "f>f i>i l>l",
    "ASSIGN_VARIABLE": ANY,
    "CALL_ONCE": ANY,
    "READ_VARIABLE": ANY,
    "SVDF": ANY,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": ANY,
    "VAR_HANDLE": ANY,
}
"""By operator the types that TFLM computes as LiteRT does, as `signature_of` writes them.

Found by running files of one operator each in both: `tests/micro_operators.py`, with TFLM of October 2026. It refuses
the others, or ends the process, or computes something else: a convolution of INT16 with a bias of INT32. WHILE and IF,
which it has, are not here: loops over time that return sequences become something else, or have no end.
"""

FLOATS_ONLY = tuple(name for name, types in TYPES.items() if "f" in types and "b" not in types)
"""Operators that TFLM has for floats and not for INT8."""

AXES = {"BROADCAST_TO": 5, "PRELU": 4, "SLICE": 5, "STRIDED_SLICE": 4, "TRANSPOSE": 5}
"""The most axes of tensors, found in the same way; the others take 6."""


def signature_of(inputs: Sequence[str | None], outputs: Sequence[str]) -> str:
    """Return the types of an operator's tensors as a word: "bi>b" for INT8, INT8, INT32 that become INT8.

    Args:
        inputs, outputs: names of types, in order; None for an input that is left out. Equal neighbours count once, so
            that the number of inputs does not matter.
    """
    words = [[LETTERS.get(each, "*") for each in types if each is not None] for types in (inputs, outputs)]
    return ">".join("".join(letter for letter, _ in groupby(word)) for word in words)


def computes(operator: str, inputs: Sequence[str | None], outputs: Sequence[str]) -> bool:
    """Return whether TFLM computes an operator, by name, for these types."""
    types = TYPES.get(operator, "")
    return types == ANY or signature_of(inputs, outputs) in types.split()
