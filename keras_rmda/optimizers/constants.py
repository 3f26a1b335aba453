"""Arguments of optimizers that are constants of a compiled step: checked when they are set, fixed once one is built."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from keras_rmda.optimizers import assignment
from keras_rmda.optimizers.names import check_patterns
from keras_rmda.platform import checks

Check = Callable[[str, Any], Any]
"""Takes the name of an argument and a value; returns the value, or raises `ValueError`."""


def number(**bounds: Any) -> Check:
    """Return a check for numbers within bounds, those of `checks.real`."""
    return lambda name, value: checks.real(name, value, **bounds)


def or_none(check: Check) -> Check:
    """Return a check that also lets None pass."""
    return lambda name, value: None if value is None else check(name, value)


def by_pattern(check: Check) -> Check:
    """Return a check that also lets a dictionary pass, from patterns of variable paths to values."""

    def checked(name: str, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return check(name, value)
        check_patterns(name, value)
        return {pattern: check(name, each) for pattern, each in value.items()}

    return checked


def whole(minimum: int = 0) -> Check:
    """Return a check for whole numbers from a minimum on."""
    return lambda name, value: checks.whole(name, value, minimum)


def _patterns(name: str, value: Any) -> tuple[str, ...]:
    value = value if isinstance(value, str) or not isinstance(value, Iterable) else tuple(value)
    check_patterns(name, value)
    return value


def _jit(name: str, value: Any) -> Any:
    checks.one_of(name, value, (True, False, "auto"))
    return value


POSITIVE = number(open_minimum=True)
DECAY = number(maximum=1.0, open_maximum=True)
OF_ALL: dict[str, Check] = {
    "regularizer": lambda name, value: assignment.checked(value),
    "exclude": _patterns,
    "skip_nonfinite": checks.truth,
    "jit_update": _jit,
    "use_ema": checks.truth,
    "weight_decay": or_none(number()),
    "clipnorm": or_none(number()),
    "clipvalue": or_none(number()),
    "global_clipnorm": or_none(number()),
    "gradient_accumulation_steps": or_none(lambda name, value: checks.whole(name, value, 2)),
}
"""The arguments of all optimizers of this package."""


CLIPPING = ("clipnorm", "clipvalue", "global_clipnorm")


class Constants:
    """Base class of `SparseOptimizer`: what is set in the constructor and afterwards is checked alike.

    A subclass states its `hyperparameters`, which are also what `get_config` adds, with their checks.
    """

    hyperparameters: ClassVar[dict[str, Check]] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        check = OF_ALL.get(name) or self.hyperparameters.get(name)
        if check is not None:
            if getattr(self, "built", False):
                raise ValueError(
                    f"`{name}` is a constant of the steps of an optimizer that is built: it can no longer be set. "
                    "Compile the model with a new optimizer. The learning rate, a momentum and the `strength` of "
                    f"penalties can be set between steps. Received: {name}={value!r}"
                )
            value = check(name, value)
            self._refuse(**{name: value})
        super().__setattr__(name, value)

    def _refuse(self, use_ema: bool = False, weight_decay: float | None = None, **others: Any) -> None:
        """Refuse what cannot be with the algorithm, or with other arguments."""
        name = type(self).__name__
        clipping = {each: getattr(self, each, None) for each in CLIPPING} | others
        if others.keys() & set(CLIPPING) and sum(value is not None for value in clipping.values()) > 1:
            raise ValueError(f"Only one of {', '.join(CLIPPING)} can be set. Received: {clipping!r}")
        if use_ema:
            raise ValueError(f"A moving average of the iterates of {name} holds no exact zeros. Received: use_ema=True")
        if weight_decay and self.rebuilds_iterate:
            raise ValueError(
                f"{name} makes its iterate anew from its own state at every step, so `weight_decay` would have no "
                "lasting effect. Use a penalty instead, such as keras_rmda.ElasticNet. "
                f"Received: weight_decay={weight_decay!r}"
            )
