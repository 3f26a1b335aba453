"""Penalties, constraints and noise that know the number of channels."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_rmda as kr

X = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
FIXED = np.linspace(0.5, 1.5, 72, dtype="float32").reshape(6, 12)


class Weighed(keras.regularizers.Regularizer):
    def __call__(self, w):
        return ops.sum(ops.abs(w) * FIXED)


class Mean(keras.regularizers.Regularizer):
    def __call__(self, w):
        return ops.mean(ops.square(w))


class Sum(keras.regularizers.Regularizer):
    def __call__(self, w):
        return ops.sum(ops.square(w))


class Masked(keras.constraints.Constraint):
    def __call__(self, w):
        return w * (FIXED > 1)


def with_zeros(*layers, **arguments):
    """Return a network of which half of the units of the first layer are zero, and nobody reads them."""
    keras.utils.set_random_seed(0)
    first, last = L.Dense(12, "relu", name="first", **arguments), L.Dense(2, name="last")
    model = keras.Sequential([keras.Input((6,)), first, *layers, last])
    first.kernel.assign(ops.convert_to_numpy(first.kernel) * (np.arange(12) % 2))
    last.kernel.assign(ops.convert_to_numpy(last.kernel) * (np.arange(12) % 2)[:, None])
    model.compile("sgd", "mse")
    return model


def trains(model):
    model.compile("sgd", "mse")
    return model.train_on_batch(X, np.zeros((16, 2)))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"kernel_regularizer": Weighed()}, "the regularizer of its kernel takes the shape (6, 12) only"),
        ({"kernel_constraint": Masked()}, "the constraint of its kernel takes the shape (6, 12) only"),
    ],
)
def test_what_takes_one_shape_only_keeps_it(arguments, reason):
    model = with_zeros(**arguments)
    small = kr.strip(model)
    assert small.get_layer("first").units == 12
    assert float(sum(small.losses)) == pytest.approx(float(sum(model.losses)))
    assert trains(small) == pytest.approx(trains(model))
    assert reason in str(kr.analyze(model))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"kernel_regularizer": Mean()}, "first: the regularizer of kernel"),
        ({"activity_regularizer": Mean()}, "first: its activity regularizer"),
    ],
)
def test_penalties_that_count_channels_are_named(arguments, named):
    with pytest.warns(kr.SparsityWarning, match=named):
        small = kr.strip(with_zeros(**arguments))
    assert small.get_layer("first").units == 6


def test_penalties_that_add_nothing_for_zeros_are_silent():
    both = {"kernel_regularizer": Sum(), "activity_regularizer": "l2"}
    model = with_zeros(**both)
    small = kr.strip(model)
    assert small.get_layer("first").units == 6
    assert trains(small) == pytest.approx(trains(model), rel=1e-4)


@pytest.mark.parametrize("noise", [L.Dropout(0.5, noise_shape=(None, 12)), L.AlphaDropout(0.5, noise_shape=(None, 12))])
def test_noise_of_a_shape_fits_the_channels_that_are_left(noise):
    small = kr.strip(with_zeros(noise))
    assert small.get_layer("first").units == 6
    assert np.isfinite(trains(small))
