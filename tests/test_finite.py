"""A training that has become NaN or infinite is stopped, said, and not made anything of."""

import warnings

import keras
import numpy as np
import pytest
from backend import number, only_tensorflow

import keras_rmda as kr
from keras_rmda.platform.finite import check_finite, nonfinite_weights


def network():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(6, "relu", name="a"), keras.layers.Dense(5, "relu", name="b")]
    return keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(2, name="c")], name="net")


def spoil(model, name, *values):
    """Write numbers into the first weights of a kernel."""
    kernel = number(model.get_layer(name).kernel)
    kernel.reshape(-1)[: len(values)] = values
    model.get_layer(name).kernel.assign(kernel)


@pytest.mark.parametrize(
    "make",
    [
        kr.analyze,
        kr.strip,
        kr.factorize,
        pytest.param(lambda model: kr.export_tflite(model, "no.tflite"), marks=only_tensorflow, id="export"),
        pytest.param(
            lambda model: kr.export_tflite(model, "no.tflite", strip=False), marks=only_tensorflow, id="whole"
        ),
    ],
)
def test_nothing_is_made_of_it(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = network()
    spoil(model, "b", np.nan, np.nan, -np.inf)
    spoil(model, "c", np.inf)
    with pytest.raises(
        ValueError, match="layer 'b' of the model 'net' has 2 NaN and 1 infinite of 30 numbers"
    ) as error:
        make(model)
    assert "b/kernel', and 1 other" in str(error.value)
    assert "`skip_nonfinite=True`" in str(error.value)
    assert str(error.value).count(". ") == 0
    assert not list(tmp_path.iterdir())


@only_tensorflow
def test_quantization_aware_training_does_not_begin():
    pytest.importorskip("tensorflow_model_optimization")
    model = network()
    spoil(model, "a", np.inf)
    with pytest.raises(ValueError, match="layer 'a' of the model 'net' has 1 infinite of 24"):
        kr.quantization_aware(model)


@only_tensorflow
def test_a_model_of_tf_keras_is_looked_at_too():
    tf_keras = pytest.importorskip("tf_keras")
    model = tf_keras.Sequential([tf_keras.layers.Input((4,)), tf_keras.layers.Dense(3, name="a")])
    check_finite(model)
    model.layers[0].bias.assign([0.0, np.nan, 0.0])
    with pytest.raises(ValueError, match=r"layer 'a'.* 1 NaN of 3 numbers in 'a/bias:0'"):
        kr.export_tflite(model, "no.tflite", "int8")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_they_are_found_in_every_dtype(dtype):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, name="a", dtype=dtype), keras.layers.Dropout(0.5)]
    )
    assert nonfinite_weights(model) == []
    check_finite(model)
    model.get_layer("a").bias.assign([0.0, np.nan, 0.0])
    [path] = nonfinite_weights(model)
    assert path.endswith("a/bias")
    with pytest.raises(ValueError, match="1 NaN of 3 numbers"):
        check_finite(model)


class Spoil(keras.callbacks.Callback):
    """Let a weight be such a number at the end of the third epoch."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 2:
            spoil(self.model, "b", self.value)


@pytest.mark.parametrize(("value", "kind"), [(np.nan, "NaN"), (np.inf, "infinite")])
@pytest.mark.parametrize("which", ["monitor", "target", "both"])
def test_the_training_stops_and_says_once_which_layer_and_when(which, value, kind, rng):
    model = network()
    psi = kr.GroupLasso(1e-4, groups=kr.coupled_groups(model))
    model.compile(kr.RAMDA(0.01, 0.5, psi), "mse")
    x, y = rng.normal(size=(32, 4)), rng.normal(size=(32, 2))
    callbacks = {
        "monitor": [kr.callbacks.SparsityMonitor()],
        "target": [kr.callbacks.TargetSparsity(0.5)],
        "both": [kr.callbacks.SparsityMonitor(), kr.callbacks.TargetSparsity(0.5)],
    }[which]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = model.fit(x, y, batch_size=8, epochs=8, verbose=0, callbacks=[Spoil(value), *callbacks])
    [message] = [str(each.message) for each in caught if issubclass(each.category, kr.SparsityWarning)]
    assert f"layer 'b' became {kind} in epoch 3" in message
    assert "`skip_nonfinite=True`" in message
    assert len(history.epoch) == 3
    assert history.history["nonfinite_weights"] == [1]


def test_no_groups_are_chosen_by_norms_that_are_no_numbers(rng):
    """The first batch makes NaN of all weights; the end of every decision comes before that of the epoch."""
    model = network()
    psi = kr.GroupLasso(1e-4, groups=kr.coupled_groups(model))
    model.compile(kr.RMDA(0.01, 0.5, psi), "mse")
    x, y = np.full((32, 4), np.nan), rng.normal(size=(32, 2))
    target = kr.callbacks.TargetSparsity(0.5, begin=0.0, end=0.5)
    with pytest.warns(kr.SparsityWarning, match="layer 'a' became NaN in epoch 1"):
        model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[target])
    [coupling] = model.optimizer.couplings
    np.testing.assert_array_equal(number(coupling.factors), 1.0)
    assert np.isnan(number(model.get_layer("b").kernel)).all()


def test_coupled_groups_do_not_ask_for_the_weights():
    model = network()
    expected = kr.coupled_groups(model).get_config()
    spoil(model, "b", np.nan)
    assert kr.coupled_groups(model).get_config() == expected
