"""The examples of the RAMDA repository on Fashion-MNIST: a ConvNet by group lasso, a linear model of low rank.

    TFDS_DATA_DIR=... python benchmarks/ramda.py [--task convnet | low_rank] [--epochs 500]

Networks and settings are the authors': 20 and 50 filters 5 x 5 without padding, each with ReLU and 2 x 2 max pooling,
Dense(500, relu), Dense(10); or Dense(10) alone. Pixels are (x - .1307) / .3081; batches of 128; 500 epochs with
stages that begin at 100, 200, 300 and 400 by the repository's schedule (`StagewiseSchedule(style="ramda")`). The
penalty is the group lasso over inputs of strength 1e-3 on every kernel, or the nuclear norm of strength .1. Their
weights begin by PyTorch's defaults, ours by the same formula. `weighted` is their weighted structured sparsity, over
all kernels; theirs counts the dense layers only. Their low-rank example has MNIST.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from experiment import Experiment, accuracy, command_line, milestones, percent, print_table

import keras_rmda as kr

METHODS = {
    "RAMDA": lambda psi: kr.RAMDA(1e-2, 1e-2, psi),
    "RMDA": lambda psi: kr.RMDA(1e-1, 1e-1, psi),
    "ProxSGD": lambda psi: kr.ProxSGD(1e-1, 1e-1, psi),
    "ProxAdamW": lambda psi: kr.ProxAdamW(1e-3, regularizer=psi),
}


def uniform(fan_in: int) -> dict[str, Any]:
    """Return PyTorch's initializers of a layer."""
    bound = fan_in**-0.5
    return {f"{name}_initializer": keras.initializers.RandomUniform(-bound, bound) for name in ("kernel", "bias")}


def compiled(task: str, method: str) -> keras.Model:
    """Return an untrained network."""
    layers = keras.layers
    if task == "low_rank":
        inside, psi = [layers.Flatten(), layers.Dense(10, **uniform(784))], kr.NuclearNorm(0.1)
    else:
        psi = kr.GroupLasso(1e-3)
        inside = [
            layers.Conv2D(20, 5, activation="relu", **uniform(25)),
            layers.MaxPooling2D(),
            layers.Conv2D(50, 5, activation="relu", **uniform(500)),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(500, "relu", **uniform(800)),
            layers.Dense(10, **uniform(500)),
        ]
    model = keras.Sequential([keras.Input((28, 28, 1)), layers.Rescaling(1 / 0.3081, -0.1307 / 0.3081), *inside])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(METHODS[method](psi), loss, metrics=["accuracy"], jit_compile=False)
    return model


def train(experiment: Experiment, method: str, seed: int) -> dict[str, Any]:
    """Return one run."""
    data, arguments = experiment.data, experiment.arguments
    settings = {"task": arguments.task, "epochs": arguments.epochs, "batch_size": 128, "images": len(data.x)}
    stages = kr.callbacks.StagewiseSchedule(milestones(arguments.epochs, 0.2, 0.4, 0.6, 0.8), style="ramda")

    def finish(model: keras.Model) -> dict[str, Any]:
        kernels = [keras.ops.convert_to_numpy(layer.kernel) for layer in model.layers if hasattr(layer, "kernel")]
        groups = [np.any(w, axis=(*range(w.ndim - 2), w.ndim - 1)) for w in kernels]
        sizes = [w.size / len(group) for w, group in zip(kernels, groups)]
        left = sum(size * group.sum() for size, group in zip(sizes, groups))
        return {
            "test_accuracy": accuracy(model, data.x_test, data.y_test),
            "unstructured": 1 - sum(np.count_nonzero(w) for w in kernels) / sum(w.size for w in kernels),
            "structured": 1 - sum(group.sum() for group in groups) / sum(group.size for group in groups),
            "weighted": 1 - left / sum(w.size for w in kernels),
            "rank": [int(np.linalg.matrix_rank(w.reshape(-1, w.shape[-1]))) for w in kernels],
            "parameters_after": kr.strip(model).count_params(),
        }

    return experiment.train(method, seed, settings, lambda: compiled(arguments.task, method), finish, [stages])


if __name__ == "__main__":
    parser = command_line(__doc__.splitlines()[0], list(METHODS), epochs=500)
    parser.add_argument("--task", choices=["convnet", "low_rank"], default="convnet")
    experiment, rows = Experiment.start(__file__, parser), []
    for method in experiment.selected(METHODS):
        runs = [train(experiment, method, seed) for seed in experiment.arguments.seeds]
        final = {key: [run["final"][key] for run in runs] for key in runs[0]["final"]}
        shares = [percent(final[key]) for key in ("test_accuracy", "unstructured", "structured", "weighted")]
        seconds = f"{sum(run['seconds'] for run in runs) / len(runs):.0f}"
        rows.append([method, *shares, final["rank"], final["parameters_after"], seconds])
    header = ["method", "test accuracy %", "zero weights %", "zero groups %", "weighted %", "ranks", "parameters after"]
    title = f"{experiment.arguments.task}, {experiment.arguments.epochs} epochs, seeds {experiment.arguments.seeds}"
    print_table(title, [*header, "seconds"], rows)
