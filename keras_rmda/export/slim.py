"""Files without what a run does not need: names of tensors, notes of the converter, and numbers that are there twice.

What a file computes stays as it is.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from keras_rmda.export.flat import read, written


def slimmed(content: bytes) -> bytes:
    """Return a file that computes the same from fewer bytes.

    What goes: names of tensors inside and of graphs, notes of the converter, and the ranges that scales were made of.
    What is equal is written once: weights, scales, zero points, shapes. Tensors are numbered as they are used. Inputs
    and outputs are called as the signature calls them, which stays.

    Args:
        content: of a file.

    Returns:
        The content of the new file; the same one if it keeps its weights behind its tables, as those over 2 GB do.
    """
    model = read(content)
    if any(buffer.offset > 1 for buffer in model.buffers):
        return content
    model.description = model.metadata = model.metadataBuffer = None
    for graph in model.subgraphs:
        graph.name = None
        for tensor in graph.tensors:
            tensor.name = None
            if tensor.quantization is not None:
                tensor.quantization = slim_quantization(tensor.quantization)
    for signature in model.signatureDefs or ():
        tensors = model.subgraphs[signature.subgraphIndex].tensors
        for each in [*(signature.inputs or ()), *(signature.outputs or ())]:
            tensors[each.tensorIndex].name = each.name
    renew_selections(model)
    put_in_order(model)
    share_buffers(model)
    return written(model, len(content))


def slim_quantization(parameters: Any) -> Any:
    """Return the scales of a tensor without the ranges that they were made of; None if there are none."""
    parameters.min = parameters.max = None
    has_scales = parameters.scale is not None and len(parameters.scale) > 0
    return parameters if has_scales or parameters.details is not None else None


def renew_selections(model: Any) -> None:
    """Let selections of tensors of one shape be of the newer kind, which microcontrollers have alone."""
    from ai_edge_litert import schema_py_generated as schema

    kinds = schema.BuiltinOperator
    codes = {k for k, each in enumerate(model.operatorCodes) if each.builtinCode == kinds.SELECT}
    found = [(graph, each) for graph in model.subgraphs for each in graph.operators or () if each.opcodeIndex in codes]
    if not all(len({shape_of(graph, k) for k in each.inputs}) == 1 for graph, each in found):
        return
    for k in codes:
        code = model.operatorCodes[k]
        code.builtinCode, code.deprecatedBuiltinCode = kinds.SELECT_V2, kinds.SELECT_V2
    for _, each in found:
        each.builtinOptions, each.builtinOptionsType = schema.SelectV2OptionsT(), schema.BuiltinOptions.SelectV2Options


def shape_of(graph: Any, number: int) -> tuple[int, ...]:
    """Return the shape of a tensor; open axes are negative."""
    tensor = graph.tensors[number]
    shape = tensor.shapeSignature if tensor.shapeSignature is not None else tensor.shape
    return () if shape is None else tuple(map(int, shape))


def put_in_order(model: Any) -> None:
    """Number the tensors in the order in which they are used, so that it does not depend on their sizes or types."""
    for index, graph in enumerate(model.subgraphs):
        operators = graph.operators or ()
        vectors = [graph.inputs, *(x for each in operators for x in (each.inputs, each.outputs))]
        used = [int(k) for x in vectors if x is not None for k in x if k >= 0]
        order = list(dict.fromkeys([*used, *range(len(graph.tensors))]))
        place = np.empty(len(order) + 1, "int32")
        place[order], place[-1] = np.arange(len(order)), -1  # which stands for an input that is not given
        graph.tensors = [graph.tensors[k] for k in order]
        for each in (graph, *operators):
            for kind in ("inputs", "outputs", "intermediates"):
                numbers = getattr(each, kind, None)
                if numbers is not None and len(numbers):
                    setattr(each, kind, place[np.asarray(numbers)])
        for signature in model.signatureDefs or ():
            for each in [*(signature.inputs or ()), *(signature.outputs or ())]:
                if signature.subgraphIndex == index:
                    each.tensorIndex = int(place[each.tensorIndex])


def share_buffers(model: Any) -> None:
    """Keep the buffers that are used, equal ones once; what is computed has buffer 0, as the format wants."""
    buffers, places = [type(model.buffers[0])()], {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            buffer = model.buffers[tensor.buffer]
            if buffer.data is None or len(buffer.data) == 0:
                tensor.buffer = 0
                continue
            key = hashlib.sha256(buffer.data).digest()
            if key not in places:
                places[key] = len(buffers)
                buffers.append(buffer)
            tensor.buffer = places[key]
    model.buffers = buffers
