"""Keras models made ready for the converter: graphs with flat inputs and outputs, in the order of the model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_rmda.platform import checks, compat, graphs, lite, tfmot
from keras_rmda.structure import strip

CONTROL = ("While", "StatelessWhile", "If", "StatelessIf", "Case", "StatelessCase")
"""Operations of TensorFlow that hold graphs of their own."""

SEED = "seed_generator_state"
"""What Keras calls the state of random numbers, which layers advance also where they do not use any."""


@dataclass(frozen=True)
class Prepared:
    """A model as the converter takes it.

    Attributes:
        name: of the model.
        function: its graph, a concrete function of TensorFlow.
        inputs, outputs: their names in the file, in the order of the graph.
        variables: that the graph reads.
        batch: the number of samples that it takes at once; None for any.
        changes: what it does otherwise than the model, in words.
        keeps_state: whether it changes variables, for the next call.
        may_crash: whether it has loops, branches, states or empty tensors, at which the converter may.
        is_tried: whether its file is one of a kind at which LiteRT was seen to crash: with loops, also written out.
        loops_fix_batch: whether the number of samples is fixed for its loops and branches, and nobody asked for it.
        is_coupled: whether what the model makes of a sample was seen to depend on the others of its batch.
    """

    name: str
    function: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    variables: tuple[Any, ...]
    batch: int | None
    changes: tuple[str, ...]
    keeps_state: bool
    may_crash: bool
    is_tried: bool
    loops_fix_batch: bool = False
    is_coupled: bool = False


def stripped(model: keras.Model, samples: list[dict[str, np.ndarray]]) -> keras.Model:
    """Return the stripped model.

    Args:
        model: the model.
        samples: of one sample each, by the names of inputs, on which to verify it; none for random ones.

    Raises:
        ValueError: saying how to do without, if it cannot be stripped.
    """
    inputs = [np.concatenate([x[tensor.name] for x in samples[:1] * 2]) for tensor in model.inputs] if samples else None
    states = states_of(model)
    try:
        with compat.restored(states):
            result = strip(model, inputs=inputs)
    except ValueError as error:
        raise ValueError(f"{error} `export_tflite(strip=False)` takes the model as it is.") from error
    for old, new in zip(states, states_of(result)):  # strip has called both models
        new.assign(old if old.shape == new.shape else keras.ops.zeros_like(new))
    return result


def states_of(model: keras.Model) -> list[keras.Variable]:
    """Return what the layers of a model remember from call to call."""
    kept = [getattr(layer, "states", None) for layer in compat.layers_of(model) if getattr(layer, "stateful", False)]
    return [x for x in keras.tree.flatten(kept) if isinstance(x, keras.Variable)]


def prepared(
    model: Any,
    names: list[str],
    batch: int | None = None,
    unroll: bool = False,
    rounded: str | None = None,
    shapes: list[tuple[int, ...]] | None = None,
) -> Prepared:
    """Return what the converter takes for a model.

    Loops over time need a batch of a fixed size: it becomes 1 where it is open.

    Args:
        model: a built model with inputs, of Keras on TensorFlow or of tf_keras.
        names: of its inputs.
        batch: the size to fix; None to leave it open if possible.
        unroll: whether to write loops over time out, where the number of steps is known.
        rounded: "int8" or "int16" where its numbers become such integers; "aware" where they have trained so.
        shapes: of a sample, for each input, to fix open sizes; None to leave them open.

    Raises:
        RuntimeError: if TensorFlow cannot make a graph of it.
    """
    changes = [] if batch is None else [f"a batch of {batch}"]
    with in_float32(model) as was_other:
        graph = traced(model, batch, unroll, rounded, shapes)
        has_loops = graph.has_loops or (unroll and bool(graph.unrolled))
        loops_fix_batch = has_loops and batch_size(model) is None and batch is None
        if loops_fix_batch:
            batch, changes = 1, ["a batch of 1, which its loops need"]
            graph = traced(model, batch, unroll, rounded, shapes)
    changes += [] if shapes is None else [f"inputs of {' and '.join(map(str, shapes))}, as the samples have"]
    changes += [f"loops over {steps} steps written out" for steps in sorted(set(graph.unrolled))]
    changes += ["float32 in the place of other types"] if was_other else []
    may_crash = graph.has_loops or graph.keeps_state or graph.is_empty
    return Prepared(
        model.name,
        graph.function,
        tuple(names),
        tuple(output_names(model)),
        tuple(graph.variables),
        batch or batch_size(model),
        tuple(changes),
        graph.keeps_state,
        may_crash,
        may_crash or bool(graph.unrolled),
        loops_fix_batch,
    )


def takes(model: Any, shapes: list[tuple[int, ...]]) -> bool:
    """Return whether a model computes something of samples of these shapes, and nothing in it is empty.

    TensorFlow makes numbers up for a convolution of fewer positions than its kernel has, and calibrating one crashes.
    """
    try:
        return not traced(model, 1, False, None, shapes).is_empty
    except RuntimeError:
        return False


@contextlib.contextmanager
def in_float32(model: Any) -> Iterator[bool]:
    """Let a model compute in float32 inside the context, and tell whether it does not by itself."""
    is_other = not tfmot.is_of_tf_keras(model) and not lite.is_float32(model)
    with lite.in_float32(model) if is_other else contextlib.nullcontext():
        yield is_other


def batch_size(model: Any) -> int | None:
    """Return how many samples a model takes at once; None for any number."""
    return next((tensor.shape[0] for tensor in model.inputs if len(tensor.shape)), None)


def output_names(model: Any) -> list[str]:
    """Return names for the outputs: keys of dictionaries, those inside after a slash; else numbers."""
    if tfmot.is_of_tf_keras(model):
        return list(model.output_names)
    structure = graphs.functional(model).output
    paths = [path for path, _ in keras.tree.flatten_with_path(structure)]
    taken: set[str] = set()
    if all(len(path) < 2 and not any(isinstance(key, str) for key in path) for path in paths):
        paths = [(f"output_{number}",) for number, _ in enumerate(paths)]
    return [graphs.unused("/".join(map(str, path)), taken) for path in paths]


def called(model: Any) -> Callable[[list], list]:
    """Return the function that computes a model's outputs of its inputs at inference, both as flat lists."""
    if not tfmot.is_of_tf_keras(model):
        return lambda flat: graphs.call(model, flat)
    return lambda flat: keras.tree.flatten(
        model(flat[0] if len(flat) == 1 else keras.tree.pack_sequence_as(model.input, flat), training=False)
    )


@dataclass(frozen=True)
class Graph:
    """A graph of TensorFlow: see `Prepared`."""

    function: Any
    variables: list
    unrolled: list[int]
    keeps_state: bool
    has_loops: bool
    is_empty: bool


class Assigned(keras.StatelessScope):
    """A scope in which variables keep their values; it knows those that were given others."""

    def __init__(self):
        super().__init__()
        self.variables: list[keras.Variable] = []

    def add_update(self, update: tuple) -> None:
        """Note a variable and its value."""
        self.variables.append(update[0])
        super().add_update(update)


def traced(
    model: Any, batch: int | None, unroll: bool, rounded: str | None, shapes: list[tuple[int, ...]] | None = None
) -> Graph:
    """Return the graph of a model. Random numbers are drawn from the same seed every time, as a file does.

    Args:
        model: the model.
        batch: the number of samples; None for the model's.
        unroll: whether to write loops over time out.
        rounded: "int8" or "int16" where its numbers become such integers; "aware" where they have trained so.
        shapes: of a sample, for each input; None for those of the model, which may be open.
    """
    import tensorflow as tf

    specs = []
    for number, x in enumerate(model.inputs):
        shape = x.shape[1:] if shapes is None else shapes[number]
        specs.append(tf.TensorSpec([batch or x.shape[0], *shape] if len(x.shape) else [], x.dtype, f"input_{number}"))
    call, scope = called(model), Assigned()

    def computed(*flat: Any) -> list:
        return [tf.identity(y) for y in call(list(flat))]  # an input may be an output

    try:
        with lite.tracing(unroll, rounded) as unrolled:
            with scope:
                function = tf.function(computed, autograph=False).get_concrete_function(*specs)
            metrics = {id(variable) for variable in getattr(model, "metrics_variables", [])}  # for nobody in a file
            keeps_state = any(each.name != SEED and id(each) not in metrics for each in scope.variables)
            if keeps_state:
                unrolled.clear()
                function = tf.function(computed, autograph=False).get_concrete_function(*specs)
    except Exception as error:  # whatever the user's code raises
        raise RuntimeError(
            f"TensorFlow cannot make a graph of the model {model.name!r}: {checks.first_line(error)}"
        ) from error
    definition = function.graph.as_graph_def()
    nodes = [*definition.node, *(node for each in definition.library.function for node in each.node_def)]
    has_loops = not {node.op for node in nodes}.isdisjoint(CONTROL)
    return Graph(function, list(function.graph.variables), unrolled, keeps_state, has_loops, has_empty(function))


def has_empty(function: Any) -> bool:
    """Return whether any number of a graph's outputs is computed of floats that are none."""
    waiting, seen = [y.op for y in function.outputs], set()
    while waiting:
        operation = waiting.pop()
        if operation not in seen:
            seen.add(operation)
            waiting += [x.op for x in operation.inputs]
            shapes = [y.shape for y in operation.outputs if y.dtype.is_floating]
            if any(shape.rank is not None and 0 in shape for shape in shapes):
                return True
    return False
