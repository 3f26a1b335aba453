"""The moving statistics of batch normalization, computed anew."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import keras

from keras_rmda.platform import compat

BATCHES = 64
"""How many batches the statistics are averages of, at most."""

FOLLOWS = 0.9
"""The largest momentum of moving statistics while a model is compressed: they follow within some ten steps."""


def recalibrate(model: keras.Model, batches: Iterable[tuple]) -> bool:
    """Replace moving means and variances by their averages over batches of the training data.

    Formula: with batch k = 0, 1, ..., momentum k / (k + 1) makes a moving average the mean over all batches.

    The usual momenta of .99 and .999 need hundreds to thousands of steps to follow the weights; short trainings end
    with statistics of weights that are gone. Layers that are not trainable keep theirs.

    Args:
        model: any.
        batches: of training data: inputs first.

    Returns:
        Whether the model has such statistics.
    """
    found = normalizations(model)
    with momenta(model):
        for k, (x, *_) in enumerate(batches if found else ()):
            for layer in found:
                layer.momentum = k / (k + 1)
            model(x, training=True)
    return bool(found)


@contextlib.contextmanager
def momenta(model: keras.Model, largest: float = 1.0) -> Iterator[None]:
    """Let no moving statistics have a larger momentum than this; give all back what they had."""
    found = {layer: layer.momentum for layer in normalizations(model)}
    try:
        for layer, momentum in found.items():
            layer.momentum = min(momentum, largest)
        yield
    finally:
        for layer, momentum in found.items():
            layer.momentum = momentum


def normalizations(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """Return the layers whose statistics follow the training."""
    layers = (each for each in compat.layers_of(model) if isinstance(each, keras.layers.BatchNormalization))
    return [layer for layer in layers if layer.trainable]
