"""Movements of channels, for atoms, constants and needs alike, and their rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_rmda.channels.rule import Demand, Rule, State
from keras_rmda.channels.sites import Call, Cut, Site
from keras_rmda.channels.tensors import Atoms, NotCovered, Shape


def inner_axis(axis: int, rank: int) -> int:
    """Return the number of an axis without the batch axis, of `rank` such axes; below 0 for the batch axis."""
    return axis - 1 if axis > 0 else rank + axis if axis < 0 else -1


def inner_axes(call: Call) -> list[int]:
    """Return the axes of an operation on one tensor, as `inner_axis` does; all axes are the batch axis too."""
    axes, rank = call.layer.axis, len(call.inputs[0].shape)
    return [inner_axis(axis, rank) for axis in ([axes] if isinstance(axes, int) else axes or [0])]


def concatenated(call: Call, arrays: list[np.ndarray], shape: Shape) -> np.ndarray:
    """Concatenate along the layer's axis, each array expanded along it."""
    axis = inner_axis(call.layer.axis, len(shape))
    if axis < 0 or shape[axis] is None:
        raise NotCovered(f"axis={call.layer.axis} of shape {shape}")
    common = np.broadcast_shapes(*([1 if k == axis else n for k, n in enumerate(a.shape)] for a in arrays))
    expanded = []
    for array, x in zip(arrays, call.inputs):
        target = list(common)
        target[axis] = x.shape[axis]
        expanded.append(np.broadcast_to(array, target))
    return np.concatenate(expanded, axis=axis)


def reshaped(call: Call, arrays: list[np.ndarray], shape: Shape) -> np.ndarray:
    """Reshape; axes that are neither split nor joined, or do not change the array, are not expanded."""
    [array], old, new = arrays, list(call.inputs[0].shape), list(shape)
    expanded, result = [], []
    while old or new:
        # The shortest ends of both shapes that hold as many numbers; an open axis ends only with everything before.
        a, b = [old.pop()] if old else [], [new.pop()] if new else []
        while (old or new) and (None in a + b or np.prod(a, dtype=int) != np.prod(b, dtype=int)):
            if None in a + b:
                a, b, old, new = [*old, *a], [*new, *b], [], []
            elif old and (np.prod(a, dtype=int) < np.prod(b, dtype=int) or not new):
                a.insert(0, old.pop())
            else:
                b.insert(0, new.pop())
        end = array.ndim - len(expanded)
        varies = max(array.shape[end - len(a) : end], default=1) > 1
        if varies and a != b and (None in a + b or not a or not b):
            raise NotCovered(f"channels along open axes of shape {call.inputs[0].shape}")
        if a == b:
            kept = list(array.shape[end - len(a) : end])
            expanded, result = kept + expanded, kept + result
        else:
            expanded = (a if varies else [1] * len(a)) + expanded
            result = (b if varies else [1] * len(b)) + result
    return np.broadcast_to(array, expanded).reshape(result)


def flattened(call: Call, arrays: list[np.ndarray], shape: Shape) -> np.ndarray:
    """Expand to the real shape and flatten, channels last, as Keras does."""
    [array], old = arrays, call.inputs[0].shape
    if None in shape:
        raise NotCovered(f"open axes in its input of shape {old}")
    array = np.broadcast_to(array, old)
    if call.layer.data_format == "channels_first" and array.ndim > 1:
        array = np.moveaxis(array, 0, -1)
    return array.reshape(-1)


def permuted(call: Call, arrays: list[np.ndarray], shape: Shape) -> np.ndarray:
    """Put the axes into another order."""
    return arrays[0].transpose([axis - 1 for axis in call.layer.dims])


def transposed(call: Call, arrays: list[np.ndarray], shape: Shape) -> np.ndarray:
    """Put the axes into the order of `ops.transpose`, `swapaxes` or `moveaxis`; the batch stays the first."""
    [array], layer = arrays, call.layer
    labelled = np.empty(range(array.ndim + 1), dtype=bool)  # the size of every axis is its number
    if hasattr(layer, "axes"):
        moved = np.transpose(labelled, layer.axes)
    elif hasattr(layer, "axis1"):
        moved = np.swapaxes(labelled, layer.axis1, layer.axis2)
    else:
        moved = np.moveaxis(labelled, layer.source, layer.destination)
    if moved.shape[0] != 0:
        raise NotCovered("a moved batch axis")
    return array.transpose([axis - 1 for axis in moved.shape[1:]])


def flipped(call: Call, arrays: list[np.ndarray], shape: Shape) -> np.ndarray:
    """Reverse the order along axes."""
    [array], axes = arrays, inner_axes(call)
    if min(axes) < 0:
        raise NotCovered(f"axis={call.layer.axis}, over the batch")
    return np.flip(array, axes)


def stacked(call: Call, arrays: list[np.ndarray], shape: Shape) -> np.ndarray:
    """Put arrays one behind the other along a new axis."""
    axis = inner_axis(call.layer.axis, len(shape))
    if axis < 0:
        raise NotCovered(f"axis={call.layer.axis}, before the batch")
    return np.stack(np.broadcast_arrays(*arrays), axis)


def indexed(call: Call, arrays: list[np.ndarray], shape: Shape) -> np.ndarray:
    """Take positions out of axes that are no channel axes: `x[:, 0]`, `x[:, 1:]`, `x[..., None]`."""
    [array], key = arrays, call.arguments[0][1]
    key = list(key) if isinstance(key, tuple) else [key]
    if any(not (each is None or each is Ellipsis or isinstance(each, int | slice)) for each in key):
        raise NotCovered(f"the index {key}")
    if Ellipsis not in key:
        key.append(Ellipsis)
    missing = array.ndim + 1 - sum(each is not None and each is not Ellipsis for each in key)
    at = key.index(Ellipsis)
    batch, *others = [*key[:at], *[slice(None)] * missing, *key[at + 1 :]]
    taken, axis = [], 0
    for each in others:
        if each is not None and each != slice(None) and array.shape[axis] > 1:
            raise NotCovered(f"the index {each} into channels")
        taken.append(each if each is None else 0 if isinstance(each, int) else slice(None))
        axis += each is not None
    if batch != slice(None):
        raise NotCovered(f"the index {batch} into the batch")
    return array[tuple(taken)]


def repeated(call: Call, arrays: list[np.ndarray], shape: Shape) -> np.ndarray:
    """Repeat a vector along a new first axis."""
    return arrays[0][None]


def reduced(call: Call, arrays: list[np.ndarray], shape: Shape) -> np.ndarray:
    """Take the mean or an extremum over axes that are no channel axes."""
    if getattr(call.layer, "initial", None) is not None:
        raise NotCovered("an initial value")
    [array], axes = arrays, inner_axes(call)
    if min(axes) < 0 or any(array.shape[axis] > 1 or call.inputs[0].shape[axis] == 1 for axis in axes):
        raise NotCovered(f"axis={call.layer.axis}, over channels")
    return array if call.layer.keepdims else np.squeeze(array, axis=tuple(axes))


@dataclass(frozen=True)
class Moves(Rule):
    """The same numbers in another arrangement.

    Args:
        move: (call, arrays, shape) -> array: what becomes of arrays like the atoms of the inputs.
        target: the configuration key that holds the shape of the output, or None.
        refusal: (layer) -> the reason why this rule does not cover this very layer, or None.
    """

    move: Callable[[Call, list[np.ndarray], Shape], np.ndarray]
    target: str | None = None
    refusal: Callable[[Any], str | None] | None = None

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        return [self.move(call, [x.atoms for x in call.inputs], call.shapes[0])]

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        return [self.move(call, [state.constants(x) for x in call.inputs], call.shapes[0])]

    def demands(self, call: Call, state: State) -> list[Demand]:
        ends = np.cumsum([0, *(x.atoms.size for x in call.inputs)])
        places = [np.arange(a, b).reshape(x.atoms.shape) for a, b, x in zip(ends, ends[1:], call.inputs)]
        wanted = np.zeros(ends[-1], dtype=bool)
        wanted[self.move(call, places, call.shapes[0])[state.needed(call.outputs[0])]] = True
        return [(x, wanted[place], f"read by {call.site.name}") for x, place in zip(call.inputs, places)]

    def config(self, site: Site, config: dict[str, Any], cut: Cut) -> dict[str, Any]:
        if self.target is None:
            return config
        stays = cut.stays(site.calls[0].outputs[0].atoms)
        kept = [np.moveaxis(stays, k, 0).reshape(n, -1).any(axis=1).sum() for k, n in enumerate(stays.shape)]
        asked = config[self.target]
        lead = len(asked) - len(kept)  # of raw operations, the batch axis
        new = [m if n == 1 or m == -1 else int(k) for n, k, m in zip(stays.shape, kept, asked[lead:])]
        return config | {self.target: (*asked[:lead], *new)}


@dataclass(frozen=True)
class Joins(Moves):
    """Concatenation and stacking: along positions, all tensors have the same channels; args as of `Moves`."""

    def _laid(self, call: Call, arrays: list[np.ndarray]) -> list[np.ndarray] | None:
        """Return arrays like the atoms of the inputs in one shape, if the axis is one of positions, else None."""
        rank = len(call.shapes[0])
        axis = inner_axis(call.layer.axis, rank)
        if axis < 0 or any(array.ndim == rank and array.shape[axis] > 1 for array in arrays):
            return None
        if all(array.size == 1 for array in arrays):
            return None
        laid = [array if array.ndim == rank else np.expand_dims(array, axis) for array in arrays]
        return list(np.broadcast_arrays(*laid))

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
        demands, needed = [], state.needed(call.outputs[0])
        axis = inner_axis(call.layer.axis, needed.ndim)
        for x in call.inputs:
            wanted = needed if x.atoms.ndim == needed.ndim else needed.any(axis=axis)
            demands.append((x, x.unrepeated(wanted), f"read by {call.site.name}"))
        return demands


@dataclass(frozen=True)
class Sums(Moves):
    """Sums over axes that are no channel axes; args as of `Moves`."""

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        [values] = super().constants(call, state)
        count = np.prod([call.inputs[0].shape[axis] or np.nan for axis in inner_axes(call)])
        return [np.where(values == 0, 0.0, values * count)]
