"""The layout shows the architecture: imports go downward only, and TensorFlow is imported where it is needed."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import keras_rmda

PACKAGE = Path(__file__).parent.parent / "keras_rmda"

# Lower levels first; a module may import only modules of lower levels, or of its own package.
LEVELS = [
    ["platform", "platform.copying"],
    ["platform.nested", "platform.declared", "platform.hidden", "platform.runs"],
    [
        "platform.arrays",
        "platform.checks",
        "platform.files",
        "platform.compat",
        "platform.arithmetic",
        "platform.loading",
        "platform.multi_worker",
        "platform.tfmot",
    ],
    ["cli.arguments", "platform.tolerant", "platform.versions"],
    [
        "platform.ends",
        "platform.fitting",
        "platform.graphs",
        "platform.hooks",
        "platform.replicas",
        "platform.finite",
    ],
    ["platform.lite.axes", "platform.lite.masks", "platform.lite.parts", "platform.lite.patches"],
    ["platform.lite.integers"],
    ["platform.lite.stand_ins", "platform.lite.functions", "platform.lite.fourier"],
    ["platform.lite"],
    ["platform.copying.functions"],
    ["platform.tracing.numbers", "platform.tracing.operands", "platform.tracing.programs", "platform.tracing.sizes"],
    ["platform.tracing.leaves", "platform.tracing.labels"],
    [
        "platform.tracing.weights",
        "platform.tracing.given",
        "platform.tracing.products",
        "platform.tracing.noise",
        "platform.tracing.ranges",
        "platform.tracing.shapes",
        "platform.tracing.silent",
        "platform.tracing.containers",
    ],
    ["platform.tracing.tensorflow.arguments"],
    ["platform.tracing.tensorflow.attributes", "platform.tracing.tensorflow.images"],
    ["platform.tracing.tensorflow.others", "platform.tracing.tensorflow.shapes", "platform.tracing.tensorflow.sums"],
    ["platform.tracing.tensorflow.table"],
    ["platform.tracing.symbols", "platform.tracing.tensorflow"],
    [
        "platform.tracing.derived",
        "platform.tracing.elementwise",
        "platform.tracing.reshapes",
        "platform.tracing.weighted",
    ],
    ["platform.tracing.attempts", "platform.tracing.graph", "platform.tracing.noisy"],
    ["platform.tracing.training"],
    ["platform.tracing.code"],
    ["platform.tracing"],
    ["platform.copying.objects", "platform.copying.shapes_in_model"],
    ["platform.copying.classes", "platform.copying.copies", "platform.copying.symbolic", "platform.startup"],
    ["platform.copying.likeness"],
    ["platform.copying.readable"],
    ["platform.copying.named", "platform.copying.parts"],
    ["platform.copying.saving"],
    ["channels.tensors", "regularizers.base"],
    ["channels.sites"],
    ["channels.rule"],
    ["channels.constants", "channels.functions", "channels.positions", "channels.merges"],
    ["channels.axes", "channels.equations", "channels.moves", "channels.scores", "channels.spectra"],
    ["channels.picks", "channels.contraction"],
    ["channels.totals"],
    ["channels.simple", "channels.linear", "channels.recurrent", "channels.attention"],
    ["channels.weights", "channels.wrappers", "channels.convolutions"],
    ["channels.borders", "channels.callables", "channels.noise", "channels.penalties", "channels.slopes"],
    ["channels.gates"],
    ["channels.derived", "channels.einsum", "channels.keras_hub"],
    ["channels.table"],
    ["channels"],
    ["regularizers.norms"],
    ["regularizers.coupled"],
    ["regularizers.elementwise", "regularizers.groups", "regularizers.nuclear"],
    ["regularizers"],
    ["optimizers.names"],
    ["optimizers.algorithm", "optimizers.assignment"],
    ["optimizers.binding", "optimizers.constants", "optimizers.joint", "optimizers.notes", "optimizers.strengths"],
    ["optimizers.steps"],
    ["optimizers.updates"],
    ["optimizers.likeness"],
    ["optimizers.shown"],
    ["optimizers.base"],
    ["optimizers.models"],
    ["optimizers.momentum", "optimizers.bregman"],
    ["optimizers.rmda", "optimizers.ramda", "optimizers.prox_sgd", "optimizers.prox_adamw"],
    ["optimizers.linbreg", "optimizers.adabreg", "optimizers.dessilbi"],
    ["optimizers"],
    ["gates.hard_concrete", "structure.pictures"],
    ["gates.layer", "gates.penalty"],
    ["gates.dependent", "gates.generator"],
    ["gates.layers"],
    ["structure.sharing", "structure.widths", "structure.sizes"],
    ["structure.inputs"],
    ["structure.verification"],
    ["structure.causes", "structure.precise", "structure.trace"],
    ["structure.liveness"],
    ["structure.folding"],
    ["structure.rebuilding"],
    ["structure.strip"],
    ["structure.amounts", "structure.kept", "structure.decisions"],
    ["structure.rows"],
    ["structure.report"],
    ["structure.penalties"],
    ["structure.states"],
    ["structure.pairing", "structure.stepping"],
    ["structure.shrinking"],
    ["structure.lifting"],
    ["structure.coarse"],
    ["structure"],
    ["export.apart", "export.tflm_run", "export.trial"],
    [
        "export.conversion",
        "export.flat",
        "export.int16",
        "export.micro",
        "export.operations",
        "export.progress",
        "export.ranges",
        "export.tflm",
    ],
    ["export.types"],
    ["export.fitness", "export.signature", "export.slim"],
    ["export.contents"],
    ["export.interpreter", "export.differences", "export.samples"],
    ["export.benchmark"],
    ["export.carried", "export.native", "export.prepared"],
    ["export.expected", "export.legacy"],
    ["export.converter", "export.comparison"],
    ["export.quantization", "export.tflite"],
    ["export"],
    ["structure.savings", "structure.starts"],
    ["structure.sparsify", "structure.factorize", "structure.coupling"],
    ["gates.costs", "gates.training"],
    ["gates.expected_l2", "gates.places", "gates.presets"],
    ["gates.wiring"],
    ["gates.insertion"],
    ["gates"],
    ["export.devices.measure"],
    ["export.devices.constants", "export.devices.laws", "export.devices.sizes"],
    ["export.devices.operators", "export.devices.probes"],
    ["export.devices.elastic"],
    ["export.devices.costs", "export.devices.writing"],
    ["export.devices.fit"],
    ["export.devices.energy"],
    ["export.devices.profile"],
    ["export.devices"],
    ["callbacks.laws", "callbacks.order", "callbacks.ranking"],
    ["callbacks.best", "callbacks.knapsack", "callbacks.structured"],
    ["callbacks.choice", "callbacks.goals"],
    ["callbacks.budget"],
    ["callbacks.session"],
    ["callbacks.choosing", "callbacks.strength"],
    [
        "callbacks.backup",
        "callbacks.cost",
        "callbacks.gates",
        "callbacks.monitor",
        "callbacks.path",
        "callbacks.stages",
        "callbacks.target",
    ],
    ["callbacks.multilevel"],
    ["callbacks", "datasets", "datasets.digits"],
    ["distribute"],
    ["compression.counterparts", "compression.data", "compression.distillation"],
    ["compression.folder", "compression.history", "compression.progress", "compression.rates", "compression.steps"],
    ["compression.callbacks", "compression.scores", "compression.statistics"],
    ["compression.cutting", "compression.recipe", "compression.result"],
    ["compression.defaults", "compression.run"],
    ["compression.search"],
    ["compression.compress"],
    ["compression"],
    ["cli.common", "cli.page.entries", "cli.page.logs"],
    ["cli.page.drawings"],
    ["cli.demo", "cli.page"],
    ["cli.compressing"],
    ["cli.commands"],
    ["cli"],
    ["__main__", "__init__"],
]
LEVEL = {module: level for level, modules in enumerate(LEVELS) for module in modules}
EXPORT = {f"export.{name}" for name in ("carried", "conversion", "converter", "prepared")}
MAY_IMPORT_TENSORFLOW = {
    "platform.lite",
    "platform.lite.axes",
    "platform.lite.fourier",
    "platform.lite.functions",
    "platform.lite.integers",
    "platform.lite.masks",
    "platform.lite.parts",
    "platform.lite.patches",
    "platform.lite.stand_ins",
    "platform.tfmot",
    "datasets.digits",
} | EXPORT
FILES = {
    ".".join(p.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): p for p in PACKAGE.rglob("*.py")
}


def module_of(name):
    return name.removeprefix("keras_rmda.")


def imports(path):
    """Yield (module, whether at the top of the file)."""
    tree = ast.parse(path.read_text())
    top = set(tree.body)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # Of a package it is the module inside that is imported, where it is one.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from ((name if module_of(name) in FILES else node.module, node in top) for name in names)


@pytest.mark.parametrize("module", FILES)
def test_imports_go_downward(module):
    for imported, _ in imports(FILES[module]):
        name = module_of(imported)
        if imported.startswith("keras_rmda.") and name in LEVEL:
            assert LEVEL[name] < LEVEL[module], f"{module} imports {name}"


@pytest.mark.parametrize("module", FILES)
def test_tensorflow_is_imported_where_it_is_needed(module):
    for imported, at_top in imports(FILES[module]):
        if imported.split(".")[0] == "tensorflow":
            assert module in MAY_IMPORT_TENSORFLOW
            assert not at_top


def test_every_module_has_a_level():
    assert set(FILES) == set(LEVEL)


def test_import_does_not_bring_tensorflow_and_is_fast():
    """On another backend; the time is bounded by modules, not by the clock."""
    code = (
        "import sys, keras\nbefore = set(sys.modules)\nimport keras_rmda\n"
        "new = {m.split('.')[0] for m in set(sys.modules) - before}\n"
        "print(sorted(m for m in new if not m.startswith('_')), 'tensorflow' in sys.modules)"
    )
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert result.returncode == 0, result.stderr
    heavy = {"tensorflow", "matplotlib", "sklearn", "ai_edge_litert", "tensorflow_datasets", "scipy"}
    assert not heavy & set(ast.literal_eval(result.stdout.rsplit(" ", 1)[0])), result.stdout
    assert result.stdout.strip().endswith("False")


def test_layers_are_found_as_those_of_keras_are():
    from keras_rmda.layers import L0Gate

    assert keras_rmda.layers.L0Gate is L0Gate
    assert len([each for each in PACKAGE.iterdir() if each.name[0] != "_" and each.suffix in ("", ".py")]) <= 12
