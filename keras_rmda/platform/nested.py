"""Optimizers inside of others. Keras has no public way to ask its `MultiOptimizer` who trains a variable.

Private calls, checked with Keras 3.8 and 3.15.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
from keras.src.backend.common.stateless_scope import in_stateless_scope


def inner_optimizers(optimizer: Any) -> list:
    """Return the optimizers that train variables: `[optimizer]`, or those inside of it where it is a wrapper.

    Wrappers are Keras's `LossScaleOptimizer` and `MultiOptimizer` and every optimizer that has others in its
    attributes. A `MultiOptimizer` by a function has none before it is built.
    """
    found = [each for each, is_innermost in optimizers_in(optimizer) if is_innermost]
    return list(dict.fromkeys(found)) or [optimizer]


def optimizers_in(held: Any, above: tuple[int, ...] = ()) -> Iterator[tuple[Any, bool]]:
    """Yield each optimizer in a value, with whether it holds no others; `above` guards against circles."""
    if id(held) in above:
        return
    above = (*above, id(held))
    if isinstance(held, keras.optimizers.Optimizer):
        inside = [found for each in vars(held).values() for found in optimizers_in(each, above)]
        yield held, not inside
        yield from inside
    elif isinstance(held, (list, tuple, set, Mapping)):
        for each in held.values() if isinstance(held, Mapping) else held:
            yield from optimizers_in(each, above)


def makes_optimizers_when_built(optimizer: Any) -> bool:
    """Return whether there is a `MultiOptimizer` by a function in it, which has not called the function yet."""
    return any(hasattr(each, "_optimizer_map") and not each.built for each, _ in optimizers_in(optimizer))


def decays(optimizer: Any, variable: keras.Variable) -> bool:
    """Return whether an optimizer with weight decay decays a variable."""
    return optimizer._use_weight_decay(variable)


def trainer_of(optimizer: Any) -> Callable[[keras.Variable], Any]:
    """Return a function that says which optimizer trains a variable: the optimizer itself, or one inside of it.

    It says None where that cannot be known: a wrapper of the user's own around several, before it is built, and where
    a function would have to make optimizers while Keras looks at shapes only.
    """
    candidates = inner_optimizers(optimizer)
    maps = [each._optimizer_map for each, _ in optimizers_in(optimizer) if hasattr(each, "_optimizer_map")]

    def trainer(variable: keras.Variable) -> Any:
        if maps and not any(each.built for each in candidates):
            # A function may make another optimizer at every call, which has variables.
            return None if in_stateless_scope() else maps[0](variable)
        if len(candidates) == 1:
            return candidates[0]
        built = (each for each in candidates if each.built)
        return next((each for each in built if each._var_key(variable) in each._trainable_variables_indices), None)

    return trainer
