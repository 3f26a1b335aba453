"""RigL, the unstructured baseline of the first paper, beside RMDA and ProxSGD with L1: LeNet on Fashion-MNIST.

    TFDS_DATA_DIR=... python benchmarks/rigl.py

The network is that of `dessilbi.py`. RigL (Evci et al. 2020, arXiv:1911.11134) keeps a share of the weights of each
kernel, the first layer dense and the others alike (`uniform` in the paper); every 100 steps until three quarters of the
training, it drops the smallest (1 + cos(pi t / T)) / 2 * 30 % of the weights that are there and grows as many of those
that are not, at zero, where the gradient of the batch is largest; what grows begins without momentum. SGD with momentum
.9, .1 divided by 10 after a half and after three quarters. RMDA and ProxSGD have the schedule of `removable.py`; their
strengths were not searched for: the table shows what share of the weights each leaves.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from dessilbi import network
from experiment import (
    Experiment,
    accuracy,
    command_line,
    decayed,
    milestones,
    run_all,
    steps_per_epoch,
    zero_share,
)

import keras_rmda as kr

BATCH_SIZE, EVERY, FRACTION, END = 128, 100, 0.3, 0.75
METHODS = {"RigL-.1": 0.1, "RigL-.05": 0.05, "RMDA-1e-5": 1e-5, "RMDA-3e-5": 3e-5, "ProxSGD-1e-4": 1e-4}


class Sparse(keras.constraints.Constraint):
    """Keeps a weight zero outside of a mask that changes."""

    def __init__(self, mask: np.ndarray):
        self.mask = tf.Variable(mask)

    def __call__(self, w: Any) -> Any:
        """Return the weight with zeros."""
        return tf.where(self.mask, w, tf.zeros_like(w))


class RigL(keras.callbacks.Callback):
    """Drop and grow.

    Args:
        density: the share of the weights that is there.
        data: whose gradients tell what to grow.
        steps: of the whole training.
        seed: of the first masks and of the batches.
    """

    def __init__(self, density: float, data: Any, steps: int, seed: int):
        super().__init__()
        self.density, self.data, self.steps = density, data, steps
        self.random, self.seed = np.random.default_rng(seed), seed

    def kernels(self) -> list[Any]:
        """Return the sparse weights: all kernels but that of the first layer."""
        return [layer.kernel for layer in self.model.layers if hasattr(layer, "kernel")][1:]

    def begin(self, model: keras.Model) -> None:
        """Draw the masks, or read them from weights that are sparse already."""
        for layer in [layer for layer in model.layers if hasattr(layer, "kernel")][1:]:
            w = keras.ops.convert_to_numpy(layer.kernel)
            mask = w != 0
            if mask.mean() > 2 * self.density:
                mask = np.zeros(w.size, bool)
                mask[self.random.permutation(w.size)[: round(self.density * w.size)]] = True
            layer.kernel.constraint = Sparse(mask.reshape(w.shape))
            layer.kernel.assign(layer.kernel.constraint(layer.kernel))

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Change the masks, if that is due."""
        step = int(self.model.optimizer.iterations)
        if step % EVERY or step > END * self.steps:
            return
        chosen = self.random.integers(len(self.data.x), size=BATCH_SIZE)
        with tf.GradientTape() as tape:
            loss = self.model.compute_loss(y=self.data.y[chosen], y_pred=self.model(self.data.x[chosen], training=True))
        kernels = self.kernels()
        share = FRACTION / 2 * (1 + math.cos(math.pi * step / (END * self.steps)))
        velocities = {v.path: v for v in self.model.optimizer.variables}
        for kernel, gradient in zip(kernels, tape.gradient(loss, [kernel.value for kernel in kernels])):
            w, mask = keras.ops.convert_to_numpy(kernel), kernel.constraint.mask.numpy()
            new, count = mask.ravel().copy(), int(share * mask.sum())
            there, away = np.flatnonzero(mask), np.flatnonzero(~mask)
            new[there[np.abs(w.ravel()[there]).argsort()[:count]]] = False
            grown = away[np.abs(gradient.numpy().ravel()[away]).argsort()[len(away) - count :]]
            new[grown] = True
            kernel.constraint.mask.assign(new.reshape(w.shape))
            kernel.assign(np.where(new.reshape(w.shape) & mask, w, 0.0))
            for path, velocity in velocities.items():
                if velocity.shape == kernel.shape and kernel.path.replace("/", "_") in path:
                    velocity.assign(np.where(new.reshape(w.shape) & mask, velocity, 0.0))


def train(experiment: Experiment, method: str, seed: int) -> dict[str, Any]:
    """Return one run."""
    data, epochs = experiment.data, experiment.arguments.epochs
    settings = {"epochs": epochs, "batch_size": BATCH_SIZE, "images": len(data.x)}
    steps, (kind, _, _), value = steps_per_epoch(data, BATCH_SIZE), method.partition("-"), METHODS[method]
    at = milestones(epochs, 1 / 2, 3 / 4)
    rigl = RigL(value, data, epochs * steps, seed) if kind == "RigL" else None
    stages = [] if rigl else [kr.callbacks.StagewiseSchedule(at)]

    def make() -> keras.Model:
        model, psi = network(), kr.L1(value)
        optimizer = {
            "RigL": lambda: keras.optimizers.SGD(decayed(0.1, at, steps), momentum=0.9),
            "RMDA": lambda: kr.RMDA(0.1, 0.1, psi),
            "ProxSGD": lambda: kr.ProxSGD(0.1, 0.1, psi),
        }[kind]()
        model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
        return model

    def finish(model: keras.Model) -> dict[str, Any]:
        left = 1.0 - zero_share([keras.ops.convert_to_numpy(w) for w in model.weights])
        return {"test_accuracy": accuracy(model, data.x_test, data.y_test), "nonzero_weights": left}

    return experiment.train(method, seed, settings, make, finish, [rigl] if rigl else stages, rigl and rigl.begin)


if __name__ == "__main__":
    experiment = Experiment.start(__file__, command_line(__doc__.splitlines()[0], list(METHODS), epochs=12))
    titles = {"test_accuracy": "test accuracy", "nonzero_weights": "nonzero weights of kernels"}
    run_all(experiment, METHODS, train, titles)
