"""Layers copied as objects: no constructor runs, every weight becomes a new one, functions stay what they are.

Reads and writes attributes of Keras's own classes: which calls a layer remembers, and what its trackers have seen.
Checked with Keras 3.8 and 3.15.
"""

from __future__ import annotations

import builtins
import inspect
import io
import pickle
import types
from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras.src.ops.function import make_node_key
from keras.src.ops.node import KerasHistory
from keras.src.saving.keras_saveable import KerasSaveable
from keras.src.utils import tracking
from keras.src.utils.backend_utils import DynamicBackend
from keras.src.utils.module_utils import LazyModule

from keras_rmda.platform.copying.functions import WRAPPERS, is_function, names_in, reached

TRACKED = tuple(
    getattr(tracking, name)
    for name in ("TrackedList", "TrackedDict", "TrackedOrderedDict", "TrackedSet")
    if hasattr(tracking, name)
)
"""Containers by which layers learn of layers and weights inside."""

STAYING = (type, types.ModuleType, types.BuiltinFunctionType, inspect.Signature, LazyModule, DynamicBackend)
"""What nobody changes."""

FORGOTTEN = {
    **dict.fromkeys(("_inbound_nodes", "_outbound_nodes", "_losses", "_losses_override"), list),
    **dict.fromkeys(("train_function", "test_function", "predict_function"), type(None)),
    "_loss_ids": set,
}
"""What a copy begins without: the calls that its layer remembers, losses of its last call, compiled functions."""


class _Reference:
    """Something that goes into a copy as it is; `pickle` wants some of it to be callable."""

    def __init__(self, value: Any):
        self.value = value

    def __call__(self) -> Any:
        return self.value


class Duplicate:
    """One copy of objects that may hold each other.

    Args:
        known: by `id`, what stands for objects in the copy.
        owned: the `id` of layers and weights that a function must not lead to in the copy.
        stand_in: returns what stands for a function; the weights stay the same then. None for a real copy.
    """

    def __init__(self, known: Mapping[int, Any], owned: set[int], stand_in: Callable[[Any], Any] | None = None):
        self.known, self.owned, self.stand_in = known, owned, stand_in
        self.objects: dict[int, Any] = {}
        self.shared: list[Any] = []

    def of(self, x: Any) -> Any:
        """Return the copy of an object; what was made with it is in `objects`, by `id` of the original."""
        file = io.BytesIO()
        _Pickler(file, self).dump(x)
        file.seek(0)
        result = _Unpickler(file, self).load()
        _complete([new for new in self.objects.values() if isinstance(new, KerasSaveable)])
        return result

    def reference(self, x: Any) -> int:
        """Return a number that stands for an object in the data."""
        self.shared.append(x)
        return len(self.shared) - 1

    def stays(self, x: Any) -> bool:
        """Return whether an object goes into the copy as it is."""
        if isinstance(x, keras.Variable):
            return self.stand_in is not None
        if isinstance(x, STAYING):
            return True
        if isinstance(x, types.MethodType) or is_function(x):
            return next(reached(x, self.owned), None) is None
        return keras.backend.backend() != "torch" and keras.ops.is_tensor(x)

    def blank(self, layer: Any) -> Any:
        """Return a new object of a class of Keras, without attributes."""
        self.objects[id(layer)] = new = type(layer).__new__(type(layer))
        return new

    def variable(self, variable: keras.Variable) -> keras.Variable:
        """Return a new weight with the value of another."""
        new = keras.Variable(
            lambda shape, dtype: keras.ops.copy(variable.value),
            shape=tuple(variable.shape),
            dtype=variable._dtype,
            trainable=variable.trainable,
            autocast=variable._autocast,
            aggregation=variable.aggregation,
            name=variable.name,
        )
        self.objects[id(variable)] = new
        return new


class _Pickler(pickle.Pickler):
    """Writes objects with references to what stays, and weights and layers as what makes new ones."""

    def __init__(self, file: io.BytesIO, duplicate: Duplicate):
        super().__init__(file, protocol=5)
        self.duplicate = duplicate

    def persistent_id(self, x: Any) -> int | None:
        duplicate = self.duplicate
        if isinstance(x, str | int | float | list | tuple | dict | set | None):
            return None
        if isinstance(x, _Reference):
            return duplicate.reference(x.value)
        if id(x) in duplicate.known:
            return duplicate.reference(duplicate.known[id(x)])
        if duplicate.stand_in is not None and is_function(x):
            return duplicate.reference(duplicate.stand_in(x))
        return duplicate.reference(x) if duplicate.stays(x) else None

    def reducer_override(self, x: Any) -> Any:
        """Return what makes the copy of an object: a function, its arguments, a state, and what fills it in."""
        if isinstance(x, keras.Variable):
            kept = {key: getattr(x, key) for key in ("_path", "_regularizer", "_constraint") if hasattr(x, key)}
            return self.made(self.duplicate.variable, (_Reference(x),), kept, _fill)
        if isinstance(x, (KerasSaveable, keras.Operation)):  # Keras 3.8 has operations that are not saveable
            return self.made(self.duplicate.blank, (_Reference(x),), _state(x), _fill)
        if isinstance(x, TRACKED):
            plain = next(kind for kind in (list, set, dict) if isinstance(x, kind))
            return self.made(_empty, (type(x),), (plain(x), vars(x)), _fill_container)
        if isinstance(x, types.CellType):
            return self.made(types.CellType, (), x.cell_contents, _fill_cell)
        if isinstance(x, types.FunctionType):
            found = {name: x.__globals__[name] for name in names_in(x.__code__) if name in x.__globals__}
            leads = any(next(reached(each, self.duplicate.owned), None) is not None for each in found.values())
            world = x.__globals__ | {"__builtins__": builtins} if leads else x.__globals__
            arguments = (_Reference(x), _Reference(world), found if leads else {}, x.__closure__)
            return self.made(_function, arguments, (x.__defaults__, x.__kwdefaults__, vars(x)), _fill_function)
        if isinstance(x, types.MethodType):
            return _Reference(types.MethodType), (_Reference(x.__func__), x.__self__)
        return NotImplemented

    def made(self, make: Callable, arguments: tuple, state: Any, fill: Callable) -> tuple:
        return _Reference(make), arguments, state, None, None, _Reference(fill)


class _Unpickler(pickle.Unpickler):
    """Reads what `_Pickler` has written."""

    def __init__(self, file: io.BytesIO, duplicate: Duplicate):
        super().__init__(file)
        self.persistent_load = duplicate.shared.__getitem__


def _state(x: KerasSaveable) -> dict[str, Any]:
    """Return the attributes of a layer, operation or metric that its copy gets."""
    kept = {key: value for key, value in vars(x).items() if key not in WRAPPERS or not is_function(value)}
    return {key: FORGOTTEN[key]() if key in FORGOTTEN else value for key, value in kept.items()}


def _fill(new: Any, state: dict[str, Any]) -> None:
    vars(new).update(state)


def _empty(kind: type) -> Any:
    new = kind.__new__(kind)
    new.tracker = None
    return new


def _fill_container(new: Any, state: tuple) -> None:
    (new.extend if isinstance(new, list) else new.update)(state[0])
    vars(new).update(state[1])


def _fill_cell(new: types.CellType, content: Any) -> None:
    new.cell_contents = content


def _function(old: types.FunctionType, world: dict, found: dict, closure: tuple | None) -> types.FunctionType:
    world.update(found)
    return types.FunctionType(old.__code__, world, old.__name__, None, closure)


def _fill_function(new: types.FunctionType, state: tuple) -> None:
    new.__defaults__, new.__kwdefaults__ = state[:2]
    vars(new).update(state[2])


def _complete(objects: list) -> None:
    """Give new layers and metrics what holds numbers of objects: trackers and graphs."""
    for each in objects:
        tracker = getattr(each, "_tracker", None)
        if tracker is not None:
            stores = {name: store for name, (_, store) in tracker.config.items()}
            tracker.stored_ids = {name: {id(x) for x in store} for name, store in stores.items()}
    graphs = [each for each in objects if "_nodes_by_depth" in vars(each)]
    nodes = {id(node): node for graph in graphs for each in graph._nodes_by_depth.values() for node in each}
    for node in sorted(nodes.values(), key=lambda node: node.outputs[0]._keras_history.node_index):
        calls = node.operation._inbound_nodes
        for tensor in node.outputs:
            tensor._keras_history = KerasHistory(node.operation, len(calls), tensor._keras_history.tensor_index)
        calls.append(node)
    for node in nodes.values():
        for tensor in node.arguments.keras_tensors:
            tensor._keras_history.operation._outbound_nodes.append(node)
    for graph in graphs:
        graph._nodes = {
            make_node_key(node.operation, node.operation._inbound_nodes.index(node))
            for each in graph._nodes_by_depth.values()
            for node in each
        }
