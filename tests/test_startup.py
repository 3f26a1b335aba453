"""The command line starts without what it does not need."""

import importlib
import subprocess
import sys

import keras
import pytest

import keras_rmda
from keras_rmda.cli import arguments, commands
from keras_rmda.platform import startup, versions


def started(*command):
    """Run a program, and return how it ended and what it has imported."""
    code = [sys.executable, "-X", "importtime", *command]
    result = subprocess.run(code, capture_output=True, text=True, timeout=300)
    lines = result.stderr.splitlines()
    imported = {line.rsplit("|")[-1].strip() for line in lines if line.startswith("import time:")}
    return result, imported, [line for line in lines if not line.startswith("import time:")]


def test_help_is_there_without_keras():
    result, imported, said = started("-m", "keras_rmda", "--help")
    assert result.returncode == 0
    assert "inspect" in result.stdout
    assert said == []
    assert "keras_rmda.cli.arguments" in imported
    assert not {"keras", "numpy", "tensorflow"} & imported


def test_so_is_the_help_of_each_command_and_the_sentence_about_a_wrong_one():
    for name in ("demo", "compress", "inspect", "strip", "export", "bench", "report"):
        assert callable(commands.COMMANDS[name])
        with pytest.raises(SystemExit):
            arguments.parser().parse_args([name, "--help"])
    result, imported, said = started("-m", "keras_rmda", "inspct")
    assert result.returncode == 2
    assert len(said) == 1
    assert "inspct" in said[0]
    assert "keras" not in imported


def test_what_is_left_out_at_the_start_can_be_imported_afterwards():
    program = "import sys; sys.argv = ['keras-rmda', 'inspect', 'a.keras']; import keras_rmda; print(*sys.modules); "
    result, _, _ = started("-c", program + "import sklearn, matplotlib.pyplot; print('done')")
    modules, afterwards = result.stdout.splitlines()
    assert "keras" in modules.split()
    assert not set(startup.OPTIONAL) & set(modules.split())
    assert afterwards == "done"


@pytest.mark.parametrize(
    ("arguments", "of_python", "expected"),
    [
        (["/bin/keras-rmda", "inspect"], ["python", "/bin/keras-rmda", "inspect"], True),
        (["-m", "inspect", "a.keras"], ["python", "-m", "keras_rmda", "inspect", "a.keras"], True),
        (["-m"], ["python", "-X", "dev", "-mkeras_rmda"], True),
        (["-m", "--help"], ["python", "-m", "another", "--help"], False),
        (["-m", "keras_rmda"], ["python", "-m", "pytest", "keras_rmda"], False),
        (["train.py", "--help"], ["python", "train.py", "--help"], False),
        (["-c", "keras_rmda"], ["python", "-c", "import keras_rmda", "keras_rmda"], False),
        ([""], ["python"], False),
    ],
)
def test_only_the_program_itself_takes_the_arguments(arguments, of_python, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(sys, "orig_argv", of_python)
    assert startup.is_program() is expected


@pytest.mark.parametrize(
    ("content", "environment", "expected"),
    [
        (None, None, "tensorflow"),
        ('{"backend": "jax"}', None, "jax"),
        ('{"backend": "jax"}', "tensorflow", "tensorflow"),
        ('{"floatx": "float32"}', None, "tensorflow"),
        ("[]", None, "tensorflow"),
        ("no json", "torch", "torch"),
    ],
)
def test_the_backend_is_the_one_that_keras_finds(content, environment, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    if content is not None:
        (tmp_path / "keras.json").write_text(content)
    if environment is not None:
        monkeypatch.setenv("KERAS_BACKEND", environment)
    assert startup.backend() == expected


def test_imports_are_hidden_only_meanwhile_and_only_if_they_were_not_there(tmp_path, monkeypatch):
    (tmp_path / "hidden_meanwhile.py").write_text("there = True")
    monkeypatch.syspath_prepend(tmp_path)
    with startup.without(["hidden_meanwhile", "sys"]):
        with pytest.raises(ImportError):
            importlib.import_module("hidden_meanwhile")
        assert sys.modules["sys"] is sys
    assert importlib.import_module("hidden_meanwhile").there


@pytest.mark.parametrize(
    ("package", "version"), [("keras", "3.99.1"), ("keras", "4.0.0.dev1"), ("tensorflow", "2.90.0-rc1")]
)
def test_versions_that_are_not_tested_are_said(package, version, monkeypatch):
    monkeypatch.setattr(sys.modules[package], "__version__", version)
    short = ".".join(version.split(".")[:2])
    with pytest.warns(keras_rmda.SparsityWarning, match=f"tested with {package} .* and this is {short}. If") as found:
        versions.warn_if_untested()
    assert len(found) == 1


def test_versions_that_are_tested_are_not_said():
    assert versions.of("keras") == tuple(int(part) for part in keras.__version__.split(".")[:2])
    assert versions.of("no such package") is None
    versions.warn_if_untested()  # our warnings are errors here
