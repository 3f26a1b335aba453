"""Commands on real files: tables, JSON, one line and status 2 for bad input, nothing half-written."""

import functools
import json
import os
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers as L
from zoo import chain, dictionaries, unknown_layers

import keras_rmda as kr
from keras_rmda import cli
from keras_rmda.export.interpreter import Interpreter


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for build in (chain, dictionaries, unknown_layers):
        build()[0].save(folder / f"{build.__name__}.keras")
    dense = keras.Sequential([keras.Input((4,)), L.Dense(3)])
    dense.save(folder / "dense.keras")
    (folder / "foreign.keras").write_text("not a model")
    (folder / "empty.keras").touch()
    (folder / "foreign.tflite").write_text("not a model")
    np.save(folder / "images.npy", np.random.default_rng(0).normal(size=(9, 12, 12, 3)))
    np.save(folder / "nan.npy", np.full((3, 4), np.nan))
    (folder / "truncated.npz").write_bytes(b"PK\x03\x04 and no more")
    kr.export_tflite(dense, folder / "dense.tflite")
    random = np.random.default_rng(0)
    hidden = [L.Dense(n, "relu", name=name) for n, name in ((24, "first"), (32, "second"))]
    keras.Sequential([keras.Input((8,)), *hidden, L.Dense(3, name="last")]).save(folder / "classifier.keras")
    x = random.normal(size=(400, 8)).astype("float32")
    y = x[:, :3].argmax(axis=1)
    np.savez(folder / "pairs.npz", x=x[:300], y=y[:300], x_test=x[300:], y_test=y[300:])
    np.savez(folder / "squares.npz", x=x, y=np.eye(3, dtype="float32")[y])
    np.savez(folder / "lengths.npz", x=x, y=y[:7])
    np.savez(folder / "scalars.npz", x=1.0, y=2)
    np.savez(folder / "names.npz", x=x, labels=y)
    return folder


@pytest.fixture
def run(capsys):
    def call(*arguments):
        status = cli.main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def as_json(output):
    assert len(output.strip().splitlines()) == 1
    return json.loads(output)


def test_inspect(run, files):
    status, out, err = run("inspect", files / "chain.keras")
    assert (status, err) == (0, "")
    assert "10 read by" not in out
    assert "6 read by c" in out
    figures = as_json(run("inspect", files / "chain.keras", "--json")[1])
    assert figures["parameters_after"] < figures["parameters"]
    assert {row["name"]: row["removable"] for row in figures["layers"]}["a"] == 3


def test_inspect_of_a_tflite_file(run, files):
    status, out, err = run("inspect", files / "dense.tflite")
    assert (status, err) == (0, "")
    assert "FULLY_CONNECTED" in out
    assert "tensor arena about" in out
    figures = as_json(run("inspect", files / "dense.tflite", "--json")[1])
    assert figures["bytes"] == (files / "dense.tflite").stat().st_size
    assert figures["operators"][0]["output"] == "1x3"


def test_strip_leaves_open_gates_out(run, files, tmp_path):
    """Gates take no channels along here, but are no part of what is shipped."""
    model = keras.Sequential([keras.Input((4,)), L.Dense(5), kr.layers.L0Gate(1.0), L.Dense(3)])
    model.save(tmp_path / "gated.keras")
    assert run("strip", tmp_path / "gated.keras", tmp_path / "small.keras")[0] == 0
    small = keras.models.load_model(tmp_path / "small.keras")
    assert [type(layer) for layer in small.layers] == [L.Dense, L.Dense]


def test_inspect_names_unknown_layers(run, files):
    printed = run("inspect", files / "unknown_layers.keras")[1]
    assert "Lambda with a function that cannot be traced: " in printed


def test_strip(run, files, tmp_path):
    status, out, err = run("strip", files / "chain.keras", tmp_path / "small.keras")
    assert (status, err) == (0, "")
    assert "parameters" in out
    small, model = (keras.models.load_model(f) for f in (tmp_path / "small.keras", files / "chain.keras"))
    x = np.random.default_rng(0).normal(size=(3, 12, 12, 3))
    np.testing.assert_allclose(small.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-5)
    figures = as_json(run("strip", files / "chain.keras", tmp_path / "small.keras", "--json")[1])
    assert figures["parameters_after"] == small.count_params()
    assert figures["bytes"] == (tmp_path / "small.keras").stat().st_size
    assert [p.name for p in tmp_path.iterdir()] == ["small.keras"]


def test_export_and_bench(run, files, tmp_path):
    for name, options in {
        "float32": [],
        "float16": ["--quantization", "float16"],
        "int16x8": ["--quantization", "int16x8", "--representative-data", files / "images.npy"],
        "whole": ["--no-strip", "--batch", "1"],
        "sparse": ["--sparse"],
        "int8": ["--quantization", "int8", "--representative-data", files / "images.npy", "--int8-io"],
    }.items():
        out = tmp_path / f"{name}.tflite"
        status, _, err = run("export", files / "chain.keras", out, *options)
        assert (status, err) == (0, "")
        assert Interpreter(out).predict(np.zeros((1, 12, 12, 3))).shape == (1, 4)
    assert (tmp_path / "whole.tflite").stat().st_size > (tmp_path / "float32.tflite").stat().st_size
    paths = sorted(tmp_path.iterdir())
    status, out, err = run("bench", *paths, "--runs", "5")
    assert (status, err) == (0, "")
    assert all(str(p) in out for p in paths)
    figures = as_json(run("bench", *paths, "--runs", "5", "--threads", "2", "--json")[1])
    assert [row["path"] for row in figures["files"]] == [str(p) for p in paths]
    first, second, *_ = figures["files"]
    assert first["times_faster_than_first"] == first["low"] == first["high"] == 1.0
    assert second["low"] <= second["times_faster_than_first"] <= second["high"]
    assert len([line for line in out.splitlines() if "95 %" in line or "equally fast" in line]) == len(paths) - 1


def test_export_for_microcontrollers(run, files, tmp_path):
    status, out, _ = run("export", files / "dense.keras", tmp_path / "m.tflite", "--micro", "--json")
    assert (status, as_json(out)["not_micro"], as_json(out)["batch"]) == (0, [], 1)
    status, _, err = run("export", files / "chain.keras", tmp_path / "n.tflite", "--micro")
    assert status == 2
    assert "does not run the model" in err
    assert "GELU" in err
    assert [path.name for path in tmp_path.iterdir()] == ["m.tflite"]


def test_export_with_named_inputs(run, files, tmp_path):
    np.savez(tmp_path / "data.npz", image=np.ones((4, 6)), meta=np.zeros((4, 2)))
    arguments = ["--quantization", "int8", "--representative-data", tmp_path / "data.npz", "--json"]
    status, out, _ = run("export", files / "dictionaries.keras", tmp_path / "m.tflite", *arguments)
    assert status == 0
    figures = as_json(out)
    assert figures["quantization"] == "int8"
    assert figures["max_difference"] < 0.1
    assert figures["agreement"] is None  # no output is known to hold classes
    assert set(figures["differences"]) == {"x", "y"}
    assert (figures["samples"], figures["compared"]) == (4, 4)
    assert figures["not_micro"] == []


def test_compress(run, files, tmp_path):
    arguments = [files / "classifier.keras", tmp_path / "small.keras", "--data", files / "pairs.npz", "--target"]
    more = ["--epochs", 30, "--quantization", "int8", "--report", tmp_path / "page.html", "--json"]
    status, out, err = run("compress", *arguments, 0.25, *more)
    assert status == 0, err
    figures = as_json(out)
    assert figures["macs"][1] / figures["macs"][0] == pytest.approx(0.25, abs=0.03)
    assert err.count("epoch") == 30
    small = keras.models.load_model(tmp_path / "small.keras")
    assert small.count_params() == figures["parameters"][1] < figures["parameters"][0]
    data = np.load(files / "pairs.npz")
    found = (small.predict(data["x_test"], verbose=0).argmax(axis=1) == data["y_test"]).mean()
    assert found == pytest.approx(figures["after"]["accuracy"], abs=1e-6)
    assert found > 0.7
    assert figures["bytes"][1] == (tmp_path / "small.tflite").stat().st_size < figures["bytes"][0]
    assert min(figures["latency_ms"]) > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["page.html", "small.keras", "small.tflite"]


def test_compress_in_place(run, files, tmp_path):
    model = tmp_path / "m.keras"
    shutil.copy(files / "classifier.keras", model)
    status, out, err = run(
        *("compress", model, model, "--data", files / "pairs.npz", "--epochs", 2, "--report", tmp_path / "p.html"),
        "--json",
    )
    assert status == 0, err
    before, after = as_json(out)["parameters"]
    assert keras.models.load_model(model).count_params() == after < before
    page = (tmp_path / "p.html").read_text()
    assert "m-before.keras" in page
    assert f"{before:,}" in page


def test_compress_needs_room_for_the_file(run, files, tmp_path):
    (tmp_path / "m.tflite").mkdir()
    status, _, err = run(
        *("compress", files / "classifier.keras", tmp_path / "m.keras", "--data", files / "pairs.npz"),
        *("--quantization", "int8"),
    )
    assert (status, [each.name for each in tmp_path.iterdir()]) == (2, ["m.tflite"])
    assert "OUT" in err


def test_compress_a_model_that_has_no_file_of_tensorflow_lite(run, tmp_path):
    inputs = keras.Input((8, 8, 3))
    x = L.UpSampling2D(interpolation="bicubic")(L.Conv2D(8, 3, padding="same", activation="relu")(inputs))
    model = keras.Model(inputs, L.Conv2D(3, 3, padding="same")(x))
    model.compile("adam", "mse")
    model.save(tmp_path / "large.keras")
    random = np.random.default_rng(0)
    x, y = (random.normal(size=(16, n, n, 3)).astype("float32") for n in (8, 16))
    np.savez(tmp_path / "data.npz", x=x, y=y)
    arguments = [tmp_path / "large.keras", tmp_path / "small.keras", "--data", tmp_path / "data.npz", "--epochs", 2]
    status, out, err = run("compress", *arguments, "--target", 0.5, "--json", "--quiet")
    assert status == 0
    assert "bytes and latency are not measured" in err
    found = as_json(out)
    assert found["macs"][1] < found["macs"][0]
    assert "bytes" not in found
    status, _, err = run("compress", *arguments, "--target", 0.5, "--quiet", "--quantization", "float32")
    assert status == 2


def test_compress_to_numbers(run, files, tmp_path):
    arguments = [files / "classifier.keras", tmp_path / "small.keras", "--data", files / "squares.npz"]
    status, out, err = run("compress", *arguments, "--epochs", 2, "--quiet")
    assert (status, err) == (0, "")
    assert "loss" in out
    assert "accuracy" not in out


def test_compress_with_names(run, tmp_path):
    a, b = keras.Input((8,), name="a"), keras.Input((8,), name="b")
    hidden = keras.layers.Dense(16, "relu")(keras.layers.Add()([a, b]))
    outputs = {name: keras.layers.Dense(1, name=name)(hidden) for name in ("p", "q")}
    model = keras.Model({"a": a, "b": b}, outputs)
    model.compile("adam", {"p": "mse", "q": "mse"})
    model.save(tmp_path / "named.keras")
    x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    np.savez(tmp_path / "named.npz", **{"x/a": x, "x/b": x, "y/p": x[:, :1], "y/q": x[:, 1:2]})
    arguments = [tmp_path / "named.keras", tmp_path / "small.keras", "--data", tmp_path / "named.npz"]
    status, out, err = run("compress", *arguments, "--target", 0.5, "--metric", "parameters", "--epochs", 2, "--json")
    assert status == 0, err
    before, after = as_json(out)["parameters"]
    assert after / before == pytest.approx(0.5, abs=0.06)


COMPRESS = ["compress", "{files}/classifier.keras", "{out}/a.keras", "--data"]
BAD = {
    "compress without data": (["compress", "{files}/classifier.keras", "{out}/a.keras"], "--data"),
    "compress on nothing": ([*COMPRESS, "{files}/none.npz"], "none.npz"),
    "compress on a foreign file": ([*COMPRESS, "{files}/foreign.keras"], "foreign.keras"),
    "compress on one array": ([*COMPRESS, "{files}/images.npy"], "images.npy"),
    "compress on other names": ([*COMPRESS, "{files}/names.npz"], "['labels', 'x']"),
    "compress on two lengths": ([*COMPRESS, "{files}/lengths.npz"], "400, 7"),
    "compress on numbers": ([*COMPRESS, "{files}/scalars.npz"], "single numbers"),
    "compress to nothing": ([*COMPRESS, "{files}/pairs.npz", "--target", "0"], "--target=0.0"),
    "compress to too little": ([*COMPRESS, "{files}/pairs.npz", "--target", "0.0001"], "target=0.0001"),
    "compress for one epoch": ([*COMPRESS, "{files}/pairs.npz", "--epochs", "1"], "--epochs=1"),
    "compress with an unknown loss": ([*COMPRESS, "{files}/pairs.npz", "--loss", "sadness"], "sadness"),
    "compress in two ways": (
        [*COMPRESS, "{files}/pairs.npz", "--target", "0.5", "--accuracy-loss", "0.1"],
        "not both",
    ),
    "compress what nothing can go from": (
        ["compress", "{files}/dense.keras", "{out}/a.keras", "--data", "{files}/pairs.npz"],
        "No channel of the model",
    ),
    "compress on other shapes": (
        ["compress", "{files}/chain.keras", "{out}/a.keras", "--data", "{files}/pairs.npz"],
        "shape",
    ),
    "demo to nothing": (["demo", "--target-macs", "-1", "--output", "{out}/demo"], "--target-macs=-1.0"),
    "no command": ([], "COMMAND"),
    "unknown command": (["shrink"], "shrink"),
    "unknown option": (["inspect", "{files}/chain.keras", "--fast"], "--fast"),
    "missing model": (["inspect", "{files}/none.keras"], "none.keras"),
    "foreign model": (["inspect", "{files}/foreign.keras"], "foreign.keras"),
    "empty model": (["strip", "{files}/empty.keras", "{out}/a.keras"], "empty.keras"),
    "foreign file": (["inspect", "{files}/foreign.tflite"], "no TensorFlow Lite model"),
    "folder as model": (["inspect", "{files}"], "no such file"),
    "wrong ending": (["strip", "{files}/chain.keras", "{out}/a.tflite"], "a.tflite"),
    "nothing removable": (["strip", "{files}/dense.keras", "{out}/a.keras"], "dense.keras"),
    "unwritable folder": (["strip", "{files}/chain.keras", "/proc/a.keras"], "/proc"),
    "unwritable folder for the demo": (["demo", "--output", "/proc/demo"], "/proc/demo"),
    "missing folder": (["strip", "{files}/chain.keras", "{out}/none/a.keras"], "none/a.keras"),
    "wrong export ending": (["export", "{files}/chain.keras", "{out}/a.keras"], "a.keras"),
    "int8 without data": (["export", "{files}/chain.keras", "{out}/a.tflite", "--quantization", "int8"], "representa"),
    "unknown quantization": (["export", "{files}/chain.keras", "{out}/a.tflite", "--quantization", "int4"], "int4"),
    "foreign data": (
        [
            "export",
            "{files}/chain.keras",
            "{out}/a.tflite",
            "--quantization",
            "int8",
            "--representative-data",
            "{files}/foreign.keras",
        ],
        "foreign.keras",
    ),
    "data of another shape": (
        [
            "export",
            "{files}/dense.keras",
            "{out}/a.tflite",
            "--quantization",
            "int8",
            "--representative-data",
            "{files}/images.npy",
        ],
        "shape",
    ),
    "truncated data": (
        [
            "export",
            "{files}/chain.keras",
            "{out}/a.tflite",
            "--quantization",
            "int8",
            "--representative-data",
            "{files}/truncated.npz",
        ],
        "truncated.npz",
    ),
    "not a number": (
        [
            "export",
            "{files}/dense.keras",
            "{out}/a.tflite",
            "--quantization",
            "int8",
            "--representative-data",
            "{files}/nan.npy",
        ],
        "finite",
    ),
    "too many threads": (["bench", "{files}/dense.tflite", "--threads", "100000000000"], "threads=100000000000"),
    "missing tflite": (["bench", "{files}/none.tflite"], "none.tflite"),
    "foreign tflite": (["bench", "{files}/dense.tflite", "{files}/chain.keras"], "chain.keras"),
    "no runs": (["bench", "{files}/dense.tflite", "--runs", "0"], "runs=0"),
    "runs in words": (["bench", "{files}/dense.tflite", "--runs", "many"], "many"),
    "no epochs": (["demo", "--epochs", "0", "--output", "{out}/demo"], "--epochs=0"),
    "negative seed": (["demo", "--seed", "-1", "--output", "{out}/demo"], "--seed=-1"),
    "file as output": (["demo", "--output", "{files}/dense.keras"], "dense.keras"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_touches_nothing(run, files, tmp_path, case):
    arguments, message = BAD[case]
    before = {p: p.stat().st_mtime_ns for p in files.iterdir()}
    status, out, err = run(*(a.format(files=files, out=tmp_path) for a in arguments))
    assert status == 2
    assert out == ""
    assert err.count("\n") == 1
    assert message in err
    assert not list(tmp_path.iterdir())
    assert {p: p.stat().st_mtime_ns for p in files.iterdir()} == before


def test_as_a_process_errors_are_one_line_whatever_tensorflow_prints(files):
    """As the installed script and as a module, with the imports that tests/processes.py saves others."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TF_CPP")}
    run = functools.partial(subprocess.run, capture_output=True, text=True, env=environment, timeout=120)
    script = os.path.join(os.path.dirname(sys.executable), "keras-rmda")
    result = run([script, "inspect", str(files / "none.keras")])
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    result = run([sys.executable, "-m", "keras_rmda", "inspect", str(files / "chain.keras"), "--json"])
    assert result.returncode == 0
    assert result.stderr == ""
    assert json.loads(result.stdout)["model"]
