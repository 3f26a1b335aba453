"""A Keras model as a `.tflite` file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from keras_rmda.export.comparison import check_by_trial, check_sizes, compared, has_open_sizes, made_up, one_shape
from keras_rmda.export.contents import Contents, parsed
from keras_rmda.export.conversion import CALIBRATED
from keras_rmda.export.converter import convert
from keras_rmda.export.differences import warn_of_differences
from keras_rmda.export.expected import TOLERANCE
from keras_rmda.export.fitness import advice
from keras_rmda.export.prepared import prepared, stripped
from keras_rmda.export.progress import progress
from keras_rmda.export.samples import check_batches, check_numbers, first_samples
from keras_rmda.export.slim import slimmed
from keras_rmda.optimizers.models import warn_of_hidden_zeros
from keras_rmda.platform import checks, files, finite, graphs, tfmot

ROUNDED = {"int8": "int8", "int16x8": "int16"}
"""What activations become."""


@dataclass(frozen=True)
class TFLiteFile:
    """A file that `export_tflite` wrote.

    Attributes:
        path: where it is.
        bytes: its size.
        quantization: as asked for.
        arena_bytes: the tensor arena that TensorFlow Lite for Microcontrollers needs, within some hundred bytes.
        operators: how many operators there are of each name.
        not_micro: what TensorFlow Lite for Microcontrollers does not run: operators, with types where it has others;
            none for a file that it runs.
        max_difference: of the outputs from those of the Keras model, relative to the largest number of an output.
        agreement: share of the compared samples with the same largest class, for outputs that a softmax or the loss of
            the model makes classes; None if there are none.
        batch: how many samples it takes at once; None for any number.
        changes: what the file does otherwise than the model, in words: a fixed batch, fixed sizes, loops that are
            written out, float32 in the place of another type, or of int16.
        differences: by output the difference of its worst channel, relative to the channel's own range.
        samples: how many samples of the representative data were used.
        compared: how many samples were compared.
        micro_difference: as `max_difference`, of what TensorFlow Lite for Microcontrollers computes, on up to 4 of
            them; None where tflite-micro is not installed, or the file is not for it, or too large to try.

    Example:
        >>> file = kr.export_tflite(model, "model.tflite")
        >>> f"{file.bytes:,} bytes, tensor arena of {file.arena_bytes:,}, difference {file.max_difference:.0e}"
        >>> file.not_micro  # a microcontroller runs it
        ()
    """

    path: Path
    bytes: int
    quantization: str | None
    arena_bytes: int
    operators: dict[str, int]
    not_micro: tuple[str, ...]
    max_difference: float
    agreement: float | None
    batch: int | None = None
    changes: tuple[str, ...] = ()
    differences: dict[str, float] = field(default_factory=dict)
    samples: int = 0
    compared: int = 0
    micro_difference: float | None = None


def export_tflite(
    model: keras.Model,
    path: str | Path,
    quantization: Literal["float16", "dynamic", "int8", "int16x8"] | None = None,
    representative_data: Any = None,
    strip: bool = True,
    sparse: bool = False,
    int8_io: bool = False,
    batch: int | None = None,
    micro: bool = False,
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
            used for the check: an array, or a list or dict of arrays, with samples first; a list of samples; or a
            `tf.data.Dataset`, a `keras.utils.PyDataset`, a generator, or a callable that makes one, of batches or
            samples of inputs or (inputs, targets). Dictionaries may hold more than the inputs. 200 samples at most are
            used: of arrays and PyDatasets from everywhere, of others the first.
        strip: whether to leave out first what `keras_rmda.strip` leaves out: channels that cannot matter, gates.
        sparse: whether to store the places of nonzero weights instead of zeros, where most are zero. That makes files
            smaller and not faster.
        int8_io: whether inputs and outputs are int8 too, for microcontrollers; only with "int8".
        batch: how many samples the file takes at once; None for any number, where the model takes any and has no loops
            over time, which need a fixed one: 1.
        micro: whether the file must run on a microcontroller: it takes one sample at a time, of the size of the
            representative data where the model leaves that open, loops over time are written out, and what TensorFlow
            Lite for Microcontrollers does not run is an error. Not with "float16" and "dynamic", whose numbers it
            cannot read.

    Returns:
        A `TFLiteFile`.

    Raises:
        ValueError: for a bad argument, with the value received, for weights that are not finite, and if the model
            cannot be stripped.
        OSError: if the folder is missing or not writable.
        RuntimeError: if Keras does not run on TensorFlow, the converter fails, or the file computes something else, or
            does not run: in LiteRT, or with `micro` on a microcontroller.
            What may crash is converted in a process of its own: loops over time, branches, states.

    Example:
        >>> kr.export_tflite(model, "model.tflite", "int8", representative_data=images[:200])
    """
    path = files.check_target(path, ".tflite")
    checks.one_of("quantization", quantization, checks.QUANTIZATIONS)
    for name, value in (("strip", strip), ("sparse", sparse), ("int8_io", int8_io), ("micro", micro)):
        checks.truth(name, value)
    if batch is not None:
        checks.whole("batch", batch, 1)
    aware = tfmot.is_of_tf_keras(model)
    is_model = aware or (isinstance(model, keras.Model) and model.built)
    check_numbers(model)
    if is_model and strip and not aware and not graphs.has_graph(model):
        loss = getattr(model, "loss", None)
        model, strip = stripped(model, []), False  # a subclassed model gets inputs with names
        model.loss = loss
    if not is_model or not getattr(model, "inputs", None):
        raise ValueError(
            "`model` must be a built Keras model with known inputs; a subclassed one has them with `strip=True` only. "
            f"Received: model={model!r}"
        )
    check_batches(model)
    if int8_io and quantization != "int8":
        raise ValueError(f'`int8_io` goes with quantization="int8". Received: quantization={quantization!r}')
    if micro and (quantization in ("float16", "dynamic") or sparse or batch not in (None, 1)):
        raise ValueError(
            '`micro` goes with quantization=None, "int8" or "int16x8", sparse=False and a batch of 1. '
            f"Received: quantization={quantization!r}, sparse={sparse}, batch={batch}"
        )
    if aware and (quantization, sparse) != ("int8", False):
        raise ValueError(
            'A model of `quantization_aware` goes with quantization="int8", sparse=False. '
            f"Received: quantization={quantization!r}, sparse={sparse}"
        )
    if representative_data is None and quantization in CALIBRATED and not aware:
        raise ValueError(
            f"quantization={quantization!r} needs `representative_data`. Received: representative_data=None"
        )
    finite.check_finite(model)
    samples = [] if representative_data is None else first_samples(model, representative_data)
    used = len(samples)
    if not aware and not strip:
        warn_of_hidden_zeros(model)
    if not aware and keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "export_tflite needs Keras on TensorFlow. Save the model to `.keras` and export it in a process with "
            f"KERAS_BACKEND=tensorflow. Received: backend={keras.backend.backend()!r}"
        )
    is_open = has_open_sizes(model)
    if is_open and samples:
        check_sizes(model, samples)
    elif is_open:
        samples = made_up(model)
    names = [tensor.name for tensor in model.inputs]  # Keras gives inputs without a name another one in a copy
    with progress(path.name) as say:
        say("cutting out what cannot matter")
        exported = stripped(model, samples if is_open else []) if strip and not aware else model
        say("making a graph")
        rounded = "aware" if aware else ROUNDED.get(quantization)
        how = (1 if micro else batch, micro or quantization in CALIBRATED, rounded)
        shapes = one_shape(model, samples) if is_open and used else None
        made = prepared(exported, names, *how, shapes if micro else None)
        if made.may_crash and quantization in CALIBRATED and shapes and not micro:
            made = prepared(exported, names, *how, shapes)
        say("converting, in a process of its own" if made.may_crash else "converting")
        calibration = [] if aware else samples  # what has no range there has trained in float
        content = slimmed(convert(made, quantization, calibration, sparse, int8_io, micro))
        found = parsed(content, path)
        divides = quantization in CALIBRATED and "DIV" in found.operator_counts  # by what may be 0 among integers
        if made.is_tried or quantization == "int16x8" or divides:
            check_by_trial(content, samples if divides else [], made)
        say("comparing it with the model")
        check = compared(model, content, found, samples or made_up(model), made)
        largest = check.largest
    if not largest <= (TOLERANCE if quantization is None else np.finfo("float32").max):
        raise RuntimeError(
            f"The file would compute something else than the model {model.name!r}: outputs differ by {largest:.3g} "
            "relative to the largest. Layers that are random at inference cannot be checked. Nothing was written."
        )
    not_micro = found.not_micro if check.unfit is None else (check.unfit,)
    if micro and not_micro:
        raise RuntimeError(
            f"TensorFlow Lite for Microcontrollers does not run the model {model.name!r}: {', '.join(not_micro)}. "
            f"{' '.join(advice(not_micro))} Nothing was written."
        )
    warn_of_differences(check.outputs, check.samples)
    with files.replacing(path) as temporary:
        temporary.write_bytes(content)
    return TFLiteFile(
        path,
        len(content),
        quantization,
        found.arena_bytes,
        found.operator_counts,
        not_micro,
        largest,
        check.agreement,
        made.batch,
        made.changes + left_in_float(found, quantization),
        {name: each.worst for name, each in check.outputs.items()},
        used,
        check.samples,
        check.micro,
    )


def left_in_float(found: Contents, quantization: str | None) -> tuple[str, ...]:
    """Return in words which operators of a file of integers compute in float32."""
    borders = ("QUANTIZE", "DEQUANTIZE")
    names = {
        each.name
        for each in found.operators
        if each.name not in borders and any(k >= 0 and found.tensors[k].dtype == "FLOAT32" for k in each.inputs)
    }
    return (f"{', '.join(sorted(names))} in float32",) if names and quantization in CALIBRATED else ()
