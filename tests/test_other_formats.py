"""Stripped models leave Keras by `keras.Model.export`: as SavedModel and as ONNX."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from backend import hidden
from keras import layers as L
from keras import ops
from zoo import randomize, zero

import keras_rmda as kr


class Block(L.Layer):
    """Code of a user's own, with open sizes, which the converter traces."""

    def __init__(self, units, **settings):
        super().__init__(**settings)
        self.wide, self.narrow = L.Dense(4 * units, name="wide"), L.Dense(units, name="narrow")

    def call(self, x):
        batch, n, channels = ops.shape(x)
        flat = ops.reshape(x, (batch * n, channels))
        return x + ops.reshape(self.narrow(ops.gelu(self.wide(flat))), (batch, n, channels))


def sequence_model(layer=None):
    x = inputs = keras.Input((None, 6), name="sequence")
    x = Block(8, name="block")(L.Dense(8)(x))
    x = x if layer is None else layer(x)
    x = L.GlobalAveragePooling1D()(L.LayerNormalization()(x))
    return keras.Model(inputs, {"scores": L.Dense(3, name="scores")(x)})


def image_model():
    x = inputs = keras.Input((8, 8, 3), name="image")
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3, padding="same", use_bias=False)(x)))
    x = L.DepthwiseConv2D(3, strides=2, padding="same")(x)
    return keras.Model(inputs, {"scores": L.Dense(3, name="scores")(L.GlobalAveragePooling2D()(x))})


class Opaque(L.Layer):
    """What is not traced is exported as it is."""

    def call(self, x):
        return hidden(x) * 2


MODELS = {
    "code": (sequence_model, (5, 7, 6), "block/narrow", 0),
    "code and what is not traced": (lambda: sequence_model(Opaque()), (5, 7, 6), "block/narrow", 0),
    "convolutions": (image_model, (5, 8, 8, 3), "scores", 0),
}


@pytest.fixture(scope="module", params=MODELS)
def stripped(request):
    """A stripped model, with inputs and what the original makes of them."""
    make, shape, reader, axis = MODELS[request.param]
    model = randomize(make())
    zero(model, reader, axis, [0, 2, 3])
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    small = kr.strip(model)
    assert small.count_params() < model.count_params()
    return small, x, ops.convert_to_numpy(model(x)["scores"])


def test_a_saved_model_computes_what_the_original_did(stripped, tmp_path):
    small, x, expected = stripped
    small.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(served.serve(x)["scores"], expected, rtol=1e-4, atol=1e-5)


def test_an_onnx_file_computes_what_the_original_did(stripped, tmp_path):
    pytest.importorskip("tf2onnx")
    runtime = pytest.importorskip("onnxruntime")
    small, x, expected = stripped
    small.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    [given], [made] = session.get_inputs(), session.get_outputs()
    assert given.name == small.inputs[0].name
    [found] = session.run([made.name], {given.name: x})
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
