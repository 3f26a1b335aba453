"""A training on two replicas and on none, with the same global batch. A process of its own runs this.

    python tests/replicas.py CASE

prints the largest difference between their weights after 50 steps. After a failed collective operation all later ones
of a process fail, and those of two strategies get into each other's way.
"""

from __future__ import annotations

import sys
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from training import DEFAULTS, maker

import keras_rmda as kr

X = np.random.default_rng(0).normal(size=(80, 6)).astype("float32")
KINDS = {kind.__name__: kind for kind in DEFAULTS}
COMPILED = {"jit_update": True}
CASES: dict[str, dict[str, Any]] = {
    name: {"kind": name, "groups": "coupled", "gates": True, "arguments": COMPILED} for name in KINDS
}
CASES |= {
    "single groups, set late": {"kind": "RMDA", "scale": 0.5},
    "coupled groups, gates": {"kind": "ProxAdamW", "groups": "coupled", "gates": True},
    "accumulation, clipping": {"kind": "RMDA", "arguments": {"gradient_accumulation_steps": 2, "global_clipnorm": 0.1}},
    "constraint": {"kind": "ProxAdamW", "constraint": "non_neg"},
    "skipping, several steps": {
        "kind": "RMDA",
        "arguments": COMPILED | {"skip_nonfinite": True},
        "steps_per_execution": 5,
    },
}
"""What a case trains with; see `trained`. Every algorithm with all at once, since one path serves them all."""


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
    ways = tf.distribute.HierarchicalCopyAllReduce() if "steps_per_execution" in case else None
    two = trained(two_replicas(ways), **case)
    return float(np.abs(two - trained(tf.distribute.get_strategy(), **case)).max())


def two_replicas(ways: tf.distribute.CrossDeviceOps | None = None) -> tf.distribute.Strategy:
    """Return the strategy with two replicas on the processor, which this process must not have used before."""
    [processor] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], ways)


if __name__ == "__main__":
    print(difference(CASES[sys.argv[1]]))
