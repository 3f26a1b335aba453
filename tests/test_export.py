"""Real conversions, run with the real interpreter."""

import os
import signal
import stat
from pathlib import Path

import keras
import numpy as np
import processes
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter as LiteRT
from keras import layers as L
from zoo import dictionaries

import keras_rmda as kr
from keras_rmda.cli.commands import sentence
from keras_rmda.export.benchmark import Latency
from keras_rmda.export.contents import read_contents
from keras_rmda.export.converter import convert
from keras_rmda.export.interpreter import Interpreter
from keras_rmda.export.prepared import prepared

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


TOLERANCES = {None: 1e-5, "float16": 1e-3, "dynamic": 2e-2, "int8": 5e-2, "int16x8": 2e-2}


@pytest.mark.parametrize("quantization", TOLERANCES)
def test_export_computes_the_same(model, tmp_path, quantization):
    data = IMAGES if quantization in ("int8", "int16x8") else None
    path = tmp_path / "model.tflite"
    file = kr.export_tflite(model, path, quantization, data)
    assert (file.path, file.bytes, file.quantization) == (path, path.stat().st_size, quantization)
    found = Interpreter(path).predict(IMAGES)
    expected = model.predict(IMAGES, verbose=0)
    assert np.abs(found - expected).max() < TOLERANCES[quantization]
    assert file.max_difference < TOLERANCES[quantization]
    assert file.agreement > 0.5
    assert file.operators == read_contents(path).operator_counts
    assert file.arena_bytes == read_contents(path).arena_bytes
    assert file.not_micro == (("DEQUANTIZE of FLOAT16 to FLOAT32",) if quantization == "float16" else ())
    assert [p.name for p in tmp_path.iterdir()] == ["model.tflite"]


class Rows(L.Layer):
    def call(self, x):
        return keras.ops.reshape(x, (keras.ops.shape(x)[0], int(np.prod(x.shape[1:]))))


@pytest.mark.parametrize("quantization", TOLERANCES)
@pytest.mark.parametrize("flat", [L.Flatten, lambda: L.Reshape((-1,)), Rows])
def test_an_open_batch_needs_no_operators_where_numbers_are_flattened(flat, quantization, tmp_path):
    model = keras.Sequential([keras.Input((12, 12, 1)), L.Conv2D(3, 5, 3, activation="relu"), flat(), L.Dense(4)])
    data = IMAGES if quantization in ("int8", "int16x8") else None
    file = kr.export_tflite(model, tmp_path / "flat.tflite", quantization, data)
    assert not {"SHAPE", "STRIDED_SLICE", "PACK"} & set(file.operators)
    found, expected = Interpreter(file.path).predict(IMAGES), model.predict(IMAGES, verbose=0)
    assert np.abs(found - expected).max() < TOLERANCES[quantization] * np.abs(expected).max()


@pytest.mark.parametrize("quantization", TOLERANCES)
def test_an_open_batch_needs_no_operators_where_steps_have_layers(quantization, tmp_path):
    inputs = keras.Input((7, 6))
    x = L.LayerNormalization()(L.Dense(8, "relu")(inputs))
    x = x + L.MultiHeadAttention(2, 4)(x, x)
    model = keras.Model(inputs, L.Dense(5)(x))
    data = np.random.default_rng(0).normal(size=(32, 7, 6)).astype("float32")
    given = data if quantization in ("int8", "int16x8") else None
    file = kr.export_tflite(model, tmp_path / "steps.tflite", quantization, given)
    assert not {"SHAPE", "STRIDED_SLICE", "PACK", "GATHER", "REDUCE_PROD", "CONCATENATION"} & set(file.operators)
    found, expected = Interpreter(file.path).predict(data), model.predict(data, verbose=0)
    assert np.abs(found - expected).max() < 2 * TOLERANCES[quantization] * np.abs(expected).max()


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


def test_the_check_is_made_on_the_given_data(model, tmp_path):
    """On 16 of them, from the first to the last."""
    file = kr.export_tflite(model, tmp_path / "m.tflite", "int8", IMAGES)
    some = IMAGES[[round(k) for k in np.linspace(0, 31, 16)]]
    found, expected = Interpreter(file.path).predict(some), model.predict(some, verbose=0)
    assert (file.samples, file.compared) == (32, 16)
    assert file.max_difference == pytest.approx(np.abs(found - expected).max() / expected.max(), rel=1e-3)
    assert file.agreement == (found.argmax(-1) == expected.argmax(-1)).mean()


def test_a_file_that_computes_something_else_is_not_written(model, tmp_path, monkeypatch):
    other = keras.models.clone_model(model)
    other.set_weights([weight + 1.0 for weight in model.get_weights()])
    content = convert(prepared(other, ["image"]), None, [])
    monkeypatch.setattr("keras_rmda.export.tflite.convert", lambda *arguments: content)
    path = tmp_path / "m.tflite"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match=r"something else than the model.*differ by"):
        kr.export_tflite(model, path)
    assert path.read_bytes() == b"old"


def test_what_cannot_matter_is_left_out(tmp_path):
    """Zero filters and gates; `strip=False` takes the model as it is."""
    model = keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(16, 3), L.ReLU(), kr.layers.L0Gate(1.0), L.Conv2D(4, 3)])
    kernel = model.layers[0].get_weights()[0]
    kernel[..., 4:] = 0.0
    model.layers[0].kernel.assign(kernel)
    small = kr.export_tflite(model, tmp_path / "small.tflite")
    whole = kr.export_tflite(model, tmp_path / "whole.tflite", strip=False)
    assert small.operators == {"CONV_2D": 2}
    assert whole.operators == {"CONV_2D": 2}  # the converter itself drops a product with ones
    assert small.bytes < whole.bytes / 1.5
    assert max(small.max_difference, whole.max_difference) < 1e-5


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_sparse_files_are_smaller(tmp_path, quantization):
    """Nine of ten weights are zero, in no structure."""
    random = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((8, 8, 64)), L.Conv2D(128, 1), L.ReLU(), L.Conv2D(64, 1)])
    for layer in (model.layers[0], model.layers[2]):
        layer.kernel.assign(np.where(random.random(layer.kernel.shape) < 0.9, 0.0, layer.get_weights()[0]))
    data = random.normal(size=(20, 8, 8, 64)).astype("float32")
    files = [
        kr.export_tflite(model, tmp_path / f"{sparse}.tflite", quantization, data, sparse=sparse)
        for sparse in (False, True)
    ]
    assert files[1].bytes < files[0].bytes / (4 if quantization is None else 1.5)
    assert files[1].max_difference < (1e-5 if quantization is None else 5e-2)


def test_models_with_preprocessing_inside(tmp_path):
    data = np.random.default_rng(0).uniform(0, 255, size=(50, 8, 8, 3)).astype("float32")
    normalization = L.Normalization()
    normalization.adapt(data)
    layers = [keras.Input((8, 8, 3)), L.Rescaling(1.0), normalization, L.Conv2D(4, 3), L.GlobalMaxPooling2D()]
    for quantization in (None, "int8"):
        file = kr.export_tflite(keras.Sequential(layers), tmp_path / "m.tflite", quantization, data)
        assert file.max_difference < (1e-5 if quantization is None else 5e-2)


@pytest.mark.parametrize("name", ["with spaces.tflite", "größer-模型.tflite"])
def test_odd_names(model, tmp_path, name):
    folder = tmp_path / "a folder - ä"
    folder.mkdir()
    assert kr.export_tflite(model, folder / name).path.is_file()


FULL = """
import resource, signal, sys
import keras
import keras_rmda as kr
from keras_rmda.export import tflite
model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(256), keras.layers.Dense(8)])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
convert = tflite.convert

def converted(*arguments):
    content = convert(*arguments)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    return content

tflite.convert = converted
try:
    kr.export_tflite(model, sys.argv[1])
except OSError as error:
    print(type(error).__name__)
"""


def test_a_full_disk_leaves_the_old_file(tmp_path):
    """Once the conversion is done, the process may write no more than 20,000 bytes into a file."""
    path = tmp_path / "m.tflite"
    path.write_bytes(b"old")
    result = processes.run("-c", FULL, path)
    assert result.stdout.strip().splitlines()[-1:] == ["OSError"], result.stderr[-2000:]
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["m.tflite"]


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_batches_of_any_size(model, tmp_path, quantization):
    path = kr.export_tflite(model, tmp_path / "m.tflite", quantization, IMAGES).path
    interpreter = LiteRT(str(path))
    [image], [scores] = interpreter.get_input_details(), interpreter.get_output_details()
    assert list(image["shape_signature"]) == [-1, 12, 12, 1]
    interpreter.resize_tensor_input(image["index"], [5, 12, 12, 1])
    interpreter.allocate_tensors()
    interpreter.set_tensor(image["index"], IMAGES[:5])
    interpreter.invoke()
    expected = model(IMAGES[:5], training=False)
    np.testing.assert_allclose(interpreter.get_tensor(scores["index"]), expected, atol=TOLERANCES[quantization])


KILLED = """
import os, signal, sys
from pathlib import Path
import keras, numpy as np
import keras_rmda as kr
from keras_rmda.export import tflite

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def half(path, content):
    with open(path, "wb") as file:
        file.write(content[: len(content) // 2])
        file.flush()
        die()

if sys.argv[2] == "converting":
    tflite.convert = die
elif sys.argv[2] == "checking":
    tflite.compared = die
else:
    Path.write_bytes = half
model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
kr.export_tflite(model, sys.argv[1])
"""


@pytest.mark.parametrize("moment", ["converting", "checking", "writing"])
def test_a_kill_leaves_the_old_file(tmp_path, moment):
    path = tmp_path / "m.tflite"
    path.write_bytes(b"old")
    assert processes.run("-c", KILLED, path, moment).returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    # What was being written when nothing could be cleaned up any more is hidden and says that it is a part.
    left = [p.name for p in tmp_path.iterdir() if p != path]
    assert len(left) == (moment == "writing")
    assert all(name.startswith(".m.") and name.endswith(".part.tflite") for name in left)


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


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((0, 12, 12, 1)), "no samples"),
        (np.full((4, 12, 12, 1), np.nan), "finite"),
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
        ({"quantization": "int16x8"}, "representative_data"),
        ({"representative_data": IMAGES[:, :3]}, "representative_data"),
        ({"int8_io": True}, "int8_io"),
        ({"sparse": "yes"}, "sparse"),
        ({"strip": None}, "strip"),
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


class Subclassed(keras.Model):
    """A model whose inputs have no names before it is traced."""

    def __init__(self):
        super().__init__()
        self.dense = L.Dense(8, "relu")
        self.shift = self.add_weight(shape=(8,), initializer="ones", name="shift")

    def call(self, x):
        return keras.ops.mean(self.dense(x) + self.shift, axis=1)


def test_subclassed_models_are_stripped_first(tmp_path):
    model = Subclassed()
    with pytest.raises(ValueError, match="built Keras model"):
        kr.export_tflite(model, tmp_path / "model.tflite")
    model(np.ones((1, 5, 3), "float32"))
    with pytest.raises(ValueError, match="with `strip=True` only"):
        kr.export_tflite(model, tmp_path / "model.tflite", strip=False)
    assert kr.export_tflite(model, tmp_path / "model.tflite").max_difference < 1e-5
    data = np.random.default_rng(0).normal(size=(8, 5, 3)).astype("float32")
    kr.export_tflite(model, tmp_path / "int8.tflite", "int8", representative_data=data)


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


def latency(milliseconds):
    return Latency(Path("a.tflite"), 1, tuple(milliseconds), 1)


def test_ratios_have_intervals_that_hold_them():
    """Of 200 pairs whose medians differ by 1.5, 95 % intervals hold that in nine of ten cases at least."""
    random = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        disturbance = random.gamma(1.0, 0.5, size=60)
        a, b = (center * (1.0 + 0.05 * random.normal(size=60)) + disturbance for center in (3.0, 2.0))
        truth = (3.0 + np.log(2) / 2) / (2.0 + np.log(2) / 2)
        ratio = latency(b).times_faster_than(latency(a))
        assert ratio.low <= ratio.value <= ratio.high
        held += ratio.low <= truth <= ratio.high
    assert held >= 180


def test_ratio_of_a_file_to_itself():
    ratio = latency([1.0, 2.0, 4.0]).times_faster_than(latency([1.0, 2.0, 4.0]))
    assert (ratio.value, ratio.low, ratio.high) == (1.0, 1.0, 1.0)
    assert latency([1.0, 1.0]).times_faster_than(latency([3.0, 3.0])).value == 3.0
    with pytest.raises(ValueError, match="3 rounds"):
        latency([1.0, 2.0, 3.0]).times_faster_than(latency([1.0]))
    with pytest.raises(ValueError, match="confidence"):
        latency([1.0]).times_faster_than(latency([1.0]), confidence=1.0)


@pytest.mark.parametrize(
    ("a", "b", "text"),
    [
        ([2.0] * 9, [1.0] * 9, "b.tflite is 2.00 times faster than a.tflite (2.00 to 2.00 with 95 % confidence)"),
        ([1.0] * 9, [4.0] * 9, "b.tflite is 4.00 times slower than a.tflite (4.00 to 4.00 with 95 % confidence)"),
        (
            [1.0, 2.0, 3.0] * 3,
            [3.0, 2.0, 1.0] * 3,
            "b.tflite and a.tflite are equally fast, as far as these runs tell",
        ),
    ],
)
def test_the_sentence(a, b, text):
    assert sentence(Path("b.tflite"), Path("a.tflite"), latency(b).times_faster_than(latency(a))) == text


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
