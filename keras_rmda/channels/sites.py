"""Layers and their calls in a model, and what stays of their weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_rmda.channels.tensors import Atoms, Shape, Tensor

WRITTEN = "ouU"
"""The letters of new channels: outputs, and units of recurrent layers, forward and backward."""


@dataclass(frozen=True)
class Block:
    """Matrices of atoms that lose whole rows together, and otherwise keep equally many atoms in each row.

    Where rows have several axes, what stays of them is a rectangle: each index of an axis goes as a whole.

    Attributes:
        matrices: with the same axes of rows; the last axis is that of the atoms in a row.
        same: whether the matrices keep equally many in each row, too.
        least: how many each row keeps at least, for the number of rows that stay.
    """

    matrices: list[np.ndarray]
    same: bool = False
    least: Callable[[int], int] = lambda rows: 1


@dataclass
class Site:
    """One layer in a model.

    Attributes:
        layer: the layer or operation.
        rule: its `Rule`; `OPAQUE` where none covers all of its calls.
        name: its name, with those of the models around it.
        own: by letter, the atoms along the axes of its weights: a vector; or a matrix of one row for each group of a
            grouped layer, whose rows keep equally many; or an integer, a size that nothing is cut from.
        calls: its calls in order of execution.
        opaque: why it is opaque, "" where it is not.
        shared: the names of weights that other layers have, too, and that so are what they are.
        elsewhere: by `id`, those of its weights that a layer before it has, so that they count there.
    """

    layer: Any
    rule: Any
    name: str
    own: dict[str, np.ndarray | int] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    opaque: str = ""
    shared: set[str] = field(default_factory=set)
    elsewhere: set[int] = field(default_factory=set)

    @property
    def axes(self) -> Mapping[str, str | Sequence[str]]:
        """The letters of the axes of its weights, by name."""
        return self.rule.letters(self.layer)

    def weights(self) -> list[tuple[str, Any]]:
        """Return the layer's variables in its own order, each behind the name its rule has for it, or ""."""
        found = {id(weight_named(self.layer, name)): name for name in self.axes}
        return [(found.get(id(variable), ""), variable) for variable in getattr(self.layer, "weights", [])]

    def counted(self) -> list[tuple[str, Any]]:
        """Return its weights without those that count elsewhere."""
        return [(name, variable) for name, variable in self.weights() if id(variable) not in self.elsewhere]

    def weight(self, name: str) -> Any:
        """Return the variable of this name, or None."""
        return weight_named(self.layer, name)

    def view(self, axes: Sequence[str], shape: tuple[int, ...]) -> list[int]:
        """Return the shape of a weight with one axis for each letter."""
        result = []
        for axis, size in zip(axes, shape):
            known = [self.own.get(letter) for letter in axis] if len(axis) > 1 else []
            inner = [-1 if own is None else int(own) if np.ndim(own) == 0 else own.shape[-1] for own in known]
            result += [size // -math.prod(inner) if n == -1 else n for n in inner] or [size]
        return result

    def row(self, letters: str) -> int | None:
        """Return the position of the letter that stands for the groups of a grouped layer, or None."""
        return next((k for k, letter in enumerate(letters) if letter not in ".m" and letter not in self.own), None)

    def laid(self, axes: Sequence[str], letter: str, values: np.ndarray) -> np.ndarray:
        """Return one value for each of what a letter stands for, laid along its axes in the `view` of a weight."""
        letters = "".join(axes)
        k, values = letters.index(letter), values.reshape(self.own[letter].shape)
        if values.ndim == 1:
            return values.reshape([-1 if n == k else 1 for n in range(len(letters))])
        row = self.row(letters)
        return (values if row < k else values.T).reshape(crossed(len(letters), row, k, values.shape))

    def marked(self, name: str, letter: str, values: np.ndarray) -> np.ndarray:
        """Return one value for each of what a letter stands for as an array that broadcasts with a weight."""
        axes = self.axes[name]
        laid = self.laid(axes, letter, values)
        view = self.view(axes, tuple(self.weight(name).shape))
        expanded, joined = [], []
        for axis in axes:
            sizes = laid.shape[len(expanded) : len(expanded) + len(axis)]
            if math.prod(sizes) > 1:  # letters that share an axis have no sizes of their own in the weight
                sizes = view[len(expanded) : len(expanded) + len(axis)]
            expanded += sizes
            joined.append(math.prod(sizes))
        return np.broadcast_to(laid, expanded).reshape(joined)

    def only(self, axes: Sequence[str], value: np.ndarray, letter: str, used: np.ndarray) -> np.ndarray:
        """Return a weight with zeros where what an axis stands for is not used."""
        if used.all() or letter not in "".join(axes):
            return value
        view = value.reshape(self.view(axes, value.shape))
        return np.where(self.laid(axes, letter, used), view, np.zeros((), value.dtype)).reshape(value.shape)


@dataclass
class Call:
    """One call of a layer.

    Attributes:
        site: the layer.
        inputs: the tensors among the arguments, in their order, without masks.
        shapes: of the outputs.
        arguments: all arguments, with tensors where the model has tensors.
        outputs: the tensors that come out.
        masks: the tensors among the arguments that are masks.
        masked: whether its inputs may carry a mask of Keras.
        partner: of a layer that takes no constants, the call behind it that does; of that one, the first.
        full: the shapes of the outputs with the batch axis.
        batch: where that is in each; None where an output has none.
    """

    site: Site
    inputs: list[Tensor]
    shapes: list[Shape]
    arguments: tuple[tuple, dict]
    outputs: list[Tensor] = field(default_factory=list)
    masks: list[Tensor] = field(default_factory=list)
    masked: bool = False
    partner: Call | None = None
    full: list[Shape] = field(default_factory=list)
    batch: list[int | None] = field(default_factory=list)

    @property
    def layer(self) -> Any:
        """The layer."""
        return self.site.layer

    @property
    def alone(self) -> bool:
        """Whether the layer is called only here."""
        return len(self.site.calls) == 1

    def place_batch(self, axes: list[int | None]) -> None:
        """Say where the batch axis of each output is."""
        self.batch = axes
        self.shapes = [x if k is None else (*x[:k], *x[k + 1 :]) for x, k in zip(self.full, axes, strict=True)]

    def macs(self, cut: Cut) -> float:
        """Return the multiply-accumulates per sample of what stays."""
        copies = max((x.copies for x in self.inputs), default=1)
        return self.site.rule.macs(self, cut) * (int(copies) if copies == int(copies) else float(copies))

    def axis(self, tensor: Tensor) -> int:
        """Return the layer's channel axis in a tensor."""
        return channel_axis(self.layer, len(tensor.shape))

    def register(self, letter: str, atoms: np.ndarray, ties: Atoms) -> np.ndarray:
        """Let `letter` stand for these atoms, which are tied to those of the calls before."""
        known = self.site.own.setdefault(letter, atoms)
        if known is not atoms:
            ties.tie(known, atoms)
        return known

    def fresh(self, letter: str, ties: Atoms, *shape: int) -> np.ndarray:
        """Let `letter` stand for new atoms; a layer that is called again makes the same ones again."""
        if letter not in self.site.own:
            self.site.own[letter] = ties.fresh(*shape)
        return self.site.own[letter]


class Cut:
    """Which atoms stay, and what that leaves of arrays.

    Args:
        ties: the atoms.
        keep: for each atom, whether it stays; or the probability that it does, and counts are expected ones.
    """

    def __init__(self, ties: Atoms, keep: np.ndarray):
        self.ties = ties
        self.keep = keep

    def stays(self, atoms: np.ndarray) -> np.ndarray:
        """Return for each of `atoms` whether it stays."""
        return self.keep[self.ties.find(atoms)]

    def sizes(self, x: Tensor) -> list[float]:
        """Return how much stays of a tensor along each axis; of an axis along which its atoms do not change, all."""
        stays = self.stays(x.atoms)
        rows = [np.moveaxis(stays, axis, -1).reshape(-1, n) for axis, n in enumerate(stays.shape)]
        counts = [(r.sum(axis=1).max() if k == x.width else r.max(axis=0).sum()).item() for k, r in enumerate(rows)]
        return [count if n > 1 else size for count, n, size in zip(counts, stays.shape, x.shape)]

    def along(self, x: Tensor, axis: int) -> np.ndarray:
        """Return for each position of an axis whether it stays: along the width of a tensor, in the first row."""
        rows = np.moveaxis(self.stays(x.atoms), axis, -1).reshape(-1, x.atoms.shape[axis])
        stays = rows[rows.any(axis=1).argmax()] if axis == x.width else rows.any(axis=0)
        return np.broadcast_to(stays, (x.shape[axis],)) if len(stays) == 1 else stays

    def array(self, x: Tensor, array: np.ndarray) -> np.ndarray:
        """Return what stays of an array of numbers with the axes of a tensor, where each may be of size 1."""
        stays, width = self.stays(x.atoms), x.width
        outer = [axis for axis, n in enumerate(stays.shape) if n > 1 and axis != width]
        same = width is None or array.shape[width] == 1
        if not same:
            rows = np.moveaxis(stays, width, -1).reshape(-1, stays.shape[width])
            same = bool((rows[rows.any(axis=1)] == self.along(x, width)).all())
        if not same:
            array = np.broadcast_to(array, [stays.shape[k] if k in outer else n for k, n in enumerate(array.shape)])
        for axis in [*outer, width] if same and width is not None else outer:
            if array.shape[axis] > 1:
                array = np.compress(self.along(x, axis), array, axis=axis)
        if same:
            return array
        for axis in outer:
            stays = np.compress(self.along(x, axis), stays, axis=axis)
        count = int(stays.sum(axis=width).max())
        positions = np.take(np.argsort(~stays, axis=width, kind="stable"), range(count), axis=width)
        return np.take_along_axis(array, positions, axis=width)

    def rows(self, site: Site) -> np.ndarray:
        """Return for each group of a grouped layer whether it stays."""
        return np.max([self.stays(own).max(axis=1) for own in site.own.values() if np.ndim(own) == 2], axis=0)

    def count(self, site: Site, letters: str) -> float:
        """Return how many positions stay along an axis of these letters."""
        result = 1
        for letter in letters:
            own = site.own.get(letter)
            if own is None:
                result *= self.rows(site).sum().item()
            elif np.ndim(own) == 0:
                result *= int(own)
            else:
                result *= self.stays(own).sum(axis=-1).max().item()
        return result

    def shape(self, site: Site, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape that stays of a weight."""
        axes = site.axes.get(name, "." * len(shape))
        return tuple(n if axis in ".m" else self.count(site, axis) for n, axis in zip(shape, axes, strict=True))

    def of(self, site: Site, name: str, value: np.ndarray) -> np.ndarray:
        """Return what stays of a weight's value."""
        shape = self.shape(site, name, value.shape)
        axes = site.axes.get(name, "." * value.ndim)
        letters = "".join(axes)
        value = value.reshape(site.view(axes, value.shape))
        row = site.row(letters)
        if row is not None:
            alive = np.flatnonzero(self.rows(site))
            value = np.take(value, alive, axis=row)
        for k, letter in enumerate(letters):
            own = site.own.get(letter)
            if letter in ".m" or np.ndim(own) == 0:
                continue
            stays = self.stays(own)
            if stays.ndim == 1 and not stays.all():  # to take all of it would copy it
                value = np.take(value, np.flatnonzero(stays), axis=k)
            elif stays.ndim > 1:
                # Each row keeps positions of its own, all the same number of them.
                positions = np.stack([np.flatnonzero(each) for each in stays[alive]])
                laid = positions if row < k else positions.T
                value = np.take_along_axis(value, laid.reshape(crossed(value.ndim, row, k, positions.shape)), axis=k)
        return value.reshape(shape)


def crossed(rank: int, row: int, axis: int, shape: tuple[int, int]) -> list[int]:
    """Return the shape of an array of `rank` axes of which two are not 1."""
    return [shape[0] if k == row else shape[1] if k == axis else 1 for k in range(rank)]


def weight_named(layer: Any, name: str) -> Any:
    """Return the variable of a layer that is an attribute of this name, or whose path ends in it, or None."""
    attribute = getattr(layer, name, None) if "/" not in name else None
    if attribute is not None:
        return attribute
    found = [weight for weight in getattr(layer, "weights", []) if f"/{weight.path}".endswith(f"/{name}")]
    return found[0] if len(found) == 1 else None


def channel_axis(layer: Any, rank: int) -> int:
    """Return the layer's channel axis among the `rank` axes without the batch axis."""
    axis = getattr(layer, "axis", None)
    if isinstance(axis, (list, tuple)) and len(axis) == 1:
        [axis] = axis
    if isinstance(axis, int):
        return axis - 1 if axis > 0 else rank + axis
    return 0 if getattr(layer, "data_format", None) == "channels_first" else rank - 1


def sizes(shape: Shape) -> int:
    """Return the number of positions of a shape; an open axis counts as 1."""
    return math.prod(n or 1 for n in shape)
