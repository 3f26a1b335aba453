"""Coarse steps on a network without the channels that rest."""

from __future__ import annotations

import time
from typing import Literal

import keras
from keras import ops

from keras_rmda.callbacks.cost import macs_of
from keras_rmda.callbacks.session import Companion
from keras_rmda.optimizers.bregman import MirrorMap
from keras_rmda.optimizers.models import optimizers_of
from keras_rmda.platform import checks
from keras_rmda.structure.coarse import CoarseModel, check_has_coarse_steps, coarse_model

WHEN = ("pays", "always")


class Multilevel(Companion):
    """Make the coarse steps of LinBreg and AdaBreg on a network without the channels that rest.

    An optimizer with `coarse_steps` = m lets weights enter in one dense step of m + 1. In the m steps behind it what
    was zero rests, and a channel of which all that counts rests need not be computed: this callback cuts such channels
    out after the dense step, makes the coarse steps on what is left, and writes weights and state back before the next
    one. What is computed is the same, to rounding; `TrainingCost` counts the operations that were made.

    That is for coupled groups. Under penalties of single weights only channels go that happen to be zero as a whole;
    the weights rest by masks, which is the method of the paper and saves no time.

    Exceptions, all of weights that act on nothing in a coarse period: their moments rest with them, where those of a
    large network would run out, and so do the statistics of batch normalization of channels that rest. Dropout draws
    other numbers for fewer channels.

    From the end of an epoch to the next the model holds all, for validation and other callbacks. Within an epoch it
    holds what the last dense step has left.

    Args:
        when: `"pays"`: only where the steps before the next dense one are expected to save the time that making the
            smaller network takes, as measured the last time; the first is always made. `"always"`.

    Raises:
        ValueError: for another `when`; when training begins, if no optimizer has `coarse_steps`, on JAX and under a
            strategy of TensorFlow, where the coarse steps go by masks alone, with a callback that saves within epochs,
            with groups along axes, and where `shrink` refuses the model.

    Example:
        >>> psi = kr.GroupLasso(0.1, groups=kr.coupled_groups(model))
        >>> model.compile(kr.LinBreg(0.1, regularizer=psi, coarse_steps=99), "mse")
        >>> model.fit(x, y, epochs=2, callbacks=[kr.callbacks.Multilevel()])

    Source: Lunk, Scott and Bungert 2026, "Sparse training of neural networks based on multilevel mirror descent",
    arXiv:2602.03535, whose coarse level has the single weights that are not zero.
    """

    leads = True

    def __init__(self, when: Literal["pays", "always"] = "pays"):
        super().__init__()
        checks.one_of("when", when, WHEN)
        self.when = when
        self._coarse: CoarseModel | None = None
        self._is_coarse = False

    def before_fit(self, callbacks: list[keras.callbacks.Callback]) -> None:
        """Refuse what has no coarse steps, or what would see half of them."""
        super().before_fit(callbacks)
        if keras.backend.backend() == "jax" or has_replicas(self.model):
            raise ValueError(
                "Multilevel changes models between steps, which it cannot on JAX or under a strategy. Without it the "
                "optimizer makes the same coarse steps by masks."
            )
        within = [type(each).__name__ for each in callbacks if isinstance(getattr(each, "save_freq", None), int)]
        if within:
            raise ValueError(
                f"{', '.join(within)} would save the model within epochs, where the weights of the last step are in a "
                'smaller one: give it save_freq="epoch".'
            )
        if self.model.built:
            self._found()
        self._optimizer, self._coarse, self._is_coarse, self._spared = None, None, False, 0.0
        self._costs = self._begin = 0.0
        self._step_seconds, self._is_new = 0.0, False
        self._cuts: bool | None = None  # whether these coarse steps are made without channels

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Refuse what cannot be cut; count what a step costs."""
        self._optimizer = self._found()
        check_has_coarse_steps(self.model)
        self._macs = macs_of(self.model)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Begin to count what is spared."""
        self._spared = 0.0

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Choose the model that makes the next steps."""
        if not self._is_coarse:
            self._left = self._optimizer.coarse_steps_left
        if self._left < max(self.model.steps_per_execution, 1):  # a dense one is among them
            self.bring_back()
            self._cuts = None
        elif not self._is_coarse:
            self._take_channels_out()
        self._begin = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Count the steps."""
        seconds = time.perf_counter() - self._begin
        if not self._is_coarse:
            # The shortest: the first step of a model is traced.
            self._step_seconds = min(seconds, self._step_seconds or seconds)
            return
        if self._is_new:  # it was traced
            self._costs, self._is_new = self._costs + seconds, False
        self._left, before, self._counted = self._inner.coarse_steps_left, self._counted, self._iterations
        self._spared += (self._counted - before) * (self._macs - self._coarse_macs)

    def on_test_begin(self, logs: dict | None = None) -> None:
        """Give the model back for validation."""
        self.bring_back()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Give the model back for the other callbacks."""
        self.bring_back()

    def on_train_end(self, logs: dict | None = None) -> None:
        """Forget the smaller model."""
        self.bring_back()
        self._coarse = None

    def on_interruption(self) -> None:
        """Give the model back."""
        self.bring_back()

    def saved_macs(self) -> float:
        """Return the multiply-accumulates per sample that the coarse steps of this epoch were spared."""
        return self._spared

    def bring_back(self) -> None:
        """Let the model hold what its last step has left, and make the next one itself."""
        if self._is_coarse:
            self._is_coarse = False
            self._coarse.prolong()
            self.model.train_function = self._own_function

    def _found(self) -> MirrorMap:
        """Return the optimizer with coarse steps."""
        found = [each for each in optimizers_of(self.model) if isinstance(each, MirrorMap) and each.coarse_steps]
        if len(found) != 1:
            raise ValueError(
                "Multilevel makes the coarse steps of one optimizer, LinBreg or AdaBreg with `coarse_steps`. Received: "
                f"optimizer={type(self.model.optimizer).__name__} with {len(found)} of them"
            )
        return found[0]

    def _take_channels_out(self) -> None:
        """Let a smaller model make the next steps, if that pays."""
        if self._cuts is None:
            self._cuts = self._can_cut()
        elif self._cuts:  # the same steps were broken off, by the end of an epoch
            self._coarse.restrict()
        if not self._cuts:
            return
        self._own_function = self.model.train_function
        self.model.train_function = self._coarse.step
        self._is_coarse, self._counted = True, self._iterations

    @property
    def _iterations(self) -> int:
        return int(ops.convert_to_numpy(self._inner._iterations))

    def _can_cut(self) -> bool:
        """Take the smaller model of the last period, if that is the same, or make a new one, if that pays."""
        begin, before = time.perf_counter(), self._coarse
        coarse = coarse_model(self.model, before, makes=self.when == "always" or self._pays())
        if coarse is not None and coarse is not before:
            self._coarse, self._is_new = coarse, True
            self._coarse_macs = macs_of(coarse.model)
            [self._inner] = [x for x in optimizers_of(coarse.model) if isinstance(x, MirrorMap) and x.coarse_steps]
            self._costs = time.perf_counter() - begin
        return coarse is not None

    def _pays(self) -> bool:
        """Return whether a new smaller model is expected to save the time that it takes to make one."""
        if self._coarse is None:
            return True
        return self._left * self._step_seconds * (1.0 - self._coarse_macs / self._macs) > self._costs


def has_replicas(model: keras.Model) -> bool:
    """Return whether a model is trained by several replicas of a strategy of TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        return False
    return getattr(model.distribute_strategy, "num_replicas_in_sync", 1) > 1
