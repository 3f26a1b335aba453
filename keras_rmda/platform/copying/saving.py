"""Models that are saved and loaded where their originals are, although their layers alone would not be.

Keras 3.15 does not read back the graph of a model if a layer declares other outputs than it makes, or is called in a
model inside, too; and layers that the original's code makes may have no configuration of their own (`parts.py`).
Uses Keras's own bookkeeping of graphs and of what it has read so far. Checked with Keras 3.8 and 3.15.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
from keras.src.backend.common import global_state
from keras.src.models.functional import Functional
from keras.src.ops.function import make_node_key
from keras.src.ops.node import KerasHistory
from keras.src.saving.serialization_lib import ObjectSharingScope, get_shared_object

from keras_rmda.platform import compat, graphs
from keras_rmda.platform.copying.copies import weights_read
from keras_rmda.platform.copying.named import (
    NAMED,
    functions_called,
    longer_names,
    names_with_functions,
    note_again,
    note_functions,
    warn_of_untrue,
)
from keras_rmda.platform.copying.parts import (
    PART,
    Part,
    Sources,
    children,
    inside,
    part_for,
    paths_to,
    taking_parts,
)
from keras_rmda.platform.copying.readable import is_read_by_keras, is_suspicious
from keras_rmda.platform.tolerant import symbolic_outputs, tolerant_symbols
from keras_rmda.platform.tracing.weights import own_variables

PART_OF_FILE = {
    "module": Part.__module__,
    "class_name": Part.__name__,
    "registered_name": keras.saving.get_registered_name(Part),
}
"""What Keras reads a part by; its own function would take two parts for one if the first is gone."""

SHARED = "_is_in_several_graphs"
"""The attribute of a layer, or operation, that is called in several models inside of each other."""


@keras.saving.register_keras_serializable(package="keras_rmda")
class Rebuilt(Functional):
    """A Functional model whose file says how each layer is made again, and which layers and weights are the same."""

    def get_config(self) -> dict[str, Any]:
        """Return the configuration, in which parts of a whole are written as such, and shared layers have numbers."""
        config, functions = _configured(self.operations, super().get_config)
        _tell_parts(self.operations, config["layers"])
        return config | {"ties": ties(self), "functions": functions}

    def compute_output_spec(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        """Return symbolic tensors like the outputs, also where what a layer declares does not fit its calls."""
        return outputs_like(self, inputs)

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Rebuilt:
        """Return the model."""
        tied, names, named = config.pop("ties", []), config.pop("functions", []), names_with_functions(config)
        numbers = [each["shared_object_id"] for each in config["layers"] if "shared_object_id" in each]
        with _reading() as reading, _knowing(names), taking_parts(), tolerant_symbols():
            reading.set_aside(numbers)
            model = super().from_config(config, custom_objects)
            reading.graphs.append(model)
            reading.set_aside(numbers)
        note_again(model.operations, named)
        for places in tied:
            (_, first), *others = [_at(model, *place) for place in places]
            for layer, variable in others:
                if variable is not first:
                    compat.replace_variable(layer, variable, first)
        return model


@keras.saving.register_keras_serializable(package="keras_rmda")
class RebuiltSequential(keras.Sequential):
    """The same of a Sequential model; no layer of it is in several graphs."""

    def get_config(self) -> dict[str, Any]:
        """Return the configuration, in which parts of a whole are written as such."""
        config, functions = _configured(self.layers, super().get_config)
        _tell_parts(self.layers, [each for each in config["layers"] if each["class_name"] != "InputLayer"])
        return config | {"functions": functions}

    def compute_output_spec(self, inputs: Any, **keyword_arguments: Any) -> Any:
        """Return symbolic tensors like the outputs, also where what a layer declares does not fit its calls."""
        return outputs_like(self._functional, inputs)

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> RebuiltSequential:
        """Return the model."""
        names, named = config.pop("functions", []), names_with_functions(config)
        with _reading(), _knowing(names), taking_parts(), tolerant_symbols():
            model = super().from_config(config, custom_objects)
        note_again(model.layers, named)
        return model


def outputs_like(graph: Functional, inputs: Any) -> Any:
    """Return symbolic tensors like what a graph makes of some of any shapes, by the code of its layers."""
    with tolerant_symbols():
        return graph._run_through_graph(inputs, operation_fn=lambda each: functools.partial(symbolic_outputs, each))


def _configured(operations: list, get_config: Callable[[], dict]) -> tuple[dict[str, Any], list[str]]:
    """Return the configuration of a graph with longer names for functions where they are needed, and these names."""
    warn_of_untrue(operations)
    named = [each for each in operations if NAMED in vars(each)]
    with _without_configurations(operations), longer_names(named) as functions:
        return get_config(), sorted(functions)


def _knowing(names: list[str]) -> contextlib.AbstractContextManager:
    """Return a context in which the functions of longer names are known."""
    return keras.saving.CustomObjectScope(compat.custom_objects() | functions_called(names))


@contextlib.contextmanager
def _without_configurations(operations: list) -> Iterator[None]:
    """Let parts of a whole have an empty configuration: they have none, or one that would not be read."""
    parts = [each for each in operations if PART in vars(each) and "get_config" not in vars(each)]
    for each in parts:
        vars(each)["get_config"] = dict
    try:
        yield
    finally:
        for each in parts:
            del vars(each)["get_config"]


def _tell_parts(operations: list, entries: list[dict]) -> None:
    """Write down which operations of a graph are parts of a whole, and which are in several graphs."""
    for operation, entry in zip(operations, entries, strict=True):
        if PART in vars(operation):
            entry.update(PART_OF_FILE, config=_as_it_is(operation).get_config())
        if SHARED in vars(operation):
            entry["shared_object_id"] = id(operation)


def ties(model: keras.Model) -> list[list[tuple[list, int]]]:
    """Return, for each weight that several layers have as their own, the paths to them, and which it is of theirs."""
    places: dict[int, list] = {}
    seen: set[int] = set()

    def walk(layer: Any, path: list) -> None:
        if id(layer) not in seen:
            seen.add(id(layer))
            for k, variable in enumerate(own_variables(layer)):
                places.setdefault(id(variable), []).append((path, k))
            for key, each in _named(layer).items():
                walk(each, [*path, key])

    walk(model, [])
    return [each for each in places.values() if len(each) > 1]


def _named(layer: Any) -> dict[Any, Any]:
    """Return the layers that a layer holds, by numbers; those of a graph by names, since Keras sorts them."""
    found = children(layer)
    return {each.name: each for each in found} if graphs.is_inner_graph(layer) else dict(enumerate(found))


def _at(layer: Any, path: list, number: int) -> tuple[Any, keras.Variable]:
    for key in path:
        layer = _named(layer)[key]
    return layer, own_variables(layer)[number]


def _as_it_is(layer: Any) -> Part:
    """Return the part of a whole that a layer is, with what may have changed."""
    part = vars(layer)[PART]
    shared = [(path, inside(layer, path)) for path, *_ in part.shared]
    numbers = [(path, id(each), each.name) for path, each in shared]
    return dataclasses.replace(part, name=layer.name, trainable=layer.trainable, shared=numbers)


class Reading:
    """Calls of layers that are in several graphs: Keras counts those of a graph from 0 when it reads one."""

    current: Reading | None = None

    def __init__(self):
        self.graphs: list[Functional] = []
        self.calls: dict[int, tuple[Any, list]] = {}

    def set_aside(self, numbers: list[int]) -> None:
        """Let the shared layers of these numbers, as far as they are made, forget their calls for now."""
        for number in numbers:
            operation = get_shared_object(number)
            if operation is not None:
                vars(operation)[SHARED] = True
                self.calls.setdefault(number, (operation, []))[1].extend(operation._inbound_nodes)
                operation._inbound_nodes.clear()

    def put_back(self) -> None:
        """Give the layers their calls, with numbers that are right among all of them."""
        for operation, calls in self.calls.values():
            for k, node in enumerate(calls):
                operation._inbound_nodes.append(node)
                for tensor in node.output_tensors:
                    tensor._keras_history = KerasHistory(operation, k, tensor._keras_history.tensor_index)
        for graph in self.graphs:
            graph._nodes = {
                make_node_key(node.operation, node.operation._inbound_nodes.index(node))
                for each in graph._nodes_by_depth.values()
                for node in each
            }


@contextlib.contextmanager
def _reading() -> Iterator[Reading]:
    """Give what is known of all graphs that are read together."""
    if Reading.current is not None:
        yield Reading.current
        return
    is_alone = global_state.get_global_attribute("shared_objects/id_to_obj_map") is None
    with ObjectSharingScope() if is_alone else contextlib.nullcontext():
        Reading.current = reading = Reading()
        try:
            yield reading
        finally:
            Reading.current = None
            reading.put_back()


def made_savable(model: keras.Model, original: keras.Model, made: Mapping[int, list]) -> None:
    """Let a model that was rebuilt from another be saved and loaded, if that is.

    Args:
        model: the model.
        original: what it was rebuilt from.
        made: by `id` of the layers of the original, what stands for them.
    """
    olds = {id(new): old for old in compat.layers_of(original) for new in made.get(id(old), ())}
    owned = {id(x) for layer in compat.layers_of(model) for x in (layer, *layer.variables)}
    sources = Sources(original)
    inner = [each for each in compat.layers_of(model) if graphs.is_inner_graph(each) and type(each) is Functional]
    operations = {id(each): each for graph in inner for each in graph.operations}
    counts = Counter(id(each) for graph in inner for each in graph.operations)
    for each in operations.values():
        counts.update({id(layer) for layer in _held(each)})
    shared = {key for key, count in counts.items() if count > 1}
    known: dict[str, tuple[Any, Any]] = {}
    needs = lambda each, shared: _needs_more(each, olds, sources, owned, shared, known)  # noqa: E731
    with taking_parts():
        needy = {key for key, each in operations.items() if needs(each, shared)}
        for graph in compat.layers_of(model):
            if type(graph) is keras.Sequential and graphs.is_inner_graph(graph):
                own = [each for each in graph.layers if id(each) not in operations]
                graph.__class__ = RebuiltSequential if any([needs(each, set()) for each in own]) else keras.Sequential
    for graph in inner:
        if any(id(each) in needy for each in graph.operations) or (graph is model and ties(model)):
            graph.__class__ = Rebuilt  # as Keras does it with a `keras.Model` that gets inputs and outputs


def _needs_more(
    layer: Any, olds: dict[int, Any], sources: Sources, owned: set[int], shared: set[int], known: dict[str, tuple]
) -> bool:
    """Return whether a layer is read back only with the help of this module, and note how."""
    for note in (PART, SHARED):
        vars(layer).pop(note, None)
    is_shared, held = id(layer) in shared, list(paths_to(layer, shared)) if _held(layer) else []
    if is_shared:
        vars(layer)[SHARED] = True
    if graphs.is_inner_graph(layer) or not is_suspicious(layer) or (not held and is_read_by_keras(layer)):
        return is_shared
    with tolerant_symbols():
        if not held and is_read_by_keras(layer, tolerant=True):
            return True
        own = {id(v) for v in getattr(layer, "variables", [])}
        if id(layer) in olds and all(id(v) in own for v in weights_read(layer, owned)):  # a copy has its own only
            part = part_for(layer, olds[id(layer)], sources, held)
            if part is not None:
                vars(layer)[PART] = part
        needs_names = PART not in vars(layer) and not held and note_functions(layer, known)
    return is_shared or needs_names or PART in vars(layer)


def _held(layer: Any) -> list:
    """Return the layers that a layer of a graph holds, which is no model with a graph itself."""
    return [] if graphs.is_inner_graph(layer) or not isinstance(layer, keras.Layer) else compat.layers_of(layer)[1:]
