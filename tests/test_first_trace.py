"""A training is traced once: what Keras would create while it traces is there before."""

import keras
import numpy as np
import pytest
from backend import only_tensorflow

import keras_rmda as kr
from keras_rmda.platform import hooks

pytestmark = only_tensorflow
SAMPLES = np.random.default_rng(0).normal(size=(40, 6)).astype("float32")
CLASSES = np.arange(40) % 3


class Counted(kr.ProxSGD):
    """Knows how many steps were traced."""

    def advance(self, *arguments, **more):
        self.traced = getattr(self, "traced", 0) + 1
        return super().advance(*arguments, **more)


def network():
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(8, activation="relu")(inputs)
    return keras.Model(inputs, {name: keras.layers.Dense(3, name=name)(hidden) for name in ("a", "b")})


def compiled(optimizer, **more):
    model = network()
    loss = {name: keras.losses.SparseCategoricalCrossentropy(from_logits=True) for name in ("a", "b")}
    model.compile(optimizer, loss, metrics={"a": ["accuracy"]}, weighted_metrics={"b": ["accuracy"]}, **more)
    return model


def arrays():
    return {"x": SAMPLES, "y": {"a": CLASSES, "b": CLASSES}, "batch_size": 8}


def a_dataset():
    import tensorflow as tf

    return {"x": tf.data.Dataset.from_tensor_slices((SAMPLES, {"a": CLASSES, "b": CLASSES})).batch(8)}


def a_generator():
    def batches():
        while True:
            yield SAMPLES[:8], {"a": CLASSES[:8], "b": CLASSES[:8]}

    return {"x": batches(), "steps_per_epoch": 5}


def with_weights():
    return arrays() | {"sample_weight": {"a": np.ones(40), "b": np.linspace(0, 1, 40)}}


@pytest.mark.parametrize("data", [arrays, a_dataset, a_generator, with_weights])
def test_a_step_is_traced_once(data):
    model = compiled(Counted(0.1, regularizer=kr.GroupLasso(1e-3)))
    found = model.fit(**data(), epochs=2, verbose=0).history
    assert model.optimizer.traced == 1
    assert {"a_accuracy", "b_accuracy", "a_loss", "b_loss"} <= found.keys()


def test_no_sample_is_taken_from_the_data_for_it():
    taken = []

    def batches():
        for start in (0, 8, 16):
            taken.append(start)
            yield SAMPLES[start : start + 8], {"a": CLASSES[:8], "b": CLASSES[:8]}

    model = compiled(Counted(0.1, regularizer=kr.L1(1e-3)))
    model.fit(batches(), steps_per_epoch=3, verbose=0)
    assert int(model.optimizer.iterations) == 3
    assert taken == [0, 8, 16]


def test_steps_that_are_not_traced_are_as_ever():
    model = compiled(Counted(0.1, regularizer=kr.L1(1e-3)), run_eagerly=True)
    model.fit(**arrays(), verbose=0)
    assert model.optimizer.traced == 5


class Contrast(keras.Model):
    """Has steps of its own; what it computes alone is nothing that its metric takes."""

    def __init__(self):
        super().__init__()
        self.first = keras.layers.Dense(4)

    def build(self, shape):
        self.first.build(shape)

    def call(self, x, training=False):
        if not training:
            raise NotImplementedError("only in training")
        return self.first(x)

    def train_step(self, data):
        import tensorflow as tf

        with tf.GradientTape() as tape:
            found = self(data, training=True)
            loss = tf.reduce_mean(found**2)
        self.optimizer.apply_gradients(
            zip(tape.gradient(loss, self.trainable_weights), self.trainable_weights, strict=True)
        )
        return {"loss": loss} | self.compute_metrics(data, tf.zeros_like(found), found)


def test_a_model_that_cannot_be_called_so_is_trained_as_ever():
    model = Contrast()
    model.build((None, 6))
    model.compile(Counted(0.1, regularizer=kr.L1(1e-3)), metrics=["mae"])
    before = float(keras.ops.sum(keras.ops.abs(model.first.kernel)))
    assert model.fit(SAMPLES, batch_size=8, epochs=2, verbose=0).history["mae"][0] > 0
    assert float(keras.ops.sum(keras.ops.abs(model.first.kernel))) < before


def test_a_model_without_an_optimizer_has_its_own_steps():
    class Counts(keras.Model):
        def train_step(self, data):
            return {"mean": keras.ops.mean(data)}

    inputs = keras.Input((6,))
    model = Counts(inputs, keras.layers.Dense(3)(inputs))
    model.compile(optimizer=None, metrics=["mae"])
    with hooks.state_before_tracing():
        found = model.fit(SAMPLES, batch_size=40, verbose=0).history
    assert found["mean"] == pytest.approx([SAMPLES.mean()], abs=1e-6)


class Steps(keras.Model):
    """Counts the traces of its training."""

    traced = 0

    def train_step(self, data):
        self.traced += 1
        return super().train_step(data)


@pytest.mark.parametrize("is_asked_for", [True, False])
def test_models_of_others_only_where_it_is_asked_for(is_asked_for):
    inputs = keras.Input((6,))
    model = Steps(inputs, keras.layers.Dense(3, activation="softmax")(inputs))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    if is_asked_for:
        with hooks.state_before_tracing():
            model.fit(SAMPLES, CLASSES, batch_size=8, verbose=0)
    else:
        model.fit(SAMPLES, CLASSES, batch_size=8, verbose=0)
    assert model.traced == (1 if is_asked_for else 2)
    assert not hooks.CREATES_STATE.get()


def test_both_trainings_of_compress(monkeypatch):
    calls, apply = [], keras.optimizers.Optimizer.apply
    monkeypatch.setattr(
        keras.optimizers.Optimizer, "apply", lambda self, *a, **k: calls.append(self) or apply(self, *a, **k)
    )
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(3, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    kr.compress(model, SAMPLES, CLASSES, epochs=2, batch_size=8, verbose=0)
    names = [type(each).__name__ for each in calls]
    assert (names.count("ProxAdamW"), names.count("Adam")) == (1, 1)
