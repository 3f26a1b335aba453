"""Models that train with the rounding of int8 files: rebuilding, refusing, zeros, ranges, and the files."""

import contextlib
import os
import sys

import keras
import numpy as np
import processes
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from backend import hidden
from keras import layers as L

import keras_rmda as kr
from keras_rmda.export.benchmark import Interpreter as FileInterpreter
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
    "normalization behind an activation": through(
        L.Conv2D(4, 3, activation="relu"), L.BatchNormalization(name="refused")
    ),
    "normalization behind the activation of a dense layer": through(
        L.Dense(4, activation="relu"), L.BatchNormalization(name="refused")
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


def test_why_a_normalization_behind_an_activation_is_refused():
    with pytest.raises(Unsupported, match="has an activation; make that a layer behind"):
        kr.quantization_aware(REFUSED["normalization behind an activation"])


def small(*front, shape=(12, 12, 3), dtype="float32"):
    """A network behind the layers of `front`."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input(shape, dtype=dtype, name="image")
    for layer in front:
        x = layer(x)
    x = L.GlobalAveragePooling2D()(L.Conv2D(6, 3, activation="relu", padding="same")(x))
    return keras.Model(inputs, L.Dense(3, name="scores")(x))


BYTES = np.clip(IMAGES * 40 + 128, 0, 255)
FRONT = {
    "rescaling": (lambda: small(L.Rescaling(1 / 127.5, -1.0)), BYTES),
    "bytes": (lambda: small(L.Rescaling(1 / 255), dtype="uint8"), BYTES.astype("uint8")),
    "normalization": (lambda: small(L.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 3.0])), IMAGES),
    "sizes": (lambda: small(L.Resizing(8, 8)), IMAGES),
    "random": (lambda: small(L.RandomFlip(), L.RandomRotation(0.2), L.RandomZoom(0.1), L.GaussianNoise(0.5)), IMAGES),
    "both": (lambda: small(L.Rescaling(1 / 127.5, -1.0), L.RandomContrast(0.3), L.RandomTranslation(0.1, 0.1)), BYTES),
    "a model inside": (lambda: small(keras.Sequential([L.Rescaling(2.0), L.RandomFlip()])), IMAGES),
}


@pytest.fixture(scope="module", params=FRONT)
def with_front(request):
    make, data = FRONT[request.param]
    model = make()
    return model, data, kr.quantization_aware(model, data)


def test_preprocessing_at_the_inputs_stays_in_float(with_front):
    model, data, aware = with_front
    expected = np.asarray(model(data, training=False))
    assert difference(expected, np.asarray(aware(data, training=False))) < 0.05
    assert [x.name for x in aware.inputs] == ["image"]
    assert len(aware.trainable_variables) == 4
    assert [name.endswith("scores") for name in aware.output_names] == [True]


PREPROCESSING = {
    "a power of two": lambda: [L.Rescaling(1 / 2)],
    "an offset": lambda: [L.Rescaling(1 / 127.5, -1.0)],
    "by channel": lambda: [L.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 3.0])],
    "of all numbers": lambda: [L.Normalization(axis=None, mean=0.1, variance=2.0), L.RandomFlip()],
}


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("front", PREPROCESSING)
def test_normalizations_behind_preprocessing_are_folded(front, padding):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((12, 12, 3))
    for layer in PREPROCESSING[front]():
        x = layer(x)
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(6, 3, padding=padding, use_bias=False)(x)))
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(4, 3, padding=padding, use_bias=False)(x)))
    model = trained_normalizations(keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x))))
    aware = kr.quantization_aware(model, IMAGES)
    assert difference(np.asarray(model(IMAGES, training=False)), np.asarray(aware(IMAGES, training=False))) < 0.05


def test_a_normalization_that_is_not_all_that_reads_a_layer_is_refused_behind_preprocessing():
    x = inputs = keras.Input((12, 12, 3))
    x = L.Conv2D(6, 3, padding="same")(L.Rescaling(0.5)(x))
    outputs = L.GlobalAveragePooling2D()(L.Add()([x, L.BatchNormalization()(x)]))
    with pytest.raises(Unsupported, match="must be all that reads one of"):
        kr.quantization_aware(keras.Model(inputs, outputs))


class Mixer(keras.Model):
    """A subclassed model."""

    def __init__(self):
        super().__init__()
        self.conv, self.pool, self.scores = L.Conv2D(6, 3), L.GlobalAveragePooling2D(), L.Dense(3)

    def call(self, inputs):
        """Call functions of Keras, too."""
        return self.scores(self.pool(keras.activations.relu(self.conv(inputs))))


@pytest.mark.parametrize("data", [None, IMAGES], ids=["without data", "with data"])
def test_subclassed_models(data, tmp_path):
    keras.utils.set_random_seed(0)
    model = Mixer()
    expected = np.asarray(model(IMAGES))
    aware = kr.quantization_aware(model, data)
    if data is not None:
        assert difference(expected, np.asarray(aware(IMAGES, training=False))) < 0.05
        file = kr.export_tflite(aware, tmp_path / "m.tflite", "int8", IMAGES)
        assert difference(expected, FileInterpreter(file.path).predict(IMAGES)) < 0.1


def test_a_subclassed_model_that_is_not_built_says_so():
    with pytest.raises(ValueError, match="is not built"):
        kr.quantization_aware(Mixer())


@pytest.mark.parametrize("int8_io", [False, True])
def test_it_is_exported(with_front, tmp_path, int8_io):
    """With data, and without."""
    model, data, aware = with_front
    file = kr.export_tflite(aware, tmp_path / "m.tflite", "int8", None if int8_io else data, int8_io=int8_io)
    found = FileInterpreter(file.path).predict(data[:8])
    expected = np.asarray(model(data[:8], training=False))
    assert difference(expected, found) < 0.1


def test_random_layers_act_in_training_only():
    aware = kr.quantization_aware(small(L.RandomFlip()), IMAGES)
    assert np.array_equal(aware(IMAGES, training=False), aware(IMAGES, training=False))
    assert difference(np.asarray(aware(IMAGES, training=False)), np.asarray(aware(IMAGES, training=True))) > 1e-3


def test_what_trains_at_the_inputs_is_no_preprocessing():
    with pytest.raises(Unsupported, match="refused"):
        kr.quantization_aware(small(L.PReLU(name="refused")))


def test_several_inputs_go_by_name(tmp_path):
    """Also where the converter has another order than the model, with and without data."""
    vectors = RANDOM.normal(size=(48, 4)).astype("float32")
    for names in (("image", "meta"), ("meta", "image")):
        image, meta = keras.Input((12, 12, 3), name=names[0]), keras.Input((4,), name=names[1])
        x = L.GlobalAveragePooling2D()(L.Conv2D(6, 3, activation="relu")(L.Rescaling(0.5)(image)))
        model = keras.Model([image, meta], L.Dense(2)(L.Concatenate()([x, meta])))
        given = {names[0]: IMAGES, names[1]: vectors}
        aware = kr.quantization_aware(model, given | {"more": vectors})
        for data in (given, [IMAGES, vectors], None):
            file = kr.export_tflite(aware, tmp_path / "m.tflite", "int8", data)
            assert file.max_difference < 0.05
            found = FileInterpreter(file.path).predict(given)
            assert difference(np.asarray(model([IMAGES, vectors])), found) < 0.1


@pytest.mark.parametrize("activation", [None, "relu"])
def test_transposed_convolutions(tmp_path, activation):
    if activation and tf.__version__ < "2.19":
        pytest.skip("the converter of TensorFlow 2.18 writes a file that nothing runs")
    inputs = keras.Input((12, 12, 3))
    x = L.Conv2D(5, 3, strides=2, padding="same", activation="relu")(inputs)
    outputs = L.Conv2DTranspose(4, 2, strides=2, activation=activation)(x)
    model = keras.Model(inputs, L.Conv2D(2, 1)(L.Concatenate()([outputs, inputs])))
    aware = kr.quantization_aware(model, IMAGES)
    file = kr.export_tflite(aware, tmp_path / "m.tflite", "int8", IMAGES)
    assert file.max_difference < 0.05
    assert difference(np.asarray(model(IMAGES)), FileInterpreter(file.path).predict(IMAGES)) < 0.1


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
