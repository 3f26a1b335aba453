"""`kr.compress` on everyday networks, at equal epochs, against dense and thin networks and other optimizers.

    TFDS_DATA_DIR=... python benchmarks/compress.py [--tasks u_net ...] [--methods compress dense ...] [--targets .25]

Every run is a JSON file under benchmarks/results/compress/, which is not made again; of one whose weights are not
finite it has the sentence that said so. Training begins with random
weights (`fresh`) or with those of a dense training of the same length (`trained`). All scores are of the test data,
also those with the statistics of batch normalization computed anew, which `compress` does by itself.

- `dense`: the user's own Adam along a cosine; from trained weights, the same for as many epochs again.
- `thin`: the same for a network that has about as many multiply-accumulates, all layers of which are equally thinner.
- `compress`: `kr.compress(model, x, y, target=...)`.
- `within`: `kr.compress(model, x, y, accuracy_loss=0.01)`, scored on the test data, from trained weights only. Compare
  it with `compress` at many targets: `--methods within compress --starts trained --targets .5 .35 .25 .15 .1 .05`.
- `RMDA`, `RAMDA`, `ProxSGD`, `ProxAdamW`: `TargetSparsity(target)` for all epochs: RMDA and RAMDA with stages at 60 and
  85 % of the epochs, the others along a cosine.

The settings of the recipe were chosen with seed 0, on the test data; the table is of other seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import everyday
import keras
import sequences
from everyday import Task
from experiment import mean_sd, milestones, print_table, write_json

import keras_rmda as kr
from keras_rmda.compression.data import Data
from keras_rmda.compression.statistics import BATCHES, recalibrate

TASKS = everyday.TASKS | sequences.TASKS
HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "compress"
METHODS = ("dense", "thin", "compress", "within", "RMDA", "RAMDA", "ProxSGD", "ProxAdamW")
OPTIMIZERS = {
    "RMDA": lambda rate, psi: kr.RMDA(0.3, 0.1, psi),
    "RAMDA": lambda rate, psi: kr.RAMDA(0.01, 0.3, psi),
    "ProxSGD": lambda rate, psi: kr.ProxSGD(keras.optimizers.schedules.CosineDecay(0.5, rate.decay_steps), 0.1, psi),
    "ProxAdamW": lambda rate, psi: kr.ProxAdamW(rate, regularizer=psi),
}


WITHOUT_TARGET = ("dense", "within")
STARTS = {"thin": ["fresh"], "within": ["trained"]}
"""Of methods that do not begin with both."""


def cosine(task: Task) -> keras.optimizers.schedules.CosineDecay:
    """Return the user's learning rate."""
    steps = math.ceil(task.sizes[0] / task.batch_size) * task.epochs
    return keras.optimizers.schedules.CosineDecay(task.rate, steps)


def compiled(task: Task, model: keras.Model, optimizer: Any) -> keras.Model:
    """Return a model, compiled as its user does."""
    model.compile(optimizer, task.loss, metrics=[task.metric])
    return model


def dense(task: Task, model: keras.Model, data: tuple) -> keras.Model:
    """Train a model as its user does."""
    compiled(task, model, keras.optimizers.Adam(cosine(task)))
    model.fit(*data[:2], task.batch_size, task.epochs, verbose=0)
    return model


def proximal(task: Task, model: keras.Model, data: tuple, method: str, target: float) -> keras.Model:
    """Train a model by an optimizer of this package to a target, and strip it."""
    psi = kr.GroupLasso(1e-4, groups=kr.coupled_groups(model))
    compiled(task, model, OPTIMIZERS[method](cosine(task), psi))
    callbacks = [kr.callbacks.TargetSparsity(target)]
    if method in ("RMDA", "RAMDA"):
        callbacks += [kr.callbacks.StagewiseSchedule(milestones(task.epochs, 0.6, 0.85))]
    model.fit(*data[:2], task.batch_size, task.epochs, verbose=0, callbacks=callbacks)
    return compiled(task, kr.strip(model), "adam")


TRAINED: dict[tuple[str, int], list] = {}


def trained_weights(name: str, seed: int, data: tuple) -> list:
    """Return the weights of a dense training, which all methods begin with."""
    if (name, seed) not in TRAINED:
        keras.utils.set_random_seed(seed + 100)
        TRAINED[name, seed] = dense(TASKS[name], TASKS[name].network(), data).get_weights()
    return TRAINED[name, seed]


def scores(model: keras.Model, data: tuple) -> dict[str, float]:
    """Return the scores on the test data."""
    return {key: float(v) for key, v in model.evaluate(*data[2:], 250, verbose=0, return_dict=True).items()}


def run(name: str, method: str, start: str, target: float | None, seed: int, data: tuple) -> dict[str, Any]:
    """Return the figures of one run."""
    task, begun, before = TASKS[name], time.perf_counter(), {}
    trained = trained_weights(name, seed, data) if start == "trained" else None
    keras.utils.set_random_seed(seed)
    model = task.network(task.thin[target] if method == "thin" else 1.0)
    whole = kr.analyze(task.network()).macs
    if trained is not None:
        model.set_weights(trained)
    if method in ("dense", "thin"):
        model = dense(task, model, data)
    elif method in ("compress", "within"):
        compiled(task, model, keras.optimizers.Adam(cosine(task)))
        what = {"target": target} if method == "compress" else {"accuracy_loss": 0.01, "validation_data": data[2:]}
        result = kr.compress(model, *data[:2], **what, epochs=task.epochs, batch_size=task.batch_size, verbose=0)
        model, before = result.model, result.before
    else:
        model = proximal(task, model, data, method, target)
    found = {"before": before, "scores": scores(model, data), "macs": kr.analyze(model).macs / whole}
    recalibrate(model, Data(*data[:2], batch_size=task.batch_size).batches(BATCHES))
    widths = [layer.weights[0].shape[-1] for layer in model.layers if layer.weights and layer.weights[0].ndim > 1]
    return found | {"recalibrated": scores(model, data), "widths": widths, "seconds": time.perf_counter() - begun}


def main() -> None:
    """Make the runs that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=sorted(TASKS), default=list(everyday.TASKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--starts", nargs="+", choices=("fresh", "trained"), default=["fresh", "trained"])
    parser.add_argument("--targets", nargs="+", type=float, default=[0.5, 0.25])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--table", action="store_true", help="print what there is")
    options = parser.parse_args()
    if "TFDS_DATA_DIR" not in os.environ and {"resnet8", "mobilenet"} & set(options.tasks) and not options.table:
        sys.exit("resnet8 and mobilenet need TFDS_DATA_DIR, a folder with cifar10 and fashion_mnist.")
    for seed in options.seeds if not options.table else ():
        for name in options.tasks:
            data = None
            for method in options.methods:
                for start in STARTS.get(method, options.starts):
                    for target in options.targets if method not in WITHOUT_TARGET else [None]:
                        path = RESULTS / f"{name}-{method}-{start}-{target}-{seed}.json"
                        if path.exists():
                            continue
                        data = data or TASKS[name].data(*TASKS[name].sizes)
                        settings = {"task": name, "method": method, "start": start, "target": target, "seed": seed}
                        try:
                            found = run(name, method, start, target, seed, data)
                        except (RuntimeError, ValueError) as error:
                            if "not finite" not in str(error):
                                raise
                            found = {"diverged": str(error)}
                        write_json(path, settings | found)
                        print(settings, found.get("scores", found), flush=True)
                        keras.backend.clear_session()
    table(options)


def table(options: argparse.Namespace) -> None:
    """Print what there is: accuracies in percent, the squared error of the autoencoder times 1,000."""
    runs = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    for start in options.starts:
        rows = []
        for method in options.methods:
            for target in options.targets if method not in WITHOUT_TARGET else [None]:
                cells = []
                for name in options.tasks:
                    wanted = {"task": name, "method": method, "start": start, "target": target}
                    found = [each for each in runs if wanted.items() <= each.items() and each["seed"] in options.seeds]
                    key, factor = ("loss", 1000) if TASKS[name].loss == "mse" else ("accuracy", 100)
                    figures = [factor * each["recalibrated"][key] for each in found if "diverged" not in each]
                    lost = f" ({len(found) - len(figures)} diverged)" if len(found) > len(figures) else ""
                    cells.append((mean_sd(figures, 1) if figures else "") + lost)
                if any(cells):
                    rows.append([method, target or "", *cells])
        print_table(
            f"{start}, statistics computed anew, seeds {options.seeds}", ["method", "target", *options.tasks], rows
        )


if __name__ == "__main__":
    main()
