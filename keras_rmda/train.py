"""Training into structure as one function, for the command line, and its progress, which the demo prints too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_rmda.callbacks import SparsityMonitor, StagewiseSchedule, TargetSparsity
from keras_rmda.coupling import coupled_groups
from keras_rmda.optimizers import RMDA
from keras_rmda.regularizers import GroupLasso

MOMENTUM = 0.1
MILESTONES = (0.6, 0.85)
"""The shares of the epochs after which a stage begins. What TargetSparsity chooses is final before the first."""


def train(
    model: keras.Model,
    data: tuple[Any, Any],
    loss: Any,
    target_macs: float | None = None,
    epochs: int = 30,
    batch_size: int = 32,
    learning_rate: float = 0.3,
    strength: float = 1e-4,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    **fit: Any,
) -> dict[str, list[float]]:
    """Train a model by RMDA with coupled groups, in place: what becomes zero is what `strip` removes.

    Args:
        model: a built model with a graph.
        data: inputs and targets.
        loss: as for `compile`.
        target_macs: share of the multiply-accumulates that is to be left, or their number; None to let `strength`
            decide.
        epochs, batch_size: as for `fit`; at least three epochs.
        learning_rate: of the first of three stages.
        strength: of the penalty, for groups weighed by the multiply-accumulates that they cost.
        callbacks: more of them.
        **fit: other arguments of `fit`.

    Returns:
        The history of `fit`.

    Raises:
        ValueError: if no channel can be removed, or not as many.
    """
    psi = GroupLasso(strength, groups=coupled_groups(model, weights="macs"))
    metrics = ["accuracy"] if has_classes(data[1]) else []
    model.compile(RMDA(learning_rate, MOMENTUM, psi), loss, metrics=metrics)
    second = min(max(2, round(MILESTONES[1] * epochs)), epochs - 1)
    first = min(max(1, round(MILESTONES[0] * epochs)), second - 1)
    steering = [] if target_macs is None else [TargetSparsity(target_macs, end=first / epochs)]
    steering += [StagewiseSchedule([first, second]), SparsityMonitor()]
    return model.fit(
        *data, batch_size=batch_size, epochs=epochs, callbacks=[*steering, *callbacks], **({"verbose": 0} | fit)
    ).history


class Progress(keras.callbacks.Callback):
    """Prints one line per epoch through `say`.

    Args:
        say: receives each line.
        title: what is being trained.
    """

    def __init__(self, say: Callable[[str], None], title: str = ""):
        super().__init__()
        self.say, self.title = say, title

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Print the epoch's figures."""
        logs = logs or {}
        text = f"{self.title}  epoch {epoch + 1:3d}/{self.params['epochs']}".lstrip()
        known = [key for key in ("val_accuracy", "accuracy", "val_loss", "loss") if key in logs]
        text += "".join(f"  {key.removeprefix('val_')} {logs[key]:.3f}" for key in known[:1])
        if "zero_groups" in logs:
            text += f"  zero groups {logs['zero_groups']:6.1%}  MACs left {logs['macs'] / 1e6:6.2f} M"
        self.say(text)


def default_loss(model: keras.Model, y: np.ndarray) -> Any:
    """Return the loss for these targets: cross entropy for classes, as integers or shares, else squares."""
    last = getattr(model.layers[-1], "activation", None)
    is_probability = last in (keras.activations.softmax, keras.activations.sigmoid) or isinstance(
        model.layers[-1], keras.layers.Softmax
    )
    if not has_classes(y):
        return "mse"
    if model.output_shape[-1] == 1:
        return keras.losses.BinaryCrossentropy(from_logits=not is_probability)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=not is_probability)


def has_classes(y: Any) -> bool:
    """Return whether targets are classes."""
    return isinstance(y, np.ndarray) and np.issubdtype(y.dtype, np.integer)
