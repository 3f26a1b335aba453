"""What users of other pruning libraries reported as failures; each comment names the project and its issue."""

import keras
import numpy as np
import pytest
from backend import hidden, only_tensorflow
from keras import layers as L
from keras import ops
from zoo import block, randomize, width, zero

import keras_rmda as kr
from keras_rmda.structure.inputs import random_inputs
from keras_rmda.structure.verification import difference


def array(x):
    return np.array(keras.ops.convert_to_numpy(x))


def widths(model, *names):
    return [width(model, name) for name in names]


def assert_same(model, small):
    """Both models compute the same, and the second one is smaller."""
    inputs = random_inputs(model, batch=5)
    inputs = inputs if len(inputs) > 1 else inputs[0]
    assert difference(model(inputs, training=False), small(inputs, training=False)) < 1e-5
    assert small.count_params() < model.count_params()


# Torch-Pruning 179 and 126: a convolution with one output channel is taken for a depthwise one.
@pytest.mark.parametrize("channels", [1, 3])
def test_a_convolution_from_or_to_one_channel_is_not_depthwise(channels):
    x = inputs = keras.Input((10, 10, channels))
    x = L.Conv2D(1, 3, name="narrow")(L.Conv2D(8, 3, activation="relu", name="a")(x))
    x = L.Conv2D(6, 3, activation="relu", name="b")(x)
    model = randomize(keras.Model(inputs, L.Conv2D(1, 3, name="c")(x)))
    zero(model, "narrow", -2, [0, 1, 2])
    zero(model, "c", -2, [5])
    small = kr.strip(model)
    assert widths(small, "a", "narrow", "b", "c") == [5, 1, 5, 1]
    assert_same(model, small)


# Torch-Pruning 8: a layer is left without channels.
def test_no_layer_is_left_without_channels():
    x = inputs = keras.Input((8, 8, 3))
    x = L.Add()([block(x, 4, "stem"), block(block(x, 6, "a"), 4, "b")])
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(L.GlobalAveragePooling2D()(x))))
    for name in ("b", "d"):
        zero(model, name, -2, range(6 if name == "b" else 4))
    small = kr.strip(model)
    assert widths(small, "stem", "a", "b", "d") == [1, 1, 1, 3]
    assert all(n > 0 for weight in small.weights for n in weight.shape)
    assert_same(model, small)


# Torch-Pruning 125: a reshape behind a dense layer.
def test_a_dense_layer_that_is_reshaped_into_an_image():
    x = inputs = keras.Input((6,))
    x = L.Reshape((4, 4, 5))(L.Dense(80, activation="relu", name="a")(x))
    model = randomize(keras.Model(inputs, L.Conv2D(3, 3, name="b")(x)))
    zero(model, "b", -2, [0, 3])
    small = kr.strip(model)
    assert widths(small, "a", "b") == [4 * 4 * 3, 3]
    assert_same(model, small)


def softmax(x):
    return L.Dense(5, activation="softmax", name="a")(x)


def normalized(x):
    return L.LayerNormalization(name="norm")(L.Dense(5, name="a")(x))


@keras.saving.register_keras_serializable(package="peers")
def opposite(x):
    return -ops.flip(ops.flip(hidden(x), -1), -1)


def unknown(x):
    return L.Lambda(opposite, name="unknown")(L.Dense(5, name="a")(x))


STAYS = {
    softmax: "mixed by the activation of a",
    normalized: "mixed by norm",
    unknown: "opaque: unknown",
}


# OTO 43 and 57: zeros are found, no channel is removed, and nothing says why.
@pytest.mark.parametrize("layers", STAYS, ids=lambda layers: layers.__name__)
def test_every_channel_that_stays_has_a_reason(layers):
    inputs = keras.Input((6,))
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(layers(inputs))))
    zero(model, "d", 0, [0, 1])
    report = kr.analyze(model)
    assert report.removable == 0
    row = next(row for row in report.layers if row.name == "a")
    assert row.reasons[STAYS[layers]] >= 2
    assert sum(row.reasons.values()) == row.channels == 5
    assert STAYS[layers] in str(report)
    assert set(report.opaque) == ({"unknown"} if layers is unknown else set())


# OTO 9: training goes on after the cut.
def test_training_is_resumed_after_the_cut(rng, tmp_path):
    x = rng.normal(size=(128, 8, 8, 2)).astype("float32")
    y = 8 * x.mean(axis=(1, 2)) @ rng.normal(size=(2, 3)).astype("float32")
    inputs = keras.Input((8, 8, 2))
    outputs = L.Dense(3, name="d")(L.GlobalAveragePooling2D()(block(block(inputs, 8, "a"), 8, "b")))
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.fit(x, y, epochs=2, verbose=0)
    zero(model, "b", -2, [0, 1, 2])
    zero(model, "d", 0, [4])
    kr.strip(model).save(tmp_path / "small.keras")
    small = keras.models.load_model(tmp_path / "small.keras")
    assert widths(small, "a", "b") == [5, 7]
    small.compile(keras.optimizers.Adam(0.01), "mse")
    before = model.evaluate(x, y, verbose=0)
    assert small.evaluate(x, y, verbose=0) == pytest.approx(before, rel=1e-4)
    weights = [w.copy() for w in small.get_weights()]
    first, *_, last = small.fit(x, y, epochs=10, verbose=0).history["loss"]
    assert last < first / 2
    assert all(np.any(a != b) for a, b in zip(weights, small.get_weights()))


# OTO 7: a model with several inputs.
def test_several_inputs():
    image, vector = keras.Input((8, 8, 3), name="image"), keras.Input((4,), name="vector")
    x = L.GlobalAveragePooling2D()(L.Conv2D(6, 3, name="a")(image))
    x = L.Concatenate()([x, L.Dense(5, activation="relu", name="b")(vector), vector])
    model = randomize(keras.Model([image, vector], L.Dense(3, name="d")(x)))
    zero(model, "d", 0, [0, 1, 6 + 2, 6 + 5 + 3])
    small = kr.strip(model)
    assert widths(small, "a", "b", "d") == [4, 4, 3]
    assert small.input_shape == model.input_shape
    assert_same(model, small)


# NNI 2666: the masks of what is summed contradict each other.
def test_zeros_that_conflict_in_a_residual_sum():
    x = inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(6, 3, padding="same", name="stem")(x)
    x = L.Add()([x, L.Conv2D(6, 3, padding="same", name="a")(x)])
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(L.GlobalAveragePooling2D()(x))))
    for name, filters in {"stem": [0, 1, 2], "a": [2, 3]}.items():
        zero(model, name, -1, filters)
        zero(model, name, 0, filters, "bias")
    small = kr.strip(model)
    assert widths(small, "stem", "a", "d") == [5, 5, 3]
    assert_same(model, small)


# NNI 5298: the groups of a depthwise convolution no longer fit its channels.
def test_depthwise_convolutions_fit_the_channels_that_stay():
    x = inputs = keras.Input((8, 8, 3))
    for k in range(2):
        y = L.DepthwiseConv2D(3, padding="same", name=f"depthwise{k}")(block(x, 12, f"expand{k}"))
        y = L.BatchNormalization()(L.Conv2D(4, 1, use_bias=False, name=f"project{k}")(y))
        x = L.Add()([x, y]) if k else y
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(L.GlobalAveragePooling2D()(x))))
    zero(model, "project0", -2, range(8))
    zero(model, "project1", -2, range(0, 12, 2))
    small = kr.strip(model)
    assert widths(small, "expand0", "depthwise0", "project0") == [4, 4, 4]
    assert widths(small, "expand1", "depthwise1", "project1") == [6, 6, 4]
    assert_same(model, small)


# NNI 2130 and 4402: accuracy drops when the masked filters are cut, since normalization makes something of their zeros.
def test_zero_filters_behind_batch_normalization_compute_the_same():
    x = inputs = keras.Input((12, 12, 3))
    x = L.MaxPooling2D()(block(block(x, 8, "a"), 8, "b", padding="valid"))
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(L.Flatten()(x))))
    for name in ("a", "b"):
        zero(model, name, -1, [1, 4])
        zero(model, f"{name}_norm", 0, [1, 4], "beta", 3.0)
        zero(model, f"{name}_norm", 0, [1, 4], "moving_mean")
    small = kr.strip(model)
    assert widths(small, "a", "b") == [6, 6]
    assert_same(model, small)


# keras-surgeon 64 and 66: BatchNormalization, SeparableConv2D and Add are not supported.
def test_a_residual_network_of_separable_convolutions():
    x = inputs = keras.Input((8, 8, 3))
    x = block(x, 8, "stem")
    y = L.BatchNormalization(name="norm1")(L.SeparableConv2D(6, 3, padding="same", use_bias=False, name="s1")(x))
    y = L.SeparableConv2D(8, 3, padding="same", use_bias=False, name="s2")(L.ReLU()(y))
    x = L.ReLU()(L.Add()([x, L.BatchNormalization(name="norm2")(y)]))
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(L.GlobalAveragePooling2D()(x))))
    zero(model, "s2", -2, [0, 5], "pointwise_kernel")
    zero(model, "s1", -2, [3], "pointwise_kernel")
    zero(model, "d", 0, [2, 3])
    small = kr.strip(model)
    assert widths(small, "stem", "s1", "s2") == [7, 4, 7]
    assert small.get_layer("norm1").gamma.shape == (4,)
    assert small.get_layer("norm2").gamma.shape == (7,)
    assert_same(model, small)


# tfmot 173, 611, 722 and 1135: a pruned model is neither smaller nor faster.
@only_tensorflow
def test_files_are_smaller_and_operations_fewer(tmp_path):
    x = inputs = keras.Input((12, 12, 3))
    x = L.Flatten()(block(block(x, 16, "a"), 32, "b", padding="valid"))
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(L.Dense(64, activation="relu", name="c")(x))))
    unpruned = kr.export_tflite(model, tmp_path / "unpruned.tflite", strip=False).bytes
    zero(model, "b", -2, range(8))
    zero(model, "c", 0, [32 * p + k for p in range(100) for k in range(16)])
    zero(model, "d", 0, range(32))
    zeros = kr.export_tflite(model, tmp_path / "zeros.tflite", strip=False).bytes
    small = kr.strip(model)
    stripped = kr.export_tflite(small, tmp_path / "stripped.tflite").bytes
    assert unpruned == zeros
    assert stripped < 0.35 * zeros
    report, after = kr.analyze(model), kr.analyze(small)
    assert after.macs == report.macs_after
    half = 144 * 27 * 8 + 100 * 72 * 16 + 1600 * 32 + 32 * 3
    assert after.macs == half < 0.5 * report.macs


# tfmot 1132: depthwise convolutions are silently left as they are.
def test_depthwise_convolutions_are_cut_and_reported():
    x = inputs = keras.Input((8, 8, 3))
    x = L.DepthwiseConv2D(3, use_bias=False, name="depthwise")(L.Conv2D(8, 1, name="a")(x))
    model = randomize(keras.Model(inputs, L.Conv2D(4, 1, name="b")(x)))
    zero(model, "depthwise", -2, [0, 6])
    row = next(row for row in kr.analyze(model).layers if row.name == "depthwise")
    assert (row.channels, row.removable) == (8, 2)
    assert (row.parameters, row.parameters_after) == (9 * 8, 9 * 6)
    assert (row.macs, row.macs_after) == (36 * 9 * 8, 36 * 9 * 6)
    small = kr.strip(model)
    assert small.get_layer("depthwise").kernel.shape == (3, 3, 6, 1)
    assert widths(small, "a", "b") == [6, 4]
    assert_same(model, small)


@keras.saving.register_keras_serializable(package="peers")
class Subclassed(keras.Model):
    """A model that is no graph of layers."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.a, self.b = L.Dense(8, activation="relu", name="a"), L.Dense(3, name="b")

    def call(self, x):
        return self.b(self.a(x))


def functional():
    inputs = keras.Input((6,))
    return keras.Model(inputs, L.Dense(3, name="b")(L.Dense(8, activation="relu", name="a")(inputs)))


def sequential():
    model = keras.Sequential([L.Dense(8, activation="relu", name="a"), L.Dense(3, name="b")])
    model.build((None, 6))
    return model


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 6), "float32"))
    return model


def nested():
    return keras.Sequential([keras.Input((6,)), functional()])


# tfmot 1141 and 1172: models of Keras 3 are refused, since they are no models of tf.keras.
@pytest.mark.parametrize("build", [functional, sequential, subclassed, nested], ids=lambda build: build.__name__)
def test_all_kinds_of_models_are_accepted(build, rng):
    model = randomize(build())
    owner = model.layers[-1] if build is nested else model
    kernel = owner.get_layer("b").kernel
    kernel.assign(array(kernel) * (np.arange(8) > 2)[:, None])
    small = kr.strip(model)
    assert width(small, f"{owner.name}/a" if build is nested else "a") == 5
    x = rng.normal(size=(5, 6)).astype("float32")
    np.testing.assert_allclose(array(small(x)), array(model(x)), atol=1e-6)
    assert small.count_params() == model.count_params() - 3 * (6 + 1 + 3)


# tfmot multiplies kernels by masks of zeros and ones, which leaves zeros with the sign of what they were.
def test_zeros_from_masks_are_zeros():
    masked, zeroed = (randomize(keras.models.clone_model(functional())) for _ in range(2))
    for name, axis, indices in (("b", 0, [0, 3, 5]), ("a", -1, [1])):
        kernel = masked.get_layer(name).kernel
        mask = np.ones(kernel.shape, "float32")
        mask.swapaxes(0, axis)[indices] = 0
        kernel.assign(array(kernel) * mask)
        zero(zeroed, name, axis, indices)
    assert any(np.signbit(w[w == 0]).any() for w in map(array, masked.weights))
    small, other = kr.strip(masked), kr.strip(zeroed)
    assert small.get_layer("a").units == 4
    for a, b in zip(small.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert_same(masked, small)
