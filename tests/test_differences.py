"""Differences of files output by output, and channel by channel relative to their own ranges."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_rmda as kr
from keras_rmda.export.comparison import spread
from keras_rmda.export.differences import compared_output, differs, losses_of

DATA = np.random.default_rng(0).normal(size=(100, 8)).astype("float32")


def compared(a, b, are_classes=False):
    return compared_output([np.asarray(a)], [np.asarray(b)], are_classes)


def test_a_channel_counts_by_its_own_range():
    a = np.stack([np.linspace(0, 1, 5), np.linspace(0, 1000, 5)], -1)
    found = compared(a, a + np.array([0.5, 0.5]))
    assert found.worst == pytest.approx(0.5)
    assert found.largest == pytest.approx(0.5 / 1000)
    assert compared(a, a + np.array([0.0, 0.5])).worst == pytest.approx(0.5 / 1000)
    assert compared(a, a).worst == compared(a, a).largest == 0.0


def test_channels_that_are_constant_only_in_the_file():
    a = np.stack([np.linspace(0, 1, 5), np.ones(5), np.linspace(0, 9, 5)], -1)
    flat = a * [0, 1, 1]
    assert compared(a, flat).constant == (0,)
    assert compared(a, a * 0).constant == (0, 2)
    assert compared(a, a).constant == ()
    # Images: positions are samples of a channel.
    image = np.random.default_rng(0).normal(size=(1, 4, 4, 2))
    assert compared(image, image * [1, 0]).constant == (1,)


def test_constants_of_the_model_count_by_their_size():
    a = np.full((6, 2), 100.0) + np.random.default_rng(0).normal(size=(6, 2)) * 1e-6
    assert compared(a, a + 1.0).worst == pytest.approx(0.01)
    assert compared(np.zeros((3, 2)), np.zeros((3, 2))).worst == 0.0
    assert compared(np.zeros((3, 2)), np.ones((3, 2))).worst == pytest.approx(1000.0)


def test_classes_share_a_range():
    """A class that never wins may be 0 in the file, of which nobody needs to hear."""
    a = np.array([[0.9, 0.0998, 0.0002], [0.2, 0.7999, 0.0001]])
    b = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]])
    assert compared(a, b, True).constant == ()
    assert compared(a, b, True).worst < 1e-3
    assert compared(a, b, False).constant == (2,)
    assert compared(a, b, False).worst > 1.0
    assert compared(a, b, True).agreement == 1.0
    assert compared(a, b[::-1], True).agreement == 0.0
    assert compared(a, b * 0 + 0.5, True).constant == (0, 1, 2)
    assert compared(a, b, False).agreement is None


def test_integers_booleans_shapes_and_numbers_that_are_none():
    assert compared([1, 2, 3, 4], [1, 2, 3, 5]).largest == 0.25
    assert compared([1, 2, 3], [2, 2, 2]).constant == (0,)
    assert compared([True, False], [True, True]).largest == 0.5
    assert compared([[1.0, 2.0]], [[1.0], [2.0]]).largest == np.inf
    assert compared([[1.0], [np.inf]], [[1.0], [np.inf]]).worst == 0.0
    assert compared([[1.0], [np.inf]], [[1.0], [2.0]]).largest == np.inf
    assert compared(np.zeros((0, 2)), np.zeros((0, 2))).largest == 0.0
    assert differs(np.arange(3), np.arange(4)) == np.inf


def test_samples_are_taken_from_all_over():
    assert spread(list(range(100)), 4) == [0, 33, 66, 99]
    assert spread([5, 6], 16) == [5, 6]
    assert spread([5], 4) == [5]
    assert spread([1, 2, 3], 0) == []


def heads(scale, join):
    """Two heads, one of which is many times larger."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    x = L.Dense(16, "relu")(inputs)
    outputs = [L.Dense(2)(x), L.Rescaling(scale)(L.Dense(2)(x))]
    return keras.Model(inputs, L.Concatenate()(outputs) if join else outputs)


def test_an_output_that_is_lost_to_a_shared_scale_shows(tmp_path):
    with pytest.warns(kr.SparsityWarning, match=r"'output_0' is constant in the channels \[0, 1\]"):
        file = kr.export_tflite(heads(1000.0, True), tmp_path / "m.tflite", "int8", DATA)
    assert file.max_difference < 0.05
    assert file.differences["output_0"] > 0.3
    assert file.agreement is None


def test_outputs_of_their_own_are_not_lost(tmp_path):
    file = kr.export_tflite(heads(1000.0, False), tmp_path / "m.tflite", "int8", DATA)
    assert sorted(file.differences) == ["output_0", "output_1"]
    assert all(value < 0.1 for value in file.differences.values())
    whole = kr.export_tflite(heads(1000.0, True), tmp_path / "m.tflite")
    assert whole.differences["output_0"] < 1e-4
    assert (whole.samples, whole.compared) == (0, 16)


def logits(loss=None):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), L.Dense(3)])
    if loss is not None:
        model.compile("sgd", loss)
    return model


CLASSES = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
AGREES = {
    "softmax": (lambda: keras.Sequential([keras.Input((8,)), L.Dense(3, "softmax")]), True),
    "softmax by positions": (lambda: keras.Sequential([keras.Input((6, 8)), L.Dense(3), L.Softmax()]), True),
    "logits with their loss": (lambda: logits(CLASSES), True),
    "logits with the name of a loss": (lambda: logits("categorical_crossentropy"), True),
    "regression": (lambda: logits("mse"), False),
    "nobody knows": (logits, False),
    "one number": (lambda: keras.Sequential([keras.Input((8,)), L.Dense(1, "sigmoid")]), False),
}


@pytest.mark.parametrize("case", AGREES)
def test_agreement_is_for_classes(case, tmp_path):
    make, has_classes = AGREES[case]
    model = make()
    file = kr.export_tflite(model, tmp_path / "m.tflite")
    assert file.agreement == (1.0 if has_classes else None)


@pytest.mark.parametrize("form", ["list", "dictionary"])
def test_agreement_of_one_output_of_two(form, tmp_path):
    inputs = keras.Input((8,))
    scores, box = L.Dense(3, name="scores")(inputs), L.Dense(4, name="box")(inputs)
    if form == "list":
        model = keras.Model(inputs, [box, scores])
        model.compile("sgd", ["mse", CLASSES])
    else:
        model = keras.Model(inputs, {"scores": scores, "box": box})
        model.compile("sgd", {"box": "mse", "scores": CLASSES})
    file = kr.export_tflite(model, tmp_path / "m.tflite", "int8", DATA)
    assert 0.5 < file.agreement <= 1.0
    assert set(file.differences) == ({"output_0", "output_1"} if form == "list" else {"scores", "box"})


def test_a_single_sample_has_no_range():
    found = compared([[1.0, 1e-6]], [[1.0, 2e-6]])
    assert found.worst == found.largest == pytest.approx(1e-6)
    assert found.constant == ()


def test_a_constant_output_is_a_file(tmp_path):
    """Integers without a range."""
    off = L.Dense(2, bias_initializer=keras.initializers.Constant(-99.0))
    model = keras.Sequential([keras.Input((8,)), off, L.ReLU()])
    file = kr.export_tflite(model, tmp_path / "m.tflite", "int8", representative_data=DATA, strip=False)
    assert file.max_difference == 0.0


def test_what_litert_does_not_run_is_one_sentence(tmp_path):
    """Sparse integers in a dense layer."""
    model = keras.Sequential([keras.Input((64,)), L.Dense(128, "relu"), L.Dense(12)])
    random = np.random.default_rng(0)
    for layer in model.layers:
        layer.kernel.assign(np.where(random.random(layer.kernel.shape) < 0.9, 0.0, layer.kernel))
    arguments = {"representative_data": random.normal(size=(20, 64)), "sparse": True}
    with pytest.raises(RuntimeError, match=r"LiteRT cannot run.*Nothing was written") as error:
        kr.export_tflite(model, tmp_path / "m.tflite", "int8", **arguments)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_losses_of_outputs_by_name_are_in_the_order_of_the_outputs():
    inputs = keras.Input((3,))
    outputs = {"z": keras.layers.Dense(4, name="first")(inputs), "a": keras.layers.Dense(1, name="second")(inputs)}
    model = keras.Model(inputs, outputs)
    model.compile(loss={"z": "sparse_categorical_crossentropy", "a": "mse"})
    assert [x.shape[-1] for x in model.outputs] == [1, 4]
    assert losses_of(model, 2) == [False, True]
