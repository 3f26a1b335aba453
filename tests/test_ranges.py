"""Code that counts up to the size of an open axis: causal masks, positions; caches that there are none of."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_rmda as kr
from keras_rmda.structure.verification import difference


def causal(x):
    n = ops.shape(x)[1]
    positions = ops.arange(n, dtype="float32")
    return ops.broadcast_to(positions[None, :, None] >= positions, (ops.shape(x)[0], n, n))


def distance(x):
    n = ops.shape(x)[1]
    rows, columns = ops.expand_dims(ops.arange(0, n), 1), ops.arange(n)
    return ops.expand_dims(ops.abs(rows - columns) < 3, 0)


def ones(x):
    n = ops.shape(x)[1]
    return ops.ones((1, n, n), "bool")


class Decoder(L.Layer):
    """Attention with a mask of the code's own, and units."""

    def __init__(self, mask, **arguments):
        super().__init__(**arguments)
        self.mask = mask
        self.attention = L.MultiHeadAttention(4, 3, name="attention")
        self.wide, self.narrow = L.Dense(12, activation="relu", name="wide"), L.Dense(8, name="narrow")

    def call(self, x):
        x = x + self.attention(x, x, attention_mask=self.mask(x))
        return x + self.narrow(self.wide(x))

    def get_config(self):
        return super().get_config() | {"mask": self.mask}


def model_of(block):
    x = inputs = keras.Input((None, 8))
    return keras.Model(inputs, L.Dense(3)(L.LayerNormalization()(block(x))))


def halved(model):
    groups = kr.coupled_groups(model)
    for weight in model.weights:
        path = groups.path_among((weight.path.removeprefix(f"{model.name}/"), weight.path))
        if path is not None:
            ids = groups.members[path]
            weight.assign(np.where((ids >= 0) & (ids % 2 == 1), 0.0, keras.ops.convert_to_numpy(weight)))
    return groups


def numbers(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.mark.parametrize("mask", [causal, distance, ones])
def test_masks_of_open_sizes_are_kept(mask, tmp_path):
    model = model_of(Decoder(mask))
    assert len(halved(model)) == 4 + 12
    small = kr.strip(model)
    assert kr.analyze(model).opaque == {}
    assert small.count_params() < 0.65 * model.count_params()
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    for x in (numbers(2, 5, 8), numbers(1, 131, 8)):
        assert difference(model(x), small(x)) < 1e-5
        assert difference(small(x), loaded(x)) == 0


class Sinusoids(L.Layer):
    """Waves along an open axis, added to what there is."""

    def call(self, x):
        angles = ops.cast(ops.arange(ops.shape(x)[1]), "float32")[:, None] * ops.reshape(ops.arange(8.0), (1, 8))
        return x + ops.sin(angles)


def test_waves_along_positions():
    model = model_of(lambda x: L.Dense(8)(L.Dense(12, activation="relu")(Sinusoids()(x))))
    halved(model)
    small = kr.strip(model)
    for x in (numbers(2, 5, 8), numbers(3, 70, 8)):
        assert difference(model(x), small(x)) < 1e-5


class Cached(L.Layer):
    """Attention that returns a cache beside its output, and takes one."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.query, self.key, self.value, self.out = (L.Dense(8, name=name) for name in ("q", "k", "v", "o"))

    def build(self, shape):
        for layer in (self.query, self.key, self.value, self.out):
            layer.build(shape)

    def call(self, x, mask=None, cache=None):
        scores = ops.softmax(ops.matmul(self.query(x), ops.transpose(self.key(x), (0, 2, 1))), axis=-1)
        return self.out(ops.matmul(scores, self.value(x))), cache


class AroundCached(L.Layer):
    """A block that gives no cache, and drops the one that it gets."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.inner = Cached(name="inner")

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        y, _ = self.inner(x, mask=None, cache=None)
        return x + y


def test_layers_may_return_none():
    model = model_of(AroundCached())
    groups = halved(model)
    assert kr.analyze(model).opaque == {}
    assert len(groups) >= 8
    x = numbers(2, 5, 8)
    small = kr.strip(model)
    assert difference(model(x), small(x)) < 1e-5
    assert small.count_params() < model.count_params()


def test_masks_may_be_given_by_position():
    x = inputs = keras.Input((5, 8))
    scores = L.Dense(5, name="scores")(x)
    weights = L.Softmax()(scores, L.Lambda(lambda x: x[..., :5] > -2.0)(x))
    model = keras.Model(inputs, L.Dense(3)(weights))
    assert not [name for name in kr.analyze(model).opaque if "softmax" in name]


def padded(x, y):
    missing = ops.shape(x)[1] - ops.shape(y)[1]
    return x + ops.pad(y, [[0, 0], [missing, 0], [0, 0]])


def last(x, y):
    return x[:, -ops.shape(y)[1] :] + y


def repeated(x, y):
    return x + ops.repeat(y, ops.shape(x)[1] // ops.shape(y)[1], axis=1)


def branched(x, y):
    ops.shape(x)[1] + 1
    return x + (y if ops.shape(x)[1] == ops.shape(y)[1] else ops.mean(y, axis=1, keepdims=True))


class OfTwo(L.Layer):
    """A function of two tensors, with units before it."""

    def __init__(self, function, **arguments):
        super().__init__(**arguments)
        self.function = function
        self.wide, self.narrow = L.Dense(12, activation="relu", name="wide"), L.Dense(8, name="narrow")

    def build(self, *shapes):
        self.wide.build((None, None, 8))
        self.narrow.build((None, None, 12))

    def compute_output_shape(self, shape, *others):
        return shape

    def call(self, x, y):
        return self.function(self.narrow(self.wide(x)), y)


@pytest.mark.parametrize("function", [padded, last, repeated, branched])
def test_what_depends_on_two_open_sizes_is_not_taken_for_one(function):
    x, y = inputs = [keras.Input((None, 8)), keras.Input((None, 8))]
    model = keras.Model(inputs, L.Dense(3)(L.Dense(12)(OfTwo(function, name="two")(x, y))))
    assert halved(model).members
    small = kr.strip(model)
    assert small.count_params() < model.count_params()
    for n, m in ((12, 6), (8, 8), (30, 5)):
        data = [numbers(2, n, 8), numbers(2, m, 8)]
        assert difference(model(data), small(data)) < 1e-5


def cross(x, y):
    b, n, m = ops.shape(x)[0], ops.shape(x)[1], ops.shape(y)[1]
    queries, keys = ops.reshape(x, (b, n, 2, 4)), ops.reshape(y, (b, m, 2, 4))
    scores = ops.softmax(ops.einsum("bnhk,bmhk->bhnm", queries, keys))
    return x + ops.reshape(ops.einsum("bhnm,bmhk->bnhk", scores, keys), (b, n, 8))


def test_open_sizes_that_differ_are_traced():
    x, y = inputs = [keras.Input((None, 8)), keras.Input((None, 8))]
    model = keras.Model(inputs, L.Dense(3)(L.Dense(12)(OfTwo(cross, name="two")(x, y))))
    halved(model)
    small = kr.strip(model)
    assert kr.analyze(model).opaque == {}
    data = [numbers(2, 12, 8), numbers(2, 5, 8)]
    assert difference(model(data), small(data)) < 1e-5
