"""One `fit`: its callbacks, which know each other, and what every `fit` with an optimizer of this package brings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_rmda.callbacks.structured import StructuredWeights
from keras_rmda.optimizers.models import may_have_ours
from keras_rmda.platform import hooks


class Companion(keras.callbacks.Callback):
    """Base class of callbacks that know the others of a `fit`, and have a last word when all of them have ended."""

    callbacks: Sequence[keras.callbacks.Callback] = ()
    """All callbacks of the `fit`."""
    writes: tuple[str, ...] = ()
    """What it puts into `logs`, for the callbacks that come after it."""
    leads = False
    """Whether it comes before all others, since the model holds something else for them meanwhile."""

    def before_fit(self, callbacks: list[keras.callbacks.Callback]) -> None:
        """Look at all callbacks of the `fit` that begins, this one among them, in their order."""
        self.callbacks = callbacks

    def earliest_stage(self, epochs: int) -> int:
        """Return the first epoch, of so many, before which a stage may begin."""
        return 0

    def bring_back(self) -> None:
        """Let the model hold what its last step has left, within an epoch."""

    def on_interruption(self) -> None:
        """Leave the model as it is to be when `fit` ends by an error."""

    def saved_macs(self) -> float:
        """Return the multiply-accumulates per sample that the steps of this epoch were spared."""
        return 0.0

    def after_fit(self) -> None:
        """Look at the model when all callbacks have ended."""


def bring_back(callbacks: Sequence[keras.callbacks.Callback]) -> None:
    """Let the model hold what its last step has left, where a callback makes steps elsewhere."""
    for each in callbacks:
        if isinstance(each, Companion):
            each.bring_back()


@contextlib.contextmanager
def session(model: keras.Model, callbacks: Any) -> Iterator[Any]:
    """Give the callbacks for a `fit` of this model: those of the user, behind one that shows structured weights.

    Args:
        model: a compiled model; nothing happens to one without an optimizer of this package.
        callbacks: what the user has given to `fit`: None, callbacks in any structure, or a CallbackList.
    """
    if not may_have_ours(model):
        yield callbacks
        return
    is_list = isinstance(callbacks, keras.callbacks.CallbackList)
    listed = callbacks.callbacks if is_list else keras.tree.flatten(callbacks or [])
    own = [each for each in listed if isinstance(each, StructuredWeights)]
    shows = own[-1] if own else StructuredWeights()
    others = [each for each in listed if each not in own]
    leading = [each for each in others if isinstance(each, Companion) and each.leads]
    ordered = [*leading, shows, *(each for each in others if each not in leading)]
    if is_list:
        callbacks.callbacks[:] = ordered
        shows.set_params(callbacks.params)
    shows.set_model(model)
    check_order(ordered)
    companions = [each for each in ordered if isinstance(each, Companion)]
    for each in companions:
        each.set_model(model)
        each.before_fit(ordered)
    try:
        with hooks.state_before_tracing():
            yield callbacks if is_list else ordered
    except BaseException:
        for each in [*leading, shows]:
            with contextlib.suppress(Exception):  # the error that ended `fit` is the one to tell
                each.on_interruption()
        raise
    for each in companions:
        each.after_fit()


def check_order(callbacks: list[keras.callbacks.Callback]) -> None:
    """Raise `ValueError` if a callback watches what one behind it puts into `logs`."""
    for place, each in enumerate(callbacks):
        watched = getattr(each, "monitor", None)
        writers = [other for other in callbacks if isinstance(other, Companion) and watched in other.writes]
        if writers and not any(other in callbacks[:place] for other in writers):
            raise ValueError(
                f"{type(each).__name__} watches {watched!r}, which {type(writers[0]).__name__} puts into `logs` only "
                f"afterwards. Give {type(writers[0]).__name__} before it in `callbacks`."
            )


# When the package is imported, like the wrapping of `compile`.
hooks.surround_fit(session)
