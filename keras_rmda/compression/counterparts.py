"""For the optimizer of a user: the proximal one that chooses, and the same anew, that tunes."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_rmda.optimizers import ProxAdamW, ProxSGD
from keras_rmda.optimizers.assignment import Regularizers
from keras_rmda.optimizers.base import SparseOptimizer
from keras_rmda.optimizers.momentum import DECAY
from keras_rmda.platform import fitting, nested
from keras_rmda.structure.states import configuration

Rate = float | keras.optimizers.schedules.LearningRateSchedule

SHARED = ("weight_decay", "clipnorm", "global_clipnorm", "clipvalue", "gradient_accumulation_steps")
"""Arguments of every optimizer of Keras that the proximal ones take with the same meaning."""

LOOKS = 256
"""At how many steps of a schedule its largest learning rate is looked for."""


@keras.saving.register_keras_serializable(package="keras_rmda")
class ProxSGDOfKeras(ProxSGD):
    """ProxSGD whose learning rate and momentum are those of Keras's SGD, also where a callback sets them.

    Formula: Keras adds learning rates up in its momentum, V_t = m V_{t-1} - lr G_t; ours averages gradients, so that
    the same is c = 1 - m, and the same step lr / c.
    """

    momentum_range = DECAY

    def _momentum_at(self, t: Any) -> dict[str, Any]:
        return {"c": 1.0 - super()._momentum_at(t)["c"]}

    def step(self, w: Any, g: Any, lr: Any, psi: Any, *, t: Any, c: Any, m: Any) -> tuple[Any, dict]:
        """Make a step of ProxSGD."""
        return super().step(w, g, lr / c, psi, t=t, c=c, m=m)


class NoCounterpartError(ValueError):
    """There is no proximal optimizer for the one of a user."""


def proximal(optimizer: Any, rate: float, regularizer: Regularizers) -> SparseOptimizer:
    """Return the proximal counterpart of an optimizer, with its hyperparameters and a penalty.

    Args:
        optimizer: `SGD`, `Adam` or `AdamW` of Keras, one of this package, or a LossScaleOptimizer with such.
        rate: its learning rate.
        regularizer: the penalty.

    Raises:
        NoCounterpartError: for any other.
    """
    inner = innermost(optimizer)
    config = whole_configuration(inner)
    if isinstance(inner, SparseOptimizer):
        found = type(inner).from_config(config | {"learning_rate": rate, "regularizer": None})
        found.regularizer = regularizer
        return _wrapped(optimizer, found)
    shared = {key: config[key] for key in SHARED if config.get(key) is not None}
    kind = class_of(inner)
    if kind is keras.optimizers.SGD:
        found = ProxSGDOfKeras(rate, config["momentum"], regularizer, **shared)
    elif kind in (keras.optimizers.Adam, keras.optimizers.AdamW):
        same = {key: config[key] for key in ("beta_1", "beta_2", "epsilon", "amsgrad")}
        found = ProxAdamW(rate, regularizer=regularizer, **same, **shared)
    else:
        raise NoCounterpartError(
            f"`compress` has no proximal counterpart of {type(inner).__name__}: compile the model with SGD, Adam, "
            "AdamW or an optimizer of keras_rmda, or give `compress` one of these as `chooser`."
        )
    return _wrapped(optimizer, found)


def class_of(optimizer: keras.optimizers.Optimizer) -> type:
    """Return the class of an optimizer by which a user has made it: on PyTorch Keras makes another one of it."""
    return next(each for each in type(optimizer).__mro__ if ".backend.torch." not in each.__module__)


def stock(optimizer: Any) -> keras.optimizers.Optimizer:
    """Return an optimizer of Keras with the hyperparameters of a user's, and no state.

    `ProxSGD` and `ProxAdamW` without a penalty are SGD and AdamW; for the algorithms that average their iterates, or
    grow from zero, it is Adam with its own learning rate.
    """
    inner = innermost(optimizer)
    config = configuration(inner)
    if not isinstance(inner, SparseOptimizer):
        return _wrapped(optimizer, with_rate(inner, learning_rate(inner)))
    shared, rate = {key: config[key] for key in SHARED if config.get(key) is not None}, learning_rate(inner)
    if type(inner) is ProxSGD:
        c = float(ops.convert_to_numpy(inner.momentum))
        found = keras.optimizers.SGD(Rescaled(rate, 1, 1, c) if callable(rate) else rate * c, 1.0 - c, **shared)
    elif type(inner) is ProxAdamW:
        same = {key: config[key] for key in ("beta_1", "beta_2", "epsilon", "amsgrad")}
        found = keras.optimizers.AdamW(rate, **{"weight_decay": 0.0} | shared, **same)
    else:
        found = keras.optimizers.Adam(**shared)
    return _wrapped(optimizer, found)


def with_rate(optimizer: keras.optimizers.Optimizer, rate: Rate) -> keras.optimizers.Optimizer:
    """Return an optimizer with the same hyperparameters, another learning rate, and no state."""
    inner = innermost(optimizer)
    return _wrapped(optimizer, type(inner).from_config(whole_configuration(inner) | {"learning_rate": rate}))


def whole_configuration(optimizer: Any) -> dict[str, Any]:
    """Return the configuration of an optimizer; refuse a class of a user that leaves arguments out of it."""
    config = configuration(optimizer)
    if left_out := fitting.forgotten(optimizer, config):
        raise NoCounterpartError(
            f"`compress` makes optimizers anew, and `get_config` of {type(optimizer).__name__} leaves out "
            f"{', '.join(left_out)}: define it, or compile the model with another optimizer."
        )
    return config


def _wrapped(optimizer: Any, inner: Any) -> Any:
    """Return an optimizer inside of a LossScaleOptimizer, where the other one is."""
    if innermost(optimizer) is optimizer:
        return inner
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        scaling = {key: getattr(optimizer, key) for key in ("initial_scale", "dynamic_growth_steps")}
        return keras.optimizers.LossScaleOptimizer(inner, **scaling)
    raise NoCounterpartError(
        "`compress` trains with one optimizer, at most inside of a LossScaleOptimizer. "
        f"Received: {type(optimizer).__name__}"
    )


def innermost(optimizer: Any) -> Any:
    """Return the one optimizer inside of another; refuse several."""
    found = nested.inner_optimizers(optimizer)
    if len(found) != 1:
        names = ", ".join(type(each).__name__ for each in found)
        raise NoCounterpartError(
            "`compress` trains with one optimizer: compile the model with SGD, Adam, AdamW or one of "
            f"keras_rmda. Received: {type(optimizer).__name__} with {names}"
        )
    return found[0]


def learning_rate(optimizer: Any) -> Rate:
    """Return the learning rate of an optimizer: its schedule, or a number."""
    inner = innermost(optimizer)
    rate = getattr(inner, "_learning_rate", None)
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        return rate
    return float(ops.convert_to_numpy(inner.learning_rate))


def largest(rate: Rate, steps: int) -> float:
    """Return the largest learning rate of so many steps."""
    if not callable(rate):
        return rate
    at = {round(k * (steps - 1) / (LOOKS - 1)) for k in range(LOOKS)}
    return max(float(ops.convert_to_numpy(rate(step))) for step in sorted(at))


@keras.saving.register_keras_serializable(package="keras_rmda")
class Rescaled(keras.optimizers.schedules.LearningRateSchedule):
    """Another schedule, gone through in a number of steps of its own, times a factor.

    Formula: eta'(t) = factor * eta(t * whole / steps).

    Args:
        schedule: the other one.
        whole: the number of its steps.
        steps: how many there are here.
        factor: a number.
    """

    def __init__(self, schedule: Any, whole: int, steps: int, factor: float = 1.0):
        super().__init__()
        if isinstance(schedule, dict):
            schedule = keras.saving.deserialize_keras_object(schedule)
        self.schedule, self.whole, self.steps, self.factor = schedule, whole, steps, factor

    def __call__(self, step: Any) -> Any:
        rate = self.schedule(ops.cast(step, "float32") * (self.whole / self.steps))
        return rate if self.factor == 1.0 else self.factor * rate

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        schedule = keras.saving.serialize_keras_object(self.schedule)
        return {"schedule": schedule, "whole": self.whole, "steps": self.steps, "factor": self.factor}


def without_decay(optimizer: Any, model: keras.Model) -> frozenset[str]:
    """Return the paths of the weights that an optimizer does not decay, by `exclude_from_weight_decay`.

    The configuration of an optimizer does not have them.
    """
    inner = innermost(optimizer)
    return frozenset(each.path for each in model.trainable_variables if not nested.decays(inner, each))


def exclude_from_decay(optimizer: Any, model: keras.Model, paths: frozenset[str]) -> None:
    """Let a new optimizer not decay the weights of a model with these paths."""
    found = [each for each in model.trainable_variables if each.path in paths]
    for inner in nested.inner_optimizers(optimizer) if found else ():
        inner.exclude_from_weight_decay(found)
