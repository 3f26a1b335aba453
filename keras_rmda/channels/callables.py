"""Layers that are functions of a user's: `Activation`, `Lambda`, and layers that do nothing at inference."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_rmda.channels.constants import activated, evaluate
from keras_rmda.channels.functions import is_elementwise, is_of_any_width
from keras_rmda.channels.rule import Read, Rule
from keras_rmda.channels.simple import Carries, Mixes
from keras_rmda.channels.sites import Cut, Site
from keras_rmda.channels.tensors import NotCovered
from keras_rmda.platform.copying.symbolic import UNTRACEABLE


def of_activation(layer: Any) -> Rule:
    """Return the rule of an `Activation`: each number by itself, or all channels together."""
    if is_elementwise(layer.activation):
        return Carries(constant=activated)
    if is_of_any_width(layer.activation):
        return Mixes()
    raise NotCovered(untraceable(layer))


def is_elementwise_at_inference(layer: keras.Layer) -> bool:
    """Return whether a layer of a user's own, such as a DropPath, changes at inference each number by itself, or none.

    Its code is not replaced by a graph, since it does something else at training.
    """
    tried = layer in UNTRACEABLE and "training" in inspect.signature(layer.call).parameters
    return tried and not layer.weights and is_elementwise(partial(layer.call, training=False))


def at_inference(layer: keras.Layer, values: np.ndarray, read: Read) -> np.ndarray:
    """The layer itself tells what it makes of a constant."""
    return evaluate(layer, partial(layer.call, training=False), values)


def untraceable(layer: Any) -> str:
    """Return why a layer that is a function is not traced."""
    return f"a function that cannot be traced: {UNTRACEABLE.get(layer, 'nobody has tried to')}"


@dataclass(frozen=True)
class Maps(Carries):
    """A `Lambda` whose function changes each number by itself."""

    def config(self, site: Site, config: dict[str, Any], cut: Cut) -> dict[str, Any]:
        known = config.get("output_shape")  # Keras finds it; a tuple is that of all channels
        return config | ({"output_shape": None} if isinstance(known, list | tuple) else {})


def of_lambda(layer: Any) -> Rule:
    """Return the rule of a `Lambda`, unless it is a block."""
    if layer.mask is not None:
        raise NotCovered("a mask of its own")
    if not is_elementwise(layer):
        raise NotCovered(untraceable(layer))
    return Maps(constant=activated)
