"""Groups of weights whose zeros are channels that the converter removes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np

from keras_rmda.channels.sites import WRITTEN, Site
from keras_rmda.channels.tensors import varying
from keras_rmda.optimizers.names import check_patterns, matches, names_in
from keras_rmda.platform import checks
from keras_rmda.regularizers import CoupledGroups
from keras_rmda.structure.liveness import OTHER_WIDTH, plan
from keras_rmda.structure.rebuilding import check_can_be_rebuilt
from keras_rmda.structure.savings import savings
from keras_rmda.structure.strip import meaningless
from keras_rmda.structure.trace import Trace, as_graph, trace

PARTS = ("readers", "all")

HEADS = {"k": "/key", "v": "/value"}
"""Letters of channels inside a layer, and how they are called."""


class NoGroupsError(ValueError):
    """A model has no channels that zeros could remove."""


def coupled_groups(
    model: keras.Model,
    parts: Literal["readers", "all"] = "readers",
    weights: Literal["size", "macs"] | Mapping[str, float] = "size",
    exclude: Sequence[str] = (),
) -> CoupledGroups:
    """Return one group of weights for each set of channels that `strip` can only remove together.

    Formula: psi(w) = strength * sum_g omega_g |w_g|_2, where w_g are all weights, of whatever variables, that belong to
    the channels g. For `weights="size"` omega_g = sqrt(n_g) with n_g weights in the group; else
    omega_g = c_g / sqrt(n_g) * (sum n / sum c), where c_g is what the removal of the group saves.

    A channel can go if nobody reads it. In a residual network the layers along the stream share their channels, and
    each of them has many readers; attention heads, groups of grouped convolutions and the inputs and outputs of
    depthwise ones go as a whole. When an optimizer makes such a group zero, `strip` removes the channels. That it
    would is checked here, by the converter itself: what it would keep is in no group.

    Args:
        model: a built model with a graph, as for `strip`. Its present values do not matter.
        parts: `"readers"`: the weights that read the channels; `"all"`: those that write and scale them (kernels,
            biases, scales and offsets of normalizations, embeddings), and the readers whose own outputs cannot go, so
            that every weight belongs to one group.
        weights: `"size"`; `"macs"`, multiply-accumulates; or a dictionary from names of layers, as in `analyze`, to
            times that they take, in any unit: layers that are not in it cost nothing.
        exclude: patterns of the paths of variables that are not to be penalized, as of optimizers. Weights that are
            not trainable are not either.

    Returns:
        The groups, for `GroupLasso(strength, groups=...)` and `SparseGroupLasso`.

    Raises:
        ValueError: for an argument out of range, if the model has no graph, if no channel can be removed, or if `strip`
            could not rebuild a layer.

    Example:
        >>> model.compile(kr.RMDA(0.1, regularizer=kr.GroupLasso(1e-4, groups=kr.coupled_groups(model))), loss="mse")

    Source: Chen et al. 2021, "Only train once: a one-shot neural network training and pruning framework",
    arXiv:2107.07467, for zero-invariant groups, which are `parts="all"`.
    """
    checks.one_of("parts", parts, PARTS)
    if not isinstance(weights, Mapping):
        checks.one_of("weights", weights, ("size", "macs"))
    check_patterns("exclude", exclude)
    called = names_in(model)  # before the graph gives names to what has the same
    with as_graph(model) as graph:
        traced = trace(graph)
        tie_what_goes_together(traced)
        is_excluded = lambda v: any(matches(pattern, called[id(v)]) for pattern in exclude)  # noqa: E731
        free = {id(v) for v in model.trainable_variables if not is_excluded(v)}
        found = removable(traced, parts, free)
        roots = atoms_in(found)
        if not roots.size:
            raise NoGroupsError(
                f"No channel of the model {model.name!r} can be removed by zeros in its trainable weights. "
                "`keras_rmda.analyze(model)` says why they stay."
            )
        check_can_be_rebuilt(graph, plan(traced, without_groups(found, roots[::2])), roots)
        numbers = np.full(len(traced.ties.parent) + 1, -1)
        numbers[roots] = np.arange(len(roots))
        members = [(variable, numbers[ids]) for variable, ids in found.values()]
        sizes = sum(elements(ids, tuple(variable.shape), len(roots)) for variable, ids in members)
        root_sizes = np.sqrt(sizes)
        if weights != "size":
            saved = savings(traced, roots, weights)
            root_sizes = saved / root_sizes * (sizes.sum() / max(saved.sum(), 1e-300))
        named = {called[id(variable)][0]: ids for variable, ids in members}
        return CoupledGroups(named, root_sizes, names_of(traced, roots))


def tie_what_goes_together(traced: Trace) -> None:
    """Tie the inputs and outputs of one group of a grouped layer, all of a head, and the units of both directions."""
    # First what has one axis of rows: what is a head there is one in the others.
    for _, block in sorted(traced.blocks, key=lambda each: each[1].matrices[0].ndim):
        first, *others = block.matrices
        for axis in range(first.ndim - 1):
            traced.ties.tie_alike(block.matrices, axis)
        found = traced.ties.find(first)
        outer = [axis for axis in varying(found) if axis < first.ndim - 1]
        # Of packed queries, keys and values the heads go, not all queries.
        axis = max(outer, key=lambda axis: (parts_along(found, axis), axis), default=0)
        for matrix in block.matrices if outer else ():
            rows, every = (np.moveaxis(each, axis, 0).reshape(first.shape[axis], -1) for each in (first, matrix))
            traced.ties.tie(rows[:, :1], every)
        for matrix in others if block.same and not outer else ():
            traced.ties.tie(first, matrix)


def parts_along(atoms: np.ndarray, axis: int) -> int:
    """Return in how many parts without common atoms an axis falls."""
    parts: list[set[int]] = []
    for row in np.moveaxis(atoms, axis, 0).reshape(atoms.shape[axis], -1).tolist():
        common = [part for part in parts if not part.isdisjoint(row)]
        parts = [part for part in parts if part not in common] + [set(row).union(*common)]
    return len(parts)


def removable(traced: Trace, parts: str, free: set[int]) -> dict[int, tuple[Any, np.ndarray]]:
    """Return, by `id`, the variables with weights whose zeros remove channels, and the atoms of these; -1 for none."""
    candidates = np.append(np.ones(len(traced.ties.parent), dtype=bool), False)
    for x in traced.tensors:
        roots = np.unique(traced.ties.find(x.atoms))
        if len(roots) == 1:  # no tensor is without channels
            candidates[roots] = False
    for atoms, _ in traced.pinned:
        candidates[traced.ties.find(atoms)] = False
    everything = {id(variable) for site in traced.sites.values() for _, variable in site.weights()}
    is_written = marked(traced, "writes", free) & (~marked(traced, "reads", everything) | summed(traced))
    stand_ins = {"helps": marked(traced, "helps", free), "writes": is_written}
    used = {role: np.zeros_like(candidates) for role in stand_ins}
    while True:
        found = {}
        for site in traced.sites.values():
            for name, variable in site.weights():
                if id(variable) in free and name and not site.opaque:
                    ids = belongs_to(traced, site, name, parts, candidates, used)
                    if ids is not None and (ids >= 0).any():
                        found[id(variable)] = (variable, ids)
        stays = kept_by_converter(traced, found)
        lacking, before = candidates.copy(), sum(int(each.sum()) for each in used.values())
        lacking[atoms_in(found)] = False
        lacking |= stays
        for role, atoms in stand_ins.items():
            more = atoms & ~used[role] & lacking
            used[role] |= more
            lacking &= ~more
        if not stays.any() and before == sum(int(each.sum()) for each in used.values()):
            return found
        candidates[stays & lacking] = False


def marked(traced: Trace, role: str, variables: set[int]) -> np.ndarray:
    """Return for each atom, and for none, whether a weight among these, by `id`, is of this role for it in its rule."""
    result = np.zeros(len(traced.ties.parent) + 1, dtype=bool)
    for site in traced.sites.values():
        for name, variable in site.weights():
            if id(variable) in variables and name and not site.opaque:
                for letter in set(getattr(site.rule, role)(name)) & set("".join(site.axes[name])) & site.own.keys():
                    if np.ndim(site.own[letter]) > 0:  # a single number has no channels
                        result[traced.ties.find(site.own[letter])] = True
    return result


def summed(traced: Trace) -> np.ndarray:
    """Return for each atom, and for none, whether a sum without weights reads it, as the mean of squares in a norm."""
    result = np.zeros(len(traced.ties.parent) + 1, dtype=bool)
    for call in traced.calls:
        for x in call.inputs if call.site.rule.sums and not call.site.opaque else ():
            result[traced.ties.find(x.atoms)] = True
    return result


def atoms_in(found: dict[int, tuple[Any, np.ndarray]]) -> np.ndarray:
    """Return the atoms that any weight belongs to, increasing."""
    return np.unique(np.concatenate([ids[ids >= 0] for _, ids in found.values()] or [np.zeros(0, int)]))


def belongs_to(
    traced: Trace, site: Site, name: str, parts: str, candidates: np.ndarray, used: dict[str, np.ndarray]
) -> np.ndarray | None:
    """Return the atoms that the elements of a weight belong to, -1 for none, in a shape that broadcasts with it.

    A sum reads what it adds up without weights: what multiplies channels, or else writes them, belongs to those for
    which it is `used`, by its role, as if it read them.
    """
    letters = "".join(site.axes[name])
    roles = {"readers": (site.rule.reads(name),), "all": (site.rule.writes(name), site.rule.reads(name))}[parts]
    ids = None
    more = [(getattr(site.rule, role)(name), candidates & which) for role, which in used.items()]
    for role, which in (*((role, candidates) for role in roles), *more):
        letter = next((each for each in letters if each in role and np.ndim(site.own.get(each)) > 0), None)
        if letter is not None:
            atoms = traced.ties.find(site.own[letter])
            laid = site.marked(name, letter, np.where(which[atoms], atoms, -1))
            ids = laid if ids is None or (ids < 0).all() else ids if (ids >= 0).all() else np.where(ids < 0, laid, ids)
    return ids


def kept_by_converter(traced: Trace, found: dict[int, tuple[Any, np.ndarray]]) -> np.ndarray:
    """Return, for each atom, whether it would stay although its group is zero.

    Every other group is made zero, and then the rest: each layer has channels of both kinds. The other weights are
    numbers that say nothing: not zero, and no two alike in a variable.
    """
    roots = atoms_in(found)
    result = np.zeros(len(traced.ties.parent) + 1, dtype=bool)
    for half in (roots[::2], roots[1::2]):
        decided = plan(traced, without_groups(found, half))
        width = np.array(
            [text.startswith(OTHER_WIDTH) for text in [*decided.texts, ""]]
        )  # which depends on how many go
        result[half] = decided.cut.keep[half] & ~width[decided.reasons[half]]
    return result


def without_groups(found: dict[int, tuple[Any, np.ndarray]], roots: np.ndarray) -> Callable[[Any], np.ndarray]:
    """Return what reads weights in which these groups are zero, and all others say nothing."""
    largest = max((int(ids.max()) for _, ids in found.values()), default=-1)
    zeroed = np.zeros(largest + 2, dtype=bool)  # the last is for -1
    zeroed[roots] = True

    def read(variable: Any) -> np.ndarray:
        value = meaningless(variable)
        return np.where(zeroed[found[id(variable)][1]], 0.0, value) if id(variable) in found else value

    return read


def elements(ids: np.ndarray, shape: tuple[int, ...], count: int) -> np.ndarray:
    """Return how many elements of a weight belong to each group."""
    repeats = int(np.prod(shape)) // ids.size
    return np.bincount(ids[ids >= 0], minlength=count) * repeats


def names_of(traced: Trace, roots: np.ndarray) -> list[str]:
    """Return for each atom the first layer that writes it, and the position among the channels there."""
    names: dict[int, str] = {}
    for site in traced.sites.values():
        for letter, own in site.own.items():
            if letter in (*WRITTEN, *HEADS):
                for position, atom in enumerate(traced.ties.find(own).reshape(-1).tolist()):
                    names.setdefault(atom, f"{site.name}{HEADS.get(letter, '')}[{position}]")
    return [names.get(int(root), f"channel {root}") for root in roots]
