"""What a profile predicts of files at random widths, against what they take, one thread.

    python benchmarks/latency.py prepare NETWORK FOLDER    writes the files of the profile, and 100 at random widths
    python FOLDER/profile/measure.py                       measures; likewise FOLDER/random/measure.py
    python benchmarks/latency.py show FOLDER...            prints errors, and keeps them in benchmarks/results/latency

The machine should do nothing else meanwhile. At random widths each layer keeps between 6 % and all of its groups. A
time is the median of the runs of a round, of the fastest of three rounds.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import keras
import numpy as np
from keras import layers as L
from networks import residual

import keras_rmda as kr
from keras_rmda.cli.demo import network
from keras_rmda.export.devices.elastic import Elastic
from keras_rmda.export.devices.fit import spread, time_of
from keras_rmda.export.devices.writing import FORMAT, SCRIPT, write_files
from keras_rmda.export.flat import written
from keras_rmda.structure.pictures import table
from keras_rmda.structure.trace import as_graph, trace

COUNT = 100
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
    "mobilenetv2-32": lambda: mobile(32), "mobilenetv2-96": lambda: mobile(96),
}  # fmt: skip


def prepare(name: str, folder: Path) -> None:
    """Write the files of a profile, and those at random widths."""
    model, random = NETWORKS[name](), np.random.default_rng(1)
    print(write_files(model, folder / "profile", say=print), "files for the profile")
    (folder / "random").mkdir(parents=True, exist_ok=True)
    listed = []
    with as_graph(model) as graph:
        traced = trace(graph)
        for quantization in (None, "int8"):
            elastic = Elastic(model, graph, traced, {"quantization": quantization, "batch": 1})
            sizes = elastic.layers.sizes
            for k in range(COUNT):
                kept = np.maximum(np.round(random.uniform(0.06, 1.0, len(sizes)) * sizes), 1).astype(int)
                content = written(elastic.at(elastic.sizes.of(elastic.layers.plan(kept).cut)), 0)
                file = f"{quantization or 'float32'}-{k:03}.tflite"
                (folder / "random" / file).write_bytes(content)
                listed.append({"file": file, "quantization": quantization or "float32", "kept": kept.tolist()})
    (folder / "random" / "files.json").write_text(json.dumps({"format": FORMAT, "model": name, "files": listed}))
    shutil.copy(SCRIPT, folder / "random" / "measure.py")


def show(folders: list[Path]) -> None:
    """Print the errors of predictions."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    rows = []
    for folder in folders:
        profile = kr.DeviceProfile.load(folder / "profile" / "profile.json")
        measured = json.loads((folder / "random" / "profile.json").read_text())
        kept = []
        for each in measured["files"]:
            predicted = profile.milliseconds(folder / "random" / each["file"])
            kept.append(each | {"predicted": predicted, "measured": time_of(each)})
        facts = {"device": measured["device"], "system": measured["system"], "litert": measured["litert"]}
        target = RESULTS / f"{measured['model']}.json"
        target.write_text(json.dumps(facts | {"files": kept}, indent=0) + "\n")
        for quantization in profile.quantizations:
            mine = [each for each in kept if each["quantization"] == quantization]
            errors = np.array([each["predicted"] / each["measured"] - 1.0 for each in mine])
            noise = np.median([spread(each["milliseconds"]) for each in mine])
            figures = [np.median(np.abs(errors)), np.quantile(np.abs(errors), 0.9), np.abs(errors).max(), errors.mean()]
            rows.append((measured["model"], quantization, *(f"{each:.1%}".rjust(7) for each in (*figures, noise))))
    print(table(("network", "format", "median", "90 %", "worst", "mean", "rounds"), rows))


if __name__ == "__main__":
    if sys.argv[1] == "prepare":
        prepare(sys.argv[2], Path(sys.argv[3]))
    else:
        show([Path(each) for each in sys.argv[2:]])
