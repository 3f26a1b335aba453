"""Metrics that code updates when it is called are updated by the stripped model, too."""

import keras
import numpy as np
import pytest
from backend import only_tensorflow
from keras import layers as L
from keras import ops
from test_strangers import half_zero, numbers, stripped

import keras_rmda as kr
from keras_rmda.export.interpreter import Interpreter
from keras_rmda.structure.verification import difference

pytestmark = only_tensorflow


@keras.saving.register_keras_serializable(package="tests")
class Watched(L.Layer):
    """Two layers, and how large what is in between is."""

    def __init__(self, when=(True, False), loss=False, **arguments):
        super().__init__(**arguments)
        self.when, self.loss = tuple(when), loss
        self.up, self.down = L.Dense(12, activation="relu", name="up"), L.Dense(8, name="down")
        self.size = keras.metrics.Mean(name="size")

    def get_config(self):
        return super().get_config() | {"when": self.when, "loss": self.loss}

    def build(self, shape):
        self.up.build(shape)
        self.down.build((*shape[:-1], 12))

    def call(self, x, training=False):
        y = self.up(x)
        if bool(training) in self.when:
            self.size.update_state(ops.mean(ops.square(y)))
        if self.loss:
            self.add_loss(0.1 * ops.mean(ops.abs(y)))
        return x + self.down(y)


def model_of(**how):
    inputs = keras.Input((5, 8))
    return keras.Model(inputs, L.Dense(3)(Watched(**how)(inputs)))


@pytest.mark.parametrize("loss", [False, True])
@pytest.mark.parametrize("when", [(True, False), (True,), (False,)])
def test_metrics_are_updated_when_they_were(when, loss, tmp_path):
    model = model_of(when=when, loss=loss)
    assert kr.analyze(model).opaque == {}
    assert half_zero(model) == 12
    x = numbers(32, 5, 8)
    small = stripped(model, x)
    assert small.count_params() < model.count_params()
    small.save(tmp_path / "small.keras")
    expected = {}
    for each in (model, small, keras.models.load_model(tmp_path / "small.keras")):
        [metric] = [metric for layer in each.layers for metric in layer.metrics]
        for training in (True, False):
            metric.reset_state()
            each(x, training=training)
            found = float(metric.result())
            assert (found > 0) == (training in when)
            assert found == pytest.approx(expected.setdefault(training, found), rel=1e-5)


def test_losses_of_code_are_loaded(tmp_path):
    model = model_of(when=(), loss=True)
    half_zero(model)
    small, x = kr.strip(model), numbers(32, 5, 8)
    small.save(tmp_path / "small.keras")
    again = keras.models.load_model(tmp_path / "small.keras")
    assert difference(small(x), again(x)) == 0
    assert float(sum(small.losses)) == float(sum(again.losses)) > 0


def test_metrics_are_in_the_logs_and_models_with_them_are_compressed():
    class Whole(keras.Model):
        def __init__(self):
            super().__init__()
            self.inside, self.out = [L.Dense(32, "relu"), L.Dense(32, "relu")], L.Dense(1)
            self.size = keras.metrics.Mean(name="size")

        def call(self, x):
            for layer in self.inside:
                x = layer(x)
            self.size.update_state(ops.mean(x))
            return self.out(x)

    model, x = Whole(), numbers(64, 10)
    model.compile("adam", "mse")
    model.fit(x, x[:, :1], verbose=0)
    result = kr.compress(model, x, x[:, :1], epochs=2, target=0.5, verbose=0)
    assert "size" in result.model.fit(x, x[:, :1], verbose=0).history


class Two(Watched):
    def call(self, x, training=False):
        self.size.update_state(ops.mean(x), ops.mean(x))
        return super().call(x)


@pytest.mark.parametrize("kind", [Watched, Two])
def test_files_have_no_metrics(kind, tmp_path):
    inputs = keras.Input((5, 8))
    model, x = keras.Model(inputs, L.Dense(3)(kind()(inputs))), numbers(32, 5, 8)
    file = kr.export_tflite(model, tmp_path / "model.tflite")
    assert set(file.operators) == {"FULLY_CONNECTED", "ADD", "RESHAPE"}
    assert difference(model(x), Interpreter(file.path).predict(x)) < 1e-5


def test_a_metric_of_two_tensors_is_said():
    inputs = keras.Input((5, 8))
    model = keras.Model(inputs, L.Dense(3)(Two()(inputs)))
    [why] = kr.analyze(model).opaque.values()
    assert "more than one tensor" in why
    assert difference(model(np.ones((2, 5, 8))), kr.strip(model)(np.ones((2, 5, 8)))) == 0
