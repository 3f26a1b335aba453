"""One run of a file by LiteRT in a process of its own, which loads this file and LiteRT only."""

from __future__ import annotations

import contextlib
import os
import pickle
import sys


def main() -> None:
    """Run the file that comes from the standard input on zeros, and on samples.

    Only a crash tells: the other process sees errors.
    """
    from ai_edge_litert.interpreter import Interpreter

    with contextlib.suppress(ImportError):  # which Windows has not
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash shall not leave a file of gigabytes
    content, samples = pickle.load(sys.stdin.buffer)
    with open(os.devnull, "w") as nowhere, contextlib.suppress(ValueError, RuntimeError):
        os.dup2(nowhere.fileno(), 2)
        interpreter = Interpreter(model_content=content)
        interpreter.allocate_tensors()
        interpreter.invoke()
        for sample in samples:
            for x, detail in zip(sample, interpreter.get_input_details(), strict=True):
                interpreter.resize_tensor_input(detail["index"], x.shape)
            interpreter.allocate_tensors()
            for x, detail in zip(sample, interpreter.get_input_details()):
                scale, zero = detail["quantization"]
                x = x / scale + zero if scale else x
                interpreter.set_tensor(detail["index"], x.astype(detail["dtype"]))
            interpreter.invoke()


if __name__ == "__main__":
    main()
