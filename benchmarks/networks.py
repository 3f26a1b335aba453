"""The networks that several benchmarks train or time."""

from __future__ import annotations

from typing import Any

import keras


def residual(filters: tuple[int, ...], blocks: int, epsilon: float = 1e-3) -> keras.Model:
    """Return a residual network for images of 32 x 32 and 10 classes, with 1 x 1 shortcuts where the width changes.

    (16, 32, 64) with 3 blocks each is ResNet-20, (64, 128, 256, 512) with 2 blocks each is ResNet-18. `epsilon` is that
    of the batch normalization, 1e-5 in PyTorch.
    """

    def normalized(x: Any, filters: int, size: int, strides: int = 1) -> Any:
        x = keras.layers.Conv2D(filters, size, strides, padding="same", use_bias=False)(x)
        return keras.layers.BatchNormalization(momentum=0.9, epsilon=epsilon)(x)

    inputs = keras.Input((32, 32, 3))
    x = keras.layers.ReLU()(normalized(inputs, filters[0], 3))
    for stage, width in enumerate(filters):
        for block in range(blocks):
            strides = 2 if stage and not block else 1
            y = normalized(keras.layers.ReLU()(normalized(x, width, 3, strides)), width, 3)
            x = normalized(x, width, 1, strides) if strides > 1 else x
            x = keras.layers.ReLU()(keras.layers.Add()([x, y]))
    return keras.Model(inputs, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x)))
