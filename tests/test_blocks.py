"""Layers and models of a user's own: what their code computes is traced, and cut like layers of Keras."""

import re

import keras
import numpy as np
import pytest
from backend import hidden, only_tensorflow
from keras import layers as L
from keras import ops
from zoo import randomize, zero

import keras_rmda as kr
from keras_rmda.compression.result import compared
from keras_rmda.structure.inputs import random_inputs
from keras_rmda.structure.verification import difference

pytestmark = only_tensorflow
own = keras.saving.register_keras_serializable(package="tests_blocks")


def layer_of(call, **shapes):
    """Return a layer of a class whose code is `call(layer, x)`, with weights of these names and shapes."""

    class Own(L.Layer):
        def build(self, shape):
            for name, size in shapes.items():
                setattr(self, name, self.add_weight(shape=size, name=name))

    Own.call = call
    return Own(name="own")


def between(layer, positions=(9,), width=16, convolution=False):
    """Return a network in which two layers of Keras stand around one of a user's own; four channels are not read."""
    inputs = keras.Input((*positions, 5))
    x = (L.Conv2D(width, 1, name="a") if convolution else L.Dense(width, name="a"))(inputs)
    model = randomize(keras.Model(inputs, L.Dense(6, name="b")(layer(x))))
    return ignore(model, "b")


def ignore(model, name, channels=(0, 3, 5, 6)):
    """Let a layer of a model not read these of its input channels."""
    kernel = ops.convert_to_numpy(model.get_layer(name).kernel).copy()
    kernel[list(channels)] = 0
    model.get_layer(name).kernel.assign(kernel)
    return model


def stripped(model):
    """Return the stripped model, which computes the same, also from a file."""
    small = kr.strip(model)
    flat = random_inputs(model)
    x = flat[0] if len(flat) == 1 else flat
    assert difference(model(x), small(x)) < 1e-5
    again = keras.Model.from_config(small.get_config()) if isinstance(small, keras.Model) else None
    again.set_weights(small.get_weights())
    assert difference(small(x), again(x)) == 0
    return small


def batch(x):
    return ops.shape(x)[0]


# Code in which the channels of `a` that `b` does not read go, with the weights that belong to them.
CARRIED = {
    "scale": (lambda self, x: x * self.gamma, {"gamma": (16,)}),
    "scale_by_the_value": (lambda self, x: x * self.gamma.value + 1.0, {"gamma": (16,)}),
    "affine": (lambda self, x: x * self.g + ops.expand_dims(self.b, 0), {"g": (1, 1, 16), "b": (1, 16)}),
    "scalars": (lambda self, x: x * ops.exp(self.t) + self.u, {"t": (), "u": (1,)}),
    "normalization": (
        lambda self, x: (x - self.m) * ops.rsqrt(self.v * self.v + 1e-3) * self.g + self.b,
        dict.fromkeys("mvgb", (16,)),
    ),
    "positions": (lambda self, x: x + self.table[: ops.shape(x)[1]], {"table": (20, 16)}),
    "positions_of_one_sample": (lambda self, x: x + self.table[:, : x.shape[1], :], {"table": (1, 20, 16)}),
    "token": (
        lambda self, x: ops.concatenate([ops.broadcast_to(self.token, (batch(x), 1, 16)), x], axis=1),
        {"token": (1, 1, 16)},
    ),
    "tiled_token": (
        lambda self, x: ops.concatenate([ops.tile(self.token, [batch(x), 1, 1]), x], axis=1),
        {"token": (1, 1, 16)},
    ),
    "repeated_token": (
        lambda self, x: ops.concatenate([ops.repeat(self.token, batch(x), axis=0), x], axis=1),
        {"token": (1, 1, 16)},
    ),
    "token_of_one_axis": (
        lambda self, x: ops.concatenate([x, self.token[None, None] * ops.ones_like(x[:, :1])], axis=1),
        {"token": (16,)},
    ),
    "three_tokens": (
        lambda self, x: ops.concatenate([ops.broadcast_to(self.token, (batch(x), 3, 16)), x], axis=1),
        {"token": (1, 1, 16)},
    ),
    "reshaped_by_its_sizes": (lambda self, x: ops.reshape(ops.reshape(x, (batch(x), 3, 3, -1)), (-1, 9, 16)), {}),
}


@pytest.mark.parametrize("name", CARRIED)
def test_channels_go_through_code(name):
    call, shapes = CARRIED[name]
    model = between(layer_of(call, **shapes))
    assert kr.analyze(model).opaque == {}
    small = stripped(model)
    assert small.get_layer("a").units == 12
    after = sum(np.prod(shape, dtype=int) * (12 if shape[-1:] == (16,) else 16) // 16 for shape in shapes.values())
    assert small.count_params() == 6 * 12 + after + 13 * 6


# Code that makes new channels with weights of its own: 16 or 9, as a layer of Keras would. What it reads can go.
PRODUCTS = {
    "matmul": (lambda self, x: ops.matmul(x, self.w) + self.b, {"w": (16, 16), "b": (16,)}),
    "operator": (lambda self, x: x @ self.w, {"w": (16, 16)}),
    "transposed": (lambda self, x: ops.matmul(x, ops.transpose(self.w)), {"w": (16, 16)}),
    "dot": (lambda self, x: ops.dot(x, self.w), {"w": (16, 16)}),
    "tensordot": (lambda self, x: ops.tensordot(x, self.w, axes=1), {"w": (16, 16)}),
    "einsum": (lambda self, x: ops.einsum("bnd,de->bne", x, self.w), {"w": (16, 16)}),
    "einsum_the_other_way": (lambda self, x: ops.einsum("de,bnd->bne", self.w, x), {"w": (16, 16)}),
    "convolution": (lambda self, x: ops.conv(x, self.w, padding="same"), {"w": (3, 16, 16)}),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_with_weights_are_those_of_layers(name):
    call, shapes = PRODUCTS[name]
    model = between(layer_of(call, **shapes))
    axis = -1 if name == "transposed" else -2
    value = np.moveaxis(ops.convert_to_numpy(model.get_layer("own").w).copy(), axis, 0)
    value[:5] = 0
    model.get_layer("own").w.assign(np.moveaxis(value, 0, axis))
    small = stripped(model)
    assert small.get_layer("a").units == 11
    assert small.get_layer("b").kernel.shape == (12, 6)


class Positions(L.Layer):
    """A table of positions that is asked for numbers which are a weight of the layer."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.table = L.Embedding(9, 16, name="table")

    def build(self, shape):
        self.numbers = self.add_weight(shape=(1, 9), dtype="int32", trainable=False, name="numbers")
        self.numbers.assign(np.arange(9)[None])
        self.table.build()

    def call(self, x):
        return x + self.table(self.numbers)


def test_layers_may_be_called_on_weights():
    inputs = keras.Input((9, 5))
    positions = Positions(name="own")
    model = keras.Model(inputs, L.Dense(6, name="b")(positions(L.Dense(16, name="a")(inputs))))
    ignore(model, "b")
    assert kr.analyze(model).opaque == {}
    small = stripped(model)
    assert small.count_params() == 6 * 12 + 9 * 12 + 9 + 13 * 6


def test_products_of_several_kinds():
    """A matrix from the left, a depthwise convolution, a table of words, a normalization."""
    model = between(layer_of(lambda self, x: ops.matmul(self.w, x), w=(4, 9)))
    assert kr.analyze(model).opaque == {}
    stripped(model)
    convolve = lambda self, x: ops.depthwise_conv(x, self.w, padding="same") + self.b  # noqa: E731
    depthwise = layer_of(convolve, w=(3, 3, 16, 1), b=(16,))
    small = stripped(between(depthwise, (7, 7), convolution=True))
    assert small.get_layer("a").filters == 12
    words = layer_of(lambda self, x: ops.take(self.w, x, axis=0), w=(30, 16))
    x = keras.Input((9,), dtype="int32")
    small = stripped(ignore(randomize(keras.Model(x, L.Dense(6, name="b")(words(x)))), "b"))
    assert small.count_params() == 30 * 12 + 13 * 6
    norm = layer_of(lambda self, x: ops.layer_normalization(x, self.g, self.b), g=(16,), b=(16,))
    assert stripped(between(norm)).count_params() == between(norm).count_params()


@own
class Attention(L.Layer):
    """Attention as people write it: sizes by `ops.shape`, layers in a dictionary, dropout by position."""

    def __init__(self, dim=16, heads=4, **arguments):
        super().__init__(**arguments)
        self.dim, self.heads = dim, heads
        self.dense = {name: L.Dense(dim, name=name) for name in "qkvo"}
        self.dropout = L.Dropout(0.1)

    def build(self, shape):
        for each in self.dense.values():
            each.build(shape)

    def call(self, x, training=None):
        b, n, _ = ops.shape(x)
        q, k, v = (ops.reshape(self.dense[name](x), (b, n, self.heads, -1)) for name in "qkv")
        q, k, v = (ops.transpose(each, (0, 2, 1, 3)) for each in (q, k, v))
        weights = self.dropout(ops.softmax(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2)))), training=training)
        y = ops.reshape(ops.transpose(ops.matmul(weights, v), (0, 2, 1, 3)), (b, n, self.dim))
        return self.dense["o"](y)


@pytest.mark.parametrize("positions", [9, None])
def test_attention_is_traced_whether_its_sizes_are_open_or_not(positions):
    x = inputs = keras.Input((positions, 16))
    x = x + Attention(name="attention")(x)
    x = x + L.Dense(16, name="b")(L.Dense(32, "relu", name="a")(x))
    model = ignore(randomize(keras.Model(inputs, L.Dense(4)(x))), "b")
    assert "attention" not in kr.analyze(model).opaque
    assert stripped(model).get_layer("a").units == 28


def test_products_of_two_tensors_count_as_operations():
    """In reports too, as they do in targets; those of the stripped model have other names."""
    x = inputs = keras.Input((9, 16))
    x = x + Attention(name="attention")(x)
    model = randomize(keras.Model(inputs, L.Dense(4)(x)))
    kernel = model.get_layer("attention").dense["o"].kernel
    kernel.assign(np.where(np.arange(16)[:, None] < 4, 0.0, kernel))  # nobody hears the first head
    report = kr.analyze(model)
    assert report.macs == 9 * (4 * 16 * 16 + 16 * 4) + 2 * 9 * 9 * 16
    assert report.macs_after == kr.analyze(kr.strip(model)).macs < report.macs
    assert compared(report, kr.analyze(kr.strip(model))).macs_after == report.macs_after


def test_windows_merge_with_the_batch_and_come_back():
    @own
    class Windows(L.Layer):
        def call(self, x):
            b, h, w, c = ops.shape(x)
            x = ops.transpose(ops.reshape(x, (b, h // 4, 4, w // 4, 4, c)), (0, 1, 3, 2, 4, 5))
            return ops.reshape(x, (-1, 16, c))

    @own
    class Image(L.Layer):
        def call(self, x):
            b, c = ops.shape(x)[0] // 9, x.shape[-1]
            return ops.reshape(ops.transpose(ops.reshape(x, (b, 3, 3, 4, 4, c)), (0, 1, 3, 2, 4, 5)), (b, 12, 12, c))

    inputs = keras.Input((12, 12, 5))
    x = Image()(L.Dense(16, name="a")(Windows()(inputs)))
    model = ignore(randomize(keras.Model(inputs, L.Conv2D(6, 3, name="c")(L.Dense(16, name="b")(x)))), "b")
    assert kr.analyze(model).opaque == {}
    assert stripped(model).get_layer("a").units == 12


@own
class Feedforward(L.Layer):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.up, self.down, self.drop = L.Dense(16, name="up"), L.Dense(5, name="down"), L.Dropout(0.3)

    def build(self, shape):
        self.up.build(shape)
        self.down.build((*shape[:-1], 16))

    def call(self, x, training=None):
        return self.down(self.drop(self.up(x), training=training))


@own
class ByPosition(Feedforward):
    def call(self, x, training=None):
        return self.down(self.drop(self.up(x), training))


@own
class ByDefault(Feedforward):
    def call(self, x, training=False):
        return self.down(self.drop(self.up(x), training=training))


@own
class BeforeAnotherOperation(Feedforward):
    def call(self, x, training=None):
        y = self.up(x)
        return self.down(self.drop(ops.relu(y), training=training) * ops.sigmoid(y))


@own
class BehindAnotherOperation(Feedforward):
    def call(self, x, training=None):
        y = self.up(x)
        return self.down(ops.sigmoid(y) * self.drop(ops.relu(y), training=training))


@own
class WithLayersMadeInCall(Feedforward):
    def call(self, x, training=None):
        return self.down(L.Dropout(0.2)(L.Activation("relu")(self.up(x)), training=training))


KINDS = [Feedforward, ByPosition, ByDefault, BeforeAnotherOperation, BehindAnotherOperation, WithLayersMadeInCall]


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_passed_in_many_ways(kind):
    inputs = keras.Input((9, 5))
    model = randomize(keras.Model(inputs, kind(name="block")(inputs)))
    kernel = ops.convert_to_numpy(model.get_layer("block").down.kernel).copy()
    kernel[[0, 3, 5, 6]] = 0
    model.get_layer("block").down.kernel.assign(kernel)
    assert kr.analyze(model).opaque == {}
    assert len(kr.coupled_groups(model)) == 16
    if kind is not ByPosition:  # which Keras cannot call with `training=False`
        assert stripped(model).count_params() == 6 * 12 + 13 * 5


@own
class DropPath(L.Layer):
    """Leaves out whole samples at training, by random numbers of its own."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.seed_generator = keras.random.SeedGenerator(1)

    def call(self, x, training=None):
        if not training:
            return x
        kept = keras.random.uniform((ops.shape(x)[0], 1, 1), seed=self.seed_generator) > 0.5
        return 2 * x * ops.cast(kept, x.dtype)


def test_what_does_nothing_at_inference_stays_and_carries_channels():
    model = between(DropPath(name="own"))
    assert kr.analyze(model).opaque == {}
    small = kr.strip(model)
    assert small.get_layer("a").units == 12
    assert type(small.get_layer("own")) is DropPath
    x = np.ones((64, 9, 5), "float32")
    norms = np.linalg.norm(small.get_layer("own")(small.get_layer("a")(x), training=True), axis=(1, 2))
    assert 0 < (norms == 0).sum() < 64


WHY_NOT = {
    "numbers": (lambda self, x: hidden(x), "symbolic tensors"),
    "assigned": (lambda self, x: (self.w.assign(self.w + 1.0), x)[1], "assigns to a weight of its own"),
    "new_weights": (lambda self, x: L.Dense(16, name="new")(x), "whose weights it does not have"),
    "a_function": (
        lambda self, x: ops.cond(ops.sum(x) > 0, lambda: x, lambda: -x),
        "chooses by numbers",
    ),
}


@pytest.mark.parametrize("name", WHY_NOT)
def test_what_cannot_be_traced_says_why_and_stays(name):
    call, why = WHY_NOT[name]
    model = between(layer_of(call, w=(), m=(16, 16)))
    [(where, reason)] = kr.analyze(model).opaque.items()
    assert where == "own"
    assert re.search(why, reason), reason


def test_weights_of_layers_inside_are_not_made_constants():
    """A transposed embedding as a classifier: the operation on numbers would forget where they come from."""

    @own
    class Tied(L.Layer):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.words = L.Embedding(30, 16)

        def call(self, x):
            return ops.matmul(self.words(x), ops.transpose(self.words.embeddings * 1.0))

    x = keras.Input((9,), dtype="int32")
    model = keras.Model(x, L.Dense(3)(Tied(name="tied")(x)))
    assert kr.analyze(model).opaque == {}
    small = kr.strip(model)
    tables = [v for v in small.weights if tuple(v.shape) == (30, 16)]
    assert len(tables) == 1
    x = np.arange(9)[None]
    before = ops.convert_to_numpy(small(x))
    tables[0].assign(tables[0] * 2.0)
    layer = small.layers[-1]
    bias = ops.convert_to_numpy(layer.bias)
    assert np.allclose(small(x) - bias, 4.0 * (before - bias), rtol=1e-4, atol=1e-6), "both uses see the new table"


@own
class Vision(keras.Model):
    """A subclassed model with a class token of its own."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.embed, self.attention, self.head = L.Dense(16), Attention(name="attention"), L.Dense(3)
        self.up, self.down = L.Dense(24, "relu", name="up"), L.Dense(16, name="down")
        self.token = self.add_weight(shape=(1, 1, 16), name="token", initializer="normal")

    def call(self, inputs, training=False):
        x = self.embed(inputs["image"])
        x = ops.concatenate([ops.repeat(self.token, ops.shape(x)[0], axis=0), x], axis=1)
        x = x + self.attention(x, training=training)
        return self.head((x + self.down(self.up(x)))[:, 0])


def test_subclassed_models_may_have_weights_of_their_own():
    model, x = Vision(), {"image": np.ones((2, 4, 8), "float32")}
    model(x)
    randomize(model)
    kernel = ops.convert_to_numpy(model.down.kernel).copy()
    kernel[:6] = 0
    model.down.kernel.assign(kernel)
    small = kr.strip(model)
    assert small.count_params() == model.count_params() - 6 * (16 + 1 + 16)
    assert difference(model(x), small(x)) < 1e-5


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
def test_weights_of_a_layers_own_follow_its_policy(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = between(layer_of(*CARRIED["affine"][:1], **CARRIED["affine"][1]))
        small = kr.strip(model)
    finally:
        keras.config.set_dtype_policy(before)
    assert small.get_layer("a").units == 12
    assert {w.dtype for w in small.weights} == {w.dtype for w in model.weights}


def test_weights_of_a_layers_own_are_trained_in_groups():
    model = between(layer_of(*CARRIED["scale"][:1], **CARRIED["scale"][1]))
    groups = kr.coupled_groups(model)
    model.compile(kr.ProxSGD(0.05, regularizer=kr.GroupLasso(0.45, groups=groups)), "mse")
    x = np.random.default_rng(0).normal(size=(64, 9, 5)).astype("float32")
    before = ops.convert_to_numpy(model.get_layer("own").gamma).copy()
    model.fit(x, x[..., :1] * np.ones(6, "float32"), epochs=6, verbose=0)
    assert (ops.convert_to_numpy(model.get_layer("own").gamma) != before).any()
    small = stripped(model)
    assert small.count_params() == kr.analyze(model).parameters_after
    assert 0 < small.get_layer("a").units < 12


@pytest.mark.parametrize("shapes", [((1,), ()), ((5,), (5, 1)), ((5, 1), (5,))])
def test_models_inside_that_get_an_axis_more_or_less(shapes):
    inner_shape, shape = shapes
    x = inner_input = keras.Input(inner_shape)
    x = L.Flatten()(x) if len(inner_shape) > 1 else x
    inner = keras.Model(inner_input, L.Dense(4)(L.Dense(16, activation="relu")(x)))
    inputs = keras.Input(shape)
    model = randomize(keras.Model(inputs, inner(inputs)))
    kernel = ops.convert_to_numpy(inner.layers[-1].kernel).copy()
    kernel[[0, 3, 5, 6]] = 0
    inner.layers[-1].kernel.assign(kernel)
    small = kr.strip(model)
    assert kr.analyze(model).opaque == {}
    assert small.count_params() < model.count_params()
    data = np.random.default_rng(0).normal(size=(3, *shape)).astype("float32")
    assert difference(model(data), small(data)) < 1e-5


class Angles(L.Layer):
    """A layer that declares an open size wherever it is called, by which the code reshapes."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.project = L.EinsumDense("abc,cde->abde", output_shape=(None, 2, 4), name="project")
        self.back = L.EinsumDense("abde,dec->abc", output_shape=(None, 6), name="back")

    def call(self, x):
        y = self.project(x)
        angles = ops.expand_dims(ops.arange(ops.shape(x)[1], dtype=x.dtype), -1) * ops.ones((1, 4))
        return x + self.back(y * ops.cos(ops.reshape(angles, (1, ops.shape(y)[1], 1, 4))))


@pytest.mark.parametrize("steps", [None, 5])
def test_a_reshape_by_a_size_that_a_layer_declares_open(steps):
    inputs = keras.Input((steps, 6))
    model = randomize(keras.Model(inputs, L.Dense(3)(Angles(name="angles")(L.Dense(6)(inputs)))))
    small = kr.strip(model)
    for n in (5, steps or 9):
        x = np.random.default_rng(0).normal(size=(2, n, 6)).astype("float32")
        np.testing.assert_allclose(small(x), model(x), rtol=1e-5, atol=1e-5)
    assert kr.analyze(model).opaque == {}


class Tempered(L.Layer):
    """Numbers of its own that are no channels: a temperature, a scale and a shift."""

    def build(self, shape):
        self.temperature = self.add_weight(shape=(), name="temperature")
        self.scale, self.shift = self.add_weight(shape=(1,), name="scale"), self.add_weight(shape=(1, 1), name="shift")

    def call(self, x):
        return x * ops.exp(self.temperature) * self.scale + self.shift


def test_single_numbers_of_a_layer_s_own():
    inputs = keras.Input((6,))
    y = L.Dense(8, activation="relu", name="y")(inputs)
    model = randomize(keras.Model(inputs, L.Dense(3, name="o")(Tempered(name="tempered")(y))))
    groups = kr.coupled_groups(model)
    assert len(groups.names) == 8
    zero(model, "o", 0, [1, 4])
    small = kr.strip(model)
    assert small.count_params() == model.count_params() - 2 * (6 + 1 + 3)
    x = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    np.testing.assert_allclose(small(x), model(x), rtol=1e-5, atol=1e-5)
