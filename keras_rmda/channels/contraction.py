"""Sums of products of tensors: `ops.matmul`, `einsum`, `dot`, `tensordot`, the layer `Dot`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_rmda.channels.equations import Equation
from keras_rmda.channels.merges import operands
from keras_rmda.channels.rule import Demand, Rule, State
from keras_rmda.channels.sites import Block, Call, Cut
from keras_rmda.channels.tensors import Atoms, NotCovered, Tensor, varying


@dataclass(frozen=True)
class Factor:
    """A tensor or an array of numbers in a sum of products, or the sum.

    Attributes:
        x: the tensor or array.
        axes: the labels of its axes.
        labels: those of all factors, without that of the batch.
    """

    x: Tensor | np.ndarray
    axes: list
    labels: list

    def laid(self, array: np.ndarray) -> np.ndarray:
        """Return an array like the atoms of a tensor, or the numbers of an array, with one axis for each label."""
        array = self.x.with_batch(array) if isinstance(self.x, Tensor) else array
        batch = tuple(k for k, label in enumerate(self.axes) if label not in self.labels)
        if any(array.shape[k] > 1 for k in batch):
            raise NotCovered("numbers that differ along the batch")
        array, axes = array.squeeze(batch), [label for label in self.axes if label in self.labels]
        array = array.transpose([axes.index(label) for label in self.labels if label in axes])
        return np.expand_dims(array, [k for k, label in enumerate(self.labels) if label not in axes])

    def unlaid(self, array: np.ndarray) -> np.ndarray:
        """Return the reverse, true where any of what has the same place is."""
        array = array.any(axis=tuple(k for k, label in enumerate(self.labels) if label not in self.axes))
        return array.transpose(self.order(self.labels))

    def order(self, labels: list) -> list[int]:
        """Return the places of its labels among those of others that it has."""
        known = [label for label in labels if label in self.axes]
        return [known.index(label) for label in self.axes if label in known]

    @property
    def atoms(self) -> np.ndarray:
        """The atoms of a tensor, with one axis for each label."""
        return self.laid(self.x.atoms)

    @property
    def width(self) -> int | None:
        """The place of the label of the width of a tensor."""
        if self.x.width is None:
            return None
        mark = self.laid(np.arange(2).reshape([2 if k == self.x.width else 1 for k in range(len(self.x.shape))]))
        return mark.shape.index(2)

    def has(self, k: int) -> bool:
        """Return whether a tensor has several positions along the label of this number."""
        label = self.labels[k]
        return label in self.axes and self.x.full[self.axes.index(label)] != 1


def firsts(array: np.ndarray, axes: list[int]) -> np.ndarray:
    """Return the first position along axes, which are kept."""
    return array[tuple(slice(1) if k in axes else slice(None) for k in range(array.ndim))]


@dataclass(frozen=True)
class Contracts(Rule):
    """Sums of products: what is summed over goes where one factor is zero, all other axes are those of the operands.

    What an axis that all operands and the output have in common stands for, a head, goes as a whole: "rows". Each row
    keeps as many of what is summed over, and of the channels of one operand.

    Args:
        equation: (call) -> the labels of all axes.
        refusal: (layer) -> the reason why this rule does not cover this very layer, or None.
    """

    equation: Callable[[Call], Equation]
    refusal: Callable[[Any], str | None] | None = None
    sums = True

    def batch_axes(self, call: Call) -> list[int | None]:
        axes, out = self.equation(call)
        given = operands(call)
        batch = {labels[x.batch] for x, labels in zip(given, axes, strict=True) if isinstance(x, Tensor) and x.batched}
        if len(batch) != 1 or not batch <= set(out) or any(len(set(each)) < len(each) for each in axes):
            raise NotCovered("a batch axis that does not stay one axis")
        return [out.index(*batch)]

    def _factors(self, call: Call) -> list[Factor]:
        """Return the tensors and arrays, and, once it is there, the sum as the last."""
        axes, out = self.equation(call)
        labels = [each for each in dict.fromkeys(sum(axes, out)) if each != out[call.batch[0]]]
        return [Factor(x, each, labels) for x, each in zip([*operands(call), *call.outputs], [*axes, out])]

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        factors, out = self._factors(call), self.equation(call)[1]
        labels = factors[0].labels
        for each in factors:
            if not isinstance(each.x, Tensor):
                each.laid(each.x)
        tensors = [each for each in factors if isinstance(each.x, Tensor)]
        if len(tensors) > 2:
            raise NotCovered(f"{len(tensors)} inputs")
        for k in range(len(labels)):
            ties.tie_alike([each.atoms for each in tensors if each.has(k)], k)
        summed = [k for k, label in enumerate(labels) if label not in out]
        own = [k for k, label in enumerate(labels) if label in out and any(label not in each.axes for each in tensors)]
        for each in tensors:
            if set(varying(ties.find(each.atoms))) & set(summed):
                ties.tie(firsts(each.atoms, own), each.atoms)
        changing = [set(varying(ties.find(each.atoms))) for each in tensors]
        sums = any(each & set(summed) for each in changing)
        bearers = [each for each, axes in zip(tensors, changing) if axes & set(own)]
        for each in bearers[:-1]:  # of a table of channels by channels only one side can lose some
            ties.tie(firsts(each.atoms, own), each.atoms)
        changing = [set(varying(ties.find(each.atoms))) for each in tensors]
        if sums:
            ties.tie(*(firsts(each.atoms, own) for each in (tensors[0], tensors[-1])))
            changing = [set(varying(ties.find(each.atoms))) for each in tensors]
        rows = [k for k in set().union(*changing) if k not in summed and k not in own]
        if bearers or not sums:
            written = firsts((bearers or tensors)[-1].atoms, summed)
            if any(written.shape[k] == 1 for k in rows):
                raise NotCovered("channels that are repeated along others")
            for each in () if bearers else tensors:
                ties.tie(written, firsts(each.atoms, summed))
        else:
            largest = np.max([each.atoms.shape for each in tensors], axis=0).tolist()
            written = ties.fresh(*(n if k in rows else 1 for k, n in enumerate(largest)))
        for number, each in enumerate(tensors):
            call.site.own.setdefault(str(number), each.x.atoms.reshape(-1))
        written = written.squeeze(tuple(summed))
        return [written.transpose(Factor(written, out, labels).order(labels))]

    def rows(self, call: Call, ties: Atoms) -> list[Block]:
        factors, out = [each for each in self._factors(call) if isinstance(each.x, Tensor)], self.equation(call)[1]
        labels = factors[0].labels
        for k in range(len(labels)):
            ties.tie_alike([each.atoms for each in factors if each.has(k)], k)
        for array in (each for each in self._factors(call) if not isinstance(each.x, Tensor)):
            for each in factors:
                if each.width is not None and labels[each.width] in array.axes:  # one set of numbers for all rows
                    each.x.channels(each.x.width, ties)
        common = [k for k, label in enumerate(labels) if all(label in each.axes for each in factors)]
        changing = [set(varying(ties.find(each.atoms))) for each in factors]
        rows = [k for k in common if any(k in each for each in changing)]
        if not rows:
            return []
        if all(each <= set(rows) for each in changing):
            summed = [k for k, label in enumerate(labels) if label not in out]
            for each in factors:
                ties.tie(factors[-1].atoms, firsts(each.atoms, summed))
            return []
        matrices = []
        for each, several in zip(factors, changing):
            within = several - set(rows)
            if within - {each.width} or (several and not several >= set(rows)):
                for other in factors:
                    ties.tie(firsts(other.atoms, rows), other.atoms)
                return []
            if several:
                atoms = np.moveaxis(each.atoms, rows, range(len(rows)))
                matrices.append(atoms.reshape(*atoms.shape[: len(rows)], -1))
        return [Block(matrices, least=lambda rows: 0)]

    def _zeros(self, call: Call, state: State) -> list[np.ndarray]:
        """Return where each factor is zero, with one axis for each label."""
        factors = self._factors(call)[: -1 if call.outputs else None]
        return [each.laid((state.constants(each.x) if isinstance(each.x, Tensor) else each.x) == 0) for each in factors]

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        factors = self._factors(call)
        zero = np.any(np.broadcast_arrays(*self._zeros(call, state)), axis=0)
        out = factors[-1]
        zero = zero.all(axis=tuple(k for k, label in enumerate(out.labels) if label not in out.axes))
        return [np.where(zero.transpose(out.order(out.labels)), 0.0, np.nan)]

    def demands(self, call: Call, state: State) -> list[Demand]:
        *factors, out = self._factors(call)
        zeros = np.stack(np.broadcast_arrays(*self._zeros(call, state)))
        wanted = out.laid(state.needed(out.x))
        demands = []
        for k, each in enumerate(factors):
            if isinstance(each.x, Tensor):
                # What stays although one factor is zero is added too, so that this one must stay zero.
                stays = each.laid(state.cut.stays(each.x.atoms)) & (zeros.argmax(axis=0) == k)
                mask = wanted & (~zeros.any(axis=0) | stays)
                demands.append((each.x, each.unlaid(self._shrunk(mask, each)), f"read by {call.site.name}"))
        return demands

    @staticmethod
    def _shrunk(mask: np.ndarray, factor: Factor) -> np.ndarray:
        """Return needs in the shape of a factor's atoms where it has an axis, of any where its atoms do not change."""
        repeated = tuple(k for k, n in enumerate(factor.atoms.shape) if n == 1 and factor.labels[k] in factor.axes)
        return mask.any(axis=repeated, keepdims=True)

    def arguments(self, call: Call, cut: Cut, given: tuple[tuple, dict]) -> tuple[tuple, dict]:
        factors = self._factors(call)
        new = iter([self._cut(each, factors, cut) for each in factors])
        arguments, keyword_arguments = given
        return tuple(_or(next(new), x) for x in arguments), {k: _or(next(new), x) for k, x in keyword_arguments.items()}

    @staticmethod
    def _cut(factor: Factor, factors: list[Factor], cut: Cut) -> np.ndarray | None:
        """Return what stays of an array of numbers, None for a tensor."""
        if isinstance(factor.x, Tensor):
            return None
        array = factor.x
        for axis, label in enumerate(factor.axes):
            for other in factors:
                if (
                    array.shape[axis] > 1
                    and isinstance(other.x, Tensor)
                    and label in other.axes
                    and label in other.labels
                ):
                    place = [each for each in other.axes if each in other.labels].index(label)
                    if other.x.atoms.shape[place] > 1:
                        array = np.compress(cut.along(other.x, place), array, axis=axis)
                        break
        return array

    def macs(self, call: Call, cut: Cut) -> int:
        factors, sizes = self._factors(call), {}
        if len(factors) < 3:
            return 0
        for each in factors:
            if isinstance(each.x, Tensor):
                kept = list(cut.sizes(each.x))
                for label in (label for label in each.axes if label in each.labels):
                    sizes[label] = max(kept.pop(0) or 1, sizes.get(label, 1))
        result = 1
        for n in sizes.values():
            result *= n
        return result


def _or(array: np.ndarray | None, x: Any) -> Any:
    return x if array is None else array
