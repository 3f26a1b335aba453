"""CIFAR-10 without TensorFlow: a file with its pixels, and batches that are shifted and mirrored on the device."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

PARTS = ("x", "y", "x_test", "y_test")


def prepare(path: Path) -> None:
    """Write CIFAR-10, as TensorFlow Datasets has prepared it, into a file that needs no TensorFlow."""
    import tensorflow_datasets as tfds

    parts = {}
    for split, suffix in (("train", ""), ("test", "_test")):
        part = tfds.as_numpy(tfds.load("cifar10", split=split, batch_size=-1, download=False))
        parts |= {f"x{suffix}": part["image"], f"y{suffix}": part["label"]}
    np.savez(path, **parts)


def load(path: Path | None, images: int | None) -> list[np.ndarray]:
    """Return training and test images, with values from 0 to 255, and their classes: the first so many of each, or all.

    Raises:
        SystemExit: with one sentence and status 1, if `path` is no file that `prepare` has written.
    """
    if path is None or not path.is_file():
        sys.exit(f"--data must be a file that --prepare has written. Received: {path}")
    with np.load(path) as file:
        return [file[name][:images] for name in PARTS]


def random_images(images: int) -> list[np.ndarray]:
    """Return what `load` does, without a file: random pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, images, 32, 32, 3), "uint8")
    return [pixels[0], np.arange(images) % 10, pixels[1], np.arange(images) % 10]


class Images(keras.utils.PyDataset):
    """Batches of shifted and mirrored images, in an order that depends on the number of the epoch alone."""

    def __init__(self, x: np.ndarray, y: np.ndarray, seed: int, batch_size: int = 128):
        super().__init__()
        self.pixels = ops.convert_to_tensor(np.pad(x, [(0, 0), (4, 4), (4, 4), (0, 0)]).reshape(-1, 3))
        self.y, self.seed, self.batch_size, self.epoch = y, seed, batch_size, -1
        self.begin(0)

    def begin(self, epoch: int) -> None:
        """Shift and mirror the images of an epoch."""
        if epoch == self.epoch:
            return
        self.epoch, random = epoch, np.random.default_rng([self.seed, epoch])
        order = random.permutation(len(self.y))[: len(self) * self.batch_size].reshape(-1, 1)
        top, left = random.integers(0, 9, (2, *order.shape))
        along = np.arange(32)
        rows = order * 40 + top + along
        columns = left + np.where(random.random(order.shape) < 0.5, along[::-1], along)
        rows, columns = (ops.convert_to_tensor(each.astype("int32")) for each in (rows, columns))
        images = ops.take(self.pixels, rows[:, :, None] * 40 + columns[:, None, :], axis=0)
        self.images = ops.reshape(ops.cast(images, "float32") / 255, (-1, self.batch_size, 32, 32, 3))
        self.classes = self.y[order].reshape(-1, self.batch_size)

    def on_epoch_end(self) -> None:
        """Begin the next epoch."""
        self.begin(self.epoch + 1)

    def __len__(self) -> int:
        return len(self.y) // self.batch_size

    def __getitem__(self, batch: int) -> tuple[Any, np.ndarray]:
        return ops.take(self.images, batch, axis=0), self.classes[batch]  # [batch] is a program of JAX for every batch
