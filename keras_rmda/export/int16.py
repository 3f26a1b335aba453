"""The faults of the quantizer to int16, mended around it; files are objects. Another process loads this file alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

FLOAT32 = 0
"""The number of a type in the schema."""


def rounded(model: Any, quantize: Callable[[Any], Any]) -> Any:
    """Return what the quantizer makes of a file with ranges, without its faults; the file is changed.

    Where an operator has no int16, the quantizer wants a range of integers too: they get one, which nobody uses. It
    rounds inputs and constants in place, at the first operator of int16 that reads them, so that operators without
    int16 read rounded numbers, too. Therefore each reader of a constant gets its own, and inputs are shown to the
    quantizer as tensors inside, which it rounds for each reader; one of these roundings is left.

    Args:
        model: the file.
        quantize: what calls the quantizer.
    """
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.quantization = tensor.quantization if tensor.type == FLOAT32 else without_range(tensor.quantization)
    graph = model.subgraphs[0]
    shared, inputs = read_by_several_kinds(graph), list(graph.inputs)
    graph.inputs = [k for k in inputs if k not in shared]
    for each in graph.operators or ():
        each.inputs = [copied(model, graph, k) if k in shared else k for k in numbers(each.inputs)]
    result = quantize(model)
    graph = result.subgraphs[0]
    others = iter(numbers(graph.inputs))
    graph.inputs = [k if k in shared else next(others) for k in inputs]
    round_once(result, [k for k in inputs if k in shared])
    empty_unused(result)
    return result


def numbers(vector: Any) -> list[int]:
    """Return the numbers of tensors in a vector; an empty one is read as None."""
    return [] if vector is None else [int(k) for k in vector]


def without_range(parameters: Any) -> Any:
    """Return parameters of a range that holds nothing but 0."""
    from ai_edge_litert import schema_py_generated as schema

    parameters = parameters or schema.QuantizationParametersT()
    parameters.min = parameters.max = [0.0]
    return parameters


def read_by_several_kinds(graph: Any) -> set[int]:
    """Return which tensors of floats operators of several kinds read."""
    kinds: dict[int, set[int]] = {}
    for each in graph.operators or ():
        for k in numbers(each.inputs):
            kinds.setdefault(k, set()).add(each.opcodeIndex)
    return {k for k, found in kinds.items() if k >= 0 and len(found) > 1 and graph.tensors[k].type == FLOAT32}


def copied(model: Any, graph: Any, number: int) -> int:
    """Return the number of a copy of a constant; of what is none its own."""
    tensor = copy.copy(graph.tensors[number])
    data = model.buffers[tensor.buffer].data
    if data is None or not len(data):
        return number
    model.buffers.append(copy.copy(model.buffers[tensor.buffer]))
    tensor.buffer = len(model.buffers) - 1
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def round_once(model: Any, inputs: list[int]) -> None:
    """Leave one of the operators that round an input to the same; it has one range."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    graph, made, same = model.subgraphs[0], {}, {}
    code = next((k for k, x in enumerate(model.operatorCodes) if x.builtinCode == BuiltinOperator.QUANTIZE), None)
    kept = []
    for each in graph.operators or ():
        each.inputs = [same.get(k, k) for k in numbers(each.inputs)]
        is_rounding = each.opcodeIndex == code and each.inputs[0] in inputs
        if is_rounding and each.inputs[0] in made:
            same[int(each.outputs[0])] = made[each.inputs[0]]
            continue
        if is_rounding:
            made[each.inputs[0]] = int(each.outputs[0])
        kept.append(each)
    graph.operators = kept


def empty_unused(model: Any) -> None:
    """Take their numbers from tensors that nothing reads any more: the first buffer of a file is empty."""
    graph = model.subgraphs[0]
    vectors = [graph.inputs, graph.outputs, *(x for each in graph.operators or () for x in (each.inputs, each.outputs))]
    used = {k for each in vectors for k in numbers(each)}
    for k, tensor in enumerate(graph.tensors):
        if k not in used:
            tensor.buffer = 0
