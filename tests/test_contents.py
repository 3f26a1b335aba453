"""What is read from `.tflite` files, and what TensorFlow Lite for Microcontrollers says of the same files."""

import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers as L

import keras_rmda as kr
from keras_rmda.export.contents import read_contents
from keras_rmda.export.micro import Buffer, buffers, planned
from keras_rmda.export.operations import multiply_accumulates
from keras_rmda.export.types import TYPES

QUANTIZED = ("int8", None)
ARENA = 4_000_000
RECORD = f"""
import sys
from tflite_micro.python.tflite_micro import runtime
interpreter = runtime.Interpreter.from_file(sys.argv[1], arena_size={ARENA})
interpreter.invoke()
interpreter.print_allocations()
"""


def residual():
    inputs = keras.Input((16, 16, 1))
    x = L.Conv2D(16, 3, strides=2, padding="same", activation="relu")(inputs)
    x = L.Add()([x, L.Conv2D(16, 1)(L.ReLU()(L.DepthwiseConv2D(3, padding="same")(x)))])
    return keras.Model(inputs, L.Dense(10, "softmax")(L.GlobalAveragePooling2D()(x)))


def dense():
    return keras.Sequential([keras.Input((32,)), L.Dense(64, "relu"), L.Dense(24, "tanh"), L.Dense(5)])


def pooled():
    x = inputs = keras.Input((20, 20, 2))
    x = L.MaxPooling2D()(L.Conv2D(8, 5, activation="relu")(x))
    return keras.Model(inputs, L.Dense(3)(L.Flatten()(x)))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of three networks, float32 and int8."""
    folder, result = tmp_path_factory.mktemp("files"), {}
    for make in (residual, dense, pooled):
        model = make()
        data = np.random.default_rng(0).normal(size=(10, *model.input_shape[1:])).astype("float32")
        for quantization in QUANTIZED:
            path = folder / f"{make.__name__}-{quantization}.tflite"
            kr.export_tflite(model, path, quantization, representative_data=data if quantization else None)
            result[make.__name__, quantization] = path
    return result


def test_operators_tensors_and_signatures(files):
    found = read_contents(files["residual", None])
    assert found.operator_counts == {
        "CONV_2D": 2, "DEPTHWISE_CONV_2D": 1, "ADD": 1, "MEAN": 1, "FULLY_CONNECTED": 1, "SOFTMAX": 1,
    }  # fmt: skip
    assert found.bytes == files["residual", None].stat().st_size
    assert [found.tensors[k].shape for k in found.inputs] == [(1, 16, 16, 1)]
    assert [found.tensors[k].shape for k in found.outputs] == [(1, 10)]
    kernels = [t for t in found.tensors if t.stored and t.dtype == "FLOAT32" and len(t.shape) == 4]
    assert sorted(t.shape for t in kernels) == [(1, 3, 3, 16), (16, 1, 1, 16), (16, 3, 3, 1)]
    assert all(t.stored == t.bytes == 4 * np.prod(t.shape) for t in kernels)
    [(inputs, outputs)] = found.signatures.values()
    assert len(inputs) == len(outputs) == 1
    int8 = read_contents(files["residual", "int8"])
    assert {t.dtype for t in int8.tensors if t.stored and len(t.shape) == 4} == {"INT8"}
    assert max(t.channels for t in int8.tensors) == 16


ASK = """
import os, sys
import flatbuffers
from ai_edge_litert import schema_py_generated as schema
from tflite_micro.python.tflite_micro import runtime

def tensor():
    result = schema.TensorT()
    result.shape, result.type, result.buffer = [1, 4], 0, 0
    return result

for name, code in vars(schema.BuiltinOperator).items():
    if not isinstance(code, int):
        continue
    model, kind, operator, graph = schema.ModelT(), schema.OperatorCodeT(), schema.OperatorT(), schema.SubGraphT()
    kind.builtinCode, kind.deprecatedBuiltinCode, kind.version = code, min(code, 127), 1
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0], [1]
    graph.tensors, graph.inputs, graph.outputs, graph.operators = [tensor(), tensor()], [0], [1], [operator]
    model.version, model.operatorCodes, model.buffers, model.subgraphs = 3, [kind], [schema.BufferT()], [graph]
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    os.write(2, f"\\n>{name}\\n".encode())
    if os.fork() == 0:
        try:
            runtime.Interpreter.from_bytes(bytes(builder.Output()), arena_size=100_000)
        finally:
            os._exit(0)
    os.wait()
"""


def test_tflm_has_the_operators_that_we_say():
    """Its interpreter is asked for one operator after the other; a kernel may crash on tensors that are not its own."""
    pytest.importorskip("tflite_micro")
    result = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, env=os.environ)
    said = dict(part.split("\n", 1) for part in result.stderr.split("\n>")[1:])
    assert len(said) > 200
    assert {name for name, text in said.items() if "Didn't find op" not in text} - {"CUSTOM", "IF", "WHILE"} == set(
        TYPES
    )


def test_the_table_has_a_row_for_each_operator(files):
    found = read_contents(files["residual", "int8"])
    lines = str(found).splitlines()
    assert len([line for line in lines if line.split()[0] in found.operator_counts]) == len(found.operators)
    assert "1x8x8x16" in str(found)
    assert f"{found.bytes:,} bytes" in lines[0]
    assert f"{found.arena_bytes:,}" in lines[-1]
    plain = found.to_dict()
    assert plain["arena_bytes"] == found.arena_bytes
    assert plain["not_micro"] == []
    assert sum(row["stored"] for row in plain["operators"]) == sum(t.stored for t in found.tensors)


def test_damaged_files_are_refused(tmp_path, files):
    whole = files["dense", None].read_bytes()
    for name, content, message in [
        ("empty", b"", "no TensorFlow Lite model"),
        ("foreign", b"PK\x03\x04" * 100, "no TensorFlow Lite model"),
        ("short", whole[:64], "damaged"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_contents(tmp_path / name)
    with pytest.raises(ValueError, match="no such file"):
        read_contents(tmp_path / "missing.tflite")


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 9), st.integers(0, 5)), max_size=12))
def test_a_plan_is_as_large_as_what_is_in_use_at_once(buffers):
    buffers = [Buffer(size, first, first + length) for size, first, length in buffers]
    rounded = lambda each: -(-each.bytes // 16) * 16  # noqa: E731
    at_once = [sum(rounded(b) for b in buffers if b.first <= step <= b.last) for step in range(16)]
    assert max(at_once) <= planned(buffers) <= sum(map(rounded, buffers))


def test_buffers_that_take_turns_share_a_place():
    assert planned([Buffer(100, 0, 1), Buffer(100, 2, 3), Buffer(100, 4, 4)]) == 112
    assert planned([Buffer(100, 0, 2), Buffer(100, 2, 3), Buffer(100, 3, 4)]) == 224
    assert planned([]) == 0


@pytest.mark.parametrize("quantization", QUANTIZED)
@pytest.mark.parametrize("name", ["residual", "dense", "pooled"])
def test_the_arena_is_what_tflm_records(files, name, quantization):
    """The plan of tensors to the byte, the rest within 10 %."""
    pytest.importorskip("tflite_micro")
    path = files[name, quantization]
    result = subprocess.run([sys.executable, "-c", RECORD, str(path)], capture_output=True, text=True, env=os.environ)
    found = {key: int(n) for key, n in re.findall(r"Arena allocation (\w+) (\d+) bytes", result.stdout + result.stderr)}
    assert found, result.stderr[-500:]
    contents = read_contents(path)
    assert contents.not_micro == ()
    assert planned(buffers(contents)) == found["head"]
    assert contents.arena_bytes == pytest.approx(found["total"], rel=0.1)


@pytest.mark.parametrize(
    "layer",
    [
        L.Conv2D(8, 3, strides=2, padding="same"),
        L.DepthwiseConv2D(3, depth_multiplier=2),
        L.SeparableConv2D(5, 3),
        L.Conv2DTranspose(6, 3, strides=2),
        L.Conv2D(6, 3, groups=2),
        L.Dense(7),
        L.Conv3D(5, 2),
        L.Conv3DTranspose(5, 2),
    ],
    ids=lambda layer: f"{type(layer).__name__}{getattr(layer, 'groups', '')}",
)
def test_files_count_multiply_accumulates_as_models_do(tmp_path, layer):
    shape = (8, 8, 8, 4) if isinstance(layer, L.Conv3D | L.Conv3DTranspose) else (8, 8, 4)
    inputs = keras.Input(shape, 1)
    model = keras.Model(inputs, type(layer).from_config(layer.get_config())(inputs))
    kr.export_tflite(model, tmp_path / "model.tflite")
    found = read_contents(tmp_path / "model.tflite")
    assert found.macs == kr.analyze(model).macs > 0
    assert found.macs == sum(row["macs"] for row in found.to_dict()["operators"])


@pytest.mark.parametrize("transposed", [False, True])
def test_products_of_matrices_count_what_is_summed(transposed):
    first = (1, 12, 5) if transposed else (1, 5, 12)
    assert multiply_accumulates("BATCH_MATMUL", [first, (1, 12, 7)], [(1, 5, 7)]) == 5 * 12 * 7


def test_attention_counts_its_products(tmp_path):
    inputs = keras.Input((12, 8), 1)
    model = keras.Model(inputs, L.MultiHeadAttention(2, 4)(inputs, inputs))
    kr.export_tflite(model, tmp_path / "model.tflite")
    assert read_contents(tmp_path / "model.tflite").macs == kr.analyze(model).macs == 4 * 12 * 64 + 2 * 2 * 12 * 12 * 4


def test_transposed_convolutions_meet_each_input_once():
    inputs = keras.Input((5, 6, 4))
    model = keras.Model(inputs, L.Conv2DTranspose(3, 2, strides=2)(inputs))
    assert kr.analyze(model).macs == 5 * 6 * 2 * 2 * 4 * 3
