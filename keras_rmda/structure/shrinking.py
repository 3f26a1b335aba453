"""A smaller model that goes on training where the large one was."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.channels.sites import Site
from keras_rmda.optimizers.joint import NEVER_AGAIN
from keras_rmda.optimizers.models import optimizers_of
from keras_rmda.platform import checks, compat, finite, fitting, graphs
from keras_rmda.platform.copying.saving import made_savable
from keras_rmda.structure.decisions import ZEROS, Zeros, staying
from keras_rmda.structure.folding import Folding
from keras_rmda.structure.kept import Kept, as_number, random_states
from keras_rmda.structure.liveness import Plan
from keras_rmda.structure.pairing import Shrunk
from keras_rmda.structure.penalties import keep_own_penalties, losses_count_what_is_gone
from keras_rmda.structure.rebuilding import is_whole, remade, with_weights
from keras_rmda.structure.states import copied_optimizer, cut_state, inside, pairs
from keras_rmda.structure.stepping import counts_what_is_gone
from keras_rmda.structure.strip import verify, warn_of_lost_losses
from keras_rmda.structure.trace import as_graph

STEPS = ("train_step", "compute_loss", "compute_metrics")
"""Methods of a model that a smaller one would not have."""


def shrink(
    model: keras.Model, zeros: Zeros = "decided", tolerance: float | None = None, inputs: Any = None
) -> keras.Model:
    """Return a smaller model that goes on training where this one is: its compiled copy without what stays zero.

    `strip` is for models that have been trained; this is for those in training. What goes is what somebody has decided
    to be zero for good: groups that `callbacks.TargetSparsity` has closed, gates that are fixed at zero
    (`gates.freeze`), and zeros in weights with `trainable=False`. Other zeros may return, and stay. Then training the
    smaller model is training the large one, step by step, for less. Its optimizer has what stays of every slot, and all
    else as it was: iterations, learning rate, strengths and their weights for groups, scales of losses, accumulated
    gradients, random states. Gates that train stay.

    Batch statistics, weight decay, moving averages of weights and clipping by value are of each weight by itself. Norms
    (of groups, of clipped gradients, of weights) count zeros as nothing. They are those of the large model unless that
    has weights that act on nothing and are not zero, of which a `SparsityWarning` tells: `lift(model, small)` makes
    them zero. Dropout and gates draw other numbers for fewer channels, of the same distribution. The logged loss lacks
    the penalties of what is gone.

    Args:
        model: a compiled model, as for `strip`. It is not changed.
        zeros: what goes: `"decided"`, or `"all"` that is zero now, also by chance or by the penalty alone. That cannot
            return, so that training goes on otherwise than in the large model.
        tolerance, inputs: of the comparison of both models, as of `strip`.

    Returns:
        A new model, compiled as this one is, with new metrics.

    Raises:
        ValueError: if the model is not compiled, makes steps of its own, or has losses of the activities of channels
            that go; if nothing can go; and if the state of the optimizer cannot be cut, as that
            of Adafactor, or its steps are not those of a smaller weight, as Muon's.
        VerificationError: naming the first layer that differs, if outputs differ by more than rounding.

    Example:
        >>> small = kr.shrink(model)
        >>> small.fit(x, y, initial_epoch=20, epochs=30)
        >>> kr.lift(model, small)

    Source: training on what structured sparsity leaves is PruneTrain's, Lym et al. 2019, arXiv:1901.09290.
    """
    checks.one_of("zeros", zeros, ZEROS)
    if tolerance is not None:
        checks.real("tolerance", tolerance, open_minimum=True)
    made = shrunk(model, zeros, tolerance, inputs)
    warn_of_lost_losses(model, made.small)
    if (made.steps_count_what_is_gone or made.losses_count_what_is_gone) and zeros == "decided":
        warnings.warn(
            f"{model.name!r} has weights that act on nothing any more and are not zero, and its optimizer "
            "counts them in norms: its steps are not quite those of the smaller model, which has none. "
            "`keras_rmda.lift(model, small)` makes them zero.",
            checks.SparsityWarning,
            stacklevel=2,
        )
    return made.small


def shrunk(model: keras.Model, zeros: Zeros = "decided", tolerance: float | None = None, inputs: Any = None) -> Shrunk:
    """Return what `shrink` does, with the places of all weights."""
    check_trains(model)
    compat.take_state_back(model)
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    with as_graph(model) as graph:
        finite.check_finite(model)
        plan = staying(model, graph, zeros)
        check_cut(model, graph, plan, zeros)
        with fitting.scope_of(model):
            small, kept = cut_out(model, graph, plan)
            verify(graph, small, plan, Folding(), model, tolerance, inputs)
            keep_own_penalties(model, kept)
            check_own_penalties(model, kept)
            arguments = fitting.compile_arguments(model)
            optimizer = copied_optimizer(model.optimizer, kept, small)
            small.compile(**fitting.with_new_metrics(arguments) | {"optimizer": optimizer}, auto_scale_loss=False)
            counts = take_state(model, small, kept)
            return Shrunk(model, small, kept, counts, losses_count_what_is_gone(model, kept))


def check_trains(model: keras.Model) -> None:
    """Refuse a model that nobody trains, or that makes steps of its own."""
    if not getattr(model, "compiled", False) or getattr(model, "optimizer", None) is None:
        raise ValueError(f"`shrink` is for models in training: compile {model.name!r} first, or `strip` it.")
    for name in STEPS:
        if getattr(type(model), name) is not getattr(keras.Model, name) or name in vars(model):
            raise ValueError(
                f"{type(model).__name__} defines {name!r}, and a smaller model makes the steps of Keras: `strip` it, "
                "and train what is left by a class of your own."
            )


def check_cut(model: keras.Model, graph: keras.Model, plan: Plan, zeros: Zeros) -> None:
    """Refuse a cut that takes nothing, or that takes a part of the loss."""
    sites = plan.trace.sites.values()
    if all(is_whole(site, plan.cut) for site in sites):
        why = "No channel is zero." if zeros == "all" else why_nothing_goes(model, graph)
        raise ValueError(f"Nothing of {model.name!r} can go while it trains. {why}")
    check_losses(model, [site for site in sites if not is_whole(site, plan.cut)])


def check_losses(model: keras.Model, cut: Iterable[Site]) -> None:
    """Refuse a model of whose loss a part would be missing, or another one, where these layers are cut."""
    for site in cut:
        if getattr(site.layer, "activity_regularizer", None) is not None:
            raise ValueError(
                f"The layer {site.name!r} has an `activity_regularizer`, which counts channels that would go: the loss "
                "would be another one. Take the regularizer away, or keep the channels."
            )


def why_nothing_goes(model: keras.Model, graph: keras.Model) -> str:
    """Return why nothing is zero by decision, and what to do."""
    for optimizer in optimizers_of(model):
        for coupling in optimizer.couplings:
            if (ops.convert_to_numpy(coupling.factors) >= NEVER_AGAIN).any():
                if not optimizer.keeps_zeros:
                    return (
                        f"{type(optimizer).__name__} closes groups in its sparse copy; the weights it trains are dense."
                    )
                if not any(optimizer.closed(index).any() for index in coupling.indices):
                    return (
                        "Groups are closed, but training goes on from weights of theirs that are not zero yet: they "
                        "become so with time, or with the last choice of `callbacks.TargetSparsity`."
                    )
    others = staying(model, graph, "all")
    if all(is_whole(site, others.cut) for site in others.trace.sites.values()):
        return "No channel is zero."
    return (
        "It has zeros, but nobody has decided that they stay, as `callbacks.TargetSparsity` or `gates.freeze` do: they "
        'may return. `shrink(model, zeros="all")` cuts them out nevertheless.'
    )


def cut_out(model: keras.Model, graph: keras.Model, plan: Plan) -> tuple[keras.Model, Kept]:
    """Return a copy of a model that holds what stays, as it is, and which weights it has."""
    small, made = remade(graph, plan, Folding())
    kept = Kept()
    for site, new in with_weights(plan, made):
        kept.note(plan, site, new.weights)
        new.set_weights([kept.cut(variable, variable) for _, variable in site.weights()])
        graphs.finalize_states(new)
    for site in plan.trace.sites.values():
        for new in made.get(id(site.layer), [])[:1]:
            for variable, other in zip(random_states(site.layer), random_states(new)):
                other.assign(as_number(variable))
    made_savable(small, model, made)
    return small, kept


def check_own_penalties(model: keras.Model, kept: Kept) -> None:
    """Refuse regularizers of layers, in the loss, that say something else of a smaller weight."""
    for variable in model.trainable_variables:
        new, regularizer = kept.small.get(id(variable)), variable.regularizer
        if regularizer is None or new is None or kept.is_whole(variable):
            continue
        value = np.cos(np.arange(int(np.prod(new.shape)))).reshape(tuple(new.shape)).astype("float32")
        a, b = (
            float(ops.convert_to_numpy(psi(ops.convert_to_tensor(each))))
            for psi, each in ((regularizer, kept.filled(variable, value, 0)), (new.regularizer, value))
        )
        if not abs(a - b) <= 1e-4 * abs(a):
            raise ValueError(
                f"The regularizer {type(regularizer).__name__} of {variable.path!r} is {a:.4g} of a weight with zeros, "
                f"and {b:.4g} of the same without them: training the smaller model would not be training the large one."
            )


def take_state(model: keras.Model, small: keras.Model, kept: Kept, tries: bool = True) -> bool:
    """Give the optimizer of a smaller model what stays of the state of the model's.

    Args:
        model, small, kept: both models, and the weights that both have.
        tries: whether to try a step of both.

    Returns:
        Whether steps of the model differ by weights that act on nothing, which are not zero.
    """
    unknown = [each.path for each in model.optimizer._trainable_variables if id(each) not in kept.small]
    if unknown:
        raise ValueError(f"The optimizer trains weights that are not in the graph of {model.name!r}: {unknown}")
    small.optimizer.build(small.trainable_variables)
    for old, new in zip(inside(model.optimizer), inside(small.optimizer)):
        follow_like(old, new)
    found = pairs(model.optimizer, small.optimizer)
    if not found:
        raise ValueError(
            f"The state of {type(model.optimizer).__name__} cannot be cut: a new one has other variables. `strip` the "
            "model, and train what is left with a new optimizer."
        )
    strategy = getattr(model, "distribute_strategy", None) if keras.backend.backend() == "tensorflow" else None
    for old, new in found:
        cut_state(old, new, kept)
    return tries and counts_what_is_gone(model.optimizer, small.optimizer, kept, strategy)


def follow_like(optimizer: Any, other: Any) -> None:
    """Let an optimizer keep the importance of groups if another one does."""
    if any(each.importance is not None for each in getattr(optimizer, "couplings", ())):
        other.follow_importance()
