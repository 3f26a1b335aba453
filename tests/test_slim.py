"""Files without names and notes: they compute the same, to the bit, from fewer bytes."""

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from keras import layers as L

from keras_rmda.export import flat
from keras_rmda.export.contents import parsed
from keras_rmda.export.conversion import converted
from keras_rmda.export.converter import batches, quiet
from keras_rmda.export.prepared import prepared
from keras_rmda.export.signature import signed
from keras_rmda.export.slim import slimmed


def spectrogram():
    """A small DS-CNN whose signals neither vanish nor explode, half of its weights zero."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((25, 10, 1), 1, name="spectrogram")
    wide = keras.initializers.RandomNormal(stddev=0.7)
    x = L.ReLU()(L.Conv2D(16, (5, 4), strides=2, kernel_initializer="he_normal")(inputs))
    for _ in range(3):
        x = L.DepthwiseConv2D(3, padding="same", activation="relu", depthwise_initializer=wide)(x)
        x = L.Conv2D(16, 1, activation="relu", kernel_initializer="he_normal")(x)
    model = keras.Model(inputs, L.Dense(12, "softmax")(L.GlobalAveragePooling2D()(x)))
    for variable in model.trainable_variables:
        zero = np.random.default_rng(1).random(variable.shape) < 0.5
        variable.assign(np.where(zero & (len(variable.shape) == 4), 0.0, variable))
    return model


def several():
    a, b = keras.Input((6, 4), 1, name="left"), keras.Input((4,), 1, name="right")
    x = L.Concatenate()([L.LSTM(5)(a), L.Dense(5)(b)])
    return keras.Model([a, b], [L.Dense(2, name="one")(x), L.Dense(3, name="two")(x)])


def data(model):
    random = np.random.default_rng(0)
    return [{x.name: random.normal(size=x.shape).astype("float32") for x in model.inputs} for _ in range(4)]


KINDS = {
    "float32": (spectrogram, (None, False, False)),
    "sparse": (spectrogram, (None, True, False)),
    "float16": (spectrogram, ("float16", False, False)),
    "dynamic": (spectrogram, ("dynamic", False, False)),
    "int8": (spectrogram, ("int8", False, False)),
    "int8 outside": (spectrogram, ("int8", False, True)),
    "graphs inside": (several, (None, False, False)),
}


@pytest.fixture(scope="module")
def files():
    """What the converter makes, and what is left of it."""
    found = {}
    for kind, (make, (quantization, sparse, int8_io)) in KINDS.items():
        model = make()
        made = prepared(model, [tensor.name for tensor in model.inputs])
        given = batches(made, data(model)) if quantization == "int8" else []
        with quiet():
            content = converted(made.function, quantization, given, sparse, int8_io)
        found[kind] = (content, slimmed(signed(content, made.inputs, made.outputs)))
    return found


def sample(random, detail):
    """Numbers all over the range of an input."""
    return (random.normal(size=detail["shape"]) * (50 if detail["dtype"] is np.int8 else 1)).astype(detail["dtype"])


def outputs(content):
    """All outputs of a file in their order."""
    interpreter, random = Interpreter(model_content=content), np.random.default_rng(0)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], sample(random, detail))
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_the_same_to_the_bit(files, kind):
    before, after = map(outputs, files[kind])
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(np.unique(a).size > 1 for a in before)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_and_operators_stay(files, kind):
    before, after = (parsed(content, "model.tflite") for content in files[kind])
    bare = lambda tensor: (tensor.shape, tensor.dtype, tensor.bytes, tensor.stored, tensor.channels)  # noqa: E731
    for one, other in zip((before, *before.inner), (after, *after.inner), strict=True):
        numbers = {}  # of tensors, which are counted in the order in which they are used
        for a, b in zip(one.operators, other.operators, strict=True):
            assert a.name == b.name
            for k, n in zip((*a.inputs, *a.outputs), (*b.inputs, *b.outputs), strict=True):
                assert numbers.setdefault(k, n) == n
                assert k == n == -1 or bare(one.tensors[k]) == bare(other.tensors[n])
        assert len({*numbers.values()}) == len(numbers)
        assert len(one.tensors) == len(other.tensors)
    [(inputs, outputs)] = after.signatures.values()
    assert inputs == (("left", "right") if kind == "graphs inside" else ("spectrogram",))
    assert outputs == (("output_0", "output_1") if kind == "graphs inside" else ("output_0",))


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_notes_go(files, kind):
    _, content = files[kind]
    model = flat.read(content)
    assert not model.metadata
    assert not model.description
    [signature] = model.signatureDefs
    named = {each.tensorIndex: each.name for each in (*signature.inputs, *signature.outputs)}
    for graph in model.subgraphs:
        for number, tensor in enumerate(graph.tensors):
            assert tensor.name == (named.get(number) if graph is model.subgraphs[0] else None)
    used = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    assert used | {0} == set(range(len(model.buffers)))
    stored = [buffer.data.tobytes() for buffer in model.buffers if buffer.data is not None]
    assert len(set(stored)) == len(stored)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_aligned(files, kind):
    """A kernel that reads sixteen bytes at once must not meet others."""
    _, content = files[kind]
    model = schema.Model.GetRootAs(content, 0)
    places = [
        model.Buffers(k)._tab.Vector(4) for k in range(model.BuffersLength()) if not model.Buffers(k).DataIsNone()
    ]
    assert places
    assert all(place % flat.ALIGNMENT == 0 for place in places)


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_smaller(files, kind):
    before, after = map(len, files[kind])
    assert after < before - 1000
    assert len(slimmed(files[kind][1])) == after  # nothing is left to do
    if kind.startswith("int8"):
        assert after < 0.65 * before


def test_files_with_weights_behind_their_tables_stay(files):
    model = flat.read(files["float32"][0])
    model.buffers[1].offset = 4096
    content = flat.written(model)
    assert slimmed(content) == content


@pytest.mark.parametrize("kind", ["float32", "int8", "int8 outside"])
def test_tflm_computes_the_same_too(files, kind):
    runtime = pytest.importorskip("tflite_micro").runtime
    found = []
    for content in files[kind]:
        interpreter = runtime.Interpreter.from_bytes(content, arena_size=200_000)
        interpreter.set_input(sample(np.random.default_rng(0), interpreter.get_input_details(0)), 0)
        interpreter.invoke()
        found.append(interpreter.get_output(0))
    assert np.array_equal(*found)
    assert np.unique(found[0]).size > 1
