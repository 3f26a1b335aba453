"""Masks that Keras hides in tensors: blocks of a user's own get them, make them and hand them on."""

import keras
import numpy as np
import pytest
from backend import only_tensorflow
from keras import layers as L
from keras import ops
from test_strangers import half_zero, numbers, stripped

import keras_rmda as kr
from keras_rmda.structure.verification import difference

pytestmark = only_tensorflow
own = keras.saving.register_keras_serializable(package="tests_hidden_masks")


@own
class Words(L.Layer):
    """Embeddings of words and positions, which mask words of number 0."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.words, self.positions = L.Embedding(7, 8), L.Embedding(12, 8)

    def call(self, x):
        return self.words(x) + self.positions(ops.arange(0, ops.shape(x)[-1]))

    def compute_mask(self, x, mask=None):
        return ops.not_equal(x, 0)


@own
class Block(L.Layer):
    """Attention and units; with `explicit`, the code uses the mask itself."""

    def __init__(self, explicit=True, passes=True, **arguments):
        super().__init__(**arguments)
        self.explicit, self.supports_masking = explicit, passes
        self.attention = L.MultiHeadAttention(2, 4)
        self.units = keras.Sequential([L.Dense(12, activation="relu"), L.Dense(8)])
        self.first, self.second = L.LayerNormalization(), L.LayerNormalization()

    def get_config(self):
        return super().get_config() | {"explicit": self.explicit, "passes": self.supports_masking}

    def call(self, x, mask=None):
        given = mask[:, None, :] if self.explicit and mask is not None else None
        x = self.first(x + self.attention(x, x, attention_mask=given))
        return self.second(x + self.units(x))


@own
class Both(L.Layer):
    """Attention of one sequence to another: `mask` is a list, of which one may be None."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.attention, self.norm = L.MultiHeadAttention(2, 4), L.LayerNormalization()
        self.supports_masking = True

    def call(self, inputs, mask=None):
        (x, memory), (own, other) = inputs, mask or (None, None)
        return self.norm(x + self.attention(x, memory, memory, query_mask=own, key_mask=other, use_causal_mask=True))

    def compute_mask(self, inputs, mask=None):
        return mask[0]


@own
class Pool(L.Layer):
    """Attention pooling over what is not masked."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.score = L.Dense(1)

    def call(self, x, mask=None):
        scores = self.score(x)
        if mask is not None:
            scores = ops.where(mask[..., None], scores, -1e9)
        return ops.sum(ops.softmax(scores, axis=1) * x, axis=1)


def padded(batch=4, length=6):
    x = numbers(batch, length, below=7)
    x[1:, length // 2 :] = 0
    return x


@pytest.mark.parametrize("explicit", [True, False], ids=["explicit", "implicit"])
@pytest.mark.parametrize("passes", [True, False], ids=["passes", "stops"])
@pytest.mark.parametrize("behind", ["pool", "recurrent", "attention"])
def test_blocks_behind_masked_words_are_cut(explicit, passes, behind, tmp_path):
    inputs = keras.Input((None,), dtype="int64")
    x = Block(explicit, passes)(Block(explicit, passes)(Words()(inputs)))
    if behind == "attention":
        x = L.GlobalAveragePooling1D()(L.MultiHeadAttention(2, 4)(L.Add()([x, x]), x))
    else:
        x = (Pool() if behind == "pool" else L.GRU(6))(x)
    model = keras.Model(inputs, L.Dense(3)(x))
    assert half_zero(model) >= 2 * 12
    assert kr.analyze(model).opaque == {}
    small = stripped(model, padded(), padded(3, 9))
    small.save(tmp_path / "model.keras")
    assert difference(small(padded()), keras.models.load_model(tmp_path / "model.keras")(padded())) == 0


@pytest.mark.parametrize("length", [None, 6])
@pytest.mark.parametrize("kind", [Words, lambda: L.Embedding(7, 8, mask_zero=True)], ids=["own", "of_keras"])
def test_one_of_two_sequences_may_have_no_mask(length, kind):
    words, memory = keras.Input((length,), dtype="int64"), keras.Input((length, 8))
    x = Both()([kind()(words), memory])
    model = keras.Model([words, memory], L.Dense(3)(Pool()(L.Dense(10, activation="relu")(Both()([x, x])))))
    half_zero(model)
    assert kr.analyze(model).opaque == {}
    stripped(model, [padded(), numbers(4, 6, 8)])


def test_a_block_that_gets_a_mask_at_one_call_only_stays_and_says_so():
    words = keras.Input((6,), dtype="int64")
    block, plain = Block(name="block"), keras.Input((6, 8))
    x = block(L.Embedding(7, 8, mask_zero=True)(words)) + block(plain)
    model = keras.Model([words, plain], L.Dense(3)(x))
    assert "it gets masks at some calls, and none at others" in kr.analyze(model).opaque["block"]
    half_zero_or_whole = kr.strip(model, inputs=[padded(), numbers(4, 6, 8)])
    assert half_zero_or_whole.count_params() <= model.count_params()


def test_a_mask_that_is_made_of_numbers_leaves_the_layer_as_it_is():
    class Counted(Words):
        def compute_mask(self, x, mask=None):
            return np.asarray(x) != 0

    inputs = keras.Input((6,), dtype="int64")
    try:
        x = Counted(name="counted")(inputs)
    except Exception:
        pytest.skip("Keras does not call it on symbolic tensors itself")
    model = keras.Model(inputs, L.Dense(3)(L.GRU(6)(x)))
    stripped(model, padded())
