"""Operations between layers: what moves, splits and joins channels, numbers beside them, products of tensors."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops
from zoo import randomize, width, zero, zero_recurrence

import keras_rmda as kr
from keras_rmda.structure.verification import difference

HEADS = {"h": 3, "d": 4, "n": 5}


def dense(units, name, **arguments):
    return L.Dense(units, name=name, **arguments)


def finished(inputs, outputs, **zeros):
    """Return a model with random weights and zeros in what each layer reads."""
    model = randomize(keras.Model(inputs, outputs))
    for name, channels in zeros.items():
        zero(model, name, -2, channels)
    return model


def silent(model, name, channels):
    """Let channels of a dense layer be zero."""
    zero(model, name, -1, channels)
    zero(model, name, 0, channels, "bias")


def halves():
    """SwiGLU with one dense layer: a channel of the product goes with one of each half."""
    x = keras.Input((5, 4))
    gate, up = ops.split(dense(12, "packed")(x), 2, axis=-1)
    model = finished(x, dense(3, "d")(ops.silu(gate) * up), d=[1, 4])
    silent(model, "packed", [2])
    return model, {"packed": 6, "d": 3}


def unequal_parts():
    """Parts of a split that different layers read, and one that nobody does."""
    x = keras.Input((5, 4))
    a, b, c, _ = ops.split(dense(12, "packed")(x), [3, 7, 9], axis=-1)
    y = dense(3, "da")(a) + dense(3, "db")(b) * ops.sigmoid(dense(3, "dc")(c))
    return finished(x, y, da=[0], db=[1, 2, 3], dc=[0]), {"packed": 2 + 1 + 1 + 1, "da": 3, "db": 3, "dc": 3}


def cross_stage_partial():
    """C2f: halves by a split, one of them goes on through a convolution, and all are joined."""
    x = keras.Input((8, 8, 3))
    a, b = ops.split(L.Conv2D(8, 1, activation="relu", name="stem")(x), 2, axis=-1)
    c = L.Conv2D(4, 3, padding="same", activation="relu", name="inner")(b)
    y = L.Conv2D(5, 1, name="out")(ops.concatenate([a, b, c], axis=-1))
    return finished(x, y, out=[0, 4, 5, 8], inner=[0]), {"stem": 6, "inner": 3, "out": 5}


def slices():
    """A channel goes if none of the slices that hold it is read there."""
    x = keras.Input((5, 4))
    y = dense(10, "a")(x)
    z = (
        dense(3, "b")(y[..., :6])
        + dense(3, "c")(y[..., 4:])
        + dense(3, "e")(y[..., -3:-1])
        + dense(3, "f")(y[:, :, ::-1])
    )
    model = finished(x, z + y[..., 2][..., None], b=[0, 1, 4], c=[0, 3], e=[0], f=[9, 8, 5, 2, 1])
    return model, {"a": 10 - 4, "b": 3, "c": 3, "e": 3, "f": 3}


def every_second():
    """Channels between those that a step takes go along with them."""
    x = keras.Input((5, 4))
    y = dense(10, "a")(x)
    model = finished(x, dense(3, "d")(y[..., ::2] * ops.tanh(y[..., 1::2])), d=[0, 3])
    return model, {"a": 6, "d": 3}


def parts_of_a_step():
    """Of every three channels one is read: all three stay together, the incomplete end too."""
    x = keras.Input((5, 4))
    y = dense(8, "a")(x)
    return finished(x, dense(3, "d")(y[..., 1::3]), d=[1]), {"a": 5, "d": 3}


def taken():
    """Channels and positions by a constant index, twice and in another order."""
    x = keras.Input((5, 4))
    y = ops.take(dense(8, "a")(x), np.array([6, 1, 1, -1, 3]), axis=-1)
    z = ops.take(dense(6, "b")(x), [0, 4, 4], axis=1)
    z = dense(3, "e")(ops.sum(z, axis=1))
    return finished(x, [dense(3, "d")(y), z], d=[1, 4], e=[5]), {"a": 3, "b": 5, "d": 3, "e": 3}


def repeated():
    """Channels and positions repeated, tiled, rolled, and added up along positions."""
    x = keras.Input((5, 4))
    a = dense(3, "da")(ops.repeat(dense(4, "a")(x), 2, axis=-1))
    b = dense(3, "db")(ops.tile(dense(4, "b")(x), (1, 1, 2)))
    c = dense(3, "dc")(ops.roll(ops.roll(dense(6, "c")(x), 2, axis=-1), 1, axis=1))
    e = dense(3, "de")(ops.cumsum(ops.repeat(dense(6, "e")(x), [1, 0, 2, 1, 1], axis=1), axis=1))
    model = finished(x, a + b + c + e, da=[0, 1, 2], db=[1, 5, 3], dc=[0, 3], de=[2])
    return model, {"a": 3, "b": 3, "c": 4, "e": 5}


def shuffled():
    """Channel shuffle: channels of all groups at the same place go together."""
    x = keras.Input((5, 4))
    y = ops.reshape(dense(12, "a")(x), (-1, 5, 3, 4))
    y = ops.reshape(ops.transpose(y, (0, 1, 3, 2)), (-1, 5, 12))
    return finished(x, dense(3, "d")(y), d=[3, 4, 5, 6, 7]), {"a": 9, "d": 3}


def arrays():
    """Numbers for each channel, each position, or both are cut; a zero among them makes a zero channel."""
    x = keras.Input((5, 4))
    y = dense(8, "a")(x) * np.array([1.0, 0, 2, 3, 4, 0, 1, 2])
    y = ops.relu(y / np.float32(2)) + np.arange(40.0).reshape(5, 8)
    y = ops.maximum(y - np.ones((5, 1)), ops.convert_to_tensor(np.arange(8.0, dtype="float32")))
    return finished(x, dense(3, "d")(y), d=[0, 1, 7]), {"a": 5, "d": 3}


def other_ranks():
    """A vector of each sample does not meet the steps by NumPy's rules, one of each channel does, from the right."""
    x, mask = keras.Input((5, 4)), keras.Input((1, 5, 1), name="mask")
    y = ops.reshape(dense(12, "a")(x), (-1, 5, 3, 4)) * ops.transpose(mask, (0, 2, 1, 3))
    y = ops.reshape(y * np.array([1.0, 2, 3, 4]) + np.ones((3, 1)), (-1, 5, 12))
    return finished([x, mask], dense(3, "d")(y), d=[1, 4, 5, 6, 7, 9]), {"a": 6, "d": 3}


def products():
    """What a product sums over goes where one factor is zero; the axes of one factor are its own."""
    x = keras.Input((5, 4))
    a, b, c = dense(8, "a")(x), dense(8, "b")(x), dense(6, "c")(x)
    y = ops.matmul(ops.matmul(a, ops.swapaxes(b, 1, 2)), c)
    y = ops.matmul(np.random.default_rng(0).normal(size=(2, 5)).astype("float32"), y)
    model = finished(x, dense(3, "d")(y), d=[0, 5])
    silent(model, "a", [1, 2])
    silent(model, "b", [2, 3, 7])
    return model, {"a": 4, "b": 4, "c": 4, "d": 3}


def added_channels():
    """A sum over channels loses zeros; what stays of these for another reader stays zero."""
    x = keras.Input((5, 4))
    a, b = dense(8, "a")(x), dense(8, "b")(x)
    y = ops.sum(a * b, axis=-1, keepdims=True) + L.Dot(axes=2)([dense(6, "e")(x), dense(6, "f")(x)])
    model = finished(x, [y, dense(3, "d")(b)], d=[1, 2, 4])
    silent(model, "a", [1, 2, 3])
    silent(model, "e", [0, 1])
    silent(model, "f", [1, 5])
    return model, {"a": 6, "b": 6, "e": 3, "f": 3, "d": 3}


def pooled_by_attention():
    """A softmax over steps leaves channels what they are; each weight of a head goes with the head."""
    x = keras.Input((5, 4))
    y = ops.sum(ops.softmax(dense(1, "score")(ops.tanh(dense(7, "a")(x))), axis=1) * dense(6, "values")(x), axis=1)
    weights = ops.reshape(L.Softmax(axis=1)(dense(3, "heads")(x)), (-1, 5, 3, 1))
    z = ops.sum(weights * ops.reshape(dense(12, "b")(x), (-1, 5, 3, 4)), axis=1)
    z = dense(2, "e")(ops.reshape(z, (-1, 12)))
    model = finished(x, [dense(3, "d")(y), z], d=[2], score=[0, 6], e=[4, 5, 6, 7, 0, 11])
    return model, {"a": 5, "values": 5, "heads": 2, "b": 6}


def reductions():
    """A mean over positions loses channels; one over channels needs as many as there were."""
    x = keras.Input((5, 4))
    y = ops.std(dense(6, "a")(x), axis=1) + ops.max(dense(6, "b")(x), axis=1)
    y = dense(3, "d")(y) + ops.mean(dense(4, "c")(x), axis=(1, 2), keepdims=True)[:, 0]
    return finished(x, y, d=[0, 5]), {"a": 4, "b": 4, "c": 4, "d": 3}


def gated_by_glu():
    x = keras.Input((5, 4))
    model = finished(x, dense(3, "d")(ops.glu(dense(12, "a")(x), axis=-1)), d=[0])
    silent(model, "a", [3])
    return model, {"a": 8, "d": 3}


def heads(y, h, d, n):
    return ops.transpose(ops.reshape(y, (-1, n, h, d)), (0, 2, 1, 3))


def attended(q, k, v, h, d, n):
    scores = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) / np.sqrt(d), axis=-1)
    return ops.reshape(ops.transpose(ops.matmul(scores, v), (0, 2, 1, 3)), (-1, n, h * d))


def apart(x):
    """Queries, keys and values from three layers."""
    return [heads(dense(12, name)(x), **HEADS) for name in ("query", "key", "value")]


def by_split(x):
    return [heads(y, **HEADS) for y in ops.split(dense(36, "packed")(x), 3, axis=-1)]


def by_transpose(x):
    """The batch is the second axis."""
    y = ops.transpose(ops.reshape(dense(36, "packed")(x), (-1, 5, 3, 3, 4)), (2, 0, 3, 1, 4))
    return [y[0], y[1], y[2]]


def by_unstack(x):
    y = ops.unstack(ops.reshape(dense(36, "packed")(x), (-1, 5, 3, 3, 4)), axis=2)
    return [ops.transpose(each, (0, 2, 1, 3)) for each in y]


def by_slices_of_heads(x):
    """Each head has its queries, keys and values side by side."""
    y = ops.transpose(ops.reshape(dense(36, "packed")(x), (-1, 5, 3, 12)), (0, 2, 1, 3))
    return [y[..., :4], y[..., 4:8], y[..., 8:]]


def by_einsum_dense(x):
    made = [
        L.EinsumDense("abc,cde->adbe", (3, 5, 4), bias_axes="de", name=name)(x) for name in ("query", "key", "value")
    ]
    return made


def rotated(x):
    """Rotary embedding: the channels of a pair go together."""
    table = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    q, k, v = apart(x)
    turned = [y * table + ops.concatenate([-y[..., 2:], y[..., :2]], axis=-1) * (1 - table) for y in (q, k)]
    return [*turned, v]


WAYS = [apart, by_split, by_transpose, by_unstack, by_slices_of_heads, by_einsum_dense, rotated]


def by_hand(way):
    x = keras.Input((5, 6))
    return randomize(keras.Model(x, dense(2, "d")(dense(6, "out")(attended(*way(x), **HEADS)))))


KNOWS_GLU = ops.glu(keras.Input((4,))).shape[-1] == 2  # Keras 3.8 does not

CASES = [
    halves, unequal_parts, cross_stage_partial, slices, every_second, parts_of_a_step, taken, repeated, shuffled,
    arrays, other_ranks, products, added_channels, pooled_by_attention, reductions, *[gated_by_glu] * KNOWS_GLU,
]  # fmt: skip


def check(model, small, path, once=True):
    """Compare a model, what `strip` leaves of it, and that saved and loaded."""
    arrays = [np.random.default_rng(1).normal(size=(3, *x.shape[1:])).astype("float32") for x in model.inputs]
    small.save(path / "small.keras")
    loaded = keras.models.load_model(path / "small.keras", safe_mode=False)
    given = arrays if len(arrays) > 1 else arrays[0]
    for a, *others in zip(*(keras.tree.flatten(each(given)) for each in (model, small, loaded))):
        assert max(difference(a, b) for b in others) < 2e-6
    assert kr.analyze(model).parameters_after == small.count_params()
    assert kr.analyze(model).macs_after == kr.analyze(small).macs
    assert not (once and kr.analyze(small).removable)


@pytest.mark.parametrize("build", CASES, ids=lambda build: build.__name__)
def test_channels_go_where_all_readers_allow(build, tmp_path):
    model, kept = build()
    assert not kr.analyze(model).opaque
    small = kr.strip(model, tolerance=2e-6)
    assert {name: width(small, name) for name in kept} == kept
    check(model, small, tmp_path)
    kr.strip(model, tolerance=2e-6, round_to=4)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_attention_by_hand_loses_heads_and_widths(way, tmp_path):
    model = by_hand(way)
    zero(model, "out", 0, range(4, 8))  # head 1
    heads_only = kr.strip(model, tolerance=2e-6)
    assert not kr.analyze(model).opaque
    assert heads_only.count_params() == 3 * 7 * 8 + 9 * 6 + 14
    check(model, heads_only, tmp_path)
    zero(model, "out", 0, [0, 10])  # other values in each head
    if way is apart:
        silent(model, "query", [0, 1, 9])  # head 0 is asked at two positions, head 2 at three
        silent(model, "key", [2, 9])
    check(model, small := kr.strip(model, tolerance=2e-6), tmp_path)
    if way is apart:
        assert {name: width(small, name) for name in ("query", "key", "value", "out")} == {
            "query": 6, "key": 6, "value": 6, "out": 6,
        }  # fmt: skip


@pytest.mark.parametrize("head", range(3))
@pytest.mark.parametrize("way", [apart, by_split, by_transpose], ids=lambda way: way.__name__)
def test_what_stays_for_shapes_alone_is_of_the_head_that_is_read(way, head, tmp_path):
    model = by_hand(way)
    zero(model, "out", 0, [k for k in range(12) if k // 4 != head])
    names = ["query", "key"] if way is apart else ["packed"]
    for name in names:
        silent(model, name, range(12 if way is apart else 24))  # all scores are the same
    small = kr.strip(model, tolerance=2e-6)
    assert small.get_layer("out").kernel.shape[0] == 4
    assert sum(small.get_layer(name).units for name in names) == {apart: 2, by_split: 6, by_transpose: 12}[way]
    check(model, small, tmp_path)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_attention_by_hand_has_the_groups_of_the_layer(way):
    x = keras.Input((5, 6))
    layer = randomize(keras.Model(x, dense(2, "d")(L.MultiHeadAttention(3, 4, name="attention")(x, x))))
    ours, theirs = kr.coupled_groups(by_hand(way)), kr.coupled_groups(layer)
    assert len(ours) == len(theirs) == 3 + 6
    assert np.allclose(sorted(ours.weights), sorted(theirs.weights))
    ours, theirs = (kr.coupled_groups(model, weights="macs") for model in (by_hand(way), layer))
    assert np.allclose(sorted(ours.weights), sorted(theirs.weights))


def test_the_same_zeros_leave_the_same_of_the_layer_and_of_what_is_written_by_hand():
    x = keras.Input((5, 6))
    layer = randomize(keras.Model(x, dense(2, "d")(L.MultiHeadAttention(3, 4, name="attention")(x, x))))
    ours = by_hand(apart)
    for mine, part in (("query", "query"), ("key", "key"), ("value", "value"), ("out", "output")):
        for attribute in ("kernel", "bias"):
            given = getattr(getattr(layer.get_layer("attention"), f"{part}_dense"), attribute)
            weight = getattr(ours.get_layer(mine), attribute)
            weight.assign(np.reshape(keras.ops.convert_to_numpy(given), weight.shape))
    ours.get_layer("d").set_weights(layer.get_layer("d").get_weights())
    data = np.random.default_rng(0).normal(size=(2, 5, 6)).astype("float32")
    assert difference(ours(data), layer(data)) < 1e-6
    for channels in ([4, 5, 6, 7], [0], [9]):
        zero(ours, "out", 0, channels)
        zero(layer, "attention", 0, [channels[0] // 4], "output_dense.kernel") if len(channels) > 1 else None
    kernel = np.array(keras.ops.convert_to_numpy(ours.get_layer("out").kernel)).reshape(3, 4, 6)
    layer.get_layer("attention").output_dense.kernel.assign(kernel)
    silent(ours, "query", [0, 1, 8, 10])
    for attribute in ("kernel", "bias"):
        weight = getattr(layer.get_layer("attention").query_dense, attribute)
        mine = keras.ops.convert_to_numpy(getattr(ours.get_layer("query"), attribute))
        weight.assign(np.reshape(mine, weight.shape))
    assert kr.strip(ours).count_params() == kr.strip(layer).count_params() < 0.6 * layer.count_params()


def test_grouped_and_shared_keys(tmp_path):
    """Query heads that share keys go together; keys that all heads share leave no head alone."""
    x = keras.Input((5, 6))
    q = ops.reshape(dense(16, "query")(x), (-1, 5, 2, 2, 4))
    k, v = (ops.reshape(dense(8, name)(x), (-1, 5, 2, 4)) for name in ("key", "value"))
    scores = ops.softmax(ops.einsum("bqgrd,bkgd->bgrqk", q, k))
    y = ops.reshape(ops.einsum("bgrqk,bkgd->bqgrd", scores, v), (-1, 5, 16))
    model = finished(x, dense(2, "d")(y), d=range(8, 16))
    small = kr.strip(model)
    assert [width(small, name) for name in ("query", "key", "value")] == [8, 4, 4]
    check(model, small, tmp_path)
    k, v = (dense(4, name)(x) for name in ("key", "value"))
    q = ops.reshape(dense(12, "query")(x), (-1, 5, 3, 4))
    scores = ops.softmax(ops.einsum("bqhd,bkd->bhqk", q, k))
    y = ops.reshape(ops.einsum("bhqk,bkd->bqhd", scores, v), (-1, 5, 12))
    model = finished(x, dense(2, "d")(y), d=[1, 5, 9])
    silent(model, "key", [0, 2])
    small = kr.strip(model)
    assert [width(small, name) for name in ("query", "key", "value")] == [6, 2, 3]
    check(model, small, tmp_path)


@pytest.mark.parametrize("bias", [False, True])
def test_the_operation_dot_product_attention(bias, tmp_path):
    x = keras.Input((5, 6))
    q, k, v = (ops.reshape(dense(12, name)(x), (-1, 5, 3, 4)) for name in ("query", "key", "value"))
    numbers = np.random.default_rng(0).normal(size=(1, 3, 5, 5)).astype("float32") if bias else None
    y = ops.reshape(ops.dot_product_attention(q, k, v, bias=numbers), (-1, 5, 12))
    model = finished(x, dense(2, "d")(y), d=[0, 4, 5, 6, 7, 9])
    silent(model, "query", [0, 1, 9, 11, 4, 5])
    small = kr.strip(model)
    # Queries and values keep as many; numbers for each head let none go.
    assert [width(small, name) for name in ("query", "key", "value")] == ([12] * 3 if bias else [6] * 3)
    check(model, small, tmp_path)


def test_layers_of_attention_without_projections(tmp_path):
    x = keras.Input((5, 6))
    q, v, k = (dense(n, name)(x) for n, name in ((8, "query"), (7, "value"), (8, "key")))
    y = L.Attention(use_scale=True)([q, v, k])
    a, b, c = (dense(n, name)(x) for n, name in ((8, "a"), (7, "b"), (8, "c")))
    z = L.AdditiveAttention(name="additive")([a, b, c])
    model = finished(x, [dense(2, "d")(y), dense(2, "e")(z)], d=[0, 1], e=[2])
    zero(model, "additive", 0, [3, 4, 5], "scale")
    silent(model, "query", [0, 1])
    silent(model, "key", [1, 2, 7])
    small = kr.strip(model)
    kept = {"query": 4, "key": 4, "value": 5, "a": 5, "b": 6, "c": 5}
    assert {name: width(small, name) for name in kept} == kept
    check(model, small, tmp_path)


def test_recurrent_cells_and_convolutional_ones(tmp_path):
    x = keras.Input((5, 4))
    y = L.RNN(L.LSTMCell(6), return_sequences=True, name="first")(x)
    y = L.Bidirectional(L.RNN(L.GRUCell(4)), name="both")(y)
    z = L.ConvLSTM1D(6, 3, padding="same", return_sequences=True, name="images")(ops.reshape(x, (-1, 5, 2, 2)))
    z = L.ConvLSTM1D(4, 3, padding="same", name="last")(z)
    model = finished(x, [dense(2, "d")(y), dense(2, "e")(z)], e=[1])
    zero_recurrence(model, "first", 2)
    for way in ("forward", "backward"):
        zero(model, "both", 0, [2], f"{way}_layer.cell.kernel")
    for name in ("last", "images"):
        weight = model.get_layer(name).cell.recurrent_kernel
        value = np.array(keras.ops.convert_to_numpy(weight))
        value[:, 1] = 0
        weight.assign(value)
    zero(model, "last", -2, [1], "cell.kernel")
    small = kr.strip(model)
    assert small.get_layer("first").cell.units == 5
    assert (small.get_layer("images").filters, small.get_layer("last").filters) == (5, 3)
    check(model, small, tmp_path)


def test_what_is_not_covered_says_why():
    x = keras.Input((5, 4))
    for y, reason in (
        (ops.einsum("bnc,bnc,bnd->bnd", x, x, dense(4, "b")(x)), "3 inputs"),
        (L.RNN([L.GRUCell(3), L.GRUCell(2)], return_state=True)(x)[0], "a StackedRNNCells inside"),
        (L.Attention(score_mode="concat")([x, x]), "score_mode='concat'"),
        (L.Dot(axes=2, normalize=True)([x, x]), "normalize=True"),
        (ops.take(dense(3, "a")(x), [[0, 1], [1, 2]], axis=-1), "an index of several axes into channels"),
    ):
        [found] = kr.analyze(keras.Model(x, y)).opaque.values()
        assert reason in found


def test_rows_keep_the_same_where_their_order_matters(tmp_path):
    """Heads behind their positions, numbers that all heads share, a normalization, a single position."""
    x = keras.Input((5, 4))
    y = ops.reshape(dense(12, "a")(x), (-1, 5, 3, 4))
    for change in (
        lambda y: ops.transpose(y, (0, 1, 3, 2)),
        lambda y: L.LayerNormalization()(y),
        lambda y: y + y[..., 1:2],
        lambda y: ops.take(y, [2, 0, 1], axis=-1),
        lambda y: ops.roll(y, 1, axis=-1),
        lambda y: ops.matmul(y, np.eye(4, dtype="float32")[::-1]),
        lambda y: ops.reshape(ops.reshape(y, (-1, 5, 12)), (-1, 5, 2, 6)),
        lambda y: y * ops.reshape(dense(4, "b")(x), (-1, 5, 1, 4)),
        lambda y: y[..., 1:3],
        lambda y: ops.concatenate([y[..., 3:], y[..., :2]], axis=-1),
    ):
        z = change(y)
        z = ops.reshape(z, (-1, 5, int(np.prod(z.shape[2:]))))
        model = finished(x, dense(2, "d")(z))
        for seed in range(4):
            gone = np.random.default_rng(seed).random(z.shape[-1]) < 0.6
            randomize(model, seed)
            zero(model, "d", 0, np.flatnonzero(gone))
            # A second time, where all have one position left, heads may go.
            check(model, kr.strip(model, tolerance=2e-6), tmp_path, once=False)


def test_windows_are_parts_of_a_sample(tmp_path):
    """Positions that go into the batch and come back: windows, all of which cost."""
    x = keras.Input((4, 4, 6))
    y = ops.transpose(ops.reshape(dense(8, "a")(x), (-1, 2, 2, 2, 2, 8)), (0, 1, 3, 2, 4, 5))
    y = ops.reshape(y, (-1, 4, 8))
    q, k, v = (heads(dense(12, name)(y), 3, 4, 4) for name in ("query", "key", "value"))
    y = dense(8, "out")(attended(q, k, v, 3, 4, 4))
    y = ops.transpose(ops.reshape(y, (-1, 2, 2, 2, 2, 8)), (0, 1, 3, 2, 4, 5))
    model = finished(
        x, dense(2, "d")(ops.reshape(y, (-1, 4, 4, 8))), d=[0], out=range(4), query=[1], key=[1], value=[1]
    )
    rows = {row.name: row for row in kr.analyze(model).layers}
    assert [rows[name].macs for name in ("a", "query", "d")] == [16 * 48, 16 * 96, 16 * 16]
    small = kr.strip(model, tolerance=2e-6)
    kept = {"a": 7, "query": 8, "key": 8, "value": 8, "out": 7}
    assert {name: width(small, name) for name in kept} == kept
    check(model, small, tmp_path)


def test_experts_and_other_rows_of_which_one_side_has_no_channels():
    """Outputs of experts that are stacked have the same channels; the weight of each expert stays."""
    x = keras.Input((5, 4))
    made = ops.stack([dense(6, f"expert{k}")(x) for k in range(3)], axis=-2)
    y = ops.sum(made * L.Dense(3, activation="softmax", name="gate")(x)[..., None], axis=-2)
    small = kr.strip(finished(x, dense(2, "d")(y), d=[1, 5]))
    assert [width(small, name) for name in ("expert0", "expert1", "gate")] == [4, 4, 3]


def test_positions_that_go_into_the_batch_stay_channels_of_one_image():
    """A dense layer makes an image whose rows go into the batch: a channel goes only at all positions."""
    x = keras.Input((6,))
    y = ops.reshape(dense(12, "a")(x), (-1, 3, 4))
    y = L.Flatten()(ops.reshape(dense(5, "b")(ops.reshape(y, (-1, 4))), (-1, 3, 5)))
    small = kr.strip(finished(x, dense(2, "d")(y), b=[1], d=[k for k in range(15) if k % 5 in (0, 3)]))
    assert [width(small, name) for name in "ab"] == [9, 3]


def wrapped(layer, shape):
    inputs = keras.Input(shape)
    x = L.SpectralNormalization(layer, name="wrapped")(inputs)
    x = L.Flatten()(L.Activation("relu")(x))
    return randomize(keras.Model(inputs, L.Dense(2, name="head")(x)))


@pytest.mark.parametrize("kind", ["dense", "convolution", "transposed"])
def test_spectral_normalization_loses_what_the_layer_inside_does(kind, tmp_path):
    shape = (5,) if kind == "dense" else (4, 4, 3)
    layer = {
        "dense": lambda: L.Dense(8),
        "convolution": lambda: L.Conv2D(8, 3, padding="same"),
        "transposed": lambda: L.Conv2DTranspose(8, 3, padding="same", use_bias=False),
    }[kind]()
    model = wrapped(layer, shape)
    positions = 1 if kind == "dense" else 16
    zero(model, "head", 0, [8 * p + k for p in range(positions) for k in (0, 3)])
    assert kr.analyze(model).opaque == {}
    small = kr.strip(model)
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    assert difference(model(x), small(x)) < 1e-5
    assert small.get_layer("head").kernel.shape == (6 * positions, 2)
    small(x, training=True)  # divides the kernel by the norm of what it is now
    small.save(tmp_path / "small.keras")
    assert difference(small(x), keras.models.load_model(tmp_path / "small.keras")(x)) == 0


def masked_positions(last):
    x, places = keras.Input((7, 5)), keras.Input((3,), dtype="int32")
    hidden = L.Dense(8, activation="relu", name="a")(x)
    found = ops.take_along_axis(hidden, ops.expand_dims(places, -1) if last == 1 else places[:, None], last)
    return randomize(keras.Model([x, places], L.Dense(2, name="b")(found)))


@pytest.mark.parametrize(("axis", "kept"), [(1, 6), (2, 8)])
def test_take_along_axis_carries_channels_where_it_takes_positions(axis, kept):
    model = masked_positions(axis)
    zero(model, "b", 0, [0, 2])
    random = np.random.default_rng(0)
    given = [random.normal(size=(4, 7, 5)).astype("float32"), random.integers(0, 7, (4, 3))]
    small = kr.strip(model, inputs=given)
    assert difference(model(given), small(given)) < 1e-5
    assert small.get_layer("a").units == kept
    assert bool(kr.analyze(model).opaque) == (axis == 2)
