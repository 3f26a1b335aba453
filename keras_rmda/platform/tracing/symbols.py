"""The tensors of a graph that is made of programs, and what they stand for in these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.platform import graphs
from keras_rmda.platform.tracing.leaves import AsOneSample, Weight, WithoutSamples, held
from keras_rmda.platform.tracing.programs import (
    Place,
    Program,
    Step,
    Untraceable,
    is_array,
    is_same,
    own_layers,
)
from keras_rmda.platform.tracing.shapes import with_inner


@dataclass(frozen=True)
class Symbol:
    """A tensor of the graph.

    Attributes:
        tensor: the symbolic tensor.
        batched: whether its first axis is that of the samples; if not, it has a first axis of size 1 that the tensor of
            the program has not.
    """

    tensor: Any
    batched: bool = True


class Symbols:
    """The tensors of a graph by their places in the programs that it is made of.

    Args:
        layer: whose code it is.
        programs: of the same code, at these sizes, step by step the same.
        sizes: one for each program.
        inputs: the tensors of the graph that stand for the inputs.
        variables: what stands behind the other inputs of the programs.
        is_of_samples: whether the first axis is that of samples where it has the same size in all inputs.

    Attributes:
        known: the tensors that are made already.
        of_weights: the numbers of the steps that make something of weights, and of nothing else but arrays.
        made: by weights that are used, by their ids: in which ways, and the layers for these.
    """

    def __init__(
        self,
        layer: keras.Layer,
        programs: list[Program],
        sizes: list,
        inputs: list,
        variables: list,
        is_of_samples: bool = True,
    ):
        self.layer, self.programs, self.sizes, self.is_of_samples = layer, programs, sizes, is_of_samples
        self.inputs, self.variables = inputs, variables
        self.names = {each.name for each in getattr(layer, "_layers", [])}
        self.known = {Place(-1, k): self._given(x, Place(-1, k)) for k, x in enumerate(inputs)}
        self.made: dict[tuple, list[tuple[list, keras.Layer]]] = {}
        self.layers = own_layers(layer)
        self.of_weights: set[int] = set()
        for number, step in enumerate(programs[0].steps):
            if step.places and all(map(self.is_of_weights, step.places)):
                self.of_weights.add(number)

    def symbol(self, place: Place) -> Symbol:
        """Return what stands at a place; a weight becomes a leaf of the graph when it is first asked for."""
        if place not in self.known:
            variable = self.variable(place)
            made = {"name": self.name(variable.name), "dtype": self.layer.dtype_policy}
            number_type = None if "float" in variable.dtype else variable.dtype
            leaf = held(Weight(variable.shape, number_type, **made), None, value=variable)
            self.known[place] = Symbol(leaf(self.inputs[0]), batched=False)
        return self.known[place]

    def _given(self, x: Any, place: Place) -> Symbol:
        """Return an input: only where others have an open first axis and it has not, it has none for samples."""
        if self.sizes[0].given:
            is_batched = self._samples_at([each.shape(place) for each in self.programs]) is not None
        else:
            is_known = self.is_of_samples and all(each.shape[:1] != (None,) for each in self.inputs)
            is_batched = x.shape[:1] == (None,) or is_known
        if is_batched:
            return Symbol(x)
        return Symbol(AsOneSample(name=self.name("as_one_sample"))(x), batched=False)

    def _samples_at(self, shapes: list[tuple]) -> int | None:
        """Return the axis that has as many numbers as there are samples, at all sizes."""
        found, batch = list(zip(*shapes)), tuple(each.batch for each in self.sizes)
        return found.index(batch) if batch in found else None

    @property
    def samples(self) -> Any:
        """An input with the axis of the samples in front."""
        for k, x in enumerate(self.inputs):
            shapes = [each.shape(Place(-1, k)) for each in self.programs]
            if self.known[Place(-1, k)].batched and (not self.sizes[0].given or self._samples_at(shapes) == 0):
                return x
        raise Untraceable("it repeats numbers for samples that no input has in front")

    def bare(self, x: Symbol) -> Any:
        """Return a tensor that is the same for all samples without the axis for them."""
        return WithoutSamples(name=self.name("without_samples"))(x.tensor)

    def tensor(self, x: Any, may_be_bare: bool = False) -> Any:
        """Return an argument, with the tensor of a weight as that of one sample if it has an axis for it."""
        if not isinstance(x, Place):
            return x
        symbol = self.symbol(x)
        if not symbol.batched and (len(symbol.tensor.shape) < 3 or symbol.tensor.shape[1] != 1):
            if may_be_bare:
                return self.bare(symbol)
            raise Untraceable("it uses a weight of its own where only tensors with a batch axis are possible")
        return symbol.tensor if symbol.batched else symbol.tensor[:, 0]

    def inner(self, x: Any, shape: Any) -> Any:
        """Return a tensor with other axes behind the first."""
        return with_inner(x, shape, self.name)

    def is_weight(self, place: Place) -> bool:
        """Return whether a weight of the layer's own stands at a place."""
        return place.step < 0 and place.number >= len(self.inputs)

    def is_of_weights(self, place: Place) -> bool:
        """Return whether what stands at a place is made of weights, and of nothing else but arrays."""
        return place.step in self.of_weights or self.is_weight(place)

    def is_known_batched(self, place: Place) -> bool:
        """Return whether what is made already of a place has an axis for samples."""
        return place in self.known and self.known[place].batched

    def variable(self, place: Place) -> keras.Variable:
        return self.variables[place.number - len(self.inputs)]

    def layer_for(self, variables: list, use: list, make: Callable[[str], keras.Layer]) -> keras.Layer:
        """Return the layer that uses weights in one way: that there is, or what is made with a name."""
        known = self.made.setdefault(tuple(map(id, variables)), [])
        for other, layer in known:
            if is_same(other, use):
                return layer
        known.append((use, make(self.name(variables[0].name))))
        return known[-1][1]

    def name(self, name: str) -> str:
        """Return a name for a layer that no other has."""
        return graphs.unused(name, self.names)

    def is_batch(self, a: Step, b: Step) -> bool:
        """Return whether the first axis of an output is that of the samples."""
        shapes = zip((a, b), (self.sizes[0], self.sizes[-1]))
        return all(bool(each.shapes[0]) and each.shapes[0][0] == sizes.batch for each, sizes in shapes)

    def others(self, place: Place) -> list:
        """Return the inputs of the graph with samples that a tensor does not depend on."""
        waiting, found = [place], set()
        while waiting:
            each = waiting.pop()
            if each not in found:
                found.add(each)
                waiting += self.programs[0].steps[each.step].places if each.step >= 0 else []
        inputs = [(Place(-1, k), x) for k, x in enumerate(self.inputs)]
        return [x for each, x in inputs if each not in found and self.known[each].batched]

    def batch_place(self, a: Step, b: Step) -> int:
        """Return which axis of an output is that of the samples, 0 if none is known to be."""
        sizes = tuple(each.batch for each in self.sizes)
        found = list(zip(*(each.shapes[0] for each in (a, b)[: len(sizes)])))
        return found.index(sizes) if sizes in found else 0

    def arguments(self, a: Step, b: Step) -> Any:
        """Return the arguments of an operation, which must be the same at all sizes or be made to be."""
        flat = list(zip(keras.tree.flatten(a.arguments), keras.tree.flatten(b.arguments), strict=True))
        return keras.tree.pack_sequence_as(a.arguments, [self._argument(x, y, a) for x, y in flat])

    def _of_each_sample(self, x: Any, y: Any) -> Any:
        """Return an array of one sample, if two arrays are that of it at two numbers of samples, else None."""
        if not (is_array(x) and is_array(y)):
            return None
        x, y = ops.convert_to_numpy(x), ops.convert_to_numpy(y)
        counts = tuple(sizes.batch for sizes in self.sizes)
        is_repeated = x.ndim and (len(x), len(y)) == counts and (x == x[:1]).all() and np.array_equal(x[:1], y[:1])
        return x[:1] if is_repeated else None

    def _argument(self, x: Any, y: Any, step: Step) -> Any:
        if is_same(x, y):
            return x
        if (one := self._of_each_sample(x, y)) is not None:
            return one
        if isinstance(x, slice) and isinstance(y, slice) and (x.start, x.step) == (y.start, y.step):
            [place] = step.places[:1]
            ends = [each.shape(place) for each in self.programs]
            if any(a == x.stop and b == y.stop for a, b in zip(*ends)):
                return slice(x.start, None, x.step)
        raise Untraceable(f"it gives {step.called} numbers that depend on open sizes")
