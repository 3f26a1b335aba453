"""Time of `apply` of every optimizer against Adam as stock Keras runs it: `python benchmarks/update_cost.py`.

All are built first and take turns, so that a change of the machine's speed meets all of them; the table has medians,
ratios to Adam's median, and the floor: the bytes that must move over the bandwidth of an addition in place.
"""

import argparse
import time

import keras
import numpy as np
import tensorflow as tf

import keras_rmda as kr

L1, GROUPS = kr.L1(1e-4), kr.GroupLasso(1e-4)

# Arrays of a parameter's size that are read or written: weight and slots both ways, the gradient once.
OPTIMIZERS = {
    "Adam (Keras)": (lambda jit: keras.optimizers.Adam(1e-3), 7),
    "RMDA, L1": (lambda jit: kr.RMDA(0.1, regularizer=L1, jit_update=jit), 6),
    "RMDA, group lasso": (lambda jit: kr.RMDA(0.1, regularizer=GROUPS, jit_update=jit), 6),
    "RAMDA, L1": (lambda jit: kr.RAMDA(0.01, regularizer=L1, jit_update=jit), 8),
    "RAMDA, group lasso": (lambda jit: kr.RAMDA(0.01, regularizer=GROUPS, jit_update=jit), 8),
    "ProxSGD, L1": (lambda jit: kr.ProxSGD(0.1, regularizer=L1, jit_update=jit), 5),
    "ProxSGD, group lasso": (lambda jit: kr.ProxSGD(0.1, regularizer=GROUPS, jit_update=jit), 5),
    "ProxAdamW, L1": (lambda jit: kr.ProxAdamW(1e-3, regularizer=L1, jit_update=jit), 7),
    "ProxAdamW, group lasso": (lambda jit: kr.ProxAdamW(1e-3, regularizer=GROUPS, jit_update=jit), 7),
    "LinBreg, L1": (lambda jit: kr.LinBreg(0.1, regularizer=L1, jit_update=jit), 4),
    "LinBreg, group lasso": (lambda jit: kr.LinBreg(0.1, regularizer=GROUPS, jit_update=jit), 4),
    "AdaBreg, L1": (lambda jit: kr.AdaBreg(1e-3, regularizer=L1, jit_update=jit), 8),
    "AdaBreg, group lasso": (lambda jit: kr.AdaBreg(1e-3, regularizer=GROUPS, jit_update=jit), 8),
    "DessiLBI, L1": (lambda jit: kr.DessiLBI(0.1, regularizer=L1, jit_update=jit), 9),
    "DessiLBI, group lasso": (lambda jit: kr.DessiLBI(0.1, regularizer=GROUPS, jit_update=jit), 9),
}


def resnet_20() -> list[tuple[int, ...]]:
    """Return the shapes of the trainable variables of the CIFAR network with 1x1 shortcuts: 65 variables."""
    shapes = [(3, 3, 3, 16), (16,), (16,)]
    for before, width in ((16, 16), (16, 32), (32, 64)):
        for block in range(3):
            shapes += [(3, 3, before if block == 0 else width, width), (3, 3, width, width), *[(width,)] * 4]
        if before != width:
            shapes += [(1, 1, before, width), (width,), (width,)]
    return [*shapes, (64, 10), (10,)]


def resnet_50() -> list[tuple[int, ...]]:
    """Return the shapes of the trainable variables of ResNet50."""
    return [tuple(v.shape) for v in keras.applications.ResNet50(weights=None).trainable_variables]


def stepper(make, jit_update, shapes):
    """Return a compiled function that makes one step on variables of these shapes."""
    random = np.random.default_rng(0)
    variables = [
        keras.Variable(0.05 * random.standard_normal(s, "float32"), name="kernel" if len(s) > 1 else "bias")
        for s in shapes
    ]
    gradients = [tf.constant(1e-3 * random.standard_normal(s, "float32")) for s in shapes]
    optimizer = make(jit_update)
    optimizer.build(variables)
    return tf.function(lambda: optimizer.apply(gradients, variables))


def bandwidth(size: int) -> float:
    """Return the bytes per second of an addition in place, which reads and writes each number once."""
    variable = tf.Variable(tf.zeros(size))
    add = tf.function(lambda: variable.assign(variable + 1.0), jit_compile=True)
    return 2 * 4 * size / min(seconds(add) for _ in range(30))


def seconds(function) -> float:
    """Return the time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(shapes, names, jit_update, rounds):
    """Return {name: times} of all optimizers taking turns."""
    steps = {}
    for name in names:
        start = time.perf_counter()
        steps[name] = stepper(OPTIMIZERS[name][0], jit_update, shapes)
        steps[name]()
        print(f"  {name}: built and compiled in {time.perf_counter() - start:.1f} s", flush=True)
    times = {name: [] for name in names}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(seconds(step))
    return times


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=("resnet20", "resnet50"), default="resnet50")
    parser.add_argument("--jit-update", choices=("auto", "true", "false"), default="auto")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--only", nargs="*", default=list(OPTIMIZERS), help="names of rows")
    arguments = parser.parse_args()
    jit = {"auto": "auto", "true": True, "false": False}[arguments.jit_update]
    shapes = {"resnet20": resnet_20, "resnet50": resnet_50}[arguments.network]()
    size = sum(int(np.prod(shape)) for shape in shapes)
    speed = bandwidth(max(size, 25_000_000))
    print(f"{arguments.network}: {size:,} parameters in {len(shapes)} variables; bandwidth {speed / 1e9:.1f} GB/s")
    names = ["Adam (Keras)", *(name for name in arguments.only if name != "Adam (Keras)")]
    times = measure(shapes, names, jit, arguments.rounds)
    adam = np.median(times["Adam (Keras)"])
    print("| optimizer | ms | of Adam | floor ms |\n|---|---|---|---|")
    for name, each in times.items():
        median = np.median(each)
        floor = OPTIMIZERS[name][1] * 4 * size / speed
        print(f"| {name} | {median * 1e3:.1f} | {median / adam:.2f} | {floor * 1e3:.1f} |")
