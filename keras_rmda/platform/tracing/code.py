"""Graphs out of the code of a layer or model, for any batch and for open sizes.

The code runs on symbolic tensors. Where it asks for sizes that are open, it runs twice, with two numbers for each: what
is the same in both programs does not depend on them, and shapes that differ are written in a way that holds for all.
Weights of the layer's own are inputs of its programs, and leaves of its graph (`leaves.py`).
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import keras
from keras import ops

from keras_rmda.platform.graphs import Functional, name_apart
from keras_rmda.platform.hidden import carry
from keras_rmda.platform.tolerant import tolerant_symbols
from keras_rmda.platform.tracing.given import arrays_as_tensors, as_tensor
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
from keras_rmda.platform.tracing.silent import is_silent, with_default_training, without
from keras_rmda.platform.tracing.sizes import MOST_THAT_DIFFER, NUMBERS, OPEN, Sizes, ways_to_differ
from keras_rmda.platform.tracing.tensorflow import MISSED, tensorflow_as_operations
from keras_rmda.platform.tracing.weights import (
    UsesWeight,
    borrows,
    dtype_for,
    own_variables,
    weights_as_inputs,
)


def traced(
    layer: keras.Layer,
    arguments: tuple,
    keyword_arguments: dict,
    masks: tuple = (),
    is_of_samples: bool = True,
    occurring: Callable[[], list[Sizes]] = list,
    is_odd: bool = False,
) -> Functional:
    """Return what the `call` of a layer or model computes at inference, as a graph that has its layers and weights.

    Args:
        layer: a built layer or model.
        arguments: of the call, with symbolic tensors where there are tensors; no `training`.
        keyword_arguments: likewise.
        masks: those that the tensors carry, None for one without.
        is_of_samples: whether a first axis of known size is that of samples, if no tensor has an open one.
        occurring: gives sizes with the shapes that the tensors have in the model around, if they are known; asked
            where others do not do.
        is_odd: whether the axis of the samples is not the first one everywhere, so that no others do.

    Returns:
        A model, whose inputs are the tensors among the arguments in their order, and then the masks.

    Raises:
        Untraceable: if the code does not say what it computes; the message says why.
    """
    inputs = _inputs_like((arguments, keyword_arguments, list(masks)), layer, OPEN)
    tensors = _tensors_in(inputs)
    tensors = tensors[0] if len(tensors) == 1 else tensors
    why = Untraceable("it gets tensors without samples in front")
    try:
        if not is_odd:
            return _graph(layer, tensors, inputs, is_of_samples)
    except Untraceable as error:
        why = error
    known = occurring()
    if known and _tells_open_axes(known, _tensors_in(inputs)) and _takes_numbers(layer, inputs, known[0]):
        with contextlib.suppress(Untraceable):
            return _graph(layer, tensors, inputs, is_of_samples, known)
    raise why


def traced_model(model: keras.Model, inputs: Any) -> Functional:
    """Return the same for the code of a model, with these inputs, structured as the code takes them."""
    return _graph(model, inputs, ((inputs,), {}, []))


def _tells_open_axes(known: list[Sizes], tensors: list) -> bool:
    """Return whether each axis that is open in any tensor has other numbers at the first two sizes."""
    shapes = [x.shape for x in tensors]
    return [len(shape) for shape in shapes] == [len(each) for each in known[0].given] and not any(
        size is None and n == m
        for shape, *given in zip(shapes, *(each.given for each in known[:2]))
        for size, n, m in zip(shape, *given)
    )


def _graph(
    layer: keras.Layer, inputs: Any, given: tuple, is_of_samples: bool = True, known: list[Sizes] | None = None
) -> Functional:
    programs, sizes = _programs(layer, given) if known is None else _programs_at(known, layer, given)
    programs = _as_trained(layer, given, sizes, programs)
    only_at_training = _with_losses_of_training(layer, given, sizes, programs)
    try:
        with tolerant_symbols():
            graph = Graph(layer, programs, sizes, _tensors_in(given), own_variables(layer), is_of_samples)
            outputs = graph.with_losses(graph.outputs(), only_at_training)
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
    for times in ways_to_differ(sum(x.shape[1:].count(None) for x in _tensors_in(given))):
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


def _programs_at(known: list[Sizes], layer: keras.Layer, given: tuple) -> tuple[list[Program], list[Sizes]]:
    """Return the programs of a layer at the first two of some sizes; it does the same at all of them."""
    found = _all_or_one(_attempt(layer, given, sizes) for sizes in known)
    if len(found) < len(known):
        raise found[0]
    if not all(is_same(_kinds(each), _kinds(found[0])) for each in found):
        raise Untraceable("its code does something else at other sizes")
    return found[:2], known[:2]


def _kinds(program: Program) -> list:
    return [(type(step.operation), step.places) for step in program.steps]


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
        for x in keras.tree.flatten(step.arguments):
            if isinstance(x, keras.Variable):
                return _attempt(layer, given, sizes, training) if borrows(layer, x) else UsesWeight(x)
        if isinstance(step.operation, keras.Layer):
            continue
        is_reshape = type(step.operation).__name__ == "Reshape"  # which takes -1 as well
        if _has_open_size(settings(step.operation)) and (sizes is OPEN or not is_reshape):
            return Untraceable(f"it gives an open size to {step.called}")
        if any(callable(x) for x in keras.tree.flatten((settings(step.operation), step.arguments)) if not is_array(x)):
            return Untraceable(f"it gives a function to {step.called}")
    return found


def _run(layer: keras.Layer, given: tuple, sizes: Sizes, training: bool | None) -> Program:
    inputs = _inputs_like(given, layer, sizes)
    takes_training = "training" in inspect.signature(layer.call).parameters
    losses: list = []
    symbolic = tolerant_symbols(_refuse_read, losses), symbolic_ranges(), tensorflow_as_operations()
    anchor = _tensors_in(inputs)[0]
    given = arrays_as_tensors(anchor)
    with weights_as_inputs(layer) as weights, symbolic[0], symbolic[1], symbolic[2], given:
        arguments, keyword_arguments, masks = inputs
        for x, mask in zip(_tensors_in((arguments, keyword_arguments)), masks):
            carry(x, mask)
        outputs = layer.call(*arguments, **keyword_arguments, **({"training": training} if takes_training else {}))
        losses = [as_tensor(x, anchor) for x in losses]
    if not isinstance(layer, keras.Model):  # sizes beside tensors, which the code around has as numbers
        found = keras.tree.flatten(outputs)
        tensors = [x for x in found if not isinstance(x, int | float)]
        outputs = outputs if len(tensors) == len(found) else tensors
    return program(outputs, [*_tensors_in(inputs), *weights], losses)


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


def _as_trained(layer: keras.Layer, given: tuple, sizes: list[Sizes], programs: list[Program]) -> list[Program]:
    """Return the programs of a layer, with what it does at training only if that does nothing at inference.

    Raises:
        Untraceable: if the code itself, not a layer inside, does something else at training, which would be lost, or
            at every call.
    """
    own, first, result = own_layers(layer), sizes[0], programs[0]
    equal = _attempt(layer, given, replace(first, times=())) if first.times else None
    if isinstance(equal, Program):  # a loss may want equal sizes of what is not used otherwise
        first, result = replace(first, times=()), equal
    says = lambda found: [described(step, own) for step in found.steps_of_outputs]  # noqa: E731
    for training in (None, True, False) if "training" in inspect.signature(layer.call).parameters else (None,):
        other = _attempt(layer, given, first, training)
        if isinstance(other, Program) and is_same(says(result), says(other)):
            continue
        if training and isinstance(other, Program) and len(other.losses) == len(result.losses):
            silent = {id(x) for x in (step.operation for step in other.steps) if is_silent(x, other)}
            if silent and is_same(says(without(result, silent)), says(without(other, silent))):
                found = _all_or_one(_attempt(layer, given, each, training) for each in sizes)
                if len(found) == len(sizes):
                    programs = [with_default_training(each) for each in found]
                    continue
        when = "at every call" if training is None else "at training"
        raise Untraceable(f"its own code, not a layer inside, does something else {when}")
    return programs


def _with_losses_of_training(layer: keras.Layer, given: tuple, sizes: list[Sizes], programs: list[Program]) -> bool:
    """Let programs have the losses that code adds at training only, and return whether there are such."""
    if "training" not in inspect.signature(layer.call).parameters:
        return False
    others, own = [_attempt(layer, given, each, training=True) for each in sizes], own_layers(layer)
    for mine, other in zip(programs, others):
        if isinstance(other, Untraceable):
            raise other
        steps = ([described(step, own) for step in each.steps] for each in (mine, other))
        if mine.losses and not (mine.losses == other.losses and is_same(*steps)):
            raise Untraceable("it adds another loss by `add_loss` at training")
    if programs[0].losses or not others[0].losses:
        return False
    for mine, other in zip(programs, others):  # whose steps for the outputs are the same
        mine.steps += other.steps[mine.count :]
        mine.losses, mine.known = other.losses, mine.known | other.known
    return True


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
