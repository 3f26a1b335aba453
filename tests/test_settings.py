"""What is set after the first step acts, or raises."""

import copy
import pickle

import keras
import numpy as np
import pytest
from backend import BACKEND, MODES, number, stepper
from training import X, Y, every_optimizer, every_optimizer_and, network, train, weights

import keras_rmda as kr

SCHEDULE = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
WAYS = {
    "regularizer": lambda psi: {"regularizer": psi},
    "patterns": lambda psi: {"regularizer": {".*a/kernel": psi, ".*b/kernel": psi}},
}


class Sets(keras.callbacks.Callback):
    """Does something at the beginning of an epoch."""

    def __init__(self, epoch, do):
        super().__init__()
        self.epoch, self.do = epoch, do

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            self.do()


def scheduled(first, then, step=4):
    return keras.optimizers.schedules.PiecewiseConstantDecay([step - 1], [first, then])


@every_optimizer_and("way", "regularizer", "patterns", "layer")
def test_a_strength_that_is_set_acts_as_a_schedule_of_it_does(make, way):
    """In compiled steps, from the step on at which it is set; four steps are an epoch."""
    found = []
    for strength, callbacks in ((kr.GroupLasso(3e-3), True), (kr.GroupLasso(scheduled(3e-3, 0.3)), False)):
        dense = {"kernel_regularizer": strength} if way == "layer" else {}
        arguments = {} if way == "layer" else WAYS[way](strength)
        callbacks = [Sets(1, lambda psi=strength: setattr(psi, "strength", 0.3))] if callbacks else []
        model = train(make(**arguments), network(**dense), epochs=3, callbacks=callbacks)
        found.append(weights(model))
    np.testing.assert_allclose(*found, atol=1e-6)


def test_a_strength_acts_on_all_optimizers_that_share_it():
    """With coupled groups too; a penalty that no optimizer uses any more is only a number."""
    groups = kr.coupled_groups(network())
    psi = kr.SparseGroupLasso(1e-6, 0.3, groups=groups)
    models = [network(), network()]
    for model, optimizer in zip(models, (kr.RMDA(0.1, 1.0, psi), kr.ProxSGD(0.1, regularizer=psi))):
        train(optimizer, model, epochs=1)
        assert (weights(model) != 0).any()
    psi.strength = 100.0
    for model in models:
        model.fit(X, Y, verbose=0)
        assert (number(model.get_layer("b").kernel) == 0).all()


def test_copies_of_a_penalty_are_penalties_of_their_own():
    psi = kr.GroupLasso(0.1)
    optimizer = kr.RMDA(regularizer=psi)
    optimizer.build(network().trainable_variables)
    for other in (copy.deepcopy(psi), pickle.loads(pickle.dumps(psi))):
        other.groups = "output"
        other.strength = SCHEDULE
    assert psi.strength == 0.1
    assert float(number(optimizer._strengths.variables[0])) == pytest.approx(0.1)


@pytest.mark.parametrize("bad", [-0.1, float("nan"), float("inf"), "high", None, True])
def test_a_bad_strength_raises_where_it_is_set(bad):
    psi = kr.L1(0.1)
    with pytest.raises(ValueError, match="`strength`"):
        psi.strength = bad
    assert psi.strength == 0.1


@pytest.mark.parametrize(("first", "then"), [(0.1, SCHEDULE), (SCHEDULE, 0.1)])
def test_a_schedule_of_the_strength_is_not_settable_in_use(first, then):
    psi = kr.L1(0.5)
    psi.strength = first
    kept = kr.ProxSGD(regularizer=psi)
    kept.build(network().trainable_variables)
    with pytest.raises(ValueError, match=r"schedule.*new penalty"):
        psi.strength = then
    assert psi.strength == first


def test_what_a_penalty_is_stays_as_it_is_in_use():
    """Before, and when the optimizer is gone, it can be set."""
    psi = kr.SparseGroupLasso(0.1)
    psi.l1_ratio = 0.2
    optimizer = kr.ProxSGD(regularizer=psi)
    optimizer.build(network().trainable_variables)
    for name, value in {"l1_ratio": 0.5, "groups": "output", "scale_by_size": False}.items():
        with pytest.raises(ValueError, match=f"`{name}` of a penalty is a constant"):
            setattr(psi, name, value)
    assert psi.get_config() == {"strength": 0.1, "groups": "input", "scale_by_size": True, "l1_ratio": 0.2}


@pytest.mark.skipif(BACKEND != "jax", reason="elsewhere it acts at the next step")
def test_on_jax_a_strength_cannot_be_set_within_an_epoch():
    psi = kr.L1(0.1)

    class Within(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            psi.strength = 0.2

    with pytest.raises(ValueError, match="from epoch to epoch"):
        train(kr.RMDA(regularizer=psi), callbacks=[Within()])


@pytest.mark.parametrize("mode", MODES)
def test_a_strength_has_the_precision_of_its_weights(mode, float64):
    """Proximal SGD with a gradient of 0 takes the strength off."""
    variable, psi = keras.Variable(np.ones((1, 1)), name="kernel"), kr.L1(0.1)
    optimizer = kr.ProxSGD(1.0, regularizer=psi)
    optimizer.build([variable])
    step = stepper(optimizer, [variable], lambda values, data: [data], mode)
    for strength in (0.1, 0.3):
        psi.strength = strength
        step(np.zeros((1, 1)))
    np.testing.assert_allclose(number(variable), 1 - 0.1 - 0.3, rtol=0, atol=1e-15)


def test_a_loaded_state_brings_the_strength(tmp_path):
    psi = kr.L1(0.1)
    model = train(kr.RMDA(regularizer=psi), epochs=1)
    psi.strength = 0.3
    model.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "m.weights.h5")
    assert keras.models.load_model(tmp_path / "m.keras").optimizer.regularizer.strength == 0.3
    psi.strength = 0.2
    model.load_weights(tmp_path / "m.weights.h5")
    assert psi.strength == pytest.approx(0.3)


CONSTANTS = {
    "regularizer": kr.L1(0.1),
    "exclude": [".*a/.*"],
    "skip_nonfinite": True,
    "jit_update": False,
    "weight_decay": 0.0,
    "clipnorm": 1.0,
    "clipvalue": 1.0,
    "global_clipnorm": 1.0,
    "gradient_accumulation_steps": 2,
    "use_ema": False,
    **dict.fromkeys(("delta", "beta_1", "beta_2", "epsilon", "kappa", "mu"), 0.5),
    **dict.fromkeys(("amsgrad", "nesterov"), True),
    "dampening": 0.0,
    "rates": {".*bias": 0.5},
    "coarse_steps": 2,
}


@every_optimizer
def test_constants_of_a_step_are_settable_until_it_is_built(make):
    """And then act as those of the constructor: what is set is what is in the configuration."""
    optimizer = make()
    own = {name for name in CONSTANTS if name in optimizer.get_config()} - {"clipvalue", "global_clipnorm"}
    own -= set() if "epsilon" in optimizer.hyperparameters else {"epsilon"}
    assert own >= {"regularizer", "exclude", "skip_nonfinite", "jit_update", *optimizer.hyperparameters}
    for name in own:
        setattr(optimizer, name, CONSTANTS[name])
    at_once = make(**{name: CONSTANTS[name] for name in own})
    assert optimizer.get_config() == at_once.get_config() | {"name": optimizer.name}
    found = []
    for each in (optimizer, at_once):
        model = network()
        for _ in range(2):
            each.apply([np.full(v.shape, 0.1, "float32") for v in model.trainable_variables], model.trainable_variables)
        found.append(weights(model))
    np.testing.assert_array_equal(*found)
    for name in own | {"clipvalue", "global_clipnorm"}:
        with pytest.raises(ValueError, match=f"`{name}` is a constant.*new optimizer"):
            setattr(optimizer, name, CONSTANTS[name])


@every_optimizer
def test_bad_values_raise_where_they_are_set(make):
    optimizer = make(clipnorm=1.0)
    for name, bad in {"clipnorm": -1.0, "gradient_accumulation_steps": 1, "exclude": "a", "use_ema": True}.items():
        with pytest.raises(ValueError, match=name):
            setattr(optimizer, name, bad)
    with pytest.raises(ValueError, match="Only one of"):
        optimizer.clipvalue = 1.0
    optimizer.clipnorm = None
    optimizer.clipvalue = 1.0
    for name in optimizer.hyperparameters:
        with pytest.raises(ValueError, match=name):
            setattr(optimizer, name, None)


@pytest.mark.parametrize("mode", MODES)
def test_the_epsilon_of_ramda_is_set_between_steps(mode):
    """As if the whole stage had it: U, V and alpha do not depend on it."""
    found = []
    for first in (1e-2, 1.0):
        variable, optimizer = (
            keras.Variable(np.ones((2, 3), "float32"), name="kernel"),
            kr.RAMDA(0.1, 1.0, epsilon=first),
        )
        optimizer.build([variable])
        step = stepper(optimizer, [variable], lambda values, data: [data], mode)
        step(np.ones((2, 3), "float32"))
        optimizer.epsilon = 1.0
        step(np.ones((2, 3), "float32"))
        found.append(number(variable))
        assert optimizer.get_config()["epsilon"] == 1.0
    np.testing.assert_allclose(*found, atol=1e-6)
    for bad in (0.0, -1.0, float("nan"), "small", None):
        with pytest.raises(ValueError, match="epsilon"):
            optimizer.epsilon = bad
        with pytest.raises(ValueError, match="epsilon"):
            kr.RAMDA(epsilon=bad)
