"""Memory of a training before and after `kr.shrink`: `python benchmarks/shrink_memory.py [--tasks resnet20 ...]`.

Each task is a process. It trains the networks of compress_time.py until TargetSparsity has chosen a quarter of the
multiply-accumulates, saves the large model and the small one, and starts a process for each, which trains it for some
steps. The figures are the resident memory of those, at its peak while training, beyond what the process had before it
loaded the model: weights, state of the optimizer, gradients, activations, and what TensorFlow keeps of them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from compress_time import TASKS
from experiment import print_table

import keras_rmda as kr

STEPS, MIB = 12, 2**20


def resident() -> int:
    """Return the bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def data_of(name: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Return inputs and classes of some steps, and the batch size."""
    _, data, _, batch_size = TASKS[name]
    return data(STEPS * batch_size), np.random.default_rng(1).integers(0, 10, STEPS * batch_size), batch_size


def measure(name: str, path: str) -> None:
    """Print the MiB that a training of a saved model takes at its peak, beyond what there was before."""
    x, y, batch_size = data_of(name)
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).predict(
        np.zeros((1, 4)), verbose=0
    )  # starts TensorFlow
    before, peak, ended = resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.005):
            peak = max(peak, resident())

    thread = threading.Thread(target=watch)
    thread.start()
    keras.saving.load_model(path).fit(x, y, batch_size=batch_size, epochs=2, verbose=0)
    ended.set()
    thread.join()
    print(f"MiB {(peak - before) / MIB:.0f}")


def run(name: str) -> list[str]:
    """Return the row of a task."""
    keras.utils.set_random_seed(0)
    model, (x, y, batch_size) = TASKS[name][0](), data_of(name)
    psi = kr.GroupLasso(1e-6, groups=kr.coupled_groups(model))
    model.compile(kr.ProxAdamW(1e-3, regularizer=psi), "sparse_categorical_crossentropy")
    target = kr.callbacks.TargetSparsity(0.25, end=0.5)
    model.fit(x, y, batch_size=batch_size, epochs=4, verbose=0, callbacks=[target])
    small = kr.shrink(model)
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for each, title in ((model, "large"), (small, "small")):
            path = str(Path(folder) / f"{title}.keras")
            each.save(path)
            command = [sys.executable, __file__, "--tasks", name, "--measure", path]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found.append(int(output.split()[-1]))
    sizes = [each.count_params() for each in (model, small)]
    numbers = [sum(np.prod(v.shape) for v in each.optimizer.variables) for each in (model, small)]
    return [name, *(f"{n:,.0f}" for n in (*sizes, *numbers, *found)), f"{found[1] / found[0]:.2f}"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=sorted(TASKS), default=list(TASKS))
    parser.add_argument("--measure", metavar="MODEL", help="(what a process is started with)")
    options = parser.parse_args()
    if options.measure:
        measure(options.tasks[0], options.measure)
        raise SystemExit
    titles = ("parameters", "after", "numbers of the optimizer", "after", "MiB", "after", "share")
    print_table(
        "Memory of a training before and after the cut", ["task", *titles], [run(name) for name in options.tasks]
    )
