"""What `strip` would take from a model now, and why the rest stays."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.channels.sites import WRITTEN, Cut, Site
from keras_rmda.channels.tensors import varying
from keras_rmda.optimizers.models import warn_of_hidden_zeros
from keras_rmda.platform import finite
from keras_rmda.structure.liveness import OTHER_WIDTH, Plan, plan
from keras_rmda.structure.pictures import draw_widths, html_table
from keras_rmda.structure.trace import as_graph, trace


@dataclass(frozen=True)
class LayerReport:
    """One layer's row.

    Attributes:
        name, type: of the layer.
        channels: output channels; 0 where the layer has no weights to say so.
        removable: output channels that `strip` would remove.
        reasons: why the others stay: reason -> number of channels.
        parameters, parameters_after: numbers of weights, before and after `strip`.
        macs, macs_after: multiply-accumulate operations per sample in the kernels of layers; an open axis counts as 1.
            Those of an opaque layer are an estimate: every weight of two axes and more, except embeddings, times the
            positions of its output, at every call.
        opaque: why the converter does not look into the layer, "" where it does.
        milliseconds, milliseconds_after: of its operators in a file, by the profile of a device; None without one.

    Example:
        >>> layer = kr.analyze(model).layers[0]
        >>> f"{layer.name}: {layer.removable} of {layer.channels} channels can go; {layer.reasons}"
    """

    name: str
    type: str
    channels: int
    removable: int
    reasons: dict[str, int]
    parameters: int
    parameters_after: int
    macs: int
    macs_after: int
    opaque: str = ""
    milliseconds: float | None = None
    milliseconds_after: float | None = None


@dataclass(frozen=True)
class Report:
    """What `strip` would take from a model; `str(report)` is a table, as is what notebooks show.

    Attributes:
        model: the model's name.
        layers: one row for each layer that has weights or is opaque.
        latency: milliseconds of the file of the model now and after `strip`, by the profile of a device; None without.

    Example:
        >>> report = kr.analyze(model)
        >>> f"{report.macs_after:,} of {report.macs:,} operations are left"
        >>> report.rows()[0]["name"]  # ready for a data frame
        >>> report.opaque  # what stays whole, and why
        {}
    """

    model: str
    layers: tuple[LayerReport, ...]
    latency: tuple[float, float] | None = None

    def _total(self, key: str) -> int:
        return sum(getattr(layer, key) for layer in self.layers)

    @property
    def parameters(self) -> int:
        """Number of weights now."""
        return self._total("parameters")

    @property
    def parameters_after(self) -> int:
        """Number of weights after `strip`."""
        return self._total("parameters_after")

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations per sample now."""
        return self._total("macs")

    @property
    def macs_after(self) -> int:
        """Multiply-accumulate operations per sample after `strip`."""
        return self._total("macs_after")

    @property
    def removable(self) -> int:
        """Number of output channels that `strip` would remove, over all layers that make channels."""
        return self._total("removable")

    @property
    def opaque(self) -> dict[str, str]:
        """Layers that the converter does not look into, with the reason."""
        return {layer.name: layer.opaque for layer in self.layers if layer.opaque}

    def rows(self) -> list[dict[str, Any]]:
        """Return one flat dictionary per layer, ready for a data frame."""
        rows = [asdict(layer) for layer in self.layers]
        return [row | {"reasons": "; ".join(f"{n} {why}" for why, n in row["reasons"].items())} for row in rows]

    def to_dict(self) -> dict[str, Any]:
        """Return the whole report as plain data for JSON."""
        totals = ("parameters", "parameters_after", "macs", "macs_after", "removable", "opaque")
        return {
            "model": self.model,
            **{key: getattr(self, key) for key in totals},
            "latency": self.latency,
            "layers": [asdict(layer) for layer in self.layers],
        }

    def plot(self, axes: Any = None) -> Any:
        """Draw the channels of each layer, and how many of them `strip` keeps.

        Args:
            axes: matplotlib axes; None for new ones.

        Returns:
            The axes.

        Example:
            >>> kr.analyze(model).plot().figure.savefig("widths.png")
        """
        layers = [layer for layer in self.layers if layer.channels]
        channels = [layer.channels for layer in layers]
        kept = [layer.channels - layer.removable for layer in layers]
        return draw_widths([layer.name for layer in layers], channels, kept, axes)

    def _table(self) -> tuple[tuple, list[tuple]]:
        header = ("layer", "type", "channels", "kept", "parameters", "after", "MACs", "after", "why the rest stays")
        rows = [
            (
                layer.name,
                layer.type,
                layer.channels or "",
                layer.channels - layer.removable or "",
                layer.parameters,
                layer.parameters_after,
                layer.macs,
                layer.macs_after,
                layer.opaque or "; ".join(f"{n} {why}" for why, n in layer.reasons.items()),
            )
            for layer in self.layers
        ]
        total = ("total", "", "", "", self.parameters, self.parameters_after, self.macs, self.macs_after, "")
        rows = [*rows, total]
        if self.latency is not None:  # the total has what belongs to no layer, and the call itself
            times = [(each.milliseconds, each.milliseconds_after) for each in self.layers] + [self.latency]
            words = [tuple("" if each is None else f"{each:.4f}".rjust(8) for each in pair) for pair in times]
            header = (*header[:-1], "ms", "after", header[-1])
            rows = [(*row[:-1], *pair, row[-1]) for row, pair in zip(rows, words)]
        return header, rows

    def __str__(self) -> str:
        return f"{self.model}\n{table(*self._table())}"

    def _repr_html_(self) -> str:
        return html_table(*self._table())


def table(header: tuple, rows: list[tuple]) -> str:
    """Return text columns: numbers with thousands separators to the right, words to the left.

    Args:
        header: the column titles.
        rows: cells of any type; floats are expected as text, formatted by the caller.

    Returns:
        Lines joined by newlines, a rule below the header.
    """
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[k]) for row in cells) for k in range(len(header))]
    numeric = [any(isinstance(row[k], int) for row in rows) for k in range(len(header))]
    lines = [
        "  ".join(c.rjust(w) if right else c.ljust(w) for c, w, right in zip(row, widths, numeric)).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "-" * max(len(line) for line in lines), *lines[1:]])


def analyze(model: keras.Model, profile: Any = None) -> Report:
    """Report, layer by layer, which channels `strip` would remove and why the others stay.

    Layers that the converter does not look into, the opaque ones, stay whole; their multiply-accumulates are estimates
    (`LayerReport`).

    Args:
        model: a built Sequential or Functional model, or a subclassed one whose `call` uses layers and `keras.ops`
            only. It is not changed.
        profile: a `DeviceProfile`: the report then has milliseconds, of the first of its number formats.

    Returns:
        The report.

    Raises:
        ValueError: if the model is not built, or has no graph of layers or weights that are not finite.

    Example:
        >>> print(kr.analyze(model))
    """
    warn_of_hidden_zeros(model)
    with as_graph(model) as graph:
        finite.check_finite(model)
        decided = plan(trace(graph), ops.convert_to_numpy)
        result = report(decided, model.name)
        return result if profile is None else with_times(result, *profile.layers(model, graph, decided))


def with_times(report: Report, times: dict[str, tuple[float, float]], latency: tuple[float, float]) -> Report:
    """Return a report with the milliseconds of layers, by name, and those of the file."""
    none = (0.0, 0.0)
    layers = [
        replace(each, milliseconds=times.get(each.name, none)[0], milliseconds_after=times.get(each.name, none)[1])
        for each in report.layers
    ]
    return replace(report, layers=tuple(layers), latency=latency)


def report(plan: Plan, name: str) -> Report:
    """Return the report of a plan; layers that are called several times have one row."""
    rows = [layer_row(plan, site) for site in plan.trace.sites.values() if site.weights() or site.opaque]
    return Report(name, tuple(rows))


def amounts(plan: Plan, cut: Cut | None = None) -> dict[str, int]:
    """Return how many `parameters`, `macs` and `bytes` of weights a plan leaves, or another cut of the same model."""
    cut = plan.cut if cut is None else cut
    found = {"parameters": 0, "macs": 0, "bytes": 0}
    for site in plan.trace.sites.values():
        for key, value in amounts_of(site, cut).items():
            found[key] += value
    return found


def amounts_of(site: Site, cut: Cut) -> dict[str, int]:
    """Return the same of one layer."""
    counts = [(math.prod(cut.shape(site, name, tuple(v.shape))), bytes_of(v)) for name, v in site.counted()]
    return {
        "parameters": sum(count for count, _ in counts),
        "bytes": sum(count * size for count, size in counts),
        "macs": sum(call.macs(cut) for call in site.calls),
    }


def bytes_of(variable: keras.Variable) -> int:
    """Return the bytes of one number of a variable."""
    return int("".join(each for each in variable.dtype if each.isdigit()) or 8) // 8


def everything(plan: Plan) -> Cut:
    """Return the cut that takes nothing."""
    return Cut(plan.trace.ties, np.ones_like(plan.cut.keep))


def layer_row(plan: Plan, site: Site) -> LayerReport:
    """Return a layer's row."""
    shapes = [tuple(variable.shape) for _, variable in site.counted()]
    after = [plan.cut.shape(site, name, shape) for (name, _), shape in zip(site.counted(), shapes)]
    find, written = plan.trace.ties.find, [own for key, own in site.own.items() if key in WRITTEN]
    written = [own[0] if own.ndim > 1 and 0 not in varying(find(own)) else own.reshape(-1) for own in written]
    atoms = np.concatenate([*written, np.zeros(0, int)])
    atoms = np.zeros(0, int) if site.opaque else atoms
    stays = plan.cut.stays(atoms)
    whole = everything(plan)
    return LayerReport(
        name=site.name,
        type=type(site.layer).__name__,
        channels=len(atoms),
        removable=int((~stays).sum()),
        reasons=dict(Counter(reasons_of(plan, site, atoms[stays]))),
        parameters=sum(math.prod(shape) for shape in shapes),
        parameters_after=sum(math.prod(shape) for shape in after),
        macs=sum(call.macs(whole) for call in site.calls),
        macs_after=sum(call.macs(plan.cut) for call in site.calls),
        opaque=site.opaque,
    )


def reasons_of(plan: Plan, site: Site, atoms: np.ndarray) -> list[str]:
    """Return why each of the channels that a layer writes stays; "tied:" where only what it is added to has to."""
    find, size = plan.trace.ties.find, len(plan.cut.keep)
    made, whys, of_roots = np.zeros(size, bool), np.full(size, -1), np.full(size, -1)
    pins: dict[int, str] = {}
    for call in site.calls:
        for y in call.outputs:
            needed = plan.state.needed(y)
            made[y.atoms] = True
            for array, numbers in ((whys, y.atoms[needed]), (of_roots, find(y.atoms[needed]))):
                array[numbers] = np.where(array[numbers] < 0, plan.whys[y.index][needed], array[numbers])
            if y.index in plan.trace.pins:
                pins = dict.fromkeys(y.atoms.reshape(-1).tolist(), plan.trace.pins[y.index]) | pins
    texts = []
    for atom, root in zip(atoms.tolist(), find(atoms)):
        # The units of a direction are no channels of the output where both directions are added.
        why, tied = whys[atom] if made[atom] else of_roots[root], plan.texts[plan.reasons[root]]
        text = plan.texts[why] if why >= 0 else pins.get(atom)
        texts.append(text or (tied if tied.startswith(STRUCTURAL) else f"tied: {tied}"))
    return texts


STRUCTURAL = ("last channel", "groups of", "multiples of", OTHER_WIDTH)
"""How reasons begin that are none of a single channel."""
