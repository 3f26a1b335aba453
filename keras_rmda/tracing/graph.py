"""From programs at several sizes to one graph for all sizes, with the weights that they use as leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda import _graphs
from keras_rmda.tracing.leaves import ForEachSample, Weight, held
from keras_rmda.tracing.products import PRODUCTS, product
from keras_rmda.tracing.programs import (
    Place,
    Program,
    Step,
    Untraceable,
    config_but_name,
    is_array,
    is_same,
    own_layers,
    settings,
)
from keras_rmda.tracing.ranges import Range, RangeOfProgram
from keras_rmda.tracing.shapes import differ_in_ones, open_shape, shifted, with_axes, with_inner

ELEMENTWISE = frozenset([
    "Add", "Subtract", "Multiply", "TrueDivide", "Divide", "FloorDivide", "Power", "Mod", "Maximum", "Minimum", "Where",
    "Arctan2", "Hypot", "Equal", "NotEqual", "Greater", "GreaterEqual", "Less", "LessEqual", "LogicalAnd", "LogicalOr",
    "LogicalXor", "BitwiseAnd", "BitwiseOr",
])  # fmt: skip
"""Operations of several tensors that are broadcast against each other."""


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


class Graph:
    """Makes the steps of a program again, on open inputs.

    Args:
        layer: whose code it is.
        programs: of the same code, at these sizes, step by step the same.
        sizes: one for each program.
        inputs: the tensors of the graph that stand for the inputs.
        variables: what stands behind the other inputs of the programs.
    """

    def __init__(self, layer: keras.Layer, programs: list[Program], sizes: list, inputs: list, variables: list):
        self.layer, self.programs, self.sizes = layer, programs, sizes
        self.inputs, self.variables = inputs, variables
        self.known = {Place(-1, k): Symbol(x) for k, x in enumerate(inputs)}
        self.made: dict[tuple, tuple[list, Any]] = {}  # by variables: what they are used in, and the layer for it
        self.layers = own_layers(layer)
        self.names = {each.name for each in getattr(layer, "_layers", [])}

    def outputs(self) -> Any:
        """Return the outputs of the graph, structured as those of the code."""
        for number, (a, b) in enumerate(zip(self.programs[0].steps, self.programs[-1].steps, strict=True)):
            if self._is_transposed_for_products(number):
                continue
            for k, result in enumerate(self._made(a, b)):
                self.known[Place(number, k)] = result
        result = keras.tree.map_structure(self._symbol, self.programs[0].outputs)
        if any(not each.batched for each in keras.tree.flatten(result)):
            raise Untraceable("an output does not depend on the inputs")
        return keras.tree.map_structure(lambda each: each.tensor, result)

    # ---- steps

    def _made(self, a: Step, b: Step) -> list[Symbol]:
        """Return the outputs of a step, from what it is at the first and the last sizes."""
        operation = a.operation
        if type(operation) is not type(b.operation):
            raise Untraceable("its code does something else at other sizes")
        places = a.places
        weights = [x for x in places if self._is_weight(x) or self._untransposed(x) is not None]
        if isinstance(operation, RangeOfProgram) and operation.axis == b.operation.axis:
            made = Range(operation.axis, operation.number_type, name=self._name("range"))
            return [Symbol(made(self._symbol(places[0]).tensor), batched=False)]
        if isinstance(operation, keras.Layer):
            return self._call_of_layer(a, b)
        name = type(operation).__name__
        if weights and len(places) > len(weights) and name in PRODUCTS:
            [other] = [self._symbol(x) for x in places if x not in weights][:1]
            return [Symbol(self._product(a), other.batched)]
        symbols = [self._symbol(x) for x in places]
        if name in ELEMENTWISE:
            return self._elementwise(a, b)
        if symbols and not any(each.batched for each in symbols):
            return [self._for_each_sample(symbols[0], a, b) if self._is_batch(a, b) else self._shifted(a, b)]
        if name == "Reshape":
            return [self._reshaped(a, b, symbols[0])]
        return self._called(a, b)

    def _call_of_layer(self, a: Step, b: Step) -> list[Symbol]:
        if a.operation is not b.operation and not is_same(config_but_name(a.operation), config_but_name(b.operation)):
            raise Untraceable(f"it makes a layer {type(a.operation).__name__} of open sizes")
        if a.operation.weights and id(a.operation) not in self.layers:
            raise Untraceable(f"it calls the layer {a.operation.name!r}, whose weights it does not have")
        batched = any(self._symbol(x).batched for x in a.places)
        if not batched and any(shape[:1] != (1,) for shape in a.shapes):
            raise Untraceable(f"it calls the layer {a.operation.name!r} on its own weights")
        arguments, keyword_arguments = keras.tree.map_structure(self._tensor, self._arguments(a, b))
        outputs = keras.tree.flatten(a.operation(*arguments, **keyword_arguments))
        return [Symbol(y if batched else with_axes(y, 1), batched) for y in outputs if y is not None]

    def _called(self, a: Step, b: Step) -> list[Symbol]:
        """Call an operation as the code does."""
        if not is_same(settings(a.operation), settings(b.operation)):
            raise Untraceable(f"it gives {a.called} numbers that depend on open sizes")
        arguments, keyword_arguments = keras.tree.map_structure(self._tensor, self._arguments(a, b))
        return [Symbol(y) for y in keras.tree.flatten(a.operation(*arguments, **keyword_arguments))]

    def _reshaped(self, a: Step, b: Step, x: Symbol) -> Symbol:
        """Reshape with -1 in the place of an open size; as a layer, which keeps the batch, where there are two."""
        [place] = a.places
        before, after = [each.shape(place) for each in self.programs], [a.shapes[0], b.shapes[0]]
        if len(self.programs) == 1:
            return Symbol(a.operation(x.tensor))
        sizes = [n if n == m else -1 for n, m in zip(*after)]
        keeps = before[0][0] == after[0][0] and before[-1][0] == after[1][0]
        if keeps and sizes[1:].count(-1) <= 1:
            return Symbol(self._inner(x.tensor, sizes[1:]))
        if sizes.count(-1) > 1:
            raise Untraceable("it reshapes to several open sizes")
        return Symbol(ops.reshape(x.tensor, sizes))

    def _elementwise(self, a: Step, b: Step) -> list[Symbol]:
        """Give all operands as many axes as the result has, so that first axes meet."""
        symbols, rank = [self._symbol(x) for x in a.places], len(a.shapes[0])
        batched = any(each.batched for each in symbols)
        align = lambda x: self._aligned(self._symbol(x), rank, batched) if isinstance(x, Place) else x  # noqa: E731
        arguments, keyword_arguments = keras.tree.map_structure(align, self._arguments(a, b))
        [y] = keras.tree.flatten(a.operation(*arguments, **keyword_arguments))
        result = Symbol(y, batched)
        return [self._for_each_sample(result, a, b) if not batched and self._is_batch(a, b) else result]

    def _aligned(self, x: Symbol, rank: int, batched: bool) -> Any:
        """Return a tensor with so many axes, if it is the same for all samples, and one more if none is batched."""
        if x.batched:
            return x.tensor
        inner = tuple(x.tensor.shape[1:])
        if not batched:
            return with_axes(x.tensor, rank - len(inner))
        if len(inner) == rank and inner[0] == 1:
            return x.tensor[:, 0]
        if len(inner) >= rank:
            raise Untraceable("it has a weight of its own for each sample")
        return with_axes(x.tensor, rank - 1 - len(inner))

    def _for_each_sample(self, x: Symbol, a: Step, b: Step) -> Symbol:
        """Repeat what is the same for all samples, as a program with a batch of its own has it."""
        inner, y = tuple(open_shape(a.shapes[0], b.shapes[0])[1:]), x.tensor
        if differ_in_ones(y.shape[1:], inner) or (None not in inner and np.prod(inner) == np.prod(y.shape[1:])):
            y = self._inner(y, inner)
        elif type(a.operation).__name__ == "BroadcastTo" and None not in inner:
            y = self._aligned(x, len(inner) + 1, batched=True)
            y = ops.broadcast_to(with_axes(y, len(inner) + 1 - len(y.shape)), (1, *inner))
        else:
            raise Untraceable(f"it repeats a weight of its own by {a.called}")
        return Symbol(ForEachSample(name=self._name("for_each_sample"))([y, self.inputs[0]]))

    def _product(self, a: Step) -> Any:
        """Return what a layer of Keras that holds the weight makes of the other argument."""
        transposed = {x: self._untransposed(x) for x in a.places if self._untransposed(x) is not None}
        weights = {x: x for x in a.places if self._is_weight(x)} | transposed
        name = type(a.operation).__name__
        found = {x: self._variable(weights[x]) if x in weights else self._tensor(x) for x in a.places}
        arguments = keras.tree.map_structure(lambda x: found[x] if isinstance(x, Place) else x, a.arguments)
        variables, tensors = ([found[x] for x in found if (x in weights) is such] for such in (True, False))
        key, use = tuple(map(id, variables)), [name, settings(a.operation), len(transposed)]
        if len(tensors) != 1 or (transposed and (name != "Matmul" or len(variables) > 1)):
            raise Untraceable(f"it uses a weight of its own in {a.called}")
        if key not in self.made or not is_same(self.made[key][0], use):
            for variable in variables:
                self._refuse_second_use(variable)
            made = self._name(variables[0].name), self.layer.dtype_policy
            self.made[key] = use, product(a.operation, arguments, tensors[0], bool(transposed), *made)
        return self.made[key][1](tensors[0])

    def _is_transposed_for_products(self, number: int) -> bool:
        """Return whether a step makes what only products read, which take the matrix as it is."""
        place, steps = Place(number, 0), self.programs[0].steps
        if self._untransposed(place) is None:
            return False
        readers = [step for step in steps if place in step.places]
        return all(type(step.operation).__name__ == "Matmul" for step in readers)

    def _untransposed(self, place: Place) -> Place | None:
        """Return the matrix of the layer's own whose transpose this is, if it is one."""
        step = self.programs[0].steps[place.step] if place.step >= 0 else None
        if type(getattr(step, "operation", None)).__name__ != "Transpose" or len(step.shapes[0]) != 2:
            return None
        [source] = step.places
        return source if self._is_weight(source) and step.operation.axes in (None, (1, 0), [1, 0], (-1, -2)) else None

    def _refuse_second_use(self, variable: keras.Variable) -> None:
        if any(id(variable) in key for key in self.made):
            raise Untraceable(f"it uses its own weight {variable.name!r} in several ways")

    # ---- tensors

    def _symbol(self, place: Place) -> Symbol:
        if place not in self.known:
            variable = self._variable(place)
            self._refuse_second_use(variable)
            leaf = Weight(variable.shape, name=self._name(variable.name), dtype=self.layer.dtype_policy)
            held(leaf, None, value=variable)
            self.made[(id(variable),)] = ["Weight"], leaf
            self.known[place] = Symbol(leaf(self.inputs[0]), batched=False)
        return self.known[place]

    def _shifted(self, a: Step, b: Step) -> Symbol:
        """Do with a weight, which has an axis more, what the code does."""
        [x], arguments = [self._symbol(each).tensor for each in a.places[:1]], self._arguments(a, b)[0]
        return Symbol(shifted(a, open_shape(a.shapes[0], b.shapes[0]), x, arguments, self._name), batched=False)

    def _inner(self, x: Any, shape: Any) -> Any:
        return with_inner(x, shape, self._name)

    def _tensor(self, x: Any) -> Any:
        """Return an argument, with the tensor of a weight as that of one sample if it has an axis for it."""
        if not isinstance(x, Place):
            return x
        symbol = self._symbol(x)
        if not symbol.batched and (len(symbol.tensor.shape) < 3 or symbol.tensor.shape[1] != 1):
            raise Untraceable("it uses a weight of its own where only tensors with a batch axis are possible")
        return symbol.tensor if symbol.batched else symbol.tensor[:, 0]

    def _is_weight(self, place: Place) -> bool:
        return place.step < 0 and place.number >= len(self.inputs)

    def _variable(self, place: Place) -> keras.Variable:
        return self.variables[place.number - len(self.inputs)]

    def _name(self, name: str) -> str:
        return _graphs.unused(name, self.names)

    def _is_batch(self, a: Step, b: Step) -> bool:
        """Return whether the first axis of an output is that of the samples."""
        shapes = zip((a, b), (self.sizes[0], self.sizes[-1]))
        return all(bool(each.shapes[0]) and each.shapes[0][0] == sizes.batch for each, sizes in shapes)

    def _arguments(self, a: Step, b: Step) -> Any:
        """Return the arguments of an operation, which must be the same at all sizes or be made to be."""
        flat = list(zip(keras.tree.flatten(a.arguments), keras.tree.flatten(b.arguments), strict=True))
        return keras.tree.pack_sequence_as(a.arguments, [self._argument(x, y, a) for x, y in flat])

    def _argument(self, x: Any, y: Any, step: Step) -> Any:
        if is_same(x, y):
            return x
        if is_array(x) and is_array(y):
            x, y = ops.convert_to_numpy(x), ops.convert_to_numpy(y)
            counts = tuple(sizes.batch for sizes in self.sizes)
            if x.ndim and (len(x), len(y)) == counts and (x == x[:1]).all() and np.array_equal(x[:1], y[:1]):
                return x[:1]
        if isinstance(x, slice) and isinstance(y, slice) and (x.start, x.step) == (y.start, y.step):
            [place] = step.places[:1]
            ends = [each.shape(place) for each in self.programs]
            if any(a == x.stop and b == y.stop for a, b in zip(*ends)):
                return slice(x.start, None, x.step)
        raise Untraceable(f"it gives {step.called} numbers that depend on open sizes")
