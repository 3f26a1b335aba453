"""The numbers of the recipe, found by experiment (benchmarks/README.md, compress), and what it needs to see."""

from __future__ import annotations

import keras
import numpy as np

from keras_rmda.compression.data import Data
from keras_rmda.compression.distillation import kinds_of_outputs, squares
from keras_rmda.compression.scores import Scores
from keras_rmda.compression.statistics import recalibrate
from keras_rmda.platform import fitting
from keras_rmda.regularizers import CoupledGroups
from keras_rmda.structure.coupling import NoGroupsError, coupled_groups

CHOOSING = 0.45
"""The share of the epochs in which groups are chosen."""

BEGIN = 0.4
"""The share of the choosing epochs that pass before the first group goes."""

STRENGTH = 1e-6
"""Of the group lasso while groups are chosen, times `OPEN` of callbacks.choice for groups that are not: what is chosen
is kept at zero by the proximal map, and nothing else is penalized, so that steps do not depend on norms of groups.
Scores do not tell a factor of 1 from this one."""

DISTILLATION = 0.5
"""The share of the loss that is the difference from a trained classifier's outputs, unless the user says another."""

KNOWS = 0.8
"""A model is trained if its loss is less than this share of the smallest loss with shuffled kernels."""

SHUFFLES = 4

LOOK, ENOUGH = 8, 256
"""How many batches that loss is computed on, at most, and samples."""

SHORTEST = 2
"""Epochs of the shortest training: one to choose, one to tune."""


def groups(model: keras.Model) -> CoupledGroups:
    """Return the groups that are chosen from: all weights of channels, those that make them and those that read them.

    Where none can go so, as behind a normalization of weights that makes something of zeros, those that read them.
    """
    try:
        return coupled_groups(model, parts="all")
    except NoGroupsError:
        return coupled_groups(model)


def choosing_epochs(epochs: int) -> int:
    """Return in how many of so many epochs groups are chosen."""
    return min(max(1, round(CHOOSING * epochs)), epochs - 1)


def decisions(first: int, last: int) -> tuple[float, float]:
    """Return `begin` and `end` of TargetSparsity, as shares of the `last` epochs, of a phase from `first` on."""
    return (first + BEGIN * (last - first)) / last, 1.0


def with_and_without(model: keras.Model, data: Data) -> list[Scores]:
    """Return the scores of a compiled model on some samples, and those with the numbers of every kernel shuffled.

    All have statistics of batch normalization of their own.
    """
    variables, values = model.weights, model.get_weights()
    seen, order, found = data.first(ENOUGH, LOOK), np.random.default_rng(0), []
    try:
        for shuffle in range(1 + SHUFFLES):
            for variable, value in zip(variables, values) if shuffle else ():
                if variable.trainable and value.ndim > 1:
                    variable.assign(order.permutation(value.reshape(-1)).reshape(value.shape))
            recalibrate(model, seen)
            found.append(mean_scores(model, seen))
    finally:
        model.set_weights(values)
    return found


def is_trained(found: list[Scores]) -> bool:
    """Return whether a model computes something that it has learned, by the scores of `with_and_without`.

    Formula: its loss is much smaller than with the numbers of every kernel in another order, which have the same
    distribution. A model with initial weights does not care. Steps of a user's own may tell no loss.
    """
    first, *others = [each.get("loss", np.nan) for each in found]
    return bool(first < KNOWS * min(others))


def mean_scores(model: keras.Model, batches: list[tuple]) -> Scores:
    """Return the mean scores of batches."""
    # Not by `test_on_batch`, which gives steps of a user's own a weight of samples that is None.
    found = [
        model.evaluate(**fitting.named(batch) | {"batch_size": size}, verbose=0, return_dict=True)
        for batch, size in joined(batches)
    ]
    return {name: float(np.mean([each[name] for each in found])) for name in found[0]}


def joined(batches: list[tuple]) -> list[tuple[tuple, int]]:
    """Return batches as one, if their samples have the same shapes, and how many samples are in each of them."""
    flat = [keras.tree.flatten(batch) for batch in batches]
    are_arrays = all(isinstance(x, np.ndarray) for each in flat for x in each)
    if are_arrays and len({tuple(x.shape[1:] for x in each) for each in flat}) == 1:
        batches = [keras.tree.map_structure(lambda *parts: np.concatenate(parts), *batches)]
    return [(batch, len(each[0])) for batch, each in zip(batches, flat)]


def distillation(model: keras.Model, knows: bool) -> float:
    """Return the share of the loss for what a model knows: none where it is fresh, or where an output is no class.

    Numbers are better learned from the targets themselves than from somebody's predictions of them.
    """
    return DISTILLATION if knows and squares not in kinds_of_outputs(model) else 0.0
