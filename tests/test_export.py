"""Real conversions, run with the real interpreter."""

import os
import stat

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter as LiteRT
from keras import layers as L
from zoo import dictionaries

import keras_rmda as kr
from keras_rmda.export.benchmark import Interpreter
from keras_rmda.export.tflite import representative_samples

IMAGES = np.random.default_rng(0).normal(size=(32, 12, 12, 1)).astype("float32")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((12, 12, 1), name="image"),
        L.Conv2D(8, 3, use_bias=False),
        L.BatchNormalization(),
        L.ReLU(),
        L.GlobalAveragePooling2D(),
        L.Dense(16, "relu"),
        L.Dense(4, "softmax"),
    ]
    return keras.Sequential(layers)


@pytest.fixture(scope="module")
def two_inputs():
    a, b = keras.Input((4,), name="left"), keras.Input((3,), name="right")
    return keras.Model([a, b], L.Dense(2)(L.Concatenate()([a, b])))


TOLERANCES = {None: 1e-5, "float16": 1e-3, "dynamic": 2e-2, "int8": 5e-2}


@pytest.mark.parametrize("quantization", TOLERANCES)
def test_export_computes_the_same(model, tmp_path, quantization):
    data = IMAGES if quantization == "int8" else None
    path = tmp_path / "model.tflite"
    file = kr.export_tflite(model, path, quantization, data)
    assert (file.path, file.bytes, file.quantization) == (path, path.stat().st_size, quantization)
    found = Interpreter(path).predict(IMAGES)
    expected = model.predict(IMAGES, verbose=0)
    assert np.abs(found - expected).max() < TOLERANCES[quantization]
    assert [p.name for p in tmp_path.iterdir()] == ["model.tflite"]


def test_int8_is_int8_inside_and_outside_if_wanted(model, tmp_path):
    for int8_io, dtype in ((False, np.float32), (True, np.int8)):
        kr.export_tflite(model, tmp_path / "m.tflite", "int8", IMAGES, int8_io=int8_io)
        interpreter = LiteRT(str(tmp_path / "m.tflite"))
        interpreter.allocate_tensors()
        assert interpreter.get_input_details()[0]["dtype"] == dtype
        kernels = [t for t in interpreter.get_tensor_details() if len(t["shape"]) == 4 and t["dtype"] == np.int8]
        assert kernels
        found, expected = Interpreter(tmp_path / "m.tflite").predict(IMAGES), model.predict(IMAGES, verbose=0)
        assert np.abs(found - expected).max() < 5e-2


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_several_inputs_and_outputs_go_by_name(tmp_path, quantization, rng):
    """The converter orders inputs and outputs in its own way."""
    model, _ = dictionaries()
    data = {"meta": rng.normal(size=(20, 2)), "image": rng.normal(size=(20, 6))}
    kr.export_tflite(model, tmp_path / "m.tflite", quantization, data if quantization else None)
    interpreter = Interpreter(tmp_path / "m.tflite")
    found, expected = interpreter.predict(data), model.predict(data, verbose=0)
    for name in ("x", "y"):
        assert np.abs(found[name] - expected[name]).max() < (1e-1 if quantization else 1e-5)
    with pytest.raises(ValueError, match="image"):
        interpreter.predict(data["meta"])


def samples(model, data):
    return list(representative_samples(model, data))


def test_representative_data_in_every_form(two_inputs):
    left, right = np.ones((5, 4)), np.zeros((5, 3))
    batches = tf.data.Dataset.from_tensor_slices(({"left": left, "right": right}, np.ones(5))).batch(2)
    forms = [
        [left, right],
        (left, right),
        {"right": right, "left": left},
        batches,
        lambda: ([left[k : k + 1], right[k : k + 1]] for k in range(5)),
    ]
    for form in forms:
        found = samples(two_inputs, form)
        assert len(found) == 5
        for sample in found:
            np.testing.assert_array_equal(sample["left"], np.ones((1, 4)))
            np.testing.assert_array_equal(sample["right"], np.zeros((1, 3)))
            assert all(x.dtype == np.float32 for x in sample.values())


def test_representative_data_for_one_input(model):
    for form in (IMAGES, list(IMAGES[None]), tf.constant(IMAGES), tf.data.Dataset.from_tensor_slices(IMAGES).batch(3)):
        assert len(samples(model, form)) == 32


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((0, 12, 12, 1)), "no samples"),
        (np.zeros((5, 11, 12, 1)), "shape"),
        (np.zeros((12, 12, 1)), "shape"),
        ({"picture": IMAGES}, "picture"),
        ([IMAGES, IMAGES], "1 inputs"),
        (3, "int"),
        (lambda: iter(()), "no samples"),
    ],
)
def test_bad_representative_data_leaves_the_old_file(model, tmp_path, data, message):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match=message):
        kr.export_tflite(model, path, "int8", data)
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantization": "int4"}, "int4"),
        ({"quantization": "int8"}, "representative_data"),
        ({"representative_data": IMAGES}, "representative_data"),
        ({"int8_io": True}, "int8_io"),
        ({"path": "model.keras"}, "model.keras"),
        ({"path": 3}, "path=3"),
        ({"model": keras.Sequential([L.Dense(2)])}, "built"),
        ({"model": "model"}, "model='model'"),
    ],
)
def test_bad_arguments(model, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        kr.export_tflite(**{"model": model, "path": "model.tflite"} | arguments)
    assert not list(tmp_path.iterdir())


def test_bad_folders(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        kr.export_tflite(model, tmp_path / "nowhere" / "m.tflite")
    (tmp_path / "folder.tflite").mkdir()
    with pytest.raises(ValueError, match="folder"):
        kr.export_tflite(model, tmp_path / "folder.tflite")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(model, tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(PermissionError, match="not writable"):
        kr.export_tflite(model, tmp_path / "m.tflite")


def test_a_failing_conversion_is_one_line_and_leaves_nothing(tmp_path):
    @keras.saving.register_keras_serializable(package="tests")
    class Python(L.Layer):
        def call(self, x):
            return tf.py_function(lambda y: y, [x], tf.float32)

        def compute_output_shape(self, shape):
            return shape

    model = keras.Sequential([keras.Input((3,)), Python()])
    with pytest.raises(RuntimeError, match="could not convert") as error:
        kr.export_tflite(model, tmp_path / "m.tflite")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_benchmark_measures_one_or_several_files(model, tmp_path):
    for name in ("a", "b"):
        kr.export_tflite(model, tmp_path / f"{name}.tflite")
    one = kr.benchmark_tflite(tmp_path / "a.tflite", runs=7, warmup=0)
    assert len(one.milliseconds) == 7
    assert 0 < one.percentile(0) <= one.median <= one.percentile(100)
    assert one.bytes == (tmp_path / "a.tflite").stat().st_size
    both = kr.benchmark_tflite([str(tmp_path / "b.tflite"), tmp_path / "a.tflite"], threads=2, runs=1)
    assert [result.path.name for result in both] == ["b.tflite", "a.tflite"]
    assert [result.threads for result in both] == [2, 2]


def test_benchmark_of_foreign_files(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        kr.benchmark_tflite(tmp_path / "none.tflite")
    for content in (b"", b"not a model", b"\x1c\x00\x00\x00TFL3" + b"\xff" * 40):
        (tmp_path / "foreign.tflite").write_bytes(content)
        with pytest.raises(ValueError, match=r"foreign\.tflite"):
            kr.benchmark_tflite(tmp_path / "foreign.tflite")


@pytest.mark.parametrize("path", [None, [], 3])
def test_benchmark_of_nothing(path):
    with pytest.raises(ValueError, match="path"):
        kr.benchmark_tflite(path)


@pytest.mark.parametrize("arguments", [{"runs": 0}, {"threads": -1}, {"warmup": 1.5}, {"runs": "many"}])
def test_bad_benchmark_arguments(arguments, tmp_path):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        kr.benchmark_tflite(tmp_path / "m.tflite", **arguments)
