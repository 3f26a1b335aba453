"""Which combinations of parameters `make test` runs."""

import itertools
from types import SimpleNamespace

import scheduling

KINDS, MODES, PAIRS = ["RMDA", "AdaBreg", "ProxSGD"], ["eager", "graph"], [(1.0, "a"), (1.0, "b"), (2.0, "b")]


class Item:
    """Stands for a test of pytest."""

    def __init__(self, name, axes, values):
        self.nodeid, self.marks = f"{name}[{values}]", [SimpleNamespace(args=(axis, ()), kwargs={}) for axis in axes]
        parts = [dict(zip(axis.split(","), value)) for axis, value in zip(axes, values)]
        self.callspec = SimpleNamespace(params={key: value for part in parts for key, value in part.items()})

    def iter_markers(self, name):
        return self.marks


def run(name, axes):
    """Return the values of what is run of a product."""
    items = [Item(name, axes, values) for values in itertools.product(*axes.values())]
    return [tuple(item.callspec.params.values()) for item in scheduling.every_value(items)]


def test_every_value_is_run_and_not_every_combination():
    axes = {"kind": [(kind,) for kind in KINDS], "mode": [(mode,) for mode in MODES], "rate,name": PAIRS}
    found = run("test_x.py::test", axes)
    assert len(found) == 3
    assert {kind for kind, *_ in found} == {*KINDS}
    assert {mode for _, mode, *_ in found} == {*MODES}
    assert {(rate, name) for *_, rate, name in found} == {*PAIRS}


def test_parameters_that_stand_together_are_one_value():
    assert run("test_x.py::test", {"rate,name": PAIRS}) == PAIRS


def test_trajectories_of_the_authors_code_run_all():
    axes = {"kind": [(kind,) for kind in KINDS], "mode": [(mode,) for mode in MODES]}
    assert len(run("test_reference.py::test", axes)) == 6
