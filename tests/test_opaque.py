"""Layers that the converter does not look into count: in reports, in the logs and on the way to a target."""

import keras
import numpy as np
import pytest
from backend import hidden, only_tensorflow
from zoo import randomize, zero

import keras_rmda as kr

L = keras.layers


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(0)


class Unknown(L.Dense):
    """A layer that is not in the table, and whose code cannot be traced."""

    def call(self, x):
        return super().call(hidden(x))


class UnknownConvolution(L.Conv2D):
    """A layer that is not in the table, and whose code cannot be traced."""

    def call(self, x):
        return super().call(hidden(x))


class Tokens(L.Layer):
    """Embeddings of words and of their positions, and a projection."""

    def build(self, shape):
        self.words = self.add_weight(shape=(50, 8), name="embeddings")
        self.positions = self.add_weight(shape=(shape[1], 8), name="position_embedding")
        self.projection = self.add_weight(shape=(8, 4), name="projection")

    def call(self, x):
        return (keras.ops.take(self.words, hidden(x), axis=0) + self.positions) @ self.projection


def partly_opaque():
    x = inputs = keras.Input((6, 4))
    x = x + Unknown(4)(L.Dense(10, "relu")(L.Dense(12, "relu")(x)))
    model = keras.Model(inputs, L.Dense(2)(L.Dense(9, "relu")(x)))
    for layer in model.layers:
        if isinstance(layer, L.Dense):  # it reads eight channels at most
            kernel = keras.ops.convert_to_numpy(layer.kernel)
            layer.kernel.assign(np.where(np.arange(len(kernel))[:, None] < 8, kernel, 0))
    return model


def compiled(model):
    model.compile(kr.ProxSGD(0.05, 0.5, kr.GroupLasso(1e-3, groups=kr.coupled_groups(model))), "mse")
    return model


def layer_of(model, name):
    return next(row for row in kr.analyze(model).layers if row.name == name)


def test_opaque_layers_count_what_the_table_would_count():
    for x, unknown, known in (
        (keras.Input((6, 4)), Unknown(5, name="it"), L.Dense(5, name="it")),
        (keras.Input((9, 7, 2)), UnknownConvolution(3, 3, strides=2, name="it"), L.Conv2D(3, 3, strides=2, name="it")),
        (
            keras.Input((2, 9, 7)),
            UnknownConvolution(3, 3, data_format="channels_first", name="it"),
            L.Conv2D(3, 3, data_format="channels_first", name="it"),
        ),
        (keras.Input((None, 4)), Unknown(5, name="it"), L.Dense(5, name="it")),
    ):
        opaque, row = (layer_of(keras.Model(x, layer(x)), "it") for layer in (unknown, known))
        assert opaque.opaque
        assert (opaque.macs, opaque.macs_after, opaque.parameters) == (row.macs, row.macs, row.parameters)


def test_an_opaque_layer_counts_at_every_call_and_its_embeddings_do_not():
    x, shared = keras.Input((4,)), Unknown(4, name="shared")
    assert layer_of(keras.Model(x, shared(shared(shared(x)))), "shared").macs == 3 * 16
    x = keras.Input((7,), dtype="int32")
    assert layer_of(keras.Model(x, Tokens(name="tokens")(x)), "tokens").macs == 7 * 8 * 4


def test_reports_monitors_and_stripped_models_add_up_with_an_opaque_layer():
    model = compiled(partly_opaque())
    whole = 6 * (4 * 12 + 12 * 10 + 10 * 4 + 4 * 9 + 9 * 2)
    report = kr.analyze(model)
    assert report.macs == whole > report.macs_after == kr.analyze(kr.strip(model)).macs
    x = np.zeros((8, 6, 4), "float32")
    monitor, target = kr.callbacks.SparsityMonitor(), kr.callbacks.TargetSparsity(0.7, end=0.5)
    logs = model.fit(x, np.zeros((8, 6, 2)), epochs=2, verbose=0, callbacks=[target, monitor]).history
    assert logs["macs"][-1] == kr.analyze(model).macs_after == pytest.approx(logs["macs_left"][-1] * whole)
    assert logs["macs_left"][-1] == pytest.approx(0.7, abs=0.03)
    groups = kr.coupled_groups(model, weights="macs")
    assert len(groups) == len(kr.coupled_groups(model))
    assert (groups.weights > 0).all()


def test_parameters_in_opaque_layers_are_warned_of_beyond_a_quarter():
    def begin(inputs):
        x = keras.Input((inputs,))
        layers = [Unknown(6, name="it"), L.Dense(20, use_bias=False), L.Dense(1, use_bias=False)]
        callback = kr.callbacks.TargetSparsity(0.8)
        callback.set_model(compiled(keras.Sequential([x, *layers])))
        callback.on_train_begin()

    begin(6)  # 42 of 182
    says = r"28% of .* such as it: `keras_rmda.analyze` .* `keras_rmda.register_rule`"  # 54 of 194
    with pytest.warns(kr.SparsityWarning, match=says):
        begin(8)


@keras.saving.register_keras_serializable(package="tests")
class Half(L.Layer):
    """Declares two tensors, and returns one of them."""

    def call(self, x, other=None):
        return hidden(x) + (0.0 if other is None else other), None

    def compute_output_shape(self, x_shape, other_shape=None):
        return [x_shape, x_shape]


def test_a_layer_that_declares_what_it_does_not_make_is_opaque():
    inputs = keras.Input((5,))
    x, other = Half(name="first")(L.Dense(6, activation="relu", name="a")(inputs))
    y, _ = Half(name="second")(x, other)
    y = L.Dense(3, name="head")(L.Dense(8, activation="relu", name="b")(y))
    model = randomize(keras.Model(inputs, y))
    assert set(kr.analyze(model).opaque) == {"first", "second"}
    zero(model, "head", 0, [1, 2])
    x = np.ones((2, 5), "float32")
    small = kr.strip(model, inputs=x)
    assert small.get_layer("b").units == 6


@only_tensorflow
def test_code_that_raises_in_a_loop_leaves_strategies_possible():
    """`tf.map_fn` leaves a caching device in TensorFlow's scope of variables if its function raises in a trace."""
    import tensorflow as tf

    class Flattened(keras.layers.Layer):
        def call(self, x):
            return tf.map_fn(lambda row: tf.reshape(row, (20,)), x)

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.steps = [keras.layers.Dense(4), Flattened(), keras.layers.Reshape((20,)), keras.layers.Dense(3)]

        def call(self, x):
            for step in self.steps:
                x = step(x)
            return x

    inner = Model()
    inner(np.zeros((2, 5, 4)))  # code that takes five steps only, in a model that takes any number
    inputs = keras.Input((None, 4))
    assert kr.analyze(keras.Model(inputs, inner(inputs))).opaque
    assert tf.compat.v1.get_variable_scope().caching_device is None
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        keras.layers.Dense(1).build((None, 2))


class Steps(keras.Model):
    """Says how it trains, and not what it computes."""

    def __init__(self):
        super().__init__()
        self.encoder = keras.Sequential([keras.Input((4,)), L.Dense(8), L.Dense(4)])

    def train_step(self, data):
        return {"loss": 0.0}


@pytest.mark.parametrize(
    "function", [kr.analyze, kr.strip, lambda model: kr.compress(model, np.zeros((8, 4), "float32"))]
)
def test_a_model_without_a_call_says_so(function):
    model = Steps()
    model.compile("adam")
    with pytest.raises(ValueError, match=r"'steps.*' of type Steps has no `call`.*models inside one by one"):
        function(model)
