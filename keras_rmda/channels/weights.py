"""Rules of the small layers that stand for weights of a user's layer (`tracing/leaves.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from keras_rmda.channels.rule import Demand, Rule, State
from keras_rmda.channels.sites import Call, Cut, Site
from keras_rmda.channels.tensors import Atoms, NotCovered, along


def channel_axis_of(shape: tuple[int, ...]) -> int | None:
    """Return the axis of a weight that is taken for that of channels: the last of more than one number."""
    return next((axis for axis in reversed(range(len(shape))) if shape[axis] > 1), None)


@dataclass(frozen=True)
class Holds(Rule):
    """A weight as a tensor: constants along its channels, if it does not vary along other axes."""

    def helps(self, name: str) -> str:
        return "c"

    def shares(self, name: str) -> bool:
        return True

    def batch_axes(self, call: Call) -> list[int | None]:
        return [0]  # whatever its input is, which it does not look at

    def letters(self, layer: Any) -> Mapping[str, str]:
        axis = channel_axis_of(layer.shape)
        return {"value": "".join("c" if k == axis else "." for k in range(len(layer.shape)))}

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        shape, axis = call.layer.shape, channel_axis_of(call.layer.shape)
        if axis is None:
            return [ties.fresh(*[1] * len(shape))]
        return [along(call.fresh("c", ties, shape[axis]), len(shape), axis)]

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        return [state.read(call.layer.value).astype("float64")]  # NaN where positions differ

    def demands(self, call: Call, state: State) -> list[Demand]:
        return []

    def config(self, site: Site, config: dict[str, Any], cut: Cut) -> dict[str, Any]:
        return config | {"shape": list(cut.shape(site, "value", tuple(site.layer.shape)))}


@dataclass(frozen=True)
class ForEach(Rule):
    """A tensor repeated for the samples of another, whose numbers do not matter."""

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        return [call.inputs[0].atoms]

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        return [state.constants(call.inputs[0])]

    def demands(self, call: Call, state: State) -> list[Demand]:
        return [(call.inputs[0], state.needed(call.outputs[0]), f"read by {call.site.name}")]


@dataclass(frozen=True)
class Adds(ForEach):
    """A tensor as it is, beside losses of the model, all of which are needed as its outputs are."""

    trains = False

    def batch_axes(self, call: Call) -> list[int | None]:
        x = call.inputs[0]
        return [x.batch if x.batched else None]

    def demands(self, call: Call, state: State) -> list[Demand]:
        losses = [(x, np.ones(x.atoms.shape, bool), f"in a loss of {call.site.name}") for x in call.inputs[1:]]
        return [*super().demands(call, state), *losses]


@dataclass(frozen=True)
class OverAll(ForEach):
    """A sum or a mean over samples."""

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        return [np.where(state.constants(call.inputs[0]) == 0, 0.0, np.nan)]


@dataclass(frozen=True)
class Parts(ForEach):
    """Some of the positions of a tensor, as many as another one has, whose numbers do not matter."""

    def batch_axes(self, call: Call) -> list[int | None]:
        x = call.inputs[0]
        return [x.batch if x.batched else None]

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        x, axis = call.inputs[0], call.layer.axis
        if x.batched and axis == x.batch:
            raise NotCovered(f"axis={axis}, over samples")
        axis -= x.batched and axis > x.batch
        if x.atoms.shape[axis] > 1:
            raise NotCovered(f"axis={call.layer.axis}, over channels")
        return [x.atoms]


@dataclass(frozen=True)
class MoreParts(Parts):
    """Positions of a tensor and one number more, until there are as many as another one has."""

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        values = state.constants(call.inputs[0])
        return [np.where(values == call.layer.value, values, np.nan)]


@dataclass(frozen=True)
class PositionsAgain(ForEach):
    """Positions along one axis that get several, as another tensor has, whose numbers do not matter."""

    def _spread(self, call: Call, array: np.ndarray) -> np.ndarray:
        return array.reshape((1,) * call.layer.count + array.shape[1:])

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        atoms = call.inputs[0].atoms
        ties.tie(atoms[:1], atoms)
        return [self._spread(call, atoms[:1])]

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        values = state.constants(call.inputs[0])
        return [self._spread(call, np.where((values == values[:1]).all(axis=0, keepdims=True), values[:1], np.nan))]

    def demands(self, call: Call, state: State) -> list[Demand]:
        [x, _], needed = call.inputs, state.needed(call.outputs[0])
        wanted = needed.reshape(1, *needed.shape[call.layer.count :])
        return [(x, np.broadcast_to(wanted, x.atoms.shape), f"read by {call.site.name}")]


@dataclass(frozen=True)
class OfNoSample(ForEach):
    """A tensor that is the same for all samples, without the axis in the place of the batch axis, or with it again."""

    is_batched: bool = False

    def batch_axes(self, call: Call) -> list[int | None]:
        [x] = call.inputs
        if x.batched is self.is_batched or x.batch:
            raise NotCovered("numbers of a layer that nobody looks into, which may be those of samples")
        return [0 if self.is_batched else None]


@dataclass(frozen=True)
class Steps(ForEach):
    """Steps that become samples: all have the same channels."""

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        [x] = call.inputs
        ties.tie(x.atoms[:1], x.atoms)
        return [x.atoms[0]]

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        values = state.constants(call.inputs[0])
        return [np.where((values == values[:1]).all(axis=0), values[0], np.nan)]

    def demands(self, call: Call, state: State) -> list[Demand]:
        [x], needed = call.inputs, state.needed(call.outputs[0])
        return [(x, np.broadcast_to(needed, x.atoms.shape), f"read by {call.site.name}")]

    def copies(self, call: Call) -> Fraction | int:
        return call.inputs[0].shape[0] or 1


@dataclass(frozen=True)
class StepsAgain(ForEach):
    """Samples that become the steps of others, whose own numbers do not matter."""

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        return [call.inputs[0].atoms[None]]

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        return [state.constants(call.inputs[0])[None]]

    def demands(self, call: Call, state: State) -> list[Demand]:
        return [(call.inputs[0], state.needed(call.outputs[0])[0], f"read by {call.site.name}")]

    def copies(self, call: Call) -> Fraction | int:
        return 1 if call.shapes[0][0] is None else Fraction(1, call.shapes[0][0])


@dataclass(frozen=True)
class Given(Rule):
    """Numbers that are given, without a batch axis."""

    def batch_axes(self, call: Call) -> list[int | None]:
        return [None]

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        return [ties.fresh(*[1] * len(shape)) for shape in call.shapes]

    def demands(self, call: Call, state: State) -> list[Demand]:
        return []


@dataclass(frozen=True)
class Fills(Rule):
    """One number at some positions beside those of a tensor, whose own numbers do not matter."""

    def batch_axes(self, call: Call) -> list[int | None]:
        [x] = call.inputs
        if not x.batched or x.batch == call.layer.axis:
            raise NotCovered(f"axis={call.layer.axis}, over samples")
        return [x.batch]

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        [x], axis = call.inputs, call.layer.axis
        axis -= x.batched and axis > x.batch
        return [x.atoms if x.atoms.shape[axis] == 1 else ties.fresh(*[1] * x.atoms.ndim)]

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        return [np.full([1] * len(call.shapes[0]), float(call.layer.number))]

    def demands(self, call: Call, state: State) -> list[Demand]:
        return []


@dataclass(frozen=True)
class Counts(Rule):
    """Numbers along an axis of a tensor whose own numbers do not matter."""

    def batch_axes(self, call: Call) -> list[int | None]:
        return [0]

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        return [ties.fresh(*[1] * len(shape)) for shape in call.shapes]

    def demands(self, call: Call, state: State) -> list[Demand]:
        return []
