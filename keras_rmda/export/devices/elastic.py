"""A `.tflite` file of a model at any widths, known from some of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_rmda.channels.sites import Cut
from keras_rmda.export.contents import Contents, contents_of
from keras_rmda.export.devices.constants import constants_of, merge_constants
from keras_rmda.export.devices.operators import Kind, described, pattern_of
from keras_rmda.export.devices.probes import Layers, probed
from keras_rmda.export.devices.sizes import Size, Sizes, known_by
from keras_rmda.export.flat import written
from keras_rmda.export.slim import share_buffers
from keras_rmda.structure.trace import Trace

SMALLEST_DYNAMIC = 1024
"""How many numbers a weight must have for the converter to make integers of it with quantization="dynamic"."""


class UnknownSizeError(ValueError):
    """A file has a number that no size of the model explains."""


class Elastic:
    """The file that `export_tflite` would write of a model, at any widths.

    The converter makes files at a few random widths. What a number of the file depends on, such as a size of a
    tensor, is then told by its values in these: no other axis of the model has the same ones.

    Args:
        model: the model.
        graph: the same with a graph.
        traced: its trace.
        export: arguments of `export_tflite`.

    Attributes:
        shapes: by number of the graph and of the tensor, its sizes.
        names: what operators of the main graph make is called, by which one sees the layer that they are of.

    Raises:
        UnknownSizeError: if a number of the file is not explained, or the file has other operators at other widths.
    """

    def __init__(self, model: keras.Model, graph: keras.Model, traced: Trace, export: Mapping[str, Any]):
        self._is_dynamic = export.get("quantization") == "dynamic"
        self.layers = Layers.of(traced)
        cuts, files, names = zip(*probed(model, graph, self.layers, export))
        self._model, self.names = files[0], names[0]
        self._constants = constants_of(self._model)
        self.sizes = Sizes(traced)
        seen = [self.sizes.of(cut) for cut in cuts]
        tell = known_by(self.sizes, seen)
        self.whole = seen[0]

        def told(values: tuple, where: str) -> Size | int:
            size = tell(tuple(int(value) for value in values))
            if size is None:
                raise UnknownSizeError(
                    f"{where} of the file of {model.name!r} has sizes that none of the model explains: "
                    f"{[int(value) for value in values]} at four choices of widths. Measure another metric, such as "
                    "'macs'."
                )
            return size

        self.shapes: dict[tuple[int, int], list[Size | int]] = {}
        self._numbers: dict[tuple[int, int], list[Size | int]] = {}
        self._reshapes: dict[tuple[int, int], list[Size | int]] = {}
        for g, graphs in enumerate(zip(*(each.subgraphs for each in files), strict=True)):
            self._check_alike(model, files, graphs)
            for t, tensors in enumerate(zip(*(each.tensors for each in graphs), strict=True)):
                where = f"Tensor {t}"
                shapes = [() if each.shape is None else tuple(each.shape) for each in tensors]
                self.shapes[g, t] = [told(values, where) for values in zip(*shapes, strict=True)]
                data = [integers(file, tensor) for file, tensor in zip(files, tensors)]
                if data[0] is not None and any(len(each) != len(data[0]) or (each != data[0]).any() for each in data):
                    self._numbers[g, t] = [told(values, where) for values in zip(*data, strict=True)]
            for o, operators in enumerate(zip(*(each.operators for each in graphs))):
                news = [getattr(each.builtinOptions, "newShape", None) for each in operators]
                if news[0] is not None:
                    self._reshapes[g, o] = [told(values, f"Operator {o}") for values in zip(*news, strict=True)]

        self.kinds, self.widths = zip(*(self._kind(each) for each in self._model.subgraphs[0].operators))

    def _kind(self, operator: Any) -> tuple[Kind, list[Size]]:
        """Return what an operator of the main graph is, and its widths."""
        used = [int(k) for k in (*operator.inputs, *operator.outputs) if k >= 0]
        shapes, widths = pattern_of([self.shapes[0, k] for k in used])
        return Kind(*described(self._model, operator), shapes), widths

    def _check_alike(self, model: keras.Model, files: tuple, graphs: tuple) -> None:
        """Refuse a model that becomes other operators at other widths."""
        kinds = [
            [file.operatorCodes[each.opcodeIndex].builtinCode for each in graph.operators or ()]
            for file, graph in zip(files, graphs)
        ]
        counts = [len(graph.tensors) for graph in graphs]
        if any(each != kinds[0] for each in kinds) or len(set(counts)) > 1:
            raise UnknownSizeError(
                f"The converter makes other operators of {model.name!r} at other widths, so that what a file costs is "
                "not known before it is written. Measure another metric, such as 'macs'."
            )

    def scaled_axis(self, number: int) -> int:
        """Return the axis along which a tensor of the main graph has scales."""
        return self._model.subgraphs[0].tensors[number].quantization.quantizedDimension

    def contents(self, counts: np.ndarray) -> Contents:
        """Return what is in the file where so much stays of every axis, without the values of weights."""
        model = self._resized(counts, has_values=False)
        merge_constants(model, self._constants)
        return contents_of(model, Path(), 0)

    def numbered(self, counts: np.ndarray) -> Contents:
        """Return the same with tensors that are numbered as in `shapes`: a constant is there for each use."""
        return contents_of(self._resized(counts, has_values=False), Path(), 0)

    def at(self, counts: np.ndarray) -> Any:
        """Return the file where so much stays of every axis, as objects, with random weights."""
        model = self._resized(counts, has_values=True)
        merge_constants(model, self._constants)
        share_buffers(model)
        return model

    def content(self, cut: Cut) -> bytes:
        """Return the file where this stays, with random weights."""
        return written(self.at(self.sizes.of(cut)), 0)

    def bytes(self, cut: Cut) -> int:
        """Return the size of the file where this stays."""
        return len(self.content(cut))

    def _resized(self, counts: np.ndarray, has_values: bool) -> Any:
        """Return the file as objects; without values, weights are vectors of zeros that take no memory."""
        model = shallow(self._model)
        for g, graph in enumerate(model.subgraphs):
            for t, tensor in enumerate(graph.tensors):
                old = () if tensor.shape is None else tuple(int(n) for n in tensor.shape)
                new = evaluated(self.shapes[g, t], counts)
                buffer = model.buffers[tensor.buffer]
                if (g, t) in self._numbers:
                    values = np.array(evaluated(self._numbers[g, t], counts), integer_type(tensor))
                    tensor.buffer = len(model.buffers)
                    model.buffers.append(with_data(buffer, values))
                    if new != old:
                        tensor.shape = np.array(new, "int32")
                elif new != old:
                    tensor.shape = np.array(new, "int32")
                    if tensor.shapeSignature is not None:
                        is_open = np.array(tensor.shapeSignature) < 0
                        tensor.shapeSignature = np.where(is_open, -1, tensor.shape).astype("int32")
                    tensor.quantization = resized_quantization(tensor.quantization, new)
                    if tensor.buffer:
                        tensor.buffer = len(model.buffers)
                        model.buffers.append(resized_buffer(buffer, old, new, has_values))
                        if self._is_dynamic and np.prod(new) < SMALLEST_DYNAMIC:
                            make_float(tensor, model.buffers[-1])
            for o, operator in enumerate(graph.operators or ()):
                if (g, o) in self._reshapes:
                    operator.builtinOptions = copy.copy(operator.builtinOptions)
                    operator.builtinOptions.newShape = np.array(evaluated(self._reshapes[g, o], counts), "int32")
        return model


def evaluated(shape: list[Size | int], counts: np.ndarray) -> tuple[int, ...]:
    """Return the sizes of a tensor where so much stays of every axis."""
    return tuple(value_of(size, counts) for size in shape)


def value_of(size: Size | int, counts: np.ndarray) -> int:
    """Return a number of a file where so much stays of every axis."""
    if isinstance(size, int):
        return size
    value = size.factor
    for k in size.counts:
        value = value * int(counts[k])
    return int(Fraction(value))


def shallow(model: Any) -> Any:
    """Return a copy of a file whose parts may be replaced."""
    result = copy.copy(model)
    result.buffers = list(model.buffers)
    result.signatureDefs = copy.deepcopy(model.signatureDefs)
    result.subgraphs = [copy.copy(each) for each in model.subgraphs]
    for graph in result.subgraphs:
        graph.tensors = [copy.copy(each) for each in graph.tensors]
        graph.operators = [copy.copy(each) for each in graph.operators or ()]
    return result


def with_data(buffer: Any, values: np.ndarray) -> Any:
    """Return a buffer with other numbers."""
    result = copy.copy(buffer)
    result.data = values.reshape(-1).view("uint8")
    return result


def resized_buffer(buffer: Any, old: tuple[int, ...], new: tuple[int, ...], has_values: bool) -> Any:
    """Return a buffer of a tensor of other sizes, with numbers of the old one."""
    size = len(buffer.data) // max(int(np.prod(old)), 1)
    if not has_values:
        return with_data(buffer, np.broadcast_to(np.zeros(1, "uint8"), (size * int(np.prod(new)),)))
    values = np.asarray(buffer.data).reshape(*old, size)
    return with_data(buffer, np.ascontiguousarray(values[tuple(slice(n) for n in new)]))


def resized_quantization(parameters: Any, new: tuple[int, ...]) -> Any:
    """Return scales for an axis of another size."""
    if parameters is None or parameters.scale is None or len(parameters.scale) < 2:
        return parameters
    result, n = copy.copy(parameters), new[parameters.quantizedDimension]
    result.scale, result.zeroPoint = parameters.scale[:n], parameters.zeroPoint[:n]
    return result


def make_float(tensor: Any, buffer: Any) -> None:
    """Let a weight of integers be one of float32, as the converter leaves small ones."""
    from ai_edge_litert import schema_py_generated as schema

    if tensor.type == schema.TensorType.INT8:
        tensor.type, tensor.quantization = schema.TensorType.FLOAT32, None
        buffer.data = buffer.data.view("int8").astype("float32").view("uint8")


def integer_type(tensor: Any) -> str:
    """Return the type of a tensor of sizes, "" for one of others."""
    from ai_edge_litert import schema_py_generated as schema

    return {schema.TensorType.INT32: "int32", schema.TensorType.INT64: "int64"}.get(tensor.type, "")


def integers(model: Any, tensor: Any) -> np.ndarray | None:
    """Return the numbers of a stored tensor of sizes; None for others, such as biases of integers."""
    data, kind = model.buffers[tensor.buffer].data, integer_type(tensor)
    is_bias = tensor.quantization is not None and tensor.quantization.scale is not None
    return None if data is None or len(data) == 0 or not kind or is_bias else np.asarray(data).view(kind)
