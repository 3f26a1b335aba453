"""A target instead of a strength."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras

from keras_rmda.callbacks.best import note_thresholds
from keras_rmda.callbacks.choice import Groups
from keras_rmda.callbacks.choosing import Choosing
from keras_rmda.callbacks.goals import checked_targets
from keras_rmda.callbacks.laws import LAWS, StrengthLaw
from keras_rmda.callbacks.session import Companion
from keras_rmda.callbacks.strength import METRICS, MovingStrength
from keras_rmda.export.devices import DeviceProfile, EnergyTable
from keras_rmda.export.devices.probes import options_of
from keras_rmda.optimizers.models import optimizers_of
from keras_rmda.platform import checks

RANKINGS = ("magnitude", "fisher")


class TargetSparsity(Companion):
    """Move the strengths of penalties so that training ends at a target, within its own number of epochs.

    Formula, of `control="choice"`: with progress p from 0 at `begin` to 1 at `end`, shares of the epochs, at most
    target + (1 - target) (1 - p)^3 of the metric may be left. At twenty decisions on the way as many groups as that
    needs get a strength that keeps them zero for good: those whose |w_g| is smallest, relative to the mean over their
    layer; a tenth of every layer is never chosen. Where the penalty alone makes more zero than is wanted in the end,
    the strength of the others goes down. At `end` the choice is final: what is left is no longer penalized, and a new
    stage begins.

    What is zero for good stays zero in later trainings: one with a smaller target goes on from there.

    Until then, EarlyStopping, ModelCheckpoint and ReduceLROnPlateau forget the best that they have seen, of larger
    networks. Milestones of StagewiseSchedule that come earlier are moved behind it, with a warning.

    Works with every optimizer of this package whose regularizer has coupled groups. With another `control` nothing is
    chosen: a law moves the strengths of all penalties, of whatever kind, by the same rule, so that a training that
    begins sparse grows to the target and one that begins dense falls to it. That is for LinBreg and AdaBreg, whose
    weights enter by themselves. `logs` get `strength`, the largest.

    What `strip` would leave is
    measured by the converter at each decision: one group fewer would be too few. `logs` get `macs_left`, or whatever
    the metric is. Layers that the converter does not look into stay whole and count, with the multiply-accumulates that
    `analyze` estimates. A warning at the start says if more than a quarter of the parameters are in them.

    Args:
        target: what is to be left: a share in (0, 1), a number of 1 and more in units of the metric, or for metrics
            of files text such as "0.4 ms" and "40 KB".
        metric: `"macs"`, multiply-accumulates per sample; `"parameters"`; `"bytes"` of the weights as they are
            stored in the model; `"groups"`, the number of coupled groups; with a law `"weights"` too, the number of
            weights under penalties. Of the file that `export_tflite` would write: `"file_bytes"`, its size; `"arena"`,
            the memory that TensorFlow Lite for Microcontrollers needs; `"latency"` and `"energy"`, the milliseconds
            and microjoules that it takes by a `profile`.
        begin, end: shares of all epochs, 0 <= begin < end <= 1, between which groups are chosen, or strengths moved;
            None for 0.1 and 0.6, with a law for 0 and 1.
        multiple_of: each layer keeps a multiple of this many groups, or all that it has. 16 suits CPUs, which compute
            that many channels at once: odd widths cost speed. The target is then met as nearly as that allows.
        ranking: which groups go first. `"magnitude"`: those with the smallest norm, relative to the mean over their
            layer, and a tenth of every layer stays. `"fisher"`: those that are worth the least for what they cost,
            (1/n) sum_t sum_{i in g} (w_i G_{t,i})^2 / c_g, where the mean over the steps forgets with .99 and c_g is
            what the removal of the group saves of the metric; every layer keeps two thirds of what it would have in a
            thin model of the target, one in which all layers keep the same share. It wants `parts="all"` of
            `coupled_groups`, and is what `compress` uses.
        control: `"choice"`, or how strengths move: `"feedback"`, `"increments"`, or one made with other numbers,
            `Feedback(...)`, `Increments(...)`. These know no `multiple_of`, no `ranking` and no metrics of files.
        targets: several at once, in the place of `target` and `metric`: by metric what is to be left. At least one is
            of a file, none is `"groups"`.
        export: arguments of `export_tflite` for that file: `quantization`, `int8_io`, `batch`, `micro`,
            `representative_data`. `"arena"` brings `micro=True`, `"latency"` `batch=1`.
        profile: a `DeviceProfile` for `"latency"`, an `EnergyTable` for `"energy"`, or a list of both.

    Costs of files are stairs: 33 channels may cost as much as 48. With metrics of files each layer goes from a width to
    one that is worth having: the one that loses the least for what it saves.

    Raises:
        ValueError: for an argument out of range; at the start of training, if there are two of these callbacks, if no
            optimizer has coupled groups (with a law: a penalty whose strength can be set), and if the target is more
            than the whole or less than what is left when all that can be chosen is. The message says which is the
            smallest possible target.

    Example:
        >>> psi = kr.GroupLasso(1e-4, groups=kr.coupled_groups(model))
        >>> model.compile(kr.RMDA(0.1, regularizer=psi), loss="mse")
        >>> model.fit(x, y, epochs=12, callbacks=[kr.callbacks.TargetSparsity(0.25)])

    Source: the schedule is that of Zhu and Gupta 2017, "To prune, or not to prune", arXiv:1710.01878.
    """

    def __init__(
        self,
        target: float | str | None = None,
        metric: Literal[
            "macs", "parameters", "groups", "bytes", "weights", "file_bytes", "arena", "latency", "energy"
        ] = "macs",
        begin: float | None = None,
        end: float | None = None,
        multiple_of: int = 1,
        ranking: Literal["magnitude", "fisher"] = "magnitude",
        control: Literal["choice", "feedback", "increments"] | StrengthLaw = "choice",
        targets: Mapping[str, float | str] | None = None,
        export: Mapping[str, Any] | None = None,
        profile: DeviceProfile | EnergyTable | Sequence[DeviceProfile | EnergyTable] | None = None,
    ):
        super().__init__()
        if not isinstance(control, StrengthLaw):
            checks.one_of("control", control, ("choice", *LAWS))
        self.control = LAWS[control]() if control in LAWS else control
        has_law = isinstance(self.control, StrengthLaw)
        if has_law:
            checks.one_of("metric", metric, METRICS)
            self.targets = {metric: checks.real("target", target, open_minimum=True)}
        else:
            self.targets = checked_targets(target, metric, targets, export, profile)
        self.target, self.metric = target, metric
        self.export, self.profile = options_of(export), profile
        begins, ends = (0.0, 1.0) if has_law else (0.1, 0.6)
        self.begin = begins if begin is None else checks.real("begin", begin, maximum=1.0)
        self.end = ends if end is None else checks.real("end", end, maximum=1.0)
        if self.begin >= self.end:
            raise ValueError(f"`begin` must be less than `end`. Received: begin={begin!r}, end={end!r}")
        self.multiple_of = checks.whole("multiple_of", multiple_of, 1)
        checks.one_of("ranking", ranking, RANKINGS)
        self.ranking = ranking
        self.steps: int | None = None  # batches of an epoch where data do not tell; else those of the first are counted
        self._control: Choosing | MovingStrength = Choosing(self)
        self.writes = tuple(f"{each}_left" for each in self.targets)
        if has_law:
            others = {"multiple_of": multiple_of, "ranking": ranking, "targets": targets, "export": export}
            if others != {"multiple_of": 1, "ranking": "magnitude", "targets": None, "export": None} or profile:
                raise ValueError(
                    'Only `control="choice"` chooses groups by a `ranking`, in multiples, or for a file. Received: '
                    + "".join(f"{name}={value!r}, " for name, value in others.items())
                    + f"profile={profile!r}, control={control!r}"
                )
            self.writes = (f"{metric}_left", "strength")
            self._control = MovingStrength(self.targets[metric], metric, self.begin, self.end, self.control)

    def before_fit(self, callbacks: list[keras.callbacks.Callback]) -> None:
        """Refuse a second target; know those that look for the best."""
        super().before_fit(callbacks)
        note_thresholds(callbacks)
        targets = [each for each in callbacks if isinstance(each, TargetSparsity)]
        if len(targets) > 1:
            raise ValueError(
                "Two TargetSparsity would move the same strengths: give one. Received: "
                + ", ".join(f"TargetSparsity({each.given})" for each in targets)
            )

        if self.ranking == "fisher" and self.model.built:
            for optimizer in optimizers_of(self.model):
                optimizer.follow_importance()
            self.model.train_function = None  # a step that was traced before would not know of it

    @property
    def groups(self) -> Groups | None:
        """The groups of the model that training began with, which `control="choice"` chooses among."""
        return self._control.groups

    @property
    def given(self) -> str:
        """What is to be left, as it was given."""
        if self.target is not None:
            return f"target={self.target!r}, metric={self.metric!r}"
        return f"targets={self.targets!r}"

    def pause(self) -> None:
        """Let the `fit` end that runs, and the next one go on with the same choice, of a smaller model if it is one."""
        self._control.pauses = True

    def earliest_stage(self, epochs: int) -> int:
        """Return the epoch before which the choice is final."""
        return math.ceil(round(self.end * epochs, 9)) if isinstance(self._control, Choosing) else 0

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Find what is to be zero; refuse a target that cannot be reached."""
        self._control.on_train_begin(self.model, self.params)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Go on with a training that was stopped."""
        self._control.on_epoch_begin(epoch, self.callbacks)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Choose groups or move strengths, if that is due."""
        self._control.on_train_batch_end(batch, self.callbacks)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Choose groups or move strengths, if that is due, and put the share that is left into `logs`."""
        self._control.on_epoch_end(epoch, logs)

    def after_fit(self) -> None:
        """Warn where the weights that are there now miss the target, unless the training has failed."""
        self._control.after_fit()
