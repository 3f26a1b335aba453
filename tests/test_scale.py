"""The benchmarks of scale and of accelerators run, small."""

import json
import os
import subprocess
import sys
from pathlib import Path

import processes
import pytest
from backend import only_tensorflow

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
pytestmark = only_tensorflow


def run(script, *arguments, backend="tensorflow"):
    if backend == "tensorflow":
        return processes.run(BENCHMARKS / script, *arguments)
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    environment = os.environ | {"KERAS_BACKEND": backend}
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_the_accelerator_benchmark_runs_small(backend, tmp_path):
    names = {"tensorflow": ["RMDA", "AdaBreg"], "jax": ["RMDA"]}[backend]
    result = run("accelerator.py", "--small", "--only", *names, "--out", str(tmp_path), backend=backend)
    assert result.returncode == 0, result.stderr[-2000:]
    assert [line.split("|")[1].strip() for line in result.stdout.splitlines()[2:]] == names
    figures = {path.name.split("-")[0]: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert set(figures) == set(names)
    for each in figures.values():
        assert each["backend"] == backend
        assert each["accuracy"] == pytest.approx(each["stripped_accuracy"], abs=0.005)
    if backend == "tensorflow":
        assert figures["AdaBreg"]["zero_groups"] > 0.5
        assert figures["AdaBreg"]["stripped_parameters"] < figures["AdaBreg"]["parameters"]
        again = run("accelerator.py", "--small", "--only", *names, "--out", str(tmp_path))
        assert again.stdout == result.stdout  # what is finished is not made again


def test_the_table_of_methods_runs_small(tmp_path):
    command = ["resnet20.py", "--small", "--methods", "thin", "--out", str(tmp_path)]
    result, again = run(*command), run(*command, "--table")
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout == again.stdout
    assert again.stdout.splitlines()[-1].startswith("| thin | 0.5 | 1 |")


@pytest.mark.parametrize("script", ["accelerator.py", "resnet20.py"])
def test_data_that_are_not_there_are_said(script, tmp_path):
    result = run(script, "--data", str(tmp_path / "no.npz"), "--out", str(tmp_path))
    assert result.returncode == 1
    assert "--data must be a file that --prepare has written" in result.stderr


def test_the_table_of_scale_runs_small():
    result = run("scaling.py", "--sizes", "2e4", "4e4")
    assert result.returncode == 0, result.stderr[-2000:]
    rows = [line.split("|")[1].strip() for line in result.stdout.splitlines()[2:]]
    assert rows == ["build", "groups", "Adam", "RMDA", "analyze", "strip", "export"]
