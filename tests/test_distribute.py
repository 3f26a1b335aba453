"""Training on several replicas, in several processes.

Over a minute, since each case traces its training in processes of its own, and workers wait for each other.
"""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import multi_worker
import numpy as np
import processes
import pytest
from backend import only_tensorflow
from replicas import CASES

import keras_rmda as kr

HERE = Path(__file__).parent
pytestmark = only_tensorflow


@pytest.mark.parametrize("case", CASES)
def test_two_replicas_equal_one_process(case):
    result = processes.run(HERE / "replicas.py", case)
    assert result.returncode == 0, result.stderr[-2000:]
    assert float(result.stdout.splitlines()[-1]) < 1e-5


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
import replicas
try:
    replicas.trained(replicas.two_replicas(), "RMDA", **{arguments!r})
except ValueError as error:
    print(error)
"""
    result = processes.run("-c", code, cwd=HERE)
    assert sentence in result.stdout, result.stderr[-2000:]


# ---- several workers

EXAMPLES = Path(multi_worker.__file__).parent
TRAININGS = {
    "tensorflow": ["multi_worker.py", "--engine", "tensorflow"],
    "jax": ["multi_worker.py", "--engine", "jax"],
    "custom": ["custom_loop.py", "--epochs", "3"],  # later, rounding decides whether a channel of it dies
}

is_old = tuple(int(part) for part in keras.__version__.split(".")[:2]) < (3, 15)
wants_datasets = pytest.mark.skipif(is_old, reason="older Keras wants a tf.data.Dataset in several processes on JAX")
JAX = pytest.param("jax", marks=wants_datasets)
every_training = pytest.mark.parametrize("training", ["tensorflow", JAX, "custom"])
every_fit = pytest.mark.parametrize("training", ["tensorflow", JAX])


def start(training, folder, workers=2):
    """Start workers as a user does."""
    script, *arguments = TRAININGS[training]
    command = [sys.executable, str(EXAMPLES / script), str(folder), "--workers", str(workers), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def said_by(training, folder, workers=2):
    """Return what workers have said when they have ended, each of which must succeed."""
    if training == "jax":
        said, errors = (process := start(training, folder, workers)).communicate(timeout=600)
        assert process.returncode == 0, errors[-2000:]
        return said
    script, *arguments = TRAININGS[training]
    return "".join(each.stdout for each in ended(workers, EXAMPLES / script, folder, *arguments))


def ended(workers, *program):
    """Return the results of workers on TensorFlow, started without the seconds that their imports take."""
    addresses = [f"127.0.0.1:{port}" for port in multi_worker.free_ports(workers)]
    running = []
    for rank in range(workers):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}}
        running.append(processes.Program(*program, env=os.environ | {"TF_CONFIG": json.dumps(task)}))
    results = [each.wait(timeout=120) for each in running]
    assert not any(each.returncode for each in results), "".join(each.stderr[-2000:] for each in results)
    return results


def weights_in(folder):
    return list(np.load(folder / "weights.npz").values())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What two workers say and write, trained once in each way."""
    done = {}

    def train(training):
        if training not in done:
            folder = tmp_path_factory.mktemp(training)
            done[training] = folder, said_by(training, folder)
        return done[training]

    return train


@every_training
def test_two_workers_equal_one(training, trained, tmp_path):
    folder, said = trained(training)
    ends = {re.sub(r"\[worker \d\] ", "", line) for line in said.splitlines() if re.search("weights|strengths", line)}
    assert len(ends) == 2, said  # both workers say the same two lines: weights, strengths and learning rate agree
    said_by(training, tmp_path, workers=1)
    for a, b in zip(weights_in(folder), weights_in(tmp_path), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    if training != "custom":
        logs = [np.genfromtxt(each / "log.csv", delimiter=",", names=True) for each in (folder, tmp_path)]
        for name in logs[0].dtype.names:
            np.testing.assert_allclose(*(log[name] for log in logs), rtol=1e-4, err_msg=name)


@every_fit
def test_one_worker_writes(training, trained):
    folder, _ = trained(training)
    assert {path.name for path in folder.iterdir()} == {"log.csv", "model.keras", "small.keras", "weights.npz"}
    assert (folder / "log.csv").read_text().count("epoch") == 1
    small, model = (keras.models.load_model(folder / f"{name}.keras") for name in ("small", "model"))
    assert kr.analyze(small).macs < 0.6 * kr.analyze(model).macs


@every_fit
def test_a_worker_is_killed_and_all_are_started_again(training, trained, tmp_path):
    workers = start(training, tmp_path)
    process = None
    for line in workers.stdout:
        process = int(line.split()[-1]) if line.startswith("[worker 1] process") else process
        if "[worker 1] epoch 3" in line:
            os.kill(process, signal.SIGKILL)
    assert workers.wait(timeout=60) == 1
    copies = [int(path.name[-6:]) for path in (tmp_path / "backup").glob("epoch-*")]
    assert 3 <= max(copies) < 8, copies  # two of them, if it was killed between a new one and the end of the old one
    assert "epoch 0" not in said_by(training, tmp_path)
    for a, b in zip(weights_in(tmp_path), weights_in(trained(training)[0]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def with_example(code, folder):
    """Return a script that has imported the example."""
    script = folder / "script.py"
    start = f"import json, os, sys\nsys.path.insert(0, {str(EXAMPLES)!r})\nimport multi_worker\n"
    script.write_text(start + code)
    return script


@every_fit
def test_workers_that_see_different_copies_do_not_train(training, tmp_path):
    code = """
def apart(epochs, folder, steering=multi_worker.steering):
    folder = folder / str(json.loads(os.environ["TF_CONFIG"])["task"]["index"])
    folder.mkdir(exist_ok=True)
    return steering(epochs, folder)
multi_worker.steering = apart
multi_worker.main("apart", {"tensorflow": multi_worker.train_tensorflow, "jax": multi_worker.train_jax})
"""
    (tmp_path / "0" / "backup" / "epoch-000003").mkdir(parents=True)  # for one of them
    command = [sys.executable, str(with_example(code, tmp_path)), str(tmp_path), "--engine", training]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 1
    assert "The workers see different copies" in result.stderr, result.stderr[-2000:]


def test_validation_evaluation_and_prediction_work_too(tmp_path):
    code = """
import tensorflow as tf
import keras_rmda as kr
def train(options, rank):
    kr.distribute.enable_fit()
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        model = multi_worker.compiled()
    data, (x, y) = multi_worker.dataset(), multi_worker.images()
    history = model.fit(data, epochs=1, verbose=0, validation_data=data).history
    predicted = (model.predict(data.map(lambda x, y: x), verbose=0).argmax(-1) == y).mean()
    projected = (model(x).numpy().argmax(-1) == y).mean()
    evaluated = model.evaluate(data, verbose=0, return_dict=True)["accuracy"]
    print("FOUND", *history["val_accuracy"], evaluated, predicted, projected)
    return model, kr.distribute.is_chief(strategy)
multi_worker.main("evaluation", {"tensorflow": train})
"""
    said = "".join(each.stdout for each in ended(2, with_example(code, tmp_path), tmp_path))
    found = [[float(part) for part in line.split()[1:]] for line in said.splitlines() if "FOUND" in line]
    assert len(found) == 2
    assert found[0] == found[1]
    validated, *others = found[0]
    assert others == pytest.approx([others[0]] * 3, abs=1e-6)  # of the weights that `fit` has projected
    assert validated > 0.3


def worker(kind, number, **cluster):
    """Return what tells a strategy's worker."""
    import tensorflow as tf

    cluster = tf.train.ClusterSpec({name: [f"host{k}:1" for k in range(n)] for name, n in cluster.items()})
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(cluster, task_type=kind, task_id=number)
    return SimpleNamespace(cluster_resolver=resolver)


def test_the_chief_is_the_chief_or_the_first_worker():
    assert kr.distribute.is_chief()
    assert kr.distribute.is_chief(worker("worker", 0, worker=2))
    assert not kr.distribute.is_chief(worker("worker", 1, worker=2))
    assert kr.distribute.is_chief(worker("chief", 0, worker=2, chief=1))
    assert not kr.distribute.is_chief(worker("worker", 0, worker=2, chief=1))


def test_callbacks_that_write_are_for_the_chief(tmp_path):
    path = str(tmp_path / "x")
    callbacks = [kr.callbacks.BackupAndRestore(path), keras.callbacks.CSVLogger(path), kr.callbacks.TargetSparsity(0.5)]
    assert kr.distribute.callbacks(callbacks, worker("worker", 0, worker=2)) == callbacks
    assert kr.distribute.callbacks(callbacks, worker("worker", 1, worker=2)) == [callbacks[0], callbacks[2]]
    with pytest.raises(ValueError, match=r"keras_rmda.callbacks.BackupAndRestore does not.*Received: BackupAndRestore"):
        kr.distribute.callbacks([keras.callbacks.BackupAndRestore(path)])


@pytest.mark.parametrize("version", ["3.7.0", "3.99.0", "4.0.0"])
def test_other_versions_of_keras_are_refused(version, monkeypatch):
    monkeypatch.setattr(keras, "__version__", version)
    with pytest.raises(RuntimeError, match=f"examples/custom_loop.py. Received: keras {version}"):
        kr.distribute.enable_fit()


def test_other_backends_are_told_what_they_have(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match=r"DataParallel.*Received: backend='jax'"):
        kr.distribute.enable_fit()
