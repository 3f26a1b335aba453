"""The share of an epoch that SparsityMonitor and StructuredWeights take, on the demo's network.

python benchmarks/monitor_cost.py
"""

import time

import keras
import numpy as np

import keras_rmda as kr
from keras_rmda.cli import demo


class Timed:
    """What measures the hooks of a callback."""

    def __init__(self):
        super().__init__()
        self.seconds = [0.0]

    def timed(self, hook, *arguments):
        """Call a hook, and add its time to that of the epoch."""
        start = time.perf_counter()
        hook(*arguments)
        self.seconds[-1] += time.perf_counter() - start


class TimedMonitor(Timed, kr.callbacks.SparsityMonitor):
    """SparsityMonitor with a stopwatch."""

    def on_epoch_end(self, epoch, logs=None):
        """Measure the measurement."""
        self.timed(super().on_epoch_end, epoch, logs)
        self.seconds.append(0.0)


class TimedWeights(Timed, kr.callbacks.StructuredWeights):
    """StructuredWeights with a stopwatch."""

    def on_epoch_begin(self, epoch, logs=None):
        """Measure the way back to the iterate, which ends the showing of the epoch before."""
        self.timed(super().on_epoch_begin, epoch, logs)
        self.seconds.append(0.0)

    def on_test_begin(self, logs=None):
        """Measure the way to the structured weights, before validation."""
        self.timed(super().on_test_begin, logs)

    def on_epoch_end(self, epoch, logs=None):
        """Measure it again, where there was nothing left to do."""
        self.timed(super().on_epoch_end, epoch, logs)


class Epochs(keras.callbacks.Callback):
    """Times whole epochs."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        """Start."""
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """Stop."""
        self.seconds.append(time.perf_counter() - self.start)


if __name__ == "__main__":
    x = np.random.default_rng(0).normal(size=(1438, 32, 32, 1)).astype("float32")
    y = np.random.default_rng(0).integers(10, size=1438)
    model = demo.network()
    model.compile(kr.RMDA(0.3, 0.1, kr.GroupLasso(demo.STRENGTH)), "sparse_categorical_crossentropy")
    monitor, weights, epochs = TimedMonitor(), TimedWeights(), Epochs()
    model.fit(x, y, demo.BATCH_SIZE, epochs=8, verbose=0, callbacks=[weights, monitor, epochs])
    print("the first epoch is shown apart: the monitor traces the model's graph; medians of the others")
    for name, seconds in (("monitor", monitor.seconds), ("structured weights", weights.seconds[1:])):
        print(f"first epoch  {epochs.seconds[0]:.2f} s, of which {name} {seconds[0] * 1e3:.1f} ms")
        epoch, cost = np.median(epochs.seconds[1:]), np.median(seconds[1:8])
        print(f"epoch        {epoch:.2f} s, of which {name} {cost * 1e3:.1f} ms: {cost / epoch:.2%}")
