import os
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")  # most of the time of a test is compiling
if os.environ.get("KERAS_BACKEND") == "jax":
    os.environ.setdefault("JAX_ENABLE_X64", "true")  # the reference trajectories are in float64

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


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory):
    """A folder in which `keras-rmda demo` has run, briefly."""
    folder = tmp_path_factory.mktemp("a user")
    arguments = ["demo", "--epochs", "8", "--seed", "3"]
    command = [sys.executable, "-m", "keras_rmda", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=folder)
    assert result.returncode == 0, result.stderr
    (folder / "printed.txt").write_text(result.stdout)
    (folder / "progress.txt").write_text(result.stderr)
    return folder
