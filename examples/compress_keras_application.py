"""MobileNetV2 from keras.applications, trained to a quarter of its multiply-accumulates on real images.

    python examples/compress_keras_application.py [FOLDER] [--data digits | fashion_mnist | cifar10]

Trains the network of width 0.35 twice for the same number of epochs and at the same learning rates, densely and by
`compress`, and writes three files: dense, compressed, and compressed int8. `digits` come with the
extra `demo`; the others must be prepared in TFDS_DATA_DIR, nothing is downloaded. Two CPU cores need about five minutes
for the digits; for the others `--images` bounds the time.
"""

import argparse
import os
from pathlib import Path

import keras
import numpy as np

import keras_rmda as kr

BATCH_SIZE, RATE, TARGET = 32, 2e-3, 0.25


def images(data, count, folder=None):
    """Return (x, y) for training and for testing; pixels in [-1, 1], at least 32 x 32 of them, in three colours."""
    if data == "digits":
        from keras_rmda.datasets import digits

        splits = digits.load(folder, size=32)
    else:
        import tensorflow_datasets as tfds

        loaded = tfds.load(data, split=["train", "test"], batch_size=-1, as_supervised=True, download=False)
        splits = [(np.asarray(x, "float32") / 255, np.asarray(y)) for x, y in loaded]
    result = []
    for (x, y), n in zip(splits, (count, None)):
        x = np.repeat(x[:n], 3 // x.shape[-1], axis=-1)
        x = np.pad(x, [(0, 0), *[((32 - side) // 2,) * 2 for side in x.shape[1:3]], (0, 0)])
        result.append((2 * x - 1, y[:n]))
    return result


def network():
    """Return an untrained MobileNetV2 whose batch normalizations learn their statistics within few steps."""
    model = keras.applications.MobileNetV2(
        (32, 32, 3), alpha=0.35, weights=None, classes=10, classifier_activation=None
    )
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9
    return model


def compiled(data, epochs, seed=0):
    """Return the untrained network, compiled for so many epochs."""
    keras.utils.set_random_seed(seed)
    model, steps = network(), -(-len(data[0]) // BATCH_SIZE)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    rates = keras.optimizers.schedules.CosineDecay(RATE, epochs * steps)
    model.compile(keras.optimizers.Adam(rates), loss, metrics=["accuracy"])
    return model


def main(folder, data, count, epochs):
    """Train one, compress the other, export, compare."""
    train, (x_test, y_test) = images(data, count)
    dense = compiled(train, epochs)
    dense.fit(*train, BATCH_SIZE, epochs, verbose=2)
    result = kr.compress(compiled(train, epochs), *train, target=TARGET, epochs=epochs, batch_size=BATCH_SIZE)
    files = [
        kr.export_tflite(dense, folder / "mobilenet_dense.tflite"),
        result.export(folder / "mobilenet_small.tflite"),
        result.export(folder / "mobilenet_small_int8.tflite", "int8"),
    ]
    latencies = kr.benchmark_tflite([file.path for file in files])
    operations = [result.report.macs, result.report.macs_after, result.report.macs_after]
    print(f"{'':12s}{'accuracy':>10s}{'MACs':>12s}{'bytes':>12s}{'ms':>8s}")
    for name, file, macs, latency in zip(("dense", "small", "small int8"), files, operations, latencies):
        accuracy = np.mean(predictions(file.path, x_test) == y_test)
        print(f"{name:12s}{accuracy:10.2%}{macs:12,}{file.bytes:12,}{latency.median:8.3f}")


def predictions(path, x):
    """Return the classes that a file sees in images."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(path)).get_signature_runner()
    [name] = runner.get_input_details()
    return np.concatenate([np.argmax(next(iter(runner(**{name: image[None]}).values())), -1) for image in x])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("."))
    parser.add_argument("--data", choices=["digits", "fashion_mnist", "cifar10"], default="digits")
    parser.add_argument("--images", type=int, default=10_000, help="of the training set, at most")
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()
    if options.data != "digits" and "TFDS_DATA_DIR" not in os.environ:
        parser.error(f"--data {options.data} needs TFDS_DATA_DIR, a folder where TensorFlow Datasets has prepared it")
    main(options.folder, options.data, options.images, options.epochs)
