"""Rules of movements that take tensors apart: slices, splits, indices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_rmda.channels.moves import Move, Moves, full_axis, inner_axis, linked
from keras_rmda.channels.positions import axis_of, first_half, index_of, key_of, shifts_of, taken
from keras_rmda.channels.rule import Demand, Rule, State
from keras_rmda.channels.sites import Block, Call, Cut, Site
from keras_rmda.channels.tensors import Atoms, NotCovered, along, matrix


def of_take(operation: Any) -> Rule:
    """Return the rule of an `ops.take`: by numbers that are given, or that are a tensor."""
    return Takes(taken) if len(operation._inbound_nodes[-1].input_tensors) < 2 else TakesRows()


def staying(call: Call, cut: Cut, axis: int) -> np.ndarray | None:
    """Return what stays along an axis of the first input, the batch axis counted; None where nothing goes."""
    x = call.inputs[0]
    axis = inner_axis(x, axis)
    stays = np.ones(1, bool) if x.atoms.shape[axis] == 1 else cut.along(x, axis)
    return None if stays.all() else stays


@dataclass(frozen=True)
class Splits(Moves):
    """One tensor becomes several; args as of `Moves`."""

    def blocks_of_rows(self, call: Call) -> list[Block] | None:
        [x] = call.inputs
        if axis_of(call) != full_axis(x, x.width):
            return []
        return (
            linked(matrix(x), *(matrix(y) for y in call.outputs)) if len(call.outputs[0].full) == len(x.full) else None
        )

    def config(self, site: Site, config: dict[str, Any], cut: Cut) -> dict[str, Any]:
        call = site.calls[0]
        axis, asked = inner_axis(call.inputs[0], axis_of(call)), config.get("indices_or_sections")
        if asked is None or staying(call, cut, axis_of(call)) is None:
            return config
        sizes = [int(cut.sizes(y)[axis]) for y in call.outputs]
        even = isinstance(asked, int) and len(set(sizes)) == 1
        return config | {"indices_or_sections": asked if even else np.cumsum(sizes)[:-1].tolist()}


@dataclass(frozen=True)
class Takes(Moves):
    """Positions by a constant index; args as of `Moves`."""

    def blocks_of_rows(self, call: Call) -> list[Block] | None:
        return None if axis_of(call) == full_axis(call.inputs[0], call.inputs[0].width) else []

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        [x], axis = call.inputs, axis_of(call)
        if index_of(call).ndim > 1 and x.with_batch(x.atoms).shape[axis] > 1:
            raise NotCovered("an index of several axes into channels")
        return super().atoms(call, ties)

    def arguments(self, call: Call, cut: Cut, given: tuple[tuple, dict]) -> tuple[tuple, dict]:
        stays = staying(call, cut, axis_of(call))
        if stays is None:
            return given
        index = index_of(call) % len(stays)
        new = np.cumsum(stays)[index[stays[index]] if index.ndim else index] - 1
        arguments, keyword_arguments = given
        return ((arguments or (keyword_arguments["x"],))[0], new.astype("int32")), {}


@dataclass(frozen=True)
class TakesRows(Rule):
    """`ops.take` of rows that are the same for all samples, by numbers of each sample, as an embedding does."""

    def batch_axes(self, call: Call) -> list[int | None]:
        return [0]

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        [x, places] = call.inputs
        if x.batched or places.batch != 0 or call.layer.axis != 0 or x.atoms.shape[0] > 1 or places.index == x.index:
            raise NotCovered("an index that the model computes")
        ties.tie(places.atoms.reshape(-1)[:1], places.atoms)
        return [x.atoms.reshape(*[1] * len(places.shape), *x.atoms.shape[1:])]

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        return [state.constants(call.inputs[0]).reshape(call.outputs[0].atoms.shape)]

    def demands(self, call: Call, state: State) -> list[Demand]:
        [x, places], needed, why = call.inputs, state.needed(call.outputs[0]), f"read by {call.site.name}"
        return [(x, needed.reshape(x.atoms.shape), why), (places, np.full(places.atoms.shape, needed.any()), why)]


@dataclass(frozen=True)
class Segments(Rule):
    """`ops.segment_sum` along an axis of positions, the first, by numbers that are given: zeros have no part in it."""

    def batch_axes(self, call: Call) -> list[int | None]:
        x = call.inputs[0]
        if len(call.inputs) != 1 or x.batch == 0:
            raise NotCovered("segments of samples, or that the model computes")
        return [x.batch]

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        [x] = call.inputs
        ties.tie(x.atoms[:1], x.atoms)
        return [x.atoms[:1]]

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        return [np.where((state.constants(call.inputs[0]) == 0).all(axis=0, keepdims=True), 0.0, np.nan)]

    def demands(self, call: Call, state: State) -> list[Demand]:
        [x], needed = call.inputs, state.needed(call.outputs[0])
        return [(x, np.broadcast_to(needed, x.atoms.shape), f"read by {call.site.name}")]


@dataclass(frozen=True)
class TakesAlong(Rule):
    """`ops.take_along_axis` over positions: the numbers at places that are the same for all channels."""

    def batch_axes(self, call: Call) -> list[int | None]:
        if len(call.inputs) != 2:
            raise NotCovered("an array among its arguments")
        return super().batch_axes(call)

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        (x, places), axis = call.inputs, call.layer.axis
        if axis is None or axis % len(x.full) == 0 or len(places.shape) != len(x.shape):
            raise NotCovered(f"axis={axis}, over samples or everything")
        several = [k for k, n in enumerate(x.atoms.shape) if n > 1]
        own = [k for k in several if places.shape[k] != 1]
        if axis % len(x.full) - 1 in several or any(places.atoms.shape[k] != x.atoms.shape[k] for k in own):
            raise NotCovered("other places for each channel")
        if own:
            ties.tie(x.atoms, places.atoms)
        return [x.atoms]

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        return [state.constants(call.inputs[0])]

    def demands(self, call: Call, state: State) -> list[Demand]:
        (x, places), needed, why = call.inputs, state.needed(call.outputs[0]), f"read by {call.site.name}"
        return [(x, needed, why), (places, places.unrepeated(needed), why)]


@dataclass(frozen=True)
class Indexes(Moves):
    """`x[key]` with numbers and slices; args as of `Moves`."""

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        [x] = call.inputs
        for part, axis in key_of(call):
            if isinstance(part, slice) and axis != (x.batch if x.batched else None):
                atoms = np.moveaxis(x.atoms, inner_axis(x, axis), 0)
                if len(atoms) == 1:
                    continue
                _, stop, step = part.indices(len(atoms))
                if step < -1:
                    raise NotCovered(f"the index {part} into channels")
                # Of every so many channels one: they go together, so that the same one of those that stay is taken.
                for first in range(0, stop, step) if step > 1 else ():
                    ties.tie(atoms[first : first + 1], atoms[first : first + step])
        return super().atoms(call, ties)

    def blocks_of_rows(self, call: Call) -> list[Block] | None:
        [x], [y] = call.inputs, call.outputs
        parts = {axis: part for part, axis in key_of(call) if axis is not None}
        part = slice(None) if x.width is None else parts[full_axis(x, x.width)]
        if part == slice(None):
            return []
        if not isinstance(part, slice):
            return None
        start = min(part.indices(x.atoms.shape[x.width])[:2]) + (part.step is not None and part.step < 0)
        return linked(matrix(x), matrix(y), matrix(x, slice(start)))

    def arguments(self, call: Call, cut: Cut, given: tuple[tuple, dict]) -> tuple[tuple, dict]:
        key = []
        for part, axis in key_of(call):
            stays = None if axis is None or part == slice(None) else self._staying(call, cut, axis)
            key.append(part if stays is None else cut_slice(part, stays))
        return (given[0][0], tuple(key) if key != [part for part, _ in key_of(call)] else given[0][1]), {}

    @staticmethod
    def _staying(call: Call, cut: Cut, axis: int) -> np.ndarray | None:
        x = call.inputs[0]
        return None if x.batched and axis == x.batch else staying(call, cut, axis)


def cut_slice(part: int | slice, stays: np.ndarray) -> int | slice:
    """Return an index into positions for those of them that stay."""
    before = np.concatenate([[0], np.cumsum(stays)]).tolist()
    if not isinstance(part, slice):
        return before[part % len(stays)]
    start, stop, step = part.indices(len(stays))
    if step < 0:
        first, last = before[stop + 1], before[start + 1]
        return slice(last - 1, first - 1 if first else None, -1)
    first = start - start % step
    return slice(before[first] + start % step, before[max(start, stop)], part.step)


@dataclass(frozen=True)
class Repeats(Moves):
    """Positions several times, each as often or not; args as of `Moves`."""

    def blocks_of_rows(self, call: Call) -> list[Block] | None:
        [x] = call.inputs
        alike = np.ndim(call.layer.repeats) == 0 or axis_of(call) != full_axis(x, x.width)
        return [] if alike else None

    def config(self, site: Site, config: dict[str, Any], cut: Cut) -> dict[str, Any]:
        call = site.calls[0]
        stays, repeats = staying(call, cut, axis_of(call)), np.asarray(call.layer.repeats)
        return config if stays is None or repeats.size == 1 else config | {"repeats": repeats[stays].tolist()}


@dataclass(frozen=True)
class Spreads(Rule):
    """One number repeated for as many channels as are read: `ops.repeat`, `tile` or `broadcast_to` along the last axis.

    Or along the first behind the samples, as one mask for all heads.

    Args:
        otherwise: the rule where something else is repeated, too.
        target: the configuration key that holds the numbers of repeats, or the shape.
    """

    otherwise: Moves
    target: str

    def rule(self, layer: Any) -> Rule:
        """Return the rule for this very operation."""
        node = layer._inbound_nodes[-1]
        [x], [y] = node.input_tensors, node.output_tensors
        if len(x.shape) != len(y.shape):
            return self.otherwise
        changed = [k for k, (n, m) in enumerate(zip(x.shape, y.shape)) if n != m and k]
        last = len(x.shape) - 1
        first = next((k for k, n in enumerate(y.shape) if k and n != 1), last)  # of what has an axis more in front
        is_one = changed in ([last], [first] if last > 2 else [last]) and x.shape[changed[0]] == 1
        return self if is_one and y.shape[changed[0]] is not None else self.otherwise

    def axis(self, call: Call) -> int:
        """Return the axis along which a tensor is repeated, the samples not counted."""
        [x], [y] = call.inputs, call.shapes
        return next(k for k, (n, m) in enumerate(zip(x.shape, y)) if n != m)

    def repeats_all(self, call: Call) -> bool:
        """Return whether it is one number, or several that go together, which is repeated."""
        [x] = call.inputs
        return self.axis(call) == len(x.shape) - 1 or x.atoms.size == 1

    def batch_axes(self, call: Call) -> list[int | None]:
        return self.otherwise.batch_axes(call)

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        [x], [shape] = call.inputs, call.shapes
        if not self.repeats_all(call):
            return self.otherwise.atoms(call, ties)
        numbers, axis = x.atoms.reshape(-1), self.axis(call)
        ties.tie(numbers[:1], numbers)
        return [along(call.fresh("c", ties, shape[axis]), len(shape), axis)]

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        if not self.repeats_all(call):
            return self.otherwise.constants(call, state)
        values = state.constants(call.inputs[0])
        return [values if values.size == 1 else np.full([1] * values.ndim, np.nan)]

    def demands(self, call: Call, state: State) -> list[Demand]:
        if not self.repeats_all(call):
            return self.otherwise.demands(call, state)
        [x], needed = call.inputs, state.needed(call.outputs[0]).any()
        return [(x, np.full(x.atoms.shape, needed), f"read by {call.site.name}")]

    def rows(self, call: Call, ties: Atoms) -> list[Block]:
        return super().rows(call, ties) if self.repeats_all(call) else self.otherwise.rows(call, ties)

    def config(self, site: Site, config: dict[str, Any], cut: Cut) -> dict[str, Any]:
        if "c" not in site.own:
            return self.otherwise.config(site, config, cut)
        count, asked = int(cut.stays(site.own["c"]).sum()), config[self.target]
        if not isinstance(asked, list | tuple):
            return config | {self.target: count}
        place = self.axis(site.calls[0]) - len(site.calls[0].inputs[0].shape)
        return config | {self.target: tuple(count if k == len(asked) + place else n for k, n in enumerate(asked))}


@dataclass(frozen=True)
class Rolls(Moves):
    """Positions shifted in a circle; args as of `Moves`."""

    def blocks_of_rows(self, call: Call) -> list[Block] | None:
        [x] = call.inputs
        return None if full_axis(x, x.width) in shifts_of(call)[1] else []

    def config(self, site: Site, config: dict[str, Any], cut: Cut) -> dict[str, Any]:
        call, new = site.calls[0], []
        for shift, axis in zip(*shifts_of(call)):
            stays = staying(call, cut, axis)
            new.append(shift if stays is None else int(stays[len(stays) - shift % len(stays) :].sum()))
        single = isinstance(config["axis"], int)
        return config | {"shift": new[0] if single else new}


@dataclass(frozen=True)
class Halves(Moves):
    """`ops.glu`: the first half of an axis, each channel times a function of one of the second; args as of `Moves`."""

    move: Move = first_half

    def _halves(self, call: Call, array: np.ndarray) -> list[np.ndarray]:
        """Return both halves of an array like the atoms, or twice the array where it does not change along the axis."""
        axis = inner_axis(call.inputs[0], axis_of(call))
        return [array, array] if array.shape[axis] == 1 else np.split(array, 2, axis)

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        first, second = self._halves(call, call.inputs[0].atoms)
        ties.tie(first, second)
        return [first]

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        first, second = self._halves(call, state.constants(call.inputs[0]))
        return [np.where(first == 0, 0.0, first / (1 + np.exp(-second)))]

    def demands(self, call: Call, state: State) -> list[Demand]:
        [x], needed = call.inputs, state.needed(call.outputs[0])
        zero = self._halves(call, state.constants(x) == 0)[0]
        axis = inner_axis(x, axis_of(call))
        wanted = needed if x.atoms.shape[axis] == 1 else np.concatenate([needed, needed & ~zero], axis)
        return [(x, wanted, f"read by {call.site.name}")]

    def blocks_of_rows(self, call: Call) -> list[Block] | None:
        [x] = call.inputs
        if axis_of(call) != full_axis(x, x.width):
            return []
        return linked(matrix(x), *np.split(matrix(x), 2, -1))
