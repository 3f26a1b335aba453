"""Code that draws random numbers at training only is cut as other code is, and draws them in the smaller model, too."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from backend import only_tensorflow
from keras import layers as L
from keras import ops
from keras.random import SeedGenerator
from test_strangers import half_zero, numbers, stripped
from zoo import randomize

import keras_rmda as kr
from keras_rmda.export.interpreter import Interpreter
from keras_rmda.optimizers.names import names_of
from keras_rmda.platform.tracing.noise import DISTRIBUTIONS
from keras_rmda.structure.verification import difference

pytestmark = only_tensorflow

RATE = 0.4


def depth(self, x, y):
    kept = ops.floor(1.0 - RATE + keras.random.uniform((ops.shape(x)[0], 1, 1), seed=self.seed))
    return y / (1.0 - RATE) * kept


def depth_of_tensorflow(self, x, y):
    kept = tf.floor(1.0 - RATE + tf.random.uniform([tf.shape(x)[0], 1, 1]))
    return tf.math.divide(y, 1.0 - RATE) * kept


def one_number(self, x, y):
    return ops.where(keras.random.uniform(()) < RATE, 0.0, y / (1.0 - RATE))


KINDS = {
    "depth": depth,
    "depth of TensorFlow": depth_of_tensorflow,
    "one number for all samples": one_number,
    "dropout": lambda self, x, y: keras.random.dropout(y, RATE, seed=self.seed),
    "dropout of TensorFlow": lambda self, x, y: tf.nn.dropout(y, RATE),
    "dropout of channels": lambda self, x, y: keras.random.dropout(
        y, RATE, (ops.shape(y)[0], 1, ops.shape(y)[2]), self.seed
    ),
    "noise": lambda self, x, y: y + keras.random.normal(ops.shape(y), 0.0, RATE),
    "noise of TensorFlow": lambda self, x, y: y + tf.random.normal(tf.shape(y), stddev=RATE),
    "noise for channels": lambda self, x, y: y * keras.random.truncated_normal((1, 1, ops.shape(y)[2]), mean=1.0),
    "noise of a known shape": lambda self, x, y: y + keras.random.normal((ops.shape(y)[0], *y.shape[1:])),
    "noise for known channels of samples": lambda self, x, y: (
        y * keras.random.uniform((*ops.shape(y)[:2], y.shape[-1]), 0.5, 1.5)
    ),
    "noise for known channels": lambda self, x, y: y * keras.random.uniform((y.shape[-1],), 0.5, 1.5),
    "noise twice": lambda self, x, y: keras.random.dropout(y + keras.random.normal(ops.shape(y)), RATE),
}


@keras.saving.register_keras_serializable(package="tests")
class Noisy(L.Layer):
    """Two layers with something random in between, and behind."""

    def __init__(self, kind="noise", places=("inside",), **arguments):
        super().__init__(**arguments)
        self.kind, self.places, self.seed = kind, tuple(places), SeedGenerator(0)
        self.up, self.down = L.Dense(12, activation="relu", name="up"), L.Dense(8, name="down")

    def get_config(self):
        return super().get_config() | {"kind": self.kind, "places": self.places}

    def build(self, shape):
        self.up.build(shape)
        self.down.build((*shape[:-1], 12))

    def call(self, x, training=False):
        if training and "in front" in self.places:
            x = KINDS[self.kind](self, x, x)
        y = self.up(x)
        if training and "inside" in self.places:
            y = KINDS[self.kind](self, x, y)
        y = self.down(y)
        if training and "behind" in self.places:
            y = KINDS[self.kind](self, x, y)
        return x + y


def model_of(steps=5, **how):
    inputs = keras.Input((steps, 8))
    return keras.Model(inputs, L.Dense(3)(Noisy(**how)(inputs)))


@pytest.mark.parametrize(
    ("kind", "steps"), [(kind, n) for kind in KINDS for n in (5, None) if n or "known shape" not in kind]
)
def test_channels_go_and_noise_stays(kind, steps):
    model = model_of(steps, kind=kind)
    assert kr.analyze(model).opaque == {}
    assert half_zero(model) == 12
    x = numbers(3, 5, 8)
    small = stripped(model, x)
    assert small.count_params() < model.count_params()
    runs = [ops.convert_to_numpy(small(x, training=True)) for _ in range(8)]
    assert max(np.abs(run - runs[0]).max() for run in runs) > 1e-3
    np.testing.assert_array_equal(small(x), small(x, training=False))


def waves(names):
    """Return what stands for a distribution: the same numbers for all channels, however many there are."""

    def drawn(shape, *arguments, dtype=None, seed=None, **named):
        given = dict(zip(names, arguments)) | named
        shape = [int(n) for n in shape]
        samples = np.arange(shape[0] if len(shape) > 2 else 1, dtype="float32")
        one = (0.5 + 0.5 * np.cos(samples)).reshape([-1, 1, 1][: len(shape)])
        first, second = (given.get(name, k) for k, name in enumerate(names))
        return ops.broadcast_to(first + second * one, shape)

    return drawn


@pytest.mark.parametrize("place", ["in front", "inside", "behind"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if "dropout" not in kind and kind != "noise twice"])
def test_the_smaller_model_does_at_training_what_the_model_does(kind, place, monkeypatch):
    model = randomize(model_of(kind=kind, places=[place]))
    groups = kr.coupled_groups(model, parts="all")
    for weight in model.weights:
        if (path := groups.path_among(names_of(weight, model))) is not None:
            gone = np.isin(groups.members[path], range(0, len(groups), 2))
            weight.assign(np.where(gone, 0.0, ops.convert_to_numpy(weight)))
    x = numbers(7, 5, 8)
    small = stripped(model, x)
    assert small.count_params() < model.count_params()
    for module in (keras.random, tf.random):
        for name, names in DISTRIBUTIONS.items():
            monkeypatch.setattr(module, name, waves(names))
    expected, found = (each(x, training=True) for each in (model, small))
    assert difference(expected, found) < 1e-5
    assert difference(expected, model(x)) > 1e-2


def test_noise_trains_is_saved_and_is_in_no_file(tmp_path):
    model = model_of(kind="noise twice")
    half_zero(model)
    small, x = kr.strip(model), numbers(32, 5, 8)
    small.compile("adam", "mse")
    small.fit(x, x[..., :3], verbose=0)
    small.save(tmp_path / "small.keras")
    again = keras.models.load_model(tmp_path / "small.keras")
    assert difference(small(x), again(x)) == 0
    assert difference(again(x), again(x, training=True)) > 1e-3
    file = kr.export_tflite(small, tmp_path / "small.tflite")
    assert difference(small(x), Interpreter(file.path).predict(x)) < 1e-5
    assert not {"RANDOM_UNIFORM", "RANDOM_STANDARD_NORMAL"} & set(file.operators)


@keras.saving.register_keras_serializable(package="tests")
class Encoder(keras.Model):
    """Draws what it decodes from a normal distribution that it computes, as variational autoencoders do."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.inside, self.seed = [L.Dense(n, "relu") for n in (32, 24, 32)], SeedGenerator(1)
        self.mean, self.log_variance, self.out = L.Dense(4), L.Dense(4), L.Dense(10)

    def call(self, x, training=None):
        x = self.inside[1](self.inside[0](x))
        mean, log_variance = self.mean(x), self.log_variance(x)
        self.add_loss(1e-3 * ops.mean(ops.square(mean) + ops.exp(log_variance) - log_variance))
        if training:
            mean = mean + ops.exp(0.5 * log_variance) * keras.random.normal(ops.shape(mean), seed=self.seed)
        return self.out(self.inside[2](mean))


def test_models_that_draw_at_training_are_compressed(monkeypatch):
    model, x = Encoder(), numbers(64, 10)
    model.compile("adam", "mse")
    model.fit(x, x, verbose=0)
    result = kr.compress(model, x, x, epochs=2, target=0.5, verbose=0)
    assert result.report.macs_after <= 0.52 * result.report.macs
    small = result.model
    assert difference(small(x), small(x, training=True)) > 1e-3
    # What only the noise is made of stays.
    assert sum(each.shape[-1] == 4 for each in small.trainable_weights if len(each.shape) == 2) == 2


def same_losses(model, small, x, monkeypatch):
    """Look that two models with the same noise have the same outputs and losses; return these by `training`."""
    for name, names in DISTRIBUTIONS.items():
        monkeypatch.setattr(keras.random, name, waves(names))
    found = {}
    for training in (True, False):
        outputs, losses = [], []
        for each in (model, small):
            outputs.append(each(x, training=training))
            losses.append(float(sum(each.losses)))
        assert difference(*outputs) < 1e-5
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        found[training] = losses[0]
    return found


def test_losses_of_code_that_draws_are_the_same(monkeypatch):
    model, x = Encoder(), numbers(16, 10)
    model(x)
    half_zero(model)
    small = kr.strip(model)
    assert small.count_params() < model.count_params()
    same_losses(model, small, x, monkeypatch)


class AtTrainingOnly(L.Layer):
    """The sample of a variational autoencoder, which adds its loss in the same branch as its noise."""

    def __init__(self, first):
        super().__init__()
        self.first, self.mean, self.spread, self.seed = first, L.Dense(4), L.Dense(4), SeedGenerator(0)

    def call(self, x, training=False):
        mean, spread = self.mean(x), self.spread(x)
        if not training:
            return mean
        if self.first == "loss":
            self.add_loss(ops.mean(mean**2 + ops.exp(spread) - spread))
        y = mean + ops.exp(0.5 * spread) * keras.random.normal(ops.shape(mean), seed=self.seed)
        if self.first == "noise":
            self.add_loss(ops.mean(mean**2 + ops.exp(spread) - spread))
        return y


@pytest.mark.parametrize("first", ["loss", "noise"])
def test_noise_and_a_loss_at_training_only(first, monkeypatch):
    inputs = keras.Input((6,))
    x = L.Dense(8, activation="relu")(inputs)
    model = randomize(keras.Model(inputs, L.Dense(2)(AtTrainingOnly(first)(x))))
    assert kr.analyze(model).opaque == {}
    half_zero(model)
    small, x = kr.strip(model), numbers(16, 6)
    assert small.count_params() < model.count_params()
    losses = same_losses(model, small, x, monkeypatch)
    assert losses[True] != 0 == losses[False]


def test_what_also_draws_at_inference_stays():
    class Always(Noisy):
        def call(self, x, training=False):
            return super().call(x, training=True)

    inputs = keras.Input((5, 8))
    model = keras.Model(inputs, L.Dense(3)(Always()(inputs)))
    [why] = kr.analyze(model).opaque.values()
    assert "something else at every call" in why


def test_numbers_whose_count_decides_stay():
    class Other(Noisy):
        def call(self, x, training=False):
            if training:
                x = x + ops.mean(keras.random.normal((ops.shape(x)[1] + 1, 8)), axis=0)
            return super().call(x)

    inputs = keras.Input((None, 8))
    model = keras.Model(inputs, L.Dense(3)(Other()(inputs)))
    [why] = kr.analyze(model).opaque.values()
    assert "something else at training" in why
