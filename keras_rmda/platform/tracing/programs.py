"""Programs: what code does with symbolic tensors, as steps that can be compared and made again."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras.src.ops.operation import Operation
from keras.src.utils.tracking import TrackedList

from keras_rmda.platform.compat import layers_of
from keras_rmda.platform.graphs import has_graph, tensors_in
from keras_rmda.platform.hidden import mask_of, with_masks


class Untraceable(Exception):
    """Code does not say what it computes; the message says why."""


@dataclass(frozen=True)
class Place:
    """A tensor of a program.

    Attributes:
        step: the number of the step that makes it; -1 for an input.
        number: which of its outputs it is, or which of the inputs.
    """

    step: int
    number: int


@dataclass(frozen=True)
class Note:
    """What code gives to `add_loss`, or by what it updates a metric.

    Attributes:
        place: of the tensor.
        metric: the number of the metric among those of the layer; None for a loss.
    """

    place: Place
    metric: int | None = None


@dataclass
class Step:
    """A call of a layer or an operation.

    Attributes:
        operation: the layer or operation.
        arguments: of the call, positional and by name, with places where the code has tensors.
        shapes: of its outputs.
    """

    operation: Any
    arguments: tuple[tuple, dict]
    shapes: list[tuple]

    @property
    def places(self) -> list[Place]:
        """The tensors that it reads."""
        return [x for x in keras.tree.flatten(self.arguments) if isinstance(x, Place)]

    @property
    def called(self) -> str:
        """What it calls, in words."""
        if isinstance(self.operation, keras.Layer):
            return f"the layer {self.operation.name!r}"
        return f"`ops.{type(self.operation).__name__.lower()}`"


@dataclass
class Program:
    """What code makes of inputs.

    Attributes:
        steps: in an order that depends on nothing but the code.
        outputs: structured as the code returns them, with places where it has tensors; arrays are what they are.
        shapes: of the inputs.
        masks: of tensors that carry a mask, and where that is.
        known: the places of tensors, by their ids.
        losses: what the code gives to `add_loss`, and to metrics.
        losses_of_training: what it gives there at training.
        count: how many steps make the outputs; those behind them are for losses only.
    """

    steps: list[Step]
    outputs: Any
    shapes: list[tuple]
    masks: dict[Place, Place] = field(default_factory=dict)
    known: dict[int, Place] = field(default_factory=dict)
    losses: list[Note] = field(default_factory=list)
    count: int = 0
    losses_of_training: list[Note] = field(default_factory=list)

    @property
    def steps_of_outputs(self) -> list[Step]:
        """The steps that make the outputs."""
        return self.steps[: self.count]

    def shape(self, place: Place) -> tuple:
        """Return the shape of a tensor."""
        return self.shapes[place.number] if place.step < 0 else self.steps[place.step].shapes[place.number]


def kinds(steps: list[Step]) -> list:
    """Return what steps call, and which tensors they read, without what depends on sizes."""
    return [(type(step.operation), step.places) for step in steps]


def program(outputs: Any, inputs: list, losses: list | tuple = (), metrics: list | tuple = ()) -> Program:
    """Return the program that has made symbolic outputs, and symbolic losses, of symbolic inputs.

    Args:
        outputs: what the code returns.
        inputs: of the code.
        losses: what it gives to `add_loss`, and then to metrics.
        metrics: the numbers of these metrics.

    Raises:
        Untraceable: if an output is no tensor and no array, or comes from elsewhere.
    """
    if not all(isinstance(x._keras_history.operation, keras.layers.InputLayer) for x in inputs):
        raise Untraceable("it chooses by numbers, as `ops.cond` does")  # whose result is a branch's tensor itself
    places = {id(x): Place(-1, k) for k, x in enumerate(inputs)}
    masks = {Place(-1, k): mask_of(x) for k, x in enumerate(inputs)}
    steps: list[Step] = []
    found = [x for x in keras.tree.flatten(outputs) if x is not None]
    counts = []
    for wanted in (found, losses):
        waiting = [x for x in reversed(wanted) if not is_array(x)]
        while waiting:
            x = waiting[-1]
            if id(x) in places:
                waiting.pop()
                continue
            if not isinstance(x, keras.KerasTensor):
                raise Untraceable(f"it returns {type(x).__name__}, no symbolic tensor")
            history = getattr(x, "_keras_history", None)
            if history is None or history.operation is None or isinstance(history.operation, keras.layers.InputLayer):
                raise Untraceable("it uses a symbolic tensor that is none of its inputs")
            node = history.operation._inbound_nodes[history.node_index]
            arguments, named = tuple(node.arguments.args), dict(node.arguments.kwargs)
            masked = named if has_graph(node.operation) else with_masks(node.operation, arguments, named)
            given = (arguments, masked)
            hidden = [x for key in given[1].keys() - named.keys() for x in tensors_in(given[1][key])]
            missing = [each for each in [*node.input_tensors, *hidden] if id(each) not in places]
            if missing:
                waiting += reversed(missing)
                continue
            let_go(node.operation)
            arguments = keras.tree.map_structure(lambda each: places.get(id(each), each), given)
            made = Step(node.operation, arguments, [tuple(y.shape) for y in node.output_tensors])
            steps += in_pairs(made, len(steps), [tuple(each.shape) for each in node.input_tensors])
            made = {id(y): Place(len(steps) - 1, k) for k, y in enumerate(node.output_tensors)}
            places.update(made)
            masks.update((made[id(y)], mask_of(y)) for y in node.output_tensors)
        counts.append(len(steps))
    whole = len(found) == len(keras.tree.flatten(outputs))
    outputs = keras.tree.map_structure(lambda x: x if is_array(x) else places[id(x)], outputs if whole else found)
    losses = [places[id(x)] for x in losses]
    _leave_out_scores(steps, (outputs, losses))
    losses = list(map(Note, losses, [*[None] * (len(losses) - len(metrics)), *metrics]))
    masks = {place: places[id(mask)] for place, mask in masks.items() if id(mask) in places}
    return Program(steps, outputs, [tuple(x.shape) for x in inputs], masks, places, losses, counts[0])


def let_go(operation: Any) -> None:
    """Let an operation have lists of its own in the place of those of a layer, which lead to all that the layer has."""

    def plain(x: Any) -> Any:
        if isinstance(x, TrackedList) or type(x) in (list, tuple):
            return (tuple if isinstance(x, tuple) else list)(plain(each) for each in x)
        return x

    if not isinstance(operation, keras.Layer):
        vars(operation).update({name: plain(x) for name, x in settings(operation).items()})
        if (made := getattr(operation, "_auto_config", None)) is not None:  # what it was made with
            made.config = {name: plain(x) for name, x in made.config.items()}


def _leave_out_scores(steps: list[Step], outputs: Any) -> None:
    """Let attention not return scores that nobody reads, as code does that only keeps them to be looked at."""
    read = {place for step in steps for place in step.places}
    read |= {x for x in keras.tree.flatten(outputs) if isinstance(x, Place)}
    for number, step in enumerate(steps):
        arguments, named = step.arguments
        if named.get("return_attention_scores") is True and Place(number, 1) not in read:
            step.arguments = arguments, {k: x for k, x in named.items() if k != "return_attention_scores"}
            step.shapes = step.shapes[:1]


def in_pairs(step: Step, number: int, shapes: list[tuple]) -> list[Step]:
    """Return a product of more than two tensors as products of two, from the left; other steps as they are.

    Args:
        step: the step.
        number: which step of its program it is, or the first of them.
        shapes: of the tensors that it reads.
    """
    subscripts = getattr(step.operation, "subscripts", "").replace(" ", "")
    terms, arrow, output = subscripts.partition("->")
    if len(step.places) < 3 or not arrow or "." in subscripts or step.places != list(step.arguments[0]):
        return [step]
    sizes: dict[str, Any] = {}
    first, *others = terms.split(",")
    for letters, shape in zip([first, *others], shapes, strict=True):
        sizes |= {letter: n for letter, n in zip(letters, shape) if n != 1 or letter not in sizes}
    steps, [place, *places] = [], step.places
    for k, (letters, other) in enumerate(zip(others, places)):
        later = set("".join(others[k + 1 :]) + output)
        made = "".join(dict.fromkeys(x for x in first + letters if x in later)) if others[k + 1 :] else output
        operation = type(step.operation)(f"{first},{letters}->{made}")
        steps.append(Step(operation, ((place, other), {}), [tuple(sizes[letter] for letter in made)]))
        first, place = made, Place(number + k, 0)
    return steps


PLAIN = frozenset(vars(Operation())) | {"built"}
"""Attributes of operations that say nothing about what they compute."""


def settings(operation: Any) -> dict[str, Any]:
    """Return the attributes of a raw operation, such as its axis."""
    return {name: value for name, value in vars(operation).items() if name not in PLAIN}


def described(step: Step, own: set[int]) -> list:
    """Return what a step does, as plain data without sizes of tensors.

    Args:
        step: the step.
        own: the layers that exist beside the code, by `id`; others are made at every call.
    """
    operation = step.operation
    if not isinstance(operation, keras.Layer):
        return [type(operation).__name__, settings(operation), step.arguments]
    if id(operation) in own:
        return [id(operation), without_training(operation, *step.arguments)]
    made = [type(operation).__name__, config_but_name(operation)]
    return [*made, without_training(operation, *step.arguments)]


def config_but_name(layer: keras.Layer) -> dict[str, Any]:
    """Return the configuration of a layer that is made at every call, without what is new every time."""
    return {key: value for key, value in layer.get_config().items() if key not in ("name", "seed")}


def without_training(layer: keras.Layer, arguments: tuple, keyword_arguments: dict) -> tuple:
    """Return the arguments of a call of a layer without `training`, by name or by position."""
    names = list(inspect.signature(layer.call).parameters)
    given = tuple(None if k < len(names) and names[k] == "training" else x for k, x in enumerate(arguments))
    # Keras adds a mask of None at some calls.
    return given, {key: x for key, x in keyword_arguments.items() if key != "training" and x is not None}


def is_same(a: Any, b: Any) -> bool:
    """Return whether two descriptions are equal, with arrays by their numbers."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(is_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(is_same(x, y) for x, y in zip(a, b))
    if is_array(a) and is_array(b):
        x, y = (keras.ops.convert_to_numpy(each) for each in (a, b))
        return x.shape == y.shape and x.dtype == y.dtype and np.array_equal(x, y)
    if isinstance(a, slice) and isinstance(b, slice):
        return (a.start, a.stop, a.step) == (b.start, b.stop, b.step)
    return type(a) is type(b) and bool(a == b)


def is_array(x: Any) -> bool:
    """Return whether something is an array of numbers."""
    return isinstance(x, np.ndarray | np.generic) or keras.ops.is_tensor(x)


def own_layers(layer: keras.Layer) -> set[int]:
    """Return the layers of a layer or model, by `id`."""
    return {id(each) for each in layers_of(layer)}
