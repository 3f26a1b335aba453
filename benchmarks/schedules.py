"""Every optimizer under the learning rates and callbacks that Keras's users have: what is learned stays, and zeros too.

A small convolutional network on the handwritten digits of scikit-learn, 30 epochs. For each pair of an optimizer and a
schedule: the loss of the last epoch over the lowest of all, and the accuracy and zero groups of the model that is kept.

    python benchmarks/schedules.py
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import keras
from experiment import HERE, Data, Experiment, accuracy, command_line, mean_sd, percent, print_table
from keras import callbacks as K
from keras.optimizers import schedules

import keras_rmda as kr
from keras_rmda.datasets import digits

BATCH = 64
OPTIMIZERS: dict[str, tuple[Callable, float, float]] = {
    "RMDA": (lambda rate, psi: kr.RMDA(rate, 0.1, psi), 0.1, 4e-3),
    "RMDA-weak": (lambda rate, psi: kr.RMDA(rate, 0.1, psi), 0.1, 1e-3),
    "RAMDA": (lambda rate, psi: kr.RAMDA(rate, 0.1, psi), 0.01, 1e-3),
    "ProxSGD": (lambda rate, psi: kr.ProxSGD(rate, 0.1, psi), 0.1, 2e-3),
    "ProxAdamW": (lambda rate, psi: kr.ProxAdamW(rate, regularizer=psi), 2e-3, 1e-3),
    "LinBreg": (lambda rate, psi: kr.LinBreg(rate, momentum=0.9, regularizer=psi), 0.1, 0.3),
    "AdaBreg": (lambda rate, psi: kr.AdaBreg(rate, regularizer=psi), 2e-3, 0.2),
    "DessiLBI": (lambda rate, psi: kr.DessiLBI(rate, mu=5.0, regularizer=psi), 0.02, 5e-2),
}
"""How each is made of a learning rate and a penalty, with its learning rate and strength."""

SPARSE_STARTS = ("LinBreg", "AdaBreg")
"""Those that begin with three of ten groups."""


class Rate:
    """A schedule: how it changes the learning rate, which callbacks it brings, and what is kept."""

    def __init__(
        self,
        rate: Callable[[float, int], Any] = lambda rate, steps: rate,
        callbacks: Callable[[Path], list] = lambda folder: [],
        kept: Callable[[keras.Model, Path], keras.Model] = lambda model, folder: model,
        breaks_at: int = 0,
    ):
        self.rate, self.callbacks, self.kept, self.breaks_at = rate, callbacks, kept, breaks_at


RATES = {
    "constant": Rate(),
    "StagewiseSchedule": Rate(callbacks=lambda _: [kr.callbacks.StagewiseSchedule([16, 24])]),
    "ReduceLROnPlateau": Rate(callbacks=lambda _: [K.ReduceLROnPlateau("loss", 0.3, patience=2)]),
    "CosineDecay": Rate(lambda rate, steps: schedules.CosineDecay(rate, steps)),
    "ExponentialDecay": Rate(lambda rate, steps: schedules.ExponentialDecay(rate, max(1, steps // 10), 0.7)),
    "LearningRateScheduler": Rate(callbacks=lambda _: [K.LearningRateScheduler(lambda epoch, rate: 0.9 * rate)]),
    "EarlyStopping": Rate(callbacks=lambda _: [K.EarlyStopping(patience=5, restore_best_weights=True)]),
    "ModelCheckpoint": Rate(
        callbacks=lambda folder: [K.ModelCheckpoint(folder / "best.keras", save_best_only=True)],
        kept=lambda model, folder: keras.models.load_model(folder / "best.keras"),
    ),
    "BackupAndRestore": Rate(callbacks=lambda folder: [K.BackupAndRestore(folder / "backup")], breaks_at=12),
}


class Break(keras.callbacks.Callback):
    """Ends `fit` by an error when an epoch begins."""

    def __init__(self, epoch: int):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """End it."""
        if epoch == self.epoch:
            raise RuntimeError("broken")


def network() -> keras.Model:
    """Return an uncompiled model."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(32, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(64, "relu"),
            layers.Dense(10, "softmax"),
        ]
    )


def run(data: Data, method: str, rate: Rate, seed: int, epochs: int, folder: Path) -> dict[str, Any]:
    """Train once, and return history and final numbers."""
    make, learning_rate, strength = OPTIMIZERS[method]
    steps = -(-len(data.x) // BATCH) * epochs

    def fit(breaks: list) -> tuple[keras.Model, dict]:
        keras.utils.set_random_seed(seed)
        model = network()
        if method in SPARSE_STARTS:
            kr.sparsify(model, 0.3, by="group", seed=seed)
        optimizer = make(rate.rate(learning_rate, steps), kr.GroupLasso(strength))
        model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
        history = model.fit(
            data.x, data.y, BATCH, epochs, verbose=0, shuffle=False, validation_data=(data.x_test, data.y_test),
            callbacks=[*rate.callbacks(folder), kr.callbacks.SparsityMonitor(), *breaks],
        )  # fmt: skip
        return model, history.history

    if rate.breaks_at:
        with contextlib.suppress(RuntimeError):
            fit([Break(min(rate.breaks_at, epochs - 1))])
    model, history = fit([])
    kept = rate.kept(model, folder)
    report = kr.analyze(kept)
    shutil.rmtree(folder / "backup", ignore_errors=True)
    final = {
        "ratio": history["loss"][-1] / min(history["loss"]),
        "accuracy": accuracy(kept, data.x_test, data.y_test),
        "removed": 1.0 - report.parameters_after / report.parameters,
        "epochs": len(history["loss"]),
    }
    return {"history": {"loss": history["loss"]}, "seconds": 0.0, "final": final}


def main(names: Iterable[str]) -> None:
    """Run all that is not done, and print a table for each figure."""
    parser = command_line(__doc__.splitlines()[0], tuple(OPTIMIZERS), 30)
    arguments = parser.parse_args()
    (x, y), (x_test, y_test) = digits.load(size=8)
    data, results, scratch = Data(x, y, x_test, y_test), HERE / "results" / "schedules", HERE / "scratch" / "schedules"
    if arguments.small:
        arguments.epochs, arguments.seeds = 2, arguments.seeds[:1]
        data, results = data.first(128), scratch / "small"
        shutil.rmtree(results, ignore_errors=True)
    experiment = Experiment("schedules", arguments, data, results, scratch)
    found: dict[tuple[str, str], list[dict]] = {}
    for seed in arguments.seeds:
        for optimizer in experiment.selected(OPTIMIZERS):
            for name, rate in RATES.items():
                settings = {"schedule": name, "epochs": arguments.epochs, "batch_size": BATCH}
                make = lambda folder: run(data, optimizer, rate, seed, arguments.epochs, folder)  # noqa: B023, E731
                found.setdefault((optimizer, name), []).append(
                    experiment.once(optimizer, seed, settings, make)["final"]
                )
    titles = {"ratio": "Last loss over lowest", "accuracy": "Accuracy of what is kept, %", "removed": "Removed, %"}
    for key, title in titles.items():
        show = (lambda values: mean_sd(values, 2)) if key == "ratio" else (lambda values: percent(values, 1))
        rows = [
            [name, *(show([each[key] for each in found[optimizer, name]]) for optimizer in names)] for name in RATES
        ]
        print_table(title, ["", *names], rows)


if __name__ == "__main__":
    main(tuple(OPTIMIZERS))
