"""Numbers of NumPy beside symbolic tensors, as the tensors of a backend take them: in their own type.

NumPy computes in float64, as `np.sqrt(8)` does, and a tensor of float32 times such a number is one of float32. Keras
makes float64 of a symbolic tensor there.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

OPERATORS = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")
COMPARISONS = ("lt", "le", "gt", "ge", "ne", "eq")
NAMES = [f"__{side}{name}__" for name in OPERATORS for side in ("", "r")] + [f"__{name}__" for name in COMPARISONS]


def as_type_of(x: Any, other: Any) -> Any:
    """Return a number or an array of NumPy in the type of a symbolic tensor, if both are floating; else as it is."""
    is_floating = isinstance(other, np.ndarray | np.floating) and np.issubdtype(other.dtype, np.floating)
    if not is_floating or "float" not in x.dtype or other.dtype.name == x.dtype:
        return other
    return float(other) if isinstance(other, np.floating) else other.astype(np.dtype(x.dtype))


@contextlib.contextmanager
def operands_of_numpy() -> Iterator[None]:
    """Let operators between symbolic tensors and NumPy give what they give for tensors of the backend."""
    jax = sys.modules.get("jax") if keras.backend.backend() == "jax" else None
    if jax is not None and jax.config.jax_enable_x64:  # where they do give float64
        yield
        return
    before = {name: getattr(keras.KerasTensor, name) for name in NAMES if name in vars(keras.KerasTensor)}

    def converted(operator: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        @functools.wraps(operator)
        def called(x: Any, other: Any) -> Any:
            return operator(x, as_type_of(x, other))

        return called

    for name, operator in before.items():
        setattr(keras.KerasTensor, name, converted(operator))
    try:
        yield
    finally:
        for name, operator in before.items():
            setattr(keras.KerasTensor, name, operator)
