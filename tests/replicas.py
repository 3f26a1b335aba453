"""Trainings on two replicas and on none, with the same global batch. A process of its own runs this.

    python tests/replicas.py CASE...

prints one JSON object from cases to the largest difference between their weights after 50 steps. After a failed
collective operation all later ones of a process fail, and those of two strategies get into each other's way: there is
one of each kind.
"""

from __future__ import annotations

import functools
import json
import sys
from typing import Any

import keras
import numpy as np
import tensorflow as tf

CPU = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(CPU, [tf.config.LogicalDeviceConfiguration()] * 2)

from training import DEFAULTS, maker  # noqa: E402  after the devices are there

import keras_rmda as kr  # noqa: E402

X = np.random.default_rng(0).normal(size=(80, 6)).astype("float32")
KINDS = {kind.__name__: kind for kind in DEFAULTS}
CASES: dict[str, dict[str, Any]] = {name: {"kind": name} for name in KINDS}
CASES |= {f"{name} gates": {"kind": name, "groups": "coupled", "gates": True} for name in KINDS}
CASES |= {f"{name} compiled": {"kind": name, "groups": "coupled", "arguments": {"jit_update": True}} for name in KINDS}
CASES |= {
    "accumulation": {"kind": "RMDA", "arguments": {"gradient_accumulation_steps": 2}},
    "clipping": {"kind": "ProxSGD", "arguments": {"global_clipnorm": 0.1}},
    "skipping": {"kind": "RMDA", "arguments": {"skip_nonfinite": True, "jit_update": True}},
    "constraint": {"kind": "ProxAdamW", "constraint": "non_neg"},
    "weights set late": {"kind": "RMDA", "scale": 0.5},
    "several steps": {"kind": "RMDA", "arguments": {"jit_update": True}, "steps_per_execution": 5},
}
"""What a case trains with; see `trained`."""


def trained(
    strategy: tf.distribute.Strategy,
    kind: str,
    groups: str = "input",
    gates: bool = False,
    constraint: str | None = None,
    scale: float = 1.0,
    arguments: dict[str, Any] | None = None,
    **compile_arguments: Any,
) -> np.ndarray:
    """Return all weights of a network with a shortcut after 50 steps."""
    with strategy.scope():
        keras.utils.set_random_seed(0)
        inputs = keras.Input((6,))
        x = keras.layers.Dense(8, "relu", kernel_constraint=constraint)(inputs)
        x = keras.layers.Add()([x, keras.layers.Dense(8)(x)])
        model = keras.Model(inputs, keras.layers.Dense(3)(x))
        model = kr.gates.insert(model, strength=1e-3, where="everywhere") if gates else model
        psi = kr.GroupLasso(3e-2, groups=kr.coupled_groups(model) if groups == "coupled" else groups)
        optimizer = maker(KINDS[kind])(regularizer=psi, **arguments or {})
        model.compile(optimizer, "mse", **compile_arguments)
        optimizer.build(model.trainable_variables)
        model.set_weights([scale * weight for weight in model.get_weights()])
    model.fit(X, X[:, :3], batch_size=16, epochs=10, shuffle=False, verbose=0)
    return np.concatenate([weight.ravel() for weight in model.get_weights()])


def difference(case: dict[str, Any]) -> float:
    """Return the largest difference between two replicas and no strategy at all."""
    two = trained(replicas("steps_per_execution" in case), **case)
    return float(np.abs(two - trained(tf.distribute.get_strategy(), **case)).max())


@functools.cache
def replicas(for_several_steps: bool = False) -> tf.distribute.Strategy:
    """Return the strategy with two of them."""
    ways = tf.distribute.HierarchicalCopyAllReduce() if for_several_steps else None
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], ways)


if __name__ == "__main__":
    print(json.dumps({name: difference(CASES[name]) for name in sys.argv[1:]}))
