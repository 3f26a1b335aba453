"""The program of the table of formats: it goes on past what fails, and says what it did not make anew."""

import json

import keras
import numpy as np
import parity
import pytest
from keras import layers as L


def fails():
    raise RuntimeError("no such | layer")


def small():
    inputs = keras.Input((4,))
    return keras.Model(inputs, L.Dense(2)(inputs))


@pytest.fixture
def two(monkeypatch):
    for name, models in (("MODELS", {"one": small, "two": fails}), ("APPLICATIONS", {"three": fails})):
        monkeypatch.setattr(parity, name, models)
    monkeypatch.setattr(parity, "OF_KERAS_HUB", {})


def test_a_model_that_fails_leaves_its_reason_and_the_others_go_on(two, tmp_path):
    page, state = tmp_path / "page.md", tmp_path / "state.json"
    parity.main([str(page), "--formats", "float32", "--state", str(state)])
    rows = parity.rows_of(page)
    assert "bytes" in rows["one"]["float32"]
    assert rows["one"]["int8"] == parity.UNKNOWN
    assert rows["two"]["float32"] == rows["three"]["float32"] == "no: no such / layer"
    assert json.loads(state.read_text()).get("two", {}) == {}, "it is tried again"
    assert "earlier version" not in page.read_text()


def test_cells_that_are_only_kept_are_named(two, tmp_path):
    page = tmp_path / "page.md"
    before = {"one": dict.fromkeys(parity.FORMATS, "0.5, 9 bytes"), "two": {"int8": "0.1, 7 bytes"}}
    parity.write(page, before, {}, {})
    parity.main([str(page), "one", "--formats", "float32"])
    rows, text = parity.rows_of(page), " ".join(page.read_text().split())
    assert rows["one"]["float32"] != "0.5, 9 bytes" == rows["one"]["int8"]
    assert rows["two"]["int8"] == "0.1, 7 bytes"
    kept = ", ".join(name for name in parity.FORMATS if name != "float32")
    assert f"Made by an earlier version: one ({kept}); two (int8)." in text


def test_a_model_that_rounds_is_far_from_itself_where_it_rounds_to_the_other_side():
    inputs = keras.Input((1,))
    x = keras.ops.round(50 * inputs) / 50
    near_the_edge = np.repeat([[0.01], [0.03]], 24, axis=0).astype("float32")
    assert parity.moved(keras.Model(inputs, L.Rescaling(2.0)(inputs)), near_the_edge) < 0.02
    assert parity.moved(keras.Model(inputs, x), near_the_edge) > 0.4


def test_a_segmenter_learns_whatever_it_was_compiled_with(monkeypatch):
    monkeypatch.setattr(parity, "STEPS", 1)
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, L.Conv2D(4, 1)(inputs))
    model.compile("sgd", "categorical_crossentropy", metrics=[keras.metrics.CategoricalAccuracy()])
    assert parity.fitted(model).optimizer.iterations == 1
