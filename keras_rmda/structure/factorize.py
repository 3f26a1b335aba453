"""Replace layers of low rank by two thin ones, and verify that the model computes the same."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import keras
import numpy as np
from keras import layers as L
from keras import ops

from keras_rmda.channels.linear import WritesInGroups
from keras_rmda.channels.table import rule_of
from keras_rmda.channels.tensors import NotCovered
from keras_rmda.platform import arithmetic, checks, compat, finite, graphs
from keras_rmda.platform.copying.copies import Copies
from keras_rmda.platform.copying.saving import made_savable
from keras_rmda.structure.precise import Precise, agree_in_float64
from keras_rmda.structure.trace import as_graph
from keras_rmda.structure.verification import TOLERANCE, Values, VerificationError, difference, outputs_of_both

FACTORED = (L.Dense, L.Conv1D, L.Conv2D, L.Conv3D)
"""The layers that are a product with one matrix where their kernel has size 1."""


def factorize(model: keras.Model, tolerance: float = 1e-4, inputs: Any = None) -> keras.Model:
    """Return a model in which layers of low rank are two thin layers: the end of training with `NuclearNorm`.

    Formula: W = U S V^T becomes (U_r sqrt(S_r)) (sqrt(S_r) V_r^T), with the r singular values larger than
    `tolerance` times the largest, if r (n_in + n_out) < n_in n_out; r is at least 1.

    Every Dense layer and every convolution of size 1 without groups can become two: the first, named `<name>_in`,
    without bias and activation, takes the strides; the second has the old name, bias and activation. Both have the
    old dtype policy and trainable flag, and no kernel regularizer or constraint, which were for the whole kernel.
    All other layers stay as they are.

    Args:
        model: a built Sequential or Functional model. It is not changed.
        tolerance: singular values up to this multiple of the kernel's largest one count as zero, in [0, 1).
            Training in float32 leaves about 1e-7.
        inputs: what both models are run on to compare them, structured as the model wants; None for random numbers.

    Returns:
        A new, uncompiled model with the same inputs and outputs, also when no layer becomes smaller. It computes what
        the original does with the small singular values set to zero; without such values, the same.

    Raises:
        ValueError: if the model is not built, has no graph of layers or weights that are not finite, if `tolerance` is
            out of range, if a layer cannot be made from its configuration, or if the model cannot run on `inputs`.
        VerificationError: naming the first layer that differs, if outputs differ from those of the original with
            its kernels truncated by more than rounding.

    Example:
        >>> thin = kr.factorize(model)
        >>> thin.count_params() < model.count_params()
        True

    Source: Eckart and Young 1936, "The approximation of one matrix by another of lower rank"; as the end of
    low-rank training in Huang and Lee 2024, arXiv:2403.14398.
    """
    tolerance = checks.real("tolerance", tolerance, maximum=1.0, open_maximum=True)
    with as_graph(model) as graph:
        finite.check_finite(model)
        return _factorized(graph, tolerance, inputs, model)


def _factorized(model: keras.Model, tolerance: float, inputs: Any, original: keras.Model) -> keras.Model:
    """Factorize the model that is the graph of `original`."""
    names = {node.operation.name for node in graphs.nodes(model)}
    filled: list[tuple[Any, list]] = []
    truncated: Values = []  # the kernels, each with the value of low rank that its two factors make
    made: dict[int, list] = {}
    copies = Copies(model, made)
    layers = {id(layer): layer for layer in compat.layers_of(model)}.values()
    uses = Counter(id(v) for layer in layers for v in (*layer._trainable_variables, *layer._non_trainable_variables))

    def replaced(layer: Any) -> list:
        weights = [ops.convert_to_numpy(variable) for variable in getattr(layer, "weights", [])]
        is_shared = any(uses[id(variable)] > 1 for variable in getattr(layer, "weights", []))
        factors = None if is_shared else factors_of(layer, tolerance)
        if factors is None:
            filled.append((copies.whole(layer), weights))
            return [filled[-1][0]]
        truncated.append((layer.kernel, np.matmul(*factors)))
        first, second = thin_layers(layer, factors[0].shape[-1], names, copies)
        filled.extend([(first, [factors[0]]), (second, [factors[1], *weights[1:]])])
        return [first, second]

    thin = graphs.rebuilt(model, replaced, made)
    for layer, weights in filled:
        if weights:
            layer.set_weights(weights)
            graphs.finalize_states(layer)
    made_savable(thin, original, made)
    exact = [
        (variable, value)
        for layer, weights in filled
        for variable, value in zip(getattr(layer, "weights", []), weights)
        if value.dtype == "float64"
    ]
    with compat.restored(model.non_trainable_variables):
        verify(model, thin, truncated, inputs, original, exact)
    return thin


def factors_of(layer: Any, tolerance: float) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the kernels of the two thin layers that can stand for a layer, or None if it stays as it is."""
    is_matrix = type(layer) in FACTORED and all(size == 1 for size in getattr(layer, "kernel_size", ()))
    if not is_matrix or not is_covered(layer):
        return None
    kernel = ops.convert_to_numpy(layer.kernel).astype("float64")
    *positions, n_in, n_out = kernel.shape
    u, sigma, vt = np.linalg.svd(kernel.reshape(n_in, n_out), full_matrices=False)
    rank = max(1, int(np.sum(sigma > tolerance * sigma[0])))
    if rank * (n_in + n_out) >= n_in * n_out:
        return None
    root = np.sqrt(sigma[:rank])
    first, second = u[:, :rank] * root, root[:, None] * vt[:rank]
    return first.reshape(*positions, n_in, rank), second.reshape(*positions, rank, n_out)


def is_covered(layer: Any) -> bool:
    """Return whether a layer is its kernel and bias alone, without groups."""
    try:
        return not isinstance(rule_of(layer), WritesInGroups)
    except NotCovered:
        return False


def thin_layers(layer: Any, rank: int, names: set[str], copies: Copies) -> tuple[Any, Any]:
    """Return the two layers, without weights; the first one's name is added to the names that are taken."""
    [width] = rule_of(layer).widths
    config, plain = copies.config_of(layer), {"kernel_regularizer": None, "kernel_constraint": None}
    name = f"{layer.name}_in"
    while name in names:
        name += "_"
    names.add(name)
    only_kernel = {"name": name, width: rank, "activation": None, "use_bias": False, "activity_regularizer": None}
    no_strides = {"strides": 1} if "strides" in config else {}
    return copies.resized(layer, config, plain | only_kernel), copies.resized(layer, config, plain | no_strides)


@arithmetic.full_precision()
def verify(
    model: keras.Model,
    thin: keras.Model,
    truncated: Values,
    inputs: Any,
    original: keras.Model | None = None,
    exact: Values = (),
) -> None:
    """Compare a model, with its kernels truncated, and its factorized version on the same inputs, also in float64.

    Raises:
        ValueError: if the model cannot run on the inputs.
        VerificationError: naming the first layer that differs.
    """
    if agree_in_float64(model, thin, inputs, original, truncated):
        return
    # The first thin layer rounds to its compute dtype, whatever the dtype of the model's outputs.
    dtypes = {layer.compute_dtype for layer in compat.layers_of(model) if layer.weights}
    tolerance = max((TOLERANCE.get(dtype, 1e-4) for dtype in dtypes), default=1e-4)
    flat, a, b = outputs_of_both(model, thin, inputs, original, truncated)
    worst = max(difference(x, y) for x, y in zip(a, b))
    name = first_difference(model, thin, truncated, flat, tolerance) if worst > tolerance else None
    if name is None:
        precise = Precise(model, thin, flat, [*truncated, *exact])
        if not precise.agree:
            worst, tolerance = precise.difference, precise.tolerance
            name = first_difference(model, thin, truncated, flat, tolerance)
    if name is not None:
        raise VerificationError(
            f"The factorized model differs from {model.name!r} by {worst:.3g} (tolerance {tolerance:g}), first at "
            f"{name!r}. The original is unchanged. Layers that are random at inference and weights that are not "
            "finite cannot be verified; else this is an error of keras_rmda."
        )


def first_difference(model: keras.Model, thin: keras.Model, truncated: Values, inputs: list, tolerance: float) -> str:
    """Return the name of the first layer of a model with an output that none of its calls has in the other model."""
    old, new = ([node for node in graphs.nodes(each) if not node.is_input] for each in (model, thin))
    a = keras.Model(model.inputs, [node.output_tensors[0] for node in old])
    b = keras.Model(thin.inputs, [node.output_tensors[0] for node in new])
    outputs: dict[str, list] = {}
    for node, y in zip(new, b(inputs, training=False)):
        outputs.setdefault(node.operation.name, []).append(y)
    with keras.StatelessScope(truncated):
        expected = a(inputs, training=False)
    for node, x in zip(old, expected):
        same_shape = [y for y in outputs[node.operation.name] if y.shape == x.shape]
        if min((difference(x, y) for y in same_shape), default=math.inf) > tolerance:
            return node.operation.name
    return "the outputs only"
