"""Stages and the sparsity in the logs."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_rmda as kr
from keras_rmda.callbacks import SparsityMonitor, StagewiseSchedule

X = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
Y = X[:, :2]


def number(x):
    return float(keras.ops.convert_to_numpy(x))


def network(**dense):
    return keras.Sequential([keras.Input((6,)), L.Dense(8, "relu", name="a", **dense), L.Dense(2, name="b")])


def fit(optimizer, *callbacks, model=None, epochs=6, **arguments):
    model = model or network()
    model.compile(optimizer, "mse")
    history = model.fit(X, Y, batch_size=16, epochs=epochs, verbose=0, callbacks=list(callbacks), **arguments)
    return model, history.history


class Recorder(keras.callbacks.Callback):
    """Records the optimizer after the first step of each epoch."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def on_train_batch_end(self, batch, logs=None):
        if batch == 0:
            o = self.model.optimizer
            o = getattr(o, "inner_optimizer", o)
            row = (o.learning_rate, o.momentum, o._step_count, o.momentum_growth)
            self.rows.append(tuple(round(number(x), 6) for x in row))


def test_stages_change_learning_rate_momentum_and_history():
    recorder = Recorder()
    fit(kr.RMDA(0.1, 0.05), StagewiseSchedule([2, 4]), recorder)
    assert recorder.rows == [
        (0.1, 0.05, 1, 0.0),
        (0.1, 0.05, 3, 0.0),
        (0.01, 0.5, 1, 0.0),
        (0.01, 0.5, 3, 0.0),
        (0.001, 1.0, 1, 0.5),
        (0.001, 1.0, 3, 0.5),
    ]


def test_momentum_grows_to_one_in_the_last_stage_only():
    model, _ = fit(kr.RMDA(0.1, 0.05, kr.GroupLasso(1e-3)), StagewiseSchedule([1], factor=0.5), epochs=80)
    optimizer, kernel = model.optimizer, model.get_layer("a").kernel
    assert number(optimizer.momentum) == pytest.approx(0.1)
    before = np.array(keras.ops.convert_to_numpy(kernel))
    optimizer.apply([np.zeros(v.shape, "float32") for v in model.trainable_variables])
    after = keras.ops.convert_to_numpy(kernel)
    # 0.1 sqrt(159) > 1: the iterate is the structured value itself.
    np.testing.assert_array_equal(after, keras.ops.convert_to_numpy(optimizer.structured_value(kernel)))
    assert before.shape == after.shape


def test_stages_survive_a_resumed_run(tmp_path):
    """Stopped after three epochs, loaded and continued, the stages are those of an uninterrupted run."""
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    keras.utils.set_random_seed(0)
    optimizer = kr.RMDA(0.1, 0.05, kr.GroupLasso(1e-3))
    whole, _ = fit(optimizer, StagewiseSchedule([2, 4]), checkpoint, shuffle=False)
    resumed = keras.models.load_model(tmp_path / "3.keras")
    schedule = StagewiseSchedule([2, 4])
    resumed.fit(X, Y, batch_size=16, epochs=6, initial_epoch=3, verbose=0, callbacks=[schedule], shuffle=False)
    for a, b in zip(whole.get_weights(), resumed.get_weights()):
        np.testing.assert_allclose(a, b, atol=1e-7)


def test_stages_under_loss_scaling():
    recorder = Recorder()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        fit(kr.RMDA(0.1, 0.5), StagewiseSchedule([1]), recorder, epochs=2)
    finally:
        keras.config.set_dtype_policy("float32")
    assert [row[0] for row in recorder.rows] == [0.1, 0.01]


def test_another_run_begins_without_growth_of_the_momentum():
    optimizer, recorder, stages = kr.RMDA(0.1, 0.05), Recorder(), StagewiseSchedule(np.array([1]))
    model, _ = fit(optimizer, stages, epochs=2)
    fit(optimizer, stages, recorder, model=model, epochs=2)
    assert [row[3] for row in recorder.rows] == [0.0, 0.5]


@pytest.mark.parametrize("milestones", [[], [3, 2], [2, 2], [-1], [1.5], ["2"], None, 3, [True]])
def test_bad_milestones(milestones):
    with pytest.raises(ValueError, match="milestones"):
        StagewiseSchedule(milestones)


@pytest.mark.parametrize("factor", [0.0, 1.0, 2.0, -0.1, float("nan"), "0.1"])
def test_bad_factor(factor):
    with pytest.raises(ValueError, match="factor"):
        StagewiseSchedule([1], factor)


def test_stages_need_an_optimizer_of_ours_without_schedules():
    with pytest.raises(ValueError, match="Adam"):
        fit("adam", StagewiseSchedule([1]))
    decay = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    with pytest.raises(ValueError, match="learning_rate"):
        fit(kr.RMDA(decay), StagewiseSchedule([1]))
    with pytest.raises(ValueError, match="momentum"):
        fit(kr.RMDA(0.1, decay), StagewiseSchedule([1]))


def test_monitor_reports_the_structured_iterate():
    """With momentum 0.1 the weights hold no zeros during training; their structured values do."""
    seen = []

    class Weights(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(dict(logs))
            kernels = [layer.kernel for layer in self.model.layers]
            psi, optimizer = kr.GroupLasso(0.5), self.model.optimizer
            values = [keras.ops.convert_to_numpy(optimizer.structured_value(k)) for k in kernels]
            norms = np.concatenate([keras.ops.convert_to_numpy(psi.group_norms(v)).ravel() for v in values])
            flat = np.concatenate([v.ravel() for v in values])
            assert logs["zero_groups"] == (norms == 0).mean()
            assert logs["zero_weights"] == (flat == 0).mean()
            assert logs["penalty"] == pytest.approx(sum(float(psi(v)) for v in values), rel=1e-5)
            for kernel, value in zip(kernels, values):
                np.testing.assert_array_equal(keras.ops.convert_to_numpy(kernel), value)

        def on_train_batch_end(self, batch, logs=None):
            assert all((keras.ops.convert_to_numpy(layer.kernel) != 0).all() for layer in self.model.layers)

    model, history = fit(kr.RMDA(0.1, 0.1, kr.GroupLasso(0.5)), SparsityMonitor(), Weights(), epochs=8)
    assert 0 < history["zero_groups"][-1] < 1
    assert history["macs"][-1] == kr.analyze(model).macs_after
    assert history["macs"][0] == 6 * 8 + 8 * 2
    assert len(seen) == 8


def test_monitor_feeds_early_stopping_and_the_progress_bar(capsys):
    stopping = keras.callbacks.EarlyStopping("zero_groups", mode="max", baseline=0.5, patience=0)
    model = network()
    model.compile(kr.RMDA(0.1, 0.5, kr.GroupLasso(1e-9)), "mse")
    model.fit(X, Y, epochs=5, callbacks=[SparsityMonitor(), stopping], verbose=2)
    printed = capsys.readouterr().out
    assert "zero_groups" in printed
    assert "macs" in printed
    assert "Epoch 5/5" not in printed


def test_monitor_with_another_optimizer_measures_the_weights():
    model = network(kernel_regularizer=kr.L1(0.01))
    kernel = np.ones((6, 8), "float32")
    kernel[:3] = 0
    model.get_layer("a").kernel.assign(kernel)
    _, history = fit(keras.optimizers.SGD(0.0), SparsityMonitor(), model=model, epochs=1)
    # L1 counts single weights: 24 of 48; the other kernel, without regularizer, counts 8 input groups.
    assert history["zero_groups"] == [24 / 56]
    assert history["penalty"][0] == pytest.approx(0.24)


def test_monitor_without_anything_regularized():
    _, history = fit(kr.RMDA(), SparsityMonitor(macs=False), epochs=1)
    assert history["zero_groups"] == [0.0]
    assert "macs" not in history


class Subclassed(keras.Model):
    """A model of code, which a graph can be made of or not."""

    def __init__(self, traceable):
        super().__init__()
        self.traceable = traceable
        self.dense = L.Dense(2)

    def call(self, x):
        return self.dense(x) if self.traceable else self.dense(keras.ops.convert_to_tensor([[1.0] * 6])) + 0 * len(x)


def test_monitor_counts_macs_of_a_subclassed_model_that_can_be_traced():
    _, history = fit(kr.RMDA(), SparsityMonitor(), model=Subclassed(True), epochs=1)
    assert history["macs"] == [12]


def test_monitor_refuses_macs_of_a_subclassed_model_that_cannot():
    model = Subclassed(False)
    model(np.ones((2, 6)))
    with pytest.raises(ValueError, match="macs=False"):
        fit(kr.RMDA(), SparsityMonitor(), model=model, epochs=1)
    _, history = fit(kr.RMDA(0.1, 1.0, kr.L1(2.0)), SparsityMonitor(macs=False), model=Subclassed(True), epochs=1)
    assert 0 < history["zero_weights"][0] < 1


def test_monitor_follows_a_model_that_replaced_another():
    monitor = SparsityMonitor()
    fit(kr.RMDA(), monitor, epochs=1)
    wide = keras.Sequential([keras.Input((6,)), L.Dense(100), L.Dense(2)])
    _, history = fit(kr.RMDA(), monitor, model=wide, epochs=1)
    assert history["macs"] == [800]
