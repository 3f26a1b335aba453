"""What the axes of weights become in what code makes of them: along which it can be cut, and where zeros must be."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.channels.functions import ARITHMETIC, COMPARISONS, UNARY
from keras_rmda.channels.tensors import Atoms, along, varying
from keras_rmda.platform.tracing.labels import EQUATIONS

KEEPS_ZEROS = frozenset(
    [
        "Abs",
        "Absolute",
        "Negative",
        "Square",
        "Sqrt",
        "Sign",
        "Tanh",
        "Sin",
        "Relu",
        "LeakyRelu",
        "Cast",
        "Copy",
        "ConvertToTensor",
        "StopGradient",
    ]
)
"""Operations that make zeros of zeros."""

SUMS = frozenset(["Sum", "Norm"])
"""Operations along axes in which zeros have no part."""


@dataclass
class Labels:
    """A tensor that is made of weights, by what its axes stand for.

    Attributes:
        axes: a label for each, None for one of size 1.
        zero: labels of which it has zeros where all weights with them have.
    """

    axes: list[int | None]
    zero: set[int] = field(default_factory=set)


class Axes:
    """What the axes of weights become when something is made of them.

    Args:
        layer: a `Derived`.

    Attributes:
        given: the labels of the axes of each weight and array.
        made: those of the result.
        fixed: labels along which nothing can go.
        summed: labels along which what goes must be zero.
    """

    def __init__(self, layer: Any):
        self.ties, self.fixed, self.summed = Atoms(), set(), set()
        shapes = [tuple(getattr(layer, name).shape) for name in layer.names]
        given = [self.fresh(shape) for shape in shapes]
        result = layer.recipe.made_of(given, self.visit)
        self.given = [self.roots(each.axes) for each in given]
        self.made = self.roots(result.axes)
        self.fixed, self.summed = (set(self.roots(each)) for each in (self.fixed, self.summed))

    def roots(self, labels: Iterable) -> list:
        """Return what labels have become."""
        return [None if each is None else int(self.ties.find(np.array([each]))[0]) for each in labels]

    def fresh(self, shape: tuple) -> Labels:
        """Return new labels."""
        axes = [None if n == 1 else int(self.ties.fresh(1)[0]) for n in shape]
        return Labels(axes, {each for each in axes if each is not None})

    def visit(self, node: Any, arguments: tuple, named: dict) -> Any:
        """Return what an operation makes of labels."""
        operation, kind = node.operation, type(node.operation).__name__
        given = [*arguments, *named.values()]
        xs = [x for x in given if isinstance(x, Labels)]
        shape = tuple(node.output_tensors[0].shape)
        if kind in ("GetItem", "Reshape") and len(xs) == 1 and only_adds_axes(node, given):
            return self.moved(operation, node, xs[0])
        if kind in ("GetItem", "Split", "Unstack", "Take", "Flip") and len(xs) == 1 and isinstance(given[0], Labels):
            return self.picked(node, xs[0], (arguments, named))
        if len(node.output_tensors) == 1 and len(xs) + sum(np.ndim(x) == 0 for x in given if x not in xs) == len(given):
            if kind in UNARY and len(xs) == 1:
                return Labels(xs[0].axes, xs[0].zero if kind in KEEPS_ZEROS else set())
            if kind in ARITHMETIC or kind in COMPARISONS:
                return self.merged(kind, given, len(shape))
            if (kind in SUMS or kind in ("Mean", "Max", "Min", "Var", "Std", "Prod")) and hasattr(operation, "axis"):
                return self.reduced(operation, kind, xs[0])
            if kind == "Normalize" and isinstance(operation.axis, int) and operation.order == 2:
                self.add_up(xs[0], [operation.axis], True)
                return xs[0]
            if kind in ("Transpose", "Swapaxes", "Moveaxis", "ExpandDims", "Squeeze"):
                return self.moved(operation, node, xs[0])
            if kind in EQUATIONS and len(xs) == 2:
                return self.contracted(operation, kind, xs)
        for x in xs:
            self.fixed.update(each for each in x.axes if each is not None)
        results = [self.fresh(tuple(y.shape)) for y in node.output_tensors]
        for each in results:
            self.fixed.update(label for label in each.axes if label is not None)
            each.zero = set()
        return results if len(results) > 1 else results[0]

    def picked(self, node: Any, x: Labels, given: tuple[tuple, dict]) -> Any:
        """Return what is taken out of a tensor: axes of which all is taken are what they were, others lose nothing."""
        results = [self.fresh(tuple(y.shape)) for y in node.output_tensors]
        kept = [[None] * len(each.axes) for each in results]
        before = tuple(node.arguments.keras_tensors[0].shape)
        for axis, label in enumerate(x.axes):
            if label is None:
                continue
            order = np.arange(before[axis])
            places = np.broadcast_to(along(order, len(before), axis), before)
            arguments, named = keras.tree.map_structure(lambda each, new=places: new if each is x else each, given)
            for known, y in zip(kept, keras.tree.flatten(node.operation(*arguments, **named)), strict=True):
                y = ops.convert_to_numpy(y)
                [place] = changing if len(changing := varying(y)) == 1 else [None]
                if place is not None and np.array_equal(
                    np.moveaxis(y, place, -1).reshape(-1, y.shape[place])[0], order
                ):
                    known[place] = label
                else:
                    self.fixed.add(label)
        for each, known in zip(results, kept):
            self.fixed.update(new for new, old in zip(each.axes, known) if old is None and new is not None)
            each.axes, each.zero = [new if old is None else old for new, old in zip(each.axes, known)], self.zeros(x)
        return results if len(results) > 1 else results[0]

    def merge(self, labels: list) -> int | None:
        """Return the label of axes that are one, None where all are of size 1."""
        known = [each for each in labels if each is not None]
        for other in known[1:]:
            self.ties.tie(np.array([known[0]]), np.array([other]))
        return known[0] if known else None

    def merged(self, kind: str, given: list, rank: int) -> Labels:
        """Return what is made number by number."""
        rows = [[None] * (rank - len(x.axes)) + x.axes for x in given if isinstance(x, Labels)]
        axes = [self.merge(list(column)) for column in zip(*rows)]
        zeros = [self.zeros(x) if isinstance(x, Labels) else set() for x in given]
        is_root = kind == "Power" and isinstance(given[-1], int | float) and given[-1] > 0
        if kind == "Multiply":
            zero = set.union(*zeros)
        elif kind in ("Divide", "TrueDivide") or is_root:
            zero = zeros[0]
        else:
            zero = set.intersection(*zeros) if kind in ("Add", "Subtract") else set()
        return Labels(axes, zero)

    def zeros(self, x: Labels) -> set[int]:
        """Return what the labels have become that zeros keep."""
        return set(self.roots(x.zero))

    def add_up(self, x: Labels, axes: Iterable[int], adds: bool) -> None:
        """Note that numbers along axes are added up, or mixed in another way."""
        zero = self.zeros(x)
        for axis in axes:
            label = x.axes[axis]
            if label is not None:
                (self.summed if adds and self.roots([label])[0] in zero else self.fixed).add(label)

    def reduced(self, operation: Any, kind: str, x: Labels) -> Labels:
        """Return what is left of axes."""
        rank = len(x.axes)
        axes = range(rank) if operation.axis is None else np.atleast_1d(operation.axis).tolist()
        axes = {axis % rank for axis in axes}
        adds = kind == "Sum" or (kind == "Norm" and getattr(operation, "ord", None) in (None, 2, "fro"))
        self.add_up(x, axes, adds)
        kept = [None if axis in axes else label for axis, label in enumerate(x.axes)]
        gone = set(self.roots(x.axes[axis] for axis in axes))
        kept = kept if operation.keepdims else [label for axis, label in enumerate(kept) if axis not in axes]
        return Labels(kept, self.zeros(x) - gone if adds else set())

    @staticmethod
    def moved(operation: Any, node: Any, x: Labels) -> Labels:
        """Return axes in another order."""
        kind = type(operation).__name__
        marks = np.empty([k + 2 if label is not None else 1 for k, label in enumerate(x.axes)], bool)
        if kind == "Transpose":
            marks = marks.transpose(operation.axes)
        elif kind == "Swapaxes":
            marks = marks.swapaxes(operation.axis1, operation.axis2)
        elif kind == "Moveaxis":
            marks = np.moveaxis(marks, operation.source, operation.destination)
        else:
            marks = marks.reshape([n for n in marks.shape if n > 1])
            kept = iter(marks.shape)
            marks = np.empty([1 if n == 1 else next(kept) for n in node.output_tensors[0].shape], bool)
        return Labels([None if n == 1 else x.axes[n - 2] for n in marks.shape], x.zero)

    def contracted(self, operation: Any, kind: str, xs: list[Labels]) -> Labels:
        """Return a sum of products."""
        axes, out = EQUATIONS[kind](operation, [len(x.axes) for x in xs])
        found: dict[Any, int | None] = {}
        for x, labels in zip(xs, axes):
            for mine, label in zip(x.axes, labels, strict=True):
                found[label] = self.merge([found.get(label), mine])
        zero = self.zeros(xs[0]) | self.zeros(xs[1])
        for label, mine in found.items():
            if label not in out and mine is not None:
                (self.summed if self.roots([mine])[0] in zero else self.fixed).add(mine)
        return Labels([found[label] for label in out], zero)


def only_adds_axes(node: Any, given: list) -> bool:
    """Return whether a slice or reshape only adds or takes axes of size 1: `x[:, None]`, `x[..., 0]` of such a one."""
    before, after = ([n for n in x.shape if n != 1] for x in (node.arguments.keras_tensors[0], node.output_tensors[0]))
    keys = given[1] if isinstance(given[-1], tuple) else given[1:]
    whole = all(key is None or key is Ellipsis or key == slice(None) or key == 0 for key in keys)
    return before == after and (type(node.operation).__name__ == "Reshape" or whole)


AXES: weakref.WeakKeyDictionary[Any, Axes] = weakref.WeakKeyDictionary()


def axes_of(layer: Any) -> Axes:
    """Return what the axes of a layer's weights become."""
    if layer not in AXES:
        AXES[layer] = Axes(layer)
    return AXES[layer]
