"""Rebuild a model without the channels that cannot matter, and verify that it computes the same."""

from __future__ import annotations

import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.channels.penalties import counting
from keras_rmda.channels.tensors import varying
from keras_rmda.optimizers.models import warn_of_hidden_zeros
from keras_rmda.platform import arithmetic, checks, compat, finite
from keras_rmda.platform.tracing import LOST_LOSSES
from keras_rmda.structure.causes import refuse_kept_numbers
from keras_rmda.structure.folding import Folding, fold
from keras_rmda.structure.liveness import Plan, plan
from keras_rmda.structure.precise import Precise, agree_in_float64, run
from keras_rmda.structure.rebuilding import rebuilt_without
from keras_rmda.structure.trace import as_graph, trace
from keras_rmda.structure.verification import Values, VerificationError, difference, outputs_of_both, tolerance_of


def strip(
    model: keras.Model,
    tolerance: float | None = None,
    inputs: Any = None,
    round_to: int = 1,
    strict: bool = False,
) -> keras.Model:
    """Return a smaller model that computes the same function at inference.

    A channel goes if no output can depend on it, or if it is a constant that its readers absorb exactly into their
    biases. This is decided by weights and graph alone. What stays, stays with its names and policies.

    Gates (`layers.L0Gate`, what `gates.insert` puts in) are left out: closed ones take their channels along, the values
    of open ones go into the weights of a layer next to them, or a Rescaling layer where there is none.

    Args:
        model: a built Sequential or Functional model, with zeros from anywhere, or a subclassed one whose `call` uses
            layers and `keras.ops` only. It is not changed.
        tolerance: largest accepted `max|a - b| / max(1e-3, max|a|)`; None for 1e-4 in float32.
        inputs: what both models are run on to compare them, structured as the model wants; None for random numbers.
        round_to: widths become multiples of this, by channels that compute what nobody reads: 8 suits many devices.
            A layer gets no wider than it was.
        strict: whether to raise instead of keeping what touches a layer that the layer table does not know.

    Returns:
        A new, uncompiled model with the same inputs and outputs, also when nothing can go. What was subclassed is
        Functional, and computes at training what the original does at inference wherever its code asks for `training`;
        losses that code adds by `add_loss` stay, and a `SparsityWarning` names those that cannot be followed. Where the
        original is saved and loaded, it is, too, with `import keras_rmda` if Keras alone cannot.

    Raises:
        ValueError: if the model is not built, has no graph of layers or weights that are not finite, if an argument is
            out of range, if a layer cannot be made from its configuration, or if the model cannot run on `inputs`.
        VerificationError: naming the first layer that differs, if outputs differ by more than rounding.

    Example:
        >>> small = kr.strip(model)
        >>> small.count_params() < model.count_params()
        True
    """
    if tolerance is not None:
        checks.real("tolerance", tolerance, open_minimum=True)
    checks.whole("round_to", round_to, minimum=1)
    checks.truth("strict", strict)
    warn_of_hidden_zeros(model)
    small, made = stripped(model, tolerance, inputs, round_to, strict)
    warn_of_lost_losses(model, small)
    warn_of_penalties(model, made)
    return small


def stripped(
    model: keras.Model, tolerance: float | None = None, inputs: Any = None, round_to: int = 1, strict: bool = False
) -> tuple[keras.Model, dict[int, Any]]:
    """Return what `strip` does, and by `id` of layers what was made of them."""
    with as_graph(model) as graph:
        finite.check_finite(model)
        decided = plan(trace(graph), ops.convert_to_numpy, round_to)
        if strict:
            refuse_opaque(graph, decided)
        folding = fold(decided)
        small, exact, made = rebuilt_without(graph, decided, folding, model)
        verify(graph, small, decided, folding, model, tolerance, inputs, exact)
    return small, made


def copied(model: keras.Model) -> keras.Model:
    """Return a copy of a model as `strip` makes it, without its gates, of which nothing else is gone.

    Raises:
        ValueError, VerificationError: as `strip`.
    """
    copy = copied_with_layers(model)[0]
    warn_of_lost_losses(model, copy)
    return copy


def copied_with_layers(model: keras.Model) -> tuple[keras.Model, dict[int, Any]]:
    """Return what `copied` does, and by `id` of layers what was made of them."""
    with as_graph(model) as graph:
        finite.check_finite(model)
        traced = trace(graph)
        decided = plan(traced, meaningless)
        folding = fold(decided, plan(traced, ops.convert_to_numpy).state)
        copy, exact, made = rebuilt_without(graph, decided, folding, model)
        verify(graph, copy, decided, folding, model, exact=exact)
    return copy, made


def warn_of_lost_losses(model: keras.Model, small: keras.Model) -> None:
    """Say which layers add losses by code that a smaller model does not have, since they cannot be followed."""
    kept = {type(layer) for layer in compat.layers_of(small)}
    known = [layer for layer in compat.layers_of(model) if layer in LOST_LOSSES and type(layer) not in kept]
    lost = {layer.name: LOST_LOSSES[layer] for layer in known}
    if lost:
        reasons = "; ".join(f"{name}: {why}" for name, why in lost.items())
        warnings.warn(
            f"The code of {list(lost)} adds losses by `add_loss` that cannot be followed and are not in the smaller "
            f"model: training it further goes without them. ({reasons})",
            checks.SparsityWarning,
            stacklevel=3,
        )


def warn_of_penalties(model: keras.Model, made: dict[int, Any]) -> None:
    """Say which penalties depend on the number of channels, so that the loss of a smaller model is another."""
    pairs = [(layer, new) for layer in compat.layers_of(model) for new in made.get(id(layer), ())]
    found = {layer.name: list(counting(layer, new)) for layer, new in pairs if not isinstance(layer, keras.Model)}
    listed = "; ".join(f"{name}: {', '.join(why)}" for name, why in found.items() if why)
    if listed:
        warnings.warn(
            f"Penalties of {model.name!r} depend on the number of channels, and not only on what is not zero: training "
            f"the smaller model further has another loss. ({listed})",
            checks.SparsityWarning,
            stacklevel=3,
        )


def meaningless(variable: Any) -> np.ndarray:
    """Return weights that say nothing: not zero, and no two alike."""
    return np.linspace(0.5, 1.5, int(np.prod(variable.shape))).reshape(variable.shape)


def refuse_opaque(model: keras.Model, plan: Plan) -> None:
    """Raise `ValueError` if there are layers that the converter does not look into."""
    opaque = plan.trace.opaque
    if opaque:
        listed = "; ".join(f"{name}: {why}" for name, why in opaque.items())
        raise ValueError(f"The model {model.name!r} has layers that `strip(strict=True)` does not look into: {listed}")


@arithmetic.full_precision()
def verify(
    model: keras.Model,
    small: keras.Model,
    plan: Plan,
    folding: Folding,
    original: keras.Model,
    tolerance: float | None = None,
    inputs: Any = None,
    exact: Values = (),
) -> None:
    """Compare a model, or the subclassed model `original` that it is the graph of, and its stripped version.

    Unless a tolerance is given, it is in float64. Where that is not possible, or leaves a doubt, it is in their own
    types, and once more in float64, as far as they take it, with values of weights that are not rounded.

    Raises:
        ValueError: if the model cannot run on the inputs.
        VerificationError: naming the first layer whose kept channels differ.
    """
    if tolerance is not None or not agree_in_float64(model, small, inputs, original):
        with compat.restored(original.non_trainable_variables):  # which code may assign to when it is called
            compare(model, small, plan, folding, original, tolerance, inputs, exact)


def compare(
    model: keras.Model,
    small: keras.Model,
    plan: Plan,
    folding: Folding,
    original: keras.Model,
    tolerance: float | None,
    inputs: Any,
    exact: Values,
) -> None:
    """Do what `verify` does, in the models' own types."""
    wanted = tolerance or tolerance_of(model)
    flat, a, b = outputs_of_both(model, small, inputs, original)
    worst = max(difference(x, y) for x, y in zip(a, b))
    if worst > wanted:
        before, after = (run(each, flat)[1] for each in (model, small))
    else:
        precise = Precise(model, small, flat, exact) if tolerance is None else None
        if precise is None or precise.agree:
            return
        worst, wanted, before, after = precise.difference, precise.tolerance, precise.before, precise.after
    refuse_unsteady(model, plan, flat)
    refuse_kept_numbers(model, flat, original)
    name = first_difference(plan, folding, before, after, wanted)
    raise VerificationError(
        f"The stripped model differs from {model.name!r} by {worst:.3g} (tolerance {wanted:g}), first at {name!r}. "
        "The original is unchanged. Weights that are not finite cannot be verified; else this is an error of "
        "keras_rmda or of a registered rule."
    )


def refuse_unsteady(model: keras.Model, plan: Plan, inputs: list) -> None:
    """Raise `VerificationError` if a layer of a model computes something else when it is called again."""
    first, second = (run(model, inputs)[1] for _ in range(2))
    for call, (_, a), (_, b) in zip(plan.trace.calls, first, second, strict=True):
        if any(difference(x, y) > 0 for x, y in zip(a, b)):
            raise VerificationError(
                f"The layer {call.site.name!r} of type {type(call.layer).__name__} computes something else at every "
                "call: it is random at inference or remembers its calls, so that nothing can be verified. The weights "
                "of the original are unchanged."
            )


def first_difference(plan: Plan, folding: Folding, before: list, after: list, tolerance: float) -> str:
    """Return the name of the first layer whose needed output channels differ, for the outputs of calls of both."""
    outputs = dict(zip(map(id, plan.trace.calls), (made for _, made in before), strict=True))
    outputs |= {id(call): outputs[id(gate)][:1] for call, gate in folding.moved}
    kept = [call for call in plan.trace.calls if not call.site.rule.vanishes or id(call.layer) in folding.rescaled]
    copies: dict[str, list] = {}
    for name, made in after:
        copies.setdefault(name, []).append(made)
    for call in kept:
        new = copies[call.site.name].pop(0)
        for tensor, *pair in zip(call.outputs, outputs[id(call)], new):
            x, y = map(ops.convert_to_numpy, pair)
            if x.ndim != y.ndim:
                return call.site.name
            atoms, needs = plan.trace.ties.find(tensor.atoms), plan.state.needed(tensor)
            axes = varying(atoms)
            for axis in axes if tensor.batched and tensor.batch == 0 and len(axes) == 1 else ():
                stays = plan.cut.stays(np.moveaxis(atoms, axis, 0).reshape(atoms.shape[axis], -1)[:, 0])
                needed = np.moveaxis(needs, axis, 0).reshape(needs.shape[axis], -1).any(axis=1)
                x = np.compress(needed, x, axis=axis + 1)
                y = np.compress(needed[stays], y, axis=axis + 1)
            if len(axes) > 1:  # rows have positions of their own, which later tensors show
                continue
            if needs.any() and (x.shape != y.shape or difference(x, y) > tolerance):
                return call.site.name
    return "the outputs only"
