"""What `compress` returns."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras

from keras_rmda.compression.scores import Scores
from keras_rmda.export import export_tflite
from keras_rmda.export.tflite import TFLiteFile
from keras_rmda.structure.pictures import draw_training, html_table, table
from keras_rmda.structure.report import Report


@dataclass(frozen=True)
class Compressed:
    """A model made smaller by `compress`; `print` shows it as a table, as do notebooks.

    Attributes:
        model: the smaller model, compiled with the user's own optimizer, loss and metrics, and no optimizer state.
        report: layer by layer what is gone.
        history: what `fit` has logged, one list per name; `phase` tells what each epoch was for.
        before, after: loss and metrics of the model that was given and of the smaller one, on the validation data, or
            on the training data where there are no others; both with statistics of batch normalization that fit.
        samples: inputs of the training data, that `export` quantizes by.

    Example:
        >>> result = kr.compress(model, x, y, target=0.5, epochs=4)
        >>> small, score = result.model, result.score["after"]
        >>> result.plot().figure.savefig("training.png")
        >>> result.report.plot().figure.savefig("widths.png")
    """

    model: keras.Model
    report: Report
    history: dict[str, list[Any]]
    before: Scores
    after: Scores
    samples: Any = field(repr=False, default=None)

    @property
    def score(self) -> dict[str, Scores]:
        """Loss and metrics before and after."""
        return {"before": self.before, "after": self.after}

    def export(
        self, path: str | Path, quantization: str | None = None, representative_data: Any = None, **how: Any
    ) -> TFLiteFile:
        """Write the smaller model as a TensorFlow Lite file.

        Args:
            path: where to write, ending in `.tflite`.
            quantization: as for `export_tflite`: None, "float16", "dynamic", "int8" or "int16x8".
            representative_data: inputs; None for samples of the training data.
            **how: other arguments of `export_tflite`.

        Returns:
            What was written.

        Raises:
            ValueError: as `export_tflite`.
        """
        data = self.samples if representative_data is None else representative_data
        return export_tflite(self.model, path, quantization, data, **how)

    def rows(self) -> list[tuple[str, Any, Any]]:
        """Return name, value before and value after, for all figures."""
        scores = [
            (key, f"{self.before[key]:.4g}", f"{self.after[key]:.4g}") for key in self.after if key in self.before
        ]
        report = self.report
        return [
            *scores,
            ("parameters", report.parameters, report.parameters_after),
            ("multiply-accumulates", report.macs, report.macs_after),
            ("channels", self._channels, self._channels - report.removable),
        ]

    def plot(self, axes: Any = None) -> Any:
        """Draw the training: the score, and how much of the model was left, over the epochs.

        Args:
            axes: matplotlib axes; None for new ones.

        Returns:
            The axes.
        """
        score = next((name for name in self.after if name != "loss" and name in self.history), "loss")
        return draw_training(self.history, score, axes)

    @property
    def _channels(self) -> int:
        return sum(layer.channels for layer in self.report.layers)

    def __str__(self) -> str:
        return table((self.model.name, "before", "after"), self.rows())

    def _repr_html_(self) -> str:
        return html_table((self.model.name, "before", "after"), self.rows())


def compared(before: Report, after: Report) -> Report:
    """Return one report of two models, of which the second is the first without some channels.

    Operations have other names in the second, and the same order.
    """
    left = {layer.name: layer for layer in after.layers}
    own = {layer.name for layer in before.layers}
    renamed = [layer for layer in after.layers if layer.name not in own]
    rows = []
    for layer in before.layers:
        small = left.get(layer.name) or next((each for each in renamed if each.type == layer.type), None)
        if small in renamed:
            renamed.remove(small)
        rows.append(
            replace(
                layer,
                removable=layer.channels - (small.channels if small else 0),
                reasons=small.reasons if small else {},
                parameters_after=small.parameters if small else 0,
                macs_after=small.macs if small else 0,
            )
        )
    return Report(before.model, tuple(rows))
