"""Sparsity in the logs."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from keras_rmda import _compat
from keras_rmda.assignment import is_kernel, own_regularizer
from keras_rmda.optimizers.base import SparseOptimizer
from keras_rmda.pruning.liveness import plan
from keras_rmda.pruning.report import report
from keras_rmda.pruning.trace import Trace, as_graph, trace
from keras_rmda.regularizers import GroupLasso


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
        """Forget the graph of a model that was trained before; refuse a model without one, if it is built."""
        self._trace = self._traced() if self.macs and self.model.built else None

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Measure."""
        if logs is None:
            return
        values: dict[int, np.ndarray] = {}
        zero_groups = groups = zero_weights = weights = 0
        penalty = 0.0
        for variable in self.model.trainable_variables:
            optimizer = _compat.inner_optimizer(getattr(self.model, "optimizer", None), variable)
            ours = isinstance(optimizer, SparseOptimizer) and optimizer.built
            psi = optimizer.penalty_of(variable) if ours else own_regularizer(variable)
            counted = psi or (GroupLasso(0.0) if not ours and is_kernel(variable) else None)
            if counted is None:
                continue
            w = optimizer.structured_value(variable) if ours else ops.convert_to_tensor(variable)
            w = ops.cast(w, "float32")  # NumPy does not know bfloat16
            norms = ops.convert_to_numpy(counted.group_norms(w))
            values[id(variable)] = value = ops.convert_to_numpy(w)
            zero_groups, groups = zero_groups + int((norms == 0).sum()), groups + norms.size
            zero_weights, weights = zero_weights + int((value == 0).sum()), weights + value.size
            penalty += float(ops.convert_to_numpy(counted(w)))
        logs["zero_groups"] = zero_groups / max(groups, 1)
        logs["zero_weights"] = zero_weights / max(weights, 1)
        logs["penalty"] = penalty
        if self.macs:
            self._trace = self._trace or self._traced()
            read = lambda v: values[id(v)] if id(v) in values else ops.convert_to_numpy(v)  # noqa: E731
            logs["macs"] = report(plan(self._trace, read), self.model.name).macs_after

    def _traced(self) -> Trace:
        """Return the trace of the model, or say how to do without it."""
        try:
            with as_graph(self.model) as graph:
                return trace(graph)
        except ValueError as error:
            raise ValueError(
                f"SparsityMonitor cannot count `macs`; SparsityMonitor(macs=False) does not. {error}"
            ) from error
