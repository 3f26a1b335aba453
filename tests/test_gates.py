"""Hard concrete gates: their distribution, their penalty, and layers that train with them."""

import keras
import numpy as np
import pytest
from backend import gradient, number
from keras import layers as L

import keras_rmda as kr
from keras_rmda.gates import hard_concrete

LOG_ALPHAS = np.linspace(-4.0, 4.0, 10)
COUNT = 200_000


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def cumulative(z, log_alpha):
    """The distribution function of the paper, written anew: P(stretched s <= z)."""
    s = (z + 0.1) / 1.2
    return sigmoid((np.log(s) - np.log(1.0 - s)) * 2.0 / 3.0 - log_alpha)


@pytest.mark.parametrize("log_alpha", LOG_ALPHAS)
def test_gates_are_distributed_as_the_paper_says(log_alpha):
    u = np.random.default_rng(0).uniform(1e-6, 1.0 - 1e-6, COUNT).astype("float32")
    z = number(hard_concrete.gate(np.float32(log_alpha), u))
    sd = 4.0 * 0.5 / COUNT**0.5  # four standard deviations of a frequency
    assert (z == 0.0).mean() == pytest.approx(cumulative(0.0, log_alpha), abs=sd)
    assert (z == 1.0).mean() == pytest.approx(1.0 - cumulative(1.0, log_alpha), abs=sd)
    assert float(number(hard_concrete.probability_open(log_alpha))) == pytest.approx(1 - cumulative(0.0, log_alpha))
    assert float(number(hard_concrete.probability_full(log_alpha))) == pytest.approx(1 - cumulative(1.0, log_alpha))
    grid = np.linspace(0.0, 1.0, 100_001)
    mean = np.trapezoid(1.0 - cumulative(grid, log_alpha), grid)  # the mean of a number in [0, 1]
    assert z.mean() == pytest.approx(mean, abs=sd)
    for level in (0.25, 0.5, 0.75):
        assert (z <= level).mean() == pytest.approx(cumulative(level, log_alpha), abs=sd)


def test_log_alpha_of_is_the_inverse_of_the_probability():
    for probability in (0.1, 0.5, 0.99):
        log_alpha = hard_concrete.log_alpha_of(probability)
        assert float(number(hard_concrete.probability_open(log_alpha))) == pytest.approx(probability, rel=1e-5)


def test_the_penalty_is_the_expected_cost_of_open_gates(float64):
    """And its gradient that of the expectation, by differences of the distribution function."""
    penalty = lambda log_alpha: keras.ops.sum(hard_concrete.probability_open(log_alpha)) * 0.3 * 7.0  # noqa: E731
    found = gradient(penalty, LOG_ALPHAS)
    step = 1e-5
    expected = 0.3 * 7.0 * (cumulative(0.0, LOG_ALPHAS - step) - cumulative(0.0, LOG_ALPHAS + step)) / (2 * step)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    layer = kr.layers.L0Gate(0.3, cost=7.0)
    layer(np.ones((2, 10)))
    layer.log_alpha.assign(LOG_ALPHAS)
    layer(np.ones((2, 10)))
    expected = 0.3 * 7.0 * (1.0 - cumulative(0.0, LOG_ALPHAS)).sum()
    assert float(number(layer.losses[-1])) == pytest.approx(expected, rel=1e-5)


def gated(**arguments):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = L.BatchNormalization()(L.Conv2D(6, 3, use_bias=False)(inputs))
    x = L.ReLU()(kr.layers.L0Gate(1e-3, name="gate", **arguments)(x))
    return keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling2D()(x)))


def test_gates_begin_open():
    model = gated()
    np.testing.assert_array_equal(number(model.get_layer("gate").gates()), 1.0)


def test_inference_is_deterministic_and_training_is_not():
    layer = kr.layers.L0Gate(0.0, open_probability=0.5, seed=1)
    x = np.ones((4, 50), "float32")
    np.testing.assert_array_equal(number(layer(x)), number(layer(x)))
    first, second = number(layer(x, training=True)), number(layer(x, training=True))
    assert (first != second).any()
    np.testing.assert_array_equal(first[0], first[1])  # one sample for the batch
    again = kr.layers.L0Gate(0.0, open_probability=0.5, seed=1)
    np.testing.assert_array_equal(number(again(x, training=True)), first)
    each = number(kr.layers.L0Gate(0.0, open_probability=0.5, per_example=True)(x, training=True))
    assert (each[0] != each[1]).any()
    assert 0.3 < (each > 0).mean() < 0.7


@pytest.mark.parametrize("axis", [1, 2, -1])
def test_any_axis(axis):
    layer = kr.layers.L0Gate(0.0, axis=axis)
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype("float32")
    layer(x)
    gates = np.zeros(x.shape[axis], "float32")
    gates[1] = 1.0
    layer.log_alpha.assign(np.where(gates > 0, 4.0, -4.0))
    y = number(layer(x))
    np.testing.assert_array_equal(np.take(y, 1, axis), np.take(x, 1, axis))
    assert (np.delete(y, 1, axis) == 0).all()


@pytest.mark.parametrize(
    ("per_example", "arguments"),
    [(True, {}), (False, {}), (False, {"jit_compile": True}), (True, {"run_eagerly": True})],
)
def test_gates_learn_and_close(per_example, arguments):
    if arguments and keras.backend.backend() == "torch":
        pytest.skip("PyTorch runs eagerly")
    model = gated(per_example=per_example, cost=30.0, open_probability=0.9)
    x = np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype("float32")
    model.compile(keras.optimizers.Adam(0.1), "mse", **arguments)
    history = model.fit(x, x.mean(axis=(1, 2))[:, :2], epochs=30, verbose=0).history
    gates = number(model.get_layer("gate").gates())
    assert np.isfinite(history["loss"]).all()
    assert (gates == 0).any()


def test_all_gates_closed_is_no_nan():
    model = gated()
    model.get_layer("gate").log_alpha.assign(np.full(6, -4.6))
    x = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype("float32")
    model.compile("adam", "mse")
    assert np.isfinite(model.fit(x, np.ones((8, 2)), epochs=2, verbose=0).history["loss"]).all()
    assert np.isfinite(model.predict(x, verbose=0)).all()


def test_mixed_precision():
    layer = kr.layers.L0Gate(1e-3, dtype="mixed_float16")
    assert layer(np.ones((2, 3), "float16"), training=True).dtype in ("float16", keras.ops.ones(1, "float16").dtype)
    assert layer.log_alpha.dtype == "float32"


def test_config_and_file(tmp_path):
    model = gated(axis=-1, cost=3.0, temperature=0.5, stretch=(-0.2, 1.2), per_example=True, seed=7)
    model.save(tmp_path / "gated.keras")
    loaded = keras.models.load_model(tmp_path / "gated.keras")
    assert loaded.get_layer("gate").get_config() == model.get_layer("gate").get_config()
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(loaded.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [
        {"strength": -1.0},
        {"cost": float("nan")},
        {"open_probability": 1.0},
        {"temperature": 0.0},
        {"stretch": (0.1, 1.1)},
        {"stretch": 3},
        {"per_example": "yes"},
    ],
    ids=str,
)
def test_bad_arguments(arguments):
    [name] = arguments
    with pytest.raises(ValueError, match=name):
        kr.layers.L0Gate(**{"strength": 1.0} | arguments)


def test_an_open_channel_axis_is_refused():
    with pytest.raises(ValueError, match="channel axis of a known size"):
        kr.layers.L0Gate(1.0)(keras.Input((None,)))
