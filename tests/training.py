"""The conformance list of the optimizers, and a small training that all tests share."""

import functools

import keras
import numpy as np
import pytest
from backend import BACKEND

import keras_rmda as kr

# The conformance list. A new optimizer is added here and nowhere else.
DEFAULTS = {
    kr.RMDA: {"learning_rate": 0.05, "momentum": 0.5},
    kr.RAMDA: {"learning_rate": 0.02, "momentum": 0.5},
    kr.ProxSGD: {"learning_rate": 0.05, "momentum": 0.5},
    kr.ProxAdamW: {"learning_rate": 0.02},
    kr.LinBreg: {"learning_rate": 0.05, "momentum": 0.5},
    kr.AdaBreg: {"learning_rate": 0.02},
    kr.DessiLBI: {"learning_rate": 0.05, "momentum": 0.5, "mu": 1.0},
}
# Strengths of a group lasso that leave some groups zero, and not all, after 8 epochs from a half empty start.
SOME_ZEROS = {
    kr.RMDA: 0.3,
    kr.RAMDA: 0.05,
    kr.ProxSGD: 0.3,
    kr.ProxAdamW: 0.05,
    kr.LinBreg: 0.3,
    kr.AdaBreg: 0.3,
    kr.DessiLBI: 0.05,
}


def maker(kind):
    """Return a function that makes an optimizer of this class with the defaults of these tests."""
    return lambda **arguments: kind(**DEFAULTS[kind] | arguments)


MAKERS = {kind.__name__: maker(kind) for kind in DEFAULTS}
every_optimizer = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def every_optimizer_and(name, default, *others, also=("RMDA",)):
    """Every optimizer with the default of an argument, and some of them with each other value.

    For what the modules around the algorithms do, whatever the algorithm: RMDA has slots, scalars and a momentum.
    """
    cases = [(kind, default) for kind in MAKERS] + [(kind, other) for other in others for kind in also]
    ids = [f"{kind}-{getattr(value, '__name__', value)}" for kind, value in cases]
    return pytest.mark.parametrize(("make", name), [(MAKERS[kind], value) for kind, value in cases], ids=ids)


PSI = kr.GroupLasso(3e-3)
X = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
Y = (X[:, :2] @ np.array([[1.0, -1.0, 0.5], [0.5, 1.0, -1.0]])).astype("float32")

needs_multi_optimizer = pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="this Keras has no MultiOptimizer"
)

# Ways to run a compiled model that must not change what it learns.
RUNS = {
    "tensorflow": [{"run_eagerly": True}, {"jit_compile": True}, {"steps_per_execution": 4}],
    "jax": [{"run_eagerly": True}, {"steps_per_execution": 4}],
    "torch": [],
}[BACKEND]


def network(**dense):
    """Return two layers with the same weights every time."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(8, "relu", name="a", **dense), keras.layers.Dense(3, name="b")],
        name="net",
    )


def train(optimizer, model=None, epochs=2, compile_arguments=None, **fit):
    """Return the model after a short training without randomness."""
    model = model or network()
    model.compile(optimizer, "mse", **(compile_arguments or {}))
    fit = {"batch_size": 16, "shuffle": False, "verbose": 0, "epochs": epochs} | fit
    model.fit(X, Y, **fit)
    return model


def weights(model):
    """Return all weights as one vector."""
    return np.concatenate([w.ravel() for w in model.get_weights()])


@functools.cache
def expected_weights(make):
    """Return what an optimizer of the list ends with, trained once for all tests that compare with it."""
    return weights(train(make(regularizer=PSI)))


@functools.cache
def initial_loss():
    """Return the loss of the network before any training, without penalty."""
    model = network()
    model.compile("sgd", "mse")
    return model.evaluate(X, Y, verbose=0)
