"""Slices and transpositions of more axes than kernels take, as those of fewer: neighbours become one axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

FEW = 4
"""Axes that every kernel takes, also those for microcontrollers."""


def sliced(x: Any, begin: Any, end: Any, strides: Any, attributes: dict[str, Any]) -> Any:
    """Take all numbers by a reshape, and parts of many axes with the axes as one between which none is cut."""
    import tensorflow as tf

    ends = [tf.get_static_value(each) for each in (begin, end, strides)]
    rank, masks = x.shape.rank, {name: each.i for name, each in attributes.items() if name.endswith("_mask")}
    if rank is None or rank < 2 or sum(n is None for n in x.shape) > 1 or any(each is None for each in ends):
        return None
    merged, index, made, sizes = [1], [slice(None)], [], iter(x.shape)
    for each in indices(*ends, rank, **masks):
        if each is None:
            made.append(1)
            continue
        size = next(sizes)
        if size is None and each != slice(None):
            return None
        whole = size == 1 if isinstance(each, int) else size is None or range(size)[each] == range(size)
        if isinstance(each, slice):
            made.append(size if whole else len(range(size)[each]))
        if whole and index[-1] == slice(None):
            merged[-1] = product([merged[-1], size])
        else:
            merged.append(size)
            index.append(slice(None) if whole else each)
    if len(index) == 1:
        return reshaped(x, made)
    skips = merged[0] == 1  # nothing is before the first part
    merged, index = merged[skips:], index[skips:]
    return reshaped(reshaped(x, merged)[tuple(index)], made) if FEW < rank > len(merged) else None


def indices(
    begin: Sequence[int],
    end: Sequence[int],
    strides: Sequence[int],
    rank: int,
    begin_mask: int,
    end_mask: int,
    ellipsis_mask: int,
    new_axis_mask: int,
    shrink_axis_mask: int,
) -> list[Any]:
    """Return what Python writes between brackets, for each axis: a slice, a number, or None for one that is new."""
    found: list[Any] = []
    for k, (first, last, step) in enumerate(zip(begin, end, strides)):
        bit = 1 << k
        if ellipsis_mask & bit:
            found.append(...)
        elif new_axis_mask & bit:
            found.append(None)
        elif shrink_axis_mask & bit:
            found.append(int(first))
        else:
            is_first = begin_mask & bit or (first == 0 and step > 0)
            ends = (None if is_first else int(first), None if end_mask & bit else int(last))
            found.append(slice(*ends, None if step == 1 else int(step)))
    found = found if ... in found else [*found, ...]
    rest = rank - sum(each is not None and each is not ... for each in found)
    place = found.index(...)
    return found[:place] + [slice(None)] * rest + found[place + 1 :]


def transposed(x: Any, order: Any) -> Any:
    """Move axes that stay side by side as one."""
    import tensorflow as tf

    order, rank = tf.get_static_value(order), x.shape.rank
    if order is None or rank is None or rank <= FEW or sum(n is None for n in x.shape) > 1:
        return None
    order = [int(k) for k in order]
    runs: list[list[int]] = []
    for k in order:
        if x.shape[k] == 1:  # it may be anywhere
            continue
        if runs and all(x.shape[n] == 1 for n in range(runs[-1][-1] + 1, k)) and k > runs[-1][-1]:
            runs[-1].append(k)
        else:
            runs.append([k])
    if len(runs) == rank:
        return None
    before = sorted(runs)
    merged = reshaped(x, [product([x.shape[k] for k in run]) for run in before])
    moved = tf.transpose(merged, [before.index(run) for run in runs]) if before != runs else merged
    return reshaped(moved, [x.shape[k] for k in order])


def of_sizes(x: Any, shape: Any) -> Any:
    """Reshape with one size that only the file's user tells as TensorFlow does with -1, without operators for it."""
    sizes = known(shape)
    is_open = isinstance(sizes, list) and sizes.count(None) == 1 and all(n is None or n > 0 for n in sizes)
    return reshaped(x, sizes) if is_open else None


def known(x: Any) -> Any:
    """Return what is known of sizes that a graph computes, such as those of `tf.tensordot`: None for what is not."""
    import tensorflow as tf

    if (value := tf.get_static_value(x)) is not None:
        return value.tolist()
    kind, given = x.op.type, x.op.inputs
    if kind == "Shape" and given[0].shape.rank is not None:
        return list(given[0].shape)
    if kind not in ("ConcatV2", "GatherV2", "Pack", "Prod"):
        return None
    found = [known(each) for each in given]
    if kind == "Pack":
        return found if x.shape.rank == 1 else None
    if not isinstance(found[0], list):
        return None
    if kind == "GatherV2":
        return [found[0][k] for k in found[1]] if isinstance(found[1], list) else None
    if kind == "Prod":
        return product(found[0])
    return [n for each in found[:-1] for n in each] if all(isinstance(each, list) for each in found[:-1]) else None


def product(sizes: Sequence[int | None]) -> int | None:
    """Return the size of axes that become one; None if that is open."""
    return None if any(n is None for n in sizes) else math.prod(sizes)


def reshaped(x: Any, sizes: Sequence[int | None]) -> Any:
    """Return numbers with axes of other sizes, of which at most one is open."""
    import tensorflow as tf

    return tf.reshape(x, [-1 if n is None else n for n in sizes])
