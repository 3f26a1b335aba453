"""Sixty random graphs, thirty with gates; `make fuzz` checks two thousand others."""

import pytest
from graphs import check, check_insertion


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_random_graphs(first):
    smaller = sum(check(seed, size=8)[0] > 0 for seed in range(first, first + 10))
    assert smaller > 0


@pytest.mark.parametrize("first", range(0, 30, 10))
def test_gates_in_random_graphs(first):
    assert sum(check_insertion(seed) > 0 for seed in range(first, first + 10)) > 0
