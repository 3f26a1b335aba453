"""Trainings that are killed and started again, beside one that is not.

    python tests/survival.py --kills 20 [--callback keras]

starts a training in a process of its own, kills it at a random moment (every second time while it writes), starts it
again, and compares weights, state of the optimizer, decisions and solution path at its end with those of a training
that ran through. `--callback` says whose BackupAndRestore is used, and whether it is the first of all callbacks.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from pathlib import Path

import numpy as np
from processes import Program

EPOCHS, BATCHES = 24, 12


def train(folder: Path, callback: str, dropout: float) -> None:
    """Train to the end, go on where a training that was killed has stopped, and write what came out."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    import keras_rmda as kr

    class Shuffled(keras.utils.PyDataset):
        """Batches in an order that depends on the number of the epoch alone."""

        def __init__(self) -> None:
            super().__init__()
            rng = np.random.default_rng(0)
            self.x = rng.normal(size=(BATCHES * 16, 8)).astype("float32")
            self.y = np.tanh(self.x @ rng.normal(size=(8, 3))).astype("float32")
            self.shuffle(0)

        def shuffle(self, epoch: int) -> None:
            self.order = np.random.default_rng(epoch).permutation(len(self.x)).reshape(BATCHES, 16)

        def __len__(self) -> int:
            return BATCHES

        def __getitem__(self, batch: int) -> tuple[np.ndarray, np.ndarray]:
            return self.x[self.order[batch]], self.y[self.order[batch]]

    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    x = keras.layers.Dense(32, "relu")(inputs)
    x = keras.layers.Dropout(dropout, seed=1)(x)
    x = keras.layers.Add()([x, keras.layers.Dense(32)(x)])
    x = keras.layers.BatchNormalization(momentum=0.9)(x)
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    psi = kr.GroupLasso(1e-3, groups=kr.coupled_groups(model))
    model.compile(kr.RMDA(0.1, 0.5, psi), "mse")
    data, path = Shuffled(), kr.callbacks.SolutionPath()
    steering = [
        keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: data.shuffle(epoch)),
        kr.callbacks.TargetSparsity(0.5, "groups", end=0.5),
        kr.callbacks.StagewiseSchedule([14, 20]),
        path,
    ]
    if callback == "none":
        backup = keras.callbacks.Callback()
    else:
        kind = keras.callbacks.BackupAndRestore if callback == "keras" else kr.callbacks.BackupAndRestore
        backup = told_when_it_writes(kind)(str(folder / "backup"))
    order = [backup, *steering] if callback.endswith("first") else [*steering, backup]
    print("ready", flush=True)
    model.fit(data, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=order)
    arrays = {f"weight {k}": value for k, value in enumerate(model.get_weights())}
    arrays |= {f"state {k}": keras.ops.convert_to_numpy(v) for k, v in enumerate(model.optimizer.variables)}
    arrays |= {f"entered {k}": value for k, value in enumerate(path.entered.values())}
    arrays |= {
        f"support {k} {n}": path.support(k)[name] for k in range(EPOCHS + 1) for n, name in enumerate(path.entered)
    }
    np.savez(folder / "result.npz", **arrays)


def told_when_it_writes(kind: type) -> type:
    """Return a callback that says when it begins to write."""

    class Told(kind):
        def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
            print("writing", epoch, flush=True)
            super().on_epoch_end(epoch, logs)

    return Told


def start(folder: Path, callback: str, dropout: float) -> Program:
    """Start a training in a process of its own."""
    return Program(__file__, "--train", folder, "--callback", callback, "--dropout", str(dropout))


def result(folder: Path, callback: str, dropout: float) -> dict[str, np.ndarray]:
    """Return what a training ends with.

    Raises:
        RuntimeError: if it fails, with the end of what it says.
    """
    ended = start(folder, callback, dropout).wait()
    if ended.returncode:
        raise RuntimeError(ended.stderr.strip().splitlines()[-1])
    return dict(np.load(folder / "result.npz"))


def kill_one(folder: Path, callback: str, dropout: float, rng: random.Random, while_it_writes: bool) -> str:
    """Start a training and kill it at a random moment; return when."""
    training = start(folder, callback, dropout)
    assert training.stdout.readline() == "ready\n", training.wait().stderr
    epoch = rng.randrange(EPOCHS - 1)
    for line in training.stdout:
        if line == f"writing {epoch}\n":
            break
    time.sleep(rng.uniform(0, 0.03 if while_it_writes else 0.3))
    training.kill()
    training.wait()
    return f"{'writing' if while_it_writes else 'after'} epoch {epoch}"


def difference(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    """Return the largest difference between two results."""
    if a.keys() != b.keys():
        return np.inf
    return max(float(np.abs(np.nan_to_num(a[key].astype(float) - b[key])).max(initial=0)) for key in a)


def survived(kills: int, callback: str, dropout: float = 0.1, seed: int = 0, say=print) -> int:
    """Return how many of so many trainings, each killed once, end as one that was not."""
    rng, count = random.Random(seed), 0
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "through").mkdir()
        expected = result(Path(name) / "through", "none", dropout)
        for k in range(kills):
            folder = Path(name) / str(k)
            folder.mkdir()
            when = kill_one(folder, callback, dropout, rng, while_it_writes=k % 2 == 0)
            try:
                found = difference(result(folder, callback, dropout), expected)
            except RuntimeError as error:
                found, when = np.inf, f"{when}: {error}"
            count += found <= 1e-6
            say(f"{k + 1}: killed {when}: difference {found:.1e}", flush=True)
    return count


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--callback", default="ours", choices=["ours", "ours first", "keras", "keras first", "none"])
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--train", type=Path, help="(what a process is started with)")
    options = parser.parse_args()
    if options.train:
        train(options.train, options.callback, options.dropout)
    else:
        count = survived(options.kills, options.callback, options.dropout, options.seed)
        print(f"{count} of {options.kills} ended as the training that was not killed, within 1e-6")
