"""`compress`: a model, its data and a target in; a smaller model out.

Over a minute, since most tests train two models, which are traced anew.
"""

import csv
import json
import shutil
import warnings
from functools import partial

import keras
import numpy as np
import pytest
from backend import number, only_tensorflow
from keras import ops

import keras_rmda as kr
from keras_rmda.compression import counterparts, recipe, search
from keras_rmda.compression.data import Data
from keras_rmda.compression.defaults import default_arguments
from keras_rmda.compression.distillation import distilled, kind_of, kinds_of_outputs
from keras_rmda.compression.rates import set_rates
from keras_rmda.compression.scores import Score, score_of
from keras_rmda.compression.statistics import recalibrate
from keras_rmda.platform import ends

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(128, 8)).astype("float32")
Y = (X[:, 0] * X[:, 1] > 0).astype("int32")
CALL = {"epochs": 4, "batch_size": 16, "verbose": 0}


pytestmark = pytest.mark.filterwarnings(
    "ignore:Training ended with", "ignore:.shuffle=True", "ignore:Your input ran out"
)


def network(norm=True, seed=0, **compile):
    keras.utils.set_random_seed(seed)
    layers = [keras.Input((8,), name="x")]
    for name in ("first", "second"):
        layers += [keras.layers.Dense(24, name=name), *([keras.layers.BatchNormalization()] if norm else [])]
        layers += [keras.layers.ReLU()]
    model = keras.Sequential([*layers, keras.layers.Dense(2, "softmax", name="last")], name="net")
    if compile:
        model.compile(**{"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]} | compile)
    return model


@pytest.fixture(scope="module")
def trained():
    model = network(optimizer=keras.optimizers.Adam(0.01))
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.8
    model.fit(X, Y, 16, 15, verbose=0)
    return model


@pytest.fixture(scope="module")
def result(trained):
    return kr.compress(trained, X, Y, target=0.3, validation_data=(X, Y), **CALL)


def test_what_is_left_is_the_target(result, trained):
    assert kr.analyze(result.model).macs / kr.analyze(trained).macs == pytest.approx(0.3, abs=0.02)
    assert result.report.macs_after == kr.analyze(result.model).macs
    assert result.report.parameters_after == result.model.count_params() < result.report.parameters


def test_the_model_that_was_given_is_unchanged(trained):
    before = [w.copy() for w in trained.get_weights()]
    kr.compress(trained, X, Y, target=0.5, **CALL | {"epochs": 2})
    for a, b in zip(before, trained.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_scores_are_those_of_the_models(result, trained):
    assert result.after == pytest.approx(result.model.evaluate(X, Y, verbose=0, return_dict=True), abs=1e-5)
    assert result.score == {"before": result.before, "after": result.after}
    assert result.before["accuracy"] == pytest.approx(
        trained.evaluate(X, Y, verbose=0, return_dict=True)["accuracy"], abs=0.02
    )
    assert result.after["accuracy"] > 0.7


def test_history_has_both_phases(result):
    assert result.history["phase"] == ["choose"] * 2 + ["tune"] * 2
    assert len(result.history["val_loss"]) == 4
    assert result.history["macs_left"][-1] == pytest.approx(0.3, abs=0.02)
    json.dumps(result.history)


def test_it_is_shown(result):
    assert "parameters" in str(result)
    assert "<table>" in result._repr_html_()


def test_the_result_is_ready_to_train_on(result):
    assert type(result.model.optimizer) is keras.optimizers.Adam
    assert number(result.model.optimizer.learning_rate) == pytest.approx(0.01)
    result.model.fit(X, Y, epochs=1, verbose=0)


def test_its_file_is_loaded_without_a_warning(result, tmp_path):
    result.model.save(tmp_path / "a.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = keras.models.load_model(tmp_path / "a.keras")
    assert type(again.optimizer) is keras.optimizers.Adam


@only_tensorflow
def test_it_is_exported(result, tmp_path):
    file = result.export(tmp_path / "a.tflite", "int8")
    assert file.samples == 128


def two_epochs(optimizer):
    model = network(norm=False, optimizer=optimizer)
    model.fit(X, Y, 32, 2, shuffle=False, verbose=0)
    return model.get_weights()


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.optimizers.SGD(0.05),
        lambda: keras.optimizers.SGD(0.05, momentum=0.9, clipnorm=0.5, weight_decay=0.1),
        lambda: keras.optimizers.Adam(0.01, beta_1=0.8, epsilon=1e-12),
        lambda: keras.optimizers.Adam(0.01, amsgrad=True, epsilon=1e-12),
        lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1, epsilon=1e-12),
    ],
)
def test_counterparts_make_the_same_steps(make):
    optimizer = make()
    rate = float(number(optimizer.learning_rate))
    wanted = two_epochs(make())
    for other in (counterparts.proximal(optimizer, rate, None), counterparts.stock(optimizer)):
        for a, b in zip(wanted, two_epochs(other), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize(
    "make", [lambda: kr.ProxSGD(0.5, 0.1), lambda: kr.ProxAdamW(0.01, weight_decay=0.1, epsilon=1e-12)]
)
def test_ours_have_stock_optimizers_that_make_the_same_steps(make):
    for a, b in zip(two_epochs(make()), two_epochs(counterparts.stock(make())), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_losses_are_scaled_as_they_were():
    own = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), initial_scale=256.0, dynamic_growth_steps=7)
    for other in (counterparts.proximal(own, 0.01, None), counterparts.stock(own), counterparts.with_rate(own, 0.1)):
        assert (other.initial_scale, other.dynamic_growth_steps) == (256.0, 7)


class Warm(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule of a user's own, without a configuration."""

    def __call__(self, step):
        return 0.01 * keras.ops.minimum(1.0, keras.ops.cast(step, "float32") / 10)


def test_a_schedule_without_a_configuration_and_weights_that_do_not_decay():
    """Keras writes neither into the configuration of an optimizer."""
    decayed, seen = [], keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: look())

    def look():
        optimizer = seen.model.optimizer
        kept = [v.path for v in seen.model.trainable_variables if not optimizer._use_weight_decay(v)]
        decayed.append((type(optimizer).__name__, sorted(path.rsplit("/", 2)[-2] for path in kept)))

    model = network()
    own = keras.optimizers.AdamW(Warm(), weight_decay=0.1)
    own.exclude_from_weight_decay(var_list=[model.get_layer("second").kernel], var_names=["beta"])
    model.compile(own, "sparse_categorical_crossentropy")
    found = kr.compress(model, X, Y, target=0.5, callbacks=[seen], **CALL | {"epochs": 2})
    names = sorted(["second", *(each.name for each in model.layers if each.name.startswith("batch"))])
    assert decayed == [("ProxAdamW", names), ("AdamW", names)]
    assert isinstance(found.model.optimizer._learning_rate, Warm)


def test_texts_as_inputs():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("texts are tensors of TensorFlow")
    import tensorflow as tf

    words = np.array(["good", "bad", "film"])[RANDOM.integers(0, 3, (64, 1))]
    keras.utils.set_random_seed(0)
    inputs = keras.Input((1,), dtype="string")
    x = keras.layers.Embedding(4, 8)(keras.layers.StringLookup(vocabulary=["good", "bad", "film"])(inputs))
    x = keras.layers.Dense(24, "relu")(keras.layers.Flatten()(x))
    model = keras.Model(inputs, keras.layers.Dense(1, "sigmoid")(x))
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    data = tf.data.Dataset.from_tensor_slices((words, words == "good")).batch(16)
    found = kr.compress(model, data, target=0.5, epochs=2, verbose=0)
    assert found.report.macs_after < 0.55 * found.report.macs


def test_inputs_without_targets_are_batches_of_one_thing():
    data = Data(X, batch_size=16)
    assert [len(each) for each in data.batches(2)] == [1, 1]
    assert next(data.batches(1))[0].shape == (16, 8)


def test_a_schedule_is_gone_through_anew():
    schedule = counterparts.Rescaled(keras.optimizers.schedules.CosineDecay(0.1, 100), whole=100, steps=20)
    assert float(number(schedule(10))) == pytest.approx(0.05)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert float(number(again(10))) == pytest.approx(0.05)
    assert counterparts.largest(
        keras.optimizers.schedules.CosineDecay(0.0, 50, warmup_target=0.3, warmup_steps=50), 100
    ) == (pytest.approx(0.3, rel=0.02))


def test_statistics_are_the_means_over_batches(trained):
    model = keras.models.clone_model(trained)
    model.set_weights(trained.get_weights())
    data = Data(X, Y, batch_size=32)
    assert recalibrate(model, data.batches(64))
    norm = next(layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization))
    inputs = X @ number(model.get_layer("first").kernel) + number(model.get_layer("first").bias)
    np.testing.assert_allclose(number(norm.moving_mean), inputs.mean(0), atol=1e-5)
    means = [inputs[k : k + 32].var(0) for k in range(0, 128, 32)]
    np.testing.assert_allclose(number(norm.moving_variance), np.mean(means, 0), rtol=1e-4)
    assert not recalibrate(network(norm=False), data.batches(1))


def test_a_trained_model_is_told_from_a_fresh_one(trained):
    data = Data(X, Y, batch_size=16)
    before = [w.copy() for w in trained.get_weights()]
    assert recipe.is_trained(recipe.with_and_without(trained, data))
    assert not recipe.is_trained(recipe.with_and_without(network(optimizer="adam"), data))
    for a, b in zip(before, trained.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def hits(y, output):
    return ops.mean(keras.metrics.sparse_categorical_accuracy(y, output))


def misses(y, output):
    return 1.0 - hits(y, output)


@pytest.mark.parametrize(
    ("metrics", "name", "grows"),
    [
        ([hits], "hits", True),
        ([misses], "misses", False),
        (["sparse_categorical_crossentropy", "accuracy"], "sparse_categorical_crossentropy", False),
        ([keras.metrics.SparseTopKCategoricalAccuracy(1, name="top")], "top", True),
        ([keras.metrics.SparseCategoricalAccuracy(name="z_loss"), "accuracy"], "z_loss", True),
    ],
    ids=["grows", "falls", "falls by its name", "by its own word", "ends with loss"],
)
def test_the_score_is_the_first_metric_in_its_own_direction(trained, metrics, name, grows):
    model, data = keras.models.clone_model(trained), Data(X, Y, batch_size=32)
    model.set_weights(trained.get_weights())
    model.compile("adam", "sparse_categorical_crossentropy", metrics=metrics)
    scores = data.score(model)
    assert score_of(model, scores, recipe.with_and_without(model, data)) == Score(name, grows)


class Sure(keras.metrics.Mean):
    """A metric whose configuration does not tell its argument."""

    def __init__(self, threshold=0.5, **arguments):
        super().__init__(**arguments)
        self.threshold = threshold

    def update_state(self, y, output, sample_weight=None):
        return super().update_state(ops.cast(ops.max(output, -1) > self.threshold, "float32"))


def test_a_metric_without_a_configuration_keeps_its_arguments(trained):
    model = keras.models.clone_model(trained)
    model.set_weights(trained.get_weights())
    model.compile("adam", "sparse_categorical_crossentropy", metrics=[Sure(0.9, name="sure")])
    before = model.evaluate(X, Y, verbose=0, return_dict=True)["sure"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is less sure
        result = kr.compress(model, X, Y, target=0.5, **CALL | {"epochs": 2})
    assert 0 < before < 1
    assert result.before["sure"] == pytest.approx(before, abs=0.1)
    found = result.model.evaluate(X, Y, verbose=0, return_dict=True)["sure"]
    assert found == pytest.approx(np.mean(number(result.model(X)).max(-1) > 0.9))
    assert result.after["sure"] == pytest.approx(found)


class Boosted(keras.optimizers.Adam):
    """An optimizer whose configuration does not tell its argument."""

    def __init__(self, learning_rate=1e-3, boost=1.0):
        super().__init__(learning_rate)
        self.boost = boost


def test_an_optimizer_without_a_configuration_is_refused():
    with pytest.raises(ValueError, match="leaves out boost"):
        kr.compress(network(optimizer=Boosted(boost=7.0)), X, Y, chooser=kr.ProxAdamW(1e-3), **CALL)


def test_a_trained_classifier_in_half_precision_teaches():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = network(norm=False)
        model.get_layer("last").kernel.assign(200 * number(model.get_layer("last").kernel))  # sure of itself
        student = network(norm=False, seed=1, optimizer=keras.optimizers.SGD(1e-3))
        with distilled(student, model, 1.0):
            before = number(student.get_layer("first").kernel)
            student.fit(X, Y, epochs=1, verbose=0)
        after = number(student.get_layer("first").kernel)
    finally:
        keras.config.set_dtype_policy("float32")
    assert np.isfinite(after).all()
    assert (before != after).any()


def test_layers_with_penalties_of_their_own_are_compressed():
    model = network(norm=False)
    inputs = keras.Input((8,))
    x = keras.layers.Dense(16, "relu", kernel_regularizer=kr.GroupLasso(1e-3))(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, "softmax")(keras.layers.Dense(12, "relu")(x)))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    result = kr.compress(model, X, Y, target=0.5, **CALL)
    assert result.report.macs_after <= 0.55 * result.report.macs
    assert result.model.layers[1].kernel.regularizer.strength == pytest.approx(1e-3)


ONE_OF_TWO, BOTH = np.eye(2)[Y], np.stack([Y, 1 - Y | (X[:, 2] > 0)], axis=1)


@pytest.mark.parametrize(
    ("y", "end", "loss", "metrics"),
    [
        (Y, "softmax", keras.losses.SparseCategoricalCrossentropy, ["accuracy"]),
        (ONE_OF_TWO, "softmax", keras.losses.CategoricalCrossentropy, ["accuracy"]),
        (ONE_OF_TWO.astype("int32"), None, keras.losses.CategoricalCrossentropy, ["accuracy"]),
        (ONE_OF_TWO, "sigmoid", str, []),
        (BOTH, "sigmoid", keras.losses.BinaryCrossentropy, ["binary_accuracy"]),
        (BOTH.astype(bool), None, keras.losses.BinaryCrossentropy, ["binary_accuracy"]),
        (X[:, :2], None, str, []),
        (Y[:, None], None, keras.losses.BinaryCrossentropy, ["accuracy"]),
        (30 + 20 * Y[:, None], None, str, []),
        (1 - 2 * Y, None, str, []),
        (5 * BOTH, None, str, []),
    ],
)
def test_the_loss_of_a_model_that_was_not_compiled(y, end, loss, metrics):
    width = y.shape[-1] if y.ndim == 2 else 2
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(width, end)])
    found = default_arguments(model, Data(X, y, batch_size=32))
    assert type(found["loss"]) is loss
    assert getattr(found["loss"], "from_logits", False) is (loss is not str and end is None)
    assert found["metrics"] == metrics


def several_outputs(how):
    inputs = keras.Input((8,))
    x = keras.layers.Dense(16, "relu")(inputs)
    classes = keras.layers.Softmax(name="z")(keras.layers.Dense(2)(x))
    number = keras.layers.Dense(1, name="a")(x)
    return keras.Model(inputs, {"list": [classes, number], "dict": {"which": classes, "amount": number}}[how])


@pytest.mark.parametrize(
    ("how", "y"),
    [
        ("list", [Y, X[:, :1]]),
        ("list", {"z": Y, "a": X[:, :1]}),
        ("dict", {"which": Y, "amount": X[:, :1]}),
    ],
)
def test_every_output_has_the_loss_of_its_targets(how, y):
    model = several_outputs(how)
    result = kr.compress(model, X, y, target=0.5, **CALL)
    losses = keras.tree.flatten(result.model.loss)
    assert {"mse", "sparse_categorical_crossentropy"} == {getattr(each, "name", each) for each in losses}
    assert sum("accuracy" in name for name in result.after) == 1
    wanted = ["classes", "squares"] if how == "list" else ["squares", "classes"]  # "amount" before "which"
    assert [kind.__name__ for kind in kinds_of_outputs(result.model)] == wanted


@pytest.mark.parametrize(
    ("end", "function"),
    [
        (lambda x: keras.layers.Dense(4, "softmax")(x), "softmax"),
        (lambda x: keras.layers.Activation("linear", dtype="float32")(keras.layers.Dense(4, "sigmoid")(x)), "sigmoid"),
        (lambda x: keras.ops.reshape(keras.ops.softmax(keras.layers.Dense(4)(x)), (-1, 2, 2)), "softmax"),
        (lambda x: keras.Sequential([keras.layers.Dense(4), keras.layers.Softmax()])(x), "softmax"),
        (lambda x: keras.layers.TimeDistributed(keras.layers.Dense(2, "sigmoid"))(x[:, None]), "sigmoid"),
        (lambda x: keras.layers.Dense(2)(keras.layers.Dense(4, "softmax")(x)), None),
        (lambda x: 3.0 * keras.ops.sigmoid(x), None),
    ],
)
def test_what_a_model_ends_with(end, function):
    inputs = keras.Input((8,))
    assert ends.last_functions(keras.Model(inputs, end(inputs))) == [function]


def test_statistics_that_do_not_fit_are_said(trained):
    model = keras.models.clone_model(trained)
    model.set_weights(trained.get_weights())
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(layer.moving_mean + 3.0)
    with pytest.warns(kr.SparsityWarning, match="do not fit"):
        kr.compress(model, X, Y, target=0.5, **CALL | {"epochs": 2})


def test_distillation_with_all_of_the_loss_is_the_difference(trained):
    student = network(optimizer=keras.optimizers.SGD(0.0))
    with distilled(student, trained, 1.0):
        loss = student.fit(X, Y, batch_size=128, epochs=1, verbose=0).history["loss"][0]
    assert "compute_loss" not in vars(student)
    teacher, output = number(trained(X, training=False)), number(student(X, training=True))
    assert loss == pytest.approx(-(teacher * np.log(output)).sum(-1).mean(), rel=1e-3)


def my_crossentropy(target, output):
    return keras.losses.sparse_categorical_crossentropy(target, output, from_logits=True)


@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        ("mse", "squares"),
        (None, "squares"),
        ("sparse_categorical_crossentropy", "classes"),
        (keras.losses.CategoricalCrossentropy(from_logits=True), "classes_of_logits"),
        ("binary_crossentropy", "bits"),
        (keras.losses.BinaryFocalCrossentropy(from_logits=True), "bits_of_logits"),
        (keras.losses.sparse_categorical_crossentropy, "classes"),
        (my_crossentropy, "squares"),
    ],
)
def test_the_difference_suits_the_loss(loss, kind):
    assert kind_of(loss).__name__ == kind


def test_a_chooser_keeps_its_own_learning_rate():
    rates = []
    look = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: rates.append(look.model.optimizer))
    chooser = kr.RAMDA(0.02, 0.5)
    kr.compress(
        network(optimizer=keras.optimizers.Adam(0.01)), X, Y, target=0.5, chooser=chooser, callbacks=[look], **CALL
    )
    assert type(rates[0]) is kr.RAMDA
    assert float(number(rates[0].learning_rate)) == pytest.approx(0.02)
    assert type(rates[-1]) is keras.optimizers.Adam


def test_a_trained_classifier_teaches(trained):
    assert recipe.distillation(trained, knows=True) == recipe.DISTILLATION
    assert recipe.distillation(trained, knows=False) == 0.0
    regression = network(loss="mse")
    assert recipe.distillation(regression, knows=True) == 0.0


def test_a_teacher_takes_part(trained):
    first = [kr.compress(trained, X, Y, distillation=d, target=0.4, **CALL).history["loss"][0] for d in (None, 0.0)]
    assert first[0] != pytest.approx(first[1], rel=0.05)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 8

    def __getitem__(self, k):
        return X[16 * k : 16 * k + 16], Y[16 * k : 16 * k + 16]


def endless():
    while True:
        yield X[:16], Y[:16]


@pytest.mark.parametrize("form", ["PyDataset", "generator", "weights", "split", "class weights"])
def test_data_in_every_form(form):
    arguments = {
        "PyDataset": {"x": Batches()},
        "generator": {"x": endless(), "steps_per_epoch": 4},
        "weights": {"x": X, "y": Y, "sample_weight": np.ones(128), "batch_size": 16},
        "split": {"x": X, "y": Y, "validation_split": 0.25, "batch_size": 16},
        "class weights": {"x": X, "y": Y, "class_weight": {0: 1.0, 1: 2.0}},
    }[form]
    found = kr.compress(network(optimizer="sgd"), target=0.5, epochs=2, verbose=0, **arguments)
    assert found.report.macs_after < 0.55 * found.report.macs
    assert len(found.history["loss"]) == 2
    assert ("val_loss" in found.history) == (form == "split")


@only_tensorflow
@pytest.mark.parametrize("known", [True, False])
def test_tf_data(known):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    data = data if known else data.filter(lambda x, y: True)
    found = kr.compress(network(optimizer="adam"), data, target=0.5, epochs=2, verbose=0, validation_data=data)
    assert found.report.macs_after < 0.55 * found.report.macs


def test_several_inputs_and_outputs_by_name():
    keras.utils.set_random_seed(0)
    a, b = keras.Input((8,), name="a"), keras.Input((8,), name="b")
    hidden = keras.layers.Dense(24, "relu")(keras.layers.Concatenate()([a, b]))
    outputs = {
        "sign": keras.layers.Dense(1, "sigmoid", name="sign")(hidden),
        "sum": keras.layers.Dense(1, name="sum")(hidden),
    }
    model = keras.Model({"a": a, "b": b}, outputs)
    losses = {"sign": "binary_crossentropy", "sum": "mse"}
    model.compile("adam", losses, metrics={"sign": ["accuracy"]}, loss_weights={"sign": 1.0, "sum": 0.5})
    targets = {"sign": Y[:, None].astype("float32"), "sum": X.sum(1, keepdims=True)}
    found = kr.compress(model, {"a": X, "b": X}, targets, target=0.5, distillation=0.5, **CALL)
    assert set(found.model.predict({"a": X, "b": X}, verbose=0)) == {"sign", "sum"}
    assert set(found.samples) == {"a", "b"}


def test_a_model_that_is_not_compiled_gets_a_loss():
    found = kr.compress(network(), X, Y, target=0.5, **CALL)
    assert "accuracy" in found.after
    assert type(found.model.optimizer) is keras.optimizers.Adam


class Counts(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_begin(self, logs=None):
        self.epochs = self.params["epochs"]
        self.seen.append("begin")

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(epoch)

    def on_train_end(self, logs=None):
        self.seen.append("end")


def test_callbacks_see_one_training(tmp_path):
    counts, rates = Counts(), []
    log = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rates.append(epoch) or 0.01 / (epoch + 1))
    stop = keras.callbacks.EarlyStopping("loss", patience=50, restore_best_weights=True)
    kr.compress(network(optimizer="adam"), X, Y, target=0.5, callbacks=[counts, log, schedule, stop], **CALL)
    assert counts.seen == ["begin", 0, 1, 2, 3, "end"]
    assert counts.epochs == 4
    assert rates == [0, 1, 2, 3]
    with open(tmp_path / "log.csv") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "1", "2", "3"]


class Averages(keras.callbacks.Callback):
    """Moving averages of the weights, which the model ends with."""

    def on_train_begin(self, logs=None):
        self.averages = self.model.get_weights()

    def on_train_batch_end(self, batch, logs=None):
        self.averages = [0.5 * a + 0.5 * number(b) for a, b in zip(self.averages, self.model.weights, strict=True)]

    def on_train_end(self, logs=None):
        self.model.set_weights(self.averages)


class Steps(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.losses, self.lr = [], 0.0

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(logs["loss"])
        self.lr = self.model.optimizer.learning_rate


class Halves(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        optimizer = self.model.optimizer
        optimizer.learning_rate = 0.5 * number(optimizer.learning_rate)


class Assigns(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.model.optimizer.learning_rate.assign(0.01)


def test_callbacks_of_a_users_own_that_remember_weights_or_set_the_rate():
    averages, steps = Averages(), Steps()
    model = network(optimizer=keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True))
    listed = [averages, steps, Halves(), keras.callbacks.SwapEMAWeights()]
    found = kr.compress(model, X, Y, target=0.5, callbacks=listed, **CALL)
    assert len(steps.losses) == 4 * 8
    assert [each.shape for each in averages.averages] == [tuple(each.shape) for each in found.model.weights]
    assert found.report.macs_after < 0.55 * found.report.macs


def let_rate(optimizer, value):
    optimizer.learning_rate = value


def twice_removed(model):
    partial(let_rate, value=0.01)(model.optimizer)


class Helped(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        twice_removed(self.model)


class Policy:
    """Has a learning rate of its own, and none of the optimizer's unless it is asked to."""

    def __init__(self, applies):
        self.learning_rate = 0.1
        self.apply = let_rate if applies else print


class Held(keras.callbacks.Callback):
    def __init__(self, policy):
        super().__init__()
        self.policies = [policy]

    def on_epoch_end(self, epoch, logs=None):
        for each in self.policies:
            each.apply(self.model.optimizer, each.learning_rate)


class Inside(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        def change():
            setattr(self.model.optimizer, "learning_rate", 0.1)  # noqa: B010

        change()


class Remembers(keras.callbacks.Callback):
    """Its own rate is no optimizer's, and what it assigns to is no rate."""

    def on_epoch_end(self, epoch, logs=None):
        self.lr = (lambda: logs.get("lr"))()
        self.learning_rate = Y.mean()


@pytest.mark.parametrize(
    ("callback", "sets"),
    [
        (keras.callbacks.ReduceLROnPlateau(), True),
        (keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate), True),
        (Halves(), True),
        (Assigns(), True),
        (keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: STEPS.model.optimizer.lr.assign(1.0)), True),
        (Helped(), True),
        (Held(Policy(True)), True),
        (Held(Policy(False)), False),
        (Inside(), True),
        (keras.callbacks.LambdaCallback(on_epoch_end=Held(Policy(True)).on_epoch_end), True),
        (Remembers(), False),
        (Steps(), False),
        (keras.callbacks.EarlyStopping(), False),
    ],
)
def test_callbacks_that_set_the_learning_rate_are_known(callback, sets):
    assert set_rates([callback]) is sets


STEPS = Steps()


class StopsAtOnce(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = True


def test_a_callback_may_end_the_tuning_but_not_the_choice():
    arguments = CALL | {"epochs": 8, "callbacks": [StopsAtOnce()]}
    found = kr.compress(network(optimizer="adam"), X, Y, target=0.5, **arguments)
    assert found.history["phase"] == [*["choose"] * recipe.choosing_epochs(8), "tune"]
    assert found.report.macs_after < 0.55 * found.report.macs


def test_a_model_that_is_not_built_and_a_metric_with_a_value_for_each_class(capsys):
    model = keras.Sequential([keras.layers.Dense(24, "relu"), keras.layers.Dense(24, "relu"), keras.layers.Dense(2)])
    model.compile("adam", keras.losses.CategoricalCrossentropy(from_logits=True), metrics=[keras.metrics.F1Score()])
    found = kr.compress(model, X, np.eye(2)[Y], target=0.5, **CALL | {"verbose": 2})
    assert 0.0 < found.after["f1_score"] < 1.0
    assert "f1_score" in capsys.readouterr().out


class Killed(Exception):
    pass


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_run_that_was_killed_goes_on(tmp_path, epoch):
    def kill(number, logs):
        if number == epoch:
            raise Killed

    call = CALL | {"target": 0.5, "directory": tmp_path / "run", "optimizer": keras.optimizers.Adam(0.01)}
    with pytest.raises(Killed):
        kr.compress(network(), X, Y, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=kill)], **call)
    counts, log = Counts(), keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    with pytest.raises(ValueError, match="other arguments"):
        kr.compress(network(), X, Y, **call | {"target": 0.4})
    found = kr.compress(network(seed=1), X, Y, callbacks=[counts, log], **call)
    assert (counts.seen[0], counts.seen[-1]) == ("begin", "end")
    assert [each for each in counts.seen if isinstance(each, int)] == list(range(epoch, 4))
    assert found.history["phase"] == ["choose"] * 2 + ["tune"] * 2
    assert len(found.history["loss"]) == 4
    assert found.report.macs_after < 0.55 * found.report.macs
    assert not (tmp_path / "run").exists()


def test_a_folder_of_another_run_is_refused(trained, tmp_path):
    def kill(epoch, logs):
        raise Killed

    call = CALL | {"target": np.float32(0.5), "epochs": np.int64(4), "directory": tmp_path / "run"}
    call["optimizer"] = keras.optimizers.Adam(0.01)
    with pytest.raises(Killed):
        kr.compress(trained, X, Y, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=kill)], **call)
    other = keras.models.clone_model(trained)
    other.set_weights([1.1 * each for each in trained.get_weights()])
    other.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    for model, differs, arguments in (
        (other, "weights", {}),
        (trained, "optimizer", {"optimizer": "sgd"}),
        (trained, "chooser", {"chooser": "keras_rmda>RMDA"}),
        (trained, "steps", {"batch_size": 64}),
    ):
        with pytest.raises(ValueError, match=rf"other arguments \({differs}: "):
            kr.compress(model, X, Y, **call | arguments)


def test_a_folder_that_somebody_deletes_is_said(trained, tmp_path):
    delete = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: shutil.rmtree(tmp_path / "run"))
    with pytest.raises(RuntimeError, match="two runs must not share"):
        kr.compress(trained, X, Y, target=0.5, directory=tmp_path / "run", callbacks=[delete], **CALL)


def test_as_small_as_the_accuracy_allows(trained):
    before, counts = trained.evaluate(X, Y, verbose=0, return_dict=True)["accuracy"], Counts()
    found = kr.compress(trained, X, Y, accuracy_loss=0.1, epochs=12, batch_size=16, verbose=0, callbacks=[counts])
    assert [each for each in counts.seen if isinstance(each, str)] == ["begin", "end"]
    assert found.report.macs_after <= 0.52 * found.report.macs
    assert found.after["accuracy"] >= before - 0.1 - 0.02
    assert found.model.evaluate(X, Y, verbose=0, return_dict=True)["accuracy"] == pytest.approx(found.after["accuracy"])


class Scripted:
    """Stands for a run: a size holds after so many epochs of tuning; what was trained is noted."""

    epochs, metric = 12, "macs"

    def __init__(self, whole, needs):
        self.whole, self.needs, self.done, self.tuned = whole, needs, [], {}

    def stage(self, model, target, first, last, name):
        share = target / self.whole
        self.done.append((round(share, 3), first, last))
        self.tuned[id(model)] = share, 1
        return model

    def tune(self, model, first, last, name):
        share, epochs = self.tuned[id(model)]
        self.done.append((name, first, last))
        self.tuned[id(model)] = share, epochs + last - first

    def finished(self, model):
        share, epochs = self.tuned[id(model)]
        return {"accuracy": float(epochs >= self.needs(share))}

    def say(self, text):
        pass


def test_a_model_that_does_not_hold_is_tuned_before_its_size_is_given_up():
    model, score = network(), Score("accuracy", True)
    run = Scripted(search.whole_of(model, "macs"), lambda share: {0.5: 1, 0.25: 4}.get(round(share, 3), 99))
    small = search.smallest_that_holds(run, model, search.Limit(run, score, {"accuracy": 1.0}, 0.01))
    assert run.tuned[id(small)][0] == pytest.approx(0.25)
    assert run.done == [
        (0.5, 0, 2),
        (0.25, 2, 4),
        ("stage-2-more", 4, 8),
        (0.175, 8, 12),  # a small step, with all epochs that are left
    ]


def test_sizes_that_hold_at_once_are_halved_and_one_that_does_not_is_tuned_first():
    model, score = network(), Score("accuracy", True)
    run = Scripted(search.whole_of(model, "macs"), lambda share: 1 if share > 0.2 else 99)
    small = search.smallest_that_holds(run, model, search.Limit(run, score, {"accuracy": 1.0}, 0.01))
    assert run.tuned[id(small)][0] == pytest.approx(0.25)
    assert run.done == [(0.5, 0, 2), (0.25, 2, 4), (0.125, 4, 6), ("stage-3-more", 6, 9), (0.177, 9, 12)]


@pytest.mark.filterwarnings("ignore::keras_rmda.SparsityWarning")
def test_a_search_that_was_killed_goes_on(trained, tmp_path):
    def kill(epoch, logs):
        if epoch == 3:  # of the second stage
            raise Killed

    call = {"accuracy_loss": 0.1, "epochs": 4, "batch_size": 16, "shuffle": False, "verbose": 0}
    whole = kr.compress(trained, X, Y, **call)
    call["directory"] = tmp_path / "run"
    with pytest.raises(Killed):
        kr.compress(trained, X, Y, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=kill)], **call)
    found = kr.compress(trained, X, Y, **call)
    assert found.report.macs_after == whole.report.macs_after
    assert found.after == pytest.approx(whole.after, abs=1e-4)


def test_where_nothing_smaller_holds_nothing_goes(trained):
    still = {"optimizer": keras.optimizers.SGD(1e-9), "epochs": 2, "batch_size": 16, "verbose": 0}
    with pytest.warns(kr.SparsityWarning, match="nothing was removed"):
        found = kr.compress(trained, X, Y, accuracy_loss=0.0, **still)
    assert found.report.macs_after == found.report.macs
    assert found.after == found.before


def test_a_score_far_below_is_said(trained):
    with pytest.warns(kr.SparsityWarning, match="went from"):
        kr.compress(
            trained, X, Y, target=0.08, epochs=2, batch_size=128, verbose=0, optimizer=keras.optimizers.Adam(1e-5)
        )


@pytest.mark.filterwarnings("ignore::keras_rmda.SparsityWarning")
def test_nan_is_an_error():
    with pytest.raises((RuntimeError, ValueError), match="not finite"):
        kr.compress(network(norm=False), X, Y, optimizer=keras.optimizers.SGD(1e30), target=0.5, **CALL)


BAD = {
    "target": ({"target": 0}, "target=0"),
    "metric": ({"metric": "milliseconds"}, "milliseconds"),
    "epochs": ({"epochs": 1}, "epochs=1"),
    "batch size": ({"batch_size": 0}, "batch_size=0"),
    "both": ({"target": 0.5, "accuracy_loss": 0.1}, "not both"),
    "verbose": ({"verbose": 7}, "verbose=7"),
    "optimizer": ({"optimizer": "rmsprop"}, "RMSprop"),
    "too small": ({"target": 1e-4}, "smallest possible target"),
    "inputs": ({"x": X[:, :3]}, "batches of inputs of the shapes"),
    "targets": ({"y": Y[:7]}, "7"),
    "no sample to validate": ({"validation_data": (X[:0], Y[:0])}, "validation data hold no sample"),
    "generator": ({"x": endless(), "y": None}, "steps_per_epoch"),
    "backup": ({"callbacks": [keras.callbacks.BackupAndRestore("b")]}, "directory"),
    "second target": ({"callbacks": [kr.callbacks.TargetSparsity(0.5)]}, "of its own"),
    "no callback": ({"callbacks": [3]}, "Received: 3"),
    "fresh": ({"accuracy_loss": 0.01, "target": None}, "train it first"),
    "split": ({"validation_split": 1.0}, "validation_split=1.0"),
    "shape": ({"x": X[:, :5]}, r"\(16, 5\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_before_any_training(name):
    arguments, says = BAD[name]
    counts = Counts()
    call = {"x": X, "y": Y, "callbacks": [counts], **CALL} | arguments
    with pytest.raises(ValueError, match=says):
        kr.compress(network(optimizer="adam"), call.pop("x"), call.pop("y"), **call)
    assert not [each for each in counts.seen if isinstance(each, int)]


def test_a_generator_that_ends_is_refused():
    with pytest.raises(ValueError, match="generator has ended"):
        kr.compress(network(optimizer="adam"), ((X[:16], Y[:16]) for _ in range(8)), steps_per_epoch=8, epochs=4)


def test_a_model_without_anything_to_remove():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2, "softmax")])
    with pytest.raises(ValueError, match="No channel"):
        kr.compress(model, X, Y, **CALL)


def test_what_is_refused_leaves_no_folder(tmp_path):
    for bad in ({"target": 1e-4}, {"accuracy_loss": 0.01}):
        with pytest.raises(ValueError, match=r"smallest possible|train it first"):
            kr.compress(network(), X, Y, directory=tmp_path / "run", **CALL | bad)
        assert not (tmp_path / "run").exists()


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("long")
    with pytest.raises(ValueError, match="folder of its own"):
        kr.compress(network(), X, Y, directory=tmp_path, **CALL)
    assert (tmp_path / "thesis.txt").read_text() == "long"


def test_importance_is_the_mean_of_squared_products(trained):
    model = keras.models.clone_model(trained)
    model.set_weights(trained.get_weights())
    groups = kr.coupled_groups(model, parts="all")
    optimizer = kr.ProxSGD(1.0, 1.0, kr.GroupLasso(1e-9, groups=groups))
    model.compile(optimizer, "sparse_categorical_crossentropy")
    optimizer.build(model.trainable_variables)
    optimizer.follow_importance()
    before = {v.path.partition("/")[2]: number(v) for v in model.trainable_variables}
    before |= {v.path: number(v) for v in model.trainable_variables}
    model.fit(X[:32], Y[:32], 32, 1, verbose=0)
    after = {v.path: number(v) for v in model.trainable_variables}
    wanted = np.zeros(len(groups))
    for path, ids in groups.members.items():
        full = next(key for key in after if key == path or key.endswith("/" + path))
        w, g = before[full], before[full] - after[full]  # a step of 1 along the gradient
        ids = np.broadcast_to(ids, w.shape)
        np.add.at(wanted, ids[ids >= 0], ((w * g) ** 2)[ids >= 0])
    np.testing.assert_allclose(number(optimizer.couplings[0].importance), 0.01 * wanted, rtol=2e-2, atol=1e-9)


def test_what_is_worth_nothing_goes_first():
    keras.utils.set_random_seed(0)
    model = network(norm=False)
    last = model.get_layer("last")
    kernel = number(last.kernel)
    kernel[:12] *= 1e-4  # nobody listens to the first twelve
    last.kernel.assign(kernel)
    psi = kr.GroupLasso(1e-9, groups=kr.coupled_groups(model, parts="all"))
    model.compile(kr.ProxSGD(1e-4, 1.0, psi), "sparse_categorical_crossentropy")
    target = kr.callbacks.TargetSparsity(0.8, "groups", begin=0.5, end=1.0, ranking="fisher")
    model.fit(X, Y, 16, 2, verbose=0, callbacks=[target])
    norms = np.abs(number(model.get_layer("second").kernel)).sum(0)
    assert (norms[12:] > 0).sum() >= 11
    assert (norms[:12] == 0).sum() >= 7


def test_lift_undoes_strip(trained):
    from keras_rmda.structure import copied, lift

    model = copied(trained)
    for name in ("first", "second"):
        layer = model.get_layer(name)
        layer.kernel.assign(number(layer.kernel) * (np.arange(24) % 3 > 0))
        layer.bias.assign(number(layer.bias) * (np.arange(24) % 3 > 0))
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.gamma.assign(number(layer.gamma) * (np.arange(24) % 3 > 0))
            layer.beta.assign(number(layer.beta) * (np.arange(24) % 3 > 0))
    small = kr.strip(model)
    small.compile("adam", "sparse_categorical_crossentropy")
    small.fit(X, Y, epochs=1, verbose=0)
    lift(model, small)
    np.testing.assert_allclose(number(model(X)), number(small(X)), atol=1e-6)
    with pytest.raises(ValueError, match="was not stripped"):
        lift(trained, small)


@only_tensorflow
def test_mixed_precision_and_loss_scaling():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = network(optimizer=keras.optimizers.Adam(0.01))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", kr.SparsityWarning)
            found = kr.compress(model, X, Y, target=0.5, **CALL)
    finally:
        keras.config.set_dtype_policy("float32")
    assert isinstance(found.model.optimizer, keras.optimizers.LossScaleOptimizer)


class Normalized(keras.layers.Wrapper):
    """A convolution whose kernel has a learned norm, so that what its weights cannot make zero, its readers can."""

    def build(self, shape):
        self.layer.build(shape)
        self.norm = self.add_weight(shape=(self.layer.filters,), initializer="ones", name="norm")

    def call(self, x):
        kernel = self.layer.kernel
        kernel = kernel * self.norm / ops.sqrt(ops.sum(ops.square(kernel), axis=(0, 1)) + 1e-12)
        return ops.conv(x, kernel, padding="same") + self.layer.bias


@only_tensorflow
def test_where_only_readers_can_be_zero_they_are_chosen():
    x = inputs = keras.Input((8, 3))
    for _ in range(2):
        y = keras.layers.ReLU()(Normalized(keras.layers.Conv1D(8, 3))(x))
        y = keras.layers.ReLU()(Normalized(keras.layers.Conv1D(8, 3))(y))
        x = keras.layers.ReLU()(y + (x if x.shape[-1] == 8 else keras.layers.Conv1D(8, 1)(x)))
    model = keras.Model(inputs, keras.layers.Dense(2, "softmax")(x[:, -1]))
    with pytest.raises(ValueError, match="No channel"):
        kr.coupled_groups(model, parts="all")
    data = RANDOM.normal(size=(64, 8, 3)).astype("float32")
    found = kr.compress(model, data, Y[:64], target=0.7, **CALL)
    assert found.report.macs_after < 0.75 * found.report.macs
