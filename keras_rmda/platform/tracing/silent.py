"""Layers that code calls at training only, and which do nothing at inference, as dropout: graphs always call them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
import numpy as np

from keras_rmda.platform.tracing.programs import Place, Program, Step, without_training


def is_silent(layer: Any, program: Program) -> bool:
    """Return whether a layer gives at inference what it gets, tried on numbers of the shapes that it has."""
    if not isinstance(layer, keras.Layer) or layer.variables != layer.non_trainable_variables:
        return False
    steps = [step for step in program.steps if step.operation is layer]
    return all(len(step.places) == 1 and _is_silent(step, program.shape(step.places[0])) for step in steps)


def _is_silent(step: Step, shape: tuple) -> bool:
    x = np.random.default_rng(0).normal(size=[2 if n is None else n for n in shape]).astype("float32")
    change = lambda each: x if isinstance(each, Place) else each  # noqa: E731
    arguments, named = keras.tree.map_structure(change, without_training(step.operation, *step.arguments))
    try:
        with keras.StatelessScope():  # where nothing is assigned
            y = step.operation(*arguments, **named, training=False)
    except Exception:  # whatever the user's code raises
        return False
    return keras.ops.is_tensor(y) and np.array_equal(x, keras.ops.convert_to_numpy(y))


def without(program: Program, layers: set[int]) -> Program:
    """Return a program without the calls of layers, by `id`, that give what they get."""
    moved: dict[Place, Place] = {}
    steps: list[Step] = []
    there = lambda x: moved.get(x, x) if isinstance(x, Place) else x  # noqa: E731
    for number, step in enumerate(program.steps):
        arguments = keras.tree.map_structure(there, step.arguments)
        if id(step.operation) in layers:
            [moved[Place(number, 0)]] = [moved.get(x, x) for x in step.places]
        else:
            moved |= {Place(number, k): Place(len(steps), k) for k in range(len(step.shapes))}
            steps.append(replace(step, arguments=arguments))
    count = sum(id(step.operation) not in layers for step in program.steps_of_outputs)
    return replace(program, steps=steps, losses=[replace(x, place=there(x.place)) for x in program.losses], count=count)


def with_default_training(program: Program) -> Program:
    """Return a program whose layers are not told that they train."""
    steps = program.steps
    told = lambda step: without_training(step.operation, *step.arguments)  # noqa: E731
    return replace(
        program,
        steps=[replace(x, arguments=told(x)) if isinstance(x.operation, keras.Layer) else x for x in steps],
    )
