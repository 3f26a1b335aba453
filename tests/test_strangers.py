"""Models as strangers write them, from papers and tutorials, each as small as it can be."""

import keras
import numpy as np
import pytest
from backend import only_tensorflow
from keras import layers as L
from keras import ops
from zoo import randomize

import keras_rmda as kr
from keras_rmda.optimizers.names import names_of
from keras_rmda.platform import compat
from keras_rmda.structure.verification import difference

pytestmark = only_tensorflow
own = keras.saving.register_keras_serializable(package="tests_strangers")


def half_zero(model):
    """Set every second group of a model to zero; return how many groups there are."""
    groups = kr.coupled_groups(randomize(model))
    for weight in model.weights:
        path = groups.path_among(names_of(weight, model))
        if path is not None:
            ids = groups.members[path]
            weight.assign(np.where((ids >= 0) & (ids % 2 == 1), 0.0, ops.convert_to_numpy(weight)))
    return len(groups)


def stripped(model, *inputs):
    """Return the stripped model, which computes the same on all inputs."""
    small = kr.strip(model, inputs=inputs[0])
    for x in inputs:
        for a, b in zip(*(keras.tree.flatten(each(x)) for each in (model, small)), strict=True):
            assert difference(a, b) < 1e-5
    return small


def numbers(*shape, below=None):
    random = np.random.default_rng(shape[0])
    return random.normal(size=shape).astype("float32") if below is None else random.integers(0, below, shape)


# ---- weights of layers inside, used by the code around them


@own
class Scores(L.Layer):
    """A head that gets the table of an embedding when it is called."""

    def call(self, x, table=None):
        return ops.matmul(x, ops.transpose(table))


@own
class Language(keras.Model):
    """Tokens to tokens, with the table of the embedding once more at the end, in several ways."""

    def __init__(self, product="matmul", **arguments):
        super().__init__(**arguments)
        self.product = product
        self.table, self.positions = L.Embedding(11, 8), L.Embedding(24, 8)
        self.up, self.down, self.norm = L.Dense(12, activation="relu"), L.Dense(8), L.LayerNormalization()
        self.scores = Scores()

    def get_config(self):
        return super().get_config() | {"product": self.product}

    def call(self, tokens):
        x = self.table(tokens) + self.positions(ops.arange(ops.shape(tokens)[1]))
        x = self.norm(x + self.down(self.up(x)))
        weight = self.table.embeddings
        return {
            "matmul": lambda: ops.matmul(x, ops.transpose(weight)),
            "operator": lambda: x @ ops.transpose(weight * 1.0),
            "einsum": lambda: ops.einsum("btd,vd->btv", x, weight),
            "dot": lambda: ops.dot(x, ops.transpose(weight)),
            "layer": lambda: self.scores(x, table=weight),
        }[self.product]()


@pytest.mark.parametrize("product", ["matmul", "operator", "einsum", "dot", "layer"])
def test_a_table_that_is_used_once_more_costs_nothing_but_itself(product, tmp_path):
    model = Language(product, name="language")
    model(keras.Input((None,), dtype="int32"))
    assert kr.analyze(model).opaque == {}
    assert half_zero(model) == 12
    inputs = numbers(2, 5, below=11), numbers(3, 9, below=11)
    small = stripped(model, *inputs)
    assert model.count_params() - small.count_params() == 6 * (8 + 1 + 8)
    assert sum(tuple(v.shape) == (11, 8) for v in small.weights) == 1, "the table is one weight still"
    small.save(tmp_path / "small.keras")
    again = keras.models.load_model(tmp_path / "small.keras")
    assert difference(small(inputs[0]), again(inputs[0])) == 0
    assert again.count_params() == small.count_params()


def test_the_layer_whose_weight_is_borrowed_is_as_before():
    model = Language()
    model(keras.Input((None,), dtype="int32"))
    before = set(vars(model.table))
    kr.analyze(model)
    assert set(vars(model.table)) == before
    assert isinstance(model.table.embeddings, keras.Variable)


@own
class Tied(L.Layer):
    """The transpose of another layer, which it holds."""

    def __init__(self, other, **arguments):
        super().__init__(**arguments)
        self.other = other

    def build(self, shape):
        self.bias = self.add_weight(shape=(self.other.kernel.shape[0],), name="bias")

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.other.kernel)) + self.bias


def test_layers_whose_weights_are_tied_lose_the_same():
    inputs, first = keras.Input((6,)), L.Dense(4, name="first")
    x = L.Dense(10, activation="relu")(Tied(first)(first(inputs)))
    model = keras.Model(inputs, L.Dense(3)(x))
    assert half_zero(model) == 14
    small = stripped(model, numbers(2, 6), numbers(5, 6))
    assert small.get_layer("first").kernel.shape == (6, 2)
    assert model.count_params() - small.count_params() == 2 * (6 + 1) + 5 * (6 + 1 + 3)


# ---- rows that numbers of the code's own choose


@own
class Biased(L.Layer):
    """Attention of windows with a bias for each two positions, as Swin's."""

    def __init__(self, kind, **arguments):
        super().__init__(**arguments)
        self.kind, self.qkv, self.out = kind, L.Dense(24), L.Dense(8)
        self.index = np.arange(4)[:, None] - np.arange(4)[None] + 3

    def get_config(self):
        return super().get_config() | {"kind": self.kind}

    def build(self, shape):
        self.table = self.add_weight(shape=(7, 2), name="table")
        self.places = self.add_weight(
            shape=(4, 4), dtype="int32", trainable=False, name="places", initializer=lambda *_, **__: self.index
        )

    def call(self, x):
        qkv = ops.transpose(ops.reshape(self.qkv(x), (-1, 4, 3, 2, 4)), (2, 0, 3, 1, 4))
        scores = qkv[0] @ ops.transpose(qkv[1], (0, 1, 3, 2))
        if self.kind == "array":
            bias = ops.take(self.table, self.index, axis=0)
        elif self.kind == "weight":
            bias = ops.take(self.table, self.places, axis=0)
        else:
            bias = ops.reshape(ops.take(self.table, ops.reshape(self.places, (-1,)), axis=0), (4, 4, -1))
        scores = scores + ops.expand_dims(ops.transpose(bias, (2, 0, 1)), 0)
        y = ops.transpose(ops.softmax(scores) @ qkv[2], (0, 2, 1, 3))
        return x + self.out(ops.reshape(y, (-1, 4, 8)))


@pytest.mark.parametrize("kind", ["array", "weight", "reshaped"])
def test_a_bias_by_an_index_into_a_table_leaves_heads_as_groups(kind):
    inputs = keras.Input((4, 8))
    model = keras.Model(inputs, Biased(kind)(inputs))
    assert kr.analyze(model).opaque == {}
    assert half_zero(model) == 2, "the heads"
    small = stripped(model, numbers(2, 4, 8), numbers(3, 4, 8))
    assert small.count_params() < model.count_params()


def test_all_of_an_index_stays_where_nobody_needs_what_it_chooses():
    inputs = keras.Input((4, 8))
    model = randomize(keras.Model(inputs, Biased("reshaped", name="b")(inputs)))
    model.get_layer("b").out.kernel.assign(np.zeros((8, 8)))
    small = stripped(model, numbers(2, 4, 8))
    assert small.count_params() < model.count_params() / 2


# ---- one number for all channels


SPREAD = {
    "repeat": lambda gate, n: ops.repeat(gate, n, axis=-1),
    "tile": lambda gate, n: ops.tile(gate, (1, 1, n)),
    "broadcast": lambda gate, n: ops.broadcast_to(gate, (ops.shape(gate)[0], 6, n)),
}


@own
class Gated(L.Layer):
    """Channels times one number for each position, as the gates of an attention U-Net and masks are."""

    def __init__(self, kind, **arguments):
        super().__init__(**arguments)
        self.kind, self.gate = kind, L.Dense(1, activation="sigmoid")

    def get_config(self):
        return super().get_config() | {"kind": self.kind}

    def call(self, x):
        return x * SPREAD[self.kind](self.gate(x), x.shape[-1])


@pytest.mark.parametrize("kind", SPREAD)
def test_channels_times_a_repeated_number_are_groups(kind, tmp_path):
    inputs = keras.Input((6, 5))
    model = keras.Model(inputs, L.Dense(3)(Gated(kind)(L.Dense(8, activation="tanh")(inputs))))
    assert half_zero(model) == 8
    small = stripped(model, numbers(2, 6, 5), numbers(3, 6, 5))
    assert model.count_params() - small.count_params() == 4 * (5 + 1 + 1 + 3)
    small.save(tmp_path / "small.keras")
    assert difference(small(numbers(2, 6, 5)), keras.models.load_model(tmp_path / "small.keras")(numbers(2, 6, 5))) == 0


def test_a_repeated_number_that_is_added_or_joined_keeps_what_it_must():
    inputs = keras.Input((6, 5))
    gate = ops.repeat(L.Dense(1)(inputs), 4, axis=-1)
    x = L.Concatenate()([L.Dense(4)(inputs) + gate, ops.tile(L.Dense(1)(inputs), [1, 1, 3])])
    model = keras.Model(inputs, L.Dense(2)(x))
    assert half_zero(model) == 7
    small = stripped(model, numbers(2, 6, 5), numbers(3, 6, 5))
    assert small.count_params() < model.count_params()


# ---- sizes


def test_inputs_of_another_length_than_that_of_the_first_call_are_named():
    model = Language()
    model(numbers(2, 5, below=11))
    with pytest.raises(ValueError, match=r"first called on inputs of the shapes \[\(None, 5\)\].* have \[\(2, 8\)\]"):
        kr.strip(model, inputs=numbers(2, 8, below=11))


@own
class Causal(L.Layer):
    """Attention with a mask for at most 32 positions, as minGPT has it."""

    def build(self, shape):
        self.q, self.k, self.v, self.mask = L.Dense(6), L.Dense(6), L.Dense(8), np.tril(np.ones((32, 32), "float32"))

    def call(self, x):
        n = ops.shape(x)[1]
        mask = ops.convert_to_tensor(self.mask)[:n, :n]
        scores = ops.matmul(self.q(x), ops.swapaxes(self.k(x), 1, 2)) - 1e4 * (1 - mask)
        return ops.matmul(ops.softmax(scores), self.v(x))


def test_code_that_takes_short_sequences_only_is_traced_or_says_why():
    inputs = keras.Input((None, 8))
    model = keras.Model(inputs, L.Dense(3)(L.Dense(10)(Causal(name="causal")(inputs))))
    why = kr.analyze(model).opaque.get("causal", "")
    assert not why or "depend on open sizes" in why
    assert half_zero(model) >= 10
    stripped(model, numbers(2, 5, 8), numbers(3, 32, 8))


@own
class Rotated(L.Layer):
    """Attention whose queries and keys are rotated by angles, as of RoFormer, in several ways to write them."""

    def __init__(self, kind, **arguments):
        super().__init__(**arguments)
        self.kind, self.q, self.k, self.v, self.out = kind, L.Dense(8), L.Dense(8), L.Dense(8), L.Dense(8)
        self.frequencies = np.array([1.0, 0.01], "float32")

    def rotated(self, x, angles):
        a, b = ops.split(x, 2, axis=-1)
        turned = ops.concatenate([-b, a], axis=-1)
        return x * ops.cos(angles)[None, :, None] + turned * ops.sin(angles)[None, :, None]

    def call(self, x):
        b, n, _ = ops.shape(x)
        places = ops.cast(ops.arange(n), "float32")
        angles = {
            "outer": lambda: ops.outer(places, self.frequencies),
            "turned": lambda: ops.transpose(ops.outer(self.frequencies, places)),
            "einsum": lambda: ops.einsum("i,j->ij", places, self.frequencies),
            "product": lambda: places[:, None] * self.frequencies[None],
        }[self.kind]()
        angles = ops.concatenate([angles, angles], axis=-1)
        q, k, v = (ops.reshape(each(x), (b, n, 2, 4)) for each in (self.q, self.k, self.v))
        scores = ops.einsum("bqhd,bkhd->bhqk", self.rotated(q, angles), self.rotated(k, angles))
        return self.out(ops.reshape(ops.einsum("bhqk,bkhd->bqhd", ops.softmax(scores), v), (b, n, 8)))


@pytest.mark.parametrize("kind", ["outer", "turned", "einsum", "product"])
def test_angles_of_open_lengths_are_traced(kind):
    inputs = keras.Input((None, 6))
    model = keras.Model(inputs, Rotated(kind)(inputs))
    assert kr.analyze(model).opaque == {}
    assert half_zero(model) >= 2
    small = stripped(model, numbers(2, 5, 6), numbers(3, 9, 6))
    assert small.count_params() < model.count_params()


# ---- regularizers


@own
class Orthogonal(keras.regularizers.Regularizer):
    """Wants a matrix of features, as that of PointNet."""

    def __init__(self, size=4):
        self.size = size

    def __call__(self, x):
        x = ops.reshape(x, (-1, self.size, self.size))
        return ops.sum(ops.square(ops.matmul(x, ops.swapaxes(x, 1, 2)) - ops.eye(self.size)))

    def get_config(self):
        return {"size": self.size}


def test_the_channels_that_an_activity_regularizer_wants_stay():
    inputs = keras.Input((5, 4))
    x = L.Dense(16, activity_regularizer=Orthogonal(), name="t")(L.GlobalMaxPooling1D()(L.Dense(8)(inputs)))
    x = L.Dot(axes=(2, 1))([inputs, L.Reshape((4, 4))(x)])
    model = keras.Model(inputs, L.Dense(3)(L.Dense(6, activation="relu")(x)))
    assert kr.analyze(model).opaque == {}
    assert half_zero(model) == 8 + 6
    small = stripped(model, numbers(2, 5, 4), numbers(3, 5, 4))
    assert small.get_layer("t").kernel.shape == (4, 16)
    model = keras.Sequential([inputs, L.Dense(16, activity_regularizer=Orthogonal()), L.Dense(3)])
    model.layers[1].kernel.assign(ops.zeros((16, 3)))
    assert "16 read by its activity regularizer, which takes 16 channels only" in str(kr.analyze(model))


OVER_CHANNELS = pytest.mark.filterwarnings("ignore:Penalties of .* depend on the number of channels")


@pytest.mark.parametrize("regularizer", ["l1", "l2", pytest.param(lambda x: ops.mean(ops.abs(x)), marks=OVER_CHANNELS)])
def test_activity_regularizers_that_take_any_channels_do_not_matter(regularizer):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, L.Dense(3)(L.Dense(8, activity_regularizer=regularizer)(inputs)))
    assert kr.analyze(model).opaque == {}
    assert half_zero(model) == 8
    stripped(model, numbers(2, 4), numbers(3, 4))


class Choosing(L.Layer):
    """Code that Keras cannot run on symbolic tensors, for one of many reasons."""

    def __init__(self, kind="if", **arguments):
        super().__init__(**arguments)
        self.kind, self.dense = kind, L.Dense(4)

    def call(self, x):
        if self.kind == "if":
            return self.dense(x) if ops.max(x) > 0 else x
        if self.kind == "loop":
            return ops.concatenate([self.dense(x[k : k + 1]) for k in range(x.shape[0])], axis=0)
        return self.dense(x) * float(np.mean(np.asarray(x)))


class Around(keras.Model):
    """A model with a layer or model inside, between layers that are built by a run, too."""

    def __init__(self, inner, name=None):
        super().__init__(name=name)
        self.first, self.inner = keras.Sequential([L.Dense(8, activation="relu"), L.Dense(4)]), inner
        self.wide, self.last = L.Dense(6, activation="relu"), L.Dense(4)

    def call(self, x):
        return self.last(self.wide(self.inner(self.first(x))))


class BuiltAround(Around):
    """The same, built by shapes."""

    def build(self, shape):
        self.first.build(shape)
        self.inner.dense.build((*shape[:-1], 4))
        self.wide.build((*shape[:-1], 4))
        self.last.build((*shape[:-1], 6))


class Words(Around):
    """The same for words."""

    def __init__(self, inner):
        super().__init__(inner)
        self.first = L.Embedding(9, 4)


@pytest.mark.parametrize(
    ("make", "shape", "count"),
    [
        (lambda: Around(Choosing(name="odd")), (5, 3), 8 + 6),
        (lambda: Around(Choosing("loop", name="odd")), (5, 3), 8 + 6),
        (lambda: Around(Choosing("numpy", name="odd")), (5, 7, 3), 8 + 6),
        (lambda: Around(Around(Choosing(name="odd"), name="inner")), (5, 3), 2 * (8 + 4 + 6)),
        (lambda: BuiltAround(Choosing(name="odd")), (5, 3), 8 + 6),
        (lambda: Words(Choosing(name="odd")), (5, 7), 6),
    ],
    ids=["if", "loop", "numbers", "inside another", "built by shapes", "words"],
)
def test_a_layer_that_keras_cannot_run_symbolically_costs_nothing_but_itself(make, shape, count):
    model, x = make(), numbers(*shape, below=9 if len(shape) == 2 and shape[1] == 7 else None)
    model(x)
    [(name, why)] = kr.analyze(model).opaque.items()
    assert name.rpartition("/")[2] == "odd"
    assert "its code cannot be traced: its " in why
    assert "\x1b" not in why
    assert half_zero(model) == count
    small = stripped(model, x, x[:3])
    assert small.count_params() < 0.8 * model.count_params()
    assert kr.analyze(small).removable == 0


class ByNumbers(Around):
    """A model whose own code chooses by numbers."""

    def call(self, x):
        return super().call(x) if ops.max(x) > 0 else x


@pytest.mark.parametrize("function", [kr.analyze, kr.strip, kr.coupled_groups])
def test_a_model_whose_own_code_keras_cannot_run_symbolically_says_so(function):
    model = ByNumbers(L.Dense(4))
    model(numbers(2, 4))
    with pytest.raises(ValueError, match=r"is subclassed, and its `call` cannot be traced.*as a boolean") as error:
        function(model)
    assert "not built" not in str(error.value)
    assert "\x1b" not in str(error.value)


class TwoShapes(keras.Model):
    """A model of two arguments."""

    def __init__(self):
        super().__init__()
        self.dense = L.Dense(4)

    def build(self, first_shape, second_shape):
        self.dense.build(first_shape)

    def call(self, first, second):
        return self.dense(first) + self.dense(second)


def test_a_model_that_is_built_for_several_arguments_says_so():
    model = TwoShapes()
    model(numbers(2, 3), numbers(2, 3))
    with pytest.raises(ValueError, match="with one argument for all inputs"):
        kr.analyze(model)


# ---- names


@own
class Twins(L.Layer):
    """Layers of one name in one place, which Keras allows in code only; one is called like an operation."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.a, self.b = L.Dense(8, activation="relu", name="fc"), L.Dense(6, activation="relu", name="fc")
        self.c, self.d = L.Dense(3, name="add"), L.Dense(3, name="add")

    def call(self, x):
        return self.c(self.b(self.a(x))) + self.d(x)


@own
class TwinModel(keras.Model):
    """The same, with inputs that are called like layers, too."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.twins, self.fc, self.last = Twins(name="fc"), L.Dense(5, name="dense"), L.Dense(2, name="wide")

    def call(self, inputs):
        return self.last(self.fc(self.twins(inputs["dense"])) + inputs["wide"])


@pytest.mark.parametrize("is_layer", [True, False])
def test_layers_of_one_name_are_cut_and_keep_their_names(is_layer, tmp_path):
    if is_layer:
        inputs = keras.Input((4,))
        model, x = keras.Model(inputs, Twins(name="fc")(inputs)), numbers(2, 4)
        named = [model.get_layer("fc").a, model.get_layer("fc").b]
    else:
        model, x = TwinModel(), {"dense": numbers(2, 4), "wide": numbers(3, 5)[:2]}
        model(x)
        named = [model.twins.a, model.twins.b]
    assert kr.analyze(model).opaque == {}
    assert half_zero(model) == (14 if is_layer else 14 + 3)
    small = stripped(model, x)
    assert small.count_params() < model.count_params()
    assert [layer.name for layer in named] == ["fc", "fc"]
    small.save(tmp_path / "small.keras")
    again = keras.models.load_model(tmp_path / "small.keras")
    assert difference(small(x), again(x)) == 0


# ---- gates


@pytest.mark.parametrize("kind", ["l0", "dep_l0"])
@pytest.mark.parametrize("way", ["layers", "code"])
def test_heads_that_are_written_by_hand_get_gates(way, kind):
    inputs = keras.Input((4, 8))
    if way == "code":
        y, heads = Biased("reshaped", name="attention")(inputs), 2
    else:
        q, k, v = (L.Reshape((4, 4, 3))(L.Dense(12, name=name)(inputs)) for name in ("query", "key", "value"))
        scores = ops.softmax(ops.einsum("bqhd,bkhd->bhqk", q, k))
        y, heads = L.Dense(8)(L.Reshape((4, 12))(ops.einsum("bhqk,bkhd->bqhd", scores, v))), 4
    model = randomize(keras.Model(inputs, L.Dense(1)(L.Dense(6, activation="relu", name="wide")(y))))
    gated = kr.gates.insert(model, kind, 1e-3, where="everywhere")
    x = numbers(3, 4, 8)
    assert difference(model(x), gated(x)) < 1e-6
    gates = {gate.name: gate for gate in compat.layers_of(gated) if isinstance(gate, kr.layers.L0Gate)}
    name = "value_gate" if way == "layers" else "dense_gate"
    [found] = [gate for gate in gates.values() if gate.frozen.shape == (heads,) and gate.name != "wide_gate"]
    assert way == "code" or found.name == name
    found.frozen.assign([0.0] * (heads - 1) + [0.75])
    small = stripped(gated, x, numbers(2, 4, 8))
    assert not [layer for layer in compat.layers_of(small) if isinstance(layer, kr.layers.L0Gate)]
    assert any(v.shape[0] == 12 // heads for v in small.weights if len(v.shape) == 2)
    for gate in gates.values():
        gate.frozen.assign(np.arange(gate.frozen.shape[0]) % 2 + 0.0)
    assert stripped(gated, x).count_params() < model.count_params() / 1.5


def test_gates_go_into_subclassed_models(tmp_path):
    model, x = TwinModel(), {"dense": numbers(2, 4), "wide": numbers(3, 5)[:2]}
    model(x)
    gated = kr.gates.insert(randomize(model), "l0", 1e-3, where="everywhere")
    assert difference(model(x), gated(x)) < 1e-6
    gates = [gate for gate in compat.layers_of(gated) if isinstance(gate, kr.layers.L0Gate)]
    assert sorted(gate.frozen.shape[0] for gate in gates) == [3, 6, 8]
    for gate in gates:
        gate.frozen.assign(np.arange(gate.frozen.shape[0]) % 2 + 0.0)
    small = stripped(gated, x)
    assert small.count_params() < model.count_params() / 1.5
    gated.save(tmp_path / "gated.keras")
    assert difference(keras.models.load_model(tmp_path / "gated.keras")(x), gated(x)) == 0


def test_a_model_with_one_output_has_gates():
    """Of an only output nothing can go: to close it in thought would say that nothing else is needed."""
    inputs = keras.Input((4,))
    x = L.Dense(6, activation="relu")(L.Dense(8, activation="relu")(inputs))
    for last in (L.Dense(1), L.Dense(1, activation="sigmoid")):
        gated = kr.gates.insert(keras.Model(inputs, last(x)), "l0", 1e-3)
        shapes = [gate.frozen.shape for gate in gated.layers if isinstance(gate, kr.layers.L0Gate)]
        assert shapes == [(8,), (6,)]


@own
class OfThree(L.Layer):
    """Products of three tensors, or two and a weight."""

    def __init__(self, subscripts, **arguments):
        super().__init__(**arguments)
        self.subscripts, self.parts = subscripts, [L.Dense(8) for _ in range(3)]

    def get_config(self):
        return super().get_config() | {"subscripts": self.subscripts}

    def build(self, shape):
        for part in self.parts:
            part.build(shape)
        letters = self.subscripts.replace(" ", "").split("->")[0].split(",")
        shapes = [tuple({"d": 8, "e": 8}.get(letter, 6) for letter in term) for term in letters]
        self.weights_of = [None if "b" in t else self.add_weight(shape=s, name="w") for t, s in zip(letters, shapes)]

    def call(self, x):
        given = [part(x) if w is None else w for part, w in zip(self.parts, self.weights_of)]
        return ops.einsum(self.subscripts, *given)


@pytest.mark.parametrize(
    ("subscripts", "groups"),
    [
        ("bnd,bmd,bme->bne", 15),
        ("bnd,bnd,bnd->bnd", 15),
        ("bnd,d,bmd->bnm", 15),
        ("bnd,dek,bne->bnk", 15),
        ("bnd, bne, dek -> bnk", 21),
    ],
)
def test_products_of_three(subscripts, groups, tmp_path):
    inputs = keras.Input((6, 5))
    x = OfThree(subscripts, name="three")(L.Dense(7, activation="relu")(inputs))
    model = keras.Model(inputs, L.Dense(3)(x))
    assert kr.analyze(model).opaque == {}
    assert half_zero(model) == groups
    x = numbers(2, 6, 5)
    small = stripped(model, x)
    small.save(tmp_path / "small.keras")
    assert difference(keras.models.load_model(tmp_path / "small.keras")(x), small(x)) == 0
