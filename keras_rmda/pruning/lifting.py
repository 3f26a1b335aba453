"""The weights of a small model in the large one that it was made from."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from keras_rmda.pruning.liveness import plan
from keras_rmda.pruning.trace import as_graph, trace


def lift(model: keras.Model, small: keras.Model) -> None:
    """Write the weights of a small model into the model that `strip` has made it from, which then computes the same.

    What `strip` would cut out of `model` now, and only that, becomes zero; the rest is what `small` has.

    Args:
        model: a model with the zeros that it had when it was stripped.
        small: what `strip` has made of it, trained on or not.

    Raises:
        ValueError: if `small` was not made from `model` with these zeros.
    """
    with as_graph(model) as graph:
        traced = trace(graph)
        decided = plan(traced, ops.convert_to_numpy)
        values = {variable.path: ops.convert_to_numpy(variable) for variable in small.weights}
        lifted = []
        for site in traced.sites.values():
            for name, variable in site.weights():
                places = np.arange(int(np.prod(variable.shape))).reshape(variable.shape)
                kept = decided.cut.of(site, name, places)
                value = values.get(variable.path, np.zeros(0))
                if value.shape != kept.shape and (kept.size or value.size):
                    raise ValueError(
                        f"{small.name!r} was not stripped from {model.name!r} with the zeros that it has: its weight "
                        f"{variable.path!r} would have the shape {kept.shape}. Received: {value.shape}"
                    )
                whole = np.zeros(places.size, value.dtype)
                whole[kept.reshape(-1)] = value.reshape(-1)
                lifted.append((variable, whole.reshape(places.shape)))
        for variable, value in lifted:
            variable.assign(value)
