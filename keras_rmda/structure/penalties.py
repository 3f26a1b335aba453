"""The penalties of a model in a smaller one: the same on what stays, group by group."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.optimizers.assignment import Regularizers, axes_of_weights, own_regularizer
from keras_rmda.optimizers.base import SparseOptimizer, applies_penalty_of
from keras_rmda.optimizers.joint import Coupling
from keras_rmda.optimizers.names import names_in
from keras_rmda.platform import nested
from keras_rmda.regularizers import CoupledGroups, GroupLasso, PenaltyPart, ProximalRegularizer
from keras_rmda.structure.kept import Kept


def regularizers_of(optimizer: SparseOptimizer, kept: Kept, small: keras.Model) -> Regularizers:
    """Return what the optimizer of a smaller model has as its `regularizer`.

    Strengths and weights of groups are those of the model, also where a group has fewer weights than it had.
    """
    new = copy.deepcopy(optimizer.regularizer)
    if not optimizer.built:
        return new
    pairs = dict(zip(map(id, penalties_in(optimizer.regularizer)), penalties_in(new)))
    names = names_in(small)
    for coupling in optimizer.couplings:
        groups = coupling.groups
        pairs[id(coupling.penalty)].groups = cut_groups(groups, coupling, optimizer, kept, names)
    sized: dict[str, ProximalRegularizer] = {}
    for variable, psi in zip(optimizer._trainable_variables, optimizer._penalties):
        if psi is None or own_regularizer(variable) is not None:
            continue
        original = psi.penalty if isinstance(psi, PenaltyPart) else source(psi, optimizer.regularizer)
        other = kept.small[id(variable)]
        sized[names[id(other)][0]] = with_size(pairs[id(original)], psi, variable, other)
    changed = any(psi not in pairs.values() for psi in sized.values())
    return sized if changed else new


def penalties_in(regularizers: Regularizers) -> list[ProximalRegularizer]:
    """Return the penalties of a `regularizer` of an optimizer."""
    found = regularizers.values() if isinstance(regularizers, Mapping) else [regularizers]
    return [psi for psi in found if psi is not None]


def source(psi: ProximalRegularizer, regularizers: Regularizers) -> ProximalRegularizer:
    """Return which of the penalties an optimizer was given has become that of a weight."""
    return next(each for each in penalties_in(regularizers) if each._strength is psi._strength)


def with_size(
    psi: ProximalRegularizer, old: ProximalRegularizer, variable: keras.Variable, other: keras.Variable
) -> ProximalRegularizer:
    """Return the penalty of a weight of the smaller model, whose groups count as they did in the model."""
    if not isinstance(old, GroupLasso) or not old.scale_by_size:
        return psi
    before, after = (old.grouping(tuple(each.shape)) for each in (variable, other))
    if before.weights == after.weights:
        return psi
    psi = copy.copy(psi)
    psi.size = before.size if old.size is None else old.size
    return psi


def keep_own_penalties(model: keras.Model, kept: Kept) -> None:
    """Let the penalties of layers be what they were on what stays: the sizes of groups, and strengths in common."""
    shared: dict[int, Any] = {}
    axes = axes_of_weights(model)
    for variable in model.weights:
        psi, new = own_regularizer(variable), kept.small.get(id(variable))
        if psi is None or new is None:
            continue
        old = psi.along(axes[id(variable)]) if id(variable) in axes else psi
        new.regularizer._strength = shared.setdefault(id(psi._strength), new.regularizer._strength)
        if with_size(new.regularizer, old, variable, new) is not new.regularizer:
            new.regularizer.size = old.grouping(tuple(variable.shape)).size if old.size is None else old.size


def losses_count_what_is_gone(model: keras.Model, kept: Kept) -> bool:
    """Return whether weights that act on nothing have a part in steps, since penalties in the loss give them gradients.

    That is so where a penalty is no sum over weights by themselves, or where gradients are clipped by norms.
    """
    trainer = nested.trainer_of(model.optimizer)
    for variable in model.trainable_variables:
        psi, optimizer = variable.regularizer, trainer(variable)
        if psi is None or id(variable) not in kept.small or applies_penalty_of(optimizer, variable):
            continue
        whole = ops.convert_to_numpy(ops.cast(variable, "float32"))
        left = kept.filled(variable, kept.cut(variable, whole), 0)
        if (left != whole).any():
            a, b, c = (float(ops.convert_to_numpy(psi(ops.convert_to_tensor(x)))) for x in (whole, left, whole - left))
            if optimizer.clipnorm or optimizer.global_clipnorm or abs(a - b - c) > 1e-5 * abs(a):
                return True
    return False


def kept_groups(coupling: Coupling, optimizer: SparseOptimizer, kept: Kept) -> np.ndarray:
    """Return the numbers of the groups of which anything stays."""
    found = [cut_numbers(coupling, index, optimizer, kept) for index in coupling.indices]
    numbers = np.unique(np.concatenate([each.reshape(-1) for each in found]))
    return numbers[numbers >= 0]


def cut_numbers(coupling: Coupling, index: int, optimizer: SparseOptimizer, kept: Kept) -> np.ndarray:
    """Return the number of the group of each weight that stays of a variable."""
    variable = optimizer._trainable_variables[index]
    return kept.cut(variable, np.broadcast_to(coupling.groups_of(index), variable.shape))


def cut_groups(
    groups: CoupledGroups,
    coupling: Coupling,
    optimizer: SparseOptimizer,
    kept: Kept,
    names: Mapping[int, tuple[str, ...]],
) -> CoupledGroups:
    """Return what stays of coupled groups, with the weights that they had."""
    stays = kept_groups(coupling, optimizer, kept)
    renumbered = np.full(len(groups) + 1, -1)  # the last is for -1
    renumbered[stays] = np.arange(len(stays))
    members = {}
    for index, part in zip(coupling.indices, coupling.parts):
        called = names[id(kept.small[id(optimizer._trainable_variables[index])])]
        path = part.path if part.path in called else called[0]
        members[path] = compact(renumbered[cut_numbers(coupling, index, optimizer, kept)])
    return CoupledGroups(members, groups.weights[stays], [groups.names[k] for k in stays])


def compact(numbers: np.ndarray) -> np.ndarray:
    """Return numbers with axes of size 1 along which they do not change."""
    for axis in range(numbers.ndim):
        first = np.take(numbers, [0], axis)
        numbers = first if (numbers == first).all() else numbers
    return numbers
