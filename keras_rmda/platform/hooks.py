"""Methods of Keras that are wrapped, since it has no hook there: `compile`, `fit`, its start, and penalties in losses.

Each is wrapped once, in the class that defines it. Checked with Keras 3.8 and 3.15.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_rmda.platform.nested import trainer_of


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


CREATES_STATE = contextvars.ContextVar("creates_state", default=False)


@contextlib.contextmanager
def state_before_tracing() -> Iterator[None]:
    """Let models on TensorFlow create the variables of metrics, losses and optimizers before a training is traced.

    Keras lets the first trace create them, and TensorFlow then traces all anew: twice the time, and a step with a
    proximal map may take seconds. On other backends, and under strategies, Keras does what is done here; it has the
    shapes from a first batch, here they are asked of the data, which stay as they are. A model whose metrics cannot be
    computed so is traced twice, as ever.
    """
    _wrap_start_of_training()
    token = CREATES_STATE.set(True)
    try:
        yield
    finally:
        CREATES_STATE.reset(token)


def _wrap_start_of_training() -> None:
    owner = next((each for each in keras.Model.__mro__ if "_maybe_symbolic_build" in vars(each)), None)
    original = getattr(owner, "_maybe_symbolic_build", None)  # of TensorFlow alone
    if original is None or getattr(original, "creates_state", False):
        return

    @functools.wraps(original)
    def build(model: keras.Model, iterator: Any = None, data_batch: Any = None) -> None:
        original(model, iterator=iterator, data_batch=data_batch)
        is_asked = CREATES_STATE.get() and iterator is not None and model._distribute_strategy is None
        if not is_asked or not model.built or model.run_eagerly:
            return
        if model.optimizer is not None and not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        with contextlib.suppress(Exception):  # if it is one of the data or the model, the training tells it
            like = keras.tree.map_structure(symbol, iterator._distributed_dataset.element_spec)
            model._symbolic_build(data_batch=like)

    build.creates_state = True
    owner._maybe_symbolic_build = build


def symbol(spec: Any) -> keras.KerasTensor:
    """Return a tensor without values for what TensorFlow tells of one."""
    return keras.KerasTensor(tuple(spec.shape), keras.backend.standardize_dtype(spec.dtype))


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
