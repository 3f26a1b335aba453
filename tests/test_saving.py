"""What is made of a model that can be saved, can be saved, too, and is read in another process."""

import functools
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops
from keras.src.models.functional import Functional
from savable import MODELS, Block, Forgetting, Net, Scale, quick
from zoo import randomize

import keras_rmda as kr
from keras_rmda.platform.compat import layers_of
from keras_rmda.platform.copying.likeness import are_alike
from keras_rmda.structure.verification import difference

LOSING = ("first", "dense", "units", "head")
"""Layers that lose two channels."""


def array(x):
    return np.array(ops.convert_to_numpy(x))


def samples(name):
    random = np.random.default_rng(1)
    if name in ("shared", "shared by heads", "shared weight"):
        return random.integers(0, 11, (4, 5))
    return random.normal(size=(4, 8)).astype("float32")


def randomized(model, name=""):
    """Give a model random weights, with zeros in the place of some channels."""
    model(samples(name))
    random = np.random.default_rng(0)
    for v in model.variables:
        if "float" in v.dtype:
            value = 0.4 * random.normal(size=tuple(v.shape))
            v.assign(np.abs(value) if "variance" in v.path else value)
    for v in [v for layer in layers_of(model) if layer.name in LOSING for v in layer.variables]:
        value = array(v)
        value[..., [0, 4]] = 0
        v.assign(value)
    return model


def computed(model, name=""):
    return [array(y) for y in keras.tree.flatten(model(samples(name), training=False))]


def is_same(a, b, name=""):
    for x, y in zip(computed(a, name), computed(b, name), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6)
    assert len(a.variables) == len(b.variables)


def copied_by_a_file(model, path, **arguments):
    model.save(path)
    return keras.models.load_model(path, **arguments)


READ = """
import sys, keras, numpy, keras_rmda, savable
from test_saving import computed
folder, *names = sys.argv[1:]
for name in names:
    model = keras.models.load_model(f"{folder}/{name}.keras")
    numpy.savez(f"{folder}/{name}.npz", *computed(model, name))
"""


@pytest.fixture(scope="module")
def stripped(tmp_path_factory):
    """Return a folder with what other processes make of the files of stripped models; and models, before and after."""
    folder, models = tmp_path_factory.mktemp("files"), {}
    for name in MODELS:
        model = randomized(MODELS[name](), name)
        models[name] = model, kr.strip(model, inputs=samples(name))
        models[name][1].save(folder / f"{name}.keras")
    command = [sys.executable, "-c", READ, str(folder), *MODELS]
    subprocess.run(command, check=True, cwd=Path(__file__).parent, timeout=300)
    return folder, models


@pytest.mark.parametrize("name", MODELS)
def test_stripped_models_are_read_in_another_process(name, stripped):
    folder, models = stripped
    model, small = models[name]
    is_same(model, copied_by_a_file(model, folder / "original.keras"), name)
    with np.load(folder / f"{name}.npz") as found:
        for a, b in zip(computed(small, name), found.values(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    with zipfile.ZipFile(folder / f"{name}.keras") as file:
        assert "__lambda__" not in file.read("config.json").decode()


@pytest.mark.parametrize("name", MODELS)
def test_what_is_read_can_be_stripped_and_saved_again(name, stripped, tmp_path):
    _, models = stripped
    _, small = models[name]
    loaded = copied_by_a_file(small, tmp_path / "small.keras")
    again = kr.strip(loaded, inputs=samples(name))
    assert again.count_params() <= small.count_params()
    again = copied_by_a_file(again, tmp_path / "again.keras")
    is_same(small, again, name)


@pytest.mark.parametrize("name", ["blocks", "shared", "shared weight"])
def test_a_model_is_read_with_its_optimizer(name, stripped, tmp_path):
    _, models = stripped
    again = copied_by_a_file(models[name][1], tmp_path / "again.keras")
    again.compile("adam", "mse")
    again.fit(samples(name), keras.tree.map_structure(array, again(samples(name))), verbose=0)
    trained = copied_by_a_file(again, tmp_path / "trained.keras")
    is_same(again, trained, name)
    assert len(trained.optimizer.variables) == len(again.optimizer.variables)


@pytest.mark.parametrize("change", [lambda m: kr.factorize(m, tolerance=0.4), kr.gates.insert], ids=["thin", "gated"])
@pytest.mark.parametrize("name", ["function local", "wrapped", "forgotten"])
def test_factorized_and_gated_models_are_read(name, change, stripped, tmp_path):
    _, models = stripped
    model, small = models[name]
    for each in (small, model) if change is not kr.gates.insert else (small,):
        changed = change(each)
        is_same(changed, copied_by_a_file(changed, tmp_path / "changed.keras"), name)


def test_what_is_shared_stays_shared(stripped, tmp_path):
    _, models = stripped
    small = models["shared"][1]
    for model in (small, copied_by_a_file(small, tmp_path / "small.keras")):
        table = model.get_layer("table")
        assert model.get_layer("backbone").get_layer("table") is table
        assert len(table._inbound_nodes) >= 3
        assert sum(v.name == "embeddings" for v in model.variables) == 1
    loaded = copied_by_a_file(models["shared by heads"][1], tmp_path / "heads.keras")
    head, one, two = (loaded.get_layer(name) for name in ("head", "one", "two"))
    ids = lambda layer: {id(v) for v in layer.weights}  # noqa: E731
    assert ids(head) & ids(loaded.get_layer("table"))
    assert ids(one) & ids(two) - ids(head)  # nobody calls the table of these: its weight is as the code's own
    loaded = copied_by_a_file(models["shared by siblings"][1], tmp_path / "siblings.keras")
    one, other = loaded.get_layer("one"), loaded.get_layer("other")
    assert one.get_layer("core") is other.get_layer("core") is loaded.get_layer("core")
    assert one.get_layer("random") is other.get_layer("random") is loaded.get_layer("random")


def test_reading_leaves_nothing_behind(stripped, tmp_path):
    """What is made to take layers from takes no names and no random numbers."""
    _, models = stripped
    models["blocks"][1].save(tmp_path / "blocks.keras")
    keras.utils.set_random_seed(0)
    keras.backend.clear_session()
    keras.models.load_model(tmp_path / "blocks.keras")
    assert Scale(keras.DTypePolicy("float32"), quick).name == "scale"
    assert Block([]).name == "block"


def kinds_in(path):
    """Return the classes in a file."""
    with zipfile.ZipFile(path) as file:
        config = json.loads(file.read("config.json"))
    found, waiting = set(), [config]
    while waiting:
        x = waiting.pop()
        if isinstance(x, dict):
            found.add(x.get("registered_name"))
        waiting += x.values() if isinstance(x, dict) else x if isinstance(x, list) else []
    return {x for x in found if isinstance(x, str)}


def test_files_of_layers_of_keras_do_not_need_this_package(tmp_path):
    i = keras.Input((8,))
    x = L.Dense(9, "gelu", name="first")(i)
    x = keras.Sequential([keras.Input((9,)), L.Dense(5, keras.activations.silu), L.BatchNormalization()])(x)
    x = L.Dense(4, kernel_initializer=keras.initializers.RandomNormal(), kernel_regularizer="l2")(ops.tanh(x) + 1.0)
    model = randomized(keras.Model(i, {"y": x}))
    small = kr.strip(model)
    assert small.count_params() < model.count_params()
    assert type(small) is Functional
    is_same(small, copied_by_a_file(small, tmp_path / "small.keras"))
    assert not any("keras_rmda" in x for x in kinds_in(tmp_path / "small.keras"))


@keras.saving.register_keras_serializable(package="test_saving")
class Registered(L.Layer):
    """A layer that Keras reads back by itself, with a function that it finds."""

    def __init__(self, function=ops.tanh, units=5, **arguments):
        super().__init__(**arguments)
        self.units, self.inner = units, L.Dense(units, "relu", name="dense")

    def build(self, shape):
        self.inner.build(shape)
        self.built = True

    def call(self, x):
        return ops.cumsum(self.inner(x), axis=0)

    def get_config(self):
        return super().get_config() | {"units": self.units}


def test_registered_layers_do_not_need_this_package(tmp_path):
    model = randomized(
        keras.Sequential([keras.Input((8,)), L.Dense(9, "relu", name="first"), Registered(), L.Dense(3)])
    )
    small = kr.strip(model)
    assert small.count_params() < model.count_params()
    is_same(small, copied_by_a_file(small, tmp_path / "small.keras"))
    assert "keras_rmda>Rebuilt" not in kinds_in(tmp_path / "small.keras")


def test_functions_of_a_users_own_graph_are_named_where_the_file_is_read(tmp_path):
    """As with the original, whose file has the name of the function."""
    i = keras.Input((8,))
    model = randomized(keras.Model(i, L.Dense(3)(L.Dense(9, quick, name="first")(i))))
    small = kr.strip(model)
    assert small.count_params() < model.count_params()
    small.save(tmp_path / "small.keras")
    with pytest.raises(TypeError, match="quick"):
        keras.models.load_model(tmp_path / "small.keras")
    is_same(small, keras.models.load_model(tmp_path / "small.keras", custom_objects={"quick": quick}))


class Unregistered(Net):
    """A model that nobody registered, with layers that nobody registered."""

    def make(self):
        self.block, self.dense = Block([Scale]), L.Dense(6, lambda x: quick(x) * FACTOR, name="dense")

    def middle(self, x):
        return self.dense(self.block(x))


FACTOR = 0.5


def test_only_the_class_of_the_original_must_be_named_where_the_file_is_read(tmp_path):
    model = randomized(Unregistered())
    small = kr.strip(model)
    assert small.count_params() < model.count_params()
    for _ in range(2):
        small.save(tmp_path / "small.keras")
        loaded = keras.models.load_model(tmp_path / "small.keras", custom_objects={"Unregistered": Unregistered})
        is_same(small, loaded)
        small = kr.strip(loaded)


@keras.saving.register_keras_serializable(package="test_saving")
class Deceived(Net):
    """Does not say in its configuration what it was given: the original is read as another model."""

    def __init__(self, factor=1.0, **arguments):
        self.factor = factor
        super().__init__(**arguments)

    def make(self):
        self.inner = Forgetting(6, self.factor)

    def middle(self, x):
        return self.inner(x)


def test_a_whole_that_makes_another_layer_is_not_taken(tmp_path):
    small = kr.strip(randomized(Deceived(3.0)))
    with pytest.warns(UserWarning, match="includes a `lambda`"):
        small.save(tmp_path / "small.keras")
    with pytest.raises((TypeError, ValueError)):
        keras.models.load_model(tmp_path / "small.keras")


MADE = []


@keras.saving.register_keras_serializable(package="test_saving")
class Lost(Net):
    """Is saved, but not read back: neither is what is made of it, and reading is tried twice for all layers."""

    def make(self):
        MADE.append(self)
        if len(MADE) > 1:
            raise RuntimeError("only once")
        self.parts = [L.Dense(9, lambda x: x * 2.0) for _ in range(5)]

    def middle(self, x):
        for part in self.parts:
            x = part(x)
        return x


def test_a_model_that_is_not_read_back_is_stripped_all_the_same():
    model = randomized(Lost())
    small = kr.strip(model)
    assert small.count_params() < model.count_params()
    assert type(small) is Functional
    assert len(MADE) == 3


def scaled(factor):
    return lambda x: x * factor


class Called:
    def __init__(self, factor):
        self.factors = {"it": [factor]}

    def __call__(self, x):
        return x * self.factors["it"][0]


def with_default(factor):
    def function(x, factor=factor):
        return x * factor

    return function


PAIRS = {
    "closure": scaled,
    "closure of a closure": lambda factor: (lambda inner: lambda x: inner(x))(scaled(factor)),
    "default": with_default,
    "object": Called,
    "method": lambda factor: Called(factor).__call__,
    "partial": lambda factor: functools.partial(with_default(1.0), factor=factor),
    "partial of an array": lambda factor: functools.partial(ops.multiply, np.full(3, factor)),
    "other code": lambda factor: (lambda x: x * 2.0) if factor == 2.0 else (lambda x: x * 3.0),
}


@pytest.mark.parametrize("name", PAIRS)
def test_functions_are_alike_if_what_they_hold_is(name):
    make = lambda factor: L.Dense(3, PAIRS[name](factor))  # noqa: E731
    assert are_alike(make(2.0), make(2.0))
    assert not are_alike(make(2.0), make(3.0))


ATTRIBUTES = {
    "number": lambda factor: factor,
    "array": lambda factor: np.full(3, factor),
    "list": lambda factor: [1, (factor, None)],
    "dictionary": lambda factor: {"a": {"b": factor}},
    "object": Called,
    "functions": lambda factor: [scaled(factor)],
    "without attributes": lambda factor: np.dtype("float32" if factor == 2.0 else "float64"),
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_layers_are_alike_if_their_attributes_are(name):
    def make(factor):
        layer = L.Dense(3, kernel_initializer=keras.initializers.RandomNormal())
        layer.inner = Registered()
        layer.inner.attribute = ATTRIBUTES[name](factor)
        return layer

    assert are_alike(make(2.0), make(2.0))
    assert not are_alike(make(2.0), make(3.0))


def test_layers_of_other_weights_policies_or_classes_are_not_alike():
    built = L.Dense(3)
    built.build((None, 4))
    assert not are_alike(L.Dense(3), built)
    assert not are_alike(L.Dense(3), L.Dense(3, dtype="mixed_float16"))
    assert not are_alike(L.Activation("relu"), L.ReLU())


@keras.saving.register_keras_serializable(package="tests_saving")
class Maps(L.Layer):
    """Convolutions in a row, with a function that Keras reads back as another one."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.maps = keras.Sequential([L.Conv2D(n, 3, padding="same", activation=ops.gelu) for n in (6, 4)])

    def call(self, x):
        return self.maps(x)


def test_layers_in_a_row_keep_their_functions(tmp_path):
    inputs = keras.Input((6, 6, 3))
    model = randomize(keras.Model(inputs, L.Conv2D(3, 1)(Maps()(L.Conv2D(5, 3)(inputs)))))
    small, x = kr.strip(model), np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype("float32")
    small.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert difference(small(x), again(x)) == 0
    found = [layer.activation for layer in again._flatten_layers() if isinstance(layer, L.Conv2D)]
    assert found.count(ops.gelu) == 2
