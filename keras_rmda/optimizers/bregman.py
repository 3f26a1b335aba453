"""The mirror map of Bregman iterations, and their two levels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from keras_rmda.optimizers.algorithm import Slots
from keras_rmda.optimizers.assignment import numbers_for
from keras_rmda.optimizers.binding import model_of
from keras_rmda.optimizers.constants import POSITIVE, by_pattern, whole
from keras_rmda.platform import replicas
from keras_rmda.regularizers import ProximalRegularizer, Tensor

ByPattern = float | Mapping[str, float]
"""A number for all variables, or numbers by patterns of their paths; 1 for those that no pattern matches."""


class MirrorMap:
    """What LinBreg and AdaBreg share: the iterate Theta is the image of a dual variable V under a mirror map.

    With delta > 0: V = Theta / delta + p with p in the subdifferential of psi at Theta, and
    Theta = prox_{delta psi}(delta V).

    With `coarse_steps` = m the method has two levels. Steps 1, m + 2, 2 m + 3, ... of a stage are dense, A_t = 1. The m
    steps behind each are coarse: A_t is 1 for the weights that the dense step has left other than zero, and 0 for the
    others, which rest with all that the algorithm keeps of them. Since V does not move where A_t = 0, and the mirror
    map is of each group by itself, these weights stay exactly zero.
    """

    hyperparameters: ClassVar = {
        "delta": by_pattern(POSITIVE),
        "rates": by_pattern(POSITIVE),
        "coarse_steps": whole(),
    }
    rebuilds_iterate = True

    def __init__(
        self, *arguments: Any, delta: ByPattern, rates: ByPattern, coarse_steps: int, **optimizer_arguments: Any
    ):
        super().__init__(*arguments, **optimizer_arguments)
        self.delta, self.rates, self.coarse_steps = delta, rates, coarse_steps

    def build(self, variables: list[keras.Variable]) -> None:
        """Create the state for `variables`; know the constants of each."""
        if self.built:
            return
        if not self.coarse_steps:
            self.slots = tuple(name for name in self.slots if name not in ("a", "n"))
        model = model_of(self, variables)
        self._deltas, self._rates = (
            numbers_for(variables, name, getattr(self, name), 1.0, model and model()) for name in ("delta", "rates")
        )
        super().build(variables)
        # Maps of several variables at once have one step.
        for index, several in self._alike.items():
            self._alike[index] = [each for each in several if self._deltas[each] == self._deltas[index]]
        for coupling in self.couplings:
            found = {self._trainable_variables[index].path: self._deltas[index] for index in coupling.indices}
            if len(set(found.values())) > 1:
                raise ValueError(
                    "Weights of one group need one `delta`, and coupled groups span several variables. "
                    f"Received: delta={self.delta!r}, which is {found}"
                )

    def numbers_of(self, index: int) -> dict[str, float]:
        return {"delta": self._deltas[index]}

    def to_dual(self, theta: Tensor, psi: ProximalRegularizer | None, delta: float | None = None) -> Tensor:
        """Return V = Theta / delta + p, the dual variable of an iterate."""
        v = theta / (delta or self.delta)
        return v if psi is None else v + psi.subgradient(theta)

    def to_primal(self, v: Tensor, psi: ProximalRegularizer | None, delta: float | None = None) -> Tensor:
        """Return Theta = prox_{delta psi}(delta V), the iterate of a dual variable."""
        delta = delta or self.delta
        return delta * v if psi is None else psi.prox(delta * v, delta)

    def init(self, w: Tensor, psi: ProximalRegularizer | None, delta: float | None = None) -> Slots:
        slots = super().init(w, psi) | {"v": self.to_dual(w, psi, delta)}
        return slots | {"a": ops.ones_like(w)} if self.coarse_steps else slots

    def is_dense(self, t: Tensor) -> Tensor:
        """Return whether step t of a stage moves all weights."""
        return ops.equal(ops.mod(t - 1, self.coarse_steps + 1), 0)

    def moves(self, t: Tensor, a: Tensor | None) -> Tensor | bool:
        """Return A_t: whether each weight moves in step t."""
        return True if a is None else ops.logical_or(self.is_dense(t), a > 0)

    def active(self, t: Tensor, a: Tensor | None, theta: Tensor, psi: ProximalRegularizer | None) -> Slots:
        """Return, as the slot a, which weights move in the coarse steps that come, from the iterate of step t."""
        if a is None:
            return {}
        if psi is None:
            return {"a": a}
        return {"a": ops.where(self.is_dense(t), ops.cast(theta != 0, a.dtype), a)}

    def resting(self, index: int) -> np.ndarray | None:
        """Return which weights of a variable are zero and stay zero in the coarse steps that come."""
        if not self.coarse_steps:
            return None
        a, theta = (ops.convert_to_numpy(x) for x in (self._slots[index]["a"], self._trainable_variables[index]))
        return (a == 0) & (theta == 0)

    @property
    def coarse_steps_left(self) -> int:
        """The number of coarse steps before the next dense one."""
        return -int(ops.convert_to_numpy(self._step_count)) % (self.coarse_steps + 1)

    def asked_of_map(self, index: int) -> tuple[Tensor, float]:
        """Return what the proximal map of a variable is asked: delta V, and the step delta."""
        return self._deltas[index] * ops.convert_to_tensor(self._slots[index]["v"]), self._deltas[index]

    def rebuild_iterate(self) -> None:
        """Make the iterate of every variable anew from its dual variable."""

        def primal(index: int, psi: ProximalRegularizer | None) -> Tensor:
            v = ops.convert_to_tensor(self._slots[index]["v"])
            return self.to_primal(v, psi, self._deltas[index])

        for index, theta in self._asked(range(len(self._slots)), primal, self._strengths.last()):
            variable = self._trainable_variables[index]
            variable.assign(ops.cast(theta, variable.dtype))

    def rebuild_dual(self) -> None:
        """Make the dual variable anew from the iterate, V = Theta / delta + p, and keep all else: moments and steps.

        For strengths that are set between steps, where weights that are not zero shall stay what they are: those that
        are zero must come all of the way to the new threshold.

        Raises:
            ValueError: if the optimizer is not built.

        Example:
            >>> psi.strength = 0.2
            >>> model.optimizer.rebuild_dual()

        Source: the scheduler of lambda in the code of Bungert et al. 2022, arXiv:2105.04319.
        """
        self._check_built()

        def dual(index: int, psi: ProximalRegularizer | None) -> Tensor:
            return self.to_dual(self._precisely(index), psi, self._deltas[index])

        for index, v in self._asked(range(len(self._slots)), dual, self._strengths.last()):
            replicas.assign_here(self._slots[index]["v"], v)

    def _stepped(self, gradient: Tensor, numbers: dict, index: int, psi: ProximalRegularizer | None) -> tuple:
        if self._rates[index] != 1.0:
            numbers = numbers | {"lr": numbers["lr"] * self._rates[index]}
        return super()._stepped(gradient, numbers, index, psi)

    def _clip_gradients(self, grads: list) -> list:
        """Clip; weights that rest do not count in the norm of a step."""
        if self.coarse_steps and (self.clipnorm or self.global_clipnorm):
            t = ops.convert_to_tensor(self._step_count) + 1
            slots = [ops.convert_to_tensor(self._slots[index]["a"]) for index in self._clipped]
            grads = [ops.where(self.moves(t, a), g, ops.zeros_like(g)) for a, g in zip(slots, grads, strict=True)]
        return super()._clip_gradients(grads)


def moved(moves: Tensor | bool, new: Tensor, old: Tensor) -> Tensor:
    """Return the new value where a weight moves, else the old one."""
    return new if moves is True else ops.where(moves, new, old)
