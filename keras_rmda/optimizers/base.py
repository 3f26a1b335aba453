"""What the users of every optimizer see: arguments, penalties, configuration."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from numbers import Integral
from typing import Any, Literal

import keras
from keras.optimizers.schedules import LearningRateSchedule

from keras_rmda.optimizers import assignment
from keras_rmda.optimizers.assignment import Regularizers, own_regularizer
from keras_rmda.optimizers.constants import Constants
from keras_rmda.optimizers.shown import Shown
from keras_rmda.platform import checks, hooks
from keras_rmda.regularizers import JointPenalty, ProximalRegularizer


class SparseOptimizer(Constants, Shown):
    """Base class of the optimizers that keep structured zeros exactly.

    A subclass states `slots`, `scalars` and `hyperparameters`, and defines `init`, `advance`, `step` and `structured`
    of `Algorithm`. What is set after the first step acts, as the learning rate, a momentum and the `strength` of
    penalties do, or raises.

    Args:
        learning_rate: float >= 0 or `keras.optimizers.schedules.LearningRateSchedule`.
        regularizer: for every kernel whose layer has none of ours of its own; or a dictionary from patterns of
            variable paths (the path itself, else a regular expression that matches all of it) to regularizers; None
            for no penalty.
        exclude: patterns of the paths of variables that `regularizer` does not apply to.
        skip_nonfinite: whether a step with a NaN or infinity in any gradient, after clipping, leaves weights and
            state as they were and is only counted, in `skipped_steps`.
        jit_update: whether XLA compiles the update on TensorFlow, whether the model is compiled by it or not; "auto"
            does so for models of half a million parameters and more.
        **keras_optimizer_arguments: `clipnorm`, `gradient_accumulation_steps`, `name`, ... of Keras. `use_ema` is
            refused; `weight_decay` too where the algorithm would undo it.

    Raises:
        ValueError: naming argument and value, for anything out of range.

    Example:
        >>> class Descent(SparseOptimizer):
        ...     def step(self, w, g, lr, psi, *, t):
        ...         w = w - lr * g
        ...         return w if psi is None else psi.prox(w, lr), {}
        >>> model.compile(Descent(0.1, regularizer=kr.GroupLasso(1e-3)), loss="mse")
    """

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule,
        regularizer: Regularizers = None,
        exclude: Sequence[str] = (),
        skip_nonfinite: bool = False,
        jit_update: bool | Literal["auto"] = "auto",
        **keras_optimizer_arguments: Any,
    ):
        if not callable(learning_rate) and not isinstance(learning_rate, dict):
            checks.real("learning_rate", learning_rate)
            if not isinstance(learning_rate, Integral):  # which Keras refuses
                learning_rate = float(learning_rate)
        super().__init__(learning_rate=learning_rate, **keras_optimizer_arguments)
        self.regularizer = regularizer
        self.exclude = exclude
        self.skip_nonfinite = skip_nonfinite
        self.jit_update = jit_update
        self._model, self._compiled_updates = None, {}
        hooks.leave_proximal_penalties_out_of_losses(applies_penalty_of)

    # ---- what the user calls

    @property
    def skipped_steps(self) -> Any:
        """The number of steps that `skip_nonfinite=True` has skipped."""
        if not self.skip_nonfinite:
            raise AttributeError("Steps are skipped, and counted, with `skip_nonfinite=True` only.")
        self._check_built()
        return self._skipped_steps

    def penalty_of(self, variable: keras.Variable) -> ProximalRegularizer | None:
        """Return the regularizer that this optimizer applies to `variable`, at the strength of the last step.

        None for a variable without one, and before the optimizer is built.
        """
        index = self._trainable_variables_indices[self._var_key(variable)] if self._regularizes(variable) else None
        return None if index is None else self._strengths.penalty(index, self._strengths.last())

    def penalties(self) -> list[tuple[ProximalRegularizer | JointPenalty, list[keras.Variable]]]:
        """Return every penalty, at the strength of the last step, with the variables that it is a function of."""
        self._check_built()
        found = []
        for coupling in self.couplings:
            share = self._strengths.penalty(coupling.indices[0], self._strengths.last())
            found.append((coupling.joint(share), [self._trainable_variables[index] for index in coupling.indices]))
        for index, variable in enumerate(self._trainable_variables):
            psi = self._strengths.penalty(index, self._strengths.last())
            if psi is not None and index not in self._coupling_of:
                found.append((psi, [variable]))
        return found

    # ---- what Keras calls

    def build(self, variables: list[keras.Variable]) -> None:
        """Create the state for `variables`; called by Keras before the first step."""
        super().build(variables)
        _BUILT.add(self)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, with current values of settable ones, as Keras does."""
        arguments = {
            "regularizer": assignment.serialized(self.regularizer),
            "exclude": list(self.exclude),
            "skip_nonfinite": self.skip_nonfinite,
            "jit_update": self.jit_update,
        }
        return super().get_config() | arguments | {name: getattr(self, name) for name in self.hyperparameters}

    # ---- helpers

    def _regularizes(self, variable: keras.Variable) -> bool:
        """Return whether the variable has a penalty here, also while Keras has taken the values of strengths away."""
        index = self._trainable_variables_indices.get(self._var_key(variable)) if self.built else None
        return index is not None and self._penalties[index] is not None


def applies_penalty_of(optimizer: Any, variable: keras.Variable) -> bool:
    """Return whether `optimizer` is ours and applies `variable`'s own regularizer by its proximal step.

    A model without an optimizer (None) is trained in a loop of the user's own: there, any of ours that was built with
    the variable counts.
    """
    if own_regularizer(variable) is None:
        return False
    if optimizer is None:
        return any(each._regularizes(variable) for each in _BUILT)
    if not isinstance(optimizer, SparseOptimizer):
        return False
    return not optimizer.built or optimizer._regularizes(variable)


_BUILT: weakref.WeakSet[SparseOptimizer] = weakref.WeakSet()
