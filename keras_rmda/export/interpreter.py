"""Running `.tflite` files: inputs of any form in, outputs by name out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_rmda.export.contents import content_of
from keras_rmda.platform import files

OPEN_SIZES = (1, 32, 128, 512)
"""Of axes that a file leaves open: the first that it takes."""


class Interpreter:
    """A `.tflite` file, ready to run on arrays.

    Args:
        path: the file.
        threads: number of threads.

    Raises:
        ValueError: if the file is missing, empty or no TensorFlow Lite model.
    """

    def __init__(self, path: str | Path, threads: int = 1):
        self._load(content_of(path), threads, path)

    @classmethod
    def of(cls, content: bytes, threads: int = 1) -> Interpreter:
        """Return an interpreter of what is in no file yet."""
        interpreter = cls.__new__(cls)
        interpreter._load(content, threads, "a new file")
        return interpreter

    def _load(self, content: bytes, threads: int, path: str | Path) -> None:
        self.path = Path(path)
        try:
            with files.silenced(2):
                self._interpreter = _allocated(content, threads)
        except (ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"The file cannot be loaded ({reason}). Received: {str(path)!r}") from error

    def predict(self, inputs: np.ndarray | Mapping[str, np.ndarray]) -> np.ndarray | dict[str, np.ndarray]:
        """Return the outputs for every sample.

        Args:
            inputs: an array, samples first, or one per input by name: the file has an order of its own. Float values
                are quantized where the input is int8.

        Returns:
            An array of float32, samples first, or one for each output by name where there are several. Integers that
            stand for no other numbers stay what they are.

        Raises:
            ValueError: if the names do not fit.
        """
        runner = self._interpreter.get_signature_runner()
        details = runner.get_input_details()
        if not isinstance(inputs, Mapping):
            inputs = dict.fromkeys(details, inputs) if len(details) == 1 else {}
        if set(inputs) != set(details):
            raise ValueError(f"`inputs` must have the names {sorted(details)}. Received: {sorted(inputs)}")
        outputs = runner.get_output_details()
        sizes = [detail["shape_signature"][0] for detail in details.values() if len(detail["shape_signature"])]

        def run(arrays: list[np.ndarray]) -> list[np.ndarray]:
            given = {name: _to_input(x, details[name]) for name, x in zip(details, arrays)}
            return [_from_output(y, outputs[name]) for name, y in runner(**given).items()]

        found = in_parts(run, [np.asarray(inputs[name]) for name in details], max([1, *sizes]))
        return dict(zip(outputs, found)) if len(outputs) > 1 else found[0]

    def set_random_inputs(self) -> None:
        """Fill the inputs with reproducible numbers."""
        random = np.random.default_rng(0)
        for detail in self._interpreter.get_input_details():
            is_counted = np.issubdtype(detail["dtype"], np.integer) and not detail["quantization"][0]
            shape = detail["shape"]
            values = random.integers(2, size=shape) if is_counted else random.normal(size=shape)
            self._interpreter.set_tensor(detail["index"], _to_input(values, detail))

    def invoke(self) -> None:
        """Run once on the inputs that are set."""
        self._interpreter.invoke()


def _allocated(content: bytes, threads: int) -> Any:
    """Return an interpreter with the first of some sizes that the file takes for those that it leaves open.

    An open number of samples is 1.
    """
    from ai_edge_litert.interpreter import Interpreter as LiteRT

    for size in OPEN_SIZES:
        result = LiteRT(model_content=content, num_threads=threads)
        is_open = False
        for detail in result.get_input_details():
            first, *others = detail["shape_signature"] if len(detail["shape_signature"]) else (1,)
            if -1 in others:
                is_open = True
                shape = [max(1, first), *(size if n < 0 else n for n in others)]
                result.resize_tensor_input(detail["index"], shape)
        try:
            result.allocate_tensors()
            return result
        except (ValueError, RuntimeError):
            if not is_open or size == OPEN_SIZES[-1]:
                raise
    return None


def in_parts(
    call: Callable[[list[np.ndarray]], list[np.ndarray]], arrays: list[np.ndarray], size: int
) -> list[np.ndarray]:
    """Return the outputs of a function that takes `size` samples at once; the last ones are there again to fill up.

    Outputs that are not one for each sample get an axis for the calls.
    """
    total = len(arrays[0])
    places = [np.minimum(np.arange(begin, begin + size), total - 1) for begin in range(0, total, size)]
    parts = [call([x[rows] for x in arrays]) for rows in places]
    return [
        np.concatenate(values)[:total] if np.ndim(values[0]) and len(values[0]) == size else np.stack(values)
        for values in zip(*parts)
    ]


def _to_input(array: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    scale, zero = detail["quantization"]
    if scale and np.issubdtype(detail["dtype"], np.integer):
        limits = np.iinfo(detail["dtype"])
        array = np.clip(np.round(array / scale) + zero, limits.min, limits.max)
    return array.astype(detail["dtype"])


def _from_output(array: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    scale, zero = detail["quantization"]
    if scale:
        return (array.astype("float32") - zero) * scale
    return array.astype("float32") if array.dtype.kind == "f" else array
