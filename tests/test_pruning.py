"""The converter: what goes, what stays and why, and that the function is the same."""

import sys

import keras
import numpy as np
import pytest
from backend import has_all_bits, hidden
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers as L
from keras import ops
from zoo import ZOO, block, randomize, width, zero

import keras_rmda as kr
from keras_rmda.channels.table import RULES
from keras_rmda.structure.inputs import random_inputs
from keras_rmda.structure.liveness import plan
from keras_rmda.structure.report import report
from keras_rmda.structure.trace import trace
from keras_rmda.structure.verification import VerificationError, difference


def structure(model):
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def outputs(model, inputs):
    result = model(keras.tree.pack_sequence_as(structure(model), inputs), training=False)
    return [keras.ops.convert_to_numpy(y) for y in keras.tree.flatten(result)]


@pytest.fixture(scope="module", params=ZOO, ids=lambda build: build.__name__)
def case(request):
    model, kept = request.param()
    before = [w.copy() for w in model.get_weights()]
    return model, kept, kr.strip(model), before


def test_keeps_what_counting_by_hand_gives(case):
    _, kept, small, _ = case
    found = {name: width(small, name) for name in kept}
    assert found == kept


def test_computes_the_same(case):
    model, _, small, _ = case
    inputs = random_inputs(model, batch=5)
    for a, b in zip(outputs(model, inputs), outputs(small, inputs)):
        assert a.shape == b.shape
        assert difference(a, b) < 1e-6


def test_original_is_untouched(case):
    model, _, small, before = case
    assert small is not model
    for a, b in zip(model.get_weights(), before):
        np.testing.assert_array_equal(a, b)


def test_report_predicts_the_stripped_model(case):
    model, kept, small, _ = case
    report = kr.analyze(model)
    assert report.parameters == model.count_params()
    assert report.parameters_after == small.count_params()
    after = kr.analyze(small)
    assert (after.parameters, after.macs) == (report.parameters_after, report.macs_after)
    rows = {row.name: row for row in report.layers}
    for name in kept.keys() - report.opaque.keys():
        assert rows[name].channels - rows[name].removable == kept[name]
        assert sum(rows[name].reasons.values()) == kept[name]
    assert [row["name"] for row in report.rows()] == list(rows)
    assert all(name in str(report) for name in kept)


def test_stripping_twice_changes_nothing(case):
    _, _, small, _ = case
    again = kr.strip(small)
    for a, b in zip(small.get_weights(), again.get_weights()):
        assert a.shape == b.shape
    assert kr.analyze(small).removable == 0


def test_signature_names_and_flags_are_kept(case):
    model, _, small, _ = case
    assert small.name == model.name
    assert [layer.name for layer in small.layers] == [layer.name for layer in model.layers]
    assert small.input_shape == model.input_shape
    assert small.output_shape == model.output_shape
    assert not small.compiled


@pytest.mark.filterwarnings("ignore:Gradients do not exist")  # of a layer of which only the shape is read
def test_saves_loads_and_trains(case, tmp_path):
    _, _, small, _ = case
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    inputs = random_inputs(small)
    for a, b in zip(outputs(small, inputs), outputs(loaded, inputs)):
        np.testing.assert_allclose(a, b, atol=1e-6)
    targets = outputs(loaded, inputs)
    targets = targets[0] if len(targets) == 1 else keras.tree.pack_sequence_as(loaded.output, targets)
    losses = keras.tree.map_structure(lambda _: "mse", targets)
    loaded.compile("sgd", losses, run_eagerly=True)  # one step does not repay a trace
    loaded.fit(keras.tree.pack_sequence_as(structure(loaded), inputs), targets, verbose=0)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_random_zeros_anywhere_never_change_the_function(seed):
    """Each example zeroes other slices of anything in one graph; float64 leaves no doubt about rounding."""
    model, start = everything()
    model.set_weights(start)
    random = np.random.default_rng(seed)
    for weight in model.weights:
        array = np.array(keras.ops.convert_to_numpy(weight))
        axis = random.integers(array.ndim)
        share = random.choice([0.0, 0.3, 0.6, 1.0])
        array[(slice(None),) * axis + (np.flatnonzero(random.random(array.shape[axis]) < share),)] = 0
        weight.assign(array)
    small = kr.strip(model, tolerance=1e-10)
    assert all(n > 0 for layer in small.layers for w in layer.weights for n in w.shape)
    assert kr.analyze(small).removable == 0


def everything(cache=[]):  # noqa: B006
    if not cache:
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy("float64")
        x = inputs = keras.Input((10, 10, 3))
        x = stem = block(x, 6, "stem")
        x = L.Add()([block(x, 6, "a", activation="sigmoid"), stem])
        x = L.Concatenate()([block(x, 5, "b", padding="valid"), L.Conv2D(4, 3, activation="tanh", name="c")(stem)])
        x = L.MaxPooling2D()(L.LeakyReLU()(L.BatchNormalization()(x)))
        y = L.Conv2D(5, 2, activation="elu", name="d")(x)
        y = L.Dense(6, activation="relu", name="e")(L.Flatten()(y))
        z = L.Dense(6, activation="softplus", name="f")(L.GlobalAveragePooling2D()(x))
        head = L.Dense(3, name="head")
        model = randomize(keras.Model(inputs, [head(L.Add()([y, z])), head(y)]))
        keras.config.set_dtype_policy(policy)
        cache.append((model, model.get_weights()))
    return cache[0]


def test_numbers_of_groups_and_heads_in_configurations():
    expected = {
        "depthwise": ("three", {"depth_multiplier": 2}),
        "groups": ("g", {"groups": 2, "filters": 4}),
        "resnext": ("grouped", {"groups": 2, "filters": 4}),
        "normalizations": ("grouped", {"groups": 3}),
        "attention": ("attention", {"num_heads": 2, "key_dim": 2, "value_dim": 3}),
        "grouped_query_attention": (
            "attention",
            {"num_query_heads": 2, "num_key_value_heads": 1, "head_dim": 3},
        ),
    }
    for name, (layer, wanted) in expected.items():
        config = kr.strip(ZOO_BY_NAME[name]()[0]).get_layer(layer).get_config()
        assert {key: config[key] for key in wanted} == wanted


def test_reasons_say_why_channels_stay():
    report = {row.name: row for row in kr.analyze(ZOO_BY_NAME["constants_at_a_border"]()[0]).layers}
    assert report["a"].reasons == {"read by same": 2, "border of same padding in same": 1}
    report = {row.name: row for row in kr.analyze(ZOO_BY_NAME["no_bias_for_a_constant"]()[0]).layers}
    assert report["a"].reasons == {"read by d": 2, "constant that d has no bias for": 1}
    assert report["d"].reasons == {"model output": 3}
    report = {row.name: row for row in kr.analyze(ZOO_BY_NAME["dead_branch"]()[0]).layers}
    assert report["dead1"].reasons == {"last channel": 1}


ZOO_BY_NAME = {build.__name__: build for build in ZOO}


def test_unknown_layers_are_named_with_the_way_out():
    model, _ = ZOO_BY_NAME["unknown_layers"]()
    report = kr.analyze(model)
    assert set(report.opaque) == {"unknown", "wrapped", "inner"}
    assert "register_rule" in report.opaque["wrapped"]
    assert "Hidden is not in the layer table" in str(report)


def test_a_registered_rule_makes_a_custom_layer_transparent():
    @keras.saving.register_keras_serializable(package="tests")
    class Scale(L.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=(shape[-1],), name="scale")

        def call(self, x):
            return hidden(x) * self.scale

    x = inputs = keras.Input((6,))
    x = Scale(name="scale")(L.Dense(8, name="a")(x))
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(x)))
    zero(model, "d", 0, [0, 1])
    assert kr.strip(model).get_layer("a").units == 8
    kr.register_rule(Scale, kr.channels.Carries({"scale": "c"}))
    try:
        assert kr.strip(model).get_layer("a").units == 6
    finally:
        del RULES[Scale]
    with pytest.raises(ValueError, match="register_rule"):
        kr.register_rule("Scale", kr.channels.Carries())


def test_a_wrong_rule_is_found_out_and_the_layer_named():
    @keras.saving.register_keras_serializable(package="tests")
    class Reversed(L.Layer):
        def call(self, x):
            return x[..., ::-1]

    inputs = keras.Input((6,))
    kr.register_rule(Reversed, kr.channels.Carries())
    try:
        for x in (inputs, ops.log(inputs)):  # of which normal numbers would make nothing finite
            x = L.Dense(4, activation="relu", name="after")(Reversed(name="liar")(L.Dense(8, name="a")(x)))
            model = randomize(keras.Model(inputs, L.Dense(3, name="d")(x)))
            zero(model, "after", 0, [0, 1])
            with pytest.raises(VerificationError, match="'liar'"):
                kr.strip(model)
    finally:
        del RULES[Reversed]


def test_a_model_whose_outputs_are_never_finite_cannot_be_verified():
    x = inputs = keras.Input((6,))
    model = keras.Model(inputs, ops.log(L.Dense(3)(x) * 0.0 - 1.0))
    with pytest.raises(ValueError, match=r"No number of an output is finite.*|nothing can be verified"):
        kr.strip(model)


def test_policies_and_trainable_flags_are_kept():
    x = inputs = keras.Input((6,))
    x = L.Dense(8, name="a", dtype="mixed_float16")(x)
    x = L.Dense(8, name="frozen", dtype="float64", trainable=False)(x)
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(x)))
    zero(model, "frozen", 0, [0, 1])
    small = kr.strip(model, tolerance=1e-2)
    assert small.get_layer("a").units == 6
    assert small.get_layer("a").dtype_policy.name == "mixed_float16"
    assert small.get_layer("frozen").dtype_policy.name == "float64"
    assert not small.get_layer("frozen").trainable


def test_a_compiled_model_with_a_custom_loss_is_stripped_uncompiled():
    model, _ = ZOO_BY_NAME["chain"]()
    model.compile(kr.RMDA(), loss=lambda y, p: keras.ops.mean((y - p) ** 2))
    assert not kr.strip(model).compiled
    assert model.compiled


def test_models_of_keras_applications_with_zeroed_channels():
    """VGG16's layers are all known: half of the channels unread by everybody leaves a quarter of the weights."""
    model = keras.applications.VGG16(weights=None, input_shape=(32, 32, 3), classes=10)
    convolutions = [layer for layer in model.layers if isinstance(layer, (L.Conv2D, L.Dense))]
    for layer in convolutions[1:]:
        kernel = np.array(keras.ops.convert_to_numpy(layer.kernel))
        kernel[..., ::2, :] = 0
        layer.kernel.assign(kernel)
    small = kr.strip(model)
    for old, new in zip(convolutions[:-1], (small.get_layer(layer.name) for layer in convolutions[:-1])):
        assert new.kernel.shape[-1] * 2 == old.kernel.shape[-1]


def test_nan_weights_are_never_taken_for_zeros():
    """Callbacks measure so while a training goes on; `strip` itself refuses."""
    model, _ = ZOO_BY_NAME["sequential"]()
    kernel = np.array(keras.ops.convert_to_numpy(model.get_layer("b").kernel))
    kernel[0] = np.nan
    model.get_layer("b").kernel.assign(kernel)
    [row] = [row for row in report(plan(trace(model), ops.convert_to_numpy), "").layers if row.name == "a"]
    assert row.channels - row.removable == 7
    with pytest.raises(ValueError, match=r"layer 'b' .* NaN"):
        kr.strip(model)


@pytest.mark.parametrize("axis", [-1, None])
def test_preprocessing_layers_keep_what_they_have_learned(rng, axis):
    data, normalization = rng.normal(3.0, 5.0, size=(50, 6)), L.Normalization(axis=axis)
    normalization.adapt(data)
    layers = [keras.Input((6,)), normalization, L.Dense(8, "relu", name="a"), L.Dense(3, name="b")]
    model = keras.Sequential(layers)
    zero(model, "b", 0, [0, 1])
    small = kr.strip(model)
    assert difference(model(data), small(data)) < 1e-6
    assert small.get_layer("a").units == 6


def test_lambdas_of_this_process_are_rebuilt():
    x = inputs = keras.Input((6,))
    x = L.Lambda(lambda t: 2 * t)(L.Dense(8, "relu", name="a")(x))
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(L.Dense(5, name="b")(x))))
    zero(model, "d", 0, [0])
    assert kr.strip(model).get_layer("b").units == 4


def test_a_layer_that_cannot_be_rebuilt_is_named():
    class Odd(L.Layer):
        def __init__(self, need):
            super().__init__(name="odd")
            self.need = need

        def call(self, x):
            return hidden(x)

    inputs = keras.Input((6,))
    model = keras.Model(inputs, L.Dense(3)(Odd(x for x in ())(inputs)))
    with pytest.raises(ValueError, match="'odd' of type Odd cannot be rebuilt"):
        kr.strip(model)


def test_layers_in_a_state_that_their_rule_does_not_cover_are_opaque():
    x = inputs = keras.Input((5, 6))
    x = L.Dense(8, activation=L.PReLU(), name="activated")(x)
    x = L.Dense(8, activation=lambda t: keras.ops.softmax(t, axis=1), name="mixed")(x)
    x = L.Dense(8, name="adapted")(x)
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(x)))
    model.get_layer("adapted").enable_lora(2)
    zero(model, "d", 0, [0])
    zero(model, "mixed", 1, [1])
    report = kr.analyze(model)
    assert set(report.opaque) == {"adapted"}
    assert report.removable == 0


def test_folding_is_exact_in_float64(float64):
    keras.config.set_dtype_policy("float64")
    try:
        layers = [keras.Input((6,)), L.Dense(8, "sigmoid", name="a"), L.Dense(8, "gelu", name="b"), L.Dense(3)]
        model = randomize(keras.Sequential(layers))
    finally:
        keras.config.set_dtype_policy("float32")
    zero(model, "a", -1, [0, 1])
    zero(model, "b", -1, [2])
    small = kr.strip(model, tolerance=1e-12)
    assert (small.get_layer("a").units, small.get_layer("b").units) == (6, 7)


def test_analyze_leaves_the_losses_alone():
    layers = [keras.Input((6,)), L.Dense(8, name="a"), L.ReLU(activity_regularizer="l2"), L.Dense(3)]
    model = randomize(keras.Sequential(layers))
    zero(model, "a", -1, [0])
    model(np.ones((2, 6)))
    before = [float(x) for x in model.losses]
    kr.analyze(model)
    assert [float(x) for x in model.losses] == before


def test_verification_takes_the_users_inputs(rng):
    """Random inputs have at most 256 positions along an open axis; this model wants more."""
    inputs = keras.Input((None, 3))
    model = randomize(keras.Model(inputs, L.Conv1D(2, 400, name="b")(L.Conv1D(8, 5, name="a")(inputs))))
    zero(model, "b", 1, [0])
    with pytest.raises(ValueError, match=r"inputs=\.\.\."):
        kr.strip(model)
    assert kr.strip(model, inputs=rng.normal(size=(2, 410, 3))).get_layer("a").filters == 7


def test_a_model_that_is_called_with_channels_of_two_kinds_keeps_them():
    """Its input is an image of channels in one call, and twelve numbers of a dense layer in the other."""
    inside = keras.Sequential([keras.Input((2, 2, 3)), L.ReLU(), L.Conv2D(4, 2, name="c")], name="inside")
    inputs = keras.Input((2, 2, 3))
    numbers = L.Reshape((2, 2, 3))(L.Dense(12, name="b")(L.Flatten()(inputs)))
    x = L.Add()([inside(L.Conv2D(3, 1, name="a")(inputs)), inside(numbers)])
    model = randomize(keras.Model(inputs, L.Dense(2, name="d")(L.Flatten()(x))))
    kernel = inside.get_layer("c").kernel
    kernel.assign(keras.ops.convert_to_numpy(kernel) * (np.arange(3) > 0)[:, None])
    zero(model, "d", 0, [1])
    reasons = {row.name: row.reasons for row in kr.analyze(model).layers}
    assert reasons["a"]["several shapes in inside"] == 1
    small = kr.strip(model)
    assert (width(small, "a"), width(small, "b"), width(small, "inside/c")) == (3, 12, 3)


def test_a_fixed_batch_is_respected():
    inputs = keras.Input(batch_shape=(4, 6))
    x = L.Dense(8, name="a")(inputs)
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(x)))
    zero(model, "d", 0, [0])
    assert kr.strip(model).get_layer("a").units == 7


def test_verification_computes_with_all_bits(monkeypatch):
    """GPUs round what has been summed in another order to other values."""

    @keras.saving.register_keras_serializable(package="tests")
    class Rounding(L.Layer):
        calls = 0

        def call(self, x):
            Rounding.calls += 1
            return x if has_all_bits() else (1.0 + 1e-3 * self.calls) * hidden(x)

    inputs = keras.Input((6,))
    model = keras.Model(inputs, L.Dense(3)(Rounding()(L.Dense(8, name="d")(inputs))))
    zero(model, "d", 1, [0, 2])
    with pytest.raises(VerificationError):
        kr.strip(model)
    monkeypatch.setattr("keras_rmda.platform.arithmetic.runs_on_cpu", lambda: False)
    kr.strip(model)
    assert not has_all_bits()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_some_layers_of_a_model_may_compute_with_fewer_bits(policy):
    x = inputs = keras.Input((300,))
    for k, units in enumerate((256, 200, 100)):
        x = L.Dense(units, activation="gelu", dtype=policy, name=f"d{k}")(x)
    model = randomize(keras.Model(inputs, L.Dense(10)(x)))
    for k in range(3):
        zero(model, f"d{k}", 1, range(0, 100, 2))
    assert kr.strip(model).get_layer("d1").units == 150


def test_layers_of_a_model_may_take_numbers_of_fewer_bits_as_they_are():
    """The sums of layer normalizations are in the type of what they get, here float32."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    try:
        inner = keras.Sequential([keras.Input((6, 8), dtype="float32"), L.LayerNormalization()])
        inputs = keras.Input((7, 6, 8))
        model = randomize(keras.Model(inputs, L.Dense(3)(L.TimeDistributed(inner)(inputs))))
    finally:
        keras.config.set_dtype_policy(before)
    assert kr.strip(model).count_params() == model.count_params()


def test_a_model_that_is_random_at_inference_cannot_be_verified():
    @keras.saving.register_keras_serializable(package="tests")
    class Noise(L.Layer):
        def call(self, x):
            return x + keras.random.normal(keras.ops.shape(x))

    inputs = keras.Input((6,))
    model = keras.Model(inputs, L.Dense(3)(Noise(name="noise")(inputs)))
    with pytest.raises(VerificationError, match=r"'noise'.*random at inference"):
        kr.strip(model)


def test_bad_rules():
    with pytest.raises(ValueError, match="Received"):
        kr.channels.Writes({"kernel": "ii"})
    with pytest.raises(ValueError, match="Received"):
        kr.channels.Carries({"scale": "x"})


@keras.saving.register_keras_serializable(package="tests")
class Doubled(keras.Sequential):
    def call(self, x, training=None, mask=None):
        return 2 * super().call(x)


@keras.saving.register_keras_serializable(package="tests")
class Tripled(keras.Model):
    def call(self, x, training=None, mask=None):
        return 3 * super().call(x)


class Branches(keras.Model):
    """Several layers, a raw operation, and structured inputs and outputs."""

    def __init__(self):
        super().__init__(name="branches")
        self.left, self.right = L.Dense(8, "relu", name="left"), L.Dense(8, "tanh", name="right")
        self.drop, self.last = L.Dropout(0.5), L.Dense(3, name="last")

    def call(self, inputs, training=None):
        x = self.left(inputs["a"]) + self.right(inputs["b"])
        return {"y": self.last(self.drop(x, training=training))}


def test_subclassed_models_are_traced(rng):
    inputs = {"a": rng.normal(size=(5, 4)).astype("float32"), "b": rng.normal(size=(5, 6)).astype("float32")}
    model = Branches()
    model(inputs)
    randomize(model)
    model.last.kernel.assign(keras.ops.convert_to_numpy(model.last.kernel) * (np.arange(8) > 2)[:, None])
    small = kr.strip(model)
    assert small.get_layer("left").units == small.get_layer("right").units == 5
    np.testing.assert_allclose(small(inputs)["y"], model(inputs)["y"], atol=1e-6)
    assert kr.analyze(model).opaque == {}


def test_a_call_of_its_own_is_respected(rng):
    inputs = keras.Input((4,))
    x = rng.normal(size=(5, 4)).astype("float32")
    for model in (Doubled([keras.Input((4,)), L.Dense(3)]), Tripled(inputs, L.Dense(3)(inputs))):
        np.testing.assert_allclose(kr.strip(model)(x), model(x), atol=1e-6)


class Branching(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = L.Dense(3)

    def call(self, x):
        return self.dense(x) if np.sum(x) > 0 else x


@pytest.mark.parametrize("function", [kr.analyze, kr.strip])
def test_bad_models(function):
    for model in (keras.Sequential([L.Dense(3)]), Branches()):
        with pytest.raises(ValueError, match="not built"):
            function(model)
    branching = Branching()
    branching(np.ones((2, 4)))
    with pytest.raises(ValueError, match=r"'branching.*cannot be traced on symbolic inputs"):
        function(branching)
    for stranger in (None, "model.keras", L.Dense(3), np.ones(3)):
        with pytest.raises(ValueError, match=r"keras\.Model"):
            function(stranger)


@pytest.mark.parametrize("arguments", [{"round_to": 0}, {"round_to": 1.5}, {"strict": "yes"}])
def test_bad_options(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        kr.strip(ZOO_BY_NAME["sequential"]()[0], **arguments)


def test_strict_refuses_what_it_cannot_look_into():
    with pytest.raises(ValueError, match=r"strict=True.*unknown: Lambda"):
        kr.strip(ZOO_BY_NAME["unknown_layers"]()[0], strict=True)


def test_round_to_keeps_channels_that_nobody_reads():
    model, kept = ZOO_BY_NAME["residual"]()
    small = kr.strip(model, round_to=4)
    widths = {name: width(small, name) for name in kept}
    assert widths == {"stem": 8, "b1": 6, "b2": 8, "c1": 6, "c2": 8, "d": 3}


@pytest.mark.parametrize("tolerance", [-1.0, 0.0, float("nan"), "1e-4"])
def test_bad_tolerance(tolerance):
    with pytest.raises(ValueError, match="tolerance"):
        kr.strip(ZOO_BY_NAME["sequential"]()[0], tolerance=tolerance)


def test_a_layer_called_in_training_mode_is_opaque():
    x = inputs = keras.Input((6,))
    x = L.BatchNormalization(name="norm")(L.Dense(8, name="a")(x), training=True)
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(x)))
    zero(model, "a", -1, [0, 1])
    zero(model, "d", 0, [0])
    assert kr.strip(model).get_layer("a").units == 8
    assert "training=True" in kr.analyze(model).opaque["norm"]


def model_on_two_sizes():
    inner = keras.Sequential([keras.Input((None, None, 3)), L.Conv2D(4, 1)], name="inner")
    a, b = keras.Input((8, 8, 3)), keras.Input((4, 4, 3))
    return keras.Model([a, b], [inner(a), inner(b)])


def channels_folded_into_the_batch():
    inputs = keras.Input((6,))
    rows = [L.Reshape((1, 8))(L.Dense(8)(inputs)) for _ in range(2)]
    x = ops.reshape(L.Concatenate(axis=1)(rows), (-1, 8))
    return keras.Model(inputs, L.Dense(4)(x))


def nested_time_distribution():
    inputs = keras.Input((3, 4, 6))
    return keras.Model(inputs, L.TimeDistributed(L.TimeDistributed(L.Dense(5)))(inputs))


def constant_initial_state():
    inputs = keras.Input((4, 6), batch_size=2)
    return keras.Model(inputs, L.Dense(2)(L.GRU(5)(inputs, initial_state=ops.ones((2, 5)))))


def mask_by_position():
    inputs, mask = keras.Input((5, 8)), keras.Input((5,), dtype="bool")
    return keras.Model([inputs, mask], L.GRU(5)(inputs, None, mask))


def operands_by_keyword():
    inputs = keras.Input((6,))
    return keras.Model(inputs, L.Dense(2)(L.Multiply()(inputs=[L.Dense(8)(inputs), L.Dense(8)(inputs)])))


def attention_with_outputs_of_two_axes():
    inputs = keras.Input((5, 8))
    return keras.Model(inputs, L.MultiHeadAttention(2, 3, output_shape=(3, 4))(inputs, inputs))


def maximum_with_an_initial_value():
    inputs = keras.Input((4, 6))
    return keras.Model(inputs, L.Dense(2)(ops.max(L.Dense(8)(inputs), axis=1, initial=0.0)))


def array_initializer():
    inputs = keras.Input((6,))
    last = L.Dense(4, kernel_initializer=keras.initializers.Constant(np.ones((6, 4))))
    return keras.Model(inputs, last(L.Dense(6)(inputs)))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "build",
    [
        model_on_two_sizes,
        channels_folded_into_the_batch,
        nested_time_distribution,
        constant_initial_state,
        mask_by_position,
        operands_by_keyword,
        attention_with_outputs_of_two_axes,
        maximum_with_an_initial_value,
        array_initializer,
    ],
)
def test_odd_but_valid_models(build, seed):
    random = np.random.default_rng(seed)
    model = randomize(build(), seed)
    for weight in model.weights:
        value = np.array(ops.convert_to_numpy(weight))
        axis = random.integers(value.ndim)
        value[(slice(None),) * axis + (random.random(value.shape[axis]) < 0.5,)] = 0
        weight.assign(value)
    small = kr.strip(model)
    assert kr.analyze(model).parameters_after == small.count_params()
    assert [x.shape for x in small.inputs] == [x.shape for x in model.inputs]


def test_policy_and_flags_of_the_model_itself_are_kept():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    inputs = keras.Input((6,))
    model = keras.Model(inputs, L.Dense(2)(L.Dense(4)(inputs)))
    keras.config.set_dtype_policy(policy)
    model.trainable = False
    model.layers[-1].trainable = True
    small = kr.strip(model)
    assert small.dtype_policy.name == "mixed_float16"
    assert small.trainable_weights == []
    assert small.layers[-1].trainable


# ---- blocks: layers that consist of layers


class Doubling(L.Layer):
    """Does something of its own at training, which no graph would say."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.dense = L.Dense(5, name="dense")

    def call(self, x, training=False):
        return 2 * self.dense(x) if training else self.dense(x)


def test_blocks_that_do_more_at_training_or_cannot_be_traced_stay(rng):
    class Untraceable(Doubling):
        def call(self, x):
            return self.dense(hidden(x))

    class OnSeveralSizes(Doubling):
        def call(self, x):
            return self.dense(x) * x.shape[1]

    x = L.Dense(8, name="a")(keras.Input((4, 3)))
    for kind in (Doubling, Untraceable):
        model = randomize(keras.Model(x._keras_history.operation.input, kind(name="kind")(x)))
        zero(model, "kind/dense", 0, [1])
        assert set(kr.analyze(model).opaque) == {"kind"}
        small = kr.strip(model)
        assert small.get_layer("a").units == 8
        assert type(small.get_layer("kind")) is kind
    shared = OnSeveralSizes(name="kind")
    ends = [keras.Input((4, 3)), keras.Input((2, 3))]
    assert set(kr.analyze(keras.Model(ends, [shared(x) for x in ends])).opaque) == {"kind"}


def test_models_forget_that_they_were_looked_into():
    model, _ = ZOO_BY_NAME["blocks_of_layers"]()
    inside = model.get_layer("join").one.first
    before = [len(layer._inbound_nodes) for layer in (*model.layers, inside)]
    small = kr.strip(model)
    assert [len(layer._inbound_nodes) for layer in (*model.layers, inside)] == before
    assert model.get_layer("a").output.shape == (None, 8, 8, 6)
    assert isinstance(small.get_layer("join").get_layer("one"), keras.Model)
    small.get_layer("join").get_layer("one").get_layer("drop")


def test_flags_and_training_of_blocks_survive(rng):
    model, _ = ZOO_BY_NAME["blocks_of_layers"]()
    model.get_layer("join").two.trainable = False
    small = kr.strip(model)
    assert not small.get_layer("join").get_layer("two").trainable
    assert len(small.trainable_weights) == len(model.trainable_weights)
    inputs = random_inputs(small, batch=4)
    a, b = (keras.ops.convert_to_numpy(small(inputs, training=training)) for training in (True, False))
    assert np.abs(a - b).max() > 1e-3  # dropout and batch statistics
    assert not any(np.abs(x - y).max() for x, y in zip(outputs(small, inputs), [b]))


# ---- what is neither configuration nor weights, and unusual ways to say usual things


old_keras = pytest.mark.skipif(
    tuple(map(int, keras.__version__.split(".")[:2])) < (3, 10), reason="this Keras cannot load them from a file either"
)


@old_keras
def test_adapted_tables_survive():
    words = keras.Input((1,), dtype="string", name="words")
    lookup, vectorize = L.StringLookup(output_mode="multi_hot"), L.TextVectorization(output_mode="tf_idf")
    numbers = L.IntegerLookup(output_mode="one_hot")
    lookup.adapt(["red", "green", "blue"])
    vectorize.adapt(["red blue", "green red", "blue"])
    numbers.adapt(np.array([3, 5, 9, 3]))
    digit = keras.Input((1,), dtype="int64", name="digit")
    x = L.Concatenate()([lookup(words), L.Flatten()(vectorize(words)), numbers(digit)])
    model = randomize(keras.Model([words, digit], L.Dense(3, name="d")(L.Dense(6, "relu", name="a")(x))))
    zero(model, "d", 0, [1, 2])
    small = kr.strip(model)
    assert small.get_layer("a").units == 4
    given = [keras.ops.convert_to_tensor([["red"], ["blue"], ["other"]]), keras.ops.convert_to_tensor([[3], [9], [4]])]
    np.testing.assert_allclose(small(given), model(given), atol=1e-6)


@old_keras
def test_activations_that_are_layers_or_operations():
    x = inputs = keras.Input((6,))
    for k, activation in enumerate([ops.relu, L.LeakyReLU(), L.ELU(), keras.activations.gelu]):
        x = L.Dense(5, activation=activation, name=f"a{k}")(x)
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(x)))
    for name in ("a1", "a2", "a3", "d"):
        zero(model, name, 0, [0, 3])
    small = kr.strip(model)
    assert [small.get_layer(f"a{k}").units for k in range(4)] == [3, 3, 3, 3]


def test_arrays_in_configurations_follow_their_channels():
    x = inputs = keras.Input((6,))
    x = L.Rescaling(np.arange(1.0, 6.0), offset=np.ones(5))(L.Dense(5, name="a")(x))
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(x)))
    zero(model, "d", 0, [0, 3])
    assert kr.strip(model).get_layer("a").units == 3


def test_the_last_channel_is_the_same_everywhere():
    """A tensor and its mirror image, of which nothing is read, keep the same channel."""
    x = inputs = keras.Input((6,))
    x = L.Dense(6, name="a")(x)
    model = randomize(keras.Model(inputs, L.Dense(3, name="b")(ops.flip(x, axis=-1))))
    zero(model, "b", -2, range(6))
    small = kr.strip(model)
    assert width(small, "a") == 1
    assert kr.strip(small).count_params() == small.count_params()


def test_inputs_stay_sparse_and_optional(rng):
    a, b = keras.Input((6,), name="a", sparse=True), keras.Input((6,), name="b", optional=True)
    model = keras.Model({"a": a, "b": b}, L.Dense(3)(a))
    made = {x._keras_history.operation.name: x._keras_history.operation for x in kr.strip(model).inputs}
    assert made["a"].sparse
    assert made["b"].optional


def test_inputs_for_verification(rng):
    one, two = keras.Input((4,), name="one"), keras.Input((6,), name="another")
    model = keras.Model([one, two], L.Dense(3)(L.Concatenate()([one, two])))
    data = {"one": rng.normal(size=(2, 4)), "another": rng.normal(size=(2, 6))}
    kr.strip(model, inputs=data)
    kr.strip(model, inputs=list(data.values()))
    with pytest.raises(ValueError, match="at least one sample"):
        kr.strip(model, inputs=[x[:0] for x in data.values()])
    with pytest.raises(ValueError, match="the given `inputs`: give others"):
        kr.strip(model, inputs=list(data.values())[::-1])


@pytest.mark.parametrize(("kind", "looks"), [("float32", 0), ("mixed_bfloat16", 1), ("code", 1), ("tolerance", 1)])
def test_one_look_in_float64_is_enough_for_layers_of_keras(kind, looks, monkeypatch):
    class Own(L.Dense):
        """In another type, code may do anything."""

    x = inputs = keras.Input((6,))
    policy = kind if kind == "mixed_bfloat16" else "float32"
    x = (Own if kind == "code" else L.Dense)(8, activation="relu", name="a", dtype=policy)(x)
    model = randomize(keras.Model(inputs, L.Dense(3, name="b")(L.Dropout(0.5)(x))))
    zero(model, "b", 0, [0, 1])
    done, module = [], sys.modules["keras_rmda.structure.strip"]
    compare = module.compare
    monkeypatch.setattr(module, "compare", lambda *arguments: done.append(compare(*arguments)))
    small = kr.strip(model, tolerance=1e-3 if kind == "tolerance" else None)
    assert len(done) == looks
    if kind != "code":
        assert small.get_layer("a").units == 6
