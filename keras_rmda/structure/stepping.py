"""A step of the optimizer of a smaller model against one of the model's: the same, or its state cannot be cut.

What a class of optimizers does with the weights is not asked of a list, but tried: means over all elements of a
weight, as Adafactor takes them, or a factor for its shape, as Muon has one, are not the same of a smaller one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.platform import compat, replicas
from keras_rmda.structure.kept import Kept, as_number
from keras_rmda.structure.states import inside, ours, pairs, transferred

TOLERANCE = 1e-3
"""The largest difference of two steps, as a share of the largest change of a weight: more is no rounding."""

ROUNDING = 4
"""The largest difference of steps that differ by what is gone only, in units of the last place of a weight."""

Values = dict[int, np.ndarray]
"""Values of variables, by `id`."""


def counts_what_is_gone(optimizer: Any, other: Any, kept: Kept, strategy: Any = None) -> bool:
    """Return whether weights that act on nothing have a part in the steps of a model, since norms count them.

    Args:
        optimizer: of the model.
        other: of the smaller one, with the same state.
        kept: the weights of both.
        strategy: that of TensorFlow, which both were made under, or None.

    Raises:
        ValueError: if the steps differ also where these weights are zero.
    """
    weights = list(optimizer._trainable_variables)
    random = np.random.default_rng(0)
    small = [kept.small[id(x)] for x in weights]
    gradients = {id(y): random.normal(size=tuple(y.shape)).astype("float32") for y in small}
    closed = closed_weights(optimizer)
    whole = {}
    for x, y in zip(weights, small):
        noise = random.normal(size=tuple(x.shape)) * closed.get(id(x), np.zeros((), bool))
        stays = kept.filled(x, np.ones(y.shape, bool), False)
        whole[id(x)] = np.where(stays, kept.filled(x, gradients[id(y)], 0), noise).astype("float32")
    starts = iterates(other)
    found = stepped(other, gradients, starts, strategy)
    changes = {id(y): np.abs(found[id(y)] - starts.get(id(y), as_number(y))).max(initial=0.0) for y in small}

    starts = iterates(optimizer)
    as_it_is = cut(stepped(optimizer, whole, starts, strategy), kept, weights)
    made = [found[id(y)].astype("float64") for y in small]
    ulps = [eps_of(y) * np.abs(value).max(initial=0.0) for y, value in zip(small, made)]
    if all(apart(a, b) <= ROUNDING * ulp for a, b, ulp in zip(as_it_is, made, ulps)):
        return False
    lifted = stepped(optimizer, whole, starts | without_what_is_gone(optimizer, other, kept, starts), strategy)
    lifted = cut(lifted, kept, weights)
    for x, y, a, b, ulp in zip(weights, small, lifted, made, ulps):
        if not apart(a, b) <= TOLERANCE * changes[id(y)] + 2 * ROUNDING * ulp:
            raise ValueError(
                f"A step of {type(optimizer).__name__} is another one for what stays of the weight {x.path!r} than for "
                "all of it: the algorithm takes means over a weight, or counts its size. So training the smaller model "
                "would not be training the large one: `strip` it, and train what is left with a new optimizer."
            )
    return not all(apart(a, b) <= ROUNDING * ulp for a, b, ulp in zip(as_it_is, lifted, ulps))


def cut(values: Values, kept: Kept, weights: list) -> list[np.ndarray]:
    """Return what stays of the values of weights."""
    return [kept.cut(x, values[id(x)]).astype("float64") for x in weights]


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest difference, infinite where a number is none."""
    return float(np.nan_to_num(np.abs(a - b), nan=np.inf).max(initial=0.0))


def stepped(optimizer: Any, gradients: Values, starts: Values, strategy: Any = None) -> Values:
    """Return the weights after a step from given values of variables, which are afterwards what they were."""
    weights = list(optimizer._trainable_variables)
    count = max(each.gradient_accumulation_steps or 1 for each in inside(optimizer))
    scale = float(ops.convert_to_numpy(optimizer.scale_loss(ops.ones(()))))
    given = [ops.convert_to_tensor(gradients[id(x)] * scale, x.dtype) for x in weights]
    state = list(optimizer.variables)
    with not_compiled(ours(optimizer)):
        if keras.backend.backend() == "jax":
            at = lambda x: ops.convert_to_tensor(starts[id(x)], x.dtype) if id(x) in starts else x.value  # noqa: E731
            values, states = [at(x) for x in weights], [at(x) for x in state]
            for _ in range(count):
                values, states = optimizer.stateless_apply(states, given, values)
            return {id(x): np.asarray(value) for x, value in zip(weights, values)}
        with compat.restored([*weights, *state]):
            for x in [*weights, *state]:
                if id(x) in starts:
                    x.assign(starts[id(x)])
            for _ in range(count):
                replicas.on_each(strategy, lambda: optimizer.apply(list(given), weights))
            return {id(x): as_number(x) for x in weights}


@contextlib.contextmanager
def not_compiled(optimizers: list) -> Iterator[None]:
    """Let optimizers of this package not compile a step for this once, nor remember it."""
    known = [(each.jit_update, set(each._has_stepped)) for each in optimizers]
    for each in optimizers:
        vars(each)["jit_update"] = False  # a constant of compiled steps, which are none here
    try:
        yield
    finally:
        for each, (jit_update, has_stepped) in zip(optimizers, known):
            vars(each)["jit_update"] = jit_update
            each._has_stepped = has_stepped


def iterates(optimizer: Any) -> Values:
    """Return the weights that training goes on from, where a model does not hold them."""
    found = {}
    for each in ours(optimizer):
        for index, x in enumerate(each._trainable_variables):
            found[id(x)] = ops.convert_to_numpy(ops.cast(each._precise_iterate(index), x.dtype))
    return found


def closed_weights(optimizer: Any) -> Values:
    """Return which weights stay zero although they have gradients."""
    found = {}
    for each in ours(optimizer):
        for index, x in enumerate(each._trainable_variables):
            if (closed := each.closed(index)) is not None:
                found[id(x)] = closed
    return found


def without_what_is_gone(optimizer: Any, other: Any, kept: Kept, starts: Values) -> Values:
    """Return the variables of a model and its optimizer with 0 where nothing of them is in the smaller one."""
    found = {}
    for x in optimizer._trainable_variables:
        value = starts.get(id(x), as_number(x))
        found[id(x)] = kept.filled(x, kept.cut(x, value), 0)
    for one, another in pairs(optimizer, other):
        for x, _, variable, is_cut in transferred(one, another, kept):
            if is_cut:
                found[id(x)] = kept.filled(variable, kept.cut(variable, x), 0)
    return found


def eps_of(x: Any) -> float:
    """Return the rounding of numbers of the type of a variable."""
    dtype = keras.backend.standardize_dtype(x.dtype)
    return {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}.get(dtype, 2.0**-23)
