"""What a penalty must answer to a proximal algorithm.

`ops.maximum`, `ops.minimum` and `ops.matmul` round float64 to float32 on PyTorch (Keras 3.15): `clip`, `relu` and `@`
stand for them in this package.

All maps are finite and exact for every finite argument: no product or square is made that could leave the range of
floating point where the result does not.
"""

from __future__ import annotations

import copy
import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from keras_rmda.platform import checks, compat

Tensor = Any

LARGEST = {"float32": 1e37, "float64": 1e300}
"""Numbers up to here, and their inverses, are in the range of a dtype with some room."""

SMALLEST = {"float32": 1.2e-38, "float64": 2.3e-308}
"""Numbers from here on have all bits of a dtype."""


class Strength:
    """The strength of a penalty, which its copies for single weights share, and the variables that follow it.

    A step that is compiled reads the variables, so that a number that is set later acts.

    Args:
        value: a number, tensor or schedule.
    """

    def __init__(self, value: Any):
        self.value = value
        self._followers: list[weakref.ref] = []

    @property
    def is_in_use(self) -> bool:
        """Whether there is an optimizer that is built and follows."""
        return any(each() is not None for each in self._followers)

    def follow(self, variable: keras.Variable) -> None:
        """Let a variable have the value of every change from now on."""
        self._followers = [each for each in self._followers if each() is not None] + [weakref.ref(variable)]

    def set(self, value: Any) -> None:
        """Change the value.

        Raises:
            ValueError: within an epoch on JAX, where it would be forgotten.
        """
        followers = [each() for each in self._followers if each() is not None]
        if value != self.value and not compat.have_values(followers):
            raise ValueError(
                "On JAX a `strength` acts from epoch to epoch: set it at the end or the beginning of one, "
                f"`on_epoch_end` or `on_epoch_begin`. Received: strength={value!r}"
            )
        for variable in followers if value != self.value else []:
            variable.assign(value)
        self.value = value

    def __deepcopy__(self, memo: dict) -> Strength:
        return Strength(copy.deepcopy(self.value, memo))

    def __reduce__(self) -> tuple:
        return Strength, (self.value,)  # without followers, which are of this process


class ProximalRegularizer(keras.regularizers.Regularizer):
    """Base class: a penalty psi with its proximal maps.

    Args:
        strength: multiplier of the penalty, a finite number >= 0, or a
            `keras.optimizers.schedules.LearningRateSchedule` of it over the optimizer's `iterations`. A number can be
            set between steps, like a `learning_rate`, and is in the files of weights like it.

    Raises:
        ValueError: if `strength` is negative, not finite or not a number; when a value is asked for and `strength`
            is a schedule, which only the optimizers of this package can follow.

    Example:
        >>> psi = kr.L1(0.5)
        >>> psi.strength = 1.0  # settable between steps
        >>> keras.ops.convert_to_numpy(psi.prox(np.array([3.0, -0.1]), step=1.0)).tolist()
        [2.0, 0.0]
    """

    has_support = True
    """Whether it only makes weights zero, and any values elsewhere are as good: no rank, no sign."""
    parts: Sequence[str] = ()
    """The paths of the variables that it must be applied to together."""
    compiles_well = True
    """Whether XLA's version of the proximal map is as fast as the backend's own."""

    def __init__(self, strength: float | LearningRateSchedule):
        if isinstance(strength, dict):
            strength = keras.saving.deserialize_keras_object(strength)
        is_schedule = isinstance(strength, LearningRateSchedule)
        self._strength = Strength(strength if is_schedule else checks.real("strength", strength))

    @property
    def strength(self) -> Any:
        """The multiplier of the penalty. A number that is set acts at the next step of all optimizers that use it."""
        return self._strength.value

    @strength.setter
    def strength(self, value: float | LearningRateSchedule) -> None:
        schedules = isinstance(value, LearningRateSchedule) or isinstance(self.strength, LearningRateSchedule)
        if schedules and self._strength.is_in_use:
            raise ValueError(
                "A schedule of a `strength` is a constant of the steps of optimizers that are built. Give the schedule "
                "to a new penalty, and that to a new optimizer; what is to be set between steps begins as a number. "
                f"Received: strength={value!r}, after {self.strength!r}"
            )
        self._strength.set(value if isinstance(value, LearningRateSchedule) else checks.real("strength", value))

    def __setattr__(self, name: str, value: Any) -> None:
        own = self.__dict__.get("_strength")  # none before the constructor has set it
        if own is not None and own.is_in_use and name != "strength" and name in self.get_config():
            raise ValueError(
                f"`{name}` of a penalty is a constant of the steps of optimizers that are built: only its `strength` "
                f"can be set. Make a new penalty, and a new optimizer for it. Received: {name}={value!r}, of {self!r}"
            )
        super().__setattr__(name, value)

    def __call__(self, w: Tensor) -> Tensor:
        """Return psi(w), a scalar."""
        raise NotImplementedError

    def prox(self, w: Tensor, step: Tensor) -> Tensor:
        """Return argmin_u step * psi(u) + |u - w|^2 / 2, in the shape of `w`."""
        raise NotImplementedError

    def prox_in_metric(self, w: Tensor, step: Tensor, d: Tensor) -> Tensor:
        """Return argmin_u step * psi(u) + <d, (u - w)^2> / 2 for a diagonal metric d > 0."""
        raise NotImplementedError

    def subgradient(self, w: Tensor) -> Tensor:
        """Return one element of the subdifferential of psi at `w`; 0 where `w` is 0."""
        raise NotImplementedError

    def group_norms(self, w: Tensor) -> Tensor:
        """Return the Euclidean norm of every group that psi can make zero as a whole."""
        raise NotImplementedError

    def check_shape(self, shape: tuple[int, ...], path: str) -> None:
        """Raise `ValueError`, naming the variable `path`, if psi has no groups in this shape."""

    def along(self, axes: str) -> ProximalRegularizer:
        """Return this penalty for a weight whose axes the layer table describes by these letters."""
        return self

    def bound_to(self, names: Sequence[str]) -> ProximalRegularizer | None:
        """Return this penalty for the variable of these names, or None where it has no part in it."""
        return self

    def at(self, strength: Tensor) -> ProximalRegularizer:
        """Return this penalty with another strength, which may be a tensor."""
        other = copy.copy(self)
        other._strength = Strength(strength)
        return other

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        is_schedule = isinstance(self.strength, LearningRateSchedule)
        return {"strength": keras.saving.serialize_keras_object(self.strength) if is_schedule else self.strength}

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={getattr(self, key)!r}" for key in self.get_config())
        return f"{type(self).__name__}({arguments})"

    @property
    def _lambda(self) -> Tensor:
        if isinstance(self.strength, LearningRateSchedule):
            raise ValueError(
                f"The strength of {type(self).__name__} is a schedule, which only an optimizer of keras_rmda can "
                "follow. Use a number, or such an optimizer."
            )
        return self.strength


def in_full_precision(method: Callable) -> Callable:
    """Let a method compute in float32 where its tensors have 16 bits, and return them with 16 bits again."""

    @functools.wraps(method)
    def precise(self: Any, w: Tensor, *rest: Any) -> Any:
        # PyTorch does not multiply arrays of NumPy with tensors.
        w = keras.tree.map_structure(lambda x: ops.convert_to_tensor(x) if _dtype(x) else x, w)
        half = next((name for name in map(_dtype, keras.tree.flatten(w)) if name in ("float16", "bfloat16")), None)
        if half is None:
            return method(self, w, *rest)
        single = lambda x: ops.cast(x, "float32") if _dtype(x) else x  # noqa: E731
        result = method(self, *keras.tree.map_structure(single, (w, *rest)))
        return keras.tree.map_structure(lambda x: ops.cast(x, half), result)

    return precise


def _dtype(x: Any) -> str | None:
    return keras.backend.standardize_dtype(x.dtype) if hasattr(x, "dtype") else None


def limited(x: Tensor) -> Tensor:
    """Return x >= 0, at most what is `LARGEST`: times zero it is zero, also where it has become infinite."""
    return ops.clip(x, 0.0, LARGEST[_dtype(x)])


def threshold(w: Tensor, step: Tensor, strength: Tensor, d: Tensor) -> Tensor:
    """Return step * strength / d in the dtype of `w`; the quotient first, as both can be very small or large.

    Where that is too large, the product first: of a large strength, or one that is not small for a d that is.
    """
    step, strength, d = (as_type_of(w, x) for x in (step, strength, d))
    quotient, dtype = strength / d, _dtype(w)
    product_first = limited(limited(step * strength) / ops.clip(d, SMALLEST[dtype], LARGEST[dtype]))
    return ops.where(quotient < LARGEST[dtype], step * quotient, product_first)


def soft_threshold(w: Tensor, t: Tensor) -> Tensor:
    """Return sign(w) * max(|w| - t, 0), elementwise."""
    w = ops.convert_to_tensor(w)
    t = as_type_of(w, t)
    return w - ops.clip(w, -t, t)


def as_type_of(w: Tensor, x: Tensor) -> Tensor:
    """Return `x` in the dtype of `w`. (`ops.cast` would take a Python float through float32.)"""
    return ops.convert_to_tensor(x, dtype=w.dtype)
