"""Sizes of axes that know which axis it is, and what code computes of one of them by sums and multiples."""

from __future__ import annotations

from typing import Any


class Linear(int):
    """A multiple of the size of an axis of a symbolic tensor, and a number more."""

    size: Size
    factor: int
    plus: int
    dtype = "int32"  # as Keras asks

    @classmethod
    def of(cls, size: Size, factor: int, plus: int) -> Any:
        """Return the number; the size itself if it is that."""
        if (factor, plus) == (1, 0):
            return size
        result = cls(factor * int(size) + plus)
        result.size, result.factor, result.plus = size, factor, plus
        return result

    def _with(self, other: Any, sign: int, factor: int = 1) -> Any:
        """Return a sum of two numbers, if they are made of one size."""
        if isinstance(other, Linear):
            same = self.size.tensor is other.size.tensor and self.size.axis == other.size.axis
            more, plus = other.factor, other.plus
        else:
            same, more, plus = type(other) is int, 0, other
        if not same and sign == -1 and isinstance(self, Size) and isinstance(other, Size):
            return Difference.of(self, other)
        if not same:
            return NotImplemented if not isinstance(other, int) else factor * int(self) + sign * int(other)
        return Linear.of(self.size, factor * self.factor + sign * more, factor * self.plus + sign * plus)

    def __add__(self, other: Any) -> Any:
        return self._with(other, 1)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return self._with(other, -1)

    def __rsub__(self, other: Any) -> Any:
        return self._with(other, 1, -1)

    def __neg__(self) -> Any:
        return self._with(0, 1, -1)

    def __mul__(self, other: Any) -> Any:
        if type(other) is not int:
            return int(self) * int(other) if isinstance(other, int) else NotImplemented
        return Linear.of(self.size, self.factor * other, self.plus * other)

    __rmul__ = __mul__


class Size(Linear):
    """A number that is the size of an axis of a symbolic tensor."""

    tensor: Any
    axis: int
    factor, plus = 1, 0

    @classmethod
    def of(cls, tensor: Any, axis: int) -> Size:
        """Return the size of an axis."""
        size = cls(tensor.shape[axis])
        size.tensor, size.axis, size.size = tensor, axis, size
        return size


class AtMost(int):
    """The smaller of the size of an axis and a number, the limit: as windows of attention are wide."""

    limit: int

    @classmethod
    def of(cls, size: Size, limit: int) -> AtMost:
        """Return the smaller of both."""
        result = cls(min(size, limit))
        result.limit = limit
        return result


class Difference(int):
    """By how much the size of one axis is larger than that of another: as much is padded."""

    size: Size
    other: Size

    @classmethod
    def of(cls, size: Size, other: Size) -> Difference:
        """Return the first size minus the second."""
        result = cls(int(size) - int(other))
        result.size, result.other = size, other
        return result
