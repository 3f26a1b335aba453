"""LeNet on Fashion-MNIST under DessiLBI: the path of its filters and neurons, and winning tickets taken from it.

    TFDS_DATA_DIR=... python benchmarks/dessilbi.py [--search]

The network: 20 and 50 filters 5 x 5 without padding, each with ReLU and 2 x 2 max pooling, Dense(500, relu),
Dense(10, softmax); pixels in [0, 1]. Groups are the filters of the convolutions and the neurons of Dense(500), not
weighed by size; the last layer is free. Batches of 128; the learning rate is divided by 10 after a third and after two
thirds of the epochs.

`path` is one training with DessiLBI. A ticket is the network of the groups that had entered Gamma after so many of its
epochs, with the weights that the path began with, trained for the same number of epochs by SGD with the same learning
rate and momentum; `dense` is the same with all groups. `--search` makes the path at other settings, on the first 50,000
training images, and shows the accuracy on the last 10,000.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from experiment import (
    Experiment,
    accuracy,
    command_line,
    decayed,
    mean_sd,
    milestones,
    percent,
    print_table,
    steps_per_epoch,
)

import keras_rmda as kr
from keras_rmda.callbacks.path import KeepZeros

BATCH_SIZE = 128
CHOSEN = {"learning_rate": 0.1, "strength": 2.0, "kappa": 1.0, "mu": 20.0, "momentum": 0.9}
SEARCHED = [{"strength": strength} for strength in (1.0, 2.0, 3.0, 5.0)]
TICKETS = (1, 2, 5, 10)
"""Epochs of the path after which a ticket is taken."""
GROUPED = "conv1", "conv2", "dense1"
Kept = dict[str, list[int]]
"""For each layer of `GROUPED`, the filters or neurons in the support."""


def network() -> keras.Model:
    """Return the dense network."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(20, 5, activation="relu", name="conv1"),
            layers.MaxPooling2D(),
            layers.Conv2D(50, 5, activation="relu", name="conv2"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(500, activation="relu", name="dense1"),
            layers.Dense(10, activation="softmax", name="dense2"),
        ],
        name="lenet",
    )


class Path(keras.callbacks.Callback):
    """Put the support after each epoch into the logs as `kept`, and the accuracy under it as `masked_accuracy`.

    With the history on disk, tickets can be made in another process; `kr.callbacks.SolutionPath` has them in its own.
    """

    def __init__(self, experiment: Experiment):
        super().__init__()
        self.data = experiment.data

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Test a copy of the network that has the mask."""
        masked = keras.models.clone_model(self.model)
        masked.set_weights(self.model.get_weights())
        logs["kept"] = {}
        for layer in GROUPED:
            value = self.model.optimizer.structured_value(self.model.get_layer(layer).kernel)
            logs["kept"][layer] = neurons(keras.ops.convert_to_numpy(value))
            masked.get_layer(layer).kernel.assign(value)
        logs["masked_accuracy"] = accuracy(masked, self.data.x_test, self.data.y_test)


def neurons(kernel: np.ndarray) -> list[int]:
    """Return the indices along the last axis at which anything is not zero."""
    return np.flatnonzero(np.any(kernel != 0, tuple(range(kernel.ndim - 1)))).tolist()


def keep(model: keras.Model, kept: Kept) -> None:
    """Set all other filters and neurons to zero, now and after every step."""
    for layer, indices in kept.items():
        kernel = model.get_layer(layer).kernel
        mask = np.zeros(kernel.shape, bool)
        mask[..., indices] = True
        kernel.constraint = KeepZeros(mask)
        kernel.assign(kernel.constraint(kernel))


def schedule(experiment: Experiment, learning_rate: float) -> keras.optimizers.schedules.LearningRateSchedule:
    """Return the learning rate, the same for path and tickets."""
    at = milestones(experiment.arguments.epochs, 1 / 3, 2 / 3)
    return decayed(learning_rate, at, steps_per_epoch(experiment.data, BATCH_SIZE))


def path(experiment: Experiment, seed: int, changed: dict[str, float] | None = None) -> dict[str, Any]:
    """Return the training with DessiLBI."""
    chosen = CHOSEN | (changed or {})
    settings = chosen | {"epochs": experiment.arguments.epochs, "batch_size": BATCH_SIZE}
    settings |= {"images": len(experiment.data.x)}
    groups = kr.GroupLasso(chosen["strength"], "output", scale_by_size=False)

    def make() -> keras.Model:
        model = network()
        optimizer = kr.DessiLBI(
            schedule(experiment, chosen["learning_rate"]),
            chosen["kappa"],
            chosen["mu"],
            chosen["momentum"],
            {f".*{layer}/kernel": groups for layer in GROUPED},
        )
        model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
        return model

    return experiment.train("path", seed, settings, make, measured(experiment), [Path(experiment)])


def retrained(experiment: Experiment, seed: int, epoch: int | None) -> dict[str, Any]:
    """Return the training of the ticket of an epoch, or of the dense network for None."""
    settings = dict(CHOSEN) if epoch else {key: CHOSEN[key] for key in ("learning_rate", "momentum")}
    settings |= {"epochs": experiment.arguments.epochs, "batch_size": BATCH_SIZE}
    settings |= {"ticket": epoch} if epoch else {}
    kept = path(experiment, seed)["history"]["kept"][epoch - 1] if epoch else {}

    def make() -> keras.Model:
        model = network()
        optimizer = keras.optimizers.SGD(schedule(experiment, CHOSEN["learning_rate"]), momentum=CHOSEN["momentum"])
        model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
        return model

    def begin(model: keras.Model) -> None:
        keep(model, kept)

    name = f"ticket-{epoch}" if epoch else "dense"
    return experiment.train(name, seed, settings, make, measured(experiment), begin=begin)


def empty(experiment: Experiment, seed: int, epoch: int) -> bool:
    """Return whether the ticket of an epoch has a layer without any filter or neuron."""
    return not all(path(experiment, seed)["history"]["kept"][epoch - 1].values())


def measured(experiment: Experiment) -> Callable[[keras.Model], dict[str, Any]]:
    """Return what takes the final numbers of a trained network."""

    def finish(model: keras.Model) -> dict[str, Any]:
        kernels = {layer: keras.ops.convert_to_numpy(model.get_layer(layer).kernel) for layer in GROUPED}
        return {
            "test_accuracy": accuracy(model, experiment.data.x_test, experiment.data.y_test),
            "groups": {layer: len(neurons(kernel)) for layer, kernel in kernels.items()},
            "kept_weights": sum(np.count_nonzero(w) for w in kernels.values()) / sum(w.size for w in kernels.values()),
            "stripped_parameters": kr.strip(model).count_params(),
        }

    return finish


def widths(runs: list[dict[str, Any]]) -> str:
    """Return the mean number of groups left in each layer."""
    return "-".join(f"{np.mean([run['final']['groups'][layer] for run in runs]):.0f}" for layer in GROUPED)


def row(name: str, runs: list[dict[str, Any]]) -> list[str]:
    """Return a line of the table, over seeds."""
    final = {key: [run["final"][key] for run in runs] for key in runs[0]["final"]}
    figures = percent(final["test_accuracy"]), percent(final["kept_weights"]), mean_sd(final["stripped_parameters"], 0)
    return [name, *figures[:1], widths(runs), *figures[1:]]


def search(experiment: Experiment) -> None:
    """Make the path at other settings and print the groups left after each of the epochs of `TICKETS`."""
    experiment = replace(experiment, data=experiment.data.held_out(len(experiment.data.x) // 6))
    rows = []
    for changed in SEARCHED:
        run = path(experiment, 0, changed)
        kept = [run["history"]["kept"][epoch - 1] for epoch in TICKETS if epoch <= experiment.arguments.epochs]
        sizes = "; ".join("-".join(str(len(each[layer])) for layer in GROUPED) for each in kept)
        dense, masked = (percent([run["history"][key][-1]]) for key in ("test_accuracy", "masked_accuracy"))
        rows.append([", ".join(f"{key} {value:g}" for key, value in (CHOSEN | changed).items()), sizes, dense, masked])
    header = ["settings", f"groups after epochs {TICKETS}", "dense accuracy %", "masked accuracy %"]
    print_table(f"Search, {experiment.arguments.epochs} epochs, seed 0, held-out images", header, rows)


def compare(experiment: Experiment) -> None:
    """Make path, tickets and dense training on all seeds and print the table."""
    arguments, rows = experiment.arguments, []
    if experiment.selected(["path"]):
        runs = [path(experiment, seed) for seed in arguments.seeds]
        dense = percent([run["history"]["test_accuracy"][-1] for run in runs])
        rows.append(["path, dense W", dense, "20-50-500", "100.00", f"{network().count_params():,}"])
        rows.append(row("path, masked W", runs))
    for name in experiment.selected(METHODS[1:]):
        epoch = int(name.removeprefix("ticket-")) if name != "dense" else None
        if epoch and epoch > arguments.epochs:
            continue
        seeds = [seed for seed in arguments.seeds if epoch is None or not empty(experiment, seed, epoch)]
        if seeds:
            rows.append(row(name, [retrained(experiment, seed, epoch) for seed in seeds]))
        if len(seeds) < len(arguments.seeds):
            print(f"{name}: only seeds {seeds} are trained; the others have an empty layer, whose output is constant.")
    header = ["network", "test accuracy %", "groups", "kept weights of the grouped layers %", "parameters after strip"]
    print_table(f"{arguments.epochs} epochs, seeds {arguments.seeds}", header, rows)


METHODS = ["path", *(f"ticket-{epoch}" for epoch in TICKETS), "dense"]

if __name__ == "__main__":
    parser = command_line(__doc__.splitlines()[0], METHODS, epochs=12)
    parser.add_argument("--search", action="store_true", help="the path at other settings, on held-out images")
    experiment = Experiment.start(__file__, parser)
    (search if experiment.arguments.search else compare)(experiment)
