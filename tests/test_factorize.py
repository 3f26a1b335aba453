"""Layers of low rank become two thin layers that compute the same."""

from typing import ClassVar

import keras
import numpy as np
import pytest
from backend import has_all_bits, hidden
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers as L
from zoo import ZOO, randomize

import keras_rmda as kr
from keras_rmda.structure.factorize import factorize
from keras_rmda.structure.inputs import random_inputs
from keras_rmda.structure.verification import VerificationError, difference


def array(x):
    return np.array(keras.ops.convert_to_numpy(x))


def outputs(model, inputs):
    structure = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    result = model(keras.tree.pack_sequence_as(structure, inputs), training=False)
    return [array(y) for y in keras.tree.flatten(result)]


def worst(a, b):
    inputs = random_inputs(a, batch=5)
    return max(difference(x, y) for x, y in zip(outputs(a, inputs), outputs(b, inputs)))


def lower(model, **ranks):
    """Give kernels a rank, with random singular vectors and singular values in [0.5, 1]."""
    random = np.random.default_rng(1)
    for name, rank in ranks.items():
        kernel = model.get_layer(name).kernel
        rank = min(rank, *kernel.shape[-2:])
        u, _, vt = np.linalg.svd(random.normal(size=tuple(kernel.shape)[-2:]), full_matrices=False)
        matrix = u[:, :rank] * random.uniform(0.5, 1.0, size=rank) @ vt[:rank]
        kernel.assign(matrix.reshape(kernel.shape).astype(array(kernel).dtype))
    return model


def names(model):
    return [layer.name for layer in model.layers if not isinstance(layer, L.InputLayer)]


def dense():
    layers = [keras.Input((20,)), L.Dense(30, "relu", name="a"), L.Dense(16, "gelu", name="b"), L.Dense(4, name="c")]
    return lower(randomize(keras.Sequential(layers, name="plain")), a=3, b=5)


def convolutional():
    """1x1 convolutions with strides, paddings and a normalization; a 3x3 one and a grouped one stay."""
    x = inputs = keras.Input((9, 9, 8))
    x = L.Conv2D(12, 1, strides=2, padding="same", activation="relu", name="a")(x)
    x = L.BatchNormalization()(L.Conv2D(16, 1, use_bias=False, name="b")(x))
    x = L.Conv2D(16, 1, groups=2, name="grouped")(L.Conv2D(16, 3, padding="same", name="three")(x))
    x = L.Conv2D(10, (1, 1), strides=(2, 2), name="c")(x)
    model = randomize(keras.Model(inputs, L.Dense(6, name="d")(x)))
    return lower(model, a=2, b=1, c=3, d=2)


def one_and_three_dimensions():
    a, b = keras.Input((12, 6), name="line"), keras.Input((4, 4, 4, 6), name="volume")
    line = L.Conv1D(10, 1, strides=3, padding="causal", activation="tanh", name="a")(a)
    volume = L.Conv3D(10, 1, strides=(1, 2, 2), name="b")(b)
    return lower(randomize(keras.Model({"line": a, "volume": b}, {"x": line, "y": volume})), a=2, b=3)


def residual_with_a_shared_layer():
    """One Dense, called at two widths of batch axes and behind itself, between raw operations."""
    a, b = keras.Input((16,), name="one"), keras.Input((5, 16), name="rows")
    shared = L.Dense(16, "relu", name="shared")
    x = shared(a)
    x = L.Add()([x, shared(x)]) + a
    y = keras.ops.mean(shared(b), axis=1) * 2.0
    model = randomize(keras.Model([a, b], [L.Dense(9, name="head")(x), x - y]))
    return lower(model, shared=3, head=2)


def nested():
    """A model inside of a model stays as it is."""
    inner = keras.Sequential([keras.Input((12,)), L.Dense(12, "relu"), L.Dense(12, trainable=False)], name="inner")
    layers = [keras.Input((20,)), L.Dense(12, name="a"), inner, L.Dense(18, name="b")]
    return lower(randomize(keras.Sequential(layers)), a=2, b=2)


CASES = {
    dense: ["a_in", "a", "b_in", "b", "c"],
    convolutional: ["a_in", "a", "b_in", "b", "batch_normalization", "three", "grouped", "c_in", "c", "d_in", "d"],
    one_and_three_dimensions: ["a_in", "a", "b_in", "b"],
    residual_with_a_shared_layer: ["shared_in", "shared", "add", "head_in", "head"],
    nested: ["a_in", "a", "inner", "b_in", "b"],
}


@pytest.fixture(scope="module", params=CASES, ids=lambda build: build.__name__)
def case(request):
    keras.backend.clear_session()
    model = request.param()
    before = [w.copy() for w in model.get_weights()]
    return model, CASES[request.param], factorize(model), before


def test_layers_become_two(case):
    model, expected, thin, _ = case
    assert sorted(names(thin)) == sorted(expected)
    assert thin.count_params() < model.count_params()
    assert set(names(model)) <= set(names(thin))


def test_computes_the_same(case):
    model, _, thin, _ = case
    assert worst(model, thin) < 2e-6


def test_original_is_untouched(case):
    model, _, thin, before = case
    assert thin is not model
    for a, b in zip(model.get_weights(), before):
        np.testing.assert_array_equal(a, b)


def test_signature_is_kept(case):
    model, _, thin, _ = case
    assert type(thin) is type(model)
    assert thin.name == model.name
    assert thin.input_shape == model.input_shape
    assert thin.output_shape == model.output_shape
    assert not thin.compiled
    for layer in model.layers:
        new = thin.get_layer(layer.name)
        assert type(new) is type(layer)
        assert (new.trainable, new.dtype_policy.name) == (layer.trainable, layer.dtype_policy.name)
        assert getattr(new, "activation", None) == getattr(layer, "activation", None)


def test_saves_loads_and_factorizes_no_further(case, tmp_path):
    _, _, thin, _ = case
    thin.save(tmp_path / "thin.keras")
    loaded = keras.models.load_model(tmp_path / "thin.keras")
    assert worst(thin, loaded) < 1e-6
    assert names(factorize(loaded)) == names(loaded)


@settings(max_examples=15, deadline=None)
@given(
    widths=st.lists(st.integers(1, 24), min_size=2, max_size=4),
    ranks=st.lists(st.integers(0, 24), min_size=4, max_size=4),
)
def test_parameters_are_what_counting_by_hand_gives(widths, ranks):
    layers = [L.Dense(width, name=f"d{k}") for k, width in enumerate(widths[1:])]
    model = randomize(keras.Sequential([keras.Input((widths[0],)), *layers]))
    lower(model, **{layer.name: rank for layer, rank in zip(layers, ranks)})
    thin = factorize(model)
    expected = 0
    for n_in, n_out, rank in zip(widths, widths[1:], ranks):
        rank = max(1, min(rank, n_in, n_out))
        expected += min(n_in * n_out, rank * (n_in + n_out)) + n_out
    assert thin.count_params() == expected
    assert worst(model, thin) < 1e-5


@pytest.mark.parametrize("build", ZOO, ids=lambda build: build.__name__)
def test_models_of_full_rank_are_copied(build):
    model, _ = build()
    randomize(model)
    copy = factorize(model)
    assert copy is not model
    assert names(copy) == names(model)
    for a, b in zip(model.get_weights(), copy.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_kernels_trained_with_the_nuclear_norm(rng):
    """The optimizer leaves singular values of about 1e-7 of the largest; the rest is the rank of the task."""
    x = rng.normal(size=(128, 20)).astype("float32")
    y = 2 * np.tanh(x @ rng.normal(size=(20, 2))) @ rng.normal(size=(2, 6))
    layers = [keras.Input((20,)), L.Dense(24, "tanh", name="a"), L.Dense(16, "tanh", name="b"), L.Dense(6, name="c")]
    model = keras.Sequential(layers)
    psi = kr.NuclearNorm(0.2)
    model.compile(kr.RMDA(0.1, 1.0, psi), "mse")
    before, *_, after = model.fit(x, y, batch_size=64, epochs=60, verbose=0).history["loss"]
    assert after < before / 2
    thin = factorize(model)
    kernel = model.get_layer("b").kernel
    rank = int(np.sum(array(psi.group_norms(kernel)) > 0))
    assert 1 <= rank <= 5
    assert thin.get_layer("b_in").units == rank
    assert thin.count_params() < model.count_params() / 2
    np.testing.assert_allclose(thin.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-4)
    thin.compile("adam", "mse")
    assert thin.fit(x, y, epochs=1, verbose=0).history["loss"][0] < before


def test_tolerance_is_relative_to_the_largest_singular_value():
    model = keras.Sequential([keras.Input((20,)), L.Dense(20, name="a")])
    sigma = 100.0 * 10.0 ** -np.arange(20.0)
    model.get_layer("a").kernel.assign(np.diag(sigma))
    for tolerance, rank in [(0.05, 2), (2e-3, 3), (0.5e-3, 4), (0.99, 1)]:
        thin = factorize(model, tolerance)
        assert thin.get_layer("a_in").units == rank
        product = array(thin.get_layer("a_in").kernel) @ array(thin.get_layer("a").kernel)
        np.testing.assert_allclose(product, np.diag(np.where(np.arange(20) < rank, sigma, 0)), atol=1e-4)
    assert names(factorize(model, 0.0)) == ["a"]


def test_a_zero_kernel_has_rank_one():
    model = lower(dense(), a=0)
    thin = factorize(model)
    assert thin.get_layer("a_in").units == 1
    assert worst(model, thin) < 2e-6


def test_a_shared_layer_stays_shared():
    keras.backend.clear_session()
    model = residual_with_a_shared_layer()
    thin = factorize(model)
    assert thin.count_params() == 3 * 32 + 16 + 2 * 25 + 9
    thin.get_layer("shared_in").kernel.assign(np.zeros((16, 3)))
    model.get_layer("shared").kernel.assign(np.zeros((16, 16)))
    assert worst(model, thin) < 2e-6


def test_names_that_are_taken():
    x = inputs = keras.Input((20,))
    x = L.Dense(20, name="a")(L.Dense(20, "relu", name="a_in")(x))
    model = lower(randomize(keras.Model(inputs, x)), a=2, a_in=2)
    assert sorted(names(factorize(model))) == ["a", "a_in", "a_in_", "a_in_in"]


def test_arguments_of_the_layer_go_to_the_right_half():
    arguments = {"kernel_regularizer": kr.NuclearNorm(0.1), "kernel_constraint": "non_neg", "bias_regularizer": "l2"}
    layer = L.Dense(20, "relu", name="a", activity_regularizer="l1", trainable=False, **arguments)
    model = lower(randomize(keras.Sequential([keras.Input((20,)), layer])), a=2)
    first, second = factorize(model).layers
    for half in (first, second):
        assert half.kernel_regularizer is None
        assert half.kernel_constraint is None
        assert not half.trainable
    assert (first.bias, first.activity_regularizer, first.activation) == (None, None, keras.activations.linear)
    assert second.activity_regularizer is not None
    assert second.bias_regularizer is not None
    assert second.activation is keras.activations.relu


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "float64"])
def test_dtype_policies(policy):
    layers = [keras.Input((20,)), L.Dense(24, "relu", name="a", dtype=policy), L.Dense(20, name="b", dtype=policy)]
    model = lower(randomize(keras.Sequential(layers)), a=2, b=2)
    thin = factorize(model, tolerance=1e-2)
    assert names(thin) == ["a_in", "a", "b_in", "b"]
    assert {layer.dtype_policy.name for layer in thin.layers} == {policy}


def test_layers_with_other_weights_stay():
    model = lower(dense(), b=2)
    model.get_layer("b").enable_lora(2)
    assert names(factorize(model)) == ["a_in", "a", "b", "c"]


def test_preprocessing_layers_keep_what_they_have_learned(rng):
    normalization = L.Normalization()
    normalization.adapt(rng.normal(3.0, 5.0, size=(50, 20)))
    model = lower(keras.Sequential([keras.Input((20,)), normalization, L.Dense(20, name="a")]), a=2)
    assert worst(model, factorize(model)) < 2e-6


class Forgetful(L.Layer):
    """No copy knows its factor."""

    factors: ClassVar = {}

    def __init__(self, factor=1.0, **arguments):
        super().__init__(**arguments)
        self.factors[id(self)] = factor

    def call(self, x):
        return self.factors.get(id(self), 1.0) * hidden(x)


def test_the_first_layer_that_differs_is_named():
    x = inputs = keras.Input((20,))
    x = L.Dense(20, name="a")(x) + inputs
    model = lower(randomize(keras.Model(inputs, L.Dense(3, name="b")(Forgetful(2.0, name="odd")(x)))), a=2)
    with pytest.raises(VerificationError, match="first at 'odd'"):
        factorize(model)


def test_verification_computes_with_all_bits(monkeypatch):
    """GPUs multiply float32 with the bits of float16, where one product and two are not equally rounded."""

    class Rounding(Forgetful):
        def call(self, x):
            return x if has_all_bits() else super().call(x)

    model = keras.Sequential([keras.Input((20,)), L.Dense(20, name="a"), Rounding(1.002, name="b")])
    lower(randomize(model), a=2)
    with pytest.raises(VerificationError, match="first at 'b'"):
        factorize(model)
    monkeypatch.setattr("keras_rmda.platform.arithmetic.runs_on_cpu", lambda: False)
    assert names(factorize(model)) == ["a_in", "a", "b"]
    assert not has_all_bits()


def test_verification_takes_the_users_inputs(rng):
    """Random inputs have at most 256 positions along an open axis; this model wants more."""
    inputs = keras.Input((None, 8))
    model = keras.Model(inputs, L.Conv1D(2, 400, name="b")(L.Conv1D(8, 1, name="a")(inputs)))
    lower(randomize(model), a=2)
    with pytest.raises(ValueError, match=r"inputs=\.\.\."):
        factorize(model)
    assert factorize(model, inputs=rng.normal(size=(2, 410, 8))).get_layer("a_in").filters == 2


def test_a_compiled_model_is_factorized_uncompiled():
    model = dense()
    model.compile(kr.RMDA(), loss=lambda y, p: keras.ops.mean((y - p) ** 2))
    assert not factorize(model).compiled
    assert model.compiled


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = L.Dense(3)

    def call(self, x):
        return self.dense(x)


def test_bad_models():
    with pytest.raises(ValueError, match="not built"):
        factorize(keras.Sequential([L.Dense(3)]))
    with pytest.raises(ValueError, match="not built"):
        factorize(Subclassed())
    for stranger in (None, "model.keras", L.Dense(3), np.ones(3)):
        with pytest.raises(ValueError, match=r"keras\.Model"):
            factorize(stranger)


@pytest.mark.parametrize("tolerance", [-1.0, 1.0, float("nan"), "1e-4", None])
def test_bad_tolerance(tolerance):
    with pytest.raises(ValueError, match=r"`tolerance`.*Received: tolerance="):
        factorize(dense(), tolerance)
