"""What is in a `.tflite` file: operators, tensors, and the memory that a run needs."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_rmda.export.fitness import unfit
from keras_rmda.export.flat import read
from keras_rmda.export.micro import buffers, persistent_bytes, planned
from keras_rmda.export.operations import multiply_accumulates
from keras_rmda.platform import checks
from keras_rmda.structure.pictures import table


@dataclass(frozen=True)
class FileTensor:
    """A tensor of a file.

    Attributes:
        name: its name.
        shape: its shape; an open axis counts as 1.
        dtype: "FLOAT32", "INT8", ...
        bytes: of its values in memory.
        stored: bytes of its values in the file, 0 if it is computed.
        channels: how many scales it is quantized with, 0 for none.
        open_axes: the axes whose size is open.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    stored: int
    channels: int
    open_axes: tuple[int, ...] = ()


@dataclass(frozen=True)
class FileOperator:
    """An operator of a file.

    Attributes:
        name: "CONV_2D", ...; of a custom operator its own.
        inputs, outputs: numbers of tensors.
    """

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class FileGraph:
    """A graph of a file: the main one, or what a loop or a branch runs.

    Attributes:
        operators: in order of execution.
        tensors: all tensors.
        inputs, outputs: numbers of tensors.
    """

    operators: tuple[FileOperator, ...]
    tensors: tuple[FileTensor, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Contents(FileGraph):
    """What is in a file: its main graph, and those inside.

    Attributes:
        path: the file.
        bytes: its size.
        signatures: names of inputs and outputs, by the name of the signature.
        inner: the graphs that operators of the main one run.
    """

    path: Path
    bytes: int
    signatures: dict[str, tuple[tuple[str, ...], tuple[str, ...]]]
    inner: tuple[FileGraph, ...]

    @property
    def operator_counts(self) -> dict[str, int]:
        """How many operators there are of each name."""
        return dict(Counter(operator.name for operator in self.operators))

    @property
    def not_micro(self) -> tuple[str, ...]:
        """What TensorFlow Lite for Microcontrollers does not run: operators, with types where it has others."""
        return tuple(sorted({reason for graph in (self, *self.inner) for reason in unfit(graph)}))

    def made_by(self, number: int, through: tuple[str, ...]) -> str:
        """Return the operator that a tensor is made by, before those named in `through`; "" for an input."""
        for operator in reversed(self.operators):
            if number in operator.outputs:
                return self.made_by(operator.inputs[0], through) if operator.name in through else operator.name
        return ""

    @property
    def arena_bytes(self) -> int:
        """The tensor arena that TensorFlow Lite for Microcontrollers needs, within some hundred bytes.

        Operators that ask for memory of their own beyond their tensors need more.
        """
        return planned(buffers(self)) + persistent_bytes(self)

    def rows(self) -> list[dict[str, Any]]:
        """Return one flat dictionary for each operator; a constant counts for the first that reads it."""
        rows, seen = [], set()
        for operator in self.operators:
            constants = {number for number in operator.inputs if number >= 0} - seen
            seen |= constants
            first = self.tensors[operator.outputs[0]] if operator.outputs else None
            shapes = [[self.tensors[k].shape for k in numbers] for numbers in (operator.inputs, operator.outputs)]
            rows.append(
                {
                    "operator": operator.name,
                    "output": "x".join(map(str, first.shape)) if first else "",
                    "dtype": first.dtype if first else "",
                    "macs": multiply_accumulates(operator.name, *shapes),
                    "stored": sum(self.tensors[number].stored for number in constants),
                }
            )
        return rows

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations of one run."""
        return sum(row["macs"] for row in self.rows())

    def to_dict(self) -> dict[str, Any]:
        """Return everything that the table shows as plain data for JSON."""
        return {
            "path": str(self.path),
            "bytes": self.bytes,
            "macs": self.macs,
            "arena_bytes": self.arena_bytes,
            "not_micro": list(self.not_micro),
            "inputs": [list(self.tensors[k].shape) for k in self.inputs],
            "outputs": [list(self.tensors[k].shape) for k in self.outputs],
            "operators": self.rows(),
        }

    def __str__(self) -> str:
        rows = [tuple(row.values()) for row in self.rows()]
        micro = "runs the file" if not self.not_micro else f"does not run: {', '.join(self.not_micro)}"
        return "\n".join(
            [
                f"{self.path}: {self.bytes:,} bytes",
                table(("operator", "output", "type", "MACs", "bytes of weights"), rows),
                f"tensor arena about {self.arena_bytes:,} bytes; TensorFlow Lite for Microcontrollers {micro}",
            ]
        )


def read_contents(path: str | Path) -> Contents:
    """Read a `.tflite` file.

    Args:
        path: the file.

    Returns:
        Its contents.

    Raises:
        ValueError: if the file is missing or no TensorFlow Lite model.

    Example:
        >>> read_contents("model.tflite").operator_counts
    """
    return parsed(content_of(path), Path(path))


def content_of(path: str | Path) -> bytes:
    """Return what is in a file; raise `ValueError` if it is missing or foreign."""
    if not Path(path).is_file():
        raise ValueError(f"There is no such file. Received: {str(path)!r}")
    content = Path(path).read_bytes()
    if content[4:8] != b"TFL3":
        raise ValueError(f"The file is no TensorFlow Lite model. Received: {str(path)!r}")
    return content


def parsed(content: bytes, path: Path) -> Contents:
    """Return the contents of what is in a file, or will be; raise `ValueError` if it is damaged."""
    try:
        result = _contents(content, path)
        result.to_dict()  # numbers and sizes that do not fit each other
    except Exception as error:  # flatbuffers raises many types for truncated files
        reason = f"{type(error).__name__}: {checks.first_line(error)}"[:200]
        raise ValueError(f"The file is damaged ({reason}). Received: {str(path)!r}") from error
    return result


def _contents(content: bytes, path: Path) -> Contents:
    return contents_of(read(content), path, len(content))


def contents_of(model: Any, path: Path, size: int) -> Contents:
    """Return the contents of a file that is given as objects, and its size."""
    from ai_edge_litert import schema_py_generated as schema

    stored = [_stored_bytes(buffer) for buffer in model.buffers]
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    dtypes = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}

    def operator_name(index: int) -> str:
        code = model.operatorCodes[index]
        if code.customCode:
            return code.customCode.decode()
        # Old files have the code in a byte, new ones in a word.
        return names[max(code.builtinCode, code.deprecatedBuiltinCode)]

    def tensor(each: schema.TensorT) -> FileTensor:
        shape = tuple(int(n) for n in each.shape) if each.shape is not None else ()
        dtype = dtypes[each.type]
        scales = [] if each.quantization is None or each.quantization.scale is None else each.quantization.scale
        count = math.ceil(math.prod(abs(n) for n in shape) * BITS.get(dtype, 32) / 8)
        signature = shape if each.shapeSignature is None else each.shapeSignature
        is_open = tuple(axis for axis, n in enumerate(signature) if n < 0)
        name = each.name.decode() if each.name else ""
        return FileTensor(name, shape, dtype, count, stored[each.buffer], len(scales), is_open)

    def graph(each: schema.SubGraphT) -> tuple:
        operators = (
            FileOperator(operator_name(one.opcodeIndex), _numbers(one.inputs), _numbers(one.outputs))
            for one in each.operators or ()
        )
        return tuple(operators), tuple(map(tensor, each.tensors)), _numbers(each.inputs), _numbers(each.outputs)

    main, *inner = map(graph, model.subgraphs)
    return Contents(
        *main,
        path,
        size,
        {
            each.signatureKey.decode(): (
                tuple(sorted(one.name.decode() for one in each.inputs or ())),
                tuple(sorted(one.name.decode() for one in each.outputs or ())),
            )
            for each in model.signatureDefs or ()
        },
        tuple(FileGraph(*each) for each in inner),
    )


BITS = {
    "FLOAT64": 64, "INT64": 64, "UINT64": 64, "COMPLEX64": 64, "COMPLEX128": 128, "FLOAT16": 16, "BFLOAT16": 16,
    "INT16": 16, "UINT16": 16, "INT8": 8, "UINT8": 8, "BOOL": 8, "INT4": 4, "UINT4": 4, "INT2": 2,
}  # fmt: skip
"""Bits of a number, 32 where the type is not named."""


def _stored_bytes(buffer: object) -> int:
    """Return the bytes of a buffer; large files keep them behind the tables."""
    return len(buffer.data) if buffer.data is not None else int(getattr(buffer, "size", 0) or 0)


def _numbers(values: object) -> tuple[int, ...]:
    return tuple(int(value) for value in values) if values is not None else ()
