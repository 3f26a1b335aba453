"""`TrainingCost`: operations and seconds in the logs."""

import keras
import numpy as np
import pytest
from backend import number

import keras_rmda as kr
from keras_rmda.optimizers.joint import NEVER_AGAIN

X = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
WHOLE, HALF = 4 * 8 + 8 * 8 + 8 * 1, 4 * 4 + 4 * 4 + 4


@pytest.fixture(scope="module")
def pair():
    """Return a model and a smaller one, with half of the channels of each layer."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(n, name=name) for n, name in ((8, "first"), (8, "second"), (1, "last"))]
    model = keras.Sequential([keras.Input((4,)), *layers], name="net")
    model.compile(kr.ProxSGD(0.01, regularizer=kr.GroupLasso(1e-6, groups=kr.coupled_groups(model, "all"))), "mse")
    model.optimizer.build(model.trainable_variables)
    [coupling] = model.optimizer.couplings
    coupling.factors.assign(np.where(np.arange(16) % 2, NEVER_AGAIN, 0.0))
    train(model, None, 0, 1)
    return model, kr.shrink(model)


def train(model, cost, first, last, batch=10, **arguments):
    callbacks = [cost] if cost else []
    found = model.fit(
        X, X[:, :1], batch, last, verbose=0, initial_epoch=first, callbacks=callbacks, **arguments
    )  # fmt: skip
    return found.history


def test_dense_training_costs_all(pair):
    logs = train(pair[0], kr.callbacks.TrainingCost(), 0, 2, validation_data=(X, X[:, :1]))
    assert logs["training_macs"] == [1.0, 1.0]
    assert all(0 < each < 10 for each in logs["seconds_per_step"])


def test_a_model_that_becomes_smaller(pair):
    model, small = pair
    assert (kr.analyze(model).macs, kr.analyze(small).macs) == (WHOLE, HALF)
    cost = kr.callbacks.TrainingCost()
    assert train(model, cost, 0, 1)["training_macs"] == [1.0]
    logs = train(small, cost, 1, 4)["training_macs"]
    np.testing.assert_allclose(logs, [(WHOLE + k * HALF) / ((k + 1) * WHOLE) for k in (1, 2, 3)])
    logs = train(model, cost, 4, 5)["training_macs"]
    np.testing.assert_allclose(logs, [(2 * WHOLE + 3 * HALF) / (5 * WHOLE)])
    assert train(small, cost, 0, 1)["training_macs"] == [1.0]  # another training


@pytest.mark.parametrize("dense", ["model", WHOLE])
def test_a_dense_model_that_is_given(pair, dense):
    model, small = pair
    cost = kr.callbacks.TrainingCost(model if dense == "model" else dense)
    np.testing.assert_allclose(train(small, cost, 0, 2)["training_macs"], [HALF / WHOLE] * 2)


def test_epochs_count_by_their_steps(pair):
    model, small = pair
    cost = kr.callbacks.TrainingCost()
    train(model, cost, 0, 1, batch=10)
    logs = train(small, cost, 1, 2, batch=40)
    np.testing.assert_allclose(logs["training_macs"], [(4 * WHOLE + HALF) / (5 * WHOLE)])


def test_it_goes_on_from_a_file(pair, tmp_path):
    small = pair[1]
    cost = kr.callbacks.TrainingCost(WHOLE)
    train(small, cost, 0, 1)
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    again = kr.callbacks.TrainingCost()  # would take the small model for the dense one
    np.testing.assert_allclose(train(loaded, again, 1, 2)["training_macs"], [HALF / WHOLE])


def test_a_callback_behind_it_sees_the_figures(pair):
    seen = []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(sorted(logs)))
    pair[1].fit(X, X[:, :1], verbose=0, callbacks=[kr.callbacks.TrainingCost(), watch])
    assert {"training_macs", "seconds_per_step"} <= set(seen[0])
    stop = keras.callbacks.EarlyStopping("training_macs")
    with pytest.raises(ValueError, match="puts into `logs` only afterwards"):
        pair[1].fit(X, X[:, :1], verbose=0, callbacks=[stop, kr.callbacks.TrainingCost()])


@pytest.mark.parametrize("dense", [0, -1.0, "net", True, float("nan")])
def test_bad_arguments(dense):
    with pytest.raises(ValueError, match="`dense` must be a model, a number > 0 or None"):
        kr.callbacks.TrainingCost(dense)


def test_a_stock_optimizer(pair):
    small = kr.strip(pair[1])
    small.compile("adam", "mse")
    assert train(small, kr.callbacks.TrainingCost(WHOLE), 0, 1)["training_macs"] == [pytest.approx(HALF / WHOLE)]
    assert int(number(small.optimizer.iterations)) == 4
