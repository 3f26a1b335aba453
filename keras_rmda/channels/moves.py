"""Movements of channels, for atoms, constants and needs alike."""

from __future__ import annotations

import numpy as np

from keras_rmda.channels.sites import Call
from keras_rmda.channels.tensors import NotCovered, Shape


def concatenated(call: Call, arrays: list[np.ndarray], shape: Shape) -> np.ndarray:
    """Concatenate along the layer's axis, each array expanded along it."""
    axis = call.layer.axis
    axis = axis - 1 if axis > 0 else len(shape) + axis
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
    """Put the axes of `ops.transpose` into another order; the batch stays the first."""
    axes = call.layer.axes
    if axes is None or axes[0] != 0:
        raise NotCovered(f"axes={axes}")
    return arrays[0].transpose([(axis if axis > 0 else len(axes) + axis) - 1 for axis in axes[1:]])


def repeated(call: Call, arrays: list[np.ndarray], shape: Shape) -> np.ndarray:
    """Repeat a vector along a new first axis."""
    return arrays[0][None]


def reduced(call: Call, arrays: list[np.ndarray], shape: Shape) -> np.ndarray:
    """Take the mean or an extremum over axes that are no channel axes."""
    if getattr(call.layer, "initial", None) is not None:
        raise NotCovered("an initial value")
    [array], axes = arrays, call.layer.axis
    axes = [axes] if isinstance(axes, int) else axes or [0]
    axes = [axis - 1 if axis > 0 else array.ndim + axis if axis < 0 else -1 for axis in axes]
    if min(axes) < 0 or any(array.shape[axis] > 1 or call.inputs[0].shape[axis] == 1 for axis in axes):
        raise NotCovered(f"axis={call.layer.axis}, over channels")
    return array if call.layer.keepdims else np.squeeze(array, axis=tuple(axes))
