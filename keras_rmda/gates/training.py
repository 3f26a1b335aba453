"""What training with gates needs besides the gates: two optimizers, figures, and an end to the sampling."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from keras_rmda.channels.gates import Multiplies
from keras_rmda.channels.rule import Read
from keras_rmda.channels.sites import Call, Cut
from keras_rmda.gates.layer import FREE
from keras_rmda.structure.liveness import plan
from keras_rmda.structure.report import amounts
from keras_rmda.structure.trace import Trace, as_graph, trace

WEIGHTS_OF_GATES = r"(.*/)?log_alpha(_kernel_\d+|_bias_\d+)?"
"""The paths of what gates and their generators train."""


def optimizer(
    weights: keras.optimizers.Optimizer, gates: keras.optimizers.Optimizer | None = None
) -> keras.optimizers.Optimizer:
    """Return one optimizer for weights and another one for gates, as one.

    Args:
        weights: for all other weights: SGD with momentum, as the authors use, or any optimizer of this package.
        gates: for log alpha and generators; None for Adam with a learning rate of 0.001, as the authors use.

    Returns:
        A `keras.optimizers.MultiOptimizer`. Its `optimizers` are the two; learning rates are set on them.

    Raises:
        ValueError: if an argument is no optimizer, or if this version of Keras has no MultiOptimizer.

    Example:
        >>> gated.compile(kr.gates.optimizer(keras.optimizers.SGD(0.1, momentum=0.9)), loss="mse")
    """
    gates = keras.optimizers.Adam(1e-3) if gates is None else gates
    for name, value in (("weights", weights), ("gates", gates)):
        if not isinstance(value, keras.optimizers.Optimizer):
            raise ValueError(f"`{name}` must be a Keras optimizer. Received: {name}={value!r}")
    if not hasattr(keras.optimizers, "MultiOptimizer"):
        raise ValueError(
            f"Keras {keras.__version__} has no MultiOptimizer, which trains gates and weights by two optimizers. "
            "Install a newer Keras, or train both by one: `model.compile(optimizer)`."
        )
    chosen = keras.optimizers.OptimizerMap(weights, {WEIGHTS_OF_GATES: gates})
    return keras.optimizers.MultiOptimizer(chosen)


def freeze(model: keras.Model) -> int:
    """Fix all gates of a model at their values of inference: training goes on with what they left open.

    Args:
        model: with gates, of `insert` or `layers.L0Gate`. Only their values change.

    Returns:
        The number of gates that are open.

    Raises:
        ValueError: if the model is not built, has no graph of layers, or no gates.

    Example:
        >>> kr.gates.freeze(model)
    """
    with as_graph(model) as graph:
        found = plan(trace(graph), ops.convert_to_numpy)
    calls, count = gates_in(found.trace), 0
    if not calls:
        raise ValueError(f"The model {model.name!r} has no gates. `keras_rmda.gates.insert` puts them in.")
    for call in calls:
        z = call.site.rule.factors_of(call, found.state)
        call.layer.frozen.assign(z)
        count += int((z > 0).sum())
    return count


def found_open(model: Trace, read: Read) -> dict[str, tuple[int, int]]:
    """Return for each gate layer of a traced model how many of its gates are open at inference, and how many it has."""
    found = plan(model, read)
    return {
        call.site.name: (int((z > 0).sum()), len(z))
        for call in gates_in(model)
        for z in [call.site.rule.factors_of(call, found.state)]
    }


def expected_macs(model: Trace, read: Read) -> float:
    """Return the expected multiply-accumulates of a traced model in training, whose gates open independently.

    Args:
        model: with everything tied that goes together.
        read: returns the value of a variable.
    """
    calls = gates_in(model)
    gates = {id(call.layer.frozen) for call in calls}
    found = plan(model, lambda v: np.ones(v.shape, "float32") if id(v) in gates else read(v))
    drawn = plan(model, read).state
    keep = found.cut.keep.astype("float64")
    for call in calls:
        others = [drawn.constants(x).reshape(-1) for x in call.inputs[1:]]
        [log_alpha] = others or [read(call.layer.log_alpha)]
        frozen = read(call.layer.frozen)
        open_ones = ops.convert_to_numpy(call.layer.probabilities(ops.convert_to_tensor(log_alpha, "float32")))
        atoms = model.ties.find(call.site.own["c"])
        keep[atoms] *= np.where(frozen < 0, open_ones, frozen > 0)
    return float(amounts(found, Cut(model.ties, keep))["macs"])


def gates_in(model: Trace) -> list[Call]:
    """Return the calls of a traced model that have gates of their own."""
    return [
        call
        for call in model.calls
        if isinstance(call.site.rule, Multiplies) and hasattr(call.layer, "frozen") and call is call.site.calls[0]
    ]


def unfreeze(model: keras.Model) -> None:
    """Let the gates of a model train again.

    Args:
        model: one that `freeze` was called with.

    Raises:
        ValueError: if the model is not built, or has no graph of layers.

    Example:
        >>> kr.gates.unfreeze(model)
    """
    with as_graph(model) as graph:
        for call in gates_in(trace(graph)):
            call.layer.frozen.assign(ops.full_like(ops.convert_to_tensor(call.layer.frozen), FREE))
