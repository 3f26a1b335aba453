"""Products with weights of the layer's own, made by layers that hold them."""

from __future__ import annotations

import string
from typing import Any

import keras
from keras import ops

from keras_rmda.platform.tracing.labels import EQUATIONS
from keras_rmda.platform.tracing.products import contraction, product
from keras_rmda.platform.tracing.programs import Place, Step, Untraceable, settings
from keras_rmda.platform.tracing.symbols import Symbol, Symbols


def weighted(graph: Symbols, a: Step) -> Any:
    """Return what a layer of Keras that holds the weight makes of the other argument."""
    transposed = {x: untransposed(graph, x) for x in a.places if untransposed(graph, x) is not None}
    weights = {x: x for x in a.places if graph.is_weight(x)} | transposed
    name = type(a.operation).__name__
    # Rows are taken one by one, whatever the axes of the numbers are; other products read the last axes.
    tensor = (lambda x: graph.symbol(x).tensor) if name == "Take" else graph.tensor
    weights = {a.places[0]: weights[a.places[0]]} if name == "Take" else weights
    found = {x: graph.variable(weights[x]) if x in weights else tensor(x) for x in a.places}
    arguments = keras.tree.map_structure(lambda x: found[x] if isinstance(x, Place) else x, a.arguments)
    variables, tensors = ([found[x] for x in found if (x in weights) is such] for such in (True, False))
    if len(tensors) != 1 or (transposed and (name != "Matmul" or len(variables) > 1)):
        raise Untraceable(f"it uses a weight of its own in {a.called}")
    use = [name, settings(a.operation), len(transposed), tensors[0].shape]

    def make(called: str) -> keras.Layer:
        return product(a.operation, arguments, tensors[0], bool(transposed), called, graph.layer.dtype_policy)

    return graph.layer_for(variables, use, make)(tensors[0])


def contracted(graph: Symbols, a: Step) -> Symbol | None:
    """Return a sum of products of what has an axis for samples, or not, and what is the same for all samples.

    Return None where both have that axis, as what is made of a weight has once it is repeated for all samples.
    """
    ranks = [len(graph.programs[0].shape(place)) for place in a.places]
    try:
        axes, out = EQUATIONS[type(a.operation).__name__](a.operation, ranks)
    except ValueError as error:
        raise Untraceable(f"it uses a weight of its own in {a.called} with {error}") from None
    letters = dict(zip(dict.fromkeys(sum(axes, out)), string.ascii_letters))
    terms = ["".join(letters[each] for each in labels) for labels in (*axes, out)]
    is_unused = [graph.is_weight(place) and place not in graph.known for place in a.places]
    batched = [k for k, place in enumerate(a.places) if not is_unused[k] and graph.symbol(place).batched]
    if not batched:  # each has a first axis of size 1
        tensors = [graph.symbol(place).tensor for place in a.places]
        return Symbol(ops.einsum(f"...{terms[0]},...{terms[1]}->...{terms[2]}", *tensors), batched=False)
    if len(batched) > 1:
        return None
    [k] = batched
    x, other = graph.tensor(a.places[k]), a.places[1 - k]
    samples = terms[k][x.shape.index(None) if None in x.shape else 0]
    if samples == terms[1 - k][0] == terms[2][0] and graph.programs[0].shape(other)[0] == 1:  # for all samples
        read, rest, written = (term.replace(samples, "") for term in (terms[k], terms[1 - k], terms[2]))
        x = ops.moveaxis(x, terms[k].index(samples), 0) if terms[k][0] != samples else x
        return Symbol(ops.einsum(f"...{read},...{rest}->...{written}", x, graph.symbol(other).tensor[:, 0]))
    if samples not in terms[2] or samples in terms[1 - k]:
        raise Untraceable(f"it uses a weight of its own in {a.called}, over the samples")
    place = terms[2].index(samples)
    x = ops.moveaxis(x, terms[k].index(samples), 0) if terms[k][0] != samples else x
    read, written = (term.replace(samples, "") for term in (terms[k], terms[2]))
    try:
        if not is_unused[1 - k]:
            raise Untraceable("a weight that is something else already")
        y = _einsum(graph, f"{samples}{read},{terms[1 - k]}->{samples}{written}", x, graph.variable(other))
    except Untraceable:
        y = ops.einsum(f"...{read},...{terms[1 - k]}->...{written}", x, graph.symbol(other).tensor)
    return Symbol(ops.moveaxis(y, 0, place) if place else y)


def _einsum(graph: Symbols, equation: str, x: Any, variable: keras.Variable) -> Any:
    """Return what a layer that holds a weight makes of a tensor."""
    policy = graph.layer.dtype_policy
    make = lambda called: contraction(equation, x, variable, called, policy)  # noqa: E731
    return graph.layer_for([variable], [equation, x.shape], make)(x)


def untransposed(graph: Symbols, place: Place) -> Place | None:
    """Return the matrix of the layer's own whose transpose this is, if it is one."""
    step = graph.programs[0].steps[place.step] if place.step >= 0 else None
    kind = type(getattr(step, "operation", None)).__name__
    if kind not in ("Transpose", "Swapaxes") or len(step.shapes[0]) != 2:
        return None
    [source] = step.places
    turned = step.operation
    axes = turned.axes if kind == "Transpose" else (turned.axis1, turned.axis2)
    turns = axes is None or (axes[0] % 2 != axes[1] % 2 and (kind == "Swapaxes" or axes[0] % 2 == 1))
    return source if turns and graph.is_weight(source) else None
