"""What a trained model knows, told to a smaller one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from keras_rmda.platform import ends

EPSILON = 1e-7


@contextlib.contextmanager
def distilled(student: keras.Model, teacher: keras.Model, weight: float) -> Iterator[None]:
    """Let training of `student` minimize what its outputs differ from those of `teacher`, too.

    Formula: (1 - weight) loss(y, student(x)) + weight sum_k d(teacher(x)_k, student(x)_k) over the outputs k, where d
    is the cross-entropy where the loss of an output is one, else the mean squared difference.

    Args:
        student: a compiled model, before its first step.
        teacher: a model with the same inputs and outputs.
        weight: share of the loss, in [0, 1].

    Source: Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural network", arXiv:1503.02531.
    """
    if not weight:
        yield
        return
    kinds = kinds_of_outputs(student)
    own = student.compute_loss

    def compute_loss(
        x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        loss = own(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training)
        if not training:
            return loss
        # As Keras computes losses: the logarithm of what float16 rounds to zero is not finite, nor is its gradient.
        cast = lambda outputs: [ops.cast(each, loss.dtype) for each in keras.tree.flatten(outputs)]  # noqa: E731
        targets = map(ops.stop_gradient, cast(teacher(x, training=False)))
        pairs = zip(kinds, targets, cast(y_pred), strict=True)
        return (1.0 - weight) * loss + weight * sum(kind(t, s) for kind, t, s in pairs)

    student.compute_loss = compute_loss
    try:
        yield
    finally:
        del student.compute_loss


def kinds_of_outputs(model: keras.Model) -> list[Any]:
    """Return for each output of a compiled model how its differences are measured."""
    count = len(keras.tree.flatten(model.outputs))
    loss = model.loss
    if isinstance(loss, dict):
        loss = ends.by_output(model, loss)
    losses = list(loss) if isinstance(loss, (list, tuple)) else [loss] * count
    return [kind_of(each) for each in losses[:count]] + [squares] * (count - len(losses))


def kind_of(loss: Any) -> Any:
    """Return how the outputs of two models are compared whose loss this is: by squares unless it is one of Keras."""
    if loss is None or not (isinstance(loss, str) or in_keras(loss)):
        return squares
    name = loss if isinstance(loss, str) else getattr(loss, "name", getattr(loss, "__name__", ""))
    name = str(name).lower()
    from_logits = bool(getattr(loss, "get_config", dict)().get("from_logits", False))
    if "crossentropy" not in name.replace("_", ""):
        return squares
    if "binary" in name:
        return bits_of_logits if from_logits else bits
    return classes_of_logits if from_logits else classes


def in_keras(loss: Any) -> bool:
    """Return whether Keras has this loss, so that its name tells what outputs it takes."""
    module = loss.__module__ if callable(loss) and hasattr(loss, "__name__") else type(loss).__module__
    return module.split(".")[0] == "keras"


def squares(target: Any, output: Any) -> Any:
    """Return the mean squared difference."""
    return ops.mean(ops.square(target - output))


def classes(target: Any, output: Any) -> Any:
    """Return the cross-entropy of probabilities along the last axis."""
    return -ops.mean(ops.sum(target * ops.log(ops.clip(output, EPSILON, 1.0)), axis=-1))


def classes_of_logits(target: Any, output: Any) -> Any:
    """Return the cross-entropy of logits along the last axis."""
    return -ops.mean(ops.sum(ops.softmax(target) * ops.log_softmax(output), axis=-1))


def bits(target: Any, output: Any) -> Any:
    """Return the cross-entropy of probabilities of one event each."""
    return ops.mean(ops.binary_crossentropy(target, output))


def bits_of_logits(target: Any, output: Any) -> Any:
    """Return the cross-entropy of the logits of one event each."""
    return ops.mean(ops.binary_crossentropy(ops.sigmoid(target), output, from_logits=True))
