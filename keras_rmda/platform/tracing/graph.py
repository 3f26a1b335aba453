"""From programs at several sizes to one graph for all sizes, with the weights that they use as leaves."""

from __future__ import annotations

import contextlib
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmda.platform import compat
from keras_rmda.platform.hidden import carry
from keras_rmda.platform.tracing.derived import KERNELS, derived, product
from keras_rmda.platform.tracing.elementwise import ELEMENTWISE, elementwise, for_each_sample, with_axis_more
from keras_rmda.platform.tracing.labels import EQUATIONS
from keras_rmda.platform.tracing.leaves import (
    AddsLosses,
    AsOneSample,
    Filled,
    ForEachSample,
    Numbers,
    OverSamples,
    SamplesAsSteps,
    StepsAsSamples,
    UpdatesMetric,
)
from keras_rmda.platform.tracing.noise import Drawn
from keras_rmda.platform.tracing.numbers import Size
from keras_rmda.platform.tracing.products import PRODUCTS
from keras_rmda.platform.tracing.programs import (
    Note,
    Place,
    Program,
    Step,
    Untraceable,
    config_but_name,
    is_array,
    is_same,
    settings,
)
from keras_rmda.platform.tracing.ranges import Count, PositionsUpTo, Range, RangeOfProgram
from keras_rmda.platform.tracing.reshapes import broadcast, reshaped
from keras_rmda.platform.tracing.shapes import REDUCTIONS, slice_key, with_axes
from keras_rmda.platform.tracing.symbols import Symbol, Symbols
from keras_rmda.platform.tracing.weighted import contracted, untransposed, weighted


def is_of_keras(layer: keras.Layer) -> bool:
    """Return whether a layer is one of Keras, or consists of such, so that it takes the first axis for samples."""
    return type(layer).__module__.startswith("keras.")


class Graph(Symbols):
    """Makes the steps of a program again, on open inputs."""

    def outputs(self) -> Any:
        """Return the outputs of the graph, structured as those of the code."""
        for number, (a, b) in enumerate(zip(self.programs[0].steps, self.programs[-1].steps, strict=True)):
            if number in self.of_weights:
                continue  # made where it is read, since products take kernels as the code makes them
            for k, result in enumerate(self._made(a, b)):
                self.known[Place(number, k)] = result
        found, others = (keras.tree.flatten(each.outputs) for each in (self.programs[0], self.programs[-1]))
        made = [self._output(x, y) for x, y in zip(found, others, strict=True)]
        for place, mask in self.programs[0].masks.items():
            if place in self.known and mask in self.known and self.programs[-1].masks.get(place) == mask:
                carry(self.known[place].tensor, self.known[mask].tensor)
        return keras.tree.pack_sequence_as(self.programs[0].outputs, made)

    def with_losses(self, outputs: Any) -> Any:
        """Return the outputs of the graph with losses and metrics of the code, which come with the first of them."""
        program = self.programs[0]
        differ = program.losses != program.losses_of_training
        ways = {"only_at_training": program.losses_of_training} if differ else {}
        first, *others = keras.tree.flatten(outputs)
        for only_at, notes in {"only_at_inference": program.losses, **ways}.items():
            losses = [self._noted(each) for each in notes if each.metric is None]
            layer = AddsLosses(**{only_at: differ}, name=self.name("losses"))
            first = layer([first, *losses]) if losses else first
            for each in (each for each in notes if each.metric is not None):
                metric = compat.metrics_of(self.layer)[each.metric]
                layer = UpdatesMetric(metric, **{only_at: differ}, name=self.name(metric.name))
                first = layer([first, self._noted(each)])
        return keras.tree.pack_sequence_as(outputs, [first, *others])

    def _noted(self, note: Note) -> Any:
        symbol = self.symbol(note.place)
        return symbol.tensor if symbol.batched else self.bare(symbol)

    def symbol(self, place: Place) -> Symbol:
        if place not in self.known and place.step >= 0:  # of weights
            ways = [self._step_by_step, self._at_once]
            why: list[Untraceable] = []
            for way in ways[::-1] if self._takes_apart(place) else ways:
                try:
                    way(place)
                    break
                except Untraceable as error:
                    why.append(error)
            else:
                raise why[-1 if self._takes_apart(place) else 0] from None
        return super().symbol(place)

    def _step_by_step(self, place: Place) -> None:
        a, b = (each.steps[place.step] for each in (self.programs[0], self.programs[-1]))
        for k, result in enumerate(self._made(a, b)):
            self.known[Place(place.step, k)] = result

    def _at_once(self, place: Place) -> None:
        self.known[place] = derived(self, place)

    def _takes_apart(self, place: Place) -> bool:
        """Return whether a step reduces a weight, or takes a part of it: which axes are channels tells what is left."""
        step = self.programs[0].steps[place.step]
        keys = [x for x in keras.tree.flatten(step.arguments) if not isinstance(x, Place)]
        is_part = type(step.operation).__name__ == "GetItem" and any(isinstance(x, int) for x in keys)
        return is_part or type(step.operation).__name__ in (*REDUCTIONS, "Softmax", "LogSoftmax")

    def _output(self, x: Any, y: Any) -> Any:
        if is_array(x) and (one := self._of_each_sample(x, y)) is not None:
            return self._for_each_sample(one)
        if not is_same(x, y):
            raise Untraceable("it returns numbers that depend on open sizes")
        if isinstance(x, Place):
            symbol = self.symbol(x)
            return symbol.tensor if symbol.batched else self.bare(symbol)
        return Numbers.of(x, name=self.name("numbers"))(self.inputs[0])

    def _argument(self, x: Any, y: Any, step: Step) -> Any:
        if isinstance(x, Size) and isinstance(y, Size) and x != y and type(step.operation).__name__ in ELEMENTWISE:
            return self._size(x, y, step)
        found = super()._argument(x, y, step)
        if found is x or not is_array(found) or type(step.operation).__name__ in ELEMENTWISE:
            return found
        array = ops.convert_to_numpy(found)
        if type(step.operation).__name__ == "Concatenate" and (array == array.flat[0]).all():
            return self._filled(array, step)
        return self._for_each_sample(array)

    def _filled(self, array: Any, step: Step) -> Any:
        """Return an array of one number, which code joins with tensors, beside one of them: it loses what they lose."""
        axis, number_type = step.operation.axis % array.ndim, keras.backend.standardize_dtype(array.dtype)
        beside = next((x for x in map(self.symbol, step.places) if x.batched), None)
        if beside is None:
            return self._for_each_sample(array)
        name = self.name("filled")
        return Filled(axis, array.shape[axis], array.flat[0].item(), number_type, name=name)(beside.tensor)

    def _for_each_sample(self, array: Any) -> Any:
        """Return an array of one sample for all samples: only what is broadcast needs no more than one of them."""
        kept = (array.shape[1:], array.reshape(-1).tolist(), keras.backend.standardize_dtype(array.dtype))
        one = AsOneSample(name=self.name("as_one_sample"))(Numbers(*kept, name=self.name("numbers"))(self.inputs[0]))
        return ForEachSample(name=self.name("for_each_sample"))([one, self.samples])

    def _size(self, x: Size, y: Size, step: Step) -> Place:
        """Return the place of an open size, which the code computes with, as a tensor."""
        tensor, other = (program.known.get(id(n.tensor)) for program, n in zip(self.programs, (x, y)))
        if tensor is None or tensor != other or x.axis != y.axis or tensor not in self.known:
            raise Untraceable(f"it gives {step.called} a size that depends on what is not used otherwise")
        number_type = self.symbol(step.places[0]).tensor.dtype
        number_type = "int32" if number_type == "bool" else number_type
        place = Place(-2, x.axis + 100 * len(self.known))
        symbol = self.known[tensor]
        made = Count(x.axis + (not symbol.batched), number_type, name=self.name("count"))
        self.known[place] = Symbol(made(symbol.tensor), batched=False)
        return place

    def _made(self, a: Step, b: Step) -> list[Symbol]:
        """Return the outputs of a step, from what it is at the first and the last sizes."""
        operation = a.operation
        if type(operation) is not type(b.operation):
            raise Untraceable("its code does something else at other sizes")
        places = a.places
        weights = [x for x in places if self.is_weight(x) or untransposed(self, x) is not None]
        if type(operation).__name__ == "Take":
            weights = [x for x in weights if x == places[0]]  # the numbers are a tensor, whoever has them
        if isinstance(operation, RangeOfProgram) and is_same(config_but_name(operation), config_but_name(b.operation)):
            x, kept = self.symbol(places[0]), config_but_name(operation)
            made = Range(**kept | {"axis": operation.axis + (not x.batched), "name": self.name("range")})
            return [Symbol(made(x.tensor), batched=False)]
        if isinstance(operation, Drawn):
            return [self._drawn(a, b)]
        if isinstance(operation, PositionsUpTo):
            return [self._part(a, b)]
        if isinstance(operation, Numbers):
            kept = (operation.shape, operation.numbers, operation.number_type)
            one = AsOneSample(name=self.name("as_one_sample"))
            return [Symbol(one(Numbers(*kept, name=self.name("numbers"))(self.inputs[0])), batched=False)]
        if isinstance(operation, keras.Layer):
            return self._call_of_layer(a, b)
        name = type(operation).__name__
        if weights and len(places) > len(weights) and name in PRODUCTS:
            [other] = [self.symbol(x) for x in places if x not in weights][:1]
            try:
                y = weighted(self, a)
                return [Symbol(y if other.batched or name == "Take" else with_axes(y, 1), other.batched)]
            except Untraceable:
                if name not in EQUATIONS:
                    raise
        if name in KERNELS and len(places) == 2 and not weights and self.is_of_weights(places[1]):
            with contextlib.suppress(Untraceable):
                x = self.symbol(places[0])
                if x.batched:
                    return [Symbol(product(self, operation, x.tensor, places[1]))]
        is_product = name in EQUATIONS and len(places) == 2 and not all(self.is_known_batched(x) for x in places)
        if is_product and (made := contracted(self, a)) is not None:
            return [made]
        symbols = [self.symbol(x) for x in places]
        if name in ELEMENTWISE:
            return elementwise(self, a, b)
        if name == "Slice" and len(symbols) == 1:
            [x], key = symbols, slice_key(self.programs, a, b)
            return [Symbol(x.tensor[key if x.batched else (slice(None), *key)], x.batched)]
        if name in ("Sum", "Mean") and (total := self._over_samples(a, b, symbols[0])) is not None:
            return [total]
        if symbols and not any(each.batched for each in symbols):
            if name == "Take" and len(symbols) == 2 and operation.axis == 0:  # by a weight that holds an index
                return [Symbol(ops.take(self.bare(symbols[0]), symbols[1].tensor, axis=0), batched=False)]
            return [for_each_sample(self, symbols[0], a, b) if self.is_batch(a, b) else with_axis_more(self, a, b)]
        if name == "Reshape":
            return [reshaped(self, a, b, symbols[0])]
        if name == "BroadcastTo" and (repeated := broadcast(self, a, b, symbols[0])) is not None:
            return [repeated]
        return self._called(a, b)

    def _drawn(self, a: Step, b: Step) -> Symbol:
        """Return random numbers, with a first axis of size 1 if they are the same for all samples."""
        [x], kept = [self.symbol(place) for place in a.places], config_but_name(a.operation)
        if not x.batched or not is_same(kept, config_but_name(b.operation)) or 0 in kept["axes"][1:]:
            raise Untraceable("it draws random numbers of a shape that depends on open sizes")
        batched = kept["axes"][:1] == [0]
        more = {} if batched else {"sizes": [1, *kept["sizes"]], "axes": [None, *kept["axes"]]}
        return Symbol(Drawn(**kept | more, name=self.name("drawn"))(x.tensor), batched)

    def _over_samples(self, a: Step, b: Step, x: Symbol) -> Symbol | None:
        """Return a sum or a mean over samples, after that over the other axes; None if it is over none."""
        operation, rank = a.operation, len(x.tensor.shape)
        axes = range(rank) if operation.axis is None else np.atleast_1d(operation.axis) % rank
        if (
            not x.batched
            or 0 not in axes
            or operation.keepdims
            or not is_same(*map(settings, (operation, b.operation)))
        ):
            return None
        if len(axes) < rank and not all(
            self._has_samples(*each) for each in zip(self.programs, self.sizes, (a, b)[: len(self.programs)])
        ):
            return None
        inner = tuple(int(axis) for axis in axes if axis)
        y = type(operation)(axis=inner)(x.tensor) if inner else x.tensor
        layer = OverSamples(type(operation).__name__ == "Mean", name=self.name("over_samples"))
        return Symbol(layer(y), batched=False)

    def _has_samples(self, program: Program, sizes: Any, step: Step) -> bool:
        """Return whether the first axis of what a step reads is that of samples, or of these and others together."""
        first, *others = program.shape(step.places[0])
        if sizes.batch is None:
            return first is None and None not in others
        return first is not None and first % sizes.batch == 0

    def _part(self, a: Step, b: Step) -> Symbol:
        """Return a slice up to, or from, a size: a number where it is one at all sizes."""
        made, [x, other] = a.operation, [self.symbol(place) for place in a.places]
        if made.get_config() | {"name": ""} != b.operation.get_config() | {"name": ""}:
            raise Untraceable("its code does something else at other sizes")
        [n, m] = [each.shape(a.places[1])[made.size_axis] for each in (self.programs[0], self.programs[-1])]
        axis, size_axis = made.axis + (not x.batched), made.size_axis + (not other.batched)
        if n == m and n is not None and type(made) is PositionsUpTo:
            part = slice(n, None) if made.is_rest else slice(None, n)
            return Symbol(x.tensor[(*[slice(None)] * axis, part)], x.batched)
        changed = {"axis": axis, "size_axis": size_axis, "name": self.name("part")}
        layer = type(made)(**config_but_name(made) | changed)
        return Symbol(layer([x.tensor, other.tensor]), x.batched)

    def _call_of_layer(self, a: Step, b: Step) -> list[Symbol]:
        if a.operation is not b.operation and not is_same(config_but_name(a.operation), config_but_name(b.operation)):
            raise Untraceable(f"it makes a layer {type(a.operation).__name__} of open sizes")
        if a.operation.weights and id(a.operation) not in self.layers:
            raise Untraceable(f"it calls the layer {a.operation.name!r}, whose weights it does not have")
        batched = any(self.symbol(x).batched for x in a.places)
        if not batched and isinstance(a.operation, keras.layers.Embedding):  # takes rows for numbers with any axes
            return [Symbol(a.operation(self.symbol(a.places[0]).tensor), batched=False)]
        if not batched and any(shape[:1] != (1,) for shape in a.shapes) and is_of_keras(a.operation):
            return [self._on_rows(a, b)]
        bare = lambda x: self.tensor(x, may_be_bare=True)  # noqa: E731
        arguments, keyword_arguments = keras.tree.map_structure(bare, self.arguments(a, b))
        outputs = [y for y in keras.tree.flatten(a.operation(*arguments, **keyword_arguments)) if y is not None]
        if not batched and any(shape[:1] != (1,) for shape in a.shapes):
            return [Symbol(AsOneSample(name=self.name("as_one_sample"))(y), batched=False) for y in outputs]
        return [Symbol(y if batched else with_axes(y, 1), batched) for y in outputs]

    def _on_rows(self, a: Step, b: Step) -> Symbol:
        """Return what a layer makes of the rows of what is the same for all samples, which it takes for samples."""
        rows = {each.shape(place)[:1] for each in (self.programs[0], self.programs[-1]) for place in a.places}
        if len(a.places) != 1 or len(a.shapes) != 1 or rows != {a.shapes[0][:1]} or None in a.shapes[0][:1]:
            raise Untraceable(f"it calls the layer {a.operation.name!r} on its own weights")
        x = self.symbol(a.places[0]).tensor
        samples = StepsAsSamples(name=self.name("steps_as_samples"))(x)
        change = lambda each: samples if isinstance(each, Place) else each  # noqa: E731
        arguments, keyword_arguments = keras.tree.map_structure(change, self.arguments(a, b))
        y = a.operation(*arguments, **keyword_arguments)
        return Symbol(SamplesAsSteps(name=self.name("samples_as_steps"))([y, x]), batched=False)

    def _called(self, a: Step, b: Step) -> list[Symbol]:
        """Call an operation as the code does."""
        if not is_same(settings(a.operation), settings(b.operation)):
            raise Untraceable(f"it gives {a.called} numbers that depend on open sizes")
        bare = lambda x: self.tensor(x, may_be_bare=True)  # noqa: E731
        arguments, keyword_arguments = keras.tree.map_structure(bare, self.arguments(a, b))
        return [Symbol(y) for y in keras.tree.flatten(a.operation(*arguments, **keyword_arguments))]
