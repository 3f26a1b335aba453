"""Arguments of functions of TensorFlow, as Keras takes them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.platform.tracing.programs import is_array


def numbers(x: Any) -> Any:
    """Return numbers, which may be an array or nested, as those of Python; sizes stay what they are."""
    if is_array(x):
        return np.asarray(ops.convert_to_numpy(x)).tolist()
    return [numbers(each) for each in x] if isinstance(x, list | tuple) else x


def dtype_of(dtype: Any, default: str) -> str:
    """Return the name of a type."""
    return default if dtype is None else keras.backend.standardize_dtype(dtype)


def as_tensor(x: Any) -> Any:
    """Return one tensor for a list of symbolic ones, which TensorFlow stacks; other arguments as they are."""
    is_list = isinstance(x, list | tuple) and any(isinstance(each, keras.KerasTensor) for each in x)
    return ops.stack([as_tensor(each) for each in x]) if is_list else x
