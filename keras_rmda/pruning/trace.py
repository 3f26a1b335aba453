"""From a model to an integer id, an "atom", for every channel of every tensor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_rmda import _compat
from keras_rmda.channels import OPAQUE, Rule, Shape, channel_axis, is_elementwise, rule_of


class Atoms:
    """Union-find over channel ids, on arrays."""

    def __init__(self) -> None:
        self.parent = np.zeros(0, dtype=np.int64)

    def fresh(self, count: int) -> np.ndarray:
        """Return `count` new ids."""
        ids = np.arange(len(self.parent), len(self.parent) + count)
        self.parent = np.concatenate([self.parent, ids])
        return ids

    def find(self, ids: np.ndarray) -> np.ndarray:
        """Return the representative of each id."""
        while not np.array_equal(ids, self.parent[ids]):
            ids = self.parent[ids]
        return ids

    def tie(self, a: np.ndarray, b: np.ndarray) -> None:
        """Make a[k] and b[k] one atom, for every k."""
        while True:
            a, b = self.find(a), self.find(b)
            if np.array_equal(a, b):
                return
            np.minimum.at(self.parent, np.maximum(a, b), np.minimum(a, b))


@dataclass
class Call:
    """One call of one layer: a node of the graph."""

    layer: Any
    rule: Rule
    inputs: list[int]
    outputs: list[int]

    def named_weights(self) -> list[tuple[str, Any]]:
        """Return the layer's variables in its own order, each behind the name its rule has for it, or ""."""
        names = {id(getattr(self.layer, name, None)): name for name in self.rule.weights}
        return [(names.get(id(variable), ""), variable) for variable in getattr(self.layer, "weights", [])]


@dataclass
class Trace:
    """The channels of a model. Tensors are named by integers in the order of their making."""

    calls: list[Call] = field(default_factory=list)
    atoms: Atoms = field(default_factory=Atoms)
    ids: list[np.ndarray] = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=list)
    pinned: list[tuple[np.ndarray, str]] = field(default_factory=list)
    opaque: dict[str, str] = field(default_factory=dict)

    def channels(self, tensor: int, axis: int) -> np.ndarray | None:
        """Return the atoms along `axis`, or None if they also vary along another axis, or it is open."""
        return channel_vector(self.ids[tensor], self.shapes[tensor], axis)

    def input_channels(self, call: Call) -> np.ndarray | None:
        """Return the atoms that the call's layer reads or carries along its channel axis."""
        return self.channels(call.inputs[0], channel_axis(call.layer, len(self.shapes[call.inputs[0]])))

    def output_channels(self, call: Call) -> np.ndarray | None:
        """Return the atoms along the channel axis of the call's output."""
        return self.channels(call.outputs[0], channel_axis(call.layer, len(self.shapes[call.outputs[0]])))


def channel_vector(array: np.ndarray, shape: Shape, axis: int) -> np.ndarray | None:
    """Return `array`, which may vary along `axis` only, as a vector of the length shape[axis]; else None."""
    if axis >= len(shape) or shape[axis] is None or array.size != array.shape[axis]:
        return None
    return np.broadcast_to(array.reshape(-1), (shape[axis],))


def along(vector: np.ndarray, rank: int, axis: int) -> np.ndarray:
    """Return `vector` laid along `axis` of an array of `rank` axes."""
    return vector.reshape([-1 if k == axis else 1 for k in range(rank)])


def trace(model: keras.Model) -> Trace:
    """Give every channel of every tensor of a model an atom.

    Args:
        model: a built Sequential or Functional model.

    Returns:
        The trace: calls in order of execution, atoms of each tensor, pinned atoms with reasons.

    Raises:
        ValueError: if the model has no graph of layers: not built, or subclassed.
    """
    builder = Builder()
    for node in _compat.nodes(model):
        if node.is_input:
            builder.pin("model input", builder.make(node.output_tensors[0], node.operation.name))
        else:
            builder.visit(node)
    for tensor in keras.tree.flatten(model.outputs):
        builder.pin("model output", builder.tensors[id(tensor)])
    return builder.trace


class Builder:
    """Visits nodes in order of execution and fills a `Trace`."""

    def __init__(self) -> None:
        self.trace = Trace()
        self.tensors: dict[int, int] = {}
        self.first_call: dict[int, Call] = {}
        self.opaque: set[int] = set()

    def make(self, tensor: Any, name: str, ids: np.ndarray | None = None) -> int:
        """Register a tensor; without `ids` it is one atom as a whole."""
        shape = tuple(tensor.shape[1:])
        if ids is None:
            ids = self.trace.atoms.fresh(1).reshape([1] * len(shape))
        self.tensors[id(tensor)] = len(self.trace.ids)
        self.trace.ids.append(ids)
        self.trace.shapes.append(shape)
        if sum(n > 1 for n in ids.shape) > 1:
            # What is cut out along one axis must be the same for all positions of the others.
            self.pin(f"channels spread over several axes of {name}", self.tensors[id(tensor)])
        return self.tensors[id(tensor)]

    def pin(self, reason: str, *tensors: int) -> None:
        """Keep all atoms of the tensors, for a reason."""
        self.trace.pinned += [(self.trace.ids[tensor].reshape(-1), reason) for tensor in tensors]

    def visit(self, node: Any) -> None:
        """Add the call of a layer or operation."""
        layer = node.operation
        rule, why = rule_of(layer)
        call = Call(layer, rule, [self.tensors[id(t)] for t in node.input_tensors], [])
        ids = None
        if not why:
            why = "it is opaque where it is called before" if id(layer) in self.opaque else ""
        if not why:
            ids, why = getattr(self, rule.kind)(call, tuple(node.output_tensors[0].shape[1:]))
        if why:
            call.rule = OPAQUE
            self.opaque.add(id(layer))
            self.trace.opaque[layer.name] = why
            first = self.first_call.get(id(layer), call)
            self.pin(f"opaque: {layer.name}", *call.inputs, *first.inputs, *first.outputs)
        for tensor in node.output_tensors:
            call.outputs.append(self.make(tensor, layer.name, ids))
        if why or not is_elementwise(getattr(layer, "activation", None)):
            self.pin(f"opaque: {layer.name}" if why else f"mixed by the activation of {layer.name}", *call.outputs)
        self.trace.calls.append(call)

    # Each returns the atoms of the output, or None and why the layer is opaque here.

    def writes(self, call: Call, shape: Shape) -> tuple[np.ndarray | None, str]:
        """New channels; a layer that is called again writes the same ones again."""
        read = self.trace.input_channels(call)
        axis = channel_axis(call.layer, len(shape))
        if read is None or shape[axis] is None:
            return None, "its input has no single channel axis"
        first = self.first_call.setdefault(id(call.layer), call)
        if first is not call:
            self.trace.atoms.tie(read, self.trace.input_channels(first))
            return along(self.trace.output_channels(first), len(shape), axis), ""
        return along(self.trace.atoms.fresh(shape[axis]), len(shape), axis), ""

    def carries(self, call: Call, shape: Shape) -> tuple[np.ndarray | None, str]:
        """The same channels."""
        if not (call.rule.weights or call.rule.mixes_positions):
            return self.trace.ids[call.inputs[0]], ""
        carried = self.trace.input_channels(call)
        if carried is None:
            return None, "its input has no single channel axis"
        first = self.first_call.setdefault(id(call.layer), call)
        if call.rule.weights and first is not call:
            self.trace.atoms.tie(carried, self.trace.input_channels(first))
        return along(carried, len(shape), channel_axis(call.layer, len(shape))), ""

    def merges(self, call: Call, shape: Shape) -> tuple[np.ndarray | None, str]:
        """Channel k of all inputs becomes one atom."""
        arrays, shapes = [self.trace.ids[t] for t in call.inputs], [self.trace.shapes[t] for t in call.inputs]
        if any(other != shape for other in shapes):
            return None, f"it broadcasts shapes {shapes}"
        arrays = np.broadcast_arrays(*arrays)
        for other in arrays[1:]:
            self.trace.atoms.tie(arrays[0].reshape(-1), other.reshape(-1))
        return arrays[0], ""

    def moves(self, call: Call, shape: Shape) -> tuple[np.ndarray | None, str]:
        """The same atoms in another arrangement."""
        shapes = [self.trace.shapes[t] for t in call.inputs]
        moved = call.rule.move(call.layer, [self.trace.ids[t] for t in call.inputs], shapes, shape)
        return moved, "" if moved is not None else f"its input has open axes {shapes}"
