"""Training that is stopped at any moment ends as one that was not."""

import contextlib
import errno
import functools
import os
from pathlib import Path

import keras
import numpy as np
import pytest
from backend import number, only_tensorflow
from survival import survived
from training import X, Y, needs_multi_optimizer, network, train, weights

import keras_rmda as kr


def test_training_survives_being_killed():
    """While it writes and while it trains; twenty kills: `python tests/survival.py --kills 20`."""
    assert survived(2, "ours", say=lambda *_, **__: None) == 2


class Stop(keras.callbacks.Callback):
    """Stops as a failure would."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


def residual():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    x = keras.layers.Dense(8, "relu", name="a")(inputs)
    x = keras.layers.Add()([x, keras.layers.Dense(8, name="b")(x)])
    return keras.Model(inputs, keras.layers.Dense(3, name="c")(keras.layers.Dropout(0.2, seed=1)(x)))


def steered(folder, backup, first, *more):
    """Return a model after a training with decisions, copies and perhaps a stop."""
    model, path = residual(), kr.callbacks.SolutionPath()
    optimizer = kr.RMDA(0.05, 0.5, kr.GroupLasso(1e-2, groups=kr.coupled_groups(model)))
    steering = [kr.callbacks.TargetSparsity(0.5, "groups", end=0.6), kr.callbacks.StagewiseSchedule([6, 8]), path]
    copies = [] if backup is None else [backup(str(folder))]
    callbacks = [*copies, *steering] if first else [*steering, *copies]
    train(optimizer, model, epochs=10, callbacks=[*callbacks, *more])
    return model, path


@functools.cache
def uninterrupted(first):
    """Return what the trainings that are stopped are compared with."""
    return steered(None, None, first)


def agree(found, expected):
    np.testing.assert_allclose(weights(found), weights(expected), atol=1e-6)
    for a, b in zip(found.optimizer.variables, expected.optimizer.variables, strict=True):
        np.testing.assert_allclose(number(a), number(b), atol=1e-6, err_msg=a.path)


@pytest.mark.parametrize(
    ("epoch", "first"),
    [*((epoch, False) for epoch in (0, 4, 7, 9)), *((epoch, True) for epoch in (1, 6, 7))],
)
def test_a_stopped_training_goes_on_with_all_that_was_decided(epoch, first, tmp_path):
    expected, path = uninterrupted(first)
    with pytest.raises(KeyboardInterrupt):
        steered(tmp_path / "b", kr.callbacks.BackupAndRestore, first, Stop(epoch))
    found, again = steered(tmp_path / "b", kr.callbacks.BackupAndRestore, first)
    agree(found, expected)
    assert again.epochs == path.epochs == 10
    assert not (tmp_path / "b").exists()
    if first and epoch in (6, 8):  # its copy is of the moment before the stage ends, the path's note of the one after
        return
    for k in range(11):
        for a, b in zip(again.support(k).values(), path.support(k).values(), strict=True):
            np.testing.assert_array_equal(a, b)
    tickets = [weights(each.winning_ticket(5)) for each in (again, path)]
    np.testing.assert_array_equal(*tickets)
    assert [group[1:] for group in again.prune_order()] == [group[1:] for group in path.prune_order()]


@pytest.mark.parametrize("epoch", [1, 7])
def test_the_callback_of_keras_restores_decisions_too(epoch, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.layers.Dropout, "call", lambda self, inputs, training=False: inputs)  # it keeps no seeds
    expected, _ = steered(tmp_path, None, False)
    with pytest.raises(KeyboardInterrupt):
        steered(tmp_path / "b", keras.callbacks.BackupAndRestore, False, Stop(epoch))
    agree(steered(tmp_path / "b", keras.callbacks.BackupAndRestore, False)[0], expected)


def stages(model, epochs, *more, **fit):
    model.compile(getattr(model, "optimizer", None) or kr.RMDA(0.05, 0.5), "mse")
    callbacks = [kr.callbacks.StagewiseSchedule([2, 4]), *more]
    model.fit(X, Y, batch_size=16, shuffle=False, verbose=0, epochs=epochs, callbacks=callbacks, **fit)
    return model


def test_a_copy_within_an_epoch_does_not_begin_its_stage_twice(tmp_path):
    class StopWithin(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_end(self, batch, logs=None):
            if self.epoch == 2 and batch == 2:
                raise KeyboardInterrupt

    copies = lambda: keras.callbacks.BackupAndRestore(str(tmp_path / "b"), save_freq=1)  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        stages(network(), 6, copies(), StopWithin())
    found = stages(network(), 6, copies())
    assert float(number(found.optimizer.learning_rate)) == pytest.approx(0.05 / 100)


@pytest.mark.filterwarnings("ignore:The milestones .* are too late")
def test_a_model_from_a_file_goes_on_and_another_training_does_not(tmp_path):
    stages(network(), 3).save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    stages(loaded, 6, initial_epoch=3)  # the milestone before epoch 2 was there, that before 4 was not
    assert float(number(loaded.optimizer.learning_rate)) == pytest.approx(0.05 / 100)
    loaded = keras.models.load_model(tmp_path / "m.keras")
    stages(loaded, 3)  # a training of its own: its milestone counts
    assert float(number(loaded.optimizer.learning_rate)) == pytest.approx(0.05 / 100)


@needs_multi_optimizer
def test_gates_and_two_optimizers_go_on(tmp_path):
    def gated(folder, *more):
        model = kr.gates.insert(residual(), strength=1e-3, where="everywhere")
        model.compile(kr.gates.optimizer(kr.ProxSGD(0.05, 0.5)), "mse")
        copies = [kr.callbacks.BackupAndRestore(folder)]
        fit = {"batch_size": 16, "shuffle": False, "verbose": 0, "epochs": 8}
        model.fit(X, Y, callbacks=[*copies, kr.callbacks.FreezeGates(5), *more], **fit)
        return model

    expected = gated(tmp_path / "a")
    for epoch in (3, 6):
        with pytest.raises(KeyboardInterrupt):
            gated(tmp_path / "b", Stop(epoch))
        agree(gated(tmp_path / "b"), expected)


def test_a_training_after_the_restored_one_begins_at_its_own_epoch(tmp_path):
    epochs = []
    count = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: epochs.append(epoch))
    with pytest.raises(KeyboardInterrupt):
        train(kr.RMDA(), epochs=4, callbacks=[kr.callbacks.BackupAndRestore(tmp_path / "b"), Stop(2)])
    model = train(kr.RMDA(), epochs=4, callbacks=[kr.callbacks.BackupAndRestore(tmp_path / "b"), count])
    model.fit(X, Y, epochs=2, verbose=0, callbacks=[count])
    assert epochs == [2, 3, 0, 1]


def test_a_training_after_a_restored_one_that_failed_begins_at_its_own_epoch(tmp_path):
    model, epochs = residual(), []
    model.compile(kr.ProxSGD(0.05), "mse")
    watch = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: epochs.append(epoch))
    for epoch in (2, 4):
        backup = kr.callbacks.BackupAndRestore(tmp_path / "b")
        with pytest.raises(KeyboardInterrupt):
            model.fit(X, Y, epochs=6, verbose=0, callbacks=[backup, Stop(epoch)])
    model.fit(X, Y, epochs=2, verbose=0, callbacks=[watch])
    assert epochs == [0, 1]


def test_copies_stay_if_that_is_wanted(tmp_path):
    train(kr.RMDA(), epochs=3, callbacks=[kr.callbacks.BackupAndRestore(tmp_path / "b", delete_checkpoint=False)])
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["epoch-000003"]


@pytest.mark.filterwarnings("ignore::keras_rmda.SparsityWarning")
def test_what_is_not_finite_is_no_copy(tmp_path):
    def spoil(epoch, logs):
        if epoch == 2:
            model.layers[-1].kernel.assign(np.nan * number(model.layers[-1].kernel))

    model = residual()
    model.compile(kr.ProxSGD(0.05), "mse")
    callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=spoil), kr.callbacks.BackupAndRestore(tmp_path / "b")]
    model.fit(X, Y, epochs=3, verbose=0, callbacks=callbacks)
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["epoch-000002"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks the system for the names of open files")
def test_a_copy_is_on_the_disk_before_it_counts_and_before_another_is_deleted(tmp_path, monkeypatch):
    calls, sync, rename = [], os.fsync, os.rename

    def fsync(descriptor):
        calls.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name.partition("-")[0]))
        sync(descriptor)

    def renamed(source, target):
        calls.append(("rename", f"{Path(source).name.partition('-')[0]} to {Path(target).name.partition('-')[0]}"))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", renamed)
    train(kr.RMDA(), epochs=2, callbacks=[kr.callbacks.BackupAndRestore(tmp_path / "b", delete_checkpoint=False)])
    kept = [*(("sync", name) for name in ("model.weights.h5", "rest.npz", ".part")), ("rename", ".part to epoch")]
    second = calls[len(kept) + 1 :]
    assert sorted(second[:2]) == kept[:2]
    assert second[2:] == [*kept[2:], ("sync", "b"), ("rename", "epoch to .part")]


@pytest.mark.skipif(os.name != "posix", reason="folders cannot be opened")
@pytest.mark.parametrize(("reason", "fails"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_file_system_without_synchronization_will_do_and_a_broken_disk_will_not(reason, fails, tmp_path, monkeypatch):
    def fsync(descriptor):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "fsync", fsync)
    copies = kr.callbacks.BackupAndRestore(tmp_path / "b", delete_checkpoint=False)
    with pytest.raises(OSError, match=os.strerror(reason)) if fails else contextlib.nullcontext():
        train(kr.RMDA(), epochs=2, callbacks=[copies])
    assert [path.name for path in (tmp_path / "b").glob("epoch-*")] == ([] if fails else ["epoch-000002"])


def test_a_broken_copy_in_the_making_does_not_count(tmp_path):
    (tmp_path / "b" / ".part-0123").mkdir(parents=True)
    (tmp_path / "b" / ".part-0123" / "model.weights.h5").write_bytes(b"half")
    train(kr.RMDA(), epochs=2, callbacks=[kr.callbacks.BackupAndRestore(tmp_path / "b")])
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("value", ["", None, 3])
def test_bad_folders_are_named(value):
    with pytest.raises(ValueError, match=r"`backup_dir` must be a str or pathlib.Path. Received: backup_dir="):
        kr.callbacks.BackupAndRestore(value)


def test_a_folder_with_other_things_or_in_the_way_of_a_file_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(ValueError, match=r"folder of its own.*holds \['thesis.tex'\]"):
        kr.callbacks.BackupAndRestore(tmp_path)
    with pytest.raises(OSError, match=r"thesis\.tex"):
        train(kr.RMDA(), callbacks=[kr.callbacks.BackupAndRestore(tmp_path / "thesis.tex" / "b")])


@only_tensorflow  # elsewhere `fit` builds it before
def test_a_model_must_be_built(tmp_path):
    model = keras.Sequential([keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="build the model before `fit`"):
        train(kr.RMDA(), model, callbacks=[kr.callbacks.BackupAndRestore(tmp_path / "b")])


@pytest.mark.filterwarnings("ignore:Skipping nested container")  # Keras, of the same
def test_a_copy_of_another_model_is_refused(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(kr.RMDA(), epochs=4, callbacks=[kr.callbacks.BackupAndRestore(tmp_path / "b"), Stop(2)])
    begins_anew = pytest.warns(kr.SparsityWarning, match="begins anew")
    with pytest.raises(ValueError), begins_anew:  # noqa: PT011  Keras's own message
        train(kr.RMDA(), residual(), callbacks=[kr.callbacks.BackupAndRestore(tmp_path / "b")])
    assert (tmp_path / "b" / "epoch-000002").is_dir()
