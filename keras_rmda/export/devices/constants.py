"""Constants that the converter writes once where they are equal, which depends on widths.

The first states of two recurrent layers are one tensor of zeros if the layers are equally wide, and two if not. A file
that is known at any widths has one for each use.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from keras_rmda.export.slim import put_in_order

Constants = list[dict[int, bytes]]
"""For each graph of a file, by number of a tensor, the number that a constant is full of; nothing if it is of sizes."""


def constants_of(model: Any) -> Constants:
    """Return the constants of a file that is given as objects: numbers of the program, which are no weights."""
    return [
        {k: each for k, tensor in enumerate(graph.tensors) if (each := number_of(model, tensor)) is not None}
        for graph in model.subgraphs
    ]


def number_of(model: Any, tensor: Any) -> bytes | None:
    """Return the number that a stored tensor is full of, b"" for one of sizes, None for all others."""
    from ai_edge_litert import schema_py_generated as schema

    data = model.buffers[tensor.buffer].data
    is_rounded = tensor.quantization is not None and tensor.quantization.scale is not None
    if data is None or len(data) == 0 or is_rounded:
        return None
    if tensor.type in (schema.TensorType.INT32, schema.TensorType.INT64):
        return b""
    count = 1 if tensor.shape is None else max(int(np.prod(tensor.shape)), 1)
    values = np.asarray(data).reshape(count, -1)
    return values[0].tobytes() if (values == values[0]).all() else None


def split_constants(model: Any) -> Any:
    """Give every use of a constant a tensor of its own, in a file that is given as objects; return it."""
    for graph, constants in zip(model.subgraphs, constants_of(model)):
        seen: set[int] = set()
        for operator in graph.operators or ():
            numbers = [int(k) for k in operator.inputs]
            for place, k in enumerate(numbers):
                if k in constants and k in seen:
                    graph.tensors.append(copy.copy(graph.tensors[k]))
                    numbers[place] = len(graph.tensors) - 1
                seen.add(k)
            operator.inputs = np.array(numbers, "int32")
    put_in_order(model)
    return model


def merge_constants(model: Any, constants: Constants) -> None:
    """Keep equal constants once, as the converter does, in a file that is given as objects."""
    for graph, mine in zip(model.subgraphs, constants):
        first: dict[tuple, int] = {}
        place = np.append(np.arange(len(graph.tensors)), -1)  # which stands for an input that is not given
        for k, number in mine.items():
            tensor = graph.tensors[k]
            sizes = b"" if number else np.asarray(model.buffers[tensor.buffer].data).tobytes()
            shape = () if tensor.shape is None else tuple(tensor.shape)
            place[k] = first.setdefault((tensor.type, shape, number, sizes), k)
        gone = {id(graph.tensors[k]) for k in mine if place[k] != k}
        for operator in graph.operators or ():
            operator.inputs = place[np.asarray(operator.inputs, int)].astype("int32")
        put_in_order(model)
        graph.tensors = [each for each in graph.tensors if id(each) not in gone]
