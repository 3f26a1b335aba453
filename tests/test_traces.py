"""What the code of a layer or model computes, in forms that Keras itself does not take on symbolic tensors."""

import keras
import numpy as np
import pytest
from backend import only_tensorflow
from keras import layers as L
from keras import ops
from zoo import randomize, zero

import keras_rmda as kr
from keras_rmda.platform.tolerant import tolerant_symbols
from keras_rmda.structure.verification import difference

pytestmark = only_tensorflow
own = keras.saving.register_keras_serializable(package="tests_traces")


def stripped(model, *shapes, integers=False):
    """Return the stripped model, which computes the same on samples of these shapes, also from a file."""
    assert kr.analyze(model).opaque == {}
    random = np.random.default_rng(1)
    draw = (lambda shape: random.integers(0, 5, shape)) if integers else (lambda shape: random.normal(size=shape))
    small = None
    for batch in (2, 5):
        x = [draw((batch, *shape)).astype("int32" if integers else "float32") for shape in shapes]
        x = x[0] if len(x) == 1 else x
        small = kr.strip(model, inputs=x) if small is None else small
        again = keras.Model.from_config(small.get_config())
        again.set_weights(small.get_weights())
        for y, other, third in zip(*(keras.tree.flatten(each(x)) for each in (model, small, again)), strict=True):
            assert difference(y, other) < 1e-5
            assert difference(other, third) == 0
    return small


@own
class Table(L.Layer):
    """Positions, the same for all samples: a first axis of size 1."""

    def build(self, shape):
        self.positions = self.add_weight(shape=(1, *shape[1:]), name="positions")

    def call(self, x):
        return ops.convert_to_tensor(self.positions)


@own
class DeclaresTheBatch(Table):
    def compute_output_shape(self, shape):
        return shape


@own
class DeclaresOne(Table):
    """The reverse: what it gives has all samples, and it says one."""

    def call(self, x):
        return x * 0.0 + self.positions

    def compute_output_shape(self, shape):
        return (1, *shape[1:])


@own
class Modulates(L.Layer):
    """A block that is called on two tensors of samples: one sets scales and shifts for the other."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.dense, self.hidden = L.Dense(16, name="dense"), L.Dense(12, "relu", name="hidden")
        self.out = L.Dense(8, name="out")

    def call(self, x, by):
        shift, scale = ops.split(self.dense(by), 2, axis=1)
        x = x * (1.0 + ops.expand_dims(scale, 1)) + ops.expand_dims(shift, 1)
        return self.out(self.hidden(x))


MERGED = {
    "add": lambda x, y: L.Add()([x, y]),
    "the_other_way": lambda x, y: L.Add()([y, x]),
    "multiply": lambda x, y: L.Multiply()([x, y]),
    "operator": lambda x, y: x + y,
}


@pytest.mark.parametrize(
    ("merged", "table"),
    [
        ("add", Table),
        ("the_other_way", DeclaresOne),
        ("multiply", DeclaresTheBatch),
        ("operator", DeclaresOne),
    ],
)
def test_what_is_merged_with_one_sample_has_all_samples(merged, table):
    inputs, by = keras.Input((4, 5)), keras.Input((6,))
    x = L.Dense(8, name="a")(inputs)
    y = MERGED[merged](x, table(name="table")(x))
    block = Modulates(name="block")
    model = randomize(keras.Model([inputs, by], L.Dense(3)(block(y, by))))
    assert any(path.startswith("block/hidden") for path in kr.coupled_groups(model).members)
    zero(model, "block", 0, [1, 2, 3], "out.kernel")
    small = stripped(model, (4, 5), (6,))
    assert small.count_params() == model.count_params() - 3 * (8 + 1 + 8)


@own
class Capitals(L.Layer):
    """Attention whose sums are written with capitals, in one way or another."""

    def __init__(self, first="BTNH,BSNH->BNTS", second="BNTS,BSNH->BTNH", **arguments):
        super().__init__(**arguments)
        self.first, self.second = first, second
        self.parts = [L.Dense(12, name=name) for name in "qkv"]
        self.out = L.Dense(6, name="out")

    def call(self, x):
        q, k, v = (ops.reshape(part(x), (-1, 5, 3, 4)) for part in self.parts)
        weights = ops.softmax(ops.einsum(self.first, q, k))
        return self.out(ops.reshape(ops.einsum(self.second, weights, v), (-1, 5, 12)))

    def get_config(self):
        return super().get_config() | {"first": self.first, "second": self.second}


@pytest.mark.parametrize(
    ("first", "second"), [("BTNH,BSNH->BNTS", "BNTS,BSNH->BTNH"), ("bTnh,bSnh->bnTS", "bnTS, bSnh -> bTnh")]
)
def test_sums_are_written_with_capitals(first, second):
    inputs = keras.Input((5, 6))
    model = randomize(keras.Model(inputs, L.Dense(2)(Capitals(first, second, name="block")(inputs))))
    assert kr.analyze(model).opaque == {}
    assert len(kr.coupled_groups(model)) == 3 + 6
    zero(model, "block", 0, [4, 5, 6, 7], "out.kernel")
    small = stripped(model, (5, 6))
    assert small.count_params() < model.count_params() - 4 * 4 * 6


@pytest.mark.parametrize("subscripts", ["BcAh,BdAh", "cAb,bD", "bXy,yAc->XbAc", "ab,bC"])
def test_the_axes_of_a_sum_with_capitals_keep_their_order(subscripts):
    sizes = dict(zip(sorted(set(subscripts) - set(",->")), range(2, 20)))
    shapes = [[sizes[letter] for letter in term] for term in subscripts.partition("->")[0].split(",")]
    with tolerant_symbols():
        made = ops.einsum(subscripts, *(keras.KerasTensor(shape) for shape in shapes))
    arrays = [np.random.default_rng(0).normal(size=shape).astype("float32") for shape in shapes]
    wanted = ops.einsum(subscripts, *arrays)
    assert sorted(made.shape) == sorted(wanted.shape)  # of a sum that names none, Keras declares another order
    assert difference(made._keras_history.operation(*map(ops.convert_to_tensor, arrays)), wanted) == 0


@own
class Holders(L.Layer):
    """Layers inside that are never called: they hold weights, with which the code computes."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.table, self.up = L.Embedding(9, 8, name="table"), L.Dense(12, name="up")
        self.gate, self.down = L.EinsumDense("btd,df->btf", (None, 12), name="gate"), L.Dense(8, name="down")

    def build(self, shape):
        self.table.build(shape)
        for each, width in ((self.up, 8), (self.gate, 8), (self.down, 12)):
            each.build((None, None, width))

    def call(self, tokens):
        x = ops.take(self.table.embeddings, tokens, axis=0)
        y = ops.gelu(ops.matmul(x, self.gate.kernel)) * (x @ self.up.kernel + self.up.bias)
        return x + ops.einsum("btf,fd->btd", y, self.down.kernel) + self.down.bias


def test_layers_that_only_hold_weights(tmp_path):
    inputs = keras.Input((None,), dtype="int32")
    x = L.LayerNormalization(name="norm")(Holders(name="block")(inputs))
    model = randomize(keras.Model(inputs, L.Dense(3)(x)))
    groups = kr.coupled_groups(model)
    assert set(groups.members) == {"block/down/kernel"}
    assert len(groups) == 12
    zero(model, "block", 0, [1, 2, 3], "down.kernel")
    small = stripped(model, (5,), integers=True)
    assert small.count_params() == model.count_params() - 3 * (8 + 8 + 1 + 8)
    small.save(tmp_path / "small.keras")
    again = keras.models.load_model(tmp_path / "small.keras")
    x = np.arange(6).reshape(1, 6)
    assert difference(small(x), again(x)) == 0


@own
class Uses(L.Layer):
    """Code with the weights of a layer that others have, too."""

    def __init__(self, holder, power=1, **arguments):
        super().__init__(**arguments)
        self.holder, self.power = holder, power
        self.up, self.down = L.Dense(12, "relu", name="up"), L.Dense(8, name="down")

    def build(self, shape):
        self.up.build((None, None, 8))
        self.down.build((None, None, 12))

    def call(self, x):
        y = ops.matmul(ops.power(x, self.power), self.holder.kernel)
        return x + self.down(self.up(y))


def test_what_two_blocks_use_stays_one_weight():
    inputs, holder = keras.Input((4, 6)), L.Dense(8, use_bias=False, name="holder")
    holder.build((None, None, 8))
    x = L.Dense(8, name="a")(inputs)
    x = Uses(holder, 2, name="second")(Uses(holder, name="first")(x))
    model = randomize(keras.Model(inputs, L.Dense(3, name="b")(x)))
    zero(model, "first", 0, [1, 2, 3], "down.kernel")
    for part in ("first", "second"):
        zero(model, part, 0, [4, 5], "up.kernel")
    small = kr.strip(model)
    x = np.random.default_rng(0).normal(size=(2, 4, 6)).astype("float32")
    assert difference(model(x), small(x)) < 1e-5
    units, columns = 3 * (8 + 1 + 8), 2 * (8 + 9 + 12)
    assert small.count_params() == model.count_params() - units - columns
    assert sum(tuple(v.shape) == (8, 6) for v in small.weights) == 1, "of the weight both lose what neither reads"


@own
class Shares(L.Layer):
    """Queries in groups, each of which shares keys and values: products that are repeated along an axis of size 1."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        sizes = {"q": 24, "k": 8, "v": 8}
        self.q, self.k, self.v = (L.Dense(n, use_bias=False, name=name) for name, n in sizes.items())
        self.out = L.Dense(6, name="out")

    def build(self, shape):
        for each in (self.q, self.k, self.v):
            each.build(shape)
        self.out.build((*shape[:2], 24))

    def call(self, x):
        b, n, _ = ops.shape(x)
        q = ops.transpose(ops.reshape(self.q(x), (b, n, 2, 3, 4)), (0, 2, 3, 1, 4))
        k = ops.transpose(ops.reshape(self.k(x), (b, n, 2, 4)), (0, 2, 3, 1))
        v = ops.transpose(ops.reshape(self.v(x), (b, n, 2, 4)), (0, 2, 1, 3))
        weights = ops.softmax(ops.matmul(q, ops.expand_dims(k, 2)))
        y = ops.transpose(ops.matmul(weights, ops.expand_dims(v, 2)), (0, 3, 1, 2, 4))
        return self.out(ops.reshape(y, (b, n, 24)))


@pytest.mark.parametrize("steps", [5, None])
def test_keys_that_are_shared_by_queries_go_with_these(steps):
    inputs = keras.Input((steps, 6))
    model = randomize(keras.Model(inputs, L.Dense(2)(Shares(name="block")(inputs))))
    assert len(kr.coupled_groups(model)) == 2 + 6
    zero(model, "block", 0, range(12, 24), "out.kernel")
    small = stripped(model, (5, 6))
    assert small.count_params() == model.count_params() - 6 * (12 + 4 + 4) - 12 * 6


@own
class Sinks(L.Layer):
    """Attention with a weight of its own behind the scores of every query, along an open axis."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.parts = [L.EinsumDense("abc,cde->abde", (None, 2, 4), name=name) for name in "qkv"]
        self.out = L.EinsumDense("abde,dec->abc", (None, 6), name="out")

    def build(self, shape):
        self.sinks = self.add_weight(shape=(2,), name="sinks", initializer="normal")
        for part in self.parts:
            part.build(shape)
        self.out.build((*shape[:2], 2, 4))

    def call(self, x):
        q, k, v = (part(x) for part in self.parts)
        scores = ops.einsum("bqhd,bkhd->bhqk", q, k)
        places = ops.arange(ops.shape(scores)[-1])
        scores = ops.where((places[None, :] <= places[:, None])[None, None], scores, -1e9)
        sinks = ops.broadcast_to(ops.reshape(self.sinks, (1, 2, 1, 1)), (ops.shape(x)[0], 2, ops.shape(scores)[2], 1))
        weights = ops.softmax(ops.concatenate([scores, sinks], axis=-1))[..., :-1]
        return self.out(ops.einsum("bhqk,bkhd->bqhd", weights, v))


@own
class Experts(L.Layer):
    """Experts in front of the samples, with biases of their own."""

    def build(self, shape):
        sizes = {"up": (3, 6, 8), "bias": (3, 8), "down": (3, 8, 6)}
        for name, size in sizes.items():
            setattr(self, name, self.add_weight(shape=size, name=name, initializer="normal"))

    def call(self, x):
        y = ops.relu(ops.einsum("th,ehm->etm", x, self.up) + self.bias[:, None, :])
        return ops.sum(ops.einsum("etm,emh->eth", y, self.down), axis=0)


@own
class UpToTheOther(L.Layer):
    """Joins two sequences of open lengths, and takes them apart again."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.up, self.down = L.Dense(12, "relu", name="up"), L.Dense(6, name="down")

    def build(self, x_shape, other_shape):
        self.table = self.add_weight(shape=(1, 30, 6), name="table", initializer="normal")
        self.up.build(x_shape)
        self.down.build((*x_shape[:-1], 12))

    def call(self, x, other):
        n = ops.shape(other)[1]
        y = ops.concatenate([other, x], axis=1)
        y = ops.cumsum(self.down(self.up(y)), axis=1)
        table = ops.take(self.table, ops.arange(n), axis=1) + self.table[:, :n]
        return y[:, n:], y[:, :n] + table


@own
class Positions(L.Layer):
    """Attention over the positions of an image of any size, in the shape of what came in."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.inner, self.out = L.Conv2D(8, 1, name="inner"), L.Conv2D(6, 1, name="out")

    def build(self, shape):
        self.inner.build(shape)
        self.out.build((*shape[:-1], 8))

    def call(self, x):
        y = ops.reshape(self.inner(x), (ops.shape(x)[0], -1, 8))
        y = ops.matmul(ops.softmax(ops.matmul(x1 := y, ops.transpose(x1, (0, 2, 1)))), y)
        return x + self.out(ops.reshape(y, (*ops.shape(x)[:3], 8)))


@own
class Loops(L.Layer):
    """Code that takes numbers only: a step for each position."""

    def call(self, x):
        found, state = [], x[:, 0]
        for k in range(int(x.shape[1])):
            state = 0.5 * state + x[:, k]
            found.append(state)
        return ops.stack(found, axis=1)


@own
class AroundALoop(L.Layer):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.loop, self.up, self.down = Loops(name="loop"), L.Dense(12, "relu", name="up"), L.Dense(6, name="down")

    def build(self, shape):
        self.up.build(shape)
        self.down.build((*shape[:-1], 12))

    def call(self, x):
        x = x + self.loop(x * 0.5)
        return x + self.down(self.up(x))


def test_weights_are_broadcast_to_open_sizes():
    inputs = keras.Input((None, 6))
    model = randomize(keras.Model(inputs, L.Dense(2)(Sinks(name="block")(inputs))))
    assert len(kr.coupled_groups(model)) == 2 + 6
    zero(model, "block", 0, [1], "out.kernel")
    small = stripped(model, (5, 6))
    assert small.count_params() == model.count_params() - 4 * 6 * 4 - 1
    x = np.random.default_rng(2).normal(size=(3, 9, 6)).astype("float32")
    assert difference(model(x), small(x)) < 1e-5


def test_weights_meet_samples_that_are_not_in_front():
    inputs = keras.Input((6,))
    model = randomize(keras.Model(inputs, L.Dense(2)(Experts(name="block")(inputs))))
    zero(model, "block", 1, [0, 3], "down")
    small = stripped(model, (6,))
    assert small.count_params() == model.count_params() - 2 * 3 * (6 + 1 + 6)


def test_slices_up_to_the_size_of_another_tensor():
    x, other = keras.Input((None, 6)), keras.Input((None, 6))
    model = randomize(keras.Model([x, other], UpToTheOther(name="block")(x, other)))
    assert len(kr.coupled_groups(model)) == 12
    zero(model, "block", 0, [1, 4, 5], "down.kernel")
    small = stripped(model, (5, 6), (3, 6))
    assert small.count_params() == model.count_params() - 3 * (6 + 1 + 6)
    longer = [np.ones((2, 4, 6), "float32"), np.ones((2, 7, 6), "float32")]
    for a, b in zip(model(longer), small(longer)):
        assert difference(a, b) < 1e-5


def test_positions_of_images_of_any_size_come_back():
    inputs = keras.Input((None, None, 6))
    model = randomize(keras.Model(inputs, L.Conv2D(2, 1)(Positions(name="block")(inputs))))
    zero(model, "block", -1, [1, 4], "inner.kernel")
    zero(model, "block", -1, [1, 4], "inner.bias")
    small = stripped(model, (3, 5, 6))
    assert small.count_params() == model.count_params() - 2 * (6 + 1 + 6)
    x = np.random.default_rng(2).normal(size=(1, 4, 2, 6)).astype("float32")
    assert difference(model(x), small(x)) < 1e-5


@pytest.mark.parametrize("steps", [5, None])
def test_a_layer_inside_that_takes_numbers_only_costs_nothing_but_itself(steps, tmp_path):
    inputs, block = keras.Input((steps, 6)), AroundALoop(name="block")
    block.build((None, steps, 6))
    with tolerant_symbols():  # Keras alone does not take open sizes there
        model = randomize(keras.Model(inputs, L.Dense(2)(block(inputs))))
    assert set(kr.analyze(model).opaque) <= {"block/loop"}
    assert len(kr.coupled_groups(model)) == 12
    zero(model, "block", 0, [1, 4], "down.kernel")
    x = np.random.default_rng(2).normal(size=(3, 5, 6)).astype("float32")
    small = kr.strip(model, inputs=x)
    assert difference(model(x), small(x)) < 1e-5
    assert small.count_params() == model.count_params() - 2 * (6 + 1 + 6)
    for _ in range(2):  # neither another look nor another model changes what a model is
        small.save(tmp_path / "small.keras")
        assert difference(small(x), keras.models.load_model(tmp_path / "small.keras")(x)) == 0
        assert len(kr.coupled_groups(small)) == len(kr.coupled_groups(kr.strip(small, inputs=x))) == 10


class Part(L.Layer):
    """Some of the channels, as it declares; counts how often its code runs."""

    def __init__(self, count, **arguments):
        super().__init__(**arguments)
        self.count, self.runs = count, 0

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.count)

    def call(self, x):
        self.runs += 1
        return x[..., : self.count]


class AroundPart(L.Layer):
    """Dense layers around a part."""

    def __init__(self, part, **arguments):
        super().__init__(**arguments)
        self.part, self.first, self.last = part, L.Dense(8), L.Dense(2)

    def build(self, shape):
        self.first.build(shape)
        self.part.build((None, None, 8))
        self.last.build((None, None, 3))

    def call(self, x, training=None):
        y = self.part(self.first(x))
        return ops.reshape(self.last(y[..., :3]), (-1, ops.shape(x)[1], 2))


def test_what_a_layer_inside_makes_is_found_out_once_for_each_shape_and_anew_for_each_graph():
    part = Part(3)
    inputs = keras.Input((None, 5))
    model = keras.Model(inputs, AroundPart(part)(inputs))
    part.runs = 0
    kr.analyze(model)
    first = part.runs
    assert first < 10  # 12 if each attempt at the code around would run it
    part.count = 4  # what was found out is not used any more
    assert difference(model(x := np.ones((2, 5, 5), "float32")), kr.strip(model)(x)) < 1e-6
    part.runs = 0
    kr.analyze(model)
    assert part.runs == first


WITH_NUMPY = {
    "a number": lambda x: x / np.sqrt(8.0),
    "a number first": lambda x: np.float64(1.0) - np.pi / (ops.exp(x) + 1),
    "a table": lambda x: x + np.linspace(0.0, 1.0, 40).reshape(5, 8),
    "a table first": lambda x: np.linspace(0.0, 1.0, 8) * x,
    "a power": lambda x: ops.relu(x) ** np.float64(1.5),
    "a comparison": lambda x: x * ops.cast(x > np.float64(0.1), x.dtype),
    "a product": lambda x: x @ np.eye(8),
}


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
@pytest.mark.parametrize("compute", WITH_NUMPY.values(), ids=WITH_NUMPY)
def test_numbers_of_numpy_leave_the_type_of_tensors(compute, dtype):
    class Computes(keras.layers.Layer):
        def call(self, x):
            return compute(x)

    inputs = keras.Input((5, 6))
    x = keras.layers.Dense(8, dtype=dtype)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(Computes(dtype=dtype, name="own")(x)))
    small = kr.strip(model)
    assert small.get_layer("own").output.dtype == ("float16" if dtype == "mixed_float16" else "float32")
    assert not [each.name for each in small.layers if "float64" in str(each.output.dtype)]
