"""A file against the model that it is made of."""

from __future__ import annotations

import pickle
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import keras_rmda.export.tflm as tflm
from keras_rmda.export.apart import run_apart
from keras_rmda.export.contents import Contents
from keras_rmda.export.differences import CLASSES, OutputDifference, compared_output, differs, losses_of
from keras_rmda.export.expected import TOLERANCE, alike, depends_on_batch, expected_of
from keras_rmda.export.interpreter import Interpreter
from keras_rmda.export.prepared import Prepared, takes
from keras_rmda.platform import arithmetic, checks
from keras_rmda.platform.arrays import spread
from keras_rmda.structure.inputs import random_inputs

CHECKED = 16
"""How many samples a file is checked on, at most."""

TRIAL = Path(__file__).with_name("trial.py")

MICRO_BYTES, MICRO_MACS, MICRO_SAMPLES = 16_000_000, 200_000_000, 4
"""Largest file that TFLM is asked to run, the multiply-accumulates of all runs together, and how many runs."""

MICRO_TOLERANCE = 0.05
"""By how much more than LiteRT's the outputs of TFLM may differ, where numbers are integers: some steps of 255."""

SPARE_BYTES = 500_000
"""Of the arena, for what operators ask for themselves."""

SIZES = (32, 128, 512)
"""Of axes that a model leaves open: the first that it takes."""


def has_open_sizes(model: Any) -> bool:
    """Return whether a model takes samples of different sizes."""
    return any(None in tensor.shape[1:] for tensor in model.inputs)


def made_up(model: Any) -> list[dict[str, np.ndarray]]:
    """Return random samples, of the first of some sizes that a model takes, where it leaves them open."""
    is_open = has_open_sizes(model)
    size = next((size for size in SIZES if not is_open or takes(model, shapes_at(model, size))), SIZES[-1])
    arrays = random_inputs(model, batch=CHECKED, open_axis=size)
    return [{t.name: x[k : k + 1] for t, x in zip(model.inputs, arrays)} for k in range(len(arrays[0]))]


def shapes_at(model: Any, size: int) -> list[tuple[int, ...]]:
    """Return the shapes of samples of a size, where a model leaves it open."""
    return [tuple(size if n is None else n for n in tensor.shape[1:]) for tensor in model.inputs]


def one_shape(model: Any, samples: list[dict[str, np.ndarray]]) -> list[tuple[int, ...]] | None:
    """Return the shape of a sample for each input, if all samples have the same."""
    shapes = {tuple(sample[tensor.name].shape[1:] for tensor in model.inputs) for sample in samples}
    return list(next(iter(shapes))) if len(shapes) == 1 else None


def check_sizes(model: Any, samples: list[dict[str, np.ndarray]]) -> None:
    """Raise `ValueError` if the smallest sizes of samples are too small for a model that leaves them open."""
    shapes = [tuple(map(min, zip(*(sample[tensor.name].shape[1:] for sample in samples)))) for tensor in model.inputs]
    if not takes(model, shapes):
        raise ValueError(
            f"`representative_data` is too small for the model {model.name!r}, which computes nothing of samples of "
            f"the shapes {shapes}: give larger ones."
        )


def check_by_trial(content: bytes, samples: list[dict[str, np.ndarray]], made: Prepared) -> None:
    """Raise `RuntimeError` if LiteRT crashes at a file, as it does at some of int16 activations, for one.

    Args:
        content: of the file.
        samples: on which to try it, beside zeros.
        made: of the model.
    """
    given = [[sample[name] for name in made.inputs] for sample in spread(samples, CHECKED)]
    try:
        run_apart(TRIAL, pickle.dumps((content, given)))
    except RuntimeError as error:
        raise RuntimeError(f"LiteRT cannot run the file: {error} Take another `quantization`.") from error


@dataclass(frozen=True)
class Comparison:
    """A file against its model.

    Attributes:
        outputs: by name the difference of each.
        samples: how many samples were compared.
        micro: the largest difference of what TensorFlow Lite for Microcontrollers makes of some of them; None where it
            is not asked.
        unfit: why it does not run the file as LiteRT does, if it was asked and does not.
    """

    outputs: dict[str, OutputDifference]
    samples: int
    micro: float | None = None
    unfit: str | None = None

    @property
    def largest(self) -> float:
        """The largest difference of an output, relative to its largest number."""
        return max(each.largest for each in self.outputs.values())

    @property
    def agreement(self) -> float | None:
        """Share of samples with the same largest channel of the outputs for classes; None if there are none."""
        shares = [each.agreement for each in self.outputs.values() if each.agreement is not None]
        return float(np.mean(shares)) if shares else None


@arithmetic.full_precision()
def compared(
    model: Any, content: bytes, found: Contents, samples: list[dict[str, np.ndarray]], made: Prepared
) -> Comparison:
    """Compare a file with its model, and ask TensorFlow Lite for Microcontrollers too where it is installed.

    A model of other types is computed in float32, as its file is.

    Args:
        model: the Keras model.
        content: of the file.
        found: what is in it.
        samples: of one sample each, by the names of inputs; some are compared, from the first to the last.
        made: of the model.
    """
    samples = spread(samples, CHECKED)
    expected = expected_of(model, samples, made)
    try:
        file = Interpreter.of(content)
        batches = [file.predict(batch) for batch in alike(samples)]
    except (ValueError, RuntimeError) as error:
        raise RuntimeError(
            f"LiteRT cannot run what the converter made of the model {model.name!r}. Take another `quantization`, "
            "or `sparse=False`. Nothing was written. "
            f"({checks.first_line(error.__cause__ or error)})"
        ) from error
    values = [[y[name] if isinstance(y, dict) else y for y in batches] for name in made.outputs]
    if made.batch is not None and depends_on_batch(model, samples, made, expected, values):
        if made.loops_fix_batch:
            raise RuntimeError(
                f"What the model {model.name!r} makes of a sample depends on the others of its batch, as where a "
                "`cond` asks for numbers of all, and its branches or loops need a fixed number of samples. Decide for "
                "each by itself, as `ops.where` does, or say by `batch` how many you give at once. Nothing was written."
            )
        made = replace(made, is_coupled=True)
        expected = expected_of(model, samples, made)
    classes = are_classes(model, found)
    outputs = {
        name: compared_output(a, b, is_class)
        for name, a, b, is_class in zip(made.outputs, expected, values, classes, strict=True)
    }
    result = Comparison(outputs, len(samples))
    return asked_tflm(model, content, found, spread(samples, runs(found)), made, result)


def are_classes(model: Any, found: Contents) -> list[bool]:
    """Return for each output whether it holds numbers for classes: by a softmax in the file, or the model's loss."""
    by_loss = losses_of(model, len(found.outputs))
    return [
        is_class or found.made_by(number, ("DEQUANTIZE", "QUANTIZE", "RESHAPE", "CAST")) in CLASSES
        for number, is_class in zip(found.outputs, by_loss)
    ]


def runs(found: Contents) -> int:
    """Return on how many samples TFLM is asked to run a file: it is slow, so that large ones are not."""
    is_possible = tflm.is_installed() and not found.not_micro and found.bytes <= MICRO_BYTES
    return min(MICRO_SAMPLES, MICRO_MACS // max(1, found.macs)) if is_possible else 0


def asked_tflm(
    model: Any, content: bytes, found: Contents, samples: list, made: Prepared, result: Comparison
) -> Comparison:
    """Return a comparison with what TFLM makes of these samples."""
    shapes = [found.tensors[number].shape for number in found.inputs]
    if not samples or made.keeps_state or any(shapes != [x.shape for x in sample.values()] for sample in samples):
        return result
    given = [[sample[name] for name in made.inputs] for sample in samples]
    try:
        values = tflm.run(content, given, 2 * found.arena_bytes + SPARE_BYTES)
    except tflm.Refusal as refusal:
        return replace(result, unfit=str(refusal))
    except subprocess.TimeoutExpired:
        return result
    if values is None:
        return result
    expected = expected_of(model, samples, made)
    shaped = [[np.reshape(value[k], y[0].shape[1:]) for value in values] for k, y in enumerate(expected)]
    largest = max(differs(y[0], np.stack(each)) for y, each in zip(expected, shaped))
    if largest > result.largest + (TOLERANCE if is_float(found) else MICRO_TOLERANCE):
        return replace(result, unfit=f"outputs that differ by {largest:.3g} from those of the model")
    return replace(result, micro=largest)


def is_float(found: Contents) -> bool:
    """Return whether a file computes without rounding to integers."""
    return not any(tensor.channels for tensor in found.tensors)
