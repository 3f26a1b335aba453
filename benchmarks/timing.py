"""What the benchmarks of the update time, on TensorFlow and on JAX: a step, and the speed of memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np


def seconds(function: Callable[[], Any]) -> float:
    """Return the time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def update(optimizer: keras.optimizers.Optimizer, variables: list, jit_compile: bool = False) -> Callable[[], None]:
    """Return a function that makes one step and waits for it; JAX compiles it in any case."""
    random = np.random.default_rng(0)
    gradients = [keras.ops.convert_to_tensor(1e-3 * random.standard_normal(v.shape, "float32")) for v in variables]
    optimizer.build(variables)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        apply = tf.function(lambda: optimizer.apply(gradients, variables), jit_compile=jit_compile)
        return lambda: (apply(), variables[-1].numpy())
    import jax

    step = jax.jit(lambda weights, state: optimizer.stateless_apply(state, gradients, weights), donate_argnums=(0, 1))
    held = [[jax.numpy.copy(v.value) for v in each] for each in (variables, optimizer.variables)]

    def make_a_step() -> None:
        held[:] = step(*held)
        jax.block_until_ready(held)

    return make_a_step


def bandwidth(numbers: int, rounds: int = 30) -> float:
    """Return the bytes per second of an addition in place, which reads and writes so many numbers of float32 once."""
    add = addition(numbers)
    add()
    return 2 * 4 * numbers / min(seconds(add) for _ in range(rounds))


def addition(numbers: int) -> Callable[[], None]:
    """Return a function that adds one to so many numbers in place, and waits for it."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        variable = tf.Variable(tf.zeros(numbers))
        add = tf.function(lambda: variable.assign(variable + 1.0), jit_compile=True)
        return lambda: add()[:1].numpy()
    import jax

    step, held = jax.jit(lambda x: x + 1.0, donate_argnums=0), [jax.numpy.zeros(numbers)]

    def add_in_place() -> None:
        held[0] = jax.block_until_ready(step(held[0]))

    return add_in_place
