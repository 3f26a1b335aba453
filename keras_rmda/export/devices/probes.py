"""Files of a model at some widths, from which all others are known."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from keras_rmda.channels.sites import Cut
from keras_rmda.export.comparison import has_open_sizes, made_up, one_shape
from keras_rmda.export.conversion import CALIBRATED
from keras_rmda.export.converter import convert
from keras_rmda.export.devices.constants import split_constants
from keras_rmda.export.flat import read
from keras_rmda.export.prepared import prepared
from keras_rmda.export.samples import first_samples
from keras_rmda.export.slim import slimmed
from keras_rmda.export.tflite import ROUNDED
from keras_rmda.platform import checks
from keras_rmda.structure.coupling import atoms_in, names_of, removable, tie_what_goes_together, without_groups
from keras_rmda.structure.folding import fold
from keras_rmda.structure.liveness import Plan, plan
from keras_rmda.structure.rebuilding import remade
from keras_rmda.structure.strip import meaningless
from keras_rmda.structure.trace import Trace

PROBES = 3
"""Files at other widths than those of the whole model."""

SHARES = (0.35, 0.9)
"""Of its groups that a layer keeps in them."""

SAMPLES = 2
"""For the calibration of files of which only sizes matter."""

OPTIONS = ("quantization", "representative_data", "int8_io", "batch", "micro")
"""Arguments of `export_tflite` that decide how large a file is."""


def options_of(export: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return arguments of `export_tflite` that are given for a file that is to be measured."""
    given = dict(export or {})
    unknown = sorted(set(given) - set(OPTIONS))
    if unknown:
        raise ValueError(f"`export` takes the arguments {OPTIONS} of `export_tflite`. Received: {unknown}")
    checks.one_of("quantization", given.get("quantization"), checks.QUANTIZATIONS)
    for name in ("int8_io", "micro"):
        checks.truth(name, given.get(name, False))
    if isinstance(given.get("representative_data"), Iterator):
        raise ValueError(
            "`representative_data` in `export` is read for several files: give an array, a dataset or a callable that "
            "makes a generator. Received: a generator, which ends."
        )
    if given.get("int8_io") and given.get("quantization") != "int8":
        raise ValueError(f'`int8_io` goes with quantization="int8". Received: {given.get("quantization")!r}')
    return given


def probed(
    model: keras.Model, graph: keras.Model, layers: Layers, export: Mapping[str, Any], count: int = PROBES
) -> Iterator[tuple[Cut, Any, list[str]]]:
    """Yield files of a model: the whole one, then at other widths, with the cut and names of what operators make.

    Args:
        model: the model.
        graph: the same with a graph.
        layers: its groups.
        export: arguments of `export_tflite`.
        count: how many other widths.
    """
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "What a file costs is known by TensorFlow's converter: run this with KERAS_BACKEND=tensorflow. "
            f"Received: backend={keras.backend.backend()!r}"
        )
    names = [tensor.name for tensor in model.inputs or graph.inputs]
    for decided in plans(layers, count):
        small, _ = remade(graph, decided, fold(decided))
        give_numbers(small)
        content = converted(small, names, export)
        whole = read(content)
        yield decided.cut, split_constants(read(slimmed(content))), made_names(whole)


@dataclass
class Layers:
    """The groups of channels of a model, by the layers that write them: what its widths are.

    Attributes:
        traced: the model.
        found: which weights belong to which group.
        roots: the atoms of the groups.
        numbers: the number of the layer of each.
    """

    traced: Trace
    found: dict[int, tuple[Any, np.ndarray]]
    roots: np.ndarray
    numbers: np.ndarray

    @classmethod
    def of(cls, traced: Trace) -> Layers:
        """Find those of a traced model."""
        tied = replace(traced, ties=copy.deepcopy(traced.ties))
        tie_what_goes_together(tied)
        free = {id(v) for site in traced.sites.values() for _, v in site.weights()}
        found = removable(tied, "all", free)
        roots = atoms_in(found)
        names = [name.rsplit("[", 1)[0] for name in names_of(tied, roots)]
        return cls(traced, found, roots, np.unique(names, return_inverse=True)[1])

    @property
    def sizes(self) -> np.ndarray:
        """How many groups each layer has."""
        return np.bincount(self.numbers) if len(self.numbers) else np.zeros(0, int)

    def plan(self, kept: np.ndarray) -> Plan:
        """Return what stays where every layer keeps so many groups."""
        random, gone = np.random.default_rng(0), [np.zeros(0, int)]
        for k, n in enumerate(kept):
            gone.append(self.roots[random.permutation(np.flatnonzero(self.numbers == k))[n:]])
        return plan(self.traced, without_groups(self.found, np.sort(np.concatenate(gone))))


def plans(layers: Layers, count: int) -> Iterator[Plan]:
    """Yield what keeps all, and then what keeps other shares of every layer."""
    yield plan(layers.traced, meaningless)
    if layers.roots.size:
        for kept in widths(layers.sizes, count, np.random.default_rng(0)):
            yield layers.plan(kept)


def widths(sizes: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Return so many choices of widths, of which no two layers have the same shares as long as that is possible."""
    best, alike = None, np.inf
    for _ in range(200):
        shares = random.uniform(*SHARES, size=(count, len(sizes)))
        found = np.minimum(np.maximum(np.round(shares * sizes), 2), sizes).astype(int)
        different = len({tuple(column) for column in (found / sizes).T.tolist()})
        if len(sizes) - different < alike:
            best, alike = found, len(sizes) - different
    return best


def give_numbers(model: keras.Model) -> None:
    """Give all weights random numbers, of which no two are alike, as those of trained models are."""
    random = np.random.default_rng(1)
    for variable in model.weights:
        if "float" in str(variable.dtype):
            n = int(np.prod(variable.shape))
            scale = 1.0 if len(variable.shape) < 2 else (variable.shape[-1] / n) ** 0.5
            variable.assign(scale * random.uniform(0.5, 1.5, size=variable.shape))


def converted(model: keras.Model, names: list[str], export: Mapping[str, Any]) -> bytes:
    """Return what the converter makes of a model, as `export_tflite` does."""
    quantization, micro = export.get("quantization"), export.get("micro", False)
    data = export.get("representative_data")
    for tensor, name in zip(model.inputs, names):
        tensor.name = name
    samples = made_up(model) if data is None else first_samples(model, data)
    shapes = one_shape(model, samples) if has_open_sizes(model) and data is not None else None
    batch = 1 if micro else export.get("batch")
    how = (batch, micro or quantization in CALIBRATED, ROUNDED.get(quantization))
    made = prepared(model, names, *how, shapes if micro else None)
    if made.may_crash and quantization in CALIBRATED and shapes and not micro:
        made = prepared(model, names, *how, shapes)
    return convert(made, quantization, samples[:SAMPLES], int8_io=export.get("int8_io", False), micro=micro)


def made_names(model: Any) -> list[str]:
    """Return what the first output of each operator is called, by which one sees the layer that it is of."""
    graph = model.subgraphs[0]
    return [(graph.tensors[each.outputs[0]].name or b"").decode() for each in graph.operators]
