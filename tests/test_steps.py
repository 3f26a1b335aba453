"""`compress` trains a model with steps of its own by these, before and after it is cut."""

import keras
import numpy as np
import pytest
from backend import BACKEND, number, only_tensorflow

import keras_rmda as kr
from keras_rmda.compression import steps
from keras_rmda.structure.coupling import coupled_groups

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(96, 8)).astype("float32")
Y = (X[:, 0] * X[:, 1] > 0).astype("int32")
CALL = {"target": 0.4, "epochs": 4, "batch_size": 32, "verbose": 0}
HOW = {"run_eagerly": BACKEND == "tensorflow"}

pytestmark = pytest.mark.filterwarnings("ignore:Training ended with")


def inner(name="inner", width=24, outputs=2, activation="softmax"):
    inputs = keras.Input((8,))
    x = keras.layers.Dense(width, use_bias=False, name="first")(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(name="norm")(x))
    x = keras.layers.Dense(width, "relu", name="second")(x)
    return keras.Model(inputs, keras.layers.Dense(outputs, activation, name="last")(x), name=name)


class Counting:
    """Counts its steps where they are traced or made, and makes them as Keras does."""

    def train_step(self, *arguments):
        self.count.append(len(self.trainable_weights))
        return super().train_step(*arguments)


class Graph(Counting, keras.Model):
    """Functional, with a list and a layer of its graph as attributes."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.count, self.hidden = [], self.get_layer("second")


class Chain(Counting, keras.Sequential):
    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.count = []


class Around(Counting, keras.Model):
    """A model around a model."""

    def __init__(self, model):
        super().__init__()
        self.count, self.model = [], model

    def call(self, x, training=False):
        return self.model(x, training=training)


class Layers(Counting, keras.Model):
    """Layers in lists and dictionaries, called by code."""

    def __init__(self):
        super().__init__()
        self.count = []
        self.hidden = [keras.layers.Dense(24, "relu"), keras.layers.Dense(24, "relu")]
        self.heads = {"last": keras.layers.Dense(2, "softmax")}

    def call(self, x, training=False):
        for layer in self.hidden:
            x = layer(x)
        return self.heads["last"](x)


class Noise(keras.layers.Layer):
    """Draws random numbers whenever it is called, as variational autoencoders do."""

    def __init__(self):
        super().__init__()
        self.seeds = keras.random.SeedGenerator(0)

    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x), seed=self.seeds)


class Random(Layers):
    def __init__(self):
        super().__init__()
        self.noise = Noise()

    def call(self, x, training=False):
        return super().call(self.noise(x), training=training)


def graph():
    model = inner()
    return Graph(model.inputs, model.outputs)


MODELS = {
    "functional": graph,
    "sequential": lambda: Chain(
        [
            keras.Input((8,)),
            keras.layers.Dense(24, "relu"),
            keras.layers.Dense(24, "relu"),
            keras.layers.Dense(2, "softmax"),
        ]
    ),
    "around": lambda: Around(inner()),
    "layers": Layers,
    "random": Random,
}


def compiled(model, optimizer="adam", **compile):
    model.compile(optimizer, **{"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]} | HOW | compile)
    return model


@only_tensorflow
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_all_steps_are_those_of_the_class(make):
    keras.utils.set_random_seed(0)
    model = compiled(make(), keras.optimizers.SGD(0.05, momentum=0.9))
    model(X[:1])
    before = model.get_weights()
    found = kr.compress(model, X, Y, **CALL)
    small = found.model
    assert type(small) is type(model)
    assert found.report.macs_after < 0.45 * found.report.macs
    assert small.count_params() == found.report.parameters_after < 0.7 * model.count_params()
    assert len(small.count) >= 2 * 3  # since the trial: two epochs of tuning, and those of the copy it came from
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert model.count == []
    small.fit(X, Y, epochs=1, verbose=0)
    assert small.predict(X, verbose=0).shape == (96, 2)


@only_tensorflow
def test_attributes_that_are_layers_of_the_graph_are_those_of_the_smaller_one():
    model = compiled(graph())
    small = kr.compress(model, X, Y, **CALL).model
    assert small.hidden is small.get_layer("second") is not model.hidden
    assert small.hidden.units < model.hidden.units


class Distiller(keras.Model):
    """Learns from a teacher too, by a loss of its own; `compile` has arguments of its own."""

    def __init__(self, student, teacher):
        super().__init__()
        self.student, self.teacher = student, teacher

    def compile(self, optimizer, share, **compile):
        super().compile(optimizer, **compile)
        self.share = share

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        own = super().compute_loss(x, y, y_pred, sample_weight)
        return (1 - self.share) * own + self.share * keras.ops.mean((self.teacher(x, training=False) - y_pred) ** 2)

    def call(self, x):
        return self.student(x)


@pytest.mark.parametrize("is_frozen", [True, False])
def test_a_teacher_goes_along(is_frozen):
    keras.utils.set_random_seed(0)
    model = Distiller(inner(), inner("teacher", 32))
    model.teacher.trainable = not is_frozen
    model.compile("adam", 0.5, loss="sparse_categorical_crossentropy", **HOW)
    before = model.teacher(X).__array__() if BACKEND != "torch" else number(model.teacher(X))
    found = kr.compress(model, X, Y, **CALL)
    assert found.model.share == 0.5
    assert (found.model.teacher is model.teacher) == is_frozen
    assert found.model.teacher.count_params() == model.teacher.count_params()
    assert found.model.student.count_params() < model.student.count_params()
    np.testing.assert_array_equal(number(model.teacher(X)), before)
    assert found.after["loss"] < found.before["loss"]


class Adds(keras.Model):
    """Adds a loss in its own code, and is an autoencoder: there are no targets."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = keras.layers.Dense(24, "relu"), keras.layers.Dense(8)

    def call(self, x):
        y = self.decoder(self.encoder(x))
        self.add_loss(keras.ops.mean(keras.ops.square(y - x)))
        return y


def test_losses_that_its_code_adds_are_kept():
    keras.utils.set_random_seed(0)
    model = Adds()
    model.compile(keras.optimizers.Adam(0.01), **HOW)
    found = kr.compress(model, X, **CALL | {"epochs": 8})
    assert found.after["loss"] < 0.8 * found.before["loss"]
    assert found.model.evaluate(X, verbose=0) == pytest.approx(found.after["loss"], rel=1e-4)


class Bottleneck(keras.layers.Layer):
    """Adds a loss in the middle of a model."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.dense = keras.layers.Dense(4)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        z = self.dense(x)
        self.add_loss(10.0 * keras.ops.mean(keras.ops.square(z)))
        return z


def test_losses_that_code_of_a_layer_adds_are_trained_on():
    keras.utils.set_random_seed(0)
    hidden = [keras.layers.Dense(24, "relu"), Bottleneck(), keras.layers.Dense(24, "relu")]
    model = keras.Sequential([keras.Input((8,)), *hidden, keras.layers.Dense(8)])
    model.compile(keras.optimizers.Adam(0.01), "mse", **HOW)
    found = kr.compress(model, X, X, **CALL | {"epochs": 4})
    assert found.report.macs_after < 0.6 * found.report.macs
    assert found.model.evaluate(X, X, verbose=0) == pytest.approx(found.after["loss"], rel=1e-4)
    before, after = (number(each.layers[1](each.layers[0](X))) for each in (model, found.model))
    assert np.square(after).mean() < 0.3 * np.square(before).mean()


class Literal(Counting, keras.Model):
    """Its code has a width as a number."""

    def __init__(self):
        super().__init__()
        self.count = []
        self.first, self.last = keras.layers.Dense(24, "relu"), keras.layers.Dense(2, "softmax")

    def call(self, x):
        return self.last(keras.ops.reshape(self.first(x), (-1, 24)))


class Weighs(Counting, keras.Model):
    """Has a weight that is in no layer."""

    def __init__(self):
        super().__init__()
        self.count = []
        self.first, self.last = keras.layers.Dense(24, "relu"), keras.layers.Dense(2, "softmax")
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def call(self, x):
        return self.last(self.scale * self.first(x))


class Two(Around):
    """Has an optimizer for a critic."""

    def __init__(self):
        super().__init__(inner())
        self.critic_optimizer = keras.optimizers.Adam()


class Idle(Around):
    """Trains nothing."""

    def train_step(self, *arguments):
        x, y = arguments[-1]
        return self.compute_metrics(x, y, self(x))


class Hidden(Counting, keras.Model):
    """Trains a part of what its layers compute that its `call` does not: what nobody reads is cut."""

    def __init__(self):
        super().__init__()
        self.count, self.encoder, self.last = [], inner(outputs=8, activation=None), keras.layers.Dense(2, "softmax")

    def call(self, x):
        return self.last(self.encoder(x)[:, :4])

    def train_step(self, *arguments):
        self.encoder(arguments[-1][0]) * keras.ops.ones((8,))
        return super().train_step(*arguments)


BAD = {
    "literal": (Literal, "expected axis -1 of input shape"),
    "weight": (Weighs, "weights of its own, that are in none of its layers"),
    "optimizers": (Two, "more optimizers than one, 'critic_optimizer'"),
    "idle": (lambda: Idle(inner()), "changes no weight"),
    "hidden": (Hidden, "its steps cannot be made with a smaller model"),
}


@only_tensorflow
@pytest.mark.parametrize(("make", "why"), BAD.values(), ids=BAD)
def test_steps_that_a_smaller_model_would_not_make_are_refused_before_any_training(make, why):
    model, seen = compiled(make()), []
    log = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: seen.append(1))
    with pytest.raises(ValueError, match=why) as error:
        kr.compress(model, X, Y, callbacks=[log], **CALL)
    assert "Train it yourself" in str(error.value)
    assert not seen


def test_distillation_is_a_part_of_the_loss_of_keras():
    with pytest.raises(ValueError, match="give distillation=0"):
        kr.compress(compiled(graph()), X, Y, distillation=0.5, **CALL)


def test_optimizers_that_compile_has_named_are_all_named():
    model = Two()
    model.compile()  # Keras then has an RMSprop, which nobody uses
    with pytest.raises(ValueError, match="Two has more optimizers than one, 'critic_optimizer'"):
        kr.compress(model, X, Y, **CALL)


def test_half_of_the_groups_are_closed():
    model = inner()
    groups = coupled_groups(model, parts="all")
    steps.close_half(model)
    small = kr.strip(model)
    assert small.get_layer("first").units == model.get_layer("first").units // 2
    assert len(coupled_groups(small, parts="all")) == len(groups) // 2
