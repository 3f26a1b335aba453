"""Callbacks of a user's own in `compress`, which trains several models for them."""

from collections import deque

import keras
import numpy as np
import pytest
from backend import BACKEND, number, only_tensorflow

import keras_rmda as kr
from keras_rmda.callbacks.choice import Groups
from keras_rmda.compression import counterparts, data
from keras_rmda.compression.callbacks import OneTraining, remembers, warn_of_what_is_used

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(96, 8)).astype("float32")
Y = (X[:, 0] * X[:, 1] > 0).astype("int32")
CALL = {"target": 0.5, "epochs": 4, "batch_size": 32, "verbose": 0}

pytestmark = pytest.mark.filterwarnings("ignore:Training ended with [0-9.]*% of the macs, not with 50.0%. single")


def network(units=24, **compile):
    keras.utils.set_random_seed(0)
    layers = [keras.Input((8,)), *(keras.layers.Dense(units, "relu", name=name) for name in ("first", "second"))]
    model = keras.Sequential([*layers, keras.layers.Dense(2, "softmax", name="last")], name="net")
    how = {"optimizer": "adam", "loss": "sparse_categorical_crossentropy", "run_eagerly": BACKEND == "tensorflow"}
    model.compile(**how | compile)
    return model


class Averages(keras.callbacks.Callback):
    """The mean of the weights at the ends of epochs, in attributes that are made with the callback."""

    def __init__(self):
        super().__init__()
        self.count, self.weights, self.losses = 0, None, []

    def on_epoch_end(self, epoch, logs=None):
        new = self.model.get_weights()
        old = new if self.weights is None else self.weights
        self.weights = [(a * self.count + b) / (self.count + 1) for a, b in zip(old, new, strict=True)]
        self.count += 1
        self.losses.append(logs["loss"])

    def on_train_end(self, logs=None):
        self.model.set_weights(self.weights)


class AveragesByPath(keras.callbacks.Callback):
    """The same in a dictionary, which it fills as it goes."""

    def __init__(self):
        super().__init__()
        self.count, self.weights, self.losses = 0, {}, []

    def on_epoch_end(self, epoch, logs=None):
        for each in self.model.weights:
            old = self.weights.get(each.path, 0.0)
            self.weights[each.path] = (old * self.count + number(each)) / (self.count + 1)
        self.count += 1
        self.losses.append(logs["loss"])

    def on_train_end(self, logs=None):
        for each in self.model.weights:
            each.assign(self.weights[each.path])


@pytest.mark.parametrize("kind", [Averages, AveragesByPath])
def test_averages_begin_anew_with_the_smaller_model(kind):
    averages = kind()
    found = kr.compress(network(), X, Y, callbacks=[averages], **CALL)
    assert averages.count == found.history["phase"].count("tune") == 2
    assert len(averages.losses) == 4  # what was seen of the larger model is no weight of it
    values = averages.weights.values() if isinstance(averages.weights, dict) else averages.weights
    assert sorted(each.size for each in values) == sorted(each.size for each in found.model.get_weights())
    assert found.report.macs_after < 0.55 * found.report.macs
    assert found.after == pytest.approx(found.model.evaluate(X, Y, verbose=0, return_dict=True), abs=1e-5)


def test_functions_of_a_callback_see_one_training():
    seen = []
    functions = {f"on_train_{name}": lambda logs, name=name: seen.append(name) for name in ("begin", "end")}
    kr.compress(network(), X, Y, callbacks=[keras.callbacks.LambdaCallback(**functions)], **CALL)
    assert seen == ["begin", "end"]


def test_callbacks_are_told_of_an_end_before_the_last_epoch():
    seen, model = [], network()
    each = keras.callbacks.LambdaCallback(on_train_end=lambda logs: seen.append(logs))
    training = OneTraining([each], 4)
    for last in (2, 3):
        with training.part(model, last):
            each.set_model(model)
            each.on_train_end({})
    training.end({"loss": 1.0})
    assert seen == [{"loss": 1.0}]


def test_a_history_of_a_users_own_has_all_epochs():
    own = keras.callbacks.History()
    found = kr.compress(network(), X, Y, callbacks=[own], **CALL)
    assert own.epoch == [0, 1, 2, 3]
    assert own.history["loss"] == found.history["loss"]
    assert found.history["phase"] == ["choose"] * 2 + ["tune"] * 2


class Looks(keras.callbacks.Callback):
    """Makes a model of the layers of another one, as pictures of activations need it."""

    def __init__(self):
        super().__init__()
        self.widths = []

    def on_train_begin(self, logs=None):
        self.part = keras.Model(self.model.inputs, self.model.get_layer("second").output)

    def on_epoch_end(self, epoch, logs=None):
        self.widths.append(self.part(X[:1]).shape[-1])


def test_what_remembers_something_is_told_from_what_does_not():
    model, looks = network(), Looks()
    for each in (looks, counts := keras.callbacks.CSVLogger("log.csv"), averages := Averages()):
        each.set_model(model)
        assert not remembers(each, model)
    looks.on_train_begin()
    averages.on_epoch_end(0, {"loss": 1.0})
    assert remembers(looks, model)
    assert remembers(averages, model)
    assert not remembers(counts, model)


HELD = {
    "by layer": lambda model: [layer.get_weights() for layer in model.layers],
    "by name": lambda model: {layer.name: tuple(layer.get_weights()) for layer in model.layers},
    "one kernel": lambda model: number(model.get_layer("second").kernel),
    "with a score": lambda model: (0.1, model.get_weights()),
    "a queue": lambda model: deque([model.get_weights()], maxlen=3),
}


@pytest.mark.parametrize("kept", HELD.values(), ids=HELD)
def test_weights_are_known_however_they_are_kept(kept):
    model, smaller, each = network(), network(units=12), keras.callbacks.Callback()
    each.set_model(model)
    each.seen = {"loss": [0.5, 0.4], "matrix": np.zeros((2, 2)), "names": [layer.name for layer in model.layers]}
    assert not remembers(each, model, smaller)
    each.kept = kept(model)
    assert remembers(each, model, smaller)


class Stops(keras.callbacks.Callback):
    """Early stopping as people write it."""

    def on_train_begin(self, logs=None):
        self.best, self.wait, self.log = np.inf, 0, []

    def on_epoch_end(self, epoch, logs=None):
        self.log.append(logs["loss"])
        self.wait = 0 if logs["loss"] < self.best else self.wait + 1
        self.best = min(self.best, logs["loss"])
        if self.wait >= 2:
            self.model.stop_training = True


def test_what_a_callback_saw_of_the_larger_model_does_not_stop_the_smaller_one():
    each, model = Stops(), network()
    training = OneTraining([each], 8)
    with training.part(model, 4):
        each.set_model(model)
        each.on_train_begin()
        for loss in (0.1, 0.2, 0.3):
            each.on_epoch_end(0, {"loss": loss})
    assert model.stop_training
    model.stop_training = False
    with training.part(model, 8):
        each.on_train_begin()
        each.on_epoch_end(4, {"loss": 0.5})
        each.on_epoch_end(5, {"loss": 0.4})
    assert not model.stop_training


def test_a_model_around_layers_is_made_of_the_smaller_ones():
    looks = Looks()
    found = kr.compress(network(), X, Y, callbacks=[looks], **CALL)
    assert looks.widths == [24, 24, *[found.model.get_layer("second").units] * 2]
    assert found.model.get_layer("second").units < 24


class Disturbs(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        for each in self.model.trainable_variables:
            each.assign(each + 1e-3)


@pytest.mark.filterwarnings("ignore:The weights have changed since the last step of 'rmda'")
@pytest.mark.parametrize("optimizer", [keras.optimizers.Adam(0.01), kr.RMDA(0.1, 0.1)], ids=["Adam", "RMDA"])
@pytest.mark.parametrize("shrink", [True, False])
def test_what_was_chosen_is_gone_whatever_is_done_to_its_weights(optimizer, shrink):
    found = kr.compress(network(optimizer=optimizer), X, Y, callbacks=[Disturbs()], shrink=shrink, **CALL)
    assert found.report.macs_after < 0.55 * found.report.macs


@pytest.mark.parametrize(("callbacks", "times"), [([], 1), ([Disturbs()], 2)], ids=["unchanged", "changed"])
def test_zeros_are_written_again_only_where_somebody_has_changed_them(callbacks, times, monkeypatch):
    written, clear = [], Groups.clear
    monkeypatch.setattr(Groups, "clear", lambda groups: written.append(groups) or clear(groups))
    kr.compress(network(), X, Y, callbacks=callbacks, **CALL)
    assert len(written) == times


def test_without_compress_it_is_said_who_has_changed_them():
    model = network()
    psi = kr.GroupLasso(1e-3, groups=kr.coupled_groups(model))
    model.compile(kr.ProxSGD(0.1, 0.1, psi), "sparse_categorical_crossentropy")
    with pytest.warns(kr.SparsityWarning, match="changed weights of groups that were zero for good"):
        model.fit(X, Y, epochs=4, verbose=0, callbacks=[Disturbs(), kr.callbacks.TargetSparsity(0.5)])


class Compiles(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            self.model.compile("adam", "sparse_categorical_crossentropy", run_eagerly=BACKEND == "tensorflow")
            self.model.make_train_function(force=True)


@only_tensorflow
def test_nobody_compiles_the_model_anew_while_groups_are_chosen():
    with pytest.raises(ValueError, match="compiled the model anew in epoch 2, while groups are chosen"):
        kr.compress(network(), X, Y, callbacks=[Compiles(1)], **CALL)
    found = kr.compress(network(), X, Y, callbacks=[Compiles(3)], **CALL)
    assert found.report.macs_after < 0.55 * found.report.macs


class Holds(keras.callbacks.Callback):
    def __init__(self, held):
        super().__init__()
        self.held = held


class UsesItsOwn(keras.callbacks.Callback):
    """Has a local variable and an attribute with the name of something else."""

    def on_epoch_end(self, epoch, logs=None):
        MODEL = self.model
        MODEL.MODEL = MODEL.name


MODEL = network()


def predict():
    return MODEL.predict(X)


def begun(callback, model):
    callback.set_model(model)
    callback.on_train_begin()
    return callback


def closes_over(x):
    return keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: print(x))


USES = {
    "attribute": (lambda: Holds(MODEL), "held"),
    "layer": (lambda: Holds(MODEL.get_layer("first")), "held"),
    "list of weights": (lambda: Holds([MODEL.weights[0]]), "held"),
    "model around layers": (lambda: Holds(keras.Model(MODEL.inputs, MODEL.get_layer("second").output)), "held"),
    "optimizer": (lambda: Holds(MODEL.optimizer), "held"),
    "closure": (lambda: closes_over(MODEL), "x"),
    "function": (lambda: keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: predict()), "MODEL"),
    "taken in a fit before": (lambda: begun(Looks(), MODEL), None),
    "another model": (lambda: Holds(network()), None),
    "array": (lambda: closes_over(X), None),
    "its own": (UsesItsOwn, None),
    "of Keras": (lambda: keras.callbacks.EarlyStopping(), None),
}


@pytest.mark.parametrize(("make", "name"), USES.values(), ids=USES)
def test_callbacks_that_use_the_model_that_is_not_trained_are_named(make, name, recwarn):
    warn_of_what_is_used([make()], MODEL)
    assert [f"uses {name!r}" in str(each.message) for each in recwarn] == ([] if name is None else [True])


def test_that_is_said_before_the_training():
    model, seen = network(), []
    stop = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: seen.append(model.count_params()))
    with pytest.warns(kr.SparsityWarning, match="LambdaCallback uses 'model'"):
        kr.compress(model, X, Y, callbacks=[stop], **CALL | {"epochs": 2})
    assert seen == [model.count_params()] * 2


def test_the_momentum_that_callbacks_set_is_that_of_keras():
    found = counterparts.proximal(keras.optimizers.SGD(0.1, momentum=0.9), 0.1, None)
    assert number(found.momentum) == pytest.approx(0.9)
    model = network(optimizer=found, loss="mse")
    other = network(optimizer=keras.optimizers.SGD(0.1, momentum=0.5), loss="mse")
    found.momentum = 0.5
    for each in (model, other):
        each.fit(X, np.eye(2)[Y], 32, 2, shuffle=False, verbose=0)
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


class WithoutEnd(keras.utils.PyDataset):
    num_batches = None

    def __getitem__(self, k):
        return X[:32], Y[:32]


def test_data_without_an_end_need_a_number_of_steps():
    with pytest.raises(ValueError, match="no end: give `steps_per_epoch`"):
        kr.compress(network(), WithoutEnd(), epochs=2)
    for endless in (WithoutEnd(), iter(WithoutEnd()), (batch for batch in WithoutEnd())):
        with pytest.raises(ValueError, match="give `validation_steps`"):
            kr.compress(network(), X, Y, validation_data=endless, epochs=2)
    found = kr.compress(network(), WithoutEnd(), steps_per_epoch=2, target=0.5, epochs=2, verbose=0)
    assert found.report.macs_after < 0.55 * found.report.macs


@only_tensorflow
def test_tf_data_without_an_end_need_a_number_of_steps():
    import tensorflow as tf

    once = tf.data.Dataset.from_tensor_slices((X, Y)).batch(32)
    for endless in (once.repeat(), once.filter(lambda x, y: True).repeat(), once.repeat().map(lambda x, y: (x, y))):
        with pytest.raises(ValueError, match="no end: give `steps_per_epoch`"):
            data.Data(endless)
        with pytest.raises(ValueError, match="give `validation_steps`"):
            data.Data(X, Y, validation_data=endless)
        assert data.Data(X, Y, validation_data=endless, validation_steps=2).steps == 3
    assert data.Data(once.repeat(3)).steps == 9


@only_tensorflow
def test_it_is_said_that_data_are_counted(monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(data, "MANY", 2)
    with pytest.warns(kr.SparsityWarning, match="2 batches have been counted so far"):
        assert data.Data(tf.data.Dataset.from_tensor_slices((X, Y)).batch(32).filter(lambda x, y: True)).steps == 3


@only_tensorflow
def test_what_tensorflow_says_of_data_is_told():
    with pytest.raises(ValueError, match=r"Received a label value of [56] which is outside the valid range"):
        kr.compress(network(run_eagerly=False), X, Y + 5, **CALL)


@pytest.mark.parametrize("what", ["x", "y", "sample_weight"])
def test_data_that_are_not_finite_are_refused_before_any_training(what):
    given = {"x": X, "y": X, "sample_weight": np.ones(len(X), "float32")}
    given[what] = given[what].copy()
    given[what][50] = np.nan
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(24, "tanh"), keras.layers.Dense(8)])
    model.compile("adam", "mse", run_eagerly=BACKEND == "tensorflow")
    seen = []
    log = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: seen.append(1))
    with pytest.raises(ValueError, match="is NaN before any training"):
        kr.compress(model, **given, callbacks=[log], **CALL)
    assert not seen


def test_what_is_frozen_is_named_with_the_way_out():
    backbone = network()
    backbone.trainable = False
    inputs = keras.Input((8,))
    model = keras.Model(inputs, keras.layers.Dense(2, "softmax")(keras.layers.Dense(4)(backbone(inputs))))
    with pytest.raises(ValueError, match="set their `trainable` to True and compile anew"):
        kr.compress(model, X, Y, **CALL | {"target": 0.2})


@pytest.mark.parametrize("kind", [keras.optimizers.SGD, keras.optimizers.Adam, keras.optimizers.AdamW])
def test_optimizers_are_known_on_every_backend(kind):
    """On PyTorch Keras makes an optimizer of another class."""
    assert counterparts.class_of(kind(0.1)) is kind
    assert number(counterparts.proximal(kind(0.1), 0.1, None).learning_rate) == pytest.approx(0.1)


class Halved(keras.optimizers.Adam):
    """Makes steps of its own."""


def test_an_optimizer_of_a_users_own_is_none_of_keras():
    with pytest.raises(ValueError, match="no proximal counterpart of Halved"):
        counterparts.proximal(Halved(0.1), 0.1, None)
