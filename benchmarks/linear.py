"""A linear classifier of Fashion-MNIST with group lasso over pixels: four optimizers, equal budgets.

    TFDS_DATA_DIR=... python benchmarks/linear.py [--search]

The model is one Dense(10, softmax) on the 784 standardized pixels; a group is a pixel. The problem is convex, so its
minimizer is computed too, on the full data and to high accuracy: the structure that all methods look for.

All methods take the same number of epochs, batches and the same two milestones, at which the learning rate is divided
by 10 (and RMDA and RAMDA begin a new stage). `--search` runs every method at six learning rates on seed 0 and shows
the objective on the training data, by which `LEARNING_RATES` was chosen: no test image has a part in the choice.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from experiment import (
    Data,
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

STRENGTHS = (0.001, 0.005)
BATCH_SIZE = 128
MOMENTUM = 0.1
MEAN, DEVIATION = 0.286, 0.353
"""Of all pixels of the training data."""
SHARES = 0.5, 5 / 6
"""Of the epochs, before the milestones."""
TOLERANCE = 1e-5
"""Of the largest move of a weight in the last step towards the minimizer."""
STEPS_PER_SAMPLE = 67
"""Steps between two looks at the support: seven in an epoch of 469 steps."""

SEARCHED = {
    "ProxSGD": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
    "ProxAdamW": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    "RMDA": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
    "RAMDA": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
}
LEARNING_RATES = {
    "ProxSGD": {0.001: 0.3, 0.005: 0.1},
    "ProxAdamW": {0.001: 3e-3, 0.005: 3e-3},
    "RMDA": {0.001: 1.0, 0.005: 0.3},
    "RAMDA": {0.001: 3e-3, 0.005: 1e-3},
}


def standardized(experiment: Experiment) -> Experiment:
    """Return the experiment on standardized pixels."""
    return replace(experiment, data=experiment.data.standardized(MEAN, DEVIATION))


class Supports(keras.callbacks.Callback):
    """Follow which groups of the structured iterate are zero.

    Logs, per epoch: `support`, a digest of the support at the end; `changed_groups` since the end of the epoch before;
    `samples`, the number of zero groups every `STEPS_PER_SAMPLE` steps; `flips`, the changes between these samples;
    `wrong_groups`, those that are zero here and not in the minimizer, or the reverse.
    """

    def __init__(self, solution: np.ndarray):
        super().__init__()
        self.solution = solution

    def support(self) -> np.ndarray:
        """Return which groups are not zero."""
        kernel = self.model.layers[-1].kernel
        return np.any(keras.ops.convert_to_numpy(self.model.optimizer.structured_value(kernel)) != 0, axis=1)

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Begin with the support of a run that is continued, or with all groups."""
        self.last = self.last_epoch = self.support() if self.model.optimizer.built else np.ones(784, bool)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Begin to count."""
        self.samples, self.flips = [], 0

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Take a sample."""
        support = self.support()
        self.samples.append(int((~support).sum()))
        self.flips += int((support != self.last).sum())
        self.last = support

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Put the numbers into the logs."""
        logs["support"] = hashlib.sha1(np.packbits(self.last).tobytes()).hexdigest()[:8]
        logs["changed_groups"] = int((self.last != self.last_epoch).sum())
        logs["samples"], logs["flips"] = self.samples, self.flips
        logs["wrong_groups"] = int((self.last != self.solution).sum())
        self.last_epoch = self.last


def compiled(method: str, learning_rate: float, strength: float, at: list[int], data: Data) -> keras.Model:
    """Return the linear model with its optimizer."""
    psi = kr.GroupLasso(strength)
    schedule = decayed(learning_rate, at, steps_per_epoch(data, BATCH_SIZE))
    optimizer = {
        "ProxSGD": lambda: kr.ProxSGD(schedule, MOMENTUM, psi),
        "ProxAdamW": lambda: kr.ProxAdamW(schedule, regularizer=psi),
        "RMDA": lambda: kr.RMDA(learning_rate, MOMENTUM, psi),
        "RAMDA": lambda: kr.RAMDA(learning_rate, MOMENTUM, psi),
    }[method]()
    layers = [keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(10, "softmax")]
    model = keras.Sequential(layers)
    per_execution = min(STEPS_PER_SAMPLE, steps_per_epoch(data, BATCH_SIZE))
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], steps_per_execution=per_execution)
    return model


def train(experiment: Experiment, method: str, learning_rate: float, strength: float, seed: int) -> dict[str, Any]:
    """Return one run."""
    data, epochs = experiment.data, experiment.arguments.epochs
    at = milestones(epochs, *SHARES)
    settings = {"strength": strength, "learning_rate": learning_rate, "momentum": MOMENTUM, "milestones": at}
    settings |= {"epochs": epochs, "batch_size": BATCH_SIZE}
    zeros = minimizer(experiment, strength)["final"]["support"]
    callbacks = [Supports(np.array([c == "1" for c in zeros])), kr.callbacks.SparsityMonitor(macs=False)]
    if method in ("RMDA", "RAMDA"):
        callbacks.append(kr.callbacks.StagewiseSchedule(at))

    def finish(model: keras.Model) -> dict[str, Any]:
        kernel, bias = model.layers[-1].get_weights()
        support = np.any(kernel != 0, axis=1)
        return {
            "test_accuracy": accuracy(model, data.x_test, data.y_test),
            "zero_groups": float(np.mean(~support)),
            "objective": objective(kernel, bias, strength, data),
            "wrong_groups": int((support != callbacks[0].solution).sum()),
        }

    def make() -> keras.Model:
        return compiled(method, learning_rate, strength, at, data)

    return experiment.train(method, seed, settings, make, finish, callbacks)


def minimizer(experiment: Experiment, strength: float, steps: int = 300) -> dict[str, Any]:
    """Return the minimizer of the whole objective, by accelerated majorization with a bound of the Hessian.

    The Hessian of the mean cross entropy is at most x^T x / (2 n), for all classes alike (Boehning 1992). With it the
    number of passes over the images does not depend on how correlated pixels are; `fista` minimizes each majorant.
    """
    data = experiment.data
    steps = 10 if experiment.arguments.small else steps

    def run(folder: Path) -> dict[str, Any]:
        start = time.perf_counter()
        x = np.hstack([data.x.reshape(len(data.x), -1), np.ones((len(data.x), 1), "float32")])
        target = np.eye(10, dtype="float32")[data.y]
        bound = (x.T @ x / (2 * len(x))).astype("float64")
        step = 1.0 / np.linalg.eigvalsh(bound)[-1]
        w = v = np.zeros((x.shape[1], 10))
        k = 0
        for _ in range(steps):
            gradient = (x.T @ (softmax(x @ v.astype("float32")) - target) / len(x)).astype("float64")
            w_next = fista(bound, gradient, v, step, strength)
            moved = w_next - w
            k = 0 if np.sum((v - w_next) * moved) > 0 else k + 1
            w, v = w_next, w_next + k / (k + 3) * moved
            if np.abs(moved).max() < TOLERANCE:
                break
        support = np.any(w[:-1] != 0, axis=1)
        right = np.argmax(data.x_test.reshape(len(data.x_test), -1) @ w[:-1] + w[-1], 1) == data.y_test
        final = {
            "test_accuracy": float(right.mean()),
            "zero_groups": float(np.mean(~support)),
            "objective": objective(w[:-1], w[-1], strength, data),
            "last_move": float(np.abs(moved).max()),
            "support": "".join("01"[int(bit)] for bit in support),
        }
        return {"final": final, "seconds": time.perf_counter() - start}

    return experiment.once("minimizer", 0, {"strength": strength, "steps": steps}, run)


def fista(h: np.ndarray, g: np.ndarray, w: np.ndarray, step: float, strength: float, steps: int = 200) -> np.ndarray:
    """Return argmin_u psi(u without its last row) + <g, u - w> + <u - w, h (u - w)> / 2, nearly."""
    threshold, k, u, v = step * strength * np.sqrt(w.shape[1]), 0, w, w
    for _ in range(steps):
        u_next = v - step * (g + h @ (v - w))
        norms = np.linalg.norm(u_next[:-1], axis=1, keepdims=True)
        u_next[:-1] *= np.maximum(1.0 - threshold / np.maximum(norms, threshold), 0.0)
        k = 0 if np.sum((v - u_next) * (u_next - u)) > 0 else k + 1
        u, v = u_next, u_next + k / (k + 3) * (u_next - u)
    return u


def objective(kernel: np.ndarray, bias: np.ndarray, strength: float, data: Data) -> float:
    """Return the mean cross entropy of the training data plus the penalty."""
    p = softmax(data.x.reshape(len(data.x), -1) @ kernel + bias)
    loss = -np.mean(np.log(np.maximum(p[np.arange(len(p)), data.y], 1e-12)), dtype="float64")
    return float(loss + kr.GroupLasso(strength)(kernel))


def softmax(z: np.ndarray) -> np.ndarray:
    """Return the softmax of every row."""
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def search(experiment: Experiment) -> None:
    """Run every method at every learning rate on seed 0 and print the table."""
    for strength in STRENGTHS:
        rows = []
        for method in experiment.selected(SEARCHED):
            runs = {rate: train(experiment, method, rate, strength, 0)["final"] for rate in SEARCHED[method]}
            best = min(runs, key=lambda rate: runs[rate]["objective"])
            for rate, final in runs.items():
                shown = f"{rate:g}" + (" (chosen)" if rate == best else "")
                shares = (percent([final[key]]) for key in ("test_accuracy", "zero_groups"))
                rows.append([method, shown, *shares, f"{final['objective']:.5f}"])
        header = ["method", "learning rate", "test accuracy %", "zero groups %", "objective"]
        print_table(f"Search, strength {strength:g}, seed 0", header, rows)


def compare(experiment: Experiment) -> None:
    """Run every method at its learning rate on all seeds and print the table."""
    header = ["method", "learning rate", "test accuracy %", "zero groups %", "objective", "groups unlike minimizer"]
    for strength in experiment.arguments.strengths:
        solved = minimizer(experiment, strength)["final"]
        figures = percent([solved["test_accuracy"]]), percent([solved["zero_groups"]]), f"{solved['objective']:.5f}"
        rows = [["minimizer", "", *figures, "0"]]
        for method in experiment.selected(LEARNING_RATES):
            rate = LEARNING_RATES[method][min(STRENGTHS, key=lambda searched: abs(searched - strength))]
            runs = [train(experiment, method, rate, strength, seed) for seed in experiment.arguments.seeds]
            column = lambda key, runs=runs: [run["final"][key] for run in runs]  # noqa: E731
            figures = percent(column("test_accuracy")), percent(column("zero_groups")), mean_sd(column("objective"), 5)
            rows.append([method, f"{rate:g}", *figures, mean_sd(column("wrong_groups"), 1)])
        print_table(f"Strength {strength:g}", header, rows)


if __name__ == "__main__":
    parser = command_line(__doc__.splitlines()[0], list(LEARNING_RATES), epochs=25)
    parser.add_argument("--search", action="store_true", help="six learning rates of every method on seed 0")
    parser.add_argument("--strengths", type=float, nargs="+", default=STRENGTHS, help="of the penalty")
    experiment = standardized(Experiment.start(__file__, parser))
    (search if experiment.arguments.search else compare)(experiment)
