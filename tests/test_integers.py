"""Operations that integers of a file must compute as the model does, and what else is computed of the same numbers."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from keras import ops

import keras_rmda as kr
from keras_rmda.platform import lite

NUMBERS = np.random.default_rng(0).normal(size=(48, 6, 5)).astype("float32")


def both(function):
    """Return a model that hands out numbers, and what a function makes of the same."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input(NUMBERS.shape[1:])
    x = L.Dense(8)(inputs) + 0.3
    return keras.Model(inputs, [x * 1.01, function(x)])


def exported(function, path, quantization):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", kr.SparsityWarning)
        file = kr.export_tflite(both(function), path / "m.tflite", quantization, NUMBERS)
    return list(file.differences.values())


SUMS = {
    "sum": lambda x: ops.sum(x, axis=1),
    "sum of two axes": lambda x: ops.sum(x, axis=(1, 2), keepdims=True),
    "einsum": lambda x: ops.einsum("btc->bc", x),
    "norm": lambda x: ops.norm(x, axis=-1),
    "shares": lambda x: ops.relu(x) / (0.1 + ops.sum(ops.relu(x), axis=-1, keepdims=True)),
    "expectation": lambda x: ops.sum(ops.softmax(x, axis=1) * np.arange(6, dtype="float32")[:, None], axis=1),
    "masked average": lambda x: L.GlobalAveragePooling1D()(x, mask=ops.sum(x, -1) > 0),
    "cosine": lambda x: ops.sum(ops.normalize(x) * ops.normalize(x + 1.0), axis=-1),
    "unit": lambda x: L.UnitNormalization()(x),
    "logsumexp": lambda x: ops.logsumexp(0.1 * x, axis=-1),
    "far minimum": lambda x: ops.minimum(x, 1e6),
    "far maximum": lambda x: ops.maximum(-1e9, x),
    "another padding": lambda x: ops.pad(x, [[0, 0], [1, 1], [0, 0]], constant_values=9.0),
    "few channels": lambda x: L.LayerNormalization()(x[..., :3]),
}


@pytest.mark.parametrize("name", SUMS)
def test_int16_is_as_fine_as_it_is_everywhere(tmp_path, name):
    assert max(exported(SUMS[name], tmp_path, "int16x8")) < 0.06


OF_SOME = {
    "minimum": lambda x: ops.minimum(x, 0.5),
    "minimum below": lambda x: ops.minimum(x, -1.0),
    "maximum": lambda x: ops.maximum(0.5, x),
    "both": lambda x: ops.clip(x, -0.5, 0.7),
    "smaller of two": lambda x: ops.minimum(x[..., :4], x[..., 4:]),
    "larger of two": lambda x: ops.maximum(x, 0.1 * x),
    "leaky": lambda x: ops.where(x > 0, x, 0.1 * x),
    "by another comparison": lambda x: ops.where(ops.abs(x) < 1, x, 0.01 * x),
    "logsumexp": lambda x: ops.logsumexp(x, axis=-1),
    "steps": lambda x: ops.concatenate([x[:, :1] + 0.0, 0.1 * x[:, :1]], axis=-1),
    "averages": lambda x: ops.concatenate([L.AveragePooling1D(3)(x), L.MaxPooling1D(3)(x)], axis=-1),
    "stacked": lambda x: ops.stack([x[:, 0], 0.1 * x[:, 1]], axis=1),
}


@pytest.mark.parametrize("name", OF_SOME)
def test_what_is_less_than_all_cuts_nothing_off_elsewhere(tmp_path, name):
    first, second = exported(OF_SOME[name], tmp_path, "int8")
    assert first < 0.03
    assert second < 0.1


FACTORS = np.random.default_rng(1).uniform(0.5, 2.0, (4, 5)).astype("float32")

OF_SEVERAL_KINDS = {
    "the largest of an input": lambda x: [ops.argmax(x, -1), L.Dense(3)(x)],
    "a constant of powers and products": lambda x: [ops.power(ops.sigmoid(x), FACTORS[0]), ops.tanh(x) * FACTORS[0]],
    "a constant of two products": lambda x: [ops.tanh(x)[..., None, :] * FACTORS, ops.matmul(x, FACTORS.T)],
    "the largest of integers": lambda x: ops.argmax(ops.cast(10.0 * x, "int32"), -1),
    "integers that are stacked": lambda x: ops.argmin(ops.stack([ops.cast(x, "int32"), ops.cast(-x, "int32")]), 0),
    "equal integers": lambda x: ops.equal(*(ops.cast(x[..., k], "int32") for k in (0, 1))),
}


@pytest.mark.parametrize("name", OF_SEVERAL_KINDS)
def test_operators_without_int16_beside_others(tmp_path, name):
    """The quantizer rounds inputs and constants where they are, and asks for ranges of integers."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input(NUMBERS.shape[1:])
    model = keras.Model(inputs, OF_SEVERAL_KINDS[name](inputs))
    file = kr.export_tflite(model, tmp_path / "m.tflite", "int16x8", NUMBERS)
    assert file.max_difference < 0.02


def test_an_input_is_rounded_once(tmp_path):
    inputs = keras.Input(NUMBERS.shape[1:])
    model = keras.Model(inputs, L.Dense(5)(inputs) + inputs)
    assert kr.export_tflite(model, tmp_path / "m.tflite", "int16x8", NUMBERS).operators["QUANTIZE"] == 1


def test_a_small_number_keeps_its_steps_in_int16_too(tmp_path, rng):
    """The converter would calibrate once more by itself, behind a sum that is written over its term."""
    inputs = keras.Input((6,))
    small = L.Dense(4)(0.0001 * inputs)
    model = keras.Model(inputs, [ops.tanh(3000.0 * small), small + 80.0])
    data = rng.normal(size=(48, 6)).astype("float32")
    assert kr.export_tflite(model, tmp_path / "m.tflite", "int16x8", data).differences["output_0"] < 0.05


class Recurrence(L.Layer):
    """A cell that puts its input and its state together."""

    def __init__(self, units):
        super().__init__()
        self.state_size = self.output_size = units
        self.layer = L.Dense(units, "tanh")

    def call(self, x, states):
        y = self.layer(ops.concatenate([x, states[0]], axis=-1))
        return y, [y]


def test_steps_have_the_range_of_all_steps(tmp_path):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input(NUMBERS.shape[1:]), L.RNN(Recurrence(4))])
    file = kr.export_tflite(model, tmp_path / "m.tflite", "int8", NUMBERS)
    assert max(file.differences.values()) < 0.06


def test_resized_images_have_the_range_of_their_own(tmp_path, rng):
    inputs = keras.Input((8, 8, 3))
    x = L.UpSampling2D(interpolation="bilinear")(L.Conv2D(4, 3, padding="same")(inputs))
    model = keras.Model(inputs, L.Concatenate()([x, L.UpSampling2D()(L.Conv2D(4, 1)(inputs))]))
    data = rng.normal(size=(32, 8, 8, 3)).astype("float32")
    assert max(kr.export_tflite(model, tmp_path / "m.tflite", "int8", data).differences.values()) < 0.05


def test_a_small_number_keeps_its_steps_before_a_large_one_is_added(tmp_path, rng):
    """LiteRT writes a sum over its term, where the calibrator looked again."""
    inputs = keras.Input((6,))
    small = L.Dense(4)(0.01 * inputs)
    for_later = [small + 8.0, 0.01 * L.Dense(4)(inputs)]
    model = keras.Model(inputs, for_later[0] - 8.0)
    data = rng.normal(size=(48, 6)).astype("float32")
    graph = keras.Model(inputs, ops.tanh(30.0 * small) + for_later[1])
    assert max(kr.export_tflite(graph, tmp_path / "m.tflite", "int8", data).differences.values()) < 0.05
    with pytest.warns(kr.SparsityWarning, match="'output_0' is"):  # which is lost indeed
        kr.export_tflite(model, tmp_path / "m.tflite", "int8", data)


def test_roots_and_logarithms_of_small_numbers(tmp_path):
    small = lambda x: ops.square(x) + 0.05  # noqa: E731
    for function in (lambda x: ops.rsqrt(small(x)), lambda x: ops.log(small(x))):
        assert max(exported(function, tmp_path, "int16x8")) < 0.03


NEAR_ZERO = {
    "logarithm": (lambda x: ops.log(ops.square(x) + 1e-3), 0.2),
    "root": (lambda x: ops.rsqrt(ops.square(x) + 1e-2), 0.2),
    "two channels": (lambda x: L.LayerNormalization()(x[..., :2]), 0.145),
    "three channels": (lambda x: L.LayerNormalization()(x[..., :3]), 0.045),
    "unit length": (lambda x: ops.normalize(x[..., :2]), 0.1),
    "group": (lambda x: L.GroupNormalization(-1)(x), 0.035),
}


@pytest.mark.parametrize("name", NEAR_ZERO)
def test_what_is_steep_near_zero_stays_in_float(tmp_path, name):
    """What is left is what one rounding of the numbers themselves makes."""
    function, most = NEAR_ZERO[name]
    first, second = exported(function, tmp_path, "int8")
    assert first < 0.03
    assert second < most


def test_what_is_far_from_zero_stays_in_int8(tmp_path):
    model = both(lambda x: ops.log(ops.square(x) + 4.0) + 1.0 / (ops.relu(x) + 2.0))
    file = kr.export_tflite(model, tmp_path / "m.tflite", "int8", NUMBERS)
    assert not any("DIV" in each or "LOG" in each for each in file.changes)


@pytest.mark.parametrize("quantization", ["int8", "int16x8"])
def test_a_model_that_computes_nothing(tmp_path, quantization):
    inputs = keras.Input(NUMBERS.shape[1:])
    file = kr.export_tflite(keras.Model(inputs, inputs), tmp_path / "m.tflite", quantization, NUMBERS)
    assert file.max_difference == 0


def test_a_file_that_is_far_off_says_so(tmp_path):
    with pytest.warns(kr.SparsityWarning, match=r"'output_1' is off by \d+% of its range .* on 16 samples\. See what"):
        kr.export_tflite(both(lambda x: ops.log(ops.abs(x) + 1e-4)), tmp_path / "m.tflite", "int8", NUMBERS)


@pytest.mark.parametrize("rounded", ["int8", "int16", None])
def test_graphs_compute_the_same(rounded):
    x = tf.constant(NUMBERS)
    for name, function in (SUMS | OF_SOME).items():
        model = both(function)
        with lite.tracing(True, rounded):
            graph = tf.function(model, autograph=False).get_concrete_function(tf.TensorSpec(x.shape, "float32"))
        for expected, found in zip(model(x), graph(x)):
            np.testing.assert_allclose(expected, found, rtol=1e-4, atol=2e-5, err_msg=name)


def test_a_division_by_zero_is_one_sentence(tmp_path):
    """LiteRT ends the process at it in int8."""
    inputs = keras.Input(NUMBERS.shape[1:])
    model = keras.Model(inputs, 1.0 / ops.relu(L.Dense(8)(inputs)) + 1.0)
    with pytest.raises(RuntimeError, match=r"infinite numbers|LiteRT cannot run the file") as error:
        kr.export_tflite(model, tmp_path / "m.tflite", "int8", NUMBERS, strip=False)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_infinite_numbers_are_refused(tmp_path):
    inputs = keras.Input(NUMBERS.shape[1:])
    model = keras.Model(inputs, 2.0 * ops.log(ops.relu(L.Dense(8)(inputs))))
    for quantization in ("int8", "int16x8"):
        with pytest.raises(RuntimeError, match=r"computes infinite numbers .*add a small number"):
            kr.export_tflite(model, tmp_path / "m.tflite", quantization, NUMBERS, strip=False)
    assert not list(tmp_path.iterdir())
