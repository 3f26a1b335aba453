"""LeNet-5 under DessiLBI on Fashion-MNIST, then pruned by the order of its path and recovered: the authors' example.

    TFDS_DATA_DIR=... python benchmarks/dessilbi_lenet.py

Network and settings are the authors' (their examples train and prune): 6, 16 and 120 filters 5 x 5, the first with
padding, Dense(84), Dense(10), ReLU and 2 x 2 max pooling; learning rate .1, divided by 10 after 20 and 40 of 60 epochs,
kappa 1, mu 20, momentum .9, batches of 128; the penalty of strength 1 is the group lasso over filters, not weighed by
size, and L1 on the dense layers. Pruned are 80 % of the filters of the third convolution, with their biases, and of
these and the weights of the first dense layer. Their images are those of MNIST, which is not here.
"""

from __future__ import annotations

from typing import Any

import keras
from experiment import (
    Experiment,
    accuracy,
    command_line,
    decayed,
    milestones,
    percent,
    print_table,
    steps_per_epoch,
)

import keras_rmda as kr

BATCH_SIZE, SHARE = 128, 0.8
PRUNED = {"conv3": [".*conv3/kernel"], "conv3 and fc1": [".*conv3/kernel", ".*fc1/kernel"]}


def compiled(experiment: Experiment) -> keras.Model:
    """Return the untrained network."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(6, 5, padding="same", activation="relu", name="conv1"),
            layers.MaxPooling2D(),
            layers.Conv2D(16, 5, activation="relu", name="conv2"),
            layers.MaxPooling2D(),
            layers.Conv2D(120, 5, activation="relu", name="conv3"),
            layers.Flatten(),
            layers.Dense(84, activation="relu", name="fc1"),
            layers.Dense(10, activation="softmax", name="fc2"),
        ],
        name="lenet5",
    )
    at = milestones(experiment.arguments.epochs, 1 / 3, 2 / 3)
    rate = decayed(0.1, at, steps_per_epoch(experiment.data, BATCH_SIZE))
    psi = {".*conv./kernel": kr.GroupLasso(1.0, "output", scale_by_size=False), ".*fc./kernel": kr.L1(1.0)}
    optimizer = kr.DessiLBI(rate, 1.0, 20.0, 0.9, psi)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    return model


def train(experiment: Experiment, seed: int) -> dict[str, Any]:
    """Return one run."""
    data, path = experiment.data, kr.callbacks.SolutionPath()
    settings = {"epochs": experiment.arguments.epochs, "batch_size": BATCH_SIZE, "images": len(data.x)}

    def finish(model: keras.Model) -> dict[str, Any]:
        final = {"masked": accuracy(model, data.x_test, data.y_test)}
        model.optimizer.give_back()  # the authors prune the dense W
        final["dense"] = accuracy(model, data.x_test, data.y_test)
        for name, layers in PRUNED.items():
            path.prune(SHARE, layers, biases=True)
            final[name] = accuracy(model, data.x_test, data.y_test)
            path.recover()
            final[f"{name} recovered"] = accuracy(model, data.x_test, data.y_test)
        last = path.support(path.epochs)
        final["entered"] = {name: float(mask.mean()) for name, mask in last.items()}
        return final

    return experiment.train("path", seed, settings, lambda: compiled(experiment), finish, [path])


if __name__ == "__main__":
    experiment = Experiment.start(__file__, command_line(__doc__.splitlines()[0], ["path"], epochs=60))
    runs = [train(experiment, seed) for seed in experiment.arguments.seeds]
    keys = [key for key in runs[0]["final"] if key != "entered"]
    rows = [[key, percent([run["final"][key] for run in runs])] for key in keys]
    rows.append(["seconds", f"{sum(run['seconds'] for run in runs) / len(runs):.0f}"])
    title = f"{experiment.arguments.epochs} epochs, seeds {experiment.arguments.seeds}, {SHARE:.0%} pruned"
    print_table(title, ["network", "test accuracy %"], rows)
