"""DessiLBI as its authors have it, against computations of one's own in float64."""

import keras
import numpy as np
import pytest
from backend import number
from training import maker, network, train

import keras_rmda as kr

# Numbers that float32 has exactly: Keras keeps learning rates and momenta so.
STEPS, RATE, KAPPA, MU = 40, 0.0625, 1.5, 1.0


def problem():
    random = np.random.default_rng(0)
    kernel, bias = random.normal(size=(5, 4)), random.normal(size=4)
    h = random.uniform(0.5, 2.0, (5, 4)), random.uniform(0.5, 2.0, 4)
    return [kernel, bias], h, random.normal(size=(STEPS, 5, 4)) * 0.1


def authors(momentum, weight_decay, dampening, nesterov, frozen_from=STEPS):
    """Return the kernels and biases of all steps, and the last Gamma: L1 with strength 1 on the kernel."""
    (w, b), (h, k), noise = problem()
    z, gamma, buffers, result = np.zeros_like(w), np.zeros_like(w), [None, None], []
    for t in range(STEPS):
        gradients = [h * (w - 1.0) + noise[t] + weight_decay * w, k * (b + 1.0)]  # of kernels only
        for n, d in enumerate(gradients):
            buffers[n] = d if buffers[n] is None else momentum * buffers[n] + (1 - dampening) * d
            gradients[n] = d + momentum * buffers[n] if nesterov else buffers[n]
        free = (gamma == 0) if t >= frozen_from else np.ones_like(w)
        before = w
        w = w - free * RATE * KAPPA * (gradients[0] + (w - gamma) / MU)
        z = z - free * RATE / MU * (gamma - before)
        gamma = KAPPA * np.sign(z) * np.maximum(np.abs(z) - 1.0, 0.0)
        b = b - RATE * KAPPA * gradients[1]
        result.append((w, b))
    return result, gamma


def ours(momentum, weight_decay, dampening, nesterov, frozen_from=STEPS):
    (w, b), (h, k), noise = problem()
    kernel, bias = keras.Variable(w, dtype="float64", name="kernel"), keras.Variable(b, dtype="float64", name="bias")
    optimizer = kr.DessiLBI(
        RATE,
        KAPPA,
        MU,
        momentum,
        {"kernel": kr.L1(1.0)},
        weight_decay=weight_decay,
        dampening=dampening,
        nesterov=nesterov,
        freeze_support=None if frozen_from == STEPS else False,
    )
    optimizer.build([kernel, bias])
    result = []
    for t in range(STEPS):
        if t == frozen_from:
            optimizer.freeze_support = True
        gradients = [h * (number(kernel) - 1.0) + noise[t], k * (number(bias) + 1.0)]
        optimizer.apply([keras.ops.convert_to_tensor(each) for each in gradients])
        result.append((number(kernel).copy(), number(bias).copy()))
    return result, number(optimizer._slots[0]["gamma"])


@pytest.mark.parametrize(
    "settings",
    [
        (0.0, 0.125, 0.0, False),
        (0.875, 0.125, 0.0, False),
        (0.875, 0.0, 0.25, False),
        (0.875, 0.0625, 0.25, False),
        (0.875, 0.125, 0.0, True),
        (0.875, 0.0, 0.0, False, 20),
    ],
    ids=str,
)
def test_decay_dampening_nesterov_and_a_frozen_support(settings, float64):
    (expected, gamma), (found, found_gamma) = authors(*settings), ours(*settings)
    for each, other in zip(found, expected):
        np.testing.assert_allclose(each[0], other[0], atol=1e-12)
        np.testing.assert_allclose(each[1], other[1], atol=1e-12)
    np.testing.assert_allclose(found_gamma, gamma, atol=1e-12)
    assert (gamma != 0).sum() > 0


def test_a_frozen_support_does_not_move(float64):
    found, gamma = ours(0.875, 0.0, 0.0, False, 20)
    entered = (found[20][0] == found[-1][0]) & (gamma != 0)
    assert 0 < entered.sum() < gamma.size
    assert (found[20][0] != found[-1][0])[~entered].all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nesterov": True, "momentum": 0.0}, "wants a momentum"),
        ({"nesterov": True, "dampening": 0.5}, "and no dampening"),
        ({"nesterov": 1}, "`nesterov` must be True or False"),
        ({"dampening": 1.5}, "`dampening`"),
        ({"freeze_support": 2}, "`freeze_support` must be True or False"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        kr.DessiLBI(**arguments)
    with pytest.raises(ValueError, match="created with freeze_support=None"):
        kr.DessiLBI().freeze_support = True


def test_config():
    optimizer = kr.DessiLBI(nesterov=True, weight_decay=1e-4, freeze_support=False)
    optimizer.freeze_support = True
    again = kr.DessiLBI.from_config(optimizer.get_config())
    assert (again.nesterov, again.dampening, again.freeze_support, again.weight_decay) == (True, 0.0, True, 1e-4)


# ---- the order


def path_and_dense_weights(strength, epochs):
    path, model = kr.callbacks.SolutionPath(), network()
    dense = []
    keep = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: dense.append(number(model.layers[0].kernel))
    )
    psi = kr.GroupLasso(strength, "output")
    train(maker(kr.DessiLBI)(regularizer=psi), model, epochs=epochs, callbacks=[path, keep])
    return path, model, dense[-1]


@pytest.fixture
def recorded():
    return path_and_dense_weights(0.15, epochs=6)


def never_entering():
    return path_and_dense_weights(1e3, epochs=2)


def test_what_never_entered_is_ordered_by_its_dense_weights():
    path, model, dense = never_entering()
    name = model.layers[0].kernel.path
    found = [index for variable, index, epoch in path.prune_order() if variable == name]
    np.testing.assert_array_equal(found, np.linalg.norm(dense, axis=0).argsort())
    assert found != sorted(found)


def test_prune_and_recover(recorded):
    path, model, _ = recorded
    name, layer = model.layers[0].kernel.path, model.layers[0]
    layer.bias.assign(np.arange(1.0, 1.0 + layer.units))
    before = [number(w).copy() for w in model.weights]
    order = [index for variable, index, _ in path.prune_order() if variable == name]
    pruned = path.prune(0.5, [name], biases=True)
    assert pruned == {name: layer.units // 2}
    gone = order[: layer.units // 2]
    assert (number(layer.kernel)[:, gone] == 0).all()
    np.testing.assert_array_equal(np.delete(number(layer.kernel), gone, 1), np.delete(before[0], gone, 1))
    np.testing.assert_array_equal(np.flatnonzero(number(layer.bias) == 0), np.sort(gone))
    np.testing.assert_array_equal(number(model.layers[1].kernel), before[2])
    path.prune(1.0)
    assert all((number(each.kernel) == 0).all() for each in model.layers)
    path.recover()
    for weight, value in zip(model.weights, before):
        np.testing.assert_array_equal(number(weight), value)
    with pytest.raises(ValueError, match="matches no variable of the path"):
        path.prune(0.5, ["nothing"])
    with pytest.raises(ValueError, match="`share` must be a number"):
        path.prune(1.5)


def test_filters_that_begin_anew(recorded):
    path, model, _ = recorded
    layer, optimizer = model.layers[0], model.optimizer
    name, before = layer.kernel.path, number(layer.kernel).copy()
    order = [index for variable, index, _ in path.prune_order() if variable == name]
    assert path.reinitialize(0.5, threshold=1.0) == {}
    changed = path.reinitialize(0.5, seed=0)
    new = order[: layer.units // 2]
    assert changed[name] == len(new)
    kernel = number(layer.kernel)
    np.testing.assert_array_equal(np.delete(kernel, new, 1), np.delete(before, new, 1))
    assert 0 < np.abs(kernel[:, new]).max() <= kernel.shape[0] ** -0.5 + 1e-6
    assert np.isinf(path.entered[name].flat[new]).all()
    assert (number(layer.bias)[new] == 0).all()
    slots = optimizer._slots[optimizer._get_variable_index(layer.kernel)]
    assert all((number(slots[each])[:, new] == 0).all() for each in ("gamma", "z", "b"))
    by_input = kr.callbacks.SolutionPath()
    train(maker(kr.DessiLBI)(regularizer=kr.GroupLasso(0.15)), network(), epochs=1, callbacks=[by_input])
    with pytest.raises(ValueError, match="must be its outputs"):
        by_input.reinitialize(0.5)


def test_nothing_recorded():
    for change in ("prune", "reinitialize"):
        with pytest.raises(ValueError, match="Nothing is recorded"):
            getattr(kr.callbacks.SolutionPath(), change)(0.5)
