import collections
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Most of the time of a test is tracing and compiling: without optimizations, which are not ours to test.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
# Convolutions with channels first need oneDNN, which TensorFlow takes by itself on newer CPUs only.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")
if os.environ.get("KERAS_BACKEND") == "jax":
    os.environ.setdefault("JAX_ENABLE_X64", "true")  # the reference trajectories are in float64

import keras
import numpy as np
import processes
import pytest
import scheduling

processes.let_no_noise_decide()
processes.fork_what_runs_apart()
if keras.backend.backend() == "tensorflow":
    import tensorflow

    tensorflow.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


LONG = "Over a minute, since "
"""How the docstring of a file of tests that takes so long says why."""


def pytest_configure(config):
    """Take every warning of ours for an error; in pyproject.toml, it would import Keras before what stands above."""
    config.addinivalue_line("filterwarnings", "error::keras_rmda.SparsityWarning")
    # The trainings of these tests are too short to end near their structured weights; test_structured.py has this one.
    config.addinivalue_line("filterwarnings", "ignore:.fit. ended with structured weights:keras_rmda.SparsityWarning")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    config.option.loadscopereorder = False
    return scheduling.ByFile(config, log)


def pytest_addoption(parser):
    parser.addoption("--everything", action="store_true", help="also RARE, and every combination of parameters")


def pytest_collection_modifyitems(config, items):
    is_asked_for = any("::" in each for each in config.args)
    if not config.option.everything and not is_asked_for:
        chosen = scheduling.chosen(items)
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen
    scheduling.sort(items)
    for item in items:
        if scheduling.is_slow(item.nodeid):
            item.add_marker("slow")


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
    """A folder in which `keras-rmda demo` has run, briefly; see TOGETHER in tests/scheduling.py."""
    folder = tmp_path_factory.mktemp("a user")
    result = processes.run("-m", "keras_rmda", "demo", "--epochs", "8", "--seed", "3", cwd=folder)
    assert result.returncode == 0, result.stderr
    (folder / "printed.txt").write_text(result.stdout)
    (folder / "progress.txt").write_text(result.stderr)
    return folder


def pytest_terminal_summary(terminalreporter, config):
    """Print where the time went, by file, and what `make test-fast` leaves out."""
    seconds = collections.Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, "duration"):
                seconds[report.nodeid.split("::")[0]] += report.duration
    terminalreporter.section("seconds by file")
    for name, total in seconds.most_common():
        says_why = total < 60 or LONG in (config.rootpath / name).read_text()
        terminalreporter.write_line(f"{total:7.1f}  {name}{'' if says_why else '  (does not say why)'}")
    if config.option.markexpr == "not slow":
        terminalreporter.section("left out, for make test-slow")
        for what in scheduling.SLOW.values():
            terminalreporter.write_line(what)
    if not config.option.everything:
        terminalreporter.section("left out, for make test-all")
        for what in [*scheduling.RARE.values(), "combinations of parameters, each value of which is run"]:
            terminalreporter.write_line(what)
