"""Sizes of inputs at which everything in a model has numbers."""

from __future__ import annotations

from typing import Any

import keras

from keras_rmda.platform import graphs
from keras_rmda.platform.tolerant import symbolic_outputs, tolerant_symbols

SIZES = (32, 64, 128, 256)
"""Of axes that a model leaves open, from the one that is tried first."""


def open_size(model: keras.Model) -> int:
    """Return the first of some sizes for open axes at which nothing in a model is empty; the first if there is none."""
    shapes = [x.shape for x in model.inputs]
    if not any(None in shape[1:] for shape in shapes):
        return SIZES[0]
    at = lambda size: [(shape[0], *(size if n is None else n for n in shape[1:])) for shape in shapes]  # noqa: E731
    return next((size for size in SIZES if fills(model, at(size))), SIZES[0])


def fills(model: keras.Model, shapes: list[tuple]) -> bool:
    """Return whether all that a model computes of inputs of these shapes has numbers.

    TensorFlow makes numbers up for a convolution of fewer positions than its kernel has.

    Args:
        model: a model with a graph.
        shapes: one for each input.
    """

    def call(node: Any, arguments: tuple, keyword_arguments: dict) -> list:
        operation = node.operation
        if graphs.is_inner_graph(operation):
            given = graphs.inputs_given(operation, arguments, keyword_arguments)
            return keras.tree.flatten(graphs.replayed(operation, given, call))
        outputs = keras.tree.flatten(symbolic_outputs(operation, *arguments, **keyword_arguments))
        if any(n is not None and n < 1 for y in outputs if y is not None for n in y.shape):
            raise ValueError("empty")
        return outputs

    inputs = [keras.KerasTensor(shape, dtype=x.dtype) for x, shape in zip(model.inputs, shapes, strict=True)]
    try:
        with tolerant_symbols():
            graphs.replayed(model, inputs, call)
    except Exception:  # Keras and the user's code raise many types at sizes that are too small
        return False
    return True
