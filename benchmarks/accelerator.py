"""ResNet-18 on CIFAR-10 on whatever Keras finds: accuracy, zero groups, steps per second, and the cost of the update.

    TFDS_DATA_DIR=... python benchmarks/accelerator.py --prepare cifar10.npz      # once, with TensorFlow
    KERAS_BACKEND=jax python benchmarks/accelerator.py --data cifar10.npz [--only RMDA Adam] [--epochs 100]
    python benchmarks/accelerator.py --small                                      # a minute on a CPU, random images

A run that is stopped goes on with the same command; a finished one is a JSON file in `--out`. `apply` is the time of
the compiled update alone, its floor the bytes that must move over the measured speed of an addition in place. AdaBreg
begins with a twentieth of its kernels, as its authors do, and lets others in.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from networks import residual
from timing import bandwidth, seconds, update

import keras_rmda as kr

HERE = Path(__file__).resolve().parent
BATCH_SIZE, EPOCHS, WIDTH = 128, 100, 64
SMALL = {"epochs": 2, "width": 4, "images": 512}

# The arrays of the weights' size that an update reads or writes: weight and slots both ways, the gradient once.
OPTIMIZERS: dict[str, tuple[Callable[[], keras.optimizers.Optimizer], int]] = {
    "Adam": (lambda: keras.optimizers.Adam(1e-3), 7),
    "RMDA": (lambda: kr.RMDA(0.1, 0.1, kr.GroupLasso(1e-4)), 6),
    "RAMDA": (lambda: kr.RAMDA(1e-2, 0.1, kr.GroupLasso(1e-5)), 8),
    "AdaBreg": (lambda: kr.AdaBreg(1e-3, regularizer=kr.GroupLasso(0.1, groups="kernel")), 8),
}


class Images(keras.utils.PyDataset):
    """Batches of shifted and mirrored images, in an order that depends on the number of the epoch alone."""

    def __init__(self, x: np.ndarray, y: np.ndarray, seed: int):
        super().__init__()
        self.x, self.y, self.seed = x, y, seed
        self.begin(0)

    def begin(self, epoch: int) -> None:
        self.random = np.random.default_rng([self.seed, epoch])
        count = len(self.x) // BATCH_SIZE * BATCH_SIZE
        self.order = self.random.permutation(len(self.x))[:count].reshape(-1, BATCH_SIZE)
        self.shifts = self.random.integers(0, 9, (*self.order.shape, 2))
        self.mirrored = self.random.random(self.order.shape) < 0.5

    def __len__(self) -> int:
        return len(self.x) // BATCH_SIZE

    def __getitem__(self, batch: int) -> tuple[np.ndarray, np.ndarray]:
        rows = self.order[batch]
        padded = np.pad(self.x[rows], [(0, 0), (4, 4), (4, 4), (0, 0)])
        images = np.empty_like(self.x[rows])
        for k, ((top, left), mirror) in enumerate(zip(self.shifts[batch], self.mirrored[batch])):
            image = padded[k, top : top + 32, left : left + 32]
            images[k] = image[:, ::-1] if mirror else image
        return images, self.y[rows]


def resnet_18(width: int) -> keras.Model:
    """Return ResNet-18, whose first stage has so many channels."""
    return residual((width, 2 * width, 4 * width, 8 * width), 2)


def run(name: str, data: list[np.ndarray], options: argparse.Namespace, path: Path) -> dict[str, Any]:
    """Train one network, and return its figures."""
    x, y, x_test, y_test = data
    keras.utils.set_random_seed(options.seed)
    make, moved = OPTIMIZERS[name]
    model, images, epochs = resnet_18(options.width), Images(x, y, options.seed), []
    if name == "AdaBreg":
        kr.sparsify(model, 0.05, by="group", groups="kernel", seed=options.seed)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(make(), cross_entropy, metrics=["accuracy"])
    monitor = kr.callbacks.SparsityMonitor()
    callbacks = [
        keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: (images.begin(epoch), epochs.append(time.perf_counter())),
            on_epoch_end=lambda epoch, logs: epochs.append(time.perf_counter() - epochs.pop()),
        ),
        monitor,
        kr.callbacks.BackupAndRestore(path.with_suffix(".backup")),
    ]
    if isinstance(model.optimizer, kr.RMDA | kr.RAMDA) and options.epochs >= 4:
        callbacks.insert(0, kr.callbacks.StagewiseSchedule([options.epochs // 2, options.epochs * 3 // 4]))
    model.fit(images, epochs=options.epochs, shuffle=False, verbose=0, callbacks=callbacks)
    figures: dict[str, float] = {}
    monitor.on_epoch_end(options.epochs, figures)
    small = kr.strip(model)
    small.compile(loss=cross_entropy, metrics=["accuracy"])
    size = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    speed = bandwidth(max(size, options.numbers))
    step = update(make(), resnet_18(options.width).trainable_variables, jit_compile=True)
    step()
    return figures | {
        "accuracy": model.evaluate(x_test, y_test, BATCH_SIZE, verbose=0, return_dict=True)["accuracy"],
        "stripped_accuracy": small.evaluate(x_test, y_test, BATCH_SIZE, verbose=0, return_dict=True)["accuracy"],
        "parameters": model.count_params(),
        "stripped_parameters": small.count_params(),
        "steps_per_second": len(images) / float(np.median(epochs[1:] or epochs)),
        "apply_ms": 1e3 * min(seconds(step) for _ in range(20)),
        "floor_ms": 1e3 * moved * 4 * size / speed,
        "bandwidth_gb_per_s": speed / 1e9,
    }


def loaded(options: argparse.Namespace) -> list[np.ndarray]:
    """Return training and test images, with values of mean 0 and deviation 1, and their classes."""
    if options.small:
        random = np.random.default_rng(0)
        images = [random.normal(size=(n, 32, 32, 3)).astype("float32") for n in (options.images, options.images)]
        return [images[0], np.arange(options.images) % 10, images[1], np.arange(options.images) % 10]
    if options.data is None or not options.data.is_file():
        sys.exit(f"--data must be a file that --prepare has written. Received: {options.data}")
    with np.load(options.data) as file:
        x, y, x_test, y_test = (file[name] for name in ("x", "y", "x_test", "y_test"))
    mean, deviation = x.mean((0, 1, 2)), x.std((0, 1, 2))
    return [((x - mean) / deviation).astype("float32"), y, ((x_test - mean) / deviation).astype("float32"), y_test]


def prepare(path: Path) -> None:
    """Write CIFAR-10, as TensorFlow Datasets has prepared it, into a file that needs no TensorFlow."""
    import tensorflow_datasets as tfds

    parts = {}
    for split, suffix in (("train", ""), ("test", "_test")):
        part = tfds.as_numpy(tfds.load("cifar10", split=split, batch_size=-1, download=False))
        parts |= {f"x{suffix}": part["image"], f"y{suffix}": part["label"]}
    np.savez(path, **parts)


def table(rows: dict[str, dict[str, Any]]) -> None:
    """Print the runs."""
    print("| optimizer | accuracy % | stripped % | zero groups % | parameters left % | steps/s | apply ms | of floor |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, row in rows.items():
        shares = [row["accuracy"], row["stripped_accuracy"], row["zero_groups"]]
        shares.append(row["stripped_parameters"] / row["parameters"])
        figures = [*(f"{100 * share:.2f}" for share in shares), f"{row['steps_per_second']:.2f}"]
        print(
            "|", " | ".join([name, *figures, f"{row['apply_ms']:.2f}", f"{row['apply_ms'] / row['floor_ms']:.2f}"]), "|"
        )


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
    parser.add_argument("--numbers", type=int, default=25_000_000, help="of the addition that measures bandwidth")
    parser.add_argument("--small", action="store_true", help=f"{SMALL}, random images")
    options = parser.parse_args()
    if options.prepare:
        sys.exit(prepare(options.prepare))
    if options.small:
        vars(options).update(SMALL)
    options.out = options.out or HERE / ("scratch" if options.small else "results") / "accelerator"
    options.out.mkdir(parents=True, exist_ok=True)
    data, rows = loaded(options), {}
    data = [each[: options.images] for each in data]
    for name in options.only:
        path = options.out / f"{name}-{options.width}-{options.epochs}-seed{options.seed}.json"
        if not path.exists():
            found = run(name, data, options, path)
            path.write_text(json.dumps(found | {"backend": keras.backend.backend()}, indent=1) + "\n")
        rows[name] = json.loads(path.read_text())
        print(f"{name}: {rows[name]}", file=sys.stderr, flush=True)
    table(rows)
