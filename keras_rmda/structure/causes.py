"""Why nothing that is made of a model can compute what it does: causes that are in the model itself."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.platform import compat, graphs
from keras_rmda.structure.verification import VerificationError


def refuse_kept_numbers(model: keras.Model, inputs: list, original: keras.Model) -> None:
    """Raise `VerificationError` if a layer of somebody's does not compute with the weights that it has.

    A `tf.function` that is traced before the layers inside are built keeps the numbers that their weights begin with.

    Args:
        model: the graph of `original`.
        inputs: a flat list.
        original: what is run.
    """
    for layer, arguments, keyword_arguments, before in _calls_of_code(model, inputs, original):
        weights = [v for v in layer.weights if "float" in keras.backend.standardize_dtype(v.dtype)]
        with compat.restored(weights):
            for variable in weights:
                variable.assign(np.full(variable.shape, np.nan))
            after = _numbers(layer(*arguments, **keyword_arguments))
        if weights and all(np.array_equal(x, y) for x, y in zip(before, after)):
            raise VerificationError(
                f"The layer {layer.name!r} of type {type(layer).__name__} computes the same whatever its weights are: "
                "a `tf.function` in it was traced before the layers inside were built, and keeps the numbers that "
                "their weights began with. Build them in its `build`, or take the decorator off. The original is "
                "unchanged."
            )


def _calls_of_code(model: keras.Model, inputs: list, original: keras.Model) -> list[tuple]:
    """Return the first calls of layers that are not of Keras, and what they made, where that is numbers."""
    call, found = keras.Layer.__call__, {}

    @functools.wraps(call)
    def noted(layer: keras.Layer, *arguments: Any, **keyword_arguments: Any) -> Any:
        outputs = call(layer, *arguments, **keyword_arguments)
        if not type(layer).__module__.startswith("keras."):
            with contextlib.suppress(Exception):  # inside of a trace there are none
                found.setdefault(id(layer), (layer, arguments, keyword_arguments, _numbers(outputs)))
        return outputs

    keras.Layer.__call__ = noted
    try:
        graphs.call(model, inputs, original)
    finally:
        keras.Layer.__call__ = call
    return [*found.values()]


def _numbers(outputs: Any) -> list[np.ndarray]:
    return [ops.convert_to_numpy(y) for y in keras.tree.flatten(outputs) if y is not None]
