"""Dep-L0 as its authors have it, against computations of one's own in float64; and gates with a target."""

import functools
import warnings

import keras
import numpy as np
import pytest
from backend import number
from keras import layers as L

import keras_rmda as kr
from keras_rmda.gates.dependent import DependentL0Gate
from keras_rmda.gates.generator import GateGenerator
from keras_rmda.gates.penalty import ChainPenalty
from keras_rmda.gates.training import at_target, expected_macs
from keras_rmda.platform.compat import layers_of
from keras_rmda.structure.trace import trace

CLOSED = -np.log(11.0)  # log alpha at and below which a gate of inference is 0: sigmoid(log alpha) 1.2 = .1


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def opened(log_alpha):
    """P(z > 0), from the distribution function of the paper at 0."""
    return 1.0 - sigmoid(2.0 / 3.0 * np.log((0.1 / 1.2) / (1.0 - 0.1 / 1.2)) - log_alpha)


def normalized(x, filters, name, size=3, strides=1, act=True):
    x = L.Conv2D(filters, size, strides, padding="same", use_bias=False, name=name)(x)
    x = L.BatchNormalization(name=f"{name}_norm")(x)
    return L.ReLU(name=f"{name}_relu")(x) if act else x


def resnet(blocks, widths=(16, 32, 64), size=8):
    """A residual network for CIFAR with basic blocks; 9 of them in each stage are ResNet-56."""
    inputs = keras.Input((size, size, 3))
    x = normalized(inputs, widths[0], "stem")
    for stage, width in enumerate(widths):
        for k in range(blocks):
            name, strides = f"s{stage}b{k}", 2 if stage and not k else 1
            y = normalized(normalized(x, width, f"{name}_in", strides=strides), width, f"{name}_out", act=False)
            if strides > 1:
                x = normalized(x, width, f"{name}_cut", 1, strides, act=False)
            x = L.ReLU()(L.Add()([x, y]))
    return keras.Model(inputs, L.Dense(10, name="top")(L.GlobalAveragePooling2D()(x)), name=f"resnet{6 * blocks + 2}")


def vgg():
    """VGG16 with batch normalization."""
    x = inputs = keras.Input((32, 32, 3))
    for stage, (width, n) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
        for k in range(n):
            x = normalized(x, width, f"conv{stage}_{k}")
        x = L.MaxPooling2D()(x)
    return keras.Model(inputs, L.Dense(10, name="top")(L.Flatten()(x)), name="vgg16")


@functools.cache
def published(make, kind="dep_l0", direction="backward", seed=0):
    model = make(9) if make is resnet else make()
    return kr.gates.insert(model, kind, direction=direction, preset="published", seed=seed)


def generator_of(model):
    [found] = [layer for layer in layers_of(model) if isinstance(layer, GateGenerator)]
    return found


def chain_of(generator, direction):
    """The log alphas of a generator, in float64."""
    count = len(generator.channels)
    order = range(count) if direction == "forward" else range(count)[::-1]
    a, result = np.ones(generator.matrices[order[0]].shape[0]), {}
    for k in order:
        a = result[k] = np.log(100.0) * np.tanh(
            a @ number(generator.matrices[k]).astype("float64") + number(generator.biases[k])
        )
    return [result[k] for k in range(count)]


def paired(log_alphas, areas, strength, inputs=3):
    """What the authors' `regularization` sums: lambda k^2 E[open before] E[open]; and its gradient by log alpha."""
    counts = [inputs, *(opened(a).sum() for a in log_alphas)]
    value = strength * sum(area * n * m for area, n, m in zip(areas, counts, counts[1:]))
    slopes = [opened(a) * (1.0 - opened(a)) for a in log_alphas]
    behind = [*(area * n for area, n in zip(areas[1:], counts[2:])), 0.0]
    gradient = [strength * (area * n + m) * slope for area, n, m, slope in zip(areas, counts, behind, slopes)]
    return value, np.concatenate(gradient)


def counted(log_alphas, areas, strength, inputs=3):
    """Louizos' count: lambda inputs k^2 E[open]; and its gradient."""
    before = [inputs, *(len(a) for a in log_alphas)]
    value = strength * sum(area * n * opened(a).sum() for area, n, a in zip(areas, before, log_alphas))
    gradient = [strength * area * n * opened(a) * (1 - opened(a)) for area, n, a in zip(areas, before, log_alphas)]
    return value, np.concatenate(gradient)


def penalty_of(model):
    model(np.zeros((1, *model.input_shape[1:]), "float32"))
    return float(sum(number(each) for each in model.losses))


# ---- the published networks


def test_resnet56_pays_for_pairs_as_the_authors_do():
    """Their figures: .344 of pairs where Louizos' count is .376, and 1.91 times the gradient."""
    model = published(resnet)
    log_alphas, areas = chain_of(generator_of(model), "backward"), [9.0] * 28
    pairs, pairs_gradient = paired(log_alphas, areas, 1e-6)
    count, count_gradient = counted(log_alphas, areas, 1e-6)
    assert penalty_of(model) == pytest.approx(pairs, rel=1e-5)
    assert pairs == pytest.approx(0.344, abs=0.01)
    assert count == pytest.approx(0.376, abs=0.01)
    assert np.linalg.norm(pairs_gradient) / np.linalg.norm(count_gradient) == pytest.approx(1.91, abs=0.06)


def test_published_generators_begin_with_seven_gates_in_a_hundred_closed():
    shares = []
    for direction, seed in (("forward", 1), ("backward", 2), ("forward", 3), ("backward", 4)):
        generator = GateGenerator([16] * 10 + [32] * 9 + [64] * 9, direction, seed, begin="published")
        found = [number(a).ravel() for a in generator(np.zeros((1, 1)))]
        np.testing.assert_allclose(np.concatenate(found), np.concatenate(chain_of(generator, direction)), atol=2e-4)
        shares.append((np.concatenate(found) <= CLOSED).mean())
        bounds = [np.abs(number(v)).max() * v.shape[0] ** 0.5 for v in generator.matrices.values()]
        assert 0.95 < max(bounds) <= 1.0
        biases = np.concatenate([number(v) for v in generator.biases.values()])
        assert biases.mean() == pytest.approx(3.0, abs=0.002)
        assert biases.std() == pytest.approx(0.01, rel=0.1)
    assert np.mean(shares) == pytest.approx(0.069, abs=0.012)
    open_ones = GateGenerator([16] * 10, "forward", 0)(np.zeros((1, 1)))
    assert all((number(a) > -CLOSED).all() for a in open_ones)


def test_the_gradient_of_pairs(float64):
    from backend import gradient

    areas, sizes = [9.0, 1.0, 25.0], (4, 6, 5)
    flat = np.random.default_rng(0).normal(1.0, 2.0, sum(sizes))
    penalty = ChainPenalty(areas, [0.3] * 3, pairs=3.0)
    parts = lambda a: keras.ops.split(a, np.cumsum(sizes)[:-1].tolist())  # noqa: E731
    value, expected = paired(np.split(flat, np.cumsum(sizes)[:-1]), areas, 0.3)
    assert float(number(penalty.penalty(parts(keras.ops.convert_to_tensor(flat))))) == pytest.approx(value, rel=1e-6)
    np.testing.assert_allclose(gradient(lambda a: penalty.penalty(parts(a)), flat), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "kind", "direction", "strength"),
    [
        (resnet, "dep_l0", "backward", 1e-6),
        (resnet, "l0", "forward", 5e-7),
        (vgg, "dep_l0", "backward", 1e-6),
    ],
)
def test_the_preset_is_the_authors_setting(make, kind, direction, strength):
    model = published(make, kind, direction)
    generator = generator_of(model)
    assert set(generator.penalty.strengths) == {strength}
    assert set(generator.penalty.costs) == {9.0}
    assert generator.penalty.pairs == 3.0
    gates = [layer for layer in layers_of(model) if hasattr(layer, "frozen") and layer is not generator]
    assert len(gates) == (28 if make is resnet else 13)
    assert all(gate.per_example and gate.strength == 0.0 for gate in gates)
    if make is vgg:
        assert generator.matrices[12].shape == (64, 512)  # backward, from 64 ones
    if make is resnet:
        assert "stem_gate" in [gate.name for gate in gates]
        assert not any("out" in gate.name for gate in gates)


def test_resnet50_pays_the_kernel_area_twice():
    from keras_rmda.gates import presets
    from keras_rmda.gates.costs import Place

    places = [Place([], [], -1, np.arange(width), area=area) for width, area in presets.RESNET50]
    found = presets.fitting(places, "resnet50")
    assert (found.pairs, found.strengths["backward"], len(found.places)) == (False, 5e-9, 33)


# ---- other networks


@pytest.mark.parametrize("kind", ["l0", "dep_l0"])
def test_pairs_in_a_network_of_ones_own(kind):
    model = kr.gates.insert(resnet(1), kind, 1e-3, where="published", cost="pairs", seed=0, begin="published")
    generator = generator_of(model)
    assert generator.channels == [16, 16, 32, 64]
    if kind == "l0":
        log_alphas = [number(generator.biases[k]).astype("float64") for k in range(4)]
        assert np.concatenate(log_alphas).mean() == pytest.approx(3.0, abs=0.01)
    else:
        log_alphas = chain_of(generator, "forward")
    assert penalty_of(model) == pytest.approx(paired(log_alphas, [9.0] * 4, 1e-3)[0], rel=1e-5)


def test_a_gate_behind_the_stem_alone_closes_the_stem_and_no_channel():
    model = kr.gates.insert(resnet(1), where="published", seed=0)
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    gate = model.get_layer("stem_gate")
    z = np.arange(16) % 2 * 1.0
    gate.frozen.assign(z)
    small = kr.strip(model)
    np.testing.assert_allclose(small.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-5)
    assert small.get_layer("s0b0_out").filters == 16
    stem = keras.Model(model.inputs, gate.output)
    assert (stem.predict(x, verbose=0)[..., ::2] == 0).all()
    whole = kr.analyze(model).macs
    assert expected_macs(trace(model), number) <= whole * (1 + 1e-6)
    gate.frozen.assign(np.zeros(16))
    assert expected_macs(trace(model), number) > 0.9 * whole


def test_strengths_of_single_layers_in_one_chain():
    strengths = {"stem": 1e-3, "s0.*": 2e-3, "s[12].*": 0.0}
    model = kr.gates.insert(resnet(1), "dep_l0", strengths, where="published", seed=0)
    gates = {name: model.get_layer(f"{name}_gate") for name in ("stem", "s0b0_in", "s1b0_in", "s2b0_in")}
    assert [gate.strength for gate in gates.values()] == [1e-3, 2e-3, 0.0, 0.0]
    assert generator_of(model).channels == [16, 16, 32, 64]
    a, b = chain_of(generator_of(model), "forward")[:2]
    expected = 1e-3 * 27 * opened(a).sum() + 2e-3 * 144 * opened(b).sum()
    assert penalty_of(model) == pytest.approx(expected, rel=1e-5)
    pairs = kr.gates.insert(resnet(1), "l0", strengths, where="published", cost="pairs")
    assert generator_of(pairs).penalty.strengths == [1e-3, 2e-3, 0.0, 0.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strength": {"stem": 1.0, "s.*": 1.0, "head.*": 1.0}}, r"match none: \['head.\*'\]"),
        ({"strength": {"stem": 1.0}}, "These layers have no strength: .*s0b0_in"),
        ({"strength": {"s.*": 1.0, ".*in": 1.0}}, "Several patterns of `strength`"),
        ({"strength": {"s.*": -1.0}}, "`strength` must be a number"),
        ({"preset": "published"}, "the authors trained no other network.*'resnet8' has 4 layers"),
        ({"preset": "published", "cost": "macs"}, "sets cost.* Received: cost='macs'"),
        ({"preset": "paper"}, "`preset` must be one of"),
        ({"target": 1.0}, "`target` must be a number"),
        ({"target": 0.5, "strength": 1e-3}, "a `target` or a strength"),
        ({"begin": "closed"}, "`begin` must be one of"),
        ({"dual_rate": 0.0}, "`dual_rate`"),
        ({"direction": "none"}, "`direction` must be one of"),
    ],
    ids=str,
)
def test_bad_input(arguments, message):
    where = {} if "preset" in arguments else {"where": "published"}
    with pytest.raises(ValueError, match=message):
        kr.gates.insert(small_resnet(), **where | arguments)


@functools.cache
def small_resnet():
    return resnet(1)


# ---- the expected L2 norm


@pytest.mark.parametrize("kind", ["l0", "dep_l0"])
def test_the_expected_l2_norm_of_what_is_open(kind):
    model = kr.gates.insert(resnet(1), kind, 0.0, seed=0)
    paths = kr.gates.decay(model, 0.02)
    assert [path.split("/")[-2] for path in paths] == ["s0b0_in", "s1b0_in", "s2b0_in"]
    expected = 0.0
    for k, name in enumerate(("s0b0_in", "s1b0_in", "s2b0_in")):
        layer, gate = model.get_layer(name), model.get_layer(f"{name}_gate")
        if kind == "l0":
            gate.log_alpha.assign(np.linspace(-4, 4, gate.log_alpha.shape[0]))
            log_alpha = np.linspace(-4, 4, gate.log_alpha.shape[0])
        else:
            log_alpha = chain_of(generator_of(model), "forward")[k]
        squares = np.square(number(layer.kernel).astype("float64")).sum((0, 1, 2))
        expected += 0.01 * (opened(log_alpha) * squares).sum()
    assert penalty_of(model) == pytest.approx(expected, rel=1e-5)
    x = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype("float32")
    model.compile("sgd", "mse")
    kernel = number(model.get_layer("s0b0_in").kernel)
    assert np.isfinite(model.fit(x, np.zeros((8, 10)), verbose=0).history["loss"]).all()
    assert (number(model.get_layer("s0b0_in").kernel) != kernel).any()
    assert not kr.strip(model).losses  # of gates that are not there


def test_decay_and_what_has_one_already():
    with pytest.raises(ValueError, match="has no gates"):
        kr.gates.decay(small_resnet(), 1e-4)
    x = inputs = keras.Input((6,))
    x = L.Dense(8, "relu", kernel_regularizer="l2", name="hidden")(x)
    gated = kr.gates.insert(keras.Model(inputs, L.Dense(2)(x)))
    with pytest.raises(ValueError, match=r"hidden/kernel.* has a regularizer already"):
        kr.gates.decay(gated, 1e-4)


# ---- a target


def test_the_multiplier_is_that_of_the_lagrangian():
    """Ascent by the excess, and 0 as soon as there is none; against the same in float64."""
    penalty = ChainPenalty([2.0, 3.0], [0.0, 0.0], target=0.6, dual_rate=0.5)
    generator = GateGenerator([4, 5], "none", penalty=penalty)
    generator(np.zeros((1, 1)))
    expected = 0.0
    for log_alpha in (3.0, 2.0, 0.0, -3.0, 1.0):
        for k, n in enumerate((4, 5)):
            generator.biases[k].assign(np.full(n, log_alpha))
        generator(np.zeros((1, 1)), training=True)
        excess = opened(log_alpha) - 0.6  # all gates alike: the share is their probability
        assert float(number(generator.losses[-1])) == pytest.approx(expected * excess, abs=1e-6)
        expected = max(0.0, expected + 0.5 * excess) if excess > 0 else 0.0
        assert float(number(generator.multiplier)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "cost", "target"),
    [("l0", "weights", 0.5), ("l0", "pairs", 0.3), ("dep_l0", "pairs", 0.6)],
)
def test_training_ends_at_the_share_asked_for(kind, cost, target, tmp_path):
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    x = random.normal(size=(512, 12)).astype("float32")
    y = np.stack([x[:, 0] * x[:, 1], x[:, 2] - x[:, 3]], 1)
    net = keras.Sequential([keras.Input((12,)), L.Dense(64, "relu"), L.Dense(64, "relu"), L.Dense(2)])
    model = kr.gates.insert(net, kind, cost=cost, target=target, dual_rate=0.05, seed=0)
    model.compile(keras.optimizers.Adam(0.02 if kind == "l0" else 0.003), "mse")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", kr.SparsityWarning)
        model.fit(x, y, batch_size=64, epochs=45, verbose=0, callbacks=[kr.callbacks.FreezeGates(42)])
    gates = [layer for layer in layers_of(model) if isinstance(layer, DependentL0Gate)]
    counts = [int((number(gate.frozen) > 0).sum()) for gate in gates]
    amounts = generator_of(model).penalty.amounts
    assert sum(amounts(counts)) / sum(amounts([64, 64])) == pytest.approx(target, abs=0.02)
    model.save(tmp_path / "gated.keras")
    loaded = keras.models.load_model(tmp_path / "gated.keras")
    assert generator_of(loaded).get_config() == generator_of(model).get_config()
    np.testing.assert_allclose(loaded.predict(x[:8], verbose=0), model.predict(x[:8], verbose=0), atol=1e-6)
    small = kr.strip(model)
    np.testing.assert_allclose(small.predict(x[:8], verbose=0), model.predict(x[:8], verbose=0), atol=1e-4)


def test_what_a_target_takes_when_gates_are_frozen():
    penalty = ChainPenalty([2.0, 3.0], [0.0, 0.0], target=0.5)
    log_alphas = [np.array([4.0, 3.0, -3.0, -4.0]), np.array([1.0, -1.0, -2.9])]
    values = [np.array([1.0, 1.0, 0.0, 0.0]), np.array([0.7, 0.2, 0.0])]
    with pytest.warns(kr.SparsityWarning, match=r"leave 58.8% .* not 50.0%"):
        found = at_target(penalty, log_alphas, values)
    np.testing.assert_array_equal(np.concatenate(found) > 0, [1, 1, 0, 0, 1, 0, 0])  # 7 of 17; with the next one 10
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what is less than the target is no failure
        more = at_target(ChainPenalty([2.0, 3.0], [0.0, 0.0], target=0.8), log_alphas, values)
    np.testing.assert_array_equal(np.concatenate(more) > 0, [1, 1, 0, 0, 1, 1, 1])
    assert more[1][2] == pytest.approx(1 / (1 + np.exp(2.9)))
    dead = [np.array([4.0, 3.0]), np.array([-4.5, -4.6])]
    with pytest.warns(kr.SparsityWarning):
        least = at_target(ChainPenalty([1.0, 1.0], [0.0, 0.0], target=0.3), dead, [np.ones(2), np.zeros(2)])
    np.testing.assert_array_equal(np.concatenate(least) > 0, [1, 0, 1, 0])  # no layer is closed as a whole
