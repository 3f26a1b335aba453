"""The reference has every public name, its examples run, and all links and anchors of the pages lead somewhere.

Over a minute, since there are sixty examples, and trainings among them.
"""

import doctest
import functools
import importlib
import inspect
import re
import types
import warnings
from pathlib import Path

import keras
import numpy as np
import processes
import pytest
from training import needs_multi_optimizer

import keras_rmda as kr

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
MODULES = [kr, kr.callbacks, kr.channels, kr.distribute, kr.gates, kr.layers]
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "benchmarks" / "README.md", *ROOT.glob("*.md")])
REFERENCE = [
    name for page in (DOCS / "reference").glob("*.md") for name in re.findall(r"^::: (\S+)", page.read_text(), re.M)
]


@functools.cache
def found(path):
    """Return the object of a dotted path, through modules and attributes."""
    module, attributes = path, []
    while True:
        try:
            thing = importlib.import_module(module)
            break
        except ModuleNotFoundError:
            module, _, attribute = module.rpartition(".")
            attributes.insert(0, attribute)
    return functools.reduce(getattr, attributes, thing)


# ---- the reference


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_public_name_is_in_the_reference(module):
    documented = {id(found(path)) for path in REFERENCE}
    public = {name: getattr(module, name) for name in module.__all__}
    missing = [name for name, each in public.items() if not inspect.ismodule(each) and id(each) not in documented]
    assert not missing


def test_the_contents_of_the_reference_name_every_page_and_no_name_that_is_not_there():
    contents = (DOCS / "reference" / "index.md").read_text()
    assert set(re.findall(r"\((\w+\.md)\)", contents)) == {p.name for p in (DOCS / "reference").glob("*.md")} - {
        "index.md"
    }
    for name in re.findall(r"`([A-Za-z_]\w*(?:\.\w+)*)`", contents.split("|---|---|")[1]):
        assert any(path.endswith(f".{name}") for path in REFERENCE), name


SECTIONS = ["Formula", "Args", "Attributes", "Returns", "Raises", "Example", "Source"]


def sections_of(text):
    return [name for name in re.findall(r"^(\w+)[:,]", text, re.M) if name in SECTIONS]


@pytest.mark.parametrize("path", REFERENCE)
def test_docstrings_have_the_order_of_the_house(path):
    thing = found(path)
    text = inspect.getdoc(thing)
    assert text.split("\n")[0].endswith((".", ":")), "one line that is a sentence"
    assert sections_of(text) == sorted(sections_of(text), key=SECTIONS.index)
    assert "Example" in sections_of(text)
    is_own = not inspect.isclass(thing) or "__init__" in vars(thing)
    names = (
        []
        if not is_own
        else [p.name for p in inspect.signature(thing).parameters.values() if p.name not in ("self", "name")]
    )
    described = re.search(r"^(?:Args|Attributes):\n((?: .*\n|\n)*)", text + "\n", re.M)
    described = ", ".join(re.findall(r"^    ([\w*, ]+):", described[1], re.M)) if described else ""
    assert set(names) <= set(re.findall(r"\w+", described))


# ---- examples


def examples():
    """Yield (id, text) for every docstring of the reference, and of what its classes define, that has an example."""
    for path in REFERENCE:
        thing = found(path)
        members = vars(thing).items() if inspect.isclass(thing) else []
        members = [(f"{path}.{name}", member) for name, member in members if not name.startswith("_")]
        for name, member in [(path, thing), *members]:
            text = inspect.getdoc(member) if not isinstance(member, (str, int, tuple, dict)) else None
            if text and ">>>" in text:
                yield name, text


EXAMPLES = dict(examples())


class MyScale(keras.layers.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")


def network(*end):
    layers = [keras.layers.Dense(16, "relu", name="first"), keras.layers.Dense(16, "relu", name="second")]
    model = keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(4, *end, name="last")], name="net")
    for layer in model.layers[1:]:  # reads five of sixteen channels
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        layer.kernel.assign(np.where(np.arange(16)[:, None] < 5, kernel, 0))
    return model


GIVEN = ["regularizers.coupled.CoupledGroups", "optimizers.base.SparseOptimizer"]


def names_of(text):
    """Return the names that an example takes for given."""
    random = np.random.default_rng(0)
    x, images = random.normal(size=(64, 8)).astype("float32"), random.normal(size=(64, 8, 8, 3)).astype("float32")
    names = {"kr": kr, "keras": keras, "keras_rmda": kr, "np": np, "warnings": warnings, "network": network}
    names |= vars(kr) | {path.rsplit(".")[-1]: found(f"keras_rmda.{path}") for path in GIVEN}
    names |= {name: type(name, (MyScale,), {}) for name in re.findall(r"My\w+", text)}
    names |= {"x": x, "y": x[:, :4], "x_val": x[:16], "y_val": x[:16, :4]}
    names |= {"images": images, "labels": images.mean((1, 2)).argmax(-1)}
    names |= {"psi": kr.GroupLasso(1e-3), "loss": "mse", "strategy": None}
    model = network()
    if "images" in text:
        layers = [keras.layers.Conv2D(8, 3, activation="relu"), keras.layers.GlobalAveragePooling2D()]
        model = keras.Sequential([keras.Input((8, 8, 3)), *layers, keras.layers.Dense(3, "softmax")])
    if "tf_keras" in text:
        names["tf_keras"] = pytest.importorskip("tf_keras")
    if "tf." in text:
        names["tf"] = pytest.importorskip("tensorflow")
    if "shrink(" in text:
        model.get_layer("second").trainable = False  # its zeros stay
    if "model.compile" not in text:
        model.compile(kr.RMDA(0.1, regularizer=kr.GroupLasso(1e-4, groups=kr.coupled_groups(model))), "mse")
    if "gate" in text:
        names["gated"] = gated = kr.gates.insert(network())
        gated.compile("adam", "mse")
        model = gated if "freeze(model)" in text else model
    return names | {"model": model}


@pytest.mark.parametrize("path", EXAMPLES)
@needs_multi_optimizer
def test_the_examples_of_the_reference_run(path, tmp_path, monkeypatch):
    """As a user types them; where a result stands below a line, it is the one that comes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    text = EXAMPLES[path]
    if "export_tflite(" not in text:
        for name in re.findall(r"\w+\.tflite", text):
            kr.export_tflite(network(), name)
    names, checker = names_of(text), doctest.OutputChecker()
    for example in doctest.DocTestParser().get_examples(text):
        try:
            value = eval(example.source, names)
        except SyntaxError:
            value = exec(example.source, names)
        if example.want:
            assert checker.check_output(
                example.want, f"{value!r}\n", doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
            ), value


# ---- pages


RUN_BY_TEST_README = {"start.md", "methods.md", "converter.md", "deployment.md", "scale.md"}
WITH_CODE = {page.relative_to(DOCS).as_posix(): page for page in DOCS.rglob("*.md") if "```python" in page.read_text()}


@pytest.mark.parametrize("name", sorted(WITH_CODE.keys() - RUN_BY_TEST_README))
def test_the_code_of_a_page_runs(name, tmp_path):
    code = "\n".join(re.findall(r"```python\n(.*?)```", WITH_CODE[name].read_text(), re.DOTALL))
    result = processes.run("-c", code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    for some, of_all in re.findall(r"(\d+) of (\d+)", result.stdout):  # parameters, before and after `strip`
        assert int(some) < int(of_all)
    for groups, share in re.findall(r"^(\d+) groups; ([\d.]+) of the operations", result.stdout, re.M):
        assert int(groups) == 24 + 2 * 32
        assert 0 < float(share) < 0.8
    for share in re.findall(r"^([\d.]+) of the multiply-accumulates", result.stdout, re.M):
        assert float(share) == pytest.approx(0.25, abs=0.02)


def slug(heading):
    """Return the anchor of a heading, as GitHub makes it; mkdocs.yml asks for the same."""
    words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", words).replace(" ", "-")


@functools.cache
def anchors_of(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    return {slug(heading) for heading in re.findall(r"^#+ (.*)", text, re.M)}


def broken_links(page, text):
    """Yield the links of a page to files that are not there, or to headings that they do not have."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        is_elsewhere = re.match(r"https?:", target)
        if not is_elsewhere and not (other.exists() and (not anchor or anchor in anchors_of(other))):
            yield target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_anchors_lead_somewhere(page):
    assert not list(broken_links(page, page.read_text()))


def test_broken_links_are_found():
    text = "[a](start.md) [b](start.md#install) [c](start.md#nowhere) [d](nowhere.md) [e](#nowhere) [f](https://example.org)"
    assert list(broken_links(DOCS / "index.md", text)) == ["start.md#nowhere", "nowhere.md", "#nowhere"]


def test_every_page_is_in_the_contents_of_the_site():
    site = (ROOT / "mkdocs.yml").read_text()
    listed = set(re.findall(r"^ +- (?:.*: )?(\S+\.md)$", site, re.M))
    assert {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")} <= listed
    assert not re.search(r"https?://", site), "the pages ask no other host"


def test_the_drawings_of_paths_are_those_of_the_script():
    script = found_script()
    assert {f"{name}.svg" for name in script.RUNS} == {path.name for path in (DOCS / "paths").iterdir()}
    trained, structured = script.path_of(*script.RUNS["rmda"])
    assert structured[-1, 1] == 0
    assert trained.shape == structured.shape == (script.STEPS + 1, 2)


def found_script():
    module = types.ModuleType("paths")
    module.__file__ = str(DOCS / "paths.py")
    exec(compile((DOCS / "paths.py").read_text(), "paths.py", "exec"), vars(module))
    return module
