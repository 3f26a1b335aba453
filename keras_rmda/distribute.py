"""Training by several processes, on one machine or many."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import keras

from keras_rmda.callbacks import BackupAndRestore
from keras_rmda.platform import replicas, versions

__all__ = ["alone", "callbacks", "enable_fit", "is_chief"]

WRITERS = ("ModelCheckpoint", "CSVLogger", "TensorBoard", "RemoteMonitor")


def enable_fit() -> None:
    """Make `fit`, `evaluate` and `predict` of Keras work under `tf.distribute.MultiWorkerMirroredStrategy`.

    Without it they fail: Keras 3 reduces what replicas return in a way that several workers cannot. Call it once in
    every worker, before `fit`. On the JAX backend there is nothing to do: see docs/scale.md.

    Raises:
        RuntimeError: if the backend is not TensorFlow, or this version of Keras was not checked.

    Example:
        >>> kr.distribute.enable_fit()
        >>> strategy = tf.distribute.MultiWorkerMirroredStrategy()  # reads TF_CONFIG
        >>> with strategy.scope():
        ...     model = network()
        ...     model.compile(kr.RMDA(0.1, regularizer=psi), loss)
        >>> model.fit(x, y, epochs=5, callbacks=kr.distribute.callbacks([], strategy))
    """
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "MultiWorkerMirroredStrategy is TensorFlow's. With JAX, `fit` works over several processes as it is: "
            "jax.distributed.initialize, then keras.distribution.DataParallel; docs/scale.md has all of it. "
            f"Received: backend={keras.backend.backend()!r}"
        )
    if not versions.is_tested("keras"):
        raise RuntimeError(
            "`enable_fit` replaces private functions of Keras, and was checked with versions "
            f"{versions.range_of('keras')}. With this one, use a loop of your own: examples/custom_loop.py. "
            f"Received: keras {keras.__version__}"
        )
    from keras_rmda.platform import multi_worker

    multi_worker.replace(versions.of("keras"))


def is_chief(strategy: object | None = None) -> bool:
    """Return whether this process is the one that writes files: "chief", else worker 0; on JAX process 0.

    Args:
        strategy: a strategy of TensorFlow; None where there is none, and on other backends.

    Example:
        >>> if kr.distribute.is_chief(strategy):
        ...     model.save("model.keras")
    """
    return replicas.is_chief(strategy)


def alone() -> contextlib.AbstractContextManager[None]:
    """Return a context for what one process does without the others: saving, stripping, exporting a model.

    Elsewhere that is only possible on TensorFlow. On JAX all processes of a `keras.distribution` make variables
    together, also those that Keras makes in between when it saves a model, and one alone would fail or wait.

    Example:
        >>> if kr.distribute.is_chief():
        ...     with kr.distribute.alone():
        ...         kr.strip(model).save("small.keras")
    """
    return replicas.alone()


def callbacks(callbacks: Iterable[keras.callbacks.Callback], strategy: object | None = None) -> list:
    """Return those of the callbacks that this worker needs: one process writes files.

    Those of Keras that write are for the chief alone. `keras_rmda.callbacks.BackupAndRestore` is for all: everyone
    restores, the chief writes. All others decide on every worker, from the same weights, and agree.

    Args:
        callbacks: the same ones on all workers.
        strategy: as in `is_chief`.

    Returns:
        A list for `fit`.

    Raises:
        ValueError: for Keras's BackupAndRestore, with which every worker writes over the copy of the others.

    Example:
        >>> logs, target = keras.callbacks.CSVLogger("log.csv"), kr.callbacks.TargetSparsity(0.25)
        >>> model.fit(x, y, epochs=5, callbacks=kr.distribute.callbacks([target, logs], strategy))
    """
    found = list(callbacks)
    for each in found:
        if isinstance(each, keras.callbacks.BackupAndRestore):
            raise ValueError(
                "With keras.callbacks.BackupAndRestore every worker writes over the copy of the others. "
                f"keras_rmda.callbacks.BackupAndRestore does not. Received: {type(each).__name__} in `callbacks`"
            )
    if is_chief(strategy):
        return found
    writers = tuple(getattr(keras.callbacks, name) for name in WRITERS if hasattr(keras.callbacks, name))
    return [each for each in found if isinstance(each, BackupAndRestore) or not isinstance(each, writers)]
