"""A hundred random graphs; `make fuzz` checks two thousand others."""

import pytest
from graphs import check


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 100, 10))
def test_random_graphs(first):
    smaller = sum(check(seed, size=8)[0] > 0 for seed in range(first, first + 10))
    assert smaller > 0
