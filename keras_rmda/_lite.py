"""What Keras must do otherwise while TensorFlow makes a graph of a model for TensorFlow Lite; Keras has no public way.

Checked with Keras 3.8 and 3.15 on TensorFlow.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras.src import backend
from keras.src.ops import image

from keras_rmda import _compat, _graphs

OTHER_FLOATS = ("float16", "bfloat16", "float64")
"""Types that TensorFlow Lite has few operators for."""


@contextlib.contextmanager
def tracing(unroll: bool) -> Iterator[list[int]]:
    """Let a graph consist of what TensorFlow Lite has.

    Names that TensorFlow does not take get other letters. `argmax` and `argmin` are TensorFlow's, for which 0 and -0
    are equal: Keras 3.15 looks at the bits of numbers. Causal masks and sizes of images may be open. Layers use no
    kernels of GPUs. Negative indices become others by arithmetic: microcontrollers have no selection of integers. Loops
    over time are written out where `unroll` says so.

    Gives:
        A list, which gets the number of steps of every loop that is written out.
    """
    unrolled: list[int] = []
    made = [
        (backend.name_scope, "__init__", _named),
        (backend, "rnn", lambda rnn: _written_out(rnn, unroll, unrolled)),
        (backend, "lstm", _missing),  # so that layers call `rnn`
        (backend, "gru", _missing),
        (backend.numpy, "argmax", lambda _: _extreme("argmax")),
        (backend.numpy, "argmin", lambda _: _extreme("argmin")),
        (backend.numpy, "take", _taken),
        (backend.nn, "_apply_masks", _masked),
        (image, "resize", _resized),
    ]
    before = [getattr(holder, name) for holder, name, _ in made]
    try:
        for (holder, name, make), function in zip(made, before):
            setattr(holder, name, make(function))
        yield unrolled
    finally:
        for (holder, name, _), function in zip(made, before):
            setattr(holder, name, function)


def scope_name(name: str) -> str:
    """Return a name that TensorFlow takes for a scope: the same, if it does."""
    name = re.sub(r"[^A-Za-z0-9_.\\/>-]", "_", name)
    return name if re.match("[A-Za-z0-9.]", name) else f"layer{name}"


def _named(scope: Callable) -> Callable:
    return lambda self, name, *arguments, **keywords: scope(self, scope_name(name), *arguments, **keywords)


def _written_out(rnn: Callable, unroll: bool, unrolled: list[int]) -> Callable:
    def written_out(step: Callable, inputs: Any, *arguments: Any, **keywords: Any) -> Any:
        steps = keras.tree.flatten(inputs)[0].shape[0 if keywords.get("time_major") else 1]
        if unroll and steps:
            keywords["unroll"] = True
        if keywords.get("unroll"):
            unrolled.append(steps)
        return rnn(step, inputs, *arguments, **keywords)

    return written_out


def _missing(_: Callable) -> Callable:
    def missing(*arguments: Any, **keywords: Any) -> None:
        raise NotImplementedError

    return missing


def _extreme(name: str) -> Callable:
    """Return TensorFlow's `argmax` or `argmin` with the arguments of Keras."""
    import tensorflow as tf

    def extreme(x: Any, axis: int | None = None, keepdims: bool = False) -> Any:
        x = backend.convert_to_tensor(x)
        flat = tf.reshape(x, [-1]) if axis is None else x
        y = getattr(tf, name)(flat, axis=0 if axis is None else axis, output_type="int32")
        if not keepdims:
            return y
        return tf.reshape(y, [1] * len(x.shape)) if axis is None else tf.expand_dims(y, axis)

    return extreme


def _taken(take: Callable) -> Callable:
    """Let negative indices, with which `take` counts from the end, become others by sums and products."""
    import tensorflow as tf

    def taken(x: Any, indices: Any, axis: int | None = None) -> Any:
        x = backend.convert_to_tensor(x)
        if isinstance(indices, (tf.SparseTensor, tf.RaggedTensor)) or not tf.is_tensor(indices):
            return take(x, indices, axis)
        flat, axis = (tf.reshape(x, [-1]), 0) if axis is None else (x, axis)
        count = tf.cast(flat.shape[axis] or tf.shape(flat)[axis], indices.dtype)
        minus_one_if_negative = tf.maximum(tf.minimum(indices, 0), -1)
        return tf.gather(flat, indices - count * minus_one_if_negative, axis=axis)

    return taken


def _masked(apply_masks: Callable) -> Callable:
    """Let a causal mask be compared positions: Keras's has an index that TensorFlow Lite has for known sizes only."""
    import tensorflow as tf

    def masked(logits: Any, mask: Any, is_causal: bool) -> Any:
        if is_causal:
            rows, columns = (tf.range(tf.shape(logits)[axis]) for axis in (2, 3))
            causal = tf.expand_dims(rows, 1) >= tf.expand_dims(columns, 0)
            mask = causal if mask is None else tf.logical_and(mask, causal)
        return apply_masks(logits, mask, False)

    return masked


def _resized(resize: Callable) -> Callable:
    """Let sizes be tensors, of which Keras asks whether they are positive."""

    def resized(images: Any, size: Any, *arguments: Any, **keywords: Any) -> Any:
        known = all(isinstance(n, int) for n in size)
        return (resize if known else image._resize)(images, size, *arguments, **keywords)

    return resized


def is_float32(model: keras.Model) -> bool:
    """Return whether a model computes, and takes its inputs, in no other type of floats."""
    types = [name for layer in _compat.layers_of(model) for name in (layer.compute_dtype, layer.variable_dtype)]
    return not _is_other(*types, *(holder.dtype for holder in _with_types(model)))


@contextlib.contextmanager
def in_float32(model: keras.Model) -> Iterator[None]:
    """Let a model compute in float32, with weights of that type; behind the context it is what it was."""
    import tensorflow as tf

    layers = [layer for layer in _compat.layers_of(model) if _is_other(layer.compute_dtype, layer.variable_dtype)]
    variables = [v for v in model.variables if _is_other(v.dtype)]
    holders = [each for each in _with_types(model) if _is_other(each.dtype)]
    names = ["_dtype" if "_dtype" in vars(each) else "dtype" for each in holders]
    kept = [(x, "_dtype_policy", _float32_policy(x.dtype_policy)) for x in layers]
    kept += [(x, name, "float32") for x, name in zip(holders, names)]
    kept += [(v, "_dtype", "float32") for v in variables]
    kept += [(v, "_value", tf.Variable(tf.cast(v._value, "float32"), trainable=False)) for v in variables]
    before = [vars(x)[name] for x, name, _ in kept]
    try:
        for x, name, value in kept:
            vars(x)[name] = value
        yield
    finally:
        for (x, name, _), value in zip(kept, before):
            vars(x)[name] = value


def _float32_policy(policy: Any) -> Any:
    """Return the policy of float32, also of layers that Keras has quantized."""
    mode, found, _ = policy.name.rpartition("_from_")
    return keras.dtype_policies.get(f"{mode}_from_float32" if found else "float32")


def _is_other(*types: str | None) -> bool:
    return any(name is not None and keras.backend.standardize_dtype(name) in OTHER_FLOATS for name in types)


def _with_types(model: keras.Model) -> list:
    """Return the inputs and raw operations of a model's graph, and of those inside, that hold a type of numbers."""
    found: dict[int, Any] = {}
    for graph in filter(_graphs.is_inner_graph, _compat.layers_of(model)):
        for node in _graphs.nodes(graph):
            held = [*node.output_tensors, node.operation] if node.is_input else [node.operation]
            found |= {id(x): x for x in held if isinstance(vars(x).get("_dtype", vars(x).get("dtype")), str)}
    return list(found.values())
