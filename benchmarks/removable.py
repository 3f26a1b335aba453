"""Groups that can be removed against groups that cannot, and a target against a strength, on Fashion-MNIST.

    TFDS_DATA_DIR=... python benchmarks/removable.py --network resnet8 | mobile | plain

Every method has the same images (the first 15,000 of the training set, in another order in every epoch) and epochs. All
accuracies are of the 10,000 test images, of the stripped model; multiply-accumulates, parameters and latency too.

- `dense`: SGD with momentum. `thin`: the same for a network of half as many channels everywhere.
- `input`: RMDA with group lasso over the input channels of every kernel, at several strengths.
- `coupled`: the same with `coupled_groups`, weighed by size or by the multiply-accumulates that they cost.
- `target`: with `TargetSparsity` instead of a choice of the strength. `target-prox-sgd`: by `ProxSGD` instead of RMDA.
- `compress`: `kr.compress` with the recipe of `dense`, fresh.
- `one-shot`: no penalty; after 60 % of the epochs the groups of smallest magnitude go at once, and the rest is tuned.
- `tfmot`: magnitude pruning of single weights by TensorFlow Model Optimization, to the share of weights that `target`
  leaves of multiply-accumulates. It needs the packages tensorflow-model-optimization and tf_keras.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from experiment import (
    Experiment,
    accuracy,
    command_line,
    decayed,
    mean_sd,
    milestones,
    percent,
    print_table,
    steps_per_epoch,
    zero_share,
)

import keras_rmda as kr

BATCH_SIZE, IMAGES, SHARES = 128, 15_000, (0.6, 0.85)
TARGETS, STRENGTHS = (0.5, 0.25, 0.1), (1e-4, 3e-4, 1e-3)
INPUT_STRENGTHS = (1e-4, 3e-4, 5e-4, 7e-4, 1e-3)
RATE = {"sgd": 0.1, "rmda": 1.0}
"""RMDA's momentum of 0.1 makes its step a tenth; SGD's of 0.9 makes it ten times as large."""
SLOWER = {"lenet5": 0.2}
"""Networks without batch normalization diverge at these rates."""
CASES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "resnet8": [
        ("dense", {}),
        ("thin", {}),
        *(("target", {"target": target}) for target in TARGETS),
        *(("target-prox-sgd", {"target": target}) for target in TARGETS),
        *(("compress", {"target": target}) for target in TARGETS),
        *(("input", {"strength": strength}) for strength in INPUT_STRENGTHS),
        *(("one-shot", {"target": target}) for target in TARGETS[1:]),
        *(("coupled", {"strength": strength, "weights": "macs"}) for strength in STRENGTHS),
        *(("coupled", {"strength": strength, "weights": "size"}) for strength in STRENGTHS),
        *(("tfmot", {"target": target}) for target in TARGETS[1:]),
    ],
    "plain": [("dense", {}), ("thin", {}), *(("target", {"target": target}) for target in TARGETS)],
}
CASES["mobile"] = [case for case in CASES["resnet8"] if case[0] not in ("input", "coupled", "tfmot")]
CASES["mobile"] += [("input", {"strength": strength}) for strength in INPUT_STRENGTHS[1:]]
CASES["mobile"] += [("coupled", {"strength": STRENGTHS[1], "weights": "macs"})]
CASES["lenet5"] = [case for case in CASES["resnet8"] if case[0] in ("dense", "target", "target-prox-sgd")]


def normalized(api: Any, x: Any, layer: Any, activation: str | None = "relu") -> Any:
    """Return a layer without bias, batch normalization and activation, of Keras or of tf_keras."""
    x = api.layers.BatchNormalization(momentum=0.9)(layer(x))
    return api.layers.Activation(activation)(x) if activation else x


def convolution(api: Any, filters: float, size: int, strides: int = 1) -> Any:
    """Return a convolution without bias."""
    return api.layers.Conv2D(
        int(filters), size, strides, padding="same", use_bias=False, kernel_initializer="he_normal"
    )


def resnet8(width: float = 1.0, api: Any = keras) -> Any:
    """Return a residual network of widths 16, 32, 64, whose first convolution has stride 2."""
    inputs = api.Input((28, 28, 1))
    x = normalized(api, inputs, convolution(api, 16 * width, 3, 2))
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        y = normalized(api, x, convolution(api, filters * width, 3, strides))
        y = normalized(api, y, convolution(api, filters * width, 3), None)
        if strides > 1:
            x = normalized(api, x, convolution(api, filters * width, 1, strides), None)
        x = api.layers.ReLU()(api.layers.Add()([x, y]))
    return api.Model(inputs, api.layers.Dense(10)(api.layers.GlobalAveragePooling2D()(x)), name="resnet8")


def mobile(width: float = 1.0, api: Any = keras) -> Any:
    """Return a network of inverted residual blocks, like a small MobileNetV2."""
    inputs = api.Input((28, 28, 1))
    x = normalized(api, inputs, convolution(api, 16 * width, 3, 2), "relu6")
    for filters, strides in ((16, 1), (24, 2), (24, 1), (32, 2), (32, 1)):
        before = x.shape[-1]
        y = normalized(api, x, convolution(api, 4 * before, 1), "relu6")
        depthwise = api.layers.DepthwiseConv2D(3, strides, padding="same", use_bias=False)
        y = normalized(api, normalized(api, y, depthwise, "relu6"), convolution(api, filters * width, 1), None)
        x = api.layers.Add()([x, y]) if strides == 1 and before == y.shape[-1] else y
    x = normalized(api, x, convolution(api, 128 * width, 1), "relu6")
    return api.Model(inputs, api.layers.Dense(10)(api.layers.GlobalAveragePooling2D()(x)), name="mobile")


def plain(width: float = 1.0, api: Any = keras) -> Any:
    """Return four convolutions and two dense layers, without shortcuts."""
    inputs = x = api.Input((28, 28, 1))
    for filters, strides in ((32, 2), (64, 1), (64, 2), (128, 2)):
        x = normalized(api, x, convolution(api, filters * width, 3, strides))
    x = api.layers.Dense(int(128 * width), activation="relu")(api.layers.Flatten()(x))
    return api.Model(inputs, api.layers.Dense(10)(x), name="plain")


def lenet5(width: float = 1.0, api: Any = keras) -> Any:
    """Return LeNet-5 as Caffe has it: 20 and 50 filters, 500 units."""
    inputs = x = api.Input((28, 28, 1))
    for filters in (20, 50):
        x = api.layers.Conv2D(int(filters * width), 5, activation="relu")(x)
        x = api.layers.MaxPooling2D()(x)
    x = api.layers.Dense(int(500 * width), activation="relu")(api.layers.Flatten()(x))
    return api.Model(inputs, api.layers.Dense(10)(x), name="lenet5")


NETWORKS = {"resnet8": resnet8, "mobile": mobile, "plain": plain, "lenet5": lenet5}
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def compiled(experiment: Experiment, method: str, strength: float = 1e-4, weights: str = "size") -> keras.Model:
    """Return an untrained network with its optimizer."""
    model = NETWORKS[experiment.arguments.network](0.5 if method == "thin" else 1.0)
    steps = steps_per_epoch(experiment.data, BATCH_SIZE)
    slower = SLOWER.get(experiment.arguments.network, 1.0)
    schedule = decayed(slower * RATE["sgd"], schedule_epochs(experiment), steps)
    if method in ("dense", "thin"):
        optimizer = keras.optimizers.SGD(schedule, momentum=0.9)
    elif method in ("one-shot", "target-prox-sgd"):
        parts = "all" if method == "one-shot" else "readers"
        psi = kr.GroupLasso(1e-12 if method == "one-shot" else strength, groups=kr.coupled_groups(model, parts=parts))
        # The step of `dense`: Keras's SGD multiplies the learning rate into its momentum, 1 - 0.1.
        optimizer = kr.ProxSGD(decayed(10 * slower * RATE["sgd"], schedule_epochs(experiment), steps), 0.1, psi)
    else:
        groups = "input" if method == "input" else kr.coupled_groups(model, weights=weights)
        optimizer = kr.RMDA(slower * RATE["rmda"], 0.1, kr.GroupLasso(strength, groups=groups))
    model.compile(optimizer, LOSS, metrics=["accuracy"], jit_compile=False)
    return model


def schedule_epochs(experiment: Experiment) -> list[int]:
    """Return the epochs at which stages begin."""
    return milestones(experiment.arguments.epochs, *SHARES)


def callbacks(experiment: Experiment, method: str, target: float | None = None) -> list[keras.callbacks.Callback]:
    """Return what steers a method."""
    result: list[keras.callbacks.Callback] = []
    if method in ("target", "target-prox-sgd"):
        result = [kr.callbacks.TargetSparsity(target)]
    elif method == "one-shot":
        result = [kr.callbacks.TargetSparsity(target, begin=SHARES[0] - 1e-6, end=SHARES[0])]
    if method in ("input", "coupled", "target"):
        result += [kr.callbacks.StagewiseSchedule(schedule_epochs(experiment)), kr.callbacks.SparsityMonitor()]
    return result


def measured(experiment: Experiment, model: keras.Model) -> dict[str, Any]:
    """Return the figures of a trained model after `strip`."""
    data, report, small = experiment.data, kr.analyze(model), kr.strip(model)
    whole = kr.analyze(NETWORKS[model.name]())
    return {
        "trained_accuracy": accuracy(model, data.x_test, data.y_test),
        "test_accuracy": accuracy(small, data.x_test, data.y_test),
        "zero_weights": zero_share(model.get_weights()),
        "macs": whole.macs,
        "macs_after": report.macs_after,
        "parameters": whole.parameters,
        "parameters_after": report.parameters_after,
        **on_device(small),
    }


def on_device(model: keras.Model) -> dict[str, Any]:
    """Return bytes and latency of the TensorFlow Lite file, the latter as a ratio to the whole network's."""
    with tempfile.TemporaryDirectory() as folder:
        whole = kr.export_tflite(NETWORKS[model.name](), Path(folder) / "whole.tflite")
        file = kr.export_tflite(model, Path(folder) / "model.tflite")
        latencies = kr.benchmark_tflite([whole.path, file.path], threads=1, runs=300)
    return {"bytes": file.bytes, "latency_of_whole": latencies[1].median / latencies[0].median}


def tfmot(experiment: Experiment, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Return a run of TensorFlow Model Optimization, on the Keras that it works with."""

    def run(folder: Path) -> dict[str, Any]:
        try:
            import tfmot_magnitude
        except ImportError as error:
            sys.exit(f"The method tfmot needs the packages tensorflow-model-optimization and tf_keras: {error}")
        network = NETWORKS[settings["network"]]
        return tfmot_magnitude.train(network, experiment.data, seed, settings, schedule_epochs(experiment), RATE["sgd"])

    return experiment.once("tfmot", seed, settings, run)


def compress(experiment: Experiment, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Return a run of `kr.compress`."""

    def run(folder: Path) -> dict[str, Any]:
        keras.utils.set_random_seed(seed)
        model, data, begun = compiled(experiment, "dense"), experiment.data, time.perf_counter()
        small = kr.compress(
            model,
            data.x,
            data.y,
            target=settings["target"],
            epochs=settings["epochs"],
            batch_size=BATCH_SIZE,
            verbose=0,
        ).model
        seconds, report = time.perf_counter() - begun, kr.analyze(small)
        whole, score = kr.analyze(model), accuracy(small, data.x_test, data.y_test)
        final = {"trained_accuracy": score, "test_accuracy": score, "zero_weights": 0.0}
        final |= {"macs": whole.macs, "macs_after": report.macs}
        final |= {"parameters": whole.parameters, "parameters_after": report.parameters}
        return {"seconds": seconds, "final": final | on_device(small)}

    return experiment.once("compress", seed, settings, run)


def train(experiment: Experiment, method: str, seed: int, chosen: dict[str, Any]) -> dict[str, Any]:
    """Return one run."""
    arguments = experiment.arguments
    settings = {"network": arguments.network, **chosen, "epochs": arguments.epochs, "batch_size": BATCH_SIZE}
    settings |= {"images": len(experiment.data.x)}
    if method == "tfmot":
        return tfmot(experiment, seed, settings)
    if method == "compress":
        return compress(experiment, seed, settings)
    penalty = {key: value for key, value in chosen.items() if key in ("strength", "weights")}
    return experiment.train(
        method,
        seed,
        settings,
        lambda: compiled(experiment, method, **penalty),
        lambda model: measured(experiment, model),
        callbacks(experiment, method, chosen.get("target")),
    )


def row(runs: list[dict[str, Any]]) -> list[str]:
    """Return the figures of a table, over seeds."""
    final = {key: [run["final"][key] for run in runs] for key in runs[0]["final"]}
    share = lambda key: percent([a / b for a, b in zip(final[f"{key}_after"], final[key])], 1)  # noqa: E731
    return [
        percent(final["test_accuracy"]),
        percent(final["zero_weights"], 1),
        share("macs"),
        share("parameters"),
        mean_sd([100 * each for each in final["latency_of_whole"]], 0),
        mean_sd([each / 1000 for each in final["bytes"]], 0),
        f"{np.mean([run['seconds'] for run in runs]):.0f}",
    ]


def with_fewer_images(experiment: Experiment) -> Experiment:
    """Return an experiment with the first images of its training set, and pixels of mean 0 and deviation 1."""
    data = experiment.data
    data = type(data)(data.x[:IMAGES], data.y[:IMAGES], data.x_test, data.y_test).standardized(0.286, 0.353)
    return dataclasses.replace(experiment, data=data)


if __name__ == "__main__":
    parser = command_line(__doc__.splitlines()[0], sorted({case[0] for case in CASES["resnet8"]}), epochs=12)
    parser.add_argument("--network", choices=sorted(CASES), default="resnet8")
    experiment = with_fewer_images(Experiment.start(__file__, parser))
    rows = []
    for method, chosen in CASES[experiment.arguments.network]:
        if method in experiment.selected([method]):
            runs = [train(experiment, method, seed, chosen) for seed in experiment.arguments.seeds]
            shown = ", ".join(f"{key} {value}" for key, value in chosen.items())
            rows.append([method, shown, *row(runs)])
    header = ["method", "", "test accuracy %", "zero weights %", "MACs left %", "parameters left %"]
    title = f"{experiment.arguments.network}, {experiment.arguments.epochs} epochs, seeds {experiment.arguments.seeds}"
    print_table(title, [*header, "latency %", "kB", "seconds"], rows)
