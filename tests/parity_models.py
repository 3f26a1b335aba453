"""Small models of every kind, and networks of others: what tests/parity.py exports in all formats."""

import importlib.util

import keras
import numpy as np
from keras import layers as L
from keras import ops


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

"""Kinds of layers and of inputs."""


def application(name, size=64, **arguments):
    """Return what builds a network of keras.applications for four classes."""
    return lambda: getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classes=4, **arguments)


APPLICATIONS = {
    "MobileNet": application("MobileNet", alpha=0.25),
    "MobileNetV2": application("MobileNetV2", alpha=0.35),
    "MobileNetV3Small": application("MobileNetV3Small"),
    "EfficientNetB0": application("EfficientNetB0"),
    "ResNet50": application("ResNet50"),
    "DenseNet121": application("DenseNet121"),
    "ConvNeXtTiny": application("ConvNeXtTiny"),
    "Xception": application("Xception", 71),
}
"""Networks of keras.applications, which have megabytes of weights."""


def of_keras_hub(name):
    """Return what builds a small network of keras-hub, as tests/zoo_keras_hub.py does."""

    def build():
        from keras_hub_models import KINDS

        return next(models[name] for models in KINDS.values() if name in models)()

    return build


HUB = (
    "ResNetImageClassifier",
    "MobileNetImageClassifier",
    "EfficientNetImageClassifier",
    "ViTImageClassifier",
    "SwinTransformerImageClassifier",
    "SegFormerImageSegmenter",
)
OF_KERAS_HUB = {name: of_keras_hub(name) for name in HUB if importlib.util.find_spec("keras_hub")}
"""Networks of images of keras-hub, where it is installed."""
