"""Files of models with functions that Keras would read as its own of the same name."""

import functools

import keras
import numpy as np
import pytest
from backend import hidden
from keras import layers as L
from keras import ops
from zoo import randomize

import keras_rmda as kr
from keras_rmda.platform.compat import layers_of


def gelu(x):
    """Not the one of Keras."""
    return x * ops.sigmoid(1.702 * x)


@keras.saving.register_keras_serializable(package="test_named")
def silu(x):
    return x * ops.sigmoid(2.0 * x)


def l2(w):
    return 3.0 * ops.sum(ops.abs(w))


def non_neg(w):
    return ops.clip(w, -1.0, 1.0)


def he_normal(shape, dtype=None):
    return keras.random.normal(shape, dtype=dtype) * 7.0


@keras.saving.register_keras_serializable(package="test_named")
class Opaque(L.Layer):
    """The converter does not look into it."""

    def __init__(self, activation=None, more=None, **arguments):
        super().__init__(**arguments)
        self.activation, self.more = keras.activations.get(activation), more

    def call(self, x):
        return self.activation(hidden(x))

    def get_config(self):
        return super().get_config() | {"activation": keras.activations.serialize(self.activation)}


class Unregistered(Opaque):
    pass


@keras.saving.register_keras_serializable(package="test_named")
class ByName(Opaque):
    """Writes down the bare name."""

    def get_config(self):
        return L.Layer.get_config(self) | {"activation": self.activation.__name__}


def between(*layers, shape=(8,), name="model"):
    """Return a Sequential model whose first layer loses channels."""
    first = [L.Dense(8, "relu", name="first"), L.Dense(9)]
    model = keras.Sequential([keras.Input(shape), *first, *layers, L.Dense(3)], name=name)
    randomize(model)
    kernel = ops.convert_to_numpy(model.get_layer("first").kernel).copy()
    kernel[..., [0, 4]] = 0
    model.get_layer("first").kernel.assign(kernel)
    return model


def nested(function):
    i = keras.Input((9,))
    return keras.Model(i, L.Dense(5, function)(i))


LAYERS = {
    "Dense": lambda f: [L.Dense(5, f)],
    "Activation": lambda f: [L.Activation(f)],
    "Lambda": lambda f: [L.Lambda(f)],
    "Opaque": lambda f: [Opaque(f)],
    "Unregistered": lambda f: [Unregistered(f)],
    "inside of a Sequential": lambda f: [keras.Sequential([keras.Input((9,)), L.Dense(5, f)])],
    "inside of a Functional": lambda f: [nested(f)],
    "Conv1D": lambda f: [L.Reshape((9, 1)), L.Conv1D(4, 3, activation=f), L.Flatten()],
    "GRU": lambda f: [L.Reshape((3, 3)), L.GRU(4, activation=f)],
    "SimpleRNN": lambda f: [L.Reshape((3, 3)), L.RNN(L.SimpleRNNCell(4, activation=f))],
    "TimeDistributed": lambda f: [L.Reshape((3, 3)), L.TimeDistributed(L.Dense(4, f)), L.Flatten()],
    "twice": lambda f: [L.Dense(5, f), L.Activation(f)],
}
"""Where a function is."""

FUNCTIONS = {"of Keras": (ops.gelu, {}), "registered": (silu, {}), "own": (gelu, {"gelu": gelu})}
"""Functions of names that Keras has others of, and what is to be known where they are read."""


def functions_in(model):
    """Return the functions of a model's layers that are among these."""
    held = [value for layer in layers_of(model) for value in vars(layer).values()]
    return [x for x in held if any(x is function for function, _ in FUNCTIONS.values())]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("where", LAYERS)
def test_functions_stay_what_they_are_in_files(where, name, tmp_path):
    function, known = FUNCTIONS[name]
    model = between(*LAYERS[where](function))
    assert functions_in(model) != []
    known = known | ({"Unregistered": Unregistered} if where == "Unregistered" else {})
    small = kr.strip(model)
    assert small.count_params() < model.count_params()
    x = np.random.default_rng(1).normal(size=(4, 8)).astype("float32")
    for step in ("small", "again"):  # what is read is saved again
        small.save(tmp_path / f"{step}.keras")
        loaded = keras.models.load_model(tmp_path / f"{step}.keras", custom_objects=known)
        assert functions_in(loaded) == functions_in(small) == functions_in(model)
        np.testing.assert_array_equal(ops.convert_to_numpy(loaded(x)), ops.convert_to_numpy(small(x)))
        small = loaded
    if name == "own":
        with pytest.raises(ValueError, match=r"the function 'test_named.gelu', which is not known here"):
            keras.models.load_model(tmp_path / "small.keras", custom_objects={"Unregistered": Unregistered})


@pytest.mark.parametrize(
    ("argument", "function"),
    [("kernel_regularizer", l2), ("bias_constraint", non_neg), ("kernel_initializer", he_normal)],
)
def test_penalties_constraints_and_initializers_stay_what_they_are(argument, function, tmp_path):
    small = kr.strip(between(L.Dense(5, name="it", **{argument: function})))
    small.save(tmp_path / "small.keras")
    read = functools.partial(keras.models.load_model, tmp_path / "small.keras")
    assert getattr(read(custom_objects={function.__name__: function}).get_layer("it"), argument) is function
    with pytest.raises((ValueError, TypeError), match=function.__name__):
        read()


def test_factorized_and_gated_models_too(tmp_path):
    for change in (lambda m: kr.factorize(m, tolerance=0.4), kr.gates.insert):
        changed = change(between(L.Dense(7, ops.gelu), L.Dense(6, ops.gelu)))
        changed.save(tmp_path / "it.keras")
        assert functions_in(keras.models.load_model(tmp_path / "it.keras")) == [ops.gelu] * 2


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="functions of TensorFlow")
def test_functions_of_tensorflow_that_are_those_of_keras_need_nothing(tmp_path):
    import tensorflow as tf

    small = kr.strip(between(L.Dense(7, tf.nn.relu), L.Activation(tf.nn.elu)))
    assert type(small) is keras.Sequential
    small.save(tmp_path / "small.keras")
    x = np.ones((2, 8), "float32")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "small.keras")(x), small(x))


def test_a_file_that_would_be_read_as_another_model_is_told_of(tmp_path):
    small = kr.strip(between(ByName(gelu, name="it")))
    with pytest.warns(kr.SparsityWarning, match="the 'activation' of the layer 'it' of type ByName is another one"):
        small.save(tmp_path / "small.keras")
    assert keras.models.load_model(tmp_path / "small.keras").get_layer("it").activation is keras.activations.gelu
    small = kr.strip(between(Opaque("relu", more=3, name="it")))
    with pytest.warns(kr.SparsityWarning, match="the 'more' of the layer 'it' of type Opaque is another one"):
        small.save(tmp_path / "small.keras")


def scaled(factor):
    def function(x):
        return ops.tanh(x) * factor

    return function


def test_two_functions_of_one_name_are_told_of(tmp_path):
    small = kr.strip(between(L.Dense(5, scaled(2.0), name="a"), L.Activation(scaled(3.0), name="b")))
    with pytest.warns(kr.SparsityWarning, match="two functions are called 'function', in 'a' and in 'b'"):
        small.save(tmp_path / "small.keras")
    small = kr.strip(between(L.Dense(5, scaled(2.0)), L.Activation(scaled(2.0))))
    small.save(tmp_path / "small.keras")  # the same, made twice
    loaded = keras.models.load_model(tmp_path / "small.keras", custom_objects={"function": scaled(2.0)})
    x = np.ones((2, 8), "float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(loaded(x)), ops.convert_to_numpy(small(x)))


def test_functions_without_a_name_are_keras_affair(tmp_path):
    small = kr.strip(between(L.Dense(5, lambda x: ops.tanh(x) * 2.0)))
    with pytest.warns(UserWarning, match="includes a `lambda`"):
        small.save(tmp_path / "small.keras")
    small = kr.strip(between(L.Dense(5, functools.partial(ops.gelu, approximate=False))))
    with pytest.raises(TypeError, match="Cannot serialize"):
        small.save(tmp_path / "small.keras")
    assert type(small) is keras.Sequential
