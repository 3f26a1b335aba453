"""Rules of the layers of keras-hub. Whole networks of keras-hub: zoo_keras_hub.py."""

import importlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_rmda as kr
from keras_rmda.channels.keras_hub import ROWS
from keras_rmda.structure.verification import difference

hub = pytest.importorskip("keras_hub")


def of_hub(path):
    """Return a class of keras_hub.src.models or keras_hub.layers."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(f"keras_hub.src.models.{module}") if module else hub.layers, name)


def randomize(model):
    random = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(random.normal(size=weight.shape))
    return model


def zero(weight, axis, positions):
    value = np.moveaxis(np.array(keras.ops.convert_to_numpy(weight)), axis, 0)
    value[positions] = 0
    weight.assign(np.moveaxis(value, 0, axis))


def stripped(model, inputs):
    small = kr.strip(model, inputs=inputs)
    assert difference(model(inputs, training=False), small(inputs, training=False)) < 1e-5
    assert kr.analyze(model).opaque == {}
    return small


def tokens():
    return np.random.default_rng(1).integers(0, 7, (2, 5))


def numbers(*shape):
    return np.random.default_rng(1).normal(size=(2, *shape)).astype("float32")


@pytest.mark.parametrize("block", [False, True])
def test_channels_of_token_and_position_embeddings_go(block):
    i = keras.Input((5,), dtype="int32")
    if block:
        x = hub.layers.TokenAndPositionEmbedding(7, 9, 8)(i)
    else:
        x = L.Embedding(7, 8)(i)
        x = x + hub.layers.PositionEmbedding(9)(x)
    model = randomize(keras.Model(i, L.Dense(3)(x)))
    zero(model.layers[-1].kernel, 0, [1, 4, 5])
    small = stripped(model, tokens())
    assert small.count_params() == (7 + 9) * 5 + 5 * 3 + 3


def test_a_position_embedding_that_says_nothing_goes():
    i = keras.Input((5, 6))
    x = L.Dense(8, name="a")(i)
    y = L.Multiply()([x, hub.layers.PositionEmbedding(9, name="p")(x)])
    model = randomize(keras.Model(i, L.Dense(3, name="b")(y)))
    zero(model.get_layer("p").position_embeddings, -1, [0, 2])
    small = stripped(model, numbers(5, 6))
    assert [small.get_layer(name).units for name in "ab"] == [6, 3]
    assert small.get_layer("p").position_embeddings.shape == (9, 6)


@pytest.mark.parametrize("tie_weights", [True, False])
def test_what_a_reversed_embedding_does_not_read_goes(tie_weights):
    embedding = hub.layers.ReversibleEmbedding(7, 8, tie_weights=tie_weights, name="e")
    i = keras.Input((5,), dtype="int32")
    x = L.Dense(8, name="out")(L.Dense(6, activation="relu", name="in")(embedding(i)))
    model = randomize(keras.Model(i, embedding(x, reverse=True)))
    zero(model.get_layer("in").kernel, 0, [1, 4])
    zero(embedding.embeddings if tie_weights else embedding.reverse_embeddings, -1 if tie_weights else 0, [1, 4, 5])
    small = stripped(model, tokens())
    width = 5 if tie_weights else 6  # "in" reads channel 5, which is zero where the table is the same
    assert small.get_layer("out").units == width
    assert small.get_layer("e").embeddings.shape == (7, width)
    assert small.get_layer("in").kernel.shape == (width, 6)


def test_a_reversed_embedding_alone_is_a_layer_that_reads():
    embedding = hub.layers.ReversibleEmbedding(7, 8, tie_weights=False, name="e")
    embedding(np.zeros((1, 1), "int32"))
    i = keras.Input((5, 6))
    model = randomize(keras.Model(i, embedding(L.Dense(8, name="a")(i), reverse=True)))
    groups = kr.coupled_groups(model)
    assert set(groups.members) == {"e/reverse_embeddings"}
    zero(embedding.reverse_embeddings, 0, [0, 1, 2])
    assert stripped(model, numbers(5, 6)).get_layer("a").units == 5


NORMS = {
    "edrec.edrec_layers.EdRecRMSNormalization": {},
    "gemma.rms_normalization.RMSNormalization": {},
    "gemma3.gemma3_layers.RMSNormalization": {},
    "gemma4.gemma4_layers.RMSNormalization": {},
    "gemma4.gemma4_layers.Gemma4VNorm": {},
    "gemma3n.rms_normalization.Gemma3nRMSNorm": {"dim": 8},
    "gpt_oss.gpt_oss_layer_norm.GptOssLayerNormalization": {},
    "llama.llama_layernorm.LlamaLayerNorm": {},
    "mistral.mistral_layer_norm.MistralLayerNormalization": {},
    "mixtral.mixtral_layer_norm.MixtralLayerNormalization": {},
    "phi3.phi3_layernorm.Phi3LayerNorm": {},
    "qwen.qwen_layernorm.QwenLayerNorm": {},
    "qwen3.qwen3_layernorm.Qwen3LayerNorm": {},
    "qwen3_5.qwen3_5_layers.Qwen3_5LayerNorm": {},
    "qwen_moe.qwen_moe_layernorm.QwenMoeLayerNorm": {},
    "roformer_v2.roformer_v2_attention.RoformerNorm": {},
    "t5.t5_layer_norm.T5LayerNorm": {},
    "RotaryEmbedding": {},
    "SinePositionEncoding": {},
}


@pytest.mark.parametrize("path", NORMS)
def test_layers_that_mix_channels_keep_all_or_none(path):
    layer = of_hub(path)(**NORMS[path])
    i = keras.Input((5, 6))
    x = L.Dense(8, activation="relu", name="a")(i)
    model = randomize(keras.Model(i, L.Dense(3, name="b")(L.Dense(4, name="c")(layer(x)))))
    zero(model.get_layer("c").kernel, 0, [0, 1])
    zero(model.get_layer("b").kernel, 0, [3])
    small = stripped(model, numbers(5, 6))
    assert [small.get_layer(name).units for name in "ac"] == [8, 3]
    zero(model.get_layer("b").kernel, 0, range(4))
    assert stripped(model, numbers(5, 6)).get_layer("c").units == 1


@pytest.mark.parametrize("path", ["qwen3.qwen3_layernorm.Qwen3LayerNorm", "RotaryEmbedding"])
def test_heads_that_are_mixed_one_by_one_go_as_wholes(path):
    i = keras.Input((5, 6))
    layer = of_hub(path)(name="it")
    x = layer(L.Reshape((5, 3, 4))(L.Dense(12, name="a")(i)))
    model = randomize(keras.Model(i, L.Dense(2, name="b")(L.Reshape((5, 12))(x))))
    assert len(kr.coupled_groups(model)) == 3
    zero(model.get_layer("b").kernel, 0, [0, 4, 5, 6, 7])
    small = stripped(model, numbers(5, 6))
    assert small.get_layer("a").units == 8
    assert [weight.shape for weight in small.get_layer("it").weights] == [weight.shape for weight in layer.weights]


SCALES = {
    "dinov2.dinov2_layers.DINOV2LayerScale": {"hidden_dim": 8},
    "dinov3.dinov3_layers.DINOV3LayerScale": {"hidden_dim": 8},
    "mobilenetv5.mobilenetv5_layers.LayerScale2d": {"dim": 8},
}


@pytest.mark.parametrize("path", SCALES)
def test_channels_that_are_scaled_by_zero_go(path):
    layer = of_hub(path)(**SCALES[path])
    i = keras.Input((4, 5, 6))
    x = L.Dense(8, activation="relu", name="a")(i)
    model = randomize(keras.Model(i, L.Dense(3, name="b")(L.Dropout(0.1)(layer(x)))))
    zero(model.get_layer("b").kernel, 0, [0])
    zero(layer.weights[0], 0, [1, 2])
    assert stripped(model, numbers(4, 5, 6)).get_layer("a").units == 5


DROPS = {
    "dinov2.dinov2_layers.DINOV2DropPath": {"rate": 0.1},
    "mit.mit_layers.DropPath": {"rate": 0.1},
    "mobilenetv5.mobilenetv5_layers.DropPath": {"drop_prob": 0.1},
    "swin_transformer.swin_transformer_layers.DropPath": {"drop_prob": 0.1},
}


@pytest.mark.parametrize("path", DROPS)
def test_dropped_paths_carry_channels(path):
    i = keras.Input((5, 6))
    x = of_hub(path)(**DROPS[path])(L.Dense(8, activation="relu", name="a")(i))
    model = randomize(keras.Model(i, L.Dense(3, name="b")(x)))
    zero(model.get_layer("b").kernel, 0, [0, 7])
    assert stripped(model, numbers(5, 6)).get_layer("a").units == 6


ATTENTION = {
    "CachedMultiHeadAttention": {},
    "whisper.whisper_cached_multi_head_attention.WhisperCachedMultiHeadAttention": {},
}


@pytest.mark.parametrize("path", ATTENTION)
def test_cached_attention_loses_heads_and_positions(path):
    i = keras.Input((5, 6))
    layer = of_hub(path)(num_heads=4, key_dim=6, name="a")
    model = randomize(keras.Model(i, L.Dense(3)(i + layer(i, i))))
    assert len(kr.coupled_groups(model)) == 4
    zero(layer._query_dense.kernel, -1, [0, 3])
    zero(layer._query_dense.bias, -1, [0, 3])
    zero(layer._output_dense.kernel, 0, [1])
    zero(layer._output_dense.kernel, 1, [2])
    small = stripped(model, numbers(5, 6)).get_layer("a").get_config()
    assert [small[key] for key in ("num_heads", "key_dim", "value_dim")] == [3, 4, 5]


def test_units_of_a_block_that_mixes_go():
    i = keras.Input((5, 6))
    layer = hub.layers.FNetEncoder(12, name="f")
    model = randomize(keras.Model(i, L.Dense(3)(layer(i))))
    assert len(kr.coupled_groups(model)) == 12
    zero(layer._output_dense.kernel, 0, [0, 3, 5])
    small = stripped(model, numbers(5, 6)).get_layer("f")
    assert small.get_config()["intermediate_dim"] == 9
    assert small.count_params() == layer.count_params() - 3 * (6 + 1 + 6)


def test_every_row_is_of_a_class_that_exists():
    """Names that keras-hub gives up would be rows that nobody meets."""
    names = set()
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("keras_hub."):
            names |= {name for name, each in vars(module).items() if isinstance(each, type)}
    assert set(ROWS) <= names


def test_keras_hub_is_not_imported_with_this_package():
    code = "import sys, keras_rmda; sys.exit('keras_hub' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
