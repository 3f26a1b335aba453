"""What the operators of a file cost in energy, by a table of operations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from keras_rmda.export.contents import content_of
from keras_rmda.export.devices.laws import Law
from keras_rmda.export.devices.operators import Kind, described, shapes_of
from keras_rmda.export.flat import read
from keras_rmda.export.operations import multiplied
from keras_rmda.platform import checks, files

TYPES = ("float32", "float16", "int8", "int16")
"""What multiply-accumulates are of."""

UNCOUNTED = ("WHILE", "IF", "CALL", "UNIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN")
"""Operators that run others, or steps, whose multiply-accumulates are not those of their shapes."""

MICROJOULES = 1e-6
"""In a picojoule."""


@dataclass(frozen=True)
class EnergyTable:
    """What a multiply-accumulate and a byte cost on a device: a `profile` for targets of energy.

    Formula: E = sum_i (a m_i + b n_i), where the operator i makes m_i multiply-accumulates of a type that costs a, and
    n_i are the bytes of its inputs, outputs and weights, each moved once.

    Args:
        mac: picojoules of a multiply-accumulate, by the type of its numbers: `"float32"`, `"int8"`, `"int16"`.
        byte: picojoules of a byte that is read or written.

    Raises:
        ValueError: for a number out of range, and a type that is not known.

    Example:
        >>> table = kr.EnergyTable({"float32": 4.6, "int8": 0.3}, byte=12.5)
        >>> result = kr.compress(model, x, y, target=0.25, metric="energy", profile=table)
        >>> table.microjoules(result.export("small.tflite").path)

    Source: the numbers of the example are those of 45 nm and a cache of 1 MB in Horowitz 2014, "Computing's energy
    problem", ISSCC.
    """

    mac: Mapping[str, float]
    byte: float = 0.0

    metric: ClassVar[str] = "energy"

    def __post_init__(self):
        if not isinstance(self.mac, Mapping) or not self.mac:
            raise ValueError(f'`mac` must be picojoules by type, such as {{"int8": 0.3}}. Received: {self.mac!r}')
        for name, value in self.mac.items():
            checks.one_of("mac", name, TYPES)
            checks.real(f"mac[{name!r}]", value)
        checks.real("byte", self.byte)
        object.__setattr__(self, "mac", dict(self.mac))

    @classmethod
    def load(cls, path: str | Path) -> EnergyTable:
        """Read a table from a file: `{"mac": {"int8": 0.3}, "byte": 12.5}`.

        Args:
            path: ends in `.json`.

        Raises:
            ValueError: if the file is missing, or is no such table.
        """
        try:
            return cls(**json.loads(Path(path).read_text()))
        except (OSError, TypeError, ValueError) as error:
            raise ValueError(
                f"The file is no table of energies ({checks.first_line(error)}). Received: {str(path)!r}"
            ) from error

    def save(self, path: str | Path) -> None:
        """Write the table to a file ending in `.json`."""
        with files.replacing(files.check_target(path, ".json")) as temporary:
            temporary.write_text(json.dumps({"mac": self.mac, "byte": self.byte}))

    def microjoules(self, path: str | Path) -> float:
        """Return what one run of a `.tflite` file costs.

        Args:
            path: any file.

        Raises:
            ValueError: if the file is missing or foreign, or computes with a type that the table lacks.
        """
        model = read(content_of(path))
        kinds = [Kind(*described(model, each), tuple(shapes_of(model, each))) for each in model.subgraphs[0].operators]
        return float(sum(self.law(kind).values(np.zeros((1, 0)))[0] for kind in kinds))

    # ---- what a profile tells

    def law(self, kind: Kind, quantization: str = "") -> Law:
        """Return the microjoules of an operator, as a function of its widths.

        Raises:
            ValueError: if the table lacks its type, or the operator cannot be counted.
        """
        if kind.name in UNCOUNTED:
            raise ValueError(
                f"The file has an operator {kind.name}, as recurrent layers become, whose operations a table of "
                "energies cannot count: give another metric, such as 'macs'."
            )
        terms = [(shape, self.byte * bytes_of(each)) for shape, each in zip(kind.shapes, kind.types)]
        made = multiplied(kind.name, kind.shapes[:-1], kind.shapes[-1:])
        if made is not None:
            computed = kind.types[-1].lower()
            if computed not in self.mac:
                raise ValueError(
                    f"The table of energies has {', '.join(self.mac)}, and {kind.name} of the file computes with "
                    f"{computed}: give `mac` for that, too."
                )
            terms.append((made, self.mac[computed]))
        factors = (0.0, *(MICROJOULES * cost for _, cost in terms))
        return Law(tuple(shape for shape, _ in terms), kind.letters, (1,) * len(kind.letters), factors)

    def call(self, quantization: str) -> float:
        """Return what a call costs besides its operators: nothing."""
        return 0.0


def bytes_of(type_name: str) -> float:
    """Return the bytes of a number of a type of TensorFlow Lite; 0 for what is no number."""
    name = type_name.split()[0].lower()
    try:
        return 0.5 if name == "int4" else np.dtype(name).itemsize
    except TypeError:
        return 0
