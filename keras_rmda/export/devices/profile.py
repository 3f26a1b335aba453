"""The profile of a device: how long operators take on it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from keras_rmda.channels.sites import Cut
from keras_rmda.export.contents import content_of
from keras_rmda.export.devices.costs import Costs, milliseconds_of_layers
from keras_rmda.export.devices.fit import Part, fit, spread
from keras_rmda.export.devices.operators import Kind, described, shapes_of
from keras_rmda.export.devices.writing import FORMAT, SCRIPT, check_folder, write_files
from keras_rmda.export.flat import read
from keras_rmda.platform import checks, files
from keras_rmda.structure.liveness import Plan

NOISE = 0.25
"""The median spread of a profile that is too noisy to be used."""


class MissingOperatorError(ValueError):
    """A profile lacks an operator of a model."""


@dataclass(frozen=True)
class DeviceProfile:
    """How long the operators of `.tflite` files take on a device, as `keras-rmda profile` has measured it.

    Formula: the time of a file is c + sum_i (s (t_i(n) - c) + w n_i), where c is the time of a call, t_i(n) that of the
    file of operator i alone at its widths n, n_i the number of its weights, w what it takes to have a weight again that
    other operators have driven out of caches, and s what operators gain or lose beside each other otherwise.
    t_i = c_0 + sum_k c_k n_k + sum_w d_w m_w, where n_k counts the numbers of the k-th tensor of the operator, widths
    rounded up to multiples of the lanes that the device computes at once, and m_w those of a last step that is not
    full; what this leaves is interpolated between the widths that were measured.

    Attributes:
        device: what was measured on, in words.
        threads: of the interpreter.
        measured: the files that were measured, with what is in them, and the milliseconds of each round.
        litert: version of LiteRT.
        system: of the device.

    Raises:
        ValueError: if there are no measurements, or they are too noisy: half of them differ by more than a quarter.

    Example:
        >>> profile = kr.DeviceProfile.measure(model, "profile", quantizations=[None])
        >>> f"{profile.device}, {profile.threads} thread, rounds differ by {profile.spread:.1%}"
        >>> profile.save("this_machine.json")
        >>> kr.analyze(model, kr.DeviceProfile.load("this_machine.json")).latency
    """

    device: str
    threads: int
    measured: tuple[dict[str, Any], ...] = field(repr=False)
    litert: str = ""
    system: str = ""

    metric: ClassVar[str] = "latency"

    def __post_init__(self):
        spreads = [spread(each["milliseconds"]) for each in self.measured]
        if not spreads:
            raise ValueError("The profile has no measurements.")
        if np.median(spreads) > NOISE:
            raise ValueError(
                f"The profile is too noisy: half of its files took times that differ by more than {NOISE:.0%} from "
                f"round to round ({np.median(spreads):.0%}). Measure again while nothing else runs on the device."
            )
        object.__setattr__(self, "_fits", {each: fit(self.measured, each) for each in self.quantizations})

    @property
    def quantizations(self) -> tuple[str, ...]:
        """The number formats that were measured."""
        return tuple(dict.fromkeys(each["quantization"] for each in self.measured))

    @property
    def spread(self) -> float:
        """The median, over its files, of the difference between rounds, relative to the time."""
        return float(np.median([spread(each["milliseconds"]) for each in self.measured]))

    @classmethod
    def measure(
        cls,
        model: Any,
        folder: str | Path,
        quantizations: Sequence[str | None] = (None, "int8"),
        threads: int = 1,
        say: Callable[[str], None] = lambda text: None,
        known: DeviceProfile | None = None,
    ) -> DeviceProfile:
        """Measure the layers of a model on this machine; `keras-rmda profile` does it on another.

        Args:
            model: a built model, as for `strip`.
            folder: a new one, for the files that are measured.
            quantizations: number formats, as of `export_tflite`.
            threads: of the interpreter.
            say: receives lines of progress.
            known: a profile of the same device: only what it lacks is measured, and put to it.

        Raises:
            ValueError: if the folder is not empty, or what was measured is too noisy.
            RuntimeError: saying why, if the files cannot be measured.
        """
        folder = Path(folder)
        checks.whole("threads", threads, 1, 1024)
        check_folder(folder)
        write_files(model, folder, quantizations, say, known)
        command = [sys.executable, "-u", str(folder / SCRIPT.name), "--threads", str(threads)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, text=True, errors="replace", **pipes) as process:
            for line in process.stdout:
                say(line.rstrip())
            said = process.stderr.read().strip().splitlines()
        if process.returncode:
            raise RuntimeError(f"The files could not be measured: {said[-1] if said else process.returncode}")
        return cls.load(folder / "profile.json")

    @classmethod
    def load(cls, path: str | Path) -> DeviceProfile:
        """Read a profile from a file.

        Args:
            path: what `measure.py` or `save` wrote: `.json`.

        Raises:
            ValueError: if the file is missing, is no profile, or is too noisy.
        """
        if not Path(path).is_file():
            raise ValueError(f"There is no such profile. Received: {str(path)!r}")
        try:
            content = json.loads(Path(path).read_text())
            known = content["format"]
            listed, device, threads = content["files"], content["device"], content["threads"]
            is_complete = all(min(each.get("milliseconds") or [0]) > 0 for each in listed)
        except Exception as error:  # whatever is in the file
            raise ValueError(
                f"The file is no profile of a device, as `measure.py` writes them ({checks.first_line(error)}). "
                f"Received: {str(path)!r}"
            ) from error
        if known != FORMAT:
            raise ValueError(
                f"The profile has format {known!r}, and this version of keras_rmda reads {FORMAT}: measure again. "
                f"Received: {str(path)!r}"
            )
        if not is_complete:
            raise ValueError(f"The profile has files without times. Received: {str(path)!r}")
        return cls(device, threads, tuple(listed), content.get("litert", ""), content.get("system", ""))

    def save(self, path: str | Path) -> None:
        """Write the profile to a file ending in `.json`."""
        path = files.check_target(path, ".json")
        content = {"format": FORMAT, "files": self.measured}
        content |= {key: getattr(self, key) for key in ("device", "threads", "litert", "system")}
        with files.replacing(path) as temporary:
            temporary.write_text(json.dumps(content))

    def merged(self, *others: DeviceProfile) -> DeviceProfile:
        """Return a profile that has what this one has, and others of the same device.

        Raises:
            ValueError: if a device or number of threads differs.
        """
        for other in others:
            if (other.device, other.threads) != (self.device, self.threads):
                raise ValueError(
                    f"Only profiles of one device and number of threads go together. Received: {self.device!r} with "
                    f"{self.threads}, and {other.device!r} with {other.threads}"
                )
        measured = (*self.measured, *(each for other in others for each in other.measured))
        return DeviceProfile(self.device, self.threads, measured, self.litert, self.system)

    # ---- what it tells

    def milliseconds(self, path: str | Path) -> float:
        """Return the time that a `.tflite` file takes, which has not been measured.

        Args:
            path: a file of one of the models that the profile was made for, at any widths.

        Raises:
            ValueError: if the file is missing or foreign, or has an operator that was not measured.
        """
        model = read(content_of(path))
        kinds = [(described(model, each), shapes_of(model, each)) for each in model.subgraphs[0].operators]
        why: ValueError | None = None
        for quantization in self.quantizations:
            try:
                return self.call(quantization) + sum(self._part(*each, quantization) for each in kinds)
            except MissingOperatorError as error:
                why = why or error
        raise why

    def layers(self, model: Any, graph: Any, decided: Plan) -> tuple[dict[str, tuple], tuple[float, float]]:
        """Return what `analyze` shows: milliseconds by the name of a layer before and after, and those of the file.

        Args:
            model: the model.
            graph: the same with a graph.
            decided: what `strip` would leave.

        Raises:
            ValueError: if the profile lacks an operator of the model.
        """
        quantization = self.quantizations[0]
        export = {"quantization": None if quantization == "float32" else quantization, "batch": 1}
        costs = Costs(model, graph, decided.trace, export, {"latency": self})
        whole = Cut(decided.trace.ties, np.ones_like(decided.cut.keep))
        macs = {
            site.name: sum(call.macs(whole) for call in site.calls)
            for site in decided.trace.sites.values()
            if site.weights() or site.opaque
        }
        return milliseconds_of_layers(costs, (whole, decided.cut), macs)

    def _part(self, described: tuple, shapes: list[tuple[int, ...]], quantization: str) -> float:
        """Return what an operator adds, which is found by what it is and its shapes."""
        for kind, part in self._fits[quantization].parts.items():
            widths = kind.widths(shapes) if (kind.name, kind.options, kind.types) == described else None
            if widths is not None:
                return float(part.values(np.array([widths]).reshape(1, -1))[0])
        raise MissingOperatorError(
            f"The profile of {self.device!r} lacks an operator of the file: {described[0]} of the shapes {shapes}. "
            "Profiles are of a batch of one: export the file with `batch=1`. If it is, measure its model, too, by "
            "`keras-rmda profile`."
        )

    def has(self, kind: Kind, quantization: str) -> bool:
        """Return whether an operator was measured."""
        return quantization in self._fits and kind in self._fits[quantization].parts

    def law(self, kind: Kind, quantization: str) -> Part:
        """Return what an operator adds to a file, as a function of its widths.

        Raises:
            MissingOperatorError: if it was not measured.
        """
        if quantization not in self._fits:
            raise MissingOperatorError(
                f"The profile of {self.device!r} has {', '.join(self.quantizations)}, not {quantization}: measure that "
                "too, by `keras-rmda profile`."
            )
        if not self.has(kind, quantization):
            raise MissingOperatorError(
                f"The profile of {self.device!r} lacks an operator of the model: {kind.name} of the shapes "
                f"{kind.shapes}. Measure it too, by `keras-rmda profile` of this model with `--profile` of this one."
            )
        return self._fits[quantization].parts[kind]

    def call(self, quantization: str) -> float:
        """Return the milliseconds of a call, besides those of operators."""
        return self._fits[quantization].call
