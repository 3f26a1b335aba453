"""Weights that are not finite: a training that has failed, and that nothing is to be made of."""

from __future__ import annotations

import math
import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.platform.checks import SparsityWarning

ADVICE = "train again with `skip_nonfinite=True` or a smaller learning rate, or restore an earlier checkpoint"


def nonfinite_weights(model: Any) -> list[str]:
    """Return the paths of the weights of a model, also one of tf_keras, that are not finite everywhere."""
    return [path_of(variable) for variable in _nonfinite(model)]


def check_finite(model: Any) -> None:
    """Raise `ValueError`, naming the first layer and weight, if weights of a model are not finite."""
    found = _nonfinite(model)
    if found:
        raise ValueError(
            f"The layer {layer_of(found[0])!r} of the model {model.name!r} has {_numbers(found)}, so that nothing can "
            f"be made of the model: {ADVICE}."
        )


def stop_if_not_finite(model: keras.Model, epoch: int, logs: dict | None) -> bool:
    """Stop a training, at the end of this epoch, whose weights are not finite, and return whether that is so.

    One warning names the first layer. `logs` get `nonfinite_weights`, how many weights are so, which tells other
    callbacks that this was said.
    """
    found = _nonfinite(model)
    if not found:
        return False
    model.stop_training = True
    if "nonfinite_weights" in (logs or {}):
        return True
    if logs is not None:
        logs["nonfinite_weights"] = len(found)
    kind = "NaN" if _counts(found[0])[0] else "infinite"
    warnings.warn(
        f"The layer {layer_of(found[0])!r} became {kind} in epoch {epoch + 1}, and the training was stopped: it has "
        f"{_numbers(found)}; {ADVICE}.",
        SparsityWarning,
        stacklevel=3,
    )
    return True


def path_of(variable: Any) -> str:
    """Return the path of a variable of Keras or tf_keras."""
    return getattr(variable, "path", variable.name)


def layer_of(variable: Any) -> str:
    """Return the name of the layer of a variable."""
    return path_of(variable).split("/")[-2:][0]


def _nonfinite(model: Any) -> list:
    return [variable for variable in model.weights if not _is_finite(variable)]


def _is_finite(variable: Any) -> bool:
    # One number is read back; those of tf_keras exist on TensorFlow only, and not for other backends of Keras.
    if isinstance(variable, keras.Variable):
        if not keras.backend.is_float_dtype(variable.dtype) or math.isfinite(float(ops.sum(variable))):
            return True  # what is not finite makes no finite sum
        return bool(ops.all(ops.isfinite(variable)))
    return bool(np.isfinite(variable.numpy()).all())


def _counts(variable: Any) -> tuple[int, int]:
    """Return how many numbers of a variable are NaN, and how many are infinite."""
    if isinstance(variable, keras.Variable):
        value = ops.convert_to_numpy(ops.cast(variable, "float32"))
    else:
        value = variable.numpy()
    return int(np.isnan(value).sum()), int(np.isinf(value).sum())


def _numbers(found: list) -> str:
    """Return what is in the first of the weights that were found, and how many others there are."""
    nan, infinite = _counts(found[0])
    kinds = " and ".join(f"{n} {kind}" for n, kind in ((nan, "NaN"), (infinite, "infinite")) if n)
    others = f", and {len(found) - 1} other weights that are not finite" if len(found) > 1 else ""
    return f"{kinds} of {int(np.prod(found[0].shape))} numbers in {path_of(found[0])!r}{others}"
