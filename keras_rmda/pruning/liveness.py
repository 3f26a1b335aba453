"""Which atoms can go: nobody reads them, or they are constants that their readers absorb.

Two analyses. Values flow forward: for every channel of every tensor, is it a constant, and which one. Needs flow
backward: an atom is needed if a needed output channel has a nonzero weight for it. The smallest set of needed atoms
is reached from below, so that nothing keeps itself alive through a residual sum.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from keras_rmda.channels import Read, channel_axis, evaluate, is_elementwise, pads
from keras_rmda.pruning.trace import Call, Trace, along, channel_vector


@dataclass
class Plan:
    """What stays of a traced model.

    Attributes:
        trace: the traced model.
        needed: per atom id, whether an output of the model depends on its channels.
        keep: per atom id, whether its channels stay: the needed ones, and one where a tensor has no other.
        reasons: per representative atom that stays, why.
        readers: one for each call of a layer that reads channels through a kernel, by call index.
    """

    trace: Trace
    needed: np.ndarray
    keep: np.ndarray
    reasons: dict[int, str]
    readers: dict[int, Reader]


class Reader:
    """One call of a layer that reads channels through a kernel and writes new ones.

    Args:
        trace: the traced model.
        call: the call.
        read: returns the value of a variable.
        alone: whether this is the layer's only call. The constants that several calls see would have to agree.
        values: the constants of the input tensor, NaN where a channel is none.
    """

    def __init__(self, trace: Trace, call: Call, read: Read, alone: bool, values: np.ndarray):
        axes = call.rule.weights["kernel"]
        order = [axes.index("i"), *(k for k, letter in enumerate(axes) if letter == "."), axes.index("o")]
        self.kernel = np.transpose(read(call.layer.kernel), order)
        self.nonzero = (self.kernel != 0).any(axis=tuple(range(1, self.kernel.ndim - 1)))
        self.call = call
        bias = getattr(call.layer, "bias", None)
        self.bias = np.zeros(self.kernel.shape[-1]) if bias is None else read(bias).astype(np.float64)
        self.can_fold = alone and bias is not None
        self.inputs = trace.atoms.find(trace.input_channels(call))
        self.outputs = trace.atoms.find(trace.output_channels(call))
        shape = trace.shapes[call.inputs[0]]
        self.values = channel_vector(values, shape, channel_axis(call.layer, len(shape)))
        self.is_constant = ~np.isnan(self.values)
        # At the border of same padding a nonzero constant meets zeros, and its effect is no single number.
        bordered = call.rule.mixes_positions and pads(call.layer)
        self.is_uniform = self.is_constant & (self.values == 0) if bordered else self.is_constant

    def written(self) -> np.ndarray:
        """Return the constants among the output channels: those that read only uniform inputs."""
        constant = ~self.nonzero[~self.is_uniform].any(axis=0)
        result = np.where(constant, self.folded(np.ones_like(self.is_constant)), np.nan)
        activation = getattr(self.call.layer, "activation", None)
        if activation is None:
            return result
        if not is_elementwise(activation):
            return np.full_like(result, np.nan)
        return evaluate(self.call.layer, activation, result)

    def demands(self, needed: np.ndarray) -> list[tuple[np.ndarray, str]]:
        """Return the input atoms that the needed outputs depend on, with reasons."""
        name = self.call.layer.name
        read = self.nonzero[:, needed[self.outputs]].any(axis=1) & (self.values != 0)
        constant = read & self.is_constant
        bordered = constant & ~self.is_uniform
        no_bias = constant & self.is_uniform if not self.can_fold else np.zeros_like(read)
        return [
            (self.inputs[read & ~constant], f"read by {name}"),
            (self.inputs[bordered], f"border of same padding in {name}"),
            (self.inputs[no_bias], f"constant that {name} has no bias for"),
        ]

    def folded(self, absorbed: np.ndarray) -> np.ndarray:
        """Return the bias plus the effect of the uniform inputs among `absorbed`, per output channel."""
        rows = np.flatnonzero(absorbed & self.is_uniform & (self.values != 0))
        kernel = self.kernel[rows].astype(np.float64)
        return self.values[rows] @ kernel.sum(axis=tuple(range(1, kernel.ndim - 1))) + self.bias


def plan(trace: Trace, read: Read) -> Plan:
    """Decide, from weights and graph alone, which channels stay.

    Args:
        trace: the traced model.
        read: returns the value of a variable.

    Returns:
        The plan. Every tensor keeps at least one channel.
    """
    readers = constants(trace, read)
    needed, reasons = needs(trace, readers)
    roots = trace.atoms.find(np.arange(len(trace.atoms.parent)))
    keep = needed.copy()
    for call in trace.calls:
        for tensor in call.outputs:
            atoms = roots[trace.ids[tensor].reshape(-1)]
            if not keep[atoms].any():
                keep[atoms[0]] = True
                reasons[int(atoms[0])] = "last channel"
    return Plan(trace, needed[roots], keep[roots], reasons, readers)


def constants(trace: Trace, read: Read) -> dict[int, Reader]:
    """Propagate constants forward and return the readers, which know the constants of their inputs."""
    values = [np.full(ids.shape, np.nan) for ids in trace.ids]
    calls_of = Counter(id(call.layer) for call in trace.calls)
    readers: dict[int, Reader] = {}
    for index, call in enumerate(trace.calls):
        if call.rule.kind == "opaque":
            continue
        given = [values[tensor] for tensor in call.inputs]
        out = call.outputs[0]
        shape = trace.shapes[out]
        if call.rule.kind == "writes":
            readers[index] = Reader(trace, call, read, calls_of[id(call.layer)] == 1, given[0])
            result = readers[index].written()
        elif call.rule.kind == "moves":
            result = call.rule.move(call.layer, given, [trace.shapes[tensor] for tensor in call.inputs], shape)
        elif call.rule.constant is None:
            continue
        elif call.rule.kind == "merges":
            result = given[0]
            for other in given[1:]:
                result = call.rule.constant(result, other)
        else:
            result = call.rule.constant(call.layer, given[0], read)
        if result.ndim != len(shape):
            result = along(result.reshape(-1), len(shape), channel_axis(call.layer, len(shape)))
        values[out] = np.broadcast_to(result, trace.ids[out].shape)
    return readers


def needs(trace: Trace, readers: dict[int, Reader]) -> tuple[np.ndarray, dict[int, str]]:
    """Return which representative atoms are needed, and the first reason found for each."""
    needed = np.zeros(len(trace.atoms.parent), dtype=bool)
    reasons: dict[int, str] = {}

    def need(atoms: np.ndarray, reason: str) -> bool:
        new = np.unique(atoms[~needed[atoms]])
        needed[new] = True
        reasons.update(dict.fromkeys(new.tolist(), reason))
        return new.size > 0

    for atoms, reason in trace.pinned:
        need(trace.atoms.find(atoms), reason)
    changed = True
    while changed:
        changed = False
        for reader in reversed(list(readers.values())):
            for atoms, reason in reader.demands(needed):
                changed |= need(atoms, reason)
    return needed, reasons
