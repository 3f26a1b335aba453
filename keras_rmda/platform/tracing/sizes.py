"""Numbers in the place of open sizes, at which code is traced."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Numbers for open axes.

    Attributes:
        batch: that of the batch.
        other: that of the others.
        times: how many times as large each of the others is, in the order of the tensors.
        given: the shapes that the tensors have in the model around; empty if they are not known.
    """

    batch: int | None
    other: int | None
    times: tuple[int, ...] = ()
    given: tuple[tuple, ...] = ()

    def shapes(self, shapes: list[tuple]) -> list[tuple]:
        """Return the shapes of tensors without open axes."""
        if self.given:
            return list(self.given)
        times = itertools.chain(self.times, itertools.repeat(1))
        other = lambda: self.other if self.other is None else self.other * next(times)  # noqa: E731
        known = lambda k, n: n if n is not None else other() if k else self.batch  # noqa: E731
        return [tuple(known(k, n) for k, n in enumerate(shape)) for shape in shapes]


OPEN = Sizes(None, None)
NUMBERS = (
    (Sizes(3, 64), Sizes(5, 96)),
    (Sizes(576, 64), Sizes(1152, 96)),
    (Sizes(784, 56), Sizes(1568, 112)),
    (Sizes(3, 16), Sizes(5, 24)),
    (Sizes(3, 4), Sizes(5, 6)),
)
"""Pairs that are tried one after the other: batches that nothing else has, then such as may consist of windows, 2, 3,
4, 6 or 8 by as many, or 7 by 7; sizes that can be halved some times, which networks for images of any size want; and
small and very small ones, for code that takes no longer sequences."""

SIZES_OF_MODELS: tuple[Callable[[int], tuple[int, int]], ...] = (
    lambda times: (64 * times, 96 * (times + (times > 1))),
    lambda times: (64, 96) if times == 1 else (2048, 4032),
)
"""Two sizes for inputs of a whole model, from the smallest on; the second for models that make some much shorter."""

MOST_THAT_DIFFER = 4
"""Of how many open axes all ways to differ are tried."""


def ways_to_differ(count: int) -> Iterator[tuple[int, ...]]:
    """Give ways in which so many open axes may differ: how many times as large each is.

    Code that pads a mask to the length of what it masks does nothing at equal sizes. So they are equal only where the
    code takes no others.
    """
    if count > 1:
        yield from dict.fromkeys([tuple(range(count, 0, -1)), tuple(range(1, count + 1))])
    if 2 < count <= MOST_THAT_DIFFER:
        yield from (each for each in itertools.product((2, 1), repeat=count) if len(set(each)) > 1)
