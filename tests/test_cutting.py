"""`compress` goes on with a smaller model while groups are chosen, and the result is what it is with the whole one.

Over a minute, since every comparison trains two times.
"""

import functools
from pathlib import Path
from typing import ClassVar

import keras
import numpy as np
import processes
import pytest
from backend import BACKEND, only_tensorflow

import keras_rmda as kr
from keras_rmda.compression import cutting, run

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(96, 8)).astype("float32")
Y = (X[:, 0] * X[:, 1] > 0).astype("int32")
CALL = {"target": 0.3, "epochs": 8, "batch_size": 32, "shuffle": False, "verbose": 0}
CUT = (2, 3)
"""Epochs, of four that choose, that begin with a smaller model where every cut is made."""

O = keras.optimizers  # noqa: E741
HOW = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"], "run_eagerly": BACKEND == "tensorflow"}
"""Without traces, which take most of the time of a short training; JAX has none that are worth it."""

pytestmark = pytest.mark.filterwarnings("ignore:Training ended with", "ignore:.shuffle=True")


class Eager(cutting.Cuts):
    """Cuts whatever can be cut, however little that saves."""

    made: ClassVar[list] = []

    def _pays(self, epochs):
        self.made.append(self)
        return self.may_cut and super()._pays(epochs)


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Let cuts cost nothing, so that they pay wherever anything is gone."""
    monkeypatch.setattr(cutting, "PAYS", 0.0)
    monkeypatch.setattr(run, "Cuts", Eager)
    monkeypatch.setattr(Eager, "_learn", lambda self: None)
    monkeypatch.setattr(Eager, "made", [])


def cuts():
    """Return the epochs that began with a smaller model, in the last `compress`."""
    return Eager.made[-1].epochs if Eager.made else []


def network(optimizer="adam", seed=0, **compile):
    """Return a compiled network; biases before batch normalization would have gradients of rounding only."""
    keras.utils.set_random_seed(seed)
    layers = [keras.Input((8,), name="x")]
    for name in ("first", "second"):
        layers += [
            keras.layers.Dense(24, use_bias=False, name=name),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
        ]
    model = keras.Sequential([*layers, keras.layers.Dense(2, "softmax", name="last")], name="net")
    model.compile(optimizer, **HOW | compile)
    return model


def same(a, b):
    assert a.report.macs_after == b.report.macs_after < 0.35 * a.report.macs
    for x, y in zip(a.model.get_weights(), b.model.get_weights(), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)
    assert a.after == pytest.approx(b.after, abs=1e-4)


OPTIMIZERS = {  # what is cut of each one's state: test_shrink.py
    "clipped": lambda: O.SGD(0.05, momentum=0.9, weight_decay=0.01, global_clipnorm=0.5),
    "AdamW": lambda: O.AdamW(O.schedules.CosineDecay(0.01, 24), weight_decay=0.1),
    "accumulated": lambda: O.Adam(0.01, gradient_accumulation_steps=2),
    "scaled": lambda: O.LossScaleOptimizer(O.Adam(0.01)),
    "ProxAdamW": lambda: kr.ProxAdamW(0.01),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_the_result_is_the_same(make):
    cost = kr.callbacks.TrainingCost()
    found = kr.compress(network(make()), X, Y, callbacks=[cost], validation_data=(X, Y), **CALL)
    assert tuple(cuts()) == CUT
    assert found.history["phase"] == ["choose"] * 4 + ["tune"] * 4
    assert found.history["training_macs"][-1] < 0.6
    same(found, kr.compress(network(make()), X, Y, shrink=False, **CALL))


@pytest.mark.parametrize("make", [lambda: kr.RMDA(0.3, 0.1), lambda: kr.DessiLBI(0.05)], ids=["RMDA", "DessiLBI"])
def test_what_is_not_zero_before_the_last_choice_stays(make):
    """They average, so that weights of closed groups become zero with time only."""
    found = kr.compress(network(make()), X, Y, **CALL)
    assert cuts() == []
    same(found, kr.compress(network(make()), X, Y, shrink=False, **CALL))


@pytest.mark.parametrize("what", ["metric", "teacher", "chooser"])
def test_whatever_is_asked_for(what):
    arguments = {
        "metric": {"metric": "parameters", "multiple_of": 4},
        "teacher": {"distillation": 0.5},
        "chooser": {"target": 0.31, "chooser": kr.ProxSGD(0.3, 0.1)},
    }[what]
    found, whole = (kr.compress(network(), X, Y, shrink=each, **CALL | arguments) for each in (True, False))
    assert Eager.made[0].epochs
    same(found, whole)


def convolutions():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = shortcut = keras.layers.Conv2D(12, 3, padding="same", activation="relu", name="stem")(inputs)
    for name in "ab":
        x = keras.layers.Conv2D(16, 1, use_bias=False, name=f"expand_{name}")(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
        x = keras.layers.DepthwiseConv2D(3, padding="same", name=f"depthwise_{name}")(x)
        x = keras.layers.Conv2D(12, 1, name=f"project_{name}")(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Add()([x, shortcut]))
    model = keras.Model(inputs, keras.layers.Dense(2, "softmax", name="last")(x), name="net")
    model.compile(O.SGD(0.05, momentum=0.9), **HOW)  # Adam multiplies rounding
    return model


def attention():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,), dtype="int32")
    x = keras.layers.Embedding(20, 8, name="embedding")(inputs)
    x = keras.layers.Add()([x, keras.layers.MultiHeadAttention(4, 3, name="attention")(x, x)])
    x = keras.layers.LayerNormalization(name="norm")(x)
    h = keras.layers.Dense(8, name="down")(keras.layers.Dense(16, "gelu", name="up")(x))
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Add()([x, h]))
    model = keras.Model(inputs, keras.layers.Dense(2, "softmax", name="last")(x), name="net")
    model.compile(O.SGD(0.05, momentum=0.9), **HOW)  # Adam multiplies rounding
    return model


def recurrent():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    x = keras.layers.Reshape((4, 2))(inputs)
    x = keras.layers.LSTM(12, name="lstm")(x)
    x = keras.layers.Dense(12, "relu", name="hidden")(x)
    model = keras.Model(inputs, keras.layers.Dense(2, "softmax", name="last")(x), name="net")
    model.compile(O.SGD(0.05, momentum=0.9), **HOW)  # Adam multiplies rounding
    return model


PIXELS = RANDOM.normal(size=(96, 8, 8, 1)).astype("float32")
TOKENS = RANDOM.integers(0, 20, (96, 8))


@pytest.mark.parametrize(
    ("make", "x"),
    [(convolutions, PIXELS), (attention, TOKENS), (recurrent, X)],
    ids=["convolutions", "attention", "recurrent"],
)
def test_models_of_every_kind(make, x):
    found, whole = (kr.compress(make(), x, Y, shrink=each, **CALL | {"target": 0.4}) for each in (True, False))
    assert Eager.made[0].epochs
    assert found.report.macs_after == whole.report.macs_after
    for a, b in zip(found.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


class Counts(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen, self.sizes = [], []

    def on_train_begin(self, logs=None):
        self.seen.append("begin")

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(epoch)
        self.sizes.append(self.model.count_params())

    def on_train_end(self, logs=None):
        self.seen.append("end")


class Averages(keras.callbacks.Callback):
    """Moving averages of the weights, which every third epoch goes on from."""

    def on_train_begin(self, logs=None):
        self.averages = self.model.get_weights()

    def on_epoch_end(self, epoch, logs=None):
        self.averages = [(a + b) / 2 for a, b in zip(self.averages, self.model.get_weights(), strict=True)]
        if epoch % 3 == 1:
            self.model.set_weights(self.averages)


def test_callbacks_see_one_training_of_models_that_get_smaller():
    counts = Counts()
    rates = keras.callbacks.LearningRateScheduler(lambda epoch: 0.01 / (1 + epoch))
    stop = keras.callbacks.EarlyStopping("loss", patience=50, restore_best_weights=True)
    found = kr.compress(network(), X, Y, callbacks=[counts, rates, stop], **CALL)
    assert tuple(cuts()) == CUT
    assert counts.seen == ["begin", *range(8), "end"]
    assert all(a >= b for a, b in zip(counts.sizes, counts.sizes[1:]))
    assert len({*counts.sizes}) == 4
    again = keras.callbacks.LearningRateScheduler(lambda epoch: 0.01 / (1 + epoch))
    same(found, kr.compress(network(), X, Y, callbacks=[again], shrink=False, **CALL))


@pytest.mark.filterwarnings("ignore:The weights have changed")
def test_a_callback_that_remembers_weights_keeps_the_model_whole():
    found, whole = (kr.compress(network(), X, Y, callbacks=[Averages()], shrink=each, **CALL) for each in (True, False))
    assert cuts() == []
    for a, b in zip(found.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def endless():
    while True:
        yield X[:32], Y[:32]


def test_data_that_go_on_from_epoch_to_epoch_are_not_begun_anew():
    call = {key: value for key, value in CALL.items() if key not in ("batch_size", "shuffle")}
    kr.compress(network(), endless(), steps_per_epoch=3, **call | {"epochs": 6})
    assert not any(each.may_cut for each in Eager.made)


class Killed(Exception):
    """What ends a process."""


def kill(epoch, logs):
    if epoch == kill.at:
        raise Killed


@functools.cache
def never_cut():
    """Return what comes of a run that is neither cut nor killed."""
    return kr.compress(network(), X, Y, shrink=False, **CALL)


@pytest.mark.parametrize("at", [2, 3, 5])
def test_a_run_that_was_killed_goes_on_with_what_it_had(tmp_path, at):
    """After the epochs 2 and 3 of four the model is cut; a kill comes before the copy of its epoch is written."""
    kill.at, counts = at, Counts()
    call = CALL | {"directory": tmp_path / "run"}
    with pytest.raises(Killed):
        kr.compress(network(), X, Y, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=kill)], **call)
    found = kr.compress(network(), X, Y, callbacks=[counts], **call)
    assert next(each for each in counts.seen if isinstance(each, int)) == at
    assert not (tmp_path / "run").exists()
    same(found, never_cut())


def test_a_cut_is_made_again_after_a_kill(tmp_path, monkeypatch):
    """Also where the second run would not find that it pays."""
    kill.at = 3
    call = CALL | {"directory": tmp_path / "run"}
    with pytest.raises(Killed):
        kr.compress(network(), X, Y, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=kill)], **call)
    monkeypatch.setattr(cutting, "PAYS", np.inf)
    counts = Counts()
    found = kr.compress(network(), X, Y, callbacks=[counts], **call)
    assert tuple(cuts()) == CUT
    assert counts.sizes[0] < network().count_params()
    same(found, never_cut())


@only_tensorflow
def test_in_a_graph():
    found, whole = (kr.compress(network(run_eagerly=False), X, Y, shrink=each, **CALL) for each in (True, False))
    assert tuple(Eager.made[0].epochs) == CUT
    same(found, whole)


@only_tensorflow
def test_under_a_strategy():
    code = "import test_cutting; test_cutting.check_under_a_strategy()"
    result = processes.run("-c", code, cwd=Path(__file__).parent)
    assert result.returncode == 0, result.stderr[-2000:]


def check_under_a_strategy():
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    cutting.PAYS, run.Cuts, Eager._learn, Eager.made = 0.0, Eager, lambda self: None, []
    # TensorFlow takes collectives of two strategies in a process for the same: plain Keras fails, too.
    found, strategy = [], tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    for each in (True, False):
        with strategy.scope():
            model = network(run_eagerly=False)
        found.append(kr.compress(model, X, Y, shrink=each, **CALL))
        assert found[-1].model.distribute_strategy is model.distribute_strategy
    assert tuple(Eager.made[0].epochs) == CUT
    same(*found)


class Fake:
    """Stands for what chooses: so much is left."""

    def __init__(self, left):
        self.groups, self.left, self.is_final, self.is_paused = self, left, False, False

    def macs(self):
        return self.left * cutting.macs_of(network())

    def pause(self):
        self.is_paused = True


@pytest.mark.parametrize(
    ("left", "cost", "epochs", "pays"),
    [
        (0.25, 10.0, 10, True),  # saves 10 (1 - .38) 4 seconds
        (0.25, 13.0, 10, False),
        (0.25, 10.0, 1, False),
        (0.9, 1.0, 10, True),
        (0.9, 2.0, 10, False),
        (1.0, 0.0, 10, False),
        (0.25, 0.0, 0, False),
    ],
)
def test_when_a_cut_pays(monkeypatch, left, cost, epochs, pays):
    monkeypatch.setattr(cutting, "PAYS", 2.0)
    found = cutting.Cuts(network(), Fake(left), [], None, epochs)
    found.set_model(network())
    found._seconds, found._cost = 4.0, cost
    assert found._pays(epochs) is pays


def test_what_a_cut_has_saved_is_measured():
    found = cutting.Cuts(network(), Fake(0.5), [], None, 10)
    found._traced, found._seconds = 3.0, 4.0
    found._learn()
    assert (found._cost, found._power) == (6.0, cutting.POWER)
    for seconds, power in ((2.0, 0.5), (1.0, 1.0), (0.5, 1.0), (4.0, 0.0), (5.0, 0.0)):
        found._before, found._seconds = (0.25, 4.0, 1.5), seconds
        found._learn()
        assert (found._cost, found._power) == (4.5, pytest.approx(power))
