"""Arrays that code gives to its layers, as tensors of its program: what layers make of them is no constant."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import keras

from keras_rmda.platform.tracing.leaves import Numbers
from keras_rmda.platform.tracing.programs import is_array


def as_tensor(x: Any, anchor: Any) -> Any:
    """Return an array as a tensor of the program that `anchor` is one of; anything else as it is."""
    return Numbers.of(x)(anchor) if is_array(x) else x


@contextlib.contextmanager
def arrays_as_tensors(anchor: Any) -> Iterator[None]:
    """Let layers with weights, which code calls on arrays only, get tensors of the program that `anchor` is one of.

    The nodes of a graph have features, say, that are no input of the network but numbers of its own. Keras would
    compute what layers make of them, and the weights would be in the program as what they are now.
    """
    call = keras.Layer.__call__

    @functools.wraps(call)
    def on_tensors(layer: keras.Layer, *arguments: Any, **keyword_arguments: Any) -> Any:
        given = keras.tree.flatten((arguments, keyword_arguments))
        if layer.built and layer.weights and not any(isinstance(x, keras.KerasTensor) for x in given):
            change = lambda x: as_tensor(x, anchor)  # noqa: E731
            with contextlib.suppress(
                Exception
            ):  # Keras looks for shapes: what layers inside of a layer get has no numbers
                arguments, keyword_arguments = keras.tree.map_structure(change, (arguments, keyword_arguments))
        return call(layer, *arguments, **keyword_arguments)

    keras.Layer.__call__ = on_tensors
    try:
        yield
    finally:
        keras.Layer.__call__ = call
