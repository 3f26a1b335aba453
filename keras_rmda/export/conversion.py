"""One run of TensorFlow's converter, here or in a process of its own, which loads this file and TensorFlow only."""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CALIBRATED = ("int8", "int16x8")
"""What the quantizer needs samples for."""

FLOAT32, LIMITS = 0, (55, 57)
"""Numbers of the schema: of a type, and of the operators for the larger and the smaller of two."""


def converted(source: Any, quantization: str | None, samples: list, sparse: bool, int8_io: bool) -> bytes:
    """Return what the converter makes of a graph.

    Args:
        source: a concrete function of TensorFlow; or the folder of a saved model.
        quantization, sparse, int8_io: see `export_tflite`.
        samples: for the calibration: lists of arrays in the order of inputs, or for a saved model one array for each
            name.
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
    with true_ranges():
        return converter.convert()


@contextlib.contextmanager
def true_ranges() -> Iterator[None]:
    """Let the calibrator see all numbers as they are.

    LiteRT writes the output of a sum or product over an input that nothing else reads, and the calibrator looks at
    inputs again behind an operator: a small number got the range of the large one that it became. What a model hands
    out is not written over. For int16 the converter calibrates once more, by itself.
    """
    from tensorflow.lite.python.optimize.calibrator import Calibrator

    flat = runpy.run_path(str(Path(__file__).with_name("flat.py")))  # another process loads no package
    before = Calibrator.calibrate

    def calibrate(calibrator: Calibrator, samples: Any) -> bytes:
        model = flat["read"](calibrator._model_content)
        graph = model.subgraphs[0]
        outputs = graph.outputs
        made = {int(k) for each in graph.operators for k in each.outputs if graph.tensors[k].type == FLOAT32}
        graph.outputs = [*outputs, *sorted(made - {int(k) for k in outputs})]
        result = flat["read"](before(Calibrator(flat["written"](model)), samples))
        result.subgraphs[0].outputs = outputs
        check_ranges(result)
        return flat["written"](result)

    Calibrator.calibrate = calibrate
    try:
        yield
    finally:
        Calibrator.calibrate = before


def check_ranges(model: Any) -> None:
    """Give what is infinite the range to which it is limited; raise `RuntimeError` where nothing limits it.

    The quantizer ends the process.
    """
    graph = model.subgraphs[0]
    readers: dict[int, list] = {}
    for each in graph.operators:
        for k in each.inputs:
            readers.setdefault(int(k), []).append(each)
    for number, tensor in enumerate(graph.tensors):
        if is_finite(tensor):
            continue
        found = [each for each in readers.get(number, []) if code_of(model, each) in LIMITS]
        limited = [graph.tensors[each.outputs[0]] for each in found]
        if not limited or len(found) < len(readers[number]) or not all(map(is_finite, limited)):
            raise RuntimeError(
                "it computes infinite numbers of the representative data, which integers are not. Keep them finite: "
                "add a small number before a division, a root or a logarithm, or limit what comes out."
            )
        ranges = limited[0].quantization
        tensor.quantization.min, tensor.quantization.max = ranges.min, ranges.max


def is_finite(tensor: Any) -> bool:
    """Return whether the range of a tensor is, if it has one."""
    found = tensor.quantization
    ranges = [] if found is None else [x for x in (found.min, found.max) if x is not None]
    return all(math.isfinite(float(n)) for x in ranges for n in x)


def code_of(model: Any, operator: Any) -> int:
    """Return the number of an operator's kind in the schema."""
    code = model.operatorCodes[operator.opcodeIndex]
    return max(code.builtinCode, code.deprecatedBuiltinCode)


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
