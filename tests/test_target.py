"""`TargetSparsity`: training ends where the user said."""

import itertools
import warnings

import keras
import numpy as np
import pytest
from backend import number, only_tensorflow
from training import MAKERS, every_optimizer_and

import keras_rmda as kr
from keras_rmda.optimizers.joint import NEVER_AGAIN

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(256, 16)).astype("float32")
Y = np.tanh(X[:, :4] @ RANDOM.normal(size=(4, 3))).astype("float32")
WIDTH = 40
MACS = 16 * WIDTH + WIDTH * WIDTH + WIDTH * 3


def network():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(WIDTH, "relu", name=name) for name in ("first", "second")]
    return keras.Sequential([keras.Input((16,)), *layers, keras.layers.Dense(3, name="last")], name="net")


def train(target, make=lambda **arguments: kr.ProxSGD(0.05, 0.5, **arguments), strength=1e-3, epochs=10, **arguments):
    """Return the model, and what the callback has logged."""
    fit = {key: arguments.pop(key) for key in ("callbacks", "initial_epoch", "model") if key in arguments}
    model = fit.pop("model", None)
    if model is None:
        model = network()
        model.compile(make(regularizer=kr.GroupLasso(strength, groups=kr.coupled_groups(model))), "mse")
    callbacks = [kr.callbacks.TargetSparsity(target, **arguments), *fit.pop("callbacks", [])]
    history = model.fit(X, Y, batch_size=32, epochs=epochs, verbose=0, shuffle=False, callbacks=callbacks, **fit)
    return model, history.history


@every_optimizer_and("target", 0.5, 0.1)
def test_training_ends_at_the_target(make, target):
    model, logs = train(target, make)
    report = kr.analyze(model)
    assert report.macs == MACS
    assert report.macs_after / MACS == pytest.approx(target, abs=0.02)
    assert logs["macs_left"][-1] == pytest.approx(report.macs_after / MACS)
    assert np.isfinite(logs["loss"]).all()
    small = kr.strip(model)
    assert kr.analyze(small).macs == report.macs_after


@pytest.mark.parametrize("target", [0.5, 0.25])
@pytest.mark.parametrize("multiple", [8, 16])
def test_widths_in_multiples(multiple, target):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 16 of 40, or 32, may be far from the target
        model, logs = train(target, multiple_of=multiple)
    small = kr.strip(model)
    widths = [layer.units for layer in small.layers[:-1]]
    assert all(width % multiple == 0 or width == WIDTH for width in widths)
    possible = [*range(multiple, WIDTH, multiple), WIDTH]
    shares = [(16 * a + a * b + 3 * b) / MACS for a in possible for b in possible]
    assert logs["macs_left"][-1] == pytest.approx(kr.analyze(small).macs / MACS)
    assert min(shares) <= logs["macs_left"][-1] < max(shares)
    assert abs(logs["macs_left"][-1] - target) < 0.2


@pytest.mark.parametrize("metric", ["parameters", "groups", "bytes"])
def test_other_metrics(metric):
    model, logs = train(0.3, metric=metric)
    report = kr.analyze(model)
    alive = len(kr.coupled_groups(kr.strip(model))) / (2 * WIDTH)
    found = alive if metric == "groups" else report.parameters_after / report.parameters
    assert found == pytest.approx(0.3, abs=0.02)
    assert logs[f"{metric}_left"][-1] == pytest.approx(found)


@pytest.mark.parametrize(("metric", "target"), [("macs", 900), ("bytes", 4000), ("groups", 20)])
def test_a_target_in_units_of_the_metric(metric, target):
    model, _ = train(target, metric=metric)
    report = kr.analyze(model)
    found = {"macs": report.macs_after, "bytes": 4 * report.parameters_after}
    found["groups"] = sum(layer.channels - layer.removable for layer in report.layers[:2])
    assert found[metric] == pytest.approx(target, rel=0.06)


@pytest.mark.parametrize("strength", [1e-6, 0.1])
def test_the_strength_that_the_user_begins_with_does_not_decide(strength):
    model, _ = train(0.4, lambda **arguments: kr.RMDA(0.05, 0.5, **arguments), strength)
    report = kr.analyze(model)
    assert report.macs_after / report.macs == pytest.approx(0.4, abs=0.02)


def test_what_is_chosen_stays_and_the_rest_is_no_longer_penalized():
    alive = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            alive.append((number(self.model.get_layer("last").kernel) != 0).any(axis=1))

    model, _ = train(0.3, callbacks=[Watch()], end=0.5)
    [coupling] = model.optimizer.couplings
    factors = number(coupling.factors)
    assert sorted(set(factors.tolist())) == [0.0, NEVER_AGAIN]
    chosen = coupling.groups.members["last/kernel"].reshape(-1)
    for now in alive[4:]:
        assert not now[factors[chosen] > 0].any()
    np.testing.assert_array_equal(alive[-1], factors[chosen] == 0)


def test_training_that_goes_on_later_ends_at_the_target():
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 3

    with pytest.warns(UserWarning, match="stopped before end=0.6"):
        model, _ = train(0.3, callbacks=[Stop()])
    model, _ = train(0.3, model=model, initial_epoch=4)
    report = kr.analyze(model)
    assert report.macs_after / report.macs == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("name", ["RMDA", "ProxAdamW"])
def test_a_second_training_goes_on_to_a_smaller_target(name):
    model, _ = train(0.5, MAKERS[name])
    [coupling] = model.optimizer.couplings
    gone = number(coupling.factors) == NEVER_AGAIN
    _, logs = train(0.25, model=model)
    assert logs["macs_left"][0] <= 0.52
    assert kr.analyze(model).macs_after / MACS == pytest.approx(0.25, abs=0.02)
    assert (number(coupling.factors)[gone] == NEVER_AGAIN).all()
    assert all(b <= a for a, b in itertools.pairwise(logs["macs_left"]))
    assert logs["macs_left"][2] > 0.3  # little by little
    with pytest.warns(UserWarning, match="an earlier training has chosen"):
        train(0.5, model=model, epochs=2)


def test_a_second_training_with_the_same_target_penalizes_nothing():
    model, _ = train(0.3)
    [coupling] = model.optimizer.couplings
    before = number(coupling.factors)
    train(0.3, model=model, epochs=1)
    np.testing.assert_array_equal(number(coupling.factors), before)


def test_the_importance_of_groups_is_in_files(tmp_path):
    def compiled():
        model = network()
        psi = kr.GroupLasso(1e-4, groups=kr.coupled_groups(model, parts="all"))
        model.compile(kr.ProxAdamW(0.01, regularizer=psi), "mse")
        return model

    def importance(model):
        return [number(each.importance) for each in model.optimizer.couplings]

    model, _ = train(0.4, model=compiled(), ranking="fisher", epochs=4)
    model.save(tmp_path / "small.keras")
    model.save_weights(tmp_path / "small.weights.h5")
    loaded, filled = keras.models.load_model(tmp_path / "small.keras"), compiled()
    filled.load_weights(tmp_path / "small.weights.h5")
    filled.optimizer.build(filled.trainable_variables)
    for each in (loaded, filled):
        np.testing.assert_array_equal(importance(each), importance(model))
    for each in (model, loaded, filled):
        each.fit(X, Y, batch_size=32, epochs=1, verbose=0, shuffle=False)
    for each in (loaded, filled):
        for a, b in zip(model.get_weights(), each.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    other, _ = train(0.4, model=compiled(), epochs=4)
    other.save_weights(tmp_path / "other.weights.h5")
    model.load_weights(tmp_path / "other.weights.h5")  # of a training that has not looked at importance
    assert int(model.optimizer.iterations) == int(other.optimizer.iterations)


def test_a_model_from_a_file_goes_on_to_a_smaller_target(tmp_path):
    model, _ = train(0.5)
    model.save(tmp_path / "half.keras")
    model, _ = train(0.25, model=keras.models.load_model(tmp_path / "half.keras"), initial_epoch=10, epochs=20)
    assert kr.analyze(model).macs_after / MACS == pytest.approx(0.25, abs=0.02)


@only_tensorflow
def test_data_that_do_not_know_their_length_are_counted():
    import tensorflow as tf

    final = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            final.append(target.groups.is_final)

    model, target = network(), kr.callbacks.TargetSparsity(0.3)
    model.compile(kr.ProxSGD(0.05, 0.5, kr.GroupLasso(1e-3, groups=kr.coupled_groups(model))), "mse")
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(32).filter(lambda *batch: True)
    model.fit(data, epochs=2, verbose=0, callbacks=[target, Watch()])
    assert final.index(True) == 9  # of 16 steps, at 60 %


def test_dual_averaging_in_stages():
    stages = kr.callbacks.StagewiseSchedule([6, 8])
    model, logs = train(0.3, lambda **arguments: kr.RMDA(0.05, 0.5, **arguments), callbacks=[stages])
    assert kr.analyze(model).macs_after / MACS == pytest.approx(0.3, abs=0.02)
    assert logs["loss"][-1] < logs["loss"][0]


@only_tensorflow
@pytest.mark.parametrize(
    "arguments", [{"jit_compile": True}, {"run_eagerly": True}, {"steps_per_execution": 3}], ids=str
)
def test_every_mode(arguments):
    model = network()
    psi = kr.GroupLasso(1e-3, groups=kr.coupled_groups(model))
    model.compile(kr.RMDA(0.05, 0.5, regularizer=psi), "mse", **arguments)
    train(0.3, model=model)
    assert kr.analyze(model).macs_after / MACS == pytest.approx(0.3, abs=0.02)


def test_data_of_unknown_length():
    model = network()
    model.compile(kr.ProxSGD(0.05, 0.5, kr.GroupLasso(1e-3, groups=kr.coupled_groups(model))), "mse")
    batches = ((X[k : k + 32], Y[k : k + 32]) for _ in range(100) for k in range(0, 256, 32))
    model.fit(
        batches, epochs=10, steps_per_epoch=8, shuffle=False, verbose=0, callbacks=[kr.callbacks.TargetSparsity(0.3)]
    )
    assert kr.analyze(model).macs_after / MACS == pytest.approx(0.3, abs=0.02)


def test_a_target_that_cannot_be_reached_is_refused_before_training():
    before = number(network().get_layer("first").kernel)
    model = network()
    model.compile(kr.RMDA(regularizer=kr.GroupLasso(1e-3, groups=kr.coupled_groups(model))), "mse")
    with pytest.raises(ValueError, match=r"possible target is 0.039, or 92 macs, .* target=0.0001"):
        train(1e-4, model=model)
    np.testing.assert_array_equal(number(model.get_layer("first").kernel), before)


@pytest.mark.parametrize("optimizer", ["sgd", kr.RMDA(regularizer=kr.GroupLasso(1e-3))], ids=["sgd", "input groups"])
def test_an_optimizer_without_coupled_groups_is_refused(optimizer):
    model = network()
    model.compile(optimizer, "mse")
    with pytest.raises(ValueError, match=r"groups=coupled_groups\(model\)"):
        train(0.5, model=model)


def test_a_strength_of_zero_is_refused():
    with pytest.raises(ValueError, match="more than 0"):
        train(0.5, strength=0.0)


@pytest.mark.parametrize(
    "arguments",
    [
        {"target": 0.0},
        {"target": -1},
        {"target": float("nan")},
        {"target": "half"},
        {"target": 0.5, "metric": "speed"},
        {"target": 0.5, "begin": 0.6, "end": 0.5},
        {"target": 0.5, "end": 1.5},
        {"target": 0.5, "begin": -0.1},
        {"target": 0.5, "multiple_of": 0},
    ],
    ids=str,
)
def test_bad_arguments(arguments):
    name, value = list(arguments.items())[-1]
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        kr.callbacks.TargetSparsity(**arguments)
