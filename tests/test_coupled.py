"""Groups that span several variables: the optimizers treat them as if they were one variable."""

import functools

import keras
import numpy as np
import pytest
from backend import number, only_tensorflow
from training import RUNS, SOME_ZEROS, X, Y, every_optimizer, every_optimizer_and, maker, train, weights

import keras_rmda as kr
from keras_rmda.optimizers.joint import answered_jointly
from keras_rmda.regularizers import CoupledGroups

WIDTHS = {"b": 2, "c": 1}
STRENGTHS = SOME_ZEROS | {kr.RAMDA: 0.1, kr.ProxAdamW: 0.3, kr.AdaBreg: 0.5, kr.DessiLBI: 0.1}


def sparse_group_lasso(strength, **groups):
    return kr.SparseGroupLasso(strength, 0.3, **groups)


PENALTIES = [kr.GroupLasso, sparse_group_lasso]


def network(heads):
    """Return a network whose outputs come from one layer, or from several side by side, with the same weights."""
    keras.utils.set_random_seed(0)
    x = keras.Input((6,))
    y = keras.layers.Dense(8, "relu", name="a")(x)
    both = [keras.layers.Dense(n, name=name) for name, n in heads.items()]
    outputs = [layer(y) for layer in both]
    model = keras.Model(x, keras.layers.Concatenate()(outputs) if len(outputs) > 1 else outputs[0], name="net")
    random = np.random.default_rng(1)
    model.get_layer("a").kernel.assign(0.5 * random.normal(size=(6, 8)))  # the same on every backend
    kernel = random.normal(size=(8, 3)).astype("float32")
    kernel[:4] = 0.0
    start = 0
    for layer in both:
        layer.kernel.assign(kernel[:, start : start + layer.units])
        start += layer.units
    return model


def groups(heads=WIDTHS, weight=3.0**0.5):
    """Return the coupled groups of the inputs of all heads."""
    rows = np.arange(8)[:, None]
    return CoupledGroups({f"{name}/kernel": rows for name in heads}, [weight] * 8, [f"a[{k}]" for k in range(8)])


def heads_of(model, names):
    return np.concatenate([number(model.get_layer(name).kernel) for name in names], axis=1)


@every_optimizer_and("penalty", *PENALTIES, also=["RMDA", "RAMDA", "LinBreg"])  # two proximal maps, a subgradient
def test_coupled_variables_train_like_one(make, penalty):
    strength = STRENGTHS[type(make())]
    one = train(make(regularizer=penalty(strength), exclude=[".*a/.*"]), network({"d": 3}), epochs=8)
    coupled = train(make(regularizer=penalty(strength, groups=groups())), network(WIDTHS), epochs=8)
    expected, found = heads_of(one, ["d"]), heads_of(coupled, WIDTHS)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    zero = (found == 0).all(axis=1)
    assert zero.tolist() == (expected == 0).all(axis=1).tolist()
    assert 0 < zero.sum() < 8
    np.testing.assert_allclose(number(coupled.get_layer("a").kernel), number(one.get_layer("a").kernel), atol=2e-5)


def coupled_weights(make, compile_arguments=None, **arguments):
    """Return the weights after a training with coupled groups."""
    psi = kr.GroupLasso(STRENGTHS[type(make())], groups=groups())
    return weights(train(make(regularizer=psi, **arguments), network(WIDTHS), compile_arguments=compile_arguments))


expected_weights = functools.cache(coupled_weights)


@pytest.mark.skipif(not RUNS, reason="this backend has one way to run")
@every_optimizer_and("arguments", *(RUNS or [{}]))
def test_training_is_the_same_in_every_mode(make, arguments):
    np.testing.assert_allclose(coupled_weights(make, arguments), expected_weights(make), atol=1e-5)


@only_tensorflow
@every_optimizer
def test_an_update_compiled_by_the_optimizer_is_the_same(make):
    np.testing.assert_allclose(coupled_weights(make, jit_update=True), expected_weights(make), atol=1e-5)


@every_optimizer
def test_stop_save_load_and_go_on_equals_an_uninterrupted_run(make, tmp_path):
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    psi = kr.GroupLasso(STRENGTHS[type(make())], groups=groups())
    uninterrupted = train(make(regularizer=psi), network(WIDTHS), epochs=4, callbacks=[checkpoint])
    loaded = keras.models.load_model(tmp_path / "2.keras")
    loaded.fit(X, Y, batch_size=16, shuffle=False, verbose=0, epochs=2)
    np.testing.assert_allclose(weights(loaded), weights(uninterrupted), atol=1e-7)


@every_optimizer
def test_factors_change_the_strength_of_single_groups(make):
    strength = STRENGTHS[type(make())]
    optimizer, model = make(regularizer=kr.GroupLasso(strength, groups=groups())), network(WIDTHS)
    optimizer.build(model.trainable_variables)
    train(optimizer, model, epochs=1)
    [coupling] = optimizer.couplings
    coupling.factors.assign([0.0] * 4 + [1e20] * 4)
    train(optimizer, model, epochs=1)
    assert (heads_of(model, WIDTHS)[4:] == 0).all()
    assert (heads_of(model, WIDTHS)[:4] != 0).all()


@every_optimizer
def test_a_missing_gradient_counts_as_zero(make):
    """As where one head has no part in the loss."""
    results = []
    for has_gradient in (True, False):
        model = network(WIDTHS)
        optimizer = make(regularizer=kr.GroupLasso(0.1, groups=groups()))
        optimizer.build(model.trainable_variables)
        for _ in range(3):
            pairs = [(keras.ops.ones(v.shape), v) for v in model.trainable_variables if "c/" not in v.path]
            last = model.get_layer("c").kernel
            pairs += [(keras.ops.zeros(last.shape), last)] if has_gradient else []
            optimizer.apply_gradients(pairs)
        results.append([heads_of(model, WIDTHS), number(model.get_layer("a").kernel)])
    for found, expected in zip(*results):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_is_in_no_group_stays():
    members = {"x": [[0], [-1], [1]], "y": [1, -1]}
    joint = kr.GroupLasso(1.0, groups=CoupledGroups(members, [1.0, 1.0], "ab")).among(["x", "y"])
    x, y = keras.ops.array([[3.0, 4.0], [0.1, 0.2], [3.0, 0.0]]), keras.ops.array([4.0, -0.3])
    d = keras.ops.full_like(x, 2.0), keras.ops.full_like(y, 2.0)
    for found in (joint.prox([x, y], [1.0]), joint.prox_in_metric([x, y], [2.0], d)):
        np.testing.assert_allclose(number(found[0]), [[2.4, 3.2], [0.1, 0.2], [2.4, 0.0]], rtol=1e-5)
        np.testing.assert_allclose(number(found[1]), [3.2, -0.3], rtol=1e-5)
    np.testing.assert_allclose(number(joint.group_norms([x, y])), [5.0, 5.0])
    assert float(number(joint([x, y]))) == pytest.approx(10.0)
    directions = joint.subgradient([x, y])
    np.testing.assert_allclose(number(directions[0]), [[0.6, 0.8], [0.0, 0.0], [0.6, 0.0]], rtol=1e-6)


@pytest.mark.parametrize("psi", [kr.GroupLasso(0.3), kr.SparseGroupLasso(0.3, 0.4, "output")], ids=repr)
def test_arrays_side_by_side_are_mapped_as_each_alone(psi):
    rng, shapes = np.random.default_rng(0), [(3, 4), (2, 2, 4, 5), (7, 1)]
    ws = [keras.ops.array(rng.normal(size=shape), "float32") for shape in shapes]
    ds = [keras.ops.array(rng.exponential(size=shape), "float32") for shape in shapes]
    penalties = [psi, psi.along("kkio"), psi.along("oi")]
    joint = psi.beside(penalties, shapes)
    for method, arguments in (("prox", ()), ("prox_in_metric", (ds,)), ("subgradient", ())):
        steps = [] if method == "subgradient" else [[2.0] * 3]
        found = getattr(joint, method)(ws, *steps, *arguments)
        for k, each in enumerate(penalties):
            alone = getattr(each, method)(ws[k], *(one[k] for one in (*steps, *arguments)))
            np.testing.assert_allclose(number(found[k]), number(alone), rtol=1e-6, atol=1e-7)
    norms = np.concatenate([number(each.group_norms(w)).reshape(-1) for each, w in zip(penalties, ws)])
    np.testing.assert_allclose(number(joint.group_norms(ws)), norms, rtol=1e-6)


def test_several_questions_are_answered_one_after_the_other():
    joint = kr.GroupLasso(1.0, groups=CoupledGroups({"x": [0], "y": [0]}, [1.0], ["a"])).among(["x", "y"])
    twice = [lambda psi, w=w: psi.prox(psi.prox(keras.ops.array([w]), 1.0), 1.0) for w in (3.0, 4.0)]
    np.testing.assert_allclose([number(w)[0] for w in answered_jointly(twice, joint)], [1.8, 2.4], rtol=1e-6)


def test_config_round_trip():
    for penalty in PENALTIES:
        psi = penalty(0.1, groups=groups())
        copy = keras.regularizers.get(keras.regularizers.serialize(psi))
        assert copy.get_config() == psi.get_config()
        assert repr(copy) == repr(psi)
        assert "8 coupled groups in 2 variables" in repr(psi)


def test_all_variables_of_the_groups_must_be_trained():
    model = network(WIDTHS)
    model.get_layer("c").trainable = False
    model.compile(kr.RMDA(regularizer=kr.GroupLasso(0.1, groups=groups())), "mse")
    with pytest.raises(ValueError, match="Missing: c/kernel"):
        model.fit(X, Y, verbose=0)
    model = network(WIDTHS)
    model.compile(kr.RMDA(regularizer=kr.GroupLasso(0.1, groups=groups()), exclude=[".*b/kernel"]), "mse")
    with pytest.raises(ValueError, match="Missing: b/kernel"):
        model.fit(X, Y, verbose=0)


def test_a_loop_of_the_users_own_needs_no_model():
    """Paths of Sequential models begin with their name."""
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, name="a"), keras.layers.Dense(3, name="b")])
    optimizer = kr.RMDA(regularizer=kr.GroupLasso(0.1, groups=kr.coupled_groups(model)))
    optimizer.build(model.trainable_variables)
    assert optimizer.penalty_of(model.get_layer("b").kernel) is not None


def test_a_build_that_fails_can_be_repeated():
    model = network(WIDTHS)
    optimizer = kr.RMDA(regularizer=kr.GroupLasso(0.1, groups=groups()))
    with pytest.raises(ValueError, match="Missing: c/kernel"):
        optimizer.build(model.trainable_variables[:-2])
    optimizer.build(model.trainable_variables)
    assert len(optimizer.couplings) == 1


def test_groups_of_another_model_are_refused():
    model = network(WIDTHS)
    members = {"b/kernel": np.arange(5)[:, None], "c/kernel": np.arange(8)[:, None]}
    wrong = CoupledGroups(members, [1.0] * 8, "abcdefgh")
    model.compile(kr.RMDA(regularizer=kr.GroupLasso(0.1, groups=wrong)), "mse")
    with pytest.raises(ValueError, match="'b/kernel' of shape"):
        model.fit(X, Y, verbose=0)


def test_a_layer_cannot_have_coupled_groups():
    layer = keras.layers.Dense(3, kernel_regularizer=kr.GroupLasso(0.1, groups=groups()))
    with pytest.raises(ValueError, match="span several variables"):
        keras.Sequential([keras.Input((8,)), layer]).losses  # noqa: B018


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({"x": [0, 1]}, [1.0], ["a"]), "2 groups, 1 weights, 1 names"),
        (({"x": [0]}, [-1.0], ["a"]), "finite numbers"),
        (({"x": [0]}, [float("nan")], ["a"]), "finite numbers"),
    ],
)
def test_bad_groups(arguments, message):
    with pytest.raises(ValueError, match=message):
        CoupledGroups(*arguments)


@pytest.mark.parametrize("kind", [kr.RMDA, kr.DessiLBI])  # structured values beside the weights, and under a mask
def test_the_monitor_counts_coupled_groups(kind):
    make = maker(kind)
    psi = kr.GroupLasso(STRENGTHS[type(make())], groups=groups())
    model, logs = network(WIDTHS), {}
    read = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, values: logs.update(values))
    train(make(regularizer=psi), model, epochs=8, callbacks=[kr.callbacks.SparsityMonitor(), read])
    zero = (heads_of(model, WIDTHS) == 0).all(axis=1).sum()
    assert logs["zero_groups"] == pytest.approx(zero / 8)
    assert logs["macs"] == (8 - zero) * 9
    assert logs["removable_macs"] == pytest.approx(zero / 8)
    assert logs["removable_parameters"] == pytest.approx(zero * 10 / 83)
    assert logs["penalty"] == pytest.approx(
        float(number(psi.among(list(psi.groups.members))([number(model.get_layer(name).kernel) for name in WIDTHS]))),
        rel=1e-4,
    )


def test_gradient_accumulation_equals_one_large_batch():
    psi = kr.GroupLasso(0.05, groups=groups())
    once = train(kr.RMDA(0.05, 0.5, psi), network(WIDTHS), batch_size=32)
    accumulated = train(kr.RMDA(0.05, 0.5, psi, gradient_accumulation_steps=2), network(WIDTHS), batch_size=16)
    np.testing.assert_allclose(weights(accumulated), weights(once), atol=1e-5)


def test_the_solution_path_follows_the_parts_of_coupled_groups():
    psi, path = kr.GroupLasso(0.3, groups=groups()), kr.callbacks.SolutionPath()
    model = train(kr.LinBreg(0.05, regularizer=psi), network(WIDTHS), epochs=8, callbacks=[path])
    entered = path.entered["b/kernel"].reshape(-1)
    np.testing.assert_array_equal(entered, path.entered["c/kernel"].reshape(-1))
    np.testing.assert_array_equal(np.isinf(entered), (heads_of(model, WIDTHS) == 0).all(axis=1))
    assert (entered[4:] == 0).all()


def test_a_nonfinite_step_is_skipped():
    model = network(WIDTHS)
    optimizer = kr.RMDA(0.05, 0.5, kr.GroupLasso(0.1, groups=groups()), skip_nonfinite=True)
    optimizer.build(model.trainable_variables)
    before = weights(model)
    gradients = [np.full(v.shape, np.nan if "c/" in v.path else 1.0, "float32") for v in model.trainable_variables]
    optimizer.apply(gradients, model.trainable_variables)
    np.testing.assert_array_equal(weights(model), before)
    assert int(number(optimizer.skipped_steps)) == 1


def test_clone_and_file_have_the_same_groups(tmp_path):
    model = network(WIDTHS)
    model.compile(kr.ProxSGD(0.1, regularizer=kr.GroupLasso(0.1, groups=kr.coupled_groups(model))), "mse")
    model.save(tmp_path / "model.keras")
    with pytest.warns(kr.SparsityWarning, match="begins anew"):
        loaded = keras.models.load_model(tmp_path / "model.keras")
    loaded.fit(X, Y, verbose=0)
    model.fit(X, Y, verbose=0, shuffle=False)
    assert loaded.optimizer.regularizer.get_config() == model.optimizer.regularizer.get_config()
