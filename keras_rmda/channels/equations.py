"""Which axes are summed over in products of tensors, by operation."""

from __future__ import annotations

from keras_rmda.channels.merges import operands
from keras_rmda.channels.positions import axes_of
from keras_rmda.channels.sites import Call
from keras_rmda.channels.tensors import NotCovered, Tensor

Equation = tuple[list[list], list]
"""Labels of the axes of each operand, and of the output."""


def ranks_of(call: Call) -> list[int]:
    """Return the numbers of axes of the operands."""
    return [len(x.full if isinstance(x, Tensor) else x.shape) for x in operands(call)]


def of_matmul(call: Call) -> Equation:
    """Matrices in the last two axes, or vectors."""
    ranks = ranks_of(call)
    more = max(max(ranks) - 2, 0)
    lead = list(range(more))
    a = [*lead[more - (ranks[0] - 2) :], "m", "k"] if ranks[0] > 1 else ["k"]
    b = [*lead[more - (ranks[1] - 2) :], "k", "n"] if ranks[1] > 1 else ["k"]
    out = [*lead, *(["m"] if ranks[0] > 1 else []), *(["n"] if ranks[1] > 1 else [])]
    return [a, b], out


def of_einsum(call: Call) -> Equation:
    """What the subscripts say; "..." stands for axes counted from the last."""
    left, arrow, right = call.layer.subscripts.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(operands(call)):
        raise NotCovered(f"the subscripts {call.layer.subscripts}")
    ranks = ranks_of(call)
    most = max((rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks) if "..." in term), default=0)
    if not arrow:
        letters = sorted(set(left) - set(",."))
        right = ("..." if "..." in left else "") + "".join(each for each in letters if left.count(each) == 1)

    def labels(term: str, count: int) -> list:
        before, dots, after = term.partition("...")
        return [*before, *range(most - count, most), *after] if dots else list(term)

    axes = [labels(term, rank - len(term.replace("...", ""))) for term, rank in zip(terms, ranks)]
    return axes, labels(right, most)


def of_dot(call: Call) -> Equation:
    """`ops.dot`: the last axis of the first with the last but one of the second."""
    ranks = ranks_of(call)
    if min(ranks) == 0:
        raise NotCovered("a single number")
    return of_axes(ranks, [ranks[0] - 1], [max(ranks[1] - 2, 0)])


def of_tensordot(call: Call) -> Equation:
    """`ops.tensordot`."""
    ranks, axes = ranks_of(call), call.layer.axes
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


def of_batch_dot(call: Call) -> Equation:
    """The layer `Dot`: one axis of each sample; the batch is the first axis of all."""
    ranks, axes = [len(x.full) for x in call.inputs], call.layer.axes
    first, second = [axes, axes] if isinstance(axes, int) else axes
    a, b = ["batch", *(f"a{k}" for k in range(1, ranks[0]))], ["batch", *(f"b{k}" for k in range(1, ranks[1]))]
    a[first] = b[second] = "k"
    out = [label for label in [*a, *b[1:]] if label != "k"]
    return [a, b], out if len(out) > 1 else [*out, "one"]


def of_sum(call: Call) -> Equation:
    """A sum over axes of one tensor."""
    axes, keeps = axes_of(call), call.layer.keepdims
    full = list(range(len(call.inputs[0].full)))
    return [full], [f"one{k}" if k in axes else k for k in full if keeps or k not in axes]
