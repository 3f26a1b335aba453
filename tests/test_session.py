"""The callbacks of one `fit`: what they know of each other, and what Keras's do beside ours."""

import keras
import numpy as np
import pytest
from backend import only_tensorflow
from training import X, Y, network, train

import keras_rmda as kr
from keras_rmda.callbacks import SparsityMonitor, StagewiseSchedule, TargetSparsity

Keras = keras.callbacks


def coupled(**arguments):
    """Return a model with coupled groups under RMDA."""
    model = network()
    model.compile(kr.RMDA(0.05, 0.5, kr.GroupLasso(1e-3, groups=kr.coupled_groups(model))), "mse", **arguments)
    return model


def fit(model, *callbacks, epochs=10, x=X, y=Y, **more):
    return model.fit(x, y, batch_size=16, shuffle=False, verbose=0, epochs=epochs, callbacks=list(callbacks), **more)


def worse_from_epoch_to_epoch(epoch, logs):
    logs["loss"] = float(epoch)


WORSE = lambda: Keras.LambdaCallback(on_epoch_end=worse_from_epoch_to_epoch)  # noqa: E731


def left(model):
    return kr.analyze(model).macs_after / kr.analyze(model).macs


def test_restored_weights_have_reached_the_target():
    """The best of all epochs was the first, before anything was chosen."""
    model = coupled()
    stop = Keras.EarlyStopping("loss", patience=3, mode="min", restore_best_weights=True)
    history = fit(model, WORSE(), TargetSparsity(0.5), stop).history
    assert len(history["loss"]) == 10  # three epochs of patience begin when the choice is final, after the sixth
    assert history["macs_left"][-1] == pytest.approx(left(model)) == pytest.approx(0.5, abs=0.05)


def test_the_best_checkpoint_has_reached_the_target(tmp_path):
    model = coupled()
    save = Keras.ModelCheckpoint(tmp_path / "best.keras", "loss", mode="min", save_best_only=True)
    history = fit(model, WORSE(), TargetSparsity(0.5), save).history
    assert left(keras.models.load_model(tmp_path / "best.keras")) == pytest.approx(history["macs_left"][-1])


def test_a_threshold_that_was_given_stays(tmp_path):
    save = Keras.ModelCheckpoint(tmp_path / "best.keras", "loss", save_best_only=True, initial_value_threshold=1e-9)
    fit(coupled(), TargetSparsity(0.5), save)
    assert save.best == 1e-9
    assert not (tmp_path / "best.keras").exists()


def test_the_learning_rate_is_not_reduced_because_of_what_was_chosen():
    model = coupled()
    fit(model, WORSE(), TargetSparsity(0.5, end=0.8), Keras.ReduceLROnPlateau("loss", patience=3, mode="min"))
    assert float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)) == pytest.approx(0.05)


class PutBack(keras.callbacks.Callback):
    """Puts the first weights back at the end, as a callback that nobody knows may do."""

    def on_train_begin(self, logs=None):
        self.weights = self.model.get_weights()

    def on_train_end(self, logs=None):
        self.model.set_weights(self.weights)


def test_the_last_word_is_of_the_weights_that_are_there():
    with pytest.warns(kr.SparsityWarning, match=r"100.0% of the macs, not with 50.0%: a callback has put back"):
        fit(coupled(), TargetSparsity(0.5), PutBack())


@pytest.mark.parametrize("order", [1, -1])
def test_milestones_move_behind_the_choice(order):
    stages = StagewiseSchedule([2, 3])
    with pytest.warns(kr.SparsityWarning, match=r"\[2, 3\] of StagewiseSchedule are moved to \[6, 7\]"):
        history = fit(coupled(), *[TargetSparsity(0.5), stages, Rate()][::order]).history
    assert stages.milestones == [2, 3]
    rates = np.array(history["rate"])
    np.testing.assert_allclose(rates, 0.05 * np.repeat([1.0, 0.1, 0.01], [6, 1, 3]), rtol=1e-5)


class Rate(keras.callbacks.Callback):
    """Puts the learning rate into the logs."""

    def on_epoch_end(self, epoch, logs=None):
        logs["rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))


@pytest.mark.parametrize(
    ("callbacks", "sentence"),
    [
        (lambda: [TargetSparsity(0.5), TargetSparsity(0.3)], "Two TargetSparsity would move the same strengths"),
        (lambda: [Keras.EarlyStopping("macs_left", mode="min"), TargetSparsity(0.5)], "Give TargetSparsity before it"),
        (lambda: [Keras.ReduceLROnPlateau("penalty", mode="min"), SparsityMonitor()], "Give SparsityMonitor before"),
    ],
)
def test_callbacks_that_cannot_work_together_are_refused(callbacks, sentence):
    model = coupled()
    before = model.get_weights()
    with pytest.raises(ValueError, match=sentence):
        fit(model, *callbacks())
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_order_that_works():
    fit(coupled(), TargetSparsity(0.5), Keras.EarlyStopping("macs_left", mode="min", patience=20), SparsityMonitor())


def test_stages_that_never_begin_are_told():
    with pytest.warns(kr.SparsityWarning, match="too late: the last stage would begin before epoch 12, of 10"):
        fit(coupled(), StagewiseSchedule([4, 12]))


@only_tensorflow  # elsewhere Keras itself fails
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_epochs_without_steps_choose_nothing():
    import tensorflow

    empty = tensorflow.data.Dataset.from_tensor_slices((X[:0], Y[:0])).batch(16)
    model = coupled()
    with pytest.warns(kr.SparsityWarning) as told:
        model.fit(empty, epochs=2, verbose=0, shuffle=False, callbacks=[TargetSparsity(0.5)])
    said = "No step was made in epoch 1, so TargetSparsity chose nothing"
    assert any(said in str(each.message) for each in told)
    assert left(model) == 1.0


# ---- learning rates that fall

SCHEDULES = keras.optimizers.schedules
FALLING = {
    "ReduceLROnPlateau": lambda rate: (rate, Keras.ReduceLROnPlateau("loss", 0.1, patience=3, min_delta=5e-3)),
    "LearningRateScheduler": lambda rate: (rate, Keras.LearningRateScheduler(lambda epoch, lr: 0.9 * lr)),
    "CosineDecay": lambda rate: (SCHEDULES.CosineDecay(rate, 200), None),  # of 480 steps
    "warmup": lambda rate: (SCHEDULES.CosineDecay(0.0, 200, warmup_target=rate, warmup_steps=40), None),
    "ExponentialDecay": lambda rate: (SCHEDULES.ExponentialDecay(rate, 40, 0.6), None),
    "PiecewiseConstantDecay": lambda rate: (SCHEDULES.PiecewiseConstantDecay([160, 320], [rate, rate / 10, 0.0]), None),
}


@pytest.mark.parametrize("schedule", FALLING)
@pytest.mark.parametrize("kind", [kr.RMDA, kr.RAMDA])
def test_what_was_learned_stays_when_the_learning_rate_falls(kind, schedule, rng):
    rate, callback = FALLING[schedule](0.1 if kind is kr.RMDA else 0.02)
    x = rng.normal(size=(128, 8)).astype("float32")
    y = x[:, :1] * x[:, 1:2]
    keras.utils.set_random_seed(0)
    layers = [keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile(kind(rate, 1.0), "mse")
    loss = fit(model, *([callback] if callback else []), x=x, y=y, epochs=60).history["loss"]
    assert min(loss) < 0.7 * loss[0]
    assert loss[-1] <= 1.2 * min(loss)


def test_a_clock_that_runs_with_a_constant_rate_counts_steps():
    for rate in (0.05, 0.3):
        optimizer = train(kr.RMDA(rate, 0.5), epochs=2).optimizer
        assert float(keras.ops.convert_to_numpy(optimizer._scalars["tau"])) == 8.0


def test_stages_in_the_style_of_ramda():
    """The momentum is kept until the last stage, epsilon falls with the learning rate."""
    optimizer = kr.RAMDA(0.01, 0.25, epsilon=1e-3)
    train(optimizer, epochs=6, callbacks=[StagewiseSchedule([2, 4], style="ramda")])
    found = [
        float(keras.ops.convert_to_numpy(v)) for v in (optimizer.momentum, optimizer.epsilon, optimizer.learning_rate)
    ]
    np.testing.assert_allclose(found, [0.25, 1e-5, 1e-4], rtol=1e-5)
    assert float(keras.ops.convert_to_numpy(optimizer.momentum_growth)) == 0.5
    with pytest.raises(ValueError, match="`style` must be one of"):
        StagewiseSchedule([1], style="adam")
