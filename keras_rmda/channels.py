"""The layer table: what each layer does to channels. All per-layer knowledge of the converter is here.

Channel ids and constants travel as arrays without the batch axis, of size 1 along every axis on which they do
not change: behind a convolution of C filters an image has ids of shape (1, 1, C).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import keras
import numpy as np
from keras import layers as L
from keras import ops

from keras_rmda import _compat

Read = Callable[[Any], np.ndarray]
"""Returns the value of a variable."""

Shape = tuple[int | None, ...]
"""A tensor's shape without the batch axis; None where it is open."""


@dataclass(frozen=True)
class Rule:
    """What one layer class does to channels.

    Args:
        kind: how output channels follow from input channels.
            `"writes"`: new channels, each a linear function of the input channels, then an activation;
            `"carries"`: the same channels, each changed by itself;
            `"merges"`: channel k of the output is made from channels k of all inputs;
            `"moves"`: the same numbers in another arrangement;
            `"opaque"`: not known; everything that touches it stays as it is.
        weights: for each weight attribute one letter per axis: "i" reads the input channels, "o" writes the output
            channels, "c" goes along with the channels, "m" counts several outputs of one channel, "." is none of
            these. A layer that "writes" has a `kernel`. Regularizers find their groups by these letters.
        width: the configuration key that holds the number of output channels.
        mixes_positions: whether an output position depends on several input positions.
        constant: for "carries", (layer, values, read) -> values: the outputs for constant inputs, NaN where an
            input is not constant; for "merges", (values, values) -> values.
        move: for "moves", (layer, arrays, shapes, shape) -> array, or None where an axis that matters is open.
        refusal: (layer) -> the reason why this rule does not cover this very layer, or None.

    Example:
        >>> kr.register_rule(MyScale, kr.Rule("carries", weights={"scale": "c"}))
    """

    kind: Literal["writes", "carries", "merges", "moves", "opaque"]
    weights: Mapping[str, str] = field(default_factory=dict)
    width: str | None = None
    mixes_positions: bool = False
    constant: Callable | None = None
    move: Callable | None = None
    refusal: Callable[[Any], str | None] = lambda layer: None

    def __post_init__(self) -> None:
        axes = self.weights.get("kernel", "")
        if self.kind not in ("writes", "carries", "merges", "moves", "opaque"):
            raise ValueError(f"Unknown kind of rule. Received: kind={self.kind!r}")
        if self.kind == "writes" and (axes.count("i"), axes.count("o")) != (1, 1):
            raise ValueError(
                f'A rule that "writes" needs a kernel with one "i" and one "o". Received: {self.weights!r}'
            )
        if self.kind == "moves" and self.move is None:
            raise ValueError('A rule that "moves" needs a function `move`. Received: move=None')
        if not all(set(letters) <= set("iocm.") for letters in self.weights.values()):
            raise ValueError(f'The letters of `weights` are "i", "o", "c", "m" and ".". Received: {self.weights!r}')


OPAQUE = Rule("opaque")

ELEMENTWISE = frozenset([
    "linear", "relu", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu", "silu", "mish", "sigmoid", "hard_sigmoid",
    "log_sigmoid", "sparse_sigmoid", "hard_silu", "tanh", "hard_tanh", "tanh_shrink", "hard_shrink", "soft_shrink",
    "threshold", "softplus", "sparse_plus", "squareplus", "softsign", "exponential",
])  # fmt: skip
"""Names of the Keras activations that look at each number by itself."""


def is_elementwise(activation: Callable | None) -> bool:
    """Return whether an activation is known to look at each number by itself."""
    name = getattr(activation, "__name__", "")
    return activation is None or (name in ELEMENTWISE and getattr(keras.activations, name, None) is activation)


def evaluate(layer: Any, function: Callable, values: np.ndarray) -> np.ndarray:
    """Return `function(values)`, computed as `layer` would, with NaN, which stands for "not constant", kept."""
    dtype = "float64" if layer.compute_dtype == "float64" else "float32"
    result = ops.convert_to_numpy(function(ops.convert_to_tensor(values, dtype=dtype))).astype("float64")
    return np.where(np.isnan(values), np.nan, result)


def channel_axis(layer: Any, rank: int) -> int:
    """Return the layer's channel axis among the `rank` axes without the batch axis."""
    axis = getattr(layer, "axis", None)
    if isinstance(axis, int):
        return axis - 1 if axis > 0 else rank + axis
    return 0 if getattr(layer, "data_format", None) == "channels_first" else rank - 1


def pads(layer: Any) -> bool:
    """Return whether a convolution sees zeros beyond the border, so that a constant input is none at the border."""
    return getattr(layer, "padding", "valid") != "valid" and any(size > 1 for size in layer.kernel_size)


# ---- constants through carriers


def unchanged(layer: Any, values: np.ndarray, read: Read) -> np.ndarray:
    """A constant stays what it is."""
    return values


def only_zero(layer: Any, values: np.ndarray, read: Read) -> np.ndarray:
    """A zero stays zero; another constant is none at the border."""
    return np.where(values == 0, 0.0, np.nan)


def normalized(layer: Any, values: np.ndarray, read: Read) -> np.ndarray:
    """Batch normalization at inference: gamma (x - mean) / sqrt(variance + epsilon) + beta."""
    mean, variance = (read(v).astype("float64") for v in (layer.moving_mean, layer.moving_variance))
    gamma = read(layer.gamma).astype("float64") if layer.scale else np.ones_like(mean)
    beta = read(layer.beta).astype("float64") if layer.center else np.zeros_like(mean)
    shape = [1] * values.ndim
    shape[channel_axis(layer, values.ndim)] = -1
    factor = (gamma / np.sqrt(variance + layer.epsilon)).reshape(shape)
    shifted = (values - mean.reshape(shape)) * factor + beta.reshape(shape)
    return np.where(factor == 0, beta.reshape(shape), shifted)


def pooled(layer: Any, values: np.ndarray, read: Read) -> np.ndarray:
    """A mean or maximum of equal numbers; whether `same` padding counts depends on the backend."""
    return values if layer.padding == "valid" else only_zero(layer, values, read)


# ---- movements, of ids and constants alike


def concatenated(layer: Any, arrays: list, shapes: list[Shape], shape: Shape) -> np.ndarray | None:
    """Concatenate along the layer's axis, each array expanded along it."""
    axis = channel_axis(layer, len(shape))
    if shape[axis] is None:
        return None
    common = np.broadcast_shapes(*([1 if k == axis else n for k, n in enumerate(a.shape)] for a in arrays))
    expanded = []
    for array, real in zip(arrays, shapes):
        target = list(common)
        target[axis] = real[axis]
        expanded.append(np.broadcast_to(array, target))
    return np.concatenate(expanded, axis=axis)


def flattened(layer: Any, arrays: list, shapes: list[Shape], shape: Shape) -> np.ndarray | None:
    """Expand to the real shape and flatten, channels last, as Keras does."""
    if None in shape:
        return None
    array = np.broadcast_to(arrays[0], shapes[0])
    if layer.data_format == "channels_first" and array.ndim > 1:
        array = np.moveaxis(array, 0, -1)
    return array.reshape(-1)


# ---- reasons not to apply a rule


def no_groups(layer: Any) -> str | None:
    """Grouped convolutions are not covered."""
    return f"groups={layer.groups}" if layer.groups > 1 else None


def one_axis(layer: Any) -> str | None:
    """The batch axis is no channel axis, and several axes have no single one."""
    return None if isinstance(layer.axis, int) and layer.axis != 0 else f"axis={layer.axis}"


# ---- the table

# These layers and argument-free activations change each number by itself, or nothing at inference.
SILENT = (
    L.Dropout, L.SpatialDropout1D, L.SpatialDropout2D, L.SpatialDropout3D, L.GaussianNoise, L.GaussianDropout,
    L.AlphaDropout, L.ActivityRegularization, L.Identity, _compat.Cast,
)  # fmt: skip
ACTIVATIONS = (L.ReLU, L.LeakyReLU, L.ELU)
GLOBAL_POOLING = (
    L.GlobalAveragePooling1D, L.GlobalAveragePooling2D, L.GlobalAveragePooling3D,
    L.GlobalMaxPooling1D, L.GlobalMaxPooling2D, L.GlobalMaxPooling3D,
)  # fmt: skip
POOLING = (
    L.AveragePooling1D, L.AveragePooling2D, L.AveragePooling3D, L.MaxPooling1D, L.MaxPooling2D, L.MaxPooling3D,
)  # fmt: skip
PADDING = (L.ZeroPadding1D, L.ZeroPadding2D, L.ZeroPadding3D)
NORMALIZATION = {"gamma": "c", "beta": "c", "moving_mean": "c", "moving_variance": "c"}

RULES: dict[type, Rule] = {
    L.Dense: Rule("writes", {"kernel": "io", "bias": "o"}, "units"),
    **{
        layer: Rule(
            "writes", {"kernel": "." * n + "io", "bias": "o"}, "filters", mixes_positions=True, refusal=no_groups
        )
        for n, layer in enumerate((L.Conv1D, L.Conv2D, L.Conv3D), start=1)
    },
    L.BatchNormalization: Rule("carries", NORMALIZATION, constant=normalized, refusal=one_axis),
    L.Activation: Rule("carries", constant=lambda layer, x, read: evaluate(layer, layer.activation, x)),
    **dict.fromkeys(ACTIVATIONS, Rule("carries", constant=lambda layer, x, read: evaluate(layer, layer.call, x))),
    **dict.fromkeys(SILENT, Rule("carries", constant=unchanged)),
    **dict.fromkeys(GLOBAL_POOLING, Rule("carries", mixes_positions=True, constant=unchanged)),
    **dict.fromkeys(POOLING, Rule("carries", mixes_positions=True, constant=pooled)),
    **dict.fromkeys(PADDING, Rule("carries", mixes_positions=True, constant=only_zero)),
    L.Add: Rule("merges", constant=np.add),
    L.Concatenate: Rule("moves", move=concatenated, refusal=one_axis),
    L.Flatten: Rule("moves", move=flattened),
    # The converter keeps these as they are; regularizers know their axes.
    **{
        layer: Rule("opaque", {"kernel": "." * n + "oi", "bias": "o"})
        for n, layer in enumerate((L.Conv1DTranspose, L.Conv2DTranspose, L.Conv3DTranspose), start=1)
    },
    **{
        layer: Rule("opaque", {"kernel": "." * n + "cm"})
        for n, layer in enumerate((L.DepthwiseConv1D, L.DepthwiseConv2D), start=1)
    },
    **{
        layer: Rule("opaque", {"depthwise_kernel": "." * n + "cm", "pointwise_kernel": "." * n + "io", "bias": "o"})
        for n, layer in enumerate((L.SeparableConv1D, L.SeparableConv2D), start=1)
    },
}


def register_rule(layer_class: type, rule: Rule) -> None:
    """Teach the converter what a layer class does to channels.

    Args:
        layer_class: the very class; subclasses need rules of their own, since they may do something else.
        rule: its row of the table.

    Raises:
        ValueError: if the arguments are of other types.
    """
    if not isinstance(layer_class, type) or not isinstance(rule, Rule):
        raise ValueError(f"`register_rule` takes a class and a Rule. Received: {layer_class!r}, {rule!r}")
    RULES[layer_class] = rule


def rule_of(layer: Any) -> tuple[Rule, str]:
    """Return the rule for a layer, and why it is opaque ("" where it is not)."""
    rule = RULES.get(type(layer))
    if rule is None:
        return OPAQUE, f"{type(layer).__name__} is not in the layer table (keras_rmda.channels.register_rule)"
    if rule.kind == "opaque":
        return OPAQUE, f"{type(layer).__name__} is kept as it is (keras_rmda.channels.register_rule)"
    refusal = rule.refusal(layer)
    known = {id(getattr(layer, name, None)) for name in rule.weights}
    strange = [weight.path for weight in getattr(layer, "weights", []) if id(weight) not in known]
    if refusal is None and strange:
        refusal = f"weights that its rule does not name: {', '.join(strange)}"
    if refusal is None and rule.kind == "carries" and not is_elementwise(getattr(layer, "activation", None)):
        refusal = f"activation {getattr(layer.activation, '__name__', layer.activation)!r} mixes channels"
    return (rule, "") if refusal is None else (OPAQUE, f"{type(layer).__name__} with {refusal}")


def axes_of(layer: Any) -> dict[str, str]:
    """Return, for each weight attribute of a layer that the table knows, the letters of its axes."""
    if type(layer) is L.EinsumDense:
        inputs, kernel, outputs = re.split(",|->", layer.equation)
        letter = {(True, False): "i", (False, True): "o", (True, True): "c"}
        return {"kernel": "".join(letter[k in inputs, k in outputs] for k in kernel)}
    return dict(RULES[type(layer)].weights) if type(layer) in RULES else {}
