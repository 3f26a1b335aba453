"""One conformance list that every optimizer runs through.

Over a minute, since seven optimizers are traced for each of some fifty promises.
"""

import math
from pathlib import Path

import keras
import numpy as np
import processes
import pytest
from backend import BACKEND, number, only_tensorflow
from training import (
    DEFAULTS,
    PSI,
    RUNS,
    SOME_ZEROS,
    X,
    Y,
    every_optimizer,
    every_optimizer_and,
    expected_weights,
    initial_loss,
    needs_multi_optimizer,
    network,
    train,
    weights,
)

import keras_rmda as kr
from keras_rmda.optimizers.base import SparseOptimizer
from keras_rmda.optimizers.momentum import FRACTION


def states(optimizer):
    return [number(v) for v in optimizer.variables]


def test_every_optimizer_is_on_the_list():
    public = {each for each in vars(kr).values() if isinstance(each, type) and issubclass(each, SparseOptimizer)}
    assert set(DEFAULTS) == set(SOME_ZEROS) == public


@every_optimizer
def test_config_round_trip(make):
    optimizer = make(regularizer=kr.GroupLasso(0.1, "output"), learning_rate=0.03, clipnorm=1.0, name="mine")
    copy = keras.optimizers.get(keras.optimizers.serialize(optimizer))
    assert type(copy) is type(optimizer)
    assert copy.get_config() == optimizer.get_config()
    assert isinstance(copy.regularizer, kr.GroupLasso)
    by_pattern = make(regularizer={".*/kernel": kr.L1(0.1), "b/.*": None}, exclude=["a/.*"], skip_nonfinite=True)
    copy = keras.optimizers.get(keras.optimizers.serialize(by_pattern))
    assert copy.get_config() == by_pattern.get_config()
    assert isinstance(copy.regularizer[".*/kernel"], kr.L1)


@every_optimizer
def test_training_is_the_same_in_every_mode(make):
    for arguments in RUNS:
        found = weights(train(make(regularizer=PSI), compile_arguments=arguments))
        np.testing.assert_allclose(found, expected_weights(make), atol=1e-5, err_msg=str(arguments))


@only_tensorflow
@every_optimizer_and("arguments", {}, {"jit_compile": True}, {"run_eagerly": True})
def test_an_update_compiled_by_the_optimizer_is_the_same(make, arguments):
    compiled = train(make(regularizer=PSI, jit_update=True), compile_arguments=arguments)
    np.testing.assert_allclose(weights(compiled), expected_weights(make), atol=1e-5)
    assert compiled.optimizer._compiled_updates


@only_tensorflow
@every_optimizer
@pytest.mark.parametrize("groups", ["input", "coupled"])
def test_the_whole_update_is_one_compiled_program(make, groups):
    import tensorflow as tf

    model = network()
    psi = kr.GroupLasso(3e-3, groups=kr.coupled_groups(model) if groups == "coupled" else groups)
    optimizer, variables = make(regularizer=psi, skip_nonfinite=True), model.trainable_variables
    optimizer.build(variables)

    @tf.function(jit_compile=True)
    def update(*grads):
        optimizer.apply(list(grads), variables)

    program = update.experimental_get_compiler_ir(*[tf.ones(v.shape) for v in variables])(stage="hlo")
    assert "ENTRY" in program
    assert not [word for word in ("custom-call", "infeed", "outfeed", "send(", "recv(") if word in program]


@every_optimizer
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_weights_have_a_state_of_float32(make, dtype, rng):
    """One step of them is one of float32, rounded; without that an epsilon of 1e-8 is 0, and small steps are none."""
    start = number(keras.ops.cast(keras.ops.cast(rng.normal(size=(4, 3)), dtype), "float32"))  # what both can hold
    found = []
    for each in (dtype, "float32"):
        variable = keras.Variable(start, dtype=each, name="kernel")
        optimizer = make(regularizer=PSI)
        optimizer.build([variable])
        gradient = keras.ops.cast(np.full((4, 3), 1e-3), dtype)
        optimizer.apply([keras.ops.cast(gradient, each)], [variable])
        # The copies of weights by which changes are noticed are as rounded as the weights.
        found.append([variable, *(v for v in optimizer.variables if not v.path.endswith("witness"))])
        state = {v.dtype for v in optimizer.variables}
        assert {name for name in state if "float" in name} == {"float32"}
    for half, whole in zip(*found):
        expected = keras.ops.cast(keras.ops.cast(whole, half.dtype), "float32")
        np.testing.assert_allclose(number(keras.ops.cast(half, "float32")), number(expected), rtol=1e-4, atol=1e-9)


@every_optimizer
@pytest.mark.parametrize(("dtype", "arguments"), [("bfloat16", {}), ("float16", {"gradient_accumulation_steps": 2})])
def test_half_precision_weights_train(make, dtype, arguments, request):
    request.addfinalizer(lambda: keras.config.set_dtype_policy("float32"))
    keras.config.set_dtype_policy(dtype)
    model = train(make(regularizer=PSI, **arguments), epochs=8)
    assert {v.dtype for v in model.trainable_variables} == {dtype}
    error = lambda model: float(((number(keras.ops.cast(model(X), "float32")) - Y) ** 2).mean())  # noqa: E731
    assert error(model) < error(network())  # of what `fit` has projected


SLOTS = {"RMDA": 2, "RAMDA": 3, "ProxSGD": 1, "ProxAdamW": 2, "LinBreg": 2, "AdaBreg": 3, "DessiLBI": 3}


@every_optimizer
def test_memory_is_what_docs_scale_says(make):
    """Tensors of the size of the weights; Adam has two."""
    model, optimizer = network(), make(regularizer=PSI)
    optimizer.build(model.trainable_variables)
    weights = sum(math.prod(v.shape) for v in model.trainable_variables)
    # Without the copies of the two smallest variables, by which changes are noticed.
    state = sum(math.prod(v.shape) for v in optimizer.variables if len(v.shape) and not v.path.endswith("witness"))
    kind = type(optimizer).__name__
    assert state == SLOTS[kind] * weights
    table = (Path(__file__).parents[1] / "docs" / "scale.md").read_text()
    assert f"| {kind} | {SLOTS[kind]} |" in table


@every_optimizer
def test_gradient_accumulation_equals_one_large_batch(make):
    once = train(make(regularizer=PSI), batch_size=32)
    accumulated = train(make(regularizer=PSI, gradient_accumulation_steps=2), batch_size=16)
    np.testing.assert_allclose(weights(accumulated), weights(once), atol=1e-5)


@only_tensorflow
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("jit_compile", [False, True])
def test_data_of_unknown_length_are_no_more_steps(jit_compile):
    """TensorFlow makes what does not depend on a batch once more in every epoch, when there is none."""
    import tensorflow

    known = tensorflow.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    unknown = known.filter(lambda x, y: True)
    found = []
    for data in (known, unknown):
        model = network()
        model.compile(kr.RMDA(0.05, 0.5, PSI), "mse", jit_compile=jit_compile)
        model.fit(data, epochs=3, verbose=0, shuffle=False)
        found.append([weights(model), *(number(v) for v in model.optimizer.variables)])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@every_optimizer
def test_stop_save_load_and_go_on_equals_an_uninterrupted_run(make, tmp_path):
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    uninterrupted = train(make(regularizer=PSI), epochs=4, callbacks=[checkpoint])
    loaded = keras.models.load_model(tmp_path / "2.keras")
    loaded.fit(X, Y, batch_size=16, shuffle=False, verbose=0, epochs=2)
    np.testing.assert_allclose(weights(loaded), weights(uninterrupted), atol=1e-7)


@every_optimizer
def test_schedules_of_learning_rate_momentum_and_strength(make):
    def piecewise(first, then):
        return keras.optimizers.schedules.PiecewiseConstantDecay([3], [first, then])

    has_momentum = hasattr(make(), "momentum")
    scheduled = {"learning_rate": piecewise(0.05, 0.01)} | ({"momentum": piecewise(0.5, 0.9)} if has_momentum else {})
    model = train(make(**scheduled, regularizer=kr.GroupLasso(piecewise(3e-3, 1e-2))))

    class ByHand(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.model.optimizer.build(self.model.trainable_variables)

        def on_train_batch_begin(self, batch, logs=None):
            optimizer = self.model.optimizer
            first = int(number(optimizer.iterations)) <= 3
            optimizer.learning_rate = 0.05 if first else 0.01
            if has_momentum:
                optimizer.momentum = 0.5 if first else 0.9
            for psi in optimizer._penalties:
                if psi is not None:
                    psi.strength = 3e-3 if first else 1e-2

    by_hand = train(
        make(learning_rate=0.05, regularizer=kr.GroupLasso(3e-3)),
        callbacks=[ByHand()],
        compile_arguments={"run_eagerly": True},
    )
    np.testing.assert_allclose(weights(model), weights(by_hand), atol=1e-5)
    optimizer, kernel = model.optimizer, model.get_layer("a").kernel
    assert float(number(optimizer.penalty_of(kernel).strength)) == pytest.approx(1e-2)
    copy = keras.optimizers.get(keras.optimizers.serialize(optimizer))
    assert copy.get_config() == optimizer.get_config()
    if has_momentum:
        assert float(number(copy.momentum)) == 0.5
        with pytest.raises(TypeError, match="momentum"):
            optimizer.momentum = 0.3


def test_the_first_optimizer_of_a_process_knows_its_model():
    """Made inside of the call of `compile`, as everybody does."""
    code = """
import keras, keras_rmda as kr
model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2DTranspose(4, 3)])
model.compile(kr.RMDA(0.1, regularizer=kr.GroupLasso(0.1)), "mse")
model.optimizer.build(model.trainable_variables)
psi = model.optimizer.penalty_of(model.layers[0].kernel)
print("GROUPS", psi.group_norms(model.layers[0].kernel).shape[-1])
"""
    result = processes.run("-c", code)
    assert "GROUPS 3" in result.stdout, result.stdout + result.stderr[-2000:]


def test_a_scheduled_strength_needs_an_optimizer_of_ours():
    decay = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    with pytest.raises(ValueError, match="schedule"):
        train("sgd", network(kernel_regularizer=kr.L1(decay)))


@every_optimizer
def test_the_penalty_is_counted_exactly_once(make):
    data_loss = initial_loss()
    model = network(kernel_regularizer=kr.L1(0.5))
    penalty = 0.5 * np.abs(number(model.get_layer("a").kernel)).sum()
    model.compile(make(learning_rate=1e-12), "mse")
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(data_loss, rel=1e-5)
    history = model.fit(X, Y, batch_size=64, verbose=0).history
    assert history["loss"][0] == pytest.approx(data_loss, rel=1e-5)
    assert model.losses == []
    # With another optimizer it is an ordinary Keras penalty again, although ours still exists.
    ours = model.optimizer
    model.set_weights(network().get_weights())  # DessiLBI has masked them
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
    np.testing.assert_allclose(weights(train(make(), by_layer)), expected_weights(make), atol=1e-7)
    model = network(kernel_regularizer=kr.L1(0.1))
    optimizer = make(regularizer=PSI)
    optimizer.build(model.trainable_variables)
    assert isinstance(optimizer.penalty_of(model.get_layer("a").kernel), kr.L1)
    assert isinstance(optimizer.penalty_of(model.get_layer("b").kernel), kr.GroupLasso)
    assert optimizer.penalty_of(model.get_layer("a").bias) is None


@every_optimizer
def test_a_regularizer_of_the_layer_survives_saving(make, tmp_path):
    model = train(make(), network(kernel_regularizer=PSI))
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.optimizer.penalty_of(loaded.get_layer("a").kernel).get_config() == PSI.get_config()


@every_optimizer
def test_fit_ends_with_the_structured_values(make):
    psi = kr.GroupLasso(SOME_ZEROS[type(make())])
    model = network()
    half = model.get_layer("a").kernel
    half.assign(number(half) * (np.arange(6) < 3)[:, None])
    optimizer = train(make(regularizer=psi), model, epochs=8).optimizer
    kernel, bias = model.get_layer("a").kernel, model.get_layer("a").bias
    np.testing.assert_array_equal(number(kernel), number(optimizer.structured_value(kernel)))
    norms = np.concatenate([number(psi.group_norms(layer.kernel)).ravel() for layer in model.layers])
    assert 0 < (norms == 0).sum() < norms.size
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


@pytest.fixture
def mixed_float16():
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy("float32")


@every_optimizer
def test_mixed_precision_with_loss_scaling(make, request):
    # A first gradient near zero makes the metric of adaptive methods near epsilon, and its rounding a large step.
    arguments = {"regularizer": PSI} | ({"epsilon": 1e-3} if hasattr(make(), "epsilon") else {})
    expected = weights(train(make(**arguments))) if "epsilon" in arguments else expected_weights(make)
    request.getfixturevalue("mixed_float16")
    model = train(make(**arguments))
    assert type(model.optimizer).__name__ == "LossScaleOptimizer"
    np.testing.assert_allclose(weights(model), expected, atol=1e-2)
    assert model.losses == []


@every_optimizer
def test_an_overflow_of_the_loss_scale_changes_nothing(make, mixed_float16):
    model = network()
    scaled = keras.optimizers.LossScaleOptimizer(make(regularizer=PSI), initial_scale=2.0**24)
    model.compile(scaled, "mse")
    before, inner = weights(model), scaled.inner_optimizer
    scaled.build(model.trainable_variables)
    state = states(inner)
    model.train_on_batch(X, Y)
    np.testing.assert_array_equal(weights(model), before)
    for old, new in zip(state, states(inner)):
        np.testing.assert_array_equal(old, new)
    assert float(number(scaled.dynamic_scale)) == 2.0**23
    for _ in range(12):
        model.train_on_batch(X, Y)
    assert 0 < int(number(inner._step_count)) < 12
    assert (weights(model) != before).any()


@every_optimizer
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_nonfinite_step_is_skipped_and_counted(make, bad):
    model, optimizer = network(), make(regularizer=PSI, skip_nonfinite=True, clipnorm=5.0)
    variables = model.trainable_variables
    optimizer.build(variables)
    gradients = [np.full(v.shape, 0.1, "float32") for v in variables]
    optimizer.apply(gradients, variables)
    before, state = weights(model), states(optimizer)
    spoiled = [g.copy() for g in gradients]
    spoiled[1][0] = bad
    optimizer.apply(spoiled, variables)
    assert int(number(optimizer.skipped_steps)) == 1
    np.testing.assert_array_equal(weights(model), before)
    for variable, old in zip(optimizer.variables, state):
        if variable is not optimizer.skipped_steps:
            np.testing.assert_array_equal(number(variable), old, err_msg=variable.path)
    # What comes after is what would have come without it.
    other, undisturbed = network(), make(regularizer=PSI, clipnorm=5.0)
    for each, steps in ((other, 2), (model, 1)):
        for _ in range(steps):
            (optimizer if each is model else undisturbed).apply(gradients, each.trainable_variables)
    np.testing.assert_allclose(weights(model), weights(other), atol=1e-7)
    with pytest.raises(AttributeError, match="skip_nonfinite"):
        print(undisturbed.skipped_steps)


@every_optimizer_and("arguments", {}, *RUNS)
def test_a_nonfinite_batch_in_fit_is_skipped(make, arguments):
    spoiled = np.array(X)
    spoiled[20] = np.nan
    model = network()
    model.compile(make(regularizer=PSI, skip_nonfinite=True, gradient_accumulation_steps=2), "mse", **arguments)
    model.fit(spoiled, Y, batch_size=16, shuffle=False, epochs=2, verbose=0)
    assert np.isfinite(weights(model)).all()
    assert int(number(model.optimizer.skipped_steps)) == 2
    assert int(number(model.optimizer._step_count)) == 2


@every_optimizer
def test_a_nonfinite_gradient_goes_through_by_default(make):
    model, optimizer = network(), make()
    optimizer.apply([np.full(v.shape, np.nan, "float32") for v in model.trainable_variables], model.trainable_variables)
    assert np.isnan(weights(model)).all()


@every_optimizer
def test_clipping_limits_the_gradient(make):
    # So small that it is far below the epsilon of those that divide by the gradient's size.
    a, b = train(make(global_clipnorm=1e-12, learning_rate=0.5)), network()
    assert 0 < np.abs(weights(a) - weights(b)).max() < 0.05


@every_optimizer
def test_frozen_layers_and_missing_gradients(make):
    model = network()
    model.get_layer("a").trainable = False
    before = model.get_layer("a").kernel
    train(make(regularizer=PSI), model)
    np.testing.assert_array_equal(model.get_layer("a").kernel, before)
    optimizer, (v, w) = make(), [keras.Variable(np.ones(3)), keras.Variable(np.ones(3))]
    optimizer.build([v, w])
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply([np.ones(3, "float32"), None], [v, w])
    assert (number(v) < 1).all()
    assert (number(w) == 1).all()


@pytest.mark.skipif(BACKEND != "jax", reason="elsewhere an optimizer may be given fewer variables than before")
@every_optimizer
def test_an_error_of_a_step_is_the_one_that_is_told(make):
    """Keras's own, of an optimizer that was built with other variables: the end of `fit` does not hide it."""
    told = []
    for optimizer in (make(regularizer=PSI), keras.optimizers.SGD(0.1)):
        model = train(optimizer, epochs=1)
        model.get_layer("a").trainable = False
        with pytest.raises(ValueError, match="built with 4 variables") as error:
            train(optimizer, model, epochs=1)
        told.append(str(error.value))
    assert told[0] == told[1]


@every_optimizer
def test_embeddings_with_sparse_gradients_train(make):
    model = keras.Sequential([keras.Input((4,), dtype="int32"), keras.layers.Embedding(10, 3), keras.layers.Flatten()])
    model.compile(make(regularizer=None), "mse")
    before = model.get_weights()[0]
    model.fit(np.zeros((8, 4), "int32"), np.ones((8, 12)), verbose=0)
    after = model.get_weights()[0]
    assert (after[0] != before[0]).all()
    np.testing.assert_allclose(after[1:], before[1:], atol=1e-6)


@only_tensorflow
@every_optimizer
def test_a_sparse_gradient_is_the_dense_one(make):
    import tensorflow as tf

    found = []
    for sparse in (True, False):
        table, optimizer = keras.Variable(np.ones((4, 3), "float32"), name="kernel"), make(regularizer=PSI)
        gradient = tf.IndexedSlices(tf.constant([[1.0, 2.0, 3.0]] * 2), tf.constant([1, 1]), tf.constant([4, 3]))
        optimizer.build([table])
        for _ in range(2):
            optimizer.apply([gradient if sparse else tf.convert_to_tensor(gradient)], [table])
        found.append(number(table))
    np.testing.assert_array_equal(*found)


@every_optimizer
def test_nested_models_and_shared_layers(make):
    """A shared layer has one variable: it is updated once, with the sum of its gradients."""

    def tied(by_hand):
        keras.utils.set_random_seed(0)
        shared = keras.layers.Dense(6, "tanh", kernel_initializer=keras.initializers.GlorotUniform(1), name="s")
        inner = keras.Sequential([keras.Input((6,)), shared, keras.layers.Dense(3, name="c")], name="inner")
        x = keras.Input((6,))
        model = keras.Model(x, inner(shared(x)))
        if not by_hand:
            return train(make(regularizer=PSI), model)
        optimizer = make(regularizer=PSI)
        optimizer.build(model.trainable_variables)
        return model, optimizer

    model = tied(False)
    assert len(model.trainable_variables) == 4
    _, optimizer = tied(True)
    assert [psi is not None for psi in optimizer._penalties] == [True, False, True, False]
    assert np.isfinite(weights(model)).all()


@every_optimizer
@needs_multi_optimizer
@pytest.mark.filterwarnings("ignore:Skipping variable loading", "ignore:.* begins anew")  # see the end of the test
def test_multi_optimizer_trains_each_part_and_counts_penalties_once(make, tmp_path):
    def by_layer():
        optimizers = {".*a/.*": make(), ".*b/.*": keras.optimizers.SGD(0.1)}
        chosen = keras.optimizers.OptimizerMap(keras.optimizers.Adam(), optimizers)
        return keras.optimizers.MultiOptimizer(chosen), optimizers[".*a/.*"]

    optimizer, ours = by_layer()
    model = network(kernel_regularizer=kr.GroupLasso(0.1))
    model.compile(optimizer, "mse")
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(initial_loss(), rel=1e-5)
    model.fit(X, Y, batch_size=16, shuffle=False, verbose=0, callbacks=[kr.callbacks.SparsityMonitor()])
    kernel = model.get_layer("a").kernel
    assert isinstance(ours.penalty_of(kernel), kr.GroupLasso)
    assert ours.penalty_of(model.get_layer("b").kernel) is None
    assert model.losses == []
    np.testing.assert_array_equal(number(kernel), number(ours.structured_value(kernel)))
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(weights(loaded), weights(model))
    # (Keras itself does not restore the state of the optimizers inside, stock ones neither.)
    assert type(ours) in {type(each) for each in loaded.optimizer.optimizers}


@every_optimizer
@needs_multi_optimizer
def test_multi_optimizer_leaves_the_penalties_of_others_in_the_loss(make):
    chosen = keras.optimizers.OptimizerMap(make(), {"net/a/.*": keras.optimizers.SGD(0.0)})
    model = network(kernel_regularizer=kr.L1(0.5))
    model.compile(keras.optimizers.MultiOptimizer(chosen), "mse")
    penalty = 0.5 * np.abs(number(model.get_layer("a").kernel)).sum()
    assert float(number(sum(model.losses))) == pytest.approx(penalty, rel=1e-5)


@every_optimizer
def test_a_loop_of_the_users_own_counts_the_penalty_once(make):
    model, optimizer = network(kernel_regularizer=kr.L1(0.5)), make()
    assert len(model.losses) == 1
    optimizer.build(model.trainable_variables)
    assert model.losses == []
    del optimizer


@every_optimizer
def test_exclude_and_maps_of_patterns_bind_by_path(make):
    variables = network().trainable_variables

    def penalties(**arguments):
        optimizer = make(**arguments)
        optimizer.build(variables)
        return [type(optimizer.penalty_of(v)) for v in variables]

    none = type(None)
    assert penalties(regularizer=PSI, exclude=[".*b/kernel"]) == [kr.GroupLasso, none, none, none]
    mapped = {variables[0].path: PSI, ".*a/kernel": kr.L1(1.0), ".*b/.*": kr.L1(0.1)}
    assert penalties(regularizer=mapped) == [kr.GroupLasso, none, kr.L1, kr.L1]  # the path wins over the expression
    assert penalties(regularizer={".*a/kernel": None}) == [none] * 4


@every_optimizer
def test_a_map_of_patterns_survives_saving(make, tmp_path):
    model = train(make(regularizer={".*a/kernel": PSI}))
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.optimizer.penalty_of(loaded.get_layer("a").kernel).get_config() == PSI.get_config()
    assert loaded.optimizer.penalty_of(loaded.get_layer("b").kernel) is None


@every_optimizer
def test_weight_decay_is_honoured_or_refused(make):
    if make().rebuilds_iterate:
        with pytest.raises(ValueError, match="weight_decay"):
            make(weight_decay=0.1)
        return
    variable, optimizer = keras.Variable(np.ones((2, 2), "float32")), make(learning_rate=0.5, weight_decay=0.1)
    optimizer.build([variable])
    optimizer.apply([np.zeros((2, 2), "float32")])
    np.testing.assert_allclose(number(variable), 0.95, atol=1e-6)
    excluding = make(learning_rate=0.5, weight_decay=0.1)
    excluding.exclude_from_weight_decay(var_names=["bias"])
    both = [keras.Variable(np.ones((2, 1), "float32"), name=name) for name in ("bias", "kernel")]
    excluding.build(both)
    excluding.apply([np.zeros((2, 1), "float32")] * 2)
    np.testing.assert_allclose([number(each)[0, 0] for each in both], [1.0, 0.95], atol=1e-6)


@every_optimizer
def test_a_moving_average_is_refused(make):
    with pytest.raises(ValueError, match="use_ema"):
        make(use_ema=True)


@every_optimizer
def test_a_nan_gradient_does_not_become_a_zero_group(make):
    model, optimizer = network(), make(regularizer=kr.GroupLasso(10.0))
    optimizer.build(model.trainable_variables)
    optimizer.apply([np.ones(v.shape, "float32") for v in model.trainable_variables], model.trainable_variables)
    gradients = [np.full(v.shape, np.nan, "float32") for v in model.trainable_variables]
    optimizer.apply(gradients, model.trainable_variables)
    assert np.isnan(number(optimizer.structured_value(model.get_layer("a").kernel))).all()


NUMBERS = [-0.1, float("nan"), float("inf"), "high", None, True, [0.5]]
BAD = {
    "learning_rate": [-0.1, float("nan"), 1, "fast", None, True],
    "momentum": [-0.1, 1.5, float("nan"), "high", None, True],
    "regularizer": [keras.regularizers.L2(0.1), 0.1, {"a": keras.regularizers.L2(0.1)}, {"(": kr.L1(0.1)}],
    "exclude": ["a/kernel", ["("], [3]],
    "skip_nonfinite": [None, 1, "yes"],
    "jit_update": [None, 1, "yes"],
    "weight_decay": [-0.1, float("nan"), "high"],
    "beta_1": [*NUMBERS, 1.0],
    "beta_2": [*NUMBERS, 1.0],
    **{name: [*NUMBERS, 0.0] for name in ("epsilon", "delta", "kappa", "mu")},
    "amsgrad": [None, 1, "yes"],
    "dampening": [*NUMBERS, 1.5],
    "nesterov": [None, 1, "yes"],
    "rates": [*NUMBERS, 0.0, {"(": 1.0}],
    "coarse_steps": [-1, 1.5, float("nan"), "high", None, True],
}


@every_optimizer
def test_every_bad_argument_is_named_at_construction(make):
    optimizer = make()
    own = {"learning_rate", "regularizer", "exclude", "skip_nonfinite", "jit_update", "weight_decay"}
    own |= set(optimizer.hyperparameters) | ({"momentum"} if hasattr(optimizer, "momentum") else set())
    assert own <= set(BAD)
    for name in own:
        for value in BAD[name]:
            with pytest.raises(ValueError, match="(?i)" + name):
                make(**{name: value})
    if hasattr(optimizer, "momentum"):
        with pytest.raises(ValueError, match="momentum"):
            make(momentum=0.0 if optimizer.momentum_range == FRACTION else 1.0)


def test_two_patterns_that_match_are_an_error():
    optimizer = kr.ProxSGD(regularizer={".*kernel": PSI, ".*/a/.*": kr.L1(0.1)})
    with pytest.raises(ValueError, match=r"a/kernel.*\['\.\*kernel"):
        optimizer.build(network().trainable_variables)


def test_patterns_that_match_nothing_are_reported():
    with pytest.warns(UserWarning, match="match no trainable variable.*conv"):
        kr.ProxSGD(regularizer={"conv/.*": PSI}).build(network().trainable_variables)
    with pytest.warns(UserWarning, match="match no trainable variable.*dens"):
        kr.ProxSGD(regularizer=PSI, exclude=["dens/.*"]).build(network().trainable_variables)


def test_an_axis_that_the_variable_does_not_have_names_the_variable():
    with pytest.raises(ValueError, match="a/bias"):
        kr.ProxSGD(regularizer={".*": kr.GroupLasso(0.1)}).build(network().trainable_variables)


@every_optimizer
def test_a_regularizer_that_applies_to_nothing_is_reported(make):
    model = keras.Sequential([keras.Input((4,), dtype="int32"), keras.layers.Embedding(10, 3), keras.layers.Flatten()])
    with pytest.warns(UserWarning, match="applies to none"):
        make(regularizer=PSI).build(model.trainable_variables)


@every_optimizer
def test_structured_value_of_strangers(make):
    with pytest.raises(ValueError, match="before its first step"):
        make().structured_value(keras.Variable(np.ones(3)))
    optimizer = make(regularizer=PSI)
    optimizer.build(network().trainable_variables)
    with pytest.raises(ValueError, match="Unknown variable"):
        optimizer.structured_value(keras.Variable(np.ones(3)))


@only_tensorflow
@every_optimizer_and("arguments", {}, {"steps_per_execution": 4}, {"jit_compile": True})
def test_a_model_that_is_built_by_its_first_step_trains_the_same(make, arguments):
    """On TensorFlow, one trace then makes the weights, the optimizer's state and the first step."""
    unbuilt = keras.Sequential([keras.layers.Dense(8, "relu", name="a"), keras.layers.Dense(3, name="b")])
    keras.utils.set_random_seed(0)
    found = train(make(regularizer=PSI), unbuilt, compile_arguments=arguments)
    assert [w.shape for w in found.get_weights()] == [w.shape for w in network().get_weights()]
    np.testing.assert_allclose(weights(found), expected_weights(make), atol=2e-6)


@every_optimizer
def test_fit_ends_inside_a_constraint(make):
    model = train(make(regularizer=PSI), network(kernel_constraint="non_neg"))
    assert number(model.get_layer("a").kernel).min() >= 0


@every_optimizer
def test_project_before_the_first_step(make):
    with pytest.raises(ValueError, match="before its first step"):
        make().project(network())
