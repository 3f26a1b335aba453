"""More everyday networks to compress, on made data: forecasters, text classifiers, and a table of numbers."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from everyday import Arrays, Task, split
from keras import layers as L

STEPS, AHEAD, WORDS, LENGTH, TOPICS = 96, 24, 1000, 40, 6


def scaled(n: int, width: float) -> int:
    """Return a number of units at a width."""
    return max(2, round(n * width))


def recurrent(width: float = 1.0) -> keras.Model:
    """Return a forecaster of two LSTMs."""
    units = scaled(64, width)
    inputs = L.Input((STEPS, 1))
    x = L.LSTM(units)(L.LSTM(units, return_sequences=True)(inputs))
    return keras.Model(inputs, L.Dense(AHEAD)(L.Dense(units, "relu")(x)), name="recurrent")


def temporal(width: float = 1.0) -> keras.Model:
    """Return a forecaster of dilated convolutions with residual connections."""
    filters = scaled(32, width)
    inputs = L.Input((STEPS, 1))
    x = L.Conv1D(filters, 3, padding="causal")(inputs)
    for dilation in (1, 2, 4, 8, 16):
        y = L.Conv1D(filters, 3, padding="causal", dilation_rate=dilation, activation="relu")(x)
        x = L.Add()([x, L.Conv1D(filters, 1)(y)])
    return keras.Model(inputs, L.Dense(AHEAD)(L.Dense(scaled(64, width), "relu")(x[:, -1])), name="temporal")


class Positions(L.Layer):
    """Adds a vector of its own to each position."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Make the vectors."""
        self.table = self.add_weight(shape=shape[1:], name="table")

    def call(self, x: Any) -> Any:
        """Return the sum."""
        return x + self.table


def transformer(width: float = 1.0) -> keras.Model:
    """Return a text classifier of two blocks of a transformer."""
    units, inputs = scaled(64, width), L.Input((LENGTH,), dtype="int32")
    x = Positions()(L.Embedding(WORDS, units)(inputs))
    for _ in range(2):
        y = L.LayerNormalization()(x)
        x = L.Add()([x, L.Dropout(0.1)(L.MultiHeadAttention(4, scaled(16, width))(y, y))])
        y = L.Dense(scaled(256, width), "gelu")(L.LayerNormalization()(x))
        x = L.Add()([x, L.Dropout(0.1)(L.Dense(units)(y))])
    x = L.GlobalAveragePooling1D()(L.LayerNormalization()(x))
    return keras.Model(inputs, L.Dense(TOPICS, "softmax")(x), name="transformer")


def bidirectional(width: float = 1.0) -> keras.Model:
    """Return a text classifier of a GRU in both directions."""
    units, inputs = scaled(48, width), L.Input((LENGTH,), dtype="int32")
    x = L.Bidirectional(L.GRU(units))(L.Embedding(WORDS, units)(inputs))
    return keras.Model(inputs, L.Dense(TOPICS, "softmax")(L.Dropout(0.3)(x)), name="bidirectional")


def perceptron(width: float = 1.0) -> keras.Model:
    """Return a regression on a table of numbers."""
    inputs = x = L.Input((20,))
    for _ in range(3):
        x = L.Dropout(0.05)(L.ReLU()(L.BatchNormalization()(L.Dense(scaled(128, width))(x))))
    return keras.Model(inputs, L.Dense(1)(x), name="perceptron")


def series(train: int, test: int) -> Arrays:
    """Return sums of three sines, a slope and noise, and how they go on without noise."""
    random, n, time = np.random.default_rng(0), train + test, np.arange(STEPS + AHEAD)
    periods, heights, begins = (random.uniform(*each, (n, 3, 1)) for each in ((8, 40), (0.2, 1), (0, 2 * np.pi)))
    y = (heights * np.sin(2 * np.pi * time / periods + begins)).sum(1) + random.normal(0, 0.01, (n, 1)) * time
    x = y + 0.1 * random.normal(size=y.shape)
    return split(x[:, :STEPS, None].astype("float32"), y[:, STEPS:].astype("float32"), train)


def texts(train: int, test: int) -> Arrays:
    """Return words, of which 15 % are of the topic that is the class."""
    random, n, fixed = np.random.default_rng(0), train + test, np.random.default_rng(5)
    topics, common = fixed.dirichlet(np.full(WORDS, 0.05), TOPICS), fixed.dirichlet(np.full(WORDS, 0.5))
    y = random.integers(0, TOPICS, n)
    of_topic = np.stack([random.choice(WORDS, LENGTH, p=topics[k]) for k in y])
    x = np.where(random.random((n, LENGTH)) < 0.15, of_topic, random.choice(WORDS, (n, LENGTH), p=common))
    return split(x.astype("int32"), y.astype("int32"), train)


def table(train: int, test: int) -> Arrays:
    """Return twenty numbers between 0 and 1, and a function of seven of them, in noise."""
    random, n = np.random.default_rng(0), train + test
    x = random.uniform(size=(n, 20)).astype("float32")
    y = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    y = y + 6 * np.sin(6 * x[:, 5] * x[:, 6]) + random.normal(0, 0.5, n)
    return split(x, ((y - y.mean()) / y.std()).astype("float32")[:, None], train)


THIN = {0.5: 0.71, 0.25: 0.5}

TASKS = {
    "recurrent": Task(recurrent, series, (3000, 1000), 32, 12, THIN, "mse", "mae"),
    "temporal": Task(temporal, series, (4000, 1000), 32, 14, THIN, "mse", "mae"),
    "transformer": Task(transformer, texts, (3000, 1500), 32, 8, THIN),
    "bidirectional": Task(bidirectional, texts, (3000, 1500), 32, 8, THIN),
    "perceptron": Task(perceptron, table, (5000, 2000), 32, 15, THIN, "mse", "mae"),
}
