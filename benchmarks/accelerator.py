"""ResNet-18 on CIFAR-10 on whatever Keras finds: accuracy, zero groups, steps per second, and the cost of the update.

    TFDS_DATA_DIR=... python benchmarks/accelerator.py --prepare cifar10.npz      # once, with TensorFlow
    KERAS_BACKEND=jax python benchmarks/accelerator.py --data cifar10.npz [--only RMDA Adam] [--epochs 100]
    python benchmarks/accelerator.py --small                                      # a minute on a CPU, random images

AdaBreg is set as its authors set it in their notebook for ResNet-18: 1 % of the kernels of every convolution at the
start, He's normal times 5; the group lasso 0.1 of single kernels, nothing on the dense layer; learning rate 1e-3,
halved when the loss stands still for more than 5 epochs; 47,500 images with values in [0, 1], shifted by up to 4 pixels
and mirrored, in batches of 128; 100 epochs. For LinBreg on this network they publish no settings. Adam and SGD are the
dense network with the same schedule, RMDA and RAMDA have stages.

The images are on the device, and each epoch of them is shifted and mirrored there at once. A run that is stopped, also
by `--minutes`, goes on with the same command from the last of its copies, of which there is one every `--backup`
epochs; the schedule then counts anew the epochs without progress. A finished one is a JSON file in `--out`, its epochs
a CSV file. `apply` is the time of the compiled update alone, its floor the bytes that must move over the measured speed
of an addition in place.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from cifar10_images import Images, load, prepare, random_images
from keras import ops
from networks import residual
from timing import bandwidth, seconds, update

import keras_rmda as kr

BEGUN = time.perf_counter()
HERE = Path(__file__).resolve().parent
EPOCHS, WIDTH, HELD_OUT = 100, 64, 0.05
SMALL = {"epochs": 2, "width": 4, "images": 512}
KERNELS = {".*conv2d.*/kernel": kr.GroupLasso(0.1, groups="kernel")}

# The arrays of the weights' size that an update reads or writes: weight and slots both ways, the gradient once.
OPTIMIZERS: dict[str, tuple[Callable[[], keras.optimizers.Optimizer], int]] = {
    "AdaBreg": (lambda: kr.AdaBreg(1e-3, regularizer=KERNELS), 8),
    "Adam": (lambda: keras.optimizers.Adam(1e-3), 7),
    "SGD": (lambda: keras.optimizers.SGD(0.1, momentum=0.9), 5),
    "RMDA": (lambda: kr.RMDA(0.1, 0.1, kr.GroupLasso(1e-4)), 6),
    "RAMDA": (lambda: kr.RAMDA(1e-2, 0.1, kr.GroupLasso(1e-5)), 8),
}


class Plateau(keras.callbacks.Callback):
    """Halve the learning rate after more than five epochs whose loss is not 1 % below the best, as in PyTorch."""

    best, waited = float("inf"), 0

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        rate = self.model.optimizer.learning_rate
        logs["learning_rate"] = float(ops.convert_to_numpy(rate))
        if logs["loss"] < 0.99 * self.best:
            self.best, self.waited = logs["loss"], 0
        else:
            self.waited += 1
        if self.waited > 5:
            rate.assign(rate * 0.5)
            self.waited = 0


class Clock(keras.callbacks.Callback):
    """Begin the epochs of the images, put the seconds of each into the logs, and stop after so many minutes."""

    def __init__(self, images: Images, minutes: float):
        super().__init__()
        self.images, self.minutes = images, minutes

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.images.begin(epoch)
        self.begun = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        now = time.perf_counter()
        logs["seconds"] = now - self.begun
        self.model.stop_training = now - BEGUN > 60 * self.minutes


class Backup(kr.callbacks.BackupAndRestore):
    """Keep a copy of every `every`-th epoch, and of the last before the time is over."""

    def __init__(self, folder: Path, every: int):
        super().__init__(folder, delete_checkpoint=False)
        self.every = every

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if self.model.stop_training or not (epoch + 1) % self.every:
            super().on_epoch_end(epoch, logs)


def resnet_18(width: int) -> keras.Model:
    """Return ResNet-18, whose first stage has so many channels."""
    return residual((width, 2 * width, 4 * width, 8 * width), 2, epsilon=1e-5)


def begin_sparse(model: keras.Model, seed: int) -> None:
    """Give a network the weights that the authors of AdaBreg begin with: one in a hundred kernels of convolutions."""
    random = np.random.default_rng(seed)
    for layer in model.layers:
        if not hasattr(layer, "kernel"):
            continue
        *window, fan_in, filters = layer.kernel.shape
        n = fan_in * math.prod(window)
        kernel = random.normal(0, 5 * math.sqrt(2 / n), layer.kernel.shape)
        if window:
            kept = math.ceil(0.01 * fan_in * filters)
            kernel *= random.permutation(fan_in * filters).reshape(fan_in, filters) < kept
        else:
            layer.bias.assign(random.uniform(0, n**-0.5, filters).astype("float32"))
        layer.kernel.assign(kernel.astype("float32"))


def nonzero(model: keras.Model) -> float:
    """Return the share of kernels' weights that are not zero, as the authors of AdaBreg count."""
    kernels = [ops.convert_to_numpy(layer.kernel) for layer in model.layers if hasattr(layer, "kernel")]
    return sum(np.count_nonzero(kernel) for kernel in kernels) / sum(kernel.size for kernel in kernels)


def run(name: str, data: list[np.ndarray], options: argparse.Namespace, path: Path) -> dict[str, Any]:
    """Train one network, and return its figures."""
    x, y, x_test, y_test = data
    keras.utils.set_random_seed(options.seed)
    make, moved = OPTIMIZERS[name]
    held_out = int(HELD_OUT * len(x))
    model, images = resnet_18(options.width), Images(x[held_out:], y[held_out:], options.seed)
    if name == "AdaBreg":
        begin_sparse(model, options.seed)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    at_once = 16 if keras.backend.backend() == "jax" else 1  # Keras makes one program of so many steps of TensorFlow
    model.compile(make(), cross_entropy, metrics=["accuracy"], steps_per_execution=at_once)
    monitor = kr.callbacks.SparsityMonitor(macs=False)
    stages = [options.epochs // 2, options.epochs * 3 // 4]
    staged = isinstance(model.optimizer, kr.RMDA | kr.RAMDA)
    schedule = [Plateau()] if not staged else [kr.callbacks.StagewiseSchedule(stages)] if options.epochs >= 4 else []
    log = keras.callbacks.CSVLogger(path.with_suffix(".csv"), append=True)
    backup = Backup(path.with_suffix(".backup"), options.backup)
    validation = (x[:held_out].astype("float32") / 255, y[:held_out])
    model.fit(
        images,
        epochs=options.epochs,
        shuffle=False,
        verbose=0,
        validation_data=validation,
        validation_freq=min(5, options.epochs),
        validation_batch_size=500,
        callbacks=[Clock(images, options.minutes), *schedule, monitor, log, backup],
    )
    figures: dict[str, float] = {}
    monitor.on_epoch_end(options.epochs, figures)
    small = kr.strip(model)
    small.compile(loss=cross_entropy, metrics=["accuracy"])
    size = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    speed = bandwidth(max(size, options.numbers))
    step = update(make(), resnet_18(options.width).trainable_variables, jit_compile=True)
    step()
    test = (x_test.astype("float32") / 255, y_test, 500)
    accuracy = model.evaluate(*test, verbose=0, return_dict=True)["accuracy"]
    with path.with_suffix(".csv").open() as file:
        epochs = list(csv.DictReader(file))
    times = [float(epoch["seconds"]) for epoch in epochs]
    return figures | {
        "epochs": int(epochs[-1]["epoch"]) + 1,
        "accuracy": accuracy,
        "stripped_accuracy": small.evaluate(*test, verbose=0, return_dict=True)["accuracy"],
        "nonzero_weights": nonzero(model),
        "parameters": model.count_params(),
        "stripped_parameters": small.count_params(),
        "steps_per_second": len(images) / float(np.median(times)),
        "seconds": sum(times),
        "apply_ms": 1e3 * min(seconds(step) for _ in range(20)),
        "floor_ms": 1e3 * moved * 4 * size / speed,
        "bandwidth_gb_per_s": speed / 1e9,
    }


def table(rows: dict[str, dict[str, Any]]) -> None:
    """Print the runs."""
    header = ["optimizer", "epochs", "accuracy %", "stripped %", "nonzero weights %", "zero groups %"]
    header += ["parameters left %", "steps/s", "apply ms", "of floor"]
    print(f"| {' | '.join(header)} |\n| {' | '.join(['---'] * len(header))} |")
    for name, row in rows.items():
        shares = [row[key] for key in ("accuracy", "stripped_accuracy", "nonzero_weights", "zero_groups")]
        shares.append(row["stripped_parameters"] / row["parameters"])
        figures = [row["steps_per_second"], row["apply_ms"], row["apply_ms"] / row["floor_ms"]]
        numbers = [f"{number:.2f}" for number in (*(100 * share for share in shares), *figures)]
        print(f"| {' | '.join([name, str(row['epochs']), *numbers])} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--prepare", type=Path, help="write CIFAR-10 here, and end")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/accelerator; with --small, scratch")
    parser.add_argument("--only", nargs="*", choices=list(OPTIMIZERS), default=list(OPTIMIZERS))
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backup", type=int, default=1, help="epochs from one copy to the next")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after the epoch in which they are over")
    parser.add_argument("--numbers", type=int, default=25_000_000, help="of the addition that measures bandwidth")
    parser.add_argument("--small", action="store_true", help=f"{SMALL}, random images")
    options = parser.parse_args()
    if options.prepare:
        sys.exit(prepare(options.prepare))
    if options.small:
        vars(options).update(SMALL)
    options.out = options.out or HERE / ("scratch" if options.small else "results") / "accelerator"
    options.out.mkdir(parents=True, exist_ok=True)
    data, rows = random_images(options.images) if options.small else load(options.data, options.images), {}
    for name in options.only:
        path = options.out / f"{name}-{options.width}-{options.epochs}-seed{options.seed}.json"
        if not path.exists():
            found = run(name, data, options, path) | {"backend": keras.backend.backend()}
            if found["epochs"] < options.epochs:
                path = path.with_suffix(".stopped.json")
            path.write_text(json.dumps(found, indent=1) + "\n")
            if found["epochs"] == options.epochs:
                shutil.rmtree(path.with_suffix(".backup"))
        rows[name] = json.loads(path.read_text())
        print(f"{name}: {rows[name]}", file=sys.stderr, flush=True)
    table(rows)
