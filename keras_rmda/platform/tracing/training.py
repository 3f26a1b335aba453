"""What the code of a layer does at training only."""

from __future__ import annotations

import inspect
from dataclasses import replace

import keras

from keras_rmda.platform.tracing.attempts import all_or_one, attempt
from keras_rmda.platform.tracing.programs import Program, Untraceable, described, is_same, kinds, own_layers
from keras_rmda.platform.tracing.silent import is_silent, with_default_training, without
from keras_rmda.platform.tracing.sizes import Sizes


def as_trained(layer: keras.Layer, given: tuple, sizes: list[Sizes], programs: list[Program]) -> list[Program]:
    """Return the programs of a layer, with what it does at training only if that does nothing at inference.

    Raises:
        Untraceable: if the code itself, not a layer inside, does something else at training, which would be lost, or
            at every call.
    """
    own, first, result = own_layers(layer), sizes[0], programs[0]
    equal = attempt(layer, given, replace(first, times=())) if first.times else None
    if isinstance(equal, Program):  # a loss may want equal sizes of what is not used otherwise
        first, result = replace(first, times=()), equal
    says = lambda found: [described(step, own) for step in found.steps_of_outputs]  # noqa: E731
    for training in (None, True, False) if "training" in inspect.signature(layer.call).parameters else (None,):
        other = attempt(layer, given, first, training)
        if isinstance(other, Program) and is_same(says(result), says(other)):
            continue
        if training and isinstance(other, Program) and len(other.losses) == len(result.losses):
            silent = {id(x) for x in (step.operation for step in other.steps) if is_silent(x, other)}
            if silent and is_same(says(without(result, silent)), says(without(other, silent))):
                found = all_or_one(attempt(layer, given, each, training) for each in sizes)
                if len(found) == len(sizes):
                    programs = [with_default_training(each) for each in found]
                    continue
        when = "at every call" if training is None else "at training"
        raise Untraceable(f"its own code, not a layer inside, does something else {when}")
    return programs


def with_losses_of_training(
    layer: keras.Layer, given: tuple, sizes: list[Sizes], programs: list[Program]
) -> tuple[list[Program], list[Sizes], bool]:
    """Return programs with the losses that code adds at training only, their sizes, and whether there are such."""
    if "training" not in inspect.signature(layer.call).parameters:
        return programs, sizes, False
    others, own = [attempt(layer, given, each, training=True) for each in sizes], own_layers(layer)
    equal = [replace(each, times=()) for each in sizes]
    if equal != sizes and not all(isinstance(each, Program) for each in others):  # a loss may want equal sizes
        found = [attempt(layer, given, each) for each in equal]
        if all(
            isinstance(a, Program) and is_same(kinds(a.steps_of_outputs), kinds(b.steps_of_outputs))
            for a, b in zip(found, programs)
        ):
            programs, sizes = found, equal
            others = [attempt(layer, given, each, training=True) for each in sizes]
    for mine, other in zip(programs, others):
        if isinstance(other, Untraceable):
            raise other
        steps = ([described(step, own) for step in each.steps] for each in (mine, other))
        if mine.losses and not (mine.losses == other.losses and is_same(*steps)):
            raise Untraceable("it adds another loss by `add_loss` at training")
    if programs[0].losses or not others[0].losses:
        return programs, sizes, False
    for mine, other in zip(programs, others):  # whose steps for the outputs are the same
        mine.steps += other.steps[mine.count :]
        mine.losses, mine.known = other.losses, mine.known | other.known
    return programs, sizes, True
