"""Runs at known sizes of code that Keras cannot run on symbolic tensors of open ones, for the shapes of its outputs."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import keras

PAIRS = (((2, 8), (3, 12)), ((3, 64), (5, 96)), ((3, 16), (5, 24)), ((64, 64), (96, 96)))
"""Pairs of sizes for the first axis and for others, where they are open: for symbolic tensors; for zeros, in turn."""

Memory = weakref.WeakKeyDictionary[keras.Layer, dict[str, Any]]
"""What layers make of symbolic tensors, by what they get."""

MADE: Memory = weakref.WeakKeyDictionary()
"""That of open sizes: code with loops is slow."""


def first_calls(model: keras.Model, x: Any) -> dict[int, tuple]:
    """Return, by `id` of the layers of a model that is called on a tensor, the shape of what each gets first."""
    call, found = keras.Layer.__call__, {}

    @functools.wraps(call)
    def noted(layer: keras.Layer, *arguments: Any, **keyword_arguments: Any) -> Any:
        found.setdefault(id(layer), tuple(getattr(arguments[0], "shape", ())) if arguments else ())
        return call(layer, *arguments, **keyword_arguments)

    keras.Layer.__call__ = noted
    try:
        model(x)
    finally:
        keras.Layer.__call__ = call
    return found


def outputs_of_numbers(layer: keras.Layer, arguments: tuple, keyword_arguments: dict) -> Any:
    """Return symbolic tensors like what a layer makes, whose code Keras cannot run on tensors of open sizes; or None.

    Code with a loop over steps takes symbolic tensors of known sizes, code that asks for values takes numbers only.
    Sizes of the outputs are open where they differ for two sizes of what is open in the arguments.
    """
    named = {name: x for name, x in keyword_arguments.items() if name != "training"}
    if not layer.built or not any(isinstance(x, keras.KerasTensor) for x in keras.tree.flatten((arguments, named))):
        return None
    return remembered(MADE, _outputs, layer, arguments, named)


def remembered(memory: Memory, make: Callable, layer: keras.Layer, arguments: tuple, keyword_arguments: dict) -> Any:
    """Return new symbolic tensors like those that `make` gives for a layer and what it gets, made once."""
    if not layer.built:
        return make(layer, arguments, keyword_arguments)
    known = memory.setdefault(layer, {})
    key = repr(keras.tree.map_structure(_told_apart, (arguments, keyword_arguments)))
    if key not in known:
        known[key] = make(layer, arguments, keyword_arguments)
    new = lambda x: keras.KerasTensor(x.shape, dtype=x.dtype, sparse=x.sparse) if _is_symbolic(x) else x  # noqa: E731
    return keras.tree.map_structure(new, known[key])  # Keras writes into tensors which call has made them


def _told_apart(x: Any) -> tuple:
    """Return what code can make a difference between."""
    return (*((x.shape, x.dtype) if hasattr(x, "shape") else ()), x.sparse if _is_symbolic(x) else repr(x))


def _outputs(layer: keras.Layer, arguments: tuple, keyword_arguments: dict) -> Any:
    for run, pairs in ((_on_symbols, PAIRS[:1]), (_on_zeros, PAIRS[1:])):
        for pair in pairs:
            try:
                found = [run(layer, arguments, keyword_arguments, sizes) for sizes in pair]
                return keras.tree.map_structure(_like_both, *found)
            except Exception:  # whatever the user's code raises; other outputs at other sizes
                continue
    return None


def _on_symbols(layer: keras.Layer, arguments: tuple, keyword_arguments: dict, sizes: tuple[int, int]) -> Any:
    symbols = lambda x: keras.KerasTensor(_shape(x, sizes), dtype=x.dtype) if _is_symbolic(x) else x  # noqa: E731
    positional, named = keras.tree.map_structure(symbols, (arguments, keyword_arguments))
    return keras.src.backend.compute_output_spec(layer.call, *positional, **named)


def _on_zeros(layer: keras.Layer, arguments: tuple, keyword_arguments: dict, sizes: tuple[int, int]) -> Any:
    zeros = lambda x: keras.ops.zeros(_shape(x, sizes), x.dtype) if _is_symbolic(x) else x  # noqa: E731
    with keras.StatelessScope():  # where nothing is assigned
        positional, named = keras.tree.map_structure(zeros, (arguments, keyword_arguments))
        return layer.call(*positional, **named)


def _is_symbolic(x: Any) -> bool:
    return isinstance(x, keras.KerasTensor)


def _shape(x: keras.KerasTensor, sizes: tuple[int, int]) -> list[int]:
    """Return a shape with numbers for open sizes: one for the first axis, one for the others."""
    return [n if n is not None else sizes[k > 0] for k, n in enumerate(x.shape)]


def _like_both(x: Any, y: Any) -> keras.KerasTensor | None:
    """Return a symbolic tensor whose sizes are open where those of two tensors differ; None for two of these."""
    if x is None and y is None:
        return None
    if not all(_is_symbolic(each) or keras.ops.is_tensor(each) for each in (x, y)):
        raise TypeError("a number that the code made of values")
    shape = [n if n == m else None for n, m in zip(x.shape, y.shape, strict=True)]
    return keras.KerasTensor(shape, dtype=keras.backend.standardize_dtype(x.dtype))
