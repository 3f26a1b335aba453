"""Quantization-aware training, by TensorFlow Model Optimization."""

from __future__ import annotations

import warnings
from typing import Any

import keras
import numpy as np

from keras_rmda.export.carried import AVERAGES, carrier
from keras_rmda.export.legacy import as_tf_keras
from keras_rmda.export.prepared import output_names
from keras_rmda.export.samples import check_numbers, first_samples
from keras_rmda.platform import checks, compat, finite, graphs, tfmot
from keras_rmda.structure import strip
from keras_rmda.structure.liveness import plan
from keras_rmda.structure.trace import trace

BATCH_SIZE = 32
"""Of the samples that the ranges of activations are read from."""

FOLDED = ("Conv2D", "DepthwiseConv2D", "Dense")
"""Layers with which batch normalization behind them becomes one."""


def quantization_aware(model: keras.Model, representative_data: Any = None) -> Any:
    """Return a model that trains with the rounding errors of an int8 file, so that its weights make up for them.

    The model is stripped, rebuilt in tf_keras, and prepared by TensorFlow Model Optimization. Weights that are zero
    stay zero. Train it for a few epochs at a tenth of the learning rate or less, and export it as int8.

    Args:
        model: a built, trained model that `strip` takes: what weights of zero cut off is gone. Convolutions of images,
            Dense, batch normalization, ReLU, pooling, Add, Concatenate and others that TensorFlow Model Optimization
            has train in int8. Of all others the kernels and outputs do, and what is between trains in float32, as the
            file computes it. Preprocessing and random layers at the inputs, such as Rescaling, stay in float. It is not
            changed.
        representative_data: inputs, as for `export_tflite`, from which the ranges of activations are set, so that
            the model computes at once as an int8 file does. Without them the ranges begin at [-6, 6] and those of
            activations come closer to the true ones by one thousandth in every training step: thousands of steps are
            needed.

    Returns:
        A `tf_keras.Model`: compile it with optimizers and losses of tf_keras, or with their names, and hand it to
        `export_tflite(quantization="int8")`. Constraints and penalties of layers are not in it, which a
        `SparsityWarning` says. Its optimizers do not know the proximal ones of this package. A weight
        that several layers use becomes one for each, which a `SparsityWarning` says.

    Raises:
        ModuleNotFoundError: if the packages of `keras-rmda[qat]` are missing.
        ValueError: naming all layers that cannot be trained so, such as those that remember from call to call; for
            weights that are not finite; and if the model cannot be stripped, or takes strings.

    Example:
        >>> aware = kr.quantization_aware(model, images[:200])
        >>> aware.compile(tf_keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> aware.fit(images, labels, epochs=3)
        >>> kr.export_tflite(aware, "model.tflite", "int8", images[:200])

    Source: Jacob et al. 2018, arXiv:1712.05877.
    """
    optimization = tfmot.quantization()
    if not isinstance(model, keras.Model):
        raise ValueError(f"`model` must be a Keras 3 model. Received: model={model!r}")
    check_numbers(model)
    finite.check_finite(model)
    small = strip(model)
    warn_of_constants(small)
    warn_of_what_is_left_out(small)
    model = model if graphs.has_graph(model) else small  # a subclassed model gets inputs with names
    samples = None if representative_data is None else first_samples(model, representative_data)
    legacy = as_tf_keras(small)
    alone = unfolded_normalizations(legacy)
    legacy = as_tf_keras(small, alone) if alone else legacy
    try:
        result = prepared(optimization, legacy)
    except Exception as error:  # TensorFlow Model Optimization raises many types
        raise ValueError(
            f"TensorFlow Model Optimization cannot prepare the model {model.name!r}: {checks.first_line(error)}"
        ) from error
    for variable in result.trainable_variables:
        if len(variable.shape) > 1:
            tfmot.keep_zeros(variable)
    if samples:
        # Inputs keep their order and may change their names.
        arrays = [np.concatenate([sample[tensor.name] for sample in samples]) for tensor in model.inputs]
        set_ranges(optimization, result, arrays)
    if isinstance(graphs.functional(small).output, dict):  # by whose keys a file and targets name them
        result.output_names = output_names(small)
    return result


def warn_of_constants(model: keras.Model) -> None:
    """Warn of a model of which nothing is left to train, since zeros among its weights cut everything off."""
    found = plan(trace(graphs.functional(model)), keras.ops.convert_to_numpy)
    if all(np.isfinite(found.state.values[y.index]).all() for y in found.trace.outputs):
        warnings.warn(
            f"The outputs of the model {model.name!r} are constants, whatever goes in: a layer with weights of zero "
            "cuts off all layers before it, and what is returned has hardly anything left of them. If the last layer "
            "begins with zeros, train the model before.",
            checks.SparsityWarning,
            stacklevel=3,
        )


def warn_of_what_is_left_out(model: keras.Model) -> None:
    """Warn of constraints and penalties of layers: both versions of Keras write them in different ways."""
    found = []
    for layer in compat.layers_of(model):
        weights = [] if isinstance(layer, keras.Model) else layer.weights
        if any(getattr(each, "constraint", None) or getattr(each, "regularizer", None) for each in weights):
            found.append(layer.name)
    if found:
        warnings.warn(
            f"Constraints and penalties of layers are left out of what `quantization_aware` returns. Received: {found}",
            checks.SparsityWarning,
            stacklevel=3,
        )


def prepared(optimization: Any, model: Any) -> Any:
    """Return a model of tf_keras that rounds as an int8 file does.

    Args:
        optimization: the module `tensorflow_model_optimization.quantization.keras`.
        model: what `as_tf_keras` returns.
    """
    legacy, kind = tfmot.tf_keras(), carrier()
    annotate = optimization.quantize_annotate_layer

    def marked(layer: Any) -> Any:
        if not isinstance(layer, kind):
            return annotate(layer, tfmot.no_rounding() if type(layer).__name__ in AVERAGES else None)
        return kind.from_config(layer.get_config() | {"rounds": layer.carried.rounds})

    with optimization.quantize_scope({kind.__name__: kind}):
        annotated = legacy.models.clone_model(model, clone_function=marked)
        is_any = any(type(layer) is type(annotate(legacy.layers.Dropout(0.0))) for layer in annotated.layers)
        result = optimization.quantize_apply(annotated) if is_any else annotated
    for layer in result.layers:
        if hasattr(layer, "quantize_config") and not layer.layer.trainable:
            tfmot.freeze(layer)
    return result


def unfolded_normalizations(model: Any) -> dict[int, int]:
    """Return the batch normalizations of a tf_keras model that do not become one with the layer before.

    By the `id` of those of Keras that they stand for, how often each is called.
    """
    legacy, found = tfmot.tf_keras(), {}
    for layer in model.layers:
        if isinstance(layer, legacy.layers.BatchNormalization):
            before = layer.inbound_nodes[0].inbound_layers
            if (
                len(layer.inbound_nodes) > 1
                or type(before).__name__ not in FOLDED
                or len(tfmot.readers(before, model)) > 1
                or before.activation is not legacy.activations.linear
            ):
                found[layer.stands_for] = len(layer.inbound_nodes)
    return found


def set_ranges(optimization: Any, model: Any, arrays: list[np.ndarray]) -> None:
    """Set all ranges to the smallest and largest values that occur.

    Args:
        optimization: the module `tensorflow_model_optimization.quantization.keras`.
        model: what it prepared.
        arrays: for each input.
    """
    with tfmot.observed_ranges(optimization):
        for k in range(0, len(arrays[0]), BATCH_SIZE):
            batch = [x[k : k + BATCH_SIZE] for x in arrays]
            model(batch if len(batch) > 1 else batch[0], training=False)
