"""Single operators of a file: what one is called in a profile, and a file of it alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_rmda.export.devices.laws import Pattern
from keras_rmda.export.flat import written
from keras_rmda.export.slim import share_buffers

STORED = " stored"
"""What follows the type of a weight."""


@dataclass(frozen=True)
class Kind:
    """An operator, whatever its widths are.

    Attributes:
        name: "CONV_2D", ...
        options: its options, as words.
        types: of its inputs and outputs.
        shapes: of these; widths are letters.
    """

    name: str
    options: str
    types: tuple[str, ...]
    shapes: Pattern

    @property
    def letters(self) -> tuple[str, ...]:
        """The letters of its widths, in the order in which they come."""
        return tuple(dict.fromkeys(n for shape in self.shapes for n in shape if isinstance(n, str)))

    @property
    def weights(self) -> Pattern:
        """The shapes of its inputs that are stored in the file."""
        return tuple(shape for shape, each in zip(self.shapes, self.types) if each.endswith(STORED))

    def widths(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
        """Return the widths at which this operator has these shapes; None if it has them nowhere."""
        found: dict[str, int] = {}
        for pattern, shape in zip(self.shapes, shapes):
            if len(pattern) != len(shape):
                return None
            for n, size in zip(pattern, shape):
                if (found.setdefault(n, size) if isinstance(n, str) else n) != size:
                    return None
        return tuple(found[letter] for letter in self.letters)


def described(model: Any, operator: Any) -> tuple[str, str, tuple[str, ...]]:
    """Return the name, the options and the types of an operator of a file that is given as objects."""
    from ai_edge_litert import schema_py_generated as schema

    code = model.operatorCodes[operator.opcodeIndex]
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    types = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    name = code.customCode.decode() if code.customCode else names[max(code.builtinCode, code.deprecatedBuiltinCode)]
    options = vars(operator.builtinOptions) if operator.builtinOptions is not None else {}
    words = ", ".join(f"{key}={value}" for key, value in sorted(options.items()) if np.ndim(value) == 0)
    tensors = model.subgraphs[0].tensors
    used = [tensors[int(k)] for k in (*operator.inputs, *operator.outputs) if k >= 0]
    return name, words, tuple(types[each.type] + (STORED if is_stored(model, each) else "") for each in used)


def is_stored(model: Any, tensor: Any) -> bool:
    """Return whether a file has the numbers of a tensor: TensorFlow's converter gives a buffer to every tensor."""
    buffer = model.buffers[tensor.buffer]
    return (buffer.data is not None and len(buffer.data) > 0) or getattr(buffer, "offset", 0) > 1


def shapes_of(model: Any, operator: Any) -> list[tuple[int, ...]]:
    """Return the shapes of the inputs and outputs of an operator of a file that is given as objects."""
    tensors = [model.subgraphs[0].tensors[int(k)] for k in (*operator.inputs, *operator.outputs) if k >= 0]
    return [() if each.shape is None else tuple(int(n) for n in each.shape) for each in tensors]


def pattern_of(shapes: Sequence[Sequence[Any]]) -> tuple[Pattern, list[Any]]:
    """Return shapes with a letter in the place of every size that varies, and these sizes in the order of letters."""
    sizes = list(dict.fromkeys(n for shape in shapes for n in shape if not isinstance(n, int)))
    letter = {size: chr(ord("a") + k) if k < 26 else f"a{k}" for k, size in enumerate(sizes)}
    return tuple(tuple(n if isinstance(n, int) else letter[n] for n in shape) for shape in shapes), sizes


def inner_graphs(model: Any, operator: Any) -> list[Any]:
    """Return the graphs that an operator may run, such as a loop: all but the main one, or none."""
    calls = operator.builtinOptions is not None and any("ubgraph" in name for name in vars(operator.builtinOptions))
    return model.subgraphs[1:] if calls else []


def alone(model: Any, operator: Any) -> bytes:
    """Return a file with only one operator of the main graph of a file that is given as objects."""
    whole = model.subgraphs[0]
    operator, graph = copy.copy(operator), copy.copy(whole)
    used = list(dict.fromkeys(int(k) for k in (*operator.inputs, *operator.outputs) if k >= 0))
    place = {old: new for new, old in enumerate(used)} | {-1: -1}
    graph.tensors = [copy.copy(whole.tensors[k]) for k in used]
    operator.inputs = np.array([place[int(k)] for k in operator.inputs], "int32")
    operator.outputs = np.array([place[int(k)] for k in operator.outputs], "int32")
    is_given = [k for k, tensor in enumerate(graph.tensors) if not tensor.buffer]
    graph.inputs = np.array([k for k in is_given if k not in operator.outputs], "int32")
    graph.outputs, graph.operators = operator.outputs, [operator]
    result = copy.copy(model)
    result.subgraphs, result.signatureDefs = [graph, *map(with_own_tensors, inner_graphs(model, operator))], None
    share_buffers(result)
    return written(result, 0)


def with_own_tensors(graph: Any) -> Any:
    """Return a copy of a graph whose tensors may be given other buffers."""
    result = copy.copy(graph)
    result.tensors = [copy.copy(each) for each in graph.tensors]
    return result
