"""Running `.tflite` files: outputs and latency."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_rmda.export.contents import content_of
from keras_rmda.platform import checks, files

OPEN_SIZES = (1, 32, 128, 512)
"""Of axes that a file leaves open: the first that it takes."""


@dataclass(frozen=True)
class Latency:
    """The time that one file takes for one sample.

    Attributes:
        path: the file.
        bytes: its size.
        milliseconds: one measurement per run, in order.
        threads: of the interpreter.

    Example:
        >>> dense, small = kr.benchmark_tflite(["dense.tflite", "small.tflite"])
        >>> f"{small.median:.3f} ms; the 90th percentile is {small.percentile(90):.3f} ms"
        >>> ratio = small.times_faster_than(dense)
        >>> f"{ratio.value:.2f} times faster; with 95 % confidence {ratio.low:.2f} to {ratio.high:.2f} times"
    """

    path: Path
    bytes: int
    milliseconds: tuple[float, ...]
    threads: int

    def percentile(self, q: float) -> float:
        """Return the q-th percentile of the latency in milliseconds."""
        return float(np.percentile(self.milliseconds, q))

    @property
    def median(self) -> float:
        """Median latency in milliseconds."""
        return self.percentile(50)

    def times_faster_than(self, other: Latency, confidence: float = 0.95) -> Ratio:
        """Return the ratio of the medians, with an interval that holds it with this confidence.

        Formula: median(other) / median(self). The interval is between percentiles over 2,000 resamplings of the rounds:
        files that took turns are resampled together, so that what disturbed the machine disturbs the ratio less.

        Args:
            other: of the same call of `benchmark_tflite`.
            confidence: number in (0, 1).

        Raises:
            ValueError: if the numbers of rounds differ, or `confidence` is out of range.

        Source: Efron 1979, "Bootstrap methods: another look at the jackknife".
        """
        checks.real("confidence", confidence, maximum=1.0, open_minimum=True, open_maximum=True)
        a, b = np.asarray(other.milliseconds), np.asarray(self.milliseconds)
        if len(a) != len(b):
            raise ValueError(f"`other` must have {len(b)} rounds, as this one. Received: {len(a)}")
        rounds = np.random.default_rng(0).integers(len(a), size=(2000, len(a)))
        ratios = np.median(a[rounds], axis=1) / np.median(b[rounds], axis=1)
        low, high = np.quantile(ratios, [(1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0])
        return Ratio(float(np.median(a) / np.median(b)), float(low), float(high))


@dataclass(frozen=True)
class Ratio:
    """How many times faster one file is than another.

    Attributes:
        value: the ratio.
        low, high: the ends of its interval.
    """

    value: float
    low: float
    high: float


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


def interleaved(calls: Sequence[Callable[[], Any]], runs: int, warmup: int) -> list[list[float]]:
    """Return the milliseconds of `runs` runs of each call, taken in turns after a warm-up.

    In turns, so that a disturbance of the machine meets all of them.
    """
    for call in calls:
        for _ in range(warmup):
            call()
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(runs):
        for measured, call in zip(times, calls):
            start = time.perf_counter()
            call()
            measured.append((time.perf_counter() - start) * 1e3)
    return times


def benchmark_tflite(
    path: str | Path | Sequence[str | Path], threads: int = 1, runs: int = 100, warmup: int = 10
) -> Latency | list[Latency]:
    """Measure the latency of one or several `.tflite` files on random inputs, one sample at a time.

    Args:
        path: a file, or several to compare; they are measured in turns.
        threads: number of threads, >= 1.
        runs: measurements of each file, >= 1.
        warmup: runs of each file before the first measurement, >= 0.

    Returns:
        One `Latency`, or a list of them in the order of the files.

    Raises:
        ValueError: for a bad argument or a file that is missing or foreign.

    Example:
        >>> kr.benchmark_tflite("model.tflite").median
    """
    checks.whole("threads", threads, 1, 1024)
    checks.whole("runs", runs, 1)
    checks.whole("warmup", warmup)
    one = isinstance(path, (str, Path))
    if not one and not (isinstance(path, Sequence) and path):
        raise ValueError(f"`path` must be a file or several. Received: path={path!r}")
    interpreters = [Interpreter(each, threads) for each in ([path] if one else path)]
    for interpreter in interpreters:
        interpreter.set_random_inputs()
    times = interleaved([interpreter.invoke for interpreter in interpreters], runs, warmup)
    results = [Latency(i.path, i.path.stat().st_size, tuple(t), threads) for i, t in zip(interpreters, times)]
    return results[0] if one else results


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
