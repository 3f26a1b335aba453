"""Networks of keras-hub, which others wrote: half of their groups zero, stripped exactly. `make test-zoo`.

Not collected by `make test`: it needs keras-hub (the extra `zoo`). As a program it writes the table of docs/zoo.md:

    python tests/zoo_keras_hub.py docs/zoo.md [part of a name ...]
"""

import collections
import contextlib
import functools
import math
import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest

pytest.importorskip("keras_hub")

from keras_hub_models import KINDS, LENGTH, samples

import keras_rmda as kr
from keras_rmda.optimizers.names import names_of
from keras_rmda.platform import graphs
from keras_rmda.platform.compat import layers_of
from keras_rmda.structure.verification import difference

MODELS = {name: kind for kind, models in KINDS.items() for name in models}

INEXACT: dict[str, str] = {}
"""Models that are not stripped, have no groups or are not read back, and why."""

SECONDS = 120
"""The time that one model may take."""

LARGEST_DIFFERENCE = 1e-5


@dataclass
class Result:
    """What became of a network.

    Attributes:
        name, kind: of the network.
        parameters, layers: how many it has.
        opaque: why layers are opaque, by name.
        groups: how many.
        in_groups: the share of weights that belongs to channels which can go.
        removed: the share of parameters that `strip` took.
        by_hand: what a careful human would take.
        difference: of the outputs, relative to the largest, for two sizes of the batch and of open axes.
        saved: whether the original, and then the stripped model, is saved and loaded.
        failed: what could not be done, and what was raised.
        seconds: of each step.
    """

    name: str
    kind: str
    parameters: int = 0
    layers: int = 0
    opaque: dict[str, str] = field(default_factory=dict)
    groups: int = 0
    in_groups: float = 0.0
    removed: float = 0.0
    by_hand: float = 0.0
    difference: float = math.inf
    saved: tuple[bool, bool] = (False, False)
    failed: str = ""
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def exact(self) -> bool:
        return not self.failed and self.groups > 0 and self.removed > 0 and self.difference < LARGEST_DIFFERENCE


def randomized(model):
    """Give all weights random values; nothing is zero, or one, by initialization."""
    random = np.random.default_rng(0)
    for weight in model.weights:
        if "float" not in weight.dtype:
            continue
        value = keras.ops.convert_to_numpy(weight)
        if weight.path.endswith("variance"):
            weight.assign(random.uniform(0.5, 1.5, value.shape))
        elif value.ndim < 2:
            weight.assign(value + random.normal(scale=0.1, size=value.shape))
        elif not value.any():
            weight.assign(random.normal(scale=0.1, size=value.shape))
    return model


def zero_half(model, groups):
    """Set every second group to zero."""
    for weight in model.weights:
        path = groups.path_among(names_of(weight, model))
        if path is not None:
            ids = groups.members[path]
            weight.assign(np.where((ids >= 0) & (ids % 2 == 1), 0.0, keras.ops.convert_to_numpy(weight)))


def by_hand(model, kind):
    """Return the share of parameters that goes where all numbers of units, heads or channels inside are half.

    In transformers that is half of all kernels: the stream between the layers, which a normalization mixes, stays, and
    so do embeddings and what is behind the last layer. In convolutional networks it is three quarters, and less without
    a head: then the channels of the outputs stay.
    """
    kept = 0.75 if kind == "convolutional" else 0.5
    others = ("embedding", "pooler", "pooled", "logits", "predictions", "mlm", "patch", "relative", "head/")
    kernels = [w for w in model.trainable_weights if len(w.shape) > 1]
    if kind != "convolutional":
        kernels = [w for w in kernels if not any(part in w.path for part in others)]
    return kept * sum(math.prod(w.shape) for w in kernels) / model.count_params()


def outputs(model, inputs):
    return [keras.ops.convert_to_numpy(y) for y in keras.tree.flatten(model(inputs, training=False))]


def apart(a, b):
    return max(difference(x, y) for x, y in zip(a, b, strict=True))


def copied_by_a_file(model, inputs, folder):
    """Return whether a model is saved, loaded and computes the same."""
    try:
        model.save(Path(folder) / "model.keras")
        loaded = keras.models.load_model(Path(folder) / "model.keras")
        return apart(outputs(model, inputs), outputs(loaded, inputs)) < LARGEST_DIFFERENCE
    except TimeoutError:
        raise
    except Exception:
        return False


@functools.cache
def result_of(name):
    """Return what becomes of a network."""
    result = Result(name, MODELS[name])
    signal.signal(signal.SIGALRM, _late)
    signal.alarm(SECONDS)
    try:
        _measure(result)
    except Exception as error:
        result.failed += f": {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    finally:
        signal.alarm(0)
        keras.backend.clear_session()
    return result


def _late(*_):
    raise TimeoutError(f"more than {SECONDS} s")


def _measure(result):
    @contextlib.contextmanager
    def step(what):
        result.failed, start = what, time.perf_counter()
        yield
        result.failed, result.seconds[what] = "", time.perf_counter() - start

    keras.utils.set_random_seed(0)
    with step("build"):
        model = randomized(KINDS[result.kind][result.name]())
        inputs = samples(result.name, model, np.random.default_rng(1))
        before = outputs(model, inputs)
        assert apart(before, outputs(model, inputs)) < LARGEST_DIFFERENCE, "random"
    result.parameters, result.layers = model.count_params(), len(leaves(model))
    result.by_hand = by_hand(model, result.kind)
    with step("analyze"):
        result.opaque = kr.analyze(model).opaque
    with step("coupled_groups"):
        groups = kr.coupled_groups(model)
    result.groups = len(groups)
    with step("groups of all"):
        every = kr.coupled_groups(model, parts="all")
        weights = {every.path_among(names_of(w, model)): w for w in model.weights}
        members = [(every.members[path], math.prod(w.shape)) for path, w in weights.items() if path is not None]
        result.in_groups = sum((ids >= 0).mean() * size for ids, size in members) / result.parameters
    zero_half(model, groups)
    before = outputs(model, inputs)
    with step("strip"):
        small = kr.strip(model, inputs=inputs)
    result.removed = 1 - small.count_params() / result.parameters
    with step("compare"):
        result.difference = apart(before, outputs(small, inputs))
        assert apart(before, outputs(model, inputs)) == 0, "the original has changed"
    with step("compare at another size"):
        others = samples(result.name, model, np.random.default_rng(2), batch=3, open_axis=2 * LENGTH)
        result.difference = max(result.difference, apart(outputs(model, others), outputs(small, others)))
    with step("train"):
        small(inputs, training=True)
    with step("coupled_groups of what is stripped"):
        kr.coupled_groups(small)
    with step("save"), tempfile.TemporaryDirectory() as folder:
        original = copied_by_a_file(model, inputs, folder)
        result.saved = original, copied_by_a_file(small, inputs, folder)


def leaves(model):
    """Return the layers of a model that have weights of their own, or none of others."""
    inside = [layer for layer in layers_of(model) if layer is not model]
    return [layer for layer in inside if not graphs.is_inner_graph(layer) and not list(layer._layers)]


@pytest.mark.parametrize("name", [pytest.param(name, id=name.replace(" ", "-")) for name in MODELS])
def test_half_of_the_groups_of_a_network_that_others_wrote_go(name, request):
    if name in INEXACT:
        request.applymarker(pytest.mark.xfail(reason=INEXACT[name], strict=True))
    result = result_of(name)
    assert not result.failed
    assert result.groups > 0
    assert result.difference < LARGEST_DIFFERENCE
    assert result.saved[1] or not result.saved[0]
    if result.kind == "encoder" or name.endswith(("Classifier", "Segmenter")):
        assert result.removed > 0.9 * result.by_hand


def test_nine_of_ten_are_stripped_exactly():
    assert len(MODELS) >= 45
    assert len(INEXACT) <= 0.1 * len(MODELS)
    assert set(INEXACT) <= set(MODELS)


COLUMNS = {
    "network": lambda r: r.name,
    "parameters": lambda r: f"{r.parameters:,}",
    "layers": lambda r: r.layers,
    "opaque": lambda r: len(r.opaque),
    "groups": lambda r: r.groups,
    "weights in groups": lambda r: f"{r.in_groups:.0%}",
    "removed": lambda r: f"{r.removed:.0%}",
    "by hand": lambda r: f"{r.by_hand:.0%}",
    "difference": lambda r: f"{r.difference:.0e}" if r.difference < math.inf else "",
    "saved": lambda r: {True: "yes", False: "no"}[r.saved[1]] if r.saved[0] else "original is not",
    "seconds": lambda r: f"{sum(r.seconds.values()):.1f}",
    "what failed": lambda r: r.failed.replace("|", "/"),
}


def table(results):
    """Return the table as Markdown, and behind it why layers are opaque."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    lines += ["| " + " | ".join(str(column(r)) for column in COLUMNS.values()) + " |" for r in results]
    exact = sum(r.exact for r in results)
    lines += ["", f"{exact} of {len(results)} are stripped exactly.", ""]
    reasons = collections.defaultdict(set)
    for r in results:
        for why in r.opaque.values():
            reasons[why].add(r.name)
    lines += ["| networks | why layers are opaque | which |", "|---|---|---|"]
    for why, names in sorted(reasons.items(), key=lambda each: -len(each[1])):
        lines.append(f"| {len(names)} | {why.replace('|', '/')} | {', '.join(sorted(names)[:4])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    path, *parts = sys.argv[1:]
    found = []
    for each in MODELS:
        if not parts or any(part in each for part in parts):
            found.append(result_of(each))
            last = found[-1]
            print(
                each,
                "exact" if last.exact else "-",
                f"{last.removed:.2f} of {last.by_hand:.2f}",
                last.failed,
                flush=True,
            )
            Path(path).write_text(table(found))
