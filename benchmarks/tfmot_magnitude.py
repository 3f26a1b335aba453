"""Magnitude pruning by TensorFlow Model Optimization, which works with tf_keras, the Keras before Keras 3.

Needs the packages tensorflow-model-optimization and tf_keras. Used by `removable.py`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
from experiment import Data, decayed_values, shuffled, steps_per_epoch, zero_share

import keras_rmda as kr


def train(
    network: Callable[..., Any],
    data: Data,
    seed: int,
    settings: dict[str, Any],
    stages: Sequence[int],
    learning_rate: float,
) -> dict[str, Any]:
    """Return the figures of one run: SGD with momentum, `PolynomialDecay` of sparsity from 10 to 60 % of the steps."""
    tf_keras.utils.set_random_seed(seed)
    steps = steps_per_epoch(data, settings["batch_size"])
    total = steps * settings["epochs"]
    sparsity = tfmot.sparsity.keras.PolynomialDecay(0.0, 1.0 - settings["target"], int(0.1 * total), int(0.6 * total))
    model = tfmot.sparsity.keras.prune_low_magnitude(network(api=tf_keras), pruning_schedule=sparsity)
    schedule = tf_keras.optimizers.schedules.PiecewiseConstantDecay(*decayed_values(learning_rate, stages, steps))
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf_keras.optimizers.SGD(schedule, momentum=0.9), loss, metrics=["accuracy"])
    start = time.perf_counter()
    update = tfmot.sparsity.keras.UpdatePruningStep()
    batches = shuffled(data, settings["batch_size"], seed)
    history = model.fit(batches, epochs=settings["epochs"], callbacks=[update], verbose=0).history
    seconds = time.perf_counter() - start
    pruned = tfmot.sparsity.keras.strip_pruning(model)
    found = np.argmax(pruned.predict(data.x_test, 1000, verbose=0), -1) == data.y_test
    whole = kr.analyze(network())
    final = {
        "test_accuracy": float(found.mean()),
        "zero_weights": zero_share(pruned.get_weights()),
        **{key: getattr(whole, key) for key in ("macs", "parameters")},
        **{f"{key}_after": getattr(whole, key) for key in ("macs", "parameters")},
        **on_device(pruned, network()),
    }
    return {"history": {"loss": history["loss"]}, "seconds": seconds, "continued_at": [], "final": final}


def on_device(model: Any, whole: Any) -> dict[str, Any]:
    """Return bytes and latency of the TensorFlow Lite file, the latter as a ratio to the whole network's."""
    with tempfile.TemporaryDirectory() as folder:
        before, after = (
            kr.export_tflite(whole, Path(folder) / "whole.tflite", strip=False),
            Path(folder) / "pruned.tflite",
        )
        after.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
        latencies = kr.benchmark_tflite([before.path, after], threads=1, runs=300)
        return {"bytes": after.stat().st_size, "latency_of_whole": latencies[1].median / latencies[0].median}
