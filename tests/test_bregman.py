"""Bregman training beyond one strength: two levels, numbers by variable, laws of the strength, against plain NumPy.

Over a minute, since every law and mode trains for itself.
"""

import warnings

import keras
import numpy as np
import pytest
from backend import MODES, number, stepper

import keras_rmda as kr

SHAPE = (5, 4)
RANDOM = np.random.default_rng(0)
H, TARGET = RANDOM.uniform(0.5, 2.0, SHAPE), RANDOM.normal(size=SHAPE)
BIAS_TARGET = RANDOM.normal(size=4)
START = np.where(RANDOM.uniform(size=SHAPE) < 0.3, RANDOM.normal(size=SHAPE), 0.0)
START[:2] = 0.0  # two groups that are to enter
NOISE = 0.3 * RANDOM.normal(size=(60, *SHAPE))


def soft(w, t):
    return np.sign(w) * np.maximum(np.abs(w) - t, 0.0)


def shrunk_rows(w, t):
    """The proximal map of the group lasso over rows, weighted by the root of their size."""
    norm = np.linalg.norm(w, axis=1, keepdims=True)
    t = t * np.sqrt(w.shape[1])
    return np.where(norm > t, w * (1 - t / np.maximum(norm, t)), 0.0)


def rows(w):
    norm = np.linalg.norm(w, axis=1, keepdims=True)
    return np.sqrt(w.shape[1]) * w / np.where(norm == 0, 1, norm)


PENALTIES = {
    "L1": (kr.L1, soft, np.sign),
    "groups": (lambda strength: kr.GroupLasso(strength, 0), shrunk_rows, rows),
}


def reference(kind, penalty, strength, steps, delta=1.0, momentum=0.0, m=0, lr=0.1, bias_delta=1.0, bias_rate=1.0):
    """The papers' formulas, one weight matrix with the penalty and a bias without; yields both after each step."""
    _, prox, subgradient = PENALTIES[penalty]
    w, b = START.copy(), np.zeros(4)
    v, vb = w / delta + strength * subgradient(w), b / bias_delta
    state = {name: np.zeros_like(x) for name, x in (("m", w), ("u", w), ("n", w), ("mb", b), ("ub", b), ("nb", b))}
    active = np.ones(SHAPE)
    for t in range(1, steps + 1):
        dense = (t - 1) % (m + 1) == 0
        a = np.ones(SHAPE) if dense else active
        g, gb = H * (w - TARGET) + NOISE[t - 1], b - BIAS_TARGET
        for suffix, x, grad, moves, rate in (("", "v", g, a, lr), ("b", "vb", gb, np.ones(4), lr * bias_rate)):
            if kind == "LinBreg":
                change = momentum * state["m" + suffix] + (1 - momentum) * rate * grad
                state["m" + suffix] = np.where(moves > 0, change, state["m" + suffix])
            else:
                state["n" + suffix] += moves
                n = np.maximum(state["n" + suffix], 1)
                for key, beta, new in (("m", 0.9, grad), ("u", 0.999, grad**2)):
                    old = state[key + suffix]
                    state[key + suffix] = np.where(moves > 0, beta * old + (1 - beta) * new, old)
                change = rate * (state["m" + suffix] / (1 - 0.9**n))
                change = change / (np.sqrt(state["u" + suffix] / (1 - 0.999**n)) + 1e-8)
            if x == "v":
                v = v - moves * change
            else:
                vb = vb - change
        w, b = prox(delta * v, delta * strength), bias_delta * vb
        if dense:
            active = (w != 0).astype(float)
        yield w, b


def problem():
    kernel = keras.Variable(START, dtype="float64", name="kernel")
    bias = keras.Variable(np.zeros(4), dtype="float64", name="bias")

    def gradients(values, noise):
        h, target, bias_target = (keras.ops.convert_to_tensor(x) for x in (H, TARGET, BIAS_TARGET))
        return [h * (values[0] - target) + noise, values[1] - bias_target]

    return [kernel, bias], gradients


CASES = {
    "two levels": {"coarse_steps": 4},
    "two levels, delta": {"coarse_steps": 2, "delta": 0.7},
    "delta of kernels": {"delta": {"kernel": 2.0}},
    "rates": {"rates": {"bias": 0.25}},
    "all": {"coarse_steps": 3, "delta": {"kernel": 0.5}, "rates": {"bias": 3.0}},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("kind", ["LinBreg", "AdaBreg"])
@pytest.mark.parametrize("case", CASES)
def test_iterates_are_those_of_the_formulas(case, kind, penalty, mode, float64):
    arguments, momentum = CASES[case], 0.6 if case == "all" and kind == "LinBreg" else 0.0
    lr, strength = (0.2, 0.3) if kind == "LinBreg" else (0.05, 0.1)
    psi = PENALTIES[penalty][0](strength)
    more = {"momentum": momentum} if momentum else {}
    optimizer = getattr(kr, kind)(lr, regularizer=psi, **arguments, **more)
    variables, gradients = problem()
    optimizer.build(variables)
    step = stepper(optimizer, variables, gradients, mode)
    delta, rates = arguments.get("delta", 1.0), arguments.get("rates", {})
    of_kernel, of_bias = (delta.get("kernel", 1.0), 1.0) if isinstance(delta, dict) else (delta, delta)
    m, bias_rate = arguments.get("coarse_steps", 0), rates.get("bias", 1.0)
    expected = reference(kind, penalty, strength, 40, of_kernel, momentum, m, lr, of_bias, bias_rate)
    zeros = []
    for t, (w, b) in enumerate(expected):
        step(keras.ops.convert_to_tensor(NOISE[t]))
        np.testing.assert_allclose(number(variables[0]), w, atol=1e-11)
        np.testing.assert_allclose(number(variables[1]), b, atol=1e-11)
        np.testing.assert_array_equal(number(variables[0]) == 0, w == 0)
        zeros.append((w == 0).mean())
    assert 0 < zeros[0] < 1
    assert len(set(zeros)) > 1


def test_no_coarse_steps_are_the_method_of_one_level_and_keep_nothing_more():
    variables, _ = problem()
    for kind, names in ((kr.LinBreg, {"v"}), (kr.AdaBreg, {"v", "m", "u"})):
        optimizer = kind(regularizer=kr.L1(0.1))
        optimizer.build(variables)
        assert set(optimizer._slots[0]) == names


def test_the_loss_falls_in_every_step_of_both_levels_below_the_bound(float64):
    """With exact gradients and tau < 2 / (delta L), by at least (1 / (delta tau) - L / 2) |Theta_t - Theta_{t-1}|^2."""
    delta, lipschitz = 2.0, H.max()
    tau = 0.9 * 2 / (delta * lipschitz)
    optimizer, (variables, _) = kr.LinBreg(tau, delta, regularizer=kr.L1(0.5), coarse_steps=5), problem()
    optimizer.build(variables[:1])
    w = number(variables[0])
    for t in range(200):
        before, loss = w, (H * (w - TARGET) ** 2).sum() / 2
        optimizer.apply([keras.ops.convert_to_tensor(H * (w - TARGET))], variables[:1])
        w = number(variables[0])
        bound = (1 / (delta * tau) - lipschitz / 2) * ((w - before) ** 2).sum()
        assert loss - (H * (w - TARGET) ** 2).sum() / 2 >= bound - 1e-12, t
    np.testing.assert_allclose(w, TARGET, atol=1e-6)


def test_norms_of_clipping_do_not_count_what_rests(float64):
    free, clipped = (kr.LinBreg(1.0, regularizer=kr.L1(5.0), coarse_steps=9, clipnorm=n) for n in (None, 1.0))
    gradient = np.where(START != 0, 0.01, 100.0)
    for optimizer in (free, clipped):
        variables, _ = problem()
        optimizer.build(variables[:1])
        for _ in range(2):
            optimizer.apply(
                [keras.ops.convert_to_tensor(gradient * (number(optimizer._step_count) > 0))], variables[:1]
            )
        optimizer.last = number(variables[0])
    np.testing.assert_array_equal(free.last, clipped.last)
    np.testing.assert_allclose(free.last, np.where(START != 0, START - 0.01, 0.0), atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coarse_steps": -1}, "coarse_steps=-1"),
        ({"coarse_steps": 1.5}, "coarse_steps=1.5"),
        ({"delta": {"kernel": 0.0}}, "delta=0.0"),
        ({"delta": {"(": 1.0}}, "regular expressions"),
        ({"rates": {"kernel": -1.0}}, "rates=-1.0"),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [kr.LinBreg, kr.AdaBreg])
def test_bad_arguments(kind, arguments, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(") if message.startswith("(") else message):
        kind(**arguments)


@pytest.mark.parametrize("name", ["regularizer", "delta", "rates"])
def test_a_number_by_layer_that_matches_nothing_is_told_before_training(name):
    value = {"regularizer": {"dense_9/kernel": kr.L1(0.1)}}.get(name, {"dense_9/kernel": 0.5})
    optimizer = kr.LinBreg(0.1, **{name: value})
    with pytest.warns(kr.SparsityWarning, match=r"match no trainable variable: \['dense_9/kernel'\].*kernel, bias"):
        optimizer.build(problem()[0])


def test_several_patterns_are_refused():
    optimizer = kr.LinBreg(0.1, rates={"k.*": 0.5, ".*l": 0.1})
    with pytest.raises(ValueError, match="Several patterns of `rates`"):
        optimizer.build(problem()[0])


def network(width=30):
    keras.utils.set_random_seed(0)
    some = {"bias_initializer": keras.initializers.Constant(0.1)}  # units without weights have gradients
    layers = [keras.layers.Dense(width, "relu", name=name, **some) for name in ("first", "second")]
    return keras.Sequential([keras.Input((16,)), *layers, keras.layers.Dense(3, name="last", **some)], name="net")


X = np.random.default_rng(0).normal(size=(256, 16)).astype("float32")
Y = np.tanh(X[:, :4] @ np.random.default_rng(1).normal(size=(4, 3))).astype("float32")


def train(model, optimizer, epochs=20, callbacks=(), **arguments):
    if optimizer is not None:
        model.compile(optimizer, "mse")
    return model.fit(
        X, Y, batch_size=32, epochs=epochs, verbose=0, shuffle=False, callbacks=list(callbacks), **arguments
    ).history


def test_coupled_groups_need_one_delta():
    model = network()
    psi = kr.GroupLasso(0.1, groups=kr.coupled_groups(model))
    model.compile(kr.LinBreg(0.1, {"second/kernel": 2.0}, regularizer=psi), "mse")
    with pytest.raises(ValueError, match=r"one `delta`.*second/kernel"):
        train(model, None, 1)


def test_groups_with_different_deltas_are_not_updated_as_one():
    """Kernels with the same penalty are updated side by side, with one step of the proximal map."""
    ends = []
    for names in ({"first/kernel": 2.0}, {"first/kernel": 2.0, "second/kernel": 1.0, "last/kernel": 1.0}):
        for alone in (False, True):
            model, psi = network(), kr.GroupLasso(0.1, "output")
            psi = (
                {f"{name}/kernel": kr.GroupLasso(0.1, "output") for name in ("first", "second", "last")}
                if alone
                else psi
            )
            train(model, kr.LinBreg(0.1, names, regularizer=psi), 2)
            ends.append(np.concatenate([number(w).reshape(-1) for w in model.weights]))
    for each in ends[1:]:
        np.testing.assert_allclose(each, ends[0], atol=1e-6)


@pytest.mark.parametrize("kind", [kr.LinBreg, kr.AdaBreg])
@pytest.mark.parametrize("groups", ["L1", "output", "coupled"])
def test_what_is_zero_rests_in_coarse_steps_and_enters_in_dense_ones(kind, groups):
    model = network()
    grouping = kr.coupled_groups(model) if groups == "coupled" else "output"
    kr.sparsify(model, 0.3, by="weight" if groups == "L1" else "group", groups=grouping, seed=0)
    strength = 0.005 if groups == "coupled" and kind is kr.LinBreg else 0.02
    psi = kr.L1(strength) if groups == "L1" else kr.GroupLasso(strength, groups=grouping)
    lr = 0.1 if kind is kr.LinBreg else 0.01
    alive = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            alive.append(np.concatenate([number(layer.kernel).reshape(-1) != 0 for layer in model.layers]))

    model.compile(kind(lr, regularizer=psi, coarse_steps=7), "mse", run_eagerly=True)
    train(model, None, 6, [Watch()])
    for period in range(6):  # eight steps each, the first of which is dense
        first, *others = alive[8 * period : 8 * period + 8]
        assert not any((other & ~first).any() for other in others)
    assert alive[0].sum() < alive[40].sum() < alive[0].size


def test_configurations_and_files_keep_all(tmp_path):
    optimizer = kr.AdaBreg(0.01, {".*kernel": 2.0}, regularizer=kr.L1(0.05), rates={".*bias": 0.5}, coarse_steps=3)
    again = kr.AdaBreg.from_config(optimizer.get_config())
    assert (again.delta, again.rates, again.coarse_steps) == ({".*kernel": 2.0}, {".*bias": 0.5}, 3)
    model = network()
    train(model, optimizer, 2)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        train(each, None, 2)
    for a, b in zip(model.weights, loaded.weights):
        np.testing.assert_allclose(number(a), number(b), atol=1e-6)


# ---- laws of the strength

may_miss = pytest.mark.filterwarnings("ignore:Training ended with:keras_rmda.SparsityWarning")
"""Trainings of seconds may end further from the target than what is worth a warning."""


def test_the_dual_variable_is_rebuilt_and_moments_are_kept(float64):
    psi = kr.L1(0.3)
    optimizer, (variables, gradients) = kr.AdaBreg(0.05, 0.5, regularizer=psi), problem()
    optimizer.build(variables)
    for t in range(5):
        optimizer.apply(gradients([keras.ops.convert_to_tensor(v) for v in variables], NOISE[t]), variables)
    kept = {name: number(optimizer._slots[0][name]) for name in ("m", "u")}
    theta = number(variables[0])
    psi.strength = 0.7
    optimizer.rebuild_dual()
    v = number(optimizer._slots[0]["v"])
    np.testing.assert_allclose(v, theta / 0.5 + 0.7 * np.sign(theta), atol=1e-14)
    np.testing.assert_allclose(soft(0.5 * v, 0.5 * 0.7), theta, atol=1e-14)
    assert number(optimizer._step_count) == 5
    for name, value in kept.items():
        np.testing.assert_array_equal(number(optimizer._slots[0][name]), value)


def test_feedback_is_the_formula():
    law, strength, crossings, sign = kr.callbacks.Feedback(0.5, 0.9), 2.0, 0, 0
    for gap in (-0.4, -0.2, 0.1, 0.0, 0.05, -0.02, 0.01, 0.3):
        now = int(np.sign(gap))
        crossings += now * sign < 0
        sign = now or sign
        alpha = 0.5 * 0.9 ** max(crossings - 1, 0)
        law.see(gap)
        expected = strength * (1 + alpha * gap) if gap > 0 else strength / (1 + alpha * -gap)
        assert law.moved(strength, gap) == pytest.approx(expected, rel=1e-12)
        strength = expected
    assert crossings == 3
    again = kr.callbacks.Feedback()
    again.state = law.state
    assert again.state == law.state == {"sign": 1, "crossings": 3}


@pytest.mark.parametrize(("warmup", "cooldown"), [(0, 0), (2, 0), (0, 2), (1, 1)])
def test_increments_are_those_of_the_scheduler_of_lambda(warmup, cooldown):
    """The authors' scheduler counts warm-up and cool-down in variables of its own, which this follows."""
    law = kr.callbacks.Increments(0.1, warmup, cooldown)
    strength, expected, left, cool = 0.15, 0.15, warmup, cooldown
    for gap in (0.2, -0.1, -0.1, -0.1, -0.1, 0.3, 0.3, 0.3, -0.2, 0.1, 0.1):
        if left > 0:
            left -= 1
        elif left == 0:
            left = -1
        elif cool > 0:
            cool -= 1
        else:
            cool, expected = cooldown, expected + 0.1 if gap > 0 else max(expected - 0.1, 0.0)
        law.see(gap)
        strength = law.moved(strength, gap)
        assert strength == pytest.approx(expected, abs=1e-12)


@may_miss
@pytest.mark.parametrize("kind", [kr.LinBreg, kr.AdaBreg])
@pytest.mark.parametrize("start", [0.05, 1.0], ids=["grows", "falls"])
@pytest.mark.parametrize("groups", ["L1", "output", "coupled"])
def test_training_ends_at_the_density(kind, start, groups):
    model = network()
    if start < 1:
        kr.sparsify(model, start, by="weight" if groups == "L1" else "group", groups="output", seed=0)
    psi = (
        kr.L1(0.1) if groups == "L1" else kr.GroupLasso(0.1, groups if groups == "output" else kr.coupled_groups(model))
    )
    target = kr.callbacks.TargetSparsity(0.3, "weights" if groups == "L1" else "groups", control="feedback")
    logs = train(model, kind(0.1 if kind is kr.LinBreg else 0.01, regularizer=psi), 40, [target])
    name = f"{target.metric}_left"
    # 63 groups of a small network, which AdaBreg's steps of constant size push on, are no fine scale.
    assert logs[name][-1] == pytest.approx(0.3, abs=0.03 if groups == "L1" else 0.1)
    assert logs["strength"][-1] == pytest.approx(psi.strength) != 0.1
    assert logs["loss"][-1] < logs["loss"][0]
    if groups == "L1":
        kernels = [number(layer.kernel) for layer in model.layers]
        assert sum((w != 0).sum() for w in kernels) / sum(w.size for w in kernels) == pytest.approx(logs[name][-1])


@may_miss
@pytest.mark.parametrize("metric", ["macs", "parameters", "groups"])
def test_a_law_and_what_strip_leaves(metric):
    model = network()
    psi = kr.GroupLasso(0.1, groups=kr.coupled_groups(model))
    target = kr.callbacks.TargetSparsity(0.3, metric, control=kr.callbacks.Feedback(2.0))
    logs = train(model, kr.LinBreg(0.1, regularizer=psi), 40, [target])
    report = kr.analyze(model)
    found = {
        "macs": report.macs_after / report.macs,
        "parameters": report.parameters_after / report.parameters,
        "groups": len(kr.coupled_groups(kr.strip(model))) / len(psi.groups),
    }[metric]
    assert logs[f"{metric}_left"][-1] == pytest.approx(found)
    assert found == pytest.approx(0.3, abs=0.1)


@may_miss
def test_increments_in_a_training():
    model = network()
    kr.sparsify(model, 0.05, seed=0)
    law = kr.callbacks.Increments(0.005, every=4)
    target = kr.callbacks.TargetSparsity(0.2, "weights", control=law)
    logs = train(model, kr.LinBreg(0.1, regularizer=kr.L1(0.05)), 60, [target])
    left, strength = np.array(logs["weights_left"]), np.array(logs["strength"])
    assert left.max() > 0.25  # it grows past the target, and comes back slowly
    assert left[-1] < 0.9 * left.max()
    assert (np.diff(strength)[left[:-1] > 0.25] > 0).all()


@may_miss
def test_strengths_of_several_penalties_keep_their_ratio_under_feedback():
    model, first, others = network(), kr.L1(0.2), kr.L1(0.1)
    optimizer = kr.LinBreg(0.1, regularizer={"first/kernel": first, ".*(second|last)/kernel": others})
    train(model, optimizer, 5, [kr.callbacks.TargetSparsity(0.3, "weights", control="feedback")])
    assert first.strength / others.strength == pytest.approx(2.0)
    assert others.strength != 0.1


@pytest.mark.parametrize("control", ["feedback", "increments"])
def test_a_training_that_was_stopped_goes_on(control, tmp_path):
    def model_and_callbacks():
        model = network()
        model.compile(kr.LinBreg(0.1, regularizer=kr.L1(0.05)), "mse")
        law = kr.callbacks.Feedback(every=3) if control == "feedback" else kr.callbacks.Increments(0.01, cooldown=1)
        return model, [kr.callbacks.TargetSparsity(0.3, "weights", control=law)]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", kr.SparsityWarning)  # eight epochs may not reach the target
        model, callbacks = model_and_callbacks()
        whole = train(model, None, 8, callbacks)
        model, callbacks = model_and_callbacks()

        class Stop(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                self.model.stop_training = epoch == 4

        train(model, None, 8, [*callbacks, Stop()])
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        logs = train(loaded, None, 8, model_and_callbacks()[1], initial_epoch=5)
    for name in ("strength", "weights_left", "loss"):
        np.testing.assert_allclose(logs[name], whole[name][5:], rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "make", "message"),
    [
        ({"control": "wish"}, None, "control='wish'"),
        ({"control": "choice", "metric": "weights"}, None, "metric='weights'"),
        ({"control": "feedback", "metric": "weights", "multiple_of": 8}, None, "multiple_of=8"),
        ({"control": "feedback", "metric": "weights"}, lambda: kr.LinBreg(0.1), "`regularizer`, such as"),
        ({"control": "feedback", "metric": "weights"}, lambda: "sgd", "optimizer=SGD"),
        ({"control": "feedback", "metric": "weights"}, lambda: kr.LinBreg(regularizer=kr.L1(0.0)), "more than 0"),
        (
            {"control": "feedback", "metric": "weights"},
            lambda: kr.LinBreg(regularizer=kr.L1(keras.optimizers.schedules.CosineDecay(0.1, 10))),
            "is a schedule",
        ),
        (
            {"control": "feedback", "metric": "weights", "target": 1e9},
            lambda: kr.LinBreg(regularizer=kr.L1(0.1)),
            "1,470",
        ),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_a_law_refuses_before_training(arguments, make, message):
    def attempt():
        target = kr.callbacks.TargetSparsity(**{"target": 0.3} | arguments)
        train(network(), make(), 1, [target])

    with pytest.raises(ValueError, match=message):
        attempt()


@pytest.mark.parametrize("make", [kr.callbacks.Feedback, kr.callbacks.Increments])
@pytest.mark.parametrize(
    "arguments", [{"gain": 0.0}, {"decay": 1.5}, {"every": 0}, {"increment": -1.0}, {"cooldown": -1}]
)
def test_bad_arguments_of_laws(make, arguments):
    [(name, value)] = arguments.items()
    if name not in make().get_config():
        pytest.skip("not one of its arguments")
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        make(**arguments)


def test_a_target_that_is_missed_is_told():
    target = kr.callbacks.TargetSparsity(0.3, "weights", control=kr.callbacks.Feedback(1e-6))
    with pytest.warns(kr.SparsityWarning, match=r"not with 30.0%.*Feedback"):
        train(network(), kr.LinBreg(0.1, regularizer=kr.L1(1e-6)), 2, [target])


@may_miss
def test_other_optimizers_take_a_law():
    model, psi = network(), kr.L1(1e-3)
    logs = train(
        model, kr.ProxSGD(0.1, 0.5, psi), 80, [kr.callbacks.TargetSparsity(0.3, "weights", control="feedback")]
    )
    assert logs["weights_left"][-1] == pytest.approx(0.3, abs=0.08)


# ---- penalties of the authors by other names


def test_penalties_of_the_authors_code(rng, float64):
    """Their maps on (outputs, inputs), as docs/methods.md has them in a table."""
    w, mu, step = 3 * rng.normal(size=(4, 6)) * [[0.1], [1], [1], [1]], 0.7, 0.9

    def l1_l2(x, t):
        t = t * np.sqrt(x.shape[1])
        norm = np.linalg.norm(x, axis=1, keepdims=True)
        return x * np.clip(1 - np.minimum(t / norm, 1), 0, None)

    for psi, expected in (
        (kr.L1(mu), soft(w, step * mu)),
        (kr.GroupLasso(mu, "output"), l1_l2(w, step * mu)),
        # Their l1 and l1_l2 have the strength mu, and are called with the step delta * mu.
        (kr.SparseGroupLasso(2 * mu**2, 0.5, "output"), l1_l2(soft(w, step * mu * mu), step * mu * mu)),
    ):
        found = number(psi.prox(keras.ops.convert_to_tensor(w.T), step)).T
        np.testing.assert_allclose(found, expected, atol=1e-12)
        assert 0 < (expected == 0).sum() < expected.size
    subgradient = mu * (mu * np.sign(w) + mu * np.sqrt(6) * w / np.linalg.norm(w, axis=1, keepdims=True))
    found = number(kr.SparseGroupLasso(2 * mu**2, 0.5, "output").subgradient(keras.ops.convert_to_tensor(w.T))).T
    np.testing.assert_allclose(found, subgradient, atol=1e-12)
