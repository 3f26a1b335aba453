"""TensorFlow's converter, which makes a file of a model: here, or in a process of its own where it may crash."""

from __future__ import annotations

import contextlib
import pickle
import re
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_rmda.export.apart import run_apart
from keras_rmda.export.conversion import CALIBRATED, converted
from keras_rmda.export.fitness import OTHERWISE
from keras_rmda.export.prepared import Prepared
from keras_rmda.export.signature import signed
from keras_rmda.export.types import FLOATS_ONLY
from keras_rmda.platform import checks, compat, files

PROGRAM = Path(__file__).with_name("conversion.py")


def convert(
    model: Prepared,
    quantization: str | None,
    samples: list[dict[str, np.ndarray]],
    sparse: bool = False,
    int8_io: bool = False,
    micro: bool = False,
) -> bytes:
    """Return the file's content.

    Args:
        model: what to convert.
        quantization, sparse, int8_io, micro: see `export_tflite`.
        samples: of one sample each, by the name of the input.

    Raises:
        RuntimeError: if the converter fails, or crashes.
        OSError: if a disk is full.
    """
    given = batches(model, samples) if quantization in CALIBRATED else []
    options = (quantization, given, sparse, int8_io, FLOATS_ONLY if micro else ())
    try:
        if model.may_crash:
            content = converted_apart(model, options)
        else:
            with quiet():
                content = converted(model.function, *options)
    except OSError:
        raise
    except Exception as error:  # the converter raises many types
        small = {getattr(v.dtype, "name", str(v.dtype)) for v in model.variables} & {"int8", "float8_e4m3fn"}
        rounded = f" Its weights are {small.pop()}: export the model that it was before `quantize`." if small else ""
        raise RuntimeError(
            f"TensorFlow Lite could not convert the model {model.name!r}: {reason(error)}{rounded}"
        ) from error
    return signed(content, model.inputs, model.outputs)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let TensorFlow say nothing, neither by native code nor by warnings of what it does itself."""
    with compat.quiet_tensorflow(), files.silenced(1, 2), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def batches(model: Prepared, samples: list[dict[str, np.ndarray]]) -> list[list[np.ndarray]]:
    """Return the samples as the graph takes them, in the order of its inputs; the last ones may be there again."""
    size = model.batch or 1
    groups = [[samples[min(k, len(samples) - 1)] for k in range(i, i + size)] for i in range(0, len(samples), size)]
    types = [spec.dtype.as_numpy_dtype for spec in model.function.structured_input_signature[0]]
    return [
        [np.concatenate([each[name] for each in group]).astype(kind) for name, kind in zip(model.inputs, types)]
        for group in groups
    ]


def converted_apart(model: Prepared, options: tuple) -> bytes:
    """Return what the converter makes of a graph in a process of its own.

    Raises:
        RuntimeError: if the converter fails, or the process ends by a signal.
        OSError: if a disk is full.
    """
    quantization, given, *others = options
    without = " It calibrates no loops: give samples of one length, or take another `quantization`."
    without = without if quantization in CALIBRATED else ""
    with tempfile.TemporaryDirectory(prefix="keras_rmda") as folder:
        save(model, folder)
        named = [{f"input_{number}": x for number, x in enumerate(arrays)} for arrays in given]
        try:
            result = pickle.loads(run_apart(PROGRAM, pickle.dumps((folder, quantization, named, *others))))
        except RuntimeError as error:
            raise RuntimeError(f"{error}{without}") from error
    if isinstance(result, RuntimeError) and not str(result):
        raise RuntimeError(f"it does not say why.{without}")
    if isinstance(result, Exception):
        raise result
    return result


def save(model: Prepared, folder: str) -> None:
    """Write a graph as a saved model, with numbered names."""
    import tensorflow as tf

    holder = tf.Module()
    holder.held = list(model.variables)
    specs = {x.name: x for x in model.function.structured_input_signature[0]}

    def numbered(**inputs: Any) -> dict[str, Any]:
        outputs = model.function(*(inputs[f"input_{number}"] for number, _ in enumerate(inputs)))
        return {f"output_{number}": y for number, y in enumerate(outputs)}

    signature = tf.function(numbered, autograph=False).get_concrete_function(**specs)
    with quiet():
        tf.saved_model.save(holder, folder, signatures={"serving_default": signature})


def reason(error: Exception) -> str:
    """Return in one line why the converter failed; it also lists the whole graph."""
    text = str(error)
    missing = re.search(r"^(?:TF Select|Custom) ops: (.*)$", text, re.MULTILINE)
    if missing:
        names = [name for name in missing[1].split(", ") if name != "Placeholder"]  # which stands for a table
        doubles = [name for name in names if re.search(rf"^\s*tf\.{name}\(tensor<[^>]*f64>", text, re.MULTILINE)]
        if doubles:
            return f"it has no operators for {', '.join(doubles)} of float64. Compute this in float32."
        is_random = any("Random" in name for name in names)
        random = "Draw random numbers outside, and give them to the model as an input."
        return f"it has no operators for {', '.join(names)}. {random if is_random else OTHERWISE}"
    kernel = re.search(
        r"tensorflow/lite/kernels/\S+ (.*?)\.?\s*Node number \d+ \((\w+)\) failed to prepare", text, re.DOTALL
    )
    if kernel:
        return f"its operator {kernel[2]} does not take this ({' '.join(kernel[1].split())}). {OTHERWISE}"
    said = re.findall(r"error: (?:loc\(.*?\): )?('.*)$", text, re.MULTILINE)
    return said[0] if said else checks.first_line(error) if text else "it does not say why."
