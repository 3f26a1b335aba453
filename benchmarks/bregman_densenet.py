"""Which convolutions of a densely connected network does AdaBreg let in? Fashion-MNIST.

    TFDS_DATA_DIR=... python benchmarks/bregman_densenet.py [--images 60000]

Network and settings are the authors' (their notebook DenseNet): a convolution to 12 channels, five convolutions to 12
with ReLU, each of which reads all channels before it, one to a single channel with ReLU, and a dense layer with ReLU on
its 28 x 28 values; all convolutions are 3 x 3. Of the kernels between two channels 3 % are drawn to be alive, five
times as large as He's; AdaBreg at .001, halved where the training loss has not fallen by 1 % for five epochs; 100
epochs of batches of 128; the penalty of .05 is the group lasso over kernels. A convolution that reads none of the
twelve channels of another one has no skip to it: the table of connections is the architecture that was found. Ours
differs in that 3 % stay exactly (theirs are drawn with replacement), and in the training images, of which they leave
out 5 %.

Source: Bungert et al. 2021, "Neural architecture search via Bregman iterations", arXiv:2106.02479.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
import numpy as np
from experiment import Experiment, Plateau, accuracy, command_line, run_all
from keras import layers as L

import keras_rmda as kr

DEPTH, PLANES, ALIVE, GAIN = 5, 12, 0.03, 5.0
METHODS = {"AdaBreg": 0.05, "AdaBreg-dense": 0.0}


def network(mean: float, deviation: float, alive: float) -> keras.Model:
    """Return the untrained network, with this share of the kernels alive."""
    values = keras.initializers.VarianceScaling(2 * GAIN**2 * alive, "fan_in", "untruncated_normal")
    kernels = kr.SparseInitializer(values, alive, by="group", groups="kernel")

    def convolution(x: Any, channels: int, name: str, **arguments: Any) -> Any:
        bound = (9 * x.shape[-1]) ** -0.5  # PyTorch's; zero biases would leave units without kernels without gradients
        biases = keras.initializers.RandomUniform(-bound, bound)
        given = {"padding": "same", "kernel_initializer": kernels, "bias_initializer": biases, "name": name}
        return L.Conv2D(channels, 3, **given, **arguments)(x)

    inputs = L.Input((28, 28, 1))
    x = convolution(L.Rescaling(1 / deviation, -mean / deviation)(inputs), PLANES, "stem", use_bias=False)
    for k in range(DEPTH):
        x = L.Concatenate()([x, convolution(x, PLANES, f"block{k + 1}", activation="relu")])
    x = L.Flatten()(convolution(x, 1, "last", activation="relu"))
    he = keras.initializers.VarianceScaling(2 * GAIN**2, "fan_in", "untruncated_normal")
    bias = keras.initializers.RandomUniform(0.0, 1 / 28)
    outputs = L.Dense(10, "relu", kernel_initializer=he, bias_initializer=bias, name="classes")(x)
    return keras.Model(inputs, outputs)


def compiled(method: str, mean: float, deviation: float) -> keras.Model:
    """Return the network with its optimizer."""
    strength = METHODS[method]
    model = network(mean, deviation, ALIVE if strength else 1.0)
    penalties = {"(stem|block.*|last)/kernel": kr.GroupLasso(strength, "kernel")}
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(kr.AdaBreg(1e-3, regularizer=penalties), loss, metrics=["accuracy"], jit_compile=False)
    return model


def connections(model: keras.Model) -> list[list[int]]:
    """Return, for each convolution behind the stem, how many kernels read each convolution before it."""
    alive = [np.any(model.get_layer(f"block{k + 1}").get_weights()[0] != 0, axis=(0, 1)) for k in range(DEPTH)]
    alive.append(np.any(model.get_layer("last").get_weights()[0] != 0, axis=(0, 1)))
    return [[int(part.sum()) for part in np.split(each, len(each) // PLANES)] for each in alive]


def train(experiment: Experiment, method: str, seed: int) -> dict[str, Any]:
    """Return one run."""
    data = experiment.data
    settings = {"epochs": experiment.arguments.epochs, "batch_size": 128, "images": len(data.x)}
    mean, deviation = float(data.x.mean()), float(data.x.std())

    def finish(model: keras.Model) -> dict[str, Any]:
        found = connections(model)
        possible = sum((k + 1) * PLANES**2 for k in range(DEPTH)) + (DEPTH + 1) * PLANES
        small = kr.strip(model)
        return {
            "test_accuracy": accuracy(model, data.x_test, data.y_test),
            "kernels": sum(map(sum, found)) / possible,
            "parameters_after_strip": small.count_params() / model.count_params(),
            "connections": found,
        }

    plateau = Plateau("loss", factor=0.5, patience=5, threshold=0.01)
    run = experiment.train(method, seed, settings, lambda: compiled(method, mean, deviation), finish, [plateau])
    print(f"{method}, seed {seed}: each convolution reads, of stem, block1, ...: {run['final']['connections']}")
    return run


if __name__ == "__main__":
    parser = command_line(__doc__.splitlines()[0], list(METHODS), epochs=100)
    parser.add_argument("--images", type=int, default=60_000, help="the first so many images for training")
    experiment = Experiment.start(__file__, parser)
    data = experiment.data
    first = replace(data, x=data.x[: experiment.arguments.images], y=data.y[: experiment.arguments.images])
    titles = {
        "test_accuracy": "test accuracy",
        "kernels": "kernels",
        "parameters_after_strip": "parameters after strip",
    }
    run_all(replace(experiment, data=first), METHODS, train, titles)
