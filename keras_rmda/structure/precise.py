"""Compare models in float64, where functions that are close to each other are told apart."""

from __future__ import annotations

import contextlib
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.platform import compat, graphs
from keras_rmda.structure.inputs import cheap, flat_inputs, is_cheap, random_inputs
from keras_rmda.structure.verification import Values, difference, is_input, tell_nothing

ROUNDING, LEAST = 10.0, 1e-6
"""What difference is accepted: multiples of the model's rounding, and what needs none."""


def agree_in_float64(
    model: keras.Model, other: keras.Model, inputs: Any, original: keras.Model | None, values: Values = ()
) -> bool:
    """Return whether a model and what was made of it are found to compute the same in float64, as others call them.

    Then there is no need to look in their own type, which is float32 everywhere: more digits tell more, and weights are
    as they are rounded. They are found to where all layers are of Keras, since other code may compute something else in
    another type, and where they can be computed in float64 on all inputs without delay.

    Args:
        model, other, inputs, original, values: as those of `outputs_of_both`.
    """
    layers = [x for each in (model, other) for x in compat.layers_of(each) if not is_input(x)]
    is_plain = model is original and all(_is_of_keras(x) and x.dtype_policy.name == "float32" for x in layers)
    with contextlib.suppress(Exception), compat.with_float64():  # whatever it is, the look in their own type tells
        flat = random_inputs(model) if inputs is None else flat_inputs(model, inputs)
        if is_plain and is_cheap(model, flat):
            with compat.in_float64(model, _as_float64(values)):
                a = graphs.call(model, flat)
            if tell_nothing(a):
                return False
            with compat.in_float64(other, _hidden(model)):
                b = graphs.call(other, flat)
            return _are_float64([*a, *b]) and max(map(difference, a, b)) <= LEAST
    return False


class Precise:
    """Two models that must compute the same, in float64: it tells functions apart that are close to each other.

    A difference above `LEAST` is accepted up to that between the first model in float64 and in its own types, times
    `ROUNDING`. Large models get a corner of their inputs, as far as they take it.

    Args:
        model, other: models with graphs.
        inputs: a flat list for both.
        exact: weights of both with values that are not rounded to their types; the others have their own.

    Attributes:
        difference, tolerance: that of the outputs, and what is accepted; 0 if they cannot be computed so.
        before, after: the outputs of all calls of both.
    """

    def __init__(self, model: keras.Model, other: keras.Model, inputs: list, exact: Values):
        self.model, self.other, self.exact = model, other, exact
        self.difference = self.tolerance = 0.0
        self.before: list = []
        self.after: list = []
        with contextlib.suppress(Exception), compat.with_float64():  # not all code computes in another type, or sizes
            self.compare(cheap(model, inputs))

    @property
    def agree(self) -> bool:
        """Whether the models compute the same, or cannot be computed in float64."""
        return self.difference <= self.tolerance

    def compare(self, inputs: list) -> None:
        """Compute both models."""
        exact = _as_float64(self.exact)
        with compat.in_float64(self.model, exact):
            a, self.before = run(self.model, inputs)
        if not _are_float64(a):
            return
        with compat.in_float64(self.other, [*exact, *_hidden(self.model)]):
            b, self.after = run(self.other, inputs)
        self.difference, self.tolerance = max(map(difference, a, b)), LEAST
        if self.difference > LEAST:
            with keras.StatelessScope(self.exact):
                own, _ = run(self.model, inputs)
            self.tolerance = max(LEAST, ROUNDING * max(map(difference, a, own)))


def run(model: keras.Model, inputs: list) -> tuple[list, list[tuple[str, list]]]:
    """Return the outputs of a model, and the name and outputs of every call of a layer, those inside of models too.

    The calls are in order of execution, which that of a copy may not be. Inputs may have other sizes than the model's,
    if its layers can do with them.
    """
    found, around = [], [""]

    def call(node: Any, arguments: tuple, keyword_arguments: dict) -> list:
        operation, prefix = node.operation, around[-1]
        if graphs.is_inner_graph(operation):
            given = graphs.inputs_given(operation, arguments, keyword_arguments)
            around.append(f"{prefix}{operation.name}/")
            outputs = keras.tree.flatten(graphs.replayed(operation, given, call))
            around.pop()
            return outputs
        outputs = keras.tree.flatten(operation(*arguments, **keyword_arguments))
        found.append((prefix + operation.name, outputs))
        return outputs

    outputs = graphs.replayed(model, [ops.convert_to_tensor(x) for x in inputs], call)
    return keras.tree.flatten(outputs), found


def _is_of_keras(layer: keras.Layer) -> bool:
    """Return whether a layer has no code of the user's, or is a graph of layers."""
    is_plain = type(layer).__module__.startswith("keras.") and not isinstance(layer, keras.layers.Lambda)
    return is_plain or graphs.has_graph(layer)


def _as_float64(values: Values) -> Values:
    return [(variable, ops.convert_to_tensor(value, "float64")) for variable, value in values]


def _are_float64(outputs: list) -> bool:
    return all(y.dtype == "float64" for y in outputs if "float" in str(y.dtype))


def _hidden(model: keras.Model) -> Values:
    """Return no numbers for the weights of a model: what is made of it must not look at them."""
    floats = [v for v in model.variables if "float" in keras.backend.standardize_dtype(v.dtype)]
    return [(v, np.broadcast_to(np.nan, tuple(v.shape))) for v in floats]
