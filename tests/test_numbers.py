"""The maps of the penalties are finite and exact for every finite argument, from 1e-30 to 1e30."""

import numpy as np
import pytest
from backend import gradient, number
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import keras_rmda as kr
from keras_rmda.platform import arithmetic
from keras_rmda.regularizers import CoupledGroups

GROUPS, SIZE = 4, 6
STRENGTHS = [0.0, 1e-30, 1e-12, 1e-3, 1.0, 2.0**66, 1e30]
L1_RATIO = 0.3
PENALTIES = {
    "L1": kr.L1,
    "NonNegativeL1": kr.NonNegativeL1,
    "ElasticNet": lambda strength: kr.ElasticNet(strength, L1_RATIO),
    "GroupLasso": lambda strength: kr.GroupLasso(strength, groups=0),
    "SparseGroupLasso": lambda strength: kr.SparseGroupLasso(strength, L1_RATIO, groups=0),
    "coupled GroupLasso": lambda strength: Coupled(kr.GroupLasso(strength, groups=HALVES)),
    "coupled SparseGroupLasso": lambda strength: Coupled(kr.SparseGroupLasso(strength, L1_RATIO, groups=HALVES)),
}
ROWS = np.arange(GROUPS)
HALVES = CoupledGroups({"x": ROWS[:, None], "y": ROWS[None]}, [SIZE**0.5] * GROUPS, [str(row) for row in ROWS])


class Coupled:
    """The maps of a penalty whose groups lie on two variables, as those of one."""

    def __init__(self, penalty):
        self.joint = penalty.among(["x", "y"])

    @staticmethod
    def parts(w):
        return [w[:, :2], ops.transpose(w[:, 2:])]

    def whole(self, parts):
        return ops.concatenate([parts[0], ops.transpose(parts[1])], axis=1)

    def __call__(self, w):
        return self.joint(self.parts(w))

    def group_norms(self, w):
        return self.joint.group_norms(self.parts(w))

    def subgradient(self, w):
        return self.whole(self.joint.subgradient(self.parts(w)))

    def prox(self, w, step):
        return self.whole(self.joint.prox(self.parts(w), [step, step]))

    def prox_in_metric(self, w, step, d):
        return self.whole(self.joint.prox_in_metric(self.parts(w), [step, step], self.parts(d)))


def soft(w, c):
    return np.sign(w) * np.maximum(np.abs(w) - c, 0)


def of_groups(w, c):
    """Return the weights after the map of the group lasso, c = t / d: by bisection of the logarithm of the norm."""
    low, high = np.full((len(w), 1), -200.0), np.full((len(w), 1), 60.0)
    for _ in range(100):
        middle = (low + high) / 2
        above = ((w / (10**middle + c)) ** 2).sum(axis=1, keepdims=True) > 1
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.where(low > -190, w * 10**low / (10**low + c), 0.0)


def expected(name, w, t, d):
    """Return the map in the metric d, for the step times the strength t, in float64."""
    c = t / d
    if name == "L1":
        return soft(w, c)
    if name == "NonNegativeL1":
        return np.maximum(w - c, 0)
    if name == "ElasticNet":
        return soft(w, L1_RATIO * c) / (1 + (1 - L1_RATIO) * c)
    if "Sparse" in name:
        w, c = soft(w, L1_RATIO * c), (1 - L1_RATIO) * c
    return of_groups(w, SIZE**0.5 * c)


def as_type(x, dtype):
    """Return numbers as a tensor of this type, and what they are in it, in float64."""
    tensor = ops.cast(ops.convert_to_tensor(np.asarray(x, "float32")), dtype)
    return tensor, number(ops.cast(tensor, "float32")).astype("float64")


def check(found, name, w, t, d, dtype):
    """Compare with the exact map; at the edge of zero the map itself says how near one can come."""
    found = number(ops.cast(found, "float32")).astype("float64")
    assert np.isfinite(found).all()
    close = 1e-4 if dtype == "float32" else 2.0**-7
    with np.errstate(over="ignore"):
        low, high = (np.abs(expected(name, w, t * (1 + sign * 1e-5), d)) for sign in (1, -1))
    scale = close * high.max(axis=1, keepdims=True) + 1e-36
    assert (np.abs(found) >= low - scale).all()
    assert (np.abs(found) <= high + scale).all()
    assert (found * w >= 0).all()


@pytest.mark.parametrize("name", ["L1", "NonNegativeL1", "GroupLasso"])
@pytest.mark.parametrize(
    ("step", "strength", "d", "scale"),
    [(1e-30, 1e30, 1e-9, 1.0), (1e-30, 1e30, 1e-30, 1e30), (1e-20, 1e10, 1e-29, 1e18), (1e-8, 1e30, 1e-9, 1e30)],
)
def test_a_small_step_brings_back_a_strength_that_is_too_large_for_the_metric(name, step, strength, d, scale):
    w = scale * np.random.default_rng(0).uniform(0.1, 3.0, (GROUPS, SIZE))
    w, metric = as_type(w, "float32"), as_type(np.full((GROUPS, SIZE), d), "float32")
    found = PENALTIES[name](strength).prox_in_metric(w[0], step, metric[0])
    check(found, name, w[1], step * strength, metric[1], "float32")


# Adding 0 makes 0 of -0, by which NumPy takes a range for an empty one.
exponents = st.tuples(st.floats(-30, 30), st.floats(-30, 30)).map(lambda pair: [x + 0.0 for x in sorted(pair)])
dtypes = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
every_penalty = pytest.mark.parametrize("name", PENALTIES)


@st.composite
def arguments(draw):
    """Weights and a metric of any sizes within one group, or such that weights and thresholds are alike."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    w = 10 ** random.uniform(*draw(exponents), size=(GROUPS, SIZE)) * random.choice([-1.0, 1.0], size=(GROUPS, SIZE))
    strength, step = draw(st.sampled_from(STRENGTHS)), draw(st.sampled_from([1e-5, 0.1, 3.0, 1e4]))
    if draw(st.booleans()):
        d = 10 ** random.uniform(*draw(exponents), size=(GROUPS, SIZE))
    else:
        d = np.clip(strength * step / np.abs(w) * 10 ** random.uniform(-1, 1, size=(GROUPS, SIZE)), 1e-30, 1e30)
    d = np.maximum(d, strength * 1e-36)  # above, their quotient is cut off, also where a small step would bring it back
    zero = draw(st.sampled_from(["none", "group", "some"]))
    w[0] *= zero != "group"
    return np.where(random.random(w.shape) < 0.3, 0.0, w) if zero == "some" else w, step, d, strength


@dtypes
@every_penalty
@settings(max_examples=40, deadline=None)
@given(arguments=arguments())
def test_maps_are_exact_over_the_whole_range(name, dtype, arguments):
    w, step, d, strength = arguments
    psi, t = PENALTIES[name](strength), float(np.float32(step)) * float(np.float32(strength))
    (w, exact_w), (d, exact_d) = as_type(w, dtype), as_type(d, dtype)
    check(psi.prox_in_metric(w, step, d), name, exact_w, t, exact_d, dtype)
    check(psi.prox(w, step), name, exact_w, t, np.ones_like(exact_d), dtype)


@dtypes
@every_penalty
@settings(max_examples=20, deadline=None)
@given(arguments=arguments())
def test_norms_values_and_subgradients_are_exact_over_the_whole_range(name, dtype, arguments):
    w, _, _, strength = arguments
    w = np.abs(w) if name == "NonNegativeL1" else w
    psi, (w, exact) = PENALTIES[name](strength), as_type(w, dtype)
    grouped = "Group" in name
    norms = np.linalg.norm(exact, axis=1) if grouped else np.abs(exact)
    rtol = 1e-5 if dtype == "float32" else 2.0**-7
    found = number(ops.cast(psi.group_norms(w), "float32"))
    np.testing.assert_allclose(found.reshape(norms.shape), norms, rtol=rtol)
    assert ((found.reshape(norms.shape) == 0) == (norms == 0)).all()

    l1 = {"ElasticNet": L1_RATIO, "L1": 1.0, "NonNegativeL1": 1.0}.get(name, L1_RATIO if "Sparse" in name else 0.0)
    direction = exact / np.where(norms == 0, 1, norms)[:, None] * SIZE**0.5 if grouped else exact
    slope = strength * (l1 * np.sign(exact) + (1 - l1) * direction)
    value = l1 * np.abs(exact).sum() + (1 - l1) * (SIZE**0.5 * norms.sum() if grouped else (exact**2).sum() / 2)
    with np.errstate(over="ignore"):
        slope, value = slope.astype("float32"), np.float32(strength * value)
    found = number(ops.cast(psi.subgradient(w), "float32"))
    if grouped:  # relative to the largest of the group
        largest = np.abs(slope).max(axis=1, keepdims=True)
        np.testing.assert_array_equal(found[largest[:, 0] == 0], 0)
        found, slope = (x / np.where(largest == 0, 1, largest) for x in (found, slope))
    np.testing.assert_allclose(found, slope, rtol=rtol, atol=rtol if grouped else 0)
    np.testing.assert_allclose(float(number(ops.cast(psi(w), "float32"))), value, rtol=rtol, atol=1e-36)


@pytest.mark.parametrize("scale", [1e-25, 1e-30, 1e25])
@pytest.mark.parametrize("name", ["GroupLasso", "coupled GroupLasso"])
def test_the_gradient_of_a_norm_does_not_depend_on_the_size_of_weights(name, scale, rng):
    w = (scale * rng.normal(size=(GROUPS, SIZE))).astype("float32")
    w[1] = 0.0
    psi = PENALTIES[name](0.3)
    np.testing.assert_allclose(gradient(psi, w), number(psi.subgradient(ops.convert_to_tensor(w))), rtol=1e-5)


@pytest.mark.parametrize("strength", STRENGTHS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), exponent=st.floats(-29, 29), metric=st.floats(-30, 30))
def test_the_nuclear_norm_is_as_exact_at_every_size(strength, seed, exponent, metric):
    w = (10**exponent * np.random.default_rng(seed).normal(size=(8, 5))).astype("float32")
    psi, step, d = kr.NuclearNorm(strength), 0.1, np.full_like(w, 10**metric)
    u, sigma, vt = np.linalg.svd(w.astype("float64"), full_matrices=False)
    for found, divisor in ((psi.prox(w, step), 1.0), (psi.prox_in_metric(w, step, d), float(d[0, 0]))):
        exact = (u * np.maximum(sigma - step * strength / divisor, 0)) @ vt
        np.testing.assert_allclose(number(found), exact, atol=2e-6 * sigma.max())
    np.testing.assert_allclose(number(psi.group_norms(w)), sigma, rtol=1e-4)
    np.testing.assert_allclose(number(psi.subgradient(w)), strength * (u @ vt), atol=1e-4 * strength)


@settings(max_examples=20, deadline=None)
@given(arguments=arguments())
def test_the_nuclear_norm_is_finite_over_the_whole_range(arguments):
    w, step, d, strength = arguments
    psi, w, d = kr.NuclearNorm(strength), w.astype("float32"), d.astype("float32")
    for found in (psi.prox(w, step), psi.prox_in_metric(w, step, d), psi.subgradient(w), psi.group_norms(w)):
        assert np.isfinite(number(found)).all()


@pytest.mark.parametrize("compiled", [lambda function: function, arithmetic.compiled], ids=["eager", "compiled"])
def test_many_scales_in_one_group_need_no_more_passes(compiled, rng):
    """Weights that are in proportion to their thresholds, over sixty orders of magnitude: the slowest there are."""
    c = (10 ** rng.uniform(0, 60, size=(2000, 1))) ** rng.uniform(-0.5, 0.5, size=(2000, 48))
    w = c * np.abs(rng.normal(size=c.shape)) * 10 ** rng.uniform(-1, 0.3, size=(2000, 1))
    w, d = np.clip(w, 1e-30, 1e30).astype("float32"), np.clip(1 / c, 1e-30, 1e30).astype("float32")
    psi = kr.GroupLasso(1.0, groups=0, scale_by_size=False)
    exact_w, exact_d = w.astype("float64"), d.astype("float64")
    found = number(compiled(psi.prox_in_metric)(w, 1.0, d))
    low, high = (of_groups(exact_w, (1 + sign * 1e-5) / exact_d) for sign in (1, -1))
    scale = 1e-4 * high.max(axis=1, keepdims=True)
    assert ((found >= low - scale) & (found <= high + scale)).all()


@every_penalty
@pytest.mark.parametrize("compiled", [lambda function: function, arithmetic.compiled], ids=["eager", "compiled"])
def test_nan_and_zero_strength_stay_what_they_are(name, compiled, rng):
    w = rng.normal(size=(GROUPS, SIZE)).astype("float32")
    np.testing.assert_array_equal(number(PENALTIES[name](0.0).prox_in_metric(np.abs(w), 1.0, np.abs(w))), np.abs(w))
    w[1, 3] = np.nan
    for strength in (0.0, 1.0, 1e30):
        for found in (
            compiled(PENALTIES[name](strength).prox)(w, 1.0),
            compiled(PENALTIES[name](strength).prox_in_metric)(w, 1.0, np.full_like(w, 1e-20)),
        ):
            assert np.isnan(number(found)[1, 3])
            assert np.isfinite(number(found)[[0, 2, 3]]).all()
