"""Which axes products of tensors sum over: labels of the axes of each operand and of the result, by operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Equation = tuple[list[list], list]
"""Labels of the axes of each operand, and of the output."""


def of_matmul(operation: Any, ranks: list[int]) -> Equation:
    """Matrices in the last two axes, or vectors."""
    more = max(max(ranks) - 2, 0)
    lead = list(range(more))
    a = [*lead[more - (ranks[0] - 2) :], "m", "k"] if ranks[0] > 1 else ["k"]
    b = [*lead[more - (ranks[1] - 2) :], "k", "n"] if ranks[1] > 1 else ["k"]
    out = [*lead, *(["m"] if ranks[0] > 1 else []), *(["n"] if ranks[1] > 1 else [])]
    return [a, b], out


def of_einsum(operation: Any, ranks: list[int]) -> Equation:
    """What the subscripts say; "..." stands for axes counted from the last."""
    left, arrow, right = operation.subscripts.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise ValueError(f"the subscripts {operation.subscripts}")
    most = max((rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks) if "..." in term), default=0)
    if not arrow:
        letters = sorted(set(left) - set(",."))
        right = ("..." if "..." in left else "") + "".join(each for each in letters if left.count(each) == 1)

    def labels(term: str, count: int) -> list:
        before, dots, after = term.partition("...")
        return [*before, *range(most - count, most), *after] if dots else list(term)

    axes = [labels(term, rank - len(term.replace("...", ""))) for term, rank in zip(terms, ranks)]
    return axes, labels(right, most)


def of_dot(operation: Any, ranks: list[int]) -> Equation:
    """`ops.dot`: the last axis of the first with the last but one of the second."""
    if min(ranks) == 0:
        raise ValueError("a single number")
    return of_axes(ranks, [ranks[0] - 1], [max(ranks[1] - 2, 0)])


def of_tensordot(operation: Any, ranks: list[int]) -> Equation:
    """`ops.tensordot`."""
    axes = operation.axes
    if isinstance(axes, int):
        return of_axes(ranks, list(range(ranks[0] - axes, ranks[0])), list(range(axes)))
    first, second = ([axes] if isinstance(axes, int) else list(axes) for axes in axes)
    return of_axes(ranks, first, second)


def of_axes(ranks: list[int], first: list[int], second: list[int]) -> Equation:
    """Sum over axes of the first and the second operand, in pairs."""
    a, b = [f"a{k}" for k in range(ranks[0])], [f"b{k}" for k in range(ranks[1])]
    for k, (i, j) in enumerate(zip(first, second, strict=True)):
        a[i] = b[j] = k
    return [a, b], [label for label in [*a, *b] if isinstance(label, str)]


EQUATIONS: dict[str, Callable[[Any, list[int]], Equation]] = {
    "Matmul": of_matmul,
    "Einsum": of_einsum,
    "Dot": of_dot,
    "Tensordot": of_tensordot,
}
"""By the name of the operation: (operation, ranks of the operands) -> labels."""
