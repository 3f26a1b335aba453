"""Attention without weights of its own for queries, keys and values: by products of both, or by sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_rmda.channels.rule import Demand, Rule, State
from keras_rmda.channels.sites import Block, Call, Cut, sizes
from keras_rmda.channels.tensors import Atoms, NotCovered, Tensor, along


@dataclass(frozen=True)
class Scores(Rule):
    """Values, averaged over positions, with weights from a softmax of scores of queries and keys: channels of values.

    Args:
        weights: see `Rule`; "i" are the channels in which queries and keys are compared.
        heads: whether there is an axis of heads before that of the channels. Heads go as a whole.
        adds: whether scores are sums of a function of query plus key, and not of products.
        refusal: (layer) -> the reason why this rule does not cover this very layer, or None.
    """

    weights: Mapping[str, str] = field(default_factory=dict)
    heads: bool = False
    adds: bool = False
    refusal: Callable[[Any], str | None] | None = None
    sums = True

    def letters(self, layer: Any) -> Mapping[str, str]:
        return {name: axes for name, axes in self.weights.items() if getattr(layer, name, None) is not None}

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of the channels of each tensor."""
        return (1, 2) if self.heads else (1,)

    def _given(self, call: Call) -> list[Tensor]:
        """Return queries, keys and values."""
        arguments, keyword_arguments = call.arguments
        if isinstance(call.layer, keras.Layer):
            query, value, *key = arguments[0] if arguments else keyword_arguments["inputs"]
            return [query, *(key or [value]), value]
        names = ("query", "key", "value")
        return [arguments[k] if k < len(arguments) else keyword_arguments[name] for k, name in enumerate(names)]

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        given, [shape, *others] = self._given(call), call.shapes
        if others:
            raise NotCovered("return_attention_scores=True")
        if any(not isinstance(x, Tensor) or len(x.shape) != len(self.axes) + 1 for x in given):
            raise NotCovered("an argument that is no tensor of the model, or of other axes")
        compared = [x.channels(self.axes, ties) for x in given[:2]]
        values = given[2].channels(self.axes, ties).reshape([given[2].shape[axis] for axis in self.axes])
        if len(compared[0]) != len(compared[1]) or len({x.shape[axis] for x in given for axis in self.axes[:-1]}) > 1:
            raise NotCovered("other numbers of heads")
        if self.heads and given[0].shape[2] != given[2].shape[2]:
            raise NotCovered("values of another size than queries")
        ties.tie(*compared)
        call.register("i", compared[0], ties)
        if self.heads and len(keras.tree.flatten(call.arguments)) > 3 and self._sees_heads(call, given):
            for x in given:
                rows = x.channels(self.axes, ties).reshape(x.shape[1], -1)
                ties.tie(rows[:1], rows)
        return [along(values, len(shape), self.axes)]

    @staticmethod
    def _sees_heads(call: Call, given: list[Tensor]) -> bool:
        """Return whether a bias or a mask has numbers for each head."""
        others = [x for x in keras.tree.flatten(call.arguments) if all(x is not each for each in given)]
        shapes = [x.full if isinstance(x, Tensor) else np.shape(x) for x in others if not isinstance(x, int | float)]
        return any(len(shape) > 2 and shape[-3] != 1 for shape in shapes)

    def rows(self, call: Call, ties: Atoms) -> list[Block]:
        if not self.heads:
            return []
        tensors = [*self._given(call), call.outputs[0]]
        ties.tie_alike([np.moveaxis(x.atoms, 1, 0).reshape(x.atoms.shape[1], -1) for x in tensors], 0)
        if any(x.width not in (None, 2) for x in tensors):
            for x in tensors:
                ties.tie(np.take(x.atoms, [0], 1), x.atoms)
            return []
        matrices = [np.broadcast_to(x.atoms[0], (max(len(y.atoms[0]) for y in tensors), x.shape[2])) for x in tensors]
        return [Block(matrices, same=True)]  # Keras takes values and queries to be of one size

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        [shape], value = call.shapes, self._given(call)[2]
        constants = state.constants(value, self.axes)
        # Averages of the same number are this number; where positions are masked, some are zeros.
        constants = np.where((constants == 0) | (not (call.masked or call.masks)), constants, np.nan)
        return [along(constants.reshape([value.shape[axis] for axis in self.axes]), len(shape), self.axes)]

    def demands(self, call: Call, state: State) -> list[Demand]:
        query, key, value = self._given(call)
        name, wanted = call.site.name, state.needed(call.outputs[0], self.axes)
        if not wanted.any():
            return []
        zeros = [state.constants(x, self.axes) == 0 for x in (query, key)]
        stays = state.cut.stays(call.site.own["i"])
        scale = getattr(call.layer, "scale", None)
        if self.adds:
            counts = np.ones_like(stays) if scale is None else state.read(scale) != 0
            compared = [counts & (~(zeros[0] & zeros[1]) | stays)] * 2
        else:
            both = ~(zeros[0] | zeros[1])
            compared = [both | (zeros[0] & stays), both | (zeros[1] & ~zeros[0] & stays)]
        if self.heads:
            heads = np.repeat(wanted.reshape(value.shape[1], -1).any(axis=1), query.shape[2])
            compared = [each & heads for each in compared]
        demands = [(value, value.spread(wanted, self.axes), f"read by {name}")]
        demands += [(x, x.spread(each, self.axes), f"compared by {name}") for x, each in zip((query, key), compared)]
        others = [x for x in call.inputs if all(x is not each for each in (query, key, value))]
        return demands + [(x, np.ones(x.atoms.shape, bool), f"read by {name}") for x in others]

    def arguments(self, call: Call, cut: Cut, given: tuple[tuple, dict]) -> tuple[tuple, dict]:
        query, arguments, keyword_arguments = self._given(call)[0], *given
        known = keyword_arguments.get("scale") if len(arguments) < 6 else arguments[5]
        if not self.heads or known is not None or cut.sizes(query)[2] == query.shape[2]:
            return given
        # Without one, scores are scaled by the number of channels.
        return arguments[:5], keyword_arguments | {"scale": 1 / math.sqrt(query.shape[2])}

    def macs(self, call: Call, cut: Cut) -> int:
        query, key, value = self._given(call)
        heads = cut.sizes(query)[1] if self.heads else 1
        return sizes(query.shape[:1]) * sizes(key.shape[:1]) * heads * (cut.sizes(query)[-1] + cut.sizes(value)[-1])
