"""Shapes and types of what layers make of symbolic tensors, where Keras or others declare something else.

Checked with Keras 3.8 and 3.15.
"""

from __future__ import annotations

import contextlib
import functools
import string
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras.src.layers.merging.base_merge import Merge
from keras.src.ops.numpy import Einsum
from keras.src.ops.operation import Operation


def claims_more(declared: keras.KerasTensor, made: keras.KerasTensor) -> bool:
    """Return whether a layer declares a size that its code leaves open."""
    return any(m is None is not n for n, m in zip(declared.shape[1:], made.shape[1:]))


def known_sizes(declared: keras.KerasTensor, made: keras.KerasTensor, run: Any = None) -> keras.KerasTensor:
    """Return a declared output with the sizes that the code of its layer does not leave open.

    The first axis is open where either says so: a leaf of a graph has one sample and says that it has all. Others are
    where a run at numbers, if there is one, has made something else than what is declared.
    """
    if len(declared.shape) != len(made.shape):
        return made
    inner = [n if m is None else m for n, m in zip(declared.shape[1:], made.shape[1:])]
    if run is not None:
        inner = [n if n == m else None for n, m in zip(inner, run.shape[1:], strict=True)]
    first = [None] if None in (*declared.shape[:1], *made.shape[:1]) else declared.shape[:1]
    return keras.KerasTensor((*first, *inner), dtype=declared.dtype)


def of_all_samples(spec: Callable, layer: Merge, inputs: list) -> keras.KerasTensor:
    """A sum of tensors of all samples and of one is of all samples; Keras declares one."""
    declared = spec(layer, inputs)
    samples = {x.shape[0] for x in inputs if x.shape} - {1}
    if declared.shape[:1] not in ((1,), (None,)) or not samples or len(samples - {None}) > 1:
        return declared
    [first] = samples - {None} or samples
    return keras.KerasTensor((first, *declared.shape[1:]), dtype=declared.dtype, sparse=declared.sparse)


def of_input(shape: Callable, layer: keras.layers.EinsumDense, *given: Any, **named: Any) -> tuple:
    """An axis that an EinsumDense does not touch is as large as it was; Keras declares what `output_shape` says."""
    declared, terms = tuple(shape(layer, *given, **named)), "".join(layer.equation.split())
    if "." in terms:
        return declared
    [input_shape] = (*given, *named.values())  # whose name is not the same in all versions
    known = dict(zip(terms.split(",")[0], input_shape))
    return tuple(known.get(letter) if n is None else n for letter, n in zip(terms.split("->")[1], declared))


def in_small_letters(call: Callable, operation: Einsum, *operands: Any) -> Any:
    """The equation of an `ops.einsum` may have spaces and capitals, which Keras takes with numbers only."""
    plain = "".join(operation.subscripts.split())
    letters = sorted(set(filter(str.isalpha, plain)))  # whose order is that of an output that is not given
    if plain != plain.lower() and len(letters) <= len(string.ascii_lowercase):
        plain = plain.translate(str.maketrans(dict(zip(letters, string.ascii_lowercase))))
    return call(operation if plain == operation.subscripts else Einsum(plain), *operands)


def densified(outputs: list, arguments: Any) -> None:
    """What is made of dense tensors is dense; Keras declares a tensor times a number sparse."""
    if not any(getattr(x, "sparse", False) for x in keras.tree.flatten(arguments)):
        for x in outputs:
            x._sparse = False


def as_keras_declares(tensor: keras.KerasTensor) -> keras.KerasTensor:
    """Return a symbolic tensor of a graph as Keras alone declares it: what `densified` has changed is sparse."""
    known: dict[int, keras.KerasTensor] = {}
    like = lambda x: known.get(id(x), x)  # noqa: E731
    waiting = [tensor]
    while waiting:
        x = waiting[-1]
        operation, index, number = getattr(x, "_keras_history", None) or (None, 0, 0)
        if id(x) in known or not _hands_on(operation):
            known.setdefault(id(x), x)
            waiting.pop()
            continue
        node = operation._inbound_nodes[index]
        missing = [each for each in node.input_tensors if id(each) not in known]
        if not missing:
            arguments, named = keras.tree.map_structure(like, (node.arguments.args, node.arguments.kwargs))
            known[id(x)] = keras.tree.flatten(operation.compute_output_spec(*arguments, **named))[number]
        waiting += missing
    return keras.KerasTensor(tensor.shape, dtype=tensor.dtype, sparse=known[id(tensor)].sparse)


def _hands_on(operation: Any) -> bool:
    """Return whether an operation of Keras may declare what it makes of a sparse tensor sparse."""
    kind = type(operation)
    if not isinstance(operation, Operation) or not kind.__module__.startswith("keras."):
        return False
    is_layer, is_model = isinstance(operation, keras.Layer), isinstance(operation, keras.Model)
    return not is_model and (not is_layer or kind.compute_output_spec is not keras.Layer.compute_output_spec)


METHODS = ((Merge, "compute_output_spec", of_all_samples), (Einsum, "symbolic_call", in_small_letters))
"""What is instead of methods of Keras: called with the method and its arguments."""

IN_CODE = (*METHODS, (keras.layers.EinsumDense, "compute_output_shape", of_input))
"""While code is read; a graph has the sizes that Keras declares, as others of the same layers have."""


@contextlib.contextmanager
def declared_rightly(in_code: bool) -> Iterator[None]:
    """Let layers and operations of Keras declare, inside the context, what they make."""
    methods = IN_CODE if in_code else METHODS
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in methods]
    for (owner, name, method), (*_, function) in zip(before, methods):
        setattr(owner, name, _instead(function, method))
    try:
        yield
    finally:
        for owner, name, method in before:
            setattr(owner, name, method)


def _instead(function: Callable, method: Callable) -> Callable:
    @functools.wraps(method)  # Keras looks at the names of the arguments
    def called(*arguments: Any, **keyword_arguments: Any) -> Any:
        return function(method, *arguments, **keyword_arguments)

    return called
