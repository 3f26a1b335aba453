"""Start Bregman training from sparse weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.optimizers.assignment import axes_of_weights, is_kernel
from keras_rmda.regularizers import CoupledGroups, Tensor
from keras_rmda.structure.starts import (
    check_shape,
    checked,
    checked_bias,
    draw_biases,
    drawn,
    starts,
    thin_coupled,
    thinned,
)


def sparsify(
    model: keras.Model,
    density: float | Mapping[str, float],
    by: str | Mapping[str, str] = "weight",
    groups: str | int | CoupledGroups | Mapping[str, str | int] = "input",
    seed: int | None = None,
    gain: float | Mapping[str, float] | None = None,
    bias: tuple[float, float] | None = None,
) -> None:
    """Zero a random part of every kernel of a model, in place: the sparse start of Bregman training.

    Formula: w <- m * w * gain with a random mask m of zeros and ones that keeps k of the n weights, or of the n groups
    of weights, k = max(1, round(density * n)). gain = sqrt(n / k), unless another is given, keeps the variance of what
    the layer computes. With `bias` = (low, high) biases are drawn from U(low / sqrt(f), high / sqrt(f)), where f is the
    number of weights of each output of the kernel.

    Kernels are what the optimizers of this package penalize by default: no biases, scales and embeddings. Call it
    before training, once: every call takes its share of what is left.

    Args:
        model: a built model. Only its trainable kernels change, and biases if that is asked for.
        density: share of the weights or groups that stays, in (0, 1]. This, and each of the following but `seed` and
            `bias`, may be a dictionary from patterns of variable paths to values: the path itself, or a regular
            expression that matches all of it. Kernels without a density stay as they are.
        by: `"weight"` for single weights, `"group"` for whole groups.
        groups: what forms one group, as in `GroupLasso`: `"input"`, `"output"`, `"kernel"`, named by the layer table
            where it knows the layer, or an axis; or `coupled_groups(model)`, of which the share stays in every layer,
            in all of their variables and without a gain; those of `parts="all"` have no gradients when they are zero,
            and never grow. Only for `by="group"`.
        seed: an integer that determines the masks and biases; None to draw it from the generator of
            `keras.utils.set_random_seed`.
        gain: number > 0 that multiplies what stays; None for the one that keeps the variance.
        bias: bounds of new biases of the layers whose kernels become sparse; None keeps those that are there. A unit
            without weights and bias has no gradient behind ReLU, and could never grow.

    Returns:
        None.

    Raises:
        ValueError: for an argument out of range, if the model is not built or has no trainable kernel, if a pattern
            matches no kernel or several match one, and, naming the variable, if a kernel has no axis of this name. Then
            no weight is changed.

    Example:
        >>> kr.sparsify(model, 0.1, by="group", groups="output")  # one filter or neuron in ten stays
        >>> kr.sparsify(model, {".*kernel": 0.5}, gain=1.0, bias=(0.0, 1.0))

    Source: Bungert et al. 2022, "A Bregman learning framework for sparse neural networks", arXiv:2105.04319, and their
    code.
    """
    bias = checked_bias(bias)
    axes = axes_of_weights(_checked_model(model))
    if isinstance(groups, CoupledGroups):
        thin_coupled(model, density, by, groups, seed, gain, bias)
        return
    kernels = [variable for variable in model.trainable_variables if is_kernel(variable)]
    if not kernels:
        raise ValueError(
            f"The model {model.name!r} has no trainable kernel, so that there is nothing to make sparse. "
            "Set `trainable` of its layers, or leave it as it is."
        )
    found = starts(model, kernels, seed=seed, density=density, by=by, groups=groups, gain=gain)
    found = [(k, share, psi.along(axes[id(k)]) if id(k) in axes else psi, gain) for k, share, psi, gain in found]
    for kernel, _, psi, _ in found:
        check_shape(psi, tuple(kernel.shape), kernel.path)
    random = np.random.default_rng(drawn(seed))
    for kernel, share, psi, gain in found:
        kernel.assign(thinned(ops.convert_to_tensor(kernel), share, psi, random, gain))
    if bias is not None:
        draw_biases(model, {id(kernel): kernel for kernel, *_ in found}, axes, bias, random)


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
        self.density, self._psi = checked(density, by, groups, seed)
        self.initializer = _known(initializer)
        self.by = by
        self.groups = groups if isinstance(groups, str) else int(groups)
        self.seed = seed if seed is None else int(seed)
        self._drawn_seed = drawn(seed)

    def __call__(self, shape: tuple[int, ...], dtype: str | None = None) -> Tensor:
        """Return a tensor of initial values."""
        check_shape(self._psi, tuple(shape), type(self).__name__)
        w = ops.convert_to_tensor(self.initializer(shape, dtype=dtype))
        return thinned(w, self.density, self._psi, np.random.default_rng(self._drawn_seed))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = {name: getattr(self, name) for name in ("density", "by", "groups", "seed")}
        return {"initializer": keras.initializers.serialize(self.initializer)} | config


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
