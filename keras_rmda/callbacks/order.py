"""What one does with the order of a solution path: prune, recover, begin anew."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_rmda.optimizers.models import optimizers_of
from keras_rmda.optimizers.names import check_patterns, matches
from keras_rmda.platform import checks
from keras_rmda.regularizers import ProximalRegularizer

NEVER = np.inf


class Order:
    """Base class of `SolutionPath`: changes the recorded model by the order in which groups have entered."""

    entered: dict[str, np.ndarray]
    _last_norms: dict[str, np.ndarray]
    _recorded: keras.Model | None
    _before: dict[str, np.ndarray]

    def prune_order(self) -> list[tuple[str, int, float]]:
        """Return all groups, the least important first.

        Returns:
            (path of the variable, index of the group among the variable's groups in C order, epoch of entry): those
            that never entered first, then the latest; among equals the group of smaller norm in the iterate first: for
            DessiLBI that of the dense W.
        """
        self._check_recorded()
        groups = [
            (path, index, float(epoch), float(self._last_norms[path].flat[index]))
            for path, entered in self.entered.items()
            for index, epoch in enumerate(entered.flat)
        ]
        return [(path, index, epoch) for path, index, epoch, norm in sorted(groups, key=lambda g: (-g[2], g[3]))]

    def prune(self, share: float, layers: Sequence[str] = (".*",), biases: bool = False) -> dict[str, int]:
        """Zero the least important groups of each variable, in place, until `recover`.

        Args:
            share: of each variable's groups, in [0, 1]; rounded down.
            layers: patterns of the paths of variables.
            biases: whether the biases of pruned outputs become zero, too: of variables whose groups are their outputs.

        Returns:
            For each variable's path the number of groups that were pruned.

        Raises:
            ValueError: for an argument out of range, if nothing is recorded, or if a pattern matches no variable.

        Example:
            >>> path.prune(0.8, [".*conv3/kernel"], biases=True)
            >>> model.evaluate(x_test, y_test)
            >>> path.recover()
        """
        share = checks.real("share", share, maximum=1.0)
        self._check_recorded()
        pruned = {}
        for variable, psi in self._matching(layers):
            least = self._least(variable.path, int(share * self.entered[variable.path].size))
            w = ops.convert_to_numpy(variable)
            gone = np.broadcast_to(self._marked(variable, psi, least), w.shape)
            self._change(variable, np.where(gone, 0, w))
            bias = self._bias_of(variable) if biases else None
            if bias is not None and len(least) and self.entered[variable.path].size == bias.shape[0]:
                self._change(bias, np.where(np.isin(np.arange(bias.shape[0]), least), 0, ops.convert_to_numpy(bias)))
            pruned[variable.path] = len(least)
        return pruned

    def recover(self) -> None:
        """Give all weights that `prune` has zeroed the values that they had before."""
        for variable in self._recorded.variables if self._recorded is not None else ():
            if variable.path in self._before:
                variable.assign(self._before[variable.path])
        self._before = {}

    def reinitialize(self, share: float, threshold: float = 0.0, seed: int | None = None) -> dict[str, int]:
        """Let the least important filters or neurons begin anew, as directions that those which stay span.

        New filters are the vectors of an orthonormal basis of those that stay, within 1 / sqrt(fan in), and uniform
        within that bound where there are no more. Their Gamma and Z are zero, their biases too, and they have not
        entered. With `freeze_support` of `DessiLBI` only they train.

        Args:
            share: of the outputs of each layer, in [0, 1]; rounded down.
            threshold: of the groups that have entered: only layers with a larger share of them change.
            seed: an integer; None for a random one.

        Returns:
            For each variable's path the number of groups that begin anew.

        Raises:
            ValueError: for an argument out of range, if nothing is recorded, or, naming the variable, if its groups
                are not its outputs.

        Source: Fu et al. 2022, arXiv:1905.09449, by the authors' code.
        """
        share, threshold = checks.real("share", share, maximum=1.0), checks.real("threshold", threshold, maximum=1.0)
        self._check_recorded()
        random, changed = np.random.default_rng(seed), {}
        for variable, psi in self._matching([".*"]):
            entered, w = self.entered[variable.path], ops.convert_to_numpy(variable)
            if self._marked(variable, psi, [0]).shape != (*[1] * (w.ndim - 1), w.shape[-1]):
                raise ValueError(
                    f"`reinitialize` changes filters and neurons: the groups of {variable.path!r} must be its outputs, "
                    f"as GroupLasso(groups='output') makes them. Received: {psi!r}"
                )
            if (entered != NEVER).mean() <= threshold:
                continue
            least = self._least(variable.path, int(share * entered.size))
            kept = np.delete(w.reshape(-1, w.shape[-1]), least, axis=1)
            bound = kept.shape[0] ** -0.5
            basis = np.clip(np.linalg.qr(kept)[0], -bound, bound).T if kept.size else np.zeros((0, kept.shape[0]))
            fresh = random.uniform(-bound, bound, (len(least), kept.shape[0]))
            fresh[: len(basis)] = basis[: len(least)]
            w = w.copy()
            w[..., least] = fresh.T.reshape(*w.shape[:-1], -1)
            variable.assign(w)
            self._forget_groups(variable, least)
            changed[variable.path] = len(least)
        return changed

    def _check_recorded(self) -> None:
        if not self.entered:
            raise ValueError("Nothing is recorded yet: pass this callback to `fit` first.")

    def _least(self, path: str, count: int) -> np.ndarray:
        """Return the least important groups of a variable."""
        return np.array([index for name, index, _ in self.prune_order() if name == path][:count], int)

    def _matching(self, patterns: Sequence[str]) -> list[tuple[keras.Variable, ProximalRegularizer]]:
        """Return the recorded variables that patterns match, with their regularizers."""
        check_patterns("layers", patterns)
        unused = [each for each in patterns if not any(matches(each, (path,)) for path in self.entered)]
        if unused:
            raise ValueError(f"`layers` matches no variable of the path: {unused!r}. Those are: {list(self.entered)!r}")
        found = []
        for optimizer in optimizers_of(self._recorded):
            for variable in self._recorded.trainable_variables:
                psi = optimizer.penalty_of(variable)
                if psi is not None and any(matches(each, (variable.path,)) for each in patterns):
                    found.append((variable, psi))
        return found

    def _marked(self, variable: keras.Variable, psi: ProximalRegularizer, groups: Sequence[int]) -> np.ndarray:
        """Return which weights are in groups, in a shape that broadcasts with the weight."""
        marked = np.zeros(self.entered[variable.path].shape, bool)
        marked.flat[np.asarray(groups, int)] = True
        return marked

    def _bias_of(self, variable: keras.Variable) -> keras.Variable | None:
        name = variable.path.rpartition("/")[0] + "/bias"
        return next((each for each in self._recorded.variables if each.path == name), None)

    def _change(self, variable: keras.Variable, value: np.ndarray) -> None:
        self._before.setdefault(variable.path, ops.convert_to_numpy(variable))
        variable.assign(value)

    def _forget_groups(self, variable: keras.Variable, groups: np.ndarray) -> None:
        """Set what training knows of outputs to zero."""
        self.entered[variable.path].flat[groups] = NEVER
        bias = self._bias_of(variable)
        if bias is not None and bias.shape == (variable.shape[-1],):
            bias.assign(np.where(np.isin(np.arange(bias.shape[0]), groups), 0, ops.convert_to_numpy(bias)))
        for optimizer in optimizers_of(self._recorded):
            if optimizer.penalty_of(variable) is None:
                continue
            for slot in optimizer._slots[optimizer._get_variable_index(variable)].values():
                value = ops.convert_to_numpy(slot).copy()
                value[..., groups] = 0
                slot.assign(value)
