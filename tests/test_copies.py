"""Copies of layers: the very functions, layers that stay as they are copied as objects, and names."""

import functools

import keras
import numpy as np
import pytest
from backend import hidden
from keras import layers as L
from keras import ops
from savable import Cell

import keras_rmda as kr
from keras_rmda.optimizers.assignment import names_in
from keras_rmda.platform import graphs
from keras_rmda.platform.copying import copies, functions
from keras_rmda.structure.verification import VerificationError

TENSORFLOW = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="functions of TensorFlow")
SCALE = 2.0


def array(x):
    return np.array(ops.convert_to_numpy(x))


def randomize(model, seed=0):
    """Give a model random weights."""
    random = np.random.default_rng(seed)
    for v in model.variables:
        if "seed" not in v.path and "float" in v.dtype:
            values = 0.4 * random.normal(size=tuple(v.shape))
            v.assign(np.abs(values) if "variance" in v.path else values)
    return model


def between(*layers, shape=(8,), name="model"):
    """Return a model with layers between two that lose channels."""
    first, last = [L.Dense(9, "relu", name="first"), L.Dense(6, name="second")], L.Dense(3, name="last")
    model = randomize(keras.Sequential([keras.Input(shape), *first, *layers, last], name=name))
    kernel = array(model.get_layer("second").kernel)
    kernel[[0, 4, 5]] = 0
    model.get_layer("second").kernel.assign(kernel)
    return model


def samples(model, count=4):
    random = np.random.default_rng(1)
    return [random.normal(size=(count, *x.shape[1:])).astype("float32") for x in model.inputs]


def computed(model):
    """Return what a model makes of random numbers."""
    return [array(y) for y in graphs.call(model, samples(model))]


def stripped(model):
    """Return a stripped model that computes the same and shares nothing with the model, which is unchanged."""
    before, expected = [array(v) for v in model.variables], computed(model)
    groups_can_be_made(model)
    small = kr.strip(model)
    for a, b in zip(expected, computed(small), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert not {id(v) for v in model.variables} & {id(v) for v in small.variables}
    other = kr.strip(model)
    for v in other.trainable_variables:
        v.assign(v + 1.0)
    for a, b in zip(expected, computed(model), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(a, array(b))
    return small


def groups_can_be_made(model):
    """What `strip` can do, `coupled_groups` does not refuse."""
    try:
        kr.coupled_groups(model)
    except ValueError as error:
        assert "No channel" in str(error)  # noqa: PT017


def quick(x, factor=1.702):
    return x * ops.sigmoid(factor * x)


class Scaled:
    """An object that is called as a function."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return self.factor * x


FUNCTIONS = {
    "of keras.ops": ops.gelu,
    "unregistered": quick,
    "lambda": lambda x: SCALE * ops.tanh(x),
    "partial": functools.partial(quick, factor=2.0),
    "object": Scaled(2.0),
    "built in": ops.relu6,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_the_very_same(name):
    function = FUNCTIONS[name]
    model = between(
        L.Dense(5, function, name="dense"),
        L.Activation(function, name="activation"),
        L.Lambda(function, output_shape=lambda shape: shape, name="lambda"),
    )
    small = stripped(model)
    assert small.get_layer("first").units == 6
    assert small.get_layer("dense").activation is function
    assert small.get_layer("activation").activation is function
    assert small.get_layer("lambda").function is function


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_layers_that_lose_channels(name):
    """They are made anew, narrower."""
    kernel = np.ones((8, 9), "float32")
    ones = lambda shape, dtype=None: ops.convert_to_tensor(kernel, dtype)  # noqa: E731
    i = keras.Input((8,))
    x = L.Dense(9, FUNCTIONS[name], kernel_initializer=ones, name="first")(i)
    model = randomize(keras.Model(i, L.Dense(3, name="last")(x)))
    kernel = array(model.get_layer("last").kernel)
    kernel[:4] = 0
    model.get_layer("last").kernel.assign(kernel)
    small = stripped(model)
    assert small.get_layer("first").activation is FUNCTIONS[name]
    assert small.get_layer("first").kernel_initializer is ones


@TENSORFLOW
def test_functions_of_tensorflow():
    import tensorflow as tf

    compiled = tf.function(quick)
    model = between(
        L.Dense(5, tf.nn.swish, name="a"), L.Lambda(lambda x: tf.nn.relu6(x)), L.Dense(5, compiled, name="b")
    )
    small = stripped(model)
    assert small.get_layer("a").activation is tf.nn.swish
    assert small.get_layer("b").activation is compiled


class Penalty(keras.regularizers.Regularizer):
    """Neither registered, nor with a configuration."""

    def __call__(self, x):
        return ops.sum(x**2)


class Clip(keras.constraints.Constraint):
    """Neither registered, nor with a configuration."""

    def __init__(self, largest):
        self.largest = largest

    def __call__(self, w):
        return ops.clip(w, -self.largest, self.largest)


def test_regularizers_and_constraints_of_a_users_own():
    penalty, clip = Penalty(), Clip(0.5)
    model = between(L.Dense(5, kernel_regularizer=penalty, bias_constraint=clip, name="dense"))
    small = stripped(model)
    assert small.get_layer("dense").kernel_regularizer is penalty
    assert small.get_layer("dense").kernel.regularizer is penalty
    assert small.get_layer("dense").bias.constraint is clip


INSIDE = {
    "RNN": lambda: L.RNN(L.LSTMCell(4, activation=ops.gelu)),
    "cell of a user's own": lambda: L.RNN(Cell(4, quick)),
    "stacked": lambda: L.RNN([L.GRUCell(4, activation=quick), L.SimpleRNNCell(3, activation=ops.gelu)]),
    "TimeDistributed": lambda: L.TimeDistributed(L.Dense(4, activation=quick)),
    "Bidirectional": lambda: L.Bidirectional(L.LSTM(4, activation="tanh")),
}


@pytest.mark.parametrize("name", INSIDE)
def test_functions_of_layers_inside_of_others(name):
    layer = INSIDE[name]()
    if name == "Bidirectional":  # its constructor is Keras's, which copies by names
        layer.forward_layer.cell.activation = quick
        layer.backward_layer.cell.activation = ops.gelu
    model = between(layer, shape=(5, 8))
    copy = stripped(model).layers[-2]
    assert type(copy) is type(layer) or name == "stacked"  # layers of one cell each
    of = lambda x: [f for each in x._flatten_layers() for f in vars(each).values() if functions.is_function(f)]  # noqa: E731
    own = {quick, ops.gelu}
    before, after = ([f for f in of(x) if f in own] for x in (layer, copy))
    assert sorted(map(id, before)) == sorted(map(id, after)) != []


class Holding(L.Layer):
    """Functions in lists, dictionaries and attributes; arrays; layers; no configuration."""

    def __init__(self, functions, array, **arguments):
        super().__init__(**arguments)
        self.functions, self.by_name = list(functions), {"last": functions[-1]}
        self.array, self.tensor = array, ops.convert_to_tensor(array)
        self.inner = L.Dense(6, name="inner")
        self.closure = lambda x: self.inner(x) + ops.sum(self.own)

    def build(self, shape):
        self.inner.build(shape)
        self.own = self.add_weight(shape=(3,), name="own")
        self.built = True

    def call(self, x):
        for function in [*self.functions, self.by_name["last"]]:
            x = function(x)
        x = ops.add(ops.multiply(self.closure(x), self.array), self.tensor)
        return ops.map(ops.copy, x)  # a loop, which the converter does not look into


def test_a_layer_with_everything_is_copied_as_an_object():
    model = between(Holding([quick, Scaled(2.0)], np.arange(6, dtype="float32"), name="holding"), L.Dropout(0.5))
    small = stripped(model)
    old, new = model.get_layer("holding"), small.get_layer("holding")
    assert list(new.functions) == list(old.functions)
    assert new.array is not old.array
    assert new.closure.__closure__[0].cell_contents is new
    assert [v.path for v in new.variables] == [v.path for v in old.variables]
    before = [array(v) for v in model.weights]
    small.compile("sgd", "mse")
    small.fit(samples(small)[0], np.ones((4, 3)), verbose=0)
    assert any((array(a) != b).any() for a, b in zip(new.weights, [array(v) for v in old.weights]))
    for a, b in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(array(a), b)


def test_a_function_that_reads_a_layer_reads_its_copy():
    i = keras.Input((8,))
    table = L.Dense(6, name="table")
    x = table(L.Dense(9, "relu", name="first")(L.Dense(7, "relu", name="before")(i)))
    x = L.Lambda(lambda t: ops.matmul(t, ops.transpose(table.kernel)), output_shape=(9,), name="back")(x)
    model = randomize(keras.Model(i, L.Dense(3)(x)))
    for name, rows in (("table", 4), ("first", 3)):
        kernel = array(model.get_layer(name).kernel)
        kernel[:rows] = 0
        model.get_layer(name).kernel.assign(kernel)
    assert "'back'" not in kr.analyze(model).opaque["table"]
    small = stripped(model)
    assert small.get_layer("before").units == 4
    assert small.get_layer("back").function.__closure__[0].cell_contents is small.get_layer("table")


def inner_model():
    i = keras.Input((6,))
    x = L.Dense(5, quick)(i)
    y = L.Dense(5)(L.Dropout(0.5)(x))
    return keras.Model(i, {"sum": x + y, "other": [L.BatchNormalization()(y)]})


class Around(L.Layer):
    """Holds a model, and a weight of its own."""

    def __init__(self, model, **arguments):
        super().__init__(**arguments)
        self.model = model

    def build(self, shape):
        self.own = self.add_weight(shape=(1,), name="own")
        self.built = True

    def call(self, x):
        found = self.model(hidden(x))
        return found["sum"] * self.own + found["other"][0]


def test_models_inside_of_a_layer_are_copied_with_their_graphs(tmp_path):
    model = between(Around(inner_model(), name="around"))
    copy = stripped(model).get_layer("around").model
    assert [layer.name for layer in copy.layers] == [layer.name for layer in model.get_layer("around").model.layers]
    copy.save_weights(tmp_path / "inner.weights.h5")
    part, dense = keras.Model(copy.input, copy.layers[1].output), copy.layers[1]
    np.testing.assert_array_equal(array(part(np.ones((1, 6)))), array(dense(np.ones((1, 6)))))


def test_layers_that_keras_cannot_read_back(tmp_path):
    model = between(L.Identity(dtype=keras.DTypePolicy("float32")))
    assert stripped(model).get_layer("first").units == 6


def test_a_layer_whose_configuration_has_too_much(tmp_path):
    class Patches(L.Layer):
        def __init__(self, units, **arguments):
            super().__init__(**arguments)
            self.units, self.inner = units, L.Dense(units)

        def build(self, shape):
            self.inner.build(shape)
            self.own = self.add_weight(shape=(self.units,))

        def call(self, x):
            return self.inner(x) + self.own

        def get_config(self):
            return super().get_config() | {"units": self.units, "count": 16}

    model = between(Patches(5))
    small = stripped(model)
    small.save(tmp_path / "small.keras")
    small.save_weights(tmp_path / "small.weights.h5")
    again = kr.strip(model)
    again.load_weights(tmp_path / "small.weights.h5")


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have a `quantize`")  # Keras 3.15 says so of every model
@TENSORFLOW
def test_quantized_layers_stay():
    i = keras.Input((8,))
    x = L.Dense(16, name="a")(i)
    model = keras.Model(i, L.Dense(3, name="d")(x))
    model.quantize("float8")
    assert kr.strip(model).count_params() == model.count_params()


def test_what_cannot_be_copied_is_named_and_nothing_is_changed():
    class Odd(L.Layer):
        def __init__(self, stream, **arguments):
            super().__init__(**arguments)
            self.stream = stream

        def call(self, x):
            return hidden(x)

    model = between(Odd((x for x in ()), name="odd"))
    before = [array(v) for v in model.weights]
    calls = [len(layer._inbound_nodes) for layer in model.layers]
    for attempt in (kr.strip, kr.coupled_groups, kr.gates.insert):
        with pytest.raises(ValueError, match=r"'odd' of type Odd cannot be rebuilt.*as an object"):
            attempt(model)
    assert calls == [len(layer._inbound_nodes) for layer in model.layers]
    for a, b in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(a, array(b))


def test_factorize_and_gates_keep_functions(tmp_path):
    model = between(L.Dense(5, quick, name="a"), L.Activation(ops.gelu, name="b"))
    kernel = array(model.get_layer("second").kernel)
    model.get_layer("second").kernel.assign(kernel[:, :1] @ kernel[:1])
    model.get_layer("second").activation = quick
    for other in (kr.factorize(model), kr.gates.insert(model)):
        assert other.get_layer("a").activation is other.get_layer("second").activation is quick
        assert other.get_layer("b").activation is ops.gelu
        np.testing.assert_allclose(computed(other)[0], computed(model)[0], rtol=1e-4, atol=1e-5)
    assert "second_in" in [layer.name for layer in kr.factorize(model).layers]


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX computes in float32 only, unless it is told to")
def test_another_function_within_the_tolerance_is_found(monkeypatch):
    model = between(L.Activation(lambda x: ops.gelu(x), name="it"))

    def sabotaged(self, layer, whole=copies.Copies.whole):
        new = whole(self, layer)
        if layer.name == "it":
            new.activation = keras.activations.gelu
        return new

    monkeypatch.setattr(copies.Copies, "whole", sabotaged)
    with pytest.raises(VerificationError, match="'it' has another function as its 'activation'"):
        kr.strip(model)
    monkeypatch.setattr("keras_rmda.structure.rebuilding.lost_function", lambda layer, new: None)
    with pytest.raises(VerificationError, match=r"first at 'it'"):
        kr.strip(model)
    assert kr.strip(model, tolerance=1e-2) is not None
    assert model.get_layer("it").dtype_policy.name == "float32"


def test_a_copy_that_uses_weights_of_the_original_is_found(monkeypatch):
    class Table(L.Layer):
        tables = {}  # noqa: RUF012

        def build(self, shape):
            self.tables["one"] = self.own = self.add_weight(shape=(1,), initializer="ones")

        def call(self, x):
            return x * self.tables["one"]

    model = between(Table(name="table"))
    with pytest.raises(VerificationError, match="first at 'table'"):
        kr.strip(model)


@TENSORFLOW
def test_quantization_aware_does_not_take_another_function_of_the_same_name():
    import tensorflow as tf

    relu = keras.Sequential([keras.Input((8,)), L.Dense(6, tf.nn.relu), L.Dense(3)])
    assert kr.quantization_aware(relu) is not None
    gelu = keras.Sequential([keras.Input((8,)), L.Dense(6, ops.gelu, name="it"), L.Dense(3)])
    layers = [getattr(each, "layer", each) for each in kr.quantization_aware(gelu).layers]
    functions = [each.carried.function for each in layers if hasattr(each, "carried")]
    assert [getattr(each, "activation", each) for each in functions] == [ops.gelu]


@TENSORFLOW
def test_files_for_devices_keep_functions_and_names(tmp_path):
    inputs = keras.Input((8,), name=None)
    x = L.Dense(6, quick)(L.Dense(9, ops.gelu)(inputs))
    model = randomize(keras.Model(inputs, {"y": L.Dense(3, name="out")(L.Lambda(lambda x: 2 * x)(x))}))
    small = kr.strip(model)
    assert [x.name for x in small.inputs] == [x.name for x in model.inputs]
    assert small.output_names == model.output_names
    exported = kr.export_tflite(model, tmp_path / "model.tflite")
    assert exported.max_difference < 1e-5


def named(**sizes):
    """Return a model of two inputs and outputs, with equal names of layers inside."""
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    x = L.Dense(8, "relu", name="one")(L.Concatenate()([a, b]))
    return {"a": a, "b": b}, {"large": x, "list": [L.Dense(5, "relu", name="two")(x)]}


class Backbone(keras.Model):
    """A Functional model by its constructor."""

    def __init__(self, **arguments):
        super().__init__(*named(), **arguments)


@pytest.mark.filterwarnings("ignore:The structure of `inputs`")  # an input more than the model has
@pytest.mark.parametrize("more", [False, True])
def test_nested_functional_subclasses_of_any_structure(more, tmp_path):
    left, right = Backbone(name="left"), Backbone(name="right")
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    x = left({"b": b, "a": a} | ({"other": L.Dense(2)(a)} if more else {}))
    y = right({"a": L.Dense(4, "relu", name="own")(x["list"][0]), "b": a})
    model = randomize(keras.Model({"b": b, "a": a}, [L.Dense(2, name="out")(y["large"]), L.Dense(2)(x["large"])]))
    groups = kr.coupled_groups(model)
    assert {name.split("[")[0] for name in groups.names} >= {"left/two", "own", "right/one"}
    assert {"left/two/kernel", "right/one/kernel"} <= {name for names in names_in(model).values() for name in names}
    for name in ("left", "right"):
        kernel = array(model.get_layer(name).get_layer("two").kernel)
        model.get_layer(name).get_layer("two").kernel.assign(np.where(np.arange(8)[:, None] < 3, 0, kernel))
    kernel = array(model.get_layer("own").kernel)
    model.get_layer("own").kernel.assign(np.where(np.arange(5)[:, None] < 3, 0, kernel))
    small = stripped(model)
    assert small.get_layer("left").get_layer("two").units == 2
    assert small.get_layer("right").get_layer("one").units == 8
    assert len(kr.coupled_groups(small)) < len(groups)
    small.save(tmp_path / "small.keras")
    assert len(kr.coupled_groups(keras.models.load_model(tmp_path / "small.keras"))) == len(kr.coupled_groups(small))


def test_networks_of_one_family_train_with_groups_and_once_more():
    nets = []
    for name in ("rgb", "depth"):
        i = keras.Input((6,))
        nets.append(keras.Model(i, L.Dense(5, "relu", name="two")(L.Dense(7, "relu", name="one")(i)), name=name))
    a, b = keras.Input((6,)), keras.Input((6,))
    last = L.Dense(2, name="one")
    model = randomize(keras.Model([a, b], last(L.Concatenate()([nets[0](a), nets[1](b)]))))
    for _ in range(2):
        groups = kr.coupled_groups(model)
        assert {"rgb/two/kernel", "depth/two/kernel", "one/kernel"} == set(groups.members)
        model.compile(kr.RMDA(0.01, 0.3, kr.GroupLasso(1e-4, groups=groups)), "mse")
        model.fit(samples(model), np.ones((4, 2)), verbose=0)
        model = kr.strip(model)


def test_paths_tell_what_contains_a_weight_after_strip(tmp_path):
    class Block(L.Layer):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.up, self.down = L.Dense(9, "relu", name="up"), L.Dense(8, name="down")

        def build(self, shape):
            self.up.build(shape)
            self.down.build((*shape[:-1], 9))

        def call(self, x):
            return x + self.down(self.up(x))

    i = keras.Input((8,))
    model = randomize(keras.Model(i, L.Dense(4)(Block(name="block_1")(Block(name="block_0")(i)))))
    groups = kr.coupled_groups(model)
    small = kr.strip(model)
    assert [v.path for v in small.weights] == [v.path for v in model.weights]
    assert list(kr.coupled_groups(small).members) == list(groups.members)
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    assert list(kr.coupled_groups(loaded).members) == list(groups.members)
    assert len({v.path for v in loaded.weights}) < len(loaded.weights)  # which Keras does not tell


class Counting(L.Layer):
    """Adds how often it was called."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.calls = 0

    def build(self, shape):
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False, name="count")
        self.built = True

    def call(self, x):
        self.calls += 1
        self.count.assign_add(1.0)
        return x + self.calls


def test_a_layer_that_changes_its_output_is_named_and_keeps_its_weights():
    model = between(Counting(name="counting"), L.Dense(5, "relu"))
    before = [array(v) for v in model.variables]
    with pytest.raises(VerificationError, match=r"^The layer 'counting' of type Counting computes something else"):
        kr.strip(model)
    for a, b in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(a, array(b))


def test_a_layer_that_assigns_to_its_weights_is_stripped_and_unchanged():
    class Remembering(Counting):
        def call(self, x):
            self.count.assign_add(1.0)
            return 2 * x

    model = between(Remembering())
    before = [array(v) for v in model.variables]
    assert kr.strip(model).get_layer("first").units == 6
    for a, b in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(a, array(b))


def test_a_lambda_that_reads_a_file(tmp_path):
    path = tmp_path / "scale.txt"
    path.write_text("2.0")
    model = between(L.Lambda(lambda x: x * float(path.read_text()), output_shape=lambda shape: shape, name="reads"))
    assert stripped(model).get_layer("first").units == 6
    path.unlink()
    with pytest.raises(ValueError, match=r"The layer 'reads' of type Lambda raises"):
        kr.strip(model)
