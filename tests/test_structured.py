"""What is shown, saved, restored and stripped is one model; a `fit` of several parts is one training."""

import contextlib
import json
import signal
import warnings

import keras
import numpy as np
import pytest
from backend import number, only_tensorflow
from training import PSI, SOME_ZEROS, X, Y, every_optimizer, maker, network, train, weights

import keras_rmda as kr
from keras_rmda.callbacks import StructuredWeights


def some_zeros(kind):
    """Return an optimizer that leaves some groups zero after 10 epochs from a dense start, and not all."""
    strength = 0.5 if kind is kr.DessiLBI else SOME_ZEROS[kind]
    return maker(kind)(regularizer=kr.GroupLasso(strength))


def kernels(model):
    return [number(v) for v in model.trainable_variables if len(v.shape) == 2]


class Look(keras.callbacks.Callback):
    """Keep what the weights are in each hook that stands between an epoch's steps."""

    def __init__(self):
        super().__init__()
        self.seen = {"batch": [], "test": [], "epoch": []}

    def _keep(self, name):
        self.seen[name].append(weights(self.model))

    def on_test_begin(self, logs=None):
        self._keep("test")

    def on_epoch_end(self, epoch, logs=None):
        self._keep("epoch")


@every_optimizer
def test_validation_callbacks_and_the_end_of_fit_see_the_structured_weights(make):
    look = Look()
    model = train(make(regularizer=PSI), epochs=3, validation_data=(X, Y), callbacks=[look])
    for tested, ended in zip(look.seen["test"], look.seen["epoch"], strict=True):
        np.testing.assert_array_equal(tested, ended)
    np.testing.assert_array_equal(look.seen["epoch"][-1], weights(model))


@every_optimizer
def test_what_is_shown_does_not_change_training(make):
    """Showing in every epoch, in none, and an epoch at a time end in the same weights."""
    shown = train(make(regularizer=PSI), epochs=3, validation_data=(X, Y))
    hidden = train(make(regularizer=PSI), epochs=3, callbacks=[StructuredWeights(active=False)])
    np.testing.assert_array_equal(weights(shown), weights(hidden))
    parts = train(make(regularizer=PSI), epochs=1)
    for epoch in (1, 2):
        parts.fit(X, Y, batch_size=16, shuffle=False, verbose=0, epochs=epoch + 1, initial_epoch=epoch)
    np.testing.assert_array_equal(weights(shown), weights(parts))


def test_the_callback_of_a_user_stands_first_wherever_it_is_given():
    for callbacks in ([Look(), StructuredWeights()], Look(), None, [[Look()], StructuredWeights()]):
        train(maker(kr.RMDA)(regularizer=PSI), callbacks=callbacks)
    look, shows = Look(), StructuredWeights()
    model = network()
    model.compile(maker(kr.RMDA)(regularizer=PSI), "mse")
    listed = keras.callbacks.CallbackList([look, shows], add_history=True, model=model, epochs=2, steps=4)
    model.fit(X, Y, batch_size=16, verbose=0, epochs=2, callbacks=listed)
    assert listed.callbacks[0] is shows
    np.testing.assert_array_equal(look.seen["epoch"][-1], weights(model))


def test_fit_of_other_optimizers_is_left_alone():
    given = [Look()]
    model = train("sgd", callbacks=given)
    assert not any(isinstance(each, StructuredWeights) for each in given)
    with pytest.raises(TypeError, match="unexpected keyword"):
        model.fit(X, Y, batchsize=3)


def test_bad_arguments():
    with pytest.raises(ValueError, match="`active` must be True or False"):
        StructuredWeights(active=1)


@pytest.mark.parametrize("kind", [kr.RMDA, kr.DessiLBI])
def test_the_best_checkpoint_is_structured_and_goes_on_from_its_iterate(kind, tmp_path):
    """A file of the end of an epoch: the zeros are in its weights, the iterate in its optimizer."""
    make = lambda: some_zeros(kind)  # noqa: E731
    save = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    whole = train(make(), epochs=12, callbacks=[save, StructuredWeights()])
    loaded = keras.models.load_model(tmp_path / "10.keras")
    assert any((kernel == 0).any() for kernel in kernels(loaded))
    kr.strip(loaded)  # without a warning: there is nothing to project
    loaded.optimizer.project(loaded)
    loaded.fit(X, Y, batch_size=16, shuffle=False, verbose=0, epochs=12, initial_epoch=10)
    np.testing.assert_allclose(weights(loaded), weights(whole), atol=1e-6)


def test_a_weights_file_that_comes_before_build_is_used_at_build(tmp_path):
    whole = train(some_zeros(kr.RMDA), epochs=12)
    train(some_zeros(kr.RMDA), epochs=10).save_weights(tmp_path / "w.weights.h5")
    model = network()
    model.compile(some_zeros(kr.RMDA), "mse")
    model.load_weights(tmp_path / "w.weights.h5")
    assert not model.optimizer.built
    model.fit(X, Y, batch_size=16, shuffle=False, verbose=0, epochs=12, initial_epoch=10)
    np.testing.assert_allclose(weights(model), weights(whole), atol=1e-6)


def test_a_file_of_an_untrained_model_begins_at_its_weights(tmp_path):
    """Keras builds the optimizer, with other weights, before it loads those of the file."""
    model = network()
    model.compile(some_zeros(kr.RMDA), "mse")
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    loaded.fit(X, Y, batch_size=16, shuffle=False, verbose=0, epochs=2)
    np.testing.assert_allclose(weights(loaded), weights(train(some_zeros(kr.RMDA))), atol=1e-6)


def test_project_of_a_weights_file_builds_the_optimizer(tmp_path):
    hidden = {
        "callbacks": [keras.callbacks.ModelCheckpoint(tmp_path / "w.weights.h5", save_weights_only=True, save_freq=4)]
    }
    whole = train(some_zeros(kr.RMDA), epochs=10, **hidden)
    model = network()
    model.compile(some_zeros(kr.RMDA), "mse")
    model.load_weights(tmp_path / "w.weights.h5")  # of the last step: the iterate
    assert all((kernel != 0).all() for kernel in kernels(model))
    with pytest.warns(kr.SparsityWarning, match=r"project\(model\)"):
        kr.analyze(model)
    model.optimizer.project(model)
    np.testing.assert_allclose(weights(model), weights(whole), atol=1e-6)


class Restore(keras.callbacks.EarlyStopping):
    """Restores the weights of the first epoch in any case."""

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, {"loss": float(epoch)})


@every_optimizer
def test_project_never_mixes_moments(make):
    look = Look()
    stop = Restore(monitor="loss", patience=2, restore_best_weights=True, mode="min")
    model = train(make(regularizer=PSI), epochs=4, callbacks=[look, stop])
    np.testing.assert_array_equal(weights(model), look.seen["epoch"][0])
    with pytest.warns(kr.SparsityWarning, match="not those that the last step"):
        model.optimizer.project(model)
    np.testing.assert_array_equal(weights(model), look.seen["epoch"][0])


@every_optimizer
def test_training_goes_on_from_weights_that_were_changed(make):
    """What was set between two `fit` is where the second begins, as with a fresh optimizer."""
    other = [w + 0.1 for w in network().get_weights()]
    model = train(make(regularizer=PSI))
    model.set_weights(other)
    rebuilds = model.optimizer.rebuilds_iterate
    with pytest.warns(kr.SparsityWarning, match="changed since") if rebuilds else contextlib.nullcontext():
        model.fit(X, Y, batch_size=16, shuffle=False, verbose=0)
    if rebuilds:
        fresh = network()
        fresh.set_weights(other)
        train(make(regularizer=PSI), fresh, epochs=1)
        np.testing.assert_allclose(weights(model), weights(fresh), atol=1e-6)
    assert np.abs(weights(model) - np.concatenate([w.ravel() for w in other])).max() < 2.0


@every_optimizer
def test_training_goes_on_from_one_layer_that_was_changed(make):
    """Also if it is neither small nor has zeros."""
    model = train(make(regularizer=kr.L1(1e-6)))
    kernel = max(model.trainable_variables, key=lambda each: np.prod(each.shape))
    kernel.assign(number(kernel) + 3.0)
    rebuilds = model.optimizer.rebuilds_iterate
    with pytest.warns(kr.SparsityWarning, match="changed since") if rebuilds else contextlib.nullcontext():
        model.fit(X, Y, batch_size=256, shuffle=False, verbose=0)
    assert number(kernel).mean() > 1.0


@only_tensorflow  # Keras on JAX wants all the variables that an optimizer was built with
@pytest.mark.parametrize("kind", [kr.RMDA, kr.ProxSGD])
def test_frozen_weights_stay_under_the_same_optimizer(kind):
    model = network()
    optimizer = maker(kind)(regularizer=kr.GroupLasso(0.1, "output"))
    model.compile(optimizer, "mse")
    model.fit(X, Y, epochs=1, verbose=0)
    model.layers[0].trainable = False
    before = [number(each) for each in model.layers[0].weights]
    model.compile(optimizer, "mse")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # RMDA ends far from its iterate
        model.fit(X, Y, epochs=30, verbose=0)
    for a, b in zip(before, model.layers[0].weights, strict=True):
        np.testing.assert_array_equal(a, number(b))


@only_tensorflow
def test_frozen_weights_of_coupled_groups_want_a_new_optimizer():
    model = network()
    optimizer = kr.ProxSGD(0.1, regularizer=kr.GroupLasso(0.01, groups=kr.coupled_groups(model, parts="all")))
    model.compile(optimizer, "mse")
    model.fit(X, Y, epochs=1, verbose=0)
    model.layers[0].trainable = False
    model.compile(optimizer, "mse")
    with pytest.raises(ValueError, match="frozen now"):
        model.fit(X, Y, epochs=1, verbose=0)


def test_a_loop_of_the_users_own_is_projected_for_good():
    model = network()
    model.compile(some_zeros(kr.RMDA), "mse")
    for _ in range(48):
        model.train_on_batch(X, Y)
    with pytest.warns(kr.SparsityWarning, match="holds zeros"):
        assert kr.strip(model).count_params() == model.count_params()
    model.optimizer.project(model)
    assert kr.strip(model).count_params() < model.count_params()
    before = weights(model)
    model.optimizer.project(model)
    np.testing.assert_array_equal(weights(model), before)


def test_steps_behind_fit_are_not_forgotten():
    model = train(some_zeros(kr.RMDA), epochs=10)
    for _ in range(3):
        model.train_on_batch(X, Y)
    value = number(model.optimizer.structured_value(model.get_layer("a").kernel))
    model.optimizer.project(model)
    np.testing.assert_array_equal(number(model.get_layer("a").kernel), value)


def test_a_fit_that_ends_far_from_its_iterate_says_how_far():
    with pytest.warns(kr.SparsityWarning, match=r"\d+% away"):
        train(kr.RMDA(0.05, 0.01, kr.GroupLasso(3.0)), epochs=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", kr.SparsityWarning)
        train(kr.RMDA(0.05, 1.0, kr.GroupLasso(3.0)), epochs=8)


class Interrupt(keras.callbacks.Callback):
    """Presses Ctrl-C behind the second of four steps of an epoch."""

    def on_train_batch_end(self, batch, logs=None):
        if batch == 1 and self.epoch == 9:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in the background of a shell
            signal.raise_signal(signal.SIGINT)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch


def test_an_interrupted_fit_leaves_the_structured_weights_and_can_go_on():
    model, fit = network(), {"batch_size": 16, "shuffle": False, "verbose": 0}
    model.compile(some_zeros(kr.RMDA), "mse")
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, **fit, epochs=20, callbacks=[Interrupt()])
    assert any((kernel == 0).any() for kernel in kernels(model))
    other = train(some_zeros(kr.RMDA), epochs=9)
    other.fit(X[:32], Y[:32], **fit)
    np.testing.assert_allclose(weights(model), weights(other), atol=1e-6)
    model.fit(X[32:], Y[32:], **fit)
    np.testing.assert_allclose(weights(model), weights(train(some_zeros(kr.RMDA), epochs=10)), atol=1e-6)


def test_an_error_in_fit_is_the_one_that_is_told():
    model = network()
    model.compile(some_zeros(kr.RMDA), "mse")
    with pytest.raises(ValueError, match="no such thing"):
        model.fit(X, Y, verbose=0, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=no_such_thing)])


def no_such_thing(epoch, logs):
    raise ValueError("no such thing")


@pytest.mark.skipif(not hasattr(keras.optimizers, "MultiOptimizer"), reason="this Keras has none")
def test_inside_of_other_optimizers():
    """Of two optimizers, that of the kernels is ours; both inside of one that scales losses."""
    look, own, other = Look(), some_zeros(kr.RMDA), keras.optimizers.SGD(0.05)
    multi = keras.optimizers.MultiOptimizer(lambda v: own if len(v.shape) == 2 else other)
    model = train(keras.optimizers.LossScaleOptimizer(multi), epochs=12, callbacks=[look])
    assert any((kernel == 0).any() for kernel in kernels(model))
    np.testing.assert_array_equal(look.seen["epoch"][-1], weights(model))


def test_the_command_line_takes_zeros_from_the_optimizer(tmp_path, capsys):
    from keras_rmda.cli import main

    save = keras.callbacks.ModelCheckpoint(tmp_path / "model.keras", save_freq=4)
    train(some_zeros(kr.RMDA), epochs=12, callbacks=[save])
    assert main(["strip", str(tmp_path / "model.keras"), str(tmp_path / "small.keras"), "--json"]) == 0
    found = capsys.readouterr()
    assert "took the zeros from its optimizer" in found.err
    figures = json.loads(found.out)
    assert figures["parameters_after"] < figures["parameters"]
