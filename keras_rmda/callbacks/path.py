"""The inverse-scale-space path: when each group first becomes nonzero."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.callbacks.order import NEVER, Order
from keras_rmda.optimizers.models import optimizers_of
from keras_rmda.optimizers.notes import Note, notes_of
from keras_rmda.platform import checks, graphs
from keras_rmda.platform.copying.copies import Copies
from keras_rmda.platform.copying.saving import made_savable
from keras_rmda.regularizers import ProximalRegularizer


class KeepZeros(keras.constraints.Constraint):
    """Sets the weights outside of a mask to zero after every step, under any optimizer.

    Args:
        mask: True where a weight may be nonzero, in the weight's shape.
        constraint: the weight's own constraint, applied first.
    """

    def __init__(self, mask: np.ndarray, constraint: keras.constraints.Constraint | None = None):
        self.mask = mask
        self.constraint = constraint

    def __call__(self, w: Any) -> Any:
        """Return `w` with zeros outside of the mask."""
        w = ops.convert_to_tensor(w if self.constraint is None else self.constraint(w))
        return ops.where(ops.convert_to_tensor(self.mask), w, ops.zeros_like(w))


class SolutionPath(Order, keras.callbacks.Callback):
    """Record when each group first enters the support, and the support after every epoch.

    The methods whose weights enter one by one, DessiLBI, LinBreg and AdaBreg, run through models from sparse to dense,
    and a group that enters early is an important one. The support is that of `optimizer.structured_value`; the groups
    are those of each variable's regularizer. Epochs count completed ones: 0 is the start of training.

    Attributes:
        entered: for each variable's path the epoch after which each group was first nonzero, in the shape of
            `regularizer.group_norms`; infinite for groups that never were.
        epochs: the number of epochs recorded.

    Raises:
        ValueError: at the start of training, if no variable has a regularizer under an optimizer of this package.

    Example:
        >>> path = kr.callbacks.SolutionPath()
        >>> model.fit(x, y, epochs=10, callbacks=[path])
        >>> ticket = path.winning_ticket(epoch=5)  # the initial weights, without what had not entered by then
        >>> ticket.compile("adam", "mse")
        >>> ticket.fit(x, y, epochs=10)

    Source: Fu et al. 2020, arXiv:2007.02010; winning tickets after Frankle and Carbin 2019, arXiv:1803.03635.
    """

    def __init__(self):
        super().__init__()
        self._forget()

    @property
    def epochs(self) -> int:
        """The number of epochs recorded."""
        return max(0, len(self._supports) - 1)

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Keep the initial weights; a `fit` that goes on with the same model goes on with its path."""
        if self.model is self._recorded and self.model.optimizer is self._optimizer:
            return
        if not self.model.built:
            raise ValueError(
                "SolutionPath keeps the initial weights: build the model before `fit`, with a keras.Input."
            )
        self._forget()
        self._recorded, self._optimizer = self.model, self.model.optimizer
        paths = [variable.path for variable in self.model.trainable_variables]
        if len(set(paths)) < len(paths):
            twice = sorted({path for path in paths if paths.count(path) > 1})
            raise ValueError(
                f"SolutionPath needs unique paths of variables; these are not: {twice}. Rename the layers."
            )
        self._initial_weights = self.model.get_weights()
        self._record()
        if not self.entered:
            raise ValueError(
                "SolutionPath follows the groups of regularized variables under an optimizer of keras_rmda. "
                f"Received: optimizer={type(self.model.optimizer).__name__}, no variable with a regularizer under it"
            )

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Go on with the path of a training that was stopped."""
        note = notes_of(self.model).take("SolutionPath", epoch)
        if note:
            self._restore(note)
            if int(note["epoch"]) < epoch:  # the copy is of the moment before
                self._record()
        self._take_a_note(epoch)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Record the support."""
        self._record()
        self._take_a_note(epoch + 1)

    def support(self, epoch: int) -> dict[str, np.ndarray]:
        """Return, for each variable's path, which weights were nonzero after `epoch` epochs, as booleans.

        Raises:
            ValueError: if `epoch` was not recorded.
        """
        epoch = checks.whole("epoch", epoch, maximum=self.epochs)
        if not self._supports:
            raise ValueError("Nothing is recorded yet: pass this callback to `fit` first.")
        return {
            path: np.unpackbits(bits, count=int(np.prod(self._shapes[path]))).reshape(self._shapes[path]).astype(bool)
            for path, bits in self._supports[epoch].items()
        }

    def winning_ticket(self, epoch: int) -> keras.Model:
        """Return the network that had entered after `epoch` epochs, with its initial weights.

        Args:
            epoch: number of completed epochs.

        Returns:
            A new, uncompiled model with the initial weights, zero outside of the support. A constraint keeps these
            zeros under every optimizer, in this process: a model loaded from a file is no longer constrained.

        Raises:
            ValueError: if `epoch` was not recorded, or the model is subclassed.
        """
        support = self.support(epoch)
        model = self._recorded
        made: dict[int, list] = {}
        ticket = graphs.rebuilt(model, Copies(model, made).whole, made)
        made_savable(ticket, model, made)
        ticket.set_weights(self._initial_weights)
        for old, new in zip(model.trainable_variables, ticket.trainable_variables, strict=True):
            if old.path in support:
                new.constraint = KeepZeros(support[old.path], new.constraint)
                new.assign(new.constraint(new))
        return ticket

    def plot(self, axes: Any = None) -> Any:
        """Draw the share of groups that have entered, over the epochs, one line for each variable.

        Args:
            axes: matplotlib axes; None for new ones.

        Returns:
            The axes.
        """
        if axes is None:
            from matplotlib import pyplot

            axes = pyplot.figure(figsize=(6, 4), layout="constrained").add_subplot()
        epochs = np.arange(self.epochs + 1)
        for path, entered in self.entered.items():
            share = (entered.reshape(-1, 1) <= epochs).mean(axis=0)
            axes.step(epochs, share, where="post", label=f"{path} ({entered.size} groups)")
        axes.set(xlabel="epoch", ylabel="share of groups that have entered", ylim=(-0.02, 1.02))
        axes.legend(fontsize="small")
        return axes

    def _forget(self) -> None:
        self.entered: dict[str, np.ndarray] = {}
        self._last_norms: dict[str, np.ndarray] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._supports: list[dict[str, np.ndarray]] = []
        self._before: dict[str, np.ndarray] = {}
        self._recorded: keras.Model | None = None
        self._optimizer: keras.optimizers.Optimizer | None = None

    def _record(self) -> None:
        support: dict[str, np.ndarray] = {}
        for variable, psi, value, dense in self._structured():
            norms = ops.convert_to_numpy(psi.group_norms(value))
            entered = self.entered.setdefault(variable.path, np.full(norms.shape, NEVER))
            entered[(norms != 0) & (entered == NEVER)] = len(self._supports)
            self._last_norms[variable.path] = ops.convert_to_numpy(psi.group_norms(dense))
            self._shapes[variable.path] = value.shape
            support[variable.path] = np.packbits(value != 0)
        self._supports.append(support)

    def _take_a_note(self, epoch: int) -> None:
        """Keep all that `_restore` needs; variables are told by their numbers, since files know no slashes."""
        arrays = {f"initial {k}": value for k, value in enumerate(self._initial_weights)}
        for k, path in enumerate(self.entered):
            arrays |= {f"entered {k}": self.entered[path], f"norms {k}": self._last_norms[path]}
            arrays[f"supports {k}"] = np.stack([support[path] for support in self._supports])
        notes_of(self.model).write("SolutionPath", epoch, **arrays)

    def _restore(self, note: Note) -> None:
        self._initial_weights = [note[f"initial {k}"] for k in range(len(self._initial_weights))]
        paths = list(self.entered)
        self.entered = {path: np.array(note[f"entered {k}"]) for k, path in enumerate(paths)}
        self._last_norms = {path: note[f"norms {k}"] for k, path in enumerate(paths)}
        rows = zip(*(note[f"supports {k}"] for k in range(len(paths))), strict=True)
        self._supports = [dict(zip(paths, row)) for row in rows]

    def _structured(self) -> Iterator[tuple[keras.Variable, ProximalRegularizer, np.ndarray, np.ndarray]]:
        """Yield the variables with a regularizer under an optimizer of ours, their structured values, and iterates."""
        for optimizer in optimizers_of(self.model):
            variables = [v for v in self.model.trainable_variables if optimizer.penalty_of(v) is not None]
            for variable, value in zip(variables, optimizer.structured_values(variables) if variables else []):
                dense = optimizer._precise_iterate(optimizer._get_variable_index(variable))
                yield (variable, optimizer.penalty_of(variable), *map(ops.convert_to_numpy, (value, dense)))
