"""The state of an optimizer in that of a smaller model, and back.

A slot with the shape of a weight is cut like the weight, and what belongs to no weight stays as it is. Where neither is
so, the state cannot be cut, which is said before anything is done with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.optimizers.base import SparseOptimizer
from keras_rmda.platform import nested
from keras_rmda.structure.kept import Kept, as_number
from keras_rmda.structure.penalties import kept_groups, regularizers_of

Slot = tuple[str, Any, int]
"""An attribute of an optimizer, a key in it, and the number of the weight that it is of."""

OF_WEIGHTS = ("_variables", "_trainable_variables", "_witnesses")
"""Attributes that hold variables, but no slots: all of them, the weights, and what `hand_over` takes care of."""


def copied_optimizer(optimizer: Any, kept: Kept, small: keras.Model) -> Any:
    """Return an optimizer for the smaller model, like one of a model.

    Raises:
        ValueError: if its class cannot be made from its configuration.
    """
    like = lambda each: copied_optimizer(each, kept, small)  # noqa: E731
    try:
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            return type(optimizer)(
                like(optimizer.inner_optimizer),
                optimizer.initial_scale,
                optimizer.dynamic_growth_steps,
                name=optimizer.name,
            )
        if hasattr(optimizer, "_optimizer_map"):
            chosen = optimizer._optimizer_map
            if isinstance(chosen, Mapping):
                made: dict[int, Any] = {}
                once = lambda each: made.setdefault(id(each), made.get(id(each)) or like(each))  # noqa: E731
                chosen = type(chosen)(once(chosen.default_optimizer), {key: once(x) for key, x in chosen.items()})
            return type(optimizer)(chosen, loss_scale_factor=optimizer.loss_scale_factor, name=optimizer.name)
        config = configuration(optimizer)
        if isinstance(optimizer, SparseOptimizer):
            config["regularizer"] = regularizers_of(optimizer, kept, small)
        new = type(optimizer).from_config(config)
    except Exception as error:
        raise ValueError(
            f"The optimizer {optimizer.name!r} of type {type(optimizer).__name__} cannot be made again from its "
            f"`get_config()`: {' '.join(str(error).split())[:200]}"
        ) from error
    excluded = getattr(optimizer, "_exclude_from_weight_decay", ())
    pattern = getattr(optimizer, "_exclude_from_weight_decay_pattern", None)
    if excluded or pattern:
        names = [pattern.pattern] if pattern else None
        new.exclude_from_weight_decay([kept.small[key] for key in excluded if key in kept.small], names)
    return new


def configuration(optimizer: Any) -> dict[str, Any]:
    """Return the configuration of an optimizer, with a schedule of the learning rate as it is.

    A user's own class of schedules may have no configuration, or not be registered.
    """
    rate = optimizer._learning_rate
    if isinstance(rate, keras.Variable) or not callable(rate):
        return optimizer.get_config()
    vars(optimizer)["_learning_rate"] = None  # which Keras writes some number for
    try:
        return optimizer.get_config() | {"learning_rate": rate}
    finally:
        vars(optimizer)["_learning_rate"] = rate


def pairs(optimizer: Any, other: Any) -> list[tuple[Any, Any]]:
    """Return an optimizer and those inside of it, each with that of another one; empty if they are not alike."""
    olds, news = inside(optimizer), inside(other)
    alike = len(olds) == len(news) and all(
        type(a) is type(b) and a.built == b.built and len(own(a)) == len(own(b)) for a, b in zip(olds, news)
    )
    return list(zip(olds, news)) if alike else []


def inside(optimizer: Any) -> list:
    """Return an optimizer and those inside of it."""
    return list(dict.fromkeys(each for each, _ in nested.optimizers_in(optimizer)))


def ours(optimizer: Any) -> list[SparseOptimizer]:
    """Return those of this package that train something."""
    return [each for each in inside(optimizer) if is_ours(each)]


def is_ours(optimizer: Any) -> bool:
    """Return whether an optimizer is of this package, and trains something."""
    return isinstance(optimizer, SparseOptimizer) and optimizer.built


def own(optimizer: Any) -> list:
    """Return the variables of an optimizer itself, without those of others inside."""
    return list(optimizer._variables)


def slots(optimizer: Any) -> dict[Slot, keras.Variable]:
    """Return the variables of an optimizer that belong to a weight."""
    found = {}
    count = len(optimizer._trainable_variables)
    for name, held in vars(optimizer).items():
        if name in OF_WEIGHTS or not (isinstance(held, list | tuple) and len(held) == count):
            continue
        for index, each in enumerate(held):
            for key, x in each.items() if isinstance(each, Mapping) else [("", each)]:
                if isinstance(x, keras.Variable):
                    found[name, key, index] = x
    return found


def special(optimizer: Any) -> list:
    """Return the variables of an optimizer of ours that have a number for each group, or a copy of a weight."""
    if not is_ours(optimizer):
        return []
    found = [x for each in optimizer.couplings for x in (each.factors, each.importance) if x is not None]
    return found + list(optimizer._witnesses.values())


def rest(optimizer: Any) -> list:
    """Return the variables of an optimizer that belong to no weight and no group."""
    known = {id(x) for x in [*slots(optimizer).values(), *special(optimizer)]}
    return [x for x in own(optimizer) if id(x) not in known]


def transferred(optimizer: Any, other: Any, kept: Kept) -> Iterator[tuple[keras.Variable, keras.Variable, Any, bool]]:
    """Yield each variable of an optimizer with that of the smaller model's, its weight, or None, and if it is cut.

    Raises:
        ValueError: where the state cannot be cut.
    """
    weights = list(optimizer._trainable_variables)
    number = {id(x): k for k, x in enumerate(other._trainable_variables)}
    order = [number[id(kept.small[id(x)])] for x in weights]
    theirs = slots(other)
    for (name, key, index), x in slots(optimizer).items():
        variable, y = weights[index], theirs[name, key, order[index]]
        if tuple(x.shape) == tuple(variable.shape) and tuple(y.shape) == kept.places[id(variable)].shape:
            yield x, y, variable, True
        elif kept.is_whole(variable) and tuple(x.shape) == tuple(y.shape):
            yield x, y, variable, False
        else:
            raise ValueError(
                f"{type(optimizer).__name__} keeps a state of the shape {tuple(x.shape)} for the weight "
                f"{variable.path!r} of the shape {tuple(variable.shape)}: that is no number for each weight, so it "
                "cannot be cut. `strip` the model, and train what is left with a new optimizer."
            )
    left = list(zip(rest(optimizer), rest(other), strict=True))
    for x, y in left:
        if tuple(x.shape) != tuple(y.shape) or (len(x.shape) and order != sorted(order)):
            raise ValueError(
                f"{type(optimizer).__name__} keeps a state of the shape {tuple(x.shape)}, {x.path!r}, which belongs to "
                "no weight, so nobody knows how to cut it. `strip` the model, and train what is left with a new "
                "optimizer."
            )
        yield x, y, None, False


def groups_that_stay(optimizer: Any, kept: Kept) -> list[np.ndarray]:
    """Return for each coupling of an optimizer which groups are in the smaller model."""
    return [kept_groups(coupling, optimizer, kept) for coupling in getattr(optimizer, "couplings", ())]


def cut_state(optimizer: Any, other: Any, kept: Kept) -> None:
    """Give the optimizer of a smaller model what stays of the state of a model's.

    Raises:
        ValueError: where the state cannot be cut, before any of it is.
    """
    found = list(transferred(optimizer, other, kept))
    for x, y, variable, is_cut in found:
        y.assign(kept.cut(variable, x) if is_cut else as_number(x))
    for coupling, smaller, stays in zip(
        getattr(optimizer, "couplings", ()), getattr(other, "couplings", ()), groups_that_stay(optimizer, kept)
    ):
        smaller.factors.assign(ops.convert_to_numpy(coupling.factors)[stays])
        if coupling.importance is not None:
            smaller.importance.assign(ops.convert_to_numpy(coupling.importance)[stays])
    if is_ours(optimizer):
        optimizer.hand_over(other, lambda variable, value: (kept.small[id(variable)], kept.cut(variable, value)))


def lift_state(optimizer: Any, other: Any, kept: Kept, fresh: Any) -> None:
    """Write the state of the optimizer of a smaller model into that of the model.

    Of weights that are not in the smaller model it is that of an optimizer before its first step.

    Args:
        optimizer: of the model.
        other: of the smaller one.
        kept: the weights of both.
        fresh: an optimizer like `other`, without a step.
    """
    new = {id(x): y for x, y in zip(own(other), own(fresh))}
    found = list(transferred(optimizer, other, kept))
    for x, y, variable, is_cut in found:
        first = ops.convert_to_numpy(new[id(y)]).reshape(-1)[:1]
        begins = 0 if is_ours(optimizer) or not first.size else first[0]  # ours with what belongs to zero weights
        x.assign(kept.filled(variable, y, begins) if is_cut else as_number(y))
    for coupling, smaller, stays in zip(
        getattr(optimizer, "couplings", ()), getattr(other, "couplings", ()), groups_that_stay(optimizer, kept)
    ):
        for x, y in ((coupling.factors, smaller.factors), (coupling.importance, smaller.importance)):
            if x is not None and y is not None:
                value = ops.convert_to_numpy(x).copy()
                value[stays] = ops.convert_to_numpy(y)
                x.assign(value)
    if is_ours(optimizer):
        large = {id(kept.small[id(x)]): x for x in optimizer._trainable_variables}
        other.hand_over(optimizer, lambda y, value: (x := large[id(y)], kept.filled(x, value, 0)))
