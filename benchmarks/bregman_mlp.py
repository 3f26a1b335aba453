"""The multilayer perceptron of the Bregman paper on Fashion-MNIST: LinBreg, SGD and ProxSGD from 1 % of the weights.

    TFDS_DATA_DIR=... python benchmarks/bregman_mlp.py

Network and settings are the authors' (their notebook MLP-Classification): 784-200-80-10 with ReLU, also behind the last
layer, on standardized pixels; the weights are .7 / sqrt(.01) times He's, of which each stays with probability 1 %, and
the biases uniform in (0, 1 / sqrt(fan in)); learning rate .1 without momentum, halved where the training loss has not
fallen by 1 % for five epochs; 30 epochs of batches of 128; the penalty is L1 on the weights. Their images are those of
MNIST, which is not here, and 95 % of its training images; ours are all 60,000. `SGD` is LinBreg with strength 0.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import keras
import numpy as np
from experiment import Experiment, Plateau, accuracy, command_line, run_all

import keras_rmda as kr

SIZES, DENSITY, RATE = (784, 200, 80, 10), 0.01, 0.1
METHODS = {
    "LinBreg-1e-3": (kr.LinBreg, 1e-3),
    "LinBreg-1e-1": (kr.LinBreg, 1e-1),
    "SGD": (kr.LinBreg, 0.0),
    "ProxSGD-1e-4": (kr.ProxSGD, 1e-4),
}


class Bernoulli(keras.initializers.Initializer):
    """He's weights times a factor, each with a probability, else 0."""

    def __init__(self, factor: float, density: float, seed: int):
        self.factor, self.density, self.seed = factor, density, seed

    def __call__(self, shape: tuple[int, ...], dtype: str | None = None) -> Any:
        """Return them."""
        random = np.random.default_rng(self.seed)
        values = random.normal(0.0, self.factor * math.sqrt(2.0 / shape[0]), shape)
        return keras.ops.convert_to_tensor(np.where(random.random(shape) < self.density, values, 0.0), dtype)


def compiled(method: str, seed: int, mean: float, deviation: float) -> keras.Model:
    """Return the untrained network."""
    model = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten()])
    model.add(keras.layers.Rescaling(1 / deviation, -mean / deviation))
    for k, (n_in, n_out) in enumerate(pairwise(SIZES)):
        kernel = Bernoulli(0.7 / math.sqrt(DENSITY), DENSITY, 10 * seed + k)
        bias = keras.initializers.RandomUniform(0.0, n_in**-0.5)
        model.add(keras.layers.Dense(n_out, "relu"))
        model.layers[-1].kernel.assign(kernel((n_in, n_out)))
        model.layers[-1].bias.assign(bias((n_out,)))
    kind, strength = METHODS[method]
    momentum = {"momentum": 0.0} if kind is kr.LinBreg else {"momentum": 1.0}
    optimizer = kind(RATE, regularizer=kr.L1(strength), **momentum)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)
    return model


def train(experiment: Experiment, method: str, seed: int) -> dict[str, Any]:
    """Return one run."""
    data = experiment.data
    settings = {"epochs": experiment.arguments.epochs, "batch_size": 128, "images": len(data.x)}
    mean, deviation = float(data.x.mean()), float(data.x.std())

    def finish(model: keras.Model) -> dict[str, Any]:
        kernels = [keras.ops.convert_to_numpy(layer.kernel) for layer in model.layers if hasattr(layer, "kernel")]
        return {
            "test_accuracy": accuracy(model, data.x_test, data.y_test),
            "nonzero_weights": sum(np.count_nonzero(w) for w in kernels) / sum(w.size for w in kernels),
        }

    plateau = Plateau("loss", factor=0.5, patience=5, threshold=0.01)
    return experiment.train(method, seed, settings, lambda: compiled(method, seed, mean, deviation), finish, [plateau])


if __name__ == "__main__":
    experiment = Experiment.start(__file__, command_line(__doc__.splitlines()[0], list(METHODS), epochs=30))
    run_all(experiment, METHODS, train, {"test_accuracy": "test accuracy", "nonzero_weights": "nonzero weights"})
