"""What coupled groups promise: the channels of a zero group are gone after `strip`."""

import contextlib

import keras
import numpy as np
import pytest
from backend import hidden, only_tensorflow
from graphs import Graph
from keras import layers as L
from keras import ops
from zoo import ZOO, block, randomize

import keras_rmda as kr
from keras_rmda.optimizers.names import names_of
from keras_rmda.structure import coupling
from keras_rmda.structure.liveness import plan
from keras_rmda.structure.trace import as_graph, trace

PARTS = pytest.mark.parametrize("parts", coupling.PARTS)
NOTHING = {"softmax_in_the_middle", "shared_layer_that_is_opaque_once", "channels_first_axis"}
"""Models of the zoo in which no channel can go by zeros of what reads it."""
FAMILIES = [
    *("ConvNeXtTiny", "DenseNet121", "EfficientNetB0", "EfficientNetV2B0", "InceptionResNetV2", "InceptionV3"),
    *("MobileNet", "MobileNetV2", "MobileNetV3Small", "NASNetMobile", "ResNet50", "ResNet50V2", "VGG16", "Xception"),
]
"""One network of each family of keras.applications."""


def some(groups, seed):
    """Return random groups, but for two of those that one layer writes: some layers need as many."""
    random = np.random.default_rng(seed)
    chosen = random.random(len(groups)) < 0.5
    layers = [name.split("[")[0] for name in groups.names]
    for layer in sorted(set(layers)):
        own = [k for k, each in enumerate(layers) if each == layer]
        chosen[random.choice(own, size=min(2, len(own)), replace=False)] = False
    return chosen


def what_stays(model, parts, seed=0):
    """Return the number of groups, and the names of those that stay although they are zero."""
    groups = kr.coupled_groups(model, parts)
    chosen = np.append(some(groups, seed), False)
    variable = {names_of(each, model)[0]: each for each in model.trainable_variables}
    values = {
        id(variable[path]): np.where(chosen[ids], 0.0, ops.convert_to_numpy(variable[path]))
        for path, ids in groups.members.items()
    }
    with as_graph(model) as graph:
        traced = trace(graph)
        coupling.tie_what_goes_together(traced)
        found = coupling.removable(traced, parts, {id(each) for each in model.trainable_variables})
        roots = coupling.atoms_in(found)
        fresh = trace(graph)
        read = lambda v: values[id(v)] if id(v) in values else ops.convert_to_numpy(v)  # noqa: E731
        stays = plan(fresh, read).cut.stays(roots) & chosen[:-1]
    return len(groups), [groups.names[k] for k in np.flatnonzero(stays)]


@PARTS
@pytest.mark.parametrize("make", [make for make in ZOO if make.__name__ not in NOTHING], ids=lambda make: make.__name__)
def test_zero_groups_are_gone(make, parts):
    model = randomize(make()[0])
    if (make.__name__, parts) == ("raw_positions", "all"):
        pytest.skip("a comparison makes a one of zeros, so that no zero of a writer says enough")
    count, stays = what_stays(model, parts)
    assert count > 0
    assert stays == []


def from_a_cell(x, y):
    """A decoder that begins with the state of an encoder."""
    return L.LSTM(8, return_sequences=True)(y, initial_state=L.LSTM(8, return_state=True)(x)[1:])


def from_a_dense_layer(x, y):
    return L.GRU(8)(y, initial_state=L.Dense(8, "tanh")(x[:, 0]))


def from_both_directions(x, y):
    states = L.Bidirectional(L.GRU(8, return_state=True))(x)[1:]
    return L.Bidirectional(L.GRU(8))(y, initial_state=states)


@PARTS
@pytest.mark.parametrize("make", [from_a_cell, from_a_dense_layer, from_both_directions])
def test_zero_units_with_initial_states_are_gone(make, parts):
    x, y = keras.Input((5, 4)), keras.Input((6, 3))
    count, stays = what_stays(randomize(keras.Model([x, y], L.Dense(2)(make(x, y)))), parts)
    assert count >= 8
    assert stays == []


@pytest.mark.parametrize("seed", range(30))
def test_zero_groups_of_random_graphs_are_gone(seed):
    keras.utils.set_random_seed(seed)
    model = randomize(Graph(seed).build(10))
    for parts in coupling.PARTS:
        with contextlib.suppress(coupling.NoGroupsError):
            assert what_stays(model, parts, seed)[1] == []


@pytest.mark.parametrize("name", FAMILIES)
def test_zero_groups_of_every_family_of_applications_are_gone(name):
    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(weights=None, input_shape=(96, 96, 3), classes=10)
    count, stays = what_stays(model, "readers")
    assert count > 1000
    assert stays == []


@pytest.mark.parametrize("name", sorted(NOTHING))
def test_a_model_without_removable_channels_is_refused(name):
    [make] = [make for make in ZOO if make.__name__ == name]
    with pytest.raises(ValueError, match=r"No channel of the model .*analyze\(model\)"):
        kr.coupled_groups(make()[0])


# ---- counted by hand


def residual():
    """A stream of four channels with two writers and three readers, and six channels inside a block."""
    inputs = keras.Input((8, 8, 3))
    x = block(inputs, 4, "stem")
    y = L.Conv2D(4, 3, padding="same", use_bias=False, name="second")(block(x, 6, "first"))
    x = L.Add(name="add")([x, L.BatchNormalization(name="norm")(y)])
    x = L.Dense(5, name="dense")(L.GlobalAveragePooling2D()(L.ReLU()(x)))
    return keras.Model(inputs, L.Dense(2, name="top")(x))


def test_the_stream_of_a_residual_network_is_one_set_of_groups():
    groups = kr.coupled_groups(residual())
    assert len(groups) == 4 + 6 + 5
    shapes = {path: ids.shape for path, ids in groups.members.items()}
    assert shapes == {
        "first/kernel": (1, 1, 4, 1),
        "second/kernel": (1, 1, 6, 1),
        "dense/kernel": (4, 1),
        "top/kernel": (5, 1),
    }
    stream = groups.members["first/kernel"].reshape(-1)
    np.testing.assert_array_equal(stream, groups.members["dense/kernel"].reshape(-1))
    sizes = {"stem[0]": 3 * 3 * 6 + 5, "first[0]": 3 * 3 * 4, "dense[0]": 2}
    found = dict(zip(groups.names, groups.weights))
    for name, size in sizes.items():
        assert found[name] == pytest.approx(size**0.5)


def test_zero_invariant_groups_have_every_weight_once():
    model = residual()
    groups = kr.coupled_groups(model, parts="all")
    sizes = {"stem[0]": 27 + 2 + 54 + 2, "first[0]": 36 + 2, "dense[0]": 4 + 1 + 2}
    found = dict(zip(groups.names, groups.weights))
    for name, size in sizes.items():
        assert found[name] ** 2 == pytest.approx(size)
    elements = sum(found[name] ** 2 for name in groups.names)
    assert elements == pytest.approx(sum(np.prod(v.shape) for v in model.trainable_variables) - 2)  # the last bias


def test_weights_by_what_is_saved():
    model = residual()
    groups = kr.coupled_groups(model, weights="macs")
    sizes = kr.coupled_groups(model).weights ** 2
    macs = kr.analyze(model).macs
    saved = {"stem[0]": 64 * (27 + 54 + 54) + 5, "first[0]": 64 * 2 * 36, "dense[0]": 4 + 2}
    total = 4 * saved["stem[0]"] + 6 * saved["first[0]"] + 5 * saved["dense[0]"]
    assert macs == 64 * (4 * 27 + 2 * 4 * 6 * 9) + 4 * 5 + 5 * 2
    for name, weight, size in zip(groups.names, groups.weights, sizes):
        expected = saved[name.split("[")[0] + "[0]"] / size**0.5 * sizes.sum() / total
        assert weight == pytest.approx(expected)
    times = kr.coupled_groups(model, weights={"first": 3.0, "second": 1.0})
    assert times.weights[times.names.index("dense[0]")] == 0
    ratio = times.weights[times.names.index("stem[0]")] / times.weights[times.names.index("first[0]")]
    assert ratio == pytest.approx((3 / 4 + 1 / 4) / (3 / 6 + 1 / 6) * (36 / 59) ** 0.5)


def test_depthwise_convolutions_go_with_their_channels():
    inputs = keras.Input((8, 8, 3))
    x = L.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(L.Conv2D(4, 1, name="expand")(inputs))
    model = keras.Model(inputs, L.Dense(2, name="top")(L.Flatten()(L.Conv2D(3, 1, name="project")(x))))
    groups = kr.coupled_groups(model)
    assert len(groups) == 4 + 3
    np.testing.assert_array_equal(groups.members["depthwise/kernel"].reshape(-1), [0, 1, 2, 3])
    np.testing.assert_array_equal(groups.members["project/kernel"].reshape(-1), [0, 0, 1, 1, 2, 2, 3, 3])


def test_squeeze_and_excite_has_its_own_hidden_groups():
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 3, name="a")(inputs)
    gate = L.GlobalAveragePooling2D(keepdims=True)(x)
    gate = L.Conv2D(4, 1, activation="sigmoid", name="expand")(L.Conv2D(2, 1, activation="relu", name="reduce")(gate))
    model = keras.Model(inputs, L.Conv2D(2, 3, name="top")(L.Multiply()([x, gate])))
    groups = kr.coupled_groups(model)
    assert sorted({name.split("[")[0] for name in groups.names}) == ["a", "reduce"]
    assert set(groups.members) == {"reduce/kernel", "expand/kernel", "top/kernel"}


def test_heads_and_groups_go_as_a_whole():
    inputs = keras.Input((5, 6))
    x = L.MultiHeadAttention(3, 4, name="attention")(inputs, inputs)
    x = L.Conv1D(8, 3, groups=2, name="grouped")(x)
    model = keras.Model(inputs, L.Dense(2, name="top")(x))
    groups = kr.coupled_groups(model)
    assert len(groups) == 3 + 2
    assert groups.members["attention/attention_output/kernel"].shape == (3, 4, 1)
    assert len(np.unique(groups.members["grouped/kernel"])) == 2


def test_frozen_and_excluded_readers_keep_their_channels():
    model = residual()
    full = len(kr.coupled_groups(model))
    assert len(kr.coupled_groups(model, exclude=["top/kernel"])) == full - 5
    model.get_layer("second").trainable = False
    assert len(kr.coupled_groups(model)) == full - 6


def test_training_makes_groups_that_strip_removes():
    model = residual()
    x = np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype("float32")
    y = x.mean(axis=(1, 2))[:, :2]
    psi = kr.GroupLasso(0.2, groups=kr.coupled_groups(model))
    model.compile(kr.ProxSGD(0.05, momentum=0.5, regularizer=psi), "mse")
    model.fit(x, y, epochs=10, verbose=0, callbacks=[monitor := kr.callbacks.SparsityMonitor()])
    del monitor
    report = kr.analyze(model)
    zero = sum((n == 0).sum() for n in norms_of(model, psi))
    assert 0 < zero < 15
    small = kr.strip(model)
    assert len(kr.coupled_groups(small)) == 15 - zero
    assert small.count_params() == report.parameters_after


def norms_of(model, psi):
    [(joint, variables)] = model.optimizer.penalties()
    return [ops.convert_to_numpy(joint.group_norms([ops.convert_to_tensor(v) for v in variables]))]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"parts": "writers"}, "parts='writers'"),
        ({"weights": "time"}, "weights='time'"),
        ({"weights": {"nobody": 1.0}}, r"\['nobody'\]"),
        ({"weights": {"first": -1.0}}, r"weights\['first'\]=-1.0"),
        ({"exclude": "top"}, "exclude='top'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        kr.coupled_groups(residual(), **arguments)


class Adding(L.Layer):
    """Adds a weight that is made of an array: a layer that is made in thought only could have none."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.own = keras.Variable(np.zeros(()), name="own")

    def call(self, x):
        return hidden(x) + ops.cast(self.own, x.dtype)


class Odd(Adding):
    """Its configuration does not make one, and nobody can copy a generator."""

    def __init__(self, need):
        super().__init__(name="odd")
        self.need = (each for each in range(need))


class Forgetful(L.Dense):
    """Its configuration tells another width."""

    def __init__(self, units, **arguments):
        super().__init__(units, **arguments)
        self.need = (each for each in range(units))

    def call(self, x):
        return super().call(hidden(x))

    def get_config(self):
        return super().get_config() | {"units": 7}


CANNOT_BE_REBUILT = {
    "odd": lambda: Odd(1),
    "forgetful": lambda: Forgetful(4, name="forgetful"),
}


def behind(layer):
    """Return a model in which a layer stands behind others that have groups."""
    dense = [L.Dense(8, "relu", name="a"), L.Dense(4, name="b")]
    return keras.Sequential([keras.Input((6,)), *dense, layer, L.Dropout(0.5), L.Dense(2)])


@pytest.mark.parametrize("name", CANNOT_BE_REBUILT)
def test_what_strip_could_not_rebuild_is_named_before_training(name):
    with pytest.raises(ValueError, match=f"'{name}'.* cannot be rebuilt"):
        kr.coupled_groups(behind(CANNOT_BE_REBUILT[name]()))


def test_a_layer_that_needs_values_to_be_made_can_be_rebuilt():
    assert len(kr.coupled_groups(behind(Adding(name="adding")))) == 8


def test_the_proof_leaves_no_trace():
    """Neither in names nor in random numbers, nor in the layers of the model, whether it succeeds or not."""

    def made_next():
        dense = L.Dense(3)
        dense.build((None, 2))
        return dense.name, [ops.convert_to_numpy(x) for x in (dense.kernel, keras.random.normal((2,)))]

    found = []
    for layer in (None, Adding, lambda: Odd(1)):
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)
        model = behind((layer or Adding)())
        before, calls = model.get_weights(), [len(each._inbound_nodes) for each in model.layers]
        if layer:
            with contextlib.suppress(ValueError):
                kr.coupled_groups(model)
        found.append(made_next())
        assert [len(each._inbound_nodes) for each in model.layers] == calls
        for a, b in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    for name, numbers in found[1:]:
        assert name == found[0][0]
        for a, b in zip(numbers, found[0][1], strict=True):
            np.testing.assert_array_equal(a, b)


QUERIES = {
    "sum": lambda q, x: ops.sum(x * q, axis=-1),
    "sum_of_a_function": lambda q, x: ops.sum(ops.tanh(x) * q, axis=-1),
    "matmul": lambda q, x: ops.matmul(x, q[:, None])[..., 0],
    "matmul_of_a_vector": lambda q, x: ops.matmul(x, q),
    "dot_of_twice": lambda q, x: ops.squeeze(ops.dot(x, ops.expand_dims(q * 2.0, -1)), -1),
    "einsum": lambda q, x: ops.einsum("bnc,c->bn", x, q),
    "tensordot": lambda q, x: ops.tensordot(x, q, axes=1),
}


@pytest.mark.parametrize("name", QUERIES)
@only_tensorflow
def test_a_vector_whose_products_are_summed_reads_channels(name):
    class Pooling(L.Layer):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.dense = L.Dense(12, name="dense")

        def build(self, shape):
            self.dense.build(shape)
            self.q = self.add_weight(shape=(12,), name="q")

        def call(self, x):
            weights = ops.softmax(QUERIES[name](self.q, self.dense(x)), axis=1)
            return ops.sum(weights[..., None] * x, axis=1)

    inputs = keras.Input((None, 8))
    model = keras.Model(inputs, L.Dense(3)(Pooling(name="pooling")(inputs)))
    groups = kr.coupled_groups(model)
    assert [(path, np.size(ids)) for path, ids in groups.members.items()] == [("pooling/q", 12)]
    q = next(weight for weight in model.weights if weight.path.endswith("q"))
    q.assign(np.arange(12.0) % 3)
    small = kr.strip(model)
    assert small.count_params() == model.count_params() - 4 * (8 + 1 + 1)
    x = np.random.default_rng(0).normal(size=(2, 5, 8)).astype("float32")
    assert np.abs(model(x) - small(x)).max() < 1e-5


@only_tensorflow
def test_what_weights_read_is_not_in_groups_with_what_scales_it():
    class Scale(L.Layer):
        def build(self, shape):
            self.q = self.add_weight(shape=(shape[-1],), name="q")

        def call(self, x):
            return x * self.q

    inputs = keras.Input((8,))
    model = keras.Model(inputs, L.Dense(3, name="last")(Scale()(L.Dense(6)(inputs))))
    assert list(kr.coupled_groups(model).members) == ["last/kernel"]


TOWERS = {
    "sum": lambda a, b: ops.sum(a * b, axis=-1),
    "dot": lambda a, b: L.Dot(axes=1)([a, b]),
    "einsum": lambda a, b: ops.einsum("bk,bk->b", a, b),
    "difference": lambda a, b: ops.sum(ops.square(a - b), axis=-1),
}


@pytest.mark.parametrize("name", TOWERS)
def test_channels_that_no_weight_reads_are_groups_of_what_writes_them(name):
    """Two towers of embeddings: a zero column of both tables, of one of them for products."""
    users, items = keras.Input((), dtype="int32"), keras.Input((), dtype="int32")
    towers = [L.Embedding(5, 8, name="user")(users), L.Embedding(7, 8, name="item")(items)]
    model = keras.Model([users, items], TOWERS[name](*towers))
    groups = kr.coupled_groups(model)
    assert len(groups) == 8
    assert {path: np.size(ids) for path, ids in groups.members.items()} == {
        "user/embeddings": 8,
        "item/embeddings": 8,
    }
    for table in ("user", "item"):
        embeddings = model.get_layer(table).embeddings
        embeddings.assign(np.arange(8.0) % 3 + keras.ops.convert_to_numpy(embeddings) * (np.arange(8) % 3))
    small = kr.strip(model)
    assert small.count_params() == model.count_params() - 3 * (5 + 7)
    assert len(kr.coupled_groups(small)) == 5
    model.get_layer("user").embeddings.assign(np.zeros((5, 8)))
    assert kr.strip(model).count_params() == (12 if name != "difference" else 5 * 12)


def test_what_reads_channels_comes_before_what_writes_them():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, L.Dense(3, name="b")(L.Dense(8, name="a")(inputs)))
    assert list(kr.coupled_groups(model).members) == ["b/kernel"]
    with pytest.raises(kr.structure.coupling.NoGroupsError):  # frozen readers go on to read
        kr.coupled_groups(model, exclude=["b/kernel"])


@pytest.mark.parametrize("attention", [L.Attention, L.AdditiveAttention])
@pytest.mark.parametrize("layer", [L.GRU, L.LSTM])
def test_units_of_an_encoder_and_its_decoder_go_together(layer, attention):
    """The decoder begins with the states of the encoder: a unit that is zero there begins at zero here."""
    source, target = keras.Input((None, 3)), keras.Input((None, 3))
    encoded, *states = layer(6, return_sequences=True, return_state=True, name="encoder")(source)
    decoded = layer(6, return_sequences=True, name="decoder")(target, initial_state=states)
    x = L.Concatenate()([decoded, attention()([decoded, encoded])])
    model = keras.Model([source, target], L.Dense(4)(x))
    groups = kr.coupled_groups(model, "all")
    assert groups.names == [f"encoder[{k}]" for k in range(6)]
    for weight in model.weights:
        if weight.path in groups.members:
            ids = groups.members[weight.path]
            weight.assign(np.where(ids % 2 == 1, 0.0, ops.convert_to_numpy(weight) + 0.1 * (ids >= 0)))
    small = kr.strip(model)
    assert small.get_layer("encoder").output[0].shape[-1] == small.get_layer("decoder").output.shape[-1] == 3
