"""Several workers train one model: two processes on this machine, as on two machines.

    python examples/multi_worker.py FOLDER [--workers 2] [--epochs 8] [--engine tensorflow | jax]

starts the workers, which find each other by TF_CONFIG (by its own addresses with JAX) and train the digits to half of
their multiply-accumulates; the chief writes FOLDER/model.keras, small.keras, and a copy after every epoch, from
which the same command goes on if it was stopped. Every worker says what it ends with; all must agree.
"""

import argparse
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

BATCH = 64  # of all workers together


def free_ports(count):
    """Return ports of this machine that nobody uses now."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start(options):
    """Start the workers and print what they say; where one dies, end the others, which would wait for it."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(options.workers)]
    workers, readers = [], []
    for rank in range(options.workers):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}}
        engine = {"KERAS_BACKEND": options.engine, "TF_CPP_MIN_LOG_LEVEL": "3", "TF_CONFIG": json.dumps(task)}
        command = [sys.executable, "-W", "ignore", *sys.argv]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        workers.append(subprocess.Popen(command, env=os.environ | engine, text=True, **streams))
        print(f"[worker {rank}] process {workers[-1].pid}", flush=True)
        readers += [threading.Thread(target=each, args=(rank, workers[-1])) for each in (repeat, complain)]
    for reader in readers:
        reader.start()
    while any(worker.poll() is None for worker in workers):
        time.sleep(0.1)
        if any(worker.returncode for worker in workers):
            for worker in workers:
                worker.kill()
    for reader in readers:
        reader.join()
    return int(any(worker.returncode for worker in workers))


def repeat(rank, worker):
    """Print what a worker says, as it says it."""
    for line in worker.stdout:
        print(f"[worker {rank}] {line}", end="", flush=True)


def complain(rank, worker):
    """Print the end of a worker's complaints, if it fails."""
    errors = worker.stderr.read()
    if worker.wait() > 0:
        print(*(f"[worker {rank}] {line}" for line in errors.splitlines()[-20:]), sep="\n", file=sys.stderr, flush=True)


def images():
    """Return the training images of the digits, 1,408 of 8 x 8, and their classes."""
    import numpy as np
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = (digits.images[:1408, ..., None] / 16.0).astype(np.float32)
    return x, digits.target[:1408].astype(np.int32)


def compiled(learning_rate=0.3):
    """Return the network, whose coupled groups RMDA makes zero."""
    import keras

    import keras_rmda as kr

    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(inputs)
    x = keras.layers.Add()([x, keras.layers.Conv2D(16, 3, padding="same")(x)])
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(32, 3, strides=2, activation="relu")(x))
    model = keras.Model(inputs, keras.layers.Dense(10)(x))
    psi = kr.GroupLasso(1e-4, groups=kr.coupled_groups(model))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(kr.RMDA(learning_rate, 0.5, psi), loss, metrics=["accuracy"])
    return model


def steering(epochs, folder):
    """Return the callbacks, the same ones for all workers."""
    import keras

    import keras_rmda as kr

    return [
        kr.callbacks.TargetSparsity(0.5),
        kr.callbacks.StagewiseSchedule([epochs - 2]),
        keras.callbacks.CSVLogger(folder / "log.csv"),
        kr.callbacks.BackupAndRestore(folder / "backup"),
        keras.callbacks.LambdaCallback(on_epoch_end=say),
    ]


def say(epoch, logs):
    """Print the figures of an epoch."""
    print(f"epoch {epoch}:", ", ".join(f"{name} {value:.4f}" for name, value in logs.items()), flush=True)


def dataset():
    """Return batches of all workers, of each of which every worker takes its share."""
    import tensorflow as tf

    sharding = tf.data.Options()
    sharding.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return tf.data.Dataset.from_tensor_slices(images()).batch(BATCH, drop_remainder=True).with_options(sharding)


def train_tensorflow(options, rank):
    """Train under MultiWorkerMirroredStrategy: every worker has all data, of which TensorFlow gives it its share."""
    import tensorflow as tf

    import keras_rmda as kr

    kr.distribute.enable_fit()
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        model = compiled()
    callbacks = kr.distribute.callbacks(steering(options.epochs, options.folder), strategy)
    model.fit(dataset(), epochs=options.epochs, verbose=0, callbacks=callbacks)
    return model, kr.distribute.is_chief(strategy)


def train_jax(options, rank):
    """Train with data parallelism of Keras: every process feeds its own share of every batch."""
    import jax
    import keras

    address = json.loads(os.environ["TF_CONFIG"])["cluster"]["worker"][0]
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, options.workers, rank)
    devices = keras.distribution.list_devices()
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False))

    import keras_rmda as kr

    model, (x, y) = compiled(), images()
    share = BATCH // options.workers
    x, y = (each.reshape(-1, options.workers, share, *each.shape[1:])[:, rank] for each in (x, y))
    x, y = (each.reshape(-1, *each.shape[2:]) for each in (x, y))
    callbacks = kr.distribute.callbacks(steering(options.epochs, options.folder))
    model.fit(x, y, batch_size=share, epochs=options.epochs, shuffle=False, verbose=0, callbacks=callbacks)
    return model, kr.distribute.is_chief()


def finish(options, model, is_chief):
    """Say what came out; the chief writes it."""
    import keras
    import numpy as np

    import keras_rmda as kr

    weights = np.concatenate([weight.ravel() for weight in model.get_weights()])
    rate, report = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)), kr.analyze(model)
    left = report.macs_after / report.macs
    print(f"learning rate {rate:.6f}, strengths {factors(model)}, {left:.1%} of the operations")
    print(f"weights {hashlib.sha1(weights.tobytes()).hexdigest()[:12]}")
    if is_chief:
        with kr.distribute.alone():
            model.save(options.folder / "model.keras")
            kr.strip(model).save(options.folder / "small.keras")
        np.savez(options.folder / "weights.npz", *model.get_weights())


def factors(model):
    """Return how many groups have which factor of their strength."""
    import keras
    import numpy as np

    values = np.concatenate([keras.ops.convert_to_numpy(each.factors) for each in model.optimizer.couplings])
    return dict(zip(*(each.tolist() for each in np.unique(values, return_counts=True))))


def main(description, engines):
    """Start workers, or be one: then `engines` are functions that train."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--engine", choices=engines, default="tensorflow")
    options = parser.parse_args()
    if "TF_CONFIG" in os.environ:
        rank = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
        finish(options, *engines[options.engine](options, rank))
    else:
        options.folder.mkdir(parents=True, exist_ok=True)
        sys.exit(start(options))


if __name__ == "__main__":
    main(__doc__, {"tensorflow": train_tensorflow, "jax": train_jax})
