#!/usr/bin/env python3
"""Measures the files of this folder on this device, and writes profile.json.

python measure.py                        needs Python 3.9 and the package ai-edge-litert
python measure.py --log OUTPUT.txt       takes what the program benchmark_model has printed for each of the files
"""

import argparse
import json
import os
import platform
import re
import statistics
import sys
import time
from pathlib import Path

ROUNDS = 3
SECONDS = 0.02
"""For one file in one round."""

TOGETHER = 60
"""How many files are open at the same time, besides the clock."""


def interpreter_of(path, threads):
    """Return an interpreter with inputs of random numbers."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        sys.exit("measure.py needs the package ai-edge-litert: python -m pip install ai-edge-litert")
    import numpy as np

    result = Interpreter(model_path=str(path), num_threads=threads)
    result.allocate_tensors()
    random = np.random.default_rng(0)
    for each in result.get_input_details():
        numbers = random.normal(size=each["shape"])
        is_float = np.issubdtype(each["dtype"], np.floating)
        values = numbers if is_float else np.round(numbers * 20) if each["quantization"][0] else numbers > 0
        result.set_tensor(each["index"], np.asarray(values).astype(each["dtype"]))
    return result


def milliseconds(call, seconds):
    """Return the median time of a call, of as many as take so many seconds, at least five."""
    call()
    times, end = [], time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def measured(folder, names, threads, say):
    """Return by the name of a file one time for each round.

    A processor is faster at some times than at others. The first file is the clock: it is measured before and after
    every few of the others, whose times are multiplied by what it usually takes over what it takes then. The fastest of
    its times counts, since what disturbs one of them does not disturb all.
    """
    found, clock, seen = {name: [] for name in names}, interpreter_of(folder / names[0], threads), []

    def ticks():
        return [milliseconds(clock.invoke, SECONDS) for _ in range(2)]

    for k in range(ROUNDS):
        for first in range(0, len(names), TOGETHER):
            part = names[first : first + TOGETHER]
            open_files = {name: interpreter_of(folder / name, threads) for name in part}
            before = ticks()
            times = {name: milliseconds(each.invoke, SECONDS) for name, each in open_files.items()}
            seen.append(min(before + ticks()))
            for name, each in times.items():
                found[name].append(each / seen[-1])
            say(f"round {k + 1} of {ROUNDS}: {first + len(part)} of {len(names)} files")
    usual = statistics.median(seen)
    return {name: [each * usual for each in times] for name, times in found.items()}


def read_log(text):
    """Return the same from what benchmark_model prints: the name of each file, and its average in microseconds."""
    found = {}
    for part in re.split(r"Graph: \[", text)[1:]:
        name = re.split(r"[\\/]", part[: part.index("]")])[-1]
        averages = re.findall(r"Inference \(avg\): ([0-9.e+]+)", part)
        if averages:
            found.setdefault(name, []).extend(float(each) / 1e3 for each in averages)
    return found


def device():
    """Return what is known of this machine."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((x.split(":")[1].strip() for x in lines if x.startswith(("model name", "Model"))), name)
    except OSError:
        pass
    try:
        from importlib.metadata import version

        litert = version("ai-edge-litert")
    except Exception:
        litert = ""
    return {"device": name, "system": platform.platform(), "litert": litert}


def main(arguments=None, say=print):
    """Measure, and write the profile."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--log", help="what benchmark_model has printed")
    parser.add_argument("--folder", default=os.path.dirname(os.path.abspath(__file__)))
    options = parser.parse_args(arguments)
    folder = Path(options.folder)
    plan = json.loads((folder / "files.json").read_text())
    names = [each["file"] for each in plan["files"]]
    known = plan.pop("known", None)
    if options.log:
        found, about = read_log(Path(options.log).read_text()), {"device": "", "system": "", "litert": ""}
    else:
        found, about = measured(folder, names, options.threads, say), device()
    missing = [name for name in names if not found.get(name)]
    if missing:
        sys.exit(f"no times of {len(missing)} of {len(names)} files, such as {missing[0]}")
    for each in plan["files"]:
        each["milliseconds"] = found[each["file"]]
    plan.update(about, threads=options.threads)
    if known:
        own = {"device": about["device"] or known["device"], "threads": options.threads}
        for key, value in own.items():
            if value != known[key]:
                sys.exit(f"the profile that was given is of {key} {known[key]!r}, not of {value!r}")
        plan.update(own, files=known["files"] + plan["files"])
    target = folder / "profile.json"
    try:
        target.write_text(json.dumps(plan))
    except OSError as error:
        sys.exit(f"profile.json cannot be written: {error}")
    say(f"wrote {target}")


if __name__ == "__main__":
    main()
