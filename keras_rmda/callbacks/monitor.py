"""Sparsity in the logs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import keras
import numpy as np
from keras import ops

from keras_rmda.callbacks.session import Companion
from keras_rmda.gates.training import expected_macs, found_open, gates_in
from keras_rmda.optimizers.assignment import is_kernel, own_regularizer
from keras_rmda.optimizers.base import SparseOptimizer
from keras_rmda.optimizers.models import optimizers_of
from keras_rmda.platform import finite, nested
from keras_rmda.platform.checks import SparsityWarning
from keras_rmda.regularizers import GroupLasso, JointPenalty, ProximalRegularizer, Tensor
from keras_rmda.structure.amounts import amounts, everything
from keras_rmda.structure.coupling import tie_what_goes_together
from keras_rmda.structure.liveness import plan
from keras_rmda.structure.trace import Trace, as_graph, trace

OF_PENALTIES = ("zero_groups", "weighted_zero_groups", "zero_weights", "penalty")
OF_MODELS = ("macs", "removable_macs", "removable_parameters", "open_gates", "expected_macs")


class SparsityMonitor(Companion):
    """Put the sparsity of the structured iterate into `logs` at the end of every epoch.

    Adds `zero_groups` and `zero_weights` (fractions of all groups and weights under a regularizer),
    `weighted_zero_groups` (groups count by their sizes: the weighted structured sparsity of the authors of RAMDA),
    `penalty` (the value of all penalties), `macs` (multiply-accumulates that `strip` would leave), `removable_macs` and
    `removable_parameters` (fractions of all of the model that `strip` would take). Callbacks that come after it in the
    list see them, as do the progress bar, History and TensorBoard. With an optimizer that is not of this package it
    measures the weights themselves, over the input groups of every kernel without regularizer.

    A training with weights that are not finite is stopped, with a warning that names the first such layer; `logs` get
    `nonfinite_weights`, how many weights are so.

    For a model with gates it also adds `open_gates`, the fraction of gates that are open at inference, and
    `expected_macs`, the multiply-accumulates that gates leave on average in training; it warns of layers whose gates
    are all closed.

    Args:
        macs: whether to compute what `strip` would do, the costlier part, and what gates do.

    Example:
        >>> model.fit(x, y, callbacks=[kr.callbacks.SparsityMonitor()])
    """

    def __init__(self, macs: bool = True):
        super().__init__()
        self.macs = macs
        self.writes = (*OF_PENALTIES, *(OF_MODELS if macs else ()))
        self._trace: Trace | None = None
        self._tied: Trace | None = None
        self._warned: set[str] = set()

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Forget the graph of a model that was trained before; refuse a model without one, if it is built."""
        self._trace = self._traced() if self.macs and self.model.built else None
        self._tied, self._warned = None, set()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Measure; stop a training whose weights are not finite, and say where."""
        finite.stop_if_not_finite(self.model, epoch, logs)
        if logs is None:
            return
        values: dict[int, np.ndarray] = {}
        zero_groups = groups = zero_weights = weights = 0
        zero_sizes = sizes = 0.0
        penalty = 0.0
        for psi, variables, ws in penalized(self.model):
            ws = [ops.cast(w, "float32") for w in ws]  # NumPy does not know bfloat16
            of = ws if isinstance(psi, JointPenalty) else ws[0]
            norms = ops.convert_to_numpy(psi.group_norms(of))
            zero_groups, groups = zero_groups + int((norms == 0).sum()), groups + norms.size
            size = group_sizes(psi, ws, norms)
            zero_sizes, sizes = zero_sizes + float(size[norms == 0].sum()), sizes + float(size.sum())
            penalty += float(ops.convert_to_numpy(psi(of)))
            for variable, w in zip(variables, ws):
                values[id(variable)] = value = ops.convert_to_numpy(w)
                zero_weights, weights = zero_weights + int((value == 0).sum()), weights + value.size
        logs["zero_groups"] = zero_groups / max(groups, 1)
        logs["weighted_zero_groups"] = zero_sizes / max(sizes, 1.0)
        logs["zero_weights"] = zero_weights / max(weights, 1)
        logs["penalty"] = penalty
        if self.macs:
            self._trace = self._trace or self._traced()
            read = lambda v: values[id(v)] if id(v) in values else ops.convert_to_numpy(v)  # noqa: E731
            found = plan(self._trace, read)
            left, whole = amounts(found), amounts(found, everything(found))
            logs["macs"] = left["macs"]
            logs["removable_macs"] = 1.0 - left["macs"] / max(whole["macs"], 1)
            logs["removable_parameters"] = 1.0 - left["parameters"] / max(whole["parameters"], 1)
            if gates_in(self._trace):
                self._measure_gates(logs, read)

    def _measure_gates(self, logs: dict, read: Callable) -> None:
        """Measure gates, and warn of layers without open ones."""
        if self._tied is None:
            self._tied = self._traced()
            tie_what_goes_together(self._tied)
        found = found_open(self._tied, read)
        logs["open_gates"] = sum(n for n, _ in found.values()) / sum(n for _, n in found.values())
        logs["expected_macs"] = expected_macs(self._tied, read)
        closed = {name for name, (n, _) in found.items() if n == 0} - self._warned
        if closed:
            self._warned |= closed
            warnings.warn(
                f"All gates of {', '.join(sorted(closed))} are closed at inference: what is behind sees constants, "
                "except along shortcuts. If accuracy falls, train again with a smaller `strength`.",
                SparsityWarning,
                stacklevel=2,
            )

    def _traced(self) -> Trace:
        """Return the trace of the model, or say how to do without it."""
        try:
            with as_graph(self.model) as graph:
                return trace(graph)
        except ValueError as error:
            raise ValueError(
                f"SparsityMonitor cannot count `macs`; SparsityMonitor(macs=False) does not. {error}"
            ) from error


def group_sizes(psi: ProximalRegularizer | JointPenalty, ws: list[Tensor], norms: np.ndarray) -> np.ndarray:
    """Return how many weights each group has."""
    if isinstance(psi, JointPenalty):
        found = psi.grouping.sum([ops.ones_like(w) for w in ws])[: psi.grouping.count]
        return ops.convert_to_numpy(found).reshape(norms.shape)
    return np.full(norms.shape, np.prod(ws[0].shape) / norms.size)


def penalized(
    model: keras.Model,
) -> Iterator[tuple[ProximalRegularizer | JointPenalty, list[keras.Variable], list[Tensor]]]:
    """Yield every penalty of a model with its variables, and their structured values under an optimizer of ours."""
    ours, others = optimizers_of(model), []
    trainer = nested.trainer_of(getattr(model, "optimizer", None))
    for variable in model.trainable_variables:
        optimizer = trainer(variable)
        if not isinstance(optimizer, SparseOptimizer) or not optimizer.built:
            others.append((own_regularizer(variable), isinstance(optimizer, SparseOptimizer), variable))
    for optimizer in ours:
        if optimizer.built:
            for psi, variables in optimizer.penalties():
                yield psi, variables, optimizer.structured_values(variables)
    for psi, is_ours, variable in others:
        psi = psi or (GroupLasso(0.0) if not is_ours and is_kernel(variable) else None)
        if psi is not None:
            yield psi, [variable], [ops.convert_to_tensor(variable)]
