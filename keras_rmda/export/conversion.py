"""One run of TensorFlow's converter, here or in a process of its own, which loads this file and TensorFlow only."""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CALIBRATED = ("int8", "int16x8")
"""What the quantizer needs samples for."""

FLOAT32 = 0
"""The number of a type in the schema."""


def converted(
    source: Any, quantization: str | None, samples: list, sparse: bool, int8_io: bool, in_float: tuple[str, ...] = ()
) -> bytes:
    """Return what the converter makes of a graph.

    Args:
        source: a concrete function of TensorFlow; or the folder of a saved model.
        quantization, sparse, int8_io: see `export_tflite`.
        samples: for the calibration: lists of arrays in the order of inputs, or for a saved model one array for each
            name.
        in_float: names of operators that shall not compute in integers.
    """
    import tensorflow as tf

    if isinstance(source, str):
        converter = tf.lite.TFLiteConverter.from_saved_model(source)
    else:
        converter = tf.lite.TFLiteConverter.from_concrete_functions([source])
    converter.optimizations = [] if quantization is None else [tf.lite.Optimize.DEFAULT]
    converter.optimizations += [tf.lite.Optimize.EXPERIMENTAL_SPARSITY] if sparse else []
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantization in CALIBRATED and samples:
        converter.representative_dataset = lambda: iter(samples)
        kinds = tf.lite.OpsSet
        converter.target_spec.supported_ops = [kinds.TFLITE_BUILTINS_INT8]
        if quantization == "int16x8":  # there are operators that have no int16
            converter.target_spec.supported_ops = [
                kinds.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
                kinds.TFLITE_BUILTINS,
            ]
    if int8_io:
        converter.inference_input_type = converter.inference_output_type = tf.int8
    with true_ranges(quantization), without_integers(in_float):
        return converter.convert()


@contextlib.contextmanager
def true_ranges(quantization: str | None) -> Iterator[None]:
    """Let the calibrator see all numbers as they are, and the quantizer leave in float what int8 has no steps for.

    LiteRT writes the output of a sum or product over an input that nothing else reads, and the calibrator looks at
    inputs again behind an operator: a small number got the range of the large one that it became. What a model hands
    out is not written over. For int16 the converter would calibrate once more, by itself.
    """
    from tensorflow.lite.python.optimize.calibrator import Calibrator

    beside = Path(__file__).with_name  # another process loads no package
    flat, ranges, int16 = (runpy.run_path(str(beside(name))) for name in ("flat.py", "ranges.py", "int16.py"))
    read, written, of, rounded = flat["read"], flat["written"], ranges["Ranges"], int16["rounded"]
    before, quantize = Calibrator.calibrate, Calibrator.calibrate_and_quantize
    calibrated: list[Any] = []

    def calibrate(calibrator: Calibrator, samples: Any) -> bytes:
        model = read(calibrator._model_content)
        graph = model.subgraphs[0]
        outputs = graph.outputs
        made = {k for k in of(model).makers if graph.tensors[k].type == FLOAT32}
        graph.outputs = [*outputs, *sorted(made - {int(k) for k in outputs})]
        result = read(before(Calibrator(written(model)), samples))
        result.subgraphs[0].outputs = outputs
        found = of(result)
        found.check()
        if quantization == "int8":
            found.widen()
            found.leave_in_float()
        calibrated[:] = [result]
        return written(result)

    def quantized(_: Calibrator, __: Any, *arguments: Any, **keywords: Any) -> bytes:
        def once(model: Any) -> Any:
            return read(quantize(Calibrator(written(model)), tuple, *arguments, **keywords))

        return written(rounded(calibrated.pop(), once))

    Calibrator.calibrate, Calibrator.calibrate_and_quantize = calibrate, quantized
    try:
        yield
    finally:
        Calibrator.calibrate, Calibrator.calibrate_and_quantize = before, quantize


@contextlib.contextmanager
def without_integers(operators: tuple[str, ...]) -> Iterator[None]:
    """Let the quantizer leave operators in float; the converter does not hand on which."""
    from tensorflow.lite.python import lite

    before = lite._mlir_quantize
    lite._mlir_quantize = functools.partial(before, denylisted_ops=list(operators) or None)
    try:
        yield
    finally:
        lite._mlir_quantize = before


def main() -> None:
    """Read the arguments of `converted` from the standard input; write the file, or the exception, to the output.

    What native code prints goes nowhere.
    """
    with contextlib.suppress(ImportError):  # which Windows has not
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash shall not leave a file of gigabytes
    with os.fdopen(os.dup(1), "wb") as answer, open(os.devnull, "w") as nowhere:
        for descriptor in (1, 2):
            os.dup2(nowhere.fileno(), descriptor)
        try:
            result: Any = converted(*pickle.load(sys.stdin.buffer))
        except OSError as error:
            result = error
        except Exception as error:  # the converter raises many types, not all of which can be sent
            result = RuntimeError(str(error))
        pickle.dump(result, answer)


if __name__ == "__main__":
    main()
