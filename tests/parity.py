"""Every kind of model in every format of a file: what is exported, how far it is from the model, where it runs.

Not collected by `make test`. As a program it writes the table of docs/parity.md:

    python tests/parity.py docs/parity.md [part of a name ...]

With names it makes these rows anew, and leaves the others of the file as they are: the large networks take minutes.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers as L
from parity_models import APPLICATIONS, MODELS, OF_KERAS_HUB

import keras_rmda as kr
from keras_rmda._compat import layers_of

SAMPLES, STEPS = 24, 40
COLORS = [[1, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, 1]]

FORMATS = {
    "float32": {},
    "float16": {"quantization": "float16"},
    "dynamic": {"quantization": "dynamic"},
    "int8": {"quantization": "int8"},
    "int16x8": {"quantization": "int16x8"},
    "aware int8": {"quantization": "int8"},
    "micro": {"micro": True},
    "micro int8": {"quantization": "int8", "micro": True},
}


def inputs_of(model, count=SAMPLES, size=32):
    """Return random inputs by name. Large images have colors, in turns."""
    random = np.random.default_rng(0)
    given = {}
    for tensor in getattr(model, "inputs", None) or [keras.Input((16, 16, 3), name="image")]:
        shape = (count, *(size if n is None else n for n in tensor.shape[1:]))
        is_float = "float" in keras.backend.standardize_dtype(tensor.dtype)
        array = random.normal(size=shape) if is_float else random.integers(4, size=shape)
        if len(shape) == 4 and shape[1] >= 32:
            array = array / 4 + np.resize(COLORS, (count, 1, 1, shape[-1]))
        given[tensor.name] = array.astype("float32" if is_float else keras.backend.standardize_dtype(tensor.dtype))
    return given


def randomized(model):
    random = np.random.default_rng(0)
    for weight in model.weights:
        if "float" not in keras.backend.standardize_dtype(weight.dtype):
            continue
        scale = 0.1 if len(weight.shape) < 2 else (2 / np.prod(weight.shape[:-1])) ** 0.5
        value = random.normal(scale=scale, size=weight.shape)
        weight.assign(1 + np.abs(value) if "variance" in weight.path or "gamma" in weight.path else value)
    return model


def fitted(model):
    """Let a network learn the colors of images: of a deep one with random weights, rounding changes all it says."""
    (images,), classes = inputs_of(model).values(), model.output.shape[-1]
    labels = np.minimum(np.arange(SAMPLES) % len(COLORS), classes - 1)
    labels = labels.reshape(-1, *[1] * (len(model.output.shape) - 2))
    labels = labels + np.zeros(model.output.shape[1:-1], "int32")
    for layer in layers_of(model):
        if isinstance(layer, L.BatchNormalization):
            layer.momentum = 0.5  # few steps are made
    is_softmax = getattr(model.layers[-1], "activation", None) is keras.activations.softmax
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=not is_softmax))
    model.fit(images, labels, SAMPLES, epochs=STEPS, verbose=0)
    return model


def cell(model, name, folder):
    """Return what became of a model in a format, in a few words."""
    arguments = dict(FORMATS[name])
    data = inputs_of(model)
    data = next(iter(data.values())) if len(data) == 1 else data
    if arguments:
        arguments["representative_data"] = data
    try:
        if name == "aware int8":
            model = kr.quantization_aware(model, data)
        file = kr.export_tflite(model, Path(folder) / "m.tflite", **arguments)
    except Exception as error:  # what is refused is told
        return f"no: {' '.join(str(error).split())[:160]}".replace("|", "/")
    micro = "" if file.micro_difference is None else f", TFLM {file.micro_difference:.1g}"
    if file.not_micro and name.startswith("micro"):
        micro = f", not micro: {file.not_micro}"
    batch = "" if file.batch is None else f", batch {file.batch}"
    return f"{max([file.max_difference, *file.differences.values()]):.1g}{micro}, {file.bytes:,} bytes{batch}"


HEAD = """# Every kind of model in every format

Made by `python tests/parity.py docs/parity.md`: small models at random weights, 24 random samples; then networks of
keras.applications for images of 64 x 64 (Xception: 71 x 71), and small ones of keras-hub, which have learned four
colors in 40 steps. In each cell: the largest difference of an output channel relative to its own range (of numbers for
classes: relative to the largest), then the largest difference of what TensorFlow Lite for Microcontrollers computes
where it is asked, then bytes, and the batch where it is fixed; or why there is no file. Every file was run by LiteRT,
and compared.

"""


def rows_of(path):
    """Return the rows of a table that is there, by the kind of model."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [[each.strip() for each in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {row[0]: row for row in rows[2:]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    rows = rows_of(options.out)
    networks = APPLICATIONS | OF_KERAS_HUB
    for kind, build in (MODELS | networks).items():
        if options.names and not any(each in kind for each in options.names):
            continue
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)
        model, row = (fitted if kind in networks else randomized)(build()), [kind]
        with tempfile.TemporaryDirectory() as folder:
            for name in FORMATS:
                start = time.perf_counter()
                text = cell(model, name, folder)
                print(kind, "|", name, "|", text, f"| {time.perf_counter() - start:.1f} s", flush=True)
                row.append(text)
        rows[kind] = row
        write(options.out, [rows[each] for each in (*MODELS, *networks) if each in rows])


def write(path, rows):
    lines = ["| model | " + " | ".join(FORMATS) + " |", "| --- " * (1 + len(FORMATS)) + "|"]
    path.write_text(HEAD + "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n")


if __name__ == "__main__":
    main()
