"""Layers that Keras cannot read back by themselves, but that a layer or model around them makes again.

A class may give layers inside of it what no configuration holds: functions, policies, arguments that a `get_config`
forgets. In a file such a layer is written as a part of what makes it: the configuration of that, and the way inside.
So no code is in the file, and reading needs what reading the original needs. Checked with Keras 3.8 and 3.15.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import keras
from keras.src.models.functional import Functional
from keras.src.saving.serialization_lib import get_shared_object, record_object_after_deserialization

from keras_rmda.platform import compat
from keras_rmda.platform.copying.copies import Copies
from keras_rmda.platform.copying.readable import is_read_as

PART = "_part_of_a_whole"
"""The attribute of a layer that says how it is made again, if Keras alone cannot do it."""

FUNCTION = "a function that is in no file"
"""What stands in settings for a function, which the layer in the whole has."""

WHOLES: list[dict[str, Any]] = []
"""What has been made to take parts from, by its configuration; one dictionary inside of `taking_parts`."""


@contextlib.contextmanager
def taking_parts() -> Iterator[None]:
    """Let several parts be taken from one whole, which is made once."""
    WHOLES.append(WHOLES[-1] if WHOLES else {})
    try:
        yield
    finally:
        WHOLES.pop()


@keras.saving.register_keras_serializable(package="keras_rmda")
@dataclass
class Part:
    """How a layer is made again: what is read from a file that has this in the place of a layer, is the layer.

    Args:
        name, trainable: of the layer.
        whole: the serialized layer or model around it.
        path: which layer inside of that, and which inside of this, and so on.
        settings: what the layer has instead of what is in its configuration there; None for the very same layer.
        shared: layers inside that others hold, too: the path, a number that is theirs in the file, and the name.
        known: classes by which the whole is read, of those that nobody registered.
    """

    name: str
    trainable: bool
    whole: dict[str, Any]
    path: list[int]
    settings: dict[str, Any] | None
    shared: list[tuple[list[int], int, str]]
    known: dict[str, Any] = field(default_factory=dict)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, without the classes, which are to be known where the file is read."""
        return {key: value for key, value in vars(self).items() if key != "known"}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Return the layer, which is of the class that it was of."""
        part = cls(**config, known=compat.custom_objects())
        with taking_parts():
            whole = _made(part.whole)
        found = inside(whole, part.path)
        there = {id(inside(found, path)): get_shared_object(number) for path, number, _ in part.shared}
        copies = Copies(whole, {key: [layer] for key, layer in there.items() if layer is not None})
        if part.settings is None:
            new = copies.whole(found, is_built=bool(found.weights))
            for path, number, name in part.shared:
                if get_shared_object(number) is None:
                    inside(new, path).name = name
                    record_object_after_deserialization(inside(new, path), number)
        else:
            new = copies.resized(found, _with_functions(part.settings, copies.config_of(found)))
        new.name = part.name
        if new.trainable != part.trainable:
            new.trainable = part.trainable
        vars(new)[PART] = part
        return new


def children(layer: Any) -> list:
    """Return the layers that a layer holds, in the order in which it has got them.

    Without the input layer that a Sequential model makes in front when it is built: what is read is not built yet.
    """
    found = list(layer._flatten_layers(include_self=False, recursive=False))
    if isinstance(layer, keras.Sequential):
        return [each for each in found if not isinstance(each, keras.layers.InputLayer)]
    return found


def inside(layer: Any, path: list[int]) -> Any:
    """Return the layer to which a path leads."""
    for k in path:
        layer = children(layer)[k]
    return layer


def paths_to(layer: Any, wanted: set[int]) -> Iterator[list[int]]:
    """Give the paths to layers inside that are wanted, by `id`."""
    for k, each in enumerate(children(layer)):
        if id(each) in wanted:
            yield [k]
        else:
            yield from ([k, *path] for path in paths_to(each, wanted))


def _made(config: dict[str, Any]) -> Any:
    """Return a layer or model from its serialized form; if possible its weights have no values yet."""
    key = json.dumps(config, sort_keys=True)
    if key not in WHOLES[-1]:
        WHOLES[-1][key] = _attempt(key, has_values=False)
        if isinstance(WHOLES[-1][key], Exception):  # it may need values; if that was not it, the error comes again
            WHOLES[-1][key] = _attempt(key, has_values=True)
    if isinstance(WHOLES[-1][key], Exception):
        raise WHOLES[-1][key]
    return WHOLES[-1][key]


def _attempt(config: str, has_values: bool) -> Any:
    try:
        with compat.without_a_trace(has_values):
            return keras.saving.deserialize_keras_object(json.loads(config))
    except Exception as error:  # whatever the user's code raises
        return error


class Sources:
    """What makes the layers inside of a model.

    Args:
        model: the model, as its user has made it.
    """

    def __init__(self, model: keras.Model):
        self.around: dict[int, tuple[Any, int]] = {}
        self.serialized: dict[int, Any] = {}
        waiting = [model]
        while waiting:
            layer = waiting.pop(0)
            for k, each in enumerate(children(layer)):
                if id(each) not in self.around and each is not model:
                    self.around[id(each)] = layer, k
                    waiting.append(each)

    def of(self, layer: Any) -> Iterator[tuple[Any, list[int], dict[str, Any]]]:
        """Give what makes a layer, the nearest first: the serialized whole, the path, and classes that are to be known.

        As with the original, the class of the outermost must be known where the file is read.
        """
        path: list[int] = []
        while True:
            if (part := vars(layer).get(PART)) is not None:
                yield part.whole, [*part.path, *path], part.known
            elif path and not _is_of_layers(layer):
                whole = self._serialized(layer)
                if whole is not None:
                    is_outermost = id(layer) not in self.around
                    kind = type(layer)
                    yield whole, path, {keras.saving.get_registered_name(kind): kind} if is_outermost else {}
            if id(layer) not in self.around:
                return
            layer, k = self.around[id(layer)]
            path = [k, *path]

    def _serialized(self, layer: Any) -> Any:
        if id(layer) not in self.serialized:
            self.serialized[id(layer)] = None
            with contextlib.suppress(Exception), warnings.catch_warnings():  # whatever the user's code raises
                warnings.simplefilter("ignore")  # of lambdas, which are not taken
                found = keras.saving.serialize_keras_object(layer)
                found.pop("compile_config", None)
                self.serialized[id(layer)] = json.loads(json.dumps(found))
        return self.serialized[id(layer)]


def _is_of_layers(layer: Any) -> bool:
    """Return whether a model's configuration is that of its layers, which are made one by one."""
    return isinstance(layer, Functional | keras.Sequential) and type(layer).__init__ in (
        Functional.__init__,
        keras.Sequential.__init__,
    )


def part_for(layer: Any, old: Any, sources: Sources, shared: list[list[int]]) -> Part | None:
    """Return the part of a whole that a layer is, which stands for one of a model; None if nothing makes it again.

    Args:
        layer: the layer.
        old: the one of the model.
        sources: what there is around that.
        shared: the paths to layers inside that others hold, too.
    """
    for whole, path, known in sources.of(old):
        for settings in (None,) if shared else (None, _settings(layer)):
            part = Part(layer.name, layer.trainable, whole, path, settings, [(each, 0, "") for each in shared], known)
            with keras.saving.CustomObjectScope(compat.custom_objects() | known):
                if is_read_as(layer, lambda part=part: Part.from_config(part.get_config()), tolerant=True):
                    return part
    return None


def _settings(layer: Any) -> Any:
    """Return the configuration of a layer, with `FUNCTION` in the places of functions."""
    copies = Copies(layer)

    is_function = lambda x: isinstance(x, str) and x in copies.functions  # noqa: E731

    def told(x: Any) -> Any:
        if isinstance(x, dict):
            return FUNCTION if is_function(x.get("config")) else {key: told(x[key]) for key in x}
        if isinstance(x, list | tuple):
            return [told(each) for each in x]
        return FUNCTION if is_function(x) else x

    try:
        return told(keras.saving.serialize_keras_object(copies.config_of(layer)))
    except Exception:  # it has none, or one that holds what no file does
        return {}


def _with_functions(settings: Any, config: Any) -> Any:
    """Return a configuration, with what another one has in the places of functions."""
    if isinstance(settings, dict) and isinstance(config, dict):
        return {key: _with_functions(value, config.get(key)) for key, value in settings.items()}
    if isinstance(settings, list) and isinstance(config, list | tuple) and len(settings) == len(config):
        return [_with_functions(*each) for each in zip(settings, config)]
    return config if settings == FUNCTION else settings
