"""A Keras model as a `.tflite` file."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_rmda import _checks, _compat, _files

QUANTIZATIONS = (None, "float16", "dynamic", "int8")
SAMPLES = 200
"""How many representative samples the quantizer looks at, at most."""


@dataclass(frozen=True)
class TFLiteFile:
    """A file that `export_tflite` wrote.

    Attributes:
        path: where it is.
        bytes: its size.
        quantization: as asked for.
    """

    path: Path
    bytes: int
    quantization: str | None


def export_tflite(
    model: keras.Model,
    path: str | Path,
    quantization: str | None = None,
    representative_data: Any = None,
    int8_io: bool = False,
) -> TFLiteFile:
    """Write a model as a TensorFlow Lite file.

    All arguments are checked before anything is written; an existing file survives a failed call.

    Args:
        model: a built Keras model; `strip` it first to make the file small and fast.
        path: where to write, ending in `.tflite`.
        quantization: None for float32; "float16", weights only; "dynamic", int8 weights; "int8", weights and
            activations, with float32 inputs and outputs.
        representative_data: inputs for "int8", which it is required for and refused without: an array, or a list
            or dict of arrays, with samples first; or a `tf.data.Dataset` of batches of inputs or (inputs, targets);
            or a callable that yields lists of arrays of one sample each, as TensorFlow Lite wants. At most 200
            samples are used.
        int8_io: whether inputs and outputs are int8 too, for microcontrollers; only with "int8".

    Returns:
        A `TFLiteFile`.

    Raises:
        ValueError: for a bad argument, with the value received.
        OSError: if the folder is missing or not writable.
        RuntimeError: if Keras does not run on TensorFlow, or the converter fails.

    Example:
        >>> kr.export_tflite(kr.strip(model), "model.tflite", "int8", representative_data=images[:200])
    """
    path = _files.check_target(path, ".tflite")
    _checks.one_of("quantization", quantization, QUANTIZATIONS)
    if not isinstance(model, keras.Model) or not model.built or not model.inputs:
        raise ValueError(f"`model` must be a built Keras model with known inputs. Received: model={model!r}")
    if int8_io and quantization != "int8":
        raise ValueError(f'`int8_io` goes with quantization="int8". Received: quantization={quantization!r}')
    if (representative_data is None) == (quantization == "int8"):
        raise ValueError(
            'quantization="int8" needs `representative_data`, and nothing else uses it. '
            f"Received: quantization={quantization!r}, representative_data={type(representative_data).__name__}"
        )
    samples = list(_limited(representative_samples(model, representative_data))) if quantization == "int8" else []
    content = convert(model, quantization, samples, int8_io)
    with _files.replacing(path) as temporary:
        temporary.write_bytes(content)
    return TFLiteFile(path, len(content), quantization)


def convert(model: keras.Model, quantization: str | None, samples: list[dict[str, np.ndarray]], int8_io: bool) -> bytes:
    """Return the file's content; `samples` are by input name, since the converter orders inputs in its own way."""
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "export_tflite needs Keras on TensorFlow. Save the model to `.keras` and export it in a process with "
            f"KERAS_BACKEND=tensorflow. Received: backend={keras.backend.backend()!r}"
        )
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if quantization is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantization == "int8":
        converter.representative_dataset = lambda: iter(samples)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        if int8_io:
            converter.inference_input_type = converter.inference_output_type = tf.int8
    try:
        with _files.silenced(1, 2), warnings.catch_warnings(), _compat.quiet_tensorflow():
            warnings.simplefilter("ignore")
            return converter.convert()
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RuntimeError(f"TensorFlow Lite could not convert the model {model.name!r}: {reason}") from error


def representative_samples(model: keras.Model, data: Any) -> Iterator[dict[str, np.ndarray]]:
    """Yield inputs of one sample each, by name.

    Raises:
        ValueError: if names, numbers or shapes do not fit the model, or there is no sample.
    """
    names = [tensor.name for tensor in model.inputs]
    count = 0
    for batch in _batches(data):
        arrays = _in_order(batch, names)
        for array, tensor in zip(arrays, model.inputs):
            expected = tuple(tensor.shape[1:])
            fits = array.ndim == len(expected) + 1 and all(n in (None, m) for n, m in zip(expected, array.shape[1:]))
            if not fits:
                raise ValueError(
                    f"`representative_data` for the input {tensor.name!r} must have shape (samples, "
                    f"{', '.join(map(str, expected))}). Received: shape={array.shape}"
                )
        lengths = {len(array) for array in arrays}
        if len(lengths) > 1:
            raise ValueError(f"`representative_data` has inputs of different lengths. Received: {sorted(lengths)}")
        for k in range(lengths.pop()):
            count += 1
            yield {t.name: array[k : k + 1].astype(t.dtype) for array, t in zip(arrays, model.inputs)}
    if not count:
        raise ValueError("`representative_data` has no samples.")


def _batches(data: Any) -> Iterable:
    if isinstance(data, (Mapping, Sequence, np.ndarray)):
        return [data]
    if isinstance(data, Callable) and not hasattr(data, "element_spec"):
        return data()
    if hasattr(data, "element_spec"):
        return (batch[0] if isinstance(batch, tuple) else batch for batch in data)
    if hasattr(data, "__array__"):
        return [np.asarray(data)]
    raise ValueError(
        "`representative_data` must be an array, a list or dict of arrays, a tf.data.Dataset or a callable. "
        f"Received: {type(data).__name__}"
    )


def _in_order(batch: Any, names: list[str]) -> list[np.ndarray]:
    if isinstance(batch, Mapping):
        if set(batch) != set(names):
            raise ValueError(f"`representative_data` must have the inputs {names}. Received: {sorted(map(str, batch))}")
        batch = [batch[name] for name in names]
    elif not isinstance(batch, (list, tuple)):
        batch = [batch]
    if len(batch) != len(names):
        raise ValueError(f"`representative_data` must have {len(names)} inputs. Received: {len(batch)}")
    arrays = [np.asarray(array) for array in batch]
    for array in arrays:
        if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
            raise ValueError(f"`representative_data` must be finite numbers. Received: dtype={array.dtype}")
    return arrays


def _limited(samples: Iterator) -> Iterator:
    for _, sample in zip(range(SAMPLES), samples):
        yield sample
