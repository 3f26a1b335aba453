"""Identities of values, proximal maps and subgradients."""

import keras
import numpy as np
import pytest
from backend import gradient, number
from hypothesis import given, settings
from hypothesis import strategies as st

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
    kr.SparseGroupLasso(0.3),
    kr.SparseGroupLasso(0.3, 0.2, "output", scale_by_size=False),
    kr.NonNegativeL1(0.3),
    kr.ElasticNet(0.3, 0.7),
    kr.NuclearNorm(0.3),
]
SHAPES = [(5, 4), (3, 3, 4, 6)]

every_regularizer = pytest.mark.parametrize("regularizer", REGULARIZERS, ids=repr)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
seeds = st.integers(0, 2**32 - 1)
steps = st.floats(1e-3, 3.0)


def objective(regularizer, u, w, step, d):
    return step * float(number(regularizer(u))) + 0.5 * float((d * (u - w) ** 2).sum())


def is_in_subdifferential(regularizer, p, u):
    """Whether psi(x) >= psi(u) + <p, x - u>: tight along u, and for points near and far."""
    psi = lambda x: float(number(regularizer(x)))  # noqa: E731
    random = np.random.default_rng(1)
    others = [0 * u, 2 * u, u / 2, *(u + scale * random.normal(size=u.shape) for scale in (1e-3, 0.1, 1.0, 10.0))]
    return all(psi(x) >= psi(u) + (p * (x - u)).sum() - 1e-8 * (1 + abs(psi(x))) for x in others)


@every_regularizer
@every_shape
@settings(max_examples=25, deadline=None)
@given(seed=seeds, step=steps)
def test_prox_satisfies_its_optimality_condition(regularizer, shape, seed, step):
    """0 in step * dpsi(u) + u - w."""
    w = np.random.default_rng(seed).normal(size=shape)
    u = number(regularizer.prox(w, step))
    residual = (w - u) / step
    assert is_in_subdifferential(regularizer, residual, u)
    if not isinstance(regularizer, kr.NuclearNorm):  # whose subdifferential is not a point where u is not 0
        np.testing.assert_allclose(residual[u != 0], number(regularizer.subgradient(u))[u != 0], atol=1e-9)


@every_regularizer
@every_shape
@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_subgradient_is_one_and_0_at_0(regularizer, shape, seed):
    u = number(regularizer.prox(np.random.default_rng(seed).normal(size=shape), 0.5))
    p = number(regularizer.subgradient(u))
    assert is_in_subdifferential(regularizer, p, u)
    np.testing.assert_array_equal(number(regularizer.subgradient(0 * u)), 0)
    if not isinstance(regularizer, kr.NuclearNorm):
        np.testing.assert_array_equal(p[u == 0], 0)


def check_prox_in_metric(regularizer, shape, seed, step, spread):
    """0 in step * dpsi(u) + d * (u - w)."""
    random = np.random.default_rng(seed)
    w, d = random.normal(size=shape), spread ** random.uniform(-1, 0, size=shape)
    u = number(regularizer.prox_in_metric(w, step, d))
    residual = d * (w - u) / step
    best = objective(regularizer, u, w, step, d)
    for scale in (1e-3, 1e-1):
        other = u + scale * random.normal(size=shape)
        assert best <= objective(regularizer, other, w, step, d) + 1e-9
    assert is_in_subdifferential(regularizer, residual, u)
    return residual, u


@pytest.mark.parametrize("regularizer", [r for r in REGULARIZERS if not isinstance(r, kr.NuclearNorm)], ids=repr)
@every_shape
@settings(max_examples=25, deadline=None)
@given(seed=seeds, step=steps, spread=st.sampled_from([1.0, 10.0, 1e3, 1e6]))
def test_prox_in_metric_is_a_minimum(regularizer, shape, seed, step, spread):
    residual, u = check_prox_in_metric(regularizer, shape, seed, step, spread)
    subgradient = number(regularizer.subgradient(u))
    np.testing.assert_allclose(residual[u != 0], subgradient[u != 0], rtol=1e-7, atol=1e-9)


@every_shape
@settings(max_examples=5, deadline=None)
@given(seed=seeds, step=steps)
def test_prox_in_metric_of_the_nuclear_norm_is_a_minimum(shape, seed, step):
    check_prox_in_metric(kr.NuclearNorm(0.3), shape, seed, step, 10.0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_root_is_accurate_in_the_hardest_metrics(dtype, rng):
    """Two clusters of metric entries, small ones with large weights: where Newton needs most passes."""
    spread, share, power = 10 ** rng.uniform(0, 6, 500), rng.uniform(0, 1, 500), rng.uniform(-1, 0, 500)
    d = np.where(rng.random((64, 500)) < share, 1.0, 1.0 / spread)
    w = rng.normal(size=(64, 500)) * d**power
    norm = np.linalg.norm(d * w, axis=0)
    step = rng.uniform(0, 1) * norm.min() + 1e-3
    psi = kr.GroupLasso(1.0, "output", scale_by_size=False)
    u = number(psi.prox_in_metric(w.astype(dtype), step, d.astype(dtype))).astype("float64")
    # Bisection of N(rho) = 1, N decreasing, in float64.
    low, high = np.full(500, 1e-12), np.full(500, 1e12)
    for _ in range(200):
        middle = np.sqrt(low * high)
        above = np.linalg.norm(d * w / (middle * d + step), axis=0) > 1
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    exact = np.where(norm > step, low * d * w / (low * d + step), 0)
    error = np.abs(u - exact).max(axis=0) / np.abs(exact).max(axis=0, initial=1e-300)
    assert error.max() < (1e-4 if dtype == "float32" else 1e-10)
    assert np.quantile(error, 0.9) < (2e-6 if dtype == "float32" else 1e-13)


def test_prox_in_metric_of_the_nuclear_norm_comes_close_in_a_wide_metric(rng):
    w, d = rng.normal(size=(12, 8)), 1e3 ** rng.uniform(-1, 0, size=(12, 8))
    psi = kr.NuclearNorm(0.3)
    u = w
    for _ in range(20_000):  # plain proximal gradient, to convergence
        left, sigma, right = np.linalg.svd(u - d * (u - w) / d.max(), full_matrices=False)
        u = (left * np.maximum(sigma - 0.03 / d.max(), 0)) @ right
    found = number(psi.prox_in_metric(w, 0.1, d))
    best = objective(psi, u, w, 0.1, d)
    assert objective(psi, found, w, 0.1, d) - best < 1e-3 * (objective(psi, w, w, 0.1, d) - best)


@every_regularizer
def test_prox_in_metric_is_float32_accurate_for_a_wide_metric(regularizer, rng):
    spread = 10.0 if isinstance(regularizer, kr.NuclearNorm) else 1e6
    w, d = rng.normal(size=(3, 3, 8, 16)), spread ** rng.uniform(-1, 0, size=(3, 3, 8, 16))
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
def test_value_is_convex_and_a_norm_is_homogeneous(regularizer, rng):
    a, b = np.abs(rng.normal(size=(2, 3, 4, 5)))  # NonNegativeL1 is infinite elsewhere
    psi = lambda x: float(number(regularizer(x)))  # noqa: E731
    assert psi((a + b) / 2) <= (psi(a) + psi(b)) / 2 + 1e-12
    assert psi(0 * a) == 0
    if not isinstance(regularizer, kr.ElasticNet):
        assert psi(3 * a) == pytest.approx(3 * psi(a))


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
def test_a_scheduled_strength_survives_serialization_and_is_followed_by_optimizers_only(regularizer):
    decay = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    scheduled = type(regularizer)(**regularizer.get_config() | {"strength": decay})
    copy = keras.regularizers.get(keras.regularizers.serialize(scheduled))
    assert copy.get_config() == scheduled.get_config()
    w = np.ones((4, 5))
    for ask in (copy, copy.subgradient, lambda w: copy.prox(w, 1.0)):
        with pytest.raises(ValueError, match="schedule"):
            ask(w)
    np.testing.assert_array_equal(number(copy.at(0.2).prox(w, 1.0)), number(scheduled.at(0.2).prox(w, 1.0)))


@every_regularizer
def test_as_an_ordinary_keras_penalty_its_gradient_is_a_subgradient_also_at_zero(regularizer, rng):
    zero = np.zeros((4, 5), "float32")
    assert is_in_subdifferential(regularizer, gradient(regularizer, zero), zero)
    w = np.abs(rng.normal(size=(4, 5))).astype("float32")
    np.testing.assert_allclose(gradient(regularizer, w), number(regularizer.subgradient(w)), atol=1e-5)


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
    public = {each for each in vars(kr).values() if isinstance(each, type) and issubclass(each, ProximalRegularizer)}
    assert {type(r) for r in REGULARIZERS} == public
