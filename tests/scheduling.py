"""What `make test` and `make test-fast` leave out, and which process of `pytest -n` runs which tests, in which order.

A file is run by one process, which builds, traces and compiles once what its tests share. Tests that take long are
dealt out one by one, and first, so that both processes end at the same time.
"""

import collections
import re

import pytest
from xdist.scheduler import LoadScopeScheduling

SLOW = {
    r"test_examples\.py|test_demo\.py|test_(readme|docs)\.py::test_the_(quickstart|commands|table|code_of|examples)": (
        "the examples, the demo, the commands and the code of README, docs and docstrings"
    ),
    r"test_distribute\.py|test_backends\.py|test_scale\.py": "replicas, workers, another backend, benchmarks of scale",
    r"test_applications\.py|every_family_of_applications|test_tf_keras": "networks of keras.applications",
    r"test_graphs\.py|test_coupling\.py::.*random_graphs": "random graphs",
    r"test_quantization\.py|test_gates_insertion\.py::.*(ways_to_run|closes_gates|frozen_gates)": (
        "quantization-aware training, training with gates"
    ),
    r"test_backup\.py|test_export\.py::.*(kill|full_disk)|test_cli\.py::test_(as_a_process|train)": (
        "trainings and files that are interrupted, processes"
    ),
    r"test_export_models\.py::.*(over_time|written_out|crash|full_disk|states)": "loops, states",
    r"[\[-](RAMDA|ProxSGD|ProxAdamW|LinBreg|AdaBreg|DessiLBI)[\]-]|test_reference.*-(eager|graph)-": (
        "algorithms other than RMDA; their references but under XLA"
    ),
    r"test_saves_loads_and_trains|test_training_is_resumed|test_gates_learn|test_momentum_grows|test_kernels_trained": (
        "training of what has been stripped, of gates, through stages, at low rank"
    ),
    r"test_damage\.py": "damaged files",
    r"test_target\.py::test_(every_mode|other_metrics|a_target_in_units|widths)": "targets in other modes and units",
}
"""What `make test-fast` leaves out."""

RARE = {
    r"test_distribute\.py::.*\[jax\]|test_scale\.py::test_the_accelerator.*\[jax\]": (
        "workers and the benchmark of scale on JAX"
    ),
    r"test_distribute\.py::test_two_replicas.*\[(RAMDA|ProxSGD|LinBreg|DessiLBI)\]": (
        "two replicas with the algorithms other than RMDA, AdaBreg and ProxAdamW, which train by the same steps"
    ),
    r"random_graphs_are_gone\[[12]\d\]": "the random graphs 10 to 29 of coupled groups",
}
"""What only `make test-all` runs: minutes of what the others show of a neighbour."""

IN_FULL = r"test_reference\.py"
"""Where every combination of parameters is run, not only every value of each: what the authors' code computes."""

ONE_BY_ONE = [
    "test_examples.py",
    "test_distribute.py",
    "test_readme.py",
    "test_docs.py",
    "test_demo.py",
    "test_damage.py",
    "test_scale.py",
    "test_applications.py",
    "test_graphs.py",
]
TOGETHER = {
    "what the demo has made": r"test_demo\.py::(?!test_json)|test_readme.*_the_(commands_run|table|code_of_the_readme)",
    "what two workers have trained": r"test_distribute\.py::.*\[tensorflow\]",
    "what two workers have trained on JAX": r"test_distribute\.py::.*\[jax\]",
}
"""Of the files above: the tests that share what is made once."""


def is_slow(nodeid: str) -> bool:
    """Return whether `make test-fast` leaves a test out."""
    return any(re.search(pattern, nodeid) for pattern in SLOW)


def chosen(items: list[pytest.Item]) -> list[pytest.Item]:
    """Return what `make test` runs."""
    return every_value([item for item in items if not any(re.search(pattern, item.nodeid) for pattern in RARE)])


def values_of(item: pytest.Item) -> set[tuple]:
    """Return the values that a test has for each of its `parametrize`, and for each fixture with parameters."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    names = [mark.args[0] if mark.args else mark.kwargs["argnames"] for mark in item.iter_markers("parametrize")]
    axes = [tuple(each.replace(" ", "").split(",")) if isinstance(each, str) else tuple(each) for each in names]
    axes += [(name,) for name in params if not any(name in axis for axis in axes)]
    return {(axis, *(id(params[name]) for name in axis)) for axis in axes}


def every_value(items: list[pytest.Item]) -> list[pytest.Item]:
    """Return so many combinations of the parameters of each test that each value is among them: few of a product."""
    combinations, chosen = collections.defaultdict(list), set()
    for item in items:
        combinations[item.nodeid.split("[")[0]].append(item)
    for test, rest in combinations.items():
        missing = set().union(*map(values_of, rest))
        if re.search(IN_FULL, test) or not missing:
            chosen.update(rest)
        while missing and not chosen.issuperset(rest):
            best = max(rest, key=lambda item: len(missing & values_of(item)))
            chosen.add(best)
            missing -= values_of(best)
    return [item for item in items if item in chosen]


def group_of(nodeid: str) -> str:
    """Return the name of what has to be run by one process."""
    path = nodeid.split("::")[0]
    shared = [name for name, pattern in TOGETHER.items() if re.search(pattern, nodeid)]
    return shared[0] if shared else nodeid if path.rsplit("/", 1)[-1] in ONE_BY_ONE else path


def sort(items: list[pytest.Item]) -> None:
    """Put what takes longest first: what shares a thing, the files above in their order, then files of many tests."""
    sizes = collections.Counter(group_of(item.nodeid) for item in items)

    def place_of(item: pytest.Item) -> tuple[int, int]:
        group, file = group_of(item.nodeid), item.path.name
        first = 0 if group in TOGETHER else 1 + [*ONE_BY_ONE, file].index(file)
        return first, -sizes[group]

    items.sort(key=place_of)


class ByFile(LoadScopeScheduling):
    """Deals out groups in the order in which they were collected."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)
