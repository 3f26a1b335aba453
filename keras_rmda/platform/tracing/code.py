"""Graphs out of the code of a layer or model, for any batch and for open sizes.

The code runs on symbolic tensors. Where it asks for sizes that are open, it runs twice, with two numbers for each: what
is the same in both programs does not depend on them, and shapes that differ are written in a way that holds for all.
Weights of the layer's own are inputs of its programs, and leaves of its graph (`leaves.py`).
"""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras

from keras_rmda.platform.graphs import Functional, name_apart
from keras_rmda.platform.tolerant import tolerant_symbols
from keras_rmda.platform.tracing.attempts import all_or_one, attempt, inputs_like, symbols_in, takes_numbers, why_of
from keras_rmda.platform.tracing.graph import Graph
from keras_rmda.platform.tracing.programs import Program, Untraceable, is_same, kinds
from keras_rmda.platform.tracing.ranges import PositionsUpTo
from keras_rmda.platform.tracing.sizes import MOST_THAT_DIFFER, NUMBERS, OPEN, Sizes, ways_to_differ
from keras_rmda.platform.tracing.training import as_trained, ways_with_losses
from keras_rmda.platform.tracing.weights import own_variables

LOST_LOSSES: weakref.WeakKeyDictionary[keras.Layer, str] = weakref.WeakKeyDictionary()
"""Why the losses that the code of layers gives to `add_loss` are not in the graphs that were made of it last."""


def traced(
    layer: keras.Layer,
    arguments: tuple,
    keyword_arguments: dict,
    masks: tuple = (),
    is_of_samples: bool = True,
    sizes_in_model: Callable[[], list[Sizes]] = list,
    samples_elsewhere: bool = False,
) -> Functional:
    """Return what the `call` of a layer or model computes at inference, as a graph that has its layers and weights.

    Args:
        layer: a built layer or model.
        arguments: of the call, with symbolic tensors where there are tensors; no `training`.
        keyword_arguments: likewise.
        masks: those that the tensors carry, None for one without.
        is_of_samples: whether a first axis of known size is that of samples, if no tensor has an open one.
        sizes_in_model: gives sizes with the shapes that the tensors have in the model around, if they are known; asked
            where others do not do.
        samples_elsewhere: whether the axis of the samples is not the first one everywhere, so that no others do.

    Returns:
        A model, whose inputs are the tensors among the arguments in their order, and then the masks.

    Raises:
        Untraceable: if the code does not say what it computes; the message says why.
    """
    inputs = inputs_like((arguments, keyword_arguments, list(masks)), layer, OPEN)
    tensors = symbols_in(inputs)
    tensors = tensors[0] if len(tensors) == 1 else tensors
    why = Untraceable("it gets tensors without samples in front")
    try:
        if not samples_elsewhere:
            return _graph(layer, tensors, inputs, is_of_samples)
    except Untraceable as error:
        why = error
    known = sizes_in_model()
    if known and _tells_open_axes(known, symbols_in(inputs)) and takes_numbers(layer, inputs, known[0]):
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
    programs, sizes = as_trained(layer, given, sizes, programs)
    LOST_LOSSES.pop(layer, None)
    refused: list[Untraceable] = []
    for way in ways_with_losses(layer, given, sizes, programs):
        if isinstance(way, Untraceable):
            refused.append(way)
            continue
        programs, sizes = way
        try:
            with tolerant_symbols():
                graph = Graph(layer, programs, sizes, symbols_in(given), own_variables(layer), is_of_samples)
                outputs = graph.with_losses(graph.outputs())
            name_apart(outputs)
            result = Functional(inputs, outputs, name=layer.name)
        except Untraceable as error:
            refused.append(error)
        except Exception as error:  # an operation may not take open sizes
            refused.append(Untraceable(why_of(error)))
        else:
            if refused and not (programs[0].losses or programs[0].losses_of_training):
                if not layer.weights:  # as it is, it costs nothing, and keeps its loss
                    raise Untraceable(f"it adds a loss that cannot be followed: {refused[0]}")
                LOST_LOSSES[layer] = str(refused[0])
            result.dtype_policy, result._trainable = layer.dtype_policy, layer._trainable
            return result
    raise refused[-1]


def _programs(layer: keras.Layer, given: tuple) -> tuple[list[Program], list[Sizes]]:
    """Return the program of a layer for open sizes, or else those for two numbers each."""
    found = attempt(layer, given, OPEN)
    if isinstance(found, Program) and _holds_at_numbers(layer, given, found):
        return [found], [OPEN]
    for pair in NUMBERS:
        programs = all_or_one(attempt(layer, given, sizes) for sizes in pair)
        if len(programs) == len(pair):
            break
    else:
        return _programs_of_sums(layer, given, programs[0])
    for times in ways_to_differ(sum(x.shape[1:].count(None) for x in symbols_in(given))):
        # Other times at other numbers, or what is computed of both would be the same.
        more = [times, tuple(n + (n > 1) for n in times)]
        others = tuple(replace(sizes, times=each) for sizes, each in zip(pair, more))
        found = all_or_one(attempt(layer, given, sizes) for sizes in others)
        if len(found) == len(pair) and takes_numbers(layer, given, others[0]):
            if not is_same(kinds(found[0].steps), kinds(programs[0].steps)):
                raise Untraceable("its code does something else at other sizes")
            programs, pair = found, others
            break
    if len(programs[0].steps) != len(programs[1].steps):
        raise Untraceable("its code does something else at other sizes")
    return programs, list(pair)


def _programs_at(known: list[Sizes], layer: keras.Layer, given: tuple) -> tuple[list[Program], list[Sizes]]:
    """Return the programs of a layer at the first two of some sizes; it does the same at all of them."""
    found = all_or_one(attempt(layer, given, sizes) for sizes in known)
    if len(found) < len(known):
        raise found[0]
    if not all(is_same(kinds(each.steps), kinds(found[0].steps)) for each in found):
        raise Untraceable("its code does something else at other sizes")
    return found[:2], known[:2]


def _programs_of_sums(layer: keras.Layer, given: tuple, why: Untraceable) -> tuple[list[Program], list[Sizes]]:
    """Return programs at sizes of which one is the sum of two others, as a mask is for what two others have together.

    Raises:
        Untraceable: `why` there are none for equal sizes, if there are none.
    """
    count = sum(x.shape[1:].count(None) for x in symbols_in(given))
    for times in itertools.product((2, 1, 3), repeat=count) if 2 < count <= MOST_THAT_DIFFER else ():
        if len(set(times)) == 3:
            pair = [replace(sizes, times=times) for sizes in NUMBERS[0]]
            found = all_or_one(attempt(layer, given, sizes) for sizes in pair)
            if len(found) == len(pair) and takes_numbers(layer, given, pair[0]):
                return found, pair
    raise why


def _holds_at_numbers(layer: keras.Layer, given: tuple, found: Program) -> bool:
    """Return whether the program for open sizes has the arguments that one at numbers has, if they do the same steps.

    An open size is None to code, and `x[:None]` is all of `x`, not its beginning.
    """
    if not any(None in x.shape[1:] for x in symbols_in(given)):
        return True
    for sizes in (pair[0] for pair in NUMBERS):
        other = attempt(layer, given, sizes)
        if isinstance(other, Program):
            if any(isinstance(step.operation, PositionsUpTo) for step in other.steps):
                return False
            same = is_same(kinds(found.steps), kinds(other.steps))
            return not same or all(is_same(a.arguments, b.arguments) for a, b in zip(found.steps, other.steps))
    return True
