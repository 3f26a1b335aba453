"""The denoising autoencoder that finds its own bottleneck, on Fashion-MNIST, and the dense one beside it.

    TFDS_DATA_DIR=... python benchmarks/autoencoder.py

Network and settings are those of `examples/bottleneck.py`, which are the authors' (their notebook Skip-Encoder, test
case 0, without skips): 7 x 784, ReLU behind every layer, noise of deviation .05 that is drawn once, 1 % of the units
alive, their weights 5 times He's, AdaBreg at 1e-3 with the group lasso at .07, the rate halved where the training error
has not fallen by 1 % for five epochs, 100 epochs of batches of 128. Their images are those of MNIST, which is not here,
and 95 % of its training images; ours are all 60,000. `Adam` trains the dense network, from He's weights. Errors are the
mean squares of 10,000 test images with noise against those without.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from experiment import Data, Experiment, Plateau, command_line, mean_sd, print_table

import keras_rmda as kr

sys.path.append(str(Path(__file__).resolve().parent.parent / "examples"))
import bottleneck as example

METHODS = ("AdaBreg", "Adam")


def with_noise(data: Data) -> Data:
    """Return flat images with noise, and in the place of the classes the images without."""
    x, x_test = (each.reshape(len(each), -1) for each in (data.x, data.x_test))
    return Data(example.noisy(x), x, example.noisy(x_test, 1), x_test)


def compiled(data: Data, method: str, strength: float) -> keras.Model:
    """Return the untrained network."""
    mean, deviation = float(data.y.mean()), float(data.y.std())
    if method == "AdaBreg":
        return example.compiled(data.x.shape[1], mean, deviation, strength)
    model = example.network(data.x.shape[1], mean, deviation, alive=None)
    model.compile(keras.optimizers.Adam(example.RATE), "mse", jit_compile=False)
    return model


class Widths(keras.callbacks.Callback):
    """Put the widths of all layers into the logs."""

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Count."""
        logs["widths"] = example.widths(self.model)


def error(model: keras.Model, data: Data) -> float:
    """Return the mean square of the test images."""
    return float(np.mean((model.predict(data.x_test, 1000, verbose=0) - data.y_test) ** 2))


def train(experiment: Experiment, method: str, seed: int, strength: float) -> dict[str, Any]:
    """Return one run."""
    data = experiment.data
    settings = {"epochs": experiment.arguments.epochs, "batch_size": 128, "images": len(data.x)}
    settings |= {"strength": strength} if method == "AdaBreg" else {}

    def finish(model: keras.Model) -> dict[str, Any]:
        small = kr.strip(model)
        return {
            "test_error": error(model, data),
            "stripped_error": error(small, data),
            "parameters": model.count_params(),
            "parameters_after": small.count_params(),
            "widths": example.widths(model),
        }

    callbacks = [Widths(), Plateau("loss", factor=0.5, patience=5, threshold=0.01)]
    return experiment.train(method, seed, settings, lambda: compiled(data, method, strength), finish, callbacks)


if __name__ == "__main__":
    parser = command_line(__doc__.splitlines()[0], METHODS, epochs=100)
    parser.add_argument("--strength", type=float, default=example.STRENGTH)
    experiment = Experiment.start(__file__, parser)
    experiment = replace(experiment, data=with_noise(experiment.data))
    rows = []
    for method in experiment.selected(METHODS):
        runs = [train(experiment, method, seed, experiment.arguments.strength) for seed in experiment.arguments.seeds]
        final = {key: [run["final"][key] for run in runs] for key in runs[0]["final"]}
        widths = ", ".join("-".join(map(str, each)) for each in final["widths"])
        seconds = f"{sum(run['seconds'] for run in runs) / len(runs):.0f}"
        parameters = f"{final['parameters'][0]:,} to {mean_sd(final['parameters_after'], 0)}"
        errors = [mean_sd([1e3 * each for each in final[key]], 3) for key in ("test_error", "stripped_error")]
        rows.append([method, *errors, parameters, widths, seconds])
    header = ["method", "error x 1000", "stripped", "parameters", "units of each layer", "seconds"]
    print_table(f"{experiment.arguments.epochs} epochs, seeds {experiment.arguments.seeds}", header, rows)
