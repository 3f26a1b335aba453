"""What a profile predicts of files at random widths, against what they take, one thread.

    python benchmarks/latency.py prepare NETWORK FOLDER    writes the files of the profile, and those at random widths
    python FOLDER/measure.py                               measures all, in turns
    python benchmarks/latency.py show FOLDER...            prints errors, and keeps them in benchmarks/results/latency

The machine should do nothing else meanwhile. At 100 random widths each layer keeps between 6 % and all of its groups;
50 more have widths of full lanes, multiples of 16, which targets of latency choose. A time is the median of the runs of
a round, of the fastest of three rounds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import keras
import numpy as np
from experiment import print_table
from keras import layers as L
from networks import residual

import keras_rmda as kr
from keras_rmda.cli.demo import network
from keras_rmda.export.devices.elastic import Elastic
from keras_rmda.export.devices.fit import spread, time_of
from keras_rmda.export.devices.writing import full_lanes, write_files
from keras_rmda.structure.trace import as_graph, trace

COUNTS = {"random": 100, "full lanes": 50}
RESULTS = Path(__file__).parent / "results" / "latency"


def dscnn() -> keras.Model:
    """Return the network for keywords of MLPerf Tiny."""
    inputs = keras.Input((49, 10, 1))
    x = L.Conv2D(64, (10, 4), 2, padding="same", use_bias=False)(inputs)
    x = L.ReLU()(L.BatchNormalization()(x))
    for _ in range(4):
        x = L.ReLU()(L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same", use_bias=False)(x)))
        x = L.ReLU()(L.BatchNormalization()(L.Conv2D(64, 1, use_bias=False)(x)))
    return keras.Model(inputs, L.Dense(12, "softmax")(L.GlobalAveragePooling2D()(x)), name="dscnn")


def mobile(size: int) -> keras.Model:
    """Return MobileNetV2 for images of a size."""
    return keras.applications.MobileNetV2((size, size, 3), weights=None, classes=10)


NETWORKS = {
    "demo": network, "resnet8": lambda: residual((16, 32, 64), 1), "dscnn": dscnn,
    "mobilenetv2-32": lambda: mobile(32), "mobilenetv2-96": lambda: mobile(96), "mobilenetv2-224": lambda: mobile(224),
}  # fmt: skip


def prepare(name: str, folder: Path) -> None:
    """Write the files of a profile, and those at random widths, in any order."""
    model, random = NETWORKS[name](), np.random.default_rng(1)
    print(write_files(model, folder, say=print), "files for the profile")
    plan = json.loads((folder / "files.json").read_text())
    with as_graph(model) as graph:
        traced = trace(graph)
        for quantization in (None, "int8"):
            name = quantization or "float32"
            elastic = Elastic(model, graph, traced, {"quantization": quantization, "batch": 1})
            sizes = elastic.layers.sizes
            for widths, count in COUNTS.items():
                for k in range(count):
                    kept = np.maximum(np.round(random.uniform(0.06, 1.0, len(sizes)) * sizes), 1).astype(int)
                    kept = full_lanes(kept, sizes) if widths == "full lanes" else kept
                    file = f"{name}-{widths.replace(' ', '-')}-{k:03}.tflite"
                    (folder / file).write_bytes(elastic.content(elastic.layers.plan(kept).cut))
                    more = {"file": file, "quantization": name, "chosen": widths, "kept": kept.tolist()}
                    plan["files"].append(more)
    random.shuffle(plan["files"])
    (folder / "files.json").write_text(json.dumps(plan))


def show(folders: list[Path]) -> None:
    """Print the errors of predictions."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    rows = []
    for folder in folders:
        plan = json.loads((folder / "profile.json").read_text())
        profile, kept = kr.DeviceProfile.load(folder / "profile.json"), []
        for each in plan["files"]:
            if "chosen" in each:
                predicted = profile.milliseconds(folder / each["file"])
                kept.append(each | {"predicted": predicted, "measured": time_of(each)})
        facts = {key: plan[key] for key in ("device", "system", "litert")}
        target = RESULTS / f"{plan['model']}.json"
        target.write_text(json.dumps(facts | {"files": kept}, indent=0) + "\n")
        for quantization in profile.quantizations:
            for widths in COUNTS:
                mine = [each for each in kept if (each["quantization"], each["chosen"]) == (quantization, widths)]
                errors = np.array([each["predicted"] / each["measured"] - 1.0 for each in mine])
                noise = np.median([spread(each["milliseconds"]) for each in mine])
                figures = [np.median(np.abs(errors)), np.quantile(np.abs(errors), 0.9), np.abs(errors).max()]
                shown = [f"{each:.1%}" for each in (*figures, errors.mean(), noise)]
                rows.append([plan["model"], quantization, widths, *shown])
    header = ["network", "format", "widths", "median", "90 %", "worst", "mean", "rounds"]
    print_table("Predicted against measured latency", header, rows)


if __name__ == "__main__":
    if sys.argv[1] == "prepare":
        prepare(sys.argv[2], Path(sys.argv[3]))
    else:
        show([Path(each) for each in sys.argv[2:]])
