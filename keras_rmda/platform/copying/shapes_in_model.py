"""The shapes that tensors of a model have where the inputs of the model have numbers for open sizes.

A layer sees open axes and does not know which are alike, which one is that of the samples, and that a table of
distances is twice as long as a sequence. The model around it does.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import keras

from keras_rmda.platform import graphs
from keras_rmda.platform.tolerant import symbolic_outputs, tolerant_symbols
from keras_rmda.platform.tracing import MOST_THAT_DIFFER, SIZES_OF_MODELS, Sizes, ways_to_differ
from keras_rmda.platform.tracing.leaves import WithoutSamples

BATCHES = (3, 5)
"""Numbers of samples."""


class ShapesInModel:
    """Shapes of the tensors in the graph of a model, and in those of the models and blocks inside.

    Args:
        model: with a graph.
    """

    def __init__(self, model: keras.Model):
        self.model, self.inputs = model, graphs.inputs_of(model)
        self.noted: dict[int, tuple[Any, list]] = {}
        self.known: dict[tuple[int, Sizes], tuple[Any, Any]] = {}

    def note(self, inputs: list, given: list) -> None:
        """Note that tensors of a model stand for the inputs of one inside, at one of its calls."""
        for x, y in zip(inputs, given, strict=True):
            self.noted.setdefault(id(x), (x, []))[1].append(y)

    @functools.cached_property
    def numbers(self) -> list[Sizes]:
        """Two sizes of the inputs at which the model runs, different ones for each where it can; or none.

        Where it can, a third are equal ones, at which code that does the same at all sizes does so, too.
        """
        count = sum(x.shape[1:].count(None) for x in self.inputs)
        some = itertools.product((1, 2), repeat=count) if count <= MOST_THAT_DIFFER else ()
        near, far = (*ways_to_differ(count), (1,) * count), (*sorted(some, key=sum)[1:], (2,) * count)
        for size_of, ways in zip(SIZES_OF_MODELS, (near, far)):
            for times in ways:
                found = [self._given(batch, [size_of(n)[k] for n in times]) for k, batch in enumerate(BATCHES)]
                if all(map(self._runs, found)):
                    equal = self._given(BATCHES[0], [size_of(max(times, default=1))[0]] * count)
                    return found + [equal] * (len(set(times)) > 1 and self._runs(equal))
        return []

    def _given(self, batch: int, others: list[int]) -> Sizes:
        each = iter(others)
        known = lambda k, n: n if n is not None else next(each) if k else batch  # noqa: E731
        return Sizes(batch, None, given=tuple(tuple(known(k, n) for k, n in enumerate(x.shape)) for x in self.inputs))

    def _runs(self, sizes: Sizes) -> bool:
        try:
            with keras.StatelessScope():  # where nothing is assigned
                zeros = [keras.ops.zeros(shape, x.dtype) for x, shape in zip(self.inputs, sizes.given)]
                graphs.call(self.model, zeros)
        except Exception:  # whatever the user's code raises
            return False
        return True

    def sizes(self, calls: list[list], samples_elsewhere: bool) -> list[Sizes]:
        """Return sizes with the shapes that tensors have, which must be the same at all calls; or none.

        There are none unless `samples_elsewhere` where tensors are only as large as inputs: that needs no model.
        """
        found = []
        for sizes in self.numbers:
            try:
                with tolerant_symbols():
                    shapes = {tuple(tuple(self._spec(x, sizes).shape) for x in tensors) for tensors in calls}
            except Exception:  # Keras and the user's code raise many types on symbolic tensors
                return []
            if len(shapes) > 1 or not all(n for each in shapes for shape in each for n in shape):
                return []
            found.append(Sizes(sizes.batch, None, given=shapes.pop()))
        pairs = [list(zip(*shapes)) for shapes in zip(*(each.given for each in found[:2]))]
        known = {pair for shapes in zip(*(each.given for each in self.numbers[:2])) for pair in zip(*shapes)}
        is_more = samples_elsewhere or not {(n, m) for each in pairs for n, m in each if n != m} <= known | {BATCHES}
        return found if is_more and all(each.count(BATCHES) < 2 for each in pairs) else []

    def _spec(self, tensor: Any, sizes: Sizes) -> Any:
        """Return a symbolic tensor like another one, with the shape that it has at these sizes."""
        waiting = [tensor]
        while waiting:
            x = waiting[-1]
            if (id(x), sizes) in self.known:
                waiting.pop()
                continue
            operation, index, _ = x._keras_history
            node = operation._inbound_nodes[index]
            if isinstance(operation, keras.layers.InputLayer):
                before = self.noted[id(x)][1] if id(x) in self.noted else []
            else:
                before = node.input_tensors
            missing = [each for each in before if (id(each), sizes) not in self.known]
            if missing:
                waiting += missing
            elif isinstance(operation, keras.layers.InputLayer):
                self._know(x, self._like(x, before, sizes), sizes)
            else:
                given = keras.tree.map_structure(
                    lambda each: self.known.get((id(each), sizes), (each, each))[1],
                    (node.arguments.args, node.arguments.kwargs),
                )
                outputs = [y for y in _called(node, *given) if y is not None]
                for y, made in itertools.zip_longest(node.output_tensors, outputs):
                    self._know(y, made, sizes)
        return self.known[id(tensor), sizes][1]

    def _know(self, tensor: Any, made: Any, sizes: Sizes) -> None:
        if made is None:  # declared and not made
            self.known[id(tensor), sizes] = tensor, None
            return
        shape = tuple(made.shape)  # a layer may say only that it has all samples
        made = keras.KerasTensor((sizes.batch, *shape[1:]), dtype=made.dtype) if shape[:1] == (None,) else made
        self.known[id(tensor), sizes] = tensor, made

    def _like(self, x: Any, before: list, sizes: Sizes) -> Any:
        """Return what stands for an input: at all calls of the model that has it, or of the whole."""
        if before:
            [shape] = {tuple(self.known[id(each), sizes][1].shape) for each in before}
        else:
            [shape] = [shape for each, shape in zip(self.inputs, sizes.given) if each is x]
        return keras.KerasTensor(shape, dtype=x.dtype)


def _called(node: Any, arguments: tuple, keyword_arguments: dict) -> list:
    """Return symbolic tensors like what an operation of a graph, or a model inside, makes."""
    operation = node.operation
    if graphs.is_inner_graph(operation):
        given = graphs.inputs_given(operation, arguments, keyword_arguments)
        return keras.tree.flatten(graphs.replayed(operation, given, _called))
    return keras.tree.flatten(symbolic_outputs(operation, *arguments, **keyword_arguments))


def is_of_no_sample(tensor: Any) -> bool:
    """Return whether it is certain that a tensor of a graph has no axis for samples."""
    waiting, seen = [tensor], set()
    while waiting:
        x = waiting.pop()
        if id(x) in seen:
            continue
        seen.add(id(x))
        operation, index, number = x._keras_history
        if isinstance(operation, WithoutSamples):
            continue
        if graphs.is_inner_graph(operation):
            waiting.append(keras.tree.flatten(operation.outputs)[number])
        elif isinstance(operation, keras.layers.InputLayer) or not (
            inputs := operation._inbound_nodes[index].input_tensors
        ):
            return False
        else:
            waiting += inputs
    return True
