"""A smaller model that goes on training: step by step what the large one does.

Over a minute, since every optimizer trains a large and a small model, and each of them is traced.
"""

import warnings

import keras
import numpy as np
import pytest
from backend import number, only_tensorflow
from training import MAKERS, needs_multi_optimizer

import keras_rmda as kr
from keras_rmda.optimizers.joint import NEVER_AGAIN
from keras_rmda.optimizers.models import optimizers_of
from keras_rmda.structure.lifting import found_in
from keras_rmda.structure.trace import as_graph

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(200, 6))
Y = np.tanh(X[:, :3] @ RANDOM.normal(size=(3, 2)))
STEPS = 50
BATCH = 4

ZERO_STAYS = {name: make for name, make in MAKERS.items() if name != "DessiLBI"}
O = keras.optimizers  # noqa: E741
STOCK = {
    "SGD": lambda **a: O.SGD(0.05, momentum=0.9, **a),
    "Nesterov": lambda **a: O.SGD(0.05, momentum=0.9, nesterov=True, **a),
    "Adam": lambda **a: O.Adam(0.01, **a),
    "AMSGrad": lambda **a: O.Adam(0.01, amsgrad=True, **a),
    "AdamW": lambda **a: O.AdamW(0.01, weight_decay=0.1, **a),
    "Adamax": lambda **a: O.Adamax(0.01, **a),
    "RMSprop": lambda **a: O.RMSprop(0.01, momentum=0.5, centered=True, **a),
    "Nadam": lambda **a: O.Nadam(0.01, **a),
    "Adagrad": lambda **a: O.Adagrad(0.05, **a),
    "Adadelta": lambda **a: O.Adadelta(1.0, **a),
    "Ftrl": lambda **a: O.Ftrl(0.05, l1_regularization_strength=1e-3, **a),
    "Lion": lambda **a: O.Lion(0.002, **a),
    "Lamb": lambda **a: O.Lamb(0.01, **a),
}
CANNOT = {
    "Adafactor": lambda **a: O.Adafactor(0.01, **a),
    "Muon": lambda **a: O.Muon(0.01, **a),
}
CANNOT = {name: make for name, make in CANNOT.items() if hasattr(O, name)}


def network(width=8, dropout=0.0, gates=False, dtype=None):
    """Return a network with batch normalization and a shortcut; with gates, every other one is fixed at zero."""
    keras.utils.set_random_seed(0)
    dense = lambda n, name, **a: keras.layers.Dense(n, name=name, dtype=dtype, **a)  # noqa: E731
    gate = lambda x, name: kr.layers.L0Gate(1e-3, name=name, dtype=dtype)(x) if gates else x  # noqa: E731
    inputs = keras.Input((6,), dtype="float64" if dtype == "float64" else None)
    x = dense(width, "first", use_bias=False)(inputs)
    x = keras.layers.BatchNormalization(name="norm", dtype=dtype)(x)
    x = shortcut = gate(keras.layers.ReLU(dtype=dtype)(x), "gate")
    x = keras.layers.Dropout(dropout, seed=1, dtype=dtype)(x) if dropout else x
    x = gate(dense(width + 2, "second", activation="relu")(x), "gate_2")
    x = keras.layers.Add(dtype=dtype)([dense(width, "third")(x), shortcut])
    model = keras.Model(inputs, dense(2, "last")(x), name="net")
    for name in ("gate", "gate_2") if gates else ():
        frozen = model.get_layer(name).frozen
        frozen.assign(np.where(np.arange(frozen.shape[0]) % 2, 1.0, 0.0))
    return model


def fit(model, steps=STEPS, **arguments):
    model.fit(X[: BATCH * steps], Y[: BATCH * steps], BATCH, shuffle=False, verbose=0, **arguments)
    return model


def decide(model, every=2):
    """Close every so many groups for good, as `TargetSparsity` does."""
    for optimizer in optimizers_of(model):
        for coupling in optimizer.couplings:
            closed = np.arange(coupling.factors.shape[0]) % every == 0
            coupling.factors.assign(np.where(closed, NEVER_AGAIN, number(coupling.factors)))
            for index in coupling.indices:
                variable = optimizer._trainable_variables[index]
                variable.assign(np.where(np.append(closed, False)[coupling.groups_of(index)], 0, number(variable)))
        optimizer.restart()
    return model


def penalty(model, parts="all", strength=1e-3):
    return kr.GroupLasso(strength, groups=kr.coupled_groups(model, parts=parts))


def decided(make, parts="all", steps=6, **arguments):
    """Return a network in training, of which half is closed."""
    model = network(**{key: arguments.pop(key) for key in ("dropout", "dtype") if key in arguments})
    model.compile(make(regularizer=penalty(model, parts), **arguments), "mse", metrics=["mae"])
    return fit(decide(fit(model, 6)), steps)


def gated(make, steps=6, **arguments):
    """Return a network in training, half of whose gates are fixed at zero."""
    model = network(gates=True, dtype=arguments.pop("dtype", None))
    model.compile(make(**arguments), "mse")
    return fit(model, steps) if steps else model


def shrunk(model, **arguments):
    """Return the smaller model; the large one has no weights that act on nothing then."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'net' has weights that act on nothing", kr.SparsityWarning)
        small = kr.shrink(model, **arguments)
    kr.lift(model, small)
    assert small.count_params() < 0.7 * model.count_params()
    return small


def kept(model, small):
    with as_graph(model) as graph:
        return found_in(model, graph, small)


def compare(model, small, atol):
    """Compare all weights, and what the optimizers hold of each."""
    found = kept(model, small)
    for variable in model.weights:
        a, b = found.cut(variable, variable), number(found.small[id(variable)])
        np.testing.assert_allclose(a.astype("float64"), b.astype("float64"), atol=atol, err_msg=variable.path)


def train_both(model, small, atol=1e-5, steps=STEPS, **arguments):
    for each in (model, small):
        fit(each, steps, **arguments)
    compare(model, small, atol)


@pytest.mark.parametrize("make", ZERO_STAYS.values(), ids=ZERO_STAYS)
def test_every_optimizer_of_this_package(make):
    model = decided(make)
    small = shrunk(model)
    assert int(number(small.optimizer.iterations)) == 12
    train_both(model, small)
    assert (number(small.get_layer("last").kernel) != 0).all()


@pytest.mark.parametrize("make", STOCK.values(), ids=STOCK)
def test_every_optimizer_of_keras(make):
    model = gated(make)
    train_both(model, shrunk(model))


@pytest.mark.parametrize("make", CANNOT.values(), ids=CANNOT)
def test_what_cannot_be_cut_is_refused(make):
    model = gated(make, steps=0)
    before = [number(v) for v in model.variables]
    with pytest.raises(ValueError, match=r"is no number for each weight|takes means over a weight"):
        kr.shrink(model)
    for variable, value in zip(model.variables, before):
        np.testing.assert_array_equal(number(variable), value)


SETTINGS = {
    "clipnorm": {"clipnorm": 0.05},
    "global clipnorm": {"global_clipnorm": 0.05},
    "clipvalue": {"clipvalue": 0.01},
    "accumulation": {"gradient_accumulation_steps": 4, "global_clipnorm": 0.05},
    "skipping": {"skip_nonfinite": True},
}
OF_ALL = {name: each for name, each in SETTINGS.items() if name != "skipping"}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_optimizers(name):
    model = decided(lambda **a: kr.ProxSGD(0.05, 0.5, weight_decay=0.01, **a), steps=7, **SETTINGS[name])
    train_both(model, shrunk(model))


@pytest.mark.parametrize(
    "settings", [{"use_ema": True, "ema_overwrite_frequency": 7, "clipnorm": 0.05}, *OF_ALL.values()]
)
def test_settings_of_stock_optimizers(settings):
    model = gated(lambda **a: O.SGD(0.05, momentum=0.9, weight_decay=0.01, **a), **settings)
    small = shrunk(model)
    train_both(model, small)
    if "use_ema" in settings:
        found = kept(model, small)
        for variable, a in zip(model.optimizer._trainable_variables, model.optimizer._model_variables_moving_average):
            index = small.optimizer._get_variable_index(found.small[id(variable)])
            b = small.optimizer._model_variables_moving_average[index]
            np.testing.assert_allclose(found.cut(variable, a), number(b), atol=1e-5)


def test_weights_that_do_not_decay():
    def make():
        optimizer = O.AdamW(0.01, weight_decay=1.0)
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        return optimizer

    model = gated(make)
    small = shrunk(model)
    assert not small.optimizer._use_weight_decay(small.get_layer("second").bias)
    train_both(model, small)


@pytest.mark.parametrize("kind", ["RMDA", "AdaBreg"])
@pytest.mark.parametrize("parts", ["readers", "all"])
def test_in_float64(kind, parts):
    model = decided(MAKERS[kind], parts, dtype="float64", clipnorm=1.0)
    train_both(model, shrunk(model), 1e-10)


@pytest.mark.parametrize("psi", [kr.SparseGroupLasso, kr.GroupLasso])
def test_without_a_lift_where_groups_are_whole(psi):
    """Nothing is decided of the weights, but their groups are no longer penalized: then nothing counts what is gone."""
    model = network()
    model.compile(kr.ProxSGD(0.05, 0.5, regularizer=psi(1e-3, groups=kr.coupled_groups(model))), "mse")
    decide(fit(model, 6))
    [coupling] = model.optimizer.couplings
    coupling.factors.assign(np.where(number(coupling.factors) == NEVER_AGAIN, NEVER_AGAIN, 0.0))
    fit(model, 6)
    before = model.get_weights()
    small = kr.shrink(model)
    for value, variable in zip(before, model.weights):
        np.testing.assert_array_equal(value, number(variable))
    train_both(model, small)


def test_what_has_a_part_in_norms_is_told():
    model = decided(MAKERS["ProxSGD"])
    with pytest.warns(kr.SparsityWarning, match=r"counts them in norms.*`keras_rmda.lift\(model, small\)` makes"):
        kr.shrink(model)


@pytest.mark.parametrize(
    ("psi", "clipnorm", "warns"),
    [("l2", None, False), ("l2", 1.0, True), ("group", None, True), (None, 1.0, False)],
)
def test_penalties_in_the_loss_give_gradients_to_what_is_gone(psi, clipnorm, warns):
    psi = {"l2": keras.regularizers.L2(1e-3), "group": kr.GroupLasso(1e-3, "output"), None: None}[psi]
    inputs = keras.Input((6,))
    x = kr.layers.L0Gate(0.0, name="gate")(keras.layers.Dense(8, name="first")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, name="last", kernel_regularizer=psi)(x), name="net")
    model.get_layer("gate").frozen.assign(np.arange(8) % 2)
    model.compile(O.SGD(0.01, clipnorm=clipnorm), "mse")
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", kr.SparsityWarning)
        small = kr.shrink(model)
    assert any("counts them in norms" in str(each.message) for each in found) == warns
    kr.lift(model, small)
    kr.shrink(model)  # no warning any more, which would be an error


@pytest.mark.parametrize("make", [lambda: kr.ProxSGD(0.05, 0.5, kr.GroupLasso(1e-3, "output")), STOCK["Adam"]])
def test_mixed_precision(make):
    model = gated(lambda: O.LossScaleOptimizer(make(), initial_scale=64.0), dtype="mixed_float16")
    model.optimizer.dynamic_scale.assign(32.0)
    small = shrunk(model)
    assert isinstance(small.optimizer, O.LossScaleOptimizer)
    assert float(number(small.optimizer.dynamic_scale)) == 32.0
    assert number(small.optimizer.step_counter) == number(model.optimizer.step_counter)
    for each in (model, small):
        fit(each, 10)
    compare(model, small, 2e-2)  # sums of half precision are in another order


def test_schedules_and_rates_set_by_hand():
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 60)
    model = decided(lambda **a: kr.RMDA(schedule, keras.optimizers.schedules.ExponentialDecay(0.5, 20, 1.2), **a))
    train_both(model, shrunk(model))

    model = decided(MAKERS["ProxAdamW"])
    model.optimizer.learning_rate = 0.003
    model.optimizer.regularizer.strength = 0.02
    small = shrunk(model)
    assert float(number(small.optimizer.learning_rate)) == pytest.approx(0.003)
    assert small.optimizer.regularizer.strength == pytest.approx(0.02)
    small.optimizer.regularizer.strength = 0.03  # of its own
    assert model.optimizer.regularizer.strength == 0.02
    small.optimizer.regularizer.strength = 0.02
    train_both(model, small)


def test_weights_of_groups_and_their_importance_are_those_of_the_large_model():
    model = network()
    groups = kr.coupled_groups(model, parts="all", weights="macs")
    model.compile(kr.ProxSGD(0.05, 0.5, regularizer=kr.GroupLasso(1e-3, groups=groups)), "mse")
    model.optimizer.build(model.trainable_variables)
    model.optimizer.follow_importance()
    fit(decide(fit(model, 6)), 6)
    small = shrunk(model)
    cut = small.optimizer.regularizer.groups
    places = [groups.names.index(name) for name in cut.names]
    assert len(cut) == (number(model.optimizer.couplings[0].factors) == 1).sum()
    np.testing.assert_array_equal(cut.weights, groups.weights[places])
    train_both(model, small)
    importance = [number(each.optimizer.couplings[0].importance) for each in (model, small)]
    np.testing.assert_allclose(importance[0][places], importance[1], rtol=1e-3)
    assert importance[1].min() > 0


@pytest.mark.parametrize("where", ["optimizer", "layer", "loss"])
def test_groups_along_axes_count_as_they_did(where):
    """Half of the channels are closed by gates; group lasso on kernels counts the sizes that groups had."""
    make = (
        (lambda: kr.ProxSGD(0.05, 0.5, kr.GroupLasso(0.01, "output")))
        if where == "optimizer"
        else (lambda: kr.ProxSGD(0.05, 0.5) if where == "layer" else O.SGD(0.05))
    )
    model = network(gates=True)
    if where != "optimizer":
        psi = kr.GroupLasso(0.01, "output")
        config = model.get_config()
        for layer in config["layers"]:
            if layer["class_name"] == "Dense":
                layer["config"]["kernel_regularizer"] = keras.regularizers.serialize(psi)
        values = model.get_weights()
        model = keras.Model.from_config(config)
        model.set_weights(values)
    model.compile(make(), "mse")
    small = shrunk(fit(model, 6))
    train_both(model, small)
    if where == "optimizer":
        assert small.optimizer.regularizer["third/kernel"].size == 10
        assert small.optimizer.regularizer["first/kernel"].size is None


def test_what_is_set_from_a_file_goes_on(tmp_path):
    model = decided(MAKERS["RMDA"])
    small = shrunk(model)
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    train_both(model, loaded)


@needs_multi_optimizer
def test_several_optimizers_of_which_one_trains_nothing():
    def make():
        chosen = {"second/.*": O.Adam(0.01), "nobody": kr.ProxSGD(0.1)}
        return O.MultiOptimizer(O.OptimizerMap(kr.RMDA(0.05, 0.5, kr.GroupLasso(1e-3)), chosen))

    model = gated(make)
    train_both(model, shrunk(model))


@needs_multi_optimizer
def test_gates_that_train():
    model = network(gates=True)
    model.compile(kr.gates.optimizer(O.SGD(0.05, momentum=0.9)), "mse")
    fit(model, 6)
    for name in ("gate", "gate_2"):
        frozen = model.get_layer(name).frozen
        frozen.assign(np.where(np.arange(frozen.shape[0]) % 4 == 0, 0.0, -1.0))
        assert (number(frozen) < 0).any()
    small = kr.shrink(model)
    kr.lift(model, small)
    assert small.get_layer("gate_2").log_alpha.shape[0] == 7
    before = number(small.get_layer("gate_2").log_alpha)
    rates = [[float(number(x.learning_rate)) for x in each.optimizer.optimizers] for each in (model, small)]
    assert rates[0] == rates[1]
    a, b = (fit(each, 20).evaluate(X, Y, verbose=0) for each in (model, small))
    assert (number(small.get_layer("gate_2").log_alpha) != before).any()
    assert np.isfinite([a, b]).all()


def test_dropout_has_the_same_random_state():
    model = decided(MAKERS["ProxSGD"], dropout=0.3)
    small = shrunk(model)
    states = [[number(v) for v in each.variables if "seed" in v.path] for each in (model, small)]
    np.testing.assert_array_equal(states[0], states[1])
    fit(small, 10)
    assert np.isfinite(small.evaluate(X, Y, verbose=0)).all()


@pytest.mark.parametrize("make", ["RMDA", "Adam"])
def test_lift_goes_on_in_the_large_model(make):
    model = gated(STOCK["Adam"]) if make == "Adam" else decided(MAKERS[make])
    small = shrunk(model)
    fit(small, 20)
    kr.lift(model, small)
    np.testing.assert_allclose(number(model(X)), number(small(X)), atol=1e-5)
    assert int(number(model.optimizer.iterations)) == int(number(small.optimizer.iterations))
    train_both(model, small)


def test_target_sparsity_goes_on():
    model = network(24)
    model.compile(kr.ProxSGD(0.05, 0.5, regularizer=penalty(model, strength=1e-4)), "mse")
    target = kr.callbacks.TargetSparsity(0.4, begin=0.1, end=0.4)
    model.fit(X, Y, 20, 10, verbose=0, shuffle=False, callbacks=[target])
    small = shrunk(model)
    assert small.count_params() == kr.strip(model).count_params()
    train_both(model, small)


class Falling(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule without a configuration."""

    def __call__(self, step):
        return 0.05 / (1.0 + 0.1 * keras.ops.cast(step, "float32"))


def test_a_schedule_without_a_configuration():
    model = gated(lambda: kr.AdaBreg(Falling(), regularizer=kr.L1(1e-3)))
    train_both(model, shrunk(model))


class InSlotsOfItsOwn(keras.optimizers.Optimizer):
    def build(self, variables):
        super().build(variables)
        self.own = {str(k): self.add_variable_from_reference(v, "m") for k, v in enumerate(variables)}

    def update_step(self, gradient, variable, learning_rate):
        m = self.own[str(self._get_variable_index(variable))]
        m.assign(0.9 * m + gradient)
        variable.assign(variable - learning_rate * m)


def test_a_state_that_belongs_to_no_weight():
    model = gated(lambda: InSlotsOfItsOwn(0.01), steps=0)
    with pytest.raises(ValueError, match="belongs to no weight, so nobody knows how to cut it"):
        kr.shrink(model)


def test_within_a_fit():
    """The model shows structured weights then, and keeps the iterate that training goes on from."""
    made = []
    make = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: made.append(kr.shrink(model)))
    model = network(gates=True)
    model.compile(kr.RMDA(0.05, 0.3, kr.GroupLasso(2.0, "output")), "mse")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", kr.SparsityWarning)
        fit(model, 10, callbacks=[make])
    [small] = made
    assert small.optimizer._iterate
    kr.lift(model, small)
    train_both(model, small)


@only_tensorflow
def test_under_a_strategy():
    import tensorflow as tf

    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = decided(MAKERS["ProxSGD"])
    small = shrunk(model)
    assert small.distribute_strategy is model.distribute_strategy
    train_both(model, small)


def attention():
    inputs = keras.Input((6,), dtype="int32")
    x = keras.layers.Embedding(20, 8, name="embedding")(inputs)
    x = keras.layers.Add()([x, keras.layers.MultiHeadAttention(4, 3, name="attention")(x, x)])
    x = keras.layers.LayerNormalization(name="norm")(x)
    h = keras.layers.Dense(8, name="down")(keras.layers.Dense(16, "gelu", name="up")(x))
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Add()([x, h]))
    return inputs, x, np.abs(10 * X).astype("int32") % 20


def mobile():
    inputs = keras.Input((6, 6, 1))
    x = inputs
    for name, layer in (
        ("expand", keras.layers.Conv2D(12, 1, use_bias=False, name="expand")),
        ("depthwise", keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")),
        ("project", keras.layers.Conv2D(6, 1, use_bias=False, name="project")),
    ):
        x = keras.layers.ReLU()(keras.layers.BatchNormalization(name=f"norm_{name}")(layer(x)))
    g = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    g = keras.layers.Conv2D(6, 1, activation="sigmoid", name="squeeze")(g)
    x = keras.layers.Flatten()(keras.layers.Multiply()([x, g]))
    return inputs, x, np.einsum("bi,bj->bij", X, X)[..., None]


def recurrent():
    inputs = keras.Input((6, 1))
    x = keras.layers.LSTM(6, return_sequences=True, name="lstm")(inputs)
    return inputs, keras.layers.Bidirectional(keras.layers.GRU(6), name="both")(x), X[..., None]


def nested():
    inner = keras.Input((8,))
    x = keras.layers.Dense(8, "relu", name="down")(keras.layers.Dense(12, "relu", name="up")(inner))
    block = keras.Model(inner, x, name="block")
    inputs = keras.Input((6,))
    return inputs, block(block(keras.layers.Dense(8, "relu", name="first")(inputs))), X


@pytest.mark.parametrize("make", [attention, mobile, recurrent, nested])
def test_other_layers(make):
    keras.utils.set_random_seed(0)
    inputs, x, data = make()
    model = keras.Model(inputs, keras.layers.Dense(2, name="last")(x), name="net")
    model.compile(MAKERS["ProxSGD"](regularizer=penalty(model)), "mse")
    train = lambda each: each.fit(data[:80], Y[:80], 8, shuffle=False, verbose=0)  # noqa: E731
    train(model)
    decide(model)
    train(model)
    small = shrunk(model)
    assert small.count_params() == kr.strip(model).count_params()
    train(model)
    train(small)
    compare(model, small, 1e-5)


class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.last = keras.layers.Dense(2, name="last")
        self.norm = keras.layers.BatchNormalization(name="norm")
        self.first = keras.layers.Dense(8, name="first", use_bias=False)

    def call(self, x, training=None):
        return self.last(keras.ops.relu(self.norm(self.first(x), training=training)))


def test_a_model_by_code():
    keras.utils.set_random_seed(0)
    model = Own()
    model(X[:1])
    model.compile(kr.ProxSGD(0.05, 0.5, regularizer=penalty(model)), "mse")
    small = shrunk(fit(decide(fit(model, 6)), 6))
    assert int(number(small.optimizer.iterations)) == 12
    train_both(model, small)


def test_zeros_that_may_return_are_refused_or_asked_for():
    model = network()
    model.compile(MAKERS["ProxSGD"](regularizer=penalty(model, strength=0.05)), "mse")
    fit(model, 30)
    kernel = model.get_layer("third").kernel
    kernel.assign(number(kernel) * (np.arange(10) > 3)[:, None])
    with pytest.raises(ValueError, match=r"nobody has decided that they stay.*`shrink\(model, zeros=\"all\"\)`"):
        kr.shrink(model)
    small = kr.shrink(model, zeros="all")
    assert small.count_params() < model.count_params()
    assert int(number(small.optimizer.iterations)) == 30
    fit(small, 10)
    kr.lift(model, small)
    np.testing.assert_allclose(number(model(X)), number(small(X)), atol=1e-5)


def test_zeros_of_weights_that_are_not_trained():
    model = network()
    model.get_layer("third").trainable = False
    kernel = model.get_layer("third").kernel
    kernel.assign(number(kernel) * (np.arange(10) > 5)[:, None])
    model.compile(STOCK["Adam"](), "mse")
    small = shrunk(fit(model, 6))
    train_both(model, small)


def own_step(model):
    model.train_step = lambda data: {}


def activity(model):
    model.get_layer("first").activity_regularizer = keras.regularizers.L2(1e-3)


BAD = {
    "not compiled": (lambda model: setattr(model, "compiled", False), "compile 'net' first"),
    "steps of its own": (own_step, "defines 'train_step'"),
    "activities": (activity, "has an `activity_regularizer`"),
    "nothing": (lambda model: [c.factors.assign(number(c.factors) * 0) for c in model.optimizer.couplings], "can go"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD)
def test_bad_input(spoil, message):
    model = network()
    model.compile(MAKERS["ProxSGD"](regularizer=penalty(model)), "mse")
    decide(model)
    spoil(model)
    with pytest.raises(ValueError, match=message):
        kr.shrink(model)


def test_bad_arguments():
    with pytest.raises(ValueError, match="zeros"):
        kr.shrink(network(), zeros="some")
    with pytest.raises(ValueError, match="tolerance"):
        kr.shrink(network(), tolerance=0)


@pytest.mark.parametrize(
    ("kind", "why"), [("DessiLBI", "the weights it trains are dense"), ("RMDA", "that are not zero yet")]
)
def test_groups_are_closed_and_weights_are_not_zero(kind, why):
    model = network()
    model.compile(MAKERS[kind](regularizer=penalty(model)), "mse")
    fit(model, 6)
    [coupling] = model.optimizer.couplings
    coupling.factors.assign(np.where(np.arange(coupling.factors.shape[0]) % 2, NEVER_AGAIN, 1.0))
    fit(model, 6)
    with pytest.raises(ValueError, match=why):
        kr.shrink(model)


def test_a_model_that_changed_is_not_lifted_into():
    model = decided(MAKERS["ProxSGD"])
    small = shrunk(model)
    decide(model, 3)
    before = model.get_weights()
    with pytest.raises(ValueError, match="was not stripped or shrunk from"):
        kr.lift(model, small)
    with pytest.raises(ValueError, match="was not stripped or shrunk from"):
        kr.lift(network(9), small)
    for value, variable in zip(before, model.weights):
        np.testing.assert_array_equal(value, number(variable))


def test_what_computes_something_else_is_not_lifted():
    """Weights of the same names and shapes are not enough."""
    model = decided(MAKERS["ProxSGD"])
    small = shrunk(model)
    config = small.get_config()
    [layer] = [each for each in config["layers"] if each["name"] == "second"]
    layer["config"]["activation"] = "tanh"
    other = keras.Model.from_config(config)
    for a, b in zip(other.weights, small.weights):
        a._path = b.path
    other.set_weights(small.get_weights())
    before = model.get_weights()
    with pytest.raises(ValueError, match="it computes something else"):
        kr.lift(model, other)
    for value, variable in zip(before, model.weights):
        np.testing.assert_array_equal(value, number(variable))


def test_noise_is_no_zero():
    inputs = keras.Input((6,))
    x = kr.layers.L0Gate(0.0, name="gate")(keras.layers.Dense(8, "relu", name="first")(inputs))
    x = keras.layers.GaussianNoise(0.1, name="noise")(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="last")(x), name="net")
    model.get_layer("gate").frozen.assign(np.arange(8) % 2)
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="can go while it trains"):
        kr.shrink(model)
    assert kr.strip(model).count_params() < model.count_params()
