"""The two phases: choose what goes while all is there, then tune what is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

import keras_rmda.compression.recipe as recipe
from keras_rmda.callbacks import BackupAndRestore, TargetSparsity
from keras_rmda.callbacks.choice import OPEN
from keras_rmda.compression.callbacks import GoOn, OneTraining, works_while_choosing
from keras_rmda.compression.counterparts import (
    Rescaled,
    exclude_from_decay,
    innermost,
    largest,
    learning_rate,
    proximal,
    stock,
    with_rate,
)
from keras_rmda.compression.cutting import Cuts
from keras_rmda.compression.data import Data
from keras_rmda.compression.distillation import distilled
from keras_rmda.compression.history import History, Notes
from keras_rmda.compression.progress import Progress
from keras_rmda.compression.rates import set_rates
from keras_rmda.compression.scores import Scores
from keras_rmda.compression.statistics import BATCHES, FOLLOWS, momenta, recalibrate
from keras_rmda.compression.steps import own_step, smaller
from keras_rmda.optimizers.assignment import own_regularizer
from keras_rmda.platform import files, finite, fitting, hooks, replicas
from keras_rmda.regularizers import GroupLasso


@dataclass
class Run:
    """One training through models that get smaller.

    Attributes:
        data: what is trained on.
        compile_arguments: of `compile`, without the optimizer.
        optimizer: as the user has made it.
        chooser: the optimizer that makes zeros; its counterpart is taken if it is None.
        teacher, distillation: the model that the smaller ones learn from, and its share of the loss.
        metric, multiple_of: as of TargetSparsity.
        epochs: of all phases together.
        callbacks: the user's.
        verbose: 0, 1 or 2.
        directory: where copies are kept; None for none.
        fit_arguments: `class_weight` and `shuffle` of `fit`.
        shrink: whether the model is cut while groups are chosen.
        without_decay: the paths of weights that the user's optimizer does not decay.
        of_file: `targets`, `export` and `profile` of TargetSparsity where a file is to cost so much; else empty.
    """

    data: Data
    compile_arguments: dict[str, Any]
    optimizer: Any
    chooser: Any
    teacher: keras.Model
    distillation: float
    metric: str
    multiple_of: int
    epochs: int
    callbacks: Sequence[keras.callbacks.Callback]
    verbose: int
    directory: Path | None
    fit_arguments: dict[str, Any]
    shrink: bool = True
    without_decay: frozenset[str] = frozenset()
    of_file: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Let the callbacks see one training, and keep one history."""
        self.training = OneTraining(self.callbacks, self.epochs)
        self._history = History(self.directory)

    @property
    def history(self) -> dict[str, list[Any]]:
        """What was logged, by name."""
        return self._history.columns

    def say(self, text: str) -> None:
        """Print a line, unless everything is silent."""
        if self.verbose:
            print(text, flush=True)

    # ---- the phases

    def stage(self, model: keras.Model, target: float, first: int, last: int, name: str) -> keras.Model:
        """Return a smaller model that was trained from one epoch up to another; `model` ends with zeros in it.

        Args:
            model: an uncompiled one.
            target: as of TargetSparsity.
            first, last: the first epoch, and the first that is none any more.
            name: of its copies.
        """
        middle = first + recipe.choosing_epochs(last - first)
        self.choose(model, target, first, middle, name)
        small = smaller(model)
        self.tune(small, middle, last, name)
        return small

    def choose(self, model: keras.Model, target: float, first: int, last: int, name: str) -> None:
        """Train a model by a proximal optimizer until what is to go is zero."""
        if self._load(model, f"{name}-chosen"):
            return
        chooser = self.compile_to_choose(model)
        aim = (None, "macs") if self.of_file else (target, self.metric)
        when = recipe.decisions(first, last)
        choice = TargetSparsity(*aim, *when, self.multiple_of, "fisher", **self.of_file)
        choice.steps = self.data.steps
        rate = f"learning rate {learning_rate(chooser):.3g}"
        self._tell(first, last, f"choosing what is left ({type(chooser).__name__}, {rate})")
        listed = [each for each in self.callbacks if works_while_choosing(each)]
        path = None if self.directory is None else self.directory / f"{name}-cuts.json"
        cuts, progress = Cuts(model, choice, listed, path, last, self._may_shrink(model)), self._progress(first)
        while first is not None:
            folder = f"{name}-choose-{len(cuts.epochs)}"
            if cuts.restore(self._folder(folder)):
                first = cuts.epochs[-1]
                continue
            with distilled(cuts.current, self.teacher, self.distillation):
                self._fit(
                    cuts.current, first, last, "choose", [choice, *listed, GoOn(choice), progress], folder, [cuts]
                )
            before, first = cuts.current, cuts.next_epoch()
            if cuts.current is not before:
                count = cuts.current.count_params()
                self.say(f"epochs {first + 1} to {last} go on with what is left so far: {count:,} parameters")
        choice.groups.gather()
        self._save(model, f"{name}-chosen")

    def tune(self, model: keras.Model, first: int, last: int, name: str) -> None:
        """Train the small model by the user's own optimizer."""
        if self._load(model, f"{name}-tuned"):
            self.compile_to_use(model)
            return
        own = stock(self.optimizer)
        rate = self._rate(learning_rate(own), last - first)
        self.compile(model, with_rate(own, rate))
        steps = (last - first) * self.data.steps
        rates = f"learning rate up to {largest(rate, steps):.3g}"
        self._tell(first, last, f"tuning the small model ({type(own).__name__}, {rates})")
        with distilled(model, self.teacher, self.distillation):
            self._fit(model, first, last, "tune", [*self.callbacks, self._progress(first)], f"{name}-tune")
        self._save(model, f"{name}-tuned")

    def finished(self, model: keras.Model) -> Scores:
        """Compute the statistics of batch normalization anew, where that helps, and return the scores of a model."""
        shown, kept = self.data.score(model), model.get_weights()
        if not recalibrate(model, self.data.batches(BATCHES)):
            return shown
        found = self.data.score(model)
        name = "loss" if "loss" in shown else min(shown)  # steps of a user's own may tell no loss
        if not found[name] <= shown[name]:
            model.set_weights(kept)
            return shown
        self.say(f"computed the statistics of batch normalization anew: {name} {shown[name]:.4g} to {found[name]:.4g}")
        return found

    def compile(self, model: keras.Model, optimizer: Any) -> None:
        """Compile a model as the user has compiled hers, with another optimizer.

        What a `compile` of her own has noted is in the model already.
        """
        exclude_from_decay(optimizer, model, self.without_decay)
        keras.Model.compile(model, optimizer, **fitting.with_new_metrics(self.compile_arguments))

    def compile_to_choose(self, model: keras.Model) -> Any:
        """Compile a model with the optimizer that makes zeros, and return that."""
        optimizer = self.chooser or self.optimizer
        rate = largest(learning_rate(optimizer), self.epochs * self.data.steps)
        psi = GroupLasso(recipe.STRENGTH, groups=recipe.groups(model))
        chooser = proximal(optimizer, rate, psi)
        self.compile(model, chooser)
        own = [each for each in model.trainable_variables if own_regularizer(each) is not None]
        with hooks.without_regularizers(own):  # penalties of layers stay losses, as under the user's optimizer
            chooser.build(model.trainable_variables)
        for coupling in innermost(chooser).couplings:
            coupling.factors.assign(OPEN * ops.convert_to_tensor(coupling.factors))
        return chooser

    def compile_to_use(self, model: keras.Model) -> None:
        """Compile a model as the user's, with a new optimizer like hers."""
        self.compile(model, stock(self.optimizer))

    # ---- helpers

    def _rate(self, rate: Any, epochs: int) -> Any:
        """Return a learning rate for so many epochs: the user's schedule gone through anew, a cosine, or a number."""
        steps = max(epochs * self.data.steps, 1)
        if callable(rate):
            return Rescaled(rate, self.epochs * self.data.steps, steps)
        return rate if set_rates(self.callbacks) else keras.optimizers.schedules.CosineDecay(rate, steps)

    def _may_shrink(self, model: keras.Model) -> bool:
        """Return whether the model may be cut while it trains: by this process alone, and between epochs.

        Whether a cut pays is measured, and processes that train together would not find the same. `shrink` takes models
        that make the steps of Keras. Where the data of an epoch begin after those of the one before
        (`steps_per_epoch`), a new `fit` would begin with the first. What a file costs is known of the whole model.
        """
        if not self.shrink or self.of_file or self.data.goes_on or own_step(model):
            return False
        return replicas.is_alone(getattr(model, "distribute_strategy", None))

    def _tell(self, first: int, last: int, what: str) -> None:
        self.say(f"epochs {first + 1} to {last} of {self.epochs}: {what}")

    def _progress(self, first: int) -> Progress:
        return Progress(self.verbose, steps=self.data.steps, first=first, epochs=self.epochs)

    def _folder(self, name: str) -> Path | None:
        return None if self.directory is None else self.directory / name

    def _fit(
        self, model: keras.Model, first: int, last: int, phase: str, callbacks: list, name: str, behind: list = ()
    ) -> None:
        folder = self._folder(name)
        kept = [] if folder is None else [BackupAndRestore(folder, delete_checkpoint=False)]
        listed = [*callbacks, *kept, *behind, Notes(self._history, phase)]
        with self.training.part(model, last), momenta(model, FOLLOWS), hooks.state_before_tracing():
            self.data.fit(model, epochs=last, initial_epoch=first, verbose=0, callbacks=listed, **self.fit_arguments)
        if failed := finite.nonfinite_weights(model):
            raise RuntimeError(
                f"The training ended with weights that are not finite, first {failed[0]!r}: try a smaller learning "
                "rate, unless numbers of the data are not finite."
            )

    def _path(self, name: str) -> Path:
        return self.directory / f"{name}.npz"

    def _load(self, model: keras.Model, name: str) -> bool:
        """Load the weights that a run which was killed had come to, if there are."""
        if self.directory is None or not self._path(name).exists():
            return False
        with np.load(self._path(name)) as values:
            model.set_weights([values[key] for key in values.files])
        return True

    def _save(self, model: keras.Model, name: str) -> None:
        if self.directory is not None:
            with files.replacing(self._path(name)) as temporary:
                np.savez(temporary, *model.get_weights())
