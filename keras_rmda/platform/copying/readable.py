"""Whether Keras reads a layer back from a file: tried without values, and nothing is left of it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any

import keras

from keras_rmda.platform import compat
from keras_rmda.platform.compat import layers_of
from keras_rmda.platform.copying.copies import is_unknown
from keras_rmda.platform.copying.functions import WRAPPERS
from keras_rmda.platform.copying.likeness import are_alike, unlike
from keras_rmda.platform.declared import as_keras_declares
from keras_rmda.platform.graphs import is_raw_operation
from keras_rmda.platform.runs import MADE
from keras_rmda.platform.tolerant import declares_outputs


def is_suspicious(layer: Any) -> bool:
    """Return whether it is not certain that Keras reads a layer or operation of a graph back from a file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of lambdas
            layer.get_config()
    except Exception:  # whatever the user's objects raise
        return True
    if not isinstance(layer, keras.Layer):
        return not is_raw_operation(layer)
    is_of_others = lambda x: not type(x).__module__.startswith(("keras.", "keras_rmda."))  # noqa: E731
    has_functions = lambda x: any(key not in WRAPPERS and is_unknown(vars(x)[key]) for key in vars(x))  # noqa: E731
    return any(is_of_others(x) or has_functions(x) for x in layers_of(layer))


def is_read_by_keras(layer: Any, tolerant: bool = False) -> bool:
    """Return whether Keras reads a layer back from a file; `tolerant`: inside of `tolerant_symbols`."""
    return is_read_as(layer, lambda: read_by_keras(layer), tolerant)


def read_by_keras(layer: Any) -> Any:
    """Return what Keras makes of a layer's own entry in a file."""
    return keras.saving.deserialize_keras_object(json.loads(json.dumps(keras.saving.serialize_keras_object(layer))))


def is_read_as(layer: Any, read: Callable[[], Any], tolerant: bool) -> bool:
    """Return whether reading gives such a layer, which can be called as it is."""
    try:
        return unlike_when_read(layer, read, tolerant) is None
    except Exception:  # whatever the user's objects raise
        return False


def unlike_when_read(layer: Any, read: Callable[[], Any], tolerant: bool) -> str | None:
    """Return what is another one in the layer that reading gives; None if it is such a layer, and can be called."""
    with compat.without_a_trace(has_values=False), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of lambdas
        new = read()
        # Keras alone may not call it.
        if not tolerant and (declares_outputs(layer) or layer in MADE or _gets_sparse(layer)):
            nodes = layer._inbound_nodes
            are_made = all(_called(new, node, as_keras_declares) == len(node.output_tensors) for node in nodes)
            return unlike(layer, new) if are_made else "outputs"
        if are_alike(layer, new):
            return None
        _called(new, layer._inbound_nodes[0])  # which makes what `build` does not
        return unlike(layer, new)


def _called(layer: Any, node: Any, like: Callable[[Any], Any] = lambda x: x) -> int:
    """Call a layer on symbols like what `like` gives for those of a node; return how many it gives."""
    given = (node.arguments.args, node.arguments.kwargs)
    symbol = lambda x: _symbol_like(like(x)) if isinstance(x, keras.KerasTensor) else x  # noqa: E731
    arguments, keyword_arguments = keras.tree.map_structure(symbol, given)
    return sum(y is not None for y in keras.tree.flatten(layer(*arguments, **keyword_arguments)))


def _symbol_like(x: Any) -> Any:
    return keras.Input(batch_shape=x.shape, dtype=x.dtype, sparse=x.sparse)


def _gets_sparse(layer: Any) -> bool:
    """Return whether Keras alone would declare any tensor sparse that a layer gets, and that is not."""
    given = [x for node in layer._inbound_nodes for x in node.input_tensors]
    return any(as_keras_declares(x).sparse and not x.sparse for x in given)
