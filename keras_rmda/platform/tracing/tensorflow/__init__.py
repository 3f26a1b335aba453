"""Functions of TensorFlow that code calls on symbolic tensors, as operations of Keras while it is traced.

TensorFlow does not take the symbolic tensors of Keras. What stands for each of its functions, with the same arguments,
is in `table`.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_rmda.platform.tracing.leaves import Numbers
from keras_rmda.platform.tracing.numbers import Size
from keras_rmda.platform.tracing.operands import as_type_of
from keras_rmda.platform.tracing.tensorflow.arguments import as_tensor
from keras_rmda.platform.tracing.tensorflow.attributes import ShapeTensor, attributes_of_tensorflow
from keras_rmda.platform.tracing.tensorflow.table import FUNCTIONS, OF_SIZES, TAKE_LISTS

MODULES = ("", "math", "nn", "linalg", "image", "compat.v1.image")
"""Where TensorFlow has its functions, many of them twice; those of `image` have other meanings."""

PUBLIC = ("", "math", "nn", "linalg", "image", "signal", "random", "sparse", "strings", "debugging", "audio", "nest")
"""Where the functions of TensorFlow that code calls are; those of the first are called so."""

MISSED: list[str] = []
"""Functions of TensorFlow that got symbolic tensors and for which nothing stands, since this was last emptied."""

KEPT: dict[Callable, Callable] = {}
"""What stands for functions now, where code has kept the functions themselves, as in `self.activation = tf.nn.relu`."""


@functools.cache
def dispatcher(tensorflow: Any) -> Any:
    """Let TensorFlow ask `KEPT` before it raises since it cannot take a symbolic tensor of Keras; once."""

    class OfKept(tensorflow.__internal__.dispatch.GlobalOpDispatcher):  # which is not public
        def handle(self, op: Any, arguments: Any, keyword_arguments: Any) -> Any:
            if (stand_in := KEPT.get(inspect.unwrap(op))) is not None:
                return stand_in(*arguments, **keyword_arguments)
            MISSED.append(public_name(tensorflow, op))
            return self.NOT_SUPPORTED

    made = OfKept()
    made.register()
    return made


def public_name(tensorflow: Any, op: Any) -> str:
    """Return the name that code calls a function of TensorFlow by."""
    for path in PUBLIC:
        for name, function in vars(functools.reduce(getattr, filter(None, path.split(".")), tensorflow)).items():
            if callable(function) and inspect.unwrap(function) is inspect.unwrap(op):
                return f"{path}.{name}".strip(".")
    return re.sub(r"_v\d$", "", getattr(op, "__name__", "a function"))


def constant(x: Any, key: Any) -> Callable | None:
    """Return what indexes an array by the size of an axis, as code does with a table of positions; None for others."""
    sizes = [n for part in (key if isinstance(key, tuple) else (key,)) for n in bounds(part) if isinstance(n, Size)]
    if not sizes or isinstance(x, keras.KerasTensor) or not hasattr(x, "numpy"):
        return None

    def indexed(x: Any, key: Any) -> Any:
        return Numbers.of(x)(sizes[0].tensor)[key]

    return indexed


def bounds(part: Any) -> tuple:
    """Return where a slice begins and ends."""
    return (part.start, part.stop) if isinstance(part, slice) else ()


def plain(x: Any) -> Any:
    """Return the sizes of a shape as Keras takes them, other arguments as they are."""
    return tuple(x) if isinstance(x, ShapeTensor) else x


@contextlib.contextmanager
def tensorflow_as_operations() -> Iterator[None]:
    """Let code call functions of TensorFlow on symbolic tensors, and on the sizes of open axes."""
    tensorflow = sys.modules.get("tensorflow") if keras.backend.backend() == "tensorflow" else None
    if tensorflow:
        dispatcher(tensorflow)
    changed: list[tuple[Any, str, Callable]] = []
    getitem = getattr(getattr(tensorflow, "Tensor", None), "__getitem__", None)
    kept = dict(KEPT)
    MISSED.clear()
    inside: list[str] = []  # what stands in now, whose own calls of TensorFlow are meant as they are

    def instead(function: Callable, stand_in: Callable, kinds: tuple[type, ...], takes_lists: bool) -> Callable:
        @functools.wraps(function)
        def called(*arguments: Any, **keyword_arguments: Any) -> Any:
            given = keras.tree.map_structure(plain, (arguments, keyword_arguments))
            flat = keras.tree.flatten(given)
            if inside or not any(isinstance(x, kinds) for x in flat):
                return function(*arguments, **keyword_arguments)
            first = next((x for x in flat if isinstance(x, keras.KerasTensor)), None)
            if first is not None:  # TensorFlow takes NumPy's numbers in the type of its tensors
                given = keras.tree.map_structure(lambda x: as_type_of(first, x), given)
            arguments, keyword_arguments = given
            if arguments and not takes_lists:
                arguments = (as_tensor(arguments[0]), *arguments[1:])
            inside.append(function.__name__)
            try:
                return stand_in(*arguments, **keyword_arguments)
            finally:
                inside.pop()

        return called

    def function(compiled: Any, *arguments: Any, **keyword_arguments: Any) -> Any:
        """Call what `tf.function` has made, or its Python code."""
        given = keras.tree.flatten((arguments, keyword_arguments))
        is_symbolic = any(isinstance(x, keras.KerasTensor) for x in given)
        called = compiled.python_function if is_symbolic else functools.partial(call, compiled)
        return called(*arguments, **keyword_arguments)

    if tensorflow:
        changed.append((tensorflow.Tensor, "__getitem__", getitem))
        tensorflow.Tensor.__getitem__ = lambda x, key: (constant(x, key) or getitem)(x, key)
        kind = type(tensorflow.function(lambda: None))
        call = kind.__call__
        changed.append((kind, "__call__", call))
        kind.__call__ = function
    for path in MODULES if tensorflow else ():
        module = functools.reduce(getattr, filter(None, path.split(".")), tensorflow)
        for functions, kinds in ((FUNCTIONS, (keras.KerasTensor,)), (OF_SIZES, (keras.KerasTensor, Size))):
            for full_name, stand_in in functions.items():
                of, _, name = full_name.rpartition(".")  # of one module, if it has another meaning elsewhere
                if of != path and (of or path.endswith("image")):
                    continue
                if callable(function := getattr(module, name, None)):
                    changed.append((module, name, function))
                    setattr(module, name, instead(function, stand_in, kinds, name in TAKE_LISTS))
                    KEPT.setdefault(inspect.unwrap(function), stand_in)
    try:
        with attributes_of_tensorflow() if tensorflow else contextlib.nullcontext():
            yield
    finally:
        KEPT.clear()
        KEPT.update(kept)
        for module, name, function in changed:
            setattr(module, name, function)
