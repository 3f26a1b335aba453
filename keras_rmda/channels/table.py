"""The layer table: one row for each layer class and raw operation."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import layers as L

from keras_rmda import _compat, _graphs
from keras_rmda._symbolic import UNTRACEABLE
from keras_rmda.channels.activations import evaluate, normalized, only_zero, pooled, unchanged
from keras_rmda.channels.attention import Attends
from keras_rmda.channels.contraction import Contracts, Sums
from keras_rmda.channels.einsum import WritesEinsum
from keras_rmda.channels.equations import of_batch_dot, of_dot, of_einsum, of_matmul, of_tensordot
from keras_rmda.channels.functions import (
    ARITHMETIC,
    COMPARISONS,
    ELEMENTWISE_LAYERS,
    UNARY,
    has_arrays,
    is_elementwise,
    is_of_any_width,
)
from keras_rmda.channels.keras_hub import row_of as row_of_keras_hub
from keras_rmda.channels.linear import Linear, LooksUp, Reverses, Writes, WritesInGroups
from keras_rmda.channels.merges import Merges
from keras_rmda.channels.moves import Accumulates, Joins, Moves, Reduces, Reshapes
from keras_rmda.channels.picks import Halves, Indexes, Repeats, Rolls, Splits, Takes
from keras_rmda.channels.positions import (
    broadcasted,
    concatenated,
    flattened,
    flipped,
    indexed,
    permuted,
    repeated,
    rolled,
    split,
    stacked,
    taken,
    tiled,
    transposed,
    triangular,
    unstacked,
    vector_repeated,
)
from keras_rmda.channels.recurrent import Recurs
from keras_rmda.channels.rule import Demand, Read, Rule, State
from keras_rmda.channels.scores import Scores
from keras_rmda.channels.simple import Carries, Mixes, only_input
from keras_rmda.channels.sites import Call, Cut, Site
from keras_rmda.channels.tensors import NotCovered, Tensor, along, fitted
from keras_rmda.channels.weights import Counts, ForEach, Holds
from keras_rmda.channels.wrappers import Distributes
from keras_rmda.tracing import ForEachSample, Weight
from keras_rmda.tracing.ranges import Range

# ---- convolutions


def pads(layer: Any) -> bool:
    """Return whether a convolution sees zeros beyond the border, so that a constant input is none at the border."""
    return getattr(layer, "padding", "valid") != "valid" and any(size > 1 for size in layer.kernel_size)


def overlaps(layer: Any) -> bool:
    """Return whether the positions of a transposed convolution are sums of different parts of the kernel."""
    return any(size > 1 for size in (*layer.kernel_size, *layer.strides))


def separable(layer: Any, read: Read) -> Linear:
    """Return the effect of a depthwise kernel followed by a pointwise one."""
    depthwise, pointwise = read(layer.depthwise_kernel), read(layer.pointwise_kernel)
    *_, n, m = depthwise.shape
    depthwise = depthwise.reshape(-1, n, m)
    pointwise = pointwise.reshape(n, m, -1)
    kernel = np.einsum("im,imo->io", depthwise.astype("float64").sum(axis=0), pointwise)
    reads = np.any([(depthwise[..., j] != 0).any(axis=0)[:, None] & (pointwise[:, j] != 0) for j in range(m)], axis=0)
    return Linear(kernel[None, :, None], reads[None])


@dataclass(frozen=True)
class Separates(Writes):
    """Separable convolutions: "j" are the channels between the two kernels, several for each input."""

    def atoms(self, call: Call, ties: Any) -> list[np.ndarray]:
        written = super().atoms(call, ties)
        call.site.own["j"] = np.repeat(call.site.own["i"], call.layer.depth_multiplier)
        return written

    def reads(self, name: str) -> str:
        return "ij"


def convolution(n: int) -> Callable[[Any], Rule]:
    """Return the choice between the rules of convolutions over `n` axes with and without groups."""
    whole = Writes({"kernel": "." * n + "io", "bias": "o"}, {"filters": "o"}, has_borders=pads)
    letters = {"kernel": (*"." * n, "p", "Gq"), "bias": ("Gq",)}
    grouped = WritesInGroups(letters, {"filters": "Gq", "groups": "G"}, has_borders=pads)
    return lambda layer: grouped if layer.groups > 1 else whole


def depthwise(n: int) -> Rule:
    """Return the rule of depthwise convolutions over `n` axes."""
    letters = {"kernel": (*"." * n, "Gp", "q"), "bias": ("Gq",)}
    return WritesInGroups(
        letters,
        {"depth_multiplier": "q"},
        linear=lambda kernel: kernel.reshape(*kernel.shape[:-2], 1, *kernel.shape[-2:]),
        has_borders=pads,
        groups=lambda layer: layer.kernel.shape[-2],
    )


# ---- constants of single layers


def activated(layer: Any, values: np.ndarray, read: Read) -> np.ndarray:
    """The layer itself tells what it makes of a constant."""
    return evaluate(layer, layer.call, values)


def parametric(layer: Any, values: np.ndarray, read: Read) -> np.ndarray:
    """PReLU: positive constants stay; others are multiplied by a slope, if that is the same at all positions."""
    slopes = fitted(read(layer.alpha).astype("float64"), values)
    return np.where((values >= 0) | np.isnan(values), values, values * slopes)


def rescaled(layer: Any, values: np.ndarray, read: Read) -> np.ndarray:
    """Rescaling by a number, or by numbers for channels or positions, which make no constants where they differ."""
    scale, offset = (np.asarray(getattr(layer, name), "float64") for name in ("scale", "offset"))
    rows = [x.reshape(-1, x.shape[-1] if x.ndim else 1) for x in (scale, offset)]
    scale, offset = (np.where((x == x[0]).all(axis=0), x[0], np.nan) for x in rows)
    return np.where((scale == 0) | (values == 0), 0.0, values * scale) + offset


def scaled(layer: Any, values: np.ndarray, read: Read) -> np.ndarray:
    """One factor for each channel."""
    gamma = read(layer.gamma).astype("float64")
    return np.where(gamma == 0, 0.0, values * gamma)


def has_zero_gamma(layer: Any, read: Read) -> np.ndarray:
    """Return for each channel whether it is multiplied by zero."""
    return read(layer.gamma) == 0 if layer.gamma is not None else np.zeros(layer.moving_mean.shape, bool)


def everything(layer: Any, read: Read) -> np.ndarray:
    """No output depends on its input."""
    return np.ones(1, bool)


def product(layer: Any, operands: list) -> np.ndarray:
    """Zero times anything is zero."""
    zero = np.any(np.broadcast_arrays(*(np.asarray(x) == 0 for x in operands)), axis=0)
    result = operands[0]
    for each in operands[1:]:
        result = result * each
    return np.where(zero, 0.0, result)


# ---- choices by layer


def of_activation(layer: Any) -> Rule:
    """Return the rule of an `Activation`: each number by itself, or all channels together."""
    if is_elementwise(layer.activation):
        return Carries(constant=activated)
    if is_of_any_width(layer.activation):
        return Mixes()
    raise NotCovered(untraceable(layer))


def is_elementwise_at_inference(layer: keras.Layer) -> bool:
    """Return whether a layer of a user's own, such as a DropPath, changes at inference each number by itself, or none.

    Its code is not replaced by a graph, since it does something else at training.
    """
    tried = layer in UNTRACEABLE and "training" in inspect.signature(layer.call).parameters
    return tried and not layer.weights and is_elementwise(partial(layer.call, training=False))


def at_inference(layer: keras.Layer, values: np.ndarray, read: Read) -> np.ndarray:
    """The layer itself tells what it makes of a constant."""
    return evaluate(layer, partial(layer.call, training=False), values)


def untraceable(layer: Any) -> str:
    """Return why a layer that is a function is not traced."""
    return f"a function that cannot be traced: {UNTRACEABLE.get(layer, 'nobody has tried to')}"


@dataclass(frozen=True)
class Maps(Carries):
    """A `Lambda` whose function changes each number by itself."""

    def config(self, site: Site, config: dict[str, Any], cut: Cut) -> dict[str, Any]:
        known = config.get("output_shape")  # Keras finds it; a tuple is that of all channels
        return config | ({"output_shape": None} if isinstance(known, list | tuple) else {})


def of_lambda(layer: Any) -> Rule:
    """Return the rule of a `Lambda`, unless it is a block."""
    if layer.mask is not None:
        raise NotCovered("a mask of its own")
    if not is_elementwise(layer):
        raise NotCovered(untraceable(layer))
    return Maps(constant=activated)


def one_axis(layer: Any) -> str | None:
    """The batch axis is no channel axis, and several axes have no single one."""
    axis = layer.axis[0] if isinstance(layer.axis, list | tuple) and len(layer.axis) == 1 else layer.axis
    return None if isinstance(axis, int) and axis != 0 else f"axis={layer.axis}"


def spatial_padding(operation: Any) -> str | None:
    """`ops.pad` must not make channels; the last axis is taken for theirs."""
    return None if tuple(operation.pad_width[-1]) == (0, 0) else f"pad_width={operation.pad_width}"


@dataclass(frozen=True)
class Pads(Carries):
    """`ops.pad`: a constant stays one behind a border of the same number, or of itself."""

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        [values] = super().constants(call, state)
        if call.layer.mode != "constant":
            return [values]
        border = [x for x in keras.tree.flatten(call.arguments) if not isinstance(x, Tensor) and x is not None]
        return [np.where(values == (border[0] if border else 0.0), values, np.nan)]


@dataclass(frozen=True)
class Resizes(Carries):
    """`Resizing`, which Keras calls with training=True wherever nobody says otherwise, and which does not mind."""

    trains = False


def resized(layer: Any, values: np.ndarray, read: Read) -> np.ndarray:
    """A constant image keeps its constant, except behind a border of another number."""
    return np.where(values == layer.fill_value, values, np.nan) if layer.pad_to_aspect_ratio else values


@dataclass(frozen=True)
class Slopes(Carries):
    """PReLU: slopes along any axes, whose letters are their numbers. One of them is that of the channels."""

    def letters(self, layer: Any) -> dict[str, str]:
        return {"alpha": "".join("." if n == 1 else str(axis) for axis, n in enumerate(layer.alpha.shape))}

    def groups_by(self, layer: Any) -> dict[str, str]:
        rank = len(layer.alpha.shape)
        return {"alpha": "." * rank if rank in (layer.shared_axes or ()) else "." * (rank - 1) + "c"}

    def writes(self, name: str) -> str:
        return "0123456789"

    def atoms(self, call: Call, ties: Any) -> list[np.ndarray]:
        [x], own = only_input(call), call.site.own
        varying = [axis for axis, n in enumerate(x.atoms.shape) if n > 1]
        channels = varying[-1] if varying else len(x.shape) - 1
        atoms = x.channels(channels, ties)
        for axis, n in enumerate(call.layer.alpha.shape):
            known = atoms if axis == channels else n
            if np.ndim(own.setdefault(str(axis), known)) != np.ndim(known):
                raise NotCovered("channels along another axis at another call")
            if axis == channels:
                call.register(str(axis), atoms, ties)
        return [along(atoms, len(x.shape), channels)] if varying else [x.atoms]

    def constants(self, call: Call, state: State) -> list[np.ndarray]:
        return [parametric(call.layer, fitted(state.constants(call.inputs[0]), call.outputs[0].atoms), state.read)]

    def demands(self, call: Call, state: State) -> list[Demand]:
        [x], [y] = call.inputs, call.outputs
        return [(x, np.broadcast_to(state.needed(y), x.atoms.shape), f"read by {call.site.name}")]


# ---- the table

# These layers change each number by itself, or nothing at inference.
SILENT = (
    L.Dropout, L.SpatialDropout1D, L.SpatialDropout2D, L.SpatialDropout3D, L.GaussianNoise, L.GaussianDropout,
    L.AlphaDropout, L.ActivityRegularization, L.Identity, _compat.StochasticDepth,
)  # fmt: skip
GLOBAL_POOLING = (
    L.GlobalAveragePooling1D, L.GlobalAveragePooling2D, L.GlobalAveragePooling3D,
    L.GlobalMaxPooling1D, L.GlobalMaxPooling2D, L.GlobalMaxPooling3D,
)  # fmt: skip
POOLING = (
    L.AveragePooling1D, L.AveragePooling2D, L.AveragePooling3D, L.MaxPooling1D, L.MaxPooling2D, L.MaxPooling3D,
)  # fmt: skip
PADDING = (L.ZeroPadding1D, L.ZeroPadding2D, L.ZeroPadding3D)
CROPPING = (L.Cropping1D, L.Cropping2D, L.Cropping3D, L.UpSampling1D, L.UpSampling2D, L.UpSampling3D)
NORMALIZATION = {"gamma": "c", "beta": "c", "moving_mean": "c", "moving_variance": "c"}
MERGES = {
    "Add": Merges(lambda layer, xs: sum(xs[1:], xs[0])),
    "Subtract": Merges(lambda layer, xs: xs[0] - xs[1]),
    "Multiply": Merges(product, product=True),
    "Average": Merges(lambda layer, xs: sum(xs[1:], xs[0]) / len(xs)),
    "Maximum": Merges(lambda layer, xs: np.stack(np.broadcast_arrays(*xs)).max(axis=0)),
    "Minimum": Merges(lambda layer, xs: np.stack(np.broadcast_arrays(*xs)).min(axis=0)),
}
CONCATENATES = Joins(concatenated, refusal=one_axis)

RULES: dict[type, Rule | Callable[[Any], Rule]] = {
    L.Dense: Writes({"kernel": "io", "bias": "o"}, {"units": "o"}),
    L.EinsumDense: WritesEinsum(),
    L.Embedding: LooksUp(),
    **{layer: convolution(n) for n, layer in enumerate((L.Conv1D, L.Conv2D, L.Conv3D), start=1)},
    **{
        layer: Writes({"kernel": "." * n + "oi", "bias": "o"}, {"filters": "o"}, has_borders=overlaps)
        for n, layer in enumerate((L.Conv1DTranspose, L.Conv2DTranspose, L.Conv3DTranspose), start=1)
    },
    **{layer: depthwise(n) for n, layer in enumerate((L.DepthwiseConv1D, L.DepthwiseConv2D), start=1)},
    **{
        layer: Separates(
            {"depthwise_kernel": "." * n + "im", "pointwise_kernel": "." * n + "jo", "bias": "o"},
            {"filters": "o"},
            linear=separable,
            has_borders=pads,
        )
        for n, layer in enumerate((L.SeparableConv1D, L.SeparableConv2D), start=1)
    },
    L.SimpleRNN: Recurs(),
    L.LSTM: Recurs(),
    L.GRU: Recurs(),
    L.RNN: Recurs(),
    L.Bidirectional: Recurs(),
    **dict.fromkeys((L.ConvLSTM1D, L.ConvLSTM2D, L.ConvLSTM3D), Recurs()),
    L.Attention: Scores(
        {"scale": ""}, refusal=lambda layer: None if layer.score_mode == "dot" else "score_mode='concat'"
    ),
    L.AdditiveAttention: Scores({"scale": "i"}, adds=True),
    L.MultiHeadAttention: Attends(),
    L.GroupQueryAttention: Attends(refusal=lambda layer: "use_gate=True" if getattr(layer, "use_gate", 0) else None),
    L.BatchNormalization: Carries(
        NORMALIZATION, constant=normalized, ignores=has_zero_gamma, subtracts="moving_mean", refusal=one_axis
    ),
    L.LayerNormalization: Mixes({"gamma": "c", "beta": "c"}),
    L.GroupNormalization: Mixes(
        {"gamma": "c", "beta": "c"}, groups=lambda layer, n: layer.groups, widths={"groups": "G"}
    ),
    L.UnitNormalization: Mixes(ignores_zeros=True),
    L.Softmax: Mixes(),
    L.Masking: Mixes(),
    L.Activation: of_activation,
    L.Lambda: of_lambda,
    **dict.fromkeys(ELEMENTWISE_LAYERS, Carries(constant=activated)),
    L.PReLU: Slopes(),
    L.Rescaling: Carries(constant=rescaled, arrays=("scale", "offset")),
    L.Normalization: Carries(
        {"adapt_mean": "c", "adapt_variance": "c", "count": ""}, arrays=("mean", "variance"), refusal=one_axis
    ),
    _compat.LayerScale: Carries({"gamma": "c"}, {"projection_dim": "c"}, constant=scaled, ignores=has_zero_gamma),
    **dict.fromkeys(SILENT, Carries(constant=unchanged)),
    **dict.fromkeys(GLOBAL_POOLING, Carries(mixes_positions=True, constant=unchanged)),
    **dict.fromkeys(POOLING, Carries(mixes_positions=True, constant=pooled)),
    **dict.fromkeys(PADDING, Carries(mixes_positions=True, constant=only_zero)),
    **dict.fromkeys(CROPPING, Carries(mixes_positions=True, constant=unchanged)),
    L.Resizing: Resizes(mixes_positions=True, constant=resized),
    **{getattr(L, name): rule for name, rule in MERGES.items()},
    Weight: Holds(),
    ForEachSample: ForEach(),
    Range: Counts(),
    _compat.CustomScaleLayer: Merges(lambda layer, xs: xs[0] + xs[1] * layer.scale),
    L.Concatenate: CONCATENATES,
    L.Dot: Contracts(of_batch_dot, refusal=lambda layer: "normalize=True" if layer.normalize else None),
    L.Flatten: Moves(flattened),
    L.Reshape: Reshapes(target="target_shape"),
    L.Permute: Moves(permuted),
    L.RepeatVector: Moves(vector_repeated),
}
RULES[L.TimeDistributed] = Distributes(lambda layer: rule_of(layer))
if hasattr(L, "ReversibleEmbedding"):  # Keras 3.13
    RULES[L.ReversibleEmbedding] = Reverses()
if hasattr(L, "RMSNormalization"):  # Keras 3.9
    RULES[L.RMSNormalization] = Mixes({"scale": "c"})
for name in (f"Adaptive{kind}Pooling{n}D" for kind in ("Average", "Max") for n in (1, 2, 3)):
    if hasattr(L, name):  # Keras 3.13
        RULES[getattr(L, name)] = Carries(mixes_positions=True, constant=unchanged)

OPERATIONS: dict[str, Rule] = {
    **dict.fromkeys([*ARITHMETIC, *COMPARISONS], Merges()),
    **MERGES,
    "TrueDivide": Merges(lambda layer, xs: xs[0] / xs[1]),
    "Divide": Merges(lambda layer, xs: xs[0] / xs[1]),
    **dict.fromkeys(
        UNARY,
        Carries(constant=lambda layer, x, read: applied(layer, x), refusal=has_arrays),
    ),
    "ZerosLike": Carries(constant=lambda layer, x, read: np.zeros(x.shape), ignores=everything),
    "OnesLike": Carries(constant=lambda layer, x, read: np.ones(x.shape), ignores=everything),
    "DotProductAttention": Scores(heads=True),
    "Glu": Halves(),
    "Softmax": Mixes(),
    "LogSoftmax": Mixes(),
    "Normalize": Mixes(ignores_zeros=True),
    "Concatenate": CONCATENATES,
    "Matmul": Contracts(of_matmul),
    "Einsum": Contracts(of_einsum),
    "Dot": Contracts(of_dot),
    "Tensordot": Contracts(of_tensordot),
    "Sum": Sums(),
    "Reshape": Reshapes(target="newshape"),
    "ExpandDims": Reshapes(),
    "Squeeze": Reshapes(),
    "BroadcastTo": Moves(broadcasted, "shape"),
    "Transpose": Moves(transposed),
    "Swapaxes": Moves(transposed),
    "Moveaxis": Moves(transposed),
    "Flip": Moves(flipped),
    "Roll": Rolls(rolled),
    "Repeat": Repeats(repeated),
    "Tile": Moves(tiled),
    "GetItem": Indexes(indexed),
    "Take": Takes(taken),
    "Split": Splits(split),
    "Unstack": Splits(unstacked),
    "Stack": Joins(stacked),
    **dict.fromkeys(("Cumsum", "Cumprod", "Sort"), Accumulates()),
    **dict.fromkeys(("Tril", "Triu"), Accumulates(triangular)),
    **dict.fromkeys(("AdaptiveAveragePool", "AdaptiveMaxPool"), Carries(mixes_positions=True, constant=unchanged)),
    "AveragePool": Carries(mixes_positions=True, constant=pooled),
    "MaxPool": Carries(mixes_positions=True, constant=pooled),
    **dict.fromkeys(("Mean", "Max", "Min", "Amax", "Amin"), Reduces()),
    **dict.fromkeys(("Var", "Std", "Prod", "Logsumexp", "Any", "All", "Argmax", "Argmin"), Reduces(keeps=False)),
    "Pad": Pads(mixes_positions=True, constant=unchanged, refusal=spatial_padding),
}
"""Rules of the operations of `keras.ops` that are no layers, by the names of their classes."""


def applied(operation: Any, values: np.ndarray) -> np.ndarray:
    """Return an operation of one argument on constants, with NaN, which stands for "not constant", kept."""
    dtype = "float32" if keras.backend.backend() == "jax" else "float64"
    result = keras.ops.convert_to_numpy(operation.call(keras.ops.convert_to_tensor(values, dtype)))
    return np.where(np.isnan(values), np.nan, result.astype("float64"))


def register_rule(layer_class: type, rule: Rule) -> None:
    """Teach the converter what a layer class does to channels.

    Args:
        layer_class: the very class; subclasses need rules of their own, since they may do something else.
        rule: its row of the table.

    Raises:
        ValueError: if the arguments are of other types.

    Example:
        >>> kr.register_rule(MyScale, kr.channels.Carries({"scale": "c"}))
    """
    if not isinstance(layer_class, type) or not isinstance(rule, Rule):
        raise ValueError(f"`register_rule` takes a class and a Rule. Received: {layer_class!r}, {rule!r}")
    RULES[layer_class] = rule


def row_of(layer: Any) -> Rule | Callable[[Any], Rule] | None:
    """Return the row of the table for a layer's very class, or None."""
    return RULES.get(type(layer)) or row_of_keras_hub(type(layer))


def rule_of(layer: Any) -> Rule:
    """Return the rule for a layer or operation.

    Raises:
        NotCovered: if there is none for this very layer; the message says why.
    """
    rule = row_of(layer)
    if rule is None and _graphs.is_raw_operation(layer):
        rule = OPERATIONS.get(type(layer).__name__)
    if rule is None and isinstance(layer, keras.Layer) and is_elementwise_at_inference(layer):
        rule = Carries(constant=at_inference)
    if rule is None:
        reason = f"{type(layer).__name__} is not in the layer table (keras_rmda.channels.register_rule)"
        if isinstance(layer, keras.Layer) and layer in UNTRACEABLE:
            reason += f", and its code cannot be traced: {UNTRACEABLE[layer]}"
        raise NotCovered(reason)
    try:
        rule = rule if isinstance(rule, Rule) else rule(layer)
        rule.check(layer)
    except NotCovered as reason:
        raise NotCovered(f"{type(layer).__name__} with {reason}") from None
    return rule


def axes_of(layer: Any) -> dict[str, str]:
    """Return, for each weight attribute of a layer that the table knows, the letters by which regularizers group it."""
    rule = row_of(layer)
    if rule is None:
        return {}
    try:
        named = (rule if isinstance(rule, Rule) else rule(layer)).groups_by(layer)
    except NotCovered:
        return {}
    return {name: axes for name, axes in named.items() if isinstance(getattr(layer, name, None), keras.Variable)}
