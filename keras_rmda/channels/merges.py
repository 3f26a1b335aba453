"""Operations on several tensors and arrays of numbers, element by element."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_rmda.channels.rule import Demand, Rule, State
from keras_rmda.channels.sites import Block, Call, Cut
from keras_rmda.channels.tensors import Atoms, NotCovered, Tensor, along, matrix, varying


@dataclass(frozen=True)
class Merges(Rule):
    """Channel k of the output is made from channels k of all inputs; an axis of size 1 is repeated, as NumPy does.

    Args:
        constant: (layer, operands) -> the outputs for constants and numbers, NaN where there are none; None for no
            constants.
        product: whether a zero makes the output zero, whatever the others are. The layers of Keras that multiply take
            what is masked for ones, so that they are no products where there are masks.

    Example:
        >>> kr.register_rule(MyAdd, kr.channels.Merges())
    """

    constant: Callable[[Any, list], np.ndarray] | None = None
    product: bool = False

    def batch_axes(self, call: Call) -> list[int | None]:
        rank = len(call.full[0])
        return [next((x.batch + rank - len(x.full) for x in call.inputs if x.batched), None)]

    def _laid(self, call: Call, array: np.ndarray, x: Tensor | np.ndarray) -> np.ndarray:
        """Return an array like the atoms of an operand with the axes of the output."""
        array = x.with_batch(array) if isinstance(x, Tensor) else array
        array = array.reshape((1,) * (len(call.full[0]) - array.ndim) + array.shape)
        if call.batch[0] is None:
            return array
        if array.shape[call.batch[0]] > 1:
            raise NotCovered("numbers that differ along the batch")
        return array.squeeze(call.batch[0])

    def _unlaid(self, call: Call, wanted: np.ndarray, x: Tensor) -> np.ndarray:
        """Return needs like those of the output in the shape of an operand's atoms."""
        [y] = call.outputs
        wanted = y.with_batch(wanted)
        wanted = wanted.any(axis=tuple(range(wanted.ndim - len(x.full))))
        return x.unrepeated(wanted.squeeze(x.batch) if x.batched else wanted)

    def _repeated(self, call: Call, x: Tensor) -> list[int]:
        """Return the axes of the output along which an operand is repeated."""
        [shape] = call.shapes
        sizes = self._laid(call, np.empty([1 if n == 1 else 2 for n in x.shape], bool), x).shape
        return [axis for axis, (n, size) in enumerate(zip(sizes, shape)) if n == 1 != size]

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        if any(x.batched and x.batch + len(call.full[0]) - len(x.full) != call.batch[0] for x in call.inputs):
            raise NotCovered(f"inputs of shapes {[x.full for x in call.inputs]}")
        for x in operands(call):
            if not isinstance(x, Tensor):
                self._laid(call, x, x)
        laid = {x.index: self._laid(call, x.atoms, x) for x in call.inputs}
        whole, parts = [], []
        for x in call.inputs:
            others = [each for index, each in laid.items() if index != x.index]
            shared = any(other.shape[axis] > 1 for axis in self._repeated(call, x) for other in others)
            (parts if shared else whole).append(laid[x.index])
        if not whole:
            raise NotCovered(f"shapes that repeat each other: {[x.shape for x in call.inputs]}")
        tied = np.broadcast_arrays(*whole)
        for other in tied[1:]:
            ties.tie(tied[0], other)
        for part in parts:
            for axis in (k for k, (n, size) in enumerate(zip(part.shape, tied[0].shape)) if n > size):
                # What has positions there cannot lose any: the part cannot either.
                if all(axis in self._repeated(call, x) for x in call.inputs if laid[x.index] is not part):
                    raise NotCovered(f"shapes that repeat each other: {[x.shape for x in call.inputs]}")
                ties.tie(np.take(part, [0], axis), part)
        return [self._of_numbers(call, ties, tied[0])]

    def _of_numbers(self, call: Call, ties: Atoms, atoms: np.ndarray) -> np.ndarray:
        """Return atoms along the only axis that an array has and no tensor, as slopes of heads; else those given."""
        [shape], one = call.shapes, {axis for axis, n in enumerate(atoms.shape) if n == 1}
        for x in call.inputs:
            one &= {*self._repeated(call, x)}
        if atoms.size > 1 or len(one) != 1 or shape[min(one)] is None:
            return atoms
        [axis] = one
        return along(call.fresh("c", ties, shape[axis]), len(shape), axis)

    def rows(self, call: Call, ties: Atoms) -> list[Block]:
        """Let an operand that is repeated along a row go with the row: the weight of a head with the head.

        What is repeated for all rows, as a table of angles, lets a row go as a whole.
        """
        [y], blocks = call.outputs, []
        for x in call.inputs:
            part, whole = self._laid(call, x.atoms, x), y.atoms
            if part.size == 1 or part.shape == whole.shape:
                continue
            for axis in (k for k, n in enumerate(part.shape) if n > 1):
                ties.tie_alike([part, whole], axis)
            outer, several = varying(ties.find(part)), varying(ties.find(whole))
            if outer and [axis for axis in several if axis not in outer] == [y.width]:
                sizes = [1 if axis == y.width else n for axis, n in enumerate(whole.shape)]
                rows = matrix(y)
                part = part[tuple(slice(1) if n == 1 else slice(None) for n in whole.shape)]
                part = np.broadcast_to(part, sizes).reshape(*rows.shape[:-1], 1)
                blocks.append(Block([part, rows], least=lambda rows: 0))
            elif outer == [y.width] and len(several) > 1:  # all rows have these positions, so that rows go as wholes
                for each in (part, whole):
                    ties.tie(np.take(each, [0], y.width), each)
            elif outer:
                ties.tie(part, whole)
        return blocks

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        if self.constant is None or (self.product and call.masked):
            return super().constants(call, state)
        given = operands(call)
        values = [state.constants(x) if isinstance(x, Tensor) else x.astype("float64") for x in given]
        return [self.constant(call.layer, [self._laid(call, value, x) for value, x in zip(values, given)])]

    def demands(self, call: Call, state: State) -> list[Demand]:
        needed, given = state.needed(call.outputs[0]), operands(call)
        values = [state.constants(x) if isinstance(x, Tensor) else x for x in given]
        laid = np.broadcast_arrays(*(self._laid(call, value == 0, x) for value, x in zip(values, given)))
        zeros = np.stack([each if each.shape == needed.shape else shrunk(each, needed.shape) for each in laid])
        demands = []
        for k, x in enumerate(given):
            wanted = needed
            if self.product and not call.masked:  # one zero is enough: what it is multiplied by does not matter
                wanted = wanted & (~zeros.any(axis=0) | (zeros.argmax(axis=0) == k))
            if isinstance(x, Tensor):
                demands.append((x, self._unlaid(call, wanted, x), f"read by {call.site.name}"))
        return demands

    def arguments(self, call: Call, cut: Cut, given: tuple[tuple, dict]) -> tuple[tuple, dict]:
        [y] = call.outputs
        if cut.stays(y.atoms).all():
            return given

        def taken(x: Any) -> Any:
            if isinstance(x, keras.KerasTensor) or np.ndim(x) == 0:
                return x
            array = as_array(x)
            rank = array.ndim
            array = cut.array(y, self._laid(call, array, array))
            array = array if call.batch[0] is None else np.expand_dims(array, call.batch[0])
            while array.ndim > rank and array.shape[0] == 1:
                array = array[0]
            return array

        if isinstance(call.layer, keras.Layer):
            return keras.tree.map_structure(taken, given)
        return tuple(map(taken, given[0])), {key: taken(x) for key, x in given[1].items()}


def shrunk(zeros: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return whether all is zero along axes that are repeated."""
    return zeros.all(axis=tuple(axis for axis, n in enumerate(shape) if n == 1), keepdims=True)


def as_array(x: Any) -> np.ndarray:
    """Return an array or a tensor of numbers of any backend as an array."""
    return np.asarray(x if isinstance(x, int | float | bool | list | tuple) else keras.ops.convert_to_numpy(x))


def operands(call: Call) -> list[Tensor | np.ndarray]:
    """Return the operands of a merging layer or operation, in their order."""
    arguments, keyword_arguments = call.arguments
    if isinstance(call.layer, keras.Layer):
        given = keras.tree.flatten(call.arguments)
    else:
        given = [*arguments, *keyword_arguments.values()]
    return [x if isinstance(x, Tensor) else as_array(x) for x in given if x is not None]
