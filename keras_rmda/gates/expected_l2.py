"""A weight decay that counts what is open: the expected L2 term of gates."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.channels.sites import Call, Site
from keras_rmda.gates.hard_concrete import Tensor
from keras_rmda.gates.layer import L0Gate
from keras_rmda.gates.training import chains_in, gates_in
from keras_rmda.platform import checks
from keras_rmda.structure.trace import Trace, as_graph, trace


class ExpectedL2:
    """A regularizer: weight_decay / 2 * sum_c P(z_c > 0) |w_c|^2 for the channels c that a kernel writes.

    Args:
        weight_decay: a number >= 0.
        gate: the gates of the channels.
        log_alpha: returns their log alpha.
        axis: of the channels in the kernel.
    """

    is_of_gates = True
    """Without its gate it means nothing: `strip` leaves it out."""

    def __init__(self, weight_decay: float, gate: L0Gate, log_alpha: Any, axis: int):
        self.weight_decay, self.gate, self.log_alpha, self.axis = weight_decay, gate, log_alpha, axis

    def __call__(self, w: Tensor) -> Tensor:
        """Return the term."""
        w = ops.convert_to_tensor(w)
        squares = ops.sum(ops.square(w), [k for k in range(len(w.shape)) if k != self.axis])
        frozen = ops.convert_to_tensor(self.gate.frozen)
        opened = ops.where(frozen < 0, self.gate.probabilities(self.log_alpha()), ops.cast(frozen > 0, "float32"))
        return 0.5 * self.weight_decay * ops.sum(ops.cast(opened, squares.dtype) * squares)


def decay(model: keras.Model, weight_decay: float) -> list[str]:
    """Add the expected L2 norm of the weights to the loss of a model with gates: what is closed does not decay.

    Formula: loss + weight_decay / 2 * sum_c P(z_c > 0) |w_c|^2, over the channels c of all gates, where w_c are the
    weights of the layer behind which the gates stand. It has a gradient with respect to the gates, too: channels with
    small weights stay open more cheaply.

    Call it after `insert` and before `fit`; after loading a model, call it again, since files do not hold it.

    Args:
        model: with gates, of `insert`. Its kernels get a regularizer.
        weight_decay: a finite number >= 0.

    Returns:
        The paths of the kernels.

    Raises:
        ValueError: for an argument out of range, if the model has no gates behind layers with kernels, and, naming it,
            if a kernel has a regularizer already.

    Example:
        >>> kr.gates.decay(gated, 5e-4)

    Source: Louizos, Welling and Kingma 2018, arXiv:1712.01312, section 2.3; the term of L0-HC.
    """
    checks.real("weight_decay", weight_decay)
    found: list[tuple[Any, ExpectedL2]] = []
    with as_graph(model) as graph:
        traced = trace(graph)
        for call in gates_in(traced):
            for site in traced.sites.values():
                axis = written_by(traced, site, call)
                if axis is not None:
                    found.append(
                        (site.weight("kernel"), ExpectedL2(weight_decay, call.layer, alpha_of(call, traced), axis))
                    )
    if not found:
        raise ValueError(
            f"The model {model.name!r} has no gates behind layers with kernels. `keras_rmda.gates.insert` puts them in."
        )
    for kernel, _ in found:
        if kernel.regularizer is not None and not isinstance(kernel.regularizer, ExpectedL2):
            raise ValueError(
                f"The kernel {kernel.path!r} has a regularizer already: leave that out, or the decay. "
                f"Received: {kernel.regularizer!r}"
            )
    for kernel, term in found:
        kernel.regularizer = term
    return [kernel.path for kernel, _ in found]


def written_by(model: Trace, site: Site, call: Call) -> int | None:
    """Return the axis of a layer's kernel whose channels are those of gates, if the gates stand behind the layer."""
    kernel, own = site.weight("kernel"), site.own.get("o")
    if kernel is None or site.opaque or np.ndim(own) != 1 or "kernel" not in site.axes or not site.calls:
        return None
    letters = site.rule.groups_by(site.layer)["kernel"]
    fits = letters.count("o") == 1 and kernel.shape[letters.index("o")] == len(own)
    return letters.index("o") if fits and site is stands_behind(model, call) else None


def stands_behind(model: Trace, call: Call) -> Site | None:
    """Return the layer with a kernel whose output gates multiply, perhaps through a normalization."""
    makers = {y.index: each for each in model.calls for y in each.outputs}
    maker = makers.get(call.inputs[0].index)
    while maker is not None and "o" not in maker.site.own and maker.inputs:
        maker = makers.get(maker.inputs[0].index)
    return None if maker is None else maker.site


def alpha_of(call: Call, model: Trace) -> Any:
    """Return what computes the log alpha of gates."""
    if not call.inputs[1:]:
        return lambda: ops.convert_to_tensor(call.layer.log_alpha)
    [(generator, number)] = [
        (each, chain.index(call)) for each, chain in chains_in(model) if any(call is gate for gate in chain)
    ]
    return lambda: ops.reshape(generator.current()[number], (-1,))
