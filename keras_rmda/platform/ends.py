"""What inputs and outputs of a model are called, and which are probabilities. Keras has no public way to tell.

Checked with Keras 3.8 and 3.15.
"""

from __future__ import annotations

from typing import Any

import keras

PROBABILITIES = ("softmax", "sigmoid")
MOVES = ("Reshape", "Flatten", "Permute", "Identity", "Squeeze", "ExpandDims", "Transpose", "Cast")
"""Layers and operations that hand on the numbers that they get."""


def last_functions(model: keras.Model) -> list[str | None]:
    """Return for each output whether it comes out of `"softmax"` or `"sigmoid"`; None for others."""
    return [_last_function(tensor) for tensor in model.outputs]


def _last_function(tensor: Any) -> str | None:
    operation, node, number = tensor._keras_history
    inputs = operation._inbound_nodes[node].input_tensors
    while isinstance(operation, keras.layers.Wrapper):
        operation, number = operation.layer, 0
    if isinstance(operation, keras.Model):
        outputs = getattr(operation, "outputs", None)
        return _last_function(outputs[number]) if outputs else None
    activation = getattr(operation, "activation", operation)
    name = str(getattr(activation, "__name__", type(activation).__name__)).lower()
    hands_on = type(operation).__name__ in MOVES or (
        isinstance(operation, keras.layers.Activation) and name == "linear"
    )
    if hands_on and inputs:
        return _last_function(inputs[0])
    return name if name in PROBABILITIES else None


def names_of_outputs(model: keras.Model) -> list[str]:
    """Return by which keys `compile` and `fit` know the outputs of a model, in the order of its outputs."""
    structure = getattr(model, "_outputs_struct", None)
    return sorted(structure) if isinstance(structure, dict) else list(model.output_names)


def names_of_inputs(model: keras.Model) -> list[str] | None:
    """Return the keys of the inputs of a model that takes a dictionary, in the order of its inputs; else None."""
    structure = getattr(model, "_inputs_struct", None)
    return sorted(structure) if isinstance(structure, dict) else None


def by_output(model: keras.Model, found: Any) -> list:
    """Return what stands for the outputs of a model, structured as `compile` and `fit` take it, in their order.

    An output that a dictionary does not have gets None.
    """
    if isinstance(found, dict):
        return [found.get(name) for name in names_of_outputs(model)]
    return keras.tree.flatten(found)
