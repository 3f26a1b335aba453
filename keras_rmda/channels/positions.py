"""Movements of numbers, as NumPy makes them of arrays with the batch axis, of size 1 where nothing changes."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from keras_rmda.channels.sites import Call
from keras_rmda.channels.tensors import NotCovered, Shape, Tensor


def axis_of(call: Call, axis: Any = "axis", rank: int | None = None) -> int:
    """Return an axis of an operation on its first tensor, or of `rank` axes, as a number from 0."""
    axis = getattr(call.layer, axis) if isinstance(axis, str) else axis
    rank = len(call.inputs[0].full) if rank is None else rank
    if not isinstance(axis, int) or not -rank <= axis < rank:
        raise NotCovered(f"axis={axis}")
    return axis % rank


def axes_of(call: Call) -> list[int]:
    """Return the axes of an operation on one tensor; without any, all."""
    axes = call.layer.axis if hasattr(call.layer, "axis") else call.layer.axes
    axes = range(len(call.inputs[0].full)) if axes is None else [axes] if isinstance(axes, int) else axes
    return [axis_of(call, axis) for axis in axes]


def constant(x: Any, what: str) -> np.ndarray:
    """Return an argument that is no tensor of the model as an array."""
    if isinstance(x, Tensor | keras.Variable):
        raise NotCovered(f"{what} that the model computes")
    return np.asarray(x if isinstance(x, int | float | list | tuple) else keras.ops.convert_to_numpy(x))


def over_the_batch(call: Call, axis: int) -> None:
    """Refuse what an operation does along the batch axis."""
    x = call.inputs[0]
    if x.batched and axis == x.batch:
        raise NotCovered(f"axis={axis}, over the batch")


# ---- shapes


Group = tuple[int, list, int, list]
"""First axis and sizes of neighbouring axes before a reshape, and of those after it that hold the same numbers."""


def groups_of(old: Shape, new: Shape) -> list[Group]:
    """Return the smallest groups of axes that a reshape turns into each other; an open axis ends a group only alone."""
    old, new, groups = list(old), list(new), []
    while old or new:
        a, b = [old.pop()] if old else [], [new.pop()] if new else []
        while (
            (old or new) and (None in a + b or np.prod(a, dtype=int) != np.prod(b, dtype=int)) and a + b != [None] * 2
        ):
            if None in a + b:
                a, b, old, new = [*old, *a], [*new, *b], [], []
            elif old and (np.prod(a, dtype=int) < np.prod(b, dtype=int) or not new):
                a.insert(0, old.pop())
            else:
                b.insert(0, new.pop())
        groups.insert(0, (len(old), a, len(new), b))
    return groups


def reshaped(call: Call, arrays: list[np.ndarray]) -> np.ndarray:
    """Reshape; axes that are neither split nor joined, or do not change the array, are not expanded."""
    [array], [x] = arrays, call.inputs
    expanded, result = [], []
    for start, a, _, b in groups_of(x.full, call.full[0]):
        sizes = list(array.shape[start : start + len(a)])
        varies = max(sizes, default=1) > 1
        expanded += sizes if a == b else a if varies else [1] * len(a)
        result += sizes if a == b else b if varies else [1] * len(b)
    return np.broadcast_to(array, expanded).reshape(result)


def mixed_with_open_axes(call: Call) -> list[int]:
    """Return the axes before a reshape that become one with the batch or other open axes, so that nothing can go."""
    groups = groups_of(call.inputs[0].full, call.full[0])
    # Open axes are of the same size before and after it only where all else is.
    last_open = max((start for start, a, _, b in groups if a == b == [None]), default=0)
    uneven = any(a != b and None in a + b for _, a, _, b in groups)
    found = []
    for start, a, _, b in groups:
        if (a != b and (None in a + b or not a or not b)) or (uneven and start < last_open):
            found += [start + k for k, n in enumerate(a) if n is not None]
    return found


def flattened(call: Call, arrays: list[np.ndarray]) -> np.ndarray:
    """Expand to the real shape and flatten, channels last, as Keras does."""
    [array], old = arrays, call.inputs[0].shape
    if None in call.full[0][1:]:
        raise NotCovered(f"open axes in its input of shape {old}")
    array = np.broadcast_to(array, (len(array), *old))
    if call.layer.data_format == "channels_first" and array.ndim > 2:
        array = np.moveaxis(array, 1, -1)
    return array.reshape(len(array), -1)


def permuted(call: Call, arrays: list[np.ndarray]) -> np.ndarray:
    """Put the axes into another order."""
    return arrays[0].transpose([0, *call.layer.dims])


def transposed(call: Call, arrays: list[np.ndarray]) -> np.ndarray:
    """Put the axes into the order of `ops.transpose`, `swapaxes` or `moveaxis`."""
    [array], layer = arrays, call.layer
    if hasattr(layer, "axes"):
        return np.transpose(array, layer.axes)
    if hasattr(layer, "axis1"):
        return np.swapaxes(array, layer.axis1, layer.axis2)
    return np.moveaxis(array, layer.source, layer.destination)


def broadcasted(call: Call, arrays: list[np.ndarray]) -> np.ndarray:
    """Repeat along axes of size 1, and new ones before all others."""
    return arrays[0].reshape((1,) * (len(call.full[0]) - arrays[0].ndim) + arrays[0].shape)


def vector_repeated(call: Call, arrays: list[np.ndarray]) -> np.ndarray:
    """Repeat a vector along a new first axis."""
    return arrays[0][:, None]


# ---- along one axis


def flipped(call: Call, arrays: list[np.ndarray]) -> np.ndarray:
    """Reverse the order along axes."""
    for axis in axes_of(call):
        over_the_batch(call, axis)
    return np.flip(arrays[0], axes_of(call))


def repeated(call: Call, arrays: list[np.ndarray]) -> np.ndarray:
    """Repeat each position, all or each of them a number of times."""
    axis = axis_of(call)
    over_the_batch(call, axis)
    return np.repeat(arrays[0], call.layer.repeats, axis) if arrays[0].shape[axis] > 1 else arrays[0]


def tiled(call: Call, arrays: list[np.ndarray]) -> np.ndarray:
    """Repeat whole axes."""
    [array], [x], repeats = arrays, call.inputs, np.atleast_1d(call.layer.repeats).tolist()
    rank = max(array.ndim, len(repeats))
    repeats = [1] * (rank - len(repeats)) + repeats
    if x.batched and repeats[rank - array.ndim + x.batch] != 1:
        raise NotCovered(f"repeats={repeats}, over the batch")
    array = array.reshape((1,) * (rank - array.ndim) + array.shape)
    return np.tile(array, [n if size > 1 else 1 for n, size in zip(repeats, array.shape)])


def rolled(call: Call, arrays: list[np.ndarray]) -> np.ndarray:
    """Shift positions in a circle."""
    [array], [shifts, axes] = arrays, shifts_of(call)
    for axis, shift in zip(axes, shifts):
        over_the_batch(call, axis)
        array = np.roll(array, shift, axis)
    return array


def shifts_of(call: Call) -> tuple[list[int], list[int]]:
    """Return how far `ops.roll` shifts, and along which axes."""
    shifts, axes = (list(x) if isinstance(x, list | tuple) else [x] for x in (call.layer.shift, call.layer.axis))
    return shifts * (len(axes) // len(shifts)), [axis_of(call, axis) for axis in axes]


def split(call: Call, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Split along an axis, into equal parts or at given places."""
    axis, n = axis_of(call), len(call.full)
    over_the_batch(call, axis)
    if arrays[0].shape[axis] == 1:
        return arrays * n
    return np.split(arrays[0], np.cumsum([shape[axis] for shape in call.full])[:-1], axis)


def unstacked(call: Call, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Take an axis apart."""
    axis = axis_of(call)
    over_the_batch(call, axis)
    return [arrays[0].take(k % arrays[0].shape[axis], axis) for k in range(len(call.full))]


def taken(call: Call, arrays: list[np.ndarray]) -> np.ndarray:
    """Take positions by a constant index."""
    [array], axis, index = arrays, axis_of(call), index_of(call)
    over_the_batch(call, axis)
    if array.shape[axis] > 1:
        return np.take(array, index, axis)
    return array.reshape(*array.shape[:axis], *[1] * index.ndim, *array.shape[axis + 1 :])


def index_of(call: Call) -> np.ndarray:
    """Return the constant index of `ops.take` into a tensor."""
    arguments, keyword_arguments = call.arguments
    x, index = (*arguments, *keyword_arguments.values())[:2]
    if not isinstance(x, Tensor):
        raise NotCovered("an array of numbers to take from")
    return constant(index, "an index")


Key = list[tuple[Any, int | None]]
"""The parts of an index, each with the axis of the tensor that it is for, or None."""


def key_of(call: Call) -> Key:
    """Return the key of `x[key]`, one part for each axis."""
    key, rank = call.arguments[0][1], len(call.inputs[0].full)
    key = list(key) if isinstance(key, tuple) else [key]
    known = (int, slice, np.integer)
    if any(not (each is None or each is Ellipsis or isinstance(each, known)) for each in key):
        raise NotCovered("an index that is no number or slice")
    places = [k for k, each in enumerate(key) if each is Ellipsis] or [len(key)]
    missing = rank - sum(each is not None and each is not Ellipsis for each in key)
    key[places[0] : places[0] + 1] = [slice(None)] * missing
    axes = iter(range(rank))
    return [(each, None if each is None else next(axes)) for each in key]


def indexed(call: Call, arrays: list[np.ndarray]) -> np.ndarray:
    """Take positions by numbers and slices: `x[:, 0]`, `x[..., 1:]`, `x[..., None]`."""
    [array], parts = arrays, []
    for each, axis in key_of(call):
        if axis is not None and each != slice(None):
            over_the_batch(call, axis)
            if array.shape[axis] == 1:
                each = slice(None) if isinstance(each, slice) else 0
        parts.append(each)
    return array[tuple(parts)]


def reduced(call: Call, arrays: list[np.ndarray]) -> np.ndarray:
    """Take what is at the first positions of axes, which stands for all of them."""
    if getattr(call.layer, "initial", None) is not None:
        raise NotCovered("an initial value")
    for axis in axes_of(call):
        over_the_batch(call, axis)
    for axis in sorted(axes_of(call), reverse=True):
        arrays = [arrays[0].take([0] if call.layer.keepdims else 0, axis)]
    return arrays[0]


def moments(call: Call, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Reduce to two tensors."""
    return [reduced(call, arrays)] * 2


def patched(call: Call, arrays: list[np.ndarray]) -> np.ndarray:
    """Take the channels of several positions for channels."""
    [array], layer = arrays, call.layer
    if layer.data_format != "channels_last" or array.ndim != len(layer.size) + 2:
        raise NotCovered(f"data_format={layer.data_format!r}, of an input of shape {call.inputs[0].full}")
    if max(array.shape[1:-1]) > 1:
        raise NotCovered("positions that are not alike")
    return array if array.shape[-1] == 1 else np.tile(array, math.prod(layer.size))


def accumulated(call: Call, arrays: list[np.ndarray]) -> np.ndarray:
    """Add up along positions."""
    axis = axis_of(call)
    over_the_batch(call, axis)
    if arrays[0].shape[axis] > 1:
        raise NotCovered(f"axis={call.layer.axis}, over channels")
    return arrays[0]


def first_half(call: Call, arrays: list[np.ndarray]) -> np.ndarray:
    """Take the first half of an axis."""
    axis = axis_of(call)
    over_the_batch(call, axis)
    return arrays[0] if arrays[0].shape[axis] == 1 else np.split(arrays[0], 2, axis)[0]


def triangular(call: Call, arrays: list[np.ndarray]) -> np.ndarray:
    """Let one of two axes of positions decide which numbers of the other become zero."""
    x = call.inputs[0]
    if max(arrays[0].shape[-2:]) > 1 or (x.batched and x.batch >= len(x.full) - 2):
        raise NotCovered("a triangle of channels")
    return arrays[0]


# ---- several tensors


def concatenated(call: Call, arrays: list[np.ndarray]) -> np.ndarray:
    """Concatenate along the layer's axis, each array expanded along it."""
    shape = call.full[0]
    axis = axis_of(call, rank=len(shape))
    if shape[axis] is None:
        if any(array.shape[axis] > 1 for array in arrays):
            raise NotCovered(f"axis={call.layer.axis} of shape {shape}")
        return np.broadcast_arrays(*arrays)[0]  # along an open axis nothing changes
    common = np.broadcast_shapes(*([1 if k == axis else n for k, n in enumerate(a.shape)] for a in arrays))
    expanded = []
    for array, x in zip(arrays, call.inputs):
        target = list(common)
        target[axis] = x.full[axis]
        expanded.append(np.broadcast_to(array, target))
    return np.concatenate(expanded, axis=axis)


def stacked(call: Call, arrays: list[np.ndarray]) -> np.ndarray:
    """Put arrays one behind the other along a new axis."""
    return np.stack(np.broadcast_arrays(*arrays), axis_of(call, rank=len(call.full[0])))
