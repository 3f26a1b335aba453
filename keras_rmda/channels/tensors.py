"""Atoms: one integer for every channel of every tensor. Equal integers go or stay together.

Atoms, constants and needs travel as arrays without the batch axis, of size 1 along every axis on which the atoms do
not change: behind a convolution of C filters an image has atoms of shape (1, 1, C).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Shape = tuple[int | None, ...]
"""A tensor's shape without the batch axis; None where it is open."""


class NotCovered(Exception):
    """A rule does not cover a call of a layer; the message says why. The layer is opaque then."""


class Atoms:
    """Union-find over channels, on arrays."""

    def __init__(self) -> None:
        self.parent = np.zeros(0, dtype=np.int64)

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
            np.minimum.at(self.parent, np.maximum(a, b), np.minimum(a, b))


@dataclass(frozen=True)
class Tensor:
    """A tensor of the model.

    Attributes:
        index: its number, in the order of making.
        atoms: the atoms of its channels.
        shape: its shape.
    """

    index: int
    atoms: np.ndarray
    shape: Shape

    def channels(self, axis: int, ties: Atoms) -> np.ndarray:
        """Return the atoms along an axis; where they change along other axes too, these are tied.

        Raises:
            NotCovered: if the axis is open.
        """
        if not 0 <= axis < len(self.shape) or self.shape[axis] is None:
            raise NotCovered(f"no channel axis of a known size in its input of shape {self.shape}")
        rows = rows_of(self.atoms, axis, self.shape[axis])
        if rows.shape[1] > 1:
            ties.tie(rows[:, :1], rows)
        return rows[:, 0]

    def constants(self, values: np.ndarray, axis: int) -> np.ndarray:
        """Return the constants along an axis; NaN where positions differ."""
        rows = rows_of(values, axis, self.shape[axis])
        return np.where((rows == rows[:, :1]).all(axis=1), rows[:, 0], np.nan)

    def any(self, needed: np.ndarray, axis: int) -> np.ndarray:
        """Return whether anything is needed, along an axis."""
        return rows_of(needed, axis, self.shape[axis]).any(axis=1)

    def unrepeated(self, needed: np.ndarray) -> np.ndarray:
        """Return needs of a tensor along whose axes this one is repeated, in the shape of `atoms`."""
        repeated = tuple(axis for axis, n in enumerate(self.atoms.shape) if n == 1)
        return np.broadcast_to(needed.any(axis=repeated, keepdims=True), self.atoms.shape)

    def spread(self, vector: np.ndarray, axis: int) -> np.ndarray:
        """Return a vector of needs along an axis as an array like `atoms`."""
        if self.atoms.shape[axis] == 1:
            vector = vector.any(keepdims=True)
        return np.broadcast_to(along(vector, len(self.shape), axis), self.atoms.shape)


def rows_of(array: np.ndarray, axis: int, size: int) -> np.ndarray:
    """Return an array as a matrix of `size` rows, one for each position of `axis`."""
    rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    return np.broadcast_to(rows, (size, rows.shape[1]))


def along(vector: np.ndarray, rank: int, axis: int) -> np.ndarray:
    """Return `vector` laid along `axis` of an array of `rank` axes."""
    return vector.reshape([-1 if k == axis else 1 for k in range(rank)])


def fitted(values: np.ndarray, atoms: np.ndarray) -> np.ndarray:
    """Return constants in the shape of `atoms`: NaN where they differ along an axis on which the atoms do not."""
    for axis, (n, size) in enumerate(zip(values.shape, atoms.shape)):
        if n > size == 1:
            first = np.take(values, [0], axis=axis)
            values = np.where((values == first).all(axis=axis, keepdims=True), first, np.nan)
    return np.broadcast_to(values, atoms.shape)
