"""Blocks that return numbers, or weights, without an axis for samples, and blocks that get such ones."""

import keras
import numpy as np
import pytest
from backend import hidden, only_tensorflow
from keras import layers as L
from keras import ops
from zoo import randomize

import keras_rmda as kr
from keras_rmda.structure.verification import difference

pytestmark = only_tensorflow
own = keras.saving.register_keras_serializable(package="tests_constants")
TABLE = np.random.default_rng(0).normal(size=(9, 8)).astype("float32")


@own
class Block(L.Layer):
    """Units, and beside what they make what subclasses say."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.wide, self.narrow = L.Dense(12, activation="relu", name="wide"), L.Dense(8, name="narrow")

    def build(self, shape):
        self.wide.build(shape)
        self.narrow.build((*shape[:-1], 12))
        self.scale = self.add_weight(shape=(8,), name="scale", initializer="ones")

    def call(self, x):
        return (x + self.narrow(self.wide(x)), *self.beside(x))


@own
class Empty(Block):
    def beside(self, x):
        return (ops.empty((0, 9, 8)), ops.zeros((0, 1), "int32"))


@own
class Waves(Block):
    def beside(self, x):
        return (ops.convert_to_tensor(TABLE),)


@own
class Scale(Block):
    def beside(self, x):
        return (ops.exp(self.scale),)


@own
class Rotates(L.Layer):
    """A block that gets numbers without an axis for samples."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.wide, self.narrow = L.Dense(12, activation="relu", name="wide"), L.Dense(8, name="narrow")

    def build(self, *shapes):
        self.wide.build((None, 9, 8))
        self.narrow.build((None, 9, 12))

    def compute_output_shape(self, shape, *others):
        return shape

    def call(self, x, numbers):
        return self.narrow(self.wide(x * numbers))


@own
class Opaque(L.Layer):
    """What nobody looks into, with a weight of another layer among its arguments."""

    def build(self, *shapes):
        self.factor = self.add_weight(shape=(), name="factor", initializer="ones")

    def compute_output_shape(self, shape, *others):
        return shape

    def call(self, x, scale):
        return hidden(x * scale * self.factor)


@own
class Around(Block):
    """A block that gives a weight of its own to a layer inside."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.inside = Opaque(name="inside")

    def build(self, shape):
        super().build(shape)
        self.inside.build(shape, (8,))

    def call(self, x):
        return self.inside(x + self.narrow(self.wide(x)), self.scale)


def empty(x):
    return Empty(name="block")(x)[0]


def waves(x):
    y, numbers = Waves(name="block")(x)
    return Rotates(name="rotates")(y, numbers)


def scale(x):
    y, numbers = Scale(name="block")(x)
    return Rotates(name="rotates")(y, numbers)


def around(x):
    return Around(name="block")(x)


def model_of(function, size=9):
    inputs = keras.Input((size, 8))
    return randomize(keras.Model(inputs, L.Dense(3, name="last")(function(inputs))))


def halved(model):
    groups = kr.coupled_groups(model)
    for weight in model.weights:
        path = groups.path_among((weight.path.removeprefix(f"{model.name}/"), weight.path))
        if path is not None:
            ids = groups.members[path]
            weight.assign(np.where((ids >= 0) & (ids % 2 == 1), 0.0, ops.convert_to_numpy(weight)))
    return groups


@pytest.mark.parametrize(
    ("function", "groups", "opaque"), [(empty, 12, 0), (waves, 24, 0), (scale, 24, 0), (around, 12, 1)]
)
def test_numbers_without_an_axis_for_samples(function, groups, opaque, tmp_path):
    model = model_of(function)
    assert len(kr.analyze(model).opaque) == opaque
    assert len(halved(model)) >= groups
    small = kr.strip(model)
    assert small.count_params() < 0.75 * model.count_params()
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    x = np.random.default_rng(0).normal(size=(3, 9, 8)).astype("float32")
    assert difference(model(x), small(x)) < 1e-5
    assert difference(small(x), loaded(x)) == 0
    assert kr.coupled_groups(small).members


def test_numbers_that_depend_on_an_open_size_are_not_returned_as_those_of_one():
    @own
    class Long(Block):
        def beside(self, x):
            return (ops.convert_to_tensor(np.ones((x.shape[1] or 3, 8), "float32")),)

    inputs = keras.Input((None, 8))
    model = randomize(keras.Model(inputs, L.Dense(3)(Long(name="block")(inputs)[0])))
    x = np.random.default_rng(0).normal(size=(3, 9, 8)).astype("float32")
    halved(model)
    small = kr.strip(model)
    assert difference(model(x), small(x)) < 1e-5
