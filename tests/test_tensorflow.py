"""Code that calls functions of TensorFlow: traced, and cut like that of keras.ops."""

import operator

import keras
import numpy as np
import pytest
from backend import only_tensorflow
from keras import layers as L
from keras import ops
from zoo import randomize, zero

import keras_rmda as kr
from keras_rmda.platform.tracing.tensorflow import tensorflow_as_operations
from keras_rmda.platform.tracing.tensorflow.table import BINARY, FUNCTIONS, OF_SIZES, REDUCTIONS, UNARY
from keras_rmda.structure.verification import difference

pytestmark = only_tensorflow
tf = pytest.importorskip("tensorflow")

CALLS = {
    **{name: [lambda x, f: f(x)] for name in UNARY},
    **{name: [lambda x, f: f(x, 2.0 - x)] for name in BINARY},
    **{name: [lambda x, f: f(x), lambda x, f: f(x, axis=[1], keepdims=True)] for name in REDUCTIONS},
    "abs": [lambda x, f: f(x - 1)],
    "acos": [lambda x, f: f(x / 9)],
    "asin": [lambda x, f: f(x / 9)],
    "asinh": [lambda x, f: f(x)],
    "atan": [lambda x, f: f(x)],
    "atan2": [lambda x, f: f(x, 2.0)],
    "acosh": [lambda x, f: f(x + 1)],
    "adjoint": [lambda x, f: f(x)],
    "add_n": [lambda x, f: f([x, x, x])],
    "argsort": [lambda x, f: f(x), lambda x, f: f(x, axis=0, direction="DESCENDING")],
    "argmax": [lambda x, f: f(x), lambda x, f: f(x, axis=1, output_type="int32")],
    "argmin": [lambda x, f: f(x, -1)],
    "atanh": [lambda x, f: f(x / 9)],
    "atrous_conv2d": [lambda x, f: f(tf.reshape(x, (1, 3, 4, 1)), np.ones((2, 2, 1, 3), "float32"), 2, "SAME")],
    **{
        f"{kind}_pool{n}": [
            lambda x, f: f(tf.reshape(x, (1, 3, 4, 1)), 2, 1, "VALID"),
            lambda x, f: f(tf.reshape(x, (1, 3, 4, 1)), [1, 2, 2, 1], [1, 2, 2, 1], "SAME"),
        ]
        for kind in ("avg", "max")
        for n in ("", "2d")
    },
    **{f"{kind}_pool1d": [lambda x, f: f(tf.reshape(x, (1, 3, 4)), 2, 2, "SAME")] for kind in ("avg", "max")},
    **{f"{kind}_pool3d": [lambda x, f: f(tf.reshape(x, (1, 3, 2, 2, 1)), 2, 1, "VALID")] for kind in ("avg", "max")},
    "band_part": [lambda x, f: f(x, 1, 0), lambda x, f: f(x, -1, 1), lambda x, f: f(x, num_lower=0, num_upper=-1)],
    "batch_normalization": [
        lambda x, f: f(x, x[0], x[1], x[2], x[0], 1e-3),
        lambda x, f: f(x, 1.0, x[1], None, None, variance_epsilon=1e-3),
    ],
    "bias_add": [lambda x, f: f(x, np.arange(4, dtype="float32")), lambda x, f: f(value=x, bias=x[0])],
    "broadcast_to": [lambda x, f: f(x, [2, 3, 4])],
    "cast": [lambda x, f: f(x, tf.int32)],
    "cholesky": [lambda x, f: f(tf.matmul(x, x, transpose_b=True) + 9.0 * tf.eye(3))],
    "clip_by_value": [lambda x, f: f(x, 0.5, clip_value_max=1.0)],
    "concat": [lambda x, f: f([x, x], 1), lambda x, f: f(axis=-1, values=[x, 2 * x])],
    "conv1d": [lambda x, f: f(tf.reshape(x, (1, 3, 4)), np.ones((2, 4, 3), "float32"), 1, "SAME")],
    "conv2d": [
        lambda x, f: f(tf.reshape(x, (1, 3, 4, 1)), np.ones((2, 2, 1, 3), "float32"), [1, 2, 2, 1], "VALID"),
        lambda x, f: f(
            tf.reshape(x, (1, 3, 4, 1)), np.ones((2, 2, 1, 3), "float32"), 2, [[0, 0], [1, 0], [2, 1], [0, 0]]
        ),
    ],
    "conv3d": [lambda x, f: f(tf.reshape(x, (1, 3, 2, 2, 1)), np.ones((2, 2, 2, 1, 3), "float32"), [1] * 5, "SAME")],
    "convolution": [
        lambda x, f: f(tf.reshape(x, (1, 3, 4)), np.ones((2, 4, 3), "float32")),
        lambda x, f: f(tf.reshape(x, (1, 3, 4, 1)), np.ones((2, 2, 1, 3), "float32"), strides=[1, 2], padding="SAME"),
    ],
    "convert_to_tensor": [lambda x, f: f(x)],
    "crelu": [lambda x, f: f(x - 1), lambda x, f: f(x - 1, axis=0)],
    "count_nonzero": [lambda x, f: f(tf.nn.relu(x - 1)), lambda x, f: f(tf.nn.relu(x - 1), [1], True, tf.float32)],
    **{
        name: [
            lambda x, f: f(x),
            lambda x, f: f(x, axis=1),
            lambda x, f: f(x, axis=-1, exclusive=True),
            lambda x, f: f(x, 1, reverse=True),
            lambda x, f: f(x, exclusive=True, reverse=True),
        ]
        for name in ("cumprod", "cumsum")
    },
    "depth_to_space": [lambda x, f: f(tf.reshape(x, (1, 1, 1, 12)), 2)],
    "depthwise_conv2d": [
        lambda x, f: f(tf.reshape(x, (1, 3, 4, 1)), np.ones((2, 2, 1, 3), "float32"), [1, 1, 1, 1], "SAME")
    ],
    "det": [lambda x, f: f(x[:, :3])],
    "diag": [lambda x, f: f(x)],
    "diag_part": [lambda x, f: f(x), lambda x, f: f(x, k=1)],
    "divide_no_nan": [lambda x, f: f(x, tf.nn.relu(x - 1))],
    "einsum": [lambda x, f: f("ab,cb->ac", x, x)],
    "embedding_lookup": [lambda x, f: f(x, [[0, 2], [1, 1]])],
    "erfinv": [lambda x, f: f(x / 9)],
    "ensure_shape": [lambda x, f: f(x, (None, 4))],
    "expand_dims": [lambda x, f: f(x, 1), lambda x, f: f(input=x, axis=-1)],
    "floordiv": [lambda x, f: f(x, 0.3)],
    "floormod": [lambda x, f: f(x, 0.3)],
    "gather": [
        lambda x, f: f(x, [0, 2, 2], axis=1),
        lambda x, f: f(x, [[0], [1]]),
        lambda x, f: f(x, np.array([[0, 3], [1, 1], [2, 0]]), batch_dims=1),
        lambda x, f: f(x, np.array([[[0, 3]], [[1, 1]], [[2, 0]]]), axis=1, batch_dims=1),
        lambda x, f: f(tf.reshape(x, (1, 2, 2, 3)), np.array([[[1, 0, 1], [0, 0, 0]]]), batch_dims=2),
    ],
    "gather_nd": [
        lambda x, f: f(x, [[0], [2]]),
        lambda x, f: f(x, np.array([[[1], [0]], [[3], [3]], [[2], [0]]]), batch_dims=1),
    ],
    "gelu": [lambda x, f: f(x), lambda x, f: f(x, approximate=True)],
    "identity": [lambda x, f: f(x)],
    "inv": [lambda x, f: f(x[:, :3] + 9.0 * tf.eye(3))],
    "is_finite": [lambda x, f: f(x)],
    "is_inf": [lambda x, f: f(1.0 / tf.nn.relu(x - 1))],
    "is_nan": [lambda x, f: f(x)],
    "l2_loss": [lambda x, f: f(x)],
    "l2_normalize": [lambda x, f: f(x, axis=-1), lambda x, f: f(x)],
    "leaky_relu": [lambda x, f: f(x - 1), lambda x, f: f(x - 1, alpha=0.3)],
    "log_softmax": [lambda x, f: f(x), lambda x, f: f(x, axis=0)],
    "logical_and": [lambda x, f: f(x > 1, x < 2)],
    "logical_not": [lambda x, f: f(x > 1)],
    "logical_or": [lambda x, f: f(x > 1, x < 2)],
    "logical_xor": [lambda x, f: f(x > 1, x < 2)],
    "matrix_transpose": [lambda x, f: f(x)],
    "matvec": [lambda x, f: f(x, np.ones(4, "float32"))],
    "matmul": [
        lambda x, f: f(x, x, transpose_b=True),
        lambda x, f: f(x, x, transpose_a=True),
        lambda x, f: f([x, x], [x, x], transpose_b=True),
    ],
    "minimum": [lambda x, f: f(x, 1.0)],
    "mod": [lambda x, f: f(x, 0.3)],
    "meshgrid": [lambda x, f: f(x[0], x[:, 1])[0], lambda x, f: f(x[0], x[:, 1], indexing="ij")[1]],
    "moments": [lambda x, f: f(x, axes=[1])[1], lambda x, f: f(x, [0, 1], keepdims=True)[0]],
    "norm": [
        lambda x, f: f(x),
        lambda x, f: f(x, axis=1, keepdims=True),
        lambda x, f: f(x, 1, -1),
        lambda x, f: f(x, ord=float("inf"), axis=-1),
        lambda x, f: f(x, axis=[0, 1]),
    ],
    "normalize": [lambda x, f: f(x, axis=-1)[0], lambda x, f: f(x, ord=1, axis=0)[1]],
    "one_hot": [lambda x, f: f(tf.cast(x, "int32"), 3), lambda x, f: f(tf.cast(x, "int32"), depth=3, axis=1)],
    "ones_like": [lambda x, f: f(x), lambda x, f: f(x, tf.int32)],
    "pad": [lambda x, f: f(x, [[0, 1], [2, 0]], constant_values=3), lambda x, f: f(x, [[0, 1], [1, 1]], "REFLECT")],
    "pow": [lambda x, f: f(x, 2.0)],
    "realdiv": [lambda x, f: f(x, 3.0)],
    "reciprocal_no_nan": [lambda x, f: f(tf.nn.relu(x - 1))],
    "reduce_euclidean_norm": [lambda x, f: f(x), lambda x, f: f(x, axis=1, keepdims=True)],
    "reduce_all": [lambda x, f: f(x > 1, axis=1)],
    "reduce_any": [lambda x, f: f(x > 1)],
    "repeat": [lambda x, f: f(x, 2, axis=1), lambda x, f: f(x, [1, 2, 0], axis=0)],
    "reshape": [lambda x, f: f(x, [2, -1]), lambda x, f: f(tensor=x, shape=tf.constant([6, 2]))],
    "rank": [lambda x, f: x * tf.cast(f(x), "float32")],
    "image.crop_to_bounding_box": [lambda x, f: f(tf.reshape(x, (1, 3, 4, 1)), 1, 0, 2, 3)],
    "image.extract_patches": [
        lambda x, f: f(tf.reshape(x, (1, 3, 4, 1)), [1, 2, 2, 1], [1, 1, 2, 1], [1, 1, 1, 1], "SAME"),
        lambda x, f: f(
            images=tf.reshape(x, (1, 3, 2, 2)), sizes=[1, 2, 1, 1], strides=[1] * 4, rates=[1, 2, 1, 1], padding="VALID"
        ),
    ],
    **{
        f"image.{name}": [lambda x, f: f(tf.reshape(x, (1, 3, 4, 1))), lambda x, f: f(tf.reshape(x, (2, 2, 3)))]
        for name in ("flip_left_right", "flip_up_down", "per_image_standardization", "transpose")
    },
    "image.grayscale_to_rgb": [lambda x, f: f(tf.reshape(x, (1, 3, 4, 1)))],
    "image.rgb_to_grayscale": [lambda x, f: f(tf.reshape(x, (2, 2, 3)))],
    "image.resize": [
        lambda x, f: f(tf.reshape(x, (1, 3, 4, 1)), (6, 2)),
        lambda x, f: f(tf.reshape(x, (1, 3, 4, 1)), [6, 8], method="nearest"),
        lambda x, f: f(tf.reshape(x, (1, 3, 4, 1)), (2, 2), "bilinear", antialias=True),
    ],
    "compat.v1.image.resize": [
        lambda x, f: f(tf.reshape(x, (1, 3, 4, 1)), (6, 2), align_corners=True),
        lambda x, f: f(tf.reshape(x, (1, 3, 4, 1)), [1, 8], "bilinear", align_corners=True),
    ],
    "reverse": [lambda x, f: f(x, axis=[0, 1])],
    "rint": [lambda x, f: f(x)],
    "roll": [lambda x, f: f(x, 1, 1), lambda x, f: f(x, [1, 2], [0, 1])],
    "scalar_mul": [lambda x, f: f(0.5, x)],
    "separable_conv2d": [
        lambda x, f: f(
            tf.reshape(x, (1, 3, 4, 1)),
            np.ones((2, 2, 1, 2), "float32"),
            np.ones((1, 1, 2, 3), "float32"),
            [1, 2, 2, 1],
            "SAME",
        )
    ],
    "sequence_mask": [
        lambda x, f: f(tf.cast(x, "int32"), 3),
        lambda x, f: f(tf.cast(x, "int64"), maxlen=2, dtype=tf.float32),
    ],
    "shape": [
        lambda x, f: x * tf.cast(f(x)[1], "float32"),
        lambda x, f: tf.reshape(x, f(x)[::-1] // [2, 1] + [0, 3] - 1 + tf.constant([1, 1])),
        lambda x, f: tf.zeros([2, 2] + 2 * f(x)) + x[0, 0],
    ],
    "sigmoid_cross_entropy_with_logits": [lambda x, f: f(labels=x / 9, logits=x - 1)],
    "size": [lambda x, f: x * tf.cast(f(x), "float32"), lambda x, f: x * tf.cast(f([x, x]), "float32")],
    "slice": [lambda x, f: f(x, [1, 0], [2, 3]), lambda x, f: f(x, [0, 1], [-1, -1])],
    "solve": [lambda x, f: f(x[:, :3] + 9.0 * tf.eye(3), x)],
    "sort": [lambda x, f: f(x), lambda x, f: f(x, axis=0, direction="DESCENDING")],
    "softmax_cross_entropy_with_logits": [lambda x, f: f(x / 9, x), lambda x, f: f(labels=x, logits=x, axis=0)],
    "softmax": [lambda x, f: f(x), lambda x, f: f(x, axis=0)],
    "space_to_depth": [lambda x, f: f(tf.reshape(x, (1, 2, 2, 3)), 2)],
    "split": [lambda x, f: f(x, 2, axis=1)[1], lambda x, f: f(x, [1, -1, 1], 1)[1]],
    "squared_difference": [lambda x, f: f(x, 1.0)],
    "squeeze": [lambda x, f: f(tf.reshape(x, (1, 3, 4))), lambda x, f: f(tf.reshape(x, (1, 3, 1, 4)), axis=[0])],
    "stack": [lambda x, f: f([x, x], axis=1)],
    "swish": [lambda x, f: f(x), lambda x, f: f(x, beta=2.0)],
    "tensordot": [
        lambda x, f: f(x, x, [[1], [1]]),
        lambda x, f: f(x, tf.transpose(x), axes=(-1, 0)),
        lambda x, f: f(x, x, 0),
        lambda x, f: f(x, x, [1, 1]),
    ],
    "tile": [lambda x, f: f(x, [2, 1])],
    "top_k": [lambda x, f: f(x, 2)[0], lambda x, f: f(x, k=3).indices],
    "trace": [lambda x, f: f(x[:, :3])],
    "transpose": [lambda x, f: f(x), lambda x, f: f(tf.reshape(x, (1, 3, 4)), perm=[0, 2, 1])],
    "truediv": [lambda x, f: f(x, 3.0)],
    "unsorted_segment_sum": [
        lambda x, f: f(x, np.array([1, 0, 1]), 2),
        lambda x, f: f(x, segment_ids=tf.constant([2, 2, 0]), num_segments=4),
    ],
    "unstack": [lambda x, f: f(x, axis=1)[2]],
    "where": [lambda x, f: f(x > 1, x, 0.0)],
    "zeros_like": [lambda x, f: f(x)],
    "eye": [lambda x, f: x[:, :3] + f(3)],
    "fill": [lambda x, f: x + f([3, 1], 2.0)],
    "ones": [lambda x, f: x + f((3, 4))],
    "range": [lambda x, f: x + tf.cast(f(4), "float32"), lambda x, f: x[:, :2] + f(1.0, 5.0, delta=2.0)],
    "zeros": [lambda x, f: x + f([1, 4])],
}


def test_equality_is_one_of_numbers():
    class Padding(L.Layer):
        def call(self, x):
            y = ops.cast(x == 0, "float32") + ops.cast(x != 0, "float32") * 2.0
            return y * ops.cast(x, "float32") + y

        def compute_output_shape(self, shape):
            return shape

    inputs = keras.Input((4,), dtype="int32")
    model = randomize(keras.Model(inputs, L.Dense(3)(L.Dense(6, activation="relu")(Padding()(inputs)))))
    assert kr.analyze(model).opaque == {}
    small, x = kr.strip(model), np.random.default_rng(0).integers(0, 3, (5, 4))
    assert difference(model(x), small(x)) < 1e-6


def all_of_a_name(name):
    """Return what TensorFlow has of a name, each function once."""
    module, _, name = name.rpartition(".")
    modules = [operator.attrgetter(module)(tf)] if module else (tf, tf.math, tf.nn, tf.linalg)
    found = [getattr(each, name, None) for each in modules]
    return list({id(each): each for each in found if callable(each)}.values())


@pytest.mark.parametrize("name", sorted({*FUNCTIONS, *OF_SIZES} - {"conv2d_transpose"}))
def test_what_stands_for_a_function_computes_the_same(name):
    values = np.random.default_rng(0).uniform(0.2, 2.5, (3, 4)).astype("float32")
    for call in CALLS[name]:
        for function in all_of_a_name(name):
            expected = call(tf.constant(values), function)
            x = keras.Input(batch_shape=(3, 4))
            with tensorflow_as_operations():
                here = next(each for each in all_of_a_name(name) if each.__wrapped__ is function)
                y = call(x, here)
            found = keras.Function(x, y)(values)
            assert found.dtype == expected.dtype
            assert found.shape == expected.shape
            assert difference(expected, found) < 1e-6


def test_functions_that_code_has_kept_are_traced_too():
    class Kept(L.Layer):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.first, self.inner = tf.identity, [L.Dense(8), L.Dense(6)]
            self.functions = {
                "activation": tf.nn.relu,
                "mean": tf.reduce_mean,
                "products": (tf.matmul, tf.math.softplus),
            }

        def call(self, x):
            y = self.functions["activation"](self.inner[1](self.first(self.inner[0](x))))
            product, softplus = self.functions["products"]
            y = product(softplus(y), y, transpose_b=True)
            return self.functions["mean"](y, axis=1)

    inputs = keras.Input((5, 4))
    model = randomize(keras.Model(inputs, L.Dense(3)(Kept()(inputs))))
    assert kr.analyze(model).opaque == {}
    assert len(kr.coupled_groups(model)) >= 8


def test_what_has_no_counterpart_is_named():
    class Spectrum(L.Layer):
        def call(self, x):
            return tf.math.real(tf.signal.fft(tf.cast(x, tf.complex64)))

    inputs = keras.Input((4,))
    model = keras.Model(inputs, L.Dense(3)(Spectrum(name="spectrum")(inputs)))
    [why] = kr.analyze(model).opaque.values()
    assert "it calls `tf.signal.fft`, which takes no symbolic tensors; `keras.ops` does" in why


def test_what_is_none_of_its_functions_is_not_named():
    class Written(L.Layer):
        def call(self, x):
            return tf.TensorArray("float32", 1).write(0, x).stack()[0]

    inputs = keras.Input((4,))
    model = keras.Model(inputs, L.Dense(3)(Written(name="written")(inputs)))
    [why] = kr.analyze(model).opaque.values()
    assert why.endswith("it calls a function of TensorFlow, which takes no symbolic tensors; `keras.ops` does")


def test_tensorflow_is_left_as_it_was():
    before = tf.matmul, tf.nn.softmax, tf.range
    with tensorflow_as_operations():
        assert tf.matmul is not before[0]
        np.testing.assert_array_equal(tf.range(3), [0, 1, 2])
    assert (tf.matmul, tf.nn.softmax, tf.range) == before


def causal(n):
    return 1 - tf.linalg.band_part(tf.ones((n, n)), -1, 0)


def window(n):
    width = tf.minimum(n, 90)
    return 1 - tf.linalg.band_part(tf.ones((n, n)), width, 3)


def identity(n):
    return tf.eye(n) + tf.cast(tf.range(n)[:, None] > tf.range(n), "float32")


class Attention(L.Layer):
    """Attention as TensorFlow's tutorial has it."""

    def __init__(self, mask, **arguments):
        super().__init__(**arguments)
        self.mask = mask
        self.query, self.key, self.value, self.out = (L.Dense(16, name=name) for name in ("q", "k", "v", "o"))

    def build(self, shape):
        for layer in (self.query, self.key, self.value, self.out):
            layer.build(shape)

    def compute_output_shape(self, shape):
        return shape

    def split_heads(self, x):
        return tf.transpose(tf.reshape(x, (tf.shape(x)[0], -1, 4, 4)), perm=[0, 2, 1, 3])

    def call(self, x):
        q, k, v = (self.split_heads(layer(x)) for layer in (self.query, self.key, self.value))
        scores = tf.matmul(q, k, transpose_b=True) / tf.math.sqrt(tf.cast(tf.shape(k)[-1], tf.float32))
        scores += self.mask(tf.shape(x)[1]) * -1e9
        y = tf.transpose(tf.matmul(tf.nn.softmax(scores, axis=-1), v), perm=[0, 2, 1, 3])
        return x + self.out(tf.reshape(y, (tf.shape(x)[0], -1, 16)))


class Units(L.Layer):
    """A normalization and units, with weights of its own."""

    def build(self, shape):
        names = {"up": (16, 24), "bias": (24,), "down": (24, 16), "scale": (16,)}
        for name, size in names.items():
            setattr(self, name, self.add_weight(shape=size, name=name))

    def compute_output_shape(self, shape):
        return shape

    def call(self, x):
        mean, variance = tf.nn.moments(x, axes=[-1], keepdims=True)
        y = (x - mean) * tf.math.rsqrt(variance + 1e-6) * self.scale
        y = tf.nn.gelu(tf.matmul(y, self.up) + self.bias)
        return tf.add(x, tf.tensordot(y, self.down, axes=[[2], [0]]))


@pytest.mark.parametrize("size", [None, 10])
@pytest.mark.parametrize("mask", [causal, window, identity])
def test_blocks_of_tensorflow_are_cut(size, mask):
    inputs = keras.Input((size, 16))
    x = Units(name="units")(Attention(mask, name="attention")(L.Dense(16)(inputs)))
    x = L.Lambda(lambda x: tf.reduce_max(x, axis=1), output_shape=(16,))(x)
    model = randomize(keras.Model(inputs, L.Dense(3)(x)))
    assert kr.analyze(model).opaque == {}
    groups = kr.coupled_groups(model)
    assert len(groups) >= 4 + 24
    for weight in model.weights:
        path = groups.path_among((weight.path, weight.path.removeprefix(f"{model.name}/")))
        if path is not None:
            ids = groups.members[path]
            weight.assign(np.where((ids >= 0) & (ids % 2 == 1), 0.0, ops.convert_to_numpy(weight)))
    small = kr.strip(model)
    assert small.count_params() < 0.65 * model.count_params()
    for n in (10,) if size else (10, 131):
        data = np.random.default_rng(0).normal(size=(2, n, 16)).astype("float32")
        assert difference(model(data), small(data)) < 1e-5


class Patches(L.Layer):
    """Patches as tutorials of vision transformers have them, compiled, and an image again."""

    def build(self, shape):
        self.w = self.add_weight(shape=(3, 3, 4, 12), name="w")

    @tf.function
    def patches(self, images):
        sides, strides, rates = [1, 2, 2, 1], [1, 2, 2, 1], [1, 1, 1, 1]
        x = tf.image.extract_patches(images=images, sizes=sides, strides=strides, rates=rates, padding="VALID")
        return tf.reshape(x, [tf.shape(images)[0], -1, x.shape[-1]])

    def call(self, images):
        x = tf.maximum(self.patches(images), images.dtype.min)
        x = tf.reshape(x, [-1, 4, 4, 12])
        x = tf.image.resize(x, tf.shape(x)[1:3] * 2, method="nearest")
        return tf.nn.conv2d_transpose(x, self.w, [tf.shape(x)[0], 16, 16, 4], 2)


def test_patches_of_tensorflow_are_cut():
    inputs = keras.Input((8, 8, 2))
    x = Patches(name="patches")(L.Conv2D(3, 3, padding="same", name="before")(inputs))
    model = randomize(keras.Model(inputs, L.Dense(2)(x)))
    assert kr.analyze(model).opaque == {}
    assert len(kr.coupled_groups(model)) == 3 + 4
    zero(model, "before", -1, [1])
    zero(model, "before", -1, [1], "bias")
    small, x = kr.strip(model), np.random.default_rng(0).normal(size=(2, 8, 8, 2)).astype("float32")
    assert small.get_layer("before").filters == 2
    assert difference(model(x), small(x)) < 1e-5


class Shaped(L.Layer):
    """Units with shapes as TensorFlow gives them."""

    def build(self, shape):
        self.up, self.down = (self.add_weight(shape=size, name=str(size[0])) for size in ((6, 12), (12, 6)))

    def call(self, x):
        *sizes, width = x.shape.as_list()
        assert x.shape.rank == x.get_shape().ndims == len(sizes) + 1 == 3
        y = tf.matmul(tf.nn.relu(tf.matmul(x, self.up)), self.down)
        y = tf.reshape(y, [-1, tf.shape(x)[1], width])
        y.set_shape([None, None if sizes[1] is None else sizes[1], width])
        return x + y if not x.shape.is_fully_defined() else y


@pytest.mark.parametrize("size", [None, 4])
def test_code_may_ask_symbolic_tensors_for_shapes_as_those_of_tensorflow(size):
    inputs = keras.Input((size, 6))
    model = randomize(keras.Model(inputs, Shaped()(inputs)))
    assert kr.analyze(model).opaque == {}
    assert len(kr.coupled_groups(model)) == 12
    assert not hasattr(keras.KerasTensor, "set_shape")
    assert type(inputs.shape) is tuple


def test_a_function_that_keeps_the_first_numbers_of_its_weights_is_named():
    class Lazy(L.Layer):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.inner = L.Dense(4)

        @tf.function(input_signature=[tf.TensorSpec([None, 6], "float32")])
        def call(self, x):
            return self.inner(x)

    inputs = keras.Input((5,))
    model = keras.Model(inputs, L.Dense(2)(Lazy(name="lazy")(L.Dense(6)(inputs))))
    for weight in model.weights:
        weight.assign(np.random.default_rng(0).normal(size=weight.shape))
    before = [np.array(w) for w in model.get_weights()]
    with pytest.raises(kr.VerificationError, match=r"'lazy'.*whatever its weights are: a `tf.function` in it"):
        kr.strip(model)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
