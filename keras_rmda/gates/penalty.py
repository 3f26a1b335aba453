"""A penalty on all gates of a network at once: on pairs of layers, or as much as a target asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from keras import ops

from keras_rmda.gates.hard_concrete import Tensor, probability_open
from keras_rmda.platform import checks


@dataclass(frozen=True)
class ChainPenalty:
    """What the open gates of layers 1, 2, ... cost, with E_k the expected number of open gates of layer k.

    Formula: the cost of layer k is A_k = cost_k E_k, or of pairs A_k = cost_k E_(k-1) E_k, where E_0 is `pairs`. The
    penalty is sum_k strength_k A_k. With a target it is lambda (sum_k A_k / C - target), where C is the sum if all
    gates are open, and lambda begins at 0 and grows in each step by dual_rate times the difference; it becomes 0 as
    soon as the difference is negative.

    Args:
        costs: what an open gate of each layer costs, or a pair of open gates.
        strengths: of each layer.
        pairs: the channels before the first layer; None if a gate costs the same whatever is open before it.
        target: a share of C in (0, 1), or None.
        dual_rate: number > 0.

    Raises:
        ValueError: for an argument out of range.

    Source: Li and Ji 2021, arXiv:2107.00070, with the authors' code; for the target Gallego-Posada et al. 2022,
    "Controlled sparsity via constrained optimization", arXiv:2208.04425.
    """

    costs: Sequence[float]
    strengths: Sequence[float]
    pairs: float | None = None
    target: float | None = None
    dual_rate: float = 1e-2

    def __post_init__(self) -> None:
        for name in ("costs", "strengths"):
            for each in getattr(self, name):
                checks.real(name, each)
        if self.pairs is not None:
            checks.real("pairs", self.pairs)
        if self.target is not None:
            checks.real("target", self.target, maximum=1.0, open_minimum=True, open_maximum=True)
        checks.real("dual_rate", self.dual_rate, open_minimum=True)

    def amounts(self, counts: Sequence[Any]) -> list[Any]:
        """Return A_1, A_2, ... for the numbers of open gates of the layers."""
        before = [1.0] * len(counts) if self.pairs is None else [self.pairs, *counts[:-1]]
        return [cost * n * m for cost, n, m in zip(self.costs, before, counts, strict=True)]

    def penalty(self, log_alphas: Sequence[Tensor]) -> Tensor:
        """Return sum_k strength_k A_k."""
        amounts = self.amounts([ops.sum(probability_open(each)) for each in log_alphas])
        return sum(strength * each for strength, each in zip(self.strengths, amounts, strict=True))

    def share(self, log_alphas: Sequence[Tensor]) -> Tensor:
        """Return sum_k A_k / C."""
        whole = sum(self.amounts([float(each.shape[-1]) for each in log_alphas]))
        return sum(self.amounts([ops.sum(probability_open(each)) for each in log_alphas])) / whole

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return asdict(self)
