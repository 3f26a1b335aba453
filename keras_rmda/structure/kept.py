"""Which elements of the weights of a model are in a smaller one, and which weight of that has them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.channels.sites import Site
from keras_rmda.structure.liveness import Plan


@dataclass
class Kept:
    """The weights of a model and those of a smaller one.

    What has a number for each element of a weight, such as a slot of an optimizer, is cut like the weight.

    Attributes:
        small: by `id` of a weight of the model, that of the smaller one.
        places: by the same, the positions among all elements of those that stay, in the shape that stays.
        layers: the layers of both, pair by pair.
    """

    small: dict[int, keras.Variable] = field(default_factory=dict)
    places: dict[int, np.ndarray] = field(default_factory=dict)
    layers: list[tuple[Any, Any]] = field(default_factory=list)

    def note(self, plan: Plan, site: Site, weights: Iterable[keras.Variable]) -> None:
        """Know the weights of a layer in the smaller model, in the layer's order."""
        for (name, variable), other in zip(site.weights(), weights, strict=True):
            self.small[id(variable)] = other
            self.places[id(variable)] = places(plan, site, name, variable)

    def is_whole(self, variable: keras.Variable) -> bool:
        """Return whether all elements of a weight stay."""
        return self.places[id(variable)].size == int(np.prod(variable.shape))

    def cut(self, variable: keras.Variable, value: Any) -> np.ndarray:
        """Return what stays of a value with the shape of a weight."""
        return ops.convert_to_numpy(value).reshape(-1)[self.places[id(variable)]]

    def filled(self, variable: keras.Variable, value: Any, rest: Any) -> np.ndarray:
        """Return a value with the shape of a weight, from what stays of it, and what is elsewhere."""
        value = ops.convert_to_numpy(value)
        whole = np.broadcast_to(np.asarray(rest, value.dtype), variable.shape).reshape(-1).copy()
        whole[self.places[id(variable)].reshape(-1)] = value.reshape(-1)
        return whole.reshape(variable.shape)


def places(plan: Plan, site: Site, name: str, variable: keras.Variable) -> np.ndarray:
    """Return the positions of what stays of a weight of a layer."""
    return plan.cut.of(site, name, np.arange(int(np.prod(variable.shape))).reshape(variable.shape))


def as_number(x: Any) -> np.ndarray:
    """Return the value of a variable as an array of its own; JAX deletes what two variables share with one of them."""
    return np.array(ops.convert_to_numpy(x))


def random_states(layer: Any) -> list:
    """Return the variables of a layer that are no weights: the states of random numbers."""
    weights = {id(variable) for variable in getattr(layer, "weights", [])}
    return [variable for variable in getattr(layer, "variables", []) if id(variable) not in weights]
