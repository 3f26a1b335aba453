"""Every private or backend-specific call of Keras and TensorFlow, with its reason.

Checked with Keras 3.8 and 3.15 and TensorFlow 2.18 and 2.21.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
from keras.src.applications.convnext import LayerScale as LayerScale  # layers of keras.applications
from keras.src.applications.convnext import StochasticDepth as StochasticDepth
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer as CustomScaleLayer
from keras.src.backend.common.stateless_scope import in_stateless_scope
from keras.src.ops.core import Cast as Cast  # Keras 3.8 puts it between layers of different dtypes


def outside_of_traces() -> contextlib.AbstractContextManager:
    """Return a context in which assignments happen once, now, and not in every traced step.

    On TensorFlow an optimizer is built inside the traced training step.
    """
    if keras.backend.backend() == "tensorflow":
        return sys.modules["tensorflow"].init_scope()
    return contextlib.nullcontext()


def can_read_outside_of_traces() -> bool:
    """Return whether values can be read and assigned while a step is traced: not on JAX."""
    return keras.backend.backend() != "jax"


def can_assign_between_steps() -> bool:
    """Return whether `fit` sees what a callback assigns at the end of a batch: on JAX only from epoch to epoch."""
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


def inner_optimizers(optimizer: Any) -> list:
    """Return the optimizers that train variables: `[optimizer]`, or those inside of it where it is a wrapper.

    Wrappers are Keras's `LossScaleOptimizer` and `MultiOptimizer` and every optimizer that has others in its
    attributes. A `MultiOptimizer` by a function has none before it is built.
    """
    found = [each for each, is_innermost in _optimizers_in(optimizer) if is_innermost]
    return list(dict.fromkeys(found)) or [optimizer]


def _optimizers_in(held: Any, above: tuple[int, ...] = ()) -> Iterator[tuple[Any, bool]]:
    """Yield each optimizer in a value, with whether it holds no others; `above` guards against circles."""
    if id(held) in above:
        return
    above = (*above, id(held))
    if isinstance(held, keras.optimizers.Optimizer):
        inside = [found for each in vars(held).values() for found in _optimizers_in(each, above)]
        yield held, not inside
        yield from inside
    elif isinstance(held, (list, tuple, set, Mapping)):
        for each in held.values() if isinstance(held, Mapping) else held:
            yield from _optimizers_in(each, above)


def makes_optimizers_when_built(optimizer: Any) -> bool:
    """Return whether there is a `MultiOptimizer` by a function in it, which has not called the function yet."""
    return any(hasattr(each, "_optimizer_map") and not each.built for each, _ in _optimizers_in(optimizer))


def trainer_of(optimizer: Any) -> Callable[[keras.Variable], Any]:
    """Return a function that says which optimizer trains a variable: the optimizer itself, or one inside of it.

    It says None where that cannot be known: a wrapper of the user's own around several, before it is built, and where
    a function would have to make optimizers while Keras looks at shapes only.
    """
    candidates = inner_optimizers(optimizer)
    maps = [each._optimizer_map for each, _ in _optimizers_in(optimizer) if hasattr(each, "_optimizer_map")]

    def trainer(variable: keras.Variable) -> Any:
        if maps and not any(each.built for each in candidates):
            # A function may make another optimizer at every call, which has variables.
            return None if in_stateless_scope() else maps[0](variable)
        if len(candidates) == 1:
            return candidates[0]
        built = (each for each in candidates if each.built)
        return next((each for each in built if each._var_key(variable) in each._trainable_variables_indices), None)

    return trainer


def leave_proximal_penalties_out_of_losses(handles: Callable[[Any, keras.Variable], bool]) -> None:
    """Make `model.losses` skip the penalties that an optimizer applies by its proximal step.

    Keras adds `variable.regularizer(variable)` to the loss and offers no hook to decide by optimizer, so
    the one method that collects these terms is wrapped, once.

    Args:
        handles: called with (the variable's optimizer or None, variable); whether it applies the variable's penalty.
    """
    original = keras.Model._get_regularization_losses
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def losses(model: keras.Model) -> list:
        optimizer = getattr(model, "optimizer", None)
        trainer = trainer_of(optimizer)
        handled = [v for v in model.trainable_weights if handles(trainer(v), v)]
        with without_regularizers(handled):
            return original(model)

    keras.Model._get_regularization_losses = losses


def tell_optimizers_their_model(bind: Callable[[keras.Model], None]) -> None:
    """Call `bind(model)` when a model has been compiled.

    Keras gives an optimizer variables without their layers, and no hook. `compile` is wrapped, once, in the class
    that defines it: Keras compares a model's method with that one to see whether the user has overridden it.
    """
    owner = next(each for each in keras.Model.__mro__ if "compile" in vars(each))
    original = owner.compile
    if getattr(original, "tells_optimizers", False):
        return

    @functools.wraps(original)
    def compile(model: keras.Model, *arguments: Any, **keyword_arguments: Any) -> None:
        original(model, *arguments, **keyword_arguments)
        bind(model)

    compile.tells_optimizers = True
    owner.compile = compile


def surround_fit(session: Callable[[keras.Model, Any], contextlib.AbstractContextManager]) -> None:
    """Run every `fit` inside of `session(model, callbacks)`, with the callbacks that it gives.

    Keras has no callback that is there by itself, and none that hears of an interrupted `fit`. `fit` is wrapped, once,
    in the class that defines it, like `compile`.
    """
    owner = next(each for each in keras.Model.__mro__ if "fit" in vars(each))
    original = owner.fit
    if getattr(original, "is_surrounded", False):
        return
    signature = inspect.signature(original)

    @functools.wraps(original)
    def fit(model: keras.Model, *arguments: Any, **keyword_arguments: Any) -> Any:
        try:
            bound = signature.bind(model, *arguments, **keyword_arguments).arguments
        except TypeError:  # which Keras tells
            return original(model, *arguments, **keyword_arguments)
        with session(model, bound.get("callbacks")) as callbacks:
            return original(**bound | {"callbacks": callbacks})

    fit.is_surrounded = True
    owner.fit = fit


def take_state_back(model: keras.Model) -> None:
    """Let a model whose `fit` was interrupted hold the state of its last step; on JAX, `fit` holds it meanwhile."""
    if keras.backend.backend() == "jax":
        model.jax_state_sync()


def layers_of(model: keras.Model) -> list:
    """Return every layer of a model, those inside other layers too."""
    return list(model._flatten_layers())


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
