"""Functions: which change each number by itself, which are graphs of operations, and which are neither."""

import functools
import sys

import keras
import numpy as np
import pytest
from backend import BACKEND, hidden, only_tensorflow
from keras import layers as L
from keras import ops
from zoo import randomize, width, zero

import keras_rmda as kr
from keras_rmda.channels.functions import is_elementwise, is_homogeneous
from keras_rmda.structure.inputs import random_inputs
from keras_rmda.structure.verification import difference

ACTIVATIONS = (
    "linear relu relu6 leaky_relu elu celu selu gelu silu mish sigmoid hard_sigmoid log_sigmoid sparse_sigmoid "
    "hard_silu tanh hard_tanh tanh_shrink hard_shrink soft_shrink softplus sparse_plus squareplus softsign exponential"
)
calls = [0]
FACTOR = keras.Variable(2.0)


def counting(x):
    calls[0] += 1
    return calls[0] * x


def noting(x):
    calls.append(x.shape)
    return ops.relu(x)


@keras.saving.register_keras_serializable(package="functions")
def of_training(x, training=None):
    return ops.softmax(x) if training else ops.tanh(x)


ELEMENTWISE = {
    "approximate": lambda x: keras.activations.gelu(x, approximate=True),
    "of CLIP": lambda x: x * ops.sigmoid(1.702 * x),
    "by hand": lambda x: 0.5 * x * (1 + ops.erf(x / np.sqrt(2))),
    "periodic": lambda x: x + ops.square(ops.sin(x)),
    "partial": functools.partial(keras.activations.leaky_relu, negative_slope=0.3),
    "of several numbers": lambda x: keras.activations.relu(x, max_value=3.0, threshold=0.1),
    "bounded": lambda x: ops.clip(x, -1, 1),
    "chosen": lambda x: ops.where(x > 0, x, 0.1 * x),
    "step": lambda x: ops.cast(x > 0, "float32"),
    "the same": lambda x: x,
    "array of one number": lambda x: x * np.array([2.0], "float32"),
    "layer inside": lambda x: L.LeakyReLU(0.1)(x),
    "layer": L.ReLU(4.0),
    "layer of a function": L.Activation("gelu"),
    "silent layer": L.Dropout(0.5),
    "Lambda": L.Lambda(lambda x: 2 * x),
    "Lambda with arguments": L.Lambda(lambda x, k: k * x, arguments={"k": 3.0}),
    "Lambda that trains": L.Lambda(of_training),
    "that takes notes": noting,
}
OTHERS = {
    "softmax": ops.softmax,
    "over positions": lambda x: ops.softmax(x, axis=0),
    "mean": lambda x: x - ops.mean(x, axis=-1, keepdims=True),
    "a little of a mean": lambda x: x + 1e-9 * ops.mean(x),
    "of its size": lambda x: x * x.shape[-1] ** 0.5,
    "random": lambda x: x + keras.random.normal(ops.shape(x)),
    "random number": lambda x: x * np.random.normal(),
    "counting": counting,
    "raising": lambda x: 1 / 0,
    "array": lambda x: x * np.arange(3.0),
    "bounded by arrays": lambda x: ops.clip(x, np.zeros(3), np.ones(3)),
    "turned": lambda x: ops.flip(x, axis=-1),
    "sums": lambda x: ops.cumsum(x, axis=-1),
    "list": lambda x: [x, x],
    "expanded": lambda x: x[..., None],
    "layer with weights": L.PReLU(),
    "layer that is made": lambda x: L.Dense(3)(x),
    "variable": lambda x, v=FACTOR: v * x,
    "Lambda with masks": L.Lambda(lambda x, mask=None: x),
    "no function": 3,
}


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS.split() if hasattr(keras.activations, name)])
def test_activations_of_keras(name):
    assert is_elementwise(getattr(keras.activations, name))
    assert is_homogeneous(getattr(keras.activations, name)) == (name in ("linear", "relu", "leaky_relu"))
    if hasattr(ops, name):
        assert is_elementwise(getattr(ops, name))


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_programs_that_change_each_number_by_itself(name):
    assert is_elementwise(ELEMENTWISE[name])


@pytest.mark.parametrize("name", OTHERS)
def test_other_programs(name):
    assert not is_elementwise(OTHERS[name])


@only_tensorflow
def test_functions_of_tensorflow():
    tf = sys.modules["tensorflow"]
    variable, three = tf.Variable(2.0), tf.constant([1.0, 2.0, 3.0])
    names = "relu relu6 elu selu gelu silu swish leaky_relu softplus softsign sigmoid tanh"
    for name in names.split():
        assert is_elementwise(getattr(tf.nn, name)), name
    for function in (
        lambda x: x * tf.nn.relu6(x + 3) / 6,
        lambda x: tf.where(x > 0, x, tf.zeros_like(x)),
        lambda x: x * tf.constant(2.0),
        lambda x: ops.tanh(tf.math.erf(x)),
        tf.function(lambda x: tf.nn.relu(x) * 2),
        tf.custom_gradient(lambda x: (tf.nn.relu(x), lambda gradient: gradient)),
    ):
        assert is_elementwise(function)
    for function in (
        tf.nn.softmax,
        tf.nn.crelu,
        lambda x: x * variable,
        lambda x: x * three,
        lambda x: tf.constant(x.numpy()),
        lambda x: tf.numpy_function(lambda a: a, [x], tf.float32),
        lambda x: x * tf.strings.to_number(tf.io.read_file("no such file")),
        lambda x: x + tf.random.normal(tf.shape(x)),
        lambda x: tf.cond(tf.reduce_sum(x) > 0, lambda: x, lambda: -x),
        lambda x: x / tf.cast(tf.shape(x)[-1], tf.float32),
        tf.function(lambda x: tf.reverse(tf.nn.relu(x), [-1])),
    ):
        assert not is_elementwise(function)
    assert is_homogeneous(tf.nn.relu)


@pytest.mark.skipif(BACKEND != "jax", reason="needs JAX")
def test_functions_of_jax():
    jax = sys.modules["jax"]
    for name in ["relu", "relu6", "elu", "gelu", "silu", "leaky_relu", "softplus", "sigmoid", "mish", "hard_swish"]:
        assert is_elementwise(getattr(jax.nn, name)), name
    assert is_elementwise(jax.jit(lambda x: jax.numpy.where(x > 0, x, jax.numpy.tanh(x))))
    for function in (jax.nn.softmax, jax.nn.glu, lambda x: x * jax.numpy.arange(3.0), lambda x: x[..., ::-1]):
        assert not is_elementwise(function)


def test_a_function_of_this_name_is_not_that_of_keras():
    def relu(x):
        return ops.relu(x) + 1

    assert is_elementwise(relu)
    assert not is_homogeneous(relu)
    assert is_homogeneous(ops.relu)


def test_what_is_known_of_a_function_does_not_keep_it():
    import gc
    import weakref

    def function(x):
        return ops.tanh(x)

    assert is_elementwise(function)
    reference = weakref.ref(function)
    del function
    gc.collect()
    assert reference() is None


def test_looking_at_a_function_takes_no_names():
    keras.backend.clear_session()
    assert is_elementwise(lambda x: ops.relu(x) * ops.tanh(L.ReLU()(x)))
    x = ops.relu(L.ReLU()(keras.Input((2,))))
    names = [x._keras_history.operation.name, x._keras_history.operation._inbound_nodes[0].input_tensors[0].name]
    assert names[0] == "relu"
    assert L.ReLU().name == "re_lu_1"


# ---- in models


@keras.saving.register_keras_serializable(package="functions")
def quick_gelu(x):
    return x * ops.sigmoid(1.702 * x)


@keras.saving.register_keras_serializable(package="functions")
def cosine(x):
    return ops.cos(x)


@keras.saving.register_keras_serializable(package="functions")
def over_positions(x):
    return ops.softmax(x, axis=1)


def stripped(model, layer="o", unread=(0, 1)):
    """Return a model without the channels that a layer does not read, which computes the same."""
    randomize(model)
    zero(model, layer, 0, list(unread))
    small = kr.strip(model)
    x = random_inputs(model)
    x = x[0] if len(x) == 1 else x
    for a, b in zip(keras.tree.flatten(model(x)), keras.tree.flatten(small(x))):
        assert difference(a, b) < 1e-5
    return small


PLACES = {
    "dense": lambda f: L.Dense(6, activation=f, name="y"),
    "activation": lambda f: keras.Sequential([L.Dense(6, name="y"), L.Activation(f)], name="s"),
    "lambda": lambda f: keras.Sequential([L.Dense(6, name="y"), L.Lambda(f)], name="s"),
    "recurrent": lambda f: L.SimpleRNN(6, activation=f, return_sequences=True, name="y"),
    "convolution": lambda f: L.Conv1D(6, 3, activation=f, name="y"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("function", [quick_gelu, cosine], ids=["quick_gelu", "cosine"])
def test_functions_carry_channels(place, function):
    """The cosine makes ones of zeros: constants that a bias takes."""
    x = keras.Input((5, 4))
    model = keras.Model(x, L.Dense(3, name="o")(PLACES[place](function)(x)))
    groups = kr.coupled_groups(model)
    small = stripped(model)
    name = "y" if place in ("dense", "recurrent", "convolution") else "s/y"
    if place == "recurrent":  # its units read each other
        assert len(groups) == 0 or width(small, name) == 6
        return
    assert len(groups) == 6
    assert width(small, name) == 4


def test_constants_go_through_the_very_function():
    """A unit without weights is cos(bias) at all times."""
    x = keras.Input((5,))
    model = randomize(keras.Model(x, L.Dense(3, name="o")(L.Dense(6, activation=cosine, name="y")(x))))
    zero(model, "y", 1, [2, 4])
    assert width(kr.strip(model, tolerance=1e-6), "y") == 4


OF_TWO = {
    "power": lambda y: y**2,
    "root": lambda y: ops.abs(y) ** 0.5,
    "exponential": lambda y: 2.0**y,
    "remainder": lambda y: y % 0.7,
    "floor": lambda y: y // 0.3,
    "angle": lambda y: ops.arctan2(y, 1.0),
    "logarithm": lambda y: ops.logaddexp(y, 0.3),
}


@pytest.mark.parametrize("name", OF_TWO)
def test_constants_go_through_operations_of_two_numbers(name):
    """Two units are zero, one is what its bias says."""
    x = keras.Input((5,))
    y = OF_TWO[name](L.Dense(6, name="y")(x))
    model = randomize(keras.Model(x, L.Dense(3, name="o")(y)))
    zero(model, "y", 1, [1, 2, 4])
    bias = ops.convert_to_numpy(model.get_layer("y").bias).copy()
    bias[[1, 2]] = 0.0
    model.get_layer("y").bias.assign(bias)
    assert width(kr.strip(model), "y") == 3


STEPS = {
    "floor": lambda y: ops.floor(y / 0.1),
    "of two": lambda y: y // 0.1,
    "sign": lambda y: ops.sign(y - 0.3),
    "remainder": lambda y: ops.mod(ops.relu6(10.0 * y), 0.3),
    "round": lambda y: ops.round(y * 5.0),
}


@pytest.mark.parametrize("name", STEPS)
def test_constants_beside_a_step_stay(name):
    """Rounding in the type of the model decides which side they are on."""
    x = keras.Input((5,))
    model = randomize(keras.Model(x, L.Dense(3, name="o")(STEPS[name](L.Dense(7, name="y")(x)))))
    model.get_layer("y").kernel.assign(np.zeros((5, 7)))
    model.get_layer("y").bias.assign([0.3, 0.6, 0.7, 0.9, 0.0, 2.0, 0.1])
    samples = np.ones((2, 5), "float32")
    np.testing.assert_allclose(kr.strip(model)(samples), model(samples), rtol=1e-5, atol=1e-6)


def test_recurrent_layers_with_activations_that_mix_units_are_opaque():
    x = keras.Input((5, 4))
    model = keras.Model(x, L.Dense(3, name="o")(L.LSTM(6, activation="softmax", name="y")(x)))
    assert width(stripped(model), "y") == 6
    assert kr.analyze(model).opaque == {"y": "LSTM with an activation that mixes its units"}


def test_units_of_an_activation_that_may_want_all_of_them_stay_even_if_nobody_reads_them():
    array = keras.saving.register_keras_serializable("functions", "array")(
        lambda x: x * np.arange(6.0, dtype="float32")
    )
    x = keras.Input((5,))
    y, z = L.Dense(6, activation=array, name="y")(x), L.Dense(6, activation="softmax", name="z")(x)
    model = keras.Model(x, L.Dense(3, name="o")(L.Concatenate()([y, z, x])))
    randomize(model)
    zero(model, "o", 0, list(range(12)))
    rows = {row.name: row for row in kr.analyze(model).layers}
    assert (rows["y"].removable, rows["z"].removable) == (0, 5)
    assert rows["y"].reasons == {"mixed by the activation of y": 6}


@keras.saving.register_keras_serializable(package="functions")
def meaned(t):
    return ops.mean(t, axis=1)


@keras.saving.register_keras_serializable(package="functions")
def joined(ts):
    return ops.concatenate(ts, axis=1)


@keras.saving.register_keras_serializable(package="functions")
def two(t):
    return [ops.relu(t), ops.tanh(t)]


@keras.saving.register_keras_serializable(package="functions")
def reshaped(t):
    batch, n, c = ops.shape(t)
    return ops.transpose(ops.reshape(t, (batch, n, c)), (0, 1, 2))


@keras.saving.register_keras_serializable(package="functions")
def scaled(t, factor, power=1):
    return (factor * t) ** power


@keras.saving.register_keras_serializable(package="functions")
def masked(t, mask=None):
    return t if mask is None else t * ops.cast(mask[..., None], t.dtype)


BLOCKS = {
    "mean": lambda y, z: L.Lambda(meaned)(y),
    "mean of a known shape": lambda y, z: L.Lambda(meaned, output_shape=(6,))(y),
    "mean of a shape by a function": lambda y, z: L.Lambda(meaned, output_shape=lambda s: (s[0], s[2]))(y),
    "first": lambda y, z: L.Lambda(lambda t: t[:, 0])(y),
    "joined": lambda y, z: L.Lambda(joined)([y, z]),
    "added": lambda y, z: L.Lambda(lambda ts: ts[0] + ts[1])([y, z]),
    "by name": lambda y, z: L.Lambda(lambda t: t["a"] * t["b"])({"a": y, "b": z}),
    "two outputs": lambda y, z: L.Add()(L.Lambda(two)(y)),
    "by its shape": lambda y, z: L.Lambda(reshaped)(y),
    "arguments": lambda y, z: L.Lambda(scaled, arguments={"factor": 2.0, "power": 2})(y),
    "known shape": lambda y, z: L.Lambda(lambda t: 2 * t, output_shape=(5, 6))(y),
    "masked": lambda y, z: L.Lambda(masked)(y),
    "training": lambda y, z: L.Lambda(of_training)(y),
    "activation": lambda y, z: L.Activation(lambda t: t + ops.max(t, axis=1, keepdims=True))(y),
    "activation of a list": lambda y, z: L.Activation(lambda t: ops.relu(t[:, ::2]))(y),
}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.filterwarnings("ignore:Layer 'lambda")
def test_functions_of_layers_are_graphs_of_operations(name):
    x = keras.Input((5, 4))
    z = L.Dense(6, name="z")(x)
    made = BLOCKS[name](L.Dense(6, name="y")(L.Masking()(x) if name == "masked" else x), z)
    model = keras.Model(x, L.Dense(3, name="o")(made))
    randomize(model)
    zero(model, "o", 0, [0, 1])
    report = kr.analyze(model)
    assert not [name for name, why in report.opaque.items() if not why.startswith("Any ")]  # which masks pass
    assert {row.name: row.removable for row in report.layers}["y"] == 2
    assert len(kr.coupled_groups(model)) == 6


def test_registered_functions_of_layers_are_stripped():
    x = keras.Input((5, 4))
    pooled = keras.saving.register_keras_serializable("functions", "pooled")(meaned)
    y = L.Lambda(pooled)(L.Dense(6, name="y")(x))
    assert width(stripped(keras.Model(x, L.Dense(3, name="o")(y))), "y") == 4


def test_a_known_shape_of_an_elementwise_function_follows_the_channels():
    x = keras.Input((5, 4))
    y = L.Lambda(cosine, output_shape=(5, 6))(L.Dense(6, name="y")(x))
    assert width(stripped(keras.Model(x, L.Dense(3, name="o")(y))), "y") == 4


def numbers(t):
    return ops.flip(hidden(t), -1)


def made(t):
    return L.Dense(6)(t)


OUTSIDE = keras.Variable(np.ones(6, "float32"), name="outside")
OPAQUE = {
    "for numbers only": (numbers, "this code is for numbers"),
    "of a file": (lambda t: t * np.load("no such file.npy"), "No such file"),
    "with weights of its own": (made, "layer"),
    "with a weight of others": (lambda t: t * OUTSIDE, "the weight"),
    "counting": (lambda t: ops.mean(counting(t), axis=1, keepdims=True) + t, "something else at every call"),
    "random": (lambda t: t + keras.random.normal(ops.shape(t)), "something else at every call"),
    "training": (lambda t, training=None: meaned(t) if training else t[:, 0], "something else at training"),
}


@pytest.mark.parametrize("name", OPAQUE)
def test_what_cannot_be_traced_is_opaque_with_the_true_reason(name):
    function, reason = OPAQUE[name]
    x = keras.Input((5, 4))
    shape = (6,) if name == "training" else (5, 6)
    made = L.Lambda(function, output_shape=shape, name="f")
    made.compute_output_spec = lambda *given, **named: keras.KerasTensor(
        (None, *shape)
    )  # the file is there when it is built
    model = keras.Model(x, L.Dense(3, name="o")(made(L.Dense(6, name="y")(x))))
    report = kr.analyze(model)
    assert set(report.opaque) == {"f"}
    assert reason in report.opaque["f"]
    assert {row.name: row.reasons for row in report.layers}["y"] == {"opaque: f": 6}


def test_a_lambda_with_a_mask_of_its_own_is_opaque():
    x = keras.Input((5, 4))
    y = L.Lambda(lambda t: 2 * t, mask=lambda t, mask: ops.any(t > 0, axis=-1), name="f")(L.Dense(6, name="y")(x))
    model = keras.Model(x, L.Dense(3, name="o")(L.LSTM(5)(y)))
    assert kr.analyze(model).opaque["f"] == "Lambda with a mask of its own"


# ---- layers that do more than it seems


@pytest.mark.parametrize("shared", [None, [1], [2], [2, 3], [1, 2, 3], [1, 3]])
@pytest.mark.parametrize("first", [False, True])
def test_prelu_along_any_axes(shared, first):
    """Slopes that are none of channels take nothing along; those that are go with them."""
    where = {"data_format": "channels_first" if first else "channels_last", "use_bias": False}
    x = keras.Input((3, 8, 8) if first else (8, 8, 3))
    y = L.Conv2D(6, 1, name="y", **where)(x)
    y = L.PReLU("uniform", shared_axes=shared)(L.BatchNormalization(axis=1 if first else -1, name="norm")(y))
    model = randomize(keras.Model(x, L.Conv2D(3, 1, name="o", **where)(y)))
    zero(model, "o", 2, [2, 4])
    assert [row.removable for row in kr.analyze(model).layers if row.name == "y"] == [2]
    if BACKEND != "tensorflow" or not first:  # TensorFlow has no such convolutions on CPUs outside of XLA
        assert width(kr.strip(model), "y") == 4


def test_prelu_of_two_calls_along_other_axes_is_opaque():
    x = keras.Input((6, 6, 6))
    slopes = L.PReLU("uniform", name="slopes")
    y = slopes(L.Conv2D(6, 1, name="y")(x))
    z = slopes(L.Conv2D(6, 1, data_format="channels_first", use_bias=False, name="z")(x))
    model = keras.Model(x, [L.Dense(3, name="o")(y), L.Dense(3)(z)])
    assert kr.analyze(model).opaque == {"slopes": "PReLU with channels along another axis at another call"}


@pytest.mark.parametrize("training", [None, False, True])
def test_resizing_computes_the_same_at_training(training):
    x = keras.Input((8, 8, 3))
    y = L.Resizing(4, 4)(L.Conv2D(6, 3, name="y")(x), training=training)
    model = randomize(keras.Model(x, L.Conv2D(3, 1, name="o")(y)))
    zero(model, "o", 2, [0, 1])
    assert kr.analyze(model).opaque == {}
    assert width(kr.strip(model), "y") == 4


@only_tensorflow
@pytest.mark.parametrize("layer", [L.Conv2D, L.SeparableConv2D, L.Conv2DTranspose])
@pytest.mark.parametrize(("filters", "dead", "left"), [(10, 2, 9), (10, 3, 7), (9, 1, 9), (16, 8, 9)])
def test_widths_at_which_keras_misplaces_a_bias_are_avoided(layer, filters, dead, left):
    """`ops.add` adds a bias of 8 channels along the last axis of images of 8 columns."""
    where = {"data_format": "channels_first"}
    x = keras.Input((3, 8, 8))
    y = layer(filters, 1, name="y", **where)(x)
    model = randomize(keras.Model(x, L.Conv2D(3, 1, name="o", **where)(y)))
    zero(model, "o", 2, list(range(dead)))
    report = kr.analyze(model)
    [row] = [row for row in report.layers if row.name == "y"]
    assert row.channels - row.removable == left
    assert ("instead of a width of y that Keras does not compute rightly" in row.reasons) == (left == 9)
    assert kr.strip(model).get_layer("y").filters == left
    assert len(kr.coupled_groups(model)) == filters


@only_tensorflow
@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_a_bias_that_keras_misplaces_keeps_its_layer_whole(bias):
    """Eight channels of eight columns: without a bias they go, with one that was added to columns they do not."""
    where = {"data_format": "channels_first"}
    x = keras.Input((3, 8, 8))
    y = L.PReLU("uniform", shared_axes=[2, 3])(L.Conv2D(8, 1, name="y", **where)(x))
    model = randomize(keras.Model(x, L.Conv2D(3, 1, name="o", **where)(y)))
    model.get_layer("y").bias.assign(bias * np.arange(8.0))
    zero(model, "o", 2, [0, 1])
    [row] = [row for row in kr.analyze(model).layers if row.name == "y"]
    assert row.removable == (0 if bias else 2)
    assert kr.strip(model).get_layer("y").filters == (8 if bias else 6)
    if bias:
        assert row.reasons == {"read by o": 6, "bias of y that Keras adds along another axis": 2}
    with pytest.raises(ValueError, match="No channel"):
        kr.coupled_groups(model)


@only_tensorflow
def test_a_bias_that_keras_misplaces_takes_no_constants():
    """Eight outputs of eight columns read a constant, which their bias could not take."""
    where = {"data_format": "channels_first"}
    x = keras.Input((3, 8, 8))
    y = L.Conv2D(5, 1, name="y", activation=cosine, **where)(x)
    model = randomize(keras.Model(x, L.Conv2D(8, 1, name="o", **where)(y)))
    model.get_layer("o").bias.assign(np.zeros(8))
    zero(model, "y", 3, [1, 3])
    reasons = {row.name: row.reasons for row in kr.analyze(model).layers}
    assert reasons["y"] == {"read by o": 3, "constant that o has no bias for": 2}
    kr.strip(model)
