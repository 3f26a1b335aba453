"""Inputs for the quantizer and for the check of a file, in whatever form they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_rmda.platform import ends
from keras_rmda.platform.arrays import spread

SAMPLES = 200
"""How many samples are used, at most: of arrays and PyDatasets evenly spread, since data are often sorted."""

FORMS = (
    "`representative_data` must be an array, a list or dict of arrays, one for each input; a list of samples; a "
    "tf.data.Dataset, a PyDataset, a generator or a callable that makes one, of batches or samples."
)

WHOLE, PARTS = (1,), (1, 0)
"""How many axes may stand before those of one sample, in all samples at once, or in parts of them."""


def representative_samples(model: keras.Model, data: Any) -> Iterator[dict[str, np.ndarray]]:
    """Yield inputs of one sample each, by name.

    Raises:
        ValueError: if names, numbers or shapes do not fit the model, or there is no sample.
    """
    count = 0
    items, axes = _items(model, data)
    for item in items:
        arrays = _with_samples(model, _in_order(model, item), axes)
        lengths = sorted({len(array) for array in arrays})
        if len(lengths) > 1:
            raise ValueError(f"`representative_data` has inputs of different lengths. Received: {lengths}")
        for k in spread(range(lengths[0]), SAMPLES) if axes == WHOLE else range(lengths[0]):
            count += 1
            yield {
                t.name: array[k : k + 1].astype(keras.backend.standardize_dtype(t.dtype))
                for array, t in zip(arrays, model.inputs)
            }
    if not count:
        raise ValueError("`representative_data` has no samples.")


def check_numbers(model: Any) -> None:
    """Raise `ValueError` if a model takes strings, which no file of numbers does."""
    for tensor in getattr(model, "inputs", None) or []:
        if str(getattr(tensor.dtype, "name", tensor.dtype)) == "string":
            raise ValueError(
                f"The model {model.name!r} takes strings as {tensor.name!r}, and the file numbers only: leave the "
                "layer that makes numbers of them, such as TextVectorization or StringLookup, outside, and give the "
                "model behind it."
            )


def check_batches(model: Any) -> None:
    """Raise `ValueError` if the inputs of a model have batches of different sizes: a file takes samples of all."""
    sizes = [t.shape[0] for t in model.inputs if len(t.shape) and t.shape[0] is not None]
    if len(set(sizes)) > 1:
        shapes = ", ".join(f"keras.Input({tuple(t.shape)})" for t in model.inputs)
        raise ValueError(
            f"The inputs {[t.name for t in model.inputs]} of the model {model.name!r} take {sizes} samples at once, "
            f"and a file as many of each. Give all an axis of samples in front of these: {shapes}."
        )


def first_samples(model: keras.Model, data: Any) -> list[dict[str, np.ndarray]]:
    """Return 200 samples at most."""
    return [sample for _, sample in zip(range(SAMPLES), representative_samples(model, data))]


def _items(model: keras.Model, data: Any) -> tuple[Iterable, tuple[int, ...]]:
    """Return the parts of data that hold inputs, and how many axes they may have before those of one sample."""
    if isinstance(data, (Mapping, np.ndarray)):
        return [data], WHOLE
    if isinstance(data, (list, tuple)):
        return (data, PARTS) if _are_parts(model, data) else ([data], WHOLE)
    if isinstance(data, keras.utils.PyDataset):
        return (data[k] for k in _batches(data)), PARTS
    if isinstance(data, Callable) and not hasattr(data, "element_spec"):
        return _items(model, data())
    if isinstance(data, Iterator) or hasattr(data, "element_spec"):
        return data, PARTS
    if hasattr(data, "__array__"):
        return [np.asarray(data)], WHOLE
    if isinstance(data, Iterable) and not isinstance(data, (str, bytes)):  # a loader of another library
        return data, PARTS
    raise ValueError(f"{FORMS} Received: {type(data).__name__}")


def _batches(data: keras.utils.PyDataset) -> list[int]:
    """Return the numbers of the batches to ask a PyDataset for: first as many as are needed, from everywhere.

    Those without an end have more than enough.
    """
    count = SAMPLES if data.num_batches is None else data.num_batches
    needed = -(-SAMPLES // max(1, len(keras.tree.flatten(data[0])[0]))) if count else 0
    chosen = spread(range(count), needed)
    return [*chosen, *sorted({*range(count)} - {*chosen})]


def _are_parts(model: keras.Model, items: list | tuple) -> bool:
    """Return whether a list holds samples or batches one after the other, not one array for each input."""
    are_nested = [isinstance(item, (Mapping, list, tuple)) for item in items]
    if any(are_nested):
        return all(are_nested) or not are_nested[0]  # else (inputs, targets)
    if len(items) == len(model.inputs) and all(_fits(np.shape(x), t, 1) for x, t in zip(items, model.inputs)):
        return False
    if len(model.inputs) != 1:
        return False
    are_as_many = isinstance(items, tuple) and len(items) in (2, 3) and len({np.shape(x)[:1] for x in items}) == 1
    if are_as_many and _fits(np.shape(items[0]), model.inputs[0], 1):
        return False  # (inputs, targets), which may have the same shape
    return all(any(_fits(np.shape(x), model.inputs[0], k) for k in (0, 1)) for x in items)


def _fits(shape: tuple, tensor: Any, axes: int) -> bool:
    """Return whether a shape is that of a sample behind some axes."""
    expected = tuple(tensor.shape[1:])
    return len(shape) == len(expected) + axes and all(n in (None, m) for n, m in zip(expected, shape[axes:]))


def _column(array: np.ndarray, tensor: Any) -> np.ndarray:
    """Return an array with the last axis of one number that it lacks, as `fit` takes columns of a table."""
    lacks = tensor.shape[-1:] == (1,) and array.shape[-1:] != (1,) and array.ndim < len(tensor.shape)
    return array[..., None] if lacks else array


def _in_order(model: keras.Model, item: Any) -> list[np.ndarray]:
    """Return the arrays of a part in the order of the inputs, without targets and weights of samples."""
    names = [tensor.name for tensor in model.inputs]
    if (
        isinstance(item, (list, tuple))
        and 1 < len(item) <= 3
        and (isinstance(item[0], (Mapping, list, tuple)) or len(item) != len(names))
    ):
        item = item[0]  # (inputs, targets) or (inputs, targets, weights of samples)
    if isinstance(item, Mapping):
        own = ends.names_of_inputs(model)
        names = own if own is not None and all(name in item for name in own) else names
        missing = [name for name in names if name not in item]
        if missing:
            raise ValueError(
                f"`representative_data` must have the inputs {names}; {missing} are missing. "
                f"Received: {sorted(map(str, item))}"
            )
        item = [item[name] for name in names]
    elif not isinstance(item, (list, tuple)):
        item = [item]
    if len(item) != len(names):
        raise ValueError(f"`representative_data` must have {len(names)} inputs, {names}. Received: {len(item)}")
    return [_numbers(array, name) for array, name in zip(item, names)]


def _numbers(array: Any, name: str) -> np.ndarray:
    try:
        array = np.asarray(array)
    except Exception as error:  # what has no numbers raises many types
        raise ValueError(f"{FORMS} Received for the input {name!r}: {type(array).__name__}") from error
    if array.dtype.name == "bfloat16":  # which NumPy takes for none of its own
        array = array.astype("float32")
    if array.dtype.kind not in "fiub":
        raise ValueError(f"`representative_data` must be numbers. Received for the input {name!r}: {array.dtype}")
    if not np.isfinite(array).all():
        what = "NaN" if np.isnan(array).any() else "infinite numbers"
        raise ValueError(
            f"`representative_data` must be finite: leave out the samples that are not. Received for the input "
            f"{name!r}: {what} in {int((~np.isfinite(array)).sum())} of {array.size} numbers"
        )
    return array


def _with_samples(model: keras.Model, arrays: list[np.ndarray], axes: tuple[int, ...]) -> list[np.ndarray]:
    """Return arrays with samples first; `axes` are how many may stand before those of one sample."""
    for given in (arrays, [_column(array, tensor) for array, tensor in zip(arrays, model.inputs)]):
        for count in axes:
            if all(_fits(array.shape, tensor, count) for array, tensor in zip(given, model.inputs)):
                return given if count else [array[None] for array in given]
    array, tensor = next((x, t) for x, t in zip(arrays, model.inputs) if not _fits(x.shape, t, 1))
    shape = ", ".join(map(str, tensor.shape[1:]))
    raise ValueError(
        f"`representative_data` for the input {tensor.name!r} must have shape (samples, {shape})"
        f"{f', or ({shape}) for one sample' if 0 in axes else ''}. Received: shape={array.shape}"
    )
