"""What `strip` would take from a model now, and why the rest stays."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import keras
from keras import ops

from keras_rmda.optimizers.models import warn_of_hidden_zeros
from keras_rmda.platform import finite
from keras_rmda.structure.liveness import Plan, plan
from keras_rmda.structure.pictures import draw_widths, html_table, table
from keras_rmda.structure.rows import LayerReport, layer_row
from keras_rmda.structure.trace import as_graph, trace


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
        ValueError: if the model is not built, or has no graph of layers or weights that are not finite,
            or `profile` is none.

    Example:
        >>> print(kr.analyze(model))
    """
    if profile is not None and not hasattr(profile, "layers"):
        raise ValueError(f"`profile` must be a DeviceProfile. Received: {profile!r}")
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
    """Return the report of a plan: a row for each layer or operation that has weights, is opaque or multiplies."""
    rows = [(site, layer_row(plan, site)) for site in plan.trace.sites.values()]
    return Report(name, tuple(row for site, row in rows if site.weights() or site.opaque or row.macs))
