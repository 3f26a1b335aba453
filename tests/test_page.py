"""The page of results: what it says, that it needs nothing else, what it refuses. See also test_browser."""

import html.parser
import json
import re

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_rmda as kr
from keras_rmda.cli import main
from keras_rmda.cli.page import times
from keras_rmda.cli.page.entries import score_of
from keras_rmda.cli.page.logs import curves, read_log

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(40, 8, 8, 1)).astype("float32"), RANDOM.integers(3, size=40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A whole model, what is left of it, and files of both, with names that HTML could trip over."""
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("page")
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), L.Conv2D(8, 3, name="conv->1"), L.ReLU(), L.Flatten(), L.Dense(3, name="dense")]
    )
    kernel, bias = model.layers[0].get_weights()
    kernel[..., :3] = 0
    model.layers[0].set_weights([kernel, bias])
    small = kr.strip(model)
    model.save(folder / "whole & <all>.keras")
    small.save(folder / "small.keras")
    kr.export_tflite(model, folder / "whole.tflite", strip=False)
    kr.export_tflite(small, folder / "small.tflite", "int8", X)
    np.savez(folder / "data.npz", x=X, y=Y)
    history = {"loss": [2.0, 1.0], "val_accuracy": [0.25, 0.5], "zero_groups": [0.0, 0.375], "macs": [9, 5]}
    (folder / "log.json").write_text(json.dumps(history))
    (folder / "log.csv").write_text("epoch,accuracy,macs_left\n0,0.5,1.0\n1,0.75,0.5\n")
    (folder / "runs.json").write_text(json.dumps({"seed": 0, "dense": {"accuracy": [0.1]}, "sparse": history}))
    return folder


NAMES = ("whole & <all>.keras", "whole.tflite", "small.keras", "small.tflite")


class Reader(html.parser.HTMLParser):
    """Collects cells of tables, headings and all references; complains of what is not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.rows, self.headings, self.references = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        if tag not in ("meta", "path", "use", "line") or self.get_starttag_text().endswith("/>"):
            self.open.append(tag)
        self.references += [v for k, v in attributes if k in ("src", "href", "xlink:href", "action", "srcset")]

    def handle_startendtag(self, tag, attributes):
        self.references += [v for k, v in attributes if k in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1].append(text)
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(text)


def written(folder, out, *more):
    arguments = [str(folder / name) for name in NAMES]
    assert main(["report", str(out), *arguments, "--runs", "3", *more]) == 0
    return Reader(out.read_text(encoding="utf-8"))


@pytest.mark.parametrize("column", ["NA,NA", "0.25,NA"])
def test_logs_of_keras_have_epochs_without_validation(tmp_path, column):
    first, second = column.split(",")
    text = f"epoch,accuracy,val_accuracy,phase\n0,0.5,{first},choose\n1,0.75,{second},tune\n"
    (tmp_path / "log.csv").write_text(text)
    [found] = read_log(tmp_path / "log.csv").values()
    assert found["accuracy"] == [0.5, 0.75]
    np.testing.assert_array_equal(found.get("val_accuracy", []), [] if first == "NA" else [0.25, np.nan])
    assert "phase" not in found


def test_everything_is_on_the_page(folder, tmp_path, capsys):
    found = written(
        folder, tmp_path / "page.html", "--data", str(folder / "data.npz"), "--log", str(folder / "log.json")
    )
    assert capsys.readouterr().out == f"wrote {tmp_path / 'page.html'}: 4 models\n"
    header, *rows = found.rows[:5]
    assert header == ["file", "weights", "parameters", "MACs", "bytes", "smaller", "latency", "faster", "accuracy"]
    assert [row[0] for row in rows] == list(NAMES)
    assert [row[1] for row in rows] == ["Keras", "float32", "Keras", "int8"]
    whole, _, small, int8 = (dict(zip(header, row)) for row in rows)
    assert (whole["parameters"], small["parameters"]) == ("947", "593")
    assert (whole["MACs"], small["MACs"], int8["MACs"]) == ("3,456", "2,160", "2,160")
    assert int8["bytes"] == f"{(folder / 'small.tflite').stat().st_size:,}"
    model = keras.models.load_model(folder / "small.keras")
    assert small["accuracy"] == f"{np.mean(model.predict(X, verbose=0).argmax(1) == Y):.2%}"
    assert re.fullmatch(r"[\d.]+ ms", int8["latency"])
    assert found.rows[5:] == [["conv->1", "5 of 8"], ["dense", "3 of 3"]]
    assert found.headings[0].startswith("whole & <all>.keras")
    assert found.headings[1:] == ["Size against accuracy", "Training", "Channels kept per layer: small.keras"]


def test_it_needs_nothing_from_elsewhere(folder, tmp_path):
    out = tmp_path / "page.html"
    found = written(folder, out, "--data", str(folder / "data.npz"), "--log", str(folder / "log.json"))
    assert all(reference.startswith("#") for reference in found.references)
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)|<script|<link", out.read_text())
    assert out.stat().st_size < 100_000


@pytest.mark.parametrize("log", ["log.json", "log.csv", "runs.json"])
def test_logs_in_all_forms(folder, tmp_path, log):
    histories = read_log(folder / log)
    drawn = {name: curves(history) for name, history in histories.items()}
    assert (
        drawn
        == {
            "log.json": {"training": {"val_accuracy": [0.25, 0.5], "zero_groups": [0.0, 0.375]}},
            "log.csv": {"training": {"accuracy": [0.5, 0.75], "macs_left": [1.0, 0.5]}},
            "runs.json": {
                "dense": {"accuracy": [0.1]},
                "sparse": {"val_accuracy": [0.25, 0.5], "zero_groups": [0.0, 0.375]},
            },
        }[log]
    )
    assert "Training" in written(folder, tmp_path / "page.html", "--log", str(folder / log)).headings


def test_without_data_and_log_there_are_sizes_and_channels(folder, tmp_path):
    found = written(folder, tmp_path / "page.html")
    assert found.headings[1:] == ["Channels kept per layer: small.keras"]
    assert "accuracy" not in found.rows[0]


def test_one_model_alone_and_json(folder, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert main(["report", str(out), str(folder / NAMES[0]), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["models"][0]["channels"] == {"conv->1": [8, 5], "dense": [3, 3]}
    assert Reader(out.read_text()).headings[1] == f"Channels kept per layer: {NAMES[0]}"


def test_what_became_larger_is_called_so():
    assert times(2.0, "smaller", "larger") == "<strong>2.0 times</strong> smaller"
    assert times(0.25, "smaller", "larger") == "<strong>4.0 times</strong> larger"


def test_numbers_instead_of_classes_get_squares():
    assert score_of(np.ones((4, 1)), np.full(4, 3.0), "model") == 4.0
    assert score_of(np.array([[0.2], [0.9]]), np.array([0, 0]), "model") == 0.5
    assert score_of(np.array([[-3.0], [0.2], [2.0]]), np.array([0, 1, 1]), "model") == 1.0  # logits
    assert score_of(np.eye(3), np.eye(3, dtype=int), "model") == 1.0
    with pytest.raises(ValueError, match="none for 'model'"):
        score_of(np.eye(3), np.ones((3, 2), int), "model")
    with pytest.raises(ValueError, match="several outputs"):
        score_of({"a": np.ones(3)}, np.ones(3), "model")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["page.htm", "small.keras"], "must end in '.html'"),
        (["missing/page.html", "small.keras"], "folder of `OUT` does not exist"),
        (["page.html", "missing.keras"], "exists"),
        (["page.html", "data.npz"], "MODEL must be"),
        (["page.html", "broken.keras"], "cannot be loaded"),
        (["page.html", "broken.tflite"], "no TensorFlow Lite model"),
        (["page.html", "small.keras", "--log", "data.npz"], "log cannot be read"),
        (["page.html", "small.keras", "--log", "empty.json"], "no accuracy"),
        (["page.html", "small.keras", "--log", "missing.csv"], "log cannot be read"),
        (["page.html", "small.keras", "--data", "small.keras"], "--data must hold"),
        (["page.html", "small.keras", "--runs", "0"], "--runs"),
    ],
)
def test_bad_input_is_one_line_and_no_file(folder, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(folder)
    (folder / "broken.keras").write_text("nothing")
    (folder / "broken.tflite").write_text("nothing")
    (folder / "empty.json").write_text('{"loss": [1, 2]}')
    assert main(["report", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (folder / "page.html").exists()
