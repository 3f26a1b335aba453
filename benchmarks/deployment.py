"""What is left of a model on a device: bytes, latency and accuracy of files, whole and stripped, in all number formats.

    TFDS_DATA_DIR=... python benchmarks/deployment.py --network demo | resnet8 | mobilenetv2 | mobilenetv2-224

- `demo`: the network of `keras-rmda demo` on its digits: dense by Adam, structured by RMDA.
- `resnet8`: that of `removable.py` on its 15,000 images of Fashion-MNIST: dense by SGD, and by ProxSGD to a quarter of
  the multiply-accumulates.
- `mobilenetv2`: MobileNetV2 of width .35 on the digits in three colours, as in `examples/compress_mobilenet.ipynb`:
  dense by Adam, and by `compress` to a quarter of the multiply-accumulates.
- `mobilenetv2-224`: the whole network for images of 224 x 224 at random weights, of which as many channels of every
  layer are made zero as leave a quarter of the multiply-accumulates. For bytes and latency, which need no training.

Of each network there are three int8 files: `int8`, quantized after training; `int8 tuned`, after as many more epochs in
float32 as `int8 aware` has in quantization-aware training. Accuracies are of the files, run by LiteRT. Trained networks
stay in `benchmarks/scratch/deployment-files`, and what is found there is not trained again.
`--latency` measures the files of the first seed, which take turns, on one and two threads; `--profile` every layer with
a kernel by itself.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import keras
import numpy as np
from experiment import HERE, Data, Experiment, command_line, mean_sd, percent, print_table, shuffled, write_json

import keras_rmda as kr
from keras_rmda.export.interpreter import Interpreter

TUNING_EPOCHS, TUNING_RATE, BATCH_SIZE = 3, 1e-4, 64
MOBILENET_EPOCHS = 30
FORMATS = (None, "float16", "dynamic", "int8")
NETWORKS = ("demo", "resnet8", "mobilenetv2", "mobilenetv2-224")


def digits_of_demo() -> Data:
    """Return the digits as the demo has them."""
    from keras_rmda.datasets import digits

    (x, y), (x_test, y_test) = digits.load(str(HERE / "scratch" / "tfds"))
    return Data(x, y, x_test, y_test)


def digits_in_colour() -> Data:
    """Return the digits in three equal colours, 32 x 32 numbers in [-1, 1]."""
    data = digits_of_demo()
    x, x_test = (2 * np.repeat(each, 3, axis=-1) - 1 for each in (data.x, data.x_test))
    return Data(x, data.y, x_test, data.y_test)


def mobilenet(images: int, seed: int) -> keras.Model:
    """Return an untrained MobileNetV2, compiled for so many images."""
    keras.utils.set_random_seed(seed)
    model = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=10)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9  # so that the statistics are learned within few steps
    rates = keras.optimizers.schedules.CosineDecay(2e-3, MOBILENET_EPOCHS * -(-images // 32))
    model.compile(keras.optimizers.Adam(rates), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def trained(experiment: Experiment, seed: int, folder: Path) -> tuple[keras.Model, keras.Model]:
    """Return the dense network and the stripped one."""
    network = experiment.arguments.network
    if network == "demo":
        from keras_rmda.cli import demo

        demo.run(folder, seed, demo.EPOCHS, say=lambda text: None)
        return tuple(keras.models.load_model(folder / f"{name}.keras") for name in ("dense", "stripped"))
    if network == "mobilenetv2":
        x, y = experiment.data.x, experiment.data.y
        dense, whole = mobilenet(len(x), seed), mobilenet(len(x), seed)
        dense.fit(x, y, epochs=MOBILENET_EPOCHS, verbose=0)
        return dense, kr.compress(whole, x, y, target=0.25, epochs=MOBILENET_EPOCHS, verbose=0).model
    import removable

    def fit(method: str, target: float | None) -> keras.Model:
        keras.utils.set_random_seed(seed)
        model = removable.compiled(experiment, method)
        data = shuffled(experiment.data, removable.BATCH_SIZE, seed)
        steering = removable.callbacks(experiment, method, target)
        model.fit(data, epochs=experiment.arguments.epochs, callbacks=steering, verbose=0)
        return model

    return fit("dense", None), kr.strip(fit("target-prox-sgd", 0.25))


def loss_of(model: Any, api: Any) -> Any:
    """Return the cross entropy of Keras or of tf_keras for a model's last activation."""
    is_softmax = "softmax" in str(getattr(model.layers[-1], "activation", ""))
    return api.losses.SparseCategoricalCrossentropy(from_logits=not is_softmax)


def files(experiment: Experiment, dense: keras.Model, small: keras.Model, seed: int, folder: Path) -> dict[str, Path]:
    """Write all files and return them by what they hold."""
    data, found = experiment.data, {}
    samples = data.x[:200]
    for name, model in (("dense", dense), ("stripped", small)):
        for quantization in FORMATS:
            what = f"{name} {quantization or 'float32'}"
            path = folder / f"{what.replace(' ', '-')}.tflite"
            found[what] = kr.export_tflite(model, path, quantization, samples).path
        if experiment.arguments.network == "mobilenetv2-224":
            continue
        for more, trained_on in tuned_and_aware(model, samples, seed).items():
            trained_on.fit(shuffled(data, BATCH_SIZE, seed), epochs=TUNING_EPOCHS, verbose=0)
            path = folder / f"{name}-int8-{more}.tflite"
            found[f"{name} int8 {more}"] = kr.export_tflite(trained_on, path, "int8", samples).path
    return found


def tuned_and_aware(model: keras.Model, samples: np.ndarray, seed: int) -> dict[str, Any]:
    """Return two compiled models to train further: a copy, and one with the rounding of int8."""
    import tf_keras

    keras.utils.set_random_seed(seed)
    aware = kr.quantization_aware(model, samples)
    aware.compile(tf_keras.optimizers.Adam(TUNING_RATE), loss_of(model, tf_keras))
    tuned = keras.models.clone_model(model)
    tuned.set_weights(model.get_weights())
    tuned.compile(keras.optimizers.Adam(TUNING_RATE), loss_of(model, keras))
    return {"tuned": tuned, "aware": aware}


def folder_of(arguments: argparse.Namespace, seed: int = 0) -> Path:
    """Return the folder of all files of a network, which is there."""
    name = f"{arguments.network}-{arguments.epochs}-{seed}" + ("-small" if arguments.small else "")
    folder = HERE / "scratch" / "deployment-files" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def models_in(folder: Path) -> dict[str, Path]:
    """Return the paths of the two Keras models of a folder."""
    return {name: folder / f"{name}.keras" for name in ("dense", "stripped")}


def run(experiment: Experiment, seed: int) -> dict[str, Any]:
    """Return the figures of one seed, and leave the files."""
    arguments, folder = experiment.arguments, folder_of(experiment.arguments, seed)

    def make(_: Path) -> dict[str, Any]:
        start = time.perf_counter()
        if not all(path.exists() for path in models_in(folder).values()):
            with tempfile.TemporaryDirectory() as scratch:
                models = trained(experiment, seed, Path(scratch))
            for path, model in zip(models_in(folder).values(), models, strict=True):
                model.save(path)
        dense, small = (keras.models.load_model(path) for path in models_in(folder).values())
        macs = {name: kr.analyze(model).macs for name, model in (("dense", dense), ("stripped", small))}
        final: dict[str, Any] = {"macs": macs, "bytes": {}, "accuracy": {}}
        for what, path in files(experiment, dense, small, seed, folder).items():
            outputs = Interpreter(path).predict(experiment.data.x_test)
            final["accuracy"][what] = float(np.mean(outputs.argmax(-1) == experiment.data.y_test))
            final["bytes"][what] = path.stat().st_size
        return {"final": final, "seconds": time.perf_counter() - start}

    settings = {"network": arguments.network, "tuning": ["dense", "stripped", TUNING_EPOCHS, TUNING_RATE]}
    settings |= {"epochs": arguments.epochs} if arguments.network == "resnet8" else {}
    return experiment.once("deployment", seed, settings, make)


def untrained(experiment: Experiment) -> None:
    """Make the files of the large MobileNetV2, with widths of any number and with multiples of 16 and 32."""
    folder = folder_of(experiment.arguments)
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2(weights=None)
    model.save(folder / "dense.keras")
    images = np.random.default_rng(0).uniform(-1, 1, (20, 224, 224, 3)).astype("float32")
    experiment = argparse.Namespace(arguments=experiment.arguments, data=Data(images, None, images, None))
    values = model.get_weights()
    small = quarter(model, 1)
    small.save(folder / "stripped.keras")
    model.set_weights(values)
    files(experiment, model, small, 0, folder)
    for multiple in (16, 32):
        model.set_weights(values)
        kr.export_tflite(quarter(model, multiple), folder / f"stripped-float32-multiples-of-{multiple}.tflite")


def quarter(model: keras.Model, multiple: int) -> keras.Model:
    """Return a stripped model with a quarter of the operations, of whose layers equal shares are left."""
    groups = kr.coupled_groups(model, parts="readers")
    layers = [name.rsplit("[", 1)[0] for name in groups.names]
    seen: Counter[str] = Counter()
    place = [(seen.update([layer]), seen[layer] - 1)[1] for layer in layers]
    widths = np.array([seen[layer] for layer in layers])
    low, high, values, whole = 0.0, 1.0, model.get_weights(), kr.analyze(model).macs
    for _ in range(8):
        share = (low + high) / 2
        kept = np.maximum(multiple, np.round(share * widths / multiple) * multiple)
        zero = np.append(place >= kept, False)
        model.set_weights(values)
        for variable in model.trainable_variables:
            ids = groups.members.get(variable.path.partition("/")[2], groups.members.get(variable.path))
            if ids is not None:
                variable.assign(np.where(zero[ids], 0.0, keras.ops.convert_to_numpy(variable)))
        low, high = (share, high) if kr.analyze(model).macs_after < whole / 4 else (low, share)
    return kr.strip(model)


def latencies(arguments: argparse.Namespace) -> None:
    """Measure all files of the first seed, and print them beside multiply-accumulates."""
    folder = folder_of(arguments)
    paths = sorted(folder.glob("*.tflite"), key=lambda path: (path.stem.startswith("stripped"), path.stem))
    macs = {name: kr.analyze(keras.models.load_model(path)).macs for name, path in models_in(folder).items()}
    measured = {threads: kr.benchmark_tflite(paths, threads=threads, runs=arguments.runs) for threads in (1, 2)}
    first = [path.stem for path in paths].index("dense-float32")
    whole = {threads: found[first] for threads, found in measured.items()}
    rows, content = [], {"macs": macs, "files": {}}
    for one, two in zip(*measured.values()):
        ratios = [one.times_faster_than(whole[1]), two.times_faster_than(whole[2])]
        times = {"ms": [one.median, two.median], "ratio": [vars(ratio) for ratio in ratios]}
        content["files"][one.path.stem] = {"bytes": one.bytes, **times}
        shown = [f"{r.value:.2f} ({r.low:.2f} to {r.high:.2f})" for r in ratios]
        medians = [f"{one.median:.3f}", f"{two.median:.3f}"]
        rows.append([one.path.stem.replace("-", " "), f"{one.bytes:,}", *medians, *shown])
    write_json(HERE / "results" / "deployment" / f"latency-{arguments.network}.json", content)
    header = ["file", "bytes", "ms, 1 thread", "ms, 2 threads", "times faster, 1 thread", "times faster, 2 threads"]
    times = macs["dense"] / macs["stripped"]
    print_table(
        f"{arguments.network}: {macs['dense']:,} and {macs['stripped']:,} MACs, a ratio of {times:.2f}", header, rows
    )


def profile(arguments: argparse.Namespace) -> None:
    """Measure every layer with a kernel by itself, whole and stripped."""
    folder = folder_of(arguments)
    dense, small = (keras.models.load_model(path) for path in models_in(folder).values())
    rows, total = [], np.zeros(4)
    with_kernels = [
        [layer for layer in model.layers if any("kernel" in weight.name for weight in layer.weights)]
        for model in (dense, small)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        for layer, left in zip(*with_kernels, strict=True):
            pair, macs = [], []
            for k, each in enumerate((layer, left)):
                alone = each.__class__.from_config(each.get_config())
                model = keras.Sequential([keras.Input(each.input.shape[1:], 1), alone])
                pair.append(kr.export_tflite(model, Path(scratch) / f"{k}.tflite", strip=False).path)
                macs.append(kr.analyze(model).macs)
            one, two = kr.benchmark_tflite(pair, runs=arguments.runs)
            total += [macs[0], macs[1], one.median, two.median]
            rows.append(profile_row(layer.name, f"{layer.output.shape[1:]}", *macs, one.median, two.median))
    rows.append(profile_row("all", "", *total))
    header = ["layer", "output", "MACs", "after", "ratio", "us", "after", "ratio", "MACs per ns", "after"]
    print_table(f"{arguments.network}: every layer with a kernel by itself, one thread", header, rows)


def profile_row(name: str, shape: str, macs: float, after: float, ms: float, ms_after: float) -> list[str]:
    """Return a row of the profile."""
    speed = [f"{macs / ms / 1e6:.1f}", f"{after / ms_after / 1e6:.1f}"]
    times = [f"{1e3 * ms:.1f}", f"{1e3 * ms_after:.1f}", f"{ms / ms_after:.2f}"]
    return [name, shape, f"{macs:,.0f}", f"{after:,.0f}", f"{macs / after:.2f}", *times, *speed]


def accuracies(experiment: Experiment) -> None:
    """Make what is missing, and print bytes and accuracies."""
    runs = [run(experiment, seed) for seed in experiment.arguments.seeds]
    rows = []
    for what in runs[0]["final"]["bytes"]:
        part = what.split()[0]
        rows.append(
            [
                what,
                mean_sd([each["final"]["macs"][part] / 1e6 for each in runs], 2),
                mean_sd([each["final"]["bytes"][what] / 1000 for each in runs], 1),
                percent([each["final"]["accuracy"][what] for each in runs]),
            ]
        )
    title = f"{experiment.arguments.network}, seeds {experiment.arguments.seeds}"
    print_table(title, ["file", "million MACs", "kB", "test accuracy %"], rows)


if __name__ == "__main__":
    parser = command_line(__doc__.splitlines()[0], [], epochs=12)
    parser.add_argument("--network", choices=NETWORKS, default="resnet8")
    parser.add_argument("--latency", action="store_true", help="measure the files of the first seed")
    parser.add_argument("--profile", action="store_true", help="measure every layer of the first seed")
    parser.add_argument("--runs", type=int, default=300)
    options, _ = parser.parse_known_args()
    if options.latency or options.profile:
        (latencies if options.latency else profile)(options)
    else:
        import removable

        experiment = removable.with_fewer_images(Experiment.start(__file__, parser))
        other = {"demo": digits_of_demo, "mobilenetv2": digits_in_colour}.get(experiment.arguments.network)
        if other:
            experiment = dataclasses.replace(experiment, data=other())
        (untrained if experiment.arguments.network == "mobilenetv2-224" else accuracies)(experiment)
