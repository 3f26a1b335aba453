"""The names of a file's inputs and outputs, and their order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_rmda.export.flat import read, written

KEY = "serving_default"
"""What a signature is called if it is the only one."""


def signed(content: bytes, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """Return a file with inputs and outputs of these names, in this order.

    Args:
        content: of a file of the converter, in this order or with the numbered names of a saved model.
        inputs, outputs: their names.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = read(content)
    sign(schema, model, inputs, outputs)
    return written(model, len(content))


def sign(schema: Any, model: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Give a file that is read into objects a signature with these names."""
    graph, known = model.subgraphs[0], (model.signatureDefs or [None])[0]
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = KEY, 0
    for kind, names in (("inputs", inputs), ("outputs", outputs)):
        numbers = [int(number) for number in getattr(graph, kind)]
        if known is not None:
            numbers = [each.tensorIndex for each in sorted(getattr(known, kind), key=_number)]
        setattr(graph, kind, numbers)
        setattr(signature, kind, [_mapped(schema, name, number) for name, number in zip(names, numbers, strict=True)])
    model.signatureDefs = [signature]


def _number(mapped: Any) -> int:
    return int(mapped.name.decode().rpartition("_")[2])


def _mapped(schema: Any, name: str, number: int) -> Any:
    result = schema.TensorMapT()
    result.name, result.tensorIndex = name, number
    return result
