"""The coarse level of multilevel training: a network without the channels that rest."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.optimizers.base import SparseOptimizer
from keras_rmda.optimizers.bregman import MirrorMap
from keras_rmda.platform import fitting
from keras_rmda.regularizers import PenaltyPart
from keras_rmda.regularizers.elementwise import ElementwiseRegularizer
from keras_rmda.structure.decisions import staying
from keras_rmda.structure.folding import Folding
from keras_rmda.structure.kept import as_number, random_states
from keras_rmda.structure.lifting import matched
from keras_rmda.structure.liveness import Plan
from keras_rmda.structure.penalties import keep_own_penalties
from keras_rmda.structure.rebuilding import is_whole
from keras_rmda.structure.shrinking import check_losses, check_own_penalties, check_trains, cut_out, take_state
from keras_rmda.structure.states import copied_optimizer, cut_state, groups_that_stay, ours, pairs, transferred
from keras_rmda.structure.strip import verify
from keras_rmda.structure.trace import as_graph


class CoarseModel:
    """A model without the channels that rest, which makes the coarse steps of it.

    Attributes:
        model: it. Metrics and the loss are those of the large one.
    """

    def __init__(self, large: keras.Model, graph: keras.Model, plan: Plan, tries: bool):
        self._large = large
        self.model, self._kept = cut_out(large, graph, plan)
        verify(graph, self.model, plan, Folding(), large)
        keep_own_penalties(large, self._kept)
        check_own_penalties(large, self._kept)
        self._kept.layers = matched(plan, self.model).layers
        arguments = fitting.compile_arguments(large)
        optimizer = copied_optimizer(large.optimizer, self._kept, self.model)
        self.model.compile(**arguments | {"optimizer": optimizer}, auto_scale_loss=False)
        fitting.share_metrics(large, self.model)
        take_state(large, self.model, self._kept, tries)
        self._pairs = pairs(large.optimizer, self.model.optimizer)
        for _, new in self._pairs:
            for coupling in getattr(new, "couplings", ()):
                coupling.absent = keras.Variable(np.zeros(coupling.factors.shape), False, name="absent")
        self._note_what_is_absent()
        self._set = [pair for old, new in self._pairs for pair in zip(set_between_steps(old), set_between_steps(new))]
        self.model.make_train_function()

    def is_of(self, plan: Plan) -> bool:
        """Return whether exactly this is what stays."""
        try:
            found = matched(plan, self.model)
        except ValueError:
            return False
        return all(np.array_equal(found.places[key], places) for key, places in self._kept.places.items())

    def restrict(self) -> None:
        """Take weights and state of the large model."""
        for variable in self._large.weights:
            if id(variable) in self._kept.small:
                self._kept.small[id(variable)].assign(self._kept.cut(variable, variable))
        for old, new in self._pairs:
            cut_state(old, new, self._kept)
        self._note_what_is_absent()
        self._hand_random_states_over(to_large=False)

    def _note_what_is_absent(self) -> None:
        """Count, in the norms of groups, weights that are cut, since they act on nothing, and are not zero."""
        for old, new in self._pairs:
            for coupling, smaller, stays in zip(
                getattr(old, "couplings", ()), getattr(new, "couplings", ()), groups_that_stay(old, self._kept)
            ):
                asked = [old.asked_of_map(index) for index in coupling.indices]
                gone = []
                for index, (x, _) in zip(coupling.indices, asked):
                    variable = old._trainable_variables[index]
                    small = self._kept.small[id(variable)]
                    gone.append(self._kept.filled(variable, np.zeros(small.shape), ops.convert_to_numpy(x)))
                penalty, step = coupling.penalty, asked[0][1]
                squares = coupling.joint(coupling.parts[0]).grouping.sum(
                    [
                        ops.square(penalty.soften(ops.convert_to_tensor(each, x.dtype), step))
                        for each, (x, _) in zip(gone, asked)
                    ]
                )
                smaller.absent.assign(ops.convert_to_numpy(squares)[:-1][stays])

    def step(self, iterator: Any) -> Any:
        """Make the next steps, as the train function of the large model would.

        Callbacks set learning rates, momenta and strengths there, at the last moment.
        """
        for old, new in self._set:
            new.assign(old)
        return self.model.train_function(iterator)

    def prolong(self) -> None:
        """Give the large model weights and state; what rests there stays as it is."""
        for variable in self._large.weights:
            if id(variable) in self._kept.small:
                small = self._kept.small[id(variable)]
                variable.assign(self._kept.filled(variable, small, as_number(variable)))
        kept_by_user = {id(old) for old, _ in self._set}
        for old, new in self._pairs:
            for x, y, variable, is_cut in transferred(old, new, self._kept):
                if id(x) not in kept_by_user:
                    x.assign(self._kept.filled(variable, y, as_number(x)) if is_cut else as_number(y))
            for coupling, smaller, stays in zip(
                getattr(old, "couplings", ()), getattr(new, "couplings", ()), groups_that_stay(old, self._kept)
            ):
                if coupling.importance is not None:
                    value = as_number(coupling.importance)
                    value[stays] = ops.convert_to_numpy(smaller.importance)
                    coupling.importance.assign(value)
        for optimizer in ours(self._large.optimizer):
            if isinstance(optimizer, MirrorMap):
                optimizer.rebuild_iterate()  # of what is cut in groups that have moved
            optimizer._see()
        self._hand_random_states_over(to_large=True)

    def _hand_random_states_over(self, to_large: bool) -> None:
        for pair in self._kept.layers:
            old, new = pair if not to_large else pair[::-1]
            for variable, other in zip(random_states(old), random_states(new)):
                other.assign(as_number(variable))


def set_between_steps(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """Return the variables of an optimizer that a user may set between steps."""
    found = [getattr(optimizer, name, None) for name in ("_learning_rate", "_momentum", "_momentum_growth")]
    strengths = optimizer._strengths.variables if isinstance(optimizer, SparseOptimizer) and optimizer.built else []
    return [x for x in [*found, *strengths] if isinstance(x, keras.Variable)]


def check_has_coarse_steps(model: keras.Model) -> None:
    """Refuse, before training, a model of which channels cannot be taken out for a time.

    Raises:
        ValueError: as `shrink` does, and where the model has no graph.
    """
    check_trains(model)
    for optimizer in ours(model.optimizer):
        for variable, psi in zip(optimizer._trainable_variables, optimizer._penalties):
            counted = isinstance(psi, PenaltyPart) and isinstance(optimizer, MirrorMap)
            if not (counted or psi is None or isinstance(psi, ElementwiseRegularizer)):
                raise ValueError(
                    f"The groups of {psi!r} on {variable.path!r} under {type(optimizer).__name__} would lose weights "
                    "that count in their norms. Channels are taken out for a time where LinBreg or AdaBreg has coupled "
                    "groups, groups=coupled_groups(model), and others only penalties of single weights. Without "
                    "Multilevel the optimizer makes the same coarse steps by masks."
                )
    with as_graph(model) as graph:
        check_losses(model, staying(model, graph, "resting").trace.sites.values())


def coarse_plan(model: keras.Model, graph: keras.Model) -> Plan | None:
    """Return what of a model takes part in the coarse steps that come; None if that is all."""
    plan = staying(model, graph, "resting")
    return None if all(is_whole(site, plan.cut) for site in plan.trace.sites.values()) else plan


def coarse_model(model: keras.Model, before: CoarseModel | None, makes: bool = True) -> CoarseModel | None:
    """Return the coarse model of a model as it is now: the one that there was, if it is the same, or a new one.

    Args:
        model: a compiled model, after a dense step.
        before: the coarse model of the last period.
        makes: whether to make a new one where that is needed.

    Returns:
        It has the weights and the state of the model. None if no channel rests, or none is to be made.
    """
    with as_graph(model) as graph:
        plan = coarse_plan(model, graph)
        if plan is None:
            return None
        if before is not None and before.is_of(plan):
            before.restrict()
            return before
        if not makes:
            return None
        with fitting.scope_of(model):
            return CoarseModel(model, graph, plan, tries=before is None)
