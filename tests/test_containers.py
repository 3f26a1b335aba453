"""Layers of Keras that hold models or several cells: what is inside is cut."""

import keras
import numpy as np
import pytest
from backend import hidden, only_tensorflow
from keras import layers as L
from keras import ops
from zoo import randomize

import keras_rmda as kr
from keras_rmda.structure import rebuilding
from keras_rmda.structure.verification import VerificationError, difference


def images():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            L.Conv2D(8, 3, activation="relu"),
            L.BatchNormalization(),
            L.MaxPooling2D(),
            L.Conv2D(8, 3, activation="relu"),
            L.GlobalAveragePooling2D(),
        ],
        name="images",
    )


class Subclassed(keras.Model):
    """A model without a graph."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.wide, self.narrow = L.Dense(12, activation="relu"), L.Dense(6)

    def build(self, shape):
        self.wide.build(shape)
        self.narrow.build((*shape[:-1], 12))

    def compute_output_shape(self, shape):
        return (*shape[:-1], 6)

    def call(self, x):
        return self.narrow(self.wide(x))


class Hidden(Subclassed):
    """What nobody looks into."""

    def call(self, x):
        return hidden(super().call(x))


CONTAINERS = {
    "model": ((5, 8, 8, 3), lambda x: L.LSTM(8)(L.TimeDistributed(images())(x))),
    "model_of_any_steps": ((None, 8, 8, 3), lambda x: L.LSTM(8)(L.TimeDistributed(images())(x))),
    "subclassed": ((5, 4), lambda x: L.GRU(8)(L.TimeDistributed(Subclassed())(x))),
    "twice": ((5, 2, 4), lambda x: L.Flatten()(L.TimeDistributed(L.TimeDistributed(Subclassed()))(x))),
    "cells": ((7, 6), lambda x: L.RNN(L.StackedRNNCells([L.LSTMCell(8), L.GRUCell(6)]))(x)),
    "cells_backwards": (
        (None, 6),
        lambda x: L.RNN([L.SimpleRNNCell(8), L.LSTMCell(6), L.GRUCell(5)], True, go_backwards=True)(x),
    ),
}


def halved(model):
    groups = kr.coupled_groups(model)
    for weight in model.weights:
        path = groups.path_among((weight.path, weight.path.removeprefix(f"{model.name}/")))
        if path is not None:
            ids = groups.members[path]
            weight.assign(np.where((ids >= 0) & (ids % 2 == 1), 0.0, keras.ops.convert_to_numpy(weight)))
    return groups


@pytest.mark.parametrize("name", CONTAINERS)
def test_what_is_inside_is_cut(name, tmp_path):
    shape, function = CONTAINERS[name]
    inputs = keras.Input(shape)
    model = randomize(keras.Model(inputs, L.Dense(3)(function(inputs))))
    halved(model)
    assert kr.analyze(model).opaque == {}
    small = kr.strip(model)
    assert small.count_params() < 0.5 * model.count_params()
    x = np.random.default_rng(0).normal(size=[2, *(n or 4 for n in shape)]).astype("float32")
    assert difference(model(x), small(x)) < 1e-5
    small.save(tmp_path / "small.keras")
    assert difference(small(x), keras.models.load_model(tmp_path / "small.keras")(x)) == 0


@only_tensorflow
def test_numbers_of_a_type_other_than_the_usual_one_are_not_rounded():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    inputs = keras.Input((None, 4), dtype="float64")
    model = keras.Model(inputs, L.Dense(3)(L.TimeDistributed(Subclassed())(L.Dense(4)(inputs))))
    keras.config.set_dtype_policy(before)
    randomize(model)
    halved(model)
    small = kr.strip(model, tolerance=1e-13)
    assert small.count_params() < model.count_params()
    x = np.random.default_rng(0).normal(size=(2, 5, 4))
    assert difference(model(x), small(x)) < 1e-13


@only_tensorflow
def test_the_layer_that_differs_is_named_whatever_the_order_of_the_copy(monkeypatch):
    a, b = keras.Input((5, 4)), keras.Input((6, 6, 3))
    x = L.GRU(4)(L.TimeDistributed(Subclassed())(L.Dense(4)(L.Dense(4)(a))))
    y = L.GlobalMaxPooling2D()(L.Conv2D(4, 3, name="wrong")(L.Conv2D(4, 3)(b)))
    model = randomize(keras.Model([b, a], [L.Dense(2)(x), L.Dense(2)(y)]))
    weights = rebuilding.stripped_weights

    def sabotaged(plan, site, folding):
        return [w + (site.name == "wrong") for w in weights(plan, site, folding)]

    monkeypatch.setattr(rebuilding, "stripped_weights", sabotaged)
    with pytest.raises(VerificationError, match="first at 'wrong'"):
        kr.strip(model)


def test_what_cannot_be_traced_inside_stays():
    inputs = keras.Input((5, 4))
    model = randomize(keras.Model(inputs, L.Dense(3)(L.GRU(8)(L.TimeDistributed(Hidden(), name="steps")(inputs)))))
    halved(model)
    small = kr.strip(model)
    assert small.count_params() < model.count_params()
    [(name, reason)] = kr.analyze(model).opaque.items()
    assert name.startswith("steps")
    assert "this code is for numbers" in reason


def test_masks_are_kept():
    inputs = keras.Input((5, 4))
    x = L.RNN([L.LSTMCell(8), L.GRUCell(6)], name="cells")(L.Masking()(inputs))
    model = randomize(keras.Model(inputs, L.Dense(3)(x)))
    data = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    data[:, 3:] = 0
    assert difference(model(data), kr.strip(model)(data)) < 1e-6
    assert kr.analyze(model).opaque


class Experts(L.Layer):
    """A mixture of units that kernels of one weight each hold, and a loss at training that balances them."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.router = L.Dense(3, name="router")

    def build(self, shape):
        self.router.build(shape)
        self.up = self.add_weight(shape=(3, 8, 12), name="up")
        self.down = self.add_weight(shape=(3, 12, 8), name="down")

    def compute_output_shape(self, shape):
        return shape

    def call(self, x, training=False):
        b, n, c = ops.shape(x)
        tokens = ops.reshape(x, (-1, c))
        shares = ops.softmax(self.router(tokens), axis=-1)
        hidden = ops.silu(ops.einsum("tc,ech->eth", tokens, self.up))
        y = ops.einsum("eth,ehc->etc", hidden, self.down)
        y = ops.sum(y * ops.transpose(shares, (1, 0))[:, :, None], axis=0)
        if training:
            self.add_loss(0.1 * ops.sum(ops.square(ops.mean(shares, axis=0))))
        return x + ops.reshape(y, (b, n, c))


@only_tensorflow
@pytest.mark.parametrize("steps", [None, 5])
def test_units_of_experts_go(steps):
    inputs = keras.Input((steps, 8))
    model = randomize(keras.Model(inputs, L.Dense(3)(Experts(name="experts")(L.Dense(8)(inputs)))))
    assert len(halved(model)) >= 12
    assert kr.analyze(model).opaque == {}
    small = kr.strip(model)
    assert small.count_params() < 0.6 * model.count_params()
    for n in (steps or 5, steps or 70):
        x = np.random.default_rng(0).normal(size=(2, n, 4 * 2)).astype("float32")
        assert difference(model(x), small(x)) < 1e-5
        assert small.losses == []
        assert difference(model(x, training=True), small(x, training=True)) < 1e-5
        assert len(model.losses) == 1
        assert difference(model.losses[0], small.losses[0]) < 1e-5


class Penalized(L.Layer):
    """A block whose code adds a loss."""

    def __init__(self, loss, **arguments):
        super().__init__(**arguments)
        self.loss, self.dense = loss, L.Dense(24, "relu", name="dense")

    def build(self, shape):
        self.dense.build(shape)
        self.scale = self.add_weight(shape=(24,), name="scale", initializer="ones")

    def call(self, x, training=None):
        h = self.dense(x)
        self.loss(self, h, training)
        return h * self.scale


def of_training(layer, h, training):
    if training:
        layer.add_loss(ops.sum(ops.square(h)))


def one_more_at_training(layer, h, training):
    layer.add_loss(ops.mean(ops.abs(h)))
    of_training(layer, h, training)


LOSSES = {
    "a sum": (lambda layer, h, training: layer.add_loss(ops.sum(ops.square(h))), True),
    "a mean": (lambda layer, h, training: layer.add_loss(ops.mean(ops.abs(h))), True),
    "one for each sample": (lambda layer, h, training: layer.add_loss(ops.mean(ops.square(h), axis=-1)), True),
    "of means over samples": (lambda layer, h, training: layer.add_loss(ops.sum(ops.square(ops.mean(h, 0)))), True),
    "of a weight": (lambda layer, h, training: layer.add_loss(ops.sum(ops.square(layer.scale))), False),
    "a maximum": (lambda layer, h, training: layer.add_loss(ops.max(h)), False),
    "two": (lambda layer, h, training: layer.add_loss([ops.sum(ops.square(h)), ops.mean(h)]), True),
    "at training": (of_training, True),
    "a number": (lambda layer, h, training: layer.add_loss(ops.convert_to_tensor(0.5)), True),
    "another at training": (lambda layer, h, training: layer.add_loss((2.0 if training else 1.0) * ops.sum(h)), True),
    "one more at training": (one_more_at_training, True),
    "only without training": (lambda layer, h, training: training or layer.add_loss(ops.sum(ops.square(h))), True),
}


@pytest.mark.parametrize(("loss", "goes"), LOSSES.values(), ids=LOSSES)
def test_losses_that_code_adds_stay(loss, goes):
    inputs = keras.Input((6, 8))
    model = randomize(keras.Model(inputs, L.Dense(3)(Penalized(loss, name="penalized")(L.Dense(16, "relu")(inputs)))))
    dense = model.get_layer("penalized").dense
    for each in (dense.kernel, dense.bias):
        each.assign(ops.convert_to_numpy(each) * (np.arange(24) % 2))
    small = kr.strip(model)
    assert (small.count_params() < 0.7 * model.count_params()) is goes
    x = np.random.default_rng(0).normal(size=(4, 6, 8)).astype("float32")
    for training in (False, True):
        assert difference(model(x, training=training), small(x, training=training)) < 1e-5
        assert len(model.losses) == len(small.losses)
        assert all(difference(a, b) < 1e-5 for a, b in zip(model.losses, small.losses))


def nested():
    inputs = keras.Input((4,))
    x = keras.Sequential([keras.Input((8,)), L.BatchNormalization(), L.ReLU()])(L.Dense(8)(inputs))
    return keras.Model(inputs, L.Dense(6)(x) + L.Dense(6)(x))


def one_behind_the_other():
    return keras.Sequential([keras.Input((4,)), L.Dense(8), L.BatchNormalization(), L.ReLU(), L.Dense(6, "relu")])


@pytest.mark.parametrize("inside", [nested, one_behind_the_other])
def test_every_step_keeps_statistics_of_its_own(inside):
    inputs = keras.Input((5, 4))
    model = randomize(keras.Model(inputs, L.Dense(3)(L.TimeDistributed(inside())(inputs))))
    halved(model)
    small = kr.strip(model)
    assert small.count_params() < 0.7 * model.count_params()
    x = np.random.default_rng(0).normal(size=(8, 5, 4)).astype("float32") * np.arange(1.0, 6.0)[:, None]
    for _ in range(2):  # also with the statistics that the first step has left
        assert difference(model(x, training=True), small(x, training=True)) < 1e-4
    assert difference(model(x), small(x)) < 1e-4


def test_penalties_of_every_step_stay():
    inside = keras.Sequential([keras.Input((4,)), L.Dense(8, "relu", activity_regularizer="l2"), L.Dense(6)])
    inputs = keras.Input((5, 4))
    model = randomize(keras.Model(inputs, L.Dense(3)(L.TimeDistributed(inside)(inputs))))
    small, x = kr.strip(model), np.ones((8, 5, 4), "float32")
    model(x), small(x)
    assert float(sum(small.losses)) == pytest.approx(float(sum(model.losses)))


class OwnCell(L.Layer):
    """A cell whose weights have names of their own."""

    def __init__(self, units, **arguments):
        super().__init__(**arguments)
        self.units = self.state_size = units

    def build(self, shape):
        self.inputs_to_units = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.units_to_units = self.add_weight(shape=(self.units, self.units), name="recurrent_kernel")

    def call(self, x, states):
        h = ops.tanh(x @ self.inputs_to_units + states[0] @ self.units_to_units)
        return h, [h]


def test_penalties_take_a_cell_of_a_users_own():
    model = keras.Sequential([keras.Input((5, 4)), L.RNN(OwnCell(6)), L.Dense(16, "relu"), L.Dense(2)])
    model.compile(kr.ProxSGD(0.1, regularizer=kr.GroupLasso(10.0)), "mse")
    model.fit(np.ones((8, 5, 4)), np.ones((8, 2)), verbose=0)
    kernel = ops.convert_to_numpy(model.layers[0].cell.inputs_to_units)
    assert not kernel.any()
    assert list(kr.analyze(model).opaque.values()) == ["RNN with a OwnCell inside"]
