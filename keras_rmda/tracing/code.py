"""Graphs out of the code of a layer or model, for any batch and for open sizes.

The code runs on symbolic tensors. Where it asks for sizes that are open, it runs twice, with two numbers for each: what
is the same in both programs does not depend on them, and shapes that differ are written in a way that holds for all.
Weights of the layer's own are inputs of its programs, and leaves of its graph (`leaves.py`).
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import keras

from keras_rmda import _compat
from keras_rmda._graphs import Functional
from keras_rmda.tracing.graph import Graph
from keras_rmda.tracing.programs import (
    Program,
    Untraceable,
    described,
    is_array,
    is_same,
    own_layers,
    program,
    settings,
)
from keras_rmda.tracing.ranges import symbolic_ranges
from keras_rmda.tracing.weights import dtype_for, own_variables, weights_as_inputs


@dataclass(frozen=True)
class Sizes:
    """Numbers for open axes: that of the batch, and the others."""

    batch: int | None
    other: int | None

    def shape(self, shape: tuple) -> tuple:
        """Return a shape without open axes."""
        return tuple((self.other if k else self.batch) if n is None else n for k, n in enumerate(shape))


OPEN = Sizes(None, None)
NUMBERS = (
    (Sizes(3, 64), Sizes(5, 96)),
    (Sizes(576, 64), Sizes(1152, 96)),
    (Sizes(784, 56), Sizes(1568, 112)),
)
"""Pairs that are tried one after the other: batches that nothing else has, then such as may consist of windows, 2, 3,
4, 6 or 8 by as many, or 7 by 7; sizes that can be halved some times, which networks for images of any size want."""


def traced(layer: keras.Layer, arguments: tuple, keyword_arguments: dict) -> Functional:
    """Return what the `call` of a layer or model computes at inference, as a graph that has its layers and weights.

    Args:
        layer: a built layer or model.
        arguments: of the call, with symbolic tensors where there are tensors; no `training`.
        keyword_arguments: likewise.

    Returns:
        A model, whose inputs are the tensors among the arguments in their order.

    Raises:
        Untraceable: if the code does not say what it computes; the message says why.
    """
    inputs = keras.tree.map_structure(lambda x: _input_like(x, layer, OPEN), (arguments, keyword_arguments))
    tensors = _tensors_in(inputs)
    return _graph(layer, tensors[0] if len(tensors) == 1 else tensors, inputs)


def traced_model(model: keras.Model, inputs: Any) -> Functional:
    """Return the same for the code of a model, with these inputs, structured as the code takes them."""
    return _graph(model, inputs, ((inputs,), {}))


def _graph(layer: keras.Layer, inputs: Any, given: tuple) -> Functional:
    programs, sizes = _programs(layer, given)
    _refuse_other_training(layer, given, sizes[0], programs[0])
    try:
        with _compat.tolerant_symbols():
            outputs = Graph(layer, programs, sizes, _tensors_in(given), own_variables(layer)).outputs()
        result = Functional(inputs, outputs, name=layer.name)
    except Untraceable:
        raise
    except Exception as error:  # an operation may not take open sizes
        raise Untraceable(_why(error)) from error
    result.dtype_policy, result._trainable = layer.dtype_policy, layer._trainable
    return result


def _programs(layer: keras.Layer, given: tuple) -> tuple[list[Program], list[Sizes]]:
    """Return the program of a layer for open sizes, or else those for two numbers each."""
    found = _attempt(layer, given, OPEN)
    if isinstance(found, Program):
        return [found], [OPEN]
    for pair in NUMBERS:
        programs = [_attempt(layer, given, sizes) for sizes in pair]
        reasons = [each for each in programs if isinstance(each, Untraceable)]
        if not reasons:
            break
    else:
        raise reasons[0]
    if len(programs[0].steps) != len(programs[1].steps):
        raise Untraceable("its code does something else at other sizes")
    return programs, list(pair)


def _attempt(layer: keras.Layer, given: tuple, sizes: Sizes, training: bool | None = None) -> Program | Untraceable:
    """Return the program of a layer's code, or why there is none."""
    try:
        found = _run(layer, given, sizes, training)
    except Untraceable as error:
        return error
    except Exception as error:  # whatever the user's code raises
        return Untraceable(f"its `call` does not take symbolic tensors: {_why(error)}")
    for step in found.steps:
        if isinstance(step.operation, keras.Layer):
            continue
        for x in keras.tree.flatten(step.arguments):
            if isinstance(x, keras.Variable):
                return Untraceable(f"it uses the weight {x.path!r} of another layer in an operation of its own")
        if sizes is OPEN and _has_open_size(settings(step.operation)):
            return Untraceable(f"it gives an open size to {step.called}")
        if any(callable(x) for x in keras.tree.flatten((settings(step.operation), step.arguments)) if not is_array(x)):
            return Untraceable(f"it gives a function to {step.called}")
    return found


def _run(layer: keras.Layer, given: tuple, sizes: Sizes, training: bool | None) -> Program:
    inputs = keras.tree.map_structure(lambda x: _input_like(x, layer, sizes), given)
    takes_training = "training" in inspect.signature(layer.call).parameters
    with weights_as_inputs(layer) as weights, _compat.tolerant_symbols(_refuse_read), symbolic_ranges():
        arguments, keyword_arguments = inputs
        outputs = layer.call(*arguments, **keyword_arguments, **({"training": training} if takes_training else {}))
    return program(outputs, [*_tensors_in(inputs), *weights])


def _refuse_read(variable: keras.Variable) -> None:
    """Raise: what is made of the numbers of a weight would be a constant of the graph. (Not of random states.)"""
    if variable.name == "seed_generator_state":
        return
    raise Untraceable(f"it uses the weight {variable.path!r} of another layer in an operation of its own")


def _tensors_in(structure: Any) -> list:
    return [x for x in keras.tree.flatten(structure) if isinstance(x, keras.KerasTensor)]


def _input_like(x: Any, layer: keras.Layer, sizes: Sizes) -> Any:
    """Return an input like a tensor that a layer gets, as it casts it, and anything else as it is."""
    if not isinstance(x, keras.KerasTensor):
        return x
    return keras.Input(batch_shape=sizes.shape(x.shape), dtype=dtype_for(x, layer))


def _refuse_other_training(layer: keras.Layer, given: tuple, sizes: Sizes, result: Program) -> None:
    """Raise if the code itself, not a layer inside, does something else at training, which would be lost, or always."""
    own = own_layers(layer)
    steps = [described(step, own) for step in result.steps]
    for training in (None, True, False) if "training" in inspect.signature(layer.call).parameters else (None,):
        other = _attempt(layer, given, sizes, training)
        if isinstance(other, Untraceable) or not is_same(steps, [described(step, own) for step in other.steps]):
            when = "at every call" if training is None else "at training"
            raise Untraceable(f"its own code, not a layer inside, does something else {when}")


def _has_open_size(found: dict[str, Any]) -> bool:
    """Return whether the settings of an operation have None in the place of a number."""
    return any(
        isinstance(found.get(name), list | tuple) and None in found[name] for name in ("newshape", "shape", "repeats")
    )


def _why(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
