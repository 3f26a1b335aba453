"""Reading `.tflite` files into objects and writing them, by LiteRT's own schema."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

ALIGNMENT = 16
"""Of weights in a file, as the schema wants it: kernels read them where they are."""


def read(content: bytes) -> Any:
    """Return a file as objects of the schema."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    model.operatorCodes = model.operatorCodes or []  # which LiteRT wants, and an empty vector is read as None
    return model


def written(model: Any, size: int = 0) -> bytes:
    """Return the content of a file that is given as objects; equal vectors are written once.

    Args:
        model: the file.
        size: about how many bytes it has.
    """
    builder = _builder()(size)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _builder() -> type:
    """Return a writer that writes equal vectors once, and aligns weights, which that of Python does not."""
    import flatbuffers

    class Builder(flatbuffers.Builder):
        def __init__(self, size: int):
            super().__init__(size)
            self.done: dict[Any, int] = {}

        def CreateNumpyVector(self, x: np.ndarray) -> int:
            key = (x.dtype.str, hashlib.sha256(np.ascontiguousarray(x)).digest())
            if key not in self.done:
                self.done[key] = super().CreateNumpyVector(x)
            return self.done[key]

        def CreateString(self, s: Any, *arguments: Any) -> int:
            if s not in self.done:
                self.done[s] = super().CreateString(s, *arguments)
            return self.done[s]

        def StartVector(self, elemSize: int, numElems: int, alignment: int) -> int:
            return super().StartVector(elemSize, numElems, ALIGNMENT if elemSize == 1 else alignment)

    return Builder
