"""Kinds of models that become files: recurrent ones, other types of floats, open sizes, names, integers, states."""

import re
import sys

import keras
import numpy as np
import processes
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter as LiteRT
from keras import layers as L
from keras import ops

import keras_rmda as kr
from keras_rmda.export import comparison, converter
from keras_rmda.export.contents import read_contents
from keras_rmda.export.differences import differs
from keras_rmda.export.interpreter import Interpreter
from keras_rmda.platform import lite

STEPS = 6


class Leaky(L.Layer):
    """A cell of a user's own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.state_size = self.output_size = 3
        self.dense = L.Dense(3)

    def build(self, shape):
        self.dense.build((None, shape[-1] + 3))

    def call(self, x, states):
        y = 0.5 * states[0] + ops.tanh(self.dense(ops.concatenate([x, states[0]], -1)))
        return y, [y]


def recurrent(masking=True):
    """Return a model of every kind of loop over time."""
    series, frames = keras.Input((STEPS, 4), name="series"), keras.Input((3, 5, 5, 2), name="frames")
    masked = L.Masking()(series) if masking else series
    _, h, c = L.LSTM(5, return_state=True)(series)
    outputs = {
        "lstm": L.LSTM(5)(series),
        "gru": L.GRU(4, reset_after=False)(L.GRU(5, return_sequences=True, go_backwards=True)(series)),
        "simple": L.SimpleRNN(4, return_sequences=True)(masked),
        "both": L.Bidirectional(L.LSTM(3, return_sequences=True), merge_mode="sum")(masked),
        "cells": L.RNN([L.LSTMCell(3), L.GRUCell(4)])(series),
        "own": L.RNN(Leaky())(L.TimeDistributed(L.GlobalAveragePooling2D())(frames)),
        "decoder": L.LSTM(5, dropout=0.2, recurrent_dropout=0.1)(series, initial_state=[h, c]),
        "images": L.ConvLSTM2D(2, 3, padding="same")(frames),
    }
    return keras.Model({"series": series, "frames": frames}, outputs)


def series(count):
    random = np.random.default_rng(0)
    data = random.normal(size=(count, STEPS, 4)).astype("float32")
    data[1::2, STEPS // 2 :] = 0.0  # padding
    return {"series": data, "frames": random.normal(size=(count, 3, 5, 5, 2)).astype("float32")}


def test_loops_over_time(tmp_path):
    """They stay loops, which makes small files; a batch of 1 is all that they need."""
    loops, data = recurrent(), series(8)
    file = kr.export_tflite(loops, tmp_path / "m.tflite", representative_data=data)
    assert (file.batch, file.changes) == (1, ("a batch of 1, which its loops need",))
    assert file.operators["WHILE"] >= 9
    assert file.max_difference < 1e-5
    found, expected = Interpreter(file.path).predict(data), loops.predict(data, verbose=0)
    for name, y in expected.items():
        np.testing.assert_allclose(found[name], y, atol=1e-5)


def test_loops_are_written_out_for_the_calibration(tmp_path, monkeypatch):
    """The calibrator ends the process at a loop. No other process is needed."""
    monkeypatch.setattr(converter, "run_apart", None)
    loops, data = recurrent(masking=False), series(24)
    file = kr.export_tflite(loops, tmp_path / "m.tflite", "int8", data)
    assert file.batch == 1
    assert file.changes[1:3] == ("loops over 3 steps written out", "loops over 6 steps written out")
    assert "WHILE" not in file.operators
    found, expected = Interpreter(file.path).predict(data), loops.predict(data, verbose=0)
    for name, y in expected.items():
        assert np.abs(found[name] - y).max() < 0.1 * np.abs(y).max(), name


def test_a_crash_of_the_converter_is_one_sentence(tmp_path):
    """Where samples have different lengths, nobody knows how many steps to write out."""
    model = keras.Sequential([keras.Input((None, 4)), L.LSTM(3)])
    path = tmp_path / "m.tflite"
    path.write_bytes(b"old")
    random = np.random.default_rng(0)
    data = [random.normal(size=(1, length, 4)).astype("float32") for length in (5, 6) * 20]
    try:
        file = kr.export_tflite(model, path, "int8", data)
    except RuntimeError as error:
        refused = str(error)
        assert re.search(r"its process ended \(SIG[A-Z]+\).*samples of one length", refused)
        assert "\n" not in refused
        assert path.read_bytes() == b"old"
    else:  # the calibrator came through
        assert file.max_difference < 0.2
    assert [p.name for p in tmp_path.iterdir()] == ["m.tflite"]


@pytest.mark.parametrize("how", [{"quantization": "int8"}, {"micro": True}, {"quantization": "int8", "micro": True}])
def test_open_sizes_become_those_of_the_samples(tmp_path, how):
    """Where loops are calibrated, and on microcontrollers, which know sizes that stand in the file only."""
    keras.utils.set_random_seed(0)
    words = keras.Input((None,), dtype="int32")
    wide = keras.initializers.RandomNormal(stddev=1.0)  # numbers near 0 are few steps of a sigmoid in int8
    model = keras.Model(words, L.Dense(3)(L.Bidirectional(L.GRU(4))(L.Embedding(9, 6, wide, mask_zero=True)(words))))
    data = np.random.default_rng(0).integers(4, size=(24, 7)).astype("int32")
    file = kr.export_tflite(model, tmp_path / "m.tflite", representative_data=data, **how)
    assert "inputs of (7,), as the samples have" in file.changes
    assert file.max_difference < (0.2 if "quantization" in how else 1e-5)
    assert "WHILE" not in file.operators
    assert file.not_micro == ()


def test_masks_of_loops_that_go_backwards_are_written_out(tmp_path):
    """Keras, which can write loops out too, does it with half of such a mask the wrong way around."""
    words = keras.Input((7,), dtype="int32")
    x = L.Bidirectional(L.LSTM(5, return_sequences=True))(L.Embedding(9, 6, mask_zero=True)(words))
    data = np.random.default_rng(0).integers(3, size=(24, 7)).astype("int32")
    file = kr.export_tflite(keras.Model(words, x), tmp_path / "m.tflite", representative_data=data, micro=True)
    assert file.max_difference < 1e-5
    assert "WHILE" not in file.operators


def test_open_sizes_stay_open_where_they_can(tmp_path):
    model = keras.Sequential([keras.Input((None, 4)), L.Conv1D(3, 3), L.GlobalMaxPooling1D()])
    file = kr.export_tflite(model, tmp_path / "m.tflite", "int8", series(8)["series"])
    assert file.changes == ()
    assert at_size(file.path, np.ones((1, 9, 4), "float32")).shape == (1, 3)
    with pytest.raises(RuntimeError, match="`representative_data` of one size"):
        kr.export_tflite(model, tmp_path / "m.tflite", micro=True)


@pytest.mark.parametrize("steps", [None, 5])
@pytest.mark.parametrize("masked", [False, True])
def test_layers_that_are_called_at_every_step(tmp_path, rng, steps, masked):
    """Keras itself takes, where the number of steps is open, the number of samples for it."""
    frames = keras.Input((steps, 6, 6, 2))
    x = L.TimeDistributed(L.Conv2D(3, 3, activation="relu"))(frames)
    x = L.TimeDistributed(L.Flatten())(x)
    inner = keras.Sequential([keras.Input((48,)), L.Dense(6), L.BatchNormalization(), L.Dropout(0.5)])
    x = L.TimeDistributed(inner)(L.Masking()(x) if masked else x)
    model = keras.Model(frames, L.Dense(2)(L.GlobalAveragePooling1D()(x)))
    data = rng.normal(size=(3, 5, 6, 6, 2)).astype("float32")
    data[:, 3:] = 0.0
    file = kr.export_tflite(model, tmp_path / "m.tflite", representative_data=data)
    assert file.max_difference < 1e-5
    for sample in data:
        np.testing.assert_allclose(at_size(file.path, sample[None]), model(sample[None]), atol=1e-5)
    assert file.operators["CONV_2D"] == 1


def looping():
    return keras.Sequential([keras.Input((4,)), L.Lambda(lambda x: ops.fori_loop(0, 3, lambda k, y: 2.0 * y, x))])


FATES = {
    "killed": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", RuntimeError, "SIGKILL"),
    "ends": ("raise SystemExit(3)", RuntimeError, "status 3"),
    "full": ("OSError(28, 'No space left on device')", OSError, "No space left"),
    "refuses": ("RuntimeError('loc(a): no\\nmore')", RuntimeError, r"could not convert.*loc\(a\): no$"),
}


@pytest.mark.parametrize("fate", FATES)
def test_what_happens_to_the_process_of_the_converter(tmp_path, monkeypatch, fate):
    code, kind, message = FATES[fate]
    program = tmp_path / "program.py"
    sent = f"import pickle, sys; pickle.dump({code}, sys.stdout.buffer)"
    program.write_text(code if fate in ("killed", "ends") else sent)
    monkeypatch.setattr(converter, "PROGRAM", program)
    with pytest.raises(kind, match=message) as error:
        kr.export_tflite(looping(), tmp_path / "m.tflite", strip=False)
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["program.py"]


FULL = """
import resource, signal, sys
import keras
import keras_rmda as kr
model = keras.Sequential([keras.Input((5, 8)), keras.layers.GRU(64)])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
try:
    kr.export_tflite(model, sys.argv[1])
except Exception as error:
    print(len(str(error).splitlines()), error)
"""


def test_a_file_that_ends_the_process_of_its_interpreter(tmp_path):
    """LiteRT aborts at some operators on int16, by a check in native code."""
    sequence = L.Bidirectional(L.LSTM(5, return_sequences=True))
    layers = [keras.Input((8, 6)), sequence, L.Bidirectional(L.GRU(3), merge_mode="sum")]
    data = np.random.default_rng(0).normal(size=(24, 8, 6)).astype("float32")
    refused = ""
    try:
        file = kr.export_tflite(keras.Sequential(layers), tmp_path / "m.tflite", "int16x8", data)
    except RuntimeError as error:
        refused = str(error)
    if refused:
        assert refused.startswith("LiteRT cannot run the file: its process ended (SIG")
        assert not list(tmp_path.iterdir())
    else:  # a version that runs it
        assert file.max_difference < 0.1


def test_ordinary_models_need_no_other_process(tmp_path, monkeypatch):
    for module in (converter, comparison):
        monkeypatch.setattr(module, "run_apart", None)
    model = keras.Sequential([keras.Input((8, 3)), L.Conv1D(4, 3), L.GlobalMaxPooling1D(), L.Dense(2)])
    for quantization in (None, "int8"):
        kr.export_tflite(model, tmp_path / "m.tflite", quantization, np.ones((4, 8, 3)))


def test_tensorflow_speaks_again_behind_an_export(tmp_path):
    """Its logger keeps the stream that there is when it is first asked for, which must not be that of the silence."""
    code = (
        "import keras, logging, sys, keras_rmda as kr, tensorflow as tf\n"
        "kr.export_tflite(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), sys.argv[1], strip=False)\n"
        "tf.get_logger().warning('a warning')"
    )
    result = processes.run("-c", code, tmp_path / "m.tflite")
    assert result.returncode == 0
    assert "a warning" in result.stderr
    assert "Logging error" not in result.stderr


def test_a_full_disk_before_the_other_process(tmp_path):
    result = processes.run("-c", FULL, tmp_path / "m.tflite")
    assert result.stdout.startswith("1 "), result.stderr[-2000:]
    assert "large" in result.stdout.lower() or "space" in result.stdout.lower()
    assert not list(tmp_path.iterdir())


def test_states_are_kept(tmp_path):
    """A file goes on where its last call ended, as the model does. The model itself is not moved."""
    model = keras.Sequential([keras.Input(batch_shape=(2, STEPS, 4)), L.GRU(5, stateful=True)])
    model(series(2)["series"])
    before = [keras.ops.convert_to_numpy(state) for state in model.layers[0].states]
    file = kr.export_tflite(model, tmp_path / "m.tflite")
    np.testing.assert_array_equal(before[0], model.layers[0].states[0])
    assert (file.batch, file.max_difference < 1e-5) == (2, True)
    data = series(6)["series"]
    expected = [model(data[k : k + 2]) for k in (0, 2, 4)]
    np.testing.assert_allclose(Interpreter(file.path).predict(data), np.concatenate(expected), atol=1e-6)


def test_states_are_kept_in_integers(tmp_path):
    """Operators that write states have no outputs."""
    model = keras.Sequential([keras.Input(batch_shape=(1, 2, 4)), L.SimpleRNN(3, stateful=True)])
    file = kr.export_tflite(model, tmp_path / "m.tflite", "int8", series(16)["series"][:, :2])
    assert file.max_difference < 0.1
    assert "ASSIGN_VARIABLE in float32" in file.changes


def attentive(policy):
    """Return a compiled model in which every layer but the last follows a policy, and raw operations do, too."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        image = keras.Input((8, 8, 3))
        x = L.BatchNormalization()(L.Conv2D(8, 3, activation="relu")(L.Rescaling(0.5)(image)))
        x = L.Reshape((36, 8))(x)
        x = L.LayerNormalization()(x + L.MultiHeadAttention(2, 4)(x, x))
        x = ops.cast(x, x.dtype) * 0.5
        inner = keras.Sequential([keras.Input((8,), dtype=x.dtype), L.Dense(6, "gelu")])
        x = inner(L.GlobalAveragePooling1D()(x))
        model = keras.Model(image, L.Dense(3, dtype="float32")(x))
        adam = keras.optimizers.Adam()
        model.compile(keras.optimizers.LossScaleOptimizer(adam) if policy == "mixed_float16" else adam, "mse")
    finally:
        keras.config.set_dtype_policy(before)
    return model


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16", "float16", "float64"])
def test_other_types_of_floats(tmp_path, rng, policy):
    """Their files compute in float32 with the weights rounded as they are; the model stays what it is."""
    model, twin = attentive(policy), attentive("float32")
    twin.set_weights([np.asarray(weight).astype("float32") for weight in model.get_weights()])
    images = rng.normal(size=(4, 8, 8, 3)).astype("float32")
    types, before = [v.dtype for v in model.variables], np.asarray(model(images))
    file = kr.export_tflite(model, tmp_path / "m.tflite")
    assert file.changes == ("float32 in the place of other types",)
    assert file.max_difference < 1e-5
    np.testing.assert_allclose(Interpreter(file.path).predict(images), twin(images), atol=1e-5)
    assert [v.dtype for v in model.variables] == types
    np.testing.assert_array_equal(model(images), before)
    if policy == "mixed_float16":
        model.fit(images, np.zeros((4, 3)), verbose=0)


def test_half_floats_at_the_input_and_in_single_layers(tmp_path, rng):
    image = keras.Input((6, 6, 2), dtype="float16")
    x = L.Conv2D(4, 3, dtype="mixed_bfloat16")(image * np.float16(2.0))
    model = keras.Model(image, L.Dense(2, dtype="float16")(L.Flatten()(L.Conv2D(3, 3)(x))))
    images = rng.normal(size=(20, 6, 6, 2)).astype("float16")
    for quantization, tolerance in ((None, 1e-5), ("int8", 5e-2)):
        file = kr.export_tflite(model, tmp_path / "m.tflite", quantization, images)
        assert file.max_difference < tolerance
        assert np.abs(Interpreter(file.path).predict(images) - np.asarray(model(images))).max() < 0.1
        assert LiteRT(str(file.path)).get_input_details()[0]["dtype"] == np.float32


def at_size(path, x):
    interpreter = LiteRT(str(path))
    interpreter.resize_tensor_input(0, x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(0, x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


@pytest.fixture(scope="module")
def deep():
    """A network of open sizes that takes no images below 63 x 63."""
    layers = [L.Conv2D(4, 3, strides=2, activation="relu") for _ in range(5)]
    return keras.Sequential([keras.Input((None, None, 3)), *layers, L.GlobalAveragePooling2D(), L.Dense(2)])


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_images_of_open_sizes(deep, tmp_path, rng, quantization):
    images = [rng.normal(size=(1, *size, 3)).astype("float32") for size in ((70, 90), (128, 64), (70, 90))]
    data = None if quantization is None else lambda: ([image] for image in images)
    file = kr.export_tflite(deep, tmp_path / "m.tflite", quantization, data)
    assert file.max_difference < (1e-5 if quantization is None else 0.1)
    for image in images:
        expected = np.asarray(deep(image))
        assert np.abs(at_size(file.path, image) - expected).max() < (1e-5 if quantization is None else 5e-2)
    assert kr.benchmark_tflite(file.path, runs=1, warmup=0).median > 0


@pytest.mark.parametrize("sizes", ["known", "open"])
def test_masks_and_images_of_open_sizes(tmp_path, rng, sizes):
    """Where Keras asks for sizes, and indexes masks in a way that TensorFlow Lite has for known sizes only."""
    words = keras.Input((None if sizes == "open" else 6, 8))
    x = L.Conv1D(6, 1)(L.MultiHeadAttention(2, 4)(words, words, use_causal_mask=True))
    open_side = None if sizes == "open" else 8
    image = keras.Input((open_side, open_side, 3))
    y = L.UpSampling2D(2, interpolation="bilinear")(L.Conv2D(4, 3, padding="same")(image))
    y = L.Conv2DTranspose(2, 2, strides=2)(L.MaxPooling2D()(y))
    for model, shape in ((keras.Model(words, x), (2, 6, 8)), (keras.Model(image, y), (2, 8, 8, 3))):
        data = rng.normal(size=shape).astype("float32")
        file = kr.export_tflite(model, tmp_path / "m.tflite")
        assert file.max_difference < 1e-5
        np.testing.assert_allclose(at_size(file.path, data), model(data), atol=1e-5)


def test_samples_that_are_too_small(deep, tmp_path):
    """TensorFlow computes something of them, without an error, and calibrating them ends the process."""
    with pytest.raises(ValueError, match=r"too small.*\(40, 40, 3\)"):
        kr.export_tflite(deep, tmp_path / "m.tflite", "int8", np.ones((4, 40, 40, 3)))
    assert not list(tmp_path.iterdir())


def test_texts_of_open_length(tmp_path, rng):
    words = [keras.Input((None,), dtype="int32"), L.Embedding(50, 6), L.Conv1D(8, 5, activation="relu")]
    model = keras.Sequential([*words, L.GlobalMaxPooling1D(), L.Dense(2)])
    texts = [rng.integers(50, size=(1, length)).astype("int32") for length in (7, 40)]
    file = kr.export_tflite(model, tmp_path / "m.tflite", "dynamic", texts[1])
    for text in texts:
        np.testing.assert_allclose(at_size(file.path, text), model(text), atol=1e-2)
    assert kr.benchmark_tflite(file.path, runs=1, warmup=0).median > 0


def nested(*names):
    """Return a model with nested inputs and outputs, in another order than that of letters."""
    keras.utils.set_random_seed(0)
    income, age, size = (keras.Input((n,), name=name) for n, name in zip((2, 3, 4), names))
    x = L.Dense(8, name=names[3])(L.Concatenate(name=names[4])([size, age, income]))
    inner = keras.Sequential([keras.Input((8,)), L.Dense(5, name=names[5])], name=names[6])
    outputs = {"z": L.Dense(3)(x), "a": [L.Dense(2)(x), {"b c": inner(x)}]}
    return keras.Model({names[0]: income, "rest": [age, size]}, outputs, name=names[7])


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_names_and_order_are_those_of_the_model(tmp_path, rng, quantization):
    """Also where TensorFlow does not take the names, so that Keras itself can run the model on JAX only."""
    model = nested("z income", "_age", "größe", "conv 1", "größe 2", "_x", "my inner", "_my model")
    arrays = [rng.normal(size=(20, *tensor.shape[1:])).astype("float32") for tensor in model.inputs]
    data = {tensor.name: x for tensor, x in zip(model.inputs, arrays)}
    file = kr.export_tflite(model, tmp_path / "m.tflite", quantization, data)
    assert file.max_difference < (1e-5 if quantization is None else 0.1)
    interpreter = LiteRT(str(file.path))
    for details, tensors in (("input", model.inputs), ("output", model.outputs)):
        found = getattr(interpreter, f"get_{details}_details")()
        assert [detail["shape"][1] for detail in found] == [tensor.shape[1] for tensor in tensors]
    twin = nested(*"zabcdefg")
    expected = twin(keras.tree.pack_sequence_as(twin.input, arrays))
    found = Interpreter(file.path).predict(data)
    assert set(found) == {"z", "a/0", "a/1/b c"}
    pairs = (("z", expected["z"]), ("a/0", expected["a"][0]), ("a/1/b c", expected["a"][1]["b c"]))
    for name, y in pairs:
        np.testing.assert_allclose(found[name], y, atol=1e-5 if quantization is None else 0.2)


def test_layers_of_names_that_tensorflow_does_not_take(tmp_path):
    model = keras.Sequential([keras.Input((3,)), L.Dense(2, name="größe"), L.Dense(2, name="-")])
    assert kr.export_tflite(model, tmp_path / "m.tflite").max_difference < 1e-5


def test_integers_and_truths(tmp_path, rng):
    """Of float32 they are equal; a share of them that differs is a difference."""
    words, kept = keras.Input((5,), dtype="int32", name="words"), keras.Input((5,), dtype="bool", name="kept")
    x = L.Embedding(9, 4)(words) * ops.cast(ops.expand_dims(kept, -1), "float32")
    y = L.Dense(6)(L.Flatten()(x))
    outputs = [ops.argmax(y, -1), ops.argmin(y, -1, keepdims=True), y > 0, ops.cast(9 * y, "int32")]
    model = keras.Model([words, kept], outputs)
    data = {"words": rng.integers(9, size=(16, 5)).astype("int32"), "kept": rng.random((16, 5)) < 0.7}
    file = kr.export_tflite(model, tmp_path / "m.tflite", representative_data=data)
    assert file.max_difference == 0.0
    found, expected = Interpreter(file.path).predict(data), model([data["words"], data["kept"]])
    for number, y in enumerate(expected):
        np.testing.assert_array_equal(found[f"output_{number}"], y)
        assert found[f"output_{number}"].dtype == np.asarray(y).dtype


def test_differences_of_integers_are_shares():
    a = np.arange(8)
    assert differs(a, a) == 0.0
    assert differs(a, np.where(a < 2, 7, a)) == 0.25
    assert differs(a.astype("float32"), a[:4].astype("float32")) == np.inf


def test_outputs_that_are_not_one_for_each_sample(tmp_path, rng):
    """Means over everything, rows of all samples, the input itself, the same twice; an input that nothing reads."""
    x, unused = keras.Input((4, 3), name="x"), keras.Input((2,), name="unused")
    y = L.Dense(2)(x)
    outputs = [ops.mean(y), ops.reshape(y, (-1, 2)), y, y, x, ops.argmax(y)]
    model = keras.Model([x, unused], outputs)
    data = {"x": rng.normal(size=(6, 4, 3)).astype("float32"), "unused": np.zeros((6, 2), "float32")}
    file = kr.export_tflite(model, tmp_path / "m.tflite", representative_data=data)
    assert file.max_difference < 1e-5
    found = Interpreter(file.path).predict(data)
    assert [found[f"output_{k}"].shape for k in range(6)] == [(6,), (6, 4, 2), (6, 4, 2), (6, 4, 2), (6, 4, 3), (6,)]


def test_a_fixed_batch(tmp_path, rng):
    """Samples that do not fill one are filled up."""
    model = keras.Sequential([keras.Input((4,)), L.Dense(3), L.Dense(2)])
    x = rng.normal(size=(10, 4)).astype("float32")
    for quantization in (None, "int8"):
        file = kr.export_tflite(model, tmp_path / "m.tflite", quantization, x, batch=4)
        assert (file.batch, file.changes) == (4, ("a batch of 4",))
        assert list(LiteRT(str(file.path)).get_input_details()[0]["shape_signature"]) == [4, 4]
        assert np.abs(Interpreter(file.path).predict(x) - model.predict(x, verbose=0)).max() < 0.1
    assert kr.export_tflite(model, tmp_path / "m.tflite").batch is None
    for batch in (0, -1, 1.5, True, "one"):
        with pytest.raises(ValueError, match="batch"):
            kr.export_tflite(model, tmp_path / "m.tflite", batch=batch)


def test_what_the_converter_has_no_operators_for(tmp_path):
    words = keras.Input((4,), dtype="int32")
    model = keras.Model(words, ops.bitwise_and(words, words))
    with pytest.raises(RuntimeError, match=r"no operators for BitwiseAnd\. Take other layers, or"):
        kr.export_tflite(model, tmp_path / "m.tflite")

    class Doubles(L.Layer):
        def call(self, x):
            return tf.cast(tf.cast(x, "float64") * tf.constant(np.arange(4.0)), x.dtype)

    model = keras.Sequential([keras.Input((4,)), Doubles(), L.Dense(2)])
    with pytest.raises(RuntimeError, match=r"no operators for Mul of float64\. Compute this in float32\."):
        kr.export_tflite(model, tmp_path / "m.tflite")


SPECTRA = [{}, {"center": False, "window": "hamming"}, {"window": None}, {"window": np.linspace(0.5, 1.0, 24)}]


@pytest.mark.parametrize("arguments", SPECTRA, ids=["centered", "not centered", "no window", "window of numbers"])
def test_short_time_fourier_transforms(tmp_path, rng, arguments):
    """Also of several channels of open length; in int8 and on a microcontroller, which have no complex numbers."""
    inputs = keras.Input((2, None), name="sound")
    real, imaginary = ops.stft(inputs, 24, 10, 32, **arguments)
    model = keras.Model(inputs, {"real": real, "power": real**2 + imaginary**2})
    sound = rng.normal(size=(8, 2, 100)).astype("float32")
    file = kr.export_tflite(model, tmp_path / "m.tflite", representative_data=sound)
    assert file.max_difference < 1e-5
    longer = rng.normal(size=(1, 2, 170)).astype("float32")
    found = Interpreter(file.path).predict(longer)
    for name, expected in model(longer).items():
        assert differs(np.asarray(expected), found[name]) < 1e-5
    file = kr.export_tflite(model, tmp_path / "m.tflite", "int8", sound, micro=True)
    assert file.max_difference < 0.05
    assert not file.not_micro


def spectrum(x):
    return ops.rfft(ops.swapaxes(x, 1, 2))


def filtered(x):
    """Numbers of which the higher frequencies are gone: as many, fewer, more."""
    real, imaginary = spectrum(x)
    return [ops.irfft((real, imaginary), n) for n in (None, 9, 20)] + [ops.irfft((real[..., :4], imaginary[..., :4]))]


FOURIER = {
    "spectrum": spectrum,
    "of a part": lambda x: ops.rfft(ops.swapaxes(x, 1, 2), 10),
    "filled up": lambda x: ops.rfft(ops.swapaxes(x, 1, 2), 15),
    "filtered": filtered,
    "of complex numbers": lambda x: ops.fft((x, 0.5 * x)),
    "of images": lambda x: ops.fft2((x, 0.5 * x)),
    "back to images": lambda x: ops.ifft2(ops.fft2((x, 0.5 * x))),
}


@pytest.mark.parametrize("name", FOURIER)
@pytest.mark.parametrize("positions", [12, 16])
def test_fourier_transforms(tmp_path, rng, positions, name):
    """TensorFlow Lite has one operator for them, for powers of 2 in float."""
    inputs = keras.Input((positions, 6))
    model = keras.Model(inputs, FOURIER[name](inputs))
    data = rng.normal(size=(8, positions, 6)).astype("float32")
    assert kr.export_tflite(model, tmp_path / "m.tflite", None, data).max_difference < 1e-5
    if positions == 12:
        file = kr.export_tflite(model, tmp_path / "m.tflite", "int8", data, micro=True)
        assert file.max_difference < 0.1
        assert not file.not_micro


def test_long_fourier_transforms_keep_their_operator(tmp_path):
    inputs = keras.Input((512,))
    file = kr.export_tflite(keras.Model(inputs, ops.rfft(inputs)[0]), tmp_path / "m.tflite")
    assert "RFFT2D" in file.operators
    assert file.bytes < 5000


class PatchesOf(L.Layer):
    """Patches of images as Keras takes them, or as TensorFlow."""

    def __init__(self, take, size, **arguments):
        super().__init__()
        self.take, self.size, self.arguments = take, size, arguments

    def call(self, images):
        if self.take == "keras":
            return ops.image.extract_patches(images, self.size, **self.arguments)
        ends = [[1, n, n, 1] for n in (self.size, self.arguments.get("strides", self.size), 1)]
        return tf.image.extract_patches(images, *ends, self.arguments.get("padding", "valid").upper())


PATCHES = {
    "side by side": ((16, 16, 3), PatchesOf("keras", 4)),
    "with a rest": ((13, 10, 3), PatchesOf("keras", 4)),
    "with a rest filled up": ((13, 10, 3), PatchesOf("keras", 4, padding="same")),
    "not square": ((8, 16, 3), PatchesOf("keras", (4, 8))),
    "that overlap": ((9, 9, 4), PatchesOf("keras", 4, strides=2)),
    "of TensorFlow": ((16, 16, 3), PatchesOf("tensorflow", 4)),
    "of TensorFlow that overlap": ((9, 9, 4), PatchesOf("tensorflow", 4, strides=2, padding="same")),
    "of channels first": ((3, 16, 16), PatchesOf("keras", 4, data_format="channels_first")),
}


@pytest.mark.parametrize("name", PATCHES)
def test_patches_of_images(tmp_path, rng, name):
    """Keras multiplies by an identity matrix, which in int8 was no weight to LiteRT, where it was large."""
    shape, layer = PATCHES[name]
    inputs = keras.Input(shape)
    model = keras.Model(inputs, L.Dense(3)(layer(inputs)))
    images = rng.normal(size=(8, *shape)).astype("float32")
    expected = np.ptp(np.asarray(model(images)))
    assert kr.export_tflite(model, tmp_path / "m.tflite", None, images).max_difference < 1e-5
    for quantization, most in (("int8", 0.02), ("int16x8", 0.01)):
        file = kr.export_tflite(model, tmp_path / "m.tflite", quantization, images, batch=1)
        assert file.max_difference < most * expected
        assert not file.not_micro or quantization == "int16x8"
    assert ("SPACE_TO_DEPTH" in kr.export_tflite(model, tmp_path / "m.tflite").operators) == (
        name in ("side by side", "with a rest", "of TensorFlow")
    )


def test_inputs_of_different_batches(tmp_path):
    """A graph of nodes and edges: its first axes are not those of samples."""
    nodes, edges = keras.Input((4,), batch_size=9, name="nodes"), keras.Input((2,), batch_size=20, name="edges")
    model = keras.Model([nodes, edges], [L.Dense(3)(nodes), L.Dense(3)(edges)])
    data = {"nodes": np.zeros((9, 4)), "edges": np.zeros((20, 2))}
    for given in (None, data):
        with pytest.raises(ValueError, match=r"\[9, 20\] samples at once.*keras\.Input\(\(9, 4\)\)"):
            kr.export_tflite(model, tmp_path / "m.tflite", representative_data=given)


def test_spectrograms_are_heard(tmp_path, rng):
    inputs = keras.Input((200, 1))
    x = L.STFTSpectrogram(mode="log", frame_length=24, frame_step=12)(inputs)
    model = keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling1D()(x)))
    sound = rng.normal(size=(8, 200, 1)).astype("float32")
    assert kr.export_tflite(model, tmp_path / "m.tflite", None, sound).max_difference < 1e-4


@pytest.mark.parametrize("make", [kr.quantization_aware, lambda model: kr.export_tflite(model, "words.tflite")])
def test_strings_stay_outside(tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)
    words = L.TextVectorization(output_sequence_length=4, vocabulary=["a", "b", "c"])
    inputs = keras.Input((1,), dtype="string", name="text")
    outputs = L.GlobalAveragePooling1D()(L.Embedding(8, 4)(words(inputs)))
    with pytest.raises(ValueError, match="takes strings as 'text', and the file numbers only: leave the layer"):
        make(keras.Model(inputs, outputs))
    assert not list(tmp_path.iterdir())


def test_code_that_makes_no_graph(tmp_path):
    model = keras.Sequential([keras.Input((4,)), L.Lambda(lambda x: x if float(ops.sum(x)) > 0 else -x, (4,))])
    with pytest.raises(RuntimeError, match="cannot make a graph of the model") as error:
        kr.export_tflite(model, tmp_path / "m.tflite", strip=False)
    assert "\n" not in str(error.value)


def test_tensors_are_where_kernels_read_them(tmp_path):
    """At places that 16 divides, as the format says."""
    from ai_edge_litert import schema_py_generated as schema

    content = kr.export_tflite(attentive("float32"), tmp_path / "m.tflite").path.read_bytes()
    model = schema.Model.GetRootAs(content, 0)
    places = [model.Buffers(k).DataAsNumpy() for k in range(model.BuffersLength())]
    start = np.frombuffer(content, np.uint8).ctypes.data
    offsets = [x.ctypes.data - start for x in places if not isinstance(x, int)]
    assert offsets
    assert all(offset % 16 == 0 for offset in offsets)
    assert list(read_contents(tmp_path / "m.tflite").signatures) == ["serving_default"]


def test_progress_is_shown_at_a_terminal_only(tmp_path, monkeypatch, capsys):
    model = keras.Sequential([keras.Input((4,)), L.Dense(2)])
    kr.export_tflite(model, tmp_path / "m.tflite")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    kr.export_tflite(model, tmp_path / "m.tflite")
    steps = capsys.readouterr().err.split("\r\x1b[K")
    assert [step.split(":")[0] for step in steps] == ["", *["m.tflite"] * 4, ""]
    assert "m.tflite: converting" in steps


class OfTheBatch(L.Layer):
    """Decides for all samples by their sum."""

    def call(self, x):
        return ops.cond(ops.sum(x) > 0, lambda: x * 2.0, lambda: x - 1.0)


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_what_depends_on_the_batch_wants_its_size(tmp_path, quantization):
    """Its branches would fix the batch to 1, with which the model makes something else of a sample."""
    inputs, data = keras.Input((4,)), np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    coupled = keras.Model(inputs, OfTheBatch()(L.Dense(3)(inputs)))
    with pytest.raises(RuntimeError, match=r"depends on the others of its batch.* `ops.where` .* `batch`"):
        kr.export_tflite(coupled, tmp_path / "m.tflite", quantization, data)
    assert not list(tmp_path.iterdir())
    for size in (1, 4):
        file = kr.export_tflite(coupled, tmp_path / "m.tflite", quantization, data, batch=size)
        assert (file.batch, file.max_difference < 0.05) == (size, True)


def test_branches_that_hold_tensors_of_the_model_are_named(tmp_path):
    """Keras runs a model of these, which gives tensors that have no numbers."""
    inputs = keras.Input((4,))
    symbolic = keras.Model(inputs, ops.cond(ops.sum(inputs) > 0, lambda: inputs * 2, lambda: inputs - 1))
    with pytest.raises(
        ValueError, match=r"a branch of `cond`, computes of a symbolic tensor of the model. Make it a layer"
    ):
        kr.export_tflite(symbolic, tmp_path / "m.tflite")


def test_what_a_kernel_does_not_take_is_said_in_words(tmp_path):
    """Float32 has slices of six axes by another way."""
    inputs, data = keras.Input((2, 2, 2, 2, 4)), np.random.default_rng(0).normal(size=(8, 2, 2, 2, 2, 4))
    sliced = keras.Model(inputs, L.Dense(4)(inputs)[:, 1:, :, 1:, :, ::2])
    with pytest.raises(
        RuntimeError, match=r"its operator STRIDED_SLICE does not take this \(.* 1D-5D .*\)\. Take other"
    ):
        kr.export_tflite(sliced, tmp_path / "m.tflite", "int8", data.astype("float32"))


class Windows(L.Layer):
    """The middle rows of the windows of images, in which Swin's attention looks."""

    def call(self, x):
        _, height, width, channels = x.shape
        x = ops.reshape(x, (-1, height // 4, 4, width // 4, 4, channels))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))[:, :, :, 1:3]
        return ops.reshape(x, (-1, height * width // 2, channels))


@pytest.mark.parametrize("size", [8, 4], ids=["windows", "one window"])
def test_slices_and_transpositions_of_many_axes(tmp_path, rng, size):
    """Keras writes a reshape to axes of one position as a slice of six, which the calibration does not take."""
    inputs = keras.Input((size, size, 3))
    x = L.Conv2D(4, 1)(inputs)
    model = keras.Model(inputs, L.Dense(2)(Windows()(x)))
    images = rng.normal(size=(8, size, size, 3)).astype("float32")
    assert kr.export_tflite(model, tmp_path / "m.tflite", representative_data=images).max_difference < 1e-5
    for quantization, most in (("int8", 0.05), ("int16x8", 0.02)):
        file = kr.export_tflite(model, tmp_path / "m.tflite", quantization, images, batch=1)
        assert file.max_difference < most * np.ptp(np.asarray(model(images)))
        assert not file.not_micro


PARTS = {
    "all": (slice(None), 0, ..., None, slice(0, 4)),
    "all, from the end": (slice(None), -1, slice(-9, 9)),
    "of one axis": (slice(None), 0, slice(None), None, slice(2, 0, -1)),
    "of two axes": (..., slice(1, 3), slice(None), slice(None, None, 2)),
    "of a number": (slice(None), slice(None), 1, ..., -1),
    "none": (slice(None), slice(None), slice(3, 1)),
}


@pytest.mark.parametrize("name", PARTS)
def test_parts_of_many_axes_are_those_of_few(name):
    x = np.arange(2 * 1 * 3 * 3 * 1 * 4, dtype="float32").reshape(2, 1, 3, 3, 1, 4)
    with lite.tracing(unroll=False):
        computed = tf.function(lambda x: x[PARTS[name]]).get_concrete_function(tf.TensorSpec((None, *x.shape[1:])))
    assert np.array_equal(computed(tf.constant(x)), x[PARTS[name]])
    kinds = [(each.type, each.inputs[0].shape.rank) for each in computed.graph.get_operations() if each.inputs]
    assert all(rank <= 4 for kind, rank in kinds if kind == "StridedSlice")
    assert ("StridedSlice" in dict(kinds)) == (not name.startswith("all"))


@pytest.mark.parametrize("order", [(0, 1, 3, 2, 4, 5), (4, 5, 0, 1, 2, 3), (1, 0, 4, 2, 3, 5), (0, 2, 3, 1, 5, 4)])
def test_axes_that_stay_side_by_side_are_moved_as_one(order):
    x = np.arange(2 * 1 * 3 * 5 * 1 * 4, dtype="float32").reshape(2, 1, 3, 5, 1, 4)
    with lite.tracing(unroll=False):
        computed = tf.function(lambda x: tf.transpose(x, order)).get_concrete_function(
            tf.TensorSpec((None, *x.shape[1:]))
        )
    assert np.array_equal(computed(tf.constant(x)), x.transpose(order))
    assert all(len(each.inputs[0].shape) <= 4 for each in computed.graph.get_operations() if each.type == "Transpose")
