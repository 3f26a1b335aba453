import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def float64():
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    yield "float64"
    keras.config.set_floatx(before)


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)
