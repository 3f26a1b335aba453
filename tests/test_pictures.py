"""Tables and pictures that notebooks show."""

import re
import xml.etree.ElementTree as ElementTree

import keras
import matplotlib
import numpy as np
import pytest
from keras import layers as L

import keras_rmda as kr
from keras_rmda.structure.pictures import draw_training, html_table

matplotlib.use("agg")


@pytest.fixture(scope="module")
def report():
    model = keras.Sequential([keras.Input((4,)), L.Dense(8, name="a<b>"), L.Dense(1200, name="wide"), L.Dense(2)])
    kernel = model.layers[1].kernel
    kernel.assign(np.where(np.arange(8)[:, None] < 5, keras.ops.convert_to_numpy(kernel), 0))
    return kr.analyze(model)


def cells_of(text):
    return [["".join(cell.itertext()) for cell in row] for row in ElementTree.fromstring(text)]


def test_a_report_is_a_table_with_the_figures_of_its_text(report):
    header, *rows = cells_of(report._repr_html_())
    assert header == re.split(r"  +", str(report).splitlines()[1].strip())
    assert [row[0] for row in rows] == ["a<b>", "wide", report.layers[2].name, "total"]
    assert rows[0][2:4] == ["8", "5"]
    assert rows[1][4] == "10,800"
    assert rows[-1][4:8] == [
        f"{n:,}" for n in (report.parameters, report.parameters_after, report.macs, report.macs_after)
    ]


def test_numbers_are_to_the_right_and_words_are_escaped():
    text = html_table(("name", "n"), [("<script>", 1234567), ("&", "0.5")])
    assert cells_of(text) == [["name", "n"], ["<script>", "1,234,567"], ["&", "0.5"]]
    assert "text-align:right'>1,234,567" in text
    assert "text-align:left'>0.5" in text
    assert "<script>" not in text


def test_widths_are_drawn_with_the_channels_that_are_kept(report, tmp_path):
    axes = report.plot()
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == [8, 1200, 2, 5, 1200, 2]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a<b>", "wide", report.layers[2].name]
    assert [note.get_text().strip() for note in axes.texts] == ["5 of 8", "1200 of 1200", "2 of 2"]
    axes.figure.savefig(tmp_path / "widths.png")
    assert axes.yaxis_inverted()


def test_widths_are_drawn_on_axes_that_are_there(report):
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    assert report.plot(axes) is axes
    assert len(axes.patches) == 6


def test_a_training_is_drawn_with_its_phases(tmp_path):
    history = {"loss": [3, 2, 1, 1], "acc": [0.1, 0.5, 0.6, 0.7], "val_acc": [0.2, 0.4, 0.5, 0.6]}
    history |= {"macs_left": [1.0, 0.5, 0.5, 0.5], "phase": ["choose", "choose", "tune", "tune"]}
    axes = draw_training(history, "acc")
    drawn = {line.get_label(): list(line.get_ydata()) for each in axes.figure.axes for line in each.lines}
    assert {name: drawn[name] for name in ("acc", "val_acc", "macs_left")} == {
        name: history[name] for name in ("acc", "val_acc", "macs_left")
    }
    assert [note.get_text().strip() for note in axes.texts] == ["tune"]
    assert [list(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2] == [[1.5, 1.5]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["acc", "val_acc", "macs_left"]
    axes.figure.savefig(tmp_path / "training.png")
