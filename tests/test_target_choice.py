"""Which groups `TargetSparsity` lets go, found by few looks at the model, and which targets are possible."""

import math
import re

import keras
import numpy as np
import pytest
from backend import hidden

import keras_rmda as kr
from keras_rmda.callbacks import choice, ranking

L = keras.layers
RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(0)


class Unknown(L.Dense):
    """A layer that is not in the table, and whose code cannot be traced."""

    def call(self, x):
        return super().call(hidden(x))


def dense():
    x = keras.Input((6,))
    return keras.Model(x, L.Dense(2)(L.Dense(9, "relu")(L.Dense(12, "relu")(x))))


def mobile():
    x = inputs = keras.Input((8, 8, 3))
    x = stem = L.Conv2D(6, 3, padding="same", use_bias=False)(x)
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(12, 1)(x)))
    x = L.ReLU()(L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same", use_bias=False)(x)))
    x = L.Add()([stem, L.Conv2D(6, 1)(x)])
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(L.Conv2D(8, 3, groups=2, activation="relu")(x))))


def sequence():
    x = inputs = keras.Input((5, 8))
    x = x + L.MultiHeadAttention(4, 3)(x, x)
    return keras.Model(inputs, L.Dense(2)(L.Bidirectional(L.GRU(5))(L.Dense(7, "relu")(x))))


def partly_opaque():
    x = inputs = keras.Input((6, 4))
    x = x + Unknown(4)(L.Dense(10, "relu")(L.Dense(12, "relu")(x)))
    return keras.Model(inputs, L.Dense(2)(L.Dense(9, "relu")(x)))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.second = L.Dense(12, "relu"), L.Dense(2)

    def call(self, x):
        return self.second(self.first(x))


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 6)))
    return model


def compiled(build, parts="readers"):
    model = build()
    model.compile(kr.ProxSGD(0.05, 0.5, kr.GroupLasso(1e-3, groups=kr.coupled_groups(model, parts))), "mse")
    return model


def dead_at_random(model):
    """Make a part of the weights zero, some of them as whole groups."""
    for variable in model.trainable_variables:
        w = keras.ops.convert_to_numpy(variable)
        rows = RANDOM.random((*[1] * (w.ndim - 2), *w.shape[-2:-1], 1)) if w.ndim > 1 else RANDOM.random(w.shape)
        variable.assign(np.where((rows < 0.2) | (RANDOM.random(w.shape) < 0.1), 0, w))


def begun(model, target, **arguments):
    """Return the callback at the start of a training."""
    callback = kr.callbacks.TargetSparsity(target, **arguments)
    callback.set_model(model)
    callback.on_train_begin()
    return callback


# ---- few looks


def test_the_search_finds_what_a_linear_one_finds_whatever_the_guess():
    looks = {"right": 0, "shifted": 0, "wrong": 0}
    for _ in range(300):
        count = int(RANDOM.integers(1, 200))
        values = np.sort(RANDOM.integers(0, 256, count + 1) / 256)[::-1]  # some are equal; sums are exact
        wanted = RANDOM.choice([RANDOM.random(), values[RANDOM.integers(count)], -1.0, 1.0])
        expected = next((k for k in range(count) if values[k] <= wanted), count)
        shifted = values - RANDOM.integers(-50, 50) / 256
        guesses = {"right": values, "shifted": shifted, "wrong": RANDOM.random(count + 1)}
        for name, guess in guesses.items():
            seen = []

            def measured(k):
                seen.append(k)  # noqa: B023
                return values[k]  # noqa: B023

            assert ranking.fewest(count, wanted, measured, lambda k: guess[k]) == expected  # noqa: B023
            assert len(seen) == len(set(seen))
            looks[name] = max(looks[name], len(seen))
    assert (looks["right"], looks["shifted"]) == (2, 3)
    assert looks["wrong"] <= ranking.GUESSES + math.log2(200) + 1


@pytest.mark.parametrize("build", [dense, mobile, sequence, partly_opaque, subclassed], ids=lambda each: each.__name__)
@pytest.mark.parametrize("parts", ["readers", "all", "all, some dead"])
def test_groups_are_those_of_a_linear_search_by_two_looks_at_the_model(build, parts, monkeypatch):
    model = compiled(build, parts.partition(",")[0])
    if "dead" in parts:
        dead_at_random(model)
    looks, plan = [], choice.plan
    monkeypatch.setattr(choice, "plan", lambda *arguments: looks.append(1) or plan(*arguments))
    for metric, multiple in (("macs", 1), ("parameters", 1), ("bytes", 1), ("macs", 4), ("groups", 1)):
        groups = choice.Groups(model, metric, multiple)
        place = groups._places()
        each = [groups._in_multiples(place, place < k) for k in range(np.count_nonzero(place < groups.count) + 1)]
        left = [groups.left(zero) for zero in each]
        assert left == sorted(left, reverse=True)
        assert groups.least()[0] == left[-1]
        for wanted in (*left[1 :: len(left) // 3], 0.9, 0.6, 0.3, 0.0):
            looks.clear()
            k = next((k for k, value in enumerate(left[:-1]) if value <= wanted), len(left) - 1)
            np.testing.assert_array_equal(groups.smallest(wanted), each[k])
            assert len(looks) <= (2 if "dead" not in parts else ranking.GUESSES + 3)
            if k and left[k - 1] - wanted < wanted - left[k]:
                k -= 1
            np.testing.assert_array_equal(groups.smallest(wanted, nearest=True), each[k])


@pytest.mark.parametrize("build", [dense, mobile, sequence, partly_opaque], ids=lambda each: each.__name__)
def test_what_is_said_to_be_left_is_what_analyze_says_of_such_weights(build):
    model = compiled(build)
    dead_at_random(model)
    groups = choice.Groups(model, "macs")
    place = groups._places()
    for k in (0, groups.count // 3, np.count_nonzero(place < groups.count)):
        zero = np.append(place < k, False)
        left = groups.left(zero[:-1])
        for optimizer, coupling in groups._parts:
            for index in coupling.indices:
                variable = optimizer._trainable_variables[index]
                w = keras.ops.convert_to_numpy(variable)
                variable.assign(np.where(zero[groups._numbers[id(variable)]], 0, np.where(w == 0, 1, w)))
        report = kr.analyze(model)
        assert left == report.macs_after / report.macs


# ---- what is possible


@pytest.mark.parametrize("metric", ["macs", "parameters", "bytes", "groups"])
@pytest.mark.parametrize("build", [dense, mobile, sequence], ids=lambda each: each.__name__)
def test_the_target_that_a_refusal_names_is_the_smallest_possible(build, metric):
    model = compiled(build)
    with pytest.raises(ValueError, match=f"{metric}, where some .* target=1e-05") as refusal:
        begun(model, 1e-5, metric=metric)
    share, number = re.search(r"target is (0\.\d+), or ([\d,]+) ", str(refusal.value)).groups()
    number = int(number.replace(",", ""))
    begun(model, float(share), metric=metric)
    begun(model, number, metric=metric)
    for less in (0.99 * float(share), number - 1):
        with pytest.raises(ValueError, match="smallest possible target"):
            begun(model, less, metric=metric)


def test_a_refusal_names_what_stays_whole():
    """Frozen layers, as of a backbone, and those of which no channel can go."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    x = keras.layers.Dense(16, "relu", name="backbone", trainable=False)(inputs)
    x = keras.layers.Dense(6, name="back")(x)
    x = keras.layers.Add()([x, inputs, keras.layers.Dense(6, name="square")(inputs)])
    model = keras.Model(inputs, keras.layers.Dense(2, name="last")(keras.layers.Dense(12, "relu", name="head")(x)))
    groups = kr.coupled_groups(model)
    model.compile(kr.ProxSGD(0.1, 0.1, kr.GroupLasso(1e-3, groups=groups)), "mse")
    with pytest.raises(ValueError, match=r"most of it in square; .*trainable=False.*'backbone/kernel'"):
        model.fit(np.ones((8, 6)), np.ones((8, 2)), verbose=0, callbacks=[kr.callbacks.TargetSparsity(0.1)])


@pytest.mark.parametrize(
    ("least", "whole", "text"),
    [
        (0.88651, 1000, "0.887, or 887"),
        (0.000123401, 10**8, "0.000124, or 12,340"),
        (0.9995, 10**4, "9,995"),
        (1.0, 7, "7"),
    ],
)
def test_shares_are_rounded_to_what_is_possible(least, whole, text):
    assert kr.callbacks.choice.possible(least, whole) == text


def test_shares_that_are_rounded_are_never_less():
    for least in [*RANDOM.random(2000), *(np.nextafter(k / 1000, 1) for k in range(100, 999))]:
        share = float(kr.callbacks.choice.possible(least, 10**6).partition(",")[0])
        assert least <= share <= least * 1.01 + 1e-9 or least > 0.999


def test_more_than_the_whole_is_refused():
    with pytest.raises(ValueError, match=r"has 198 macs: .* target=199.0"):
        begun(compiled(dense), 199)
    assert begun(compiled(dense), 198)._control.goal == 1


def test_no_epoch_at_all():
    x = np.zeros((4, 6))
    with pytest.warns(kr.SparsityWarning, match="with 100.0% of the macs, not with 50.0%: it stopped before end=0.6"):
        compiled(dense).fit(x, x[:, :2], epochs=0, verbose=0, callbacks=[kr.callbacks.TargetSparsity(0.5)])


def test_a_subclassed_model_ends_at_the_target():
    model = compiled(subclassed)
    x = RANDOM.normal(size=(32, 6)).astype("float32")
    logs = model.fit(x, x[:, :2], epochs=4, verbose=0, callbacks=[kr.callbacks.TargetSparsity(0.5)]).history
    assert logs["macs_left"][-1] == 0.5
    assert kr.strip(model).count_params() < model.count_params()
