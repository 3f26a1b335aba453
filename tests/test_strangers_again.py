"""Still more models as strangers write them: padded channels, norms, cells in loops, networks on graphs."""

import keras
import numpy as np
import pytest
from backend import only_tensorflow
from keras import layers as L
from keras import ops
from test_strangers import half_zero, numbers, stripped
from test_strangers_too import layer

import keras_rmda as kr

pytestmark = only_tensorflow
tf = pytest.importorskip("tensorflow")


# ---- shortcuts that get more channels, as those of the first residual networks


PADDED = {
    "both": lambda _, x: ops.pad(x[:, ::2, ::2], [[0, 0], [0, 0], [0, 0], [3, 3]]),
    "behind": lambda _, x: tf.pad(x[:, ::2, ::2], [[0, 0], [0, 0], [0, 0], [0, 6]]),
    "before, with a border": lambda _, x: ops.pad(x[:, :6, :6], [[0, 0], [1, 1], [2, 0], [6, 0]])[:, :4, :4],
    "by another number": lambda _, x: ops.pad(x[:, ::2, ::2], [[0, 0], [0, 0], [0, 0], [1, 5]], constant_values=0.5),
}


@pytest.mark.parametrize("name", PADDED)
def test_channels_that_are_padded_go(name, tmp_path):
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(6, 3, padding="same", activation="relu")(inputs)
    y = L.BatchNormalization()(L.Conv2D(12, 3, strides=2, padding="same")(x))
    x = L.ReLU()(L.Add()([layer(PADDED[name], name="shortcut")(x), y]))
    model = keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(L.Conv2D(5, 3)(x))))
    assert half_zero(model) == 6 + 12 + 5 - 6
    assert kr.analyze(model).opaque == {}
    small = stripped(model, numbers(3, 8, 8, 3))
    assert small.count_params() < 0.45 * model.count_params()


def test_what_padding_repeats_stays():
    inputs = keras.Input((8, 8, 3))
    y = ops.pad(L.Conv2D(6, 3)(inputs), [[0, 0], [0, 0], [0, 0], [2, 2]], mode="reflect")
    model = keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(L.Conv2D(5, 3)(y))))
    [why] = kr.analyze(model).opaque.values()
    assert "pad_width" in why
    assert half_zero(model) == 5
    stripped(model, numbers(3, 8, 8, 3))


# ---- norms and means over channels


def by_norm(_, x):
    norm = ops.norm(x, axis=(1, 2), keepdims=True)
    return x * norm / (ops.mean(norm, axis=-1, keepdims=True) + 1e-6) + x


def by_squares(_, x):
    return x * ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + 1e-6)


def by_length(_, x):
    return x / (ops.expand_dims(ops.norm(x, axis=-1), -1) + 1.0)


def by_absolute_values(_, x):
    return x / (tf.norm(x, 1, axis=-1, keepdims=True) + 1.0)


def by_places(_, x):
    return x * ops.mean(x, axis=(1, 2, 3), keepdims=True)


@pytest.mark.parametrize("function", [by_norm, by_squares, by_length, by_absolute_values, by_places])
def test_means_and_norms_do_not_miss_channels_that_are_zero(function):
    inputs = keras.Input((6, 6, 3))
    x = layer(function, name="own")(L.Conv2D(12, 3, activation="relu")(inputs))
    model = keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(L.Conv2D(8, 3, activation="relu")(x))))
    assert half_zero(model) == 20
    assert kr.analyze(model).opaque == {}
    assert stripped(model, numbers(3, 6, 6, 3)).count_params() < 0.45 * model.count_params()


def test_a_mean_of_what_is_not_zero_keeps_its_channels():
    inputs = keras.Input((6,))
    x = L.Dense(8, activation="sigmoid")(inputs)
    model = keras.Model(inputs, L.Dense(3)(x * ops.mean(x, axis=-1, keepdims=True)))
    with pytest.raises(ValueError, match="No channel"):
        kr.coupled_groups(model)
    stripped(model, numbers(3, 6))


# ---- cells in loops of the code's own


CELLS = {
    "simple": lambda: L.SimpleRNNCell(8),
    "gru": lambda: L.GRUCell(8),
    "gru of the first paper": lambda: L.GRUCell(8, reset_after=False),
    "lstm": lambda: L.LSTMCell(8),
    "lstm without biases": lambda: L.LSTMCell(8, use_bias=False),
}


class Decoder(L.Layer):
    """Looks at all steps before each of its own, as pointer networks and translators do."""

    def __init__(self, cell, steps=3, **arguments):
        super().__init__(**arguments)
        self.cell, self.steps, self.keys, self.queries = cell, steps, L.Dense(6), L.Dense(6)
        self.score = L.Dense(1, use_bias=False)

    def call(self, x):
        states, seen = [ops.zeros_like(x[:, 0])] * len(keras.tree.flatten(self.cell.state_size)), x[:, 0]
        outputs = []
        for _ in range(self.steps):
            y, states = self.cell(seen, states)
            scores = self.score(ops.tanh(self.keys(x) + self.queries(y)[:, None]))
            seen = ops.sum(ops.softmax(scores, axis=1) * x, axis=1)
            outputs.append(y)
        return ops.stack(outputs, axis=1)


@pytest.mark.parametrize("name", CELLS)
def test_units_of_cells_in_loops_are_groups(name):
    inputs = keras.Input((5, 4))
    x = Decoder(CELLS[name](), name="decoder")(L.Dense(8, activation="relu")(inputs))
    model = keras.Model(inputs, L.Dense(3)(x))
    assert kr.analyze(model).opaque == {}
    if "first" in name:  # whose code takes its recurrent kernel apart along the units
        assert half_zero(model) == 6
    else:  # the first state, zeros like a step, has the channels of both
        assert half_zero(model) == 8 + 6
        assert stripped(model, numbers(3, 5, 4)).count_params() < 0.45 * model.count_params()
    stripped(model, numbers(3, 5, 4))


def test_a_cell_with_dropout_stays_with_the_true_reason():
    inputs = keras.Input((5, 4))
    model = keras.Model(inputs, L.Dense(3)(Decoder(L.GRUCell(8, dropout=0.5), name="decoder")(L.Dense(8)(inputs))))
    assert "at training" in str(kr.analyze(model).opaque)
    stripped(model, numbers(3, 5, 4))


# ---- weights that code takes apart, or has with an axis for samples


class Parts(L.Layer):
    """Two matrices in one weight, and two vectors in another."""

    def build(self, shape):
        self.pair = self.add_weight(shape=(2, shape[-1], 8), name="pair")
        self.scales = self.add_weight(shape=(8, 2), name="scales")

    def call(self, x):
        first, second = ops.unstack(self.pair, 2, axis=0)
        return ops.matmul(x, first) * self.scales[:, 0] + ops.relu(ops.matmul(x, second)) * self.scales[:, 1]


class Positions(L.Layer):
    """A product along the steps, with weights that have an axis for samples."""

    def build(self, shape):
        self.table = self.add_weight(shape=(1, 5, 4), name="table")

    def call(self, x):
        return ops.matmul(ops.transpose(ops.softmax(self.table * 2.0), (0, 2, 1)), x)


def test_parts_of_weights_are_cut():
    inputs = keras.Input((5, 4))
    model = keras.Model(inputs, L.Dense(3)(Parts(name="parts")(L.Dense(6, activation="relu")(inputs))))
    assert kr.analyze(model).opaque == {}
    assert half_zero(model) == 6 + 8
    assert stripped(model, numbers(3, 5, 4)).count_params() < 0.6 * model.count_params()


def test_a_product_with_a_weight_that_has_an_axis_for_samples_is_traced():
    inputs = keras.Input((5, 4))
    x = Positions(name="positions")(L.Dense(6, activation="relu")(inputs))
    model = keras.Model(inputs, L.Dense(3)(L.Dense(6, activation="relu")(x)))
    assert kr.analyze(model).opaque == {}
    assert half_zero(model) >= 6
    stripped(model, numbers(3, 5, 4), numbers(1, 5, 4))


class Memory(L.Layer):
    """Reads a memory that begins as a weight, once for each sample."""

    def build(self, shape):
        self.begin = self.add_weight(shape=(5, shape[-1]), name="begin")
        self.key = L.Dense(shape[-1])
        self.key.build(shape)

    def call(self, x):
        memory = ops.tile(ops.expand_dims(self.begin, 0), (ops.shape(x)[0], 1, 1))
        weights = ops.softmax(ops.einsum("bm,bnm->bn", self.key(x), memory))
        memory = memory * (1 - weights[:, :, None])
        return ops.sum(weights[:, :, None] * memory, axis=1)


def test_a_weight_that_is_repeated_for_all_samples():
    inputs = keras.Input((4,))
    x = Memory(name="memory")(L.Dense(8, activation="relu")(inputs))
    model = keras.Model(inputs, L.Dense(3)(L.Dense(6, activation="relu")(x)))
    assert kr.analyze(model).opaque == {}
    assert half_zero(model) >= 6
    stripped(model, numbers(3, 4))


# ---- networks on a graph of their own, whose nodes are no samples


class Neighbours(L.Layer):
    """Means of what the neighbours send, joined to what nodes have."""

    def __init__(self, units, **arguments):
        super().__init__(**arguments)
        self.send = keras.Sequential([L.BatchNormalization(), L.Dense(units, activation="gelu")])
        self.take = keras.Sequential([L.BatchNormalization(), L.Dense(units, activation="gelu")])

    def call(self, inputs):
        nodes, edges, weights = inputs
        sent = self.send(ops.take(nodes, edges[1], axis=0)) * ops.expand_dims(weights, -1)
        sums = ops.segment_sum(sent, edges[0], num_segments=nodes.shape[0])
        return self.take(ops.concatenate([nodes, sums], axis=1))


class OnGraph(keras.Model):
    """Classifies nodes by their numbers."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        random = np.random.default_rng(0)
        self.features = ops.convert_to_tensor(random.normal(size=(12, 6)).astype("float32"))
        self.edges, self.weights_of_edges = random.integers(0, 12, (2, 30)).astype("int32"), ops.ones(30) / 30
        self.before, self.after = L.Dense(8, activation="relu"), L.Dense(8, activation="relu")
        self.first, self.second, self.logits = Neighbours(8), Neighbours(8), L.Dense(3)

    def call(self, places):
        x = self.before(self.features)
        x = x + self.first((x, self.edges, self.weights_of_edges))
        x = x + self.second((x, self.edges, self.weights_of_edges))
        return self.logits(ops.take(self.after(x), places, axis=0))


def test_networks_on_graphs_that_they_know_are_cut():
    places, model = np.array([3, 0, 11, 3]), OnGraph()
    model(places)
    assert kr.analyze(model).opaque == {}
    assert half_zero(model) == 8 + 8 + 8 + 8
    small = stripped(model, places)
    assert small.count_params() < 0.45 * model.count_params()
    assert small.inputs[0].dtype == "int32"


class OnRows(keras.Model):
    """Weights of layers that get arrays are weights of the network, too."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.table, self.dense, self.last = L.Embedding(5, 8), L.Dense(8, activation="relu"), L.Dense(3)

    def call(self, x):
        return self.last(self.dense(x) * ops.sum(self.table(np.arange(5)), axis=0))


def test_what_layers_make_of_arrays_is_no_constant():
    model = OnRows()
    model(numbers(2, 4))
    assert half_zero(model) == 8
    small = stripped(model, numbers(2, 4))
    assert len(small.weights) == len(model.weights)
    assert small.count_params() == 5 * 4 + 5 * 4 + 4 * 3 + 3


class Looked(keras.Model):
    """Two inputs, of which one has to be integers: nobody has noted that."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.dense, self.last = L.Dense(8, activation="relu"), L.Dense(3)
        self.codes = np.random.default_rng(0).normal(size=(7, 8)).astype("float32")

    def call(self, inputs):
        return self.last(self.dense(inputs["x"]) + ops.take(self.codes, inputs["places"], axis=0))


def test_types_of_inputs_that_nobody_has_noted():
    model, given = Looked(), {"x": numbers(2, 4), "places": np.array([6, 0])}
    model(given)
    kr.analyze(model)
    assert kr.strip(model).count_params() == model.count_params()


def test_the_transpose_of_images_is_another_one():
    """`tf.transpose` would turn the samples, too; of images the channels stay last, and half of them go."""
    inputs = keras.Input((4, 5, 3))
    x = L.Conv2D(6, 3, padding="same", name="a")(inputs)
    x = L.Lambda(lambda x: tf.image.transpose(x), output_shape=(5, 4, 6))(x)
    model = keras.Model(inputs, L.Conv2D(3, (4, 1), name="head")(x))
    assert kr.analyze(model).opaque == {}
    half_zero(model)
    small = stripped(model, numbers(2, 4, 5, 3))
    assert small.get_layer("a").filters == 3


# ---- scores that are shifted by reshapes, and blocks that declare more than they make


class Skewed(L.Layer):
    """Attention with a table of distances, whose products with the queries are shifted to the places of the keys."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.q, self.k, self.v, self.out = (L.Dense(8) for _ in range(4))

    def build(self, shape):
        self.table = self.add_weight(shape=(16, 4), name="table")
        for each in (self.q, self.k, self.v, self.out):
            each.build((*shape[:-1], 8))

    def call(self, x):
        b, t, _ = ops.shape(x)
        q, k, v = (ops.transpose(ops.reshape(f(x), (b, t, 2, 4)), (0, 2, 1, 3)) for f in (self.q, self.k, self.v))
        products = ops.matmul(q, ops.transpose(self.table[:t]))
        shifted = ops.reshape(ops.pad(products, [[0, 0], [0, 0], [0, 0], [1, 0]]), (b, 2, t + 1, t))[:, :, 1:]
        scores = ops.softmax(ops.matmul(q, ops.swapaxes(k, 2, 3)) + shifted)
        return self.out(ops.reshape(ops.transpose(ops.matmul(scores, v), (0, 2, 1, 3)), (b, t, 8)))


@pytest.mark.parametrize("length", [None, 6])
def test_scores_that_are_shifted_by_reshapes(length, tmp_path):
    inputs = keras.Input((length, 8))
    model = keras.Model(inputs, L.Dense(3)(Skewed(name="skewed")(L.Dense(8)(inputs))))
    assert kr.analyze(model).opaque == {}
    assert half_zero(model) >= 8
    stripped(model, numbers(3, 6, 8), *([] if length else [numbers(2, 9, 8)]))


class TwoStreams(L.Layer):
    """Declares two streams and makes one, unless it gets both."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.up, self.down = L.Dense(12, activation="relu"), L.Dense(8)

    def build(self, content_shape, query_shape=None):
        self.up.build(content_shape)
        self.down.build((*content_shape[:-1], 12))

    def call(self, content, query=None):
        one = lambda x: x + self.down(self.up(x))  # noqa: E731
        return one(content), None if query is None else one(query)

    def compute_output_spec(self, content, query=None):
        return [keras.KerasTensor(content.shape, content.dtype) for _ in range(2)]


def test_blocks_that_declare_more_than_they_make_are_traced():
    x = inputs = keras.Input((5, 8))
    for k in range(2):
        x, _ = TwoStreams(name=f"streams{k}")(x)
    model = keras.Model(inputs, L.Dense(3)(L.LayerNormalization()(x)))
    assert kr.analyze(model).opaque == {}
    assert half_zero(model) == 24
    assert stripped(model, numbers(3, 5, 8)).count_params() < 0.6 * model.count_params()


class TalkingHeads(L.Layer):
    """Attention whose heads hear each other before the softmax and behind it; queries, keys and values in one layer."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.packed, self.before, self.behind, self.out = L.Dense(24), L.Dense(2), L.Dense(2), L.Dense(8)

    def call(self, x):
        n = x.shape[1]
        packed = ops.transpose(ops.reshape(self.packed(x), (-1, n, 3, 2, 4)), (2, 0, 3, 1, 4))
        scores = ops.transpose(ops.matmul(packed[0], ops.swapaxes(packed[1], 2, 3)), (0, 2, 3, 1))
        weights = self.behind(ops.softmax(self.before(scores), axis=2))
        y = ops.matmul(ops.transpose(weights, (0, 3, 1, 2)), packed[2])
        return self.out(ops.reshape(ops.transpose(y, (0, 2, 1, 3)), (-1, n, 8)))


def test_heads_that_hear_each_other_are_groups():
    inputs = keras.Input((5, 4))
    model = keras.Model(inputs, L.Dense(3)(TalkingHeads(name="heads")(inputs)))
    assert kr.analyze(model).opaque == {}
    assert half_zero(model) == 2 + 2 + 8  # heads, what they hear, channels behind them
    assert stripped(model, numbers(3, 5, 4)).count_params() < 0.6 * model.count_params()


class Boxes(L.Layer):
    """Numbers for each position of a feature map, the same for all samples."""

    def call(self, x):
        places = np.stack(np.meshgrid(np.arange(x.shape[1]), np.arange(x.shape[2])), -1).reshape(1, -1, 2)
        return tf.tile(tf.constant(places, dtype=tf.float32), (tf.shape(x)[0], 1, 1))


def test_numbers_for_each_sample_do_not_read_the_samples():
    inputs = keras.Input((6, 6, 3))
    x = L.Conv2D(8, 3, activation="relu")(inputs)
    found = L.Reshape((-1, 4))(L.Conv2D(4, 1)(x))
    model = keras.Model(inputs, L.Concatenate(axis=2)([found, Boxes(name="boxes")(x)]))
    assert kr.analyze(model).opaque == {}
    assert half_zero(model) == 8
    assert stripped(model, numbers(3, 6, 6, 3)).count_params() < 0.6 * model.count_params()


class Coordinates(L.Layer):
    """Joins the coordinates of its positions to the channels."""

    def __init__(self, indexing, **arguments):
        super().__init__(**arguments)
        self.indexing = indexing

    def call(self, x):
        n, height, width = ops.shape(x)[:3]
        rows, columns = ops.arange(height, dtype="float32"), ops.arange(width, dtype="float32")
        given = (rows, columns) if self.indexing == "ij" else (columns, rows)
        places = ops.stack(ops.meshgrid(*given, indexing=self.indexing), axis=-1)
        return ops.concatenate([x, ops.tile(places[None], (n, 1, 1, 1))], axis=-1)


@pytest.mark.parametrize("indexing", ["ij", "xy"])
@pytest.mark.parametrize("size", [6, None])
def test_coordinates_are_joined_to_channels_that_go(indexing, size):
    inputs = keras.Input((size, size, 3))
    x = L.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    x = L.Conv2D(4, 1)(Coordinates(indexing, name="coordinates")(x))
    model = keras.Model(inputs, L.Dense(2)(L.GlobalMaxPooling2D()(x)))
    assert kr.analyze(model).opaque == {}
    assert half_zero(model) == 8 + 4
    small = stripped(model, numbers(3, 6, 6 if size else 5, 3))
    assert small.count_params() < 0.6 * model.count_params()


@keras.saving.register_keras_serializable(package="strangers again")
class Recurrence(L.Layer):
    """A loop over as many steps as there are, which Keras runs at known sizes only."""

    def build(self, shape):
        self.decay = self.add_weight(shape=(shape[-1],), name="decay")

    def call(self, x):
        state, found = ops.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            state = state * ops.sigmoid(self.decay) + x[:, t]
            found.append(state)
        return ops.stack(found, axis=1)


def test_groups_of_a_stripped_model_leave_its_graph_as_it_is(tmp_path):
    inputs = keras.Input((None, 8))
    with kr.platform.tolerant.tolerant_symbols():
        x = Recurrence(name="recurrence")(inputs)
        model = keras.Model(inputs, L.Dense(3)(L.Dense(12, activation="relu")(x)))
    half_zero(model)
    small = stripped(model, numbers(3, 5, 8))
    before = small.get_config()
    kr.coupled_groups(small)
    assert str(small.get_config()) == str(before)
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(loaded(numbers(3, 5, 8)), small(numbers(3, 5, 8)))


# ---- positions that code puts beside others, and their spectra


SHIFTED = {
    "zeros": lambda x: ops.zeros((ops.shape(x)[0], 2, x.shape[-1])),
    "another number": lambda x: ops.full((ops.shape(x)[0], 2, x.shape[-1]), 0.5),
    "of known size": lambda x: tf.zeros([tf.shape(x)[0], 2, 8]),
}


@pytest.mark.parametrize("name", SHIFTED)
def test_channels_go_beside_positions_that_hold_one_number(name, tmp_path):
    inputs = keras.Input((None, 5))
    x = L.Dense(8, activation="relu")(inputs)
    x = layer(lambda _, x: ops.concatenate([SHIFTED[name](x), x], axis=1), name="shift")(x)
    model = keras.Model(inputs, L.Conv1D(3, 3)(x))
    assert half_zero(model) == 8
    small = stripped(model, numbers(2, 6, 5), numbers(3, 9, 5))
    assert model.count_params() - small.count_params() == 4 * (5 + 1 + 3 * 3)


def test_channels_that_are_joined_to_those_of_one_number_go():
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(6, 3, activation="relu")(inputs)
    x = layer(lambda _, x: ops.concatenate([x, ops.zeros((ops.shape(x)[0], 6, 6, 4))], axis=-1), name="wider")(x)
    model = keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x)))
    assert half_zero(model) == 6
    stripped(model, numbers(3, 8, 8, 3))


class Spectral(L.Layer):
    """Products of low frequencies with weights, in one or two dimensions, as in neural operators."""

    def __init__(self, units, **arguments):
        super().__init__(**arguments)
        self.units = units

    def build(self, shape):
        modes = (2,) * (len(shape) - 2)
        self.real = self.add_weight(shape=(shape[-1], self.units, *modes), name="real")
        self.imaginary = self.add_weight(shape=(shape[-1], self.units, *modes), name="imaginary")

    def call(self, x):
        n, axes = x.shape[1], "xy"[: len(x.shape) - 2]
        x = ops.moveaxis(x, -1, 1)
        a, b = ops.rfft(x) if axes == "x" else ops.fft2((x, ops.zeros_like(x)))
        a, b = (each[:, :, :2] if axes == "x" else each[:, :, :2, :2] for each in (a, b))
        product = lambda x, w: ops.einsum(f"bi{axes},io{axes}->bo{axes}", x, w)  # noqa: E731
        a, b = product(a, self.real) - product(b, self.imaginary), product(a, self.imaginary) + product(b, self.real)
        if axes == "x":
            a, b = (ops.pad(each, [[0, 0], [0, 0], [0, n // 2 - 1]]) for each in (a, b))
            return ops.moveaxis(ops.irfft((a, b)), 1, -1)
        a, b = (ops.pad(each, [[0, 0], [0, 0], [0, 0], [0, n - 2]]) for each in (a, b))
        rest = ops.zeros((ops.shape(x)[0], self.units, n - 2, n))
        a, b = (ops.concatenate([each, rest], axis=2) for each in (a, b))
        return ops.moveaxis(ops.ifft2((a, b))[0], 1, -1)


@pytest.mark.parametrize("axes", [1, 2])
def test_channels_of_spectra_go(axes):
    inputs = keras.Input((8,) * axes + (2,))
    x = L.Dense(6)(inputs)
    for _ in range(2):
        x = ops.gelu(L.Add()([Spectral(6)(x), L.Dense(6)(x)]))
    model = keras.Model(inputs, L.Dense(1)(x))
    assert kr.analyze(model).opaque == {}
    assert half_zero(model) == 18
    small = stripped(model, numbers(3, *(8,) * axes, 2))
    assert small.count_params() < 0.31 * model.count_params()


def test_what_a_spectrum_mixes_stays():
    inputs = keras.Input((8, 4))
    x = layer(lambda _, x: ops.fft2((x, ops.zeros_like(x)))[0], name="mixed")(L.Dense(6)(inputs))
    model = keras.Model(inputs, L.Dense(3)(L.Dense(8, activation="relu")(x)))
    [why] = kr.analyze(model).opaque.values()
    assert "over channels" in why
    assert half_zero(model) == 8
    stripped(model, numbers(3, 8, 4))


# ---- biases of heads that layers make of the distances


@keras.saving.register_keras_serializable(package="strangers again")
class Distances(L.Layer):
    """Attention with biases that two layers make of a table of distances, by an index that is a weight."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.qkv, self.out = L.Dense(24), L.Dense(8)
        self.wide, self.narrow = L.Dense(10, activation="relu"), L.Dense(4)

    def build(self, shape):
        random = np.random.default_rng(0)
        fixed = {"trainable": False}
        table, index = random.normal(size=(11, 2)), np.arange(6)[:, None] - np.arange(6) + 5
        self.table = self.add_weight(shape=(11, 2), initializer=lambda *_, **__: ops.cast(table, "float32"), **fixed)
        self.index = self.add_weight(
            shape=(36,), dtype="int32", initializer=lambda *_, **__: ops.cast(index.reshape(-1), "int32"), **fixed
        )
        for each, width in ((self.qkv, 8), (self.out, 8), (self.wide, 2), (self.narrow, 10)):
            each.build((None, width))

    def call(self, x):
        q, k, v = ops.unstack(ops.transpose(ops.reshape(self.qkv(x), (-1, 6, 3, 4, 2)), (2, 0, 3, 1, 4)), 3)
        biases = ops.reshape(ops.take(self.narrow(self.wide(self.table)), self.index, axis=0), (6, 6, 4))
        scores = ops.softmax(q @ ops.swapaxes(k, -2, -1) + ops.transpose(biases, (2, 0, 1))[None])
        return self.out(ops.reshape(ops.transpose(scores @ v, (0, 2, 1, 3)), (-1, 6, 8)))


def test_layers_that_make_biases_of_heads_lose_units(tmp_path):
    inputs = keras.Input((6, 8))
    model = keras.Model(inputs, Distances()(inputs))
    assert kr.analyze(model).opaque == {}
    assert half_zero(model) >= 10 + 4
    small = stripped(model, numbers(3, 6, 8))
    assert small.count_params() < 0.7 * model.count_params()
    assert [v.dtype for v in small.weights if tuple(v.shape) == (36,)] == ["int32"]
    small.save(tmp_path / "small.keras")
    again = keras.models.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(again(numbers(3, 6, 8)), small(numbers(3, 6, 8)))


# ---- heads that a table of angles turns, which is made of a weight


class Turned(L.Layer):
    """Attention whose queries and keys are turned by angles, with frequencies that are a weight."""

    def build(self, shape):
        self.qkv, self.out = L.Dense(36), L.Dense(6)
        self.qkv.build(shape)
        self.out.build((None, 12))
        self.frequencies = self.add_weight(shape=(2,), initializer="random_uniform", trainable=False)

    def call(self, x):
        n = ops.shape(x)[1]
        q, k, v = (ops.swapaxes(each, 1, 2) for each in ops.unstack(ops.reshape(self.qkv(x), (-1, n, 3, 3, 4)), axis=2))
        angles = ops.expand_dims(ops.arange(n, dtype="float32"), 1) * self.frequencies
        angles = ops.concatenate([angles, angles], axis=-1)[None, None]
        half = lambda x: ops.concatenate([-x[..., 2:], x[..., :2]], axis=-1)  # noqa: E731
        q, k = (x * ops.cos(angles) + half(x) * ops.sin(angles) for x in (q, k))
        y = ops.softmax(q @ ops.swapaxes(k, -2, -1)) @ v
        return self.out(ops.reshape(ops.swapaxes(y, 1, 2), (-1, n, 12)))


@pytest.mark.parametrize("size", [None, 5])
def test_heads_that_angles_turn_go(size):
    inputs = keras.Input((size, 6))
    model = keras.Model(inputs, Turned()(inputs))
    assert kr.analyze(model).opaque == {}
    assert half_zero(model) == 3
    small = stripped(model, numbers(3, 5, 6))
    assert model.count_params() - small.count_params() == 4 * (3 * (6 + 1) + 6)


# ---- layers that return sizes beside tensors


class Patched(L.Layer):
    """The patches of an image, and how many rows and columns of them there are."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.dense = L.Conv2D(8, 2, strides=2)

    def call(self, x):
        x = self.dense(x)
        return ops.reshape(x, (-1, x.shape[1] * x.shape[2], 8)), x.shape[1], x.shape[2]


class OfPatches(keras.Model):
    """Units of patches, which become an image again."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.patches, self.up, self.down, self.out = Patched(), L.Dense(12, "relu"), L.Dense(8), L.Conv2D(3, 1)

    def call(self, x):
        x, rows, columns = self.patches(x)
        x = self.down(self.up(x))
        return self.out(ops.reshape(x, (-1, rows, columns, 8)))


def test_layers_that_return_sizes_are_traced():
    model, x = OfPatches(), numbers(3, 8, 6, 3)
    model(x)
    assert kr.analyze(model).opaque == {}
    assert half_zero(model) == 8 + 12 + 8
    small = stripped(model, x, numbers(2, 8, 6, 3))
    assert small.count_params() < 0.5 * model.count_params()


class Padded(L.Layer):
    """Units behind padding by numbers that the layer keeps in a list."""

    def build(self, shape):
        self.pads = [[0, 0], [1, 1], [0, 0]]
        self.up, self.down = L.Conv1D(12, 3, activation="relu"), L.Dense(6)
        self.up.build(shape)
        self.down.build((None, None, 12))

    def call(self, x):
        return self.down(self.up(ops.pad(x, self.pads)))


def test_a_list_that_a_layer_keeps_leads_to_nothing_else():
    inputs = keras.Input((5, 6))
    model = keras.Model(inputs, Padded()(inputs))
    assert half_zero(model) == 12
    small = stripped(model, numbers(3, 5, 6))
    assert small.count_params() < 0.6 * model.count_params()


class Balanced(L.Layer):
    """Units for each word, and a loss at training only that wants a mask as long as the words."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.up, self.down = L.Dense(8, activation="relu"), L.Dense(6)

    def build(self, shape):
        self.up.build((None, 6))
        self.down.build((None, 8))

    def call(self, x, there, training=None):
        n, steps, _ = ops.shape(x)
        words = self.up(ops.reshape(x, (-1, 6)))
        if training:
            self.add_loss(0.1 * ops.mean(words * ops.reshape(there, (-1, 1))))
        return ops.reshape(self.down(words), (n, steps, 6))


def test_a_loss_of_training_that_wants_equal_sizes_stays_and_units_go():
    words, there = keras.Input((None, 6)), keras.Input((None,))
    model = keras.Model([words, there], L.Dense(3)(Balanced(name="balanced")(words, there)))
    assert half_zero(model) == 8 + 6
    small = stripped(model, [numbers(3, 5, 6), np.ones((3, 5), "float32")])
    for each in (model, small):
        each([numbers(3, 5, 6), np.ones((3, 5), "float32")], training=True)
    assert small.count_params() < 0.7 * model.count_params()
    np.testing.assert_allclose(small.losses, model.losses, rtol=1e-5)


class TopExperts(L.Layer):
    """Two of four experts for each word, and at training a loss that balances them over the words that are there."""

    def __init__(self, loss, **arguments):
        super().__init__(**arguments)
        self.loss, self.router = loss, L.Dense(4, use_bias=False)

    def build(self, shape):
        self.router.build(shape)
        self.up, self.down = (self.add_weight(shape=each) for each in ((4, 6, 10), (4, 10, 6)))

    def compute_output_shape(self, shape):
        return shape

    def call(self, x, there, training=False):
        n, steps, _ = ops.shape(x)
        words = ops.reshape(x, (-1, 6))
        shares = ops.softmax(self.router(words))
        top, which = ops.top_k(shares, k=2)
        weights = ops.sum(ops.one_hot(which, 4) * top[..., None], axis=1)
        hidden = ops.silu(ops.einsum("tc,ech->eth", words, self.up))
        y = ops.einsum("eth,ehc,te->tc", hidden, self.down, weights)
        if training:
            self.loss(self, shares, weights, there)
        return x + ops.reshape(y, (n, steps, 6))


def by_slices(layer, shares, weights, there):
    steps = ops.shape(there)[1]
    there = ops.slice(there, [0, 0], [ops.shape(shares)[0] // steps, steps])
    there = ops.reshape(there, (-1, 1))
    counted = ops.sum(ops.cast(weights > 0, "float32") * there, axis=0) / ops.maximum(ops.sum(there), 1e-9)
    layer.add_loss(0.1 * ops.sum(counted * ops.mean(shares, axis=0)))


def by_indexed_slices(layer, shares, weights, there):
    there = ops.reshape(there[: ops.shape(shares)[0] // there.shape[1]], (-1, 1))
    layer.add_loss(0.1 * ops.sum(ops.square(ops.mean(shares * there, axis=0))))


def by_capacity(layer, shares, weights, there):
    """As many words as an expert has room for: no graph holds how many that are."""
    room = ops.shape(shares)[0] // 2
    layer.add_loss(ops.mean(ops.top_k(ops.transpose(shares), k=room)[0]))


def with_experts(loss):
    words, there = keras.Input((None, 6)), keras.Input((None,))
    return keras.Model([words, there], L.Dense(3)(TopExperts(loss, name="experts")(words, there)))


@pytest.mark.parametrize("loss", [by_slices, by_indexed_slices])
def test_losses_that_take_slices_of_open_sizes_stay_and_experts_lose_units(loss):
    model = with_experts(loss)
    assert half_zero(model) >= 10
    given = [numbers(3, 5, 6), np.tile([1.0, 1.0, 1.0, 0.0, 0.0], (3, 1)).astype("float32")]
    small = stripped(model, given)
    for each in (model, small):
        each(given, training=True)
    assert small.count_params() < 0.7 * model.count_params()
    assert len(model.losses) == 1
    np.testing.assert_allclose(small.losses, model.losses, rtol=1e-5)


def test_a_loss_that_cannot_be_followed_is_lost_with_a_warning_and_experts_lose_units():
    model = with_experts(by_capacity)
    assert half_zero(model) >= 10
    assert "experts" not in kr.analyze(model).opaque
    with pytest.warns(kr.SparsityWarning, match=r"\['experts'\] adds losses.*`ops.topk` numbers that depend on open"):
        small = stripped(model, [numbers(3, 5, 6), np.ones((3, 5), "float32")])
    assert small.count_params() < 0.7 * model.count_params()


class ReadsText(L.Layer):
    """The last layer of networks that read texts in images, with their loss."""

    def call(self, labels, classes):
        n, steps = ops.shape(classes)[0], ops.shape(classes)[1]
        lengths = [ops.cast(each, "int32") * ops.ones((n,), "int32") for each in (ops.shape(labels)[1], steps)]
        loss = ops.ctc_loss(ops.cast(labels, "int32"), classes, *lengths, mask_index=0)
        self.add_loss(ops.mean(loss))
        return classes


def test_a_loss_that_cannot_be_followed_stays_where_no_weights_are():
    image, labels = keras.Input((8, 6)), keras.Input((None,))
    classes = L.Dense(5, "softmax")(L.Dense(12, "relu")(image))
    model = keras.Model([image, labels], ReadsText(name="loss")(labels, classes))
    assert half_zero(model) == 12
    assert "adds a loss that cannot be followed" in kr.analyze(model).opaque["loss"]
    given = [numbers(3, 8, 6), np.array([[1, 2, 3], [2, 4, 1], [3, 1, 2]], "float32")]
    small = stripped(model, given)
    for each in (model, small):
        each(given)
    assert small.count_params() < 0.6 * model.count_params()
    np.testing.assert_allclose(small.losses, model.losses, rtol=1e-5)


class DropsAndAdds(L.Layer):
    """Units whose dropout the code calls at training only, and where it adds a loss."""

    def build(self, shape):
        self.up, self.down, self.drop = L.Dense(8, activation="relu"), L.Dense(6), L.Dropout(0.5)
        self.up.build(shape)
        self.down.build((None, None, 8))

    def call(self, x, training=None):
        x = self.up(x)
        if training:
            self.add_loss(0.1 * ops.mean(ops.square(x)))
            x = self.drop(x, training=True)
        return self.down(x)


def test_a_loss_beside_dropout_that_is_called_at_training_only_stays():
    inputs = keras.Input((None, 6))
    model = keras.Model(inputs, L.Dense(3)(DropsAndAdds(name="block")(inputs)))
    assert half_zero(model) == 8 + 6
    x = numbers(3, 5, 6)
    small = stripped(model, x)
    for each in (model, small):
        each(x, training=True)
    assert small.count_params() < 0.7 * model.count_params()
    np.testing.assert_allclose(small.losses, model.losses, rtol=1e-5)
    small(x)
    assert small.losses == []
