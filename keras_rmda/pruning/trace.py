"""From a model to an integer, an "atom", for every channel of every tensor."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_rmda import _graphs, _symbolic
from keras_rmda.channels.gates import Vanishes
from keras_rmda.channels.rule import OPAQUE
from keras_rmda.channels.sites import Call, Site
from keras_rmda.channels.table import RULES, rule_of
from keras_rmda.channels.tensors import Atoms, NotCovered, Shape, Tensor


@dataclass
class Trace:
    """The channels of a model.

    Attributes:
        sites: the layers, by `id`, in the order of their first calls.
        calls: in order of execution.
        tensors: in the order of their making.
        ties: which atoms are one.
        pinned: atoms that stay whatever the weights are, with reasons.
        outputs: the model's outputs.
    """

    sites: dict[int, Site] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    ties: Atoms = field(default_factory=Atoms)
    pinned: list[tuple[np.ndarray, str]] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)

    @property
    def opaque(self) -> dict[str, str]:
        """Why layers are opaque, by name."""
        return {site.name: site.opaque for site in self.sites.values() if site.opaque}


def as_graph(model: keras.Model) -> AbstractContextManager[keras.Model]:
    """Give, inside a context, a model with a graph that has the layers of `model`, subclassed or not.

    Raises:
        ValueError: if the model is not built, or is subclassed and its `call` cannot be traced.
    """
    return _symbolic.as_graph(model, is_known=lambda layer: type(layer) in RULES)


def trace(model: keras.Model) -> Trace:
    """Give every channel of every tensor of a model an atom.

    Args:
        model: a model with a graph, which may contain others.

    Returns:
        The trace.

    Raises:
        ValueError: if the model has no graph of layers.
    """
    return Builder().build(model)


def tensors_in(structure: Any) -> list[Tensor]:
    """Return the tensors in a nested structure of arguments."""
    return [x for x in keras.tree.flatten(structure) if isinstance(x, Tensor)]


class Builder:
    """Goes through a model and fills a `Trace`."""

    def __init__(self) -> None:
        self.trace = Trace()
        self.prefix = ""
        self.training = self.has_masks = False
        self.inside: dict[int, list[Tensor]] = {}

    def build(self, model: keras.Model) -> Trace:
        """Return the trace of a model."""
        inputs = [self.make(x.shape[1:]) for x in _graphs.inputs_of(model)]
        self.has_masks = _graphs.has_masks(model)
        for x in inputs:
            self.pin("model input", x)
        self.trace.outputs = keras.tree.flatten(_graphs.replayed(model, inputs, self.visit))
        for y in self.trace.outputs:
            self.pin("model output", y)
        self.keep_what_opaque_layers_read()
        for x in self.trace.tensors:
            self.make_rectangular(x)
        self.find_partners()
        return self.trace

    def make(self, shape: Shape, atoms: np.ndarray | None = None) -> Tensor:
        """Register a tensor; without `atoms` it is one atom as a whole."""
        atoms = self.trace.ties.fresh(*[1] * len(shape)) if atoms is None else atoms
        self.trace.tensors.append(Tensor(len(self.trace.tensors), atoms, tuple(shape)))
        return self.trace.tensors[-1]

    def pin(self, reason: str, *tensors: Tensor) -> None:
        """Keep all atoms of the tensors, for a reason."""
        self.trace.pinned += [(x.atoms.reshape(-1), reason) for x in tensors]

    def visit(self, node: Any, arguments: tuple, keyword_arguments: dict) -> list[Tensor]:
        """Add the call of a layer, operation or model; return its outputs."""
        operation = node.operation
        masks = tensors_in([x for key, x in keyword_arguments.items() if key.endswith("mask")])
        inputs = [x for x in tensors_in((arguments, keyword_arguments)) if all(x is not mask for mask in masks)]
        training = self.training or keyword_arguments.get("training") is True
        if _graphs.is_inner_graph(operation):
            return self.enter(operation, inputs, training)
        site = self.trace.sites.get(id(operation))
        if site is None:
            site = self.trace.sites[id(operation)] = Site(operation, OPAQUE, self.prefix + operation.name)
            try:
                site.rule = rule_of(operation)
            except NotCovered as reason:
                site.opaque = str(reason)
        shapes = [tuple(y.shape[1:]) for y in node.output_tensors]
        masked = self.has_masks and isinstance(operation, keras.Layer)
        call = Call(site, inputs, shapes, (arguments, keyword_arguments), masks=masks, masked=masked)
        atoms: list[np.ndarray | None] = [None] * len(shapes)
        if not site.opaque:
            try:
                if training:
                    raise NotCovered("training=True, which changes what it computes")
                atoms = site.rule.atoms(call, self.trace.ties)
            except NotCovered as reason:
                site.rule, site.opaque = OPAQUE, f"{type(operation).__name__} with {reason}"
                for earlier in site.calls:
                    self.pin(f"opaque: {site.name}", *earlier.inputs, *earlier.outputs)
        inner = [array.shape for array in atoms[len(shapes) :]]
        call.outputs = [self.make(shape, array) for shape, array in zip([*shapes, *inner], atoms)]
        if site.opaque:
            self.pin(f"opaque: {site.name}", *call.inputs, *call.outputs)
        site.calls.append(call)
        self.trace.calls.append(call)
        return call.outputs[: len(shapes)]

    def enter(self, model: keras.Model, inputs: list[Tensor], training: bool) -> list[Tensor]:
        """Add the calls inside a model; a model that is called again has the same channels at every call."""
        outside = self.prefix, self.training
        self.prefix, self.training = f"{self.prefix}{model.name}/", training
        first = len(self.trace.tensors)
        outputs = keras.tree.flatten(_graphs.replayed(model, inputs, self.visit))
        self.prefix, self.training = outside
        tensors = [*inputs, *self.trace.tensors[first:]]
        for earlier, x in zip(self.inside.setdefault(id(model), tensors), tensors):
            if earlier is not x and earlier.atoms.shape == x.atoms.shape:
                self.trace.ties.tie(earlier.atoms, x.atoms)
            elif earlier is not x:
                self.pin(f"several shapes in {model.name}", earlier, x)
        return outputs

    def keep_what_opaque_layers_read(self) -> None:
        """Keep generators and gates whose numbers are outputs, or read by a layer that stays as it is."""
        kept = {y.index for y in self.trace.outputs}
        for call in reversed(self.trace.calls):
            site = call.site
            if not site.rule.vanishes:
                kept.update(x.index for x in call.inputs)
            else:
                numbers = call.outputs if isinstance(site.rule, Vanishes) else call.outputs[1:]
                if any(x.index in kept for x in numbers):
                    site.rule, site.opaque = OPAQUE, f"{type(site.layer).__name__} with a reader that is opaque"
                    for each in site.calls:
                        self.pin(f"opaque: {site.name}", *each.inputs, *each.outputs)
                        kept.update(x.index for x in each.inputs)

    def make_rectangular(self, x: Tensor) -> None:
        """Tie the atoms of a tensor so that what goes is the same for all positions of all axes but one."""
        if sum(n > 1 for n in x.atoms.shape) < 2:
            return
        atoms = self.trace.ties.find(x.atoms)
        varying = [axis for axis in range(atoms.ndim) if (atoms != np.take(atoms, [0], axis)).any()]
        if len(varying) > 1 and not any(x is y for call in self.trace.calls for y in call.outputs[len(call.shapes) :]):
            x.channels(varying[-1], self.trace.ties)

    def find_partners(self) -> None:
        """Let batch normalizations take the constants of the layers without bias right before them."""
        readers: dict[int, list[Call]] = {}
        for call in self.trace.calls:
            for x in call.inputs:
                readers.setdefault(x.index, []).append(call)
        exposed = {y.index for y in self.trace.outputs}
        for call in self.trace.calls:
            if len(call.outputs) != 1 or call.outputs[0].index in exposed or not hasattr(call.site.rule, "absorbed"):
                continue
            following = readers.get(call.outputs[0].index, [])
            no_activation = getattr(call.layer, "activation", None) in (None, keras.activations.linear)
            if len(following) != 1 or not no_activation or getattr(call.layer, "bias", None) is not None:
                continue
            [after] = following
            if call.alone and after.alone and getattr(after.site.rule, "subtracts", None):
                y = call.outputs[0]
                if after.axis(y) == call.site.rule.output_axis(call):
                    call.partner, after.partner = after, call
