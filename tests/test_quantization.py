"""Models that train with the rounding of int8 files: rebuilding, refusing, zeros, ranges, and the files."""

import contextlib
import os
import sys

import keras
import numpy as np
import processes
import pytest
from ai_edge_litert.interpreter import Interpreter
from backend import hidden
from keras import layers as L

import keras_rmda as kr
from keras_rmda.export.contents import read_contents
from keras_rmda.export.legacy import Unsupported, as_tf_keras
from keras_rmda.pruning.verification import difference

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.normal(size=(48, 12, 12, 3)).astype("float32")
LABELS = RANDOM.integers(4, size=48)


def block(x, filters, strides=1):
    y = L.BatchNormalization()(L.Conv2D(filters, 3, strides, padding="same", use_bias=False)(x))
    y = L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same")(L.ReLU(6.0)(y)))
    shortcut = x if x.shape[-1] == filters and strides == 1 else L.Conv2D(filters, 1, strides)(x)
    return L.ReLU()(L.Add()([y, shortcut]))


def trained_normalizations(model):
    """Batch normalizations that do something."""
    random = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.set_weights([random.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    return model


@pytest.fixture(scope="module")
def residual():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12, 12, 3), name="image")
    x = block(block(inputs, 8), 8, 2)
    outputs = L.Dense(4)(L.Dropout(0.2)(L.GlobalAveragePooling2D()(x)))
    return trained_normalizations(keras.Model(inputs, outputs, name="residual"))


def with_zeros(model):
    copy = keras.models.clone_model(model)
    copy.set_weights([np.where(RANDOM.random(w.shape) < 0.5, 0, w) if w.ndim > 1 else w for w in model.get_weights()])
    return copy


@pytest.fixture(scope="module")
def aware(residual):
    return kr.quantization_aware(residual, IMAGES)


FAMILIES = ["MobileNetV2", "ResNet50", "EfficientNetB0", "DenseNet121"]


@pytest.mark.parametrize("family", FAMILIES)
def test_tf_keras_computes_the_same(family):
    model = getattr(keras.applications, family)(weights=None, input_shape=(64, 64, 3), classes=10)
    assert as_tf_keras(model).count_params() == model.count_params()  # compares outputs itself


def test_models_inside_shared_layers_operations_and_several_inputs():
    one, two = keras.Input((6,), name="one"), keras.Input((6,), name="two")
    shared = keras.Sequential([keras.Input((6,)), L.Dense(6, activation="relu", name="last")])
    x = keras.ops.concatenate([shared(one) + shared(two), keras.ops.relu(two)], axis=-1)
    model = keras.Model({"one": one, "two": two}, {"b": L.Dense(3, name="last")(x), "a": L.Dense(2, name="first")(x)})
    aware = kr.quantization_aware(model, {"one": IMAGES[:, 0, :6, 0], "two": IMAGES[:, 1, :6, 0]})
    assert [x.name for x in aware.inputs] == ["one", "two"]
    assert [layer.name for layer in aware.layers].count("quant_last") == 1
    inputs = [IMAGES[:, 0, :6, 0], IMAGES[:, 1, :6, 0]]
    expected = keras.tree.flatten(model(dict(zip(("one", "two"), inputs))))
    for a, b in zip(expected, aware(inputs, training=False), strict=True):
        assert difference(a, np.asarray(b)) < 0.05


def test_it_begins_as_the_int8_file_computes(residual, aware):
    before = [w.copy() for w in residual.get_weights()]
    expected = np.asarray(residual(IMAGES, training=False))
    assert difference(expected, np.asarray(aware(IMAGES, training=False))) < 0.05
    assert all(np.array_equal(a, b) for a, b in zip(before, residual.get_weights()))
    # Without samples the ranges are [-6, 6], of weights too, and nothing of a small network is left.
    assert difference(expected, np.asarray(kr.quantization_aware(residual)(IMAGES, training=False))) > 0.2


def test_ranges_do_not_move_the_statistics_of_batch_normalization(residual, aware):
    of = lambda model: {v.name.split(":")[0]: np.asarray(v) for v in model.weights if "moving" in v.name}  # noqa: E731
    found, expected = of(aware), of(as_tf_keras(residual))
    assert len(found) == 8
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert len(aware.trainable_variables) == len(residual.trainable_variables)


def test_zeros_stay_zeros_in_training_and_in_the_file(residual, tmp_path):
    import tf_keras

    aware = kr.quantization_aware(with_zeros(residual), IMAGES)
    kernels = [v for v in aware.trainable_variables if len(v.shape) > 1]
    zeros = [np.asarray(v) == 0 for v in kernels]
    assert all(0.2 < zero.mean() < 0.8 for zero in zeros)
    before = [np.asarray(v).copy() for v in kernels]
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    aware.compile(tf_keras.optimizers.Adam(1e-2, weight_decay=1e-3), loss)
    losses = aware.fit(IMAGES, LABELS, epochs=8, batch_size=16, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    for variable, zero, old in zip(kernels, zeros, before):
        assert np.array_equal(np.asarray(variable) == 0, zero)
        assert not np.array_equal(np.asarray(variable), old)
    path = kr.export_tflite(aware, tmp_path / "aware.tflite", "int8", IMAGES).path
    found = weights_in(path)  # where small numbers become zero too
    assert [size for size, _ in found] == sorted(zero.size for zero in zeros)
    assert all(count >= before for (_, count), (_, before) in zip(found, sorted((z.size, z.sum()) for z in zeros)))


def weights_in(path):
    """Sizes and numbers of zeros of the int8 constants with more than one axis; those of biases are int32."""
    interpreter = Interpreter(str(path))
    arrays = []
    for detail in interpreter.get_tensor_details():
        if detail["dtype"] is np.int8 and len(detail["shape"]) > 1:
            with contextlib.suppress(ValueError):  # computed, not constant
                arrays.append(interpreter.get_tensor(detail["index"]))
    return sorted((a.size, (a == 0).sum()) for a in arrays)


@pytest.mark.parametrize("samples", [IMAGES, None], ids=["samples", "none"])
@pytest.mark.parametrize("int8_io", [False, True])
def test_the_file_is_int8_and_computes_what_the_model_does(aware, tmp_path, samples, int8_io):
    file = kr.export_tflite(aware, tmp_path / "aware.tflite", "int8", samples, int8_io=int8_io)
    # One step of 255 at each of a few layers.
    assert file.max_difference < 0.05
    assert file.not_micro == ()
    assert ("DEQUANTIZE" in file.operators) is not int8_io
    assert file.operators["CONV_2D"] == 4
    contents = read_contents(file.path)
    inner = [each for each in contents.operators if each.name not in ("QUANTIZE", "DEQUANTIZE")]
    assert {contents.tensors[each.outputs[0]].dtype for each in inner} == {"INT8"}


def test_after_training_the_file_still_follows_the_model(aware, tmp_path):
    import tf_keras

    aware.compile(tf_keras.optimizers.SGD(0.01), tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    aware.fit(IMAGES, LABELS, epochs=2, batch_size=16, verbose=0)
    assert kr.export_tflite(aware, tmp_path / "aware.tflite", "int8").max_difference < 0.05


def test_weights_and_ranges_go_through_a_file(residual, aware, tmp_path):
    aware.save_weights(tmp_path / "aware.weights.h5")
    other = kr.quantization_aware(residual)
    other.load_weights(tmp_path / "aware.weights.h5")
    assert np.array_equal(aware(IMAGES, training=False), other(IMAGES, training=False))


def through(layer, *more):
    inputs = keras.Input((12, 12, 3))
    x = L.Conv2D(4, 3, padding="same")(inputs)
    for each in (layer, *more):
        x = each([x, x]) if isinstance(each, (L.Multiply, L.Add)) else each(x)
    return keras.Model(inputs, x)


@keras.saving.register_keras_serializable(package="tests")
class Twice(keras.Layer):
    def call(self, x):
        return 2 * hidden(x)


REFUSED = {
    "elu": through(L.ELU(name="refused")),
    "product": through(L.Multiply(name="refused")),
    "scale": through(L.Rescaling(2.0, name="refused")),
    "normalization behind a sum": through(L.Add(), L.BatchNormalization(name="refused")),
    "normalization behind a transposed convolution": through(
        L.Conv2DTranspose(4, 3), L.BatchNormalization(name="refused")
    ),
    "activation of a layer": through(L.Conv2D(3, 3, activation="elu", name="refused")),
    "activation that tf_keras lacks": through(L.Activation("hard_silu", name="refused")),
    "function": through(L.Lambda(lambda x: 2 * x, name="refused")),
    "own": through(Twice(name="refused")),
    "two": through(L.ELU(name="refused"), L.PReLU(name="refused_too")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_named(case):
    with pytest.raises(Unsupported, match="refused") as error:
        kr.quantization_aware(REFUSED[case])
    names = [layer.name for layer in REFUSED[case].layers if f"'{layer.name}'" in str(error.value)]
    assert names == [layer.name for layer in REFUSED[case].layers if "refused" in layer.name]


def test_constants_in_operations_are_refused():
    inputs = keras.Input((4,))
    with pytest.raises(Unsupported, match="constant"):
        kr.quantization_aware(keras.Model(inputs, L.Dense(3)(inputs + 1.0)))


def test_what_cannot_be_exported(aware, tmp_path):
    for arguments in ({"quantization": "float16"}, {}, {"quantization": "int8", "sparse": True}):
        with pytest.raises(ValueError, match="quantization_aware"):
            kr.export_tflite(aware, tmp_path / "aware.tflite", **arguments)
    with pytest.raises(ValueError, match=r"shape \(samples, 12, 12, 3\)"):
        kr.export_tflite(aware, tmp_path / "aware.tflite", "int8", IMAGES[:, :5])
    assert not list(tmp_path.iterdir())


def test_bad_arguments(residual, aware):
    with pytest.raises(ValueError, match="Keras 3 model"):
        kr.quantization_aware(aware)
    with pytest.raises(ValueError, match="no samples"):
        kr.quantization_aware(residual, IMAGES[:0])


def test_the_extra_is_named_if_it_is_missing(residual, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf_keras", None)
    with pytest.raises(ModuleNotFoundError, match=r"keras-rmda\[qat\]"):
        as_tf_keras(residual)


def test_what_others_see_of_tf_keras_stays(tmp_path):
    """TensorFlow Model Optimization would make `tf.keras` another Keras for the process, and for its children."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, keras, keras_rmda as kr, tensorflow as tf\n"
        "model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])\n"
        "kr.quantization_aware(model)\n"
        "print(tf.keras.__version__, os.environ.get('TF_USE_LEGACY_KERAS'), isinstance(model, tf.keras.Model))\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "TF_USE_LEGACY_KERAS"}
    result = processes.run(script, env=environment)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.split() == [keras.__version__, "None", "True"]
