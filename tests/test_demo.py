"""The demo from end to end, at a few epochs: real data, real training, real files."""

import json
import os

import keras
import numpy as np
import processes
import pytest

import keras_rmda as kr
from keras_rmda.cli import demo
from keras_rmda.datasets import digits
from keras_rmda.export.interpreter import Interpreter

ROWS = ["dense", "structured", "stripped", "tflite_dense", "tflite_stripped", "tflite_stripped_int8"]


@pytest.fixture(scope="module")
def output(demo_folder):
    return demo_folder / "saved_models" / "demo"


@pytest.fixture(scope="module")
def report(output):
    return json.loads((output / "report.json").read_text())


@pytest.fixture(scope="module")
def test_set(output):
    return digits.load(str(output / "tfds"))[1]


def test_report_has_all_rows_and_figures(report):
    assert list(report) == ROWS
    for row in report.values():
        assert list(row) == ["accuracy", "parameters", "macs", "bytes", "latency_ms", "max_difference"]
        assert row["latency_ms"] > 0
        assert row["macs"] > 0


def test_files_are_what_the_report_says(output, report, test_set):
    images, labels = test_set
    outputs = {}
    for name, row in report.items():
        path = output / f"{name}.{'tflite' if 'tflite' in name else 'keras'}"
        assert path.stat().st_size == row["bytes"]
        if path.suffix == ".keras":
            model = keras.models.load_model(path)
            assert model.count_params() == row["parameters"]
            outputs[name] = model.predict(images, verbose=0)
        else:
            outputs[name] = Interpreter(path).predict(images)
        assert (outputs[name].argmax(axis=1) == labels).mean() == pytest.approx(row["accuracy"])
    for name, source in (("stripped", "structured"), ("tflite_dense", "dense"), ("tflite_stripped", "stripped")):
        found = np.abs(outputs[name] - outputs[source]).max()
        assert found == pytest.approx(report[name]["max_difference"], abs=1e-6)


def test_stripped_is_smaller_and_predicts_the_same(report):
    structured, stripped = report["structured"], report["stripped"]
    assert stripped["max_difference"] < 1e-5
    assert stripped["accuracy"] == structured["accuracy"]
    assert stripped["parameters"] < 0.7 * structured["parameters"]
    assert stripped["macs"] < 0.7 * structured["macs"]
    assert stripped["bytes"] < 0.7 * structured["bytes"]
    assert report["tflite_stripped"]["max_difference"] < 1e-4
    assert report["tflite_stripped_int8"]["bytes"] < report["tflite_stripped"]["bytes"] / 2


def test_nothing_is_left_to_strip(output):
    assert kr.analyze(keras.models.load_model(output / "stripped.keras")).removable == 0


def test_history_and_picture(output):
    history = json.loads((output / "history.json").read_text())
    assert len(history["structured"]["macs_left"]) == history["epochs"]
    assert 0 < history["cut_after"] < history["epochs"]
    assert history["seed"] == 3
    assert (output / "demo.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_json_is_the_report_and_progress_goes_elsewhere(tmp_path):
    arguments = ["demo", "--epochs", "2", "--output", tmp_path / "a b", "--json", "--quiet"]
    result = processes.run("-m", "keras_rmda", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert json.loads(result.stdout) == json.loads((tmp_path / "a b" / "report.json").read_text())
    assert os.listdir(tmp_path) == ["a b"]


def test_digits_are_those_of_scikit_learn(output):
    from sklearn.datasets import load_digits

    (x, y), (x_test, y_test) = digits.load(str(output / "tfds"), size=8)
    source = load_digits()
    assert (len(x), len(x_test)) == (1438, 359)
    np.testing.assert_array_equal(y_test, source.target[4::5])
    np.testing.assert_allclose(x_test[..., 0], source.images[4::5] / 16, atol=1 / 255)
    assert x.dtype == np.float32
    assert digits.load(str(output / "tfds"))[0][0].shape == (1438, 32, 32, 1)
    assert len(y) == 1438


def test_the_network_is_fully_known_to_the_converter():
    assert not kr.analyze(demo.network()).opaque
