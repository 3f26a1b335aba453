"""From a model to an integer, an "atom", for every channel of every tensor."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_rmda.channels.gates import Vanishes
from keras_rmda.channels.penalties import fixed_outputs, fixed_weights
from keras_rmda.channels.rule import OPAQUE
from keras_rmda.channels.sites import Block, Call, Site
from keras_rmda.channels.table import row_of, rule_of
from keras_rmda.channels.tensors import Atoms, NotCovered, Shape, Tensor
from keras_rmda.platform import graphs
from keras_rmda.platform.copying import symbolic
from keras_rmda.structure.sharing import keep_what_cannot_be_shared, tie_shared_weights
from keras_rmda.structure.widths import blocks_of


@dataclass
class Trace:
    """The channels of a model.

    Attributes:
        sites: the layers, by `id`, in the order of their first calls.
        calls: in order of execution.
        tensors: in the order of their making.
        ties: which atoms are one.
        pinned: atoms that stay whatever the weights are, with reasons.
        pins: by number, the reasons of tensors that are such as a whole.
        outputs: the model's outputs.
        blocks: what must stay in equal numbers, with the names of the layers.
        by_node: the calls, by `id` of the nodes of the model's graph.
    """

    sites: dict[int, Site] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    ties: Atoms = field(default_factory=Atoms)
    pinned: list[tuple[np.ndarray, str]] = field(default_factory=list)
    pins: dict[int, str] = field(default_factory=dict)
    outputs: list[Tensor] = field(default_factory=list)
    blocks: list[tuple[str, Block]] = field(default_factory=list)
    by_node: dict[int, Call] = field(default_factory=dict)

    @property
    def opaque(self) -> dict[str, str]:
        """Why layers are opaque, by name."""
        return {site.name: site.opaque for site in self.sites.values() if site.opaque}


def as_graph(model: keras.Model) -> AbstractContextManager[keras.Model]:
    """Give, inside a context, a model with a graph that has the layers of `model`, subclassed or not.

    Raises:
        ValueError: if the model is not built, or is subclassed and its `call` cannot be traced.
    """
    return symbolic.as_graph(model, is_known)


def is_known(layer: Any) -> bool:
    """Return whether the layer table says what a layer does, so that nobody looks at its code."""
    try:
        return rule_of(layer) is not None
    except NotCovered:
        return row_of(layer) is not None and not symbolic.is_function(layer)


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


def named(operation: Any, arguments: tuple, keyword_arguments: dict) -> list[tuple[str, Any]]:
    """Return the arguments of a call with their names."""
    names = inspect.signature(operation.call).parameters if arguments[1:] else arguments[:1] and ("inputs",)
    return [*zip(names, arguments), *keyword_arguments.items()]


def numbers(call: Call) -> list[Tensor]:
    """Return what a generator or gate makes of numbers only."""
    return call.outputs if isinstance(call.site.rule, Vanishes) else call.outputs[1:]


class Builder:
    """Goes through a model and fills a `Trace`."""

    def __init__(self) -> None:
        self.trace = Trace()
        self.prefix = ""
        self.training = self.has_masks = False
        self.inside: dict[int, list[Tensor]] = {}

    def build(self, model: keras.Model) -> Trace:
        """Return the trace of a model."""
        inputs = [self.make(x.shape[1:]) for x in graphs.inputs_of(model)]
        self.has_masks = graphs.has_masks(model)
        for x in inputs:
            self.pin("model input", x)
        self.trace.outputs = keras.tree.flatten(graphs.replayed(model, inputs, self.visit))
        for y in self.trace.outputs:
            self.pin("model output", y)
        self.share_weights()
        self.keep_what_opaque_layers_read()
        self.trace.blocks = blocks_of(self.trace.tensors, self.trace.calls, self.trace.ties)
        self.find_partners()
        return self.trace

    def make(self, shape: Shape, atoms: np.ndarray | None = None, batch: int | None = 0) -> Tensor:
        """Register a tensor; without `atoms` it is one atom as a whole."""
        atoms = self.trace.ties.fresh(*[1] * len(shape)) if atoms is None else atoms
        number = len(self.trace.tensors)
        self.trace.tensors.append(Tensor(number, atoms, tuple(shape), batch is not None, batch or 0))
        return self.trace.tensors[-1]

    def pin(self, reason: str, *tensors: Tensor) -> None:
        """Keep all atoms of the tensors, for a reason."""
        self.trace.pinned += [(x.atoms.reshape(-1), reason) for x in tensors]
        self.trace.pins = {x.index: reason for x in tensors} | self.trace.pins

    def visit(self, node: Any, arguments: tuple, keyword_arguments: dict) -> list[Tensor]:
        """Add the call of a layer, operation or model; return its outputs."""
        operation = node.operation
        masks = tensors_in([x for key, x in named(operation, arguments, keyword_arguments) if key.endswith("mask")])
        inputs = [x for x in tensors_in((arguments, keyword_arguments)) if all(x is not mask for mask in masks)]
        training = self.training or keyword_arguments.get("training") is True
        if graphs.is_inner_graph(operation):
            return self.enter(operation, graphs.inputs_given(operation, arguments, keyword_arguments), training)
        site = self.trace.sites.get(id(operation))
        if site is None:
            site = self.trace.sites[id(operation)] = Site(operation, OPAQUE, self.prefix + operation.name)
            try:
                site.rule = rule_of(operation)
            except NotCovered as reason:
                site.opaque = str(reason)
        full = [tuple(y.shape) for y in node.output_tensors]
        masked = self.has_masks and isinstance(operation, keras.Layer)
        call = Call(site, inputs, [], (arguments, keyword_arguments), masks=masks, masked=masked, full=full)
        call.place_batch(OPAQUE.batch_axes(call))
        atoms: list[np.ndarray | None] = [None] * len(full)
        if not site.opaque:
            try:
                if training and site.rule.trains:
                    raise NotCovered("training=True, which changes what it computes")
                call.place_batch(site.rule.batch_axes(call))
                atoms = site.rule.atoms(call, self.trace.ties)
                for array, shape in zip(atoms, call.shapes):
                    if array.ndim != len(shape) or any(n not in (1, size) for n, size in zip(array.shape, shape)):
                        raise NotCovered(f"an output whose shape is not {shape}, as Keras says")
            except NotCovered as reason:
                call.place_batch(OPAQUE.batch_axes(call))
                site.rule, site.opaque = OPAQUE, f"{type(operation).__name__} with {reason}"
                for earlier in site.calls:
                    self.pin(f"opaque: {site.name}", *earlier.inputs, *earlier.outputs)
        inner = [array.shape for array in atoms[len(full) :]]
        batch = [*call.batch, *[0] * len(inner)]
        call.outputs = [self.make(*each) for each in zip([*call.shapes, *inner], atoms, batch)]
        copies = site.rule.copies(call) * max((x.copies for x in inputs), default=1)
        for y in call.outputs:
            y.copies = copies
        if site.opaque:
            self.pin(f"opaque: {site.name}", *call.inputs, *call.outputs)
        elif wanted := fixed_weights(operation):
            self.pin(wanted, *call.inputs, *call.outputs)
        elif wanted := fixed_outputs(operation):
            self.pin(wanted, *call.outputs)
        site.calls.append(call)
        self.trace.calls.append(call)
        self.trace.by_node.setdefault(id(node), call)
        return call.outputs[: len(full)]

    def enter(self, model: keras.Model, inputs: list[Tensor | None], training: bool) -> list[Tensor]:
        """Add the calls inside a model; a model that is called again has the same channels at every call."""
        outside = self.prefix, self.training
        self.prefix, self.training = f"{self.prefix}{model.name}/", training
        first = len(self.trace.tensors)
        outputs = keras.tree.flatten(graphs.replayed(model, inputs, self.visit))
        self.prefix, self.training = outside
        tensors = [*tensors_in(inputs), *self.trace.tensors[first:]]
        for earlier, x in zip(self.inside.setdefault(id(model), tensors), tensors):
            if earlier is not x and earlier.atoms.shape == x.atoms.shape:
                self.trace.ties.tie(earlier.atoms, x.atoms)
            elif earlier is not x:
                self.pin(f"several shapes in {model.name}", earlier, x)
        return outputs

    def share_weights(self) -> None:
        """Tie what layers with the same weights lose; they stay where they cannot lose the same."""
        sites = list(self.trace.sites.values())
        for site in keep_what_cannot_be_shared(sites):
            for call in site.calls:
                self.pin(f"opaque: {site.name}", *call.inputs, *call.outputs)
        self.trace.pinned += tie_shared_weights(sites, self.trace.ties)

    def keep_what_opaque_layers_read(self) -> None:
        """Keep generators and gates whose numbers are outputs, or read or made by a layer that stays as it is."""
        gates = [call for call in self.trace.calls if call.site.rule.vanishes]
        found: list[tuple[Call, str]] = [(call, "") for call in gates]
        while found:
            others = [call for call in self.trace.calls if not call.site.rule.vanishes]
            gates = [call for call in gates if call.site.rule.vanishes]
            read = {x.index for call in others for x in call.inputs} | {y.index for y in self.trace.outputs}
            made = {y.index for call in gates for y in call.outputs}
            found = [(call, "a reader that is opaque") for call in gates if any(x.index in read for x in numbers(call))]
            found += [
                (call, "numbers from a layer that stays")
                for call in gates
                if any(x.index not in made for x in call.inputs[1:])
            ]
            for call, why in found:
                site = call.site
                site.rule, site.opaque = OPAQUE, f"{type(site.layer).__name__} with {why}"
                for each in site.calls:
                    self.pin(f"opaque: {site.name}", *each.inputs, *each.outputs)

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
