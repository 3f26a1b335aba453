"""A model, its data and a target in; a smaller model out."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import keras

import keras_rmda.compression.recipe as recipe
from keras_rmda.callbacks import TargetSparsity
from keras_rmda.compression.callbacks import checked, warn_of_what_is_used
from keras_rmda.compression.counterparts import proximal, stock, without_decay
from keras_rmda.compression.data import NO_SAMPLE, Data
from keras_rmda.compression.defaults import default_arguments
from keras_rmda.compression.folder import digest, kept_in, plain_numbers
from keras_rmda.compression.progress import chosen_verbosity
from keras_rmda.compression.result import Compressed, compared
from keras_rmda.compression.run import Run
from keras_rmda.compression.scores import Score, Scores, score_of
from keras_rmda.compression.search import Limit, check_trained, smallest_that_holds
from keras_rmda.compression.steps import check_optimizers, check_steps, copy_of, own_step
from keras_rmda.export.devices import DeviceProfile, EnergyTable
from keras_rmda.platform import checks, fitting, graphs
from keras_rmda.structure import analyze, copied

KEPT_SAMPLES = 200
"""Inputs that are kept for quantization: as many as `export_tflite` uses."""


def compress(
    model: keras.Model,
    x: Any,
    y: Any = None,
    *,
    target: float | str | None = None,
    metric: Literal["macs", "parameters", "groups", "bytes", "file_bytes", "arena", "latency", "energy"] = "macs",
    accuracy_loss: float | None = None,
    epochs: int = 30,
    batch_size: int | None = None,
    validation_data: Any = None,
    validation_split: float = 0.0,
    callbacks: Any = (),
    verbose: Literal["auto", 0, 1, 2] = "auto",
    optimizer: Any = None,
    loss: Any = None,
    metrics: Any = None,
    chooser: Any = None,
    distillation: float | None = None,
    multiple_of: int = 1,
    shrink: bool = True,
    directory: str | Path | None = None,
    sample_weight: Any = None,
    class_weight: dict[int, float] | None = None,
    shuffle: bool = True,
    steps_per_epoch: int | None = None,
    validation_steps: int | None = None,
    validation_batch_size: int | None = None,
    targets: Mapping[str, float | str] | None = None,
    export: Mapping[str, Any] | None = None,
    profile: DeviceProfile | EnergyTable | Sequence[DeviceProfile | EnergyTable] | None = None,
) -> Compressed:
    """Make a model several times smaller: train it, fresh or trained, until only a share of it is left.

    First the whole model is trained by the proximal counterpart of the user's optimizer, while the groups of channels
    that are worth the least for what they cost become zero. Then these are cut out, and what is left is trained by the
    user's own optimizer, whose schedule is gone through anew; a constant learning rate falls along a cosine. In the end
    the statistics of batch normalization are computed anew.

    Args:
        model: as for `strip`, fresh or trained, compiled or not. It is not changed; one that is not built yet is
            built for the data, as `fit` does.
        x, y: training data in any form that `fit` takes.
        target: what is to be left: a share in (0, 1), or a number of 1 and more in units of the metric; .25 if neither
            it nor `accuracy_loss` is given.
        metric: `"macs"`, `"parameters"`, `"bytes"`, `"groups"`, `"file_bytes"`, `"arena"`, `"latency"` or
            `"energy"`, as of `callbacks.TargetSparsity`.
        accuracy_loss: instead of `target`: how much the score of a trained model may fall, while it is made as small as
            it gets. The score is the first metric of `compile`, else the loss. For scores that fall as they get better
            it is a share of them. Which do is what a metric says itself, or was better than without what the model has
            learned.
        epochs: of everything together, at least 2.
        batch_size: as for `fit`.
        validation_data, validation_split: as for `fit`. What is tuned by hand is best not judged on it.
        callbacks: as for `fit`; they see one training, of `self.model`, which gets smaller. `BackupAndRestore` is
            refused: see `directory`.
        verbose: 1 is a bar for each phase, 2 a line for each epoch, 0 nothing.
        optimizer, loss, metrics: as for `compile`, in the place of what the model was compiled with. A model that was
            not is trained by Adam, with cross-entropy for classes and labels (integers, or one number for each class),
            else with squares.
        chooser: an optimizer of this package that chooses, in the place of the counterpart of `optimizer`.
        distillation: share of the loss, in [0, 1], that is the difference of the outputs from those of `model`; None
            for a half where it is a trained classifier, else nothing.
        multiple_of: widths are multiples of this, as of `callbacks.TargetSparsity`.
        shrink: whether what is gone for good is cut out while groups are still chosen, where that saves time. The
            result is the same but for rounding; and in distribution where random numbers depend on widths (dropout) or
            on the number of calls of `fit` (`shuffle=True`).
        directory: a folder of its own for copies, so that the same call goes on after a kill; deleted in the end.
        sample_weight, class_weight, shuffle, steps_per_epoch, validation_steps, validation_batch_size: as for `fit`.
        targets, export, profile: as of `callbacks.TargetSparsity`: several targets at once, how the file is written
            that they are of, and the device.

    Returns:
        The smaller model, compiled and ready to train on, with scores, history and a report.

    Raises:
        ValueError: before any training: for an argument out of range, data that do not fit the model, an optimizer
            without a proximal counterpart, a model without anything to remove, a target below what is possible, or too
            few epochs.
        RuntimeError: if weights are not finite any more.

    Example:
        >>> result = kr.compress(model, x, y, target=0.25, validation_data=(x_val, y_val))
        >>> print(result)
        >>> result.export("small.tflite", "int8")
    """
    if (target if targets is None else targets) is not None and accuracy_loss is not None:
        raise ValueError(
            f"Give `target` or `accuracy_loss`, not both. Received: {target or targets!r} and {accuracy_loss!r}"
        )
    if accuracy_loss is None:
        target = 0.25 if target is None and targets is None else target
        aim = TargetSparsity(target, metric, targets=targets, export=export, profile=profile).targets
        is_of_file = set(aim) & set(checks.FILE_METRICS)
        of_file = {"targets": aim, "export": export, "profile": profile} if is_of_file else {}
    else:
        accuracy_loss = checks.real("accuracy_loss", accuracy_loss)
        checks.one_of("metric", metric, [each for each in checks.METRICS if each not in checks.FILE_METRICS])
        of_file = {}
    epochs = checks.whole("epochs", epochs, recipe.SHORTEST)
    multiple_of = checks.whole("multiple_of", multiple_of, 1)
    checks.truth("shrink", shrink)
    sizes = {"batch_size": batch_size, "steps_per_epoch": steps_per_epoch}
    sizes |= {"validation_batch_size": validation_batch_size, "validation_steps": validation_steps}
    for name, value in sizes.items():
        if value is not None:
            checks.whole(name, value, 1)
    if distillation is not None:
        checks.real("distillation", distillation, maximum=1.0)
    how = chosen_verbosity(verbose)
    listed = checked(callbacks)
    data = Data(
        x, y, sample_weight, batch_size, steps_per_epoch,
        validation_data, validation_split, validation_steps, validation_batch_size,
    )  # fmt: skip
    given = {"optimizer": optimizer, "loss": loss, "metrics": metrics}
    arguments = fitting.compile_arguments(model) | {k: v for k, v in given.items() if v is not None}
    own = keras.optimizers.get(arguments.pop("optimizer", None) or "adam")
    if distillation and own_step(model) == "train_step":
        raise ValueError(
            f"`distillation` is a part of the loss of Keras's own `train_step`, and {type(model).__name__} defines "
            f"another: give distillation=0. Received: distillation={distillation!r}"
        )
    check_optimizers(model)
    if isinstance(chooser, (str, dict)):
        chooser = keras.optimizers.get(chooser)
    proximal(chooser or own, 0.0, None)  # refuses what has no counterpart, now
    stock(own)
    fit_arguments = ({"shuffle": shuffle} if data.is_arrays else {}) | (
        {} if class_weight is None else {"class_weight": class_weight}
    )

    with fitting.scope_of(model):
        build(model, data)
        whole = copy_of(model)
        has_own_step = own_step(model) is not None
        if "loss" not in arguments and not has_own_step:
            arguments = default_arguments(whole, data) | arguments
        run = Run(
            data, arguments, own, chooser, model, distillation or 0.0, metric, multiple_of, epochs, listed, how,
            None if directory is None else Path(directory), fit_arguments, shrink, without_decay(own, model), of_file,
        )  # fmt: skip
        recipe.groups(whole)  # refuses a model without any
        check_steps(model, whole, next(data.batches(1)), run.compile_to_choose, run.compile_to_use)
        run.compile_to_use(whole)
        begun = {"before": scored(whole, data)}
        if not begun["before"] and not has_own_step:
            raise ValueError(NO_SAMPLE)
        looks = recipe.with_and_without(whole, data)
        begun["is_trained"] = recipe.is_trained(looks)
        score = score_of(whole, begun["before"], looks)
        if begun["is_trained"]:
            warn_of_statistics(run, whole, score, begun["before"])
        warn_of_what_is_used(listed, model)
        settings = {"target": target, "accuracy_loss": accuracy_loss, "metric": metric, "epochs": epochs}
        settings |= {
            "multiple_of": multiple_of,
            "targets": None if targets is None else dict(targets),
            "parameters": model.count_params(),
            "steps": data.steps,
            "optimizer": plain_numbers(own),
            "chooser": None if chooser is None else plain_numbers(chooser),
            "distillation": distillation,
            "weights": digest(model.get_weights()) if begun["is_trained"] else "not trained",
        }
        report = analyze(whole)
        with kept_in(run.directory, settings, begun) as begun:
            before, is_trained = begun["before"], begun["is_trained"]
            if distillation is None:
                run.distillation = 0.0 if has_own_step else recipe.distillation(whole, is_trained)
            if run.distillation:
                run.teacher = copied(whole)  # with statistics that fit
            if accuracy_loss is None:
                small = run.stage(whole, target, 0, epochs, "small")
                after = run.finished(small)
            else:
                check_trained(model, is_trained)
                limit = Limit(run, score, before, accuracy_loss)
                small = smallest_that_holds(run, whole, limit)
                after = limit.scores
            run.training.end(after)
            run.compile_to_use(small)
            small.optimizer.build(small.trainable_variables)  # loading a file warns of an optimizer without its slots
    if is_trained and score.is_far_below(before, after):
        warnings.warn(
            f"The {score.name} went from {before[score.name]:.4g} to {after[score.name]:.4g}: try more `epochs`, a "
            "larger `target`, or `accuracy_loss`, which ends before that.",
            checks.SparsityWarning,
            stacklevel=2,
        )
    return Compressed(
        small, compared(report, analyze(small)), run.history, before, after, data.samples(KEPT_SAMPLES)
    )  # fmt: skip


def build(model: keras.Model, data: Data) -> None:
    """Call a model that has no weights yet on a batch, as `fit` does."""
    graphs.check_call(model)
    if not model.built:
        with explained(model, data):
            model(next(data.batches(1))[0])


def scored(model: keras.Model, data: Data) -> Scores:
    """Return the scores of a compiled model; refuse a loss that is no number."""
    with explained(model, data):
        found = data.score(model)
    if math.isnan(found.get("loss", 0.0)):
        raise ValueError(
            f"The loss of {model.name!r} is NaN before any training: inputs, targets or weights of samples are not "
            "finite, or the loss is not defined for them."
        )
    return found


@contextlib.contextmanager
def explained(model: keras.Model, data: Data) -> Iterator[None]:
    """Say in one sentence where the data do not fit a model."""
    try:
        yield
    except Exception as error:
        x = next(data.batches(1))[0]
        shapes = keras.tree.map_structure(lambda each: tuple(each.shape), x)
        known = getattr(model, "input_shape", None) if model.built else None  # of a subclassed one there is none
        takes = f" It takes inputs of the shapes {known!r}." if known else ""
        raise ValueError(
            f"{model.name!r} cannot be evaluated on the data: {checks.first_line(error)}{takes} Received: batches of "
            f"inputs of the shapes {shapes!r}"
        ) from error


def warn_of_statistics(run: Run, model: keras.Model, score: Score, before: Scores) -> None:
    """Say where the moving statistics of a trained model do not fit its weights; `before` gets the better scores."""
    better = run.finished(model)
    if score.is_far_below(better, before):
        warnings.warn(
            f"The moving statistics of the batch normalizations of {model.name!r} do not fit its weights: its "
            f"{score.name} is {before[score.name]:.4g}, and {better[score.name]:.4g} with statistics of the training "
            "data, which `compress` goes on with. A smaller `momentum` mends that where the model is trained.",
            checks.SparsityWarning,
            stacklevel=3,
        )
    before.update(better)
