"""Which process of `pytest -n` runs which tests, and in which order.

A file is run by one process, which builds, traces and compiles once what its tests share. Tests that take long are
dealt out one by one, and first, so that both processes end at the same time.
"""

import collections
import re

from xdist.scheduler import LoadScopeScheduling

ONE_BY_ONE = [
    "test_examples.py",
    "test_distribute.py",
    "test_readme.py",
    "test_demo.py",
    "test_scale.py",
    "test_applications.py",
    "test_graphs.py",
]
TOGETHER = {
    "what the demo has made": r"test_demo\.py::(?!test_json)|test_readme\.py::test_the_(commands_run|table)",
    "what two workers have trained": r"test_distribute\.py::.*\[tensorflow\]",
    "what two workers have trained on JAX": r"test_distribute\.py::.*\[jax\]",
}
"""Of the files above: the tests that share what is made once."""


def group_of(nodeid: str) -> str:
    """Return the name of what has to be run by one process."""
    path = nodeid.split("::")[0]
    shared = [name for name, pattern in TOGETHER.items() if re.search(pattern, nodeid)]
    return shared[0] if shared else nodeid if path.rsplit("/", 1)[-1] in ONE_BY_ONE else path


def sort(items: list) -> None:
    """Put what takes longest first: what shares a thing, the files above in their order, then files of many tests."""
    sizes = collections.Counter(group_of(item.nodeid) for item in items)

    def place_of(item) -> tuple[int, int]:
        group, file = group_of(item.nodeid), item.path.name
        first = 0 if group in TOGETHER else 1 + (ONE_BY_ONE + [file]).index(file)
        return first, -sizes[group]

    items.sort(key=place_of)


class ByFile(LoadScopeScheduling):
    """Deals out groups in the order in which they were collected."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)
