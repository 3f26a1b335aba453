"""Which kernels of a model begin sparse, with which masks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.optimizers.names import check_patterns, matches, matching, names_in
from keras_rmda.platform import checks, compat
from keras_rmda.regularizers import L1, CoupledGroups, GroupLasso, ProximalRegularizer, Tensor, as_type_of


def starts(
    model: keras.Model, kernels: list[keras.Variable], seed: int | None, **arguments: Any
) -> list[tuple[keras.Variable, float, ProximalRegularizer, float | None]]:
    """Return which kernels become sparse, with the density, the groups and the gain of each."""
    known = names_in(model)
    names = [known.get(id(kernel), (kernel.path,)) for kernel in kernels]
    defaults = {"density": None, "by": "weight", "groups": "input", "gain": None}
    chosen: dict[str, list] = {}
    for argument, given in arguments.items():
        if not isinstance(given, Mapping):
            chosen[argument] = [given] * len(kernels)
            continue
        check_patterns(argument, given)
        found = [matching(given, each, argument) for each in names]
        unused = [pattern for pattern in given if not any(matches(pattern, each) for each in names)]
        if unused:
            raise ValueError(
                f"These patterns of `{argument}` match no trainable kernel: {unused!r}. "
                f"The paths are: {', '.join(kernel.path for kernel in kernels)}"
            )
        chosen[argument] = [defaults[argument] if pattern is None else given[pattern] for pattern in found]
    found = []
    for kernel, density, by, groups, gain in zip(kernels, *(chosen[name] for name in defaults)):
        if density is None and isinstance(arguments["density"], Mapping):
            continue
        share, psi = checked(density, by, groups, seed)
        found.append((kernel, share, psi, gain if gain is None else checks.real("gain", gain, open_minimum=True)))
    return found


def thinned(
    w: Tensor, density: float, psi: ProximalRegularizer, random: np.random.Generator, gain: float | None = None
) -> Tensor:
    """Return `w` with a random share `density` of the groups of `psi`, scaled to keep the variance; the rest is 0."""
    shape = tuple(psi.group_norms(w).shape)
    n = math.prod(shape)
    k = max(1, round(density * n))
    keep = np.zeros(n, dtype=bool)
    keep[random.choice(n, size=k, replace=False, shuffle=False)] = True
    gain = math.sqrt(n / k) if gain is None else gain
    return ops.where(keep.reshape(shape), w * as_type_of(w, gain), ops.zeros_like(w))


def thin_coupled(
    model: keras.Model, density: Any, by: Any, groups: CoupledGroups, seed: int | None, gain: Any, bias: Any
) -> None:
    """Zero a random part of coupled groups, in every layer the same share."""
    if by != "group" or isinstance(density, Mapping) or gain is not None or bias is not None:
        raise ValueError(
            "Coupled groups begin sparse by one density for all layers: sparsify(model, density, by='group', "
            f"groups=groups). Received: density={density!r}, by={by!r}, gain={gain!r}, bias={bias!r}"
        )
    density, _ = checked(density, by, "input", seed)
    known = names_in(model)
    members = [(v, groups.path_among(known.get(id(v), (v.path,)))) for v in model.trainable_variables]
    found = {path: variable for variable, path in members if path is not None}
    if len(found) < len(groups.members):
        missing = sorted(set(groups.members) - set(found))
        raise ValueError(f"The coupled groups are of another model: {model.name!r} has no trainable {missing}")
    for path, variable in found.items():
        groups.check_shape(tuple(variable.shape), path)
    random, zero = np.random.default_rng(drawn(seed)), np.zeros(len(groups) + 1, dtype=bool)  # the last is for -1
    layers = np.array([name.rsplit("[", 1)[0] for name in groups.names])
    for layer in dict.fromkeys(layers.tolist()):
        [those] = np.nonzero(layers == layer)
        stays = max(1, round(density * those.size))
        zero[random.permutation(those)[stays:]] = True
    for path, variable in found.items():
        w = ops.convert_to_tensor(variable)
        variable.assign(ops.where(zero[groups.members[path]], ops.zeros_like(w), w))


def draw_biases(
    model: keras.Model, kernels: Mapping[int, keras.Variable], axes: Mapping[int, str], bias: tuple, random: Any
) -> None:
    """Draw the biases of the layers of these kernels."""
    for layer in compat.layers_of(model):
        owned = [kernels[id(x)] for x in getattr(layer, "trainable_variables", ()) if id(x) in kernels]
        target = getattr(layer, "bias", None)
        if not owned or not isinstance(target, keras.Variable) or not target.trainable:
            continue
        kernel = next((x for x in owned if x is getattr(layer, "kernel", None)), owned[0])
        output = GroupLasso(1.0, "output")
        output = output.along(axes[id(kernel)]) if id(kernel) in axes else output
        fan_in = math.prod(kernel.shape) / math.prod(output.group_norms(ops.convert_to_tensor(kernel)).shape)
        low, high = (bound / math.sqrt(fan_in) for bound in bias)
        target.assign(random.uniform(low, high, size=tuple(target.shape)))


def checked(density: float, by: str, groups: str | int, seed: int | None) -> tuple[float, ProximalRegularizer]:
    """Return the density, and the penalty whose groups stay or go as a whole; its strength is never used."""
    density = checks.real("density", density, maximum=1.0, open_minimum=True)
    checks.one_of("by", by, ("weight", "group"))
    if seed is not None:
        checks.whole("seed", seed)
    by_group = GroupLasso(1.0, groups)
    return density, by_group if by == "group" else L1(1.0)


def checked_bias(bias: Any) -> tuple[float, float] | None:
    """Return the bounds of biases, or None."""
    if bias is None:
        return None
    is_pair = isinstance(bias, (tuple, list)) and len(bias) == 2
    numbers = is_pair and all(isinstance(each, Real) and math.isfinite(each) for each in bias)
    if not numbers or bias[0] > bias[1]:
        raise ValueError(f"`bias` must be a pair of numbers, the lower one first, or None. Received: bias={bias!r}")
    return float(bias[0]), float(bias[1])


def check_shape(psi: ProximalRegularizer, shape: tuple[int, ...], name: str) -> None:
    """Raise `ValueError`, naming the variable, unless the groups are axes of the shape."""
    try:
        psi.check_shape(shape, name)
    except ValueError:
        raise ValueError(
            f"`groups` must name an axis of every kernel; {name!r} of shape {shape} has no such axis. Choose other "
            f"groups, or `by='weight'`. Received: groups={psi.groups!r}"
        ) from None


def drawn(seed: int | None) -> int:
    """Return `seed`, or one from NumPy's generator, which `keras.utils.set_random_seed` seeds."""
    return int(np.random.randint(2**31 - 1)) if seed is None else int(seed)
