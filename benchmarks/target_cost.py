"""Cost of the decisions of `TargetSparsity` at 10^8 parameters: `python benchmarks/target_cost.py`.

Three convolutions and three dense layers; the twenty decisions on the way to a quarter of the multiply-accumulates, and
the last one, without any step of training between them. `--narrower 8` is a network of a sixtieth of the size.
"""

from __future__ import annotations

import argparse
import resource
import time
from typing import Any

import keras
import numpy as np

import keras_rmda as kr
from keras_rmda.callbacks import choice, target
from keras_rmda.optimizers import joint

GOAL = 0.25


def network(narrower: int) -> keras.Model:
    """Return the network, with fewer channels if that is more than 1."""
    x = inputs = keras.Input((16, 16, 64))
    for width in (512, 1024, 1024):
        x = keras.layers.Conv2D(width // narrower, 3, padding="same", use_bias=False)(x)
        x = keras.layers.MaxPooling2D()(keras.layers.ReLU()(keras.layers.BatchNormalization()(x)))
    x = keras.layers.Flatten()(x)
    for width in (8192, 6144):
        x = keras.layers.Dense(width // narrower, "relu")(x)
    return keras.Model(inputs, keras.layers.Dense(100)(x))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--narrower", type=int, default=1)
    keras.utils.set_random_seed(0)
    model = network(parser.parse_args().narrower)
    psi = kr.GroupLasso(1e-4, groups=kr.coupled_groups(model))
    model.compile(kr.ProxSGD(0.01, 0.5, regularizer=psi), "mse")
    measurements, plan = [], choice.plan

    def counted(*arguments: Any) -> Any:
        measurements.append(time.perf_counter())
        return plan(*arguments)

    choice.plan = counted
    groups = choice.Groups(model, "macs")
    measurements.clear()
    start, work = time.perf_counter(), time.process_time()
    for decision in range(target.DECISIONS):
        groups.look()
        groups.left()
        chosen = groups.smallest(GOAL + (1 - GOAL) * (1 - decision / target.DECISIONS) ** 3)
        groups.factors = np.where(chosen, joint.NEVER_AGAIN, groups.factors)
    groups.smallest(GOAL, nearest=True)
    print(
        f"{model.count_params():,} parameters, {groups.count:,} groups: {len(measurements)} measurements, "
        f"{time.perf_counter() - start:.1f} s, {time.process_time() - work:.1f} s of work, "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024:,} MiB at most"
    )


if __name__ == "__main__":
    main()
