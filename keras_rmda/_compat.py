"""Every private or backend-specific call of Keras and TensorFlow, with its reason.

Checked with Keras 3.8 and 3.15 and TensorFlow 2.18 and 2.21.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras.src.models.functional import Functional  # the class of `keras.Model(inputs, outputs)`
from keras.src.ops.core import Cast as Cast  # Keras 3.8 puts it between layers of different dtypes
from keras.src.saving.serialization_lib import SafeModeScope


def outside_of_traces() -> contextlib.AbstractContextManager:
    """Return a context in which assignments happen once, now, and not in every traced step.

    On TensorFlow an optimizer is built inside the traced training step.
    """
    if keras.backend.backend() == "tensorflow":
        return sys.modules["tensorflow"].init_scope()
    return contextlib.nullcontext()


def are_initialized(variables: list) -> bool:
    """Return whether variables have values now.

    Variables that TensorFlow creates while it traces a function get theirs when the trace is complete.
    """
    if keras.backend.backend() != "tensorflow" or not sys.modules["tensorflow"].inside_function():
        return True
    with outside_of_traces():
        return all(bool(variable.value.is_initialized()) for variable in variables)


def inner_optimizer(optimizer: Any) -> Any:
    """Return the optimizer inside Keras's `LossScaleOptimizer`, or `optimizer` itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def leave_proximal_penalties_out_of_losses(handles: Callable[[Any, keras.Variable], bool]) -> None:
    """Make `model.losses` skip the penalties that the model's own optimizer applies by its proximal step.

    Keras adds `variable.regularizer(variable)` to the loss and offers no hook to decide by optimizer, so
    the one method that collects these terms is wrapped, once, for models whose optimizer is ours.

    Args:
        handles: called with (optimizer, variable); whether the optimizer applies the variable's penalty.
    """
    original = keras.Model._get_regularization_losses
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def losses(model: keras.Model) -> list:
        optimizer = inner_optimizer(getattr(model, "optimizer", None))
        with without_regularizers([v for v in model.trainable_weights if handles(optimizer, v)]):
            return original(model)

    keras.Model._get_regularization_losses = losses


@contextlib.contextmanager
def without_regularizers(variables: list[keras.Variable]) -> Iterator[None]:
    """Take the regularizers off `variables` for the duration of the context."""
    taken = [variable.regularizer for variable in variables]
    try:
        for variable in variables:
            variable.regularizer = None
        yield
    finally:
        for variable, regularizer in zip(variables, taken):
            variable.regularizer = regularizer


def has_graph(model: keras.Model) -> bool:
    """Return whether a model computes what its graph of layers says: with a `call` of its own it does not."""
    return type(model).call in (keras.Sequential.call, Functional.call)


def nodes(model: keras.Model) -> list:
    """Return the nodes of a model's graph in order of execution.

    Keras has no public way to walk a graph; `_nodes_by_depth` is what its own cloning and saving use.

    Raises:
        ValueError: if the model has no graph of layers.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(f"Expected a keras.Model. Received: {model!r} of type {type(model).__name__}")
    functional = getattr(model, "_functional", None) if isinstance(model, keras.Sequential) else model
    if not has_graph(model):
        raise ValueError(
            f"The model {model.name!r} of type {type(model).__name__} is subclassed, with a `call` of its own: "
            "no graph of layers says what it computes. Write it as a Functional or Sequential model."
        )
    if not model.built or functional is None:
        raise ValueError(
            f"The model {model.name!r} is not built: it has no shapes and no weights yet. "
            "Give it a `keras.Input`, call `model.build(input_shape)`, or call it on data first."
        )
    by_depth = functional._nodes_by_depth
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]


def rebuilt(model: keras.Model, replace: Callable[[Any], Any]) -> keras.Model:
    """Return an uncompiled copy of a model's graph in which each layer is `replace(layer)`.

    `keras.models.clone_model` would also compile the copy, with a copy of the optimizer and the loss.
    """
    names = {id(node.output_tensors[0]): node.operation.name for node in nodes(model) if node.is_input}

    def fresh_input(tensor: Any) -> Any:
        return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=names[id(tensor)])

    if isinstance(model, keras.Sequential):
        layers = [fresh_input(model.inputs[0]), *(replace(layer) for layer in model.layers)]
        return keras.Sequential(layers, name=model.name)
    uncompiled = Functional(model.input, model.output, name=model.name)
    inputs = keras.tree.map_structure(fresh_input, model.input)
    return keras.models.clone_model(uncompiled, input_tensors=inputs, clone_function=replace)


def copied(layer: Any, config: dict[str, Any]) -> Any:
    """Return a new layer of the same class from a configuration; Python lambdas in it are this process's own.

    Raises:
        ValueError: naming the layer, if its class cannot be made from it.
    """
    try:
        with SafeModeScope(safe_mode=False):
            return type(layer).from_config(config)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        kind = type(layer).__name__
        raise ValueError(
            f"The layer {layer.name!r} of type {kind} cannot be rebuilt from its `get_config()`: {reason}"
        ) from error


def call(model: keras.Model, inputs: list) -> list:
    """Return the outputs of a model at inference for a flat list of inputs."""
    single = isinstance(model, keras.Sequential)
    structured = inputs[0] if single else keras.tree.pack_sequence_as(model.input, inputs)
    return keras.tree.flatten(model(structured, training=False))


def finalize_states(layer: keras.Layer) -> None:
    """Recompute what preprocessing layers, such as Normalization, derive from their weights."""
    for each in layer._flatten_layers():
        if hasattr(each, "finalize_state"):
            each.finalize_state()


@contextlib.contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Silence TensorFlow's Python logger; a conversion logs a listing of every variable and function."""
    import logging

    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
