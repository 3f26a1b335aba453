"""What is special to single algorithms."""

import keras
import numpy as np
import pytest
from backend import BACKEND, number
from training import DEFAULTS, X, Y, maker, network, train, weights

import keras_rmda as kr

# ---- RMDA


def minimizer(optimizer):
    """Return W~_t of an optimizer of one variable."""
    state = {
        name: keras.ops.convert_to_tensor(v) for name, v in [*optimizer._scalars.items(), *optimizer._slots[0].items()]
    }
    t = keras.ops.cast(optimizer._step_count, "float32")
    return number(optimizer.minimizer(optimizer.regularizer, t=t, **state))


def test_rmda_iterate_is_the_mean_of_momentum_and_minimizer():
    model, optimizer = network(), kr.RMDA(0.1, 0.25, kr.GroupLasso(0.1))
    kernel = model.get_layer("a").kernel
    optimizer.build([kernel])
    before = number(kernel)
    optimizer.apply([np.ones(kernel.shape, "float32")], [kernel])
    np.testing.assert_allclose(number(kernel), 0.75 * before + 0.25 * minimizer(optimizer), atol=1e-7)


@pytest.mark.parametrize("kind", [kr.RMDA, kr.RAMDA])
@pytest.mark.parametrize("psi", [kr.GroupLasso(0.5), kr.L1(0.3), kr.NonNegativeL1(0.3)], ids=repr)
def test_the_structured_value_is_the_iterate_where_the_minimizer_is_not_zero(kind, psi, rng):
    kernel, optimizer = keras.Variable(rng.normal(size=(6, 3)), name="kernel"), kind(0.2, 0.25, psi)
    optimizer.build([kernel])
    for _ in range(4):
        optimizer.apply([number(kernel) * rng.uniform(size=(6, 1)).astype("float32")], [kernel])
    expected = np.where(minimizer(optimizer) == 0, 0.0, number(kernel)) if psi.has_support else minimizer(optimizer)
    structured = number(optimizer.structured_value(kernel))
    np.testing.assert_allclose(structured, expected, atol=1e-7)
    assert 0 < (structured == 0).mean() < 1


def test_momentum_growth_reaches_one_and_makes_the_iterate_structured():
    kernel, optimizer = keras.Variable(np.ones((4, 3)), name="kernel"), kr.RMDA(0.1, 0.25, kr.GroupLasso(0.1))
    optimizer.build([kernel])
    optimizer.momentum_growth = 0.5
    for t in range(1, 17):
        before = number(kernel)
        optimizer.apply([np.full((4, 3), 0.1, "float32")], [kernel])
        c = min(1.0, 0.25 * np.sqrt(t))
        expected = (1 - c) * before + c * minimizer(optimizer)
        np.testing.assert_allclose(number(kernel), expected, atol=1e-6)
    np.testing.assert_array_equal(number(kernel), number(optimizer.structured_value(kernel)))


# ---- baselines


def test_prox_sgd_without_penalty_is_keras_sgd():
    """Keras multiplies the learning rate into its momentum, and does not weigh the new gradient by 1 - momentum."""
    ours = train(kr.ProxSGD(0.1, momentum=0.2), epochs=4)
    stock = train(keras.optimizers.SGD(0.1 * 0.2, momentum=0.8), epochs=4)
    np.testing.assert_allclose(weights(ours), weights(stock), atol=1e-6)


@pytest.mark.parametrize("arguments", [{}, {"amsgrad": True}, {"weight_decay": 0.1}], ids=str)
def test_prox_adamw_without_penalty_is_keras_adamw(arguments):
    # Keras adds epsilon before its bias correction; so small, it does not matter where.
    arguments = {"weight_decay": 0.0, "epsilon": 1e-12} | arguments
    ours = train(kr.ProxAdamW(0.01, **arguments), epochs=4)
    # The corrections of Keras are on the whole step, so that its amsgrad is the same too.
    stock = train(keras.optimizers.AdamW(0.01, **arguments), epochs=4)
    np.testing.assert_allclose(weights(ours), weights(stock), atol=1e-5)


# ---- Bregman


@pytest.mark.parametrize("kind", [kr.LinBreg, kr.AdaBreg])
@pytest.mark.parametrize(
    "psi", [kr.L1(0.1), kr.GroupLasso(0.1), kr.SparseGroupLasso(0.1), kr.ElasticNet(0.1)], ids=repr
)
def test_mirror_maps_of_the_optimizer_are_inverse(kind, psi, rng):
    optimizer = maker(kind)(delta=0.5)
    theta = keras.ops.convert_to_tensor(rng.normal(size=(5, 4)) * (np.arange(5) > 1)[:, None])
    mapped = optimizer.to_primal(optimizer.to_dual(theta, psi), psi)
    np.testing.assert_allclose(number(mapped), number(theta), atol=1e-12)


@pytest.mark.parametrize("kind", [kr.LinBreg, kr.AdaBreg])
def test_bregman_begins_sparse_and_lets_weights_in(kind):
    model = network()
    kr.sparsify(model, 0.1, seed=0)
    path = kr.callbacks.SolutionPath()
    train(maker(kind)(regularizer=kr.L1(0.05)), model, epochs=10, callbacks=[path])
    nonzero = [sum(mask.sum() for mask in path.support(epoch).values()) for epoch in range(11)]
    assert nonzero[0] == 5 + 2
    assert nonzero[0] < nonzero[-1] < 6 * 8 + 8 * 3


def test_bregman_without_momentum_keeps_no_memory_for_it():
    optimizer = kr.LinBreg(0.1)
    optimizer.build(network().trainable_variables)
    assert [set(slots) for slots in optimizer._slots] == [{"v"}] * 4
    with pytest.raises(ValueError, match=r"momentum=0\.5"):
        optimizer.momentum = 0.5
    optimizer.momentum = 0.0
    with_memory = kr.DessiLBI(0.1, momentum=0.9)
    with_memory.momentum = 0.0
    with_memory.build(network().trainable_variables)
    assert set(with_memory._slots[0]) == {"gamma", "z", "b"}


def test_non_negative_bregman_training_stays_non_negative():
    model = network(kernel_regularizer=kr.NonNegativeL1(0.01))
    train(kr.LinBreg(0.1), model, epochs=4)
    kernel = number(model.get_layer("a").kernel)
    assert kernel.min() == 0
    assert kernel.max() > 0


# ---- DessiLBI


def test_dessilbi_keeps_w_dense_and_its_sparse_model_is_w_on_the_support_of_gamma():
    model, optimizer = network(), maker(kr.DessiLBI)(regularizer=kr.GroupLasso(0.3))
    variables = model.trainable_variables
    optimizer.build(variables)
    for _ in range(40):
        gradients = [0.1 * number(v) + 0.05 for v in variables]
        optimizer.apply(gradients, variables)
    kernel = variables[0]
    dense, gamma = number(kernel), number(optimizer._slots[0]["gamma"])
    assert (dense != 0).all()
    assert 0 < (gamma != 0).mean() < 1
    np.testing.assert_array_equal(number(optimizer.structured_value(kernel)), np.where(gamma == 0, 0, dense))


# ---- binding through the layer table


def images(*layers):
    return keras.Sequential(
        [keras.Input((8, 8, 4)), *layers, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)]
    )


# Layer, its kernel, the axis of what is read, the axes of what is written.
GROUPS = {
    "Dense": (lambda L: L.Dense(5), "kernel", 0, 1),
    "Conv2D": (lambda L: L.Conv2D(5, 3), "kernel", 2, 3),
    "Conv2DTranspose": (lambda L: L.Conv2DTranspose(5, 3), "kernel", 3, 2),
    "DepthwiseConv2D": (lambda L: L.DepthwiseConv2D(3, depth_multiplier=2), "kernel", 2, (2, 3)),
    "EinsumDense": (lambda L: L.EinsumDense("abcd,de->abce", (None, None, 5)), "kernel", 0, 1),
    "EinsumDense swapped": (lambda L: L.EinsumDense("abcd,ed->abce", (None, None, 5)), "kernel", 1, 0),
    "SeparableConv2D": (lambda L: L.SeparableConv2D(5, 3), "pointwise_kernel", 2, 3),
}


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("groups", ["input", "output"])
def test_groups_follow_the_layer_table(name, groups):
    make, weight, input_axes, output_axes = GROUPS[name]
    layer = make(keras.layers)
    model, optimizer = images(layer), kr.ProxSGD(regularizer=kr.GroupLasso(0.1, groups))
    model.compile(optimizer, "mse")
    optimizer.build(model.trainable_variables)
    kernel = getattr(layer, weight)
    axes = input_axes if groups == "input" else output_axes
    kept = {axes} if isinstance(axes, int) else set(axes)
    expected = tuple(n if k in kept else 1 for k, n in enumerate(kernel.shape))
    assert tuple(optimizer.penalty_of(kernel).group_norms(kernel).shape) == expected


def test_heads_of_attention_are_grouped_by_what_they_read():
    x = keras.Input((5, 12))
    attention = keras.layers.MultiHeadAttention(3, 4, name="attention")
    model, optimizer = keras.Model(x, attention(x, x)), kr.ProxSGD(regularizer=kr.GroupLasso(0.1))
    model.compile(optimizer, "mse")
    optimizer.build(model.trainable_variables)
    shapes = {
        v.path.split("/")[-2]: tuple(optimizer.penalty_of(v).group_norms(v).shape)
        for v in model.trainable_variables
        if v.path.endswith("kernel")
    }
    assert shapes == {
        "query": (12, 1, 1), "key": (12, 1, 1), "value": (12, 1, 1), "attention_output": (3, 4, 1)
    }  # fmt: skip


def test_a_model_loaded_from_a_file_is_bound_the_same(tmp_path):
    layer = keras.layers.Conv2DTranspose(5, 3, name="up")
    model = images(layer)
    model.compile(kr.RMDA(0.1, 1.0, kr.GroupLasso(0.1)), "mse")
    model.fit(np.ones((4, 8, 8, 4)), np.ones((4, 3)), verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    kernel = loaded.get_layer("up").kernel
    assert tuple(loaded.optimizer.penalty_of(kernel).group_norms(kernel).shape) == (1, 1, 1, 4)


# ---- found by a first user


def test_patterns_bind_the_same_after_loading_though_keras_drops_the_models_name(tmp_path):
    model = network()
    schedule = keras.optimizers.schedules.ExponentialDecay(1e-2, 10, 0.9)
    by_path = {"net/a/kernel": kr.GroupLasso(schedule), "b/.*kernel": kr.L1(1e-3)}
    train(kr.LinBreg(0.05, regularizer=by_path, exclude=["net/b/.*"]), model)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    for each in (model, loaded):
        penalties = [each.optimizer.penalty_of(v) for v in each.trainable_variables]
        assert [type(psi) for psi in penalties] == [kr.GroupLasso, *[type(None)] * 3]
        each.fit(X, Y, batch_size=16, shuffle=False, verbose=0)
    np.testing.assert_allclose(weights(loaded), weights(model), atol=1e-7)


@pytest.mark.skipif(BACKEND == "jax", reason="JAX traces steps without values: call restart() there")
@pytest.mark.parametrize("kind", DEFAULTS)
def test_a_model_saved_before_its_first_step_begins_at_its_own_weights(kind, tmp_path):
    model = network()
    model.set_weights([w + 1.0 for w in model.get_weights()])
    model.compile(maker(kind)(regularizer=kr.L1(1e-3)), "mse")
    model.save(tmp_path / "m.keras")
    with pytest.warns(kr.SparsityWarning, match="begins anew.*before its first step"):
        loaded = keras.models.load_model(tmp_path / "m.keras")
    for each in (model, loaded):
        each.fit(X, Y, batch_size=16, shuffle=False, verbose=0)
    np.testing.assert_allclose(weights(loaded), weights(model), atol=1e-6)


@pytest.mark.parametrize("psi", [kr.NuclearNorm(0.1), kr.NonNegativeL1(0.1)], ids=repr)
def test_dessilbi_refuses_penalties_that_are_more_than_a_support(psi):
    with pytest.raises(ValueError, match="net/a/kernel"):
        kr.DessiLBI(regularizer=psi).build(network().trainable_variables)


def test_the_structured_value_is_inside_the_constraint():
    model, optimizer = network(kernel_constraint="non_neg"), kr.RMDA(0.1, 0.5, kr.L1(1e-3))
    train(optimizer, model)
    optimizer.restart()
    model.get_layer("a").kernel.assign(-np.ones((6, 8)))
    assert number(optimizer.structured_value(model.get_layer("a").kernel)).min() >= 0


def test_a_strength_below_zero_counts_as_zero():
    decay = keras.optimizers.schedules.PolynomialDecay(1e-2, 2, end_learning_rate=-1.0)
    optimizer = train(kr.ProxSGD(0.05, regularizer=kr.L1(decay))).optimizer
    assert float(number(optimizer.penalty_of(optimizer._trainable_variables[0]).strength)) == 0.0


def test_exclude_may_be_any_iterable():
    optimizer = kr.ProxSGD(regularizer=kr.L1(0.1), exclude=(pattern for pattern in ["net/b/.*"]))
    optimizer.build(network().trainable_variables)
    assert [psi is not None for psi in optimizer._penalties] == [True, False, False, False]


def test_path_refuses_paths_that_are_not_unique():
    def nested(name):
        x = keras.Input((6,))
        return keras.Model(x, keras.layers.Dense(3, name="d")(x), name=name)

    x = keras.Input((6,))
    model = keras.Model(x, keras.layers.Add()([nested("one")(x), nested("two")(x)]))
    path = kr.callbacks.SolutionPath()
    with pytest.raises(ValueError, match="d/kernel"):
        train(maker(kr.LinBreg)(regularizer=kr.L1(0.1)), model, callbacks=[path])


def test_path_begins_anew_with_another_optimizer():
    path, model = kr.callbacks.SolutionPath(), network()
    for psi in (kr.L1(0.1), kr.GroupLasso(0.1)):
        train(maker(kr.LinBreg)(regularizer=psi), model, callbacks=[path])
        assert path.epochs == 2


def test_monitor_knows_bfloat16():
    keras.config.set_dtype_policy("bfloat16")
    try:
        model = network()
    finally:
        keras.config.set_dtype_policy("float32")
    train(kr.RMDA(0.02, regularizer=kr.GroupLasso(5e-2)), model, callbacks=[kr.callbacks.SparsityMonitor(macs=False)])
