"""One run of the interpreter of TensorFlow Lite for Microcontrollers (TFLM), in a process of its own: it may end it.

The process loads this file, NumPy and the package tflite-micro only.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import tempfile
from typing import Any


def invoked(content: bytes, samples: list[list[Any]], arena: int) -> list[list[Any]]:
    """Return what TFLM makes of samples, in this process."""
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(content, arena_size=arena)
    results = []
    for sample in samples:
        for number, x in enumerate(sample):
            interpreter.set_input(quantized(x, interpreter.get_input_details(number)), number)
        interpreter.invoke()
        count = len(results[0]) if results else outputs_of(interpreter)
        results.append([numbers(interpreter.get_output(k), interpreter.get_output_details(k)) for k in range(count)])
    return results


def outputs_of(interpreter: Any) -> int:
    """Return how many outputs there are; TFLM raises where there is none."""
    count = 0
    while True:
        try:
            interpreter.get_output_details(count)
        except Exception:
            return count
        count += 1


def scale_of(detail: dict[str, Any]) -> tuple[float, int]:
    """Return scale and zero point of a tensor; a scale of 0 for none."""
    found = detail["quantization_parameters"]
    return (float(found["scales"][0]), int(found["zero_points"][0])) if len(found["scales"]) else (0.0, 0)


def quantized(x: Any, detail: dict[str, Any]) -> Any:
    """Return an array as an input wants it."""
    import numpy as np

    scale, zero = scale_of(detail)
    if scale:
        limits = np.iinfo(detail["dtype"])
        x = np.clip(np.round(x / scale) + zero, limits.min, limits.max)
    return np.asarray(x).astype(detail["dtype"]).reshape(detail["shape"])


def numbers(y: Any, detail: dict[str, Any]) -> Any:
    """Return an output as numbers."""
    scale, zero = scale_of(detail)
    return (y.astype("float32") - zero) * scale if scale else y


def main() -> None:
    """Read the arguments of `invoked` from the standard input; write its result to the output.

    That is what TFLM says if it refuses, and None if it cannot be imported.
    """
    with contextlib.suppress(ImportError):  # which Windows has not
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash shall not leave a file of gigabytes
    with tempfile.TemporaryFile() as errors:
        os.dup2(errors.fileno(), 2)  # where native code writes
        try:
            result: Any = invoked(*pickle.load(sys.stdin.buffer))
        except ImportError:  # a package that it needs and does not name
            result = None
        except Exception as error:  # TFLM raises many types
            errors.seek(0)
            said = [line.strip() for line in errors.read().decode(errors="replace").splitlines() if line.strip()]
            result = " ".join(said[-2:]) or str(error) or type(error).__name__
        pickle.dump(result, sys.stdout.buffer)


if __name__ == "__main__":
    main()
