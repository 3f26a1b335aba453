"""Loss and metrics of a model that was not compiled, by what its targets are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_rmda.compression.data import Data
from keras_rmda.compression.recipe import LOOK
from keras_rmda.platform import ends


def default_arguments(model: keras.Model, data: Data) -> dict[str, Any]:
    """Return `loss` and `metrics` of `compile`, for several outputs structured as their targets are."""
    batches = [batch[1] if len(batch) > 1 else [] for batch in data.batches(LOOK)]
    targets = [ends.by_output(model, y) for y in batches]
    if any(len(each) != len(model.outputs) or any(y is None for y in each) for each in targets):
        return {"loss": "mse", "metrics": []}
    last = ends.last_functions(model)
    losses = [default_loss(*each) for each in zip(model.outputs, last, zip(*targets))]
    found = {"loss": losses, "metrics": [default_metrics(*each) for each in zip(losses, model.outputs)]}
    if isinstance(batches[0], dict):
        names = ends.names_of_outputs(model)
        return {key: dict(zip(names, values)) for key, values in found.items()}
    return found if len(losses) > 1 else {key: values[0] for key, values in found.items()}


def default_metrics(loss: Any, output: keras.KerasTensor) -> list[str]:
    """Return the metrics for a loss of `default_loss`."""
    is_of_labels = isinstance(loss, keras.losses.BinaryCrossentropy) and output.shape[-1] != 1
    return [] if loss == "mse" else ["binary_accuracy" if is_of_labels else "accuracy"]


def default_loss(output: keras.KerasTensor, last: str | None, batches: Sequence[Any]) -> Any:
    """Return the loss of an output for these targets: cross-entropy for classes and labels, else squares.

    Classes are integers, or one number for each of them, which are integers, or shares where the model ends with
    softmax; labels are several integers 0 and 1.

    Args:
        output: the symbolic one.
        last: the function that it comes out of, as of `ends.last_functions`.
        batches: of its targets.
    """
    ys = [np.asarray(each) for each in batches]
    if any(each.dtype.kind not in "fiub" for each in ys):
        return "mse"
    y, most, least = ys[0], max(each.max() for each in ys), min(each.min() for each in ys)
    is_integer = y.dtype.kind in "iub"
    has_all = output.shape[-1] != 1 and y.ndim == len(output.shape) and y.shape[-1] == output.shape[-1]
    are_shares = has_all and least >= 0 and all(np.allclose(each.sum(axis=-1), 1.0) for each in ys)
    if not is_integer and not (are_shares and last == "softmax"):
        return "mse"
    from_logits = last is None
    if are_shares and last != "sigmoid":
        return keras.losses.CategoricalCrossentropy(from_logits=from_logits)
    if (has_all or output.shape[-1] == 1) and least >= 0 and most <= 1:
        return keras.losses.BinaryCrossentropy(from_logits=from_logits)
    rank = len(output.shape)
    are_classes = y.ndim == rank - 1 or (y.ndim == rank and y.shape[-1] == 1)
    if are_classes and output.shape[-1] != 1 and least >= 0 and most < output.shape[-1]:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
    return "mse"
