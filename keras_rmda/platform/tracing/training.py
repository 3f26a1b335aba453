"""What the code of a layer does at training only."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace

import keras

from keras_rmda.platform.tracing.attempts import all_or_one, attempt, symbols_in
from keras_rmda.platform.tracing.noisy import is_draw, with_noise
from keras_rmda.platform.tracing.programs import Place, Program, Untraceable, described, is_same, kinds, own_layers
from keras_rmda.platform.tracing.silent import is_silent, with_default_training, without
from keras_rmda.platform.tracing.sizes import NUMBERS, OPEN, Sizes

DIFFERS = "its own code, not a layer inside, does something else {}"
"""Why the code of a layer is not followed, and when it does that."""


def as_trained(
    layer: keras.Layer, given: tuple, sizes: list[Sizes], programs: list[Program]
) -> tuple[list[Program], list[Sizes]]:
    """Return the programs of a layer, and their sizes, with what it does at training only.

    That is what does nothing at inference, and what draws random numbers.

    Raises:
        Untraceable: if the code itself, not a layer inside, does something else at training, which would be lost, or
            at every call.
    """
    own, first, result = own_layers(layer), sizes[0], programs[0]
    if any(map(is_draw, result.steps)):
        raise Untraceable(DIFFERS.format("at every call"))
    equal = attempt(layer, given, replace(first, times=())) if first.times else None
    if isinstance(equal, Program):  # a loss may want equal sizes of what is not used otherwise
        first, result = replace(first, times=()), equal
    says = lambda found: [described(step, own) for step in found.steps_of_outputs]  # noqa: E731
    for training in (None, True, False) if "training" in inspect.signature(layer.call).parameters else (None,):
        other = attempt(layer, given, first, training)
        if isinstance(other, Program) and is_same(says(result), says(other)):
            continue
        if training and isinstance(other, Program):
            silent = {id(x) for x in (step.operation for step in other.steps) if is_silent(x, other)}
            pair = [without(each, silent) for each in (result, other)]
            if not result.losses:  # those of training come later
                pair = [without_losses(each) for each in pair]
            whole = [[[described(step, own) for step in each.steps], each.losses] for each in pair]
            if silent and is_same(*whole):
                found = all_or_one(attempt(layer, given, each, training) for each in sizes)
                if len(found) == len(sizes):
                    found = found if result.losses else map(without_losses, found)
                    programs = [with_default_training(each) for each in found]
                    continue
        has_more = training and layer.weights and not first.times  # without weights, a layer stays as it is
        if has_more and (noisy := noisy_programs(layer, given, sizes, own)) is not None:
            programs, sizes = noisy
            continue
        raise Untraceable(DIFFERS.format("at every call" if training is None else "at training"))
    return programs, sizes


def noisy_programs(
    layer: keras.Layer, given: tuple, sizes: list[Sizes], own: set[int]
) -> tuple[list[Program], list[Sizes]] | None:
    """Return the programs of a layer that draws random numbers at training, and their sizes; None if it does more.

    At open sizes nobody knows which tensor has that of random numbers.
    """
    count = len(symbols_in(given))
    for each in [sizes, *(list(pair) for pair in NUMBERS if sizes == [OPEN])]:
        both = [all_or_one(attempt(layer, given, size, training) for size in each) for training in (None, True)]
        if all(isinstance(one, Program) for some in both for one in some):
            found = [with_noise(*pair, own, count) for pair in zip(*both, strict=True)]
            if all(found) and all(is_same(kinds(one.steps), kinds(found[0].steps)) for one in found):
                return found, each
    return None


def ways_with_losses(
    layer: keras.Layer, given: tuple, sizes: list[Sizes], programs: list[Program]
) -> Iterator[tuple[list[Program], list[Sizes]] | Untraceable]:
    """Give programs with the losses that code adds, and their sizes, until a graph can be made of them.

    A loss may want equal sizes where others differ. If there is one, the last way is without it; before that comes why
    it cannot be followed, if code does not run to it.
    """
    takes_training, own = "training" in inspect.signature(layer.call).parameters, own_layers(layer)
    says = lambda found: [kinds(each.steps_of_outputs) for each in found]  # noqa: E731
    has_losses = False
    for at in (sizes, [replace(each, times=()) for each in sizes]):
        if at != sizes:
            found = [attempt(layer, given, each) for each in at]
            if not all(isinstance(each, Program) for each in found) or not is_same(says(found), says(programs)):
                break
        else:
            found = programs
        others = [attempt(layer, given, each, training=True) for each in at] if takes_training else found
        refused = [each for each in others if isinstance(each, Untraceable)]
        has_losses = has_losses or bool(refused) or any(each.losses for each in (*found, *others))
        if refused:
            yield refused[0]
        else:
            yield [with_both(a, b, own) for a, b in zip(found, others)], at
        if not has_losses:  # equal sizes would be taken for one
            return
        if at == sizes == [replace(each, times=()) for each in sizes]:
            break
    yield [without_losses(each) for each in programs], sizes


def without_losses(program: Program) -> Program:
    """Return what a program does for its outputs."""
    return replace(program, steps=program.steps_of_outputs, losses=[])


def with_both(mine: Program, other: Program, own: set[int]) -> Program:
    """Return a program with its losses, and those at training of another, whose steps for the outputs are the same.

    Args:
        mine, other: the programs.
        own: the layers that exist beside the code, by `id`.
    """
    if mine.losses_of_training or not (mine.losses or other.losses):
        return mine
    said = [[described(step, own) for step in each.steps] for each in (mine, other)]
    if mine.losses == other.losses and is_same(*said):
        return replace(mine, losses_of_training=mine.losses)
    more = len(mine.steps) - mine.count
    is_behind = lambda x: isinstance(x, Place) and x.step >= mine.count  # noqa: E731
    moved = lambda x: Place(x.step + more, x.number) if is_behind(x) else x  # noqa: E731
    steps = [
        replace(each, arguments=keras.tree.map_structure(moved, each.arguments)) for each in other.steps[mine.count :]
    ]
    known = mine.known | {number: moved(place) for number, place in other.known.items()}
    losses = [replace(each, place=moved(each.place)) for each in other.losses]
    return replace(mine, steps=[*mine.steps, *steps], known=known, losses_of_training=losses)
