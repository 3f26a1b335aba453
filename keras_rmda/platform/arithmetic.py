"""How numbers are computed on this backend and device: compiled, in loops, with all bits.

Checked with Keras 3.8 and 3.15 and TensorFlow 2.18 and 2.21.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np


def compiled(function: Callable) -> Callable:
    """Return a function of tensors compiled by XLA where the backend is TensorFlow, elsewhere the function."""
    if keras.backend.backend() != "tensorflow":
        return function
    return sys.modules["tensorflow"].function(function, jit_compile=True, autograph=False)


def dense(gradient: Any) -> Any:
    """Return a gradient as a dense tensor; those of embeddings can be sparse."""
    if hasattr(gradient, "todense"):
        return gradient.todense()
    if keras.backend.backend() == "tensorflow":
        return sys.modules["tensorflow"].convert_to_tensor(gradient)
    return keras.ops.convert_to_tensor(gradient)


def iterated(function: Callable[[Any], tuple[Any, Any]], x: Any, passes: int) -> Any:
    """Return tensors x after `passes` times `x, goes_on = function(x)`, on CPUs no more once `goes_on` is false.

    Elsewhere all passes are made: to look at a number there is to wait for it. Called eagerly, JAX would compile a
    loop anew every time, so it unrolls.
    """
    backend = keras.backend.backend()
    first = keras.tree.flatten(x)[0]
    if backend == "tensorflow" or (backend == "jax" and isinstance(first, sys.modules["jax"].core.Tracer)):
        if not runs_on_cpu():
            return keras.ops.fori_loop(0, passes, lambda _, x: function(x)[0], x)
        start = (x, keras.ops.convert_to_tensor(True))
        return keras.ops.while_loop(lambda _, on: on, lambda x, _: function(x), start, maximum_iterations=passes)[0]
    for _ in range(passes):
        x, goes_on = function(x)
        if runs_on_cpu() and not goes_on:
            break
    return x


def chosen(x: Any, indices: np.ndarray) -> Any:
    """Return elements of a vector, by indices >= 0 that are known.

    On TensorFlow, `take` of Keras brings six more operators for negative ones, and a step makes hundreds of choices.
    """
    if keras.backend.backend() == "tensorflow":
        return sys.modules["tensorflow"].gather(x, indices)
    return keras.ops.take(x, indices, axis=0)


def row_sums(x: Any) -> Any:
    """Return the sums over the last axis, which is kept.

    On CPUs as a product with ones: XLA does not vectorize a reduction along the minor axis there. Elsewhere products
    of float32 may be rounded to fewer bits.
    """
    if x.shape[-1] == 1:
        return x
    if not runs_on_cpu() or keras.backend.backend() not in ("tensorflow", "jax"):
        return keras.ops.sum(x, axis=-1, keepdims=True)
    rows = keras.ops.reshape(x, (-1, x.shape[-1]))
    sums = rows @ keras.ops.ones((x.shape[-1], 1), dtype=x.dtype)
    return keras.ops.reshape(sums, (*x.shape[:-1], 1))


@functools.cache
def runs_on_cpu() -> bool:
    """Return whether the backend has nothing but CPUs."""
    if keras.backend.backend() == "tensorflow":
        return not sys.modules["tensorflow"].config.list_logical_devices("GPU")
    if keras.backend.backend() == "jax":
        return sys.modules["jax"].default_backend() == "cpu"
    return not sys.modules["torch"].cuda.is_available() if keras.backend.backend() == "torch" else False


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Let products and convolutions of float32 have all of its bits: the default of GPUs rounds to TensorFloat-32.

    The 10 bits that it keeps hide what a verification looks for.
    """
    backend = "cpu" if runs_on_cpu() else keras.backend.backend()
    with contextlib.ExitStack() as stack:
        if backend == "tensorflow":
            config = sys.modules["tensorflow"].config.experimental
            stack.callback(config.enable_tensor_float_32_execution, config.tensor_float_32_execution_enabled())
            config.enable_tensor_float_32_execution(False)
        elif backend == "jax":
            stack.enter_context(sys.modules["jax"].default_matmul_precision("highest"))
        elif backend == "torch":
            cudnn = sys.modules["torch"].backends.cudnn  # its products have all bits unless a user wants otherwise
            stack.callback(setattr, cudnn, "allow_tf32", cudnn.allow_tf32)
            cudnn.allow_tf32 = False
        yield


@functools.cache
def misplaces_biases() -> bool:
    """Return whether `ops.add` adds a bias of shape (1, n, 1) along the last axis of (batch, n, n).

    Keras 3.8 to 3.15 do so on TensorFlow, and with it convolutions with their channels first.
    """
    bias = keras.ops.convert_to_tensor([[[0.0], [1.0]]])
    return bool(keras.ops.convert_to_numpy(keras.ops.add(keras.ops.zeros((1, 2, 2)), bias))[0, 0, 1] != 0)
