"""Tensors whose atoms change along several axes: heads and their positions, channels of several parts.

One of the axes is the width: along it each row, what the other axes stand for, keeps atoms of its own, all rows as
many. The same atoms have the same rows in every tensor. Where they cannot, all rows keep the same.
"""

from __future__ import annotations

import numpy as np

from keras_rmda.channels.sites import Block, Call
from keras_rmda.channels.tensors import Atoms, Tensor, matrix, varying


def blocks_of(tensors: list[Tensor], calls: list[Call], ties: Atoms) -> list[tuple[str, Block]]:
    """Find the width of every tensor, and return what must stay in equal numbers, with the names of the layers.

    Args:
        tensors: the tensors of a model.
        calls: the calls of its layers.
        ties: the atoms, which are tied where rows cannot differ.
    """
    inner = {y.index for call in calls for y in call.outputs[len(call.shapes) :]}
    makers = {y.index: call.site.name for call in calls for y in call.outputs}
    while True:
        before, blocks = ties.changes, []
        rows = np.full(len(ties.parent), -1)
        for x in tensors:
            if x.index not in inner and find_width(x, ties, rows):
                blocks.append((makers.get(x.index, "the inputs"), Block([matrix(x)], least=lambda rows: 0)))
        for call in calls:
            if not call.site.opaque:
                blocks += [(call.site.name, block) for block in call.site.rule.rows(call, ties)]
        if ties.changes == before:
            break
    sites = {id(call.site): call.site for call in calls}
    for site in sites.values():
        if not site.opaque:
            blocks += [(site.name, block) for block in site.rule.blocks(site)]
    return blocks


def find_width(x: Tensor, ties: Atoms, rows: np.ndarray) -> bool:
    """Set the width of a tensor; return whether it has one. Where it can have none, its rows become alike.

    Args:
        x: the tensor.
        ties: the atoms.
        rows: for each atom the number of the row that it is in, -1 where none is known; new ones are added.
    """
    x.width = None
    if sum(n > 1 for n in x.atoms.shape) < 2:
        return False
    atoms = ties.find(x.atoms)
    axes = varying(atoms)
    if len(axes) < 2:
        return False
    known = rows[atoms]
    alike = [axis for axis in axes if (known == np.take(known, [0], axis)).all()]
    axis = alike[0] if len(alike) == 1 else axes[-1]
    if len(alike) == 1 or (known < 0).all():
        table = np.moveaxis(atoms, axis, -1).reshape(-1, atoms.shape[axis])
        if (known < 0).all():
            first = int(rows.max(initial=-1)) + 1
            rows[table] = np.arange(first, first + len(table))[:, None]
        if (rows[table] == rows[table][:, :1]).all():
            x.width = axis
            return True
    x.channels(axis, ties)
    return False
