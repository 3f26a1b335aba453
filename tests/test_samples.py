"""Representative data in every form that people have it in."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

from keras_rmda.export.samples import SAMPLES, first_samples

RANDOM = np.random.default_rng(0)
IMAGES, LABELS = RANDOM.normal(size=(10, 6, 5, 1)).astype("float32"), np.arange(10)
LEFT, RIGHT = RANDOM.normal(size=(10, 4)), RANDOM.normal(size=(10, 3))

image = keras.Input((6, 5, 1), name="image")
left, right = keras.Input((4,), name="left"), keras.Input((3,), name="right")
ONE = keras.Model(image, L.Flatten()(image))
TWO = keras.Model([left, right], L.Concatenate()([left, right]))
NAMED = keras.Model({"right": right, "left": left}, L.Concatenate()([left, right]))


class Batches(keras.utils.PyDataset):
    """Batches of four, the last one smaller; of arrays or dictionaries, with or without labels."""

    def __init__(self, *arrays, endless=False):
        super().__init__()
        self.arrays, self.endless = arrays, endless

    def __len__(self):
        return 3

    @property
    def num_batches(self):
        return None if self.endless else 3

    def __getitem__(self, number):
        rows = slice(number % 3 * 4, number % 3 * 4 + 4)
        parts = tuple(keras.tree.map_structure(lambda x: x[rows], part) for part in self.arrays)
        return parts if len(parts) > 1 else parts[0]


class Loader:
    """What other libraries have: it can be gone through, and no more."""

    def __iter__(self):
        return iter([(IMAGES[:5], LABELS[:5]), (IMAGES[5:], LABELS[5:])])


slices = tf.data.Dataset.from_tensor_slices
OF_ONE = {
    "array": lambda: IMAGES,
    "other numbers": lambda: IMAGES.astype("float64"),
    "tensor": lambda: tf.constant(IMAGES),
    "list of the array": lambda: [IMAGES],
    "array and labels": lambda: (IMAGES, LABELS),
    "samples": lambda: list(IMAGES),
    "batches of one": lambda: [x[None] for x in IMAGES],
    "batches": lambda: [IMAGES[:7], IMAGES[7:]],
    "samples and labels": lambda: list(zip(IMAGES, LABELS)),
    "samples by name": lambda: [{"image": x, "id": 3} for x in IMAGES],
    "dictionary with more": lambda: {"image": IMAGES, "id": LABELS},
    "dataset": lambda: slices(IMAGES).batch(3),
    "dataset without batches": lambda: slices(IMAGES),
    "dataset with labels": lambda: slices((IMAGES, LABELS)),
    "dataset with weights": lambda: slices((IMAGES, LABELS, LABELS)).batch(4),
    "dataset by name with more": lambda: slices({"image": IMAGES, "id": LABELS}).batch(3),
    "its iterator": lambda: iter(slices((IMAGES, LABELS)).batch(4)),
    "NumPy's iterator of it": lambda: slices((IMAGES, LABELS)).as_numpy_iterator(),
    "PyDataset": lambda: Batches(IMAGES),
    "PyDataset with labels": lambda: Batches(IMAGES, LABELS),
    "generator": lambda: ([x[None]] for x in IMAGES),
    "generator of pairs": lambda: zip(IMAGES[:, None], LABELS),
    "callable": lambda: lambda: ([x[None]] for x in IMAGES),
    "callable that returns an array": lambda: lambda: IMAGES,
    "loader": Loader,
}


@pytest.mark.parametrize("form", OF_ONE)
def test_one_input(form):
    found = first_samples(ONE, OF_ONE[form]())
    assert all(list(sample) == ["image"] and sample["image"].dtype == np.float32 for sample in found)
    np.testing.assert_array_equal(np.concatenate([sample["image"] for sample in found]), IMAGES)


BY_NAME = {"right": RIGHT, "left": LEFT}
OF_TWO = {
    "list": lambda: [LEFT, RIGHT],
    "tuple": lambda: (LEFT, RIGHT),
    "list and labels": lambda: ([LEFT, RIGHT], LABELS),
    "dictionary": lambda: BY_NAME,
    "dictionary with more": lambda: BY_NAME | {"id": LABELS, "weights": np.zeros(3)},
    "dictionary and labels": lambda: (BY_NAME, LABELS),
    "samples": lambda: list(zip(LEFT, RIGHT)),
    "samples by name": lambda: [{"right": b, "left": a, "id": 0} for a, b in zip(LEFT, RIGHT)],
    "dataset": lambda: slices((BY_NAME, LABELS)).batch(4),
    "dataset of pairs": lambda: slices(((LEFT, RIGHT), LABELS)).batch(4),
    "dataset without batches": lambda: slices(((LEFT, RIGHT), LABELS)),
    "dataset without labels": lambda: slices((LEFT, RIGHT)),
    "dataset by name with more": lambda: slices(BY_NAME | {"id": LABELS}),
    "PyDataset": lambda: Batches(BY_NAME, LABELS),
    "generator": lambda: ([a[None], b[None]] for a, b in zip(LEFT, RIGHT)),
    "generator with labels": lambda: (((a, b), 1) for a, b in zip(LEFT, RIGHT)),
    "callable": lambda: lambda: ([a[None], b[None]] for a, b in zip(LEFT, RIGHT)),
}


@pytest.mark.parametrize("form", OF_TWO)
def test_two_inputs(form):
    found = first_samples(TWO, OF_TWO[form]())
    for name, expected in BY_NAME.items():
        values = np.concatenate([sample[name] for sample in found])
        np.testing.assert_array_equal(values, expected.astype("float32"))


@pytest.mark.parametrize("form", [form for form in OF_TWO if "name" in form or "dictionary" in form])
def test_names_go_before_order(form):
    for sample in first_samples(NAMED, OF_TWO[form]()):
        assert {name: x.shape for name, x in sample.items()} == {"left": (1, 4), "right": (1, 3)}


@pytest.mark.parametrize("form", ["array", "endless"])
def test_two_hundred_are_enough(form):
    many = np.zeros((500, 6, 5, 1), "float32")
    assert len(first_samples(ONE, many if form == "array" else Batches(IMAGES, endless=True))) == SAMPLES


@pytest.mark.parametrize("form", ["columns", "batches", "samples"])
def test_columns_of_a_table(form):
    """As `fit` takes them: with or without an axis of one number."""
    age, fare = keras.Input((1,), name="age"), keras.Input((1,), name="fare")
    model = keras.Model([age, fare], L.Concatenate()([age, fare]))
    columns = {"age": np.arange(10.0), "fare": np.arange(10.0, 20.0)}
    data = tf.data.Dataset.from_tensor_slices((columns, LABELS))
    data = {"columns": columns, "batches": data.batch(4), "samples": data}[form]
    found = list(first_samples(model, data))
    assert [sample["age"].tolist() for sample in found] == [[[float(n)]] for n in range(10)]
    assert [sample["fare"].tolist() for sample in found] == [[[float(n)]] for n in range(10, 20)]


def test_sizes_that_a_model_leaves_open():
    model = keras.Sequential([keras.Input((None, None, 3)), L.GlobalMaxPooling2D()])
    for form in ([np.zeros((5, 4, 3)), np.zeros((7, 6, 3))], [np.zeros((1, 5, 4, 3)), np.zeros((1, 7, 6, 3))]):
        shapes = [next(iter(sample.values())).shape for sample in first_samples(model, form)]
        assert shapes == [(1, 5, 4, 3), (1, 7, 6, 3)]


BAD = {
    "nothing": (ONE, np.zeros((0, 6, 5, 1)), "no samples"),
    "an empty list": (ONE, [], "no samples"),
    "an empty dataset": (ONE, slices(IMAGES[:0]).batch(2), "no samples"),
    "an empty generator": (ONE, lambda: iter(()), "no samples"),
    "NaN": (ONE, np.where(IMAGES > 1, np.nan, IMAGES), r"'image': NaN in \d+ of 300"),
    "infinite": (TWO, [LEFT * np.inf, RIGHT], "'left': infinite numbers in 40 of 40"),
    "NaN in a dataset": (ONE, slices(IMAGES * np.nan).batch(2), "finite"),
    "words": (ONE, np.array([["a"]]), "must be numbers"),
    "a number": (ONE, 3, "Received: int"),
    "a path": (ONE, "images.npz", "Received: str"),
    "None in a callable": (ONE, lambda: None, "Received: NoneType"),
    "other sizes": (ONE, IMAGES[:, :3], r"shape \(samples, 6, 5, 1\).*\(10, 3, 5, 1\)"),
    "no axis for samples": (ONE, IMAGES[0], r"shape \(samples, 6, 5, 1\)\. "),
    "other sizes in a dataset": (ONE, slices(IMAGES[:, :3]), r"or \(6, 5, 1\) for one sample"),
    "too many": (TWO, [LEFT, RIGHT, LEFT, RIGHT], "2 inputs.*Received: 4"),
    "too few": (TWO, [LEFT], r"2 inputs, \['left', 'right'\]. Received: 1"),
    "other names": (ONE, {"picture": IMAGES}, r"\['image'\] are missing. Received: \['picture'\]"),
    "different lengths": (TWO, [LEFT, RIGHT[:3]], r"different lengths. Received: \[3, 10\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_one_sentence(case):
    model, data, message = BAD[case]
    with pytest.raises(ValueError, match=message) as error:
        first_samples(model, data)
    assert "\n" not in str(error.value)


ROWS = RANDOM.normal(size=(1000, 4)).astype("float32")
SORTED = ROWS[np.argsort(np.abs(ROWS).max(axis=1))]
FOUR = keras.Sequential([keras.Input((4,), name="x"), L.Dense(4)])


class ManyBatches(keras.utils.PyDataset):
    def __len__(self):
        return 100

    def __getitem__(self, number):
        return SORTED[10 * number : 10 * number + 10], np.zeros(10)


@pytest.mark.parametrize("data", [SORTED, {"x": SORTED}, (SORTED, SORTED), ManyBatches()])
def test_samples_of_sorted_data_come_from_everywhere(data):
    found = np.concatenate([each["x"] for each in first_samples(FOUR, data)])
    assert len(found) == SAMPLES
    assert np.abs(found).max() > 0.95 * np.abs(SORTED).max()


def test_targets_of_the_shape_of_inputs_are_targets():
    found = np.concatenate([each["x"] for each in first_samples(FOUR, (ROWS[:50], 1000.0 + ROWS[:50]))])
    np.testing.assert_array_equal(found, ROWS[:50])
    assert len(first_samples(FOUR, [ROWS[:50], ROWS[50:100]])) == 100  # batches, as a list


def test_samples_of_bfloat16():
    assert first_samples(FOUR, slices(tf.cast(ROWS[:8], "bfloat16")))[0]["x"].dtype == "float32"


def test_inputs_are_known_by_the_keys_of_the_model():
    model = keras.Model({"b": left, "a": right}, L.Concatenate()([left, right]))
    found = first_samples(model, {"b": LEFT, "a": RIGHT, "id": np.arange(10)})
    np.testing.assert_allclose(found[3]["left"][0], LEFT[3], rtol=1e-6)
    np.testing.assert_allclose(found[3]["right"][0], RIGHT[3], rtol=1e-6)
