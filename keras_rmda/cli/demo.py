"""The whole way in one command: train dense, compress, export, compare."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
from keras import layers as L

from keras_rmda.compression import compress
from keras_rmda.compression.progress import Progress
from keras_rmda.export import export_tflite
from keras_rmda.export.benchmark import interleaved
from keras_rmda.export.interpreter import Interpreter
from keras_rmda.platform import files
from keras_rmda.structure import Report, analyze, lift
from keras_rmda.structure.pictures import table

EPOCHS = 30
TARGET = 0.1
BATCH_SIZE = 32
RUNS = 200


@dataclass(frozen=True)
class Row:
    """One line of the demo's table.

    Attributes:
        accuracy: fraction of the test images classified correctly.
        parameters, macs: numbers of weights and of multiply-accumulates per image.
        bytes: of the `.keras` or `.tflite` file.
        latency_ms: median time for one image; `.tflite` files on one thread, Keras models on all.
        max_difference: greatest difference of an output to the model that it was made from; 0 for trained ones.
    """

    accuracy: float
    parameters: int
    macs: int
    bytes: int
    latency_ms: float
    max_difference: float


def network() -> keras.Model:
    """Return an untrained network: four convolutions with batch normalization, a dense head."""
    layers: list[Any] = [keras.Input((32, 32, 1), name="image")]
    for k, filters in enumerate((32, 64, 128, 256), start=1):
        layers += [
            L.Conv2D(filters, 3, padding="same", use_bias=False, name=f"conv{k}"),
            L.BatchNormalization(momentum=0.9, name=f"norm{k}"),
            L.ReLU(name=f"relu{k}"),
            L.GlobalAveragePooling2D(name="pool4") if k == 4 else L.MaxPooling2D(name=f"pool{k}"),
        ]
    layers += [L.Dense(256, activation="relu", name="hidden"), L.Dense(10, activation="softmax", name="digit")]
    return keras.Sequential(layers, name="digits")


def run(
    output: Path,
    seed: int = 0,
    epochs: int = EPOCHS,
    say: Callable[[str], None] = print,
    target_macs: float = TARGET,
) -> dict[str, Row]:
    """Run the demo and write its models, `report.json`, `history.json` and `demo.png` to a folder.

    Args:
        output: the folder; made if missing.
        seed: of initial weights and of the order of the data.
        epochs: for each of the two trainings.
        say: receives lines of progress.
        target_macs: multiply-accumulates that are to be left, a share or their number.

    Returns:
        The rows of the table by name.
    """
    from keras_rmda.datasets import digits

    output.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    say("preparing the digits")
    train, test = digits.load(str(output / "tfds"))

    def fresh() -> keras.Model:
        keras.utils.set_random_seed(seed)
        model = network()
        model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    dense, kept = fresh(), SimpleNamespace(model=None)
    steps = -(-len(train[0]) // BATCH_SIZE)
    rates = keras.optimizers.schedules.CosineDecay(1e-3, epochs * steps)
    dense.compile(keras.optimizers.Adam(rates), dense.loss, metrics=["accuracy"])
    dense_history = dense.fit(
        *train, BATCH_SIZE, epochs, verbose=0, validation_data=test, callbacks=[Progress(say=say, title="dense     ")]
    ).history
    result = compress(
        fresh(), *train, target=target_macs, epochs=epochs, batch_size=BATCH_SIZE, validation_data=test, verbose=0,
        callbacks=[FirstModel(kept), Progress(say=say, title="compressed", epochs=epochs)],
    )  # fmt: skip
    structured, stripped, history = kept.model, result.model, result.history
    lift(structured, stripped)
    say("exporting to TensorFlow Lite")
    models = {"dense": dense, "structured": structured, "stripped": stripped}
    for name, model in models.items():
        save_uncompiled(model, output / f"{name}.keras")
    export_tflite(dense, output / "tflite_dense.tflite", strip=False)
    export_tflite(stripped, output / "tflite_stripped.tflite")
    export_tflite(stripped, output / "tflite_stripped_int8.tflite", "int8", representative_data=train[0][:200])

    say("measuring")
    reports = {name: analyze(model) for name, model in models.items()}
    rows = measure(output, models, reports, test)
    facts = {"seed": seed, "epochs": epochs, "steps_per_epoch": steps, "cut_after": history["phase"].count("choose")}
    facts |= {"seconds": time.perf_counter() - start, "dense": dense_history, "structured": history}
    write_json(output / "report.json", {name: asdict(row) for name, row in rows.items()})
    write_json(output / "history.json", facts)
    draw(output / "demo.png", facts, reports["structured"])
    return rows


class FirstModel(keras.callbacks.Callback):
    """Keeps the first model that is trained: the whole one.

    Args:
        kept: gets it as `model`. An attribute of the callback would be lost: where the model gets smaller, `compress`
            lets callbacks that hold it begin anew.
    """

    def __init__(self, kept: SimpleNamespace):
        super().__init__()
        self._kept = kept

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Keep it."""
        self._kept.model = self._kept.model or self.model


def save_uncompiled(model: keras.Model, path: Path) -> None:
    """Save a model without its optimizer's state, which would make the trained ones look three times larger."""
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    with files.replacing(path) as temporary:
        copy.save(temporary)


def measure(
    output: Path, models: dict[str, keras.Model], reports: dict[str, Report], test: tuple[np.ndarray, np.ndarray]
) -> dict[str, Row]:
    """Return all rows: Keras models and the `.tflite` files in `output`, on the same test images."""
    images, labels = test
    sources = {"tflite_dense": "dense", "tflite_stripped": "stripped", "tflite_stripped_int8": "stripped"}
    files = {name: Interpreter(output / f"{name}.tflite") for name in sources}
    outputs = {name: model.predict(images, verbose=0) for name, model in models.items()}
    outputs |= {name: interpreter.predict(images) for name, interpreter in files.items()}
    sources |= {"dense": "dense", "structured": "structured", "stripped": "structured"}
    image = keras.ops.convert_to_tensor(images[:1])
    calls: list[Callable] = [lambda model=model: model.predict_on_batch(image) for model in models.values()]
    calls += [interpreter.invoke for interpreter in files.values()]
    for interpreter in files.values():
        interpreter.set_random_inputs()
    latencies = dict(zip(outputs, np.median(interleaved(calls, RUNS, warmup=20), axis=1)))
    rows = {}
    for name, output_values in outputs.items():
        file = output / (f"{name}.keras" if name in models else f"{name}.tflite")
        report = reports[name if name in models else sources[name]]
        rows[name] = Row(
            accuracy=float((output_values.argmax(axis=1) == labels).mean()),
            parameters=report.parameters,
            macs=report.macs,
            bytes=file.stat().st_size,
            latency_ms=float(latencies[name]),
            max_difference=float(np.abs(output_values - outputs[sources[name]]).max()),
        )
    return rows


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    with files.replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def draw(path: Path, facts: dict[str, Any], analysis: Report) -> None:
    """Draw what happened: accuracy and operations over the steps, and the channels kept per layer."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.6), layout="constrained")
    curves, bars = figure.subplots(1, 2)
    steps = facts["steps_per_epoch"] * np.arange(1, facts["epochs"] + 1)
    curves.plot(steps, facts["dense"]["val_accuracy"], color="0.6", label="dense (Adam): accuracy")
    curves.plot(steps, facts["structured"]["val_accuracy"], color="tab:blue", label="compressed: accuracy")
    curves.plot(steps, facts["structured"]["macs_left"], color="tab:orange", label="compressed: MACs left")
    curves.axvline(facts["steps_per_epoch"] * facts["cut_after"], color="0.8", linestyle=":", zorder=0)
    curves.set(xlabel="training step (dotted: zero channels are cut out)", ylabel="fraction", ylim=(0, 1.02))
    curves.set_title("Accuracy on the test set and multiply-accumulates")
    curves.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False)
    layers = [layer for layer in analysis.layers if layer.channels]
    names = [layer.name for layer in layers]
    bars.bar(names, [layer.channels for layer in layers], color="0.85", label="dense")
    kept = bars.bar(names, [layer.channels - layer.removable for layer in layers], color="tab:blue", label="kept")
    bars.bar_label(kept)
    bars.set(ylabel="channels")
    bars.set_title("Channels left, per layer")
    bars.legend()
    with files.replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)


def text_table(rows: dict[str, Row]) -> str:
    """Return the rows as a table for people."""
    header = ("model", "accuracy", "parameters", "MACs", "bytes", "latency ms", "max difference")
    return table(
        header,
        [
            (
                name, f"{row.accuracy:.2%}".rjust(8), row.parameters, row.macs, row.bytes,
                f"{row.latency_ms:.3f}".rjust(10), f"{row.max_difference:.1e}".rjust(14),
            )
            for name, row in rows.items()
        ],
    )  # fmt: skip


def line_printer() -> Callable[[str], None]:
    """Return a function that prints progress to standard error, in place where that is a terminal."""
    if not sys.stderr.isatty():
        return lambda text: print(text, file=sys.stderr, flush=True)
    return lambda text: print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
