"""A model of a user's class around other layers: what the class defines acts on a smaller model.

Private attributes of Keras's models are those that a model of Keras itself has. Checked with Keras 3.8 and 3.15.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import keras
from keras.src.models.functional import Functional

from keras_rmda.platform.compat import layers_of
from keras_rmda.platform.copying.objects import Duplicate


def dressed(original: keras.Model, graph: keras.Model, made: Mapping[int, list]) -> keras.Model:
    """Return a model of the class of `original` that has the layers of a graph in the place of its own.

    No constructor of the user's runs. Attributes are copied; layers that the graph does not have, and that are not
    trained, such as a teacher, are the same in both.

    Args:
        original: a built model.
        graph: a model with the graph of it, with other layers.
        made: by `id` of layers of `original`, what was made of them for the graph.
    """
    new = blank(original, graph)
    known = {key: layers[0] for key, layers in made.items() if len(layers) == 1} | {id(original): new}
    inside = [layer for layer in layers_of(original) if layer is not original]
    others = [x for x in inside if not any(id(each) in made for each in x._flatten_layers())]
    known |= {id(x): x for x in others if not x.trainable_variables}
    owned = {id(x) for layer in inside for x in (layer, *layer.variables)} | {id(original)}
    own = {key: value for key, value in vars(original).items() if key not in of_keras()}
    for key, value in Duplicate(known, owned).of(own).items():
        setattr(new, key, value)
    new.built = True
    return new


def blank(original: keras.Model, graph: keras.Model) -> keras.Model:
    """Return a new model of the class of `original`, of which only Keras's constructor has run."""
    new = type(original).__new__(type(original))
    if isinstance(original, keras.Sequential):
        keras.Sequential.__init__(new, graph.layers, name=original.name)
    elif isinstance(original, Functional):
        Functional.__init__(new, graph.input, graph.output, name=original.name)
    else:
        keras.Model.__init__(new, name=original.name, dtype=original.dtype_policy)
        new._build_shapes_dict = getattr(original, "_build_shapes_dict", None)
        new._called = True
    return new


@cache
def of_keras() -> frozenset[str]:
    """Return the names of the attributes that Keras gives a model."""
    functional = keras.Model(x := keras.Input((1,)), keras.layers.Dense(1)(x))
    found: set[str] = set()
    for model in (functional, keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]), keras.Model()):
        model.compile("sgd", "mse")
        found |= vars(model).keys()
    return frozenset(found | {"_initial_epoch", "_compiled_trainable_state", "_jax_state", "_jax_state_synced"})
