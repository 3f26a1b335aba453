"""Models with steps of their own: the smaller ones are of the same class, so that they make the same steps."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.optimizers.names import names_in
from keras_rmda.platform import checks, compat, fitting
from keras_rmda.platform.copying.classes import dressed
from keras_rmda.platform.tolerant import ADDING_LOSSES
from keras_rmda.structure.coupling import coupled_groups
from keras_rmda.structure.strip import copied_with_layers, strip, stripped, warn_of_lost_losses
from keras_rmda.structure.verification import difference, tolerance_of

STEPS = ("train_step", "compute_loss", "compute_metrics", "test_step")
"""Methods by which a class trains, or is scored, otherwise than Keras does."""


YOURSELF = (
    "Train it yourself, with an optimizer of keras_rmda, `coupled_groups` and `callbacks.TargetSparsity`, and `strip` "
    "it: docs/methods.md has the recipe."
)


class StepsError(ValueError):
    """The steps of a model's class cannot be made with a smaller one."""

    def __init__(self, model: keras.Model, why: str):
        super().__init__(
            f"{type(model).__name__} defines {own_step(model)!r}, and its steps cannot be made with a smaller model: "
            f"{why}. {YOURSELF}"
        )


def own_step(model: keras.Model) -> str | None:
    """Return the first of these methods that the class of a model defines, or `add_loss` if its own code calls that."""
    own = [name for name in STEPS if getattr(type(model), name) is not getattr(keras.Model, name)]
    return own[0] if own else "add_loss" if model in ADDING_LOSSES else None


def copy_of(model: keras.Model) -> keras.Model:
    """Return a copy of a model, as `copied` makes it, that makes the same steps."""
    graph, made = copied_with_layers(model)
    if own_step(model):
        return same_class(model, graph, made)
    warn_of_lost_losses(model, graph)
    return graph


def smaller(model: keras.Model) -> keras.Model:
    """Return what `strip` leaves of a model, that makes the same steps."""
    return same_class(model, *stripped(model)) if own_step(model) else strip(model)


def same_class(model: keras.Model, graph: keras.Model, made: dict[int, Any]) -> keras.Model:
    """Return a model of the class of another one that computes what a graph does, which was made of that.

    Raises:
        StepsError: if it computes something else.
    """
    new = dressed(model, graph, made)
    x = keras.tree.map_structure(lambda each: example(each), graph.input)
    a, b = (outputs(each, x) for each in (graph, new))
    if max(map(difference, a, b)) > tolerance_of(graph):
        raise StepsError(model, "its `call` computes something else with the layers of the smaller model")
    return new


def outputs(model: keras.Model, x: Any) -> list:
    """Return the outputs of a model, whose random layers are as before then."""
    with compat.restored(model.non_trainable_variables):
        return keras.tree.flatten(model(x, training=False))


def example(x: keras.KerasTensor) -> Any:
    """Return numbers with the shape and the type of an input."""
    shape = tuple(2 if size is None else size for size in x.shape)
    value = np.random.default_rng(0).normal(size=shape)
    if "float" not in x.dtype:
        value = np.zeros(shape)
    return ops.convert_to_tensor(value.astype("float32"), x.dtype)


def check_steps(model: keras.Model, whole: keras.Model, batch: tuple, compile_whole: Any, compile_small: Any) -> None:
    """Refuse a model whose steps the smaller ones would not make: by one step of a copy, and of half of it.

    Args:
        model: the user's.
        whole: the copy that is going to be trained.
        batch: of data.
        compile_whole, compile_small: compile a copy, and what is left of it.

    Raises:
        StepsError: with the reason.
    """
    if own_step(model) is None:
        return
    try:
        if compat.own_weights(model):
            raise ValueError("it has weights of its own, that are in none of its layers")
        before = model.get_weights()
        trial = copy_of(whole)
        close_half(trial)
        make_a_step(trial, batch, compile_whole)
        make_a_step(smaller(trial), batch, compile_small)
        changed = [v.path for v, value in zip(model.weights, before) if (ops.convert_to_numpy(v) != value).any()]
        if changed:
            raise ValueError(f"a step of the copy changes the weight {changed[0]!r} of the model itself")
    except StepsError:
        raise
    except Exception as error:
        raise StepsError(model, checks.first_line(error).rstrip(".")) from error


def check_optimizers(model: keras.Model) -> None:
    """Refuse a model that is trained by more optimizers than one, as pairs of networks are."""
    own = getattr(model, "optimizer", None)
    others = [key for key, x in vars(model).items() if isinstance(x, keras.Optimizer) and x is not own]
    if others and own_step(model):
        raise ValueError(
            f"{type(model).__name__} has more optimizers than one, {others[0]!r}, and `compress` trains by one. "
            f"{YOURSELF}"
        )


def close_half(model: keras.Model) -> None:
    """Make every other coupled group of a model zero."""
    groups, names = coupled_groups(model, parts="all"), names_in(model)
    variables = {name: each for each in model.weights for name in names[id(each)]}
    zero = np.append(np.arange(len(groups)) % 2 == 1, False)
    for path, numbers in groups.members.items():
        value = ops.convert_to_numpy(variables[path])
        variables[path].assign(np.where(zero[numbers], 0, value))


def make_a_step(model: keras.Model, batch: tuple, compiled: Any) -> None:
    """Make one step of training, and refuse one that trains nothing."""
    compiled(model)
    before = [ops.convert_to_numpy(each) for each in model.trainable_weights]
    model.fit(**fitting.named(batch), shuffle=False, verbose=0)
    if not any((ops.convert_to_numpy(a) != b).any() for a, b in zip(model.trainable_weights, before)):
        raise ValueError("a step of the optimizer that the model was compiled with changes no weight")
