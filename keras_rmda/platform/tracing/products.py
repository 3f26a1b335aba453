"""Products of tensors with weights of a user's layer, as layers of Keras that hold the very weight."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers as L

from keras_rmda.platform.tracing.leaves import held
from keras_rmda.platform.tracing.programs import Untraceable

PRODUCTS = frozenset([
    "Matmul", "Dot", "Tensordot", "Einsum", "Conv", "DepthwiseConv", "ConvTranspose", "Take",
    "LayerNorm", "LayerNormalization", "RMSNorm", "RMSNormalization",
])  # fmt: skip
"""Operations of a tensor and weights for which there is a layer of Keras."""


def product(
    operation: Any, arguments: tuple, x: keras.KerasTensor, is_transposed: bool, name: str, policy: Any
) -> keras.Layer:
    """Return a layer that does to a tensor what an operation does with it and weights.

    Args:
        operation: one of `PRODUCTS`.
        arguments: of its call, with variables where they are weights.
        x: the tensor among them.
        is_transposed: whether the operation is with the transpose of the weight.
        name: of the layer.
        policy: the dtype policy of the layer.

    Raises:
        Untraceable: if no layer of Keras does this.
    """
    kind, common = type(operation).__name__, {"name": name, "dtype": policy}
    why = Untraceable(f"it uses a weight of its own in `ops.{kind.lower()}`, in a way that no layer of Keras has")
    if "Norm" in kind:
        return normalization(operation, arguments, x, common, why)
    operands = [each for each in keras.tree.flatten(arguments) if each is x or isinstance(each, keras.Variable)]
    if len(operands) != 2:
        raise why
    is_left = operands[1] is x
    weight = operands[0 if is_left else 1]
    shape, rank = tuple(weight.shape), len(x.shape)
    if kind == "Take":
        if not is_left or operation.axis != 0 or len(shape) != 2:
            raise why
        return held(L.Embedding(*shape, **common), x.shape, embeddings=weight)
    if kind == "Einsum":
        layer = einsum(operation.subscripts.replace(" ", ""), is_left, x, shape, common, why)
    elif kind == "Matmul" and (is_left or is_transposed):
        equation = of_product(rank, len(shape), is_left, is_transposed, why)
        layer = einsum(equation, False, x, shape, common, why)
    elif len(shape) == 2 and not is_left and (kind in ("Matmul", "Dot") or is_plain_tensordot(operation, rank)):
        layer = L.Dense(shape[1], use_bias=False, **common)
    elif kind in ("Conv", "DepthwiseConv", "ConvTranspose") and not is_left and 3 <= rank <= 5:
        layer = convolution(operation, x, shape, common, why)
    else:
        raise why
    return held(layer, x.shape, kernel=weight)


def contraction(equation: str, x: keras.KerasTensor, weight: keras.Variable, name: str, policy: Any) -> keras.Layer:
    """Return the layer of an einsum of a tensor with the samples in front and a weight; arguments as of `product`."""
    why = Untraceable("it uses a weight of its own in a product that no layer of Keras has")
    layer = einsum(equation, False, x, tuple(weight.shape), {"name": name, "dtype": policy}, why)
    return held(layer, x.shape, kernel=weight)


def of_product(rank: int, weight_rank: int, is_left: bool, is_transposed: bool, why: Exception) -> str:
    """Return the equation of W x, or x W, for a matrix W or its transpose."""
    if weight_rank != 2 or rank < (3 if is_left else 2):
        raise why
    batch = "abcdef"[: rank - (2 if is_left else 1)]
    before, after = (f"{batch}yz", f"{batch}xz") if is_left else (f"{batch}y", f"{batch}x")
    return f"{before},{'xy' if is_left != is_transposed else 'yx'}->{after}"


def is_plain_tensordot(operation: Any, rank: int) -> bool:
    """Return whether an operation is a product of the last axis with the first of a matrix."""
    axes = getattr(operation, "axes", None)
    if isinstance(axes, list | tuple):
        axes = [int(*keras.tree.flatten(each)) if len(keras.tree.flatten(each)) == 1 else None for each in axes]
    return axes in (1, [-1, 0], [rank - 1, 0])


def einsum(equation: str, is_left: bool, x: Any, shape: tuple, common: dict, why: Exception) -> keras.Layer:
    """Return the layer of an einsum of a tensor and a weight."""
    inputs, arrow, output = equation.partition("->")
    letters = inputs.split(",")[::-1] if is_left else inputs.split(",")
    if not arrow or "." in equation or letters[0][0] != output[0] or (None in x.shape and x.shape[0] is not None):
        raise why  # the samples are not in front
    if not set(letters[0]) & set(letters[1]) - set(output) or not set(letters[1]) & set(output) - set(letters[0]):
        raise why  # it reads no channels, or writes none
    known = dict(zip(letters[1], shape)) | dict(zip(letters[0], x.shape))
    return L.EinsumDense(f"{letters[0]},{letters[1]}->{output}", [known[letter] for letter in output[1:]], **common)


def convolution(operation: Any, x: Any, shape: tuple, common: dict, why: Exception) -> keras.Layer:
    """Return the convolution of a tensor with a weight."""
    kind, rank = type(operation).__name__, len(x.shape) - 2
    size, data_format = shape[:rank], operation.data_format or keras.config.image_data_format()
    settings = {name: getattr(operation, name) for name in ("strides", "padding", "dilation_rate")}
    common = common | settings | {"kernel_size": size, "data_format": data_format, "use_bias": False}
    if operation.padding not in ("same", "valid"):
        raise why
    if kind == "Conv":
        channels = x.shape[1 if data_format == "channels_first" else -1]
        return getattr(L, f"Conv{rank}D")(shape[-1], groups=channels // shape[-2], **common)
    if kind == "DepthwiseConv" and rank < 3:
        return getattr(L, f"DepthwiseConv{rank}D")(depth_multiplier=shape[-1], **common)
    if kind == "ConvTranspose" and operation.output_padding is None:
        return getattr(L, f"Conv{rank}DTranspose")(shape[-2], **common)
    raise why


def normalization(operation: Any, arguments: tuple, x: Any, common: dict, why: Exception) -> keras.Layer:
    """Return the normalization over the last axis."""
    (first, *positional), named = arguments
    axes = list(operation.axis) if isinstance(operation.axis, list | tuple) else [operation.axis]
    is_rms = "RMS" in type(operation).__name__
    names = ["scale"] if is_rms else ["gamma", "beta"]
    weights = {key: w for key, w in (dict(zip(names, positional)) | named).items() if w is not None}
    if axes not in ([-1], [len(x.shape) - 1]) or first is not x or not set(weights) <= set(names):
        raise why
    common = common | {"epsilon": operation.epsilon or keras.config.epsilon()}
    if is_rms and hasattr(L, "RMSNormalization"):
        layer = L.RMSNormalization(**common)
    elif is_rms or getattr(operation, "rms_scaling", False):
        raise why
    else:
        layer = L.LayerNormalization(center="beta" in weights, scale="gamma" in weights, **common)
    return held(layer, x.shape, **weights)
