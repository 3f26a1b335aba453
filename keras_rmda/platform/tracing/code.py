"""Graphs out of the code of a layer or model, for any batch and for open sizes.

The code runs on symbolic tensors. Where it asks for sizes that are open, it runs twice, with two numbers for each: what
is the same in both programs does not depend on them, and shapes that differ are written in a way that holds for all.
Weights of the layer's own are inputs of its programs, and leaves of its graph (`leaves.py`).
"""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import keras
from keras import ops

from keras_rmda.platform.graphs import Functional, name_apart
from keras_rmda.platform.hidden import carry
from keras_rmda.platform.tolerant import tolerant_symbols
from keras_rmda.platform.tracing.given import arrays_as_tensors
from keras_rmda.platform.tracing.graph import Graph
from keras_rmda.platform.tracing.programs import (
    Program,
    Untraceable,
    described,
    is_array,
    is_same,
    own_layers,
    program,
    settings,
)
from keras_rmda.platform.tracing.ranges import PositionsUpTo, symbolic_ranges
from keras_rmda.platform.tracing.tensorflow import MISSED, tensorflow_as_operations
from keras_rmda.platform.tracing.weights import (
    UsesWeight,
    borrows,
    dtype_for,
    own_variables,
    weights_as_inputs,
)


@dataclass(frozen=True)
class Sizes:
    """Numbers for open axes.

    Attributes:
        batch: that of the batch.
        other: that of the others.
        times: how many times as large each of the others is, in the order of the tensors.
    """

    batch: int | None
    other: int | None
    times: tuple[int, ...] = ()

    def shapes(self, shapes: list[tuple]) -> list[tuple]:
        """Return the shapes of tensors without open axes."""
        times = itertools.chain(self.times, itertools.repeat(1))
        other = lambda: self.other if self.other is None else self.other * next(times)  # noqa: E731
        known = lambda k, n: n if n is not None else other() if k else self.batch  # noqa: E731
        return [tuple(known(k, n) for k, n in enumerate(shape)) for shape in shapes]


OPEN = Sizes(None, None)
NUMBERS = (
    (Sizes(3, 64), Sizes(5, 96)),
    (Sizes(576, 64), Sizes(1152, 96)),
    (Sizes(784, 56), Sizes(1568, 112)),
    (Sizes(3, 16), Sizes(5, 24)),
    (Sizes(3, 4), Sizes(5, 6)),
)
"""Pairs that are tried one after the other: batches that nothing else has, then such as may consist of windows, 2, 3,
4, 6 or 8 by as many, or 7 by 7; sizes that can be halved some times, which networks for images of any size want; and
small and very small ones, for code that takes no longer sequences."""

MOST_THAT_DIFFER = 4
"""Of how many open axes all ways to differ are tried."""


def traced(
    layer: keras.Layer, arguments: tuple, keyword_arguments: dict, masks: tuple = (), is_of_samples: bool = True
) -> Functional:
    """Return what the `call` of a layer or model computes at inference, as a graph that has its layers and weights.

    Args:
        layer: a built layer or model.
        arguments: of the call, with symbolic tensors where there are tensors; no `training`.
        keyword_arguments: likewise.
        masks: those that the tensors carry, None for one without.
        is_of_samples: whether a first axis of known size is that of samples, if no tensor has an open one.

    Returns:
        A model, whose inputs are the tensors among the arguments in their order, and then the masks.

    Raises:
        Untraceable: if the code does not say what it computes; the message says why.
    """
    inputs = _inputs_like((arguments, keyword_arguments, list(masks)), layer, OPEN)
    tensors = _tensors_in(inputs)
    return _graph(layer, tensors[0] if len(tensors) == 1 else tensors, inputs, is_of_samples)


def traced_model(model: keras.Model, inputs: Any) -> Functional:
    """Return the same for the code of a model, with these inputs, structured as the code takes them."""
    return _graph(model, inputs, ((inputs,), {}, []))


def _graph(layer: keras.Layer, inputs: Any, given: tuple, is_of_samples: bool = True) -> Functional:
    programs, sizes = _programs(layer, given)
    _refuse_other_training(layer, given, sizes[0], programs[0])
    try:
        with tolerant_symbols():
            graph = Graph(layer, programs, sizes, _tensors_in(given), own_variables(layer), is_of_samples)
            outputs = graph.outputs()
        name_apart(outputs)
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
    if isinstance(found, Program) and _holds_at_numbers(layer, given, found):
        return [found], [OPEN]
    for pair in NUMBERS:
        programs = _all_or_one(_attempt(layer, given, sizes) for sizes in pair)
        if len(programs) == len(pair):
            break
    else:
        return _programs_of_sums(layer, given, programs[0])
    for times in _ways_to_differ(sum(x.shape[1:].count(None) for x in _tensors_in(given))):
        # Other times at other numbers, or what is computed of both would be the same.
        more = [times, tuple(n + (n > 1) for n in times)]
        others = tuple(replace(sizes, times=each) for sizes, each in zip(pair, more))
        found = _all_or_one(_attempt(layer, given, sizes) for sizes in others)
        if len(found) == len(pair) and _takes_numbers(layer, given, others[0]):
            if not is_same(
                *([(type(step.operation), step.places) for step in each[0].steps] for each in (found, programs))
            ):
                raise Untraceable("its code does something else at other sizes")
            programs, pair = found, others
            break
    if len(programs[0].steps) != len(programs[1].steps):
        raise Untraceable("its code does something else at other sizes")
    return programs, list(pair)


def _programs_of_sums(layer: keras.Layer, given: tuple, why: Untraceable) -> tuple[list[Program], list[Sizes]]:
    """Return programs at sizes of which one is the sum of two others, as a mask is for what two others have together.

    Raises:
        Untraceable: `why` there are none for equal sizes, if there are none.
    """
    count = sum(x.shape[1:].count(None) for x in _tensors_in(given))
    for times in itertools.product((2, 1, 3), repeat=count) if 2 < count <= MOST_THAT_DIFFER else ():
        if len(set(times)) == 3:
            pair = [replace(sizes, times=times) for sizes in NUMBERS[0]]
            found = _all_or_one(_attempt(layer, given, sizes) for sizes in pair)
            if len(found) == len(pair) and _takes_numbers(layer, given, pair[0]):
                return found, pair
    raise why


def _holds_at_numbers(layer: keras.Layer, given: tuple, found: Program) -> bool:
    """Return whether the program for open sizes has the arguments that one at numbers has, if they do the same steps.

    An open size is None to code, and `x[:None]` is all of `x`, not its beginning.
    """
    if not any(None in x.shape[1:] for x in _tensors_in(given)):
        return True
    operations = lambda steps: [(type(step.operation), step.places) for step in steps]  # noqa: E731
    for sizes in (pair[0] for pair in NUMBERS):
        other = _attempt(layer, given, sizes)
        if isinstance(other, Program):
            if any(isinstance(step.operation, PositionsUpTo) for step in other.steps):
                return False
            same = is_same(operations(found.steps), operations(other.steps))
            return not same or all(is_same(a.arguments, b.arguments) for a, b in zip(found.steps, other.steps))
    return True


def _all_or_one(attempts: Iterable[Program | Untraceable]) -> list:
    """Return programs, or the first reason why there is none, before the others are tried."""
    found = []
    for each in attempts:
        if isinstance(each, Untraceable):
            return [each]
        found.append(each)
    return found


def _takes_numbers(layer: keras.Layer, given: tuple, sizes: Sizes) -> bool:
    """Return whether code runs on numbers at these sizes; on symbolic tensors not every operation looks at them."""
    zeros = lambda x: ops.zeros(x.shape, x.dtype) if isinstance(x, keras.KerasTensor) else x  # noqa: E731
    arguments, keyword_arguments, _ = keras.tree.map_structure(zeros, _inputs_like(given, layer, sizes))
    try:
        with keras.StatelessScope():  # where nothing is assigned
            layer.call(*arguments, **keyword_arguments)
    except Exception:  # whatever the user's code raises
        return False
    return True


def _ways_to_differ(count: int) -> Iterator[tuple[int, ...]]:
    """Give ways in which so many open axes may differ: how many times as large each is.

    Code that pads a mask to the length of what it masks does nothing at equal sizes. So they are equal only where the
    code takes no others.
    """
    if count > 1:
        yield from dict.fromkeys([tuple(range(count, 0, -1)), tuple(range(1, count + 1))])
    if 2 < count <= MOST_THAT_DIFFER:
        yield from (each for each in itertools.product((2, 1), repeat=count) if len(set(each)) > 1)


def _attempt(layer: keras.Layer, given: tuple, sizes: Sizes, training: bool | None = None) -> Program | Untraceable:
    """Return the program of a layer's code, or why there is none."""
    try:
        found = _run(layer, given, sizes, training)
    except UsesWeight as error:
        return _attempt(layer, given, sizes, training) if borrows(layer, error.variable) else error
    except Untraceable as error:
        return error
    except Exception as error:  # whatever the user's code raises
        return Untraceable(f"its `call` does not take symbolic tensors: {_why(error)}")
    for step in found.steps:
        if isinstance(step.operation, keras.Layer):
            continue
        for x in keras.tree.flatten(step.arguments):
            if isinstance(x, keras.Variable):
                return _attempt(layer, given, sizes, training) if borrows(layer, x) else UsesWeight(x)
        is_reshape = type(step.operation).__name__ == "Reshape"  # which takes -1 as well
        if _has_open_size(settings(step.operation)) and (sizes is OPEN or not is_reshape):
            return Untraceable(f"it gives an open size to {step.called}")
        if any(callable(x) for x in keras.tree.flatten((settings(step.operation), step.arguments)) if not is_array(x)):
            return Untraceable(f"it gives a function to {step.called}")
    return found


def _run(layer: keras.Layer, given: tuple, sizes: Sizes, training: bool | None) -> Program:
    inputs = _inputs_like(given, layer, sizes)
    takes_training = "training" in inspect.signature(layer.call).parameters
    symbolic = tolerant_symbols(_refuse_read), symbolic_ranges(), tensorflow_as_operations()
    given = arrays_as_tensors(_tensors_in(inputs)[0])
    with weights_as_inputs(layer) as weights, symbolic[0], symbolic[1], symbolic[2], given:
        arguments, keyword_arguments, masks = inputs
        for x, mask in zip(_tensors_in((arguments, keyword_arguments)), masks):
            carry(x, mask)
        outputs = layer.call(*arguments, **keyword_arguments, **({"training": training} if takes_training else {}))
    return program(outputs, [*_tensors_in(inputs), *weights])


def _refuse_read(variable: keras.Variable) -> None:
    """Raise: what is made of the numbers of a weight would be a constant of the graph. (Not of random states.)"""
    if variable.name == "seed_generator_state":
        return
    raise UsesWeight(variable)


def _tensors_in(structure: Any) -> list:
    return [x for x in keras.tree.flatten(structure) if isinstance(x, keras.KerasTensor)]


def _inputs_like(given: Any, layer: keras.Layer, sizes: Sizes) -> Any:
    """Return inputs like the tensors that a layer gets, as it casts them, and anything else as it is."""
    shapes = iter(sizes.shapes([x.shape for x in _tensors_in(given)]))
    like = lambda x: keras.Input(batch_shape=next(shapes), dtype=dtype_for(x, layer))  # noqa: E731
    return keras.tree.map_structure(lambda x: like(x) if isinstance(x, keras.KerasTensor) else x, given)


def _refuse_other_training(layer: keras.Layer, given: tuple, sizes: Sizes, result: Program) -> None:
    """Raise if the code itself, not a layer inside, does something else at training, which would be lost, or always."""
    own = own_layers(layer)
    equal = _attempt(layer, given, replace(sizes, times=())) if sizes.times else None
    if isinstance(equal, Program):  # a loss may want equal sizes of what is not used otherwise
        sizes, result = replace(sizes, times=()), equal
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
    """Return what an error says, without what Keras puts around it; where a layer inside raised it, with its name."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split("\nArguments received by")[0]  # Keras prints in bold letters
    layers = re.findall(r"infer the output shape / dtype of ('[^']*' \(of type \w+\))", text)
    if "KerasTensor cannot be used as input to a TensorFlow function" in text and MISSED:
        return f"it calls `tf.{MISSED[-1]}`, which takes no symbolic tensors; `keras.ops` does"
    reason = re.split(r"Exception encountered when calling \S+\(\)\.|Error encountered:", text)[-1]
    named = f"Keras cannot run {layers[-1]} on symbolic tensors: " if layers else ""
    return named + " ".join(reason.split())[:200]
