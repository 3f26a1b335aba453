"""Sixty random graphs, and thirty with gates; `make fuzz` checks two thousand others."""

import pytest
from graph_kinds import KINDS
from graphs import check, check_insertion


@pytest.mark.parametrize("first", range(0, 30, 10))
def test_random_graphs(first):
    smaller = sum(check(seed, size=8)[0] > 0 for seed in range(first, first + 10))
    assert smaller > 0


def test_random_graphs_of_blocks_as_people_write_them():
    found = [check(seed, size=6, people=True) for seed in range(30)]
    assert sum(went > 0 for went, *_ in found) > 0
    assert set().union(*(reached for *_, reached in found)) == KINDS.keys()


@pytest.mark.parametrize("first", range(0, 30, 10))
def test_gates_in_random_graphs(first):
    assert sum(check_insertion(seed) > 0 for seed in range(first, first + 10)) > 0
