"""The share of an epoch that SparsityMonitor takes, on the demo's network: `python benchmarks/monitor_cost.py`."""

import time

import keras
import numpy as np

import keras_rmda as kr
from keras_rmda import demo


class Timed(kr.callbacks.SparsityMonitor):
    """SparsityMonitor with a stopwatch."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_epoch_end(self, epoch, logs=None):
        """Measure the measurement."""
        start = time.perf_counter()
        super().on_epoch_end(epoch, logs)
        self.seconds.append(time.perf_counter() - start)


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
    monitor, epochs = Timed(), Epochs()
    model.fit(x, y, demo.BATCH_SIZE, epochs=8, verbose=0, callbacks=[monitor, epochs])
    print("the first epoch traces the model's graph and is shown apart; medians of the others")
    print(f"first epoch  {epochs.seconds[0]:.2f} s, of which monitor {monitor.seconds[0] * 1e3:.1f} ms")
    epoch, cost = np.median(epochs.seconds[1:]), np.median(monitor.seconds[1:])
    print(f"epoch        {epoch:.2f} s, of which monitor {cost * 1e3:.1f} ms: {cost / epoch:.2%}")
