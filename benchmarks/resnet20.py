"""ResNet-20 on CIFAR-10 by every method of this package, at equal epochs, on whatever Keras finds.

    TFDS_DATA_DIR=... python benchmarks/resnet20.py --prepare cifar10.npz          # once, with TensorFlow
    KERAS_BACKEND=jax python benchmarks/resnet20.py --data cifar10.npz [--methods RMDA compress] [--targets .25]
    python benchmarks/resnet20.py --small                                          # minutes on a CPU, random images

All have 50,000 images, shifted by up to 4 pixels and mirrored, in batches of 128, and the same epochs; the learning
rate is a tenth after 60 % of them and a hundredth after 85 %. Accuracy is of the 10,000 test images, of the stripped
model; nothing was chosen by it. `macs` and `parameters` are what is left of them.

- `dense`: SGD with momentum. `thin`: the same for a network of fewer channels, with about so many operations.
- `RMDA`, `RAMDA`, `ProxSGD`: coupled groups and `TargetSparsity`. `compress`: `kr.compress` with the recipe of `dense`.
- `l0`, `dep_l0`: gates on every channel that the converter could remove, a multiplier that holds their expected
  cost at the root of the target, frozen after 75 % of the epochs.
- `LinBreg`, `AdaBreg`: single kernels, 5 % of them at the start; the target is the share of weights that are not zero,
  and their strength a controller's output. They make no channel zero on purpose.

`peer_torch_pruning.py` has a network of another library on the same images.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from cifar10_images import Images, load, prepare, random_images
from networks import residual

import keras_rmda as kr

HERE = Path(__file__).resolve().parent
FILTERS, BLOCKS, EPOCHS, TARGETS, STAGES = (16, 32, 64), 3, 30, (0.5, 0.25, 0.1), (0.6, 0.85)
THIN = {0.5: (11, 22, 45), 0.25: (8, 16, 32), 0.1: (5, 10, 20)}
GATE_RATES, FROZEN = {"l0": 0.01, "dep_l0": 0.001}, 0.75
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
SMALL = {"epochs": 4, "images": 512, "targets": [0.5]}
Made = tuple[keras.Model, list[keras.callbacks.Callback]]


def decayed(rate: float, epochs: int, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Return a learning rate that becomes a tenth at each stage."""
    ends = [round(epochs * share) * steps - 1 for share in STAGES]
    return keras.optimizers.schedules.PiecewiseConstantDecay(ends, [rate, rate / 10, rate / 100])


def network(filters: tuple[int, ...] = FILTERS) -> keras.Model:
    """Return ResNet-20."""
    return residual(filters, BLOCKS)


def compiled(model: keras.Model, optimizer: Any) -> keras.Model:
    """Return a model with loss, metric and optimizer."""
    model.compile(optimizer, LOSS, metrics=["accuracy"])
    return model


def sgd(epochs: int, steps: int) -> keras.optimizers.Optimizer:
    """Return the optimizer of the dense network."""
    return keras.optimizers.SGD(decayed(0.1, epochs, steps), momentum=0.9)


def dense(target: float | None, epochs: int, steps: int, seed: int) -> Made:
    """Return the network, or one of fewer channels."""
    return compiled(network(THIN[target] if target else FILTERS), sgd(epochs, steps)), []


def coupled(name: str) -> Callable[[float, int, int, int], Made]:
    """Return what makes the network with an optimizer that removes coupled groups."""

    def make(target: float, epochs: int, steps: int, seed: int) -> Made:
        model = network()
        callbacks: list[keras.callbacks.Callback] = [kr.callbacks.TargetSparsity(target)]
        psi = kr.GroupLasso(1e-4, groups=kr.coupled_groups(model))
        if name == "ProxSGD":  # Keras's SGD multiplies the rate into its momentum, 1 - 0.1: this is the step of `sgd`
            return compiled(model, kr.ProxSGD(decayed(1.0, epochs, steps), 0.1, psi)), callbacks
        callbacks += [kr.callbacks.StagewiseSchedule([round(epochs * share) for share in STAGES])]
        return compiled(model, kr.RMDA(1.0, 0.1, psi) if name == "RMDA" else kr.RAMDA(0.01, 0.3, psi)), callbacks

    return make


def gated(kind: str) -> Callable[[float, int, int, int], Made]:
    """Return what makes the network with gates."""

    def make(target: float, epochs: int, steps: int, seed: int) -> Made:
        share = target**0.5  # gates on both sides of a convolution leave the square of it
        model = kr.gates.insert(
            network(), kind, direction="backward", where="everywhere", cost="macs", target=share, seed=seed
        )
        optimizer = kr.gates.optimizer(sgd(epochs, steps), keras.optimizers.Adam(GATE_RATES[kind]))
        return compiled(model, optimizer), [kr.callbacks.FreezeGates(int(FROZEN * epochs))]

    return make


def grown(name: str) -> Callable[[float, int, int, int], Made]:
    """Return what makes the network that begins with few kernels."""

    def make(target: float, epochs: int, steps: int, seed: int) -> Made:
        model = network()
        kr.sparsify(model, {".*conv2d.*/kernel": 0.05}, by="group", groups="kernel", seed=seed)
        psi = {".*conv2d.*/kernel": kr.GroupLasso(0.1, groups="kernel")}
        rate = decayed(0.1 if name == "LinBreg" else 1e-3, epochs, steps)
        optimizer = kr.LinBreg(rate, regularizer=psi) if name == "LinBreg" else kr.AdaBreg(rate, regularizer=psi)
        return compiled(model, optimizer), [kr.callbacks.TargetSparsity(target, "weights", control="feedback")]

    return make


METHODS: dict[str, Callable[[float, int, int, int], Made]] = {
    "dense": dense,
    "thin": dense,
    "compress": lambda target, epochs, steps, seed: dense(None, epochs, steps, seed),
    **{name: coupled(name) for name in ("RMDA", "RAMDA", "ProxSGD")},
    **{kind: gated(kind) for kind in GATE_RATES},
    **{name: grown(name) for name in ("LinBreg", "AdaBreg")},
}


def run(method: str, target: float | None, seed: int, epochs: int, data: list[np.ndarray]) -> dict[str, Any]:
    """Return the figures of one training."""
    x, y, x_test, y_test = data
    keras.utils.set_random_seed(seed)
    images, begun = Images(x, y, seed), time.perf_counter()
    model, callbacks = METHODS[method](target, epochs, len(images), seed)
    if method == "compress":
        model = small = kr.compress(model, images, target=target, epochs=epochs, verbose=0).model
    else:
        model.fit(images, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)
        small = kr.strip(model)
    seconds, whole, report = time.perf_counter() - begun, kr.analyze(network()), kr.analyze(small)
    kernels = [keras.ops.convert_to_numpy(weight) for weight in model.trainable_weights if len(weight.shape) > 1]
    predictions = small.predict(x_test.astype("float32") / 255, 500, verbose=0)
    return {
        "accuracy": float(np.mean(np.argmax(predictions, -1) == y_test)),
        "nonzero_weights": float(sum(map(np.count_nonzero, kernels)) / sum(kernel.size for kernel in kernels)),
        "macs": report.macs / whole.macs,
        "parameters": report.parameters / whole.parameters,
        "widths": [layer.kernel.shape[-1] for layer in small.layers if hasattr(layer, "kernel")],
        "seconds": seconds,
        "backend": keras.backend.backend(),
    }


def once(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return a finished run from its file, or make it."""
    if not path.exists():
        found = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")
        print(f"{path.stem}: {found}", file=sys.stderr, flush=True)
    return json.loads(path.read_text())


def table(runs: dict[tuple[str, float | None], list[dict[str, Any]]]) -> None:
    """Print means and standard deviations."""
    shown = {"accuracy": "accuracy %", "macs": "operations left %", "parameters": "parameters left %"}
    shown |= {"nonzero_weights": "nonzero weights in training %"}
    print(f"| method | target | seeds | {' | '.join(shown.values())} | seconds |\n|{' --- |' * (len(shown) + 4)}")
    for (method, target), each in runs.items():
        figures = [[100 * found[key] for found in each if key in found] for key in shown]
        deviations = [f" ± {np.std(f, ddof=1):.2f}" if len(f) > 1 else "" for f in figures]
        cells = [f"{np.mean(f):.2f}{d}" if f else "" for f, d in zip(figures, deviations)]
        seconds = np.mean([found["seconds"] for found in each])
        print(f"| {method} | {target or ''} | {len(each)} | {' | '.join(cells)} | {seconds:.0f} |")


def command_line(description: str, methods: list[str]) -> argparse.ArgumentParser:
    """Return the options that the peer's script has, too."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/resnet20; with --small, scratch")
    parser.add_argument("--methods", nargs="+", choices=methods, default=methods)
    parser.add_argument("--targets", nargs="+", type=float, choices=TARGETS, default=TARGETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--table", action="store_true", help="print what there is")
    parser.add_argument("--small", action="store_true", help=f"{SMALL}, random images")
    return parser


def run_all(options: argparse.Namespace, make: Callable[..., dict[str, Any]]) -> None:
    """Make the runs that are missing, by method, target, seed, epochs and data, and print the table."""
    if options.small:
        vars(options).update(SMALL)
    options.out = options.out or HERE / ("scratch" if options.small else "results") / "resnet20"
    data = None
    if not options.table:
        data = random_images(options.images) if options.small else load(options.data, options.images)
    runs: dict[tuple[str, float | None], list[dict[str, Any]]] = {}
    for seed in options.seeds:
        for method in options.methods:
            for target in [None] if method.endswith("dense") else options.targets:
                path = options.out / f"{method}-{target}-{options.epochs}-seed{seed}.json"
                if not options.table or path.exists():
                    found = once(path, lambda: make(method, target, seed, options.epochs, data))  # noqa: B023
                    runs.setdefault((method, target), []).append(found)
    table(runs)


if __name__ == "__main__":
    parser = command_line(__doc__.splitlines()[0], list(METHODS))
    parser.add_argument("--prepare", type=Path, help="write CIFAR-10 here, and end")
    options = parser.parse_args()
    sys.exit(prepare(options.prepare) if options.prepare else run_all(options, run))
