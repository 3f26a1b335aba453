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
from keras.src.utils import tf_utils

from keras_rmda.platform import compat, graphs
from keras_rmda.platform.lite import fourier, functions, patches, stand_ins

OTHER_FLOATS = ("float16", "bfloat16", "float64")
"""Types that TensorFlow Lite has few operators for."""


@contextlib.contextmanager
def tracing(unroll: bool, rounded: str | None = None) -> Iterator[list[int]]:
    """Let a graph consist of what TensorFlow Lite has, and TensorFlow Lite for Microcontrollers as far as possible.

    Loops over time are written out where `unroll` says so, and the steps of TimeDistributed computed as so many
    samples. Single operations become others, also where numbers become "int8" or "int16", or have trained so ("aware"),
    as `rounded` says.

    Gives:
        A list, which gets the number of steps of every loop that is written out.
    """
    import tensorflow as tf
    from tensorflow.python.framework.func_graph import FuncGraph

    unrolled: list[int] = []
    made = [
        (backend, "rnn", lambda rnn: _written_out(rnn, unroll, unrolled)),
        (backend.numpy, "quantile", functions.of_rank),
        (backend.numpy, "repeat", functions.repeated),
        (backend.numpy, "take_along_axis", functions.taken_along),
        (backend.math, "stft", functions.transformed),
        (backend.math, "fft", fourier.of_complex),
        (backend.math, "fft2", lambda fft2: fourier.of_images(fft2, rounded == "aware")),
        (backend.math, "rfft", fourier.of_real),
        (backend.math, "irfft", fourier.to_real),
        (backend.nn, "max_pool", functions.pooled),
        (backend.nn, "average_pool", functions.pooled),
        (image, "_extract_patches", patches.of_keras),
        (keras.layers.TimeDistributed, "call", functions.at_once),
        (tf_utils, "tf_encode_categorical_inputs", _refused),  # so that categories are ones, and not counted
        (tf, "reduce_any", functions.any_of),
        (tf, "unstack", functions.picked),
        (FuncGraph, "_create_op_internal", stand_ins.creating(rounded)),
    ]
    with running(), _replaced(made):
        yield unrolled


def running() -> contextlib.AbstractContextManager:
    """Let a model compute what its file does.

    Names that TensorFlow does not take get other letters. `argmax` and `argmin` are TensorFlow's, for which 0 and -0
    are equal: Keras 3.15 looks at the bits of numbers. Causal masks and sizes of images may be open. Layers use no
    kernels of GPUs. Negative indices become others by arithmetic: microcontrollers have no selection of integers.
    """
    return _replaced(
        [
            (backend.name_scope, "__init__", _named),
            (backend, "lstm", _missing),  # so that layers call `rnn`
            (backend, "gru", _missing),
            (backend.numpy, "argmax", lambda _: functions.extreme("argmax")),
            (backend.numpy, "argmin", lambda _: functions.extreme("argmin")),
            (backend.numpy, "take", functions.taken),
            (backend.nn, "_apply_masks", functions.masked),
            (image, "resize", functions.resized),
        ]
    )


@contextlib.contextmanager
def _replaced(made: list[tuple[Any, str, Callable]]) -> Iterator[None]:
    """Let attributes be what is made of them."""
    before = [getattr(holder, name) for holder, name, _ in made]
    try:
        for (holder, name, make), function in zip(made, before):
            setattr(holder, name, make(function))
        yield
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
        axis = 0 if keywords.get("time_major") else 1
        steps = keras.tree.flatten(inputs)[0].shape[axis]
        if unroll and steps and not keywords.get("unroll"):
            keywords["unroll"] = True
            if keywords.get("go_backwards") and keywords.get("mask") is not None:
                # Written out, Keras turns the mask of a layer that goes backwards around for half of what it does.
                keywords |= {"go_backwards": False, "mask": keras.ops.flip(keywords["mask"], axis)}
                inputs = keras.tree.map_structure(lambda x: keras.ops.flip(x, axis), inputs)
        if keywords.get("unroll"):
            unrolled.append(steps)
        return rnn(step, inputs, *arguments, **keywords)

    return written_out


def _missing(_: Callable) -> Callable:
    def missing(*arguments: Any, **keywords: Any) -> None:
        raise NotImplementedError

    return missing


def _refused(_: Callable) -> Callable:
    def refused(*arguments: Any, **keywords: Any) -> None:
        raise ValueError

    return refused


def is_float32(model: Any) -> bool:
    """Return whether a model, layer or operation computes, and takes its inputs, in no other type of floats."""
    types = [name for layer in _layers_of(model) for name in (layer.compute_dtype, layer.variable_dtype)]
    types += [variable.dtype for variable in getattr(model, "variables", [])]
    return not _is_other(*types, *(holder.dtype for holder in _with_types(model)))


@contextlib.contextmanager
def in_float32(model: Any, has_others: bool = False) -> Iterator[None]:
    """Let a model, layer or operation compute in float32; behind the context it is what it was.

    Args:
        model: what to change.
        has_others: whether other tensors stand for its weights, which need not become float32 then.
    """
    import tensorflow as tf

    layers = [layer for layer in _layers_of(model) if _is_other(layer.compute_dtype, layer.variable_dtype)]
    variables = [v for v in getattr(model, "variables", []) if _is_other(v.dtype)]
    holders = [each for each in _with_types(model) if _is_other(each.dtype)]
    names = ["_dtype" if "_dtype" in vars(each) else "dtype" for each in holders]
    kept = [(x, "_dtype_policy", _float32_policy(x.dtype_policy)) for x in layers]
    kept += [(x, name, "float32") for x, name in zip(holders, names)]
    kept += [(v, "_dtype", "float32") for v in variables]
    values = [] if has_others else [tf.Variable(tf.cast(v._value, "float32"), trainable=False) for v in variables]
    kept += [(v, "_value", value) for v, value in zip(variables, values)]
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


def _layers_of(model: Any) -> list:
    """Return a model or layer and the layers inside; nothing for an operation, or a function."""
    return compat.layers_of(model) if isinstance(model, keras.Layer) else []


def _with_types(model: Any) -> list:
    """Return what holds a type of numbers: the inputs and raw operations of a graph, and of those inside; or itself."""
    found = {} if isinstance(model, keras.Layer) else {id(model): model}
    for graph in filter(graphs.is_inner_graph, _layers_of(model)):
        for node in graphs.nodes(graph):
            held = [*node.output_tensors, node.operation] if node.is_input else [node.operation]
            found |= {id(x): x for x in held}
    return [x for x in found.values() if isinstance(vars(x).get("_dtype", vars(x).get("dtype")), str)]
