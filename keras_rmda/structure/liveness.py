"""What stays: what the outputs depend on, and what the shapes of layers require besides.

Values flow forward: for every channel of every tensor, is it a constant, and which one. Needs flow backward: a channel
is needed if a needed channel depends on it; nothing keeps itself alive through a residual sum. An atom stays if any
of its channels is needed in any tensor.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from keras_rmda.channels.rule import Read, State
from keras_rmda.channels.sites import WRITTEN, Block, Call, Cut
from keras_rmda.channels.tensors import Tensor, fitted
from keras_rmda.structure.trace import Trace


@dataclass
class Plan:
    """What stays of a traced model.

    Attributes:
        trace: the traced model.
        state: constants and needs of every tensor.
        cut: which atoms stay.
        reasons: for each representative atom that stays, the number of its reason in `texts`; -1 for none.
        whys: by number of a tensor, the same for each of its channels that is needed; shaped like its atoms.
        texts: reasons.
        sure: which atoms are taken first where one channel has to stay for the sake of a shape, since they stay anyway.
    """

    trace: Trace
    state: State
    cut: Cut
    reasons: np.ndarray
    whys: dict[int, np.ndarray]
    texts: list[str]
    sure: np.ndarray


def plan(trace: Trace, read: Read, round_to: int = 1, absorbs: bool = True) -> Plan:
    """Decide, from weights and graph alone, which channels stay.

    Args:
        trace: the traced model.
        read: returns the value of a variable.
        round_to: widths become multiples of this where a layer was as wide.
        absorbs: whether constants other than zero go into biases. They do not where training goes on: there they
            change, and a layer that makes noise leaves none.

    Returns:
        The plan. Every tensor keeps at least one channel.
    """
    size = len(trace.ties.parent)
    state = State(read, Cut(trace.ties, np.zeros(size, bool)))
    propagate_constants(trace, state, absorbs)
    first = planned(trace, state, round_to, np.zeros(size, bool))
    if LAST not in first.texts:
        return first
    # What stays for other reasons is known now: with it, less may have to stay for the sake of shapes.
    last = np.isin(first.reasons, [number for number, text in enumerate(first.texts) if text == LAST])
    again = planned(trace, state, round_to, first.cut.keep & ~last[trace.ties.find(np.arange(size))])
    return again if again.cut.keep.sum() < first.cut.keep.sum() else first


def planned(trace: Trace, state: State, round_to: int, sure: np.ndarray) -> Plan:
    """Return the plan for known constants."""
    size = len(sure)
    state = replace(state, cut=Cut(trace.ties, np.zeros(size, bool)))
    decided = Plan(trace, state, state.cut, np.full(size, -1), {}, [], sure)
    for atoms, reason in trace.pinned:
        add(decided, atoms, reason)
    sums, before = any(site.rule.sums or site.shared for site in trace.sites.values()), -1
    while before != (before := int(decided.cut.keep.sum())):
        propagate_needs(decided)
        complete(decided, round_to)
        if not sums:  # what is added up without weights, or with those of others, must be what it was where it stays
            break
    decided.cut.keep = decided.cut.keep[trace.ties.find(np.arange(size))]
    return decided


def add(plan: Plan, atoms: np.ndarray, reason: str) -> int:
    """Let atoms stay for a reason, unless they have one; return its number."""
    roots = plan.trace.ties.find(np.asarray(atoms).reshape(-1))
    plan.texts.append(reason)
    plan.reasons[roots[plan.reasons[roots] < 0]] = len(plan.texts) - 1
    plan.cut.keep[roots] = True
    return len(plan.texts) - 1


def propagate_constants(trace: Trace, state: State, absorbs: bool) -> None:
    """Fill `state.values`, with zeros only if nothing absorbs others."""
    made = {y.index for call in trace.calls for y in call.outputs}
    for x in trace.tensors:
        if x.index not in made:
            state.values[x.index] = np.full(x.atoms.shape, np.nan)
    for call in trace.calls:
        with np.errstate(all="ignore"):
            constants = call.site.rule.constants(call, state)
        for k, y in enumerate(call.outputs):
            values = constants[k] if k < len(constants) else np.full(y.atoms.shape, np.nan)
            values = np.asarray(values, dtype="float64")
            if not absorbs:
                values = np.where((values == 0) & (not call.site.rule.noisy), 0.0, np.nan)
            state.values[y.index] = fitted(np.where(np.isfinite(values), values, np.nan), y.atoms)


def propagate_needs(plan: Plan) -> None:
    """Fill `state.needs`, and the first reason of every channel that is needed."""
    state, trace = plan.state, plan.trace
    state.needs = {x.index: np.zeros(x.atoms.shape, bool) for x in trace.tensors}
    plan.whys = {x.index: np.full(x.atoms.shape, -1) for x in trace.tensors}
    for y in trace.outputs:
        state.needs[y.index] = np.ones(y.atoms.shape, bool)
        plan.whys[y.index] = np.full(y.atoms.shape, add(plan, y.atoms, "model output"))
    for call in reversed(trace.calls):
        demands = call.site.rule.demands(call, state)
        if call.masks and any(state.needed(y).any() for y in call.outputs):
            demands += [(x, np.ones(x.atoms.shape, bool), f"masks {call.site.name}") for x in call.masks]
        for x, mask, reason in demands:
            new = mask & ~state.needs[x.index]
            if new.any():
                state.needs[x.index] = state.needs[x.index] | mask
                further = whys_behind(plan, call, x)[new]
                plan.whys[x.index][new] = np.where(further < 0, add(plan, x.atoms[new], reason), further)


def whys_behind(plan: Plan, call: Call, x: Tensor) -> np.ndarray:
    """Return why the channels are needed that a call makes of those of an input each by itself; -1 for others.

    Who reads a channel behind an activation or a sum, reads it before.
    """
    result = np.full(x.atoms.shape, -1)
    if call.site.opaque or any(letter in call.site.own for letter in WRITTEN):
        return result
    for y in call.outputs:
        whys = plan.whys[y.index]
        if y.atoms.shape == x.atoms.shape:
            result = np.where(result < 0, whys, result)
        elif len(np.unique(y.atoms)) >= len(known := np.unique(x.atoms)):  # the same channels, in another arrangement
            places = np.searchsorted(known, y.atoms).clip(max=len(known) - 1)
            found = np.full(len(known), -1)
            np.maximum.at(found, places[known[places] == y.atoms], whys[known[places] == y.atoms])
            result = np.where(result < 0, found[np.searchsorted(known, x.atoms)], result)
    return result


LAST = "last channel"
"""Why one stays of channels that nobody needs."""

OTHER_WIDTH = "instead of a width"
"""How the reason begins of channels that stay for the sake of another width."""


def complete(plan: Plan, round_to: int) -> None:
    """Let more atoms stay until every shape is possible: no axis without channels, groups of equal size."""
    sites = list(plan.trace.sites.values())
    vectors = [x.atoms.reshape(-1) for x in plan.trace.tensors]
    vectors += [own for site in sites for own in site.own.values() if np.ndim(own) == 1]
    widths = [
        own
        for site in sites
        if not site.opaque
        for key, own in site.own.items()
        if key in WRITTEN and np.ndim(own) == 1
    ]
    avoided = [(site, wrong) for site in sites if not site.opaque and (wrong := site.rule.avoids(site))]
    before = -1
    while before != (before := int(plan.cut.keep.sum())):
        for atoms in vectors:
            if not plan.cut.stays(atoms).any():
                # The same one in every tensor that has them, in whatever order.
                roots = plan.trace.ties.find(atoms)
                roots = roots[likely] if (likely := plan.sure[roots]).any() else roots
                roots = roots[likely] if (likely := in_rows_that_stay(plan)[roots]).any() else roots
                add(plan, roots.min(), LAST)
        for name, block in plan.trace.blocks:
            even_out(plan, block, f"groups of equal size in {name}")
        for site, wrong in avoided:
            stays = plan.cut.stays(site.own["o"])
            if int(stays.sum()) in wrong:
                reason = f"{OTHER_WIDTH} of {site.name} that Keras does not compute rightly"
                add(plan, site.own["o"][np.flatnonzero(~stays)[:1]], reason)
        if round_to > 1:
            for atoms in widths:
                stays = plan.cut.stays(atoms)
                missing = min(-stays.sum() % round_to, len(atoms) - stays.sum())
                add(plan, atoms[np.flatnonzero(~stays)[:missing]], f"multiples of {round_to}")


def in_rows_that_stay(plan: Plan) -> np.ndarray:
    """Return for each representative atom whether a row stays that it is in, such as a head, or one linked to it."""
    result, before = plan.cut.keep.copy(), -1
    while before != (before := int(result.sum())):
        for _, block in plan.trace.blocks:
            matrices = [plan.trace.ties.find(each) for each in block.matrices]
            rows = np.any([result[each].any(axis=-1) for each in matrices], axis=0)
            for each in matrices:
                result[each[rows]] = True
    return result


def even_out(plan: Plan, block: Block, reason: str) -> None:
    """Let more atoms stay until all rows that stay have as many."""
    stays = [plan.cut.stays(matrix) for matrix in block.matrices]
    rows = np.any([each.any(axis=-1) for each in stays], axis=0)
    if not rows.any():
        likely = in_rows_that_stay(plan)[plan.trace.ties.find(block.matrices[0])].any(axis=-1)
        rows.flat[likely.argmax()] = True
    if rows.ndim > 1:  # each index of an axis goes as a whole
        along = [rows.any(axis=tuple(k for k in range(rows.ndim) if k != axis)) for axis in range(rows.ndim)]
        rows = np.zeros_like(rows)
        rows[np.ix_(*along)] = True
    least = block.least(int(rows.sum()))
    counts = [max(min(least, each.shape[-1]), int(each[rows].sum(axis=-1).max())) for each in stays]
    if block.same:
        counts = [max(counts)] * len(counts)
    for matrix, each, count in zip(block.matrices, stays, counts):
        for row in zip(*np.nonzero(rows & (each.sum(axis=-1) < count))):
            missing = count - each[row].sum()
            add(plan, matrix[row][np.flatnonzero(~each[row])[:missing]], reason)
