"""Rules of movements of numbers, for atoms, constants and needs alike."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import keras
import numpy as np

from keras_rmda.channels.positions import (
    accumulated,
    axes_of,
    axis_of,
    groups_of,
    mixed_with_open_axes,
    moments,
    reduced,
    reshaped,
    stacked,
)
from keras_rmda.channels.rule import Demand, Rule, State
from keras_rmda.channels.sites import Block, Call, Cut, Site
from keras_rmda.channels.tensors import Atoms, NotCovered, Tensor, matrix, varying

Move = Callable[[Call, list[np.ndarray]], np.ndarray | list[np.ndarray]]
"""(call, arrays) -> arrays: what becomes of arrays like the atoms of the inputs, with the batch axis."""


@dataclass(frozen=True)
class Moves(Rule):
    """The same numbers in another arrangement.

    Args:
        move: (call, arrays) -> what becomes of arrays like the atoms of the inputs, with the batch axis of size 1.
        target: the configuration key that holds the shape of the output, or None.
        refusal: (layer) -> the reason why this rule does not cover this very layer, or None.

    Example:
        >>> kr.register_rule(MyReversal, kr.channels.Moves(lambda call, arrays: np.flip(arrays[0], axis=1)))
    """

    move: Move
    target: str | None = None
    refusal: Callable[[Any], str | None] | None = None

    def batch_axes(self, call: Call) -> list[int | None]:
        if any(not x.batched for x in call.inputs):
            raise NotCovered("a weight without batch axis")
        return self._marked(call)

    def _marked(self, call: Call) -> list[int]:
        """Return where a mark along the batch axis of the inputs goes."""
        marks = [np.arange(2).reshape([2 if k == x.batch else 1 for k in range(len(x.full))]) for x in call.inputs]
        found = []
        for mark in as_list(self.move(call, marks)):
            places = varying(mark)
            if len(places) != 1:
                raise NotCovered("a batch axis that does not stay one axis")
            found += places
        return found

    def moved(self, call: Call, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Return what becomes of arrays like the atoms of the inputs."""
        results = as_list(self.move(call, [x.with_batch(array) for x, array in zip(call.inputs, arrays)]))
        return [array.squeeze(axis) for array, axis in zip(results, call.batch, strict=True)]

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        return self.moved(call, [x.atoms for x in call.inputs])

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        return self.moved(call, [state.constants(x) for x in call.inputs])

    def demands(self, call: Call, state: State) -> list[Demand]:
        ends = np.cumsum([0, *(x.atoms.size for x in call.inputs)])
        places = [np.arange(a, b).reshape(x.atoms.shape) for a, b, x in zip(ends, ends[1:], call.inputs)]
        wanted = np.zeros(ends[-1], dtype=bool)
        for y, place in zip(call.outputs, self.moved(call, places)):
            wanted[place[state.needed(y)]] = True
        return [(x, wanted[place], f"read by {call.site.name}") for x, place in zip(call.inputs, places)]

    def rows(self, call: Call, ties: Atoms) -> list[Block]:
        tensors = [x for x in [*call.inputs, *call.outputs] if x.width is not None]
        blocks = self.blocks_of_rows(call) if tensors else []
        for x in tensors if blocks is None else []:
            x.channels(x.width, ties)
        return blocks or []

    def blocks_of_rows(self, call: Call) -> list[Block] | None:
        """Return what else must stay in equal numbers in each row; None where all rows must keep the same."""
        return []

    def config(self, site: Site, config: dict[str, Any], cut: Cut) -> dict[str, Any]:
        if self.target is None:
            return config
        [y], asked = site.calls[0].outputs, config[self.target]
        kept = cut.sizes(y)
        changes = [n > 1 for n in y.atoms.shape]
        if len(asked) > len(kept):  # of raw operations
            kept.insert(y.batch, None)
            changes.insert(y.batch, False)
        new = [int(k) if change and m != -1 else m for k, change, m in zip(kept, changes, asked, strict=True)]
        return config | {self.target: tuple(new)}


def as_list(arrays: np.ndarray | list[np.ndarray]) -> list[np.ndarray]:
    """Return arrays as a list."""
    return arrays if isinstance(arrays, list) else [arrays]


def full_axis(x: Tensor, axis: int | None) -> int | None:
    """Return an axis of a tensor with the batch axis counted."""
    return axis if axis is None or not x.batched or axis < x.batch else axis + 1


def inner_axis(x: Tensor, axis: int) -> int:
    """Return an axis that counts the batch axis as one of `atoms`."""
    return axis - (x.batched and axis > x.batch)


def linked(*matrices: np.ndarray) -> list[Block] | None:
    """Return the block of matrices whose rows go together, if they have the same rows."""
    if len({each.shape[:-1] for each in matrices}) > 1:
        return None
    return [Block([each for each in matrices if each.shape[-1]], least=lambda rows: 0)]


@dataclass(frozen=True)
class Reshapes(Moves):
    """Another shape; args as of `Moves`."""

    move: Move = reshaped

    def _marked(self, call: Call) -> list[int]:
        [x], found = call.inputs, []
        if isinstance(call.layer, keras.layers.Reshape) and x.batch == 0:  # the layer keeps the samples
            return [0]
        for start, a, end, b in groups_of(x.full, call.full[0]):
            if start <= x.batch < start + len(a) and b:
                found.append(end + (b.index(None) if None in b else 0))
        if len(found) != 1:
            raise NotCovered("a batch axis that does not stay one axis")
        return found

    def _open(self, call: Call) -> tuple[int, ...]:
        """Return the axes along which nothing can go."""
        return tuple(inner_axis(call.inputs[0], axis) for axis in mixed_with_open_axes(call))

    def moved(self, call: Call, arrays: list[np.ndarray]) -> list[np.ndarray]:
        for axis in self._open(call):
            arrays = [np.take(arrays[0], [0], axis)]
        return super().moved(call, arrays)

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        for axis in self._open(call):
            ties.tie(np.take(call.inputs[0].atoms, [0], axis), call.inputs[0].atoms)
        return super().atoms(call, ties)

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        values = state.constants(call.inputs[0])
        for axis in self._open(call):
            values = np.where((values == np.take(values, [0], axis)).all(axis, keepdims=True), values, np.nan)
        return self.moved(call, [values])

    def demands(self, call: Call, state: State) -> list[Demand]:
        [(x, wanted, reason)] = super().demands(call, state)
        return [(x, np.broadcast_to(wanted.any(axis=self._open(call), keepdims=True), wanted.shape), reason)]

    def copies(self, call: Call) -> Fraction | int:
        [x], [shape] = call.inputs, call.shapes
        return 1 if None in (*x.shape, *shape) else Fraction(math.prod(x.shape), math.prod(shape))

    def blocks_of_rows(self, call: Call) -> list[Block] | None:
        # Axes that become one, or were one, have the numbers of a row next to each other.
        [x], [y] = call.inputs, call.outputs
        for start, a, end, b in groups_of(x.full, call.full[0]):
            for t, first, sizes in ((x, start, a), (y, end, b)):
                axes = [k for k in map(lambda k: full_axis(t, k), varying(t.atoms)) if first <= k < first + len(sizes)]
                if a != b and len(axes) > 1 and full_axis(t, t.width) in axes[:-1]:
                    return None
        return []


@dataclass(frozen=True)
class Joins(Moves):
    """Concatenation and stacking: along positions, all tensors have the same channels; args as of `Moves`."""

    def batch_axes(self, call: Call) -> list[int | None]:
        if len(keras.tree.flatten(call.arguments)) != len(call.inputs):
            raise NotCovered("an array among its arguments")
        return super().batch_axes(call)

    def _laid(self, call: Call, arrays: list[np.ndarray]) -> list[np.ndarray] | None:
        """Return arrays like the atoms of the inputs in one shape, if the axis is one of positions, else None."""
        rank = len(call.full[0])
        axis, arrays = axis_of(call, rank=rank), [x.with_batch(array) for x, array in zip(call.inputs, arrays)]
        if any(array.ndim == rank and array.shape[axis] > 1 for array in arrays):
            return None
        if all(array.size == 1 for array in arrays) and call.full[0][axis] is not None:
            return None
        laid = [array if array.ndim == rank else np.expand_dims(array, axis) for array in arrays]
        return [array.squeeze(call.batch[0]) for array in np.broadcast_arrays(*laid)]

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        laid = self._laid(call, [x.atoms for x in call.inputs])
        if laid is None:
            return super().atoms(call, ties)
        for other in laid[1:]:
            ties.tie(laid[0], other)
        return [laid[0]]

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        laid = self._laid(call, [state.constants(x) for x in call.inputs])
        if laid is None:
            return super().constants(call, state)
        return [np.where(np.all([each == laid[0] for each in laid], axis=0), laid[0], np.nan)]

    def demands(self, call: Call, state: State) -> list[Demand]:
        if self._laid(call, [x.atoms for x in call.inputs]) is None:
            return super().demands(call, state)
        [y], demands = call.outputs, []
        needed = y.with_batch(state.needed(y))
        axis = axis_of(call, rank=needed.ndim)
        for x in call.inputs:
            wanted = needed if len(x.full) == needed.ndim else needed.any(axis=axis)
            demands.append((x, x.unrepeated(wanted.squeeze(x.batch)), f"read by {call.site.name}"))
        return demands

    def blocks_of_rows(self, call: Call) -> list[Block] | None:
        [y] = call.outputs
        if self.move is stacked or axis_of(call, rank=len(y.full)) != full_axis(y, y.width):
            return []
        return linked(matrix(y), *(matrix(x) for x in call.inputs))


@dataclass(frozen=True)
class Reduces(Moves):
    """The mean or an extremum over axes: channels along them go together, as there must be as many; args as of `Moves`.

    Args:
        keeps: whether what is the same everywhere is what comes out.
    """

    move: Move = reduced
    keeps: bool = True

    def _axes(self, call: Call) -> tuple[int, ...]:
        return tuple(inner_axis(call.inputs[0], axis) for axis in axes_of(call))

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        [x], found = call.inputs, super().atoms(call, ties)
        for axis in self._axes(call):
            ties.tie(np.take(x.atoms, [0], axis), x.atoms)
        return found

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        values = state.constants(call.inputs[0])
        values = values if self.keeps else np.full_like(values, np.nan)
        for axis in self._axes(call):
            values = np.where((values == np.take(values, [0], axis)).all(axis, keepdims=True), values, np.nan)
        return self.moved(call, [values])

    def demands(self, call: Call, state: State) -> list[Demand]:
        [x], [y] = call.inputs, call.outputs
        needed = state.needed(y)
        needed = needed if call.layer.keepdims else np.expand_dims(needed, self._axes(call))
        return [(x, np.broadcast_to(needed, x.atoms.shape), f"read by {call.site.name}")]


@dataclass(frozen=True)
class Accumulates(Moves):
    """Sums over the positions so far; args as of `Moves`."""

    move: Move = accumulated

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        return [np.where(values == 0, 0.0, np.nan) for values in super().constants(call, state)]


@dataclass(frozen=True)
class Moments(Reduces):
    """The mean and the variance over axes; args as of `Reduces`."""

    move: Move = moments

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        mean, _ = super().constants(call, state)
        return [mean, np.where(np.isnan(mean), np.nan, 0.0)]

    def demands(self, call: Call, state: State) -> list[Demand]:
        [x], needed = call.inputs, np.any([state.needed(y) for y in call.outputs], axis=0)
        needed = needed if call.layer.keepdims else np.expand_dims(needed, self._axes(call))
        return [(x, np.broadcast_to(needed, x.atoms.shape), f"read by {call.site.name}")]


@dataclass(frozen=True)
class Patches(Moves):
    """The channels of neighbouring positions behind each other; zeros are added at borders; args as of `Moves`."""

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        found = super().constants(call, state)
        return found if call.layer.padding == "valid" else [np.where(each == 0, 0.0, np.nan) for each in found]
