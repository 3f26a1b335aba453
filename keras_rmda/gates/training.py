"""What training with gates needs besides the gates: two optimizers, figures, and an end to the sampling."""

from __future__ import annotations

import warnings

import keras
import numpy as np
from keras import ops

from keras_rmda.channels.gates import Multiplies
from keras_rmda.channels.rule import Read
from keras_rmda.channels.sites import Call, Cut, Site
from keras_rmda.gates.generator import GateGenerator
from keras_rmda.gates.layer import FREE
from keras_rmda.gates.penalty import ChainPenalty
from keras_rmda.platform import checks
from keras_rmda.structure.amounts import amounts
from keras_rmda.structure.liveness import plan
from keras_rmda.structure.trace import Trace, as_graph, trace

WEIGHTS_OF_GATES = r"(.*/)?log_alpha(_kernel_\d+|_bias_\d+)?"
"""The paths of what gates and their generators train."""


TOLERANCE = 0.02
"""What may be left over a target without a warning."""


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

    Where they have a target, as many stay open as it asks for: those with the largest log alpha, and one of each layer
    at least. A warning says if the training has left more than two points more.

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
    values = {id(call): call.site.rule.factors_of(call, found.state) for call in calls}
    for generator, chain in chains_in(found.trace):
        if generator.penalty and generator.penalty.target is not None:
            log_alphas = [ops.convert_to_numpy(each).reshape(-1) for each in generator.current()]
            settled = at_target(generator.penalty, log_alphas, [values[id(call)] for call in chain])
            values |= {id(call): z for call, z in zip(chain, settled)}
    for call in calls:
        z = values[id(call)]
        call.layer.frozen.assign(z)
        count += int((z > 0).sum())
    set_stopped(found.trace, 1.0)
    return count


def at_target(penalty: ChainPenalty, log_alphas: list[np.ndarray], values: list[np.ndarray]) -> list[np.ndarray]:
    """Return gates of inference of the layers of a chain, of which as many are open as the target asks for."""
    layers = np.repeat(np.arange(len(values)), [len(each) for each in values])
    firsts = np.concatenate([np.arange(len(each)) == each.argmax() for each in log_alphas])
    order = np.lexsort((-np.concatenate(log_alphas), ~firsts))
    counts = (layers[order, None] == np.arange(len(values))).cumsum(0)[len(values) - 1 :]
    whole = sum(penalty.amounts([len(each) for each in values]))
    shares = sum(penalty.amounts([counts[:, k].astype("float64") for k in range(len(values))])) / whole
    best = int(np.abs(shares - penalty.target).argmin())
    opened = np.zeros(len(order), bool)
    opened[order[: len(values) + best]] = True
    left = sum(penalty.amounts([float((each > 0).sum()) for each in values])) / whole
    if left - penalty.target > TOLERANCE:
        warnings.warn(
            f"Gates leave {left:.1%} of their cost when they are frozen, not {penalty.target:.1%} as `target` says: "
            f"those with the largest log alpha were taken, which leave {shares[best]:.1%}. A larger `dual_rate`, or "
            "more epochs before that, lets training itself get there.",
            checks.SparsityWarning,
            stacklevel=3,
        )
    parts = np.split(opened, np.cumsum([len(each) for each in values])[:-1])
    half = [1.0 / (1.0 + np.exp(-each)) for each in log_alphas]
    return [np.where(part, np.where(z > 0, z, s), 0.0) for part, z, s in zip(parts, values, half)]


def chains_in(model: Trace) -> list[tuple[GateGenerator, list[Call]]]:
    """Return the generators of a traced model, with the calls of the gates that they compute, in their order."""
    found = []
    for call in model.calls:
        if isinstance(call.layer, GateGenerator):
            numbers = [y.index for y in call.outputs]
            gates = {each.inputs[1].index: each for each in gates_in(model) if each.inputs[1:]}
            if set(numbers) <= set(gates):
                found.append((call.layer, [gates[number] for number in numbers]))
    return found


def set_stopped(model: Trace, value: float) -> None:
    """Set whether the penalties on all gates of a traced model stop: 1, or 0."""
    for generator, _ in chains_in(model):
        if generator.penalty:
            generator.stopped.assign(value)


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
        if not removes(model, call, read):
            continue
        others = [drawn.constants(x).reshape(-1) for x in call.inputs[1:]]
        [log_alpha] = others or [read(call.layer.log_alpha)]
        frozen = read(call.layer.frozen)
        open_ones = ops.convert_to_numpy(call.layer.probabilities(ops.convert_to_tensor(log_alpha, "float32")))
        atoms = model.ties.find(call.site.own["c"])
        keep[atoms] *= np.where(frozen < 0, open_ones, frozen > 0)
    return float(amounts(found, Cut(model.ties, keep))["macs"])


def removes(model: Trace, call: Call, read: Read) -> bool:
    """Return whether closed gates of a call remove their channels, which others may write too."""
    atoms = model.ties.find(call.site.own["c"])
    writers = [
        site for site in model.sites.values() if mixes(site) and np.isin(model.ties.find(site.own["o"]), atoms).any()
    ]
    if len(writers) < 2:
        return True
    frozen = id(call.layer.frozen)
    for first in (0, 1):
        half = np.arange(len(atoms)) % 2 == first
        kept = plan(model, lambda v, half=half: (~half).astype("float32") if id(v) == frozen else read(v)).cut.keep
        if kept[atoms[half]].any():
            return False
    return True


def mixes(site: Site) -> bool:
    """Return whether a layer computes each of its outputs from all inputs."""
    if site.opaque or np.ndim(site.own.get("o", 0)) == 0:
        return False
    return any("i" in letters and "o" in letters for letters in site.rule.groups_by(site.layer).values())


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
        model = trace(graph)
        for call in gates_in(model):
            call.layer.frozen.assign(ops.full_like(ops.convert_to_tensor(call.layer.frozen), FREE))
        set_stopped(model, 0.0)
