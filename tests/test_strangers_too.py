"""More models as strangers write them: sizes and tables in code, images that are arranged anew, numbers of heads."""

import math

import keras
import numpy as np
import pytest
from backend import only_tensorflow
from keras import layers as L
from keras import ops
from test_strangers import half_zero, numbers, stripped

import keras_rmda as kr

pytestmark = only_tensorflow
tf = pytest.importorskip("tensorflow")


def layer(function, **arguments):
    """Return a layer whose code is a function of it and a tensor."""

    class Own(L.Layer):
        def call(self, x):
            return function(self, x)

    return Own(**arguments)


# ---- images of open sizes that are arranged anew


def pixels(_, x):
    b, h, w, _ = ops.shape(x)
    y = ops.transpose(ops.reshape(x, (b, h, w, 2, 2, x.shape[-1] // 4)), (0, 1, 3, 2, 4, 5))
    return ops.reshape(y, (b, h * 2, w * 2, x.shape[-1] // 4))


def blocks(_, x):
    b, h, w, c = ops.shape(x)
    return ops.max(ops.reshape(x, (b, h // 2, 2, w // 2, 2, c)), axis=(2, 4))


def shuffled(_, x):
    b, h, w, _ = ops.shape(x)
    return ops.reshape(ops.swapaxes(ops.reshape(x, (b, h, w, 2, x.shape[-1] // 2)), 3, 4), (b, h, w, x.shape[-1]))


REARRANGED = {
    "pixels": (pixels, 8),
    "blocks": (blocks, 16),
    "shuffled": (shuffled, 8),
    "depth_to_space": (lambda _, x: tf.nn.depth_to_space(x, 2), 8),
    "space_to_depth": (lambda _, x: tf.nn.space_to_depth(x, 2), 8),
}


@pytest.mark.parametrize("size", [None, 8])
@pytest.mark.parametrize("name", REARRANGED)
def test_images_are_arranged_anew(name, size):
    function, channels = REARRANGED[name]
    x = inputs = keras.Input((size, size, 3))
    x = layer(function, name="own")(L.Conv2D(channels, 3, padding="same", activation="relu")(x))
    model = keras.Model(inputs, L.Conv2D(2, 1)(L.Conv2D(6, 3, activation="relu")(x)))
    assert half_zero(model) > 6
    assert kr.analyze(model).opaque == {}
    images = [numbers(3, 8, 8, 3)] if size else [numbers(3, 8, 8, 3), numbers(2, 12, 6, 3)]
    assert stripped(model, *images).count_params() < 0.6 * model.count_params()


def resized(_, x):
    return ops.image.resize(x, (7, 5), interpolation="bicubic")


def shifted(_, x):
    return ops.image.pad_images(x[:, 2:, :-1], 0, 1, 2, 0)


def cropped(_, x):
    return ops.image.crop_images(x, 1, 2, target_height=4, target_width=3)


def patches(padding):
    return lambda _, x: ops.image.extract_patches(x, size=3, strides=2, padding=padding)


def normalized(_, x):
    mean, variance = ops.moments(x, axes=[1, 2], keepdims=True)
    return (x - mean) / ops.sqrt(variance + 1e-3)


def deviation(_, x):
    mean, variance = ops.moments(x, axes=[1, 2])
    return x * ops.sqrt(variance)[:, None, None] + mean[:, None, None]


IMAGES = {
    "resized": resized, "shifted": shifted, "cropped": cropped, "patches": patches("valid"),
    "padded_patches": patches("same"), "moments": normalized,
    "moments_without_axes": deviation,
}  # fmt: skip


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_functions_of_images_carry_channels(name, activation):
    x = inputs = keras.Input((9, 9, 3))
    x = layer(IMAGES[name])(L.Conv2D(8, 3, activation=activation)(x))
    model = keras.Model(inputs, L.Conv2D(2, 1)(L.Conv2D(6, 1, activation="relu")(x)))
    assert half_zero(model) >= 8 + 6
    assert kr.analyze(model).opaque == {}
    small = stripped(model, numbers(3, 9, 9, 3))
    assert small.count_params() < 0.7 * model.count_params()


def test_constants_behind_moments_and_patches():
    x = inputs = keras.Input((6, 6, 3))
    x = L.Conv2D(8, 3, activation="sigmoid", name="a")(x)
    x = layer(patches("valid"))(layer(deviation)(x))
    model = keras.Model(inputs, L.Conv2D(2, 1)(x))
    half_zero(model)
    kernel, bias = (ops.convert_to_numpy(w).copy() for w in model.get_layer("a").weights)
    kernel[..., [0, 3]] = 0  # constants other than zero
    model.get_layer("a").set_weights([kernel, bias])
    stripped(model, numbers(3, 6, 6, 3))


def test_the_mean_over_samples_stays_opaque():
    inputs = keras.Input((6, 6, 3))
    x = layer(lambda _, x: x - ops.moments(x, axes=[0, 1, 2])[0], name="own")(L.Conv2D(8, 3)(inputs))
    model = keras.Model(inputs, L.Dense(2)(x))
    assert "Moments with axis=0, over the batch" in kr.analyze(model).opaque.values()


# ---- sizes and tables in code


def attention_of(bias, length):
    """Return a network with attention by hand to whose scores `bias(layer, x)` is added."""

    class Attention(L.Layer):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.packed, self.out = L.Dense(24), L.Dense(8)
            self.mask = ops.tril(ops.ones((1, 1, 16, 16)))
            self.slopes = np.array([0.5, 0.25], "float32")

        def call(self, x):
            b, t, _ = ops.shape(x)
            packed = ops.transpose(ops.reshape(self.packed(x), (b, t, 3, 2, 4)), (2, 0, 3, 1, 4))
            q, k, v = ops.unstack(packed, axis=0)
            scores = ops.softmax(bias(self, ops.matmul(q, ops.swapaxes(k, -1, -2)) / 2.0, t))
            return self.out(ops.reshape(ops.transpose(ops.matmul(scores, v), (0, 2, 1, 3)), (b, t, 8)))

    x = inputs = keras.Input((length, 8))
    x = x + Attention()(L.LayerNormalization()(x))
    return keras.Model(inputs, L.Dense(3)(x))


def by_table(self, scores, t):
    return ops.where(self.mask[:, :, :t, :t] > 0, scores, -1e9)


def by_sizes(self, scores, t):
    rows, columns = ops.arange(t)[:, None], ops.arange(t)
    return ops.where(ops.reshape(rows >= columns - t + t, (1, 1, t, t)), scores, -1e9)


def by_slopes(self, scores, t):
    places = ops.arange(t, dtype="float32")
    return scores + self.slopes[None, :, None, None] * (places - places[:, None])


def by_repeats(self, scores, t):
    places = ops.repeat(ops.expand_dims(ops.arange(t), 0), t, axis=0)
    places = ops.clip(places - ops.transpose(places), -2, 2)
    return scores + ops.cast(ops.tile(places[None, None], (1, 2, 1, 1)), "float32")


def by_places_of_each_head(self, scores, t):
    places = ops.abs(ops.arange(t)[:, None] - ops.arange(t))
    places = ops.broadcast_to(places[None, None], (ops.shape(scores)[0], 2, t, t))
    return scores + ops.take_along_axis(scores, places, axis=3)


def by_gathers(self, scores, t):
    places = ops.abs(ops.arange(t)[:, None] - ops.arange(t))
    places = ops.broadcast_to(places[None, None], (ops.shape(scores)[0], 2, t, t))
    return scores + tf.gather(scores, places, batch_dims=3)


@pytest.mark.parametrize("length", [None, 6])
@pytest.mark.parametrize("bias", [by_table, by_sizes, by_slopes, by_repeats, by_places_of_each_head, by_gathers])
def test_heads_are_groups_whatever_is_added_to_the_scores(bias, length, tmp_path):
    model = attention_of(bias, length)
    assert half_zero(model) == 2
    assert kr.analyze(model).opaque == {}
    small = stripped(model, numbers(3, 6, 8), *([] if length else [numbers(2, 9, 8)]))
    assert next(w.shape for w in small.weights if len(w.shape) > 1) == (8, 12)


def test_a_table_of_positions_that_is_longer_than_what_it_is_added_to():
    angles = np.arange(64)[:, None] / 100 ** (np.arange(8) / 8)
    table = tf.constant(np.sin(angles).astype("float32"))

    def positions(_, x):
        return x * tf.math.sqrt(8.0) + table[tf.newaxis, : tf.shape(x)[1], :]

    x = inputs = keras.Input((None,), dtype="int64")
    x = layer(positions, name="own")(L.Embedding(9, 8)(x))
    model = keras.Model(inputs, L.Dense(3)(L.Dense(10, activation="relu")(x)))
    assert half_zero(model) >= 8
    assert kr.analyze(model).opaque == {}
    stripped(model, numbers(3, 6, below=9), numbers(2, 40, below=9))


def test_arrays_of_one_for_each_sample_are_joined():
    def coordinates(_, x):
        b = ops.shape(x)[0]
        places = ops.reshape(ops.linspace(-1.0, 1.0, x.shape[2]), (1, 1, x.shape[2], 1))
        return ops.concatenate([x, ops.tile(places, (b, x.shape[1], 1, 1))], axis=-1)

    x = inputs = keras.Input((6, 6, 3))
    x = L.Conv2D(8, 3, activation="relu")(layer(coordinates)(x))
    model = keras.Model(inputs, L.Dense(2)(L.Conv2D(6, 3)(layer(coordinates)(x))))
    half_zero(model)
    assert kr.analyze(model).opaque == {}
    stripped(model, numbers(4, 6, 6, 3), numbers(1, 6, 6, 3))


def test_angles_of_steps_are_read_or_not():
    steps = keras.Input(())
    x = ops.expand_dims(steps, 1) * np.exp(-np.arange(6) * math.log(100) / 5).astype("float32")
    x = ops.concatenate([ops.sin(x), ops.cos(x)], axis=-1)
    model = keras.Model(steps, L.Dense(3)(L.Dense(10, activation="relu", name="a")(x)))
    half_zero(model)
    small = stripped(model, numbers(5).reshape(5))
    assert small.get_layer("a").kernel.shape[0] < 12


def test_functions_of_arrays_by_keyword_are_traced():
    def ones(_, x):
        t = ops.shape(x)[1]
        return x + ops.ones(shape=(1, t, 1)) * ops.full(fill_value=2.0, shape=(1, t, 6))

    x = inputs = keras.Input((None, 4))
    model = keras.Model(inputs, L.Dense(2)(layer(ones, name="own")(L.Dense(6)(x))))
    half_zero(model)
    assert kr.analyze(model).opaque == {}
    stripped(model, numbers(3, 6, 4))


@pytest.mark.parametrize("reads", [False, True], ids=["kept", "read"])
def test_scores_that_attention_returns(reads):
    class Attending(L.Layer):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.attention, self.scores = L.MultiHeadAttention(2, 4, name="attention"), None

        def call(self, x):
            y, self.scores = self.attention(query=x, value=x, return_attention_scores=True)
            return y + ops.mean(self.scores, axis=(1, 3))[..., None] if reads else y

    inputs = keras.Input((None, 8))
    model = keras.Model(inputs, L.Dense(3)(L.Dense(10, activation="relu")(Attending(name="own")(inputs))))
    assert half_zero(model) >= 10
    expected = {"own/attention": "MultiHeadAttention with return_attention_scores=True"} if reads else {}
    assert kr.analyze(model).opaque == expected
    stripped(model, numbers(3, 6, 8))


@pytest.mark.skipif(not hasattr(L, "ReversibleEmbedding"), reason="Keras 3.13")
def test_layers_of_keras_take_training_whether_their_code_does_or_not():
    class Reading(L.Layer):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.words = L.ReversibleEmbedding(9, 8)

        def call(self, x, training=None):
            return self.words(x, training=training)

    inputs = keras.Input((None,), dtype="int64")
    model = keras.Model(inputs, L.Dense(3)(L.Dense(10, activation="relu")(Reading()(inputs))))
    assert half_zero(model) >= 8
    assert kr.analyze(model).opaque == {}
    stripped(model, numbers(3, 6, below=9))
