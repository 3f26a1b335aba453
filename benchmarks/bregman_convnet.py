"""A convolutional network on Fashion-MNIST, grown from 1 % of its weights: LinBreg and AdaBreg.

    TFDS_DATA_DIR=... python benchmarks/bregman_convnet.py [--search]

The network of the Bregman papers' notebook: two convolutions of 64 filters 5 x 5 without padding, each with ReLU and
2 x 2 max pooling, Dense(128, relu), Dense(10, softmax); pixels in [0, 1]. Biases begin at random, as PyTorch's do: a
filter that is zero with a zero bias has no gradient behind ReLU and could never grow.

`kernels`, as published: groups are the single 5 x 5 kernels of the convolutions and the single weights of the dense
layers, the start is 1 % of the single weights. `channels`: groups are the input channels of every layer after the first
(the filters, in the first), the start is a share of these groups: what is zero at the end can be cut out.

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
    "LinBreg-kernels": {"learning_rate": 0.07, "strength": 0.5, "density": 0.01},
    "AdaBreg-kernels": {"learning_rate": 1e-3, "strength": 0.5, "density": 0.01},
    "LinBreg-channels": {"learning_rate": 0.07, "strength": 0.05, "density": 0.1},
    "AdaBreg-channels": {"learning_rate": 1e-3, "strength": 0.05, "density": 0.1},
    "Adam": {"learning_rate": 1e-3},
}
"""Of the methods; Adam trains the dense network."""
SEARCHED: dict[str, list[dict[str, Any]]] = {
    "AdaBreg-kernels": [{"learning_rate": 3e-4}, {}, {"learning_rate": 3e-3}],
    "LinBreg-channels": [{}, {"strength": 0.1}, {"strength": 0.2}],
    "AdaBreg-channels": [{}, {"strength": 0.1}, {"strength": 0.2}],
}
SEARCH_EPOCHS, HELD_OUT = 4, 10_000


def network() -> keras.Model:
    """Return the dense network."""
    layers = keras.layers

    def bias(fan_in: int) -> keras.initializers.Initializer:
        return keras.initializers.RandomUniform(-(fan_in**-0.5), fan_in**-0.5)

    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(64, 5, activation="relu", bias_initializer=bias(25), name="conv1"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 5, activation="relu", bias_initializer=bias(1600), name="conv2"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(128, activation="relu", bias_initializer=bias(1024), name="dense1"),
            layers.Dense(10, activation="softmax", bias_initializer=bias(128), name="dense2"),
        ],
        name="bregman_convnet",
    )


def compiled(method: str, learning_rate: float, strength: float = 0.0, density: float = 1.0) -> keras.Model:
    """Return the network at its sparse start, with its optimizer."""
    model = network()
    algorithm, _, groups = method.partition("-")
    if groups == "kernels":
        psi = {".*conv./kernel": kr.GroupLasso(strength, "kernel"), ".*dense./kernel": kr.L1(strength)}
        kr.sparsify(model, density)
    elif groups == "channels":
        filters, inputs = kr.GroupLasso(strength, "kernel"), kr.GroupLasso(strength, "input")
        psi = {".*conv1/kernel": filters, ".*(conv2|dense.)/kernel": inputs}
        kr.sparsify(model, density, by="group", groups="input")
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
