"""Every private or backend-specific call of Keras and TensorFlow, with its reason.

Checked with Keras 3.8 and 3.15 and TensorFlow 2.18 and 2.21.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import random
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
from keras.src.applications.convnext import LayerScale as LayerScale  # layers of keras.applications
from keras.src.applications.convnext import StochasticDepth as StochasticDepth
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer as CustomScaleLayer
from keras.src.backend.common import global_state
from keras.src.ops.node import Node

from keras_rmda.platform import runs
from keras_rmda.platform.declared import declared_rightly, densified, known_sizes


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
def in_float64(models: list, values: Iterable[tuple[keras.Variable, Any]]) -> Iterator[None]:
    """Let models compute in float64, with these values in the place of weights, which stay what they are.

    Keras takes the type of a computation from each layer's policy.
    """
    layers = [layer for model in models for layer in layers_of(model)]
    policies = [layer._dtype_policy for layer in layers]
    with keras.StatelessScope() as scope:
        for variable, value in values:
            scope.add_update((variable, value))
        try:
            for layer in layers:
                vars(layer)["_dtype_policy"] = keras.DTypePolicy("float64")
            yield
        finally:
            for layer, policy in zip(layers, policies):
                vars(layer)["_dtype_policy"] = policy


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


def compiled(function: Callable) -> Callable:
    """Return a function of tensors compiled by XLA where the backend is TensorFlow, elsewhere the function."""
    if keras.backend.backend() != "tensorflow":
        return function
    return sys.modules["tensorflow"].function(function, jit_compile=True, autograph=False)


def dense(gradient: Any) -> Any:
    """Return a gradient as a dense tensor; those of embeddings can be sparse."""
    if hasattr(gradient, "todense"):
        return gradient.todense()
    if keras.backend.backend() == "tensorflow":
        return sys.modules["tensorflow"].convert_to_tensor(gradient)
    return keras.ops.convert_to_tensor(gradient)


def iterated(function: Callable[[Any], tuple[Any, Any]], x: Any, passes: int) -> Any:
    """Return tensors x after `passes` times `x, goes_on = function(x)`, on CPUs no more once `goes_on` is false.

    Elsewhere all passes are made: to look at a number there is to wait for it. Called eagerly, JAX would compile a
    loop anew every time, so it unrolls.
    """
    backend = keras.backend.backend()
    first = keras.tree.flatten(x)[0]
    if backend == "tensorflow" or (backend == "jax" and isinstance(first, sys.modules["jax"].core.Tracer)):
        if not runs_on_cpu():
            return keras.ops.fori_loop(0, passes, lambda _, x: function(x)[0], x)
        start = (x, keras.ops.convert_to_tensor(True))
        return keras.ops.while_loop(lambda _, on: on, lambda x, _: function(x), start, maximum_iterations=passes)[0]
    for _ in range(passes):
        x, goes_on = function(x)
        if runs_on_cpu() and not goes_on:
            break
    return x


def row_sums(x: Any) -> Any:
    """Return the sums over the last axis, which is kept.

    On CPUs as a product with ones: XLA does not vectorize a reduction along the minor axis there. Elsewhere products
    of float32 may be rounded to fewer bits.
    """
    if x.shape[-1] == 1:
        return x
    if not runs_on_cpu() or keras.backend.backend() not in ("tensorflow", "jax"):
        return keras.ops.sum(x, axis=-1, keepdims=True)
    rows = keras.ops.reshape(x, (-1, x.shape[-1]))
    sums = rows @ keras.ops.ones((x.shape[-1], 1), dtype=x.dtype)
    return keras.ops.reshape(sums, (*x.shape[:-1], 1))


@functools.cache
def runs_on_cpu() -> bool:
    """Return whether the backend has nothing but CPUs."""
    if keras.backend.backend() == "tensorflow":
        return not sys.modules["tensorflow"].config.list_logical_devices("GPU")
    if keras.backend.backend() == "jax":
        return sys.modules["jax"].default_backend() == "cpu"
    return not sys.modules["torch"].cuda.is_available() if keras.backend.backend() == "torch" else False


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Let products and convolutions of float32 have all of its bits: the default of GPUs rounds to TensorFloat-32.

    The 10 bits that it keeps hide what a verification looks for.
    """
    backend = "cpu" if runs_on_cpu() else keras.backend.backend()
    with contextlib.ExitStack() as stack:
        if backend == "tensorflow":
            config = sys.modules["tensorflow"].config.experimental
            stack.callback(config.enable_tensor_float_32_execution, config.tensor_float_32_execution_enabled())
            config.enable_tensor_float_32_execution(False)
        elif backend == "jax":
            stack.enter_context(sys.modules["jax"].default_matmul_precision("highest"))
        elif backend == "torch":
            cudnn = sys.modules["torch"].backends.cudnn  # its products have all bits unless a user wants otherwise
            stack.callback(setattr, cudnn, "allow_tf32", cudnn.allow_tf32)
            cudnn.allow_tf32 = False
        yield


@functools.cache
def misplaces_biases() -> bool:
    """Return whether `ops.add` adds a bias of shape (1, n, 1) along the last axis of (batch, n, n).

    Keras 3.8 to 3.15 do so on TensorFlow, and with it convolutions with their channels first.
    """
    bias = keras.ops.convert_to_tensor([[[0.0], [1.0]]])
    return bool(keras.ops.convert_to_numpy(keras.ops.add(keras.ops.zeros((1, 2, 2)), bias))[0, 0, 1] != 0)


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


ADDING_LOSSES: weakref.WeakSet[keras.Layer] = weakref.WeakSet()
"""Layers whose code has called `add_loss` while it was traced."""


def declares_outputs(layer: Any) -> bool:
    """Return whether a layer of somebody's says by a method of its own, not by its code, what its outputs are."""
    if type(layer).__module__.startswith("keras.") or isinstance(layer, keras.Model):
        return False
    names = ("compute_output_shape", "compute_output_spec")
    return isinstance(layer, keras.Layer) and any(getattr(type(layer), x) is not getattr(keras.Layer, x) for x in names)


@contextlib.contextmanager
def tolerant_symbols(read: Callable[[keras.Variable], None] | None = None) -> Iterator[None]:
    """Let code do with symbolic tensors what Keras 3.15 allows with numbers only, and tell which weights it reads.

    That is, index them by a slice or None that is in no tuple, give layers `training` by position, and None for what is
    None by itself; and let layers return None beside tensors, as attention does for a cache that there is none of, and
    something else than they declare (`declared.py`). `read` is called where the number of a weight is asked for
    outside of the layers that the code calls; and there `x == y` is a tensor, as of numbers, and not False, and losses
    are not added.
    """
    getitem, call, init = keras.KerasTensor.__getitem__, keras.Layer.__call__, Node.__init__
    value, symbolic_call = keras.Variable.value, keras.Layer.symbolic_call
    is_own, depth = "value" in vars(keras.Variable), [0]

    @functools.wraps(call)
    def by_name(layer: keras.Layer, *arguments: Any, **keyword_arguments: Any) -> Any:
        parameters = inspect.signature(layer.call).parameters
        place = list(parameters).index("training") if "training" in parameters else len(arguments)
        if place < len(arguments):
            keyword_arguments["training"] = arguments[place]
        is_default = lambda name, x: x is None and getattr(parameters.get(name), "default", 0) is None  # noqa: E731
        given = {name: x for name, x in keyword_arguments.items() if not is_default(name, x)}
        depth[0] += 1
        try:
            return call(layer, *arguments[:place], *arguments[place + 1 :], **given)
        finally:
            depth[0] -= 1

    def by_code(layer: keras.Layer, *arguments: Any, **keyword_arguments: Any) -> Any:
        if "compute_output_spec" in vars(layer):  # another context has told
            return symbolic_call(layer, *arguments, **keyword_arguments)
        made = None
        if declares_outputs(layer):
            with contextlib.suppress(Exception):  # the code may not take the sizes that Keras tries
                made = keras.src.backend.compute_output_spec(layer.call, *arguments, **keyword_arguments)
            with contextlib.suppress(Exception):  # whatever the user's code raises
                declared = layer.compute_output_spec(*arguments, **keyword_arguments)
                if made is not None and len(keras.tree.flatten(made)) == len(keras.tree.flatten(declared)):
                    made = keras.tree.map_structure(known_sizes, declared, made)
        if made is None:
            try:
                return symbolic_call(layer, *arguments, **keyword_arguments)
            except Exception:
                if (made := runs.outputs_of_numbers(layer, arguments, keyword_arguments)) is None:
                    raise
        vars(layer)["compute_output_spec"] = lambda *_, **__: made  # Keras 3.8 notes the call with what this gives
        try:
            return symbolic_call(layer, *arguments, **keyword_arguments)
        finally:
            del vars(layer)["compute_output_spec"]

    def without_none(node: Any, operation: Any, call_args: Any = None, call_kwargs: Any = None, outputs: Any = None):
        outputs = [x for x in keras.tree.flatten(outputs) if x is not None]
        densified(outputs, (call_args, call_kwargs))
        init(node, operation, call_args, call_kwargs, outputs)

    def told(variable: keras.Variable) -> Any:
        if read is not None and not depth[0]:
            read(variable)
        return value.fget(variable)

    def equal(x: keras.KerasTensor, y: Any) -> Any:
        is_plain = depth[0] or read is None or not (hasattr(y, "shape") or isinstance(y, int | float))
        return x is y if is_plain else keras.ops.equal(x, y)

    eq, add_loss = keras.KerasTensor.__eq__, keras.Layer.add_loss
    if read is not None:
        keras.Layer.add_loss = lambda layer, loss: ADDING_LOSSES.add(layer)  # Keras takes no symbolic losses
    keras.KerasTensor.__eq__ = equal
    keras.KerasTensor.__getitem__ = lambda x, key: getitem(x, key if isinstance(key, tuple | int) else (key,))
    keras.Layer.__call__, Node.__init__, keras.Layer.symbolic_call = by_name, without_none, by_code
    keras.Variable.value = property(told)
    try:
        with declared_rightly(in_code=read is not None):
            yield
    finally:
        keras.KerasTensor.__getitem__, keras.Layer.__call__, keras.KerasTensor.__eq__ = getitem, call, eq
        keras.Layer.add_loss = add_loss
        Node.__init__, keras.Layer.symbolic_call = init, symbolic_call
        if is_own:
            keras.Variable.value = value
        else:
            del keras.Variable.value
