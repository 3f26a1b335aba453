"""Files of one operator each, run by LiteRT and TensorFlow Lite for Microcontrollers: the table of `export/types.py`.

    python tests/micro_operators.py          prints the table as TFLM, where it is installed, has it
    python tests/micro_operators.py NAME     prints what both say of one operator

Each file runs in a process of its own, since an interpreter may end it.
"""

from __future__ import annotations

import json
import os
import pickle
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

TYPES = runpy.run_path(str(Path(__file__).parent.parent / "keras_rmda" / "export" / "types.py"))  # without Keras
LETTERS = {
    "f": "FLOAT32", "e": "FLOAT16", "b": "INT8", "h": "INT16", "i": "INT32", "l": "INT64", "B": "UINT8",
    "?": "BOOL", "4": "INT4", "I": "UINT32", "d": "FLOAT64",
}  # fmt: skip
NUMPY = {
    "f": "f4",
    "e": "f2",
    "b": "i1",
    "h": "i2",
    "i": "i4",
    "l": "i8",
    "B": "u1",
    "?": "?",
    "4": "i1",
    "I": "u4",
    "d": "f8",
}
QUANTIZED = {"b": (0.05, 3), "h": (0.001, 0), "B": (0.05, 130), "4": (0.2, 0)}
FIXED = {  # scales that an operator's output must have
    "SOFTMAX": {"b": (1 / 256, -128), "h": (1 / 32768, 0), "B": (1 / 256, 0)},
    "LOGISTIC": {"b": (1 / 256, -128), "h": (1 / 32768, 0), "B": (1 / 256, 0)},
    "TANH": {"b": (1 / 128, 0), "h": (1 / 32768, 0), "B": (1 / 128, 128)},
    "LOG_SOFTMAX": {"b": (16 / 256, 127), "B": (16 / 256, 255)},
    "L2_NORMALIZATION": {"b": (1 / 128, 0), "B": (1 / 128, 128)},
}
VERSIONS = {"BROADCAST_TO": 2}
"""Of operators whose first version is not registered any more."""

ANY = "fbhil?B"


class Tensor:
    """A tensor of a probe: its letter, shape, and values if it is a constant."""

    def __init__(self, letter: str, shape: tuple, values: Any = None, scale: tuple | None = None):
        self.letter, self.shape, self.values, self.scale = letter, shape, values, scale


def built(name: str, inputs: list[Tensor | None], outputs: list[Tensor], options: tuple | None) -> bytes:
    """Return a file with one operator."""
    import flatbuffers

    model, code, operator, graph = schema.ModelT(), schema.OperatorCodeT(), schema.OperatorT(), schema.SubGraphT()
    number = getattr(schema.BuiltinOperator, name)
    code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), VERSIONS.get(name, 1)
    model.buffers, graph.tensors = [schema.BufferT()], []

    def add(tensor: Tensor | None) -> int:
        if tensor is None:
            return -1
        made = schema.TensorT()
        made.shape, made.type = np.array(tensor.shape, "i4"), getattr(schema.TensorType, LETTERS[tensor.letter])
        made.buffer, made.hasRank = 0, True
        if tensor.values is not None:
            buffer = schema.BufferT()
            values = np.asarray(tensor.values, NUMPY[tensor.letter]).reshape(-1)
            if tensor.letter == "4":
                low, high = values[::2] & 15, np.resize(values[1::2], values[::2].shape) & 15
                values = (low | (high << 4)).astype("i1")
            buffer.data = np.frombuffer(values.tobytes(), "u1")
            made.buffer = len(model.buffers)
            model.buffers.append(buffer)
        if tensor.scale is not None:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale = np.array([tensor.scale[0]], "f4")
            made.quantization.zeroPoint = np.array([tensor.scale[1]], "i8")
        graph.tensors.append(made)
        return len(graph.tensors) - 1

    operator.inputs = np.array([add(each) for each in inputs], "i4")
    operator.outputs = np.array([add(each) for each in outputs], "i4")
    graph.inputs = np.array([k for k, t in zip(operator.inputs, inputs) if t is not None and t.values is None], "i4")
    graph.outputs = operator.outputs
    if options is not None:
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, options[0])
        operator.builtinOptions = getattr(schema, f"{options[0]}T")()
        for key, value in options[1].items():
            assert hasattr(operator.builtinOptions, key), key
            setattr(operator.builtinOptions, key, value)
    graph.operators, model.subgraphs, model.operatorCodes, model.version = [operator], [graph], [code], 3
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def of_type(letter: str, shape: tuple, name: str = "", is_output: bool = False, values: Any = None) -> Tensor:
    """Return a tensor with the scale that its type wants."""
    scale = QUANTIZED.get(letter)
    if is_output:
        scale = FIXED.get(name, {}).get(letter, scale)
    return Tensor(letter, shape, values, scale)


def numbers(letter: str, shape: tuple, name: str, seed: int) -> np.ndarray:
    """Return input values: positive where the operator wants that."""
    random = np.random.default_rng(seed)
    if letter == "?":
        return random.random(shape) < 0.5
    if letter in "fe":
        return (np.abs(random.normal(size=shape)) + 0.1).astype(NUMPY[letter])
    if letter in QUANTIZED:
        low, high = {"b": (10, 100), "h": (200, 3000), "B": (140, 250), "4": (-7, 7)}[letter]
        return random.integers(low, high, shape).astype(NUMPY[letter])
    return random.integers(1, 5, shape).astype(NUMPY[letter])


X = (1, 4, 6, 4)  # the shape of most inputs


def const(*values: int) -> Tensor:
    return Tensor("i", (len(values),), values)


def simple(name: str, count: int, options: str | None, out: str = "", types: str = ANY, **settings: Any) -> list:
    """Return probes of an operator whose inputs all have one type, and its output that or another."""
    probes = []
    for letter in types:
        inputs = [of_type(letter, X, name) for _ in range(count)]
        outputs = [of_type(out or letter, X, name, True)]
        probes.append((inputs, outputs, (options, settings) if options else None))
    return probes


def shaped(name: str, options: str | None, outputs: tuple, *others: Tensor, types: str = ANY, first: bool = True,
           shape: tuple = X, out: str = "", count: int = 1, **settings: Any) -> list:  # fmt: skip
    """Return probes of an operator with inputs of one type and others that are the same for all."""
    probes = []
    for letter in types:
        given = [of_type(letter, shape, name) for _ in range(count)]
        given = [*given, *others] if first else [*others, *given]
        made = [of_type(out or letter, each, name, True) for each in outputs]
        probes.append((given, made, (options, settings) if options else None))
    return probes


WEIGHTED = ("fff>f", "ff->f", "bbi>b", "bb->b", "hbl>h", "hbi>h", "hb->h", "b4i>b", "fbf>f", "fb->f", "fef>f", "BBi>B")
"""Types of input, kernel, bias and output; a minus where there is no bias."""


def weighted(
    shape: tuple, kernel: tuple, output: tuple, options: str, before: Any = None, bias: int = 0, **settings: Any
) -> list:
    """Return probes of an operator with weights."""
    probes = []
    for types in WEIGHTED:
        x, w, b, y = types[0], types[1], types[2], types[-1]
        weights = numbers(w, kernel, "", 7)
        weights = weights.astype(NUMPY[w]) if w != "4" else weights
        values = of_type(w, kernel, values=weights)
        if w == "b":
            values.scale = (0.02, 0)
        given = [of_type(x, shape), values]
        if b != "-":
            scale = None if b == "f" else (given[0].scale[0] * values.scale[0], 0)
            given.append(Tensor(b, (bias or output[-1],), np.ones(bias or output[-1]), scale))
        out = of_type(y, output)
        if y in QUANTIZED:
            out.scale = ({"b": 0.4, "h": 0.005, "B": 0.4}[y], out.scale[1])
        if before is not None:  # a transposed convolution: shape, kernel, input
            given = [before, given[1], given[0], *given[2:]]
        probes.append((given, [out], (options, settings)))
    return probes


def probes() -> dict[str, list]:
    """Return all probes by the operator's name: inputs, outputs, options."""
    found: dict[str, list] = {}
    unary = (
        "ABS CEIL COS EXP FLOOR LOG NEG RSQRT ROUND SIN SQRT SQUARE ZEROS_LIKE ELU HARD_SWISH RELU RELU6 "
        "LOGISTIC TANH LOGICAL_NOT L2_NORMALIZATION LOG_SOFTMAX"
    )
    for name in unary.split():
        options = {"L2_NORMALIZATION": "L2NormOptions"}.get(name)
        found[name] = simple(name, 1, options)
    found["LEAKY_RELU"] = simple("LEAKY_RELU", 1, "LeakyReluOptions", alpha=0.1)
    found["SOFTMAX"] = simple("SOFTMAX", 1, "SoftmaxOptions", beta=1.0)
    found["SOFTMAX"] += [
        ([of_type("b", X)], [Tensor("h", X, None, (1 / 65536, -32768))], ("SoftmaxOptions", {"beta": 1.0}))
    ]
    for name, options in {
        "ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions", "DIV": "DivOptions", "MAXIMUM": None,
        "MINIMUM": None, "FLOOR_DIV": None, "FLOOR_MOD": None, "SQUARED_DIFFERENCE": None, "LOGICAL_AND": None,
        "LOGICAL_OR": None,
    }.items():  # fmt: skip
        found[name] = simple(name, 2, options)
    found["ADD_N"] = simple("ADD_N", 3, "AddNOptions")
    for name in ("EQUAL", "NOT_EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL"):
        found[name] = simple(name, 2, None, out="?")
    found["PRELU"] = [
        ([of_type(t, X), of_type(t, (1, 1, 4), values=numbers(t, (1, 1, 4), "", 3))], [of_type(t, X)], None)
        for t in ANY
    ]
    found["CAST"] = [
        ([of_type(a, X)], [of_type(b, X)], ("CastOptions", {})) for a in "fbhil?Be" for b in "fbhil?Be" if a != b
    ]
    found["QUANTIZE"] = [([of_type(a, X)], [of_type(b, X)], ("QuantizeOptions", {})) for a in "fbhiB" for b in "bhiB"]
    found["DEQUANTIZE"] = [([of_type(a, X)], [of_type("f", X)], ("DequantizeOptions", {})) for a in "bhBe"]
    requantized = [of_type("b", X), Tensor("b", X, None, (0.1, -5))]
    found["QUANTIZE"].append(([requantized[0]], [requantized[1]], ("QuantizeOptions", {})))
    pool = {"padding": 1, "strideW": 2, "strideH": 2, "filterWidth": 2, "filterHeight": 2}
    for name in ("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D"):
        found[name] = shaped(name, "Pool2DOptions", ((1, 2, 3, 4),), **pool)
    found["CONV_2D"] = weighted(X, (5, 3, 3, 4), (1, 2, 4, 5), "Conv2DOptions", padding=1, strideW=1, strideH=1)
    found["DEPTHWISE_CONV_2D"] = weighted(
        X, (1, 3, 3, 4), (1, 2, 4, 4), "DepthwiseConv2DOptions", padding=1, strideW=1, strideH=1, depthMultiplier=1
    )
    found["TRANSPOSE_CONV"] = weighted(
        X,
        (5, 2, 2, 4),
        (1, 8, 12, 5),
        "TransposeConvOptions",
        before=const(1, 8, 12, 5),
        padding=1,
        strideW=2,
        strideH=2,
    )
    found["FULLY_CONNECTED"] = weighted((2, 6), (5, 6), (2, 5), "FullyConnectedOptions")
    found["BATCH_MATMUL"] = [
        ([of_type(a, (1, 3, 4)), of_type(b, (1, 4, 5))], [wide(of_type(a, (1, 3, 5)))], ("BatchMatMulOptions", {}))
        for a, b in ("ff", "bb", "hh", "fb", "BB", "ii")
    ]
    known = lambda letter: of_type(letter, (1, 4, 5), values=numbers(letter, (1, 4, 5), "", 2))  # noqa: E731
    found["BATCH_MATMUL"] += [
        ([of_type(a, (1, 3, 4)), known(b)], [wide(of_type(a, (1, 3, 5)))], ("BatchMatMulOptions", {}))
        for a, b in ("ff", "bb", "fb")
    ]
    for name in ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_ALL"):
        found[name] = shaped(name, "ReducerOptions", ((1, 4),), const(1, 2), keepDims=False)
    for name, options in {"ARG_MAX": "ArgMaxOptions", "ARG_MIN": "ArgMinOptions"}.items():
        for out in "il":
            more = shaped(name, options, ((1, 4, 6),), Tensor("i", (), 3), out=out, outputType=2 if out == "i" else 4)
            found.setdefault(name, []).extend(more)
    found["CUMSUM"] = shaped("CUMSUM", "CumsumOptions", (X,), Tensor("i", (), 1))
    found["CONCATENATION"] = shaped("CONCATENATION", "ConcatenationOptions", ((1, 4, 6, 8),), count=2, axis=3)
    found["PACK"] = shaped("PACK", "PackOptions", ((2, *X),), count=2, valuesCount=2, axis=0)
    found["UNPACK"] = shaped("UNPACK", "UnpackOptions", ((1, 6, 4),) * 4, num=4, axis=1)
    found["SPLIT"] = shaped("SPLIT", "SplitOptions", ((1, 4, 6, 2),) * 2, Tensor("i", (), 3), first=False, numSplits=2)
    found["SPLIT_V"] = shaped(
        "SPLIT_V", "SplitVOptions", ((1, 4, 6, 1), (1, 4, 6, 3)), const(1, 3), Tensor("i", (), 3), numSplits=2
    )
    found["RESHAPE"] = shaped("RESHAPE", "ReshapeOptions", ((1, 96),), const(1, 96), newShape=np.array([1, 96], "i4"))
    found["RESHAPE"] += shaped("RESHAPE", "ReshapeOptions", ((1, 96),), newShape=np.array([1, 96], "i4"))
    found["SQUEEZE"] = shaped("SQUEEZE", "SqueezeOptions", ((4, 6, 4),), squeezeDims=np.array([0], "i4"))
    found["EXPAND_DIMS"] = shaped("EXPAND_DIMS", "ExpandDimsOptions", ((1, 1, 4, 6, 4),), const(0))
    found["TRANSPOSE"] = shaped("TRANSPOSE", "TransposeOptions", ((1, 6, 4, 4),), const(0, 2, 1, 3))
    found["REVERSE_V2"] = shaped("REVERSE_V2", "ReverseV2Options", (X,), const(1))
    pads = Tensor("i", (4, 2), [[0, 0], [1, 1], [2, 1], [0, 0]])
    found["PAD"] = shaped("PAD", "PadOptions", ((1, 6, 9, 4),), pads)
    found["PADV2"] = [
        ([of_type(t, X), pads, of_type(t, (1,), values=[1])], [of_type(t, (1, 6, 9, 4))], ("PadV2Options", {}))
        for t in ANY
    ]
    found["MIRROR_PAD"] = shaped("MIRROR_PAD", "MirrorPadOptions", ((1, 6, 9, 4),), pads, mode=0)
    found["SLICE"] = shaped("SLICE", "SliceOptions", ((1, 2, 3, 4),), const(0, 1, 2, 0), const(1, 2, 3, 4))
    found["STRIDED_SLICE"] = shaped(
        "STRIDED_SLICE", "StridedSliceOptions", ((1, 2, 3, 4),), const(0, 0, 0, 0), const(1, 4, 6, 4), const(1, 2, 2, 1)
    )
    found["GATHER"] = shaped("GATHER", "GatherOptions", ((1, 4, 6, 2),), const(0, 2), axis=3)
    found["GATHER_ND"] = shaped("GATHER_ND", "GatherNdOptions", ((2, 6, 4),), Tensor("i", (2, 2), [[0, 1], [0, 3]]))
    computed = Tensor("i", (1, 5))
    for name, shape, options in (("GATHER", (1, 5, 4), ("GatherOptions", {"axis": 0})),):
        found[name] += [
            ([of_type(t, (6, 4), values=numbers(t, (6, 4), "", 2)), computed], [of_type(t, shape)], options)
            for t in ANY
        ]
    found["EMBEDDING_LOOKUP"] = [
        ([Tensor("i", (5,)), of_type(t, (6, 4), values=numbers(t, (6, 4), "", 2))], [of_type(t, (5, 4))], None)
        for t in ANY
    ] + [([Tensor("i", (5,)), of_type("b", (6, 4), values=numbers("b", (6, 4), "", 2))], [of_type("f", (5, 4))], None)]
    found["RESIZE_BILINEAR"] = shaped(
        "RESIZE_BILINEAR", "ResizeBilinearOptions", ((1, 8, 12, 4),), const(8, 12), halfPixelCenters=True
    )
    found["RESIZE_NEAREST_NEIGHBOR"] = shaped(
        "RESIZE_NEAREST_NEIGHBOR", "ResizeNearestNeighborOptions", ((1, 8, 12, 4),), const(8, 12), halfPixelCenters=True
    )
    found["DEPTH_TO_SPACE"] = shaped("DEPTH_TO_SPACE", "DepthToSpaceOptions", ((1, 8, 12, 1),), blockSize=2)
    found["SPACE_TO_DEPTH"] = shaped("SPACE_TO_DEPTH", "SpaceToDepthOptions", ((1, 2, 3, 16),), blockSize=2)
    crops = Tensor("i", (2, 2), [[0, 0], [0, 0]])
    found["SPACE_TO_BATCH_ND"] = shaped(
        "SPACE_TO_BATCH_ND", "SpaceToBatchNDOptions", ((4, 2, 3, 4),), const(2, 2), crops
    )
    found["BATCH_TO_SPACE_ND"] = shaped(
        "BATCH_TO_SPACE_ND", "BatchToSpaceNDOptions", (X,), const(2, 2), crops, shape=(4, 2, 3, 4)
    )
    found["BROADCAST_TO"] = [
        case
        for ends in (const(*X), Tensor("l", (4,), X))
        for case in shaped("BROADCAST_TO", "BroadcastToOptions", (X,), ends, shape=(1, 1, 6, 4))
    ]
    found["BROADCAST_ARGS"] = [
        ([Tensor(t, (2,), [3, 1]), Tensor(t, (2,), [1, 4])], [Tensor(t, (2,))], None) for t in "il"
    ]
    found["FILL"] = [([const(2, 3), of_type(t, (), values=1)], [of_type(t, (2, 3))], ("FillOptions", {})) for t in ANY]
    found["SHAPE"] = shaped("SHAPE", "ShapeOptions", ((4,),), out="i", outType=2)
    found["SELECT_V2"] = shaped("SELECT_V2", "SelectV2Options", (X,), Tensor("?", X), first=False, count=2)
    found["DYNAMIC_UPDATE_SLICE"] = [
        ([of_type(t, X), of_type(t, (1, 2, 2, 4)), const(0, 1, 1, 0)], [of_type(t, X)], None) for t in ANY
    ]
    return found


def of_rank(rank: int) -> dict[str, tuple]:
    """Return by name a probe with floats of so many axes, of operators that go with any number of them."""
    shape = (1, 2, 3, 2, 3, 2, 3)[:rank]
    x, small = of_type("f", shape), of_type("f", (*shape[:-1], 1))
    found: dict[str, tuple] = {}
    for name in ("RELU", "TANH", "LOGISTIC", "EXP", "SQRT", "SOFTMAX", "ABS", "LEAKY_RELU", "QUANTIZE", "CAST"):
        found[name] = ([x], [of_type({"QUANTIZE": "b", "CAST": "i"}.get(name, "f"), shape)], OPTIONS.get(name))
    for name in ("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE"):
        found[name] = ([x, small], [x], OPTIONS.get(name))
    found["GREATER"] = ([x, small], [of_type("?", shape)], None)
    found["SELECT_V2"] = ([of_type("?", shape), x, small], [x], ("SelectV2Options", {}))
    found["PRELU"] = ([x, of_type("f", shape, values=np.full(shape, 0.2))], [x], None)
    for name in ("MEAN", "SUM", "REDUCE_MAX"):
        found[name] = (
            [x, const(1, rank - 1)],
            [of_type("f", (1, *shape[2:-1]))],
            ("ReducerOptions", {"keepDims": False}),
        )
    found["ARG_MAX"] = (
        [x, Tensor("i", (), rank - 1)],
        [of_type("i", shape[:-1])],
        ("ArgMaxOptions", {"outputType": 2}),
    )
    double = of_type("f", (*shape[:-1], 2 * shape[-1]))
    found["CONCATENATION"] = ([x, x], [double], ("ConcatenationOptions", {"axis": rank - 1}))
    found["SPLIT"] = ([Tensor("i", (), rank - 1), double], [x, x], ("SplitOptions", {"numSplits": 2}))
    found["PACK"] = ([x, x], [of_type("f", (2, *shape))], ("PackOptions", {"valuesCount": 2, "axis": 0}))
    found["UNPACK"] = ([x], [of_type("f", (1, *shape[2:]))] * 2, ("UnpackOptions", {"num": 2, "axis": 1}))
    found["RESHAPE"] = ([x], [of_type("f", shape[::-1])], ("ReshapeOptions", {"newShape": np.array(shape[::-1], "i4")}))
    found["EXPAND_DIMS"] = ([x, const(0)], [of_type("f", (1, *shape))], ("ExpandDimsOptions", {}))
    found["SQUEEZE"] = ([x], [of_type("f", shape[1:])], ("SqueezeOptions", {"squeezeDims": np.array([0], "i4")}))
    found["TRANSPOSE"] = ([x, const(*reversed(range(rank)))], [of_type("f", shape[::-1])], ("TransposeOptions", {}))
    found["REVERSE_V2"] = ([x, const(1)], [x], ("ReverseV2Options", {}))
    pads = Tensor("i", (rank, 2), [[0, 0], [1, 0]] + [[0, 0]] * (rank - 2))
    found["PAD"] = ([x, pads], [of_type("f", (1, 3, *shape[2:]))], ("PadOptions", {}))
    zeros, ones = const(*[0] * rank), const(*[1] * rank)
    found["SLICE"] = ([x, zeros, ones], [of_type("f", (1,) * rank)], ("SliceOptions", {}))
    found["STRIDED_SLICE"] = ([x, zeros, ones, ones], [of_type("f", (1,) * rank)], ("StridedSliceOptions", {}))
    found["GATHER"] = ([x, const(1, 0)], [x], ("GatherOptions", {"axis": 1}))
    found["BROADCAST_TO"] = ([small, const(*shape)], [x], ("BroadcastToOptions", {}))
    other = of_type("f", (*shape[:-2], shape[-1], 4))
    found["BATCH_MATMUL"] = ([x, other], [of_type("f", (*shape[:-1], 4))], ("BatchMatMulOptions", {}))
    kernel = of_type("f", (5, shape[-1]), values=np.ones((5, shape[-1])))
    options = ("FullyConnectedOptions", {"keepNumDims": True})
    found["FULLY_CONNECTED"] = ([x, kernel], [of_type("f", (*shape[:-1], 5))], options)
    found["CUMSUM"] = ([x, Tensor("i", (), 1)], [x], ("CumsumOptions", {}))
    return found


OPTIONS = {
    "ADD": ("AddOptions", {}), "SUB": ("SubOptions", {}), "MUL": ("MulOptions", {}), "DIV": ("DivOptions", {}),
    "SOFTMAX": ("SoftmaxOptions", {"beta": 1.0}), "LEAKY_RELU": ("LeakyReluOptions", {"alpha": 0.1}),
    "QUANTIZE": ("QuantizeOptions", {}), "CAST": ("CastOptions", {}),
}  # fmt: skip


def ranks() -> dict[str, int]:
    """Return by operator the most axes, up to 6, that TFLM takes; those that take 6 are left out."""
    result: dict[str, int] = {}
    for rank in (3, 4, 5, 6):
        work = list(of_rank(rank).items())
        for (name, _), (lite, micro) in zip(work, outcomes(work)):
            if lite and micro == "same" and result.get(name, rank - 1) == rank - 1:
                result[name] = rank
            elif lite and os.environ.get("SHOW"):
                print(name, rank, micro)
            elif not lite and result.get(name) == rank - 1:
                result[name] = rank  # LiteRT has none either
    return {name: rank for name, rank in result.items() if rank < 6}


def wide(tensor: Tensor) -> Tensor:
    """Return an output with room for sums of products."""
    if tensor.letter in QUANTIZED:
        tensor.scale = ({"b": 0.8, "h": 0.01, "B": 0.8}[tensor.letter], tensor.scale[1])
    return tensor


def signature(inputs: list[Tensor | None], outputs: list[Tensor]) -> str:
    """Return the types as the table has them: equal neighbours once."""
    return TYPES["signature_of"]([t and LETTERS[t.letter] for t in inputs], [LETTERS[t.letter] for t in outputs])


def run_lite(content: bytes, values: list[np.ndarray]) -> list[np.ndarray]:
    """Return the outputs of LiteRT, by the kernels that need no other library."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=plain)
    interpreter.allocate_tensors()
    for detail, x in zip(interpreter.get_input_details(), values):
        interpreter.set_tensor(detail["index"], x)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def run_micro(content: bytes, values: list[np.ndarray], count: int) -> list[np.ndarray]:
    """Return the outputs of TFLM."""
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(content, arena_size=300_000)
    for number, x in enumerate(values):
        interpreter.set_input(x, number)
    interpreter.invoke()
    return [interpreter.get_output(number) for number in range(count)]


def compared(expected: list[np.ndarray], found: list[np.ndarray]) -> str:
    """Return whether outputs are equal but for rounding, of one step where they are quantized."""
    off = max(float(np.abs(a.astype("f8") - b.astype("f8")).max()) for a, b in zip(expected, found, strict=True))
    letter = expected[0].dtype.kind
    limit = 1e-4 if letter == "f" else 1 if letter in "iu" and expected[0].dtype.itemsize < 4 else 0
    return "same" if off <= limit else f"differs by {off:g}"


def asked(work: list[tuple[str, tuple]], pipe: int) -> None:
    """Say of each probe what LiteRT does with it, and then what TFLM does."""

    def say(what: Any) -> None:
        os.write(pipe, pickle.dumps(what))

    for name, (inputs, outputs, options) in work:
        content = built(name, inputs, outputs, options)
        computed = [t for t in inputs if t is not None and t.values is None]
        values = [numbers(t.letter, t.shape, name, seed) for seed, t in enumerate(computed)]
        try:
            expected = run_lite(content, values)
        except Exception as error:
            say(("", f"LiteRT refuses: {' '.join(str(error).split())[:150]}"))
            continue
        say("runs in LiteRT")
        try:
            say(("runs", compared(expected, run_micro(content, values, len(expected)))))
        except Exception as error:
            say(("runs", f"refuses: {' '.join(str(error).split())[:150]}"))


def outcomes(work: list[tuple[str, tuple]]) -> list[tuple[str, str]]:
    """Return for each probe whether LiteRT runs it, and what TFLM does. They run in processes that may end."""
    found: list[tuple[str, str]] = []
    while len(found) < len(work):
        receiving, sending = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(receiving)
            try:
                asked(work[len(found) :], sending)
            finally:
                os._exit(0)
        os.close(sending)
        last: Any = None
        with os.fdopen(receiving, "rb") as pipe:
            while True:
                try:
                    last = pickle.load(pipe)
                except EOFError:
                    break
                if not isinstance(last, str):
                    found.append(last)
        os.waitpid(child, 0)
        if len(found) < len(work):
            found.append(("runs" if isinstance(last, str) else "", "ends the process"))
    return found


def table() -> dict[str, set[str]]:
    """Return by operator the types that TFLM runs as LiteRT does, in every probe that LiteRT runs."""
    work = [(name, case) for name, cases in probes().items() for case in cases]
    good: dict[str, set[str]] = {name: set() for name, _ in work}
    bad: dict[str, set[str]] = {name: set() for name, _ in work}
    for (name, case), (lite, micro) in zip(work, outcomes(work)):
        if lite:
            (good if micro == "same" else bad)[name].add(signature(*case[:2]))
    return {name: good[name] - bad[name] for name in good}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        cases = [(sys.argv[1], case) for case in probes()[sys.argv[1]]]
        for (_, case), said in zip(cases, outcomes(cases)):
            print(signature(*case[:2]), *said, sep=" | ")
    elif os.environ.get("AS_JSON"):
        print(json.dumps([{name: sorted(types) for name, types in table().items()}, ranks()]))
    else:
        for name, types in sorted(table().items()):
            print(f'    "{name}": "{" ".join(sorted(types))}",')
        print(ranks())
