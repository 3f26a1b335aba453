"""The hard concrete distribution: a number in [0, 1] that is exactly 0, or exactly 1, with positive probability.

Formula: with u uniform in (0, 1), temperature beta and stretch (gamma, zeta), gamma < 0 and zeta > 1,

    s = sigmoid((log u - log(1 - u) + log alpha) / beta),  z = min(1, max(0, s (zeta - gamma) + gamma))

Source: Louizos, Welling and Kingma 2018, "Learning sparse neural networks through L0 regularization",
arXiv:1712.01312.
"""

from __future__ import annotations

import math
from typing import Any

from keras import ops

Tensor = Any

TEMPERATURE = 2.0 / 3.0
STRETCH = (-0.1, 1.1)
LARGEST = math.log(100.0)
"""The bound of |log alpha|, as in the authors' code."""

SMALLEST_UNIFORM = 1e-6


def gate(log_alpha: Tensor, u: Tensor, temperature: float = TEMPERATURE, stretch: tuple = STRETCH) -> Tensor:
    """Return the sample z for a uniform number u in (0, 1)."""
    s = ops.sigmoid((ops.log(u) - ops.log(1.0 - u) + log_alpha) / temperature)
    return stretched(s, stretch)


def stretched(s: Tensor, stretch: tuple = STRETCH) -> Tensor:
    """Return min(1, max(0, s (zeta - gamma) + gamma))."""
    gamma, zeta = stretch
    return ops.clip(s * (zeta - gamma) + gamma, 0.0, 1.0)


def mean_gate(log_alpha: Tensor, stretch: tuple = STRETCH) -> Tensor:
    """Return the gate of inference, min(1, max(0, sigmoid(log alpha) (zeta - gamma) + gamma))."""
    return stretched(ops.sigmoid(log_alpha), stretch)


def probability_open(log_alpha: Tensor, temperature: float = TEMPERATURE, stretch: tuple = STRETCH) -> Tensor:
    """Return P(z > 0) = sigmoid(log alpha - beta log(-gamma / zeta))."""
    gamma, zeta = stretch
    return ops.sigmoid(log_alpha - temperature * math.log(-gamma / zeta))


def probability_full(log_alpha: Tensor, temperature: float = TEMPERATURE, stretch: tuple = STRETCH) -> Tensor:
    """Return P(z = 1) = sigmoid(log alpha - beta log((1 - gamma) / (zeta - 1)))."""
    gamma, zeta = stretch
    return ops.sigmoid(log_alpha - temperature * math.log((1.0 - gamma) / (zeta - 1.0)))


def log_alpha_of(probability: float, temperature: float = TEMPERATURE, stretch: tuple = STRETCH) -> float:
    """Return the log alpha at which P(z > 0) is this probability."""
    gamma, zeta = stretch
    return math.log(probability / (1.0 - probability)) + temperature * math.log(-gamma / zeta)
