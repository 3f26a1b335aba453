"""Multilevel Bregman training on CIFAR-10, against SGD, LinBreg and AdaBreg: accuracy, density, operations, seconds.

    TFDS_DATA_DIR=... python benchmarks/multilevel.py [--network convnet | resnet20] [--only ...] [--seeds 0 1 2]
    KERAS_BACKEND=jax python benchmarks/multilevel.py --data cifar10.npz ...      # a file of `resnet20.py --prepare`

`convnet` is the network of the Bregman papers' notebook, two convolutions of 64 filters 5 x 5 and two dense layers, on
32 x 32 pixels with three colors; `resnet20` is ResNet-20. The Bregman methods begin with a share of all channels
(`sparsify` by coupled groups) and let channels in. `-levels` means one dense step in `--coarse` + 1, the others on a
network without the channels that rest (`callbacks.Multilevel`); `-weights` is the published method, single weights by
masks, of which half a per cent stay at the start and for which the operations are counted as its authors count them: a
zero weight costs nothing forward and backward, but its gradient does in every dense step.

Operations are shares of those of dense training. Where channels are cut out they are those that were made
(`callbacks.TrainingCost`); on JAX, where nothing is cut, those that a cut network would make. The same command goes on
after a kill and makes no finished run again. No setting was chosen by the test images: `--search` shows other strengths
on held-out training images.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from cifar10_images import load
from experiment import Data, Experiment, accuracy, cifar10, command_line, mean_sd, percent, print_table
from networks import residual

import keras_rmda as kr

BATCH_SIZE, HELD_OUT = 128, 10_000
LAYERS = keras.layers
SETTINGS: dict[str, dict[str, Any]] = {
    "SGD": {"learning_rate": 0.05},
    "LinBreg": {"learning_rate": 0.05, "strength": 0.01, "density": 0.25},
    "LinBreg-levels": {"learning_rate": 0.05, "strength": 2e-4, "density": 0.25},
    "AdaBreg": {"learning_rate": 1e-3, "strength": 0.05, "density": 0.25},
    "AdaBreg-levels": {"learning_rate": 1e-3, "strength": 2e-3, "density": 0.25},
    "LinBreg-weights": {"learning_rate": 0.05, "strength": 5e-3, "density": 0.005},
    "LinBreg-weights-levels": {"learning_rate": 0.05, "strength": 1e-4, "density": 0.005},
}
"""Of the methods; momentum is .9 for SGD and LinBreg. What rests moves in dense steps only, so that its way to the
threshold takes so many times as long: the strengths of two levels are smaller."""
SEARCHED = (0.3, 1.0, 3.0)
"""Factors of the strength."""


def convnet() -> keras.Model:
    """Return the network of the notebook, with random biases, as PyTorch's are."""

    def some(fan_in: int) -> dict[str, Any]:
        return {"bias_initializer": keras.initializers.RandomUniform(-(fan_in**-0.5), fan_in**-0.5)}

    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            LAYERS.Conv2D(64, 5, activation="relu", name="conv1", **some(75)),
            LAYERS.MaxPooling2D(),
            LAYERS.Conv2D(64, 5, activation="relu", name="conv2", **some(1600)),
            LAYERS.MaxPooling2D(),
            LAYERS.Flatten(),
            LAYERS.Dense(128, activation="relu", name="dense1", **some(1600)),
            LAYERS.Dense(10, name="dense2", **some(128)),
        ],
        name="convnet",
    )


NETWORKS = {"convnet": convnet, "resnet20": lambda: residual((16, 32, 64), 3)}


def compiled(network: str, method: str, coarse: int, learning_rate: float, strength: float = 0.0, density: float = 1.0):
    """Return a network at its start, with its optimizer."""
    model = NETWORKS[network]()
    algorithm, *kind = method.split("-")
    levels = {"coarse_steps": coarse} if "levels" in kind else {}
    if "weights" in kind:
        kr.sparsify(model, density)
        psi: Any = kr.L1(strength)
    elif algorithm != "SGD":
        groups = kr.coupled_groups(model)  # of what reads a channel, so that channels at rest have gradients
        kr.sparsify(model, density, by="group", groups=groups)
        psi = kr.GroupLasso(strength, groups=groups)
    optimizer = {
        "SGD": lambda: keras.optimizers.SGD(learning_rate, momentum=0.9),
        "LinBreg": lambda: kr.LinBreg(learning_rate, momentum=0.9, regularizer=psi, **levels),
        "AdaBreg": lambda: kr.AdaBreg(learning_rate, regularizer=psi, **levels),
    }[algorithm]()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)
    return model


class Operations(keras.callbacks.Callback):
    """Count operations of training from what is zero, and put their share of SGD's into `logs`.

    With f of a dense network, s of what is not zero, and 3 f of SGD in every step. Of single weights, as the authors of
    multilevel LinBreg do: 2 s + f in a dense step, 3 s in a coarse one. Of channels, as a cut network makes them: 3 f
    in a dense step, 3 s in a coarse one. What is zero is looked up at the end of every epoch.
    """

    def __init__(self, coarse: int, parts: str):
        super().__init__()
        self.coarse, self.parts, self.made, self.all = coarse, parts, 0.0, 0.0

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Count the steps of the epoch."""
        report, is_dense = kr.analyze(self.model), 1.0 / (self.coarse + 1)
        share = report.macs_after / report.macs if self.parts == "channels" else self.of_weights(report)
        in_dense_steps = 1.0 if self.parts == "channels" else (2 * share + 1) / 3
        self.made += self.params["steps"] * (is_dense * in_dense_steps + (1.0 - is_dense) * share)
        self.all += self.params["steps"]
        logs["operations"] = self.made / self.all

    def of_weights(self, report: kr.Report) -> float:
        """Return the share of the operations that single weights leave, if a zero costs nothing."""
        left, layers = 0.0, {layer.name: layer for layer in self.model.layers if hasattr(layer, "kernel")}
        for each in report.layers:
            kernel = layers[each.name].kernel if each.name in layers else None
            left += each.macs * (1.0 if kernel is None else np.mean(keras.ops.convert_to_numpy(kernel) != 0))
        return left / report.macs


def measured(model: keras.Model, experiment: Experiment) -> dict[str, Any]:
    """Return accuracy and sizes of a trained network."""
    kernels = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables if len(v.shape) > 1]
    report = kr.analyze(model)
    return {
        "test_accuracy": accuracy(model, experiment.data.x_test, experiment.data.y_test),
        "nonzero_weights": float(sum(np.count_nonzero(w) for w in kernels) / sum(w.size for w in kernels)),
        "macs_left": report.macs_after / report.macs,
    }


def train(experiment: Experiment, method: str, seed: int, factor: float = 1.0) -> dict[str, Any]:
    """Return one run."""
    arguments, chosen = experiment.arguments, dict(SETTINGS[method])
    if "strength" in chosen:
        chosen["strength"] *= factor
    coarse = arguments.coarse if method.endswith("levels") else 0
    settings = chosen | {"network": arguments.network, "coarse": coarse, "epochs": arguments.epochs}
    settings |= {"batch_size": BATCH_SIZE, "images": len(experiment.data.x)}
    callbacks: list[keras.callbacks.Callback] = [kr.callbacks.TrainingCost()]
    if "weights" in method:
        callbacks.append(Operations(coarse, "weights"))
    elif coarse and keras.backend.backend() == "jax":  # which masks what rests: the same steps, at the whole cost
        callbacks.append(Operations(coarse, "channels"))
    elif coarse:
        callbacks.append(kr.callbacks.Multilevel())
    make = lambda: compiled(arguments.network, method, coarse, **chosen)  # noqa: E731
    return experiment.train(method, seed, settings, make, lambda model: measured(model, experiment), callbacks)


def row(runs: list[dict[str, Any]]) -> list[str]:
    """Return the figures of a table, over seeds."""
    final = {key: [run["final"][key] for run in runs] for key in runs[0]["final"]}
    operations = [run["history"].get("operations", run["history"]["training_macs"])[-1] for run in runs]
    figures = [percent(final[key]) for key in ("test_accuracy", "nonzero_weights", "macs_left")]
    return [*figures, percent(operations, 1), mean_sd([run["seconds"] for run in runs], 0)]


FIGURES = ["accuracy %", "nonzero weights %", "MACs left %", "operations of training %", "seconds"]


def images(arguments: argparse.Namespace) -> Data:
    """Return CIFAR-10, or the first of its training images and all test images."""
    if arguments.data is None:
        data = cifar10()
    else:
        x, y, x_test, y_test = load(arguments.data, None)
        data = Data(x.astype("float32") / 255, y, x_test.astype("float32") / 255, y_test)
    return replace(data, x=data.x[: arguments.images], y=data.y[: arguments.images])


def search(experiment: Experiment) -> None:
    """Train with other strengths on a part of the training images and print the table."""
    experiment = replace(experiment, data=experiment.data.held_out(min(HELD_OUT, len(experiment.data.x) // 2)))
    rows = []
    for method in experiment.selected([name for name in SETTINGS if name != "SGD"]):
        for factor in SEARCHED:
            rows.append(
                [method, f"{SETTINGS[method]['strength'] * factor:g}", *row([train(experiment, method, 0, factor)])]
            )
    print_table(
        f"Search, {experiment.arguments.epochs} epochs, seed 0",
        ["method", "strength", "held-out " + FIGURES[0], *FIGURES[1:]],
        rows,
    )


def compare(experiment: Experiment) -> None:
    """Train all methods on all seeds and print the table."""
    arguments = experiment.arguments
    rows = []
    for method in experiment.selected(SETTINGS):
        rows.append([method, *row([train(experiment, method, seed) for seed in arguments.seeds])])
    title = f"{arguments.network}, {arguments.epochs} epochs, {len(experiment.data.x):,} images, "
    title += f"{arguments.coarse} coarse steps, seeds {arguments.seeds}"
    print_table(title, ["method", *FIGURES], rows)


if __name__ == "__main__":
    parser = command_line(__doc__.splitlines()[0], list(SETTINGS), epochs=60)
    parser.add_argument("--network", choices=list(NETWORKS), default="convnet")
    parser.add_argument("--coarse", type=int, default=99, help="coarse steps behind each dense one")
    parser.add_argument("--images", type=int, help="the first of the training images only")
    parser.add_argument("--search", action="store_true", help="other strengths, on held-out images")
    parser.add_argument("--data", type=Path, help="a file with CIFAR-10, which needs no TensorFlow")
    experiment = Experiment.start(__file__, parser, lambda: images(parser.parse_args()))
    (search if experiment.arguments.search else compare)(experiment)
