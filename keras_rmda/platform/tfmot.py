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


def can_round(activation: Any) -> bool:
    """Return whether TensorFlow Model Optimization knows where to round at an activation of tf_keras: by its name."""
    module = importlib.import_module(
        "tensorflow_model_optimization.python.core.quantization.keras.quantize_aware_activation"
    )
    kind = module.QuantizeAwareActivation
    return activation.__name__ in kind._PRE_QUANT_ACTIVATIONS | kind._POST_QUANT_ACTIVATIONS


def freeze(wrapper: Any) -> None:
    """Let a layer that TensorFlow Model Optimization wrapped stay untrained: it makes all kernels trainable."""
    wrapper._non_trainable_weights += wrapper._trainable_weights
    wrapper._trainable_weights = []


HIDDEN_MASK = "_keras_rmda_mask"
"""Where masks of Keras 3 are on tensors: both versions write them in one place, and wrappers cannot hand them on."""


def hide_mask(x: Any, y: Any) -> None:
    """Let a tensor `y` have the mask that Keras 3 wrote on `x`, hidden from tf_keras."""
    if getattr(x, "_keras_mask", None) is not None:
        setattr(y, HIDDEN_MASK, x._keras_mask)


def with_mask(x: Any) -> Any:
    """Return a tensor as Keras 3 wants it, with the mask that is hidden on it."""
    if getattr(x, HIDDEN_MASK, None) is None:
        return x
    y = sys.modules["tensorflow"].identity(x)
    y._keras_mask = getattr(x, HIDDEN_MASK)
    return y


def no_rounding() -> Any:
    """Return what makes TensorFlow Model Optimization leave a layer as it is; its own is private."""
    module = importlib.import_module(
        "tensorflow_model_optimization.python.core.quantization.keras.default_8bit.default_8bit_quantize_configs"
    )
    return module.NoOpQuantizeConfig()


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
    """Let models that TensorFlow Model Optimization prepared note the extremes of what they compute at inference.

    Its quantizers do so in training only, and those of activations know nothing but moving averages with a fixed decay
    of 0.999. They do not round meanwhile.
    """
    tf, quantizers = sys.modules["tensorflow"], optimization.quantizers
    kinds = (quantizers.MovingAverageQuantizer, quantizers.AllValuesQuantizer, quantizers.LastValueQuantizer)
    originals, seen = [kind.__call__ for kind in kinds], set()

    def observe(quantizer: Any, inputs: Any, training: bool, weights: dict[str, Any], **unused: Any) -> Any:
        low, high = weights["min_var"], weights["max_var"]
        begun = id(low) in seen
        if not begun and not tf.math.count_nonzero(inputs):
            return inputs  # of no range there are no steps: it keeps the one that it began with
        seen.add(id(low))
        low.assign(tf.minimum(low if begun else 0.0, tf.reduce_min(inputs)))
        high.assign(tf.maximum(high if begun else 0.0, tf.reduce_max(inputs)))
        return inputs

    def of_weights(quantizer: Any, inputs: Any, training: bool, weights: dict[str, Any], **unused: Any) -> Any:
        return originals[-1](quantizer, inputs, True, weights)

    for kind, function in zip(kinds, (observe, observe, of_weights)):
        kind.__call__ = function
    try:
        yield
    finally:
        for kind, original in zip(kinds, originals):
            kind.__call__ = original
