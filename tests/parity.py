"""Every kind of model in every format of a file: what is exported, how far it is from the model, where it runs.

Not collected by `make test`. As a program it writes the table of docs/parity.md:

    python tests/parity.py docs/parity.md [part of a name ...]
"""

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers as L
from keras import ops

import keras_rmda as kr

SAMPLES = 24

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


def normed(x, filters, strides=1):
    x = L.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)(x)
    return L.ReLU()(L.BatchNormalization()(x))


def classified(inputs, x):
    return keras.Model(inputs, L.Dense(4, "softmax", name="classes")(x))


def dense():
    x = inputs = keras.Input((12,), name="numbers")
    for units, activation in ((24, "relu"), (16, "gelu"), (8, "tanh")):
        x = L.Dense(units, activation)(x)
    return keras.Model(inputs, L.Dense(3)(x))


def convolutional():
    inputs = keras.Input((16, 16, 3), name="image")
    x = normed(normed(L.Rescaling(1 / 2)(inputs), 8), 16, 2)
    y = L.Add()([x, normed(x, 16)])
    return classified(inputs, L.GlobalAveragePooling2D()(L.Dropout(0.3)(y)))


def open_images():
    inputs = keras.Input((None, None, 3), name="image")
    x = L.Conv2D(8, 3, strides=2, activation="relu")(inputs)
    return classified(inputs, L.GlobalMaxPooling2D()(L.SeparableConv2D(8, 3, activation="relu")(x)))


def keywords():
    x = inputs = keras.Input((20, 10, 1), name="spectrogram")
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(12, (4, 3), strides=2, padding="same")(x)))
    for _ in range(2):
        x = L.ReLU()(L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same")(x)))
        x = L.ReLU()(L.BatchNormalization()(L.Conv2D(12, 1)(x)))
    return classified(inputs, L.Flatten()(L.AveragePooling2D((5, 5))(x)))


def u_net():
    inputs = keras.Input((16, 16, 1), name="image")
    a = normed(inputs, 6)
    b = normed(L.MaxPooling2D()(a), 12)
    x = L.Concatenate()([L.Conv2DTranspose(6, 2, strides=2)(b), a])
    x = L.Concatenate()([L.UpSampling2D()(b), normed(x, 6)])
    return keras.Model(inputs, L.Conv2D(2, 1, activation="softmax")(x))


def dilated():
    x = inputs = keras.Input((32, 4), name="series")
    for rate in (1, 2, 4):
        x = L.Conv1D(8, 3, padding="causal", dilation_rate=rate, activation="relu")(x)
    return classified(inputs, L.GlobalAveragePooling1D()(x))


def recurrent(layer):
    """Return what builds a model around a layer over time."""

    def build():
        inputs = keras.Input((10, 4), name="series")
        return classified(inputs, layer()(inputs))

    return build


def open_series():
    inputs = keras.Input((None, 4), name="series")
    return classified(inputs, L.GRU(8)(inputs))


def convolutional_lstm():
    inputs = keras.Input((4, 8, 8, 2), name="frames")
    return classified(inputs, L.GlobalAveragePooling2D()(L.ConvLSTM2D(4, 3, padding="same")(inputs)))


def transformer():
    inputs = keras.Input((12,), dtype="int32", name="tokens")
    x = L.Embedding(20, 16)(inputs) + L.Embedding(12, 16)(ops.arange(12))[None]
    x = L.LayerNormalization()(x + L.MultiHeadAttention(2, 8)(x, x))
    x = L.LayerNormalization()(x + L.Dense(16)(L.Dense(32, "gelu")(x)))
    return classified(inputs, L.GlobalAveragePooling1D()(x))


class Mixer(keras.Model):
    """A subclassed model, whose code asks for sizes."""

    def __init__(self):
        super().__init__()
        self.patches, self.tokens = L.Conv2D(12, 4, strides=4), L.Dense(16, "gelu")
        self.channels, self.head, self.scale = L.Dense(12, "gelu"), L.Dense(4, "softmax"), None

    def build(self, shape):
        self.scale = self.add_weight(shape=(12,), initializer="ones", name="scale")

    def call(self, images, training=False):
        x = self.patches(images)
        x = ops.reshape(x, (ops.shape(x)[0], -1, 12))
        x = x + ops.swapaxes(self.tokens(ops.swapaxes(x, 1, 2)), 1, 2)
        return self.head(ops.mean(x + self.channels(x) * self.scale, axis=1))


def subclassed():
    model = Mixer()
    model(np.zeros((1, 16, 16, 3), "float32"))
    return model


def two_inputs():
    image, numbers = keras.Input((8, 8, 3), name="image"), keras.Input((5,), name="more numbers")
    x = L.Concatenate()([L.Flatten()(normed(image, 6, 2)), L.Dense(8, "relu")(numbers)])
    outputs = {"class": L.Dense(3, "softmax")(x), "size": L.Dense(1)(x)}
    return keras.Model({"b": image, "a": numbers}, outputs)


def winner():
    inputs = keras.Input((8, 8, 3), name="image")
    return keras.Model(inputs, ops.argmax(L.Dense(5)(L.GlobalAveragePooling2D()(normed(inputs, 8))), axis=-1))


def under(policy, build):
    def built():
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(policy)
        try:
            return build()
        finally:
            keras.config.set_dtype_policy(before)

    return built


MODELS = {
    "dense layers": dense,
    "convolutions": convolutional,
    "convolutions, open sizes": open_images,
    "depthwise convolutions": keywords,
    "U-Net": u_net,
    "dilated convolutions": dilated,
    "SimpleRNN": recurrent(lambda: L.SimpleRNN(8)),
    "LSTM": recurrent(lambda: L.LSTM(8)),
    "GRU": recurrent(lambda: L.GRU(8)),
    "Bidirectional LSTM": recurrent(lambda: L.Bidirectional(L.LSTM(6))),
    "GRU, open steps": open_series,
    "ConvLSTM": convolutional_lstm,
    "transformer": transformer,
    "subclassed mixer": subclassed,
    "two inputs, two outputs": two_inputs,
    "argmax": winner,
    "mixed_float16": under("mixed_float16", convolutional),
    "bfloat16": under("bfloat16", convolutional),
    "float64": under("float64", dense),
}


def inputs_of(model, count=SAMPLES, size=32):
    """Return random inputs by name."""
    random = np.random.default_rng(0)
    given = {}
    for tensor in getattr(model, "inputs", None) or [keras.Input((16, 16, 3), name="image")]:
        shape = (count, *(size if n is None else n for n in tensor.shape[1:]))
        is_float = "float" in keras.backend.standardize_dtype(tensor.dtype)
        array = random.normal(size=shape) if is_float else random.integers(4, size=shape)
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

Made by `python tests/parity.py docs/parity.md`: small models at random weights, 24 random samples. In each cell: the
largest difference of an output channel relative to its own range, then the largest difference of what TensorFlow Lite
for Microcontrollers computes where it is asked, then bytes, and the batch where it is fixed; or why there is no file.
Every file was run by LiteRT, and compared.

"""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    rows = []
    for kind, build in MODELS.items():
        if options.names and not any(each in kind for each in options.names):
            continue
        keras.utils.set_random_seed(0)
        model, row = randomized(build()), [kind]
        with tempfile.TemporaryDirectory() as folder:
            for name in FORMATS:
                text = cell(model, name, folder)
                print(kind, "|", name, "|", text, flush=True)
                row.append(text)
        rows.append(row)
    lines = ["| model | " + " | ".join(FORMATS) + " |", "| --- " * (1 + len(FORMATS)) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    options.out.write_text(HEAD + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
