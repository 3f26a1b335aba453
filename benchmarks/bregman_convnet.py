"""A convolutional network on Fashion-MNIST, grown from 1 % of its weights: LinBreg and AdaBreg.

    TFDS_DATA_DIR=... python benchmarks/bregman_convnet.py [--search]

The network of the Bregman papers' notebook: two convolutions of 64 filters 5 x 5 without padding, each with ReLU and
2 x 2 max pooling, Dense(128, relu), Dense(10, softmax); pixels in [0, 1]. Biases begin at random, as PyTorch's do: a
filter that is zero with a zero bias has no gradient behind ReLU and could never grow.

`kernels`, as published: groups are the single 5 x 5 kernels of the convolutions and the single weights of the dense
layers. `channels`: groups are the filters and neurons of every layer but the last, whose weights are single: what is
zero at the end can be cut out. The start is a share `density` of the groups of every layer, `first_density` in the
first, whose 64 groups are all that the image goes through.

`--search` trains other settings for a few epochs on the first 50,000 training images and shows the accuracy on the last
10,000: no test image has a part in the choice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
import numpy as np
from experiment import Data, Experiment, accuracy, command_line, mean_sd, percent, print_table

import keras_rmda as kr

BATCH_SIZE = 128
SETTINGS: dict[str, dict[str, Any]] = {
    "LinBreg-kernels": {"learning_rate": 0.07, "strength": 0.5, "density": 0.02, "first_density": 0.25},
    "AdaBreg-kernels": {"learning_rate": 1e-3, "strength": 0.5, "density": 0.02, "first_density": 0.25},
    "LinBreg-channels": {"learning_rate": 0.07, "strength": 0.05, "density": 0.1, "first_density": 0.1},
    "AdaBreg-channels": {"learning_rate": 1e-3, "strength": 0.1, "density": 0.1, "first_density": 0.1},
    "Adam": {"learning_rate": 1e-3},
}
"""Of the methods; Adam trains the dense network."""
SEARCHED: dict[str, list[dict[str, Any]]] = {
    "LinBreg-kernels": [{}, {"density": 0.01}, {"strength": 1.0}],
    "LinBreg-channels": [{}, {"strength": 0.1}, {"strength": 0.2}],
    "AdaBreg-kernels": [{}, {"learning_rate": 3e-4}],
    "AdaBreg-channels": [{}, {"strength": 0.2}],
}
SEARCH_EPOCHS, HELD_OUT = 4, 10_000


def network(density: float = 1.0, first_density: float = 1.0, groups: str = "kernel") -> keras.Model:
    """Return the network with a share of the groups of every layer, all of them without arguments."""
    layers = keras.layers

    def begin(fan_in: int, density: float = density, groups: str = groups) -> dict[str, Any]:
        bias = keras.initializers.RandomUniform(-(fan_in**-0.5), fan_in**-0.5)
        kernel = kr.SparseInitializer("glorot_uniform", density, by="group", groups=groups)
        return {"bias_initializer": bias, "kernel_initializer": kernel}

    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(64, 5, activation="relu", name="conv1", **begin(25, first_density)),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 5, activation="relu", name="conv2", **begin(1600)),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(128, activation="relu", name="dense1", **begin(1024)),
            layers.Dense(10, activation="softmax", name="dense2", **begin(128, groups="kernel")),
        ],
        name="bregman_convnet",
    )


def compiled(method: str, learning_rate: float, strength: float = 0.0, **densities: float) -> keras.Model:
    """Return the network at its sparse start, with its optimizer."""
    algorithm, _, kind = method.partition("-")
    groups = {"": "kernel", "kernels": "kernel", "channels": "output"}[kind]
    model = network(**densities, groups=groups)
    psi = {".*dense2/kernel": kr.L1(strength), ".*(conv.|dense1)/kernel": kr.GroupLasso(strength, groups)}
    optimizer = {
        "LinBreg": lambda: kr.LinBreg(learning_rate, regularizer=psi),
        "AdaBreg": lambda: kr.AdaBreg(learning_rate, regularizer=psi),
        "Adam": lambda: keras.optimizers.Adam(learning_rate),
    }[algorithm]()
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    return model


def measured(model: keras.Model, data: Data) -> dict[str, Any]:
    """Return accuracy and sizes of a trained network, and of what `strip` leaves of it."""
    kernels = [keras.ops.convert_to_numpy(layer.kernel) for layer in model.layers if hasattr(layer, "kernel")]
    report, small = kr.analyze(model), kr.strip(model)
    return {
        "test_accuracy": accuracy(model, data.x_test, data.y_test),
        "stripped_accuracy": accuracy(small, data.x_test, data.y_test),
        "nonzero_weights": sum(np.count_nonzero(w) for w in kernels) / sum(w.size for w in kernels),
        "parameters": report.parameters,
        "parameters_after": small.count_params(),
        "macs": report.macs,
        "macs_after": report.macs_after,
        "widths": {layer.name: layer.kernel.shape[-1] for layer in small.layers if hasattr(layer, "kernel")},
    }


def train(experiment: Experiment, method: str, seed: int, changed: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return one run."""
    chosen = SETTINGS[method] | (changed or {})
    settings = chosen | {"epochs": experiment.arguments.epochs, "batch_size": BATCH_SIZE}
    settings |= {"images": len(experiment.data.x)}

    def finish(model: keras.Model) -> dict[str, Any]:
        return measured(model, experiment.data)

    monitor = kr.callbacks.SparsityMonitor()
    return experiment.train(method, seed, settings, lambda: compiled(method, **chosen), finish, [monitor])


def row(runs: list[dict[str, Any]]) -> list[str]:
    """Return the figures of a table, over seeds."""
    final = {key: [run["final"][key] for run in runs] for key in runs[0]["final"]}
    sizes = (
        f"{before[0]:,} to {mean_sd(after, 0)}"
        for before, after in ((final["parameters"], final["parameters_after"]), (final["macs"], final["macs_after"]))
    )
    return [percent(final["test_accuracy"]), percent(final["nonzero_weights"]), *sizes]


FIGURES = ["test accuracy %", "nonzero weights %", "parameters", "MACs"]


def search(experiment: Experiment) -> None:
    """Train all of `SEARCHED` for a few epochs on a part of the training data and print the table."""
    experiment = replace(experiment, data=experiment.data.held_out(min(HELD_OUT, len(experiment.data.x) // 2)))
    experiment.arguments.epochs = min(SEARCH_EPOCHS, experiment.arguments.epochs)
    rows = []
    for method in experiment.selected(SEARCHED):
        for changed in SEARCHED[method]:
            settings = ", ".join(f"{key} {value:g}" for key, value in (SETTINGS[method] | changed).items())
            rows.append([method, settings, *row([train(experiment, method, 0, changed)])])
    header = ["method", "settings", "held-out accuracy %", *FIGURES[1:]]
    print_table(f"Search, {experiment.arguments.epochs} epochs, seed 0", header, rows)


def compare(experiment: Experiment) -> None:
    """Train all methods on all seeds and print the table."""
    rows = []
    for method in experiment.selected(SETTINGS):
        runs = [train(experiment, method, seed) for seed in experiment.arguments.seeds]
        rows.append([method, *row(runs), f"{np.mean([run['seconds'] for run in runs]):.0f}"])
    title = f"{experiment.arguments.epochs} epochs, seeds {experiment.arguments.seeds}"
    print_table(title, ["method", *FIGURES, "seconds per run"], rows)


if __name__ == "__main__":
    parser = command_line(__doc__.splitlines()[0], list(SETTINGS), epochs=40)
    parser.add_argument("--search", action="store_true", help="other settings, a few epochs, on held-out images")
    experiment = Experiment.start(__file__, parser)
    (search if experiment.arguments.search else compare)(experiment)
