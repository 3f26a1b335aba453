"""Models as strangers write them in which the axes of a block's tensors mean what only the model around it tells."""

import math

import keras
import pytest
from backend import hidden, only_tensorflow
from keras import layers as L
from keras import ops
from test_strangers import half_zero, numbers, stripped

import keras_rmda as kr
from keras_rmda.platform.tolerant import symbolic_outputs, tolerant_symbols

pytestmark = only_tensorflow


class Block(L.Layer):
    """Makes layers and weights when it is called first."""

    def __init__(self, heads=2, **arguments):
        super().__init__(**arguments)
        self.heads = heads

    def get_config(self):
        return super().get_config() | {"heads": self.heads}

    def build(self, *shapes):
        self.q, self.k, self.v, self.out = (L.Dense(8, name=name) for name in ("q", "k", "v", "out"))
        self.up, self.down = L.Dense(12, activation="relu", name="up"), L.Dense(8, name="down")
        for each in (self.q, self.k, self.v, self.out, self.up):
            each.build((None, None, 8))
        self.down.build((None, None, 12))

    def split(self, x):
        return ops.reshape(x, (*ops.shape(x)[:2], self.heads, -1))

    def attend(self, x, scores):
        y = ops.einsum("bhqk,bkhd->bqhd", ops.softmax(scores), self.split(self.v(x)))
        return x + self.out(ops.reshape(y, ops.shape(x)))


# ---- tables of distances, which are longer than the sequence


@keras.saving.register_keras_serializable(package="tests")
class Distances(L.Layer):
    """Waves for all distances between steps, twice as many as there are steps; it declares one."""

    def __init__(self, one_sample=False, **arguments):
        super().__init__(**arguments)
        self.one_sample = one_sample

    def get_config(self):
        return super().get_config() | {"one_sample": self.one_sample}

    def call(self, x):
        n = ops.shape(x)[1]
        angles = ops.cast(ops.arange(n, -n, -1), "float32")[:, None] * ops.convert_to_tensor([0.1, 0.2, 0.3, 0.4])
        table = ops.concatenate([ops.sin(angles), ops.cos(angles)], -1)[None]
        return table if self.one_sample else table + 0.0 * ops.sum(x, (1, 2), keepdims=True)

    def compute_output_shape(self, shape):
        return (shape[0], 1, 8)


@keras.saving.register_keras_serializable(package="tests")
class Relative(Block):
    """Attention in which products with distances are shifted to the places of the keys by `ops.slice`."""

    def call(self, x, distances):
        scores = ops.einsum("bqhd,bkhd->bhqk", self.split(self.q(x)), self.split(self.k(x)))
        y = ops.einsum("bqhd,bkhd->bhqk", self.split(self.q(x)), self.split(self.k(distances)))
        b, h, n, m = ops.shape(y)
        y = ops.slice(ops.reshape(y, (b, h, m, n)), (0, 0, 1, 0), (b, h, m - 1, n))
        y = ops.slice(ops.reshape(y, (b, h, n, m - 1)), (0, 0, 0, 0), (b, h, n, ops.shape(scores)[3]))
        return self.attend(x, scores + y)


@keras.saving.register_keras_serializable(package="tests")
class Compared(Block):
    """Attention with the first distances by an index, as many as there are keys."""

    def call(self, x, distances):
        near = self.k(distances)[:, : ops.shape(x)[1]]
        return self.attend(x, ops.einsum("bqhd,bkhd->bhqk", self.split(self.q(x)), self.split(near + self.k(x))))


@keras.saving.register_keras_serializable(package="tests")
class Halved(Block):
    """A sum with every second distance."""

    def call(self, x, distances):
        n = ops.shape(x)[1]
        y = ops.reshape(self.up(distances), (ops.shape(distances)[0], n, 2, 12))
        return x + self.down(ops.relu(ops.mean(y, 2) + self.up(x)))


@pytest.mark.parametrize(("block", "least"), [(Relative, 4), (Compared, 4), (Halved, 24)])
def test_tables_that_are_longer_than_the_sequence(block, least):
    x = inputs = keras.Input((None, 8))
    table = Distances()(x)
    for k in range(2):
        x = block(name=f"block{k}")(x, table)
    model = keras.Model(inputs, L.Dense(3)(L.LayerNormalization()(x)))
    assert not any("block" in name for name in kr.analyze(model).opaque)
    assert half_zero(model) >= least
    stripped(model, numbers(3, 6, 8), numbers(2, 9, 8))


# ---- tables with steps in the place of the samples


@keras.saving.register_keras_serializable(package="tests")
class Places(L.Layer):
    def call(self, x):
        return ops.arange(ops.shape(x)[1], dtype="float32")


@keras.saving.register_keras_serializable(package="tests")
class Angles(L.Layer):
    def build(self, shape):
        self.frequencies = self.add_weight(shape=(4,), name="frequencies")

    def call(self, places):
        angles = ops.einsum("i,j->ij", places, self.frequencies)
        both = ops.stack([angles, angles], -1)
        return ops.reshape(both, (ops.shape(both)[0], -1))


@keras.saving.register_keras_serializable(package="tests")
class Rotated(Block):
    """Attention whose queries and keys are turned by their places."""

    def turned(self, x, table):
        table = ops.reshape(table[: ops.shape(x)[1]], (1, ops.shape(x)[1], 1, -1))[..., : x.shape[-1]]
        return x * ops.cos(table) + ops.flip(x, -1) * ops.sin(table)

    def call(self, x, table):
        q, k = (self.turned(self.split(each(x)), table) for each in (self.q, self.k))
        return self.attend(x, ops.einsum("bqhd,bkhd->bhqk", q, k))


@keras.saving.register_keras_serializable(package="tests")
class Added(Block):
    def call(self, x, table):
        return x + self.down(self.up(x + table) * ops.expand_dims(ops.mean(table, -1), -1))


@keras.saving.register_keras_serializable(package="tests")
class Biased(Block):
    """Attention with a bias for each pair of places."""

    def call(self, x, table):
        bias = ops.matmul(table, ops.transpose(table))
        scores = ops.einsum("bqhd,bkhd->bhqk", self.split(self.q(x)), self.split(self.k(x)))
        return self.attend(x, scores + bias)


@pytest.mark.parametrize(("block", "least"), [(Rotated, 4), (Added, 24), (Biased, 4)])
def test_tables_with_steps_in_the_place_of_samples(block, least):
    x = inputs = keras.Input((None, 8))
    table = Angles()(Places()(x))
    for k in range(2):
        x = block(name=f"block{k}")(x, table)
    model = keras.Model(inputs, L.Dense(3)(L.LayerNormalization()(x)))
    assert not any("is not in the layer table" in why for why in kr.analyze(model).opaque.values())
    assert half_zero(model) >= least
    stripped(model, numbers(3, 6, 8), numbers(2, 9, 8))


# ---- numbers that are counted from one multiple of a size to another


def from_the_end(scores):
    n = ops.shape(scores)[-1]
    return scores + ops.cast(ops.arange(1 - n, 1), scores.dtype) * ops.reshape(
        ops.convert_to_tensor([0.5, 0.1]), (2, 1, 1)
    )


def backward(scores):
    n = ops.shape(scores)[-1]
    return scores - 0.1 * ops.cast(ops.arange(n - 1, -1, -1), scores.dtype)


def twice(scores):
    n = ops.shape(scores)[-1]
    waves = ops.cos(ops.arange(0, 2 * n, dtype="float32"))
    return scores + ops.expand_dims(waves[:n], -1) * waves[n:]


@keras.saving.register_keras_serializable(package="tests")
class Counted(Block):
    """Attention with a bias that is counted."""

    def __init__(self, bias=from_the_end, **arguments):
        super().__init__(**arguments)
        self.bias = bias

    def call(self, x):
        return self.attend(x, self.bias(ops.einsum("bqhd,bkhd->bhqk", self.split(self.q(x)), self.split(self.k(x)))))


@pytest.mark.parametrize("bias", [from_the_end, backward, twice])
def test_what_is_counted_from_one_multiple_of_a_size_to_another(bias):
    inputs = keras.Input((None, 8))
    model = keras.Model(inputs, L.Dense(3)(Counted(bias)(L.Dense(8)(inputs))))
    assert kr.analyze(model).opaque == {}
    assert half_zero(model) >= 10
    stripped(model, numbers(3, 6, 8), numbers(2, 9, 8))


# ---- what is padded up to the size of another tensor


def before_itself(mask, missing):
    mask = ops.cast(mask, "int32")
    return ops.pad(mask, ((0, 0), (missing(mask), 0)), constant_values=1)


def behind(mask, missing):
    mask = ops.cast(mask, "float32")
    return ops.pad(mask, [[0, 0], [0, missing(mask)]])


@keras.saving.register_keras_serializable(package="tests")
class Masked(Block):
    """Attention to what comes first, as images do, and to the words that a mask allows."""

    def __init__(self, padded=before_itself, **arguments):
        super().__init__(**arguments)
        self.padded = padded

    def call(self, x, mask):
        mask = self.padded(mask, lambda mask: ops.shape(x)[1] - ops.shape(mask)[1])
        scores = ops.einsum("bqhd,bkhd->bhqk", self.split(self.q(x)), self.split(self.k(x)))
        return self.attend(x, ops.where(ops.cast(mask, "bool")[:, None, None], scores, -1e9))


@pytest.mark.parametrize("padded", [before_itself, behind])
def test_what_is_padded_up_to_another_tensor(padded):
    first, words, mask = inputs = keras.Input((3, 8)), keras.Input((None, 8)), keras.Input((None,))
    x = ops.concatenate([first, words], axis=1)
    for _ in range(2):
        x = Masked(padded)(x, mask)
    model = keras.Model(inputs, L.Dense(3)(L.LayerNormalization()(x)))
    assert kr.analyze(model).opaque == {}
    assert half_zero(model) >= 4
    tensors = [[numbers(2, 3, 8), numbers(2, n, 8), 1.0 * (numbers(2, n) > 0)] for n in (5, 9)]
    stripped(model, *tensors)


@keras.saving.register_keras_serializable(package="tests")
class Longer(Block):
    """A sequence and a shorter one, which is padded."""

    def call(self, x, other):
        y = self.up(other)
        return x + self.down(self.up(x) * ops.pad(y, [[0, 0], [0, ops.shape(x)[1] - ops.shape(y)[1]], [0, 0]]))


def test_units_that_are_padded_up_to_another_tensor_go():
    inputs = keras.Input((None, 8)), keras.Input((None, 8))
    model = keras.Model(inputs, L.Dense(3)(Longer()(*inputs)))
    assert kr.analyze(model).opaque == {}
    assert half_zero(model) == 12
    stripped(model, [numbers(2, 7, 8), numbers(2, 3, 8)], [numbers(2, 6, 8), numbers(2, 6, 8)])


# ---- images that are resized so that corners stay corners


@keras.saving.register_keras_serializable(package="tests")
class Fused(L.Layer):
    """Images of several sizes, as those of the largest."""

    def __init__(self, align=True, **arguments):
        super().__init__(**arguments)
        self.align = align
        self.inner, self.outer = L.Conv2D(10, 1, activation="relu"), L.Conv2D(8, 3, padding="same")

    def get_config(self):
        return super().get_config() | {"align": self.align}

    def build(self, *shapes):
        for each in (self.inner, self.outer):
            each.build((None, None, None, 8 if each is self.inner else 10))

    def call(self, small, large):
        import tensorflow as tf

        y = self.inner(small)
        y = tf.compat.v1.image.resize(y, ops.shape(large)[1:3], "bilinear", align_corners=self.align)
        return large + self.outer(y)


@pytest.mark.parametrize("sizes", [(4, 9), (3, 3), (1, 5)])
def test_images_that_are_resized_with_their_corners(sizes):
    inputs = [keras.Input((n, n + 1, 8)) for n in sizes]
    model = keras.Model(inputs, L.Dense(3)(Fused()(*inputs)))
    assert kr.analyze(model).opaque == {}
    assert half_zero(model) >= 10
    stripped(model, [numbers(2, n, n + 1, 8) for n in sizes])


def test_images_that_are_resized_without_stay():
    inputs = [keras.Input((n, n, 8)) for n in (4, 8)]
    model = keras.Model(inputs, L.Dense(3)(Fused(align=False)(*inputs)))
    assert "tf.compat.v1.image.resize" in str(kr.analyze(model).opaque)


# ---- streams in front of the samples


@keras.saving.register_keras_serializable(package="tests")
class Streams(Block):
    """Each stream gets what is made of the first one."""

    def call(self, streams):
        y = self.down(self.up(streams[0]))
        return ops.stack([streams[0] + y, *(streams[k] + 0.5 * y for k in range(1, streams.shape[0]))])


@keras.saving.register_keras_serializable(package="tests")
class Predicted(Block):
    """Each stream is a sum of all, by numbers that are made of the first one."""

    def build(self, shape):
        super().build(shape)
        self.shares = L.Dense(shape[0] ** 2)
        self.shares.build((None, None, 8))

    def call(self, streams):
        n = streams.shape[0]
        shares = ops.reshape(self.shares(streams[0]), (*ops.shape(streams)[1:3], n, n))
        y = ops.transpose(ops.matmul(ops.transpose(streams, (1, 2, 3, 0)), shares), (3, 0, 1, 2))
        return y + streams + self.down(self.up(streams[0]))[None]


@keras.saving.register_keras_serializable(package="tests")
class Corrected(Block):
    """What is new in the first stream goes into all of them."""

    def call(self, streams):
        new = self.down(self.up(streams[0])) - streams[0]
        return streams + ops.repeat(ops.expand_dims(new, 0), streams.shape[0], axis=0)


@keras.saving.register_keras_serializable(package="tests")
class Opened(L.Layer):
    def call(self, x):
        return ops.stack([x, 2.0 * x, -x])


@pytest.mark.parametrize("block", [Streams, Predicted, Corrected])
def test_streams_in_front_of_the_samples(block):
    inputs = keras.Input((None, 8))
    x = Opened()(inputs)
    for k in range(2):
        x = block(name=f"block{k}")(x)
    model = keras.Model(inputs, L.Dense(3)(L.LayerNormalization()(ops.mean(x, axis=0))))
    assert kr.analyze(model).opaque == {}
    assert half_zero(model) >= 24
    stripped(model, numbers(3, 6, 8), numbers(2, 9, 8))


# ---- what does nothing at inference, and is called at training only


@keras.saving.register_keras_serializable(package="tests")
class DropsWhole(L.Layer):
    """Drops whole samples at training."""

    def call(self, x, training=None):
        return x * ops.cast(keras.random.uniform((ops.shape(x)[0], 1, 1)) > 0.5, x.dtype) if training else x


@keras.saving.register_keras_serializable(package="tests")
class Dropping(Block):
    def __init__(self, kind="dropout", **arguments):
        super().__init__(**arguments)
        self.kind = kind
        kinds = {"dropout": lambda: L.Dropout(0.9), "noise": lambda: L.GaussianNoise(0.9), "whole": DropsWhole}
        self.drop = kinds[kind]()

    def get_config(self):
        return super().get_config() | {"kind": self.kind}

    def call(self, x, training=False):
        y = self.up(x)
        if training:
            y = self.drop(y, training=training)
        return x + self.down(y)


@pytest.mark.parametrize("kind", ["dropout", "noise", "whole"])
def test_layers_that_are_called_at_training_only(kind):
    inputs = keras.Input((5, 8))
    model = keras.Model(inputs, L.Dense(3)(Dropping(kind)(inputs)))
    assert kr.analyze(model).opaque == {}
    assert half_zero(model) == 12
    small = stripped(model, numbers(3, 5, 8))
    x = numbers(3, 5, 8)
    assert not keras.ops.all(keras.ops.isclose(small(x, training=True), small(x, training=False)))


def test_what_does_something_else_at_training_stays():
    class Doubling(Dropping):
        def call(self, x, training=False):
            return x + self.down(2.0 * self.up(x) if training else self.up(x))

    inputs = keras.Input((5, 8))
    model = keras.Model(inputs, L.Dense(3)(Doubling()(inputs)))
    [why] = kr.analyze(model).opaque.values()
    assert "something else at training" in why


# ---- layers that say of their outputs what does not fit how they are called; each in a block that is cut around them


@keras.saving.register_keras_serializable(package="tests")
class Kept(L.MultiHeadAttention):
    """Is called on other arguments than what Keras has it declare for."""

    def call(self, content, places):
        return hidden(content) + 0.1 * hidden(places)

    def build(self, content_shape, places_shape=None):
        self.built = True


@keras.saving.register_keras_serializable(package="tests")
class Wrong(L.Layer):
    def call(self, content, places):
        return hidden(content) * hidden(places)

    def compute_output_shape(self, shape):
        raise ValueError("one shape only")


@keras.saving.register_keras_serializable(package="tests")
class Root(L.Layer):
    """Takes no sparse tensor, as which Keras declares what is multiplied by a number."""

    def call(self, content, places):
        return hidden(content) + ops.sqrt(ops.mean(ops.square(hidden(places)), axis=-1, keepdims=True) + 1.0)


@keras.saving.register_keras_serializable(package="tests")
class Around(Block):
    def __init__(self, kind="Kept", **arguments):
        super().__init__(**arguments)
        self.kind = kind

    def get_config(self):
        return super().get_config() | {"kind": self.kind}

    def build(self, shape):
        super().build(shape)
        self.kept = {"Kept": lambda **x: Kept(2, 4, **x), "Wrong": Wrong, "Root": Root}[self.kind](name="kept")
        self.kept.build(shape, shape) if self.kind == "Kept" else None

    def call(self, x):
        y = self.kept(content=x, places=x * 0.5)
        return y + self.down(self.up(y))


@pytest.mark.parametrize("kind", ["Kept", "Wrong", "Root"])
def test_what_does_not_declare_what_it_makes_is_read_back(kind, tmp_path):
    inputs = keras.Input((None, 8))
    model = keras.Model(inputs, L.Dense(3)(Around(kind, name="second")(Around(kind, name="first")(L.Dense(8)(inputs)))))
    assert half_zero(model) >= 24
    small, x = stripped(model, numbers(3, 6, 8)), numbers(2, 6, 8)
    small.save(tmp_path / "small.keras")
    assert math.isclose(0.0, float(ops.max(ops.abs(keras.models.load_model(tmp_path / "small.keras")(x) - small(x)))))
    other = keras.Input((6, 8))
    assert keras.Model(other, small(other)).output_shape == (None, 6, 3)


def test_layers_that_take_no_training_are_not_told_of_it():
    """`Identity` in the place of a DropPath, in a graph that is read from a file, as in Depth Anything."""
    with tolerant_symbols():
        assert symbolic_outputs(L.Identity(), keras.Input((3,)), training=False).shape == (None, 3)
