"""What code makes of weights of its own: kernels that are scaled, masked or normalized, and the products with them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.platform import graphs
from keras_rmda.platform.compat import applied
from keras_rmda.platform.tracing.leaves import held
from keras_rmda.platform.tracing.programs import Place, Untraceable, is_array, is_same, settings
from keras_rmda.platform.tracing.symbols import Symbol, Symbols

KERNELS = frozenset(["Matmul", "Dot", "Tensordot", "Einsum", "Conv", "ConvTranspose"])
"""Operations of a tensor and a kernel, which is the second argument."""


class Recipe:
    """A graph of operations on weights and arrays, for whatever is in their places."""

    def __init__(self, graph: graphs.Functional):
        self.graph = graph

    def made_of(self, given: list, call: Any = lambda node, arguments, named: node.operation(*arguments, **named)):
        """Return what the graph makes of weights and arrays; `call` as of `graphs.replayed`."""
        return graphs.replayed(self.graph, given, call)


@keras.saving.register_keras_serializable(package="keras_rmda")
class Derived(keras.layers.Layer):
    """A tensor that is made of weights, with a first axis of size 1, or the product of a tensor with it.

    Args:
        recipe: a model that makes it of weights and then of arrays.
        shapes: of the weights.
        numbers: the arrays.
        operation: of `KERNELS`, or None for the tensor itself.
        shape: of the tensor.
    """

    def __init__(
        self, recipe: Any, shapes: list, numbers: list = (), operation: Any = None, shape: Any = None, **arguments: Any
    ):
        super().__init__(**arguments)
        self.recipe, self.operation = Recipe(recipe), operation
        self.shapes = tuple(tuple(each) for each in shapes)
        self.shape = tuple(shape or recipe.outputs[0].shape)
        self.data_format = getattr(operation, "data_format", None) or "channels_last"
        types = [keras.backend.standardize_dtype(x.dtype) for x in recipe.inputs[len(self.shapes) :]]
        for k, (each, dtype) in enumerate(zip(numbers, types)):
            setattr(self, f"numbers_{k}", np.asarray(each, dtype))
        self.count = len(numbers)

    @property
    def numbers(self) -> list[np.ndarray]:
        """The arrays."""
        return [getattr(self, f"numbers_{k}") for k in range(self.count)]

    @property
    def names(self) -> list[str]:
        """The attributes that hold weights and arrays, in their order."""
        return [*(f"weight_{k}" for k in range(len(self.shapes))), *(f"numbers_{k}" for k in range(self.count))]

    def build(self, input_shape: Any) -> None:
        for k, shape in enumerate(self.shapes):
            setattr(self, f"weight_{k}", self.add_weight(shape=shape, initializer="zeros", name=f"weight_{k}"))

    def made(self) -> Any:
        """Return the tensor."""
        weights = [ops.convert_to_tensor(getattr(self, f"weight_{k}")) for k in range(len(self.shapes))]
        arrays = [ops.cast(x, weights[0].dtype) if "float" in str(x.dtype) else x for x in self.numbers]
        return self.recipe.made_of([*weights, *arrays])

    def call(self, x: Any) -> Any:
        return ops.expand_dims(self.made(), 0) if self.operation is None else applied(self.operation, x, self.made())

    def compute_output_spec(self, x: Any) -> keras.KerasTensor:
        if self.operation is None:
            return keras.KerasTensor((None, *self.shape), dtype=self.compute_dtype)
        return self.operation.compute_output_spec(x, keras.KerasTensor(self.shape, dtype=x.dtype))

    def get_config(self) -> dict[str, Any]:
        serialized = keras.saving.serialize_keras_object
        config = {
            "recipe": serialized(self.recipe.graph),
            "shapes": [list(each) for each in self.shapes],
            "numbers": [each.tolist() for each in self.numbers],
            "operation": None if self.operation is None else serialized(self.operation),
            "shape": list(self.shape),
        }
        return super().get_config() | config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Derived:
        made = {key: keras.saving.deserialize_keras_object(config[key]) for key in ("recipe", "operation")}
        return cls(**config | made)


def derived(graph: Symbols, place: Place) -> Symbol:
    """Return the leaf that makes of weights what stands at a place.

    Raises:
        Untraceable: if the code makes it of open sizes, or by layers.
    """
    make, weights = _recipe(graph, place)
    return Symbol(graph.layer_for(weights, [place], make)(graph.inputs[0]), batched=False)


def product(graph: Symbols, operation: Any, x: Any, place: Place) -> Any:
    """Return the product of a tensor with a kernel that is made of weights.

    Raises:
        Untraceable: if it is none of a tensor's channels with a kernel that has as many, without groups.
    """
    kind, shape = type(operation).__name__, graph.programs[0].shape(place)
    why = Untraceable(f"it uses a weight of its own in `ops.{kind.lower()}`, in a way that no layer of Keras has")
    if kind in ("Conv", "ConvTranspose"):
        channels = x.shape[1 if operation.data_format == "channels_first" else -1]
        if channels != shape[-2 if kind == "Conv" else -1] or getattr(operation, "output_padding", None) is not None:
            raise why
    elif len(shape) != 2 or not _reads_last(operation, x):
        raise why
    make, weights = _recipe(graph, place, operation)
    return graph.layer_for(weights, [place, kind, settings(operation)], make)(x)


def _reads_last(operation: Any, x: Any) -> bool:
    """Return whether a product is of the last axis of a tensor and the first of a matrix."""
    rank, kind = len(x.shape), type(operation).__name__
    if kind == "Tensordot":
        axes = operation.axes
        flat = axes if isinstance(axes, int) else [int(n) for n in keras.tree.flatten(axes)]
        return flat in (1, [-1, 0], [rank - 1, 0])
    if kind == "Einsum":
        given, _, out = operation.subscripts.replace(" ", "").partition("->")
        first, _, second = given.partition(",")
        return len(second) == 2 and first[-1:] == second[0] and out == first[:-1] + second[1] and second[1] not in first
    return rank > 1


def _recipe(graph: Symbols, place: Place, operation: Any = None) -> tuple[Any, list]:
    """Return what makes a layer of a name, and the weights that it holds."""
    inputs: dict[Place, Any] = {}
    arrays: list[tuple[Any, np.ndarray]] = []
    known: dict[int, list] = {}

    def tensor(each: Place) -> Any:
        if each.step >= 0:
            return step(each.step)[each.number]
        if each not in inputs:
            variable = graph.variable(each)
            inputs[each] = keras.Input(batch_shape=tuple(variable.shape), dtype=graph.layer.compute_dtype)
        return inputs[each]

    def argument(x: Any) -> Any:
        if isinstance(x, Place):
            return tensor(x)
        if is_array(x):
            array = np.asarray(ops.convert_to_numpy(x))
            if array.ndim == 0:
                return array.item()
            arrays.append((keras.Input(batch_shape=array.shape, dtype=str(array.dtype)), array))
            return arrays[-1][0]
        return x

    def step(number: int) -> list:
        if number not in known:
            a, b = (each.steps[number] for each in (graph.programs[0], graph.programs[-1]))
            if isinstance(a.operation, keras.Layer) or not (
                is_same(a.arguments, b.arguments) and is_same(settings(a.operation), settings(b.operation))
            ):
                raise Untraceable(f"it uses a weight of its own in {a.called}")
            arguments, named = keras.tree.map_structure(argument, a.arguments)
            known[number] = keras.tree.flatten(a.operation(*arguments, **named))
        return known[number]

    result = tensor(place)
    if None in result.shape:
        raise Untraceable("it makes of its weights what has an open size")
    # Layers of Keras have weights that train in front.
    weights = sorted(inputs, key=lambda each: not graph.variable(each).trainable)
    tensors, weights = [inputs[each] for each in weights], [graph.variable(each) for each in weights]
    recipe = graphs.Functional([*tensors, *(x for x, _ in arrays)], result)
    given = recipe, [tuple(v.shape) for v in weights], [array for _, array in arrays], operation, tuple(result.shape)
    named = {f"weight_{k}": v for k, v in enumerate(weights)}

    def make(name: str) -> keras.Layer:
        return held(Derived(*given, name=name, dtype=graph.layer.dtype_policy), None, **named)

    return make, weights
