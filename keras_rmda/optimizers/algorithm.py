"""What an algorithm defines: pure functions over the slots and scalars that it names."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_rmda.regularizers import ProximalRegularizer, Tensor

Scalars = dict[str, Tensor]
Slots = dict[str, Tensor]


class Algorithm:
    """The pure functions of an algorithm, on one variable.

    A subclass states `slots` (one tensor per variable, in its shape) and `scalars` (one number per optimizer, 0 at
    every start of a stage), and defines the functions below. `psi` is a regularizer or None, and `t` counts the steps
    of the current stage from 1.
    """

    slots: tuple[str, ...] = ()
    scalars: tuple[str, ...] = ()
    rebuilds_iterate = False
    """Whether the iterate is made anew from the slots at each step, so that changes to the weights do not last."""
    couples_decay = False
    """Whether `weight_decay` is added to the gradients of kernels; else it shrinks all weights by itself."""
    keeps_zeros = True
    """Whether what the penalty makes zero is zero in the iterate, too, which gradients are taken at."""

    def init(self, w: Tensor, psi: ProximalRegularizer | None) -> Slots:
        """Return the slots at the start of a stage that begins at `w`."""
        return {name: ops.zeros_like(w) for name in self.slots}

    def advance(self, lr: Tensor, t: Tensor, **scalars: Tensor) -> Scalars:
        """Return the scalars of step `t` from those of the step before, and other numbers that `step` takes."""
        return scalars

    def step(
        self, w: Tensor, g: Tensor, lr: Tensor, psi: ProximalRegularizer | None, *, t: Tensor, **state: Tensor
    ) -> tuple[Tensor, Slots]:
        """Return the next iterate and slots for the gradient `g`; `state` holds scalars, slots and any momentum c."""
        raise NotImplementedError

    def structured(self, w: Tensor, psi: ProximalRegularizer, *, t: Tensor, **state: Tensor) -> Tensor:
        """Return the iterate that carries the exact zeros."""
        return w

    def numbers_of(self, index: int) -> dict[str, Any]:
        """Return what `init` and `step` of a variable take besides, by its number: constants of its own."""
        return {}


def precise(dtype: Any) -> str:
    """Return the dtype of the state, and of the computation, for weights of this one."""
    dtype = keras.backend.standardize_dtype(dtype)
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def on_support(w: Tensor, other: Tensor) -> Tensor:
    """Return w where `other` is not zero, else 0; a product, so that a NaN in w stays one."""
    return w * ops.cast(other != 0, w.dtype)
