"""Every call of tf_keras and TensorFlow Model Optimization that is private or has side effects, with its reason.

Checked with TensorFlow Model Optimization 0.8.1 and tf_keras 2.18 and 2.21.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
from collections.abc import Iterator
from typing import Any


def tf_keras() -> Any:
    """Return the module tf_keras, the Keras of TensorFlow Model Optimization.

    Raises:
        ModuleNotFoundError: saying what to install.
    """
    with _names_the_extra():
        import tf_keras
    return tf_keras


@contextlib.contextmanager
def _names_the_extra() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Quantization-aware training needs the packages of keras-rmda[qat]: {error}"
        ) from error


@functools.cache
def quantization() -> Any:
    """Return `tensorflow_model_optimization.quantization.keras`.

    Its import sets TF_USE_LEGACY_KERAS, after which `tf.keras` is tf_keras wherever nobody has used it yet, here and
    in every process that this one starts. So `tf.keras` is looked up before, and the variable put back.

    Raises:
        ModuleNotFoundError: saying what to install.
    """
    import tensorflow as tf

    before = os.environ.get("TF_USE_LEGACY_KERAS")
    _ = tf.keras.layers
    try:
        with _names_the_extra():
            import tensorflow_model_optimization
    finally:
        os.environ.pop("TF_USE_LEGACY_KERAS", None)
        if before is not None:
            os.environ["TF_USE_LEGACY_KERAS"] = before
    return tensorflow_model_optimization.quantization.keras


def is_of_tf_keras(model: Any) -> bool:
    """Return whether a model is one of tf_keras, without importing that."""
    return "tf_keras" in sys.modules and isinstance(model, sys.modules["tf_keras"].Model)


def can_quantize(layer: Any) -> bool:
    """Return whether TensorFlow Model Optimization has a way to quantize a layer of tf_keras.

    Its registry is private; `quantize_model` asks it in the same way, and raises for the first layer that it lacks.
    """
    registry = importlib.import_module(
        "tensorflow_model_optimization.python.core.quantization.keras.default_8bit.default_8bit_quantize_registry"
    )
    return registry.Default8BitQuantizeRegistry().supports(layer)


def readers(layer: Any, model: Any) -> list:
    """Return the nodes of a tf_keras model that read what a layer makes.

    `layer.outbound_nodes` has those of other models, too: a model of what is inside another gets nodes of its own.
    """
    nodes = [node for nodes in model._nodes_by_depth.values() for node in nodes]
    return [node for node in nodes if any(each.layer is layer for each in node.parent_nodes)]


def keep_zeros(variable: Any) -> None:
    """Make the optimizers of tf_keras put the zeros of a variable back after every step.

    Arguments for constraints are gone when TensorFlow Model Optimization has copied the layer; the attribute is what
    optimizers read.
    """
    tf = sys.modules["tensorflow"]
    nonzero = tf.not_equal(variable, 0)
    variable._constraint = lambda value: tf.where(nonzero, value, tf.zeros_like(value))


@contextlib.contextmanager
def observed_ranges(optimization: Any) -> Iterator[None]:
    """Let models that TensorFlow Model Optimization prepared note the extremes of activations, and not round them.

    Its quantizers know only moving averages with a fixed decay of 0.999.
    """
    tf, kind = sys.modules["tensorflow"], optimization.quantizers.MovingAverageQuantizer
    original, seen = kind.__call__, set()

    def observe(quantizer: Any, inputs: Any, training: bool, weights: dict[str, Any], **unused: Any) -> Any:
        low, high = weights["min_var"], weights["max_var"]
        begun = id(low) in seen
        seen.add(id(low))
        low.assign(tf.minimum(low if begun else 0.0, tf.reduce_min(inputs)))
        high.assign(tf.maximum(high if begun else 0.0, tf.reduce_max(inputs)))
        return inputs

    kind.__call__ = observe
    try:
        yield
    finally:
        kind.__call__ = original
