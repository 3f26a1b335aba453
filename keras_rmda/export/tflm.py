"""Asking TensorFlow Lite for Microcontrollers (TFLM), where the package tflite-micro is installed."""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path
from typing import Any

from keras_rmda.export.apart import run_apart

PROGRAM = Path(__file__).with_name("tflm_run.py")
SECONDS = 20


class Refusal(Exception):
    """What TFLM says of a file that it does not run."""


def is_installed() -> bool:
    """Return whether the package tflite-micro is there."""
    return importlib.util.find_spec("tflite_micro") is not None


def run(content: bytes, samples: list[list[Any]], arena: int) -> list[list[Any]] | None:
    """Return what TFLM makes of samples.

    Args:
        content: of a file.
        samples: for each an array for every input, in the order of the file; numbers, also where the file has int8.
        arena: bytes for the tensors.

    Returns:
        For each sample an array for every output; None if TFLM cannot be imported.

    Raises:
        Refusal: if it does not run the file, with what it says.
        subprocess.TimeoutExpired: if it takes too long.
    """
    try:
        result = pickle.loads(run_apart(PROGRAM, pickle.dumps((content, samples, arena)), SECONDS))
    except RuntimeError as error:
        raise Refusal(str(error).rstrip(".")) from error
    if isinstance(result, str):
        raise Refusal(result)
    return result
