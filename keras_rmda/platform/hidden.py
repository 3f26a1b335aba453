"""Masks that Keras hides in tensors: found, and made arguments of calls, so that graphs say what is masked."""

from __future__ import annotations

import inspect
from typing import Any

import keras


def mask_of(x: Any) -> Any:
    """Return the mask that a tensor carries, or None."""
    return getattr(x, "_keras_mask", None)


def carry(x: Any, mask: Any) -> None:
    """Let a tensor carry a mask."""
    if mask is not None and x is not None:
        x._keras_mask = mask


def carried_by(structure: Any) -> list:
    """Return the masks that the symbolic tensors in a nested structure carry, None for those without."""
    return [mask_of(x) for x in keras.tree.flatten(structure) if isinstance(x, keras.KerasTensor)]


def with_masks(layer: Any, arguments: tuple, keyword_arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of a call, with the masks that Keras takes from the tensors when it calls a layer.

    That is `mask` where one argument has tensors, and else `x_mask` for an argument `x`.
    """
    if not isinstance(layer, keras.Layer) or not any(m is not None for m in carried_by((arguments, keyword_arguments))):
        return keyword_arguments
    names = inspect.signature(layer.call).parameters
    given = dict(zip(names, arguments)) | keyword_arguments
    tensors = {key: x for key, x in given.items() if _is_tensors(x)}
    wanted = {"mask" if len(tensors) == 1 else f"{key}_mask": x for key, x in tensors.items()}
    masks = {key: keras.tree.map_structure(mask_of, x) for key, x in wanted.items() if key in names}
    new = {key: m for key, m in masks.items() if given.get(key) is None and any(_found(m))}
    return keyword_arguments | new


def _is_tensors(x: Any) -> bool:
    """Return whether an argument is a symbolic tensor, or consists of such."""
    found = keras.tree.flatten(x)
    return bool(found) and all(isinstance(each, keras.KerasTensor) for each in found)


def _found(masks: Any) -> list[bool]:
    return [each is not None for each in keras.tree.flatten(masks)]


def masks_behind(layer: keras.Layer, arguments: tuple, keyword_arguments: dict[str, Any], count: int) -> list:
    """Return the masks that the outputs of a layer carry, whose code is called on symbolic tensors.

    Args:
        layer: the layer.
        arguments: of the call.
        keyword_arguments: likewise, with the masks of `with_masks`.
        count: how many outputs there are.
    """
    if not layer.supports_masking:
        return [None] * count
    first = arguments[0] if arguments else next(iter(keyword_arguments.values()), None)
    before = keyword_arguments.get("mask")
    before = keras.tree.map_structure(mask_of, first) if before is None else before
    masks = layer.compute_mask(first, before)
    found = masks if isinstance(masks, list | tuple) else [masks]
    return [*found, *[None] * count][:count]
