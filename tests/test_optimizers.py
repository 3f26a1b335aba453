"""One conformance list that every optimizer runs through, then what is special to each."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from reference import Problem

import keras_rmda as kr
from keras_rmda.optimizers.base import SparseOptimizer

# The conformance list. A new optimizer is added here and nowhere else.
OPTIMIZERS = {"RMDA": lambda **kw: kr.RMDA(**{"learning_rate": 0.05, "momentum": 0.5} | kw)}
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)

PSI = kr.GroupLasso(3e-3)
X = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
Y = (X[:, :2] @ np.array([[1.0, -1.0, 0.5], [0.5, 1.0, -1.0]])).astype("float32")


def network(**dense):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(8, "relu", name="a", **dense), keras.layers.Dense(3, name="b")]
    )


def train(optimizer, model=None, epochs=2, compile_arguments=None, **fit):
    model = model or network()
    model.compile(optimizer, "mse", **(compile_arguments or {}))
    fit = {"batch_size": 16, "shuffle": False, "verbose": 0, "epochs": epochs} | fit
    model.fit(X, Y, **fit)
    return model


def weights(model):
    return np.concatenate([w.ravel() for w in model.get_weights()])


def states(optimizer):
    return {v.path: np.asarray(v) for v in optimizer.variables}


def number(x):
    return np.asarray(keras.ops.convert_to_numpy(x))


# ---- the authors' trajectories

REFERENCES = {
    "rmda_l1_linear": (lambda: kr.RMDA(0.1, 1.0, kr.L1(0.1)), ()),
    "rmda_glasso_linear": (lambda: kr.RMDA(0.1, 1.0, kr.GroupLasso(0.1)), ()),
    "rmda_glasso_conv": (lambda: kr.RMDA(0.1, 1.0, kr.GroupLasso(0.1)), ()),
    "rmda_restart_conv": (lambda: kr.RMDA(0.5, 0.02, kr.GroupLasso(0.1)), (15, 30)),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize("name", REFERENCES)
def test_reference_trajectory(name, mode, dtype, request):
    if dtype == "float64":
        request.getfixturevalue("float64")
    make, restarts = REFERENCES[name]
    problem, optimizer = Problem(name, dtype), make()
    optimizer.build([problem.variable])

    def step(noise):
        gradient = problem.h * (problem.variable.value - problem.target) + noise
        optimizer.apply([gradient], [problem.variable])

    if mode != "eager":
        step = tf.function(step, jit_compile=mode == "xla")
    for t, expected in enumerate(problem.trajectory):
        if t in restarts:
            optimizer.learning_rate = float(number(optimizer.learning_rate)) * 0.1
            optimizer.momentum = min(1.0, float(number(optimizer.momentum)) * 10)
            optimizer.restart()
        step(tf.constant(problem.noise[t]))
        value = number(problem.variable)
        np.testing.assert_allclose(value, expected, atol=1e-8 if dtype == "float64" else 1e-5)
        # Where the reference holds exact zeros, so do we, and nowhere else.
        if dtype == "float64":
            np.testing.assert_array_equal(value == 0, expected == 0)


# ---- every optimizer behaves as a Keras optimizer


@every_optimizer
def test_config_round_trip(make):
    optimizer = make(regularizer=kr.GroupLasso(0.1, "output"), learning_rate=0.03, clipnorm=1.0, name="mine")
    copy = keras.optimizers.get(keras.optimizers.serialize(optimizer))
    assert type(copy) is type(optimizer)
    assert copy.get_config() == optimizer.get_config()
    assert isinstance(copy.regularizer, kr.GroupLasso)


@every_optimizer
def test_training_is_the_same_in_every_mode(make):
    expected = weights(train(make(regularizer=PSI)))
    for arguments in ({"run_eagerly": True}, {"jit_compile": True}, {"steps_per_execution": 4}):
        found = weights(train(make(regularizer=PSI), compile_arguments=arguments))
        np.testing.assert_allclose(found, expected, atol=2e-6, err_msg=str(arguments))


@every_optimizer
def test_gradient_accumulation_equals_one_large_batch(make):
    once = train(make(regularizer=PSI), batch_size=32)
    accumulated = train(make(regularizer=PSI, gradient_accumulation_steps=2), batch_size=16)
    np.testing.assert_allclose(weights(accumulated), weights(once), atol=2e-6)


@every_optimizer
def test_stop_save_load_and_go_on_equals_an_uninterrupted_run(make, tmp_path):
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    uninterrupted = train(make(regularizer=PSI), epochs=4, callbacks=[checkpoint])
    loaded = keras.models.load_model(tmp_path / "2.keras")
    loaded.fit(X, Y, batch_size=16, shuffle=False, verbose=0, epochs=2)
    np.testing.assert_allclose(weights(loaded), weights(uninterrupted), atol=1e-7)


@every_optimizer
def test_learning_rate_and_momentum_schedules(make):
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([3], [0.05, 0.01])
    c = keras.optimizers.schedules.PiecewiseConstantDecay([3], [0.5, 1.0])
    scheduled = train(make(learning_rate=schedule, momentum=c, regularizer=PSI))

    class ByHand(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            step = int(self.model.optimizer.iterations)
            self.model.optimizer.learning_rate = 0.05 if step <= 3 else 0.01
            self.model.optimizer.momentum = 0.5 if step <= 3 else 1.0

    by_hand = train(make(regularizer=PSI), callbacks=[ByHand()])
    np.testing.assert_allclose(weights(scheduled), weights(by_hand), atol=1e-6)
    copy = keras.optimizers.get(keras.optimizers.serialize(scheduled.optimizer))
    assert float(number(copy.momentum)) == 0.5
    with pytest.raises(TypeError, match="momentum"):
        scheduled.optimizer.momentum = 0.3


@every_optimizer
def test_the_penalty_is_counted_exactly_once(make):
    data_loss = train(keras.optimizers.SGD(0.0), epochs=1).evaluate(X, Y, verbose=0)
    model = network(kernel_regularizer=kr.L1(0.5))
    penalty = 0.5 * np.abs(model.get_layer("a").kernel.numpy()).sum()
    model.compile(make(learning_rate=1e-12), "mse")
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(data_loss, rel=1e-5)
    history = model.fit(X, Y, batch_size=64, verbose=0).history
    assert history["loss"][0] == pytest.approx(data_loss, rel=1e-5)
    assert model.losses == []
    # With another optimizer it is an ordinary Keras penalty again, although ours still exists.
    ours = model.optimizer
    model.compile(keras.optimizers.SGD(0.0), "mse")
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(data_loss + penalty, rel=1e-5)
    assert ours.built


@every_optimizer
def test_a_layers_own_regularizer_wins_and_equals_the_default(make):
    by_layer = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, "relu", name="a", kernel_regularizer=PSI),
            keras.layers.Dense(3, name="b", kernel_regularizer=PSI),
        ]
    )
    by_layer.set_weights(network().get_weights())
    np.testing.assert_allclose(weights(train(make(), by_layer)), weights(train(make(regularizer=PSI))), atol=1e-7)
    own = train(make(regularizer=kr.L1(1e6)), network(kernel_regularizer=kr.L1(0.0)))
    assert (own.get_layer("a").kernel.numpy() != 0).all()
    assert (own.get_layer("b").kernel.numpy() == 0).all()


@every_optimizer
def test_a_regularizer_of_the_layer_survives_saving(make, tmp_path):
    model = train(make(), network(kernel_regularizer=PSI))
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.optimizer.penalty_of(loaded.get_layer("a").kernel).get_config() == PSI.get_config()


@every_optimizer
def test_fit_ends_with_the_structured_values(make):
    model = train(make(regularizer=kr.GroupLasso(0.3)), epochs=8)
    optimizer = model.optimizer
    kernel = model.get_layer("a").kernel
    np.testing.assert_allclose(number(kernel), number(optimizer.structured_value(kernel)), atol=0)
    norms = number(kr.GroupLasso(1.0).group_norms(kernel))
    assert 0 < (norms == 0).sum() < norms.size
    bias = model.get_layer("a").bias
    np.testing.assert_array_equal(number(optimizer.structured_value(bias)), number(bias))


@every_optimizer
def test_project_writes_the_structured_values(make):
    model, optimizer = network(), make(regularizer=kr.GroupLasso(0.1))
    optimizer.build(model.trainable_variables)
    for _ in range(5):
        optimizer.apply([np.ones(v.shape, "float32") for v in model.trainable_variables])
    expected = [number(optimizer.structured_value(v)) for v in model.trainable_variables]
    optimizer.project(model)
    for variable, value in zip(model.trainable_variables, expected):
        np.testing.assert_array_equal(number(variable), value)


@every_optimizer
def test_restart_goes_on_as_a_fresh_optimizer_would(make):
    model = train(make(regularizer=PSI))
    copy = network()
    copy.set_weights(model.get_weights())
    model.optimizer.restart()
    for each, optimizer in ((model, model.optimizer), (copy, make(regularizer=PSI))):
        optimizer.learning_rate = 0.02
        train(optimizer, each)
    np.testing.assert_allclose(weights(model), weights(copy), atol=1e-7)


@every_optimizer
def test_mixed_precision_with_loss_scaling(make):
    expected = weights(train(make(regularizer=PSI)))
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = train(make(regularizer=PSI))
    finally:
        keras.config.set_dtype_policy("float32")
    assert type(model.optimizer).__name__ == "LossScaleOptimizer"
    np.testing.assert_allclose(weights(model), expected, atol=5e-3)
    assert model.losses == []


@every_optimizer
def test_clipping_limits_the_gradient(make):
    a, b = train(make(clipnorm=1e-3, learning_rate=0.5)), network()
    assert 0 < np.abs(weights(a) - weights(b)).max() < 0.05


@every_optimizer
def test_frozen_layers_and_missing_gradients(make):
    model = network()
    model.get_layer("a").trainable = False
    before = model.get_layer("a").kernel.numpy()
    train(make(regularizer=PSI), model)
    np.testing.assert_array_equal(model.get_layer("a").kernel.numpy(), before)
    optimizer, (v, w) = make(), [keras.Variable(np.ones(3)), keras.Variable(np.ones(3))]
    optimizer.build([v, w])
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply([np.ones(3, "float32"), None], [v, w])
    assert (number(v) < 1).all()
    assert (number(w) == 1).all()


@every_optimizer
def test_embeddings_with_sparse_gradients_train(make):
    model = keras.Sequential([keras.Input((4,), dtype="int32"), keras.layers.Embedding(10, 3), keras.layers.Flatten()])
    model.compile(make(regularizer=None), "mse")
    before = model.get_weights()[0]
    model.fit(np.zeros((8, 4), "int32"), np.ones((8, 12)), verbose=0)
    after = model.get_weights()[0]
    assert (after[0] != before[0]).all()
    np.testing.assert_allclose(after[1:], before[1:], atol=1e-6)


@every_optimizer
def test_a_nan_gradient_does_not_become_a_zero_group(make):
    model = train(make(regularizer=kr.GroupLasso(10.0)), epochs=1)
    optimizer = model.optimizer
    gradients = [np.full(v.shape, np.nan, "float32") for v in model.trainable_variables]
    optimizer.apply(gradients, model.trainable_variables)
    assert np.isnan(number(optimizer.structured_value(model.get_layer("a").kernel))).all()


BAD = [
    ("learning_rate", [-0.1, float("nan"), 1, "fast", None, True]),
    ("momentum", [0.0, -0.1, 1.5, float("nan"), "high", None]),
    ("regularizer", [keras.regularizers.L2(0.1), 0.1]),
]


@every_optimizer
@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD for value in values])
def test_bad_arguments(make, name, value):
    with pytest.raises(ValueError, match=name if name != "regularizer" else "(?i)regularizer"):
        make(**{name: value})


@every_optimizer
def test_a_regularizer_that_applies_to_nothing_is_reported(make):
    model = keras.Sequential([keras.Input((4,), dtype="int32"), keras.layers.Embedding(10, 3), keras.layers.Flatten()])
    with pytest.warns(UserWarning, match="applies to none"):
        make(regularizer=PSI).build(model.trainable_variables)


@every_optimizer
def test_structured_value_of_strangers(make):
    with pytest.raises(ValueError, match="before its first step"):
        make().structured_value(keras.Variable(np.ones(3)))
    model = train(make(regularizer=PSI))
    with pytest.raises(ValueError, match="Unknown variable"):
        model.optimizer.structured_value(keras.Variable(np.ones(3)))


def test_every_optimizer_is_on_the_list():
    assert {type(make()) for make in OPTIMIZERS.values()} == set(SparseOptimizer.__subclasses__())


@every_optimizer
@pytest.mark.parametrize("arguments", [{}, {"steps_per_execution": 4}, {"jit_compile": True}], ids=str)
def test_a_model_that_is_built_by_its_first_step_trains_the_same(make, arguments):
    """On TensorFlow, one trace then makes the weights, the optimizer's state and the first step."""
    unbuilt = keras.Sequential([keras.layers.Dense(8, "relu", name="a"), keras.layers.Dense(3, name="b")])
    start = network().get_weights()
    keras.utils.set_random_seed(0)
    found = train(make(regularizer=PSI), unbuilt, compile_arguments=arguments)
    assert [w.shape for w in found.get_weights()] == [w.shape for w in start]
    np.testing.assert_allclose(weights(found), weights(train(make(regularizer=PSI))), atol=2e-6)


@every_optimizer
def test_fit_ends_inside_a_constraint(make):
    model = train(make(regularizer=PSI), network(kernel_constraint="non_neg"))
    assert model.get_layer("a").kernel.numpy().min() >= 0


@every_optimizer
def test_project_before_the_first_step(make):
    with pytest.raises(ValueError, match="before its first step"):
        make().project(network())


# ---- RMDA


def test_rmda_refuses_what_dual_averaging_undoes():
    with pytest.raises(ValueError, match="weight_decay"):
        kr.RMDA(weight_decay=1e-4)
    with pytest.raises(ValueError, match="use_ema"):
        kr.RMDA(use_ema=True)


def test_rmda_iterate_is_the_mean_of_momentum_and_structured_value():
    model, optimizer = network(), kr.RMDA(0.1, 0.25, kr.GroupLasso(0.1))
    kernel = model.get_layer("a").kernel
    optimizer.build([kernel])
    before = number(kernel)
    optimizer.apply([np.ones(kernel.shape, "float32")], [kernel])
    structured = number(optimizer.structured_value(kernel))
    np.testing.assert_allclose(number(kernel), 0.75 * before + 0.25 * structured, atol=1e-7)


def test_momentum_growth_reaches_one_and_makes_the_iterate_structured():
    kernel, optimizer = keras.Variable(np.ones((4, 3)), name="kernel"), kr.RMDA(0.1, 0.25, kr.GroupLasso(0.1))
    optimizer.build([kernel])
    optimizer.momentum_growth = 0.5
    for t in range(1, 17):
        before = number(kernel)
        optimizer.apply([np.full((4, 3), 0.1, "float32")], [kernel])
        c = min(1.0, 0.25 * np.sqrt(t))
        expected = (1 - c) * before + c * number(optimizer.structured_value(kernel))
        np.testing.assert_allclose(number(kernel), expected, atol=1e-6)
    np.testing.assert_array_equal(number(kernel), number(optimizer.structured_value(kernel)))


@pytest.mark.slow
def test_mirrored_strategy_equals_one_replica():
    """One process for the test: after a failed collective every later run in a process fails."""
    code = """
import numpy as np, tensorflow as tf, keras
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras_rmda as kr
x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
def run(strategy):
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(3)])
        model.compile(kr.RMDA(0.05, 0.5, kr.GroupLasso(1e-2)), "mse")
    model.fit(x, x[:, :3], batch_size=16, epochs=3, shuffle=False, verbose=0)
    return np.concatenate([w.ravel() for w in model.get_weights()])
a = run(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
b = run(tf.distribute.OneDeviceStrategy("CPU:0"))
print("DIFFERENCE", np.abs(a - b).max())
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert "DIFFERENCE" in result.stdout, result.stderr[-2000:]
    assert float(result.stdout.split("DIFFERENCE")[1]) < 1e-5
