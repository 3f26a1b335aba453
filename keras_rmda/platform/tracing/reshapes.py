"""Reshapes of programs at numbers, for any numbers."""

from __future__ import annotations

import math
from typing import Any

from keras import ops

from keras_rmda.platform.tracing.leaves import (
    Exchanged,
    ForEachSample,
    PositionsLike,
    Regrouped,
    SamplesAsSteps,
    StepsAsSamples,
)
from keras_rmda.platform.tracing.programs import Place, Step, Untraceable
from keras_rmda.platform.tracing.shapes import open_shape
from keras_rmda.platform.tracing.symbols import Symbol, Symbols


def reshaped(graph: Symbols, a: Step, b: Step, x: Symbol) -> Symbol:
    """Reshape with -1 in the place of an open size; as a layer, which keeps the batch, where there are two."""
    [place] = a.places
    before, after = [each.shape(place) for each in graph.programs], [a.shapes[0], b.shapes[0]]
    inner = x.tensor.shape[2:]  # of several open axes it is not known which become one
    if x.batched and x.tensor.shape[1:2] == (None,) and None not in inner and inner == open_shape(*after)[1:]:
        return Symbol(StepsAsSamples(name=graph.name("steps_as_samples"))(x.tensor))
    if len(graph.programs) == 1:
        return Symbol(a.operation(x.tensor))
    if (like := _with_steps(graph, before, after)) is not None:
        return Symbol(SamplesAsSteps(name=graph.name("samples_as_steps"))([x.tensor, like]))
    sizes = [-1 if n is None or n != m else n for n, m in zip(*after)]  # None behind layers that declare open sizes
    keeps = before[0][0] == after[0][0] and before[-1][0] == after[1][0]
    if keeps and sizes[1:].count(-1) <= 1:
        return Symbol(graph.inner(x.tensor, sizes[1:]))
    if keeps and (like := _with_positions(graph, before, after)) is not None and None not in x.tensor.shape[2:]:
        other, count = like
        return Symbol(PositionsLike(count, name=graph.name("positions_like"))([x.tensor, other]))
    if keeps and (segments := _segments(before, after)):
        return Symbol(Regrouped(sizes[1:], segments, name=graph.name("regrouped"))(x.tensor))
    if x.batched and sizes.count(-1) > 1 and (axes := _own_sizes(before, after)):
        return Symbol(Exchanged(sizes, axes, name=graph.name("exchanged"))(x.tensor))
    if sizes.count(-1) > 1:
        raise Untraceable("it reshapes to several open sizes")
    return Symbol(ops.reshape(x.tensor, sizes))


def broadcast(graph: Symbols, a: Step, b: Step, x: Symbol) -> Symbol | None:
    """Repeat along axes of size 1, whatever the open sizes are; None where they are what becomes of one."""
    before = [each.shape(a.places[0]) for each in (graph.programs[0], graph.programs[-1])]
    axes = list(zip(*before, a.shapes[0], b.shapes[0])) if len(before[0]) == len(a.shapes[0]) else []
    if not axes or any((n, m) != (k, i) and (k != i or n != m or n != 1) for n, m, k, i in axes):
        return None
    y = x.tensor
    for axis, (n, _, k, _) in enumerate(axes):
        y = ops.repeat(y, k, axis=axis) if n != k else y
    if axes[0][:2] == axes[0][2:] == tuple(sizes.batch for sizes in (graph.sizes[0], graph.sizes[-1])):
        samples = graph.others(a.places[0])  # which may be more than those that it has here
        return Symbol(ForEachSample(name=graph.name("for_each_sample"))([y, samples[0]]) if samples else y)
    if all((n, m) == (k, i) for n, m, k, i in axes) and axes[0][0] != axes[0][1]:
        raise Untraceable("it repeats along open sizes that may be 1 or not")  # the same here, by chance
    return Symbol(y)


def _segments(before: list[tuple], after: list[tuple]) -> list[tuple[int, int, int, int]]:
    """Return which neighbouring axes hold the same numbers before and after a reshape, as of `Regrouped`.

    Nothing if two of those of one segment are open behind the reshape: it is not known how large each is.
    """
    old, new = ([(a, b) for a, b in zip(*each)] for each in ((before[0], before[-1]), (after[0], after[-1])))
    segments, first, start = [], 0, 0
    while first < len(old) or start < len(new):
        i, k = first + 1, start + 1
        while (have := _products(old[first:i])) != (want := _products(new[start:k])):
            if i >= len(old) and k >= len(new):
                return []
            i, k = (i + 1, k) if i < len(old) and (have[0] < want[0] or k >= len(new)) else (i, k + 1)
        while i == len(old) and k < len(new):  # ones at the end
            k += 1
        while k == len(new) and i < len(old):
            i += 1
        if sum(n != m for n, m in new[start:k]) > 1:
            return []
        segments.append((first, i - first, start, k - start))
        first, start = i, k
    return segments if segments[0] == (0, 1, 0, 1) else []


def _own_sizes(before: list[tuple], after: list[tuple]) -> list[int]:
    """Return, for open sizes behind a reshape, the only axes before it that are as large; nothing if any has none."""
    old, new = ([(a, b) for a, b in zip(*each)] for each in ((before[0], before[-1]), (after[0], after[-1])))
    wanted = [pair for pair in new if pair[0] != pair[1]]
    return [old.index(pair) for pair in wanted] if all(old.count(pair) == 1 for pair in wanted) else []


def _products(sizes: list[tuple[int, int]]) -> tuple[int, int]:
    """Return the product of sizes for each of two numbers."""
    return math.prod(n for n, _ in sizes), math.prod(m for _, m in sizes)


def _with_positions(graph: Symbols, before: list[tuple], after: list[tuple]) -> tuple[Any, int] | None:
    """Return an input with the positions that a reshape makes of the second axis, and in how many axes it has them."""
    count = len(after[0]) - len(before[0]) + 1
    for k, x in enumerate(graph.inputs if count > 1 else ()):
        given = [each.shape(Place(-1, k))[1 : count + 1] for each in (graph.programs[0], graph.programs[-1])]
        if all(
            len(inner) == count and new[1:] == (*inner, *old[2:]) and old[1] == math.prod(inner)
            for inner, old, new in zip(given, (before[0], before[-1]), after)
        ):
            return x, count
    return None


def _with_steps(graph: Symbols, before: list[tuple], after: list[tuple]) -> Any:
    """Return an input with the steps that a reshape makes of the first axis, or None if it does not."""
    for k, x in enumerate(graph.inputs):
        steps = [each.shape(Place(-1, k))[:2] for each in (graph.programs[0], graph.programs[-1])]
        if len(x.shape) > 1 and all(
            new == (*step, *old[1:]) and old[0] == step[0] * step[1]
            for step, old, new in zip(steps, (before[0], before[-1]), after)
        ):
            return x
    return None
