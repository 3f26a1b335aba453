"""A Keras model as a `.tflite` file."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from keras_rmda import _checks, _compat, _files, _finite, _graphs, _tfmot
from keras_rmda.export.benchmark import Interpreter
from keras_rmda.export.contents import parsed
from keras_rmda.export.samples import first_samples
from keras_rmda.optimizers.models import warn_of_hidden_zeros
from keras_rmda.pruning import strip
from keras_rmda.pruning.verification import difference, random_inputs

QUANTIZATIONS = (None, "float16", "dynamic", "int8", "int16x8")
CALIBRATED = ("int8", "int16x8")
"""What the quantizer needs samples for."""

CHECKED = 16
"""How many samples a file is checked on, at most."""

TOLERANCE = 1e-3
"""Largest accepted difference of a float32 file, relative to the largest output; far above rounding."""

SCOPE = r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*"
"""What TensorFlow takes for the name of a scope."""


@dataclass(frozen=True)
class TFLiteFile:
    """A file that `export_tflite` wrote.

    Attributes:
        path: where it is.
        bytes: its size.
        quantization: as asked for.
        arena_bytes: the tensor arena that TensorFlow Lite for Microcontrollers needs, within some hundred bytes.
        operators: how many operators there are of each name.
        not_micro: those that TensorFlow Lite for Microcontrollers does not have; none for a file that it can run.
        max_difference: of the outputs from those of the Keras model, on the samples of the check.
        agreement: share of these samples with the same largest output, where there are several outputs to compare.
    """

    path: Path
    bytes: int
    quantization: str | None
    arena_bytes: int
    operators: dict[str, int]
    not_micro: tuple[str, ...]
    max_difference: float
    agreement: float


def export_tflite(
    model: keras.Model,
    path: str | Path,
    quantization: Literal["float16", "dynamic", "int8", "int16x8"] | None = None,
    representative_data: Any = None,
    strip: bool = True,
    sparse: bool = False,
    int8_io: bool = False,
) -> TFLiteFile:
    """Write a model as a TensorFlow Lite file, and check the file against the model.

    All arguments are checked before anything is written, and the file is run by the interpreter of LiteRT before it
    takes its place; an existing file survives a failed call.

    Args:
        model: a built Keras model, or what `quantization_aware` returns.
        path: where to write, ending in `.tflite`.
        quantization: None for float32; "float16", weights only; "dynamic", int8 weights; "int8", weights and
            activations; "int16x8", int8 weights and int16 activations. Inputs and outputs stay float32.
        representative_data: inputs, required for "int8" and "int16x8" unless the model is of `quantization_aware`, and
            used for the check: an array, or a list or dict of arrays, with samples first; or a `tf.data.Dataset` of
            batches of inputs or (inputs, targets), as TensorFlow Datasets has them; or a generator, or a callable that
            makes one, of lists of arrays of one sample each, as TensorFlow Lite wants. At most 200 samples are used.
        strip: whether to leave out first what `keras_rmda.strip` leaves out: channels that cannot matter, gates.
        sparse: whether to store the places of nonzero weights instead of zeros, where most are zero. That makes files
            smaller and not faster.
        int8_io: whether inputs and outputs are int8 too, for microcontrollers; only with "int8".

    Returns:
        A `TFLiteFile`.

    Raises:
        ValueError: for a bad argument, with the value received, for weights that are not finite, and if the model
            cannot be stripped.
        OSError: if the folder is missing or not writable.
        RuntimeError: if Keras does not run on TensorFlow, the converter fails, or the file computes something else.

    Example:
        >>> kr.export_tflite(model, "model.tflite", "int8", representative_data=images[:200])
    """
    path = _files.check_target(path, ".tflite")
    _checks.one_of("quantization", quantization, QUANTIZATIONS)
    for name, value in (("strip", strip), ("sparse", sparse), ("int8_io", int8_io)):
        _checks.truth(name, value)
    aware = _tfmot.is_of_tf_keras(model)
    is_model = aware or (isinstance(model, keras.Model) and model.built)
    if is_model and strip and not aware and not _graphs.has_graph(model):
        model, strip = stripped(model), False  # a subclassed model gets inputs with names
    if not is_model or not getattr(model, "inputs", None):
        raise ValueError(
            "`model` must be a built Keras model with known inputs; a subclassed one has them with `strip=True` only. "
            f"Received: model={model!r}"
        )
    if int8_io and quantization != "int8":
        raise ValueError(f'`int8_io` goes with quantization="int8". Received: quantization={quantization!r}')
    if aware and (quantization, sparse) != ("int8", False):
        raise ValueError(
            'A model of `quantization_aware` goes with quantization="int8", sparse=False. '
            f"Received: quantization={quantization!r}, sparse={sparse}"
        )
    if representative_data is None and quantization in CALIBRATED and not aware:
        raise ValueError(
            f"quantization={quantization!r} needs `representative_data`. Received: representative_data=None"
        )
    _finite.check_finite(model)
    samples = [] if representative_data is None else first_samples(model, representative_data)
    if not aware and not strip:
        warn_of_hidden_zeros(model)
    exported = stripped(model) if strip and not aware else model
    # Keras gives inputs without a name another one in a copy.
    names = {old.name: new.name for old, new in zip(model.inputs, exported.inputs, strict=True)}
    named = [{names[name]: x for name, x in sample.items()} for sample in samples]
    content = convert(exported, quantization, named, sparse, int8_io)
    found = parsed(content, path)
    largest, agreement = compared(model, content, samples or made_up(model), names)
    if not largest <= (TOLERANCE if quantization is None else np.finfo("float32").max):
        raise RuntimeError(
            f"The file would compute something else than the model {model.name!r}: outputs differ by {largest:.3g} "
            "relative to the largest. Layers that are random at inference cannot be checked. Nothing was written."
        )
    with _files.replacing(path) as temporary:
        temporary.write_bytes(content)
    counts = found.operator_counts
    return TFLiteFile(path, len(content), quantization, found.arena_bytes, counts, found.not_micro, largest, agreement)


def stripped(model: keras.Model) -> keras.Model:
    """Return the stripped model.

    Raises:
        ValueError: saying how to do without, if it cannot be stripped.
    """
    try:
        return strip(model)
    except ValueError as error:
        raise ValueError(f"{error} `export_tflite(strip=False)` takes the model as it is.") from error


def made_up(model: keras.Model) -> list[dict[str, np.ndarray]]:
    """Return random samples."""
    arrays = random_inputs(model, batch=CHECKED)
    return [{t.name: x[k : k + 1] for t, x in zip(model.inputs, arrays)} for k in range(len(arrays[0]))]


@_compat.full_precision()
def compared(
    model: keras.Model, content: bytes, samples: list[dict[str, np.ndarray]], names: dict[str, str]
) -> tuple[float, float]:
    """Return the largest difference between model and file, relative to the largest output, and their agreement.

    Args:
        model: the Keras model.
        content: of the file.
        samples: of one sample each, by the model's names of inputs.
        names: those of the file.
    """
    inputs = {name: np.concatenate([each[name] for each in samples[:CHECKED]]) for name in samples[0]}
    flat = [inputs[tensor.name] for tensor in model.inputs]
    outputs = model(flat[0] if len(flat) == 1 else keras.tree.pack_sequence_as(model.input, flat), training=False)
    found = Interpreter.of(content).predict({names[name]: x for name, x in inputs.items()})
    keys = sorted(found, key=lambda name: (len(name), name)) if isinstance(found, dict) else []
    if _tfmot.is_of_tf_keras(model):
        outputs, keys = keras.tree.map_structure(np.asarray, outputs), keys and model.output_names
    if isinstance(outputs, dict):
        pairs = [(outputs[name], found[name] if keys else found) for name in outputs]
    else:
        pairs = list(zip(keras.tree.flatten(outputs), [found[name] for name in keys] or [found], strict=True))
    pairs = [(keras.ops.convert_to_numpy(a), b) for a, b in pairs]
    same = [np.argmax(a, -1) == np.argmax(b, -1) for a, b in pairs if a.ndim > 1 and a.shape[-1] > 1]
    agreement = float(np.mean([each.mean() for each in same])) if same else 1.0
    return max(difference(a, b) for a, b in pairs), agreement


def convert(
    model: keras.Model,
    quantization: str | None,
    samples: list[dict[str, np.ndarray]],
    sparse: bool = False,
    int8_io: bool = False,
) -> bytes:
    """Return the file's content; `samples` are by input name, since the converter orders inputs in its own way."""
    if keras.backend.backend() != "tensorflow" and not _tfmot.is_of_tf_keras(model):
        raise RuntimeError(
            "export_tflite needs Keras on TensorFlow. Save the model to `.keras` and export it in a process with "
            f"KERAS_BACKEND=tensorflow. Received: backend={keras.backend.backend()!r}"
        )
    import tensorflow as tf

    strange = [layer.name for layer in model.layers if not re.fullmatch(SCOPE, layer.name)]
    if strange:
        raise ValueError(
            f"TensorFlow runs no layers with such names: {strange}. Letters, digits and _ . - are possible: "
            "`keras.models.clone_model` with a `clone_function` can give others."
        )
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [] if quantization is None else [tf.lite.Optimize.DEFAULT]
    converter.optimizations += [tf.lite.Optimize.EXPERIMENTAL_SPARSITY] if sparse else []
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantization in CALIBRATED and samples:
        # Files of tf_keras models have no signature until they are finished, and so no names of inputs.
        given = [list(x.values()) for x in samples] if _tfmot.is_of_tf_keras(model) else samples
        converter.representative_dataset = lambda: iter(given)
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.TFLITE_BUILTINS_INT8
            if quantization == "int8"
            else tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        ]
    if int8_io:
        converter.inference_input_type = converter.inference_output_type = tf.int8
    try:
        with _files.silenced(1, 2), warnings.catch_warnings(), _compat.quiet_tensorflow():
            warnings.simplefilter("ignore")
            return converter.convert()
    except Exception as error:
        reason = _checks.first_line(error)
        raise RuntimeError(f"TensorFlow Lite could not convert the model {model.name!r}: {reason}") from error
