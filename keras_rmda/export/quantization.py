"""Quantization-aware training, by TensorFlow Model Optimization."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_rmda import _checks, _finite, _graphs, _tfmot
from keras_rmda.export.legacy import as_tf_keras, functions_in, refuse
from keras_rmda.export.samples import first_samples
from keras_rmda.pruning import strip

BATCH_SIZE = 32
"""Of the samples that the ranges of activations are read from."""

FOLDED = ("Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Dense")
"""Layers with which batch normalization behind them becomes one."""


def quantization_aware(model: keras.Model, representative_data: Any = None) -> Any:
    """Return a model that trains with the rounding errors of an int8 file, so that its weights make up for them.

    The model is stripped, rebuilt in tf_keras, and prepared by TensorFlow Model Optimization. Weights that are zero
    stay zero. Train it for a few epochs at a tenth of the learning rate or less, and export it as int8.

    Args:
        model: a built, trained model that `strip` takes, of Conv2D, Conv2DTranspose, DepthwiseConv2D,
            SeparableConv2D, Dense, batch normalization right behind these, ReLU, pooling, Add, Concatenate and others
            that TensorFlow Model Optimization has. Preprocessing and random layers at its inputs, such as Rescaling,
            stay in float. It is not changed.
        representative_data: inputs, as for `export_tflite`, from which the ranges of activations are set, so that
            the model computes at once as an int8 file does. Without them the ranges begin at [-6, 6] and those of
            activations come closer to the true ones by one thousandth in every training step: thousands of steps are
            needed.

    Returns:
        A `tf_keras.Model`: compile it with optimizers and losses of tf_keras, or with their names, and hand it to
        `export_tflite(quantization="int8")`. Its optimizers do not know the proximal ones of this package.

    Raises:
        ModuleNotFoundError: if the packages of `keras-rmda[qat]` are missing.
        ValueError: naming all layers that cannot be trained so, if there are any; for weights that are not finite;
            and if the model cannot be stripped.

    Example:
        >>> aware = kr.quantization_aware(model, images[:200])
        >>> aware.compile(tf_keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> aware.fit(images, labels, epochs=3)
        >>> kr.export_tflite(aware, "model.tflite", "int8", images[:200])

    Source: Jacob et al. 2018, arXiv:1712.05877.
    """
    optimization = _tfmot.quantization()
    if not isinstance(model, keras.Model):
        raise ValueError(f"`model` must be a Keras 3 model. Received: model={model!r}")
    _finite.check_finite(model)
    small = strip(model)
    model = model if _graphs.has_graph(model) else small  # a subclassed model gets inputs with names
    samples = None if representative_data is None else first_samples(model, representative_data)
    legacy = as_tf_keras(small)
    front, legacy = split(legacy)
    refuse(unfolded_normalizations(legacy), "TensorFlow Model Optimization")
    functions = functions_in(legacy)
    try:
        with _tfmot.tf_keras().utils.custom_object_scope(functions):
            result = optimization.quantize_model(legacy)
    except Exception as error:  # TensorFlow Model Optimization raises many types
        with _tfmot.tf_keras().utils.custom_object_scope(functions):
            refuse(refused_layers(optimization, legacy), "TensorFlow Model Optimization")
        raise ValueError(
            f"TensorFlow Model Optimization cannot prepare the model {model.name!r}: {_checks.first_line(error)}"
        ) from error
    for variable in result.trainable_variables:
        if len(variable.shape) > 1:
            _tfmot.keep_zeros(variable)
    if samples:
        # Inputs keep their order and may change their names.
        arrays = [np.concatenate([sample[tensor.name] for sample in samples]) for tensor in model.inputs]
        if front is not None:
            arrays = [np.asarray(x) for x in keras.tree.flatten(front(arrays, training=False))]
        set_ranges(optimization, result, arrays)
    return result if front is None else joined(front, result)


def split(model: Any) -> tuple[Any, Any]:
    """Return the layers at the inputs of a tf_keras model that stay in float, as a model, and the model behind them.

    Those are what TensorFlow Model Optimization cannot quantize and nothing trains: preprocessing and random layers.
    The first is None if there are none, or if nothing is behind them.
    """
    legacy = _tfmot.tf_keras()
    front = {id(x) for x in model.inputs}
    read: dict[int, Any] = {}
    found = False
    for layer in model.layers:  # in order of execution
        inputs = keras.tree.flatten(layer.input)
        if isinstance(layer, legacy.layers.InputLayer):
            continue
        stays = not layer.trainable_weights and not _tfmot.can_quantize(layer) and layer.inbound_nodes[1:] == []
        if stays and all(id(x) in front for x in inputs):
            front.update(id(y) for y in keras.tree.flatten(layer.output))
            found = True
        else:
            read.update({id(x): x for x in inputs if id(x) in front})
    if not found or not read or any(id(y) in front for y in model.outputs):
        return None, model
    between = list(read.values())
    return legacy.Model(model.inputs, between, name="front"), legacy.Model(between, model.outputs, name=model.name)


def joined(front: Any, model: Any) -> Any:
    """Return one tf_keras model of two, with the names of the first's inputs and the second's outputs."""
    legacy = _tfmot.tf_keras()
    inputs = [legacy.Input(x.shape[1:], x.shape[0], name=x.node.layer.name, dtype=x.dtype) for x in front.inputs]
    outputs = keras.tree.flatten(model(front(inputs)))
    named = [legacy.layers.Activation("linear", name=name)(y) for name, y in zip(model.output_names, outputs)]
    return legacy.Model(inputs, named if len(named) > 1 else named[0], name=model.name)


def unfolded_normalizations(model: Any) -> dict[str, str]:
    """Return the batch normalizations of a tf_keras model that do not become one with the layer before, with why."""
    kind, found = _tfmot.tf_keras().layers.BatchNormalization, {}
    for layer in model.layers:
        before = layer.inbound_nodes[0].inbound_layers if isinstance(layer, kind) else None
        if before and (type(before).__name__ not in FOLDED or len(_tfmot.readers(before, model)) > 1):
            found[layer.name] = f"BatchNormalization: must be all that reads one of {', '.join(FOLDED)}"
        elif before and before.activation is not _tfmot.tf_keras().activations.linear:
            found[layer.name] = (
                "BatchNormalization: the layer before it has an activation; make that a layer behind the normalization"
            )
    return found


def refused_layers(optimization: Any, model: Any) -> dict[str, str]:
    """Return the layers of a tf_keras model that cannot be quantized even alone, by name, with the reason."""
    legacy, found = _tfmot.tf_keras(), {}
    for layer in model.layers:
        if isinstance(layer, (legacy.layers.InputLayer, legacy.layers.BatchNormalization)):
            continue
        inputs = [legacy.Input(x.shape[1:], x.shape[0], dtype=x.dtype) for x in keras.tree.flatten(layer.input)]
        try:
            copy = type(layer).from_config(layer.get_config())
            optimization.quantize_model(legacy.Model(inputs, copy(inputs if len(inputs) > 1 else inputs[0])))
        except Exception as error:
            found[layer.name] = f"{type(layer).__name__}: {_checks.first_line(error)}"
    return found


def set_ranges(optimization: Any, model: Any, arrays: list[np.ndarray]) -> None:
    """Set all ranges to the smallest and largest values that occur.

    Args:
        optimization: the module `tensorflow_model_optimization.quantization.keras`.
        model: what it prepared.
        arrays: for each input.
    """
    legacy = _tfmot.tf_keras()
    normalizations = [layer.layer for layer in model.layers if hasattr(layer, "quantize_config")]
    normalizations = [layer for layer in normalizations if isinstance(layer, legacy.layers.BatchNormalization)]
    trainable = [layer.trainable for layer in normalizations]
    try:
        for layer in normalizations:  # they shall not take the statistics of these batches
            layer.trainable = False
        with _tfmot.observed_ranges(optimization):
            for k in range(0, len(arrays[0]), BATCH_SIZE):
                batch = [x[k : k + BATCH_SIZE] for x in arrays]
                model(batch if len(batch) > 1 else batch[0], training=True)
    finally:
        for layer, value in zip(normalizations, trainable):
            layer.trainable = value
