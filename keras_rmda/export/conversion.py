"""One run of TensorFlow's converter, here or in a process of its own, which loads this file and TensorFlow only."""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
from typing import Any

CALIBRATED = ("int8", "int16x8")
"""What the quantizer needs samples for."""


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
    return converter.convert()


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
