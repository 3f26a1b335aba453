"""Models that leave sizes open are verified where all in them has numbers."""

import keras
import numpy as np
import pytest
from keras import layers as L
from zoo import randomize, zero

import keras_rmda as kr
from keras_rmda.structure.inputs import CORNER, cheap, random_inputs
from keras_rmda.structure.sizes import SIZES, fills, open_size
from keras_rmda.structure.verification import difference


def steps(kernel, padding="valid"):
    x = inputs = keras.Input((None, 4))
    x = L.Conv1D(8, kernel, padding=padding, name="a")(x)
    return keras.Model(inputs, L.Dense(3, name="b")(L.GlobalMaxPooling1D()(x)))


def image(blocks):
    x = inputs = keras.Input((None, None, 3))
    for number in range(blocks):
        x = L.MaxPooling2D()(L.Conv2D(8, 3, activation="relu", name="a" if number == blocks - 1 else None)(x))
    return keras.Model(inputs, L.Dense(3, name="b")(L.GlobalAveragePooling2D()(x)))


def around(model):
    """A model inside another."""
    x = inputs = keras.Input(model.inputs[0].shape[1:])
    return keras.Model(inputs, model(L.Conv2D(3, 3)(x)))


MODELS = {
    "short": (lambda: steps(20), 32),
    "longer": (lambda: steps(33), 64),
    "long": (lambda: steps(200), 256),
    "padded": (lambda: steps(40, "same"), 32),
    "three blocks": (lambda: image(3), 32),
    "four blocks": (lambda: image(4), 64),
    "five blocks": (lambda: image(5), 128),
    "a model inside": (lambda: around(image(4)), 64),
}


@pytest.mark.parametrize("name", MODELS)
def test_open_sizes_are_such_that_all_has_numbers(name):
    make, size = MODELS[name]
    model = randomize(make())
    assert open_size(model) == size
    assert {n for x in random_inputs(model) for n in x.shape[1:-1]} == {size}
    last = next(layer for layer in (model, *model.layers) if isinstance(layer, keras.Model) and "b" in names(layer))
    zero(last, "b", 0, [0, 3])
    small = kr.strip(model)
    assert small.count_params() < model.count_params()
    x = np.random.default_rng(1).normal(size=(2, *(2 * size for _ in model.inputs[0].shape[1:-1]), 4))
    x = x[..., : model.inputs[0].shape[-1]]
    assert difference(model(x), small(x)) < 1e-5


def names(model):
    return [layer.name for layer in model.layers]


def test_where_no_size_does_the_model_gets_the_first_and_says_so():
    model = steps(SIZES[-1] + 1)
    assert open_size(model) == SIZES[0]
    with pytest.raises(ValueError, match="call this with `inputs"):
        kr.strip(model)
    kr.strip(model, inputs=np.ones((2, SIZES[-1] + 8, 4), "float32"))


def test_fixed_sizes_are_what_they_are():
    inputs = keras.Input((5, 4))
    model = keras.Model(inputs, L.Conv1D(2, 3)(inputs))
    assert random_inputs(model)[0].shape == (2, 5, 4)
    assert fills(model, [(2, 3, 4)])
    assert not fills(model, [(2, 2, 4)])


def test_no_corner_is_computed_in_which_something_is_empty():
    x = inputs = keras.Input((512, 512, 3))
    for _ in range(4):
        x = L.MaxPooling2D()(L.Conv2D(48, 3)(x))
    model = keras.Model(inputs, L.GlobalAveragePooling2D()(x))
    assert not fills(model, [(1, CORNER, CORNER, 3)])
    with pytest.raises(ValueError, match="corner"):
        cheap(model, random_inputs(model))
