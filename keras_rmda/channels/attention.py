"""Multi-head and grouped-query attention."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import layers as L

from keras_rmda.channels.rule import Demand, Rule, State
from keras_rmda.channels.sites import Block, Call, Cut, Site, sizes
from keras_rmda.channels.tensors import Atoms, NotCovered, Tensor, along


@dataclass(frozen=True)
class Attends(Rule):
    """Heads "G", each with positions "k" of queries and keys and positions "v" of values, which are read into "o".

    In `GroupQueryAttention`, "r" query heads share the keys and values of one "G", and queries, keys and values are
    of the same size. "i", "j" and "w" are the channels that queries, keys and values are made from. Each head keeps
    positions of its own, all heads as many. Queries are scaled for the size of keys that stays.
    """

    refusal: Callable[[Any], str | None] | None = None

    def letters(self, layer: Any) -> Mapping[str, str | Sequence[str]]:
        head = "G" if isinstance(layer, L.MultiHeadAttention) else "Gr"
        return {
            "query/kernel": ("i", head, "k"),
            "query/bias": (head, "k"),
            "key/kernel": ("j", "G", "k"),
            "key/bias": ("G", "k"),
            "value/kernel": ("w", "G", "v"),
            "value/bias": ("G", "v"),
            "attention_output/kernel": (head, "v", "o"),
            "attention_output/bias": ("o",),
        }

    def reads(self, name: str) -> str:
        return "v" if name.startswith("attention_output") else "ijw"

    def writes(self, name: str) -> str:
        return "o" if name.startswith("attention_output") else "kv"

    def _given(self, call: Call) -> tuple[list[Tensor], list[Tensor]]:
        """Return the tensors of query, key and value, and the others."""
        bound = inspect.signature(call.layer.call).bind(*call.arguments[0], **call.arguments[1]).arguments
        query, value, key = bound["query"], bound["value"], bound.get("key")
        known = [query, value if key is None else key, value]
        return known, [x for x in call.inputs if all(x is not each for each in known)]

    def atoms(self, call: Call, ties: Atoms) -> list[np.ndarray]:
        layer, given = call.layer, self._given(call)[0]
        if len(call.shapes) > 1:
            raise NotCovered("return_attention_scores=True")
        if any(not isinstance(x, Tensor) or len(x.shape) < 2 for x in given):
            raise NotCovered("an argument that is no tensor of the model")
        if len(call.shapes[0]) != len(given[0].shape) or len(call.site.weight("attention_output/kernel").shape) != 3:
            raise NotCovered("an output of several axes")
        for letter, x in zip("ijw", given):
            call.register(letter, x.channels(len(x.shape) - 1, ties), ties)
        groups, n_key = call.site.weight("key/kernel").shape[1:]
        k, v = (call.fresh(letter, ties, groups, n) for letter, n in zip("kv", (n_key, self._value_size(call))))
        [shape] = call.shapes
        written = call.fresh("o", ties, shape[-1])
        if not isinstance(layer, L.MultiHeadAttention):
            call.site.own["r"] = layer.num_query_heads // groups
            ties.tie(call.site.own["i"], written)
        return [along(written, len(shape), len(shape) - 1), k, v]

    @staticmethod
    def _value_size(call: Call) -> int:
        return call.site.weight("value/kernel").shape[2]

    def blocks(self, site: Site) -> list[Block]:
        # Keras on TensorFlow takes a bias of shape (heads, 1) for one along the steps, where there are as many of them.
        biased, repeats = site.weight("query/bias") is not None, site.own.get("r", 1)
        least = lambda groups: 2 if biased and groups * repeats > 1 else 1  # noqa: E731
        return [Block([site.own["k"], site.own["v"]], same="r" in site.own, least=least)]

    def _weights(self, site: Site, state: State) -> dict[str, np.ndarray]:
        """Return the weights with query heads on an axis of their own: (channels, groups, heads, positions)."""
        groups, repeats = site.own["k"].shape[0], site.own.get("r", 1)
        result = {}
        for part, letter in (("query", "k"), ("key", "k"), ("value", "v")):
            n, heads = site.own[letter].shape[1], repeats if part == "query" else 1
            result[part] = state.read(site.weight(f"{part}/kernel")).reshape(-1, groups, heads, n)
            bias = site.weight(f"{part}/bias")
            result[f"{part}_bias"] = (
                np.zeros((groups, heads, n)) if bias is None else state.read(bias).reshape(groups, heads, n)
            )
        result["output"] = state.read(site.weight("attention_output/kernel")).reshape(
            groups, repeats, site.own["v"].shape[1], -1
        )
        return result

    def _fixed(self, call: Call, state: State, w: dict[str, np.ndarray]) -> np.ndarray:
        """Return the positions of values that are the same at all times, and hence the output of attention too."""
        x = self._given(call)[0][2]
        constants = state.constants(x, len(x.shape) - 1)
        varies = np.isnan(constants)
        fixed = (np.where(varies, 0.0, constants) @ w["value"].reshape(len(varies), -1)).reshape(w["value"].shape[1:])
        fixed = (fixed + w["value_bias"])[:, 0]
        return np.where((w["value"][varies] != 0).any(axis=0)[:, 0], np.nan, fixed)

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        w, [shape] = self._weights(call.site, state), call.shapes
        fixed = self._fixed(call, state, w)
        varies = np.isnan(fixed)
        reads = ((w["output"] != 0) & varies[:, None, :, None]).any(axis=(0, 1, 2))
        result = np.einsum("gv,grvo->o", np.where(varies, 0.0, fixed), w["output"].astype("float64"))
        bias = call.site.weight("attention_output/bias")
        result = result if bias is None else result + state.read(bias)
        return [along(np.where(reads, np.nan, result), len(shape), len(shape) - 1)]

    def _takes_constants(self, call: Call) -> bool:
        return call.alone and call.site.weight("attention_output/bias") is not None

    def demands(self, call: Call, state: State) -> list[Demand]:
        (query, key, value), others = self._given(call)
        y, k, v = call.outputs
        name, w = call.site.name, self._weights(call.site, state)
        wanted = state.needed(y, len(y.shape) - 1)
        if not wanted.any():
            return []
        fixed = self._fixed(call, state, w)
        read = (w["output"][..., wanted] != 0).any(axis=-1)  # (groups, heads, positions)
        read &= (np.isnan(fixed) if self._takes_constants(call) else fixed != 0)[:, None]
        attends = (read & np.isnan(fixed)[:, None]).any(axis=-1)  # (groups, heads)
        # A key that is the same at all times adds the same to all scores, which the softmax takes away.
        moving = np.isnan(state.constants(key, len(key.shape) - 1))
        moves = (w["key"][moving] != 0).any(axis=(0, 2))
        asks = (w["query"] != 0).any(axis=0) | (w["query_bias"] != 0)
        asks &= attends[..., None] & moves[:, None]  # (groups, heads, positions)
        compared, valued = asks.any(axis=1), read.any(axis=1)
        demands = [(k, compared, f"compared by {name}"), (v, valued, f"read by {name}")]
        for x, part, used in (
            (query, "query", asks),
            (key, "key", compared[:, None]),
            (value, "value", valued[:, None]),
        ):
            axis = len(x.shape) - 1
            mask = ((w[part] != 0) & used).any(axis=(1, 2, 3)) & (state.constants(x, axis) != 0)
            demands.append((x, x.spread(mask, axis), f"read by {name}"))
        return demands + [(x, np.ones(x.atoms.shape, bool), f"read by {name}") for x in others]

    def value(self, site: Site, name: str, value: np.ndarray, state: State) -> np.ndarray:
        axes = site.axes.get(name, "")
        used = {
            letter: np.any([state.needed(call.outputs[n]) for call in site.calls], axis=0)
            for n, letter in enumerate("kv", start=1)
        }
        for n, letter in enumerate("ijw"):
            tensors = [self._given(call)[0][n] for call in site.calls]
            used[letter] = np.any([state.needed(x, len(x.shape) - 1) for x in tensors], axis=0)
        if name == "attention_output/bias" and self._takes_constants(site.calls[0]):
            w = self._weights(site, state)
            fixed = self._fixed(site.calls[0], state, w)
            fixed = np.where(np.isnan(fixed) | used["v"], 0.0, fixed)
            return value + np.einsum("gv,grvo->o", fixed, w["output"].astype("float64"))
        for letter in used:
            if letter in axes and (letter != "k" or name.startswith("query")):
                value = site.only(axes, value, letter, used[letter])
        if name.startswith("query"):
            ratio = state.cut.count(site, "k") / site.own["k"].shape[1]
            value = value if ratio == 1 else np.multiply(value, math.sqrt(ratio), dtype="float64")
        return value

    def config(self, site: Site, config: dict[str, Any], cut: Cut) -> dict[str, Any]:
        groups, n_key, n_value, written = (cut.count(site, letter) for letter in "Gkvo")
        if "r" in site.own:
            heads = groups * site.own["r"]
            return config | {"num_query_heads": heads, "num_key_value_heads": groups, "head_dim": n_key}
        changed = {"num_heads": groups, "key_dim": n_key, "value_dim": n_value}
        query = self._given(site.calls[0])[0][0]
        if (
            config["output_shape"] is not None
            or written != cut.stays(query.channels(len(query.shape) - 1, cut.ties)).sum()
        ):
            changed["output_shape"] = [written]
        return config | changed

    def macs(self, call: Call, cut: Cut) -> int:
        query, key, value = ((x.shape[:-1]) for x in self._given(call)[0])
        size = {name: int(np.prod(cut.shape(call.site, name, tuple(v.shape)))) for name, v in call.site.weights()}
        projections = sizes(query) * (size["query/kernel"] + size["attention_output/kernel"])
        projections += sizes(key) * size["key/kernel"] + sizes(value) * size["value/kernel"]
        heads = cut.count(call.site, "G") * call.site.own.get("r", 1)
        scores = sizes(query) * sizes(key) * heads
        return projections + scores * (cut.count(call.site, "k") + cut.count(call.site, "v"))
