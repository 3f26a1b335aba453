"""What a file costs at any widths: bytes, memory, time; profiles of devices."""

import itertools
import json
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from backend import only_tensorflow
from keras import layers as L
from processes import ALLOWED_NOISE

import keras_rmda as kr
from keras_rmda.callbacks.goals import amount
from keras_rmda.callbacks.knapsack import Knapsack
from keras_rmda.cli import main
from keras_rmda.export import devices, tflm
from keras_rmda.export.contents import parsed, read_contents
from keras_rmda.export.devices import measure
from keras_rmda.export.devices.elastic import Elastic
from keras_rmda.export.devices.fit import Part, spread, time_of, together
from keras_rmda.export.devices.laws import fitted, terms_of
from keras_rmda.export.devices.measure import read_log
from keras_rmda.export.devices.operators import Kind, alone
from keras_rmda.export.devices.probes import give_numbers
from keras_rmda.export.devices.writing import write_files
from keras_rmda.export.micro import buffers, planned
from keras_rmda.structure.folding import fold
from keras_rmda.structure.rebuilding import remade
from keras_rmda.structure.trace import as_graph, trace

pytestmark = only_tensorflow

RANDOM = np.random.default_rng(0)


def convolutions():
    inputs = keras.Input((12, 12, 3))
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(24, 3, padding="same", use_bias=False, name="first")(inputs)))
    y = L.ReLU()(L.DepthwiseConv2D(3, padding="same")(x))
    x = L.Add()([x, L.Conv2D(24, 1, name="inside")(L.Conv2D(40, 1, activation="relu", name="wide")(y))])
    x = L.Concatenate()([x, L.Conv2D(10, 3, padding="same", name="beside")(x)])
    x = L.Flatten()(L.MaxPooling2D(3)(x))
    return keras.Model(inputs, L.Dense(5, name="top")(L.Dense(30, "relu", name="hidden")(x)), name="convolutions")


def excited():
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(24, 3, 2, padding="same", name="stem")(inputs)
    s = L.Conv2D(12, 1, activation="relu", name="squeeze")(L.GlobalAveragePooling2D(keepdims=True)(x))
    x = x * L.Conv2D(24, 1, activation="sigmoid", name="excite")(s)
    return keras.Model(inputs, L.Conv2DTranspose(10, 2, 2, name="up")(x), name="excited")


def attention():
    inputs = keras.Input((6, 16))
    x = L.LayerNormalization()(inputs + L.MultiHeadAttention(4, 8, name="heads")(inputs, inputs))
    return keras.Model(
        inputs, L.Dense(4)(L.GlobalAveragePooling1D()(L.Dense(24, "gelu", name="in")(x))), name="attention"
    )


def data_for(model, count=8):
    return RANDOM.normal(size=(count, *model.inputs[0].shape[1:])).astype("float32")


@pytest.mark.parametrize("build", [convolutions, excited, attention])
@pytest.mark.parametrize("quantization", [None, "float16", "dynamic", "int8", "int16x8"])
def test_the_size_of_the_file_is_known_before_it_is_written(build, quantization, tmp_path):
    keras.utils.set_random_seed(0)
    model, export = build(), {"quantization": quantization}
    with as_graph(model) as graph:
        elastic = Elastic(model, graph, trace(graph), export)
        random = np.random.default_rng(3)
        for _ in range(2):
            kept = np.maximum(np.round(random.uniform(0.2, 1.0, len(elastic.layers.sizes)) * elastic.layers.sizes), 2)
            decided = elastic.layers.plan(kept.astype(int))
            small, _ = remade(graph, decided, fold(decided))
            give_numbers(small)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what random weights make is nearly constant
                path = tmp_path / "small.tflite"
                file = kr.export_tflite(small, path, representative_data=data_for(model), strip=False, **export)
            # With integers what is equal by chance, such as zero points of activations, is written once.
            allowed = 0 if quantization in (None, "float16") else 64
            assert abs(elastic.bytes(decided.cut) - file.bytes) <= allowed
            assert elastic.contents(elastic.sizes.of(decided.cut)).arena_bytes == file.arena_bytes


def test_layers_that_loop_are_known_at_any_widths(tmp_path):
    keras.utils.set_random_seed(0)
    layers = [L.SimpleRNN(9, return_sequences=True), L.SimpleRNN(9), L.Dense(3)]  # equal first states, until one is cut
    model = keras.Sequential([keras.Input((3, 4)), *layers], name="stacked")
    with as_graph(model) as graph:
        elastic = Elastic(model, graph, trace(graph), {"batch": 1})
        for kept in ([9, 9], [9, 5]):
            decided = elastic.layers.plan(np.array(kept))
            small, _ = remade(graph, decided, fold(decided))
            give_numbers(small)
            file = kr.export_tflite(small, tmp_path / "small.tflite", strip=False, batch=1)
            assert elastic.bytes(decided.cut) == file.bytes
        found = elastic.at(elastic.sizes.of(decided.cut))
    loops = [each for each, kind in zip(found.subgraphs[0].operators, elastic.kinds) if kind.name == "WHILE"]
    assert len(loops) == 2
    for each in loops:
        (tmp_path / "loop.tflite").write_bytes(alone(found, each))
        measure.interpreter_of(tmp_path / "loop.tflite", 1).invoke()
        assert len(read_contents(tmp_path / "loop.tflite").operators) == 1


@pytest.mark.skipif(not tflm.is_installed(), reason="tflite-micro is not installed")
@pytest.mark.parametrize("build", [convolutions, excited])
@pytest.mark.parametrize("quantization", [None, "int8"])
def test_the_plan_of_the_memory_is_that_of_the_interpreter(build, quantization, tmp_path):
    keras.utils.set_random_seed(0)
    model = build()
    code = (
        "import sys; from tflite_micro.python.tflite_micro import runtime; "
        "runtime.Interpreter.from_bytes(sys.stdin.buffer.read(), arena_size=4_000_000).print_allocations()"
    )
    with as_graph(model) as graph:
        elastic = Elastic(model, graph, trace(graph), {"quantization": quantization, "micro": True})
        for share in (1.0, 0.7, 0.45):
            kept = np.maximum(np.round(share * elastic.layers.sizes), 2).astype(int)
            content = elastic.content(elastic.layers.plan(kept).cut)
            said = subprocess.run([sys.executable, "-c", code], input=content, capture_output=True).stderr.decode()
            head, total = (int(re.search(f"Arena allocation {name} ([0-9]+)", said)[1]) for name in ("head", "total"))
            contents = parsed(content, tmp_path)
            assert planned(buffers(contents)) == head
            assert abs(contents.arena_bytes - total) < 300


# ---- laws and profiles


def staircase(widths, lanes=16):
    a, b = widths.T
    return 0.002 + 3e-7 * a * (-(-b // lanes) * lanes)


def test_a_law_finds_the_lanes_of_a_device():
    widths = RANDOM.integers(2, 96, size=(16, 2)).astype(float)
    terms = terms_of(((1, 6, 6, "a"), ("b", 3, 3, "a"), ("b",), (1, 6, 6, "b")))
    [law] = fitted([(terms, ("a", "b"), widths, staircase(widths))])
    assert law.lanes[1] == 16
    others = RANDOM.integers(2, 96, size=(200, 2)).astype(float)
    np.testing.assert_allclose(law.values(others), staircase(others), rtol=0.02)
    assert law.values(np.array([[8.0, 33.0]])) == pytest.approx(law.values(np.array([[8.0, 48.0]])))


def test_a_law_knows_what_was_measured():
    widths = np.array([[8.0], [16.0], [24.0], [32.0], [48.0], [64.0]])
    times = np.array([1.7, 1.7, 2.8, 2.0, 3.2, 3.3])  # two kinds of steps, as no formula has them
    [law] = fitted([(((1, 5, 5, "a"),), ("a",), widths, times)])
    errors = [np.abs(each.values(widths) / times - 1).max() for each in (law, replace(law, points=(), left=()))]
    assert errors[0] < 0.03 < 0.1 < errors[1]
    assert 1.7 < law.values(np.array([[20.0]])) < 2.8


def test_what_weights_cost_beside_others_is_told_by_whole_files():
    random = np.random.default_rng(0)
    alone, weights = random.uniform(1, 2, 20), random.uniform(0, 9, 20)
    scale, fetching = together(np.stack([alone, weights], axis=1), 0.9 * alone + 0.1 * weights)
    assert (scale, fetching) == (pytest.approx(0.9), pytest.approx(0.1))
    assert together(np.zeros((0, 2)), np.zeros(0)) == (1.0, 0.0)
    assert together(np.array([[2.0, 5.0]]), np.array([3.0])) == (1.5, 0.0)


def test_a_profile_knows_how_fast_the_processor_was(monkeypatch, tmp_path):
    usual = {f"{k}.tflite": 1.0 + k % 7 for k in range(150)}
    calls = itertools.count()

    def milliseconds(invoke, seconds):
        k = next(calls)
        return invoke() * (1 + 0.2 * np.sin(k / 400)) * (1.5 if k % 97 == 0 else 1.0)

    monkeypatch.setattr(
        measure, "interpreter_of", lambda path, threads: SimpleNamespace(invoke=lambda: usual[path.name])
    )
    monkeypatch.setattr(measure, "milliseconds", milliseconds)
    found = measure.measured(tmp_path, list(usual), 1, lambda text: None)
    shares = [min(times) / usual[name] for name, times in found.items()]
    assert max(shares) / min(shares) < 1.06


def test_an_operator_is_found_by_its_shapes():
    kind = Kind("CONV_2D", "", ("FLOAT32",) * 2, ((1, 6, 6, "a"), ("b", 3, 3, "a"), ("b",), (1, 6, 6, "b")))
    assert kind.letters == ("a", "b")
    assert kind.widths([(1, 6, 6, 4), (7, 3, 3, 4), (7,), (1, 6, 6, 7)]) == (4, 7)
    assert kind.widths([(1, 6, 6, 4), (7, 3, 3, 5), (7,), (1, 6, 6, 7)]) is None
    assert kind.widths([(1, 5, 6, 4), (7, 3, 3, 4), (7,), (1, 6, 6, 7)]) is None


def small_network():
    keras.utils.set_random_seed(0)
    layers = [
        L.Conv2D(24, 3, padding="same", activation="relu", name="one"),
        L.Conv2D(32, 3, name="two", activation="relu"),
    ]
    return keras.Sequential(
        [keras.Input((8, 8, 3)), *layers, L.GlobalAveragePooling2D(), L.Dense(4, name="top")], name="small"
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of a profile, and times that a device with 16 lanes would take."""
    folder = tmp_path_factory.mktemp("profile")
    write_files(small_network(), folder)
    plan = json.loads((folder / "files.json").read_text())

    def time(kind, widths):
        sizes = dict(zip(Kind(**kind).letters, widths))
        shapes = [[-(-sizes[n] // 16) * 16 if n in sizes else n for n in shape] for shape in kind["shapes"]]
        return 0.001 + 1e-6 * sum(float(np.prod(shape)) for shape in shapes if len(shape) > 1)

    for each in plan["files"]:
        if "kind" in each:
            value = time(each["kind"], each["widths"])
        else:
            value = 0.001 + sum(time(kind, widths) - 0.001 for kind, widths in each["operators"])
        each["milliseconds"] = [value * 1.01, value, value * 1.3]
    (folder / "profile.json").write_text(json.dumps(plan | {"device": "made up", "threads": 1}))
    return folder


@pytest.fixture(scope="module")
def profile(folder):
    return kr.DeviceProfile.load(folder / "profile.json")


def test_a_profile_predicts_whole_files(folder, profile):
    assert profile.quantizations == ("float32", "int8")
    for each in profile.measured:
        if "operators" in each:
            assert profile.milliseconds(folder / each["file"]) == pytest.approx(time_of(each), rel=0.05)


def test_a_profile_is_kept(profile, tmp_path):
    profile.save(tmp_path / "kept.json")
    again = kr.DeviceProfile.load(tmp_path / "kept.json")
    assert again == profile
    assert again.spread == pytest.approx(0.01)
    assert len(profile.merged(again).measured) == 2 * len(profile.measured)
    with pytest.raises(ValueError, match="one device"):
        profile.merged(kr.DeviceProfile("another", 1, profile.measured))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no json", "no profile"),
        ("[]", "no profile"),
        ({"format": 0}, "format 0"),
        ({"files": []}, "no measurements"),
        ({"noise": 1.0}, "too noisy"),
        ({"drop": True}, "without times"),
    ],
)
def test_files_that_are_no_profiles_are_refused(folder, tmp_path, monkeypatch, content, message):
    monkeypatch.setattr(devices.profile, "NOISE", ALLOWED_NOISE)
    path = tmp_path / "bad.json"
    if isinstance(content, str):
        path.write_text(content)
    else:
        whole = json.loads((folder / "profile.json").read_text())
        for each in whole["files"] if "noise" in content else ():
            each["milliseconds"] = [1.0, 2.0, 3.0]
        if "drop" in content:
            del whole["files"][0]["milliseconds"]
        path.write_text(json.dumps(whole | content))
    with pytest.raises(ValueError, match=message):
        kr.DeviceProfile.load(path)
    with pytest.raises(ValueError, match="no such profile"):
        kr.DeviceProfile.load(tmp_path / "none.json")


def test_what_a_profile_lacks_is_named(profile):
    with pytest.raises(ValueError, match=r"lacks an operator of the model: \w+"):
        kr.analyze(convolutions(), profile)
    only = kr.DeviceProfile("made up", 1, tuple(x for x in profile.measured if x["quantization"] == "int8"))
    with pytest.raises(ValueError, match="has int8, not float32"):
        trained("latency", 0.5, profile=only)


def test_the_script_measures_and_reads_logs(folder, tmp_path):
    assert spread([1.0, 1.5, 1.1]) == pytest.approx(0.1)
    log = "INFO: Graph: [/data/a.tflite]\nInference timings in us: Init: 9, Inference (avg): 123.5\n"
    log += "INFO: Graph: [b.tflite]\nWarmup (avg): 3, Inference (avg): 2e3\nGraph: [c.tflite]\nERROR\n"
    assert read_log(log) == {"a.tflite": [0.1235], "b.tflite": [2.0]}
    few = json.loads((folder / "files.json").read_text())
    few["files"] = few["files"][:3]
    for each in few["files"]:
        (tmp_path / each["file"]).write_bytes((folder / each["file"]).read_bytes())
    (tmp_path / "files.json").write_text(json.dumps(few))
    run = subprocess.run(
        [sys.executable, str(folder / "measure.py"), "--folder", str(tmp_path)], capture_output=True, text=True
    )
    assert "wrote" in run.stdout, run.stderr
    written = json.loads((tmp_path / "profile.json").read_text())
    assert written["threads"] == 1
    assert all(min(each["milliseconds"]) > 0 and len(each["milliseconds"]) == 3 for each in written["files"])
    (tmp_path / "log.txt").write_text(log)
    arguments = [
        sys.executable,
        str(folder / "measure.py"),
        "--folder",
        str(tmp_path),
        "--log",
        str(tmp_path / "log.txt"),
    ]
    run = subprocess.run(arguments, capture_output=True, text=True)
    assert run.returncode == 1
    assert "no times of 3 of 3 files" in run.stderr


def test_analyze_shows_milliseconds(profile):
    report = kr.analyze(small_network(), profile)
    times = {layer.name: layer.milliseconds for layer in report.layers}
    assert times["two"] > times["one"] > times["top"] > 0
    assert sum(times.values()) < report.latency[0]
    assert report.latency[0] == report.latency[1]
    assert "ms" in str(report).splitlines()[1]
    assert report.to_dict()["layers"][0]["milliseconds"] == times["one"]


# ---- the choice


def test_a_knapsack_takes_steps_and_leaves_what_saves_nothing():
    stairs = lambda n: (-(-n // 8) * 8).sum(axis=1, keepdims=True) / 32  # noqa: E731, 2 layers of 16: 1 for all
    worths = [np.linspace(0.1, 1, 16), np.linspace(1, 2, 16)]
    chosen = Knapsack(worths, np.array([2, 2]), lambda n: stairs(n) / 0.75).chosen(np.array([16, 16]))
    assert chosen.tolist() == [8, 16]
    assert Knapsack(worths, np.array([2, 2]), stairs).chosen(np.array([16, 16])).tolist() == [16, 16]
    least = Knapsack(worths, np.array([2, 2]), lambda n: stairs(n) / 0.1).chosen(np.array([16, 16]))
    assert stairs(least[None]) == 0.5  # the widest of the lowest steps


def test_the_least_possible_is_that_of_the_fastest_network(folder):
    plan = json.loads((folder / "files.json").read_text())
    slow = {"CONV_2D": 9.0, "MEAN": 1.0, "FULLY_CONNECTED": 1.0}

    def time(kind, widths):
        part = sum(slow[kind["name"]] for n in widths if n % 16) + sum(widths) / 16
        return 0.001 + 0.001 * part

    for each in plan["files"]:
        parts = each.get("operators") or [[each["kind"], each["widths"]]]
        each["milliseconds"] = [0.001 + sum(time(*part) - 0.001 for part in parts)] * 2
    known = kr.DeviceProfile("steep", 1, tuple(plan["files"]))
    model, logs = trained("latency", 0.5, profile=known)
    assert logs["latency_left"] <= 0.5
    assert all(layer.channels % 16 == 0 for layer in kr.analyze(kr.strip(model)).layers[:2])


def trained(metric=None, target=None, build=small_network, ranking="fisher", **arguments):
    model = build()
    x = data_for(model, 64)
    y = RANDOM.normal(size=(64, model.outputs[0].shape[-1]))
    psi = kr.GroupLasso(1e-5, groups=kr.coupled_groups(model, parts="all"))
    model.compile(kr.ProxAdamW(1e-3, regularizer=psi), "mse")
    given = {"target": target, "metric": metric} if metric else {}
    callback = kr.callbacks.TargetSparsity(**given, ranking=ranking, **arguments)
    history = model.fit(x, y, batch_size=16, epochs=6, verbose=0, callbacks=[callback])
    return model, {key: values[-1] for key, values in history.history.items()}


@pytest.mark.parametrize("ranking", ["fisher", "magnitude"])
@pytest.mark.parametrize("export", [{}, {"quantization": "int8", "int8_io": True, "micro": True}])
def test_the_file_has_the_bytes_that_were_asked_for(export, ranking, tmp_path):
    model, logs = trained("file_bytes", 0.5, ranking=ranking, export=export)
    file = kr.export_tflite(model, tmp_path / "file.tflite", representative_data=data_for(model), **export)
    whole = file.bytes / logs["file_bytes_left"]
    assert file.bytes / whole == pytest.approx(logs["file_bytes_left"])
    assert 0.44 < logs["file_bytes_left"] <= 0.5


def test_several_targets_at_once(tmp_path):
    export = {"quantization": "int8", "micro": True}
    targets = {"file_bytes": "7 KB", "arena": 4600, "macs": 0.6}
    model, logs = trained(targets=targets, export=export)
    file = kr.export_tflite(model, tmp_path / "file.tflite", representative_data=data_for(model), **export)
    assert file.bytes <= 7000
    assert file.arena_bytes <= 4600
    report = kr.analyze(model)
    assert report.macs_after / report.macs == pytest.approx(logs["macs_left"])
    assert logs["macs_left"] <= 0.6
    assert {"file_bytes_left", "arena_left"} <= set(logs)


def test_what_is_within_its_target_stays_so(tmp_path):
    model, logs = trained(targets={"file_bytes": "7 KB", "arena": "1 MB"}, export=(how := {"quantization": "int8"}))
    file = kr.export_tflite(model, tmp_path / "file.tflite", micro=True, representative_data=data_for(model), **how)
    assert 6500 < file.bytes <= 7000
    assert logs["arena_left"] <= 1


def separable():
    inputs = keras.Input((24, 5, 1))
    x = L.Conv2D(32, 3, padding="same", activation="relu")(inputs)
    for _ in range(3):
        x = L.DepthwiseConv2D(3, padding="same", activation="relu")(x)
        x = L.Conv2D(32, 1, activation="relu")(x)
    return keras.Model(inputs, L.Dense(4)(L.GlobalAveragePooling2D()(x)), name="separable")


@pytest.mark.parametrize("ranking", ["fisher", "magnitude"])
def test_the_memory_is_what_was_asked_for_however_it_is_planned(ranking, tmp_path):
    model, logs = trained("arena", 0.6, separable, ranking)
    file = kr.export_tflite(model, tmp_path / "file.tflite", micro=True)
    assert logs["arena_left"] <= 0.6
    whole = kr.export_tflite(separable(), tmp_path / "whole.tflite", micro=True, strip=False)
    assert 0.45 < file.arena_bytes / whole.arena_bytes <= 0.6


@pytest.mark.parametrize("target", [0.6, "0.012 ms"])
def test_the_latency_is_what_was_asked_for_and_no_step_is_half_used(profile, target, tmp_path):
    model, logs = trained("latency", target, profile=profile)
    whole = kr.analyze(small_network(), profile).latency[0]
    file = kr.export_tflite(model, tmp_path / "file.tflite", batch=1)
    predicted = profile.milliseconds(file.path)
    assert predicted / whole == pytest.approx(logs["latency_left"])
    wanted = 0.6 * whole if target == 0.6 else 0.012
    assert predicted <= wanted * 1.001
    widths = [layer.channels for layer in kr.analyze(kr.strip(model)).layers[:2]]
    assert all(width % 16 == 0 or width in (24, 32) for width in widths), widths


def test_compress_takes_them(profile):
    model = small_network()
    x, y = data_for(model, 48), RANDOM.integers(0, 4, 48)
    export = {"quantization": "int8"}
    result = kr.compress(model, x, y, targets={"file_bytes": "8 KB", "latency": 0.7}, export=export, profile=profile,
                         epochs=2, batch_size=16, verbose=0)  # fmt: skip
    assert result.history["file_bytes_left"][-1] < 1
    assert result.history["latency_left"][-1] <= 0.7


@pytest.mark.parametrize(
    ("metric", "target", "expected"),
    [("latency", 0.5, (0.5, True)), ("latency", 2, (2, False)), ("latency", "400 us", (0.4, False)),
     ("energy", "3 mJ", (3000, False)), ("file_bytes", "40 KB", (40_000, False)), ("arena", "64KiB", (65_536, False))],
)  # fmt: skip
def test_targets_have_units(metric, target, expected):
    assert amount(metric, target) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "40 KB", "metric": "latency"}, "units ms"),
        ({"target": "2 ms", "metric": "arena"}, "units B"),
        ({"target": "many", "metric": "file_bytes"}, "units B"),
        ({"target": "2 ms"}, "must be a number"),
        ({"target": 0.5, "metric": "latency"}, "`profile` goes with"),
        ({"target": 0.5, "metric": "energy"}, "needs an `EnergyTable`"),
        ({"target": 0.5, "profile": kr.EnergyTable({"int8": 1.0})}, "`profile` goes with"),
        ({"target": "2 ms", "metric": "energy", "profile": kr.EnergyTable({"int8": 1.0})}, "units uJ"),
        ({"target": 0.5, "metric": "latency", "profile": 3}, "must be a DeviceProfile or"),
        ({"target": 0.5, "metric": "file_bytes", "export": {"strip": False}}, "`export` takes"),
        ({"target": 0.5, "export": {"quantization": "int8"}}, "`export` goes with"),
        ({"target": 0.5, "targets": {"arena": 0.5}}, "`target` or `targets`"),
        ({}, "`target` or `targets`"),
        ({"targets": {"macs": 0.5}}, "needs one of"),
        ({"targets": {"size": 0.5}}, "must be one of"),
        ({"target": 0.5, "metric": "file_bytes", "export": {"int8_io": True}}, "goes with quantization"),
        ({"target": "40 KB", "metric": "macs"}, "must be a number"),
        ({"targets": {"arena": 0.5, "macs": "40 KB"}}, "without a unit"),
        ({"target": 0.5, "metric": "arena", "export": {"representative_data": iter([1])}}, "a generator, which ends"),
    ],
)
def test_bad_targets_are_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        kr.callbacks.TargetSparsity(**arguments)


def test_the_least_that_is_possible_is_said(profile):
    with pytest.raises(ValueError, match=r"smallest possible target is .* of latency, or [0-9.e-]+ ms"):
        trained("latency", 0.001, profile=profile)
    with pytest.raises(ValueError, match="at most as much"):
        trained("file_bytes", "900 MB")


# ---- the command line


def test_the_command_writes_files_and_measures(tmp_path, capsys):
    path = tmp_path / "tiny.keras"
    tiny = keras.Sequential([keras.Input((4,)), L.Dense(6, "relu", name="in"), L.Dense(2, name="out")], name="tiny")
    tiny.save(path)
    folder = tmp_path / "files"
    assert main(["profile", str(path), "--output", str(folder), "--here", "--quantization", "float32"]) == 0
    assert "files measured" in capsys.readouterr().out
    profile = kr.DeviceProfile.load(folder / "profile.json")
    assert profile.quantizations == ("float32",)
    assert main(["profile", str(path), "--output", str(folder)]) == 2
    assert "an empty one" in capsys.readouterr().err
    file = next(folder.glob("*whole*"))
    assert main(["bench", str(file), "--runs", "5", "--json", "--profile", str(folder / "profile.json")]) == 0
    [row] = json.loads(capsys.readouterr().out)["files"]
    assert row["predicted_ms"] == pytest.approx(profile.milliseconds(file))
    assert read_contents(file).operators
    assert isinstance(next(iter(profile._fits["float32"].parts.values())), Part)


def test_a_profile_of_what_cannot_be_cut(tmp_path):
    model = keras.Sequential([keras.Input((4,)), L.Dense(3)], name="one")
    profile = kr.DeviceProfile.measure(model, tmp_path / "files", quantizations=[None])
    assert [each["file"] for each in profile.measured][-1] == "float32-whole-00.tflite"
    assert profile.milliseconds(tmp_path / "files" / "float32-whole-00.tflite") > 0


def test_a_profile_learns_what_it_lacks(tmp_path, capsys):
    whole = []
    for name, activation in (("first", "relu"), ("second", "tanh")):
        layers = [L.Dense(6, activation, name="in"), L.Dense(2, name="out")]
        keras.Sequential([keras.Input((4,)), *layers], name=name).save(tmp_path / f"{name}.keras")
    for name, known in (("first", []), ("second", ["--profile", str(tmp_path / "first" / "profile.json")])):
        given = [str(tmp_path / f"{name}.keras"), "--output", str(tmp_path / name), "--here", *known]
        assert main(["profile", *given, "--quantization", "float32"]) == 0
        whole.append(next((tmp_path / name).glob("*whole*")))
    assert "files measured" in capsys.readouterr().out
    profile = kr.DeviceProfile.load(tmp_path / "second" / "profile.json")
    assert all(profile.milliseconds(path) > 0 for path in whole)
    new = {path.name.split("-")[2] for path in (tmp_path / "second").glob("*.tflite") if "whole" not in path.name}
    assert new == {"fully_connected.tflite", "tanh.tflite"}  # the last layer was known
    plan = json.loads((tmp_path / "second" / "files.json").read_text())
    plan["known"]["device"] = "another"
    (tmp_path / "second" / "files.json").write_text(json.dumps(plan))
    run = subprocess.run([sys.executable, str(tmp_path / "second" / "measure.py")], capture_output=True, text=True)
    assert run.returncode == 1
    assert "is of device 'another'" in run.stderr


def test_milliseconds_of_layers_are_shown_and_drawn(folder, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    model = small_network()
    model.layers[0].kernel.assign(model.layers[0].kernel * (np.arange(24) < 8))
    paths = [tmp_path / "whole.keras", tmp_path / "small.keras"]
    model.save(paths[0])
    kr.strip(model).save(paths[1])
    given = ["--profile", str(folder / "profile.json")]
    assert main(["inspect", str(paths[0]), "--json", *given]) == 0
    shown = json.loads(capsys.readouterr().out)["layers"][0]
    assert shown["milliseconds"] > shown["milliseconds_after"] > 0
    assert main(["report", str(tmp_path / "page.html"), *map(str, paths), *given]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "Milliseconds per layer: small.keras" in page
    assert f"of {shown['milliseconds']:.4f}" in page
    kr.export_tflite(model, tmp_path / "file.tflite")
    assert main(["inspect", str(tmp_path / "file.tflite"), *given]) == 2
    assert "--profile is for .keras files" in capsys.readouterr().err


def made_up(model, folder):
    """Return a profile of a model by the sizes of its files."""
    write_files(model, folder, [None])
    plan = json.loads((folder / "files.json").read_text())
    for each in plan["files"]:
        size = (folder / each["file"]).stat().st_size
        each["milliseconds"] = [size / 1e5, size / 1e5]
    return kr.DeviceProfile("made up", 1, tuple(plan["files"]))


def test_a_network_that_flattens_has_a_latency(tmp_path):
    layers = [L.Conv2D(16, 3, activation="relu"), L.Flatten(), L.Dense(12, "relu"), L.Dense(3)]
    build = lambda: keras.Sequential([keras.Input((6, 6, 2)), *layers], name="flat")  # noqa: E731
    known = made_up(build(), tmp_path / "files")
    model, logs = trained("latency", 0.9, build, profile=known)
    assert logs["latency_left"] <= 0.9
    one, open_batch = (kr.export_tflite(model, tmp_path / f"{n}.tflite", batch=n).path for n in (1, None))
    assert 0 < known.milliseconds(one) == known.milliseconds(open_batch)


def test_a_file_that_computes_with_its_batch_is_not_measured(tmp_path):
    class Marked(L.Layer):
        def build(self, shape):
            self.mark = self.add_weight(shape=(1, 1, shape[-1]))

        def call(self, x):
            return keras.ops.concatenate([keras.ops.broadcast_to(self.mark, (keras.ops.shape(x)[0], 1, 4)), x], 1)

    model = keras.Sequential([keras.Input((6, 3)), L.Dense(4), Marked(), L.Dense(5)], name="marked")
    known = made_up(model, tmp_path / "files")
    assert known.milliseconds(tmp_path / "files" / "float32-whole-00.tflite") > 0
    with pytest.raises(ValueError, match="batch=1"):
        known.milliseconds(kr.export_tflite(model, tmp_path / "open.tflite").path)


# ---- energy


def energy_of(contents, mac, byte):
    """Return the microjoules of a file, from what is in it."""
    moved = sum(
        contents.tensors[k].bytes for each in contents.operators for k in (*each.inputs, *each.outputs) if k >= 0
    )
    return 1e-6 * (mac * contents.macs + byte * moved)


@pytest.mark.parametrize("build", [convolutions, excited, small_network])
@pytest.mark.parametrize(("quantization", "mac"), [(None, 4.6), ("int8", 0.3)])
def test_the_energy_of_a_file_is_that_of_its_operations(build, quantization, mac, tmp_path):
    model = build()
    file = kr.export_tflite(model, tmp_path / "file.tflite", quantization, representative_data=data_for(model))
    table = kr.EnergyTable({"float32": 4.6, "int8": 0.3}, byte=12.5)
    contents = read_contents(file.path)
    assert table.microjoules(file.path) == pytest.approx(energy_of(contents, mac, 12.5))
    assert kr.EnergyTable({"float32": 1e6, "int8": 1e6}).microjoules(file.path) == pytest.approx(contents.macs)


@pytest.mark.parametrize("export", [{}, {"quantization": "int8"}])
def test_the_energy_is_what_was_asked_for(export, tmp_path):
    table = kr.EnergyTable({"float32": 4.6, "int8": 0.3}, byte=12.5)
    whole = small_network()
    data = data_for(whole)
    before = kr.export_tflite(whole, tmp_path / "whole.tflite", representative_data=data, strip=False, **export)
    model, logs = trained("energy", 0.5, profile=table, export=export)
    file = kr.export_tflite(model, tmp_path / "file.tflite", representative_data=data, **export)
    share = table.microjoules(file.path) / table.microjoules(before.path)
    assert share == pytest.approx(logs["energy_left"], rel=1e-3)
    assert 0.4 < share <= 0.5


def test_the_energy_of_loops_is_not_guessed(tmp_path):
    model = keras.Sequential([keras.Input((5, 3)), L.GRU(8), L.Dense(2)])
    file = kr.export_tflite(model, tmp_path / "file.tflite")
    with pytest.raises(ValueError, match="cannot count"):
        kr.EnergyTable({"float32": 4.6}).microjoules(file.path)
    with pytest.raises(ValueError, match="cannot count"):
        trained("energy", 0.5, lambda: model, profile=kr.EnergyTable({"float32": 4.6}))


def test_time_and_energy_at_once(profile):
    table = kr.EnergyTable({"float32": 4.6})
    _, logs = trained(targets={"latency": 0.7, "energy": 0.6}, profile=[profile, table])
    assert logs["latency_left"] <= 0.7
    assert logs["energy_left"] <= 0.6


def test_tables_of_energies_are_kept_and_checked(tmp_path):
    table = kr.EnergyTable({"int8": 0.3}, byte=2)
    table.save(tmp_path / "table.json")
    assert kr.EnergyTable.load(tmp_path / "table.json") == table
    model = small_network()
    file = kr.export_tflite(model, tmp_path / "file.tflite")
    with pytest.raises(ValueError, match="has int8, and CONV_2D of the file computes with float32"):
        table.microjoules(file.path)
    with pytest.raises(ValueError, match="has int8, and"):
        trained("energy", 0.5, profile=table)
    with pytest.raises(ValueError, match="must be a DeviceProfile"):
        kr.analyze(model, table)
    with pytest.raises(ValueError, match=r"smallest possible target is .* of energy, or [0-9.e-]+ uJ"):
        trained("energy", "0.001 nJ", profile=kr.EnergyTable({"float32": 1.0}))
    for wrong in ({}, {"int4": 1.0}, {"int8": -1.0}, 0.3):
        with pytest.raises(ValueError, match="mac"):
            kr.EnergyTable(wrong)
    with pytest.raises(ValueError, match="byte"):
        kr.EnergyTable({"int8": 1.0}, byte=float("nan"))
    (tmp_path / "other.json").write_text('{"format": 1}')
    for path in ("other.json", "missing.json"):
        with pytest.raises(ValueError, match="no table of energies"):
            kr.EnergyTable.load(tmp_path / path)
