"""Gates in models that exist, and models without their gates again."""

import itertools

import keras
import numpy as np
import pytest
from backend import gradient, number, only_tensorflow
from graphs import close
from keras import layers as L
from zoo import block, randomize

import keras_rmda as kr
from keras_rmda.gates.dependent import DependentL0Gate, SharedL0Gate
from keras_rmda.gates.generator import GateGenerator
from keras_rmda.gates.places import places_in
from keras_rmda.gates.training import expected_macs
from keras_rmda.platform.compat import layers_of
from keras_rmda.structure import copied
from keras_rmda.structure.amounts import amounts
from keras_rmda.structure.liveness import plan
from keras_rmda.structure.trace import trace

EVERY_KIND = pytest.mark.parametrize(
    ("kind", "direction"), [("l0", "forward"), ("dep_l0", "forward"), ("dep_l0", "backward")]
)
NEEDS_MULTI_OPTIMIZER = pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="this Keras has no MultiOptimizer"
)


def chain():
    """Three layers that can be cut, and one that cannot."""
    inputs = keras.Input((12, 12, 3))
    x = L.MaxPooling2D()(block(inputs, 6, "a"))
    x = L.Conv2D(8, 3, activation="relu", name="b")(x)
    x = L.Dense(10, activation="relu", name="c")(L.Flatten()(x))
    return keras.Model(inputs, L.Dense(4, name="d")(x), name="chain")


def residual():
    """A stream of 4 channels with two writers, 6 channels inside of a block, and 5 behind."""
    inputs = keras.Input((8, 8, 3))
    x = block(inputs, 4, "stem")
    y = L.Conv2D(4, 3, padding="same", use_bias=False, name="second")(block(x, 6, "first"))
    x = L.Add(name="add")([x, L.BatchNormalization(name="norm")(y)])
    x = L.Dense(5, name="dense")(L.GlobalAveragePooling2D()(L.ReLU()(x)))
    return keras.Model(inputs, L.Dense(2, name="top")(x), name="residual")


def inverted():
    """Two inverted residual blocks with squeeze and excitation."""
    x = inputs = keras.Input((8, 8, 3))
    x = block(x, 4, "stem")
    for name in "ab":
        y = block(x, 8, f"expand_{name}")
        y = L.DepthwiseConv2D(3, padding="same", use_bias=False, name=f"depthwise_{name}")(y)
        y = L.ReLU()(L.BatchNormalization()(y))
        excited = L.Dense(8, activation="sigmoid", name=f"excite_{name}")(
            L.Dense(3, activation="relu", name=f"squeeze_{name}")(L.GlobalAveragePooling2D(keepdims=True)(y))
        )
        y = L.BatchNormalization()(L.Conv2D(4, 1, use_bias=False, name=f"project_{name}")(L.Multiply()([y, excited])))
        x = L.Add()([x, y])
    return keras.Model(inputs, L.Dense(2, name="top")(L.GlobalAveragePooling2D()(x)), name="inverted")


def nested():
    """A convolutional network inside another one."""
    inside = keras.Sequential([keras.Input((5, 5, 6)), L.Conv2D(7, 3, name="c"), L.ReLU()], name="inside")
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(6, 3, padding="valid", name="b")(block(inputs, 5, "a", padding="same"))
    backbone = keras.Model(inputs, L.ReLU()(x), name="backbone")
    outer = keras.Input((8, 8, 3))
    x = inside(L.Cropping2D(((0, 1), (0, 1)))(backbone(outer)))
    return keras.Model(outer, L.Dense(2, name="top")(L.GlobalAveragePooling2D()(x)), name="outer")


MODELS = pytest.mark.parametrize("make", [chain, residual, inverted, nested])


def images(model, count=4):
    return np.random.default_rng(0).normal(size=(count, *model.input_shape[1:])).astype("float32")


def outputs(model, x):
    return number(model(x, training=False))


def gates_of(model):
    return [layer for layer in layers_of(model) if "Gate" in type(layer).__name__]


# ---- strip folds gates


def gated(before, behind, axis=-1):
    """A gate between layers, with closed, half open and open gates."""
    inputs = x = keras.Input((8, 8, 3))
    for layer in [*before, kr.layers.L0Gate(1e-3, axis=axis, name="gate"), *behind]:
        x = layer(x)
    model = randomize(keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling2D()(x))))
    gate = model.get_layer("gate")
    gate.frozen.assign(-np.ones(gate.frozen.shape))
    gate.log_alpha.assign(np.resize([-4.0, -1.0, 0.0, 1.0, 4.0], gate.log_alpha.shape))
    return model


CONV = {"filters": 6, "kernel_size": 3, "use_bias": False}
FOLDED = {
    "normalization": lambda: gated([L.Conv2D(**CONV), L.BatchNormalization()], [L.ReLU()]),
    "without scale": lambda: gated([L.Conv2D(**CONV), L.BatchNormalization(scale=False)], [L.Activation("tanh")]),
    "without shift": lambda: gated([L.Conv2D(**CONV), L.BatchNormalization(center=False)], [L.Activation("tanh")]),
    "behind relu": lambda: gated([L.Conv2D(**CONV), L.BatchNormalization(), L.ReLU()], [L.Activation("tanh")]),
    "behind pooling": lambda: gated([L.Conv2D(6, 3, activation="relu"), L.MaxPooling2D()], [L.Activation("tanh")]),
    "bias": lambda: gated([L.Conv2D(6, 3, bias_initializer="ones")], [L.Activation("sigmoid")]),
    "dense": lambda: gated([L.Dense(6, activation="leaky_relu")], [L.Activation("sigmoid")]),
    "transposed": lambda: gated([L.Conv2DTranspose(6, 3)], [L.Activation("sigmoid")]),
    "separable": lambda: gated([L.SeparableConv2D(6, 3)], [L.Activation("sigmoid")]),
    "depthwise": lambda: gated([L.DepthwiseConv2D(3, depth_multiplier=2)], [L.Activation("sigmoid")]),
    "grouped": lambda: gated([L.Conv2D(6, 3), L.Conv2D(6, 3, groups=2)], [L.Activation("sigmoid")]),
    "reader": lambda: gated([L.Conv2D(6, 3, activation="tanh")], [L.Conv2D(5, 3, padding="same")]),
    "grouped reader": lambda: gated([L.Conv2D(6, 3, activation="tanh")], [L.Conv2D(4, 3, groups=2)]),
    "separable reader": lambda: gated([L.Dense(6, activation="tanh")], [L.SeparableConv2D(4, 3, depth_multiplier=2)]),
}
RESCALED = {
    "between activations": lambda: gated([L.Conv2D(6, 3, activation="tanh")], [L.Activation("tanh")]),
    "behind the input": lambda: gated([], [L.Activation("tanh")]),
    "rows": lambda: gated([L.Conv2D(6, 3)], [L.ReLU()], axis=1),
}


@pytest.mark.parametrize("name", [*FOLDED, *RESCALED])
def test_strip_leaves_no_gate(name):
    model = (FOLDED | RESCALED)[name]()
    before = [weight.copy() for weight in model.get_weights()]
    small = kr.strip(model)
    for each in (small, copied(model)):
        np.testing.assert_allclose(outputs(each, images(model)), outputs(model, images(model)), rtol=1e-5, atol=1e-6)
        assert gates_of(each) == []
    assert ("Rescaling" in [type(layer).__name__ for layer in small.layers]) == (name in RESCALED)
    report = kr.analyze(model)
    assert report.parameters_after == small.count_params() < model.count_params()
    assert kr.strip(small).count_params() == small.count_params()
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_layer_with_other_readers_keeps_its_weights():
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(6, 3, name="conv")(inputs)
    y = kr.layers.L0Gate(1e-3, name="gate")(x)
    model = randomize(keras.Model(inputs, [L.Dense(2)(x), L.Dense(2, activation="tanh")(L.Activation("tanh")(y))]))
    model.get_layer("gate").frozen.assign([-1.0, 0.0, 0.5, 1.0, -1.0, 0.25])
    small = kr.strip(model)
    assert isinstance(small.get_layer("gate"), L.Rescaling)
    np.testing.assert_array_equal(number(small.get_layer("conv").kernel), number(model.get_layer("conv").kernel))
    for a, b in zip(small(images(model)), model(images(model))):
        np.testing.assert_allclose(number(a), number(b), atol=1e-6)


def test_closed_gates_close_their_channels():
    model = gated([L.Conv2D(**CONV, name="conv"), L.BatchNormalization()], [L.ReLU(), L.Conv2D(5, 3, name="next")])
    model.get_layer("gate").log_alpha.assign([-4.0, 4.0, -4.0, 0.3, 4.0, -4.0])
    small = kr.strip(model)
    assert small.get_layer("conv").kernel.shape == (3, 3, 3, 3)
    assert small.get_layer("next").kernel.shape == (3, 3, 3, 5)


@only_tensorflow
def test_models_with_gates_are_compressed():
    """What gates leave is what `compress` goes on with."""
    model = gated([L.Conv2D(**CONV), L.BatchNormalization()], [L.ReLU(), L.Conv2D(5, 3)])
    model.compile("sgd", "mse")
    x, y = images(model, 16), np.zeros((16, 2), "float32")
    result = kr.compress(model, x, y, target=0.67, epochs=2, verbose=0)
    assert result.before["loss"] == pytest.approx(np.mean(outputs(model, x) ** 2), rel=1e-5)
    assert result.after["loss"] == pytest.approx(result.model.evaluate(x, y, verbose=0), rel=1e-5)
    assert gates_of(result.model) == []


# ---- insert


@MODELS
@pytest.mark.parametrize(
    ("kind", "direction", "where"),
    [
        ("l0", "forward", "inside"),
        ("l0", "forward", "everywhere"),
        ("dep_l0", "forward", "everywhere"),
        ("dep_l0", "backward", "everywhere"),
    ],
)
def test_gates_begin_open_and_take_their_channels_along(make, kind, direction, where):
    model = randomize(make())
    before = [weight.copy() for weight in model.get_weights()]
    gated = kr.gates.insert(model, kind, 1e-3, direction, where=where)
    x = images(model)
    np.testing.assert_array_equal(outputs(gated, x), outputs(model, x))
    assert not gated.compiled
    close(gated, np.random.default_rng(1))
    small, copy = kr.strip(gated), copied(gated)
    scale = np.abs(outputs(gated, x)).max()
    for each in (small, copy):
        np.testing.assert_allclose(outputs(each, x), outputs(gated, x), atol=1e-5 * scale)
        assert gates_of(each) == []
    assert copy.count_params() == model.count_params()
    assert small.count_params() < model.count_params()
    assert kr.analyze(gated).macs_after == kr.analyze(small).macs < kr.analyze(model).macs
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@MODELS
def test_a_closed_gate_is_a_removed_channel(make):
    """As many channels go from every place as gates are closed there."""
    model = randomize(make())
    gated = kr.gates.insert(model, "l0", 1e-3, where="everywhere")
    for place in places_in(model, "weights"):
        for gate in gates_of(gated):
            if hasattr(gate, "frozen"):
                closed = gate.name == f"{place.writers[0].layer.name}_gate"
                value = np.where(np.arange(gate.frozen.shape[0]) < 2, 0.0, 1.0) if closed else 1.0
                gate.frozen.assign(np.broadcast_to(value, gate.frozen.shape))
        kept = {layer.name: layer.channels - layer.removable for layer in kr.analyze(gated).layers}
        assert kept[place.name] == len(place.roots) - 2
        assert sum(layer.removable for layer in kr.analyze(gated).layers) >= 2


def names_and_numbers(model):
    return [(place.writers[0].layer.name, len(place.behind), place.cost) for place in places_in(model, "weights")]


def test_places_by_hand():
    assert names_and_numbers(chain()) == [("a", 1, 27.0), ("b", 1, 54.0), ("c", 1, 128.0)]
    assert names_and_numbers(residual()) == [("stem", 2, 27.0 + 54.0), ("first", 1, 36.0), ("dense", 1, 4.0)]
    # One gate behind the depthwise convolution serves the layer before it and the excitation.
    inside = [("depthwise_a", 1, 36.0 + 9.0 + 3.0), ("squeeze_a", 1, 8.0)]
    assert names_and_numbers(inverted())[:3] == [("stem", 3, 27.0 + 8.0 + 8.0), *inside]
    macs = {place.name: place.cost for place in places_in(chain(), "macs")}
    assert macs["c"] == 128 + 4
    assert macs["b"] == 4 * 4 * (54 + 10)


def test_gates_stand_before_the_activation():
    gated = kr.gates.insert(chain(), "l0", 1e-3)
    names = [layer.name for layer in gated.layers]
    assert names.index("a_norm") < names.index("a_gate") < names.index("a_relu")


def test_names_weights_and_flags_stay():
    model = chain()
    model.get_layer("b").trainable = False
    gated = kr.gates.insert(model, "dep_l0", 1e-3)
    assert [each for each in gated.layers if not each.name.endswith("gate") and each.name != "gate_generator"]
    for layer in model.layers:
        for a, b in zip(layer.get_weights(), gated.get_layer(layer.name).get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    assert gated.get_layer("b").trainable_weights == []
    twice = kr.gates.insert(gated, "l0", 1e-3)  # another gate behind each; names are still unique
    assert len({layer.name for layer in twice.layers}) == len(twice.layers)


def test_a_sequential_model_stays_one():
    model = keras.Sequential([keras.Input((6,)), L.Dense(5, name="a"), L.ReLU(), L.Dense(2)])
    gated = kr.gates.insert(model, "l0", 1e-3)
    assert isinstance(gated, keras.Sequential)
    assert [layer.name for layer in gated.layers][:2] == ["a", "a_gate"]
    x = images(model)
    np.testing.assert_array_equal(outputs(kr.gates.insert(model, "dep_l0", 1e-3), x), outputs(model, x))


def test_where_chooses_layers():
    found = lambda where: [layer.name for layer in gates_of(kr.gates.insert(residual(), "l0", 1.0, where=where))]  # noqa: E731
    assert found("inside") == ["first_gate", "dense_gate"]
    assert found("everywhere") == ["stem_gate", "first_gate", "stem_gate_shared", "dense_gate"]
    assert found(["st.*"]) == ["stem_gate", "stem_gate_shared"]
    assert found(["first", "dense"]) == ["first_gate", "dense_gate"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "l1"}, "`kind` must be one of 'l0', 'dep_l0'.*'l1'"),
        ({"strength": -1.0}, "strength"),
        ({"direction": "up"}, "direction"),
        ({"where": "nowhere"}, "where"),
        ({"where": ["("]}, "where"),
        ({"where": ["top"]}, r"names no layer that can have gates: \['top'\].*'stem'"),
        ({"cost": "time"}, "cost"),
        ({"per_example": 1}, "per_example"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        kr.gates.insert(residual(), **arguments)


def test_models_without_a_place_for_gates():
    only = keras.Sequential([keras.Input((3,)), L.Dense(2)], name="only")
    with pytest.raises(ValueError, match=r"No channel of the model 'only'.*analyze"):
        kr.gates.insert(only)
    with pytest.raises(ValueError, match="not built"):
        kr.gates.insert(keras.Sequential([L.Dense(2)]))
    with pytest.raises(ValueError, match="no gates"):
        kr.gates.freeze(only)


def test_where_gates_could_stand_is_said():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 1, name="stem")(inputs)
    x = keras.layers.Add()([x, keras.layers.Conv2D(4, 1, name="block")(x)])
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
    with pytest.raises(ValueError, match=r'Several layers write .*: stem, block. `where="everywhere"`'):
        kr.gates.insert(model)
    assert any("gate" in layer.name for layer in kr.gates.insert(model, where="everywhere").layers)
    recurrent = keras.Sequential([keras.Input((5, 3)), keras.layers.LSTM(4), keras.layers.Dense(2)])
    for where in ("inside", "everywhere"):
        with pytest.raises(ValueError, match="units of recurrent layers and heads get none"):
            kr.gates.insert(recurrent, where=where)


# ---- Dep-L0


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_generators_compute_the_chain(direction):
    generator = GateGenerator([3, 5, 4], direction, seed=0)
    found = [number(a) for a in generator(np.zeros((7, 2)))]
    assert [a.shape for a in found] == [(1, 3), (1, 5), (1, 4)]
    assert min(a.min() for a in found) > np.log(11.0), "the gate of inference is not 1 at the beginning"
    weights = {weight.name: np.random.default_rng(0).normal(size=weight.shape) for weight in generator.weights}
    for weight in generator.weights:
        weight.assign(weights[weight.name])
    order = [0, 1, 2] if direction == "forward" else [2, 1, 0]
    a = np.ones(generator.channels[order[0]])
    for k, log_alpha in zip(order, [number(generator(np.zeros((7, 2)))[k]) for k in order]):
        a = np.log(100.0) * np.tanh(a @ weights[f"log_alpha_kernel_{k}"] + weights[f"log_alpha_bias_{k}"])
        np.testing.assert_allclose(log_alpha.reshape(-1), a, rtol=1e-4, atol=1e-5)


def test_what_a_layer_loses_moves_the_gates_behind_it():
    """The gradient of the last layer's penalty reaches the generator of the first."""
    generator = GateGenerator([3, 4], seed=0)
    generator(np.zeros((1, 1)))
    matrices, biases = generator.matrices, generator.biases

    def last(bias):
        return keras.ops.sum(
            generator.log_alphas({k: m.value for k, m in matrices.items()}, {0: bias, 1: biases[1]})[1]
        )

    matrices[1].assign(np.ones((3, 4)))
    biases[1].assign(-np.full(4, 12.0))
    assert (np.abs(gradient(last, np.array([0.5, 1.0, 1.5], "float32"))) > 0).all()


@EVERY_KIND
@NEEDS_MULTI_OPTIMIZER
@pytest.mark.filterwarnings("ignore:All gates of")
def test_training_closes_gates_by_their_own_optimizer(kind, direction):
    keras.utils.set_random_seed(0)
    model = residual()
    gated = kr.gates.insert(model, kind, 0.05, direction, where="everywhere", cost="macs", seed=0)
    coupled = kr.GroupLasso(1e-3, groups=kr.coupled_groups(gated))
    assert not any("log_alpha" in path for path in coupled.groups.members)
    rate = 0.3 if kind == "l0" else 0.03  # all weights of a generator move its gates
    both = kr.gates.optimizer(kr.ProxSGD(0.01, 0.9, coupled), keras.optimizers.Adam(rate))
    gated.compile(both, "mse")
    x = images(model, 64)
    monitor = kr.callbacks.SparsityMonitor()
    y = x.mean(axis=(1, 2))[:, :2]
    history = gated.fit(x, y, batch_size=16, epochs=8, verbose=0, callbacks=[monitor]).history
    trained = {
        variable.path.rsplit("/", 1)[-1]: inner for inner in both.optimizers for variable in inner._trainable_variables
    }
    for name, inner in trained.items():
        assert isinstance(inner, keras.optimizers.Adam) == name.startswith("log_alpha")
    assert np.isfinite(history["loss"]).all()
    assert history["open_gates"][0] > history["open_gates"][-1]
    assert history["expected_macs"][0] > history["expected_macs"][-1]
    small = kr.strip(gated)
    assert kr.analyze(small).macs == pytest.approx(history["macs"][-1])
    assert gates_of(small) == []


@EVERY_KIND
def test_files(kind, direction, tmp_path):
    model = kr.gates.insert(residual(), kind, 1e-3, direction, where="everywhere", per_example=True)
    close(model, np.random.default_rng(0))
    model.save(tmp_path / "gated.keras")
    loaded = keras.models.load_model(tmp_path / "gated.keras")
    x = images(model)
    np.testing.assert_allclose(outputs(loaded, x), outputs(model, x), atol=1e-6)
    for a, b in zip(gates_of(loaded), gates_of(model), strict=True):
        assert a.get_config() == b.get_config()
    np.testing.assert_allclose(outputs(kr.strip(loaded), x), outputs(model, x), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "direction", "arguments"),
    [
        ("l0", "forward", {"jit_compile": True}),
        ("dep_l0", "forward", {"jit_compile": True}),
        ("dep_l0", "backward", {"jit_compile": True}),
        ("dep_l0", "forward", {"run_eagerly": True}),
    ],
)
def test_ways_to_run(kind, direction, arguments):
    if keras.backend.backend() == "torch":
        pytest.skip("PyTorch runs eagerly")
    gated = kr.gates.insert(residual(), kind, 1e-3, direction, where="everywhere", per_example=True)
    gated.compile(keras.optimizers.Adam(0.1), "mse", **arguments)
    x = images(gated, 32)
    history = gated.fit(x, np.ones((32, 2)), epochs=2, verbose=0).history
    assert history["loss"][1] < history["loss"][0]


def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = residual()
        gated = kr.gates.insert(model, "dep_l0", 1e-3, where="everywhere")
    finally:
        keras.config.set_dtype_policy("float32")
    for layer in gates_of(gated):
        assert all(weight.dtype == "float32" for weight in layer.weights)
    close(gated, np.random.default_rng(0))
    x = images(model)
    scale = np.abs(outputs(gated, x)).max()
    np.testing.assert_allclose(outputs(kr.strip(gated), x), outputs(gated, x), atol=2e-2 * scale)
    gated.compile("adam", "mse")
    assert np.isfinite(gated.fit(x, np.ones((4, 2)), verbose=0).history["loss"]).all()


# ---- freezing


@EVERY_KIND
def test_frozen_gates_stay(kind, direction, tmp_path):
    gated = kr.gates.insert(residual(), kind, 1e-2, direction, where="everywhere")
    close(gated, np.random.default_rng(0))
    x = images(gated, 32)
    expected = outputs(gated, x)
    count = kr.gates.freeze(gated)
    np.testing.assert_allclose(outputs(gated, x), expected, atol=1e-6)
    values = {layer.name: number(layer.frozen) for layer in gates_of(gated) if hasattr(layer, "frozen")}
    assert count == sum(int((z > 0).sum()) for z in values.values())
    assert sum(float(number(loss)) for loss in gated.losses) == 0.0
    gated.compile(keras.optimizers.Adam(0.1), "mse")
    gated.fit(x, np.ones((32, 2)), epochs=2, verbose=0)
    first, second = (number(gated(x, training=True)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    gated.save(tmp_path / "frozen.keras")
    loaded = keras.models.load_model(tmp_path / "frozen.keras")
    for model in (gated, loaded):
        for layer in gates_of(model):
            if hasattr(layer, "frozen"):
                np.testing.assert_array_equal(number(layer.frozen), values[layer.name])
    small = kr.strip(loaded)
    np.testing.assert_allclose(outputs(small, x), outputs(gated, x), atol=1e-5)
    kr.gates.unfreeze(gated)
    for layer in gates_of(gated):
        for weight in layer.trainable_weights:
            weight.assign(keras.ops.zeros_like(keras.ops.convert_to_tensor(weight)))
    assert (number(gated(x, training=True)) != number(gated(x, training=True))).any()


def test_the_callback_freezes_at_its_epoch():
    gated = kr.gates.insert(chain(), "l0", 1e-2, seed=0)
    gated.compile(keras.optimizers.Adam(0.3), "mse")
    x = images(gated, 64)
    monitor = kr.callbacks.SparsityMonitor()
    history = gated.fit(
        x, np.ones((64, 4)), epochs=6, verbose=0, callbacks=[monitor, kr.callbacks.FreezeGates(3)]
    ).history
    assert len(set(history["open_gates"][2:])) == 1
    assert len(set(history["expected_macs"][3:])) == 1
    assert history["macs"][-1] == history["expected_macs"][-1]
    with pytest.raises(ValueError, match="epoch"):
        kr.callbacks.FreezeGates(-1)
    plain = chain()
    plain.compile("adam", "mse")
    with pytest.raises(ValueError, match="no gates"):
        plain.fit(x, np.ones((64, 4)), verbose=0, callbacks=[kr.callbacks.FreezeGates(9)])


def test_the_callback_freezes_also_where_training_begins_later_and_says_where_it_cannot():
    gated = kr.gates.insert(chain(), "l0", 1e-2, seed=0)
    gated.compile(keras.optimizers.Adam(0.3), "mse")
    x = images(gated, 32)
    with pytest.warns(kr.SparsityWarning, match="fixes nothing"):
        gated.fit(x, np.ones((32, 4)), epochs=2, verbose=0, callbacks=[kr.callbacks.FreezeGates(2)])
    gated.fit(x, np.ones((32, 4)), epochs=4, initial_epoch=3, verbose=0, callbacks=[kr.callbacks.FreezeGates(2)])
    layers = [layer for layer in gated.layers if isinstance(layer, kr.layers.L0Gate)]
    assert all((number(layer.frozen) >= 0).all() for layer in layers)


def test_layers_without_open_gates_are_named_once():
    gated = kr.gates.insert(residual(), "l0", 0.0)
    gated.get_layer("first_gate").frozen.assign(np.zeros(6))
    gated.compile("sgd", "mse")
    x = images(gated)
    with pytest.warns(UserWarning, match=r"All gates of first_gate are closed.*smaller `strength`") as found:
        history = gated.fit(x, np.ones((4, 2)), epochs=3, verbose=0, callbacks=[kr.callbacks.SparsityMonitor()]).history
    assert len([each for each in found if "All gates" in str(each.message)]) == 1
    assert np.isfinite(history["loss"]).all()
    assert len(set(history["loss"])) == 3, "the shortcut around the block goes on to train"


def test_no_optimizer_is_refused():
    with pytest.raises(ValueError, match=r"`weights` must be a Keras optimizer.*'sgd'"):
        kr.gates.optimizer("sgd")
    with pytest.raises(ValueError, match=r"`gates`"):
        kr.gates.optimizer(keras.optimizers.SGD(), 3)


# ---- figures


@pytest.mark.parametrize("make", [chain, residual])
def test_expected_macs_are_the_mean_over_gates(make):
    """Over all ways to close one gate of each place, with their probabilities: exact where gates are independent."""
    model = randomize(make())
    gated = kr.gates.insert(model, "l0", 1e-3, where="everywhere")
    gates = [layer for layer in gates_of(gated) if hasattr(layer, "frozen")]
    random = np.random.default_rng(0)
    for gate in gates:
        gate.frozen.assign(np.ones(gate.frozen.shape))
    probabilities = []
    for gate in gates:
        value = number(gate.frozen)
        value[0] = -1.0
        gate.frozen.assign(value)
        gate.log_alpha.assign(random.normal(size=gate.log_alpha.shape))
        probabilities.append(float(number(gate.probabilities())[0]))
    read = lambda variable: number(variable)  # noqa: E731
    found = expected_macs(trace(gated), read)
    mean = 0.0
    for states in itertools.product([0.0, 1.0], repeat=len(gates)):
        for gate, state in zip(gates, states):
            value = number(gate.frozen)
            value[0] = state
            gate.frozen.assign(value)
        odds = np.prod([p if state else 1.0 - p for p, state in zip(probabilities, states)])
        mean += odds * amounts(plan(trace(gated), read))["macs"]
    assert found == pytest.approx(mean, rel=1e-6)


def test_gates_and_masks():
    inputs = keras.Input((5,), dtype="int32")
    x = kr.layers.L0Gate(1e-3)(L.Embedding(7, 4, mask_zero=True)(inputs))
    model = keras.Model(inputs, L.Dense(2)(L.LSTM(3)(x)))
    assert np.isfinite(outputs(model, np.array([[1, 2, 0, 0, 0]]))).all()
    gated = kr.gates.insert(keras.Model(inputs, L.Dense(2)(L.LSTM(3)(L.Embedding(7, 4, mask_zero=True)(inputs)))))
    assert [type(layer) for layer in gates_of(gated)] == [kr.layers.L0Gate]


def test_classes_are_called_gates():
    assert all("Gate" in each.__name__ for each in (kr.layers.L0Gate, DependentL0Gate, SharedL0Gate, GateGenerator))


@keras.saving.register_keras_serializable(package="tests")
class Unknown(L.Layer):
    """Reads gates, and is not in the layer table."""

    def call(self, x):
        return x[0] * x[1]


def test_what_an_unknown_layer_reads_stays():
    """The gates, and the generator behind them."""
    inputs = keras.Input((6,))
    [log_alpha] = GateGenerator([8])(inputs)
    x, z = DependentL0Gate(0.1, with_gates=True)([L.Dense(8)(inputs), log_alpha])
    model = keras.Model(inputs, L.Dense(2)(Unknown()([x, z])))
    close(model, np.random.default_rng(0))
    small = kr.strip(model)
    assert len(gates_of(small)) == 2
    shown = kr.strip(keras.Model(inputs, [x, z]))
    for a, b in zip(shown(images(model)), keras.Model(inputs, [x, z])(images(model))):
        np.testing.assert_allclose(number(a), number(b), atol=1e-6)
    assert "GateGenerator with a reader that is opaque" in kr.analyze(model).opaque.values()
    np.testing.assert_allclose(outputs(small, images(model)), outputs(model, images(model)), atol=1e-6)


class Alphas(L.Layer):
    """Numbers of its own for gates, in the place of a generator."""

    def build(self, shape):
        self.numbers = self.add_weight(shape=(1, shape[-1]), initializer="ones", name="numbers")

    def compute_output_spec(self, x):
        return keras.KerasTensor((1, x.shape[-1]))

    def call(self, x):
        return self.numbers + 0.0


@pytest.mark.parametrize("channels", [1, 3])
def test_gates_stay_whose_numbers_come_from_a_layer_that_stays(channels):
    inputs = keras.Input((6,))
    x = L.Dense(channels, activation="relu")(inputs)
    x, z = DependentL0Gate(0.1, with_gates=True)([x, Alphas()(x)])
    model = keras.Model(inputs, L.Dense(2)(SharedL0Gate()([x, z])))
    randomize(model)
    small = kr.strip(model)
    assert len(gates_of(small)) == 2
    assert "SharedL0Gate with numbers from a layer that stays" in kr.analyze(model).opaque.values()
    np.testing.assert_allclose(outputs(small, images(model)), outputs(model, images(model)), atol=1e-6)


def test_all_gates_of_a_generator_stay_with_it():
    inputs = keras.Input((6,))
    first, second = GateGenerator([8, 5])(inputs)
    x, z = DependentL0Gate(0.1, with_gates=True)([L.Dense(8)(inputs), first])
    y = DependentL0Gate(0.1)([L.Dense(5)(Unknown()([x, z])), second])
    model = keras.Model(inputs, L.Dense(2)(y))
    close(model, np.random.default_rng(0))
    small = kr.strip(model)
    assert len(gates_of(small)) == 3
    np.testing.assert_allclose(outputs(small, images(model)), outputs(model, images(model)), atol=1e-6)


@only_tensorflow
def test_gates_behind_a_tensor_that_keras_calls_sparse():
    """As it does with a tensor times a number; its own code then forgets the shape of what it makes."""
    inputs = keras.Input((None, 6))
    x = kr.layers.L0Gate(0.1)(L.Dense(8)(inputs) * 2.0)
    assert x.shape == (None, None, None)
    model = keras.Model(inputs, x + L.Dense(8)(inputs))
    close(model, np.random.default_rng(0))
    assert kr.analyze(model).opaque == {}
    small = kr.strip(model)
    assert gates_of(small) == []
    given = np.random.default_rng(1).normal(size=(2, 5, 6)).astype("float32")
    np.testing.assert_allclose(outputs(small, given), outputs(model, given), atol=1e-6)
