"""Which coupled groups of a model go, and what that leaves."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import cache, partial

import keras
import numpy as np
from keras import ops

from keras_rmda.callbacks.ranking import (
    KEPT,
    OF_THIN,
    fewest,
    in_multiples,
    places,
    possible,
    relative,
    thin,
    untouched,
)
from keras_rmda.channels.sites import Cut, Site
from keras_rmda.optimizers.base import SparseOptimizer
from keras_rmda.optimizers.joint import NEVER_AGAIN, Coupling
from keras_rmda.optimizers.models import optimizers_of
from keras_rmda.structure.amounts import amounts, amounts_of, everything
from keras_rmda.structure.coupling import names_of, tie_what_goes_together
from keras_rmda.structure.liveness import plan
from keras_rmda.structure.pairing import Shrunk
from keras_rmda.structure.savings import saved_by
from keras_rmda.structure.trace import as_graph, trace

OPEN = 2.0**-60
"""The factor of the strength for groups that may go and are not penalized until then: next to nothing."""


class Groups:
    """The coupled groups of a model under optimizers of this package, as one list.

    Args:
        model: a compiled model.
        metric: what is measured.
        multiple_of: each layer keeps a multiple of this many groups, or all.
        ranking: `"magnitude"` or `"fisher"`, as of TargetSparsity.

    Attributes:
        count: the number of groups.
        whole: the metric of the model with all of its channels.
        opaque: the share of the parameters that are in layers which the converter does not look into, by name.
    """

    def __init__(self, model: keras.Model, metric: str, multiple_of: int = 1, ranking: str = "magnitude"):
        optimizers = [each for each in optimizers_of(model) if each.built]
        self._parts: list[tuple[SparseOptimizer, Coupling]] = [
            (optimizer, coupling) for optimizer in optimizers for coupling in optimizer.couplings
        ]
        if not self._parts:
            raise ValueError(
                "TargetSparsity chooses among coupled groups. Give an optimizer of keras_rmda the regularizer "
                "GroupLasso(strength, groups=coupled_groups(model)), or move the strengths of the penalties that there "
                'are by a law: TargetSparsity(target, metric="weights", control="feedback"). '
                f"Received: optimizer={type(model.optimizer).__name__}"
            )
        for _, coupling in self._parts:
            if coupling.parts[0].strength == 0:
                raise ValueError(
                    "TargetSparsity multiplies the strength of groups, which must be more than 0; 1e-4 is a good "
                    f"beginning. Received: {coupling.penalty!r}"
                )
        self._metric, self._multiple, self._ranking, self._least = metric, multiple_of, ranking, KEPT
        self._shrunk: Shrunk | None = None
        names = [coupling.groups.names for _, coupling in self._parts]
        self._ends = np.cumsum([len(each) for each in names])
        self.count = int(self._ends[-1])
        # A group is called by the layer that writes its channels, and a number.
        names = [name for each in names for name in each]
        self._layers = np.unique([name.rsplit("[", 1)[0] for name in names], return_inverse=True)[1]
        with as_graph(model) as graph:
            self._trace = trace(graph)
            self._see(model, graph)
        self._names, self._name_of_atom = self._named_atoms(names)
        self.refresh()
        self._plan = plan(self._trace, self._read)
        whole = amounts(self._plan, everything(self._plan))
        self.whole = self.count if metric == "groups" else whole[metric]
        self.opaque = {
            site.name: sum(math.prod(v.shape) for _, v in site.counted()) / max(whole["parameters"], 1)
            for site in self._trace.sites.values()
            if site.opaque and site.weights()
        }

    def _see(self, model: keras.Model, graph: keras.Model) -> None:
        """Look at the model while it has a graph."""

    def lefts(self) -> dict[str, float]:
        """Return by metric the share that is left now."""
        return {self._metric: self.left()}

    def told(self, left: float) -> str:
        """Return in words how much is left."""
        return f"{left:.1%} of the {self._metric}"

    def wanted(self, goal: float) -> str:
        """Return in words how much is to be left, behind how much is."""
        return f"{goal:.1%}"

    def possible(self, least: float) -> str:
        """Return in words the smallest target."""
        return f"{possible(least, self.whole)} {self._metric}"

    def share_of(self, target: float) -> float:
        """Return a target as a share of the whole."""
        goal = target if target < 1 else target / self.whole
        if goal > 1:
            raise ValueError(
                f"The model has {self.whole:,} {self._metric}: a target is a share of them, less than 1, or a number, "
                f"at most that. Received: target={float(target)!r}"
            )
        return goal

    def _named_atoms(self, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the number of each group's name, and of the name of each atom; one more for atoms of no group."""
        tied = replace(self._trace, ties=copy.deepcopy(self._trace.ties))
        tie_what_goes_together(tied)
        roots, root_of_atom = np.unique(tied.ties.find(np.arange(len(tied.ties.parent))), return_inverse=True)
        different, numbers = np.unique(names, return_inverse=True)
        number = {name: k for k, name in enumerate(different.tolist())}
        number_of_root = np.array([number.get(name, len(number)) for name in names_of(tied, roots)])
        if self._ranking == "fisher":
            saved = saved_by(tied, roots, self._amount)
            self._costs = np.bincount(number_of_root, saved, minlength=len(number) + 1)[numbers]
        return numbers, number_of_root[root_of_atom]

    def _amount(self, site: Site, cut: Cut) -> float:
        """Return what a layer has of the metric, in terms of which all groups count alike where these are counted."""
        return amounts_of(site, cut)["parameters" if self._metric == "groups" else self._metric]

    def follow(self, shrunk: Shrunk) -> None:
        """Go on with a smaller model in the place of this one, whose groups, costs and shares stay what they are.

        Looks are of the smaller model's weights, and what is decided is handed down to it.
        """
        self._shrunk = shrunk if self._shrunk is None else self._shrunk.and_then(shrunk)

    def gather(self) -> None:
        """Let the model have what a smaller one has come to."""
        if self._shrunk is not None:
            self._shrunk.lift()

    def _hand_down(self) -> None:
        if self._shrunk is not None:
            self._shrunk.drop()

    @property
    def factors(self) -> np.ndarray:
        """The factors of the strengths of all groups; settable."""
        return np.concatenate([ops.convert_to_numpy(coupling.factors) for _, coupling in self._parts])

    @factors.setter
    def factors(self, values: np.ndarray) -> None:
        for (_, coupling), each in zip(self._parts, np.split(values, self._ends[:-1])):
            coupling.factors.assign(each)
        self._hand_down()

    @property
    def is_final(self) -> bool:
        """Whether `finish` has chosen."""
        return bool(np.isin(self.factors, (0.0, NEVER_AGAIN)).all())

    def refresh(self, structured: bool = True) -> None:
        """Read the weights and their structured values, which all measures are of until the next call.

        Args:
            structured: whether to read structured values, or the weights alone.
        """
        self.gather()
        self._values: dict[int, np.ndarray] = {}
        self._without_zeros: dict[int, np.ndarray] = {}
        self._numbers: dict[int, np.ndarray] = {}
        structured_norms, norms, start = [], [], 0
        for optimizer, coupling in self._parts:
            variables = [optimizer._trainable_variables[index] for index in coupling.indices]
            found = optimizer.structured_values(variables) if structured else variables
            values = [ops.cast(value, "float32") for value in found]
            joint = coupling.joint(coupling.parts[0])
            structured_norms.append(ops.convert_to_numpy(joint.group_norms(values)))
            norms.append(ops.convert_to_numpy(joint.group_norms([ops.cast(v, "float32") for v in variables])))
            for variable, value, part in zip(variables, values, coupling.parts):
                ids = part.penalty.groups.members[part.path]
                self._values[id(variable)] = ops.convert_to_numpy(value)
                self._numbers[id(variable)] = np.where(ids < 0, self.count, ids + start)
            start += len(norms[-1])
        self._structured_norms, self._norms = np.concatenate(structured_norms), np.concatenate(norms)

    def left(self, zero: np.ndarray | None = None) -> float:
        """Return the share of the metric that is left now, or if these groups were zero and the others were not."""
        if self._metric == "groups":
            return float(np.count_nonzero(self._structured_norms if zero is None else ~zero) / self.count)
        read = self._read if zero is None else partial(self._read, zero=np.append(zero, False))
        return amounts(plan(self._trace, read))[self._metric] / self.whole

    def macs(self) -> int:
        """Return the multiply-accumulates per sample that are left now."""
        return amounts(plan(self._trace, self._read))["macs"]

    def _guessed(self, zero: np.ndarray) -> float:
        """Return what is left if exactly the channels of these groups go: `left` without a look at any weight."""
        if self._metric == "groups":
            return self.left(zero)
        alive = np.bincount(self._names, ~zero) > 0
        keep = np.append(alive, True)[self._name_of_atom]
        return amounts(self._plan, Cut(self._trace.ties, keep))[self._metric] / self.whole

    def _read(self, variable: keras.Variable, zero: np.ndarray | None = None) -> np.ndarray:
        key = id(variable)
        if key not in self._values:
            self._values[key] = ops.convert_to_numpy(variable)
        value = self._values[key]
        if zero is None or key not in self._numbers:
            return value
        if key not in self._without_zeros:  # finite, too: nothing else times 0 is 0
            self._without_zeros[key] = np.where((value == 0) | ~np.isfinite(value), np.float32(1.0), value)
        return self._without_zeros[key] * ~zero[self._numbers[key]]  # a third of the time of `where`

    def least(self) -> tuple[float, list[str]]:
        """Return the share of the metric that is left when all goes that can be chosen, and which layers stay whole."""
        place = self._places()
        zero = self._in_multiples(place, place < self.count)
        decided = plan(self._trace, partial(self._read, zero=np.append(zero, False)))
        left = self.left(zero) if self._metric == "groups" else amounts(decided)[self._metric] / self.whole
        self._without_zeros.clear()  # as large as the weights
        return left, untouched(decided, self._metric)

    def smallest(self, wanted: float, nearest: bool = False) -> np.ndarray:
        """Return the fewest groups that have to be zero so that at most this share is left: the smallest ones.

        With `nearest`, one fewer if that comes nearer.
        """
        place = self._places()
        first = cache(lambda k: self._in_multiples(place, place < k))
        left = cache(lambda k: self.left(first(k)))
        k = fewest(np.count_nonzero(place < self.count), wanted, left, lambda k: self._guessed(first(k)))
        if nearest and k and left(k - 1) - wanted < wanted - left(k):
            k -= 1
        self._without_zeros.clear()
        return first(k)

    def _in_multiples(self, place: np.ndarray, zero: np.ndarray) -> np.ndarray:
        """Return as many groups of each layer, the first of their order, as leave the nearest multiple."""
        if self._multiple == 1:
            return zero
        return in_multiples(place, zero, self._layers, self._multiple)

    def aim(self, goal: float) -> None:
        """Know what is to be left, which decides how much of it every layer keeps in any case.

        A thin model, in which all layers keep the same share, would be left with this much: no layer keeps less than
        two thirds of what it has there.
        """
        if self._ranking == "magnitude":
            return
        self._least = OF_THIN * thin(self._layers, goal, self._guessed)

    def _worth(self, gone: np.ndarray) -> np.ndarray:
        """Return by what groups are ranked: the least goes first."""
        if self._ranking == "fisher":
            importance = [ops.convert_to_numpy(coupling.importance) for _, coupling in self._parts]
            return np.concatenate(importance) / np.maximum(self._costs, 1e-30)
        return relative(self._structured_norms, gone, self._layers)

    def _places(self) -> np.ndarray:
        """Return each group's place in the order in which they go; `count` for those that stay in any case."""
        gone = self.factors == NEVER_AGAIN
        return places(self._worth(gone), self._norms, gone, self._layers, self._least)

    def finish(self, goal: float) -> None:
        """Let the smallest groups stay zero for good, penalize no others, and begin a new stage."""
        chosen = self.smallest(goal, nearest=True)
        self.factors = np.where(chosen | (self.factors == NEVER_AGAIN), NEVER_AGAIN, 0.0)
        self.clear()
        for optimizer in dict.fromkeys(optimizer for optimizer, _ in self._parts):
            optimizer.restart()
        self._hand_down()
        self.refresh()

    def reopen(self) -> None:
        """Let more groups go than a choice that was final.

        By the choice alone: a penalty would make zero whatever has small gradients after a training, all at once.
        """
        self.factors = np.where(self.factors == NEVER_AGAIN, NEVER_AGAIN, OPEN)

    def clear(self) -> None:
        """Make the weights of all groups zero that are to be."""
        self.gather()
        gone = np.append(self.factors == NEVER_AGAIN, False)
        for optimizer, coupling in self._parts:
            for index in coupling.indices:
                variable = optimizer._trainable_variables[index]
                w = ops.convert_to_tensor(variable)
                variable.assign(ops.where(gone[self._numbers[id(variable)]], ops.zeros_like(w), w))
        self._hand_down()

    def are_clear(self) -> bool:
        """Return whether the weights of all groups that are to be zero were that at the last look."""
        return not self._norms[self.factors == NEVER_AGAIN].any()
