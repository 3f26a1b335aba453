"""The layer table: one row for each layer class and raw operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers as L

from keras_rmda.channels.attention import Attends
from keras_rmda.channels.borders import Resizes, of_pad, of_samples, resized
from keras_rmda.channels.callables import at_inference, is_elementwise_at_inference, of_activation, of_lambda
from keras_rmda.channels.constants import (
    activated,
    applied,
    everything,
    has_zero_gamma,
    normalized,
    only_zero,
    pooled,
    product,
    rescaled,
    scaled,
    unchanged,
)
from keras_rmda.channels.contraction import Contracts
from keras_rmda.channels.convolutions import Separates, convolution, depthwise, overlaps, pads, separable
from keras_rmda.channels.derived import of_derived
from keras_rmda.channels.einsum import WritesEinsum
from keras_rmda.channels.equations import of_batch_dot, of_operation
from keras_rmda.channels.functions import (
    ARITHMETIC,
    COMPARISONS,
    ELEMENTWISE_LAYERS,
    UNARY,
    has_arrays,
)
from keras_rmda.channels.keras_hub import row_of as row_of_keras_hub
from keras_rmda.channels.linear import LooksUp, Reverses, Writes
from keras_rmda.channels.merges import Merges
from keras_rmda.channels.moves import Accumulates, Joins, Moments, Moves, Patches, Reduces, Reshapes
from keras_rmda.channels.noise import Chooses, Draws
from keras_rmda.channels.picks import Halves, Indexes, Repeats, Rolls, Segments, Splits, Spreads, TakesAlong, of_take
from keras_rmda.channels.positions import (
    broadcasted,
    concatenated,
    flattened,
    flipped,
    indexed,
    patched,
    permuted,
    repeated,
    rolled,
    split,
    stacked,
    tiled,
    transposed,
    triangular,
    unstacked,
    vector_repeated,
)
from keras_rmda.channels.recurrent import Recurs
from keras_rmda.channels.rule import Rule
from keras_rmda.channels.scores import Scores
from keras_rmda.channels.simple import Carries, Drops, Mixes
from keras_rmda.channels.slopes import Slopes
from keras_rmda.channels.spectra import Transforms
from keras_rmda.channels.tensors import NotCovered
from keras_rmda.channels.totals import Means, Norms, Sums, of_matrices
from keras_rmda.channels.weights import (
    Adds,
    Counts,
    Fills,
    ForEach,
    Given,
    Holds,
    MoreParts,
    OfNoSample,
    OverAll,
    Parts,
    PositionsAgain,
    Steps,
    StepsAgain,
)
from keras_rmda.channels.wrappers import Distributes, Wraps, normalized_spectrally
from keras_rmda.platform import compat, graphs
from keras_rmda.platform.copying.symbolic import UNTRACEABLE
from keras_rmda.platform.tracing import (
    AddsLosses,
    AsOneSample,
    AtTraining,
    Drawn,
    DroppedOut,
    Exchanged,
    Filled,
    ForEachSample,
    Numbers,
    OverSamples,
    PositionsLike,
    Regrouped,
    SamplesAsSteps,
    StepsAsSamples,
    UpdatesMetric,
    Weight,
    WithoutSamples,
)
from keras_rmda.platform.tracing.derived import Derived
from keras_rmda.platform.tracing.ranges import Count, PaddedUpTo, PositionsUpTo, Range


def one_axis(layer: Any) -> str | None:
    """The batch axis is no channel axis, and several axes have no single one."""
    axis = layer.axis[0] if isinstance(layer.axis, list | tuple) and len(layer.axis) == 1 else layer.axis
    return None if isinstance(axis, int) and axis != 0 else f"axis={layer.axis}"


def of_normalization(layer: Any) -> Rule:
    """Return the rule of a `Normalization`: by channel, or of each number alike with `axis=None`."""
    if layer.axis in (None, ()):
        return Carries({"adapt_mean": "", "adapt_variance": "", "count": ""})
    return Carries(
        {"adapt_mean": "c", "adapt_variance": "c", "count": ""}, arrays=("mean", "variance"), refusal=one_axis
    )


# These layers change each number by itself, or nothing at inference.
SILENT = (
    L.Dropout, L.SpatialDropout1D, L.SpatialDropout2D, L.SpatialDropout3D, L.GaussianDropout,
    L.ActivityRegularization, L.Identity, compat.StochasticDepth,
)  # fmt: skip
NOISY = (L.GaussianNoise, L.AlphaDropout)
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
    L.Normalization: of_normalization,
    compat.LayerScale: Carries({"gamma": "c"}, {"projection_dim": "c"}, constant=scaled, ignores=has_zero_gamma),
    **dict.fromkeys(SILENT, Drops(constant=unchanged)),
    **dict.fromkeys(NOISY, Drops(constant=unchanged, noisy=True)),
    **dict.fromkeys(GLOBAL_POOLING, Carries(mixes_positions=True, constant=unchanged)),
    **dict.fromkeys(POOLING, Carries(mixes_positions=True, constant=pooled)),
    **dict.fromkeys(PADDING, Carries(mixes_positions=True, constant=only_zero)),
    **dict.fromkeys(CROPPING, Carries(mixes_positions=True, constant=unchanged)),
    L.Resizing: Resizes(mixes_positions=True, constant=resized),
    **{getattr(L, name): rule for name, rule in MERGES.items()},
    Weight: Holds(),
    Derived: of_derived,
    ForEachSample: ForEach(),
    WithoutSamples: OfNoSample(),
    AsOneSample: OfNoSample(is_batched=True),
    **dict.fromkeys((AddsLosses, UpdatesMetric), Adds()),
    Drawn: Draws(),
    DroppedOut: Carries(constant=unchanged),
    AtTraining: Chooses(),
    OverSamples: OverAll(),
    StepsAsSamples: Steps(),
    SamplesAsSteps: StepsAgain(),
    Numbers: Given(),
    Filled: Fills(),
    **dict.fromkeys((Range, Count), Counts()),
    PositionsUpTo: Parts(),
    PaddedUpTo: MoreParts(),
    PositionsLike: PositionsAgain(),
    compat.CustomScaleLayer: Merges(lambda layer, xs: xs[0] + xs[1] * layer.scale),
    L.Concatenate: CONCATENATES,
    L.Dot: Contracts(of_batch_dot, refusal=lambda layer: "normalize=True" if layer.normalize else None),
    L.Flatten: Moves(flattened),
    **dict.fromkeys((L.Reshape, Regrouped, Exchanged), Reshapes(target="target_shape")),
    L.Permute: Moves(permuted),
    L.RepeatVector: Moves(vector_repeated),
}
RULES[L.TimeDistributed] = Distributes(lambda layer: rule_of(layer))
# At inference the layer inside runs as it is: training has divided its kernel already.
RULES[L.SpectralNormalization] = Wraps(lambda layer: rule_of(layer), normalized_spectrally)
if hasattr(L, "ReversibleEmbedding"):  # Keras 3.13
    RULES[L.ReversibleEmbedding] = Reverses()
if hasattr(L, "RMSNormalization"):  # Keras 3.9
    RULES[L.RMSNormalization] = Mixes({"scale": "c"})
for name in (f"Adaptive{kind}Pooling{n}D" for kind in ("Average", "Max") for n in (1, 2, 3)):
    if hasattr(L, name):  # Keras 3.13
        RULES[getattr(L, name)] = Carries(mixes_positions=True, constant=unchanged)

OPERATIONS: dict[str, Rule | Callable[[Any], Rule]] = {
    **dict.fromkeys(COMPARISONS, Merges()),
    **dict.fromkeys(ARITHMETIC, Merges(lambda layer, xs: applied(layer, *xs))),
    **{name: rule for name, rule in MERGES.items() if name != "Average"},  # `ops.average` is a weighted mean
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
    **dict.fromkeys(("Matmul", "Einsum", "Dot", "Tensordot"), Contracts(of_operation)),
    "Sum": Sums(),
    "Norm": Norms(refusal=of_matrices),
    "Reshape": Reshapes(target="newshape"),
    "ExpandDims": Reshapes(),
    "Squeeze": Reshapes(),
    "BroadcastTo": Spreads(Moves(broadcasted, "shape"), "shape").rule,
    "Transpose": Moves(transposed),
    "Swapaxes": Moves(transposed),
    "Moveaxis": Moves(transposed),
    "Flip": Moves(flipped),
    "Roll": Rolls(rolled),
    "Repeat": Spreads(Repeats(repeated), "repeats").rule,
    "Tile": Spreads(Moves(tiled), "repeats").rule,
    "GetItem": Indexes(indexed),
    "Take": of_take,
    "SegmentSum": Segments(),
    "TakeAlongAxis": TakesAlong(),
    "Split": Splits(split),
    "Unstack": Splits(unstacked),
    "Stack": Joins(stacked),
    **dict.fromkeys(("Cumsum", "Cumprod", "Sort"), Accumulates()),
    **dict.fromkeys(("Tril", "Triu"), Accumulates(triangular)),
    **dict.fromkeys(("AdaptiveAveragePool", "AdaptiveMaxPool"), Carries(mixes_positions=True, constant=unchanged)),
    "AveragePool": Carries(mixes_positions=True, constant=pooled),
    "MaxPool": Carries(mixes_positions=True, constant=pooled),
    **dict.fromkeys(("FFT", "IFFT", "RFFT", "IRFFT"), Transforms()),
    **dict.fromkeys(("FFT2", "IFFT2"), Transforms(axes=2)),
    "Mean": Means(),
    **dict.fromkeys(("Max", "Min", "Amax", "Amin"), Reduces()),
    **dict.fromkeys(("Var", "Std", "Prod", "Logsumexp", "Any", "All", "Argmax", "Argmin"), Reduces(keeps=False)),
    "Moments": Moments(),
    "Resize": Carries(mixes_positions=True, constant=resized, refusal=of_samples),
    "PadImages": Carries(mixes_positions=True, constant=only_zero, refusal=of_samples),
    "CropImages": Carries(mixes_positions=True, constant=unchanged, refusal=of_samples),
    "ExtractPatches": Patches(patched),
    "Pad": of_pad,
}
"""Rules of the operations of `keras.ops` that are no layers, by the names of their classes."""


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
    if rule is None and graphs.is_raw_operation(layer):
        rule = OPERATIONS.get(type(layer).__name__)
    if rule is None and isinstance(layer, keras.Layer) and is_elementwise_at_inference(layer):
        rule = Carries(constant=at_inference, noisy=True)
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
