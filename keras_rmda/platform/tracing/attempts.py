"""One run of the code of a layer on symbolic tensors, at some sizes."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
from keras import ops

from keras_rmda.platform.compat import metrics_of
from keras_rmda.platform.hidden import carry
from keras_rmda.platform.tolerant import tolerant_symbols
from keras_rmda.platform.tracing.given import arrays_as_tensors, as_tensor
from keras_rmda.platform.tracing.noise import symbolic_draws
from keras_rmda.platform.tracing.operands import operands_of_numpy
from keras_rmda.platform.tracing.programs import Program, Untraceable, is_array, program, settings
from keras_rmda.platform.tracing.ranges import symbolic_ranges
from keras_rmda.platform.tracing.sizes import OPEN, Sizes
from keras_rmda.platform.tracing.tensorflow import MISSED, tensorflow_as_operations
from keras_rmda.platform.tracing.weights import UsesWeight, borrows, dtype_for, weights_as_inputs


def attempt(layer: keras.Layer, given: tuple, sizes: Sizes, training: bool | None = None) -> Program | Untraceable:
    """Return the program of a layer's code, or why there is none."""
    try:
        found = _run(layer, given, sizes, training)
    except UsesWeight as error:
        return attempt(layer, given, sizes, training) if borrows(layer, error.variable) else error
    except Untraceable as error:
        return error
    except Exception as error:  # whatever the user's code raises
        return Untraceable(f"its `call` does not take symbolic tensors: {why_of(error)}")
    for step in found.steps:
        for x in keras.tree.flatten(step.arguments):
            if isinstance(x, keras.Variable):
                return attempt(layer, given, sizes, training) if borrows(layer, x) else UsesWeight(x)
        if isinstance(step.operation, keras.Layer):
            continue
        is_reshape = type(step.operation).__name__ == "Reshape"  # which takes -1 as well
        if _has_open_size(settings(step.operation)) and (sizes is OPEN or not is_reshape):
            return Untraceable(f"it gives an open size to {step.called}")
        if any(callable(x) for x in keras.tree.flatten((settings(step.operation), step.arguments)) if not is_array(x)):
            return Untraceable(f"it gives a function to {step.called}")
    return found


def _run(layer: keras.Layer, given: tuple, sizes: Sizes, training: bool | None) -> Program:
    inputs = inputs_like(given, layer, sizes)
    takes_training = "training" in inspect.signature(layer.call).parameters
    losses, depth, anchor = [], [0], symbols_in(inputs)[0]
    with contextlib.ExitStack() as stack:
        weights = stack.enter_context(weights_as_inputs(layer))
        stack.enter_context(tolerant_symbols(_refuse_read, losses, depth))
        stack.enter_context(operands_of_numpy())
        stack.enter_context(symbolic_ranges())
        stack.enter_context(tensorflow_as_operations())
        stack.enter_context(symbolic_draws(anchor, sizes.batch, depth))
        stack.enter_context(arrays_as_tensors(anchor))
        updates = stack.enter_context(updates_of_metrics(layer))
        arguments, keyword_arguments, masks = inputs
        for x, mask in zip(symbols_in((arguments, keyword_arguments)), masks):
            carry(x, mask)
        outputs = layer.call(*arguments, **keyword_arguments, **({"training": training} if takes_training else {}))
        losses = [as_tensor(x, anchor) for x in (*losses, *(x for _, x in updates))]
    if not isinstance(layer, keras.Model):  # sizes beside tensors, which the code around has as numbers
        found = keras.tree.flatten(outputs)
        tensors = [x for x in found if not isinstance(x, int | float)]
        outputs = outputs if len(tensors) == len(found) else tensors
    return program(outputs, [*symbols_in(inputs), *weights], losses, [metric for metric, _ in updates])


@contextlib.contextmanager
def updates_of_metrics(layer: keras.Layer) -> Iterator[list[tuple[int, Any]]]:
    """Give, for each update of a metric by the code of a layer, the number of the metric, and what updates it."""
    found: list[tuple[int, Any]] = []
    metrics = metrics_of(layer)

    def noted(number: int) -> Callable[..., None]:
        def update_state(*values: Any, **named: Any) -> None:
            given = [*values, *named.values()]
            if len(given) != 1:
                raise Untraceable(f"it updates the metric {metrics[number].name!r} by more than one tensor")
            found.extend((number, x) for x in given)

        return update_state

    for number, metric in enumerate(metrics):
        vars(metric)["update_state"] = noted(number)
    try:
        yield found
    finally:
        for metric in metrics:
            vars(metric).pop("update_state", None)


def _refuse_read(variable: keras.Variable) -> None:
    """Raise: what is made of the numbers of a weight would be a constant of the graph. (Not of random states.)"""
    if variable.name == "seed_generator_state":
        return
    raise UsesWeight(variable)


def all_or_one(attempts: Iterable[Program | Untraceable]) -> list:
    """Return programs, or the first reason why there is none, before the others are tried."""
    found = []
    for each in attempts:
        if isinstance(each, Untraceable):
            return [each]
        found.append(each)
    return found


def takes_numbers(layer: keras.Layer, given: tuple, sizes: Sizes) -> bool:
    """Return whether code runs on numbers at these sizes; on symbolic tensors not every operation looks at them."""
    zeros = lambda x: ops.zeros(x.shape, x.dtype) if isinstance(x, keras.KerasTensor) else x  # noqa: E731
    arguments, keyword_arguments, _ = keras.tree.map_structure(zeros, inputs_like(given, layer, sizes))
    try:
        with keras.StatelessScope():  # where nothing is assigned
            layer.call(*arguments, **keyword_arguments)
    except Exception:  # whatever the user's code raises
        return False
    return True


def symbols_in(structure: Any) -> list:
    """Return the symbolic tensors in a structure."""
    return [x for x in keras.tree.flatten(structure) if isinstance(x, keras.KerasTensor)]


def inputs_like(given: Any, layer: keras.Layer, sizes: Sizes) -> Any:
    """Return inputs like the tensors that a layer gets, as it casts them, and anything else as it is."""
    shapes = iter(sizes.shapes([x.shape for x in symbols_in(given)]))
    like = lambda x: keras.Input(batch_shape=next(shapes), dtype=dtype_for(x, layer))  # noqa: E731
    return keras.tree.map_structure(lambda x: like(x) if isinstance(x, keras.KerasTensor) else x, given)


def _has_open_size(found: dict[str, Any]) -> bool:
    """Return whether the settings of an operation have None in the place of a number."""
    return any(
        isinstance(found.get(name), list | tuple) and None in found[name] for name in ("newshape", "shape", "repeats")
    )


def why_of(error: Exception) -> str:
    """Return what an error says, without what Keras puts around it; where a layer inside raised it, with its name."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split("\nArguments received by")[0]  # Keras prints in bold letters
    layers = re.findall(r"infer the output shape / dtype of ('[^']*' \(of type \w+\))", text)
    if "KerasTensor cannot be used as input to a TensorFlow function" in text or "a TypeSpec for <KerasTensor" in text:
        called = f"`tf.{MISSED[-1]}`" if MISSED else "a function of TensorFlow"
        return f"it calls {called}, which takes no symbolic tensors; `keras.ops` does"
    reason = re.split(r"Exception encountered when calling \S+\(\)\.|Error encountered:", text)[-1]
    named = f"Keras cannot run {layers[-1]} on symbolic tensors: " if layers else ""
    return named + " ".join(reason.split())[:200]
