"""Start Bregman training from sparse weights."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.optimizers.assignment import axes_of_weights, is_kernel
from keras_rmda.platform import checks
from keras_rmda.regularizers import L1, GroupLasso, ProximalRegularizer, Tensor, as_type_of


def sparsify(
    model: keras.Model,
    density: float,
    by: str = "weight",
    groups: str | int = "input",
    seed: int | None = None,
) -> None:
    """Zero a random part of every kernel of a model, in place: the sparse start of Bregman training.

    Formula: w <- m * w * sqrt(n / k) with a random mask m of zeros and ones that keeps k of the n weights, or of the
    n groups of weights, k = max(1, round(density * n)). The factor keeps the variance of what the layer computes.

    Kernels are what the optimizers of this package penalize by default: no biases, scales and embeddings. Call it
    before training, once: every call takes its share of what is left.

    Args:
        model: a built model. Only its trainable kernels change.
        density: share of the weights or groups that stays, in (0, 1].
        by: `"weight"` for single weights, `"group"` for whole groups.
        groups: what forms one group, as in `GroupLasso`: `"input"`, `"output"`, `"kernel"`, named by the layer table
            where it knows the layer, or an axis. Only for `by="group"`.
        seed: an integer that determines the masks; None to draw it from the generator of
            `keras.utils.set_random_seed`.

    Returns:
        None.

    Raises:
        ValueError: for an argument out of range, if the model is not built or has no trainable kernel, and, naming
            the variable, if a kernel has no axis of this name. Then no weight is changed.

    Example:
        >>> kr.sparsify(model, 0.1, by="group", groups="output")  # one filter or neuron in ten stays

    Source: Bungert et al. 2022, "A Bregman learning framework for sparse neural networks", arXiv:2105.04319.
    """
    density, psi = _checked(density, by, groups, seed)
    axes = axes_of_weights(_checked_model(model))
    kernels = [variable for variable in model.trainable_variables if is_kernel(variable)]
    if not kernels:
        raise ValueError(
            f"The model {model.name!r} has no trainable kernel, so that there is nothing to make sparse. "
            "Set `trainable` of its layers, or leave it as it is."
        )
    bound = [psi.along(axes[id(kernel)]) if id(kernel) in axes else psi for kernel in kernels]
    for kernel, each in zip(kernels, bound):
        _check_shape(each, tuple(kernel.shape), kernel.path)
    random = np.random.default_rng(_drawn(seed))
    for kernel, each in zip(kernels, bound):
        kernel.assign(thinned(ops.convert_to_tensor(kernel), density, each, random))


@keras.saving.register_keras_serializable(package="keras_rmda")
class SparseInitializer(keras.initializers.Initializer):
    """An initializer whose result is sparse: random single weights or whole groups of them are zero.

    Formula: m * w * sqrt(n / k) with w from `initializer` and a random mask m of zeros and ones that keeps k of the n
    weights, or of the n groups of weights, k = max(1, round(density * n)). The factor keeps the variance of what the
    layer computes.

    Like every initializer of Keras it gives the same values whenever it is called with the same shape.

    Args:
        initializer: what gives the values: a Keras initializer, its name or its configuration.
        density: share of the weights or groups that stays, in (0, 1].
        by: `"weight"` for single weights, `"group"` for whole groups.
        groups: what forms one group, as in `GroupLasso` without a layer: `"input"`, `"output"` or `"kernel"`, where
            the last two axes are (inputs, outputs), or an axis. Only for `by="group"`. The kernels of transposed
            convolutions end in (outputs, inputs); name their axis.
        seed: an integer that determines the mask; None to draw it from the generator of
            `keras.utils.set_random_seed`.

    Raises:
        ValueError: for an argument out of range; when called, if the shape has no axis of the name.

    Example:
        >>> keras.layers.Dense(100, kernel_initializer=kr.SparseInitializer("he_normal", 0.1))

    Source: Bungert et al. 2022, "A Bregman learning framework for sparse neural networks", arXiv:2105.04319.
    """

    def __init__(
        self,
        initializer: keras.initializers.Initializer | dict | str,
        density: float,
        by: str = "weight",
        groups: str | int = "input",
        seed: int | None = None,
    ):
        self.density, self._psi = _checked(density, by, groups, seed)
        self.initializer = _known(initializer)
        self.by = by
        self.groups = groups if isinstance(groups, str) else int(groups)
        self.seed = seed if seed is None else int(seed)
        self._drawn_seed = _drawn(seed)

    def __call__(self, shape: tuple[int, ...], dtype: str | None = None) -> Tensor:
        """Return a tensor of initial values."""
        _check_shape(self._psi, tuple(shape), type(self).__name__)
        w = ops.convert_to_tensor(self.initializer(shape, dtype=dtype))
        return thinned(w, self.density, self._psi, np.random.default_rng(self._drawn_seed))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = {name: getattr(self, name) for name in ("density", "by", "groups", "seed")}
        return {"initializer": keras.initializers.serialize(self.initializer)} | config


def thinned(w: Tensor, density: float, psi: ProximalRegularizer, random: np.random.Generator) -> Tensor:
    """Return `w` with a random share `density` of the groups of `psi`, scaled to keep the variance; the rest is 0."""
    shape = tuple(psi.group_norms(w).shape)
    n = math.prod(shape)
    k = max(1, round(density * n))
    keep = np.zeros(n, dtype=bool)
    keep[random.choice(n, size=k, replace=False, shuffle=False)] = True
    return ops.where(keep.reshape(shape), w * as_type_of(w, math.sqrt(n / k)), ops.zeros_like(w))


def _checked(density: float, by: str, groups: str | int, seed: int | None) -> tuple[float, ProximalRegularizer]:
    """Return the density, and the penalty whose groups stay or go as a whole; its strength is never used."""
    density = checks.real("density", density, maximum=1.0, open_minimum=True)
    checks.one_of("by", by, ("weight", "group"))
    if seed is not None:
        checks.whole("seed", seed)
    by_group = GroupLasso(1.0, groups)
    return density, by_group if by == "group" else L1(1.0)


def _checked_model(model: keras.Model) -> keras.Model:
    """Return `model` if it is one with weights, else raise `ValueError`."""
    if not isinstance(model, keras.Model):
        raise ValueError(f"`model` must be a keras.Model. Received: model={model!r} of type {type(model).__name__}")
    if not model.built:
        raise ValueError(
            f"The model {model.name!r} is not built: it has no weights yet. Give it a `keras.Input`, call "
            "`model.build(input_shape)`, or call it on data first."
        )
    return model


def _known(initializer: Any) -> Any:
    """Return the initializer that Keras knows by this name, configuration or class, else raise `ValueError`."""
    try:
        known = keras.initializers.get(initializer)
    except (TypeError, ValueError):
        known = None
    if known is None:
        raise ValueError(
            "`initializer` must be a Keras initializer, its name or its configuration. "
            f"Received: initializer={initializer!r}"
        )
    return known


def _check_shape(psi: ProximalRegularizer, shape: tuple[int, ...], name: str) -> None:
    """Raise `ValueError`, naming the variable, unless the groups are axes of the shape."""
    try:
        psi.check_shape(shape, name)
    except ValueError:
        raise ValueError(
            f"`groups` must name an axis of every kernel; {name!r} of shape {shape} has no such axis. Choose other "
            f"groups, or `by='weight'`. Received: groups={psi.groups!r}"
        ) from None


def _drawn(seed: int | None) -> int:
    """Return `seed`, or one from NumPy's generator, which `keras.utils.set_random_seed` seeds."""
    return int(np.random.randint(2**31 - 1)) if seed is None else int(seed)
