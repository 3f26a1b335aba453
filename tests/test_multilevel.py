"""Coarse steps on a network without the channels that rest compute what masks compute.

Over a minute, since every comparison trains two times.
"""

import warnings

import keras
import numpy as np
import pytest
from backend import number, only_tensorflow
from training import needs_multi_optimizer

import keras_rmda as kr

R = np.random.default_rng(0)
X = R.normal(size=(200, 6)).astype("float32")
Y = np.tanh(X[:, :3] @ R.normal(size=(3, 2))).astype("float32")
BATCH, EPOCHS, COARSE = 10, 4, 9

pytestmark = only_tensorflow


def network(dropout=0.0, width=12):
    """Return a network with batch normalization and a shortcut."""
    keras.utils.set_random_seed(0)
    some = {"bias_initializer": keras.initializers.Constant(0.1)}
    inputs = keras.Input((6,))
    x = keras.layers.Dense(width, use_bias=False, name="first")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = shortcut = keras.layers.ReLU()(x)
    x = keras.layers.Dropout(dropout, seed=1)(x) if dropout else x
    x = keras.layers.Dense(width + 4, "relu", name="second", **some)(x)
    x = keras.layers.Add()([keras.layers.Dense(width, name="third", **some)(x), shortcut])
    return keras.Model(inputs, keras.layers.Dense(2, name="last")(x), name="net")


def convolutional():
    keras.utils.set_random_seed(0)
    some = {"bias_initializer": keras.initializers.Constant(0.1)}
    layers = [keras.layers.Reshape((3, 2, 1)), keras.layers.Conv2D(8, 2, padding="same", activation="relu", **some)]
    layers += [keras.layers.DepthwiseConv2D(2, padding="same"), keras.layers.Conv2D(6, 1, activation="relu", **some)]
    return keras.Sequential([keras.Input((6,)), *layers, keras.layers.Flatten(), keras.layers.Dense(2)], name="net")


def linbreg(**arguments):
    return kr.LinBreg(0.05, coarse_steps=COARSE, **arguments)


def adabreg(**arguments):
    return kr.AdaBreg(0.01, coarse_steps=COARSE, **arguments)


class Record(keras.callbacks.Callback):
    """Keep the weights of every epoch, as another callback sees them."""

    def on_train_begin(self, logs=None):
        self.weights = []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append([number(weight) for weight in self.model.weights])


def train(make, cuts, make_model=network, parts="all", strength=0.08, callbacks=(), **arguments):
    wrap, penalty = arguments.pop("wrap", lambda o: o), arguments.pop("penalty", kr.GroupLasso)
    model = make_model()
    groups = kr.coupled_groups(model, parts=parts)
    kr.sparsify(model, 0.34, by="group", groups=groups, seed=0)
    optimizer = make(regularizer=penalty(strength, groups=groups))
    model.compile(wrap(optimizer), "mse", metrics=["mae"], **arguments)
    record, cost = Record(), kr.callbacks.TrainingCost()
    own = [each() for each in callbacks]
    levels = [kr.callbacks.Multilevel("always")] if cuts else []
    logs = fit(model, [record, cost, *own, *levels])
    return model, logs, record.weights, optimizer


def fit(model, callbacks, epochs=EPOCHS, **arguments):
    arguments = {"validation_data": (X[:50], Y[:50]), "verbose": 0, "shuffle": False} | arguments
    return model.fit(X, Y, BATCH, epochs, callbacks=callbacks, **arguments).history


def compare(*arguments, atol=2e-5, **keywords):
    """Train with and without the smaller network, and compare all that anybody sees."""
    (masks, logs, seen, a), (model, other_logs, other_seen, b) = (
        train(*arguments[:1], cuts, *arguments[1:], **keywords) for cuts in (False, True)
    )
    assert number(a._step_count) == number(b._step_count)
    assert number(masks.optimizer.iterations) == number(model.optimizer.iterations)
    for epoch, (one, another) in enumerate(zip(seen, other_seen)):
        for weight, x, y in zip(masks.weights, one, another):
            if "moving" not in weight.path:  # statistics of channels that rest do, too
                np.testing.assert_allclose(y, x, atol=atol, err_msg=f"{weight.path} after epoch {epoch + 1}")
    for name in ("loss", "mae"):
        np.testing.assert_allclose(other_logs[name], logs[name], rtol=1e-4)
    np.testing.assert_allclose(other_logs["val_loss"], logs["val_loss"], rtol=1e-3)
    assert logs["training_macs"][-1] == 1.0
    assert other_logs["training_macs"][-1] < 0.9
    return masks, model, other_logs


@pytest.mark.parametrize("make", [linbreg, adabreg])
@pytest.mark.parametrize("parts", ["readers", "all"])
def test_the_same_as_by_masks(make, parts):
    if make is adabreg:  # moments of weights that act on nothing run out by masks, and rest without
        masks = train(make, True, parts=parts)[0]
    else:
        masks, *_ = compare(make, parts=parts)
    kernel = number(masks.get_layer("third").kernel)
    assert 0 < (kernel == 0).mean() < 1


def test_both_zeros_of_sparse_group_lasso():
    compare(linbreg, penalty=lambda strength, groups: kr.SparseGroupLasso(strength, 0.2, groups))


def test_convolutions():
    compare(linbreg, convolutional)


@pytest.mark.parametrize(
    "compiles", [{"jit_compile": True}, {"run_eagerly": True}, {"steps_per_execution": 4}], ids=str
)
def test_every_mode(compiles):
    compare(linbreg, **compiles)


@pytest.mark.parametrize(
    "arguments",
    [{"clipnorm": 0.05}, {"global_clipnorm": 0.05}, {"gradient_accumulation_steps": 2}, {"skip_nonfinite": True}],
    ids=str,
)
def test_settings_of_optimizers(arguments):
    compare(lambda **others: linbreg(**others, **arguments))


def test_inside_of_loss_scaling():
    compare(linbreg, wrap=keras.optimizers.LossScaleOptimizer)


def test_rates_that_callbacks_set():
    class Falls(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            optimizer = self.model.optimizer
            optimizer.learning_rate = 0.05 / (1 + 0.1 * batch)

    compare(linbreg, callbacks=[Falls])


def test_channels_enter_and_the_network_grows():
    model, logs, *_ = train(linbreg, True, parts="readers", strength=0.003)
    assert logs["training_macs"][-1] > logs["training_macs"][0]
    report = kr.analyze(model)
    assert report.macs_after / report.macs > 0.4


def test_a_law_of_the_strength_sees_the_weights_of_the_last_step():
    law = lambda: kr.callbacks.TargetSparsity(0.5, "groups", control=kr.callbacks.Feedback(every=7))  # noqa: E731
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", kr.SparsityWarning)  # four epochs may not reach the target
        *_, logs = compare(linbreg, callbacks=[law])
    assert len(set(logs["strength"])) > 1


def test_files_within_and_after(tmp_path):
    model, _, weights, _ = train(
        linbreg, True, callbacks=[lambda: keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")]
    )
    for epoch, seen in enumerate(weights):
        loaded = keras.models.load_model(tmp_path / f"{epoch + 1}.keras")
        for a, b in zip(loaded.weights, seen):
            np.testing.assert_array_equal(number(a), b)
    loaded = keras.models.load_model(tmp_path / "2.keras")
    fit(loaded, [kr.callbacks.Multilevel("always")], initial_epoch=2)
    for a, b in zip(loaded.weights, model.weights):
        np.testing.assert_allclose(number(a), number(b), atol=1e-5)


def test_a_training_that_is_broken_off_leaves_the_weights_of_the_last_step():
    class Break(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if int(batch) == 15:
                raise KeyboardInterrupt

    ends = []
    for cuts in (False, True):
        model = network()
        groups = kr.coupled_groups(model, parts="all")
        kr.sparsify(model, 0.34, by="group", groups=groups, seed=0)
        model.compile(linbreg(regularizer=kr.GroupLasso(0.08, groups=groups)), "mse")
        with pytest.raises(KeyboardInterrupt):
            fit(model, [Break(), *([kr.callbacks.Multilevel("always")] if cuts else [])])
        assert number(model.optimizer._step_count) == 16
        ends.append([number(weight) for weight in model.trainable_weights])
    for a, b in zip(*ends):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_when_it_does_not_pay_nothing_is_made_again():
    model = network()
    groups = kr.coupled_groups(model, parts="all")
    kr.sparsify(model, 0.34, by="group", groups=groups, seed=0)
    model.compile(linbreg(regularizer=kr.GroupLasso(0.005, groups=groups)), "mse")
    levels, made = kr.callbacks.Multilevel(), []
    original = type(levels)._can_cut
    levels._can_cut = lambda: (original(levels), made.append(levels._coarse))[0]
    fit(model, [levels])  # steps of a millisecond, and seconds for a network
    assert len({id(each) for each in made}) == 1
    assert len(made) > 2


def test_nothing_rests_in_a_dense_network():
    model = network()
    psi = kr.GroupLasso(1e-6, groups=kr.coupled_groups(model, parts="all"))
    model.compile(linbreg(regularizer=psi), "mse")
    logs = fit(model, [kr.callbacks.TrainingCost(), kr.callbacks.Multilevel("always")])
    assert logs["training_macs"][-1] == 1.0


@needs_multi_optimizer
def test_beside_another_optimizer():
    model = network()
    groups = kr.coupled_groups(model)
    kr.sparsify(model, 0.34, by="group", groups=groups, seed=0)
    ours = linbreg(regularizer=kr.GroupLasso(0.08, groups=groups))
    chosen = {".*(bias|norm/.*)": keras.optimizers.SGD(0.05)}
    model.compile(keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(ours, chosen)), "mse")
    logs = fit(model, [kr.callbacks.TrainingCost(), kr.callbacks.Multilevel("always")])
    assert logs["training_macs"][-1] < 1.0
    assert logs["loss"][-1] < logs["loss"][0]


def test_dropout_goes_on():
    _, logs, *_ = train(linbreg, True, lambda: network(dropout=0.2))
    assert np.isfinite(logs["loss"]).all()
    assert logs["training_macs"][-1] < 0.9


class Own(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


@pytest.mark.parametrize(
    ("make", "callbacks", "message"),
    [
        (lambda model: linbreg(regularizer=kr.GroupLasso(0.1, "output")), [], "groups=coupled_groups"),
        (lambda model: kr.LinBreg(0.1), [], "with 0 of them"),
        (lambda model: keras.optimizers.SGD(0.1), [], "optimizer=SGD"),
        (
            lambda model: linbreg(),
            [lambda: keras.callbacks.ModelCheckpoint("x.keras", save_freq=3)],
            "ModelCheckpoint would save the model within epochs",
        ),
    ],
)
def test_bad_input_is_told_before_training(make, callbacks, message):
    model = network()
    model.compile(make(model), "mse")
    before = number(model.weights[0])
    with pytest.raises(ValueError, match=message):
        fit(model, [kr.callbacks.Multilevel(), *(each() for each in callbacks)])
    np.testing.assert_array_equal(number(model.weights[0]), before)


def test_losses_of_activities_are_refused():
    inputs = keras.Input((6,))
    x = keras.layers.Dense(8, activity_regularizer="l2", name="active")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    model.compile(linbreg(regularizer=kr.L1(0.1)), "mse")
    with pytest.raises(ValueError, match="'active' has an `activity_regularizer`"):
        fit(model, [kr.callbacks.Multilevel()])


def test_steps_of_the_models_own_are_refused():
    inner = network()
    model = Own(inner.inputs, inner.outputs)
    model.compile(linbreg(regularizer=kr.L1(0.1)), "mse")
    with pytest.raises(ValueError, match="train_step"):
        fit(model, [kr.callbacks.Multilevel()])


def test_bad_arguments():
    with pytest.raises(ValueError, match="when='never'"):
        kr.callbacks.Multilevel("never")
