"""Blocks as people write them, for random graphs: sizes by `ops.shape`, parts with several readers, masks."""

import keras
from keras import layers as L
from keras import ops


class Sized(L.Layer):
    """Code that asks for sizes, and reshapes with them."""

    def __init__(self, kind, **arguments):
        super().__init__(**arguments)
        self.kind = kind

    def build(self, shape):
        c = shape[-1]
        self.dense = L.Dense(2 * c if self.kind in ("gated", "attention") else c, name="dense")
        self.out = L.Dense(c, name="out")
        self.dense.build(shape)
        self.out.build((*shape[:-1], c))
        self.built = True

    def call(self, x, training=None):
        c, y = x.shape[-1], self.dense(x)
        if self.kind == "flat":
            b = ops.shape(x)[0]
            return self.out(ops.reshape(ops.relu(ops.reshape(y, (b, -1, c))), ops.shape(x)))
        if self.kind == "gated":
            a, gate = y[..., :c], y[..., c:]
            return self.out(a * ops.sigmoid(gate)) + x
        b, n, _ = ops.shape(x)
        if self.kind == "attention":
            k, v = ops.split(ops.reshape(y, (b, n, 1, 2 * c)), 2, axis=-1)
            scores = ops.softmax(ops.einsum("bqhd,bkhd->bhqk", ops.reshape(x, (b, n, 1, c)), k) / c**0.5)
            return self.out(ops.reshape(ops.einsum("bhqk,bkhd->bqhd", scores, v), (b, n, c)))
        return self.out(ops.concatenate([ops.zeros((b, 1, c), x.dtype), y], axis=1)[:, :n])  # "shifted"


class Repeated(L.Layer):
    """A weight of its own with several uses, or one of a layer inside."""

    def __init__(self, kind, units, **arguments):
        super().__init__(**arguments)
        self.kind, self.dense = kind, L.Dense(units, "relu", name="dense")

    def build(self, shape):
        self.dense.build(shape)
        self.w = self.add_weight(shape=(shape[-1], self.dense.units), name="w")
        self.scale = self.add_weight(shape=(self.dense.units,), name="scale")
        self.built = True

    def call(self, x):
        if self.kind == "its layer's":
            return ops.matmul(self.dense(x) * self.scale, ops.transpose(self.dense.kernel))
        if self.kind == "two inputs":
            return ops.matmul(x, self.w) * ops.sigmoid(ops.matmul(ops.tanh(x), self.w) + self.scale)
        return self.dense(x) * self.scale + ops.relu(ops.matmul(x, self.w)) * self.scale  # "scale"


class Masking(L.Layer):
    """Averages positions that a mask names, or hands it on."""

    def __init__(self, kind, units, **arguments):
        super().__init__(**arguments)
        self.kind, self.dense, self.supports_masking = kind, L.Dense(units, "relu", name="dense"), True

    def build(self, shape):
        self.dense.build(shape)
        self.built = True

    def call(self, x, mask=None):
        y = self.dense(x)
        if self.kind == "hands on":
            return y
        weights = ops.ones_like(y[..., :1]) if mask is None else ops.cast(mask, y.dtype)[..., None]
        return ops.sum(y * weights, axis=1) / (ops.sum(weights, axis=1) + 1e-3)

    def compute_mask(self, x, mask=None):
        return mask if self.kind == "hands on" else None


class Branches(keras.Model):
    """A Functional model by its own constructor, of two inputs and outputs in dictionaries."""

    def __init__(self, shape, units, dtype, **arguments):
        a, b = keras.Input(shape, name="a", dtype=dtype), keras.Input(shape, name="b", dtype=dtype)
        x = L.Dense(units, "relu", name="one")(a) * L.Dense(units, name="two")(b)
        super().__init__({"a": a, "b": b}, {"x": x, "more": [L.Dense(shape[-1], name="three")(x) + a]}, **arguments)


def swish(x):
    return x * ops.sigmoid(1.3 * x)


def centred(x):
    return x - ops.mean(x, axis=-1, keepdims=True)


def shifted(amount):
    return lambda x: ops.relu(x - amount)


class Sharp:
    """An object that is called like a function."""

    def __call__(self, x):
        return ops.tanh(3.0 * x)


FUNCTIONS = [swish, centred, ops.gelu, shifted(0.3), Sharp(), lambda x: ops.maximum(x, 0.1 * x) + 0.2]


def functions(graph, x):
    function = graph.pick(*FUNCTIONS)
    return graph.pick(
        lambda: L.Dense(graph.width(), function)(x), lambda: L.Lambda(function)(x), lambda: L.Activation(function)(x),
        lambda: L.Dense(graph.width(), kernel_initializer=lambda shape, dtype=None: ops.ones(shape, dtype))(x),
    )()  # fmt: skip


def parts(graph, x):
    """Parts of channels with several readers each, some of which are put together again."""
    k = graph.pick(2, 3)
    chunks = ops.split(L.Dense(k * graph.width(), graph.pick("relu", "linear"))(x), k, axis=-1)
    chunks = [*chunks, L.Dense(graph.width(), "relu")(chunks[-1])]
    chunks += [L.Dense(graph.width(), "relu")(chunks[-1])] * graph.some()
    if graph.some():
        chunks[0] = L.Dense(graph.width())(chunks[1][..., :: graph.pick(1, 2)])
    y = ops.concatenate(chunks, axis=-1)
    return L.Dense(graph.width())(y) if graph.some() else y


def of_three(graph, x):
    """Products of three tensors at once, and of a tensor with what another makes."""
    if len(x.shape) != 3:
        return ops.multiply(x, ops.tanh(x)) * L.Dense(x.shape[-1])(x)
    d = graph.width()
    y, z = L.Dense(x.shape[-1])(x), L.Dense(d, "relu")(x)
    return graph.pick(
        lambda: ops.einsum("bnc,bnc,bnd->bnd", x, y, z), lambda: ops.einsum("bnc,bmc,bmd->bnd", x, y, z),
        lambda: ops.einsum("bnc,bnd->bcd", x, z), lambda: ops.einsum("bnc,bnd,bnd->bnc", x, z, ops.tanh(z)),
    )()  # fmt: skip


def masked(graph, x):
    """Layers behind a mask."""
    if len(x.shape) != 3 or not x.shape[1]:
        return None
    x = L.Masking(0.0)(x) if graph.some() else x
    x = Masking("hands on", graph.width())(x) if graph.some() else x
    return graph.pick(
        lambda: Masking("averages", graph.width())(x), lambda: L.GlobalAveragePooling1D()(x),
        lambda: L.LSTM(graph.width(), return_sequences=graph.some())(x), lambda: L.Softmax(axis=1)(x),
        lambda: L.MultiHeadAttention(2, 3)(x, x), lambda: L.TimeDistributed(L.Dense(graph.width()))(x),
    )()  # fmt: skip


def sized(graph, x):
    kinds = ["flat", "gated"] + ["attention", "shifted"] * (len(x.shape) == 3)
    return Sized(graph.pick(*kinds))(x)


def nested(graph, x):
    inner = Branches(x.shape[1:], graph.width(), x.dtype)
    y = inner({"b": ops.tanh(x), "a": x})
    if graph.some():
        y = inner({"a": y["more"][0], "b": x})
    return graph.pick(y["x"], y["more"][0])


KINDS = {
    "sized": sized,
    "parts": parts,
    "functions": functions,
    "nested": nested,
    "repeated": lambda graph, x: Repeated(graph.pick("its layer's", "two inputs", "scale"), graph.width())(x),
    "of three": of_three,
    "masked": masked,
}
"""What people write, by name: functions of a graph and a tensor that return a tensor, or None where it does not fit."""
