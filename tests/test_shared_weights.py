"""Weights that are used more than once, and kernels that code makes of weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from backend import only_tensorflow
from keras import layers as L
from keras import ops
from test_strangers import half_zero, numbers, stripped
from zoo import randomize

import keras_rmda as kr
from keras_rmda.structure.verification import difference

pytestmark = only_tensorflow
own = keras.saving.register_keras_serializable(package="tests_shared")


def saved(small, x, folder):
    """Return what is read back from a file, which computes the same."""
    small.save(folder / "small.keras")
    again = keras.models.load_model(folder / "small.keras")
    assert again.count_params() == small.count_params()
    for a, b in zip(*(keras.tree.flatten(each(x)) for each in (small, again)), strict=True):
        assert difference(a, b) == 0
    return again


# ---- weights that are used more than once


@own
class Autoencoder(keras.Model):
    """An encoder, and its transpose as the decoder, written in several ways."""

    def __init__(self, kind="keras", **arguments):
        super().__init__(**arguments)
        self.kind = kind
        self.first, self.second = L.Dense(12, activation="relu"), L.Dense(6, activation="relu")

    def get_config(self):
        return super().get_config() | {"kind": self.kind}

    def build(self, shape):
        self.first.build(shape)
        self.second.build((None, 12))
        self.b1, self.b2 = self.add_weight(shape=(12,), name="b1"), self.add_weight(shape=(shape[-1],), name="b2")

    def call(self, x):
        code = self.second(self.first(x))
        if self.kind == "tensorflow":
            hidden = tf.nn.relu(tf.nn.bias_add(tf.matmul(code, self.second.kernel, transpose_b=True), self.b1))
            return tf.matmul(hidden, self.first.kernel, transpose_b=True) + self.b2
        turned = ops.transpose if self.kind == "keras" else (lambda w: ops.swapaxes(w, 0, 1))
        hidden = ops.relu(ops.matmul(code, turned(self.second.kernel)) + self.b1)
        return ops.matmul(hidden, turned(self.first.kernel)) + self.b2


@pytest.mark.parametrize("kind", ["keras", "swapped", "tensorflow"])
def test_an_autoencoder_with_tied_weights_loses_units_of_both_halves(kind, tmp_path):
    model = Autoencoder(kind, name="autoencoder")
    x = numbers(4, 20)
    model(x)
    assert half_zero(model) == 18
    small = stripped(model, x)
    assert model.count_params() - small.count_params() == 20 * 6 + 6 + 12 * 6 - 6 * 3 + 3 + 6
    again = saved(small, x, tmp_path)
    again.compile(keras.optimizers.SGD(0.1), loss="mse")
    again.fit(x, x, verbose=0)
    kernels = [v for v in again.weights if len(v.shape) == 2]
    assert sorted(tuple(v.shape) for v in kernels) == [(6, 3), (20, 6)], "each is one weight still, after training too"


class Tied(L.Layer):
    """Units, and the way back by the same weights, which has no biases."""

    def __init__(self, units, **arguments):
        super().__init__(**arguments)
        self.dense = L.Dense(units, "relu")

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return ops.matmul(self.dense(x), ops.transpose(self.dense.kernel))


def test_a_constant_that_shared_weights_read_stays_what_it_is():
    inputs = keras.Input((5,))
    fixed = L.Dense(6, name="fixed")
    x = Tied(4, name="two")(Tied(4, name="one")(fixed(inputs)))
    model = randomize(keras.Model(inputs, L.Dense(3)(L.Dense(6)(inputs) + x)))
    fixed.kernel.assign(np.zeros((5, 6)))
    small, x = kr.strip(model), np.random.default_rng(0).normal(size=(3, 5)).astype("float32")
    assert small.count_params() < model.count_params()
    assert difference(model(x), small(x)) < 1e-6


def test_a_shared_weight_is_not_factorized(tmp_path):
    model, x = Autoencoder(name="autoencoder"), numbers(4, 20)
    model(x)
    randomize(model)
    for layer in (model.first, model.second):
        u, s, v = np.linalg.svd(ops.convert_to_numpy(layer.kernel), full_matrices=False)
        layer.kernel.assign((u * np.where(np.arange(len(s)) < 2, s, 0)) @ v)
    thin = kr.factorize(model)
    assert thin.count_params() == model.count_params()
    assert difference(model(x), thin(x)) < 1e-5
    saved(thin, x, tmp_path)


@pytest.mark.parametrize("kind", ["l0", "dep_l0"])
def test_gates_stand_beside_shared_weights(kind):
    model, x = Autoencoder(name="autoencoder"), numbers(4, 20)
    model(x)
    gated = kr.gates.insert(randomize(model), kind, 0.1)
    assert difference(model(x), gated(x)) < 1e-5
    random = np.random.default_rng(0)
    for layer in gated._flatten_layers():
        for weight in [layer.log_alpha] if hasattr(layer, "log_alpha") else getattr(layer, "biases", {}).values():
            weight.assign(random.choice([-3.0, 0.0, 3.0], size=weight.shape))
    stripped(gated, x)


@own
class Uses(L.Layer):
    """One weight in two operations."""

    def __init__(self, kind, **arguments):
        super().__init__(**arguments)
        self.kind = kind

    def get_config(self):
        return super().get_config() | {"kind": self.kind}

    def build(self, shape):
        size = (3, 3, shape[-1], 8) if self.kind == "dilations" else (shape[-1], 8)
        self.w = self.add_weight(shape=size, name="w")

    def call(self, x):
        if self.kind == "dilations":
            return ops.concatenate([ops.conv(x, self.w, padding="same", dilation_rate=n) for n in (1, 2)], -1)
        if self.kind == "there and back":
            return ops.matmul(ops.relu(ops.matmul(x, self.w)), ops.transpose(self.w))
        return ops.square(ops.matmul(x, self.w)) - ops.matmul(ops.square(x), ops.square(self.w))


@pytest.mark.parametrize(
    ("kind", "groups", "share"),
    [("dilations", 14, 0.6), ("there and back", 8, 0.15), ("factorization machine", 16, 0.5)],
)
def test_a_weight_that_two_operations_read_is_cut_once(kind, groups, share, tmp_path):
    shape = (8, 8, 3) if kind == "dilations" else (10,)
    inputs = keras.Input(shape)
    x = L.Conv2D(6, 3, activation="relu")(inputs) if kind == "dilations" else L.Dense(8, activation="relu")(inputs)
    x = ops.relu(Uses(kind, name="uses")(x))
    model = keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling2D()(x) if kind == "dilations" else x))
    assert kr.analyze(model).opaque == {}
    assert half_zero(model) == groups
    given = numbers(2, *shape)
    small = stripped(model, given)
    assert 1 - small.count_params() / model.count_params() > share
    saved(small, given, tmp_path)


def test_what_can_be_cut_at_one_use_only_stays_with_a_true_reason():
    """The rows of a table are numbers for one use, and channels for the other."""

    @own
    class Reads(L.Layer):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.table = L.Embedding(9, 5)

        def call(self, inputs):
            numbers, x = inputs
            return self.table(numbers), ops.matmul(x, self.table.embeddings)

    a, b = keras.Input((4,), dtype="int32"), keras.Input((6,))
    found, read = Reads(name="reads")([a, L.Dense(9, name="before")(b)])
    model = randomize(keras.Model([a, b], L.Dense(2, name="head")(L.GlobalAveragePooling1D()(found) + read)))
    table = model.get_layer("reads").table.embeddings
    table.assign(ops.convert_to_numpy(table) * (np.arange(9) > 2)[:, None])
    small = stripped(model, [numbers(2, 4, below=9), numbers(2, 6)])
    assert small.get_layer("before").units == 9
    why = [reason for each in kr.analyze(model).layers for reason in each.reasons if each.name == "before"]
    assert any("weight shared by" in reason for reason in why), why


# ---- kernels that code makes of weights


@own
class Made(L.Layer):
    """A convolution or product with what code makes of a weight."""

    def __init__(self, kind, units=8, rank=2, **arguments):
        super().__init__(**arguments)
        self.kind, self.units, self.rank = kind, units, rank

    def get_config(self):
        return super().get_config() | {"kind": self.kind, "units": self.units, "rank": self.rank}

    def build(self, shape):
        before = (3,) * self.rank
        self.w = self.add_weight(shape=(*before, shape[-1], self.units), name="w")
        self.g = self.add_weight(shape=(self.units,), name="g")
        self.a, self.b = (self.add_weight(shape=size, name="ab") for size in ((shape[-1], 2), (2, self.units)))
        random = np.random.default_rng(0)
        self.mask = (random.random((*before, shape[-1], self.units)) > 0.3).astype("float32")

    def kernel(self):
        w, axes = self.w, list(range(self.rank + 1))
        return {
            "scaled": lambda: 0.5 * w,
            "scaled by TensorFlow": lambda: tf.multiply(w, 0.5),
            "masked": lambda: w * self.mask,
            "cubed": lambda: ops.power(w, 3),
            "weight normalization": lambda: self.g * w / ops.sqrt(ops.sum(ops.square(w), axes, keepdims=True)),
            "by a norm": lambda: self.g * (w / ops.norm(w, axis=0)) if self.rank == 0 else tf.nn.l2_normalize(w, axes),
            "by one norm": lambda: w / ops.sqrt(ops.sum(ops.square(w)) + 1e-6),
            "standardized": lambda: (w - ops.mean(w, axes, keepdims=True)) / (ops.std(w, axes, keepdims=True) + 1e-5),
            "low rank": lambda: w + ops.matmul(self.a, self.b),
        }[self.kind]()

    def call(self, x):
        y = ops.conv(x, self.kernel(), padding="same") if self.rank else ops.matmul(x, self.kernel())
        return ops.relu(y + self.g)


def with_made(kind, rank):
    inputs = keras.Input((*[6] * rank, 3))
    x = Made(kind, 8, rank, name="one")(inputs)
    x = Made(kind, 10, rank, name="two")(x)
    if rank:
        x = getattr(L, f"GlobalAveragePooling{rank}D")()(x)
    return keras.Model(inputs, L.Dense(2, name="head")(x)), numbers(2, *[6] * rank, 3)


KINDS = [
    *("scaled", "scaled by TensorFlow", "masked", "cubed", "weight normalization"),
    *("by a norm", "by one norm", "standardized"),
]


@pytest.mark.parametrize(("rank", "kind"), [*((2, kind) for kind in KINDS), (0, "by a norm"), (0, "low rank")])
def test_kernels_that_code_makes_are_cut_where_that_is_exact(kind, rank, tmp_path):
    model, x = with_made(kind, rank)
    assert kr.analyze(model).opaque == {}
    if kind == "by one norm":  # of all weights, which zeros have no part in
        assert half_zero(model) == 8
        stripped(model, x)
        return
    # Of a mean the number of inputs is a part.
    assert half_zero(model) == (10 if kind == "standardized" else 18)
    small = stripped(model, x)
    assert small.get_layer("head").kernel.shape == (5, 2)
    saved(small, x, tmp_path)
    weights = [v for v in small.weights if v.name == "w" or v.path.endswith("/w")]
    before = [ops.convert_to_numpy(v) for v in weights]
    small.compile(keras.optimizers.SGD(0.1), loss="mse")
    small.fit(x, np.ones((2, 2)), verbose=0)
    assert weights, "the weights train, not what is made of them"
    assert all(np.any(a != ops.convert_to_numpy(v)) for a, v in zip(before, weights))


def test_a_row_that_a_norm_needs_stays():
    """Where nobody reads a unit whose weights a norm adds up, the norm still does."""

    @own
    class Modulated(L.Layer):
        """A kernel, and by what each of its outputs is divided, as in StyleGAN."""

        def build(self, shape):
            self.w = self.add_weight(shape=(shape[-1], 8), name="w")

        def call(self, x):
            return ops.matmul(x, self.w) * ops.rsqrt(ops.sum(ops.square(self.w), axis=0) + 1e-8)

    inputs = keras.Input((5,))
    x = L.Dense(6, activation="relu", name="a")(inputs)
    model = randomize(keras.Model(inputs, L.Dense(2, name="head")(Modulated(name="m")(x))))
    first = model.get_layer("a")
    first.kernel.assign(ops.convert_to_numpy(first.kernel) * (np.arange(6) > 1))
    first.bias.assign(ops.convert_to_numpy(first.bias) * (np.arange(6) > 1))  # units 0 and 1 are zero
    w = model.get_layer("m").w
    value = ops.convert_to_numpy(w)
    value[0] = 0  # and of unit 0 the norm has nothing
    w.assign(value)
    small = stripped(model, numbers(3, 5))
    assert small.get_layer("a").units == 5


def test_a_transposed_convolution_with_a_made_kernel(tmp_path):
    @own
    class Upsampling(L.Layer):
        """A transposed convolution whose outputs have scales of their own."""

        def build(self, shape):
            self.w = self.add_weight(shape=(3, 3, 6, shape[-1]), name="w")
            self.g = self.add_weight(shape=(6, 1), initializer="ones", name="g")

        def call(self, x):
            return ops.relu(ops.conv_transpose(x, self.w * self.g, 2, "same"))

    inputs = keras.Input((4, 4, 3))
    x = Upsampling(name="up")(L.Conv2D(8, 3, padding="same", name="a")(inputs))
    model = keras.Model(inputs, L.Conv2D(2, 3, name="head")(x))
    half_zero(model)
    x = numbers(2, 4, 4, 3)
    small = stripped(model, x)
    assert small.get_layer("a").filters == 4
    assert small.get_layer("head").kernel.shape[2] == 3
    saved(small, x, tmp_path)
