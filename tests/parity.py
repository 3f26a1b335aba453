"""Every kind of model in every format of a file: what is exported, how far it is from the model, where it runs.

Not collected by `make test`. As a program it writes the table of docs/parity.md:

    python tests/parity.py docs/parity.md [part of a name ...] [--formats format ...] [--state cells.json]

With names or formats it makes these cells anew, and leaves the others of the file as they are, which the page then
says: the large networks take minutes. With a file for its state it goes on where it was stopped, and makes only cells
that are not in there. A network that cannot be made leaves its reason, and is tried again the next time.
"""

import argparse
import json
import os
import re
import tempfile
import textwrap
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers as L
from parity_models import APPLICATIONS, MODELS, OF_KERAS_HUB

import keras_rmda as kr
from keras_rmda.platform.compat import layers_of
from keras_rmda.structure.verification import difference

SAMPLES, STEPS = 24, 40
NOISE = 1e-4
"""How far inputs are moved to see how far a model that rounds moves by itself: below one step of 8 bits."""

UNKNOWN = "not measured"
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
    """Return random inputs by name. Large images have colors, in turns, in bytes where the model rescales these."""
    random = np.random.default_rng(0)
    of_bytes = any(isinstance(layer, (L.Rescaling, L.Normalization)) for layer in model.layers)
    given = {}
    for tensor in getattr(model, "inputs", None) or [keras.Input((16, 16, 3), name="image")]:
        shape = (count, *(size if n is None else n for n in tensor.shape[1:]))
        is_float = "float" in keras.backend.standardize_dtype(tensor.dtype)
        array = random.normal(size=shape) if is_float else random.integers(4, size=shape)
        if len(shape) == 4 and shape[1] >= 32:
            array = array / 4 + np.resize(COLORS, (count, 1, 1, shape[-1]))
            array = array * 50 + 128 if of_bytes else array
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
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=not is_softmax)
    model.compile("adam", loss, metrics=[])  # keras-hub has others, which None would leave there
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
        return reason(error)
    micro = "" if file.micro_difference is None else f", TFLM {file.micro_difference:.1g}"
    if file.not_micro and name.startswith("micro"):
        micro = f", not micro: {file.not_micro}"
    batch = "" if file.batch is None else f", batch {file.batch}"
    largest = max([file.max_difference, *file.differences.values()])
    own = f" (by itself {moved(model, data):.1g})" if name == "aware int8" and largest > 0.05 else ""
    return f"{largest:.1g}{own}{micro}, {file.bytes:,} bytes{batch}"


def reason(error):
    """Return what an error says, for a cell."""
    return f"no: {textwrap.shorten(str(error), 240, placeholder=' ...')}".replace("|", "/")


def moved(model, inputs):
    """Return how far the outputs of a model that rounds are from those for inputs hardly any different.

    A deep network of random weights makes a single value that is rounded to its other neighbour as large as that: no
    file can be closer to it.
    """
    random = np.random.default_rng(0)
    near = keras.tree.map_structure(lambda x: x + NOISE * random.normal(size=x.shape).astype(x.dtype), inputs)
    outputs = ([np.asarray(y) for y in keras.tree.flatten(model(x, training=False))] for x in (inputs, near))
    return max(difference(a, b) for a, b in zip(*outputs))


HEAD = """# Every kind of model in every format

Made by `python tests/parity.py docs/parity.md`: small models at random weights, 24 random samples; then networks of
keras.applications for images of 64 x 64 (Xception: 71 x 71), in bytes where they rescale these themselves, and small
ones of keras-hub; both have learned four colors in 40 steps. In each cell: the largest difference of an output channel
relative to its own range (of numbers for classes: relative to the largest), then the largest difference of what
TensorFlow Lite for Microcontrollers computes where it is asked, then bytes, and the batch where it is fixed; or why
there is no file. Every file was run by LiteRT, and compared; one of quantization-aware training with the model that
trains so, before any training. Where that is far (above 0.05), behind it: how far this model is from itself for inputs
moved by 0.0001. In a deep network of random weights each layer makes larger what one rounding changes.
The converter shares more or fewer scales from run to run: int8 files of the bidirectional LSTM have 32,048 to 32,368
bytes.

"""


def rows_of(path):
    """Return the cells of a table that is there, by the kind of model and the format."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [[each.strip() for each in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {row[0]: dict(zip(FORMATS, row[1:])) for row in rows[2:]}


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--state", type=Path)
    options = parser.parse_args(arguments)
    before = rows_of(options.out)
    done = json.loads(options.state.read_text()) if options.state and options.state.exists() else {}
    networks, failed = APPLICATIONS | OF_KERAS_HUB, {}
    for kind, build in (MODELS | networks).items():
        cells = done.setdefault(kind, {})
        missing = [name for name in options.formats if name not in cells]
        if not missing or (options.names and not any(each in kind for each in options.names)):
            continue
        try:
            keras.backend.clear_session()
            keras.utils.set_random_seed(0)
            model = (fitted if kind in networks else randomized)(build())
        except Exception as error:  # the other rows do not depend on it
            print(kind, "|", reason(error), flush=True)
            failed[kind] = dict.fromkeys(missing, reason(error))
            continue
        model.name = re.sub(r"\W+", "_", kind)
        with tempfile.TemporaryDirectory() as folder:
            for name in missing:
                start = time.perf_counter()
                cells[name] = cell(model, name, folder)
                print(kind, "|", name, "|", cells[name], f"| {time.perf_counter() - start:.1f} s", flush=True)
                if options.state:
                    options.state.write_text(json.dumps(done, indent=1))
        write(options.out, before, done, failed)
    write(options.out, before, done, failed)


def write(path, before, done, failed):
    """Write the page: what is done, why other cells failed, and of all else what the page had before, which it says."""
    lines = ["| model | " + " | ".join(FORMATS) + " |", "| --- " * (1 + len(FORMATS)) + "|"]
    kept = {}
    for kind in (*MODELS, *APPLICATIONS, *OF_KERAS_HUB):
        new = done.get(kind, {}) | failed.get(kind, {})
        known = before.get(kind, {}) | new
        if known:
            lines.append("| " + " | ".join([kind, *(known.get(name, UNKNOWN) for name in FORMATS)]) + " |")
        old = tuple(name for name in FORMATS if name not in new and known.get(name, UNKNOWN) != UNKNOWN)
        kept.setdefault(old, []).append(kind)
    kept.pop((), None)
    older = "; ".join(f"{', '.join(kinds)} ({', '.join(names)})" for names, kinds in kept.items())
    note = textwrap.fill(f"Made by an earlier version: {older}.", 120) + "\n\n" if older else ""
    path.write_text(HEAD + note + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
