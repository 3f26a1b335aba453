"""The two phases: choose what goes while all is there, then tune what is left."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_rmda.compression.recipe as recipe
from keras_rmda.callbacks import BackupAndRestore, TargetSparsity
from keras_rmda.compression.callbacks import GoOn, part_of_one_training, set_rates, works_while_choosing
from keras_rmda.compression.counterparts import Rescaled, largest, learning_rate, proximal, stock, with_rate
from keras_rmda.compression.data import Data
from keras_rmda.compression.distillation import distilled
from keras_rmda.compression.progress import Progress
from keras_rmda.compression.scores import Scores
from keras_rmda.compression.statistics import BATCHES, FOLLOWS, momenta, recalibrate
from keras_rmda.platform import files, finite, fitting
from keras_rmda.regularizers import GroupLasso
from keras_rmda.structure import strip
from keras_rmda.structure.coupling import coupled_groups


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
    history: dict[str, list[Any]] = field(default_factory=dict)
    has_begun: bool = False
    has_ended: bool = False

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
        small = strip(model)
        if not self._load(small, f"{name}-tuned"):
            self.tune(small, middle, last, name)
            self._save(small, f"{name}-tuned")
        return small

    def choose(self, model: keras.Model, target: float, first: int, last: int, name: str) -> None:
        """Train a model by a proximal optimizer until what is to go is zero."""
        if self._load(model, f"{name}-chosen"):
            return
        optimizer = self.chooser or self.optimizer
        rate = largest(learning_rate(optimizer), self.epochs * self.data.steps)
        psi = GroupLasso(recipe.STRENGTH, groups=coupled_groups(model, parts=recipe.PARTS))
        chooser = proximal(optimizer, rate, psi)
        self.compile(model, chooser)
        target_sparsity = TargetSparsity(
            target, self.metric, *recipe.decisions(first, last), self.multiple_of, "fisher"
        )
        title = f"choosing what is left ({type(chooser).__name__}, learning rate {rate:.3g})"
        with distilled(model, self.teacher, self.distillation):
            self._fit(model, first, last, title, [target_sparsity], f"{name}-choose")
        self._save(model, f"{name}-chosen")

    def tune(self, model: keras.Model, first: int, last: int, name: str) -> None:
        """Train the small model by the user's own optimizer."""
        own = stock(self.optimizer)
        rate = self._rate(learning_rate(own), last - first)
        self.compile(model, with_rate(own, rate))
        steps = (last - first) * self.data.steps
        title = f"tuning the small model ({type(own).__name__}, learning rate up to {largest(rate, steps):.3g})"
        with distilled(model, self.teacher, self.distillation):
            self._fit(model, first, last, title, [], f"{name}-tune")

    def end(self) -> None:
        """Tell the callbacks that the training has ended, if that was before its last epoch."""
        for each in self.callbacks if self.has_begun and not self.has_ended else ():
            each.on_train_end()

    def finished(self, model: keras.Model) -> Scores:
        """Compute the statistics of batch normalization anew, where that helps, and return the scores of a model."""
        shown, kept = self.data.score(model), model.get_weights()
        if not recalibrate(model, self.data.batches(BATCHES)):
            return shown
        found = self.data.score(model)
        if not found["loss"] <= shown["loss"]:
            model.set_weights(kept)
            return shown
        self.say(
            f"computed the statistics of batch normalization anew: loss {shown['loss']:.4g} to {found['loss']:.4g}"
        )
        return found

    def compile(self, model: keras.Model, optimizer: Any) -> None:
        """Compile a model as the user has compiled hers, with another optimizer."""
        model.compile(optimizer, **fitting.with_new_metrics(self.compile_arguments))

    # ---- helpers

    def _rate(self, rate: Any, epochs: int) -> Any:
        """Return a learning rate for so many epochs: the user's schedule gone through anew, a cosine, or a number."""
        steps = max(epochs * self.data.steps, 1)
        if callable(rate):
            return Rescaled(rate, self.epochs * self.data.steps, steps)
        return rate if set_rates(self.callbacks) else keras.optimizers.schedules.CosineDecay(rate, steps)

    def _fit(self, model: keras.Model, first: int, last: int, title: str, own: list, name: str) -> None:
        self.say(f"epochs {first + 1} to {last} of {self.epochs}: {title}")
        progress = Progress(self.verbose, steps=self.data.steps, first=first, epochs=self.epochs)
        kept = [] if self.directory is None else [BackupAndRestore(self.directory / name)]
        theirs = [each for each in self.callbacks if not own or works_while_choosing(each)]
        listed = [*own, *theirs, *([GoOn()] if own else []), progress, *kept]
        is_first, self.has_begun, self.has_ended = not self.has_begun, True, last >= self.epochs
        with part_of_one_training(self.callbacks, self.epochs, is_first, self.has_ended), momenta(model, FOLLOWS):
            found = self.data.fit(
                model, epochs=last, initial_epoch=first, verbose=0, callbacks=listed, **self.fit_arguments
            )
        if failed := finite.nonfinite_weights(model):
            raise RuntimeError(
                f"The training ended with weights that are not finite, first {failed[0]!r}: try a smaller learning "
                "rate."
            )
        self._note(found, "choose" if own else "tune")

    def _note(self, found: keras.callbacks.History, phase: str) -> None:
        """Append the history of a phase; what it does not log is None."""
        before = len(self.history.get("phase", []))
        for key in {*self.history, *found.history} - {"phase"}:
            column = self.history.setdefault(key, [None] * before)
            column += found.history.get(key, [None] * len(found.epoch))
            if key.endswith("_left"):  # what is left stays
                known = [each for each in column if each is not None]
                column[:] = [known[-1] if each is None and known else each for each in column]
        self.history.setdefault("phase", []).extend([phase] * len(found.epoch))

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


@contextlib.contextmanager
def kept_in(directory: Path | None, settings: dict[str, Any], begun: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what a run knew when it began, from its folder if it was killed; delete the folder when it has ended.

    Args:
        directory: the folder, or None.
        settings: what must be equal for a run to go on.
        begun: what it knows now.

    Raises:
        ValueError: if the folder is of another run, or of something else.
    """
    if directory is None:
        yield begun
        return
    path = directory / SETTINGS
    if path.exists():
        known = json.loads(path.read_text())
        if known["settings"] != settings:
            raise ValueError(
                f"`directory` holds a run with other arguments: {known['settings']!r}. Give another folder, or delete "
                f"it. Received: directory={str(directory)!r} for {settings!r}"
            )
        begun = known["begun"]
    elif directory.exists() and any(directory.iterdir()):
        raise ValueError(
            f"`directory` must be a folder of its own: what is in it is deleted. Received: directory={str(directory)!r}"
        )
    else:
        directory.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as temporary:
            temporary.write_text(json.dumps({"settings": settings, "begun": begun}))
    try:
        yield begun
    except BaseException:
        if [each.name for each in directory.iterdir()] == [SETTINGS]:  # nothing to go on from
            shutil.rmtree(directory, ignore_errors=True)
        raise
    shutil.rmtree(directory, ignore_errors=True)


SETTINGS = "compress.json"
