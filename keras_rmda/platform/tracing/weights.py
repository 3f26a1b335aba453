"""Weights of a layer's own, as symbolic tensors while its code is traced."""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_rmda.platform.compat import layers_of
from keras_rmda.platform.tracing.programs import Untraceable

BORROWED: weakref.WeakKeyDictionary[keras.Layer, list[keras.Variable]] = weakref.WeakKeyDictionary()
"""Weights of layers inside that the code of layers uses in operations of its own, as tied weights are."""


class UsesWeight(Untraceable):
    """Code uses a weight of another layer."""

    def __init__(self, variable: keras.Variable):
        super().__init__(f"it uses the weight {variable.path!r} of another layer in an operation of its own")
        self.variable = variable


def own_variables(layer: keras.Layer) -> list[keras.Variable]:
    """Return the weights of a layer that are not those of layers inside, and then those that it borrows of them."""
    return [*layer._trainable_variables, *layer._non_trainable_variables, *BORROWED.get(layer, [])]


def owner_of(variable: keras.Variable, layer: keras.Layer) -> tuple[keras.Layer, str] | None:
    """Return which layer inside of another has a weight, and the name of the attribute, if there is one."""
    for each in layers_of(layer)[1:]:
        for name, value in vars(each).items():
            if value is variable:
                return each, name
    return None


def borrows(layer: keras.Layer, variable: keras.Variable) -> bool:
    """Note that the code of a layer uses a weight of one inside; return whether that is new and can be traced."""
    known = BORROWED.setdefault(layer, [])
    if any(each is variable for each in known) or owner_of(variable, layer) is None:
        return False
    known.append(variable)
    return True


def dtype_for(x: Any, layer: keras.Layer) -> str:
    """Return the type to which a layer casts a tensor or weight."""
    return layer.compute_dtype if layer.autocast and "float" in x.dtype else x.dtype


class WeightTensor(keras.KerasTensor):
    """A symbolic tensor in the place of a weight."""

    @classmethod
    def of(cls, variable: keras.Variable, dtype: str) -> WeightTensor:
        """Return one like a variable."""
        tensor = keras.Input(batch_shape=variable.shape, dtype=dtype)
        tensor.__class__ = cls
        return tensor

    @property
    def value(self) -> WeightTensor:
        """The tensor itself, as of a variable."""
        return self

    def assign(self, value: Any) -> None:
        """Refuse."""
        raise Untraceable("it assigns to a weight of its own")

    assign_add = assign_sub = assign


@contextlib.contextmanager
def weights_as_inputs(layer: keras.Layer) -> Iterator[list]:
    """Let the attributes of a layer hold symbolic tensors in the places of its own weights; gives those tensors."""
    variables = own_variables(layer)
    tensors = [WeightTensor.of(v, dtype_for(v, layer)) for v in variables]
    instead = {id(v): x for v, x in zip(variables, tensors)}
    changed: list[tuple[Any, Any, Any, Any]] = []

    def replace(container: Any, keys: Any, put: Any) -> None:
        for key, value in list(keys):
            if id(value) in instead:
                changed.append((put, container, key, value))
                put(container, key, instead[id(value)])
            elif isinstance(value, list):
                replace(value, enumerate(value), list.__setitem__)
            elif isinstance(value, dict):
                replace(value, value.items(), dict.__setitem__)

    attributes = vars(layer)
    bookkeeping = ("_trainable_variables", "_non_trainable_variables", "_tracker", "_self_")
    replace(attributes, [x for x in attributes.items() if not x[0].startswith(bookkeeping)], dict.__setitem__)
    try:
        with contextlib.ExitStack() as stack:
            for variable in BORROWED.get(layer, []):
                stack.enter_context(_outside_of(*owner_of(variable, layer), instead[id(variable)]))
            yield tensors
    finally:
        for put, container, key, value in reversed(changed):
            put(container, key, value)


@contextlib.contextmanager
def _outside_of(owner: keras.Layer, name: str, tensor: WeightTensor) -> Iterator[None]:
    """Let an attribute of a layer be a symbolic tensor, but not while the layer itself is called."""
    attributes, call = vars(owner), owner.call
    variable, before = attributes[name], attributes.get("call")

    def with_numbers(function: Callable) -> Callable:
        @functools.wraps(function)
        def called(*arguments: Any, **keyword_arguments: Any) -> Any:
            attributes[name] = variable
            try:
                return function(*arguments, **keyword_arguments)
            finally:
                attributes[name] = tensor

        return called

    attributes[name], attributes["call"] = tensor, with_numbers(call)
    try:
        yield
    finally:
        attributes[name] = variable
        del attributes["call"]
        if before is not None:
            attributes["call"] = before
