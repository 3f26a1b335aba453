"""The schedule of the RAMDA repository, and its weighted structured sparsity, against computations of one's own."""

import keras
import numpy as np
import pytest
from backend import number

import keras_rmda as kr

EPOCHS, MILESTONES, FACTOR, RATE, MOMENTUM, STRENGTH, EPSILON = 14, [4, 8], 0.1, 0.3, 0.2, 0.02, 1e-3


def expected(x, y, w, kind):
    """The kernels after every epoch of one step, as `multistep_param_scheduler` and the optimizers there have it."""
    rate, momentum, epsilon, count, result = RATE, MOMENTUM, EPSILON, 1, []
    start, step, alpha, v, u = w, 0, 0.0, np.zeros_like(w), np.zeros_like(w)
    for epoch in range(EPOCHS):
        gradient = 2.0 * x.T @ (x @ w - y) / y.size
        step += 1
        s = rate * step**0.5
        alpha, v, u = alpha + s, v + s * gradient, u + s * gradient**2
        metric = np.full_like(w, step**0.5) if kind is kr.RMDA else u ** (1 / 3) + epsilon
        hat = start - v / metric
        new = np.sign(hat) * np.maximum(np.abs(hat) - alpha * STRENGTH / metric, 0.0)
        w = (1.0 - momentum) * w + momentum * new
        result.append(w)
        if epoch + 1 > MILESTONES[-1]:
            count += 1
            momentum = min(MOMENTUM * count**0.5, 1.0)
        if epoch + 1 in MILESTONES:
            rate, epsilon = rate * FACTOR, epsilon * FACTOR
            start, step, alpha, v, u = w, 0, 0.0, np.zeros_like(w), np.zeros_like(w)
    return result


@pytest.mark.parametrize("kind", [kr.RMDA, kr.RAMDA])
def test_the_schedule_of_the_repository(kind, float64):
    random = np.random.default_rng(0)
    x, y = random.normal(size=(16, 5)), random.normal(size=(16, 3))
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3, use_bias=False)])
    start = number(model.layers[0].kernel).copy()
    others = {"epsilon": EPSILON} if kind is kr.RAMDA else {}
    model.compile(kind(RATE, MOMENTUM, kr.L1(STRENGTH), **others), "mse")
    found = []
    keep = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: found.append(number(model.layers[0].kernel))
    )
    stages = kr.callbacks.StagewiseSchedule(MILESTONES, FACTOR, style="ramda")
    model.fit(x, y, batch_size=16, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=[stages, keep])
    assert len(found) == EPOCHS
    for each, other in zip(found, expected(x, y, start, kind)):
        np.testing.assert_allclose(each, other, atol=1e-7)


def test_weighted_structured_sparsity():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(10), keras.layers.Dense(3)])
    for layer, zeros in zip(model.layers, ([0, 2], [1, 4, 5, 7])):
        kernel = number(layer.kernel).copy()
        kernel[zeros] = 0.0
        layer.kernel.assign(kernel)
    model.compile(kr.ProxSGD(0.0, regularizer=kr.GroupLasso(1e-3)), "mse")
    monitor = kr.callbacks.SparsityMonitor()
    logs = model.fit(np.zeros((4, 6)), np.zeros((4, 3)), verbose=0, callbacks=[monitor]).history
    assert logs["zero_groups"] == [6 / 16]
    assert logs["weighted_zero_groups"] == [pytest.approx((2 * 10 + 4 * 3) / (6 * 10 + 10 * 3))]
    coupled = keras.models.clone_model(model)
    coupled.set_weights(model.get_weights())
    coupled.layers[0].kernel.assign(np.where(np.arange(10) < 3, 0.0, 1.0) * np.ones((6, 1)))
    coupled.layers[1].kernel.assign(np.where(np.arange(10) < 3, 0.0, 1.0)[:, None] * np.ones((1, 3)))
    psi = kr.GroupLasso(1e-3, groups=kr.coupled_groups(coupled))
    coupled.compile(kr.ProxSGD(0.0, regularizer=psi), "mse")
    logs = coupled.fit(np.zeros((4, 6)), np.zeros((4, 3)), verbose=0, callbacks=[monitor]).history
    assert logs["weighted_zero_groups"] == [pytest.approx(logs["zero_groups"][0])]
