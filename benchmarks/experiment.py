"""What the benchmarks share: the data, runs that survive being killed, the command line and tables.

A run is one training of one method with one seed and one set of settings. It ends as one JSON file under
`benchmarks/results/` and is then never made again. Until then, every epoch leaves the model (with its optimizer) and
the history in `benchmarks/scratch/`, and the same command goes on from there. A continued run sees its images in
another order than an unbroken one would; its file names the epochs at which that happened, in `continued_at`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

import keras_rmda as kr

if TYPE_CHECKING:
    import tensorflow as tf

HERE = Path(__file__).resolve().parent
SMALL_IMAGES, SMALL_EPOCHS = 512, 2
warnings.filterwarnings("error", message="These patterns match no trainable variable")


@dataclass(frozen=True)
class Data:
    """Images of shape (n, 28, 28, 1), with values in [0, 1] as loaded, and their classes 0 to 9."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    def first(self, n: int) -> Data:
        """Return the first `n` images of each part."""
        return Data(self.x[:n], self.y[:n], self.x_test[:n], self.y_test[:n])

    def standardized(self, mean: float, deviation: float) -> Data:
        """Return the same with pixels of mean 0 and deviation 1."""
        return Data((self.x - mean) / deviation, self.y, (self.x_test - mean) / deviation, self.y_test)

    def held_out(self, n: int) -> Data:
        """Return the training images with the last `n` of them in the place of the test images."""
        return Data(self.x[:-n], self.y[:-n], self.x[-n:], self.y[-n:])


def fashion_mnist() -> Data:
    """Load Fashion-MNIST as TensorFlow Datasets has prepared it in `TFDS_DATA_DIR`; nothing is downloaded."""
    return prepared("fashion_mnist")


def cifar10() -> Data:
    """Load CIFAR-10, of shape (n, 32, 32, 3), in the same way."""
    return prepared("cifar10")


def prepared(name: str) -> Data:
    """Load a data set as TensorFlow Datasets has prepared it in `TFDS_DATA_DIR`.

    Raises:
        SystemExit: with one sentence and status 1, if it is not prepared there.
    """
    import tensorflow_datasets as tfds

    folder = os.environ.get("TFDS_DATA_DIR")
    if not (folder and Path(tfds.builder(name, data_dir=folder).data_dir).is_dir()):
        sys.exit(f"TFDS_DATA_DIR must name a folder with the prepared data set {name}; it is {folder!r}.")
    builder = tfds.builder(name, data_dir=folder)
    parts = [tfds.as_numpy(builder.as_dataset(split, batch_size=-1)) for split in ("train", "test")]
    (x, y), (x_test, y_test) = ((part["image"].astype("float32") / 255.0, part["label"]) for part in parts)
    return Data(x, y, x_test, y_test)


@dataclass(frozen=True)
class Experiment:
    """One benchmark: its name, its data, and where its runs are kept.

    Attributes:
        name: the script's name, also of its folder of results.
        arguments: the command line's.
        data: all images, or the first of them with `--small`.
        results: the folder of finished runs.
        scratch: the folder of unfinished ones.
    """

    name: str
    arguments: argparse.Namespace
    data: Data
    results: Path
    scratch: Path

    @classmethod
    def start(
        cls, script: str, parser: argparse.ArgumentParser, load: Callable[[], Data] = fashion_mnist
    ) -> Experiment:
        """Read the command line, load the data; a run with `--small` begins anew and leaves no results."""
        arguments = parser.parse_args()
        name, data, scratch = Path(script).stem, load(), HERE / "scratch"
        if not arguments.small:
            return cls(name, arguments, data, HERE / "results" / name, scratch / name)
        arguments.epochs, arguments.seeds = SMALL_EPOCHS, arguments.seeds[:1]
        small = scratch / "small" / name
        shutil.rmtree(small, ignore_errors=True)
        return cls(name, arguments, data.first(SMALL_IMAGES), small / "results", small / "runs")

    def selected(self, names: Iterable[str]) -> list[str]:
        """Return those of `names` that `--only` leaves."""
        return [name for name in names if not self.arguments.only or name in self.arguments.only]

    def once(self, method: str, seed: int, settings: Mapping[str, Any], make: Callable[[Path], dict]) -> dict[str, Any]:
        """Return the finished run from its file, or make it: `make` gets its scratch folder and returns its numbers."""
        digest = hashlib.sha1(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
        name = f"{method}-seed{seed}-{digest}"
        path, folder = self.results / f"{name}.json", self.scratch / name
        if path.exists():
            return json.loads(path.read_text())
        folder.mkdir(parents=True, exist_ok=True)
        head = {"script": self.name, "method": method, "seed": seed, "settings": dict(settings)}
        result = head | make(folder) | {"versions": versions()}
        write_json(path, result)
        shutil.rmtree(folder)
        shown = ", ".join(f"{key} {value:.6g}" for key, value in result["final"].items() if isinstance(value, float))
        print(f"{method} seed {seed} {dict(settings)}: {shown} ({result['seconds']:.0f} s)", flush=True)
        return result

    def train(
        self,
        method: str,
        seed: int,
        settings: Mapping[str, Any],
        make: Callable[[], keras.Model],
        finish: Callable[[keras.Model], dict[str, Any]],
        callbacks: Sequence[keras.callbacks.Callback] = (),
        begin: Callable[[keras.Model], None] | None = None,
    ) -> dict[str, Any]:
        """Return a finished training, or make or continue it.

        Args:
            method: its name in tables and files.
            seed: of weights and order of images.
            settings: all that tells this run from others; `epochs` and `batch_size` are used here.
            make: makes the compiled model, after the seed is set.
            finish: takes the model after `fit`, returns the final numbers.
            callbacks: of `fit`; what they put into the logs is in the history.
            begin: changes the model, made or loaded to be continued, before `fit`.

        Returns:
            The content of the run's file.
        """

        def run(folder: Path) -> dict[str, Any]:
            recorder = Recorder(folder, f"{method} seed {seed}", settings["epochs"])
            keras.utils.set_random_seed(seed + 1000 * recorder.epoch)
            model = recorder.model_to_continue() or make()
            if begin:
                begin(model)
            for each in callbacks:
                if isinstance(each, Plateau):
                    each.history = recorder.state["history"]
            model.fit(
                shuffled(self.data, settings["batch_size"], seed + 1000 * recorder.epoch),
                epochs=settings["epochs"],
                initial_epoch=recorder.epoch,
                validation_data=(self.data.x_test, self.data.y_test),
                validation_batch_size=1000,
                callbacks=[*callbacks, recorder],
                verbose=0,
            )
            state = recorder.state
            return {key: state[key] for key in ("history", "seconds", "continued_at")} | {"final": finish(model)}

        return self.once(method, seed, settings, run)


class Recorder(keras.callbacks.Callback):
    """Leave model and history in a folder after every epoch; must come last among the callbacks."""

    def __init__(self, folder: Path, name: str, epochs: int):
        super().__init__()
        self.folder, self.name, self.epochs = folder, name, epochs
        self.file = folder / "state.json"
        self.state = {"epoch": 0, "history": {}, "seconds": 0.0, "continued_at": []}
        if self.file.exists():
            self.state = json.loads(self.file.read_text())
            self.state["continued_at"].append(self.epoch)

    @property
    def epoch(self) -> int:
        """The number of finished epochs."""
        return self.state["epoch"]

    def model_to_continue(self) -> keras.Model | None:
        """Return the model of the last epoch, or None at the beginning."""
        return keras.models.load_model(self._model_file(self.epoch)) if self.epoch else None

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Write the model, then the state that names it, then forget the model before."""
        for key, value in (logs or {}).items():
            self.state["history"].setdefault(key.replace("val_", "test_"), []).append(short(value))
        seconds = time.perf_counter() - self._start
        self.state |= {"epoch": epoch + 1, "seconds": self.state["seconds"] + seconds}
        self.model.save(self._model_file(epoch + 1))
        write_json(self.file, self.state)
        for file in set(self.folder.glob("*.keras")) - {self._model_file(epoch + 1)}:
            file.unlink()
        if seconds > 5:
            shown = ", ".join(f"{k} {v[-1]:.4g}" for k, v in self.state["history"].items() if isinstance(v[-1], float))
            print(f"{self.name} epoch {epoch + 1}/{self.epochs}: {shown} ({seconds:.0f} s)", flush=True)

    def _model_file(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch}.keras"


class Plateau(keras.callbacks.Callback):
    """Multiply the learning rate by `factor` where `monitor` has not fallen for more than `patience` epochs.

    To fall is to become less than (1 - threshold) times the least so far: the rule of PyTorch's ReduceLROnPlateau. It
    is gone through anew from the history on disk, so that a run that was killed goes on as it was.
    """

    def __init__(self, monitor: str, factor: float, patience: int, threshold: float):
        super().__init__()
        self.monitor, self.factor, self.patience, self.threshold = monitor, factor, patience, threshold
        self.history: Mapping[str, list[float]] = {}

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Set the rate, from that of the first epoch."""
        if not self.history:
            self.first = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        first = self.history.get("learning_rate", [getattr(self, "first", None)])[0]
        self.model.optimizer.learning_rate = first * self.factor ** self.falls(self.history.get(self.monitor, []))

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Put the rate into the logs."""
        logs["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def falls(self, values: Sequence[float]) -> int:
        """Return how many times the rate has fallen after these values."""
        least, waited, count = float("inf"), 0, 0
        for value in values:
            waited = 0 if value < least * (1 - self.threshold) else waited + 1
            least = min(least, value) if waited == 0 else least
            if waited > self.patience:
                waited, count = 0, count + 1
        return count


def command_line(description: str, methods: Sequence[str], epochs: int) -> argparse.ArgumentParser:
    """Return the parser that all benchmarks share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--only", nargs="+", choices=methods, metavar="NAME", help=f"of: {', '.join(methods)}")
    parser.add_argument("--small", action="store_true", help="a smoke test: 512 images, 2 epochs, no results kept")
    return parser


def run_all(
    experiment: Experiment,
    methods: Iterable[str],
    train: Callable[[Experiment, str, int], dict[str, Any]],
    titles: Mapping[str, str],
) -> None:
    """Make all runs, and print a table of their final numbers, which are shares, in percent.

    Args:
        experiment: the benchmark.
        methods: names, from which `--only` chooses.
        train: returns a run, by experiment, method and seed.
        titles: for each final number that is shown, the title of its column.
    """
    rows = []
    for method in experiment.selected(methods):
        runs = [train(experiment, method, seed) for seed in experiment.arguments.seeds]
        final = [percent([run["final"][key] for run in runs]) for key in titles]
        rows.append([method, *final, f"{sum(run['seconds'] for run in runs) / len(runs):.0f}"])
    header = ["method", *(f"{title} %" for title in titles.values()), "seconds"]
    print_table(f"{experiment.arguments.epochs} epochs, seeds {experiment.arguments.seeds}", header, rows)


def milestones(epochs: int, *shares: float) -> list[int]:
    """Return the epochs, at least 1 and increasing, before which stages begin: `epochs` times each share."""
    return sorted({max(1, int(epochs * share + 1e-9)) for share in shares})


def shuffled(data: Data, batch_size: int, seed: int) -> tf.data.Dataset | keras.utils.PyDataset:
    """Return the training data in batches, in another order in every epoch.

    (`fit` on arrays repeats one order in all epochs after `keras.utils.set_random_seed`.)
    """
    if keras.backend.backend() != "tensorflow":
        return Shuffled(data, batch_size, seed)
    import tensorflow as tf

    x, y = tf.constant(data.x), tf.constant(data.y)
    order = tf.data.Dataset.range(len(data.x)).shuffle(len(data.x), seed, reshuffle_each_iteration=True)
    return order.batch(batch_size).map(lambda i: (tf.gather(x, i), tf.gather(y, i))).prefetch(2)


class Shuffled(keras.utils.PyDataset):
    """What `shuffled` returns where TensorFlow may be missing: the images stay on the device."""

    def __init__(self, data: Data, batch_size: int, seed: int):
        super().__init__()
        self.arrays = [keras.ops.convert_to_tensor(part) for part in (data.x, data.y)]
        self.batch_size, self.random = batch_size, np.random.default_rng(seed)
        self.on_epoch_end()

    def on_epoch_end(self) -> None:
        """Choose another order."""
        self.order = self.random.permutation(len(self.arrays[0])).astype("int32")

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def __getitem__(self, batch: int) -> tuple[Any, Any]:
        chosen = self.order[batch * self.batch_size : (batch + 1) * self.batch_size]
        x, y = (keras.ops.take(part, chosen, axis=0) for part in self.arrays)
        return x, y


def steps_per_epoch(data: Data, batch_size: int) -> int:
    """Return the number of batches of an epoch, the last one incomplete."""
    return -(-len(data.x) // batch_size)


def decayed(learning_rate: float, at: Sequence[int], steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Return a learning rate that is divided by 10 before each epoch of `at`."""
    return keras.optimizers.schedules.PiecewiseConstantDecay(*decayed_values(learning_rate, at, steps))


def decayed_values(learning_rate: float, at: Sequence[int], steps: int) -> tuple[list[int], list[float]]:
    """Return the last steps of all stages but one, and the learning rates of all."""
    return [epoch * steps - 1 for epoch in at], [learning_rate * 0.1**k for k in range(len(at) + 1)]


def accuracy(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    """Return the share of right classes."""
    return float(np.mean(np.argmax(model.predict(x, 1000, verbose=0), -1) == y))


def zero_share(weights: Iterable[np.ndarray]) -> float:
    """Return the share of zeros in the kernels among a model's weights."""
    kernels = [w for w in weights if w.ndim > 1]
    return float(sum((w == 0).sum() for w in kernels) / sum(w.size for w in kernels))


def short(value: Any) -> Any:
    """Return numbers with six digits, other values as they are."""
    return float(f"{float(value):.6g}") if isinstance(value, (float, np.floating)) else value


def versions() -> dict[str, str]:
    """Return the versions that the numbers depend on."""
    return {
        "python": platform.python_version(),
        "keras": keras.__version__,
        keras.backend.backend(): metadata.version(keras.backend.backend()),
        "keras_rmda": kr.__version__,
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file that is either whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, path)


def percent(values: Iterable[float], digits: int = 2) -> str:
    """Return the mean and the standard deviation of fractions, as percentages."""
    return mean_sd([100.0 * value for value in values], digits)


def mean_sd(values: Sequence[float], digits: int = 2) -> str:
    """Return `mean ± standard deviation`, the latter with n - 1 and only of two values and more."""
    mean = f"{statistics.fmean(values):,.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):,.{digits}f}"


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    print("\n".join([f"\n{title}\n", *(f"| {' | '.join(map(str, line))} |" for line in lines)]), flush=True)
