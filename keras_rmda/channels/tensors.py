"""Atoms: one integer for every channel of every tensor. Equal integers go or stay together.

Atoms, constants and needs travel as arrays without the batch axis, of size 1 along every axis on which the atoms do
not change: behind a convolution of C filters an image has atoms of shape (1, 1, C).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

Shape = tuple[int | None, ...]
"""A tensor's shape without the batch axis; None where it is open."""

Axes = int | tuple[int, ...]
"""An axis, or several."""


class NotCovered(Exception):
    """A rule does not cover a call of a layer; the message says why. The layer is opaque then."""


class Atoms:
    """Union-find over channels, on arrays."""

    def __init__(self) -> None:
        self.parent = np.zeros(0, dtype=np.int64)
        self.changes = 0  # how often atoms have become one

    def fresh(self, *shape: int) -> np.ndarray:
        """Return new atoms."""
        count = int(np.prod(shape))
        new = np.arange(len(self.parent), len(self.parent) + count)
        self.parent = np.concatenate([self.parent, new])
        return new.reshape(shape)

    def find(self, atoms: np.ndarray) -> np.ndarray:
        """Return the representative of each atom."""
        while not np.array_equal(atoms, self.parent[atoms]):
            atoms = self.parent[atoms]
        return atoms

    def tie(self, a: np.ndarray, b: np.ndarray) -> None:
        """Make a[k] and b[k] one atom, for every k of arrays that broadcast."""
        a, b = (x.reshape(-1) for x in np.broadcast_arrays(a, b))
        while True:
            a, b = self.find(a), self.find(b)
            if np.array_equal(a, b):
                return
            self.changes += 1
            np.minimum.at(self.parent, np.maximum(a, b), np.minimum(a, b))

    def tie_alike(self, arrays: list[np.ndarray], axis: int) -> None:
        """Where only some arrays change along an axis, tie those that do along it: none can lose a part of it."""
        changing = [axis in varying(self.find(array)) for array in arrays]
        if any(changing) and not all(changing):
            for array in arrays:
                self.tie(np.take(array, [0], axis), array)


@dataclass(eq=False)
class Tensor:
    """A tensor of the model.

    Attributes:
        index: its number, in the order of making.
        atoms: the atoms of its channels.
        shape: its shape.
        batched: whether it has a batch axis, which `atoms` and `shape` leave out.
        batch: where that is.
        width: where atoms change along several axes, such as heads and their positions: the one along which rows keep
            positions of their own, all as many. None where all rows keep the same.
        copies: how many rows of its batch axis belong to one sample, such as the windows of an image.
    """

    index: int
    atoms: np.ndarray
    shape: Shape
    batched: bool = True
    batch: int = 0
    width: int | None = None
    copies: Fraction | int = 1

    @property
    def full(self) -> Shape:
        """Its shape with the batch axis."""
        return (*self.shape[: self.batch], None, *self.shape[self.batch :]) if self.batched else self.shape

    def with_batch(self, array: np.ndarray) -> np.ndarray:
        """Return an array like `atoms` with the batch axis, of size 1."""
        return np.expand_dims(array, self.batch) if self.batched else array

    def channels(self, axis: Axes, ties: Atoms) -> np.ndarray:
        """Return the atoms along an axis, or several; where they change along other axes too, these are tied.

        Raises:
            NotCovered: if the axis is open.
        """
        axes = as_axes(axis)
        if not all(0 <= each < len(self.shape) and self.shape[each] is not None for each in axes):
            raise NotCovered(f"no channel axis of a known size in its input of shape {self.shape}")
        rows = rows_of(self.atoms, axes, self.shape)
        if rows.shape[1] > 1:
            ties.tie(rows[:, :1], rows)
        return rows[:, 0]

    def constants(self, values: np.ndarray, axis: Axes) -> np.ndarray:
        """Return the constants along an axis, or several; NaN where positions differ."""
        rows = rows_of(values, as_axes(axis), self.shape)
        return np.where((rows == rows[:, :1]).all(axis=1), rows[:, 0], np.nan)

    def any(self, needed: np.ndarray, axis: Axes) -> np.ndarray:
        """Return whether anything is needed, along an axis, or several."""
        return rows_of(needed, as_axes(axis), self.shape).any(axis=1)

    def unrepeated(self, needed: np.ndarray) -> np.ndarray:
        """Return needs of a tensor along whose axes this one is repeated, in the shape of `atoms`."""
        repeated = tuple(axis for axis, n in enumerate(self.atoms.shape) if n == 1)
        return np.broadcast_to(needed.any(axis=repeated, keepdims=True), self.atoms.shape)

    def spread(self, vector: np.ndarray, axis: Axes) -> np.ndarray:
        """Return a vector of needs along an axis, or several, as an array like `atoms`."""
        axes = as_axes(axis)
        table = vector.reshape([self.shape[each] for each in axes])
        table = table.any(axis=tuple(k for k, each in enumerate(axes) if self.atoms.shape[each] == 1), keepdims=True)
        return np.broadcast_to(along(table, len(self.shape), axes), self.atoms.shape)


def as_axes(axis: Axes) -> tuple[int, ...]:
    """Return an axis, or several, as a tuple."""
    return axis if isinstance(axis, tuple) else (axis,)


def rows_of(array: np.ndarray, axes: tuple[int, ...], shape: Shape) -> np.ndarray:
    """Return an array as a matrix with one row for each position of the axes of a tensor of this shape."""
    moved = np.moveaxis(array, axes, range(len(axes)))
    sizes = [shape[axis] for axis in axes]
    moved = np.broadcast_to(moved, (*sizes, *moved.shape[len(axes) :]))
    return moved.reshape(int(np.prod(sizes)), -1)


def varying(atoms: np.ndarray) -> list[int]:
    """Return the axes along which representatives of atoms change."""
    several = [axis for axis, n in enumerate(atoms.shape) if n > 1]
    return [axis for axis in several if (atoms != np.take(atoms, [0], axis)).any()]


def matrix(x: Tensor, keep: slice = slice(None)) -> np.ndarray:
    """Return the atoms of a tensor with its width, or a part of it, as the last axis, and rows before."""
    atoms = x.atoms[..., None] if x.width is None else np.moveaxis(x.atoms, x.width, -1)
    return atoms.reshape([n for n in atoms.shape[:-1] if n > 1] + [atoms.shape[-1]])[..., keep]


def along(values: np.ndarray, rank: int, axis: Axes) -> np.ndarray:
    """Return values, with one axis for each of `axis`, laid along these of an array of `rank` axes."""
    axes = as_axes(axis)
    values = values.reshape(-1) if len(axes) == 1 else values.transpose(np.argsort(axes))
    sizes = iter(values.shape)
    return values.reshape([next(sizes) if k in axes else 1 for k in range(rank)])


def fitted(values: np.ndarray, atoms: np.ndarray) -> np.ndarray:
    """Return constants in the shape of `atoms`: NaN where they differ along an axis on which the atoms do not."""
    for axis, (n, size) in enumerate(zip(values.shape, atoms.shape)):
        if n > size == 1:
            first = np.take(values, [0], axis=axis)
            values = np.where((values == first).all(axis=axis, keepdims=True), first, np.nan)
    return np.broadcast_to(values, atoms.shape)
