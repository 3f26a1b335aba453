"""Files that were damaged on the way, or are something else: one sentence, whatever the accident."""

import json

import keras
import numpy as np
import processes
import pytest
from damage import KINDS
from keras import layers as L
from zoo import dictionaries, randomize

import keras_rmda as kr

FILES = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with good files of all kinds."""
    folder = tmp_path_factory.mktemp("good")
    x = inputs = keras.Input((8, 8, 3))
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(6, 3, strides=2, name="conv")(x)))
    model = randomize(keras.Model(inputs, L.Dense(3)(L.Flatten()(x))))
    images = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype("float32")
    model.save(folder / "images.keras")
    dictionaries()[0].save(folder / "dictionaries.keras")
    kr.export_tflite(model, folder / "float32.tflite")
    kr.export_tflite(model, folder / "int8.tflite", "int8", images)
    return folder


@pytest.mark.parametrize("first", range(0, FILES, FILES // 2))
def test_damaged_files_get_one_sentence(folder, first):
    """No crash, no traceback, no hang; a file in which the damage cannot be seen is read."""
    code = "import sys, damage; damage.main(*sys.argv[1:])"
    done = processes.run("-c", code, folder, str(first), str(FILES // 2))
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(lines) % 2 == 0, f"ended at {lines[-1]} with status {done.returncode}"
    assert len(lines) == 2 * 3 * (FILES // 2)
    for (name, command), (status, errors) in zip(lines[::2], lines[1::2]):
        assert status in (0, 2), f"{command} {name}: {status}"
        if status == 2:
            assert errors.startswith("keras-rmda: error: "), f"{command} {name}: {errors}"
            assert errors.count("\n") == 1, f"{command} {name}: {errors}"
    assert all(any(f"-{kind}-" in name for name, _ in lines[::2]) for kind in KINDS)
