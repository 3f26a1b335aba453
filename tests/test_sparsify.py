"""Sparse starts: exact counts, whole groups, kept variance, reproducible masks."""

import keras
import numpy as np
import pytest
from backend import only_tensorflow
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers as L

import keras_rmda as kr
from keras_rmda.optimizers.assignment import is_kernel
from keras_rmda.structure.sparsify import SparseInitializer, sparsify, thinned

GROUPS = ("input", "output", "kernel")


def array(x):
    return np.array(keras.ops.convert_to_numpy(x))


def convolutional():
    layers = [keras.Input((9, 9, 4)), L.Conv2D(6, 3, name="conv"), L.BatchNormalization()]
    layers += [L.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise"), L.Conv2DTranspose(10, 3, name="transpose")]
    return keras.Sequential([*layers, L.Flatten(), L.Dense(20, name="dense")])


def kept_by(kernel, axes):
    """Whether each group, told apart by `axes`, has weights; fails if a group is neither whole nor zero."""
    nonzero = array(kernel) != 0
    others = tuple(axis for axis in range(nonzero.ndim) if axis not in {a % nonzero.ndim for a in axes})
    np.testing.assert_array_equal(nonzero.any(others), nonzero.all(others))
    return nonzero.any(others)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 7), min_size=2, max_size=4),
    density=st.floats(1e-6, 1.0),
    groups=st.sampled_from([None, *GROUPS, 0, -1]),
    seed=st.integers(0, 2**31 - 1),
)
def test_keeps_exactly_the_share_and_scales_it(shape, density, groups, seed):
    psi = kr.L1(1.0) if groups is None else kr.GroupLasso(1.0, groups)
    w = np.random.default_rng(seed).uniform(1.0, 2.0, size=shape).astype("float32")
    result = array(thinned(keras.ops.convert_to_tensor(w), density, psi, np.random.default_rng(seed)))
    axes = {None: range(len(shape)), "input": [-2], "output": [-1], "kernel": [-2, -1]}.get(groups, [groups])
    kept = kept_by(result, axes)
    assert kept.sum() == max(1, round(density * kept.size))
    factor = np.sqrt(kept.size / kept.sum())
    np.testing.assert_allclose(result[result != 0], w[result != 0] * factor, rtol=1e-6)


@pytest.mark.parametrize("density", [1e-9, 0.1, 0.5, 1.0])
def test_every_kernel_and_nothing_else_is_sparse(density):
    model = convolutional()
    before = {v.path: array(v) for v in model.weights}
    sparsify(model, density)
    for variable in model.weights:
        after = array(variable)
        if is_kernel(variable):
            assert np.count_nonzero(after) == max(1, round(density * after.size))
        else:
            np.testing.assert_array_equal(after, before[variable.path])


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ("input", {"conv": [2], "depthwise": [2], "transpose": [3], "dense": [0]}),
        ("output", {"conv": [3], "depthwise": [2, 3], "transpose": [2], "dense": [1]}),
        ("kernel", {"conv": [2, 3], "depthwise": [2, 3], "transpose": [2, 3], "dense": [0, 1]}),
        (-1, {"conv": [3], "depthwise": [3], "transpose": [3], "dense": [1]}),
    ],
)
def test_groups_follow_the_layer_table(groups, axes):
    model = convolutional()
    sparsify(model, 0.5, by="group", groups=groups)
    for name, told_apart in axes.items():
        kept = kept_by(model.get_layer(name).kernel, told_apart)
        assert kept.sum() == round(0.5 * kept.size)


@pytest.mark.parametrize(("by", "groups"), [("weight", "input"), *(("group", groups) for groups in GROUPS)])
def test_variance_of_the_pre_activations_is_kept(by, groups, rng):
    x = rng.normal(size=(500, 400))
    model = keras.Sequential([keras.Input((400,)), L.Dense(300, kernel_initializer="he_normal")])
    before = np.var(x @ array(model.layers[0].kernel))
    sparsify(model, 0.2, by, groups)
    assert np.var(x @ array(model.layers[0].kernel)) == pytest.approx(before, rel=0.05)


def test_seeds_determine_the_masks():
    def masks(seed, global_seed):
        keras.utils.set_random_seed(0)
        model = convolutional()
        keras.utils.set_random_seed(global_seed)
        sparsify(model, 0.3, seed=seed)
        return np.concatenate([array(v).ravel() for v in model.trainable_variables])

    np.testing.assert_array_equal(masks(5, 1), masks(5, 2))
    np.testing.assert_array_equal(masks(None, 1), masks(None, 1))
    assert (masks(5, 1) != masks(6, 1)).any()
    assert (masks(None, 1) != masks(None, 2)).any()


def test_two_layers_of_one_shape_get_different_masks():
    model = keras.Sequential([keras.Input((8,)), L.Dense(8), L.Dense(8)])
    sparsify(model, 0.5, seed=1)
    first, second = (array(layer.kernel) != 0 for layer in model.layers)
    assert (first != second).any()


def test_frozen_and_half_precision_kernels():
    model = keras.Sequential([keras.Input((8,)), L.Dense(8, trainable=False), L.Dense(8, dtype="bfloat16")])
    model.layers[1].kernel.assign(np.ones((8, 8)))
    sparsify(model, 0.25)
    assert [np.count_nonzero(array(layer.kernel)) for layer in model.layers] == [64, 16]
    assert model.layers[1].kernel.dtype == "bfloat16"


def test_training_starts_from_the_sparse_weights(rng):
    """The zeros are no constraint: Bregman training brings weights back as it needs them."""
    x = rng.normal(size=(64, 10))
    model = keras.Sequential([keras.Input((10,)), L.Dense(30, "relu"), L.Dense(1)])
    sparsify(model, 0.05)
    start = np.count_nonzero(array(model.layers[0].kernel))
    model.compile(kr.LinBreg(0.05, regularizer=kr.L1(0.02)), "mse")
    history = model.fit(x, np.abs(x[:, :1]) + x[:, 1:2], epochs=40, verbose=0).history["loss"]
    assert history[-1] < history[0] / 2
    assert start < np.count_nonzero(array(model.layers[0].kernel)) < 300


# ---- the initializer


@pytest.mark.parametrize(
    "inner",
    ["he_normal", keras.initializers.GlorotUniform(seed=3), keras.initializers.serialize(keras.initializers.Ones())],
)
def test_initializer_masks_what_the_inner_one_gives(inner):
    values = array(SparseInitializer(inner, 0.25, seed=1)((20, 10)))
    assert np.count_nonzero(values) == 50
    ones = array(SparseInitializer("ones", 0.25, seed=1)((20, 10)))
    np.testing.assert_array_equal(ones, 2.0 * (values != 0))


@pytest.mark.parametrize(("groups", "axes"), [("input", [2]), ("output", [3]), ("kernel", [2, 3]), (1, [1])])
def test_initializer_by_groups(groups, axes):
    kernel = SparseInitializer("ones", 0.5, "group", groups)((3, 4, 6, 8), "float32")
    kept = kept_by(kernel, axes)
    assert kept.sum() == kept.size / 2


def test_initializer_equals_sparsify():
    model = keras.Sequential([keras.Input((6,)), L.Dense(5, kernel_initializer="ones")])
    sparsify(model, 0.5, by="group", seed=7)
    np.testing.assert_array_equal(
        array(model.layers[0].kernel), array(SparseInitializer("ones", 0.5, "group", seed=7)((6, 5)))
    )


def test_initializer_seeds():
    def values(seed, global_seed):
        keras.utils.set_random_seed(global_seed)
        return array(SparseInitializer("ones", 0.3, seed=seed)((10, 10)))

    np.testing.assert_array_equal(values(5, 1), values(5, 2))
    np.testing.assert_array_equal(values(None, 1), values(None, 1))
    assert (values(None, 1) != values(None, 2)).any()
    same = SparseInitializer("he_normal", 0.3)
    np.testing.assert_array_equal(array(same((4, 5))), array(same((4, 5))))


def test_initializer_is_saved_with_its_model(tmp_path):
    initializer = SparseInitializer(keras.initializers.HeNormal(seed=1), 0.3, "group", np.int64(-1), seed=2)
    model = keras.Sequential([keras.Input((10,)), L.Dense(10, kernel_initializer=initializer)])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(loaded.layers[0].kernel), array(model.layers[0].kernel))
    again = loaded.layers[0].kernel_initializer
    assert again.get_config() == initializer.get_config()
    np.testing.assert_array_equal(array(again((5, 6))), array(initializer((5, 6))))
    assert again.clone().get_config() == initializer.get_config()


@only_tensorflow
def test_initializer_in_a_traced_build():
    import tensorflow as tf

    layer = L.Dense(10, kernel_initializer=SparseInitializer("ones", 0.3, "group", seed=2))
    tf.function(layer)(tf.ones((2, 10)))
    assert np.count_nonzero(array(layer.kernel)) == 30


# ---- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"density": 0.0}, r"`density`.*density=0\.0"),
        ({"density": 1.5}, r"`density`.*density=1\.5"),
        ({"density": "0.1"}, "`density`.*density='0.1'"),
        ({"density": float("nan")}, "`density`.*density=nan"),
        ({"by": "filter"}, "`by`.*by='filter'"),
        ({"by": None}, "`by`.*by=None"),
        ({"groups": "rows"}, "`groups`.*groups='rows'"),
        ({"groups": 1.0}, "`groups`.*groups=1.0"),
        ({"seed": -1}, "`seed`.*seed=-1"),
        ({"seed": "0"}, "`seed`.*seed='0'"),
    ],
)
def test_bad_arguments(arguments, message):
    model = convolutional()
    with pytest.raises(ValueError, match=message):
        sparsify(model, **{"density": 0.5} | arguments)
    with pytest.raises(ValueError, match=message):
        SparseInitializer("ones", **{"density": 0.5} | arguments)


def test_bad_models():
    for stranger in (None, "model.keras", L.Dense(3)):
        with pytest.raises(ValueError, match=r"`model` must be a keras\.Model"):
            sparsify(stranger, 0.5)
    with pytest.raises(ValueError, match=r"not built.*keras\.Input"):
        sparsify(keras.Sequential([L.Dense(3)]), 0.5)
    with pytest.raises(ValueError, match="no trainable kernel"):
        sparsify(keras.Sequential([keras.Input((3,)), L.Dense(3, trainable=False)]), 0.5)


def test_groups_that_a_kernel_does_not_have_change_nothing():
    model = convolutional()
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"'sequential.*/dense/kernel' of shape \(490, 20\).*groups=2"):
        sparsify(model, 0.5, by="group", groups=2)
    for a, b in zip(model.get_weights(), before):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match=r"shape \(5,\).*groups='input'"):
        SparseInitializer("ones", 0.5, by="group")((5,))


@pytest.mark.parametrize("initializer", [None, "nonsense", 3, {"class_name": "Nonsense"}])
def test_bad_initializers(initializer):
    with pytest.raises(ValueError, match=r"`initializer`.*Received: initializer="):
        SparseInitializer(initializer, 0.5)


# ---- numbers by layer


def layered():
    layers = [keras.Input((9, 9, 4)), L.Conv2D(6, 3, name="conv"), L.Conv2DTranspose(10, 3, name="transpose")]
    model = keras.Sequential([*layers, L.Flatten(), L.Dense(20, name="dense"), L.Dense(5, name="last")], name="net")
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            layer.kernel.assign(keras.ops.ones(layer.kernel.shape))
    return model


def kernel_of(model, name):
    return array(model.get_layer(name).kernel)


def test_densities_and_groups_by_layer():
    model = layered()
    densities = {"conv/kernel": 0.5, "net/transpose/kernel": 0.25, "dense.*": 0.1}
    sparsify(model, densities, {"conv.*": "group"}, {"conv.*": "output"}, seed=0)
    conv = kernel_of(model, "conv")
    assert kept_by(conv, [-1]).sum() == 3
    np.testing.assert_allclose(conv[conv != 0], np.sqrt(2), rtol=1e-6)
    assert (kernel_of(model, "transpose") != 0).sum() == round(0.25 * 9 * 6 * 10)
    assert (kernel_of(model, "dense") != 0).mean() == pytest.approx(0.1, abs=1e-3)
    np.testing.assert_array_equal(kernel_of(model, "last"), 1.0)


def test_a_gain_for_all_or_by_layer():
    for gain, factors in ((10.0, (10.0, 10.0)), ({"conv/kernel": 0.5}, (0.5, np.sqrt(2)))):
        model = layered()
        sparsify(model, 0.5, seed=0, gain=gain)
        for name, factor in zip(("conv", "dense"), factors):
            kernel = kernel_of(model, name)
            np.testing.assert_allclose(kernel[kernel != 0], factor, rtol=1e-3)


def test_biases_are_drawn_for_the_layers_that_become_sparse():
    model = layered()
    sparsify(model, {"(conv|transpose|dense)/kernel": 0.5}, seed=0, bias=(-1.0, 10.0))
    for name, fan_in in (("conv", 9 * 4), ("transpose", 9 * 6), ("dense", 9 * 9 * 10)):
        bias = array(model.get_layer(name).bias) * np.sqrt(fan_in)
        assert -1.0 <= bias.min() < bias.max() <= 10.0
        assert bias.max() > 4.0
    np.testing.assert_array_equal(array(model.get_layer("last").bias), 0.0)
    again = layered()
    sparsify(again, {"(conv|transpose|dense)/kernel": 0.5}, seed=0, bias=(-1.0, 10.0))
    for a, b in zip(model.weights, again.weights):
        np.testing.assert_array_equal(array(a), array(b))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"density": {"conv9/kernel": 0.5}}, r"`density` match no trainable kernel: \['conv9/kernel'\].*conv/kernel"),
        ({"density": 0.5, "gain": {"bias": 2.0}}, "`gain` match no trainable kernel"),
        ({"density": {"conv.*": 0.5, ".*/kernel": 0.1}}, "Several patterns of `density`"),
        ({"density": {"conv/kernel": 1.5}}, "density=1.5"),
        ({"density": {"(": 0.5}}, "regular expressions"),
        ({"density": 0.5, "gain": 0.0}, "gain=0.0"),
        ({"density": 0.5, "by": {"conv/kernel": "row"}}, "by='row'"),
        ({"density": 0.5, "bias": 1.0}, "bias=1.0"),
        ({"density": 0.5, "bias": (1.0, 0.0)}, r"bias=\(1.0, 0.0\)"),
    ],
    ids=str,
)
def test_bad_numbers_by_layer_change_nothing(arguments, message):
    model = layered()
    before = [array(weight) for weight in model.weights]
    with pytest.raises(ValueError, match=message):
        sparsify(model, **arguments)
    for a, b in zip(model.weights, before):
        np.testing.assert_array_equal(array(a), b)


@pytest.mark.parametrize("parts", ["readers", "all"])
def test_coupled_groups(parts):
    model = layered()
    groups = kr.coupled_groups(model, parts=parts)
    for variable in model.trainable_variables:
        variable.assign(keras.ops.ones(variable.shape))
    sparsify(model, 0.5, by="group", groups=groups, seed=0)
    zeros = {}
    for path, ids in groups.members.items():
        [variable] = [v for v in model.trainable_variables if v.path.endswith(path)]
        value, ids = array(variable), np.broadcast_to(ids, variable.shape)
        for number in np.unique(ids[ids >= 0]):
            parts_of_group = value[ids == number]
            assert set(parts_of_group.tolist()) in ({0.0}, {1.0})
            assert zeros.setdefault(number, parts_of_group[0] == 0) == (parts_of_group[0] == 0)
        np.testing.assert_array_equal(value[ids < 0], 1.0)
    layers = {}
    for number, is_zero in zeros.items():
        layers.setdefault(groups.names[number].rsplit("[", 1)[0], []).append(is_zero)
    for name, found in layers.items():
        assert len(found) - sum(found) == max(1, round(0.5 * len(found))), name


def test_coupled_groups_that_do_not_fit_change_nothing():
    model, other = layered(), convolutional()
    groups = kr.coupled_groups(model)
    for arguments, message in (
        ({"by": "weight"}, "by='weight'"),
        ({"by": "group", "gain": 2.0}, "gain=2.0"),
        ({"by": "group", "density": 2.0}, "density=2.0"),
    ):
        with pytest.raises(ValueError, match=message):
            sparsify(model, **{"density": 0.5, "groups": groups} | arguments)
    with pytest.raises(ValueError, match="of another model"):
        sparsify(other, 0.5, by="group", groups=groups)
    np.testing.assert_array_equal(kernel_of(model, "conv"), 1.0)
