"""Running `.tflite` files: outputs and latency."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_rmda.export.interpreter import Interpreter
from keras_rmda.platform import checks


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
