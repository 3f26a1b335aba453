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


def resnet_20() -> keras.Model:
    """Return the CIFAR network with 1x1 shortcuts: 65 trainable variables."""

    def normalized(x, filters, size, strides=1):
        x = keras.layers.Conv2D(filters, size, strides, padding="same", use_bias=False)(x)
        return keras.layers.BatchNormalization()(x)

    inputs = keras.Input((32, 32, 3))
    x = keras.layers.ReLU()(normalized(inputs, 16, 3))
    for filters in (16, 32, 64):
        for block in range(3):
            strides = 2 if block == 0 and filters > 16 else 1
            y = normalized(keras.layers.ReLU()(normalized(x, filters, 3, strides)), filters, 3)
            x = normalized(x, filters, 1, strides) if strides > 1 else x
            x = keras.layers.ReLU()(keras.layers.Add()([x, y]))
    return keras.Model(inputs, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x)))


NETWORKS = {"resnet20": resnet_20, "resnet50": lambda: keras.applications.ResNet50(weights=None)}


def stepper(make, jit_update, model):
    """Return a compiled function that makes one step on the variables of a model."""
    random = np.random.default_rng(0)
    variables = model.trainable_variables
    gradients = [tf.constant(1e-3 * random.standard_normal(v.shape, "float32")) for v in variables]
    optimizer = make(jit_update, model)
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


def measure(model, names, jit_update, rounds):
    """Return {name: times} of all optimizers taking turns."""
    steps = {}
    for name in names:
        start = time.perf_counter()
        steps[name] = stepper(OPTIMIZERS[name][0], jit_update, model)
        steps[name]()
        print(f"  {name}: built and compiled in {time.perf_counter() - start:.1f} s", flush=True)
    times = {name: [] for name in names}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(seconds(step))
    return times


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
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--batch-size", type=int, default=32, help="of a whole training step")
    parser.add_argument("--only", nargs="*", default=list(OPTIMIZERS), help="names of rows")
    arguments = parser.parse_args()
    jit = {"auto": "auto", "true": True, "false": False}[arguments.jit_update]
    model = NETWORKS[arguments.network]()
    size = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    speed = bandwidth(max(size, 25_000_000))
    count = len(model.trainable_variables)
    print(f"{arguments.network}: {size:,} parameters in {count} variables; bandwidth {speed / 1e9:.1f} GB/s")
    names = ["Adam (Keras)", *(name for name in arguments.only if name != "Adam (Keras)")]
    times = measure(model, names, jit, arguments.rounds)
    adam = np.median(times["Adam (Keras)"])
    print("| optimizer | ms | of Adam | floor ms |\n|---|---|---|---|")
    for name, each in times.items():
        median = np.median(each)
        floor = OPTIMIZERS[name][1] * 4 * size / speed
        print(f"| {name} | {median * 1e3:.1f} | {median / adam:.2f} | {floor * 1e3:.1f} |")
    step = training_step(model, arguments.batch_size)
    print(f"A training step on {arguments.batch_size} images with RMDA, coupled: {step * 1e3:.0f} ms")
