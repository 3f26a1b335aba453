"""Everyday networks and data to compress: those of MLPerf Tiny, a U-Net, and MobileNetV2 of keras.applications."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers as L

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
CROSS_ENTROPY = "sparse_categorical_crossentropy"


def decay() -> keras.regularizers.Regularizer:
    """Return weight decay as MLPerf Tiny has it."""
    return keras.regularizers.L2(1e-4)


def resnet8(width: float = 1.0) -> keras.Model:
    """Return the image classifier of MLPerf Tiny."""
    filters = max(2, round(16 * width))

    def convolution(n: int, size: int, strides: int, x: Any) -> Any:
        return L.Conv2D(n, size, strides, padding="same", kernel_initializer="he_normal", kernel_regularizer=decay())(x)

    inputs = L.Input((32, 32, 3))
    x = L.ReLU()(L.BatchNormalization()(convolution(filters, 3, 1, inputs)))
    for factor, strides in ((1, 1), (2, 2), (4, 2)):
        y = L.ReLU()(L.BatchNormalization()(convolution(filters * factor, 3, strides, x)))
        y = L.BatchNormalization()(convolution(filters * factor, 3, 1, y))
        x = convolution(filters * factor, 1, strides, x) if factor > 1 else x
        x = L.ReLU()(L.add([x, y]))
    x = L.Flatten()(L.AveragePooling2D(8)(x))
    return keras.Model(inputs, L.Dense(10, activation="softmax", kernel_initializer="he_normal")(x), name="resnet8")


def ds_cnn(width: float = 1.0) -> keras.Model:
    """Return the keyword spotter of MLPerf Tiny."""
    filters, normalized = max(2, round(64 * width)), lambda x: L.ReLU()(L.BatchNormalization()(x))
    inputs = L.Input((49, 10, 1))
    x = L.Conv2D(filters, (10, 4), strides=2, padding="same", kernel_regularizer=decay())(inputs)
    x = L.Dropout(0.2)(normalized(x))
    for _ in range(4):
        x = normalized(L.DepthwiseConv2D(3, padding="same", depthwise_regularizer=decay())(x))
        x = normalized(L.Conv2D(filters, 1, padding="same", kernel_regularizer=decay())(x))
    x = L.Flatten()(L.AveragePooling2D((25, 5))(L.Dropout(0.4)(x)))
    return keras.Model(inputs, L.Dense(12, activation="softmax")(x), name="ds_cnn")


def autoencoder(width: float = 1.0) -> keras.Model:
    """Return the anomaly detector of MLPerf Tiny."""
    units = round(128 * width)
    inputs = x = L.Input((640,))
    for n in (*[units] * 4, 8, *[units] * 4):
        x = L.ReLU()(L.BatchNormalization()(L.Dense(n)(x)))
    return keras.Model(inputs, L.Dense(640)(x), name="autoencoder")


def u_net(width: float = 1.0) -> keras.Model:
    """Return a small U-Net for three classes of pixels."""
    filters = max(2, round(12 * width))

    def twice(n: int, x: Any) -> Any:
        for _ in range(2):
            x = L.ReLU()(L.BatchNormalization()(L.Conv2D(n, 3, padding="same", use_bias=False)(x)))
        return x

    inputs = L.Input((48, 48, 1))
    a = twice(filters, inputs)
    b = twice(2 * filters, L.MaxPooling2D()(a))
    x = twice(4 * filters, L.MaxPooling2D()(b))
    for n, skip in ((2 * filters, b), (filters, a)):
        x = twice(n, L.Concatenate()([L.Conv2DTranspose(n, 2, strides=2)(x), skip]))
    return keras.Model(inputs, L.Conv2D(3, 1, activation="softmax")(x), name="u_net")


def mobilenet(width: float = 1.0) -> keras.Model:
    """Return MobileNetV2 of width .35 whose batch normalizations follow short trainings."""
    model = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35 * width, weights=None, classes=10)
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.momentum = 0.9
    return model


def prepared(name: str, train: int, test: int) -> list[np.ndarray]:
    """Return the first images and classes of a data set of TensorFlow Datasets that is on this machine."""
    import tensorflow_datasets as tfds

    splits = [f"train[:{train}]", f"test[:{test}]"]
    loaded = tfds.load(name, split=splits, batch_size=-1, as_supervised=True, download=False)
    return [np.asarray(each) for pair in loaded for each in pair]


def cifar10(train: int, test: int) -> Arrays:
    """Return images of CIFAR-10."""
    x, y, x_test, y_test = prepared("cifar10", train, test)
    return x.astype("float32") / 255, y.astype("int32"), x_test.astype("float32") / 255, y_test.astype("int32")


def fashion(train: int, test: int) -> Arrays:
    """Return images of Fashion-MNIST, as MobileNetV2 wants them."""
    x, y, x_test, y_test = prepared("fashion_mnist", train, test)
    padded = [np.pad(each.astype("float32") / 255, [(0, 0), (2, 2), (2, 2), (0, 0)]) for each in (x, x_test)]
    x, x_test = (2 * each.repeat(3, -1) - 1 for each in padded)
    return x, y.astype("int32"), x_test, y_test.astype("int32")


def split(x: np.ndarray, y: np.ndarray, train: int) -> Arrays:
    """Return made data in two parts."""
    return x[:train], y[:train], x[train:], y[train:]


def keywords(train: int, test: int) -> Arrays:
    """Return spectrograms of two sweeps each, in noise; the sweeps make the class."""
    random, n = np.random.default_rng(0), train + test
    classes = np.random.default_rng(7).uniform(0, 1, (12, 2, 5))
    y, time, band = random.integers(0, 12, n), np.linspace(0, 1, 49)[None], np.arange(10)[None, None]
    x = np.zeros((n, 49, 10), "float32")
    for k in range(2):
        p, loudness, shift = classes[y, k], random.uniform(0.5, 1.2, n), random.normal(0, 0.06, n)[:, None]
        pitch = p[:, 0:1] * 9 + (p[:, 1:2] - 0.5) * 14 * (time - 0.5 + shift)
        pitch += 1.5 * np.sin(6.28 * (time + shift) * (1 + 2 * p[:, 2:3])) + random.normal(0, 0.5, (n, 1))
        envelope = np.exp(-(((time - 0.2 - 0.6 * p[:, 3:4] - shift) / 0.25) ** 2))
        x += (loudness[:, None] * envelope)[:, :, None] * np.exp(-((band - pitch[:, :, None]) ** 2))
    x += random.normal(0, 0.55, x.shape)
    return split(x[..., None].astype("float32"), y.astype("int32"), train)


def machines(train: int, test: int) -> Arrays:
    """Return points near a curved surface of 6 dimensions in 640."""
    random, n = np.random.default_rng(0), train + test
    z, a, b = random.normal(size=(n, 6)), random.normal(size=(6, 64)), random.normal(size=(64, 640)) / 8
    x = (np.tanh(z @ a / 2) @ b + 0.1 * random.normal(size=(n, 640))).astype("float32")
    return split(x, x, train)


def shapes(train: int, test: int) -> Arrays:
    """Return images of discs and squares in noise, and the class of every pixel."""
    random, n = np.random.default_rng(0), train + test
    rows, columns = np.mgrid[:48, :48]
    x, y = np.zeros((n, 48, 48), "float32"), np.zeros((n, 48, 48), "int32")
    for i in range(n):
        for _ in range(3):
            c, r = random.uniform(6, 42, 2)
            size, value, kind = random.uniform(4, 9), random.uniform(0.3, 1), random.integers(2)
            disc = (columns - c) ** 2 + (rows - r) ** 2 < size * size
            square = (abs(columns - c) < size * 0.85) & (abs(rows - r) < size * 0.85)
            inside = disc if kind else square
            x[i][inside], y[i][inside] = value, 1 + kind
    x += 0.25 * random.normal(size=x.shape).astype("float32")
    return split(x[..., None], y, train)


@dataclass(frozen=True)
class Task:
    """A network with its data and the recipe of its user.

    Attributes:
        network: makes it, at a width.
        data: makes the data.
        sizes: of training and test.
        batch_size, epochs: of a training.
        thin: widths of networks with half and a quarter of the multiply-accumulates.
        loss, metric: of `compile`.
        rate: the largest learning rate of Adam, which falls along a cosine.
    """

    network: Callable[..., keras.Model]
    data: Callable[[int, int], Arrays]
    sizes: tuple[int, int]
    batch_size: int
    epochs: int
    thin: dict[float, float]
    loss: str = CROSS_ENTROPY
    metric: str = "accuracy"
    rate: float = 2e-3


TASKS = {
    "resnet8": Task(resnet8, cifar10, (2000, 1500), 32, 9, {0.5: 0.7, 0.25: 0.49}),
    "ds_cnn": Task(ds_cnn, keywords, (4000, 2000), 32, 12, {0.5: 0.68, 0.25: 0.45}),
    "autoencoder": Task(autoencoder, machines, (4000, 1000), 32, 12, {0.5: 0.6, 0.25: 0.33}, "mse", "mae"),
    "u_net": Task(u_net, shapes, (500, 150), 16, 8, {0.5: 0.7, 0.25: 0.5}),
    "mobilenet": Task(mobilenet, fashion, (2000, 2000), 32, 7, {0.5: 0.7, 0.25: 0.45}),
}
