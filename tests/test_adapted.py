"""Layers of Keras whose weights are others than usual: low-rank adapters, rounded weights, frozen and shared ones."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops
from zoo import randomize

import keras_rmda as kr
from keras_rmda.structure.verification import difference

ADAPTED = {
    "Dense": ((8,), lambda: L.Dense(9, "relu", name="it")),
    "EinsumDense": ((5, 8), lambda: L.EinsumDense("abc,cd->abd", (None, 9), bias_axes="d", name="it")),
    "Conv2D": ((6, 6, 3), lambda: L.Conv2D(9, 3, activation="relu", name="it")),
    "Embedding": ((5,), lambda: L.Embedding(11, 9, name="it")),
}


def around(make, shape):
    """Return a model with a layer, two behind it, and what it is called on."""
    random, is_index = np.random.default_rng(1), shape == (5,)
    inputs = keras.Input(shape, dtype="int32" if is_index else "float32")
    outputs = L.Dense(3, name="out")(L.Dense(6, "relu", name="dense")(make()(inputs)))
    x = random.integers(0, 11, (4, *shape)) if is_index else random.normal(size=(4, *shape)).astype("float32")
    return randomize(keras.Model(inputs, outputs)), x


@pytest.mark.parametrize("name", ADAPTED)
def test_adapters_stay_whole_and_go_into_the_kernel_as_told(name, tmp_path):
    shape, make = ADAPTED[name]
    model, x = around(make, shape)
    model.get_layer("it").enable_lora(2)
    randomize(model)
    kernel = ops.convert_to_numpy(model.get_layer("out").kernel).copy()
    kernel[[0, 4]] = 0
    model.get_layer("out").kernel.assign(kernel)
    [(where, why)] = kr.analyze(model).opaque.items()
    assert where == "it"
    assert why.startswith(f"{name} with weights of `enable_lora`")
    assert set(kr.coupled_groups(model).members) == {"out/kernel"}
    small = kr.strip(model, inputs=x)
    assert small.get_layer("dense").units == 4
    assert difference(model(x), small(x)) < 1e-6
    small.save(tmp_path / "small.keras")
    assert difference(small(x), keras.models.load_model(tmp_path / "small.keras")(x)) < 1e-6
    model.save_weights(tmp_path / "merged.weights.h5")
    merged, _ = around(make, shape)
    merged.load_weights(tmp_path / "merged.weights.h5")
    assert difference(model(x), merged(x)) < 1e-6
    assert kr.analyze(merged).opaque == {}


def test_adapters_inside_of_attention():
    inputs, layer = keras.Input((5, 8)), L.MultiHeadAttention(2, 4, name="it")
    model = randomize(keras.Model(inputs, L.Dense(3)(L.Dense(6, "relu")(layer(inputs, inputs)))))
    layer.query_dense.enable_lora(2)
    assert "with weights of `enable_lora`" in kr.analyze(model).opaque["it"]
    assert kr.strip(model).count_params() == model.count_params()


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have a `quantize`")  # Keras 3.15 says so of every model
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="as `quantize` of Keras")
def test_rounded_weights_stay_whole(tmp_path):
    model, x = around(lambda: L.Dense(9, "relu", name="it"), (8,))
    model.get_layer("it").quantize("int8")
    kernel = ops.convert_to_numpy(model.get_layer("out").kernel).copy()
    kernel[[0, 4]] = 0
    model.get_layer("out").kernel.assign(kernel)
    assert kr.analyze(model).opaque == {
        "it": "Dense with weights that `quantize('int8')` has rounded: train and strip the model before"
    }
    small = kr.strip(model, inputs=x)
    assert small.get_layer("dense").units == 4
    assert difference(model(x), small(x)) < 1e-6
    with pytest.raises(RuntimeError, match=r"Its weights are int8: export the model that it was before `quantize`"):
        kr.export_tflite(model, tmp_path / "model.tflite")


class Back(L.Layer):
    """The transpose of a layer that is called elsewhere."""

    def __init__(self, other, **arguments):
        super().__init__(**arguments)
        self.other = other

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.other.kernel))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf_keras needs TensorFlow")
def test_quantization_aware_tells_of_weights_that_it_takes_apart():
    inputs, first = keras.Input((8,)), L.Dense(6, "relu", name="first")
    model = randomize(keras.Model(inputs, L.Dense(3)(Back(first)(first(inputs)))))
    with pytest.warns(kr.SparsityWarning, match=r"Several layers use the weights \['first/kernel'\]"):
        assert len(kr.quantization_aware(model).trainable_weights) == len(model.trainable_weights) + 1
    twice = L.Dense(8, "relu")
    model = randomize(keras.Model(inputs, L.Dense(3)(twice(twice(inputs)))))  # one layer stays one
    assert len(kr.quantization_aware(model).trainable_weights) == len(model.trainable_weights)
