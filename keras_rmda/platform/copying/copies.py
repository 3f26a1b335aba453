"""Copies of layers: from configurations that keep the very functions of a layer, and as objects.

Keras writes functions into configurations by their names, and reads others of the same names back. Checked with Keras
3.8 and 3.15.
"""

from __future__ import annotations

import contextlib
import inspect
import tempfile
import types
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras.src.saving.serialization_lib import SafeModeScope

from keras_rmda.platform.compat import custom_objects, layers_of
from keras_rmda.platform.copying.functions import WRAPPERS, is_function, reached
from keras_rmda.platform.copying.objects import Duplicate
from keras_rmda.platform.graphs import refusal


class Copies:
    """Copies of the layers of one model; what several layers hold is one object in their copies, too.

    Args:
        model: the model.
        made: by `id`, what `graphs.rebuilt` has made of layers.
        name_of: returns what a function is called in configurations; None for numbers.
    """

    def __init__(
        self,
        model: keras.Model,
        made: dict[int, list] | None = None,
        name_of: Callable[[Any], str | None] = lambda function: None,
    ):
        inside = [layer for layer in layers_of(model) if layer is not model]
        self.owned = {id(x) for layer in inside for x in (layer, *layer.variables)}
        self.made: dict[int, list] = {} if made is None else made
        self.objects: dict[int, Any] = {}
        self.functions: dict[str, Any] = {}
        self.name_of = name_of

    def whole(self, layer: Any, is_built: bool = True) -> Any:
        """Return a copy of a layer or operation that stays as it is, or is built for other inputs.

        Raises:
            ValueError: naming the layer, if it can be copied neither as an object nor by its configuration.
        """
        if id(layer) in self.objects:  # another layer holds it, too
            return self.objects[id(layer)]
        try:
            new = self._duplicated(layer)
            if not is_built and isinstance(new, keras.Layer):
                new.built = False
                new._tracker.unlock()
            return new
        except Exception as reason:  # whatever the user's objects raise
            try:
                new = self.resized(layer, self.config_of(layer))
                if is_built:
                    _check_weights(layer, new)
                return new
            except ValueError as error:
                raise refusal(layer, f", and it cannot be copied as an object ({_line(reason)})", error) from error

    def config_of(self, layer: Any) -> dict[str, Any]:
        """Return a layer's configuration, in which names that only `resized` knows stand for its functions.

        Raises:
            ValueError: naming the layer, if it has none.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Keras warns of lambdas in files, and this is none
                own = (vars(each).items() for each in inside_of(layer))
                if any(key not in WRAPPERS and is_unknown(value) for items in own for key, value in items):
                    return self._named(layer)
                return layer.get_config()
        except Exception as error:
            raise refusal(layer, ", since its `get_config()` raises", error) from error

    def _named(self, layer: Any) -> dict[str, Any]:
        """Return the configuration of a layer with other functions, which are called by names of our own."""

        def stand_in(function: Any) -> Any:
            if not is_unknown(function):
                return function

            def named(*args: Any, **kwargs: Any) -> Any:
                return function(*args, **kwargs)

            named.__name__, named.stands_for = self.name_of(function) or f"function {len(self.functions)}", function
            with contextlib.suppress(TypeError, ValueError):  # of functions written in C
                named.__signature__ = inspect.signature(function)
            self.functions[named.__name__] = named
            return named

        return Duplicate({}, set(), stand_in).of(layer).get_config()

    def resized(
        self, layer: Any, config: dict[str, Any], changes: Mapping[str, Any] = types.MappingProxyType({})
    ) -> Any:
        """Return a new layer of the same class.

        Args:
            layer: the layer.
            config: a configuration that began as `config_of`.
            changes: what it has instead; these of its functions are not the layer's.

        Raises:
            ValueError: naming the layer, if its class cannot be made from it.
        """
        if id(layer) in self.objects:
            raise refusal(layer, "", ValueError("another layer, or a function of one, holds it, too"))
        try:
            kinds = {type(each) for each in inside_of(layer) if not type(each).__module__.startswith("keras.")}
            known = {keras.saving.get_registered_name(kind): kind for kind in kinds} | self.functions
            with SafeModeScope(safe_mode=False), keras.saving.CustomObjectScope(custom_objects() | known):
                new = type(layer).from_config({**config, **changes})
            copy_assets(layer, new)
            new.name = {**config, **changes}.get("name", layer.name)  # which a `get_config` may leave out
            self._give_functions(layer, new, changes)
            return new
        except Exception as error:
            raise refusal(layer, " from its `get_config()`", error) from error

    def _give_functions(self, layer: Any, new: Any, changes: Mapping[str, Any]) -> None:
        """Give a new layer the functions themselves, also those that are in no configuration."""
        for each in inside_of(new):
            vars(each).update({key: _real(value) for key, value in vars(each).items()})
        for old, other in zip(inside_of(layer), inside_of(new)):
            for key, value in vars(old).items():
                if key not in (*WRAPPERS, *changes) and is_function(value) and type(old) is type(other):
                    leads = next(reached(value, self.owned), None) is not None
                    found = vars(other).get(key)
                    if leads or not (found is value or _alike(found, value)):
                        vars(other)[key] = self._duplicated(value, {id(layer): new}) if leads else value

    def _duplicated(self, x: Any, known: dict[int, Any] | None = None) -> Any:
        """Return a copy of a layer or function as an object."""
        made = {key: layers[0] for key, layers in self.made.items() if len(layers) == 1}
        duplicate = Duplicate(made | self.objects | (known or {}), self.owned)
        result = duplicate.of(x)
        self.objects |= duplicate.objects
        return result


def _check_weights(layer: Any, new: Any) -> None:
    """Build a copy as its layer is, if it can be; raise `ValueError` if it has weights of other shapes then."""
    with contextlib.suppress(Exception):
        new.build_from_config(layer.get_build_config())
    shapes, made = ([tuple(v.shape) for v in getattr(each, "weights", [])] for each in (layer, new))
    if getattr(new, "built", False) and shapes != made:
        raise ValueError(f"its `get_config()` makes weights of the shapes {made}, where {shapes} are.")


def weights_read(layer: Any, owned: set[int]) -> list:
    """Return the weights that a layer has, and those of others among `owned`, by `id`, that its functions lead to."""
    found = list(getattr(layer, "weights", []))
    for each in inside_of(layer):
        for key, value in vars(each).items():
            if key not in WRAPPERS and is_function(value):
                found += [
                    v for x in reached(value, owned) for v in ([x] if isinstance(x, keras.Variable) else x.weights)
                ]
    return found


def lost_function(layer: Any, new: Any) -> str | None:
    """Return the name of an attribute that is a function of a layer, and another one in its copy; or None."""
    owned = {id(x) for each in inside_of(layer) for x in (each, *getattr(each, "variables", []))}
    for old, other in zip(inside_of(layer), inside_of(new)):
        for key, value in vars(old).items() if type(old) is type(other) else ():
            if key in WRAPPERS or not is_function(value) or (found := vars(other).get(key)) is value:
                continue
            if not _alike(found, value) and next(reached(value, owned), None) is None:
                return key
    return None


def _real(x: Any) -> Any:
    """Return what something stands for; containers are changed in their places."""
    if isinstance(x, dict | list):
        for key, value in [*(x.items() if isinstance(x, dict) else enumerate(x))]:
            if (found := _real(value)) is not value:
                x[key] = found
    return getattr(x, "stands_for", x) if isinstance(x, types.FunctionType) else x


def inside_of(layer: Any) -> list:
    """Return a layer with all layers inside, or an operation."""
    return layers_of(layer) if isinstance(layer, keras.Layer) else [layer]


def is_unknown(value: Any) -> bool:
    """Return whether something is a function that Keras does not read back from its name, or a container of such."""
    if isinstance(value, list | tuple):
        return any(map(is_unknown, value))
    if isinstance(value, dict):
        return any(map(is_unknown, value.values()))
    if not is_function(value):
        return False
    try:
        return keras.activations.get(value.__name__) is not value
    except (AttributeError, ValueError):
        return True


def _alike(found: Any, value: Any) -> bool:
    """Return whether two functions are made by the same code, as in a constructor that makes its own."""
    code = lambda x: getattr(getattr(x, "func", x), "__code__", type(x))  # noqa: E731
    return found is not None and code(found) is code(value)


def copy_assets(layer: Any, new: Any) -> None:
    """Give a copy what is neither configuration nor weights, such as the adapted table of a StringLookup."""
    for one, other in zip(*(layers_of(x) if isinstance(x, keras.Layer) else [] for x in (layer, new))):
        if hasattr(one, "save_assets"):
            variables: dict[str, Any] = {}
            one.save_own_variables(variables)
            other.load_own_variables(variables)
            with tempfile.TemporaryDirectory() as folder:
                one.save_assets(folder)
                other.load_assets(folder)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:150]
