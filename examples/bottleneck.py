"""A denoising autoencoder that finds its own bottleneck, and a picture of it.

    python examples/bottleneck.py [FOLDER] [--data digits | fashion_mnist] [--epochs 10]

Seven layers of as many units as images have pixels, of which eight are alive at first. AdaBreg lets units in as they
are needed; `strip` cuts out what never entered. Writes FOLDER/bottleneck.png: the units of each layer after every
epoch, and test images with noise, as the network shows them, and without. `digits` come with the extra `demo`;
Fashion-MNIST must be prepared in TFDS_DATA_DIR, nothing is downloaded, and takes two CPU cores about four minutes.

Source: the settings of Bungert et al. 2021, "Neural architecture search via Bregman iterations", arXiv:2106.02479,
whose images are those of MNIST.
"""

import argparse
import math
import os
from pathlib import Path

import keras
import numpy as np

import keras_rmda as kr

ALIVE, GAIN, NOISE = 8, 5.0, 0.05  # 8 of 784 units: the authors' 1 %
RATE, STRENGTH = 1e-3, 0.07
BATCH_SIZES = {"digits": 16, "fashion_mnist": 128}


def images(data, folder=None):
    """Return images for training and for testing, of shape (n, pixels), with values in [0, 1]."""
    if data == "digits":
        from keras_rmda.datasets import digits

        splits = [x for x, _ in digits.load(folder, size=16)]
    else:
        import tensorflow_datasets as tfds

        loaded = tfds.load(data, split=["train", "test"], batch_size=-1, as_supervised=True, download=False)
        splits = [np.asarray(x, "float32") / 255 for x, _ in loaded]
    return [x.reshape(len(x), -1) for x in splits]


def noisy(x, seed=0):
    """Return images with Gaussian noise, the same in every epoch, as the authors have it."""
    return x + np.random.default_rng(seed).normal(0.0, NOISE, x.shape).astype("float32")


def network(pixels, mean, deviation, alive=ALIVE):
    """Return the untrained autoencoder, with so many units of each layer alive; None for all.

    The weights of a unit that is alive are five times as large as He's. The biases are not negative: behind ReLU, a
    unit without weights and with a negative bias would never get a gradient.
    """
    share = alive / pixels if alive else 1.0
    variance = 2.0 * (GAIN if alive else 1.0) ** 2 * share  # SparseInitializer divides by the share
    values = keras.initializers.VarianceScaling(variance, "fan_in", "untruncated_normal")
    model = keras.Sequential([keras.Input((pixels,)), keras.layers.Rescaling(1 / deviation, -mean / deviation)])
    for k in range(6):
        kernel = kr.SparseInitializer(values, share, by="group", groups="output")
        bias = keras.initializers.RandomUniform(0.0, 1 / math.sqrt(pixels))
        model.add(
            keras.layers.Dense(pixels, "relu", kernel_initializer=kernel, bias_initializer=bias, name=f"layer{k + 1}")
        )
    return model


def compiled(pixels, mean, deviation, strength=STRENGTH):
    """Return the autoencoder with its optimizer: a group is all that a unit reads."""
    model = network(pixels, mean, deviation)
    model.compile(kr.AdaBreg(RATE, regularizer=kr.GroupLasso(strength, "output")), "mse", jit_compile=False)
    return model


def widths(model):
    """Return how many units of each layer read anything."""
    kernels = [layer.kernel for layer in model.layers if hasattr(layer, "kernel")]
    return [int(keras.ops.convert_to_numpy(keras.ops.any(kernel != 0, axis=0)).sum()) for kernel in kernels]


class Widths(keras.callbacks.Callback):
    """Keep the widths of all layers, before training and after every epoch."""

    def on_train_begin(self, logs=None):
        """Begin."""
        self.history = [widths(self.model)]

    def on_epoch_end(self, epoch, logs=None):
        """Count."""
        self.history.append(widths(self.model))
        units = "-".join(map(str, self.history[-1]))
        print(f"epoch {epoch + 1}: error {logs['loss']:.5f}, units {units}", flush=True)


def draw(path, history, given, shown, wanted):
    """Write the picture."""
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subfigures(1, 2)
    axes = left.add_subplot()
    for k, units in enumerate(zip(*history)):
        axes.plot(range(len(units)), units, marker=".", label=f"layer {k + 1}")
    axes.set(xlabel="epoch", ylabel="units", title="Units that have entered")
    axes.legend(fontsize="small")
    side = math.isqrt(given.shape[1])
    for row, (name, x) in enumerate((("with noise", given), ("network", shown), ("without", wanted))):
        for column, image in enumerate(x):
            axes = right.add_subplot(3, len(x), 1 + row * len(x) + column)
            axes.imshow(image.reshape(side, side), "gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[], ylabel="" if column else name)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main(options):
    """Train, cut, draw."""
    keras.utils.set_random_seed(options.seed)
    x, x_test = images(options.data, options.folder)
    given, given_test = noisy(x), noisy(x_test, 1)
    model = compiled(x.shape[1], float(x.mean()), float(x.std()), options.strength)
    counting = Widths()
    plateau = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=5)
    size, epochs = BATCH_SIZES[options.data], options.epochs
    model.fit(given, x, batch_size=size, epochs=epochs, callbacks=[counting, plateau], verbose=0)
    first, *_, last = counting.history
    small = kr.strip(model)
    print("units:", "-".join(map(str, first)), "to", "-".join(map(str, last)))
    print(f"parameters: {model.count_params():,} to {small.count_params():,}")
    for name, each in (("whole", model), ("stripped", small)):
        error = float(np.mean((each.predict(given_test, 1000, verbose=0) - x_test) ** 2))
        print(f"test error of the {name} network: {error:.5f}; of the images with noise: {NOISE**2:.5f}")
    path = Path(options.folder) / "bottleneck.png"
    draw(path, counting.history, given_test[:5], small.predict(given_test[:5], verbose=0), x_test[:5])
    print(f"Wrote {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", default=".")
    parser.add_argument("--data", choices=["digits", "fashion_mnist"], default="digits")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--strength", type=float, default=STRENGTH)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.data != "digits" and not os.environ.get("TFDS_DATA_DIR"):
        parser.error("TFDS_DATA_DIR must name a folder with the prepared data set fashion_mnist.")
    main(options)
