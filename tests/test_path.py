"""The solution path and its winning tickets."""

import keras
import numpy as np
import pytest
from backend import number, only_tensorflow
from training import X, Y, maker, network, train, weights

import keras_rmda as kr


class Supports(keras.callbacks.Callback):
    """Records the support by itself."""

    def __init__(self):
        super().__init__()
        self.kernels = []

    def on_epoch_end(self, epoch, logs=None):
        optimizer = self.model.optimizer
        self.kernels.append([number(optimizer.structured_value(layer.kernel)) != 0 for layer in self.model.layers])


@pytest.fixture
def run():
    path, supports, model = kr.callbacks.SolutionPath(), Supports(), network()
    initial = weights(model)
    optimizer = maker(kr.DessiLBI)(regularizer=kr.GroupLasso(0.15))
    train(optimizer, model, epochs=8, callbacks=[path, supports])
    return path, supports, model, initial


def test_entrance_is_the_first_epoch_after_which_a_group_is_nonzero(run):
    path, supports, model, _ = run
    assert path.epochs == 8
    for index, layer in enumerate(model.layers):
        alive = np.array([each[index].any(axis=1) for each in supports.kernels])
        expected = np.where(alive.any(axis=0), 1 + alive.argmax(axis=0), np.inf)
        np.testing.assert_array_equal(path.entered[layer.kernel.path].ravel(), expected)
        np.testing.assert_array_equal(path.support(8)[layer.kernel.path], supports.kernels[-1][index])
        assert not path.support(0)[layer.kernel.path].any()  # Gamma begins at zero
    assert len({float(epoch) for each in path.entered.values() for epoch in each.flat}) > 1


def test_prune_order_begins_with_what_never_entered(run):
    path, _, _, _ = run
    order = path.prune_order()
    assert len(order) == 6 + 8
    epochs = [epoch for _, _, epoch in order]
    assert epochs == sorted(epochs, reverse=True)
    name, index, epoch = order[-1]
    assert path.entered[name].flat[index] == epoch == min(epochs)


@pytest.mark.parametrize("optimizer", ["adam", "rmda"])
def test_a_winning_ticket_has_initial_weights_under_the_mask_and_keeps_its_zeros(run, optimizer):
    path, supports, _, initial = run
    ticket = path.winning_ticket(epoch=4)
    mask = [supports.kernels[3][index] for index in range(2)]
    whole = network()
    assert not ticket.compiled
    for layer, original, kept in zip(ticket.layers, whole.layers, mask):
        np.testing.assert_array_equal(number(layer.kernel), np.where(kept, number(original.kernel), 0))
        np.testing.assert_array_equal(number(layer.bias), 0)
    before = weights(ticket)
    train(maker(kr.RMDA)() if optimizer == "rmda" else optimizer, ticket)
    assert (weights(ticket) != before).any()
    for layer, kept in zip(ticket.layers, mask):
        assert (number(layer.kernel)[~kept] == 0).all()
    np.testing.assert_array_equal(weights(network()), initial)


def test_a_second_fit_goes_on_with_the_path(run):
    path, _, model, _ = run
    model.fit(X, Y, batch_size=16, verbose=0, epochs=2, callbacks=[path])
    assert path.epochs == 10


def test_another_model_begins_anew(run):
    path, _, _, _ = run
    train(maker(kr.LinBreg)(regularizer=kr.L1(0.1)), network(), epochs=3, callbacks=[path])
    assert path.epochs == 3
    assert (path.entered["net/a/kernel"] == 0).all()  # dense from the start


def test_plot(run):
    path, _, _, _ = run
    axes = path.plot()
    assert [line.get_label() for line in axes.lines] == ["net/a/kernel (6 groups)", "net/b/kernel (8 groups)"]
    line = axes.lines[0].get_ydata()
    assert line[-1] == np.isfinite(path.entered["net/a/kernel"]).mean()
    assert path.plot(axes) is axes


def test_bad_epochs_and_models(run):
    path, _, _, _ = run
    for epoch in (-1, 9, 2.5, "last"):
        with pytest.raises(ValueError, match="epoch"):
            path.winning_ticket(epoch)
    with pytest.raises(ValueError, match="Nothing is recorded"):
        kr.callbacks.SolutionPath().support(0)
    with pytest.raises(ValueError, match="SGD"):
        train(keras.optimizers.SGD(), network(), callbacks=[kr.callbacks.SolutionPath()])


@only_tensorflow  # elsewhere Keras builds the model first
def test_an_unbuilt_model_has_no_initial_weights():
    unbuilt = keras.Sequential([keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="build the model"):
        train(maker(kr.LinBreg)(regularizer=kr.L1(0.1)), unbuilt, callbacks=[kr.callbacks.SolutionPath()])
