"""What of a model stays zero whatever it is trained on: what somebody has decided, and not what is zero by chance.

The converter reads these zeros, and numbers without meaning in the place of all other weights. What it takes out then
nobody misses at any step to come: no output depends on it, it is no number but zero, and its gradients are zero.
"""

from __future__ import annotations

from typing import Literal

import keras
import numpy as np
from keras import ops

from keras_rmda.channels.gates import Multiplies, Vanishes
from keras_rmda.channels.rule import Read
from keras_rmda.optimizers.bregman import MirrorMap
from keras_rmda.optimizers.models import optimizers_of
from keras_rmda.platform import compat
from keras_rmda.structure.liveness import Plan, plan
from keras_rmda.structure.strip import meaningless
from keras_rmda.structure.trace import Trace, trace

Zeros = Literal["decided", "all"]

ZEROS = ("decided", "all")


def staying(model: keras.Model, graph: keras.Model, zeros: Zeros | Literal["resting"]) -> Plan:
    """Return what stays of a model that goes on training.

    Args:
        model: a model, compiled or not.
        graph: the same, or its graph.
        zeros: `"decided"`: what stays zero for good; `"all"`: what is zero now; `"resting"`: what stays zero in the
            coarse steps that an optimizer is about to make.

    Raises:
        ValueError: for gates that other layers compute.
    """
    traced = trace(graph)
    for site in traced.sites.values():
        several = any(len(call.inputs) > 1 for call in site.calls)
        if isinstance(site.rule, Vanishes) or (isinstance(site.rule, Multiplies) and several):
            raise ValueError(
                f"{site.name!r} has or makes the gates of other layers, which cannot be cut while they train. Freeze "
                "the gates (`keras_rmda.gates.freeze`), `strip` the model and compile what is left."
            )
        if isinstance(site.rule, Multiplies):
            site.rule = site.rule.staying()
    read = ops.convert_to_numpy if zeros == "all" else decided(model, traced, zeros == "resting")
    return plan(traced, read, absorbs=False)


def decided(model: keras.Model, traced: Trace, resting: bool = False) -> Read:
    """Return what reads weights of which only those are zero that stay so.

    These are closed groups of the optimizers of this package, weights that are not trained (`trainable=False`), and
    gates that are fixed; if asked for, also what rests in coarse steps.
    """
    closed: dict[int, np.ndarray] = {}
    for optimizer in optimizers_of(model) if model.compiled else ():
        for index, variable in enumerate(optimizer._trainable_variables) if optimizer.built else ():
            zero = optimizer.closed(index)
            rests = optimizer.resting(index) if resting and isinstance(optimizer, MirrorMap) else None
            if zero is not None or rests is not None:
                closed[id(variable)] = (False if zero is None else zero) | (False if rests is None else rests)
    fixed = {id(variable) for variable in compat.frozen_weights(model)}
    for site in traced.sites.values():
        if isinstance(site.rule, Multiplies):
            fixed |= {id(variable) for _, variable in site.weights() if not variable.trainable}

    def read(variable: keras.Variable) -> np.ndarray:
        if id(variable) in fixed:
            return ops.convert_to_numpy(variable)
        value = meaningless(variable)
        return np.where(closed[id(variable)], 0.0, value) if id(variable) in closed else value

    return read
