"""Identities of values, proximal maps and subgradients."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import keras_rmda as kr
from keras_rmda.regularizers import ProximalRegularizer

# The conformance list: every regularizer runs through every test that takes `regularizer`.
REGULARIZERS = [
    kr.L1(0.3),
    kr.GroupLasso(0.3),
    kr.GroupLasso(0.3, groups="output"),
    kr.GroupLasso(0.3, groups="kernel"),
    kr.GroupLasso(0.3, groups=0, scale_by_size=False),
    kr.GroupLasso(0.0),
]
SHAPES = [(5, 4), (3, 3, 4, 6)]

every_regularizer = pytest.mark.parametrize("regularizer", REGULARIZERS, ids=repr)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
seeds = st.integers(0, 2**32 - 1)
steps = st.floats(1e-3, 3.0)


def number(x):
    return np.asarray(ops.convert_to_numpy(x))


def objective(regularizer, u, w, step, d):
    return step * float(number(regularizer(u))) + 0.5 * float((d * (u - w) ** 2).sum())


@every_regularizer
@every_shape
@settings(max_examples=25, deadline=None)
@given(seed=seeds, step=steps)
def test_prox_satisfies_its_optimality_condition(regularizer, shape, seed, step):
    """0 in step * dpsi(u) + u - w: with equality where u is nonzero, and within the dual ball where it is zero."""
    w = np.random.default_rng(seed).normal(size=shape)
    u = number(regularizer.prox(w, step))
    residual = (w - u) / step
    np.testing.assert_allclose(residual[u != 0], number(regularizer.subgradient(u))[u != 0], atol=1e-9)
    # <residual, x> <= psi(x) for every x, with equality at u: the residual is in the subdifferential.
    assert (residual * u).sum() == pytest.approx(float(number(regularizer(u))), abs=1e-8)
    x = np.random.default_rng(seed + 1).normal(size=shape)
    assert (residual * x).sum() <= float(number(regularizer(x))) + 1e-8


@every_regularizer
@every_shape
@settings(max_examples=25, deadline=None)
@given(seed=seeds, step=steps, spread=st.sampled_from([1.0, 10.0, 1e3, 1e6]))
def test_prox_in_metric_is_a_minimum(regularizer, shape, seed, step, spread):
    random = np.random.default_rng(seed)
    w, d = random.normal(size=shape), spread ** random.uniform(-1, 0, size=shape)
    u = number(regularizer.prox_in_metric(w, step, d))
    residual = d * (w - u) / step
    subgradient = number(regularizer.subgradient(u))
    np.testing.assert_allclose(residual[u != 0], subgradient[u != 0], rtol=1e-7, atol=1e-9)
    best = objective(regularizer, u, w, step, d)
    for scale in (1e-3, 1e-1):
        other = u + scale * random.normal(size=shape)
        assert best <= objective(regularizer, other, w, step, d) + 1e-9


@every_regularizer
def test_prox_in_metric_is_float32_accurate_for_a_wide_metric(regularizer, rng):
    w, d = rng.normal(size=(3, 3, 8, 16)), 1e6 ** rng.uniform(-1, 0, size=(3, 3, 8, 16))
    exact = number(regularizer.prox_in_metric(w, 0.01, d))
    single = number(regularizer.prox_in_metric(w.astype("float32"), 0.01, d.astype("float32")))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, exact, atol=2e-5 * np.abs(exact).max(initial=1e-9))


@every_regularizer
@every_shape
@settings(max_examples=10, deadline=None)
@given(seed=seeds, step=steps)
def test_prox_in_the_identity_metric_is_prox(regularizer, shape, seed, step):
    w = np.random.default_rng(seed).normal(size=shape)
    metric = number(regularizer.prox_in_metric(w, step, np.ones(shape)))
    np.testing.assert_allclose(metric, number(regularizer.prox(w, step)), atol=1e-12)


@every_regularizer
@every_shape
@pytest.mark.parametrize("delta", [0.5, 1.0, 3.0])
def test_mirror_maps_are_inverse(regularizer, shape, delta, rng):
    """to_primal(to_dual(w)) == w: prox, subgradient and initialization of Bregman training agree."""
    w = number(regularizer.prox(rng.normal(size=shape), 0.5))
    dual = w / delta + number(regularizer.subgradient(w))
    np.testing.assert_allclose(number(regularizer.prox(delta * dual, delta)), w, atol=1e-12)


@every_regularizer
def test_value_is_positively_homogeneous_and_convex(regularizer, rng):
    a, b = rng.normal(size=(2, 3, 4, 5))
    psi = lambda x: float(number(regularizer(x)))  # noqa: E731
    assert psi(3 * a) == pytest.approx(3 * psi(a))
    assert psi((a + b) / 2) <= (psi(a) + psi(b)) / 2 + 1e-12


@every_regularizer
def test_nan_never_becomes_a_zero(regularizer, rng):
    w = rng.normal(size=(4, 5))
    w[1, 2] = np.nan
    metric = np.ones_like(w)
    assert np.isnan(number(regularizer.prox(w, 100.0))[1, 2])
    assert np.isnan(number(regularizer.prox_in_metric(w, 100.0, metric))[1, 2])


@every_regularizer
def test_all_zero_input_stays_zero_and_finite(regularizer):
    w = np.zeros((4, 5))
    for result in (regularizer.prox(w, 1.0), regularizer.prox_in_metric(w, 1.0, w + 1), regularizer.subgradient(w)):
        np.testing.assert_array_equal(number(result), 0)


@every_regularizer
def test_serialization_round_trip(regularizer):
    copy = keras.regularizers.get(keras.regularizers.serialize(regularizer))
    assert type(copy) is type(regularizer)
    assert copy.get_config() == regularizer.get_config()


@every_regularizer
def test_as_an_ordinary_keras_penalty_its_gradient_is_finite_at_zero(regularizer):
    import tensorflow as tf

    w = tf.Variable(tf.zeros((4, 5)))
    with tf.GradientTape() as tape:
        value = regularizer(w)
    assert np.isfinite(tape.gradient(value, w).numpy()).all()


def test_group_lasso_weighs_groups_by_the_root_of_their_size(rng):
    w = rng.normal(size=(3, 3, 4, 5))
    norms = {"input": (0, 1, 3), "output": (0, 1, 2), "kernel": (0, 1)}
    for groups, axes in norms.items():
        size = np.prod([w.shape[k] for k in axes])
        expected = 0.7 * np.sqrt(size) * np.sqrt((w**2).sum(axis=axes)).sum()
        assert float(number(kr.GroupLasso(0.7, groups)(w))) == pytest.approx(expected)
        plain = kr.GroupLasso(0.7, groups, scale_by_size=False)
        assert float(number(plain(w))) == pytest.approx(expected / np.sqrt(size))


@pytest.mark.parametrize("strength", [-1.0, float("nan"), float("inf"), "1e-4", None, True, [1.0]])
def test_bad_strength(strength):
    for regularizer in (kr.L1, kr.GroupLasso):
        with pytest.raises(ValueError, match="strength") as error:
            regularizer(strength)
        assert repr(strength) in str(error.value)


@pytest.mark.parametrize("groups", ["filters", 1.5, None, True, ("input",)])
def test_bad_groups(groups):
    with pytest.raises(ValueError, match="groups") as error:
        kr.GroupLasso(1.0, groups)
    assert repr(groups) in str(error.value)


@pytest.mark.parametrize(("groups", "shape"), [("input", (5,)), ("kernel", (5,)), (3, (4, 5)), (-3, (4, 5))])
def test_groups_that_a_variable_does_not_have(groups, shape):
    with pytest.raises(ValueError, match=r"my/kernel"):
        kr.GroupLasso(1.0, groups).check_shape(shape, "my/kernel")


def test_every_regularizer_is_on_the_list():
    assert {type(r) for r in REGULARIZERS} == set(ProximalRegularizer.__subclasses__())
