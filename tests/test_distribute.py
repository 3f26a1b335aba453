"""Training on several replicas, in several processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from backend import only_tensorflow
from training import DEFAULTS

HERE = Path(__file__).parent
KINDS = [kind.__name__ for kind in DEFAULTS]
REST = ["gates", "accumulation", "clipping", "skipping", "constraint", "weights set late", "several steps"]

pytestmark = [only_tensorflow, pytest.mark.slow]


def run(script, *arguments, **environment):
    """Return the result of a script in a process of its own."""
    command = [sys.executable, str(HERE / script), *arguments]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | environment
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)


@pytest.mark.parametrize(
    "cases",
    [[f"{name}{how}" for how in ("", " coupled", " compiled")] for name in KINDS] + [REST],
    ids=[*KINDS, "rest"],
)
def test_two_replicas_equal_one_process(cases):
    result = run("replicas.py", *cases)
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert list(found) == cases
    assert max(found.values()) < 1e-5, found


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"jit_compile": True}, "On CPUs TensorFlow cannot compile a step"),
        ({"steps_per_execution": 5}, "HierarchicalCopyAllReduce"),
    ],
    ids=["jit_compile", "steps_per_execution"],
)
def test_what_replicas_cannot_do_is_said_in_a_sentence(arguments, sentence):
    code = f"""
import replicas, tensorflow as tf
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
try:
    replicas.trained(strategy, "RMDA", **{arguments!r})
except ValueError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, cwd=HERE)
    assert sentence in result.stdout, result.stderr[-2000:]
