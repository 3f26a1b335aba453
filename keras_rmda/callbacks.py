"""Training aids: stages for dual averaging, and sparsity in the logs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import keras
import numpy as np
from keras import ops

from keras_rmda import _checks, _compat
from keras_rmda.assignment import is_kernel, own_regularizer
from keras_rmda.optimizers.base import SparseOptimizer
from keras_rmda.pruning.liveness import plan
from keras_rmda.pruning.report import report
from keras_rmda.pruning.trace import trace
from keras_rmda.regularizers import GroupLasso


class StagewiseSchedule(keras.callbacks.Callback):
    """Train in stages: at each milestone the learning rate goes down, the momentum up, and history is forgotten.

    Formula, before epoch m of `milestones`: learning_rate <- factor * learning_rate,
    momentum <- min(1, momentum / factor), `optimizer.restart()`. In the last stage the momentum grows with the
    step t of the stage as min(1, momentum * sqrt(t)), so that in the end the iterate is its structured value.

    Args:
        milestones: increasing 0-based epochs; each is applied before that epoch begins.
        factor: number in (0, 1) that multiplies the learning rate.

    Raises:
        ValueError: for bad arguments; at the start of training if the optimizer is not one of this package or
            its learning rate or momentum is a schedule of its own.

    Example:
        >>> model.fit(x, y, epochs=30, callbacks=[kr.callbacks.StagewiseSchedule([15, 25])])

    Source: Huang and Lee 2022, arXiv:2112.02612, section 5.
    """

    def __init__(self, milestones: Sequence[int], factor: float = 0.1):
        super().__init__()
        try:
            milestones = [_checks.whole("milestones", epoch) for epoch in milestones]
        except TypeError:
            raise ValueError(f"`milestones` must be a sequence of epochs. Received: {milestones!r}") from None
        if not milestones or any(a >= b for a, b in pairwise(milestones)):
            raise ValueError(f"`milestones` must be increasing and not empty. Received: milestones={milestones!r}")
        self.milestones = milestones
        self.factor = _checks.real("factor", factor, maximum=1.0, open_minimum=True)
        if self.factor == 1.0:
            raise ValueError(f"`factor` must be less than 1. Received: factor={factor!r}")

    @property
    def _optimizer(self) -> SparseOptimizer:
        optimizer = _compat.inner_optimizer(getattr(self.model, "optimizer", None))
        if not isinstance(optimizer, SparseOptimizer):
            raise ValueError(
                "StagewiseSchedule restarts optimizers of keras_rmda, such as RMDA. "
                f"Received: optimizer={type(optimizer).__name__}"
            )
        return optimizer

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Refuse what cannot be scheduled."""
        for name in ("learning_rate", "momentum"):
            if not isinstance(getattr(self._optimizer, f"_{name}"), keras.Variable):
                raise ValueError(f"StagewiseSchedule sets the {name}, but the optimizer's {name} is a schedule.")

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Begin a stage."""
        optimizer = self._optimizer
        if epoch == 0:
            optimizer.momentum_growth = 0.0
        if epoch not in self.milestones:
            return
        optimizer.learning_rate = float(ops.convert_to_numpy(optimizer.learning_rate)) * self.factor
        optimizer.momentum = min(1.0, float(ops.convert_to_numpy(optimizer.momentum)) / self.factor)
        optimizer.restart()
        if epoch == self.milestones[-1]:
            optimizer.momentum_growth = 0.5


class SparsityMonitor(keras.callbacks.Callback):
    """Put the sparsity of the structured iterate into `logs` at the end of every epoch.

    Adds `zero_groups` and `zero_weights` (fractions of all groups and weights under a regularizer), `penalty`
    (the value of all penalties) and `macs` (multiply-accumulates that `strip` would leave). Callbacks that come
    after it in the list see them, as do the progress bar, History and TensorBoard. With an optimizer that is not of
    this package it measures the weights themselves, over the input groups of every kernel without regularizer.

    Args:
        macs: whether to compute `macs`, the costlier part.

    Example:
        >>> model.fit(x, y, callbacks=[kr.callbacks.SparsityMonitor()])
    """

    def __init__(self, macs: bool = True):
        super().__init__()
        self.macs = macs
        self._trace = None

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Forget the graph of a model that was trained before; refuse a model without one."""
        if self.macs and not _compat.has_graph(self.model):
            raise ValueError(
                f"SparsityMonitor cannot count `macs` of {self.model.name!r}: it is subclassed and has no graph of "
                "layers. Use SparsityMonitor(macs=False)."
            )
        self._trace = None

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Measure."""
        if logs is None:
            return
        optimizer = _compat.inner_optimizer(getattr(self.model, "optimizer", None))
        ours = isinstance(optimizer, SparseOptimizer) and optimizer.built
        values: dict[int, np.ndarray] = {}
        zero_groups = groups = zero_weights = weights = 0
        penalty = 0.0
        for variable in self.model.trainable_variables:
            psi = optimizer.penalty_of(variable) if ours else own_regularizer(variable)
            counted = psi or (GroupLasso(0.0) if not ours and is_kernel(variable) else None)
            if counted is None:
                continue
            w = optimizer.structured_value(variable) if ours else ops.convert_to_tensor(variable)
            norms = ops.convert_to_numpy(counted.group_norms(w))
            values[id(variable)] = value = ops.convert_to_numpy(w)
            zero_groups, groups = zero_groups + int((norms == 0).sum()), groups + norms.size
            zero_weights, weights = zero_weights + int((value == 0).sum()), weights + value.size
            penalty += float(ops.convert_to_numpy(counted(w)))
        logs["zero_groups"] = zero_groups / max(groups, 1)
        logs["zero_weights"] = zero_weights / max(weights, 1)
        logs["penalty"] = penalty
        if self.macs:
            self._trace = self._trace or trace(self.model)
            read = lambda v: values[id(v)] if id(v) in values else ops.convert_to_numpy(v)  # noqa: E731
            logs["macs"] = report(plan(self._trace, read), self.model.name).macs_after
