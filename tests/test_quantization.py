"""Models that train with the rounding of int8 files: rebuilding, refusing, zeros, ranges, and the files.

Over a minute, since tf_keras and TensorFlow Model Optimization make each model anew.
"""

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
from keras_rmda.export.contents import read_contents
from keras_rmda.export.interpreter import Interpreter as FileInterpreter
from keras_rmda.export.legacy import Unsupported, as_tf_keras
from keras_rmda.structure.verification import difference

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


@pytest.mark.parametrize("place", ["first", "behind a convolution", "behind an activation"])
def test_normalizations_of_networks_that_are_called_twice(place, tmp_path):
    """As Siamese networks are; their statistics are those of both inputs."""
    keras.utils.set_random_seed(0)
    norm, convolution = L.BatchNormalization(name="norm"), L.Conv2D(6, 3, name="convolution")
    order = {"first": [norm, convolution], "behind a convolution": [convolution, norm]}
    inner = order.get(place, [convolution, L.ReLU(), norm])
    towers = [keras.Sequential([keras.Input((12, 12, 3)), *inner, L.GlobalAveragePooling2D()])]
    # Another one with the same names, whose normalization goes into its convolution.
    towers.append(
        keras.Sequential(
            [keras.Input((12, 12, 3)), L.Conv2D(4, 3, name="convolution"), L.BatchNormalization(name="norm")]
        )
    )
    one, two = keras.Input((12, 12, 3)), keras.Input((12, 12, 3))
    y = [towers[0](one) - towers[0](two), L.GlobalAveragePooling2D()(towers[1](one))]
    model = trained_normalizations(keras.Model([one, two], L.Dense(3)(L.Concatenate()(y))))
    data = [IMAGES, IMAGES[::-1].copy()]
    expected = np.asarray(model(data, training=False))
    aware = kr.quantization_aware(model, data)
    assert difference(expected, np.asarray(aware(data, training=False))) < 0.07
    assert len(aware.trainable_variables) == len(model.trainable_variables)
    aware.compile("sgd", "mse")
    aware.fit(data, expected, verbose=0)
    assert kr.export_tflite(aware, tmp_path / "m.tflite", "int8", data).max_difference < 0.05


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


CARRIED = {
    "elu": lambda: through(L.ELU()),
    "product": lambda: through(L.Multiply()),
    "scale": lambda: through(L.Rescaling(2.0)),
    "normalization behind a sum": lambda: through(L.Add(), L.BatchNormalization()),
    "normalization behind a transposed convolution": lambda: through(L.Conv2DTranspose(4, 3), L.BatchNormalization()),
    "normalization behind an activation": lambda: through(L.Conv2D(4, 3, activation="relu"), L.BatchNormalization()),
    "normalization in front": lambda: through(L.BatchNormalization(), L.Activation("relu"), L.Conv2D(4, 3)),
    "normalization of rows": lambda: through(L.BatchNormalization(axis=1), L.Conv2D(4, 3)),
    "normalization of numbers": lambda: through(L.Flatten(), L.Dense(6, "relu"), L.BatchNormalization(), L.Dense(3)),
    "activation of a layer": lambda: through(L.Conv2D(3, 3, activation="elu")),
    "activation of a separable one": lambda: through(L.SeparableConv2D(3, 3, activation="hard_silu"), L.Conv2D(4, 1)),
    "activation that tf_keras lacks": lambda: through(L.Activation("hard_silu"), L.Conv2D(4, 3)),
    "function": lambda: through(L.Lambda(lambda x: 2 * x)),
    "own": lambda: through(Twice(), L.Conv2D(4, 3)),
    "two": lambda: through(L.ELU(), L.PReLU()),
    "a size that follows": lambda: through(L.Reshape((6, 24, -1)), L.Conv2D(4, 3)),
    "smaller of two": lambda: through(lambda x: keras.ops.minimum(x, keras.ops.flip(x, -1)), L.Conv2D(4, 3)),
    "one of two": lambda: through(lambda x: keras.ops.where(x > 0, x, -x)),
    "a layer around another": lambda: through(L.SpectralNormalization(L.Conv2D(4, 3))),
    "averages": lambda: through(L.AveragePooling2D(4)),
    "averages of a series": lambda: through(L.Reshape((48, 12)), L.AveragePooling1D(8)),
    "larger images": lambda: through(L.UpSampling2D(interpolation="bilinear")),
    "smaller images": lambda: through(L.Resizing(5, 5), L.Conv2D(4, 3)),
    "layer normalization": lambda: through(L.LayerNormalization(), L.Conv2D(4, 3)),
    "attention": lambda: through(L.Reshape((144, 4)), Attention(), L.Dense(3)),
    "volumes": lambda: through(L.Reshape((12, 12, 4, 1)), L.Conv3D(3, 3, activation="relu"), L.MaxPooling3D()),
    "series": lambda: through(L.Reshape((48, 12)), L.Conv1D(6, 3, dilation_rate=2), L.MaxPooling1D(), L.Dense(3)),
    "recurrent": lambda: through(L.Reshape((12, 48)), L.Bidirectional(L.GRU(5)), L.Dense(3)),
    "no layer that can be rounded": lambda: keras.Sequential([keras.Input((12, 12, 3)), L.Flatten(), L.PReLU()]),
    "operations": lambda: operations(),
    "an encoder and a decoder": lambda: encoder_and_decoder(),
    "spectra of images": lambda: through(
        L.Reshape((12, 48)), L.Dense(8), lambda x: keras.ops.fft2((x, keras.ops.zeros_like(x)))[0], L.Dense(3)
    ),
    "a table of another type": lambda: through(Table()),
}


@keras.saving.register_keras_serializable(package="tests")
class Table(keras.Layer):
    """Adds numbers that are kept in a type of their own."""

    def build(self, shape):
        self.table = self.add_weight(shape=shape[1:], dtype="float64", initializer="normal", trainable=False)

    def call(self, x):
        return x + keras.ops.cast(keras.ops.expand_dims(self.table, 0), x.dtype)


@keras.saving.register_keras_serializable(package="tests")
class Attention(keras.Layer):
    """Attention of a sequence to itself, in a layer of one's own."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.attention = L.MultiHeadAttention(2, 4)

    def build(self, shape):
        self.attention.build(shape, shape)

    def call(self, x):
        return x + self.attention(x, x)


def encoder_and_decoder():
    """States go into a decoder twice, and its steps into attention and beside it."""
    inputs = keras.Input((12, 12, 3))
    steps, *states = L.LSTM(5, return_sequences=True, return_state=True)(L.Reshape((12, 36))(inputs))
    x = L.LSTM(5, return_sequences=True)(L.RepeatVector(4)(states[0]), initial_state=states)
    return keras.Model(inputs, L.Dense(3)(L.Concatenate()([x, L.AdditiveAttention()([x, steps])])))


def operations():
    """What Keras writes as operations of a graph, constants and pieces of tensors too."""
    inputs = keras.Input((12, 12, 3))
    x = L.Conv2D(4, 3, padding="same")(inputs) + 0.5
    left, right = keras.ops.split(keras.ops.transpose(x, (0, 2, 1, 3)), 2, axis=-1)
    x = keras.ops.concatenate([left * right, keras.ops.swapaxes(x, 1, 2)[..., 1:]], axis=-1)
    x = L.Conv2D(4, 3)(keras.ops.pad(x / 2.0, ((0, 0), (1, 1), (1, 1), (0, 0))))
    return keras.Model(inputs, L.Dense(3)(keras.ops.max(keras.ops.reshape(x, (-1, 144, 4)), axis=1)))


@pytest.mark.parametrize("case", CARRIED)
def test_what_tf_keras_lacks_is_carried(case, tmp_path):
    """In the file it is as it trained: its numbers inside are floats, and the file says so."""
    keras.utils.set_random_seed(0)
    model = trained_normalizations(CARRIED[case]())
    expected = np.asarray(model(IMAGES, training=False))
    aware = kr.quantization_aware(model, IMAGES)
    assert difference(expected, np.asarray(aware(IMAGES, training=False))) < 0.07
    assert len(aware.trainable_variables) == len(model.trainable_variables)
    file = kr.export_tflite(aware, tmp_path / "m.tflite", "int8", IMAGES)
    assert file.max_difference < 0.05
    assert difference(expected[:8], FileInterpreter(file.path).predict(IMAGES[:8])) < 0.1
    if case in ("product", "normalization behind an activation", "series"):
        assert not file.changes


def test_dense_layers_of_sequences_are_integers(tmp_path):
    """With a bias, which is added behind the product: as kernels of float they were four times as large."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((6, 16))
    for activation in ("relu", None):
        x = L.Dense(16, activation, bias_initializer="random_normal")(x)
    model, data = keras.Model(inputs, x), IMAGES.reshape(-1, 6, 16)[:64]
    file = kr.export_tflite(kr.quantization_aware(model, data), tmp_path / "m.tflite", "int8", data)
    assert not file.changes
    assert file.max_difference < 0.02


def test_what_only_moves_numbers_has_no_range_of_its_own(tmp_path):
    """A range that followed the numbers of one position is not that of all; TensorFlow Lite wants one for both."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 16))
    query, key = keras.ops.unstack(keras.ops.transpose(L.Reshape((6, 2, 16))(L.Dense(32)(inputs)), (2, 0, 1, 3)), 2)
    x = keras.ops.matmul(keras.ops.matmul(query, keras.ops.swapaxes(key, 1, 2)), key) + inputs
    model, data = keras.Model(inputs, L.Dense(3)(x[:, 0])), IMAGES.reshape(-1, 6, 16)[:64]
    aware = kr.quantization_aware(model, data)
    assert not any(
        layer.quantizers.outputs for layer in aware.layers if layer.name.startswith(("transpose", "unstack"))
    )
    aware.compile("adam", "mse")
    aware.fit(data, RANDOM.normal(size=(64, 3)), batch_size=4, epochs=2, verbose=0)
    file = kr.export_tflite(aware, tmp_path / "m.tflite", "int8", data)
    assert not file.changes
    assert file.max_difference < 0.06


def test_numbers_in_the_place_of_what_is_masked_count_for_the_range(tmp_path):
    """No position is masked where both models are compared, on random numbers, but some of the data are."""
    inputs = keras.Input((6, 3))
    x = keras.ops.where(inputs[..., 2:] > 5, -20.0, L.Dense(4)(inputs[..., :2]))
    model, data = keras.Model(inputs, L.Dense(2)(x)), IMAGES.reshape(-1, 6, 3)[:64].copy()
    data[::2, 1, 2] = 6
    file = kr.export_tflite(kr.quantization_aware(model, data), tmp_path / "m.tflite", "int8", data)
    assert "SELECT" not in str(file.changes)
    assert file.max_difference < 1e-5
    assert difference(np.asarray(model(data)), FileInterpreter(file.path).predict(data)) < 0.02


@pytest.mark.parametrize(
    "function",
    [
        lambda x: keras.ops.one_hot(keras.ops.cast(x[:, 0] > 0, "int32"), 3),
        keras.ops.tanh,
        keras.ops.elu,
        keras.ops.square,
        lambda x: keras.ops.flip(x, -1),
    ],
)
def test_parts_with_scales_of_their_own_are_put_together(tmp_path, function):
    """TensorFlow Lite wants one scale for all parts and for what they are together."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    x = L.Concatenate()([function(L.Dense(4)(inputs)), L.Dense(4, kernel_initializer="he_normal")(inputs)])
    model, data = keras.Model(inputs, L.Dense(3)(x)), IMAGES.reshape(-1, 8)[:64]
    file = kr.export_tflite(kr.quantization_aware(model, data), tmp_path / "m.tflite", "int8", data)
    assert file.max_difference < 0.03


@pytest.mark.parametrize("is_first", [True, False])
def test_what_is_put_together_is_read_elsewhere_too(tmp_path, is_first):
    """As the skips of a U-Net: they have the scale that they trained with, not the one of what they become part of."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12, 12, 3))
    skip = L.Conv2D(4, 3, padding="same", activation="relu")(inputs)
    below = L.UpSampling2D()(L.Conv2D(4, 1)(L.MaxPooling2D()(skip)))
    whole = L.Conv2D(3, 1)(L.Concatenate()([below if is_first else L.Conv2D(4, 1)(inputs), skip]))
    model = keras.Model(inputs, [whole] if is_first else [whole, L.Conv2D(3, 1)(L.MaxPooling2D()(skip))])
    file = kr.export_tflite(kr.quantization_aware(model, IMAGES), tmp_path / "m.tflite", "int8", IMAGES)
    assert max(file.differences.values()) < 0.03
    assert "MUL" not in file.operators


def test_units_that_are_all_off_keep_a_range(tmp_path):
    inputs = keras.Input((12, 12, 3))
    off = L.Conv2D(4, 3, activation="relu", bias_initializer=keras.initializers.Constant(-50.0))
    parts = [L.GlobalAveragePooling2D()(x) for x in (L.Conv2D(4, 1)(off(inputs)), inputs)]
    model = keras.Model(inputs, L.Dense(3)(L.Concatenate()(parts)))
    file = kr.export_tflite(kr.quantization_aware(model, IMAGES), tmp_path / "m.tflite", "int8", IMAGES)
    assert file.max_difference < 0.03


def test_names_that_tensorflow_does_not_take(tmp_path):
    inputs = keras.Input((12, 12, 3), name="ein bild")
    x = L.Conv2D(4, 3, name="größe: 1")(inputs)
    x = L.ReLU(name="r 1")(L.BatchNormalization(name="für sich")(L.ReLU(name="r 0")(x)))
    model = keras.Model(inputs, L.Dense(2, name="__out")(keras.ops.gelu(L.Flatten()(x))), name="modell ü 1:2")
    file = kr.export_tflite(kr.quantization_aware(model, IMAGES), tmp_path / "m.tflite", "int8", IMAGES)
    assert file.max_difference < 0.03


def test_divisors_that_are_rounded_to_zero(tmp_path):
    """LiteRT has no quotient of integers for these; in training it is a number, limited by the range of all."""
    model = through(lambda x: 1.0 / (x * x + 1e-3), L.Conv2D(4, 3))
    aware = kr.quantization_aware(model, IMAGES)
    file = kr.export_tflite(aware, tmp_path / "m.tflite", "int8", IMAGES)
    assert file.max_difference < 0.05
    assert "DIV" in str(file.changes)


def test_what_is_carried_trains():
    """Statistics and random numbers too, and zeros stay."""
    import tf_keras

    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((24, 3))
    x = L.LayerNormalization()(L.Conv1D(6, 3, kernel_initializer=with_half)(x))
    x = L.BatchNormalization(momentum=0.5)(L.SpatialDropout1D(0.3)(L.Multiply()([x, x])))
    model = keras.Model(inputs, L.Dense(3)(L.LSTM(5, dropout=0.2)(L.GaussianDropout(0.1)(x))))
    series = IMAGES.reshape(-1, 24, 3)[:96]
    aware = kr.quantization_aware(model, series)
    assert len(aware.trainable_variables) == len(model.trainable_variables)
    weights = [v for v in aware.weights if v.dtype.is_floating and not v.name.endswith(("_min:0", "_max:0"))]
    before = [np.asarray(v) for v in weights]
    loss = tf_keras.losses.MeanSquaredError()
    aware.compile(tf_keras.optimizers.Adam(1e-2), loss)
    losses = aware.fit(series, np.ones((96, 3)), batch_size=16, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert all(not np.array_equal(a, np.asarray(b)) for a, b in zip(before, weights))
    kernel = next(v for v in aware.trainable_variables if "conv1d" in v.name and len(v.shape) == 3)
    assert (np.asarray(kernel) == 0).sum() == 27
    assert np.array_equal(aware(series, training=False), aware(series, training=False))
    assert not np.array_equal(aware(series, training=True), aware(series, training=True))
    assert not np.array_equal(model(series, training=False), aware(series, training=False))  # hers are her own


def test_losses_that_code_adds_are_trained_on():
    class Small(L.Layer):
        def call(self, x):
            self.add_loss(3.0 * keras.ops.mean(keras.ops.square(x)))
            return 2.0 * x

    model = through(Small(), L.Conv2D(4, 3))
    aware = kr.quantization_aware(model, IMAGES)
    outputs = model(IMAGES)
    [expected], [_, found] = model.losses, (aware(IMAGES, training=True), sum(aware.losses))
    assert float(found) == pytest.approx(float(expected), rel=0.03)
    aware.compile("sgd", "mse")
    assert aware.evaluate(IMAGES, outputs, verbose=0) > 0.9 * float(expected)


def with_half(shape, dtype=None):
    return keras.ops.convert_to_tensor(np.arange(np.prod(shape)).reshape(shape) % 2, dtype)


def shared_attention():
    """A layer that is called with one tensor, and with three."""
    one, two = keras.Input((6, 4), name="one"), keras.Input((5, 4), name="two")
    attention = L.MultiHeadAttention(2, 4)
    x = attention(one, one) + attention(one, two, attention_mask=keras.ops.ones((6, 5), "bool"))
    return keras.Model([one, two], L.Dense(3)(L.GlobalAveragePooling1D()(x)))


def masked_words():
    words = keras.Input((7,), dtype="int32", name="words")
    x = L.Embedding(9, 6, mask_zero=True)(words)
    x = L.LSTM(6, return_sequences=True)(x)
    x = L.Dense(5, "relu")(L.Concatenate()([x, L.MultiHeadAttention(2, 3)(x, x)]))
    return keras.Model(words, L.Dense(3)(L.GlobalAveragePooling1D()(x)))


def test_shared_layers_that_are_carried_have_one_set_of_weights(tmp_path):
    keras.utils.set_random_seed(0)
    model = shared_attention()
    data = [IMAGES[:, 0, :6].repeat(2, -1)[..., :4], IMAGES[:, 1, :5].repeat(2, -1)[..., :4]]
    aware = kr.quantization_aware(model, data)
    assert len(aware.trainable_variables) == len(model.trainable_variables)
    assert difference(np.asarray(model(data)), np.asarray(aware(data, training=False))) < 0.05
    assert kr.export_tflite(aware, tmp_path / "m.tflite", "int8", data).max_difference < 0.1


def test_words_and_masks(tmp_path):
    keras.utils.set_random_seed(0)
    model = masked_words()
    model.set_weights([4 * w for w in model.get_weights()])
    words = RANDOM.integers(9, size=(32, 7)) * (np.arange(7) < RANDOM.integers(1, 8, size=(32, 1)))
    aware = kr.quantization_aware(model, words)
    assert difference(np.asarray(model(words)), np.asarray(aware(words, training=False))) < 0.05
    file = kr.export_tflite(aware, tmp_path / "m.tflite", "int8", words)
    assert difference(np.asarray(model(words[:8])), FileInterpreter(file.path).predict(words[:8].astype("int32"))) < 0.1


def test_convolutions_beside_separable_ones_in_a_fresh_process(tmp_path):
    """TensorFlow Model Optimization gives what it makes of these the names that the first layers have."""
    script = tmp_path / "script.py"
    script.write_text(
        "import keras, numpy as np, keras_rmda as kr\n"
        "x = inputs = keras.Input((None, None, 3))\n"
        "x = keras.layers.Conv2D(8, 3, activation='relu')(x)\n"
        "x = keras.layers.BatchNormalization()(keras.layers.SeparableConv2D(8, 3)(x))\n"
        "model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalMaxPooling2D()(x)))\n"
        "data = np.random.default_rng(0).normal(size=(16, 12, 12, 3)).astype('float32')\n"
        "aware = kr.quantization_aware(model, data)\n"
        "difference = np.abs(model(data) - aware(data, training=False)).max() / np.abs(model(data)).max()\n"
        "print(difference < 0.05)\n"
    )
    result = processes.run(script)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.split() == ["True"]


def test_what_is_frozen_stays_frozen():
    import tf_keras

    keras.utils.set_random_seed(0)
    inputs = keras.Input((12, 12, 3))
    x = L.BatchNormalization()(L.Activation("relu")(L.Conv2D(4, 3, name="base")(inputs)))
    x = L.PReLU(name="slopes")(L.Conv2D(4, 3)(x))
    model = keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x)))
    model.get_layer("base").trainable = model.get_layer("slopes").trainable = False
    aware = kr.quantization_aware(model, IMAGES)
    assert len(aware.trainable_variables) == len(model.trainable_variables)
    frozen = [v for v in aware.weights if v.name in ("base/kernel:0", "slopes_alpha:0", "depthwise_kernel:0")]
    before = [np.asarray(v) for v in frozen]
    aware.compile(tf_keras.optimizers.SGD(0.1), tf_keras.losses.MeanSquaredError())
    aware.fit(IMAGES, np.ones((48, 3)), verbose=0)
    assert len(before) >= 2
    assert all(np.array_equal(a, np.asarray(b)) for a, b in zip(before, frozen))


def test_outputs_keep_the_keys_of_dictionaries(tmp_path):
    """In the file, and for the targets."""
    inputs = keras.Input((4,))
    model = keras.Model(inputs, {"b": {"c": L.Dense(2)(inputs)}, "a": L.Dense(3, "softmax")(inputs)})
    aware = kr.quantization_aware(model, IMAGES[:, 0, :4, 0])
    aware.compile("sgd", {"a": "mse", "b/c": "mse"})
    losses = aware.fit(IMAGES[:, 0, :4, 0], {"a": np.zeros((48, 3)), "b/c": np.zeros((48, 2))}, verbose=0).history
    assert {"a_loss", "b/c_loss"} < set(losses)
    assert set(kr.export_tflite(aware, tmp_path / "m.tflite", "int8").differences) == {"a", "b/c"}


@pytest.mark.parametrize("policy", ["mixed_float16", "bfloat16", "float64"])
def test_other_types_of_floats(policy, tmp_path):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [keras.Input((12, 36)), L.Conv1D(6, 3), L.PReLU(), L.GRU(4, recurrent_initializer="normal"), L.Dense(3)]
        )
    finally:
        keras.config.set_dtype_policy(before)
    aware = kr.quantization_aware(model, IMAGES.reshape(48, 12, 36))
    assert {v.dtype.name for v in aware.trainable_variables} == {"float32"}
    assert {layer.compute_dtype for layer in model.layers} == {policy.replace("mixed_", "")}
    assert kr.export_tflite(aware, tmp_path / "m.tflite", "int8").max_difference < 0.05


def stateful():
    inputs = keras.Input((6, 4), batch_size=1)
    return keras.Model(inputs, L.Dense(3)(L.LSTM(5, stateful=True, name="refused")(inputs)))


def test_what_cannot_be_is_named():
    with pytest.raises(Unsupported, match=r"cannot have these layers: 'refused' \(LSTM: it remembers"):
        kr.quantization_aware(stateful())


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


def test_a_normalization_that_is_not_all_that_reads_a_layer(tmp_path):
    x = inputs = keras.Input((12, 12, 3))
    x = L.Conv2D(6, 3, padding="same")(L.Rescaling(0.5)(x))
    outputs = L.GlobalAveragePooling2D()(L.Add()([x, L.BatchNormalization()(x)]))
    model = trained_normalizations(keras.Model(inputs, outputs))
    aware = kr.quantization_aware(model, IMAGES)
    assert difference(np.asarray(model(IMAGES, training=False)), np.asarray(aware(IMAGES, training=False))) < 0.05
    file = kr.export_tflite(aware, tmp_path / "m.tflite", "int8", IMAGES)
    assert file.operators["DEPTHWISE_CONV_2D"] == 1  # it becomes one with a convolution of its own
    assert file.max_difference < 0.05


def test_normalizations_of_one_channel_train():
    """A depthwise convolution before them would stop `fit` by an error of oneDNN, behind a convolution with a bias."""
    inputs = keras.Input((12, 12, 3))
    x = L.Conv2D(1, 1)(L.Conv2D(1, 1, activation="relu")(inputs))
    model = keras.Model(inputs, L.Add()([x, L.BatchNormalization()(x)]))
    aware = kr.quantization_aware(model, IMAGES)
    aware.compile("sgd", "mse")
    assert np.isfinite(aware.fit(IMAGES, np.zeros((48, 12, 12, 1)), verbose=0).history["loss"]).all()


def test_layers_that_begin_with_zeros_are_told():
    inputs = keras.Input((12, 12, 3))
    model = keras.Model(inputs, L.Conv2D(3, 1, kernel_initializer="zeros")(L.Conv2D(8, 3, activation="relu")(inputs)))
    with pytest.warns(kr.SparsityWarning, match="constants, whatever goes in"):
        kr.quantization_aware(model)


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
    aware = kr.quantization_aware(small(L.PReLU()), IMAGES)
    assert len(aware.trainable_variables) == 5
    ranges = [v for v in aware.weights if v.name.endswith("_max:0") and "image_rounded" in v.name]
    assert np.allclose(ranges[0], IMAGES.max())


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
