"""What code does at training only with random numbers, such as leaving out a branch for some samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras

from keras_rmda.platform.tracing.noise import AtTraining, Drawn, DroppedOut
from keras_rmda.platform.tracing.programs import Place, Program, Step, described, is_same
from keras_rmda.platform.tracing.silent import with_default_training


def is_draw(step: Step) -> bool:
    """Return whether a step draws random numbers itself."""
    return isinstance(step.operation, Drawn | DroppedOut)


def with_noise(usual: Program, trained: Program, own: set[int], inputs: int) -> Program | None:
    """Return the program that does at inference what one does, and at training what another one does.

    The other one has all steps of the first, and more of them, which draw random numbers and change tensors. Where it
    reads a changed tensor, the program reads a choice of both.

    Args:
        usual: at inference.
        trained: at training.
        own: the layers that exist beside the code, by `id`.
        inputs: how many inputs are tensors; the others are weights.

    Returns:
        The program, or None if the steps are others, or nothing is drawn.
    """
    if not any(map(is_draw, trained.steps)):
        return None
    return Merging(with_default_training(usual), with_default_training(trained), own, inputs).program()


class Merging:
    """Goes through the steps of two programs, whose layers are not told that they train; arguments as above.

    Attributes:
        places: where the tensors of each program are in the result.
        waiting: steps at inference for which none at training has been found.
        extra: the steps of the result that only training has.
        choices: where the choice of two tensors is.
    """

    def __init__(self, usual: Program, trained: Program, own: set[int], inputs: int):
        self.usual, self.trained, self.own, self.inputs = usual, trained, own, inputs
        self.steps: list[Step] = []
        self.places = [{Place(-1, k): Place(-1, k) for k in range(len(usual.shapes))} for _ in range(2)]
        self.equal = self._equal()
        self.waiting = [k for k in range(len(usual.steps)) if k not in self.equal.values()]
        self.extra: set[int] = set()
        self.choices: dict[tuple[Place, Place], Place] = {}

    def program(self) -> Program | None:
        """Return the program that is both, or None.

        Losses are the same at inference and at training, or added at training only.
        """
        usual, trained, (there, others) = self.usual, self.trained, self.places
        for number in range(trained.count):
            self._go_on(number)
        outputs = self._joined(*(keras.tree.flatten(each.outputs) for each in (usual, trained)))
        count = len(self.steps)
        for number in range(trained.count, len(trained.steps)):
            self._go_on(number)
        losses = self._joined(*([x.place for x in each.losses] for each in (usual, trained if usual.losses else usual)))
        is_one = not usual.losses or [x.metric for x in usual.losses] == [x.metric for x in trained.losses]
        if self.waiting or outputs is None or losses is None or not is_one:
            return None
        losses = [replace(x, place=place) for x, place in zip(usual.losses, losses)]
        of_training = losses or [replace(x, place=others[x.place]) for x in trained.losses]
        known = {key: others[place] for key, place in trained.known.items() if place in others}
        return replace(
            usual,
            steps=self.steps,
            outputs=keras.tree.pack_sequence_as(usual.outputs, outputs),
            masks={there[place]: there[mask] for place, mask in usual.masks.items()},
            known=known | {key: there[place] for key, place in usual.known.items()},
            losses=losses,
            losses_of_training=of_training,
            count=count if of_training else len(self.steps),
        )

    def _go_on(self, number: int) -> None:
        """Add a step at training, or the step at inference that does the same."""
        step, twin = self.trained.steps[number], self.equal.get(number)
        if twin is None:
            twin = next((k for k in self.waiting if self._are_twins(self.usual.steps[k], step)), None)
        if twin is None:
            self.extra.add(self._append(replace(step, arguments=moved(step, self.places[1])), (1, number)))
            return
        self.waiting = [k for k in self.waiting if k != twin]
        mine = self.usual.steps[twin]
        read = self._choices(*(keras.tree.flatten(each.arguments) for each in (mine, step)))
        arguments = keras.tree.pack_sequence_as(mine.arguments, read)
        self._append(replace(mine, arguments=arguments), (0, twin), (1, number))

    def _joined(self, some: list, others: list) -> list | None:
        """Return the choices of what fits, or None if it does not."""
        return self._choices(some, others) if len(some) == len(others) and self._fit(some, others) else None

    def _equal(self) -> dict[int, int]:
        """Return, by the number of steps at training, which steps at inference do the same with the same tensors."""
        there, found = dict(self.places[0]), {}
        for number, step in enumerate(self.trained.steps):
            if all(place in there for place in step.places):
                one = replace(step, arguments=moved(step, there))
                free = (k for k in range(len(self.usual.steps)) if k not in found.values())
                twin = next((k for k in free if self._are_alike(self.usual.steps[k], one, with_tensors=True)), None)
                if twin is not None:
                    found[number] = twin
                    there |= {Place(number, k): Place(twin, k) for k in range(len(step.shapes))}
        return found

    def _append(self, step: Step, *names: tuple[int, int]) -> int:
        """Add a step, which stands for one of one program or of both; return its number."""
        number = len(self.steps)
        self.steps.append(step)
        for which, old in names:
            self.places[which] |= {Place(old, k): Place(number, k) for k in range(len(step.shapes))}
        return number

    def _are_alike(self, a: Step, b: Step, with_tensors: bool = False) -> bool:
        """Return whether two steps do the same, whatever tensors they read, or with the same."""
        if type(a.operation) is not type(b.operation) or a.shapes != b.shapes:
            return False
        return is_same(*(described(each, self.own)[: None if with_tensors else -1] for each in (a, b)))

    def _are_twins(self, a: Step, b: Step) -> bool:
        """Return whether two steps do the same with tensors of which those of the second may be changed."""
        flat = [keras.tree.flatten(each.arguments) for each in (a, b)]
        return len(flat[0]) == len(flat[1]) and self._are_alike(a, b) and self._fit(*flat)

    def _fit(self, some: list, others: list) -> bool:
        """Return whether what one program reads is the other's, or what that has made of it by steps of its own."""
        for a, b in zip(some, others):
            if not (isinstance(a, Place) and isinstance(b, Place)):
                if not is_same(a, b):
                    return False
                continue
            is_weight = a.step < 0 and a.number >= self.inputs
            a, b = self.places[0].get(a), self.places[1][b]
            if a is None or (a != b and (is_weight or not self._leads(a, b))):
                return False
        return True

    def _leads(self, a: Place, b: Place) -> bool:
        """Return whether a tensor is made of another by steps that only training has."""
        if a == b:
            return True
        return b.step in self.extra and any(self._leads(a, each) for each in self.steps[b.step].places)

    def _choices(self, some: list, others: list) -> list:
        """Return what is read at inference where that is the same at training, else the choice of both."""
        return [self._choice(a, b) if isinstance(a, Place) else a for a, b in zip(some, others, strict=True)]

    def _choice(self, a: Place, b: Place) -> Place:
        a, b = self.places[0][a], self.places[1][b]
        if a != b and (a, b) not in self.choices:
            shape = self.usual.shapes[a.number] if a.step < 0 else self.steps[a.step].shapes[a.number]
            step = Step(AtTraining(), (([a, b],), {}), [shape])
            self.choices[a, b] = Place(self._append(step), 0)
        return self.choices.get((a, b), a)


def moved(step: Step, there: dict[Place, Place]) -> Any:
    """Return the arguments of a step with the places that tensors have elsewhere."""
    return keras.tree.map_structure(lambda x: there[x] if isinstance(x, Place) else x, step.arguments)
