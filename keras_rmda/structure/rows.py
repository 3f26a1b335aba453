"""What `strip` would do to each layer, and why."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from keras_rmda.channels.sites import WRITTEN, Site
from keras_rmda.channels.tensors import varying
from keras_rmda.structure.amounts import everything
from keras_rmda.structure.liveness import LAST, OTHER_WIDTH, Plan


@dataclass(frozen=True)
class LayerReport:
    """One layer's row.

    Attributes:
        name, type: of the layer.
        channels: output channels; 0 where the layer has no weights to say so.
        removable: output channels that `strip` would remove.
        reasons: why the others stay: reason -> number of channels.
        parameters, parameters_after: numbers of weights, before and after `strip`.
        macs, macs_after: multiply-accumulate operations per sample, in kernels and in products of tensors; an open axis
            counts as 1.
            Those of an opaque layer are an estimate: every weight of two axes and more, except embeddings, times the
            positions of its output, at every call.
        opaque: why the converter does not look into the layer, "" where it does.
        milliseconds, milliseconds_after: of its operators in a file, by the profile of a device; None without one.

    Example:
        >>> layer = kr.analyze(model).layers[0]
        >>> f"{layer.name}: {layer.removable} of {layer.channels} channels can go; {layer.reasons}"
    """

    name: str
    type: str
    channels: int
    removable: int
    reasons: dict[str, int]
    parameters: int
    parameters_after: int
    macs: int
    macs_after: int
    opaque: str = ""
    milliseconds: float | None = None
    milliseconds_after: float | None = None


def layer_row(plan: Plan, site: Site) -> LayerReport:
    """Return a layer's row."""
    shapes = [tuple(variable.shape) for _, variable in site.counted()]
    after = [plan.cut.shape(site, name, shape) for (name, _), shape in zip(site.counted(), shapes)]
    find, written = plan.trace.ties.find, [own for key, own in site.own.items() if key in WRITTEN]
    written = [own[0] if own.ndim > 1 and 0 not in varying(find(own)) else own.reshape(-1) for own in written]
    atoms = np.concatenate([*written, np.zeros(0, int)])
    atoms = np.zeros(0, int) if site.opaque else atoms
    stays = plan.cut.stays(atoms)
    whole = everything(plan)
    return LayerReport(
        name=site.name,
        type=type(site.layer).__name__,
        channels=len(atoms),
        removable=int((~stays).sum()),
        reasons=dict(Counter(reasons_of(plan, site, atoms[stays]))),
        parameters=sum(math.prod(shape) for shape in shapes),
        parameters_after=sum(math.prod(shape) for shape in after),
        macs=sum(call.macs(whole) for call in site.calls),
        macs_after=sum(call.macs(plan.cut) for call in site.calls),
        opaque=site.opaque,
    )


def reasons_of(plan: Plan, site: Site, atoms: np.ndarray) -> list[str]:
    """Return why each of the channels that a layer writes stays; "tied:" where only what it is added to has to."""
    find, size = plan.trace.ties.find, len(plan.cut.keep)
    made, whys, of_roots = np.zeros(size, bool), np.full(size, -1), np.full(size, -1)
    pins: dict[int, str] = {}
    for call in site.calls:
        for y in call.outputs:
            needed = plan.state.needed(y)
            made[y.atoms] = True
            for array, numbers in ((whys, y.atoms[needed]), (of_roots, find(y.atoms[needed]))):
                array[numbers] = np.where(array[numbers] < 0, plan.whys[y.index][needed], array[numbers])
            if y.index in plan.trace.pins:
                pins = dict.fromkeys(y.atoms.reshape(-1).tolist(), plan.trace.pins[y.index]) | pins
    texts = []
    for atom, root in zip(atoms.tolist(), find(atoms)):
        # The units of a direction are no channels of the output where both directions are added.
        why, tied = whys[atom] if made[atom] else of_roots[root], plan.texts[plan.reasons[root]]
        text = plan.texts[why] if why >= 0 else pins.get(atom)
        texts.append(text or (tied if tied.startswith(STRUCTURAL) else f"tied: {tied}"))
    return texts


STRUCTURAL = (LAST, "groups of", "multiples of", OTHER_WIDTH)
"""How reasons begin that are none of a single channel."""
