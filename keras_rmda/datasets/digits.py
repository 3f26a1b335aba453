"""scikit-learn's handwritten digits as a tensorflow-datasets builder that needs no network."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits


class SklearnDigits(tfds.core.GeneratorBasedBuilder):
    """1,797 images of 8x8 pixels in 17 grey levels, every fifth one for testing.

    Source: Alpaydin and Kaynak 1998, "Optical recognition of handwritten digits", UCI; as shipped by scikit-learn.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits as shipped by scikit-learn; grey levels scaled from 0-16 to 0-255.",
            features=tfds.features.FeaturesDict(
                {"image": tfds.features.Image(shape=(8, 8, 1)), "label": tfds.features.ClassLabel(num_classes=10)}
            ),
            supervised_keys=("image", "label"),
            disable_shuffling=True,  # the order of examples is part of a reproducible run
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {"train": self._examples(False), "test": self._examples(True)}

    def _generate_examples(self, test: bool) -> Iterator:  # the name that tensorflow-datasets asks for
        return self._examples(test)

    @staticmethod
    def _examples(test: bool) -> Iterator[tuple[int, dict[str, Any]]]:
        digits = load_digits()
        for k, (image, label) in enumerate(zip(digits.images, digits.target)):
            if (k % 5 == 4) == test:
                yield k, {"image": np.round(image * (255 / 16)).astype(np.uint8)[..., None], "label": int(label)}


def load(data_dir: str | None = None, size: int = 32) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Return the digits as arrays.

    Args:
        data_dir: where tensorflow-datasets keeps the prepared data; None for its own default.
        size: pixels along each side, made by bilinear interpolation.

    Returns:
        (images, labels) for training and for testing; images float32 of shape (n, size, size, 1) in [0, 1].

    Example:
        >>> from keras_rmda.datasets import digits
        >>> (x, y), (x_test, y_test) = digits.load(size=16)
        >>> x.shape, x_test.shape
        ((1438, 16, 16, 1), (359, 16, 16, 1))
    """
    import keras

    tfds.disable_progress_bar()
    builder = SklearnDigits(data_dir=data_dir)
    # It announces a download, which does not happen, on standard output.
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare()
    splits = []
    for split in ("train", "test"):
        examples = list(tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False)))
        images = np.stack([e["image"] for e in examples]).astype("float32") / 255
        images = keras.ops.convert_to_numpy(keras.ops.image.resize(images, (size, size)))
        splits.append((images, np.array([e["label"] for e in examples])))
    return tuple(splits)
