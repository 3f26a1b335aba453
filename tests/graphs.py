"""Random Keras graphs over all the layers of the table, with random zeros. `make fuzz` checks 2,000 of them."""

import argparse
import sys
import time
import traceback

import keras
import numpy as np
from graph_kinds import KINDS
from keras import layers as L
from keras import ops

import keras_rmda as kr
from keras_rmda.gates.dependent import DependentL0Gate, SharedL0Gate
from keras_rmda.gates.generator import GateGenerator
from keras_rmda.platform.compat import layers_of
from keras_rmda.platform.graphs import call as outputs
from keras_rmda.platform.tolerant import without_a_leak
from keras_rmda.structure.inputs import random_inputs
from keras_rmda.structure.liveness import plan
from keras_rmda.structure.trace import as_graph, trace

TOLERANCE = 1e-7
"""In float64. Keras adds -1e9 to masked scores of attention, which leaves them 1e-7."""

ACTIVATIONS = ["linear", "relu", "relu6", "tanh", "sigmoid", "gelu", "elu", "softplus", "softmax"]


class Block(L.Layer):
    """Layers within a layer, and a sum around them."""

    def __init__(self, width, channels, activation, inner=None, **arguments):
        super().__init__(**arguments)
        self.first, self.last = L.Dense(width, activation=activation), L.Dense(channels)
        self.norm, self.inner = L.BatchNormalization(), inner

    def call(self, x, other=None, training=None):
        y = self.norm(self.last(self.first(x)), training=training)
        y = y if self.inner is None else self.inner(y)
        return y + (x if other is None else other)


class Queried(L.Layer):
    """Positions, averaged with weights from products with an own vector, or other uses of own weights."""

    def __init__(self, kind, **arguments):
        super().__init__(**arguments)
        self.kind = kind

    def build(self, shape):
        self.q = self.add_weight(shape=(shape[-1],), name="q")
        self.a = self.add_weight(shape=(shape[-1], 2), name="a")
        self.b = self.add_weight(shape=(2, 3), name="b")

    def call(self, x):
        if self.kind == "low_rank":
            return ops.matmul(x, ops.matmul(self.a, self.b))
        if self.kind == "of three":
            return ops.einsum("bnc,bmc,bmd->bnd", x, ops.tanh(x), ops.relu(x))
        scores = {
            "sum": lambda: ops.sum(x * self.q, axis=-1),
            "matmul": lambda: ops.matmul(x, self.q[:, None])[..., 0],
            "einsum": lambda: ops.einsum("bnc,c->bn", ops.tanh(x), self.q),
            "tensordot": lambda: ops.tensordot(x, self.q * 2.0, axes=1),
        }[self.kind]()
        return ops.sum(ops.softmax(scores, axis=1)[..., None] * x, axis=1)


class Kernels(L.Layer):
    """Products with a weight that is used twice, or with what is made of it."""

    def __init__(self, kind, units, **arguments):
        super().__init__(**arguments)
        self.kind, self.units = kind, units

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], self.units), name="w")
        self.g = self.add_weight(shape=(self.units,), name="g")
        self.mask = np.arange(shape[-1] * self.units).reshape(shape[-1], self.units) % 3 > 0

    def call(self, x):
        w, axes = self.w, (0,)
        return {
            "tied": lambda: ops.matmul(ops.relu(ops.matmul(x, w) + self.g), ops.transpose(w)),
            "squares": lambda: ops.square(ops.matmul(x, w)) - ops.matmul(ops.square(x), ops.square(w)),
            "scaled": lambda: ops.matmul(x, w * 0.5),
            "masked": lambda: ops.matmul(x, w * self.mask.astype(w.dtype)),
            "normalized": lambda: ops.matmul(x, self.g * w / ops.sqrt(ops.sum(ops.square(w), axes) + 1e-3)),
            "demodulated": lambda: ops.matmul(x, w) * ops.rsqrt(ops.sum(ops.square(w), axes) + 1e-3),
            "standardized": lambda: ops.matmul(x, w - ops.mean(w, axes, keepdims=True)),
            "gram": lambda: ops.matmul(x, ops.matmul(w, ops.transpose(w))),
        }[self.kind]()


KERNELS = ["tied", "squares", "scaled", "masked", "normalized", "demodulated", "standardized", "gram"]


class Tied(L.Layer):
    """The transpose of a layer that is called elsewhere."""

    def __init__(self, other, **arguments):
        super().__init__(**arguments)
        self.other = other

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.other.kernel))


class Graph:
    """Grows a random graph; `self.tensors` holds what has not been used as the last of its branch.

    Args:
        seed: of all choices.
        people: whether there are blocks as people write them, `graph_kinds.KINDS`; `reached` has those that there are.
    """

    def __init__(self, seed, people=False):
        self.random = np.random.default_rng(seed)
        self.made, self.people, self.reached = [], people, set()

    def pick(self, *choices):
        return choices[self.random.integers(len(choices))]

    def width(self):
        return int(self.random.integers(1, 9))

    def activation(self):
        return self.pick(*ACTIVATIONS)

    def some(self, probability=0.5):
        return bool(self.random.random() < probability)

    def stochastic_gates(self, x, shared):
        """Gates with a log alpha of their own or from a generator, on one tensor or on a sum's two."""
        gate = kr.layers.L0Gate if self.some() else DependentL0Gate
        gate = gate(0.1, axis=self.pick(-1, -1, -1, len(x.shape) - 1), with_gates=shared)
        log_alpha = GateGenerator([3, x.shape[-1]], self.pick("forward", "backward"))(self.pick(*self.made))[1]
        given = [x, log_alpha] if isinstance(gate, DependentL0Gate) else x
        if not shared:
            return gate(given)
        y = L.Dense(x.shape[-1], activation=self.activation())(x)
        x, z = gate(given)
        return x + SharedL0Gate()([y, z])

    # ---- layers, by the rank of what they take; each returns a tensor or None where it does not fit

    def anywhere(self, x):
        c = x.shape[-1]
        kind = self.pick(
            "dense", "dense", "norm", "layer_norm", "group_norm", "unit", "activation", "prelu", "scale", "softmax",
            "rescaling", "add_scalar", "multiply_scalar", "raw_relu", "dropout", "leaky", "residual", "gate",
            "reversed_norm", "einsum", "normalization", "rms", "layer_scale", "pair", "block", "where",
            "l0", "shared_l0", "split", "split", "array", "array", "channels", "channels", "mixed", "glu",
            "kernels", "kernels", "turned", "spectral",
        )  # fmt: skip
        if kind == "kernels":
            return Kernels(self.pick(*KERNELS), self.width())(x)
        if kind == "turned":
            first = L.Dense(self.width(), activation=self.activation(), use_bias=self.some())
            return Tied(first)(L.Dense(first.units, activation="relu")(first(x)))
        if kind == "spectral":
            return L.SpectralNormalization(L.Dense(self.width(), activation=self.activation()))(x)
        if kind == "split":
            return self.split(L.Dense(2 * self.width(), activation=self.activation())(x))
        if kind == "array":
            return self.with_array(x)
        if kind == "channels":
            return self.channels(x)
        if kind == "glu":
            return ops.glu(L.Dense(2 * self.width())(x), axis=-1)
        if kind == "mixed":
            return self.pick(
                lambda: x + ops.mean(x, axis=-1, keepdims=True), lambda: x * ops.sum(x, axis=-1, keepdims=True),
                lambda: ops.sum(x, axis=-1, keepdims=True), lambda: x / (1.5 + ops.std(x, axis=-1, keepdims=True)),
                lambda: ops.concatenate([ops.max(x, axis=-1, keepdims=True), x], axis=-1),
            )()  # fmt: skip
        if kind in ("l0", "shared_l0"):
            return self.stochastic_gates(x, kind == "shared_l0")
        if kind == "dense":
            return L.Dense(self.width(), activation=self.activation(), use_bias=self.some(0.7))(x)
        if kind == "norm":
            return L.BatchNormalization(center=self.some(0.8), scale=self.some(0.8))(x)
        if kind == "layer_norm":
            axis = self.pick(-1, -1, tuple(range(1, len(x.shape)))) if None not in x.shape[1:] else -1
            return L.LayerNormalization(axis=axis, center=self.some(), scale=self.some())(x)
        if kind == "group_norm":
            return L.GroupNormalization(self.pick(*[g for g in (1, 2, 3, 4, -1) if g == -1 or c % g == 0]))(x)
        if kind == "unit":
            return L.UnitNormalization()(x)
        if kind == "activation":
            return L.Activation(self.activation())(x)
        if kind == "prelu":
            shared = [a for a in range(1, len(x.shape)) if x.shape[a] is None or self.some(0.3)]
            return L.PReLU("uniform", shared_axes=shared or None)(x)
        if kind == "scale":
            return L.Rescaling([float(k) for k in self.random.normal(size=c)], 0.5)(x)
        if kind == "layer_scale":
            return keras.src.applications.convnext.LayerScale(0.5, c)(x)
        if kind == "softmax":
            return L.Softmax(self.pick(-1, len(x.shape) - 1))(x)
        if kind == "rescaling":
            return L.Rescaling(0.5, self.pick(0.0, 1.0))(x)
        if kind == "add_scalar":
            return x + 1.5
        if kind == "multiply_scalar":
            return 2.0 * x
        if kind == "raw_relu":
            return self.pick(ops.relu, ops.sigmoid, ops.tanh, ops.square, ops.negative)(x)
        if kind == "dropout":
            return self.pick(L.Dropout(0.5), L.GaussianNoise(0.1), L.Identity(), L.ActivityRegularization(0.1))(x)
        if kind == "leaky":
            return self.pick(L.LeakyReLU(), L.ELU(), L.ReLU(6.0), L.ReLU(threshold=0.5))(x)
        if kind == "residual":
            y = L.Dense(c, activation=self.activation(), use_bias=self.some())(L.Dense(self.width())(x))
            return self.pick(lambda: x + y, lambda: L.Add()([x, y]), lambda: L.Multiply()([y, x]), lambda: x - y)()
        if kind == "gate":
            y = x if len(x.shape) == 2 else self.pooled(x, keepdims=True)
            y = L.Dense(c, activation="sigmoid")(L.Dense(self.width(), activation="relu")(y))
            return self.pick(lambda: x * y, lambda: L.Multiply()([x, y]), lambda: L.Multiply()([y, x]))()
        if kind == "reversed_norm" and len(x.shape) == 3 and x.shape[1]:
            return L.BatchNormalization(axis=1)(x)
        if kind == "einsum" and len(x.shape) == 3:
            equation, shape, bias = self.pick(
                ("abc,cd->abd", (None, self.width()), "d"),
                ("abc,cd->abd", (None, self.width()), None),
                ("...x,xy->...y", self.width(), "y"),
                *[("abc,bcd->abd", (x.shape[1], self.width()), self.pick("d", "bd", None))] * (x.shape[1] is not None),
            )
            return L.EinsumDense(equation, output_shape=shape, bias_axes=bias, activation="relu")(x)
        if kind == "normalization":
            return L.Normalization(mean=self.random.normal(size=c).tolist(), variance=[2.0] * c)(x)
        if kind == "rms" and hasattr(L, "RMSNormalization"):
            return L.RMSNormalization()(x)
        if kind == "block":
            inner = Block(self.width(), c, "relu") if self.some(0.3) else None
            new = Block(self.width(), c, self.activation(), inner)
            return new(new(x)) if self.some(0.3) else new(x, other=ops.tanh(x)) if self.some(0.3) else new(x)
        if kind == "where":
            return self.pick(lambda: ops.where(x > 0.2, x, 0.5), lambda: ops.where(x < 0, ops.zeros_like(x), x))()
        if kind == "pair":
            same = [y for y in self.made if None not in y.shape[1:] and y.shape[1:-1] == x.shape[1:-1] and y is not x]
            equal = [y for y in same if y.shape == x.shape]
            if equal and self.some():
                return self.pick(L.Add, L.Maximum, L.Minimum, L.Average, L.Subtract, L.Multiply)()(
                    [x, self.pick(*equal)]
                )
            if same:
                y = self.pick(*same)
                return self.pick(lambda: L.Concatenate()([x, y]), lambda: ops.concatenate([y, x], axis=-1))()
        return None

    def split(self, x):
        """Parts of channels that go different ways, and come together again."""
        c = x.shape[-1]
        k = int(self.random.integers(1, c))
        parts = self.pick(
            lambda: ops.split(x, 2, axis=-1), lambda: ops.split(x, [k], axis=-1), lambda: [x[..., :k], x[..., k:]],
            lambda: [x[..., ::2], x[..., 1::2]], lambda: [x[..., : c // 2], x[..., -(c // 2) :]],
        )()  # fmt: skip
        a, b = parts
        if a.shape[-1] == b.shape[-1] and self.some():
            return self.pick(lambda: a * ops.sigmoid(b), lambda: a + b, lambda: ops.maximum(a, b))()
        b = L.Dense(self.width(), activation="relu")(b)
        return self.pick(lambda: b, lambda: ops.concatenate([a, b], axis=-1), lambda: L.Concatenate()([b, a]))()

    def with_array(self, x):
        """Arrays of numbers: for each channel, for each position, for both; as an operand or an index."""
        c, sizes = x.shape[-1], [n for n in x.shape[1:]]
        if None in sizes:
            sizes = [c]
        array = self.random.normal(size=sizes)
        array = self.pick(array, array, array[..., :1], array.reshape(-1, c)[0])
        array = np.where(self.random.random(array.shape) < 0.2, 0, array)
        return self.pick(
            lambda: x * array, lambda: x + array, lambda: ops.subtract(array, x), lambda: x / (1 + array**2),
            lambda: ops.maximum(x, array), lambda: ops.where(array > 0, x, 0.0), lambda: x * 2.0 + array[None],
        )()  # fmt: skip

    def channels(self, x):
        """Channels taken, shuffled, repeated."""
        c = x.shape[-1]
        index = self.random.integers(-c, c, size=int(self.random.integers(1, 6)))
        even = [k for k in (2, 3) if c % k == 0]
        whole = None not in x.shape[1:]
        if even and whole and self.some():
            k = self.pick(*even)
            y = ops.reshape(x, (-1, *x.shape[1:-1], k, c // k))
            return ops.reshape(ops.swapaxes(y, -1, -2), (-1, *x.shape[1:]))
        return self.pick(
            lambda: ops.take(x, index, axis=-1), lambda: ops.repeat(x, 2, axis=-1), lambda: x[..., ::-1],
            lambda: ops.roll(x, int(index[0]), axis=-1), lambda: x[..., int(index[0])][..., None],
            lambda: ops.tile(x, (1,) * (len(x.shape) - 1) + (2,)), lambda: x[..., 1 : c - 1] if c > 2 else x,
        )()  # fmt: skip

    def pooled(self, x, keepdims=False):
        rank = len(x.shape) - 2
        average = {1: L.GlobalAveragePooling1D, 2: L.GlobalAveragePooling2D, 3: L.GlobalAveragePooling3D}[rank]
        largest = {1: L.GlobalMaxPooling1D, 2: L.GlobalMaxPooling2D, 3: L.GlobalMaxPooling3D}[rank]
        if self.some(0.3):
            return ops.mean(x, axis=tuple(range(1, rank + 1)), keepdims=keepdims)
        return self.pick(average, largest)(keepdims=keepdims)(x)

    def spatial(self, x):
        """Layers over images, sequences and volumes."""
        rank, c = len(x.shape) - 2, x.shape[-1]
        small = any(n is not None and n < 4 for n in x.shape[1:-1])
        kind = self.pick(
            "conv", "conv", "grouped", "transposed", "depthwise", "separable", "pool", "pad", "crop", "up", "global",
            "flatten", "reshape", "permute", "rows", "raw_pad", "inner", "shared", "distributed", "transpose",
            "positions", "positions",
        )  # fmt: skip
        conv = {1: L.Conv1D, 2: L.Conv2D, 3: L.Conv3D}[rank]
        padding = self.pick("same", "valid") if not small else "same"
        if kind == "conv":
            stride, dilation = self.pick((1, 1), (2, 1), (1, 2))
            size = self.pick(1, 2, 3) if dilation == 1 else 2
            return conv(
                self.width(), size, strides=stride, dilation_rate=dilation, padding="same" if dilation > 1 else padding,
                activation=self.activation(), use_bias=self.some(),
            )(x)  # fmt: skip
        if kind == "grouped":
            groups = self.pick(*[g for g in (2, 3, 4, c) if c % g == 0] or [1])
            if keras.backend.backend() == "tensorflow" and rank == 3:
                groups = 1
            return conv(groups * int(self.random.integers(1, 4)), 3 if padding == "same" else 2, padding=padding,
                        groups=groups, use_bias=self.some(), activation=self.activation())(x)  # fmt: skip
        if kind == "transposed":
            transposed = {1: L.Conv1DTranspose, 2: L.Conv2DTranspose, 3: L.Conv3DTranspose}[rank]
            return transposed(self.width(), self.pick(1, 2, 3), strides=self.pick(1, 2), padding="same",
                              activation=self.activation(), use_bias=self.some())(x)  # fmt: skip
        if kind in ("depthwise", "separable") and rank < 3:
            arguments = {"padding": padding, "depth_multiplier": self.pick(1, 1, 2, 3), "use_bias": self.some()}
            if kind == "depthwise":
                return {1: L.DepthwiseConv1D, 2: L.DepthwiseConv2D}[rank](2, **arguments)(x)
            return {1: L.SeparableConv1D, 2: L.SeparableConv2D}[rank](self.width(), 2, **arguments)(x)
        if kind == "pool":
            pool = {1: (L.MaxPooling1D, L.AveragePooling1D), 2: (L.MaxPooling2D, L.AveragePooling2D),
                    3: (L.AveragePooling3D,)}[rank]  # no MaxPooling3D in float64 # fmt: skip
            return self.pick(*pool)(2, strides=self.pick(1, 2), padding=padding)(x)
        if kind == "pad":
            return {1: L.ZeroPadding1D, 2: L.ZeroPadding2D, 3: L.ZeroPadding3D}[rank](1)(x)
        if kind == "raw_pad":
            return ops.pad(x, [(0, 0), *[(1, 0)] * rank, (0, 0)], mode=self.pick("constant", "constant", "reflect"))
        if kind == "crop" and not small:
            return {1: L.Cropping1D, 2: L.Cropping2D, 3: L.Cropping3D}[rank](1)(x)
        if kind == "up" and max((n or 0) for n in x.shape[1:-1]) < 8:
            if rank == 2 and self.some(0.3):
                return L.Resizing(5, 4)(x)
            return {1: L.UpSampling1D, 2: L.UpSampling2D, 3: L.UpSampling3D}[rank](2)(x)
        if kind == "global":
            return self.pooled(x)
        if kind == "inner":
            inputs = keras.Input(x.shape[1:], dtype=x.dtype)
            y = conv(self.width(), 1, activation="relu")(inputs)
            if self.some():
                layers = [conv(self.width(), 1), L.BatchNormalization(), L.ReLU(), conv(c, 1)]
                return keras.Sequential([inputs, *layers])(x)
            return keras.Model(inputs, conv(c, 1)(y) + inputs)(x)
        if kind == "shared":
            layer = conv(c, 1, activation=self.activation())
            return layer(layer(x)) if self.some() else L.Add()([layer(x), layer(L.Activation("tanh")(x))])
        if kind == "distributed" and rank > 0:
            inner = self.pick(L.Dense(self.width(), activation="relu"), L.BatchNormalization(), L.LayerNormalization())
            if None not in x.shape[2:] and self.some(0.3):
                inputs = keras.Input(x.shape[2:], dtype=x.dtype)
                inner = keras.Sequential([inputs, inner, L.Dense(self.width()), L.ReLU()])
            return L.TimeDistributed(inner)(x)
        if None in x.shape[1:]:
            return None
        if kind == "positions":
            axis, last = int(self.random.integers(1, rank + 1)), (slice(None),) * rank
            return self.pick(
                lambda: x[:, 0], lambda: x[:, 1:], lambda: x[:, ::2], lambda: x[..., None, :], lambda: x[:, -1],
                lambda: ops.flip(x, axis=self.pick(axis, -1)), lambda: ops.sum(x, axis=axis, keepdims=self.some()),
                lambda: ops.stack([x[:, 0], ops.tanh(x[:, 1])], axis=1), lambda: ops.swapaxes(x, 1, rank + 1),
                lambda: ops.concatenate([x[:, :1], ops.relu(x)], axis=1), lambda: ops.moveaxis(x, -1, axis),
                lambda: x[(*last, slice(0, 1))], lambda: ops.cumsum(x, axis=axis), lambda: ops.roll(x, 1, axis=axis),
                lambda: ops.take(x, [0, 1, 0], axis=1), lambda: ops.softmax(x, axis=axis),
                lambda: ops.repeat(x, 2, axis),
                lambda: ops.sum(ops.softmax(L.Dense(1)(x), axis=1) * x, axis=1),
                lambda: ops.stack(ops.unstack(x, axis=1), axis=1),
                lambda: ops.transpose(x, (1, 0, *range(2, rank + 2)))[0],
                lambda: ops.reshape(ops.reshape(x, (-1, *x.shape[2:])), (-1, *x.shape[1:])),
            )()  # fmt: skip
        if kind == "flatten" and np.prod(x.shape[1:]) < 300:
            return L.Flatten()(x)
        if kind == "reshape":
            return L.Reshape((-1, c))(x) if self.some() else ops.reshape(x, (-1, *x.shape[1:-1], 1, c))[..., 0, :]
        if kind == "rows":
            return L.Reshape((x.shape[1], -1))(x)
        if kind == "permute":
            order = list(range(1, len(x.shape)))
            self.random.shuffle(order)
            return L.Permute(order)(x)
        if kind == "transpose":
            return ops.transpose(x, (0, *range(len(x.shape) - 2, 0, -1), len(x.shape) - 1))
        return None

    def sequence(self, x):
        """Layers over sequences."""
        c = x.shape[-1]
        kind = self.pick(
            "rnn", "both_ways", "attention", "grouped_attention", "cross", "states", "heads", "by_hand", "by_hand",
            "by_hand",
            "scores", "gram", "cell", "queried",
        )  # fmt: skip
        if kind == "queried":
            return Queried(self.pick("sum", "matmul", "einsum", "tensordot", "low_rank", "of three"))(x)
        if kind == "by_hand" and x.shape[1]:
            return self.attention_by_hand(x)
        if kind == "scores":
            d = self.width()
            layer = self.pick(L.Attention(), L.AdditiveAttention(use_scale=self.some()))
            return layer([L.Dense(d)(x), L.Dense(self.width())(x), L.Dense(d)(x)])
        if kind == "gram":
            d = self.width()
            return ops.matmul(L.Dense(d)(x), ops.swapaxes(L.Dense(d)(x), 1, 2)) @ x
        if kind == "cell":
            cell = self.pick(L.SimpleRNNCell, L.LSTMCell, L.GRUCell)(self.width())
            cell = [cell, L.GRUCell(self.width())] if self.some(0.3) else cell
            return L.RNN(cell, return_sequences=self.some())(x)
        recurrent = self.pick(L.SimpleRNN, L.LSTM, L.GRU)
        arguments = {"use_bias": self.some(0.8), "return_sequences": self.some(0.7)}
        if kind == "rnn":
            return recurrent(self.width(), **arguments, go_backwards=self.some(0.2))(x)
        if kind == "both_ways":
            return L.Bidirectional(recurrent(self.width(), **arguments), self.pick("concat", "sum", "mul", "ave"))(x)
        if kind == "states":
            units = self.width()
            _, *states = L.LSTM(units, return_state=True)(x)
            return L.LSTM(units, return_sequences=True)(x, initial_state=states)
        if kind == "attention":
            # Keras 3.15 on TensorFlow adds a bias of shape (heads, 1) along the steps where there are as many as heads.
            size = max(2, self.width())
            y = L.MultiHeadAttention(self.pick(1, 2, 3), size, self.pick(None, 3), use_bias=self.some())(x, x)
            return L.Add()([x, y]) if self.some() else y
        if kind == "grouped_attention":
            heads = self.pick(1, 2)
            size = max(2, self.width())
            return L.GroupQueryAttention(size, heads * self.pick(1, 2), heads, use_bias=self.some())(x, x) + x
        if kind == "cross":
            y = L.Dense(self.width(), activation=self.activation())(x)
            return L.MultiHeadAttention(2, 3, output_shape=self.width())(x, y, use_causal_mask=self.some(0.3))
        if kind == "heads":
            y = L.EinsumDense("abc,cde->abde", output_shape=(None, 2, 3), bias_axes=self.pick("de", None))(x)
            return L.EinsumDense("abde,dec->abc", output_shape=(None, c), bias_axes="c")(y)
        return None

    def attention_by_hand(self, x):
        """Attention as people write it."""
        n, (h, d), packed = x.shape[1], (self.pick(1, 2, 3), self.pick(2, 4)), self.pick(0, 0, 1, 2, 3, 4)
        bias = self.some()
        if packed == 0:
            q, k, v = (ops.reshape(L.Dense(h * d, use_bias=bias)(x), (-1, n, h, d)) for _ in range(3))
        elif packed == 1:
            q, k, v = ops.split(L.Dense(3 * h * d, use_bias=bias)(x), 3, axis=-1)
            q, k, v = (ops.reshape(y, (-1, n, h, d)) for y in (q, k, v))
        elif packed == 2:
            y = ops.transpose(ops.reshape(L.Dense(3 * h * d, use_bias=bias)(x), (-1, n, 3, h, d)), (2, 0, 1, 3, 4))
            q, k, v = y[0], y[1], y[2]
        elif packed == 3:
            q, k, v = ops.split(ops.reshape(L.Dense(3 * h * d, use_bias=bias)(x), (-1, n, h, 3 * d)), 3, axis=-1)
        else:
            axes = self.pick("de", None)
            q, k, v = (L.EinsumDense("abc,cde->abde", output_shape=(None, h, d), bias_axes=axes)(x) for _ in range(3))
        if self.some(0.3):
            table = self.random.normal(size=(n, 1, d))
            q, k = (y + table * ops.concatenate([-y[..., d // 2 :], y[..., : d // 2]], axis=-1) for y in (q, k))
        if self.some(0.2):
            q, k = L.LayerNormalization()(q), L.LayerNormalization()(k)
        if self.some(0.2) and packed != 4:
            return L.Dense(x.shape[-1])(L.Reshape((n, -1))(ops.dot_product_attention(q, k, v)))
        if self.some():
            scores = ops.einsum("bqhd,bkhd->bhqk", q, k)
        else:
            scores = ops.matmul(ops.transpose(q, (0, 2, 1, 3)), ops.transpose(k, (0, 2, 3, 1)))
        scores = scores * 0.5
        if self.some(0.3):
            scores = self.pick(
                lambda: ops.where(np.tril(np.ones((n, n))) > 0, scores, -1e9),
                lambda: scores + self.random.normal(size=(h, n, n)),
            )()
        y = ops.matmul(ops.softmax(scores), ops.transpose(v, (0, 2, 1, 3)))
        y = ops.reshape(ops.transpose(y, (0, 2, 1, 3)), (-1, n, h * d))
        y = L.Dense(x.shape[-1])(y)
        return y + x if self.some() else y

    def step(self, x):
        rank = len(x.shape) - 2
        if self.people and rank < 3 and self.some(0.4):
            kind = self.pick(*KINDS)
            y = KINDS[kind](self, x)
            self.reached |= set() if y is None else {kind}
            return y
        if rank == 0:
            n = x.shape[-1]
            kind = self.pick("any", "any", "any", "reshape", "repeat", "single")
            if kind == "reshape" and n % 2 == 0:
                return L.Reshape((2, n // 2) if self.some() else (1, 1, n))(x)
            if kind == "repeat":
                return L.RepeatVector(3)(x)
            if kind == "single":
                return L.Dense(1)(x)
            return self.anywhere(x)
        if rank > 3:
            return L.Reshape((-1, x.shape[-1]))(x) if None not in x.shape[1:] else None
        methods = [self.anywhere, self.spatial] + ([self.sequence] if rank == 1 else [])
        return self.pick(*methods)(x)

    def inputs(self):
        kind = self.pick("image", "image", "sequence", "vector", "volume", "words", "open_image", "open_sequence")
        c = self.width()
        if kind == "words":
            x = keras.Input((6,), dtype="int32")
            return x, L.Embedding(2, self.width(), mask_zero=self.some(0.3))(x)
        shape = {"image": (7, 6, c), "sequence": (6, c), "vector": (c,), "volume": (4, 5, 4, c),
                 "open_image": (None, None, c), "open_sequence": (None, c)}[kind]  # fmt: skip
        # In the type that all is computed in: layer normalizations compute in that of what they get.
        x = keras.Input(shape, dtype=keras.config.dtype_policy().compute_dtype)
        return x, x

    def build(self, size=10):
        pairs = [self.inputs() for _ in range(self.pick(1, 1, 2))]
        self.made = [y for _, y in pairs]
        wanted, failures = len(self.made) + size, 0
        while len(self.made) < wanted and failures < 300:
            x = self.made[-1] if self.some(0.6) else self.pick(*self.made)
            try:
                with without_a_leak():
                    y = self.step(x)
            except Exception:
                y = None  # a combination that Keras refuses
            if y is None or np.prod([n or 1 for n in y.shape[1:]]) > 3000:
                failures += 1
                continue
            self.made.append(y)
        used = {id(t) for y in self.made for t in y._keras_history.operation._inbound_nodes[-1].input_tensors}
        ends = [y for y in self.made if id(y) not in used] or self.made[-1:]
        ends = [e if len(e.shape) in (2, 6) or self.some(0.3) else self.pooled(e) for e in ends]
        ends = [L.Dense(self.width())(e) if e.shape[-1] and self.some(0.7) else e for e in ends]
        model = keras.Model([x for x, _ in pairs], ends)
        self.randomize(model)
        return model

    def randomize(self, model):
        """Fill the weights, with whole slices of zeros along random axes."""
        share = self.pick(0.0, 0.2, 0.4, 0.7)
        for weight in model.weights:
            value = self.random.normal(scale=0.5, size=weight.shape)
            if "variance" in weight.path:
                value = np.abs(value) + 0.5
            elif "count" in weight.path or "seed" in weight.path:
                continue
            elif "log_alpha" in weight.path:
                value = 4.0 * value
            elif "frozen" in weight.path:
                value = np.where(self.random.random(value.shape) < 0.8, -1.0, np.abs(value))
                weight.assign(value.astype("float32"))
                continue
            elif value.ndim and self.some(0.8):
                axes = range(value.ndim) if self.some(0.3) else [self.pick(*range(value.ndim))]
                for axis in axes:
                    dead = np.flatnonzero(self.random.random(value.shape[axis]) < share)
                    value[(slice(None),) * axis + (dead,)] = 0
            weight.assign(value.astype(weight.dtype))


def check(seed, size=10, people=False):
    """Strip one random graph and check everything that has to hold.

    Returns:
        How many parameters went, the reasons of opaque layers by name, and which kinds of blocks were reached.
    """
    keras.utils.set_random_seed(seed)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    graph = Graph(seed, people)
    try:
        model = graph.build(size)
    finally:
        keras.config.set_dtype_policy(policy)
    try:
        outputs(model, random_inputs(model))
    except Exception:
        return 0, {}, set()  # Keras builds what it cannot run
    before = [w.copy() for w in model.get_weights()]
    small = kr.strip(model, tolerance=TOLERANCE)
    report = kr.analyze(model)
    assert all(n > 0 for w in small.weights for n in w.shape), "a layer without channels"
    assert report.parameters_after == small.count_params(), "the report predicts other sizes"
    again = kr.analyze(small)
    assert again.removable == 0 or only_unneeded_goes(small), f"a second time would remove {again.removable}"
    assert again.macs == report.macs_after, "the report predicts other operations"
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights())), "the original was changed"
    shapes = zip(keras.tree.flatten(small.outputs), keras.tree.flatten(model.outputs), strict=True)
    assert all(m in (n, None) for y, x in shapes for n, m in zip(y.shape, x.shape, strict=True)), "other outputs"
    wide = kr.strip(model, tolerance=TOLERANCE, round_to=4)
    assert wide.count_params() >= small.count_params(), "wider, but smaller"
    return report.parameters - report.parameters_after, report.opaque, graph.reached


def only_unneeded_goes(model):
    """Return whether a strip would leave whole every tensor that anything needs.

    Of others one channel stays for the sake of shapes, or one head, and of an only head one channel.
    """
    with as_graph(model) as graph:
        decided = plan(trace(graph), ops.convert_to_numpy)
    needed = [x for x in decided.trace.tensors if decided.state.needed(x).any()]
    return all(decided.cut.stays(x.atoms).all() for x in needed)


def check_insertion(seed, size=8):
    """Put gates into one random graph, close some of them, strip; return how many parameters went."""
    keras.utils.set_random_seed(seed)
    graph = Graph(seed)
    model = graph.build(size)
    kind, where = graph.pick("l0", "dep_l0"), graph.pick("inside", "everywhere")
    try:
        expected = outputs(model, random_inputs(model))
    except Exception:
        return 0
    try:
        gated = kr.gates.insert(model, kind, 0.1, where=where, direction=graph.pick("forward", "backward"), seed=seed)
    except ValueError as error:
        if not any(text in str(error) for text in ("No channel", "cannot be rebuilt")):
            raise
        return 0
    for a, b in zip(expected, outputs(gated, random_inputs(model))):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg="gates do not begin open")
    close(gated, graph.random)
    small = kr.strip(gated)
    gates = [layer.name for layer in layers_of(small) if "Gate" in (kind := type(layer).__name__) and "L0" in kind]
    assert set(gates) <= {name.rpartition("/")[2] for name in kr.analyze(gated).opaque}
    assert kr.analyze(gated).parameters_after == small.count_params()
    return kr.strip(model).count_params() - small.count_params()


def close(model, random, share=0.4):
    """Close a share of the gates of a model, and let as many be half open."""
    for layer in layers_of(model):
        values = [-3.0, 0.0, 3.0]
        odds = [share, share / 2, 1 - 1.5 * share]
        if hasattr(layer, "log_alpha"):
            layer.log_alpha.assign(random.choice(values, p=odds, size=layer.log_alpha.shape))
        for bias in getattr(layer, "biases", {}).values():
            bias.assign(random.choice(values, p=odds, size=bias.shape))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--size", type=int, default=10)
    parser.add_argument("--people", action="store_true", help="with blocks as people write them")
    arguments = parser.parse_args()
    start, failed, removed, opaque, reached = time.time(), 0, 0, {}, {}
    for seed in range(arguments.first, arguments.first + arguments.count):
        try:
            went, unknown, kinds = check(seed, arguments.size, arguments.people)
            removed += went > 0
            reached |= {kind: reached.get(kind, 0) + 1 for kind in kinds}
            for why in unknown.values():
                opaque[why] = opaque.get(why, 0) + 1
        except Exception as error:
            failed += 1
            frame = traceback.extract_tb(error.__traceback__)[-1]
            message = " ".join(str(error).split())[:300]
            print(f"seed {seed}: {type(error).__name__}: {message} ({frame.filename}:{frame.lineno})", flush=True)
        if seed % 100 == 99:
            keras.backend.clear_session()
    print(f"{arguments.count} graphs, {failed} failures, {removed} became smaller, {time.time() - start:.0f} s")
    if reached:
        print("  reached: " + ", ".join(f"{kind} {count}" for kind, count in sorted(reached.items())))
    for why, count in sorted(opaque.items(), key=lambda item: -item[1])[:20]:
        print(f"  opaque {count} times: {why}")
    sys.exit(bool(failed))
