"""Keras 3 models as models of tf_keras, the Keras that TensorFlow Model Optimization works with."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_rmda.export.carried import Carried, Slot, carrier, slots
from keras_rmda.export.native import Piece, pieces
from keras_rmda.platform import arithmetic, checks, compat, graphs, lite, tfmot
from keras_rmda.platform.lite.parts import apart
from keras_rmda.structure.inputs import random_inputs
from keras_rmda.structure.verification import difference

TOLERANCE, LESS_PRECISE = 1e-4, 0.1
"""Largest accepted difference of outputs, relative to the largest, from models in float32 and in fewer bits."""


class Unsupported(ValueError):
    """What tf_keras or TensorFlow Model Optimization does not have."""


def as_tf_keras(model: keras.Model, alone: Mapping[int, int] | None = None) -> Any:
    """Return a `tf_keras.Model` that computes what a Keras 3 model does; models inside are written out.

    What TensorFlow Model Optimization can round becomes a layer of tf_keras. All else is a layer that carries Keras's.

    Args:
        model: a built Functional or Sequential model.
        alone: by the `id` of batch normalizations that nothing before them becomes one with, how often each is called.

    Returns:
        An uncompiled model in float32 with the names of layers and inputs, and the outputs as a flat list.

    Raises:
        Unsupported: naming the layers that it cannot have.
        ValueError: if the model has no graph of layers.
    """
    legacy, writer = tfmot.tf_keras(), Writer(model, alone or {})
    inputs = [
        legacy.Input(x.shape[1:], x.shape[0], name=x.name, dtype=keras.backend.standardize_dtype(x.dtype))
        for x in graphs.inputs_of(model)
    ]
    writer.in_float.update((id(x), x) for x in inputs)
    outputs = keras.tree.flatten(graphs.replayed(model, inputs, writer.call))
    if writer.refused:
        listed = "; ".join(f"{name!r} ({reason})" for name, reason in writer.refused.items())
        raise Unsupported(f"Quantization-aware training cannot have these layers: {listed}")
    result = legacy.Model(inputs, outputs if len(outputs) > 1 else outputs[0], name=lite.scope_name(model.name))
    verify(model, result)
    tied = [v.path for v in model.trainable_variables if writer.copies[id(v)] + (id(v) in writer.weights) > 1]
    if tied and not alone:
        warnings.warn(
            f"Several layers use the weights {tied}. In the result each has its own, with the same values: training it "
            "makes them differ, and a file holds all of them.",
            checks.SparsityWarning,
            stacklevel=3,
        )
    return result


class Writer:
    """The layers of tf_keras that stand for those of a model.

    Attributes:
        made: by the `id` of a layer or operation, what stands for it.
        names: those taken.
        weights: of tf_keras, by the `id` of Keras's, which all layers that carry one share.
        copies: by the `id` of a weight how many other layers have it.
        refused: by the name of a layer why it cannot be.
        in_float: by `id` the inputs, and what preprocessing makes of them, which stay in float.
        roundings: by the `id` of one of those, itself rounded.
    """

    def __init__(self, model: keras.Model, alone: Mapping[int, int]):
        self.model, self.alone = model, alone
        self.made: dict[int, list[Piece]] = {}
        self.names: set[str] = set()
        self.weights: dict[int, Any] = {}
        self.copies: Counter[int] = Counter()
        self.refused: dict[str, str] = {}
        self.in_float: dict[int, Any] = {}
        self.roundings: dict[int, Any] = {}

    def call(self, node: Any, arguments: tuple, keywords: dict[str, Any]) -> Any:
        """Return what stands for the outputs of a node of the graph."""
        operation = node.operation
        keywords = {key: x for key, x in keywords.items() if key != "training"}  # as the whole model is called
        if graphs.is_inner_graph(operation):
            given = graphs.inputs_given(operation, arguments, graphs.without_masks(keywords))
            return graphs.replayed(operation, given, self.call)
        try:
            found = self.native(node, arguments, keywords)
            return self.carried(node, arguments, keywords) if found is None else found
        except Exception as error:  # Keras and tf_keras raise many types
            self.refused[operation.name] = f"{type(operation).__name__}: {checks.first_line(error)}"
            legacy = tfmot.tf_keras()
            return [legacy.Input(x.shape[1:], x.shape[0], dtype=x.dtype) for x in node.output_tensors]

    def native(self, node: Any, arguments: tuple, keywords: dict[str, Any]) -> Any:
        """Return what layers make that TensorFlow Model Optimization can round; None if there are none."""
        operation = node.operation
        tensors = [x for x in keras.tree.flatten((arguments, keywords)) if x is not None]
        is_masked = any(key.endswith("mask") and x is not None for key, x in keywords.items())
        is_masked |= any(getattr(y, "_keras_mask", None) is not None for y in node.output_tensors)
        if is_masked or not tensors or not all(is_tensor(x) and x.dtype.is_floating for x in tensors):
            return None
        if self.alone.get(id(operation), 0) > 1:  # TensorFlow Model Optimization takes none that is called again
            return None
        if id(operation) not in self.made:
            is_alone = id(operation) in self.alone
            self.made[id(operation)] = pieces(operation, self.names, is_alone, tuple(tensors[0].shape))
            self.copies.update(id(v) for v in getattr(operation, "variables", []) if self.made[id(operation)])
        if not self.made[id(operation)]:
            return None
        inputs = tfmot.tf_keras().layers.InputLayer  # TensorFlow Model Optimization rounds these itself
        tensors = [x if isinstance(x.node.layer, inputs) else self.rounded(x) for x in tensors]
        x = tensors if len(tensors) > 1 else tensors[0]
        for each in self.made[id(operation)]:
            if each.layer is None:
                x = self.carrying(each.name, each.function, (x,), {}, [True])
            else:
                each.layer.stands_for = id(operation)
                is_new, x = not each.layer.built, each.layer(x)
                if is_new and each.weights:
                    each.layer.set_weights(each.weights)
        return x

    def carried(self, node: Any, arguments: tuple, keywords: dict[str, Any]) -> Any:
        """Return what a layer makes that carries one of Keras, or an operation."""
        if getattr(node.operation, "stateful", False):
            raise Unsupported("it remembers from call to call")
        floats = ["float" in keras.backend.standardize_dtype(y.dtype) for y in node.output_tensors]
        name = graphs.unused(lite.scope_name(node.operation.name), self.names)
        return self.carrying(name, node.operation, arguments, keywords, floats)

    def carrying(self, name: str, function: Any, arguments: tuple, keywords: dict[str, Any], floats: list[bool]) -> Any:
        """Return what a layer of a name makes that carries a function."""
        if keras.backend.backend() != "tensorflow":
            raise Unsupported("it needs Keras on TensorFlow: take KERAS_BACKEND=tensorflow")
        tensors = [x for x in keras.tree.flatten((arguments, keywords)) if is_tensor(x)]
        if not tensors:
            raise Unsupported("no tensor goes into it")
        trains = bool(getattr(function, "trainable_variables", []))
        is_front = not trains and all(id(x) in self.in_float for x in tensors)
        tensors = tensors if is_front else [self.rounded(x) for x in tensors]
        places = slots(arguments, keywords, is_tensor)
        carried = Carried(function, *places, floats, not is_front, self.weights)
        outputs = carrier()(carried, name=name)(tensors if len(tensors) > 1 else tensors[0])
        if is_front:
            self.in_float.update((id(y), y) for y in keras.tree.flatten(outputs))
        return outputs

    def rounded(self, x: Any) -> Any:
        """Return a tensor, rounded if it holds floats of an input or of preprocessing."""
        if id(x) not in self.in_float or not x.dtype.is_floating:
            return x
        if id(x) not in self.roundings:
            name = graphs.unused(lite.scope_name(f"{x.node.layer.name}_rounded"), self.names)
            before = getattr(x.node.layer, "carried", None)
            # The converter would give the range of a column to the whole input, and so to the others.
            same = Carried(
                lambda x: apart(x) if before and before.moves else x, (Slot(),), {}, [True], True, self.weights
            )
            same.moves = False  # it is there to round
            self.roundings[id(x)] = carrier()(same, name=name)(x)
        return self.roundings[id(x)]


def is_tensor(x: Any) -> bool:
    """Return whether something is a symbolic tensor of tf_keras."""
    return type(x).__module__.startswith("tf_keras.") and tfmot.tf_keras().backend.is_keras_tensor(x)


@arithmetic.full_precision()
def verify(model: keras.Model, copy: Any) -> None:
    """Compare both models on random inputs.

    Raises:
        Unsupported: if they differ.
    """
    inputs = random_inputs(model)
    expected = keras.tree.flatten(graphs.call(model, inputs))
    try:
        found = keras.tree.flatten(copy(inputs if len(inputs) > 1 else inputs[0], training=False))
    except Exception as error:  # tf_keras raises many types
        raise Unsupported(
            f"tf_keras cannot run the model {model.name!r} on random inputs: {checks.first_line(error)}"
        ) from error
    largest = max(difference(a, np.asarray(b)) for a, b in zip(expected, found, strict=True))
    precise = all(layer.compute_dtype in ("float32", "float64") for layer in compat.layers_of(model))
    if not largest <= (TOLERANCE if precise else LESS_PRECISE):
        raise Unsupported(
            f"The model {model.name!r} computes something else in tf_keras: outputs differ by {largest:.3g} relative "
            "to the largest. Arguments of its layers mean something else there."
        )
