"""Private or backend-specific calls of Keras and TensorFlow on variables, layers and models, with their reasons.

Checked with Keras 3.8 and 3.15 and TensorFlow 2.18 and 2.21.
"""

from __future__ import annotations

import contextlib
import copy
import random
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import keras
from keras.src.applications.convnext import LayerScale as LayerScale  # layers of keras.applications
from keras.src.applications.convnext import StochasticDepth as StochasticDepth
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer as CustomScaleLayer
from keras.src.backend.common import global_state
from keras.src.initializers.random_initializers import RandomInitializer


def outside_of_traces() -> contextlib.AbstractContextManager:
    """Return a context in which assignments happen once, now, and not in every traced step.

    On TensorFlow an optimizer is built inside the traced training step.
    """
    if keras.backend.backend() == "tensorflow":
        return sys.modules["tensorflow"].init_scope()
    return contextlib.nullcontext()


def after(tensors: list) -> contextlib.AbstractContextManager:
    """Return a context whose operations are made only when these tensors are there.

    TensorFlow makes what does not depend on a batch of a data set also where there was no batch left: Keras 3.15 counts
    one step more in every epoch of a data set whose length it does not know.
    """
    tensorflow = sys.modules.get("tensorflow")
    if keras.backend.backend() != "tensorflow" or not tensorflow.inside_function():
        return contextlib.nullcontext()
    # One operation that waits for all of them: thousands do not each wait for all.
    return tensorflow.control_dependencies([tensorflow.group(*(each for each in tensors if each is not None))])


def can_read_outside_of_traces() -> bool:
    """Return whether values can be read and assigned while a step is traced: not on JAX."""
    return keras.backend.backend() != "jax"


def are_initialized(variables: list) -> bool:
    """Return whether variables have values now.

    Variables that TensorFlow creates while it traces a function get theirs when the trace is complete.
    """
    if keras.backend.backend() != "tensorflow" or not sys.modules["tensorflow"].inside_function():
        return True
    with outside_of_traces():
        return all(bool(variable.value.is_initialized()) for variable in variables)


def have_values(variables: list) -> bool:
    """Return whether variables have values: those of a model do not where a step of `fit` on JAX has raised.

    Keras takes them out of the variables for the time of an epoch, and finalizes also where `fit` ends by an error.
    """
    return keras.backend.backend() != "jax" or all(variable._value is not None for variable in variables)


def take_state_back(model: keras.Model) -> None:
    """Let a model hold the state of the last step of its `fit`, which on JAX `fit` holds meanwhile.

    What is assigned then is in the next step.
    """
    if keras.backend.backend() == "jax":
        model.jax_state_sync()


@contextlib.contextmanager
def without_a_trace(has_values: bool) -> Iterator[None]:
    """Let layers be made and called that nobody will know of: no names are taken, no random numbers drawn.

    Keras counts names, draws the seeds of initializers and dropout with `random`, and keeps a list of variables that
    wait for values; with `has_values=False` those that are made here do not get any.
    """
    kept = {
        name: copy.copy(global_state.get_global_attribute(name))
        for name in ("object_name_uids", "uninitialized_variables")
    }
    drawn = random.getstate()
    try:
        with contextlib.nullcontext() if has_values else keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        random.setstate(drawn)
        for name, value in kept.items():
            global_state.set_global_attribute(name, value)


@contextlib.contextmanager
def without_random_values() -> Iterator[None]:
    """Let weights that get their values later begin at zero where they would at random numbers, which take time."""
    initialize = keras.Variable._initialize_with_initializer

    def without(variable: keras.Variable, initializer: Any) -> None:
        is_random = isinstance(initializer, RandomInitializer)
        initialize(variable, keras.initializers.Zeros() if is_random else initializer)

    keras.Variable._initialize_with_initializer = without
    try:
        yield
    finally:
        keras.Variable._initialize_with_initializer = initialize


class _Float64Scope(keras.StatelessScope):
    """Gives weights in float64. They are cast where they are read, so that not all of them are there a second time."""

    def get_current_value(self, variable: keras.Variable) -> Any:
        value = super().get_current_value(variable)
        if value is None and "float" in variable._dtype and variable._value is not None:
            return keras.ops.cast(variable._value, "float64")
        return value


@contextlib.contextmanager
def in_float64(model: keras.Model, values: Iterable[tuple[keras.Variable, Any]] = ()) -> Iterator[None]:
    """Let a model compute in float64, with these values in the place of weights, which stay what they are.

    Keras takes the type of a computation from each layer's policy.
    """
    layers = layers_of(model)
    policies = [layer._dtype_policy for layer in layers]
    with _Float64Scope() as scope:
        for variable, value in values:
            scope.add_update((variable, value))
        try:
            for layer in layers:
                vars(layer)["_dtype_policy"] = keras.DTypePolicy("float64")
            yield
        finally:
            for layer, policy in zip(layers, policies):
                vars(layer)["_dtype_policy"] = policy


def applied(operation: Any, *arguments: Any) -> Any:
    """Return what an operation computes: `ConvTranspose.call` of Keras 3.15 mixes up its two paddings."""
    if type(operation).__name__ != "ConvTranspose":
        return operation(*arguments)
    names = ("strides", "padding", "output_padding", "data_format", "dilation_rate")
    return keras.ops.conv_transpose(*arguments, **{name: getattr(operation, name) for name in names})


def with_float64() -> contextlib.AbstractContextManager:
    """Return a context in which float64 is not rounded: JAX 0.10 otherwise takes it for float32, and warns of it."""
    if keras.backend.backend() != "jax":
        return contextlib.nullcontext()
    import jax

    enabled = jax if hasattr(jax, "enable_x64") else jax.experimental  # the latter up to JAX 0.7
    return enabled.enable_x64(True)


@contextlib.contextmanager
def restored(variables: list) -> Iterator[None]:
    """Let variables have their values again behind the context."""
    values = [keras.ops.copy(variable.value) for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, values):
            variable.assign(value)


def layers_of(model: keras.Model) -> list:
    """Return every layer of a model, those inside other layers too."""
    return list(model._flatten_layers())


def metrics_of(layer: keras.Layer) -> list:
    """Return the metrics that a layer or model holds itself, but for those that it is compiled with."""
    return list(layer._metrics)


def own_weights(model: keras.Model) -> list:
    """Return the weights of a model that are in none of its layers."""
    return [*model._trainable_variables, *model._non_trainable_variables]


def frozen_weights(model: keras.Model) -> list:
    """Return the weights of a model that `trainable=False` keeps as they are; no statistics, which nobody trains."""
    found = [variable for layer in layers_of(model) for variable in layer._trainable_variables]
    return [variable for variable in found if not variable.trainable]


def variables_with_owners(layer: Any, around: tuple[str, ...] = ()) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Give the variables of a layer with the names of those around them, the outermost left out; the longest last."""
    yield from ((variable, around) for variable in layer.variables)
    for each in layer._flatten_layers(include_self=False, recursive=False):
        yield from variables_with_owners(each, (*around, each.name))


def custom_objects() -> dict[str, Any]:
    """Return what the `keras.saving.CustomObjectScope` around knows; one inside would hide it."""
    return dict(global_state.get_global_attribute("custom_objects_scope_dict", {}) or {})


def begin_at_epoch(model: keras.Model, epoch: int | None) -> None:
    """Let a `fit` that has called `on_train_begin` begin at this epoch, whatever its `initial_epoch`; None undoes it.

    Keras has no other way for a callback to say so; its own BackupAndRestore uses this one.
    """
    model._initial_epoch = epoch


@contextlib.contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Silence TensorFlow's Python loggers; a conversion logs a listing of every variable and function."""
    import logging

    if "tensorflow" in sys.modules:
        sys.modules["tensorflow"].get_logger()  # which keeps the stream of its first call
    root, loggers = logging.getLogger(), [logging.getLogger(name) for name in ("tensorflow", "absl")]
    handlers, levels = list(root.handlers), [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        root.handlers[:] = handlers  # the first message of absl adds one
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def replace_variable(layer: keras.Layer, old: keras.Variable, new: keras.Variable) -> None:
    """Let a layer have another variable in the place of one; Keras's own quantization does it this way."""
    name = next(name for name, value in vars(layer).items() if value is old)
    lists = (layer._trainable_variables, layer._non_trainable_variables)
    place = next(k for each in lists for k, variable in enumerate(each) if variable is old)
    layer._untrack_variable(old)
    layer._tracker.unlock()
    setattr(layer, name, new)
    for each in lists:  # files have weights in this order
        if any(variable is new for variable in each):
            each.insert(place, each.pop())
    layer._tracker.lock()
