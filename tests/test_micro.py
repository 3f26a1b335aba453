"""What is said of files and TensorFlow Lite for Microcontrollers (TFLM), and what TFLM says."""

import json
import os
import subprocess
import sys

import keras
import micro_operators
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_rmda as kr
from keras_rmda.export import tflm
from keras_rmda.export.contents import read_contents
from keras_rmda.export.fitness import advice
from keras_rmda.export.interpreter import Interpreter
from keras_rmda.export.types import ANY, AXES, TYPES, computes, signature_of

needs_tflm = pytest.mark.skipif(not tflm.is_installed(), reason="tflite-micro is not installed")


@needs_tflm
def test_tflm_computes_the_types_that_we_say():
    """In every file of one operator that LiteRT runs: the table is what this finds, neither more nor less."""
    arguments, environment = [sys.executable, micro_operators.__file__], os.environ | {"AS_JSON": "1"}
    result = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=300)
    types, axes = json.loads(result.stdout.strip().splitlines()[-1])
    assert types == {name: sorted(words.split()) for name, words in TYPES.items() if words != ANY}
    assert axes == AXES


def test_types_are_words():
    assert signature_of(["INT8", "INT8", "INT32"], ["INT8"]) == "bi>b"
    assert signature_of(["FLOAT32", "INT8", None], ["FLOAT32"]) == "fb>f"
    assert signature_of(["STRING"], ["FLOAT32"]) == "*>f"
    assert computes("CONV_2D", ["INT8", "INT8", "INT32"], ["INT8"])
    assert not computes("CONV_2D", ["FLOAT32", "INT8", "FLOAT32"], ["FLOAT32"])
    assert not computes("CONV_2D", ["INT16", "INT8", "INT32"], ["INT16"])  # runs, and computes something else
    assert not computes("TILE", ["FLOAT32", "INT32"], ["FLOAT32"])
    assert computes("SVDF", ["STRING"], ["STRING"])


def test_all_probes_are_files():
    for name, cases in micro_operators.probes().items():
        assert name in TYPES
        assert all(micro_operators.built(name, *case)[4:8] == b"TFL3" for case in cases)


def sequences(layer, batch=None, shape=(16, 4)):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape, batch)
    return keras.Model(inputs, layer(inputs))


def dilated(batch=None):
    layer = L.Conv1D(4, 3, padding="causal", dilation_rate=2, bias_initializer="ones")
    return sequences(lambda x: L.Dense(2)(L.Flatten()(layer(x))), batch)


def embedded():
    inputs = keras.Input((7,), dtype="int32")
    return keras.Model(inputs, L.GlobalAveragePooling1D()(L.Embedding(9, 4)(inputs)))


def selected():
    inputs = keras.Input((7,), dtype="int32")
    return keras.Model(inputs, keras.ops.where(inputs > 3, inputs, 2 * inputs))


def of_bytes():
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    return keras.Model(inputs, L.Dense(2)(L.Flatten()(L.Rescaling(1 / 255)(inputs))))


def images(layer=None):
    return sequences(lambda x: L.Flatten()((layer or L.Conv2D(6, 3))(x)), shape=(8, 8, 4))


NOT_FOR_IT = {  # a model, a format, what of it TFLM does not run
    "a dilated convolution of an open batch": (dilated, None, "SPACE_TO_BATCH_ND of an open batch"),
    "weights in float16": (images, "float16", "DEQUANTIZE of FLOAT16 to FLOAT32"),
    "weights in int8, numbers in float": (
        lambda: images(L.Conv2D(32, 3)),
        "dynamic",
        "CONV_2D of FLOAT32 and INT8 to FLOAT32",
    ),
    "a selection of integers": (selected, None, "SELECT_V2 of BOOL and INT32 to INT32"),
    "bytes": (of_bytes, None, "CAST of UINT8 to FLOAT32"),
    "an operator that it lacks": (lambda: images(L.Activation("gelu")), None, "GELU"),
    "a loop over time": (lambda: sequences(L.LSTM(3, return_sequences=True)), None, "WHILE"),
    "an unrolled loop of an open batch": (lambda: sequences(L.LSTM(3, unroll=True)), None, "FILL of a size"),
    "axes": (lambda: sequences(L.Cropping3D(1), shape=(4, 6, 6, 2)), None, "STRIDED_SLICE of 5 axes"),
}


@pytest.fixture(scope="module")
def unfit(tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("unfit"), {}
    for number, (case, (make, quantization, _)) in enumerate(NOT_FOR_IT.items()):
        found[case] = kr.export_tflite(make(), folder / f"{number}.tflite", quantization)
    return found


@pytest.mark.parametrize("case", NOT_FOR_IT)
def test_what_it_does_not_run_is_said(unfit, case):
    file = unfit[case]
    assert any(NOT_FOR_IT[case][2] in reason for reason in file.not_micro), file.not_micro
    assert file.micro_difference is None
    assert f"does not run: {', '.join(file.not_micro)}" in str(read_contents(file.path))


@needs_tflm
@pytest.mark.parametrize("case", NOT_FOR_IT)
def test_it_does_not_run_that(unfit, case, monkeypatch):
    """Or runs it wrongly, as it does a dilated convolution, or without end, as a loop."""
    monkeypatch.setattr(tflm, "SECONDS", 4)
    file = unfit[case]
    random, tensors = np.random.default_rng(0), read_contents(file.path)
    [tensor] = (tensors.tensors[number] for number in tensors.inputs)
    x = random.normal(size=tensor.shape) if tensor.dtype == "FLOAT32" else random.integers(1, 9, tensor.shape)
    expected = Interpreter(file.path).predict(x.astype(tensor.dtype.lower()))
    try:
        [[found]] = tflm.run(file.path.read_bytes(), [[x]], 2**21)
    except (tflm.Refusal, subprocess.TimeoutExpired):
        return
    assert np.abs(np.ravel(found) - np.ravel(expected)).max() > 0.01


FOR_IT = {
    "a dilated convolution": (dilated, "float32", {}),
    "a dilated convolution in int8": (dilated, "int8", {}),
    "a loop over time": (lambda: sequences(L.LSTM(3, return_sequences=True)), "float32", {}),
    "a loop over time in int8": (lambda: sequences(L.GRU(3)), "int8", {}),
    "convolutions": (images, "int8", {"int8_io": True}),
    "convolutions in int16": (images, "int16x8", {}),
    "an embedding": (embedded, "float32", {}),
    "an embedding in int8": (embedded, "int8", {}),
    "attention": (lambda: sequences(lambda x: L.MultiHeadAttention(2, 3)(x, x)), "float32", {}),
    "selections of one shape": (
        lambda: sequences(lambda x: ops.where(x > 0, 2.0 * x, -x)),
        "float32",
        {},
    ),
    "what it has for floats only": (
        lambda: sequences(lambda x: L.Dense(3, "exponential")(ops.log(ops.norm(x, axis=-1, keepdims=True) + 1.0))),
        "int8",
        {},
    ),
}


@pytest.mark.parametrize("case", FOR_IT)
def test_files_for_microcontrollers(case, tmp_path):
    make, quantization, arguments = FOR_IT[case]
    model, quantization = make(), None if quantization == "float32" else quantization
    random, shape = np.random.default_rng(0), (20, *model.input_shape[1:])
    counts = "int" in str(model.inputs[0].dtype)
    data = random.integers(-9, 9, shape) if counts else random.normal(size=shape).astype("float32")
    file = kr.export_tflite(model, tmp_path / "m.tflite", quantization, data, micro=True, **arguments)
    assert file.not_micro == ()
    assert file.batch == 1
    contents = read_contents(file.path)
    assert not any(tensor.open_axes for tensor in contents.tensors)
    if tflm.is_installed():
        assert file.micro_difference <= file.max_difference + (1e-5 if quantization is None else 0.03)


def test_what_stands_in_the_way_is_said_and_nothing_is_written(tmp_path):
    for model, reason in ((images(L.Activation("gelu")), "GELU. Take other layers"), (of_bytes(), "input of float32")):
        with pytest.raises(RuntimeError, match=reason) as error:
            kr.export_tflite(model, tmp_path / "m.tflite", micro=True)
        assert "Nothing was written" in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments", [{"quantization": "float16"}, {"quantization": "dynamic"}, {"sparse": True}, {"batch": 4}]
)
def test_what_micro_does_not_go_with(tmp_path, arguments):
    with pytest.raises(ValueError, match="`micro` goes with") as error:
        kr.export_tflite(images(), tmp_path / "m.tflite", micro=True, **arguments)
    assert str(next(iter(arguments.values()))) in str(error.value)


def test_advice_is_given_once():
    assert len(advice(("GELU", "TILE"))) == 1
    assert len(advice(("open sizes", "RESHAPE of open sizes", "GELU"))) == 2


@pytest.mark.parametrize("layer", [L.GRU(3), L.Bidirectional(L.LSTM(3))], ids=lambda layer: layer.name)
def test_advice_is_not_what_was_done(tmp_path, layer):
    model = sequences(layer, shape=(None, 4))
    with pytest.raises(RuntimeError, match="a fixed number of steps") as error:
        kr.export_tflite(model, tmp_path / "m.tflite", micro=True)
    assert "micro=True" not in str(error.value)


@pytest.mark.parametrize("axis", [None, 1, -1])
def test_negative_indices_count_from_the_end(tmp_path, axis):
    inputs, places = keras.Input((5, 3), 1, name="x"), keras.Input((4,), 1, dtype="int32", name="places")
    model = keras.Model([inputs, places], keras.ops.take(inputs, places, axis))
    data = {"x": np.random.default_rng(0).normal(size=(6, 5, 3)), "places": np.tile([0, -1, 2, -3], (6, 1))}
    file = kr.export_tflite(model, tmp_path / "m.tflite", None, data)
    assert file.max_difference == 0.0
    assert "SELECT_V2" not in file.operators


def vanishing():
    """An int8 softmax of a scale so small that TFLM ends its process."""
    model = keras.Sequential(
        [keras.Input((8,)), L.Dense(4, kernel_initializer=keras.initializers.Constant(1e-9)), L.Softmax()]
    )
    return model, np.random.default_rng(0).normal(size=(20, 8)).astype("float32")


@needs_tflm
def test_a_crash_of_tflm_is_a_reason(tmp_path):
    model, data = vanishing()
    file = kr.export_tflite(model, tmp_path / "m.tflite", "int8", data)
    assert file.micro_difference is None
    assert file.not_micro == ("its process ended (SIGABRT)",)


def test_without_tflm_the_file_is_judged_by_its_operators(tmp_path, monkeypatch):
    monkeypatch.setattr(tflm, "is_installed", lambda: False)
    file = kr.export_tflite(images(), tmp_path / "m.tflite", micro=True)
    assert (file.not_micro, file.micro_difference) == ((), None)


def test_a_tflm_that_cannot_be_imported_says_nothing_of_files(tmp_path, monkeypatch):
    """It imports a package that it does not name."""
    package = tmp_path / "broken" / "tflite_micro"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import no_such_package")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.setattr(tflm, "is_installed", lambda: True)
    file = kr.export_tflite(images(), tmp_path / "m.tflite", micro=True)
    assert (file.not_micro, file.micro_difference) == ((), None)


def test_what_computes_something_else_there_is_not_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr(tflm, "is_installed", lambda: True)
    monkeypatch.setattr(tflm, "run", lambda content, samples, arena: [[np.zeros((1, 216))] for _ in samples])
    file = kr.export_tflite(images(), tmp_path / "m.tflite")
    assert "differ by 1 from those of the model" in file.not_micro[0]
    assert file.micro_difference is None
