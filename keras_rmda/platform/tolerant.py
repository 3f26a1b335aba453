"""Code on symbolic tensors as it runs on numbers: what Keras refuses there without need, and which weights it reads.

Checked with Keras 3.8 and 3.15 and TensorFlow 2.18 and 2.21.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras.src.ops.node import Node

from keras_rmda.platform import runs
from keras_rmda.platform.declared import claims_more, declared_rightly, densified, known_sizes

ADDING_LOSSES: weakref.WeakSet[keras.Layer] = weakref.WeakSet()
"""Layers whose code has called `add_loss` while it was traced: models that do so make steps of their own."""

MADE_BY_CODE: runs.Memory = weakref.WeakKeyDictionary()
"""What layers make that declare their outputs, while the graph of a model is made: code around runs several times."""


def declares_outputs(layer: Any) -> bool:
    """Return whether a layer of somebody's says by a method of its own, not by its code, what its outputs are."""
    if type(layer).__module__.startswith("keras.") or isinstance(layer, keras.Model):
        return False
    names = ("compute_output_shape", "compute_output_spec")
    return isinstance(layer, keras.Layer) and any(getattr(type(layer), x) is not getattr(keras.Layer, x) for x in names)


def made_by_code(layer: Any, arguments: tuple, keyword_arguments: dict) -> Any:
    """Return symbolic tensors like what the code of a layer makes that declares its outputs; None if Keras is to tell.

    An axis is as large as the layer declares, unless its code leaves it open and makes something else of numbers.
    """
    if not declares_outputs(layer):
        return None
    return runs.remembered(MADE_BY_CODE, _made_by_code, layer, arguments, keyword_arguments)


def _made_by_code(layer: keras.Layer, arguments: tuple, keyword_arguments: dict) -> Any:
    made = None
    with contextlib.suppress(Exception):  # the code may not take the sizes that Keras tries
        made = keras.src.backend.compute_output_spec(layer.call, *arguments, **keyword_arguments)
    with contextlib.suppress(Exception):  # whatever the user's code raises
        declared = layer.compute_output_spec(*arguments, **keyword_arguments)
        if made is not None and len(keras.tree.flatten(made)) == len(keras.tree.flatten(declared)):
            tensors, run = [keras.tree.flatten(declared), keras.tree.flatten(made)], None
            if any(map(claims_more, *tensors)):
                run = runs.outputs_of_numbers(layer, arguments, keyword_arguments)
            tensors += [] if run is None else [keras.tree.flatten(run)]
            made = keras.tree.pack_sequence_as(made, list(map(known_sizes, *tensors)))
    return made


def symbolic_outputs(operation: Any, *arguments: Any, **keyword_arguments: Any) -> Any:
    """Return symbolic tensors like what an operation of a graph makes, inside of `tolerant_symbols`."""
    if isinstance(operation, keras.Layer) and not operation._call_has_training_arg:  # as `Layer.__call__` does
        keyword_arguments.pop("training", None)
    made = made_by_code(operation, arguments, keyword_arguments)
    if made is None:
        try:
            made = operation.compute_output_spec(*arguments, **keyword_arguments)
        except Exception:
            is_code = isinstance(operation, keras.Layer) and not type(operation).__module__.startswith("keras.")
            made = runs.outputs_of_numbers(operation, arguments, keyword_arguments) if is_code else None
            if made is None:
                raise
    densified([x for x in keras.tree.flatten(made) if x is not None], (arguments, keyword_arguments))
    return made


@contextlib.contextmanager
def without_a_leak() -> Iterator[None]:
    """Let TensorFlow's scope of variables be behind the context what it was before.

    `tf.map_fn`, `tf.scan` and `tf.foldl`, and with them `ops.map`, leave a caching device there if what they call
    raises while it is traced, and no strategy can be entered afterwards.
    """
    tensorflow = sys.modules.get("tensorflow") if keras.backend.backend() == "tensorflow" else None
    scope = tensorflow and tensorflow.compat.v1.get_variable_scope()
    before = getattr(scope, "_caching_device", None)
    try:
        yield
    finally:
        if scope is not None:
            scope._caching_device = before


@contextlib.contextmanager
def tolerant_symbols(
    read: Callable[[keras.Variable], None] | None = None, losses: list | None = None, depth: list[int] | None = None
) -> Iterator[None]:
    """Let code do with symbolic tensors what Keras 3.15 allows with numbers only, and tell which weights it reads.

    That is, index them by a slice or None that is in no tuple, give layers `training` by position, and None for what is
    None by itself; and let layers return None beside tensors, as attention does for a cache that there is none of, or
    sizes, and something else than they declare (`declared.py`). `read` is called where the number of a weight is asked
    for outside of the layers that the code calls; and there `x == y` is a tensor, as of numbers, and not False, and
    what `add_loss` is given goes into `losses`. `depth` holds how many layers are being called, inside of each other.
    """
    getitem, call, init = keras.KerasTensor.__getitem__, keras.Layer.__call__, Node.__init__
    value, symbolic_call = keras.Variable.value, keras.Layer.symbolic_call
    is_own, depth = "value" in vars(keras.Variable), [0] if depth is None else depth

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
        if (made := made_by_code(layer, arguments, keyword_arguments)) is None:
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
        outputs = [x for x in keras.tree.flatten(outputs) if x is not None and not isinstance(x, int | float)]
        densified(outputs, (call_args, call_kwargs))
        init(node, operation, call_args, call_kwargs, outputs)

    def told(variable: keras.Variable) -> Any:
        if read is not None and not depth[0]:
            read(variable)
        return value.fget(variable)

    def equal(x: keras.KerasTensor, y: Any) -> Any:
        is_plain = depth[0] or read is None or not (hasattr(y, "shape") or isinstance(y, int | float))
        return x is y if is_plain else keras.ops.equal(x, y)

    def noted(layer: keras.Layer, loss: Any) -> None:
        ADDING_LOSSES.add(layer)
        if losses is not None and not depth[0]:  # layers inside add theirs themselves
            losses.extend(keras.tree.flatten(loss))

    eq, add_loss = keras.KerasTensor.__eq__, keras.Layer.add_loss
    if read is not None:
        keras.Layer.add_loss = noted  # Keras takes no symbolic losses
    keras.KerasTensor.__eq__ = equal
    keras.KerasTensor.__getitem__ = lambda x, key: getitem(x, key if isinstance(key, tuple | int) else (key,))
    keras.Layer.__call__, Node.__init__, keras.Layer.symbolic_call = by_name, without_none, by_code
    keras.Variable.value = property(told)
    try:
        with declared_rightly(in_code=read is not None), without_a_leak():
            yield
    finally:
        keras.KerasTensor.__getitem__, keras.Layer.__call__, keras.KerasTensor.__eq__ = getitem, call, eq
        keras.Layer.add_loss = add_loss
        Node.__init__, keras.Layer.symbolic_call = init, symbolic_call
        if is_own:
            keras.Variable.value = value
        else:
            del keras.Variable.value
