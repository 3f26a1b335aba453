"""What int8 and int16 leave of masks and functions, and operations that TensorFlow Lite has not."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_rmda as kr
from keras_rmda.export import tflm
from keras_rmda.export.interpreter import Interpreter

WORDS = 10


def scores(x):
    """Return scores of all words for all words."""
    return ops.matmul(L.Dense(6)(x), ops.swapaxes(L.Dense(6)(x), 1, 2))


def read(weights, x):
    return ops.matmul(weights, L.Dense(6)(x))


def causal(x, kept):
    return L.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True)


def padded(x, kept):
    return L.MultiHeadAttention(2, 4)(x, x, attention_mask=ops.cast(kept, "bool")[:, None])


def with_dropout(x, kept):
    return L.MultiHeadAttention(2, 4, dropout=0.5)(x, x, attention_mask=ops.cast(kept, "bool")[:, None])


def grouped(x, kept):
    return L.GroupQueryAttention(4, 4, 2)(x, x, use_causal_mask=True)


def of_a_layer(x, kept):
    mask = ops.cast(kept, "bool")
    return L.Attention()([x, x, x], mask=[None, mask])


def with_a_mask_of_softmax(x, kept):
    return read(L.Softmax()(scores(x), mask=ops.cast(kept, "bool")[:, None]), x)


def added(x, kept):
    return read(ops.softmax(scores(x) + (1.0 - kept)[:, None] * -1e9), x)


def taken_off(x, kept):
    return read(ops.softmax(scores(x) - 1e9 * (1.0 - kept)[:, None]), x)


def added_as_a_constant(x, kept):
    return read(ops.softmax(scores(x) + np.triu(np.full((WORDS, WORDS), -1e9, "float32"), 1)), x)


def added_with_others(x, kept):
    near = -0.1 * np.abs(np.arange(WORDS)[:, None] - np.arange(WORDS)).astype("float32")
    return read(ops.softmax((scores(x) + (1.0 - kept)[:, None] * -1e9) + near), x)


def selected(x, kept):
    return read(ops.softmax(ops.where(kept[:, None] > 0, scores(x), -1e30)), x)


def selected_the_other_way(x, kept):
    return read(ops.softmax(ops.where(kept[:, None] < 1, -np.inf, scores(x))), x)


def penalties_selected(x, kept):
    return read(ops.softmax(scores(x) + ops.where(kept > 0, 0.0, -1e9)[:, None]), x)


def along_the_first_axis(x, kept):
    masked = scores(x) + (1.0 - kept)[:, :, None] * -1e9
    return read(ops.swapaxes(ops.softmax(masked, axis=1), 1, 2), x)


def reshaped(x, kept):
    masked = ops.where(kept[:, None] > 0, scores(x), -1e9)
    return read(ops.reshape(ops.softmax(ops.reshape(masked, (-1, WORDS))), (-1, WORDS, WORDS)), x)


MASKS = {
    each.__name__: each
    for each in (
        causal, padded, with_dropout, grouped, of_a_layer, with_a_mask_of_softmax, added, taken_off,
        added_as_a_constant, added_with_others, selected, selected_the_other_way, penalties_selected,
        along_the_first_axis, reshaped,
    )
}  # fmt: skip
"""The ways in which people mask scores in front of a softmax."""


def masked(style):
    """Return a model with masked attention, and samples."""
    keras.utils.set_random_seed(0)
    x, kept = keras.Input((WORDS, 8), name="x"), keras.Input((WORDS,), name="kept")
    model = keras.Model([x, kept], L.Dense(4)(MASKS[style](x, kept)))
    random = np.random.default_rng(0)
    data = {"x": random.normal(size=(32, WORDS, 8)), "kept": random.random((32, WORDS)) < 0.7}
    data["kept"][:, 0] = True
    return model, {name: value.astype("float32") for name, value in data.items()}


@pytest.mark.parametrize("style", MASKS)
def test_masked_scores_leave_the_others_their_steps(tmp_path, style):
    """With -1e9 among them, all scores that count would be one step of int8, and every word as good as another."""
    model, data = masked(style)
    for quantization, most in (("int8", 0.1), ("int16x8", 0.04), (None, 1e-5)):
        file = kr.export_tflite(model, tmp_path / "m.tflite", quantization, data)
        assert file.max_difference < most, quantization


def test_scores_that_are_not_masked_stay_as_they_are(tmp_path):
    """Sums with small numbers, selections of them, and huge numbers that are not for a softmax."""
    keras.utils.set_random_seed(0)
    x = keras.Input((WORDS, 8))
    y = scores(x)
    weights = ops.softmax(ops.where(y > 0, y, 0.1 * y) - 3.0)
    model = keras.Model(x, [read(weights, x), ops.max(ops.where(y > 0, y, -4.0), -1)])
    data = np.random.default_rng(0).normal(size=(32, WORDS, 8)).astype("float32")
    file = kr.export_tflite(model, tmp_path / "m.tflite", "int8", data)
    assert file.max_difference < 0.1
    assert "REDUCE_MIN" not in file.operators
    assert file.operators["REDUCE_MAX"] == 1


FUNCTIONS = {
    "softplus": ops.softplus,
    "selu": ops.selu,
    "celu": lambda x: ops.celu(x, 2.0),
    "mish": lambda x: x * ops.tanh(ops.softplus(x)),
    "cut off": lambda x: ops.relu(x) + ops.exp(ops.minimum(0.0, x)),
    "variance": lambda x: x / ops.sqrt(ops.var(x, -1, keepdims=True) + 1.0),
    "rolled": lambda x: x + ops.roll(x, 1, 1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_keep_their_steps(tmp_path, name):
    """Where something within is huge, or the converter gives one number the range of another."""
    keras.utils.set_random_seed(0)
    x = keras.Input((6, 4))
    y = L.Dense(8, kernel_initializer=keras.initializers.RandomNormal(stddev=1.0))(x)
    model = keras.Model(x, L.Dense(3)(FUNCTIONS[name](y)))
    data = np.random.default_rng(0).normal(size=(32, 6, 4)).astype("float32")
    for quantization, most in (("int8", 0.05), ("int16x8", 0.02), (None, 1e-5)):
        file = kr.export_tflite(model, tmp_path / "m.tflite", quantization, data)
        assert file.max_difference < most, quantization


LIMITS = {
    "above all": lambda x: ops.minimum(x, 10.0),
    "far above": lambda x: ops.minimum(x, 1e6),
    "below all": lambda x: ops.minimum(ops.absolute(x), 0.0) + x,
    "of infinity": lambda x: ops.minimum(ops.rsqrt(ops.relu(x)), 2.0),
    "of lengths": L.UnitNormalization(),
    "selu": lambda x: ops.selu(ops.absolute(x)),
}


@pytest.mark.skipif(not tflm.is_installed(), reason="needs tflite-micro")
@pytest.mark.parametrize("name", LIMITS)
def test_microcontrollers_cut_numbers_off(tmp_path, rng, name):
    """Where nothing comes near the limit, or all is beyond it."""
    keras.utils.set_random_seed(0)
    x = keras.Input((16,))
    model = keras.Model(x, LIMITS[name](L.Dense(8)(x)))
    data = rng.normal(size=(32, 16)).astype("float32")
    file = kr.export_tflite(model, tmp_path / "m.tflite", "int8", data, micro=True)
    assert file.max_difference < 0.2
    assert file.micro_difference < 0.2


def test_operators_without_int16_are_told(tmp_path, rng):
    x = keras.Input((6, 4))
    y = L.Dense(5)(x)
    model = keras.Model(x, [ops.argmax(y, -1), ops.elu(y)])
    data = rng.normal(size=(32, 6, 4)).astype("float32")
    file = kr.export_tflite(model, tmp_path / "m.tflite", "int16x8", data)
    assert file.changes == ("ARG_MAX, ELU in float32",)
    assert file.max_difference < 0.02
    assert kr.export_tflite(model, tmp_path / "m.tflite", "int8", data).changes == ("ELU in float32",)


def test_softplus_of_large_numbers(tmp_path):
    """The converter's own is log(1 + e^x), which is infinite from 89 on."""
    x = keras.Input((5,))
    model = keras.Model(x, ops.softplus(x))
    data = np.float32([[-100.0, -1.0, 0.0, 1.0, 1000.0]])
    file = kr.export_tflite(model, tmp_path / "m.tflite", representative_data=data)
    np.testing.assert_allclose(Interpreter(file.path).predict(data), model(data), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("shift", "axis"), [(1, 1), (-2, 1), (9, 2), ((1, -1), (1, 2)), (3, None), (0, 1)])
@pytest.mark.parametrize("steps", [None, 5])
def test_rolled(tmp_path, rng, shift, axis, steps):
    if axis is None and steps is None:
        pytest.skip("rows of all samples")
    batch = 1 if axis is None else None
    x = keras.Input((steps, 4), batch_size=batch)
    model = keras.Model(x, 2.0 * ops.roll(x, shift, axis))
    data = rng.normal(size=(1, 5, 4)).astype("float32")
    file = kr.export_tflite(model, tmp_path / "m.tflite", representative_data=data, batch=batch)
    np.testing.assert_array_equal(Interpreter(file.path).predict(data), model(data))


def test_microcontrollers_get_operators_that_they_have(tmp_path, rng):
    """Copies, truths of axes, masks of loops."""
    keras.utils.set_random_seed(0)
    image, series = keras.Input((6, 6, 2)), keras.Input((5, 3))
    x = L.UpSampling2D(2)(L.Conv2D(4, 3, padding="same")(image))
    y = L.LSTM(4, return_sequences=True)(L.Masking()(series))
    model = keras.Model([image, series], [x, L.RepeatVector(3)(L.Flatten()(y))])
    data = [rng.normal(size=(16, *shape)).astype("float32") for shape in ((6, 6, 2), (5, 3))]
    data[1][::2, 3:] = 0.0
    for quantization, most in ((None, 1e-5), ("int8", 0.2)):
        file = kr.export_tflite(model, tmp_path / "m.tflite", quantization, data, micro=True)
        assert file.not_micro == ()
        assert file.max_difference < most


def test_integers_that_came_as_floats(tmp_path, rng):
    """In int8 a row of numbers leaves single steps between the first ones: integers are taken before that."""
    keras.utils.set_random_seed(0)
    row, color = keras.Input((6,), name="row"), keras.Input((1,), dtype="int32", name="color")
    wide = keras.initializers.RandomNormal(stddev=1.0)
    parts = [
        L.Embedding(90, 4, wide)(row[:, 0]),
        L.Embedding(12, 3, wide)(ops.squeeze(row[:, 2:3], -1)),
        L.CategoryEncoding(4, output_mode="one_hot")(row[:, 1:2]),
        L.CategoryEncoding(5, output_mode="one_hot")(color),
        L.CategoryEncoding(12, output_mode="multi_hot")(row[:, 1:3]),
        L.CategoryEncoding(12, output_mode="count")(row[:, 1:3]),
        row[:, 3:],
    ]
    model = keras.Model([row, color], L.Dense(3)(L.Dense(16, "relu")(L.Concatenate()(parts))))
    data = rng.normal(size=(80, 6)).astype("float32")
    data[:, :3] = rng.integers([90, 4, 12], size=(80, 3))
    data = {"row": data, "color": rng.integers(5, size=(80, 1)).astype("int32")}
    for quantization, most in (("int8", 0.05), (None, 1e-5)):
        file = kr.export_tflite(model, tmp_path / "m.tflite", quantization, data)
        assert file.max_difference < most, quantization
    assert kr.export_tflite(model, tmp_path / "m.tflite", "int8", data, micro=True).not_micro == ()


@pytest.mark.parametrize("axis", [-1, 1])
def test_ones_of_categories(tmp_path, rng, axis):
    """Numbers that are none of the categories have no one."""
    words = keras.Input((5,), dtype="int32")
    model = keras.Model(words, L.Dense(3)(2.0 * ops.one_hot(words, 4, axis=axis)))
    data = rng.integers(-2, 6, size=(64, 5)).astype("int32")
    for quantization, most in ((None, 1e-6), ("int8", 0.05)):
        file = kr.export_tflite(model, tmp_path / "m.tflite", quantization, data)
        assert file.max_difference < most


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("depth", [None, 7])
def test_volumes_are_pooled(tmp_path, rng, padding, depth):
    volumes = keras.Input((depth, 9, 10, 2))
    x = L.AveragePooling3D(3, 2, padding=padding)(volumes)
    model = keras.Model(volumes, L.MaxPooling3D((1, 2, 3), (2, 1, 2), padding=padding)(x))
    data = rng.normal(size=(3, 7, 9, 10, 2)).astype("float32")
    file = kr.export_tflite(model, tmp_path / "m.tflite", representative_data=data)
    assert file.max_difference < 1e-6
    assert file.operators["AVERAGE_POOL_2D"] == file.operators["MAX_POOL_2D"] == 2


@pytest.mark.parametrize("bias", [-50.0, -1.3])
def test_layers_whose_units_are_all_off(tmp_path, rng, bias):
    """What is 0 for all samples, or nearly, has no range; LiteRT refuses steps that fine for a sum of products."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    kernel, bias = keras.initializers.RandomNormal(stddev=0.3), keras.initializers.Constant(bias)
    off = L.Conv2D(2, 1, activation="relu", kernel_initializer=kernel, bias_initializer=bias)(inputs)
    parts = [L.GlobalAveragePooling2D()(x) for x in (L.Conv2D(4, 1)(L.MaxPooling2D()(off)), inputs)]
    y = [L.Dense(3)(L.Concatenate()(parts)), off]
    data = rng.uniform(-1, 1, size=(16, 8, 8, 3)).astype("float32")
    file = kr.export_tflite(keras.Model(inputs, y), tmp_path / "m.tflite", "int8", data, strip=False)
    assert file.differences["output_0"] < 0.05


@pytest.mark.parametrize("method", ["linear", "lower", "nearest", "midpoint"])
def test_quantiles(tmp_path, rng, method):
    """Keras computes positions among sorted numbers of an open size, in float64, which TensorFlow Lite has not."""
    x = keras.Input((5, 4))
    outputs = [ops.quantile(x, [0.3, 0.9], axis=(1, 2), method=method), ops.quantile(x, 0.7, 1, method, keepdims=True)]
    model = keras.Model(x, [*outputs, ops.median(x, axis=-1)])
    data = rng.normal(size=(16, 5, 4)).astype("float32")
    for quantization, most in ((None, 1e-6), ("int8", 0.03)):
        assert kr.export_tflite(model, tmp_path / "m.tflite", quantization, data).max_difference < most


@pytest.mark.parametrize("axis", [1, -1])
def test_numbers_taken_along_an_axis(tmp_path, rng, axis):
    x, places = keras.Input((5, 4)), keras.Input((5, 4), dtype="int32", name="places")
    model = keras.Model([x, places], 2.0 * ops.take_along_axis(x, places, axis=axis))
    data = [rng.normal(size=(16, 5, 4)).astype("float32"), rng.integers(4, size=(16, 5, 4)).astype("int32")]
    file = kr.export_tflite(model, tmp_path / "m.tflite", representative_data=data)
    assert file.max_difference < 1e-6
    assert "INT64" not in str(file.not_micro)
    if axis == -1:
        assert kr.export_tflite(model, tmp_path / "m.tflite", "int8", data, micro=True).not_micro == ()
