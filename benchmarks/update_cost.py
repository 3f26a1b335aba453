"""Time of `apply` of every optimizer against Adam as stock Keras runs it: `python benchmarks/update_cost.py`.

All are built first and take turns, so that a change of the machine's speed meets all of them; the table has medians,
ratios to Adam's median, and the floor: the bytes that must move over the bandwidth of an addition in place.
"""

import argparse

import keras
import numpy as np
from networks import residual
from timing import bandwidth, seconds, update

import keras_rmda as kr

L1, GROUPS = lambda model: kr.L1(1e-4), lambda model: kr.GroupLasso(1e-4)
COUPLED = lambda model: kr.GroupLasso(1e-4, groups=kr.coupled_groups(model))  # noqa: E731

# With the arrays of a parameter's size that are read or written: weight and slots both ways, the gradient once.
ALGORITHMS = {
    "RMDA": (lambda psi, jit: kr.RMDA(0.1, regularizer=psi, jit_update=jit), 6),
    "RAMDA": (lambda psi, jit: kr.RAMDA(0.01, regularizer=psi, jit_update=jit), 8),
    "ProxSGD": (lambda psi, jit: kr.ProxSGD(0.1, regularizer=psi, jit_update=jit), 5),
    "ProxAdamW": (lambda psi, jit: kr.ProxAdamW(1e-3, regularizer=psi, jit_update=jit), 7),
    "LinBreg": (lambda psi, jit: kr.LinBreg(0.1, regularizer=psi, jit_update=jit), 4),
    "AdaBreg": (lambda psi, jit: kr.AdaBreg(1e-3, regularizer=psi, jit_update=jit), 8),
    "DessiLBI": (lambda psi, jit: kr.DessiLBI(0.1, regularizer=psi, jit_update=jit), 9),
}
PENALTIES = {"L1": L1, "group lasso": GROUPS, "coupled": COUPLED}
OPTIMIZERS = {"Adam (Keras)": (lambda jit, model: keras.optimizers.Adam(1e-3), 7)} | {
    f"{name}, {penalty}": (lambda jit, model, make=make, psi=psi: make(psi(model), jit), moved)
    for name, (make, moved) in ALGORITHMS.items()
    for penalty, psi in PENALTIES.items()
}


def perceptron(width):
    """Return four dense layers."""
    return keras.Sequential([keras.Input((width,)), *(keras.layers.Dense(width) for _ in range(4))])


NETWORKS = {
    "mlp": lambda: perceptron(512),
    "mlp_small": lambda: perceptron(256),
    "mobilenet": lambda: keras.applications.MobileNetV2((96, 96, 3), alpha=0.35, weights=None),
    "resnet18": lambda: residual((64, 128, 256, 512), 2),
    "resnet20": lambda: residual((16, 32, 64), 3),
    "resnet20_wide": lambda: residual((32, 64, 128), 3),
    "resnet20_wider": lambda: residual((24, 48, 96), 3),
    "resnet50": lambda: keras.applications.ResNet50(weights=None),
}


def measure(model, names, jit_update, rounds):
    """Return {name: times} of all optimizers taking turns."""
    steps = {}
    for name in names:
        steps[name] = update(OPTIMIZERS[name][0](jit_update, model), model.trainable_variables)
        print(f"  {name}: compiled in {seconds(steps[name]):.1f} s", flush=True)
    times = {name: [] for name in names}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(seconds(step))
    return times


def compare_compiled(model, names, rounds):
    """Print the times of updates with and without XLA, all of them taking turns."""
    steps, adam = {}, update(keras.optimizers.Adam(1e-3), model.trainable_variables)
    adam()
    for name in names:
        pair = [update(OPTIMIZERS[name][0](jit, model), model.trainable_variables) for jit in (False, True)]
        first, compiled = [seconds(step) for step in pair]
        print(f"  {name}: {compiled - first:.1f} s to compile", flush=True)
        steps[name] = pair
    times = {name: [] for name in names}
    of_adam = []
    for _ in range(rounds):
        of_adam.append(seconds(adam))
        for name, pair in steps.items():
            times[name].append([seconds(step) for step in pair])
    print("| optimizer | graph | XLA | XLA / graph | of Adam |\n|---|---|---|---|---|")
    for name, each in times.items():
        graph, compiled = np.median(each, axis=0)
        ratio = min(graph, compiled) / np.median(of_adam)
        print(f"| {name} | {graph * 1e3:.2f} | {compiled * 1e3:.2f} | {compiled / graph:.2f} | {ratio:.2f} |")


def training_step(model, batch_size):
    """Return the median time of a compiled training step."""
    model.compile(OPTIMIZERS["RMDA, coupled"][0]("auto", model), "mse")
    random = np.random.default_rng(0)
    batch = [random.normal(size=(batch_size, *shape[1:])) for shape in (model.input_shape, model.output_shape)]
    model.train_on_batch(*batch)
    return np.median([seconds(lambda: model.train_on_batch(*batch)) for _ in range(7)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=tuple(NETWORKS), default="resnet50")
    parser.add_argument("--jit-update", choices=("auto", "true", "false"), default="auto")
    parser.add_argument("--compare-compiled", action="store_true", help="time each update with and without XLA")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--batch-size", type=int, default=32, help="of a whole training step; 0 for none")
    parser.add_argument("--only", nargs="*", default=list(OPTIMIZERS), help="names of rows")
    arguments = parser.parse_args()
    jit = {"auto": "auto", "true": True, "false": False}[arguments.jit_update]
    model = NETWORKS[arguments.network]()
    size = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    speed = bandwidth(max(size, 25_000_000))
    count = len(model.trainable_variables)
    print(f"{arguments.network}: {size:,} parameters in {count} variables; bandwidth {speed / 1e9:.1f} GB/s")
    names = ["Adam (Keras)", *(name for name in arguments.only if name != "Adam (Keras)")]
    if arguments.compare_compiled:
        compare_compiled(model, names[1:], arguments.rounds)
        raise SystemExit
    times = measure(model, names, jit, arguments.rounds)
    adam = np.median(times["Adam (Keras)"])
    print("| optimizer | ms | of Adam | floor ms |\n|---|---|---|---|")
    for name, each in times.items():
        median = np.median(each)
        floor = OPTIMIZERS[name][1] * 4 * size / speed
        print(f"| {name} | {median * 1e3:.2f} | {median / adam:.2f} | {floor * 1e3:.2f} |")
    if arguments.batch_size:
        step = training_step(model, arguments.batch_size)
        print(f"A training step on {arguments.batch_size} images with RMDA, coupled: {step * 1e3:.0f} ms")
