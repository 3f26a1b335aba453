"""Whether TensorFlow Lite for Microcontrollers (TFLM) runs a file, as far as the file itself tells.

TFLM takes the shapes that stand in a file, where an open axis counts as 1. So files with an open batch run, one sample
at a time, unless an operator computes a size from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

from keras_rmda.export.types import AXES, TYPES, computes

REGROUPS = ("SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND")
"""Operators that make several samples of one: TFLM would compute something else."""

CONSTANT = {
    "BROADCAST_TO": 1, "EXPAND_DIMS": 1, "FILL": 0, "PAD": 1, "PADV2": 1, "RESIZE_BILINEAR": 1,
    "RESIZE_NEAREST_NEIGHBOR": 1, "SPLIT": 0, "SPLIT_V": 1, "TRANSPOSE": 1,
}  # fmt: skip
"""By operator the input that TFLM wants to know before it runs."""


def unfit(graph: Any) -> Iterator[str]:
    """Yield for a graph what TFLM does not run."""
    tensors = graph.tensors
    if any(axis > 0 for number in graph.inputs for axis in tensors[number].open_axes):
        yield "open sizes"
    for operator in graph.operators:
        name, numbers = operator.name, (operator.inputs, operator.outputs)
        if name not in TYPES:
            yield name
            continue
        inputs, outputs = ([tensors[k].dtype if k >= 0 else None for k in each] for each in numbers)
        if not computes(name, inputs, outputs):
            yield f"{name} of {words(inputs)} to {words(outputs)}"
        made = [tensors[k] for k in operator.outputs]
        axes = max((len(tensors[k].shape) for k in (*operator.inputs, *operator.outputs) if k >= 0), default=0)
        if axes > AXES.get(name, axes):
            yield f"{name} of {axes} axes"
        if name in REGROUPS and any(each.open_axes for each in made):
            yield f"{name} of an open batch"
        given = operator.inputs[CONSTANT[name]] if name in CONSTANT else -1
        if given >= 0 and not tensors[given].stored:
            yield f"{name} of a size that is computed"
        if name == "RESHAPE" and prod(tensors[operator.inputs[0]].shape) != prod(made[0].shape):
            yield "RESHAPE of open sizes"


def words(types: list[str | None]) -> str:
    """Return types as words, each once."""
    return " and ".join(dict.fromkeys(each for each in types if each is not None))


ADVICE = {
    "open sizes": "Give the model inputs of fixed sizes, or `representative_data` of one size.",
    "open batch": "Give the model inputs of fixed sizes, or `representative_data` of one size.",
    "WHILE": "Give the model a fixed number of steps: loops over time are written out only where it is known.",
    "UINT8": "Give the model an input of float32, and `int8_io` if integers shall go in.",
    "INT64": "Take integers of int32 for inputs and in code.",
    "SIGABRT": "An int8 operator does that which makes far smaller numbers than it gets, or a softmax of numbers below "
    "1e-8, as some networks that are not trained have. Take float32.",
}
"""What to do where `micro=True` is given already, by what is in a reason."""

OTHERWISE = "Take other layers, or compute this outside of the model."


def advice(reasons: tuple[str, ...]) -> list[str]:
    """Return what to do about what TFLM does not run, each once."""
    known = [[what for key, what in ADVICE.items() if key in reason] or [OTHERWISE] for reason in reasons]
    return list(dict.fromkeys(what for each in known for what in each))
