"""What is special where several replicas or processes train together, under TensorFlow's strategies and on JAX.

Private calls, checked with Keras 3.8 and 3.15 and TensorFlow 2.18 and 2.21: a strategy's way to reduce, and the copy
of a distributed variable on a replica (`_get`), for which there are no public names.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from keras_rmda.platform import arithmetic


def is_distributed() -> bool:
    """Return whether TensorFlow runs under a strategy other than the default one."""
    return keras.backend.backend() == "tensorflow" and sys.modules["tensorflow"].distribute.has_strategy()


def _replica_context() -> Any:
    """Return that of the replica, under a strategy of TensorFlow, whose step is traced or made here, or None."""
    return sys.modules["tensorflow"].distribute.get_replica_context() if is_distributed() else None


def summed_over_replicas(grads: list) -> list:
    """Return gradients, of which some may be None, summed over the replicas of a TensorFlow strategy."""
    found, context = [gradient for gradient in grads if gradient is not None], _replica_context()
    if not found or context is None:
        return grads
    sums = iter(context.all_reduce("SUM", found))
    return [gradient if gradient is None else next(sums) for gradient in grads]


def copy_here(variable: keras.Variable) -> Any:
    """Return what holds a variable's value on the replica whose step is traced or made here."""
    if _replica_context() is None:
        return variable
    value = variable.value
    return value._get() if hasattr(value, "_get") else value


def assign_here(variable: keras.Variable, value: Any) -> None:
    """Assign a value that all replicas compute alike to the copy of this replica.

    TensorFlow's own ways to assign within a replica meet all others: they fail in compiled functions and conditionals.
    """
    copy_here(variable).assign(value)


def check_step_can_be_distributed(model: keras.Model | None) -> None:
    """Refuse what TensorFlow cannot do with several replicas, whose own messages are of collective operations.

    Raises:
        ValueError: if several replicas are to make steps of this model together, compiled on CPUs or several at a time
            in a way that does not allow it.
    """
    if model is None or not is_distributed():
        return
    distribute = sys.modules["tensorflow"].distribute
    strategy = distribute.get_strategy()
    if strategy.num_replicas_in_sync == 1:
        return
    if model.jit_compile and arithmetic.runs_on_cpu():
        raise ValueError(
            "On CPUs TensorFlow cannot compile a step that several replicas make together. Compile the model without: "
            "`compile(..., jit_compile=False)`; the optimizer's jit_update=True compiles the update alone. "
            f"Received: jit_compile={model.jit_compile!r}"
        )
    ways = getattr(strategy.extended, "_cross_device_ops", None)
    if model.steps_per_execution > 1 and not isinstance(ways, distribute.HierarchicalCopyAllReduce):
        raise ValueError(
            "TensorFlow makes several steps at once with several replicas only under "
            "MirroredStrategy(cross_device_ops=tf.distribute.HierarchicalCopyAllReduce()). "
            f"Received: steps_per_execution={model.steps_per_execution!r}, cross_device_ops={type(ways).__name__}"
        )


def is_chief(strategy: Any) -> bool:
    """Return whether this process is the first of those that train together."""
    if keras.backend.backend() == "jax":
        return sys.modules["jax"].process_index() == 0
    resolver = getattr(strategy, "cluster_resolver", None)
    if resolver is None or not resolver.task_type:
        return True
    has_chief = "chief" in resolver.cluster_spec().jobs
    return resolver.task_type == "chief" or (not has_chief and (resolver.task_type, resolver.task_id) == ("worker", 0))


def is_alone(strategy: Any) -> bool:
    """Return whether no other process trains with this one."""
    if keras.backend.backend() == "jax":
        return sys.modules["jax"].process_count() == 1
    return getattr(getattr(strategy, "cluster_resolver", None), "task_type", None) is None


def agree_on(number: int, strategy: Any) -> bool:
    """Return whether this process has the same number as all that train together; each of them must ask."""
    if is_alone(strategy):
        return True
    if keras.backend.backend() == "jax":
        from jax.experimental import multihost_utils

        return bool((multihost_utils.process_allgather(np.array(number)) == number).all())
    tensorflow = sys.modules["tensorflow"]
    total = strategy.reduce("SUM", strategy.run(lambda: tensorflow.constant(float(number))), axis=None)
    return float(total) == float(number) * strategy.num_replicas_in_sync


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Let variables that are made in the context be of this process only.

    On JAX they are otherwise made by all processes of a distribution together, which wait for each other; saving and
    cloning a model make some.
    """
    before = keras.distribution.distribution() if keras.backend.backend() == "jax" else None
    if before is not None:
        keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        if before is not None:
            keras.distribution.set_distribution(before)


def on_each(strategy: Any, function: Callable[[], None]) -> None:
    """Call a function on every replica of a strategy of TensorFlow, or once where there is none."""
    function() if strategy is None else strategy.run(function)
