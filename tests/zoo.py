"""Models with channels zeroed in known places, and how many stay; shared by the tests of the converter."""

import operator

import keras
import numpy as np
from backend import hidden
from keras import layers as L
from keras import ops


def randomize(model, seed=0):
    """Give every weight a random value, so that nothing is zero or one by initialization."""
    random = np.random.default_rng(seed)
    for weight in model.weights:
        value = random.normal(scale=0.3, size=weight.shape)
        weight.assign(np.abs(value) + 0.5 if "variance" in weight.path else value)
    return model


def layer_at(model, name):
    """Return a layer; "inner/conv" is the layer "conv" of the model "inner"."""
    for part in name.split("/"):
        inside = getattr(model, "layers", None) or [x for x in vars(model).values() if isinstance(x, L.Layer)]
        [model] = [layer for layer in inside if layer.name == part]
    return model


def width(model, name):
    """Return the number of output channels of a layer."""
    layer = layer_at(model, name)
    plain = isinstance(layer, (L.Dense, L.Conv1D, L.Conv2D, L.Conv3D))
    return (layer.kernel if plain else layer.output).shape[-1]


def zero(model, name, axis, indices, attribute="kernel", value=0.0):
    """Set slices of a weight along an axis."""
    weight = operator.attrgetter(attribute)(layer_at(model, name))
    array = np.array(keras.ops.convert_to_numpy(weight))
    array[(slice(None),) * (axis % array.ndim) + (list(indices),)] = value
    weight.assign(array)


def zero_recurrence(model, name, unit, keep=(), attribute="cell"):
    """Let only the units `keep` of a recurrent layer read a unit."""
    weight = operator.attrgetter(f"{attribute}.recurrent_kernel")(layer_at(model, name))
    array = np.array(keras.ops.convert_to_numpy(weight))
    gates = array.reshape(len(array), -1, len(array))
    gates[unit][:, [k for k in range(len(array)) if k not in keep]] = 0
    weight.assign(array)


def block(x, filters, name, padding="same", activation="relu", convolution=L.Conv2D, **arguments):
    x = convolution(filters, 3, padding=padding, use_bias=False, name=name, **arguments)(x)
    x = L.BatchNormalization(name=f"{name}_norm")(x)
    return L.Activation(activation, name=f"{name}_{activation}")(x)


def chain():
    """Unread channels of a plain network: dropout, pooling, flatten, dense."""
    x = inputs = keras.Input((12, 12, 3))
    x = L.MaxPooling2D()(block(x, 8, "a"))
    x = L.Dropout(0.5)(block(x, 10, "b"))
    x = L.Dense(6, activation="gelu", name="c")(L.Flatten()(L.AveragePooling2D(2)(x)))
    model = randomize(keras.Model(inputs, L.Dense(4, name="d")(x)))
    zero(model, "b", -2, [0, 3, 5])
    zero(model, "c", 0, [p * 10 + k for p in range(9) for k in (1, 2, 8, 9)])
    zero(model, "d", 0, [5])
    return model, {"a": 5, "b": 6, "c": 5, "d": 4}


def flatten_needs_every_position():
    """One position of a channel that is read keeps the channel."""
    x = inputs = keras.Input((8, 8, 3))
    model = randomize(keras.Model(inputs, L.Dense(4, name="d")(L.Flatten()(block(x, 5, "a")))))
    zero(model, "d", 0, [p * 5 + 1 for p in range(64)] + [p * 5 + 2 for p in range(63)])
    return model, {"a": 4, "d": 4}


def residual():
    """A channel of a residual sum goes only if all its readers ignore it."""
    x = inputs = keras.Input((8, 8, 3))
    x = block(x, 8, "stem")
    x = L.Add()([x, block(block(x, 6, "b1"), 8, "b2")])
    x = L.Add()([x, block(block(x, 6, "c1"), 8, "c2")])
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(L.GlobalAveragePooling2D()(x))))
    for name, indices in {"b1": [0, 1, 2], "c1": [0, 1, 3], "d": [0, 1, 4]}.items():
        zero(model, name, -2, indices)
    zero(model, "c2", -2, [5])
    return model, {"stem": 6, "b1": 6, "b2": 6, "c1": 5, "c2": 6, "d": 3}


def residual_that_only_feeds_itself():
    """A stream channel that is read only to compute itself is not needed by any output."""
    x = inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 1, name="stem")(x)
    x = L.Add()([x, L.Conv2D(4, 1, name="loop", activation="relu")(x)])
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(L.GlobalMaxPooling2D()(x))))
    zero(model, "d", 0, [2])
    loop = np.array(keras.ops.convert_to_numpy(model.get_layer("loop").kernel))
    loop[..., 2, [0, 1, 3]] = 0
    model.get_layer("loop").kernel.assign(loop)
    return model, {"stem": 3, "loop": 3, "d": 3}


def concatenation():
    """Each branch loses its own channels."""
    x = inputs = keras.Input((8, 8, 3))
    x = L.Concatenate()([block(x, 4, "a"), block(x, 6, "b"), x])
    model = randomize(keras.Model(inputs, L.Conv2D(5, 3, name="c")(x)))
    zero(model, "c", -2, [0, 3, 4, 5, 6, 10])
    return model, {"a": 2, "b": 3, "c": 5}


def constants_fold():
    """A zero filter behind batch normalization is a constant; Dense and 1x1 readers absorb it."""
    x = inputs = keras.Input((8, 8, 3))
    x = block(x, 6, "a")
    x = L.Conv2D(5, 1, activation="relu", name="b")(x)
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(L.GlobalAveragePooling2D()(x))))
    zero(model, "a", -1, [0, 1])
    zero(model, "a_norm", 0, [2], "gamma")
    zero(model, "a_norm", 0, [0, 2], "beta", 2.0)
    zero(model, "b", -1, [4])
    return model, {"a": 3, "b": 4, "d": 3}


def constants_at_a_border():
    """Near same padding a nonzero constant is none: kept; a zero one goes; behind valid padding both go."""
    x = inputs = keras.Input((8, 8, 3))
    a, b = block(x, 4, "a"), block(x, 4, "b")
    y = L.Add()([L.Conv2D(5, 3, padding="same", name="same")(a), L.ZeroPadding2D()(L.Conv2D(5, 3, name="valid")(b))])
    model = randomize(keras.Model(inputs, y))
    for name in ("a", "b"):
        zero(model, name, -1, [0, 1])
        zero(model, f"{name}_norm", 0, [0], "moving_mean", -5.0)
        zero(model, f"{name}_norm", 0, [0], "gamma", 1.0)
        zero(model, f"{name}_norm", 0, [1], "moving_mean", 5.0)
        zero(model, f"{name}_norm", 0, [1], "gamma", 1.0)
    return model, {"a": 3, "b": 2, "same": 5, "valid": 5}


def constants_through_zero_padding():
    """A border of zeros leaves a zero constant what it is and ends any other."""
    x = inputs = keras.Input((8, 8, 3))
    x = L.ZeroPadding2D(((1, 0), (0, 2)))(block(x, 5, "a"))
    model = randomize(keras.Model(inputs, L.Conv2D(3, 3, name="b")(x)))
    zero(model, "a", -1, [0, 1])
    zero(model, "a_norm", 0, [0, 1], "moving_mean", 0.0)
    zero(model, "a_norm", 0, [0], "beta", 2.0)
    zero(model, "a_norm", 0, [1], "beta", -2.0)
    zero(model, "b", -2, [4])
    return model, {"a": 3, "b": 3}


def no_bias_for_a_constant():
    """A reader without bias cannot absorb a constant; the channel stays."""
    x = inputs = keras.Input((6,))
    x = L.Dense(4, activation="relu", name="a")(x)
    model = randomize(keras.Model(inputs, L.Dense(3, use_bias=False, name="d")(x)))
    zero(model, "a", -1, [0, 1])
    zero(model, "a", 0, [0], "bias", 2.0)
    zero(model, "a", 0, [1], "bias", -2.0)
    return model, {"a": 3, "d": 3}


def dead_branch():
    """A branch that nobody reads keeps one channel everywhere and changes nothing."""
    x = inputs = keras.Input((6,))
    dead = L.Dense(5, activation="relu", name="dead2")(L.Dense(7, activation="relu", name="dead1")(x))
    x = L.Concatenate()([L.Dense(4, activation="relu", name="live")(x), dead])
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(x)))
    zero(model, "d", 0, range(4, 9))
    return model, {"dead1": 1, "dead2": 1, "live": 4, "d": 3}


def dead_constants():
    """Nothing is read from the input: the whole model is a constant, carried by layers of one channel."""
    x = inputs = keras.Input((6,))
    x = L.Dense(5, activation="sigmoid", name="a", use_bias=False)(x)
    x = L.Dense(4, activation="sigmoid", name="b", use_bias=False)(x)
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(x)))
    zero(model, "a", 0, range(6))
    return model, {"a": 1, "b": 1, "d": 3}


def softmax_in_the_middle():
    """Channels that a softmax mixes stay; behind it they can be ignored but not removed."""
    x = inputs = keras.Input((6,))
    x = L.Dense(5, activation="softmax", name="a")(x)
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(x)))
    zero(model, "d", 0, [0, 1])
    return model, {"a": 5, "d": 3}


def shared_layer():
    """A layer that is called twice has one set of channels."""
    a, b = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    tower = L.Dense(8, activation="relu", name="tower")
    head = L.Dense(3, name="head")
    model = randomize(keras.Model([a, b], [head(tower(a)), L.Dense(2, name="other")(tower(b))]))
    zero(model, "head", 0, [0, 1, 2])
    zero(model, "other", 0, [1, 2, 3])
    return model, {"tower": 6, "head": 3, "other": 2}


def shared_layer_of_rows():
    """A layer that is called on vectors and on rows of other channels, which are tied through it."""
    a, b = keras.Input((5,), name="one"), keras.Input((1, 5), name="rows")
    shared = L.Dense(7, name="shared")
    x = shared(L.Dense(6, activation="relu", name="tower")(a))
    y = shared(L.Concatenate(axis=1)([L.Dense(6, name="first")(b), L.Dense(6, name="second")(b)]))
    y = L.Dense(4, name="late")(L.GlobalAveragePooling1D()(y))
    model = randomize(keras.Model([a, b], [L.Dense(2, name="head")(x), y]))
    zero(model, "head", 0, [0, 1, 2])
    zero(model, "shared", 0, [0, 5])
    zero(model, "late", 0, [0, 1])
    return model, {"tower": 4, "first": 4, "second": 4, "shared": 5, "head": 2, "late": 4}


def shared_layer_that_is_opaque_once():
    """A layer that cannot be cut at one of its calls is cut at none: here one call shows its heads."""
    inputs = keras.Input((5, 6))
    attention = L.MultiHeadAttention(2, 3, name="attention")
    a, b = L.Dense(6, name="a")(inputs), L.Dense(6, name="b")(inputs)
    x, scores = attention(a, a, return_attention_scores=True)
    y = attention(b, b)
    model = randomize(keras.Model(inputs, [L.Dense(2, name="head")(x), L.Dense(2, name="tail")(y), scores]))
    for name in ("head", "tail"):
        zero(model, name, 0, [0, 1])
    return model, {"a": 6, "b": 6, "head": 2, "tail": 2}


def channels_first_axis():
    """Batch normalization and concatenation along the first axis."""
    x = inputs = keras.Input((5, 6))
    x = L.BatchNormalization(axis=1, name="norm")(L.Dense(7, name="a")(x))
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(L.Flatten()(x))))
    zero(model, "d", 0, [p * 7 + 2 for p in range(5)])
    return model, {"a": 7, "d": 3}


def one_dimension():
    """Conv1D with dilation and stride, global pooling."""
    x = inputs = keras.Input((30, 4))
    x = block(x, 6, "a", padding="causal", convolution=L.Conv1D, dilation_rate=2)
    x = block(x, 8, "b", padding="valid", convolution=L.Conv1D, strides=2, activation="tanh")
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(L.GlobalAveragePooling1D()(x))))
    zero(model, "b", -2, [0, 1])
    zero(model, "d", 0, [3])
    return model, {"a": 4, "b": 7, "d": 3}


def three_dimensions():
    """Conv3D, pooling."""
    x = inputs = keras.Input((6, 6, 6, 2))
    x = L.MaxPooling3D()(block(x, 4, "a", convolution=L.Conv3D))
    model = randomize(keras.Model(inputs, L.Conv3D(3, 2, name="b")(x)))
    zero(model, "b", -2, [0])
    return model, {"a": 3, "b": 3}


def unknown_layers():
    """A function that cannot be traced, an unknown layer, a model with a call of its own stay, and what they touch."""
    x = inputs = keras.Input((8, 8, 3))
    x = L.Lambda(same, name="unknown")(block(x, 6, "a"))
    x = L.Conv2D(5, 1, name="b")(x)
    x = L.Conv2D(4, 1, name="c")(x)
    x = Hidden(4, 1, name="wrapped")(x)
    model = randomize(keras.Model(inputs, Inner(name="inner")(x)))
    zero(model, "b", -2, [0])
    zero(model, "c", -2, [1])
    return model, {"a": 6, "b": 4, "c": 4}


@keras.saving.register_keras_serializable(package="tests")
def same(x):
    return ops.flip(ops.flip(hidden(x), -1), -1)


@keras.saving.register_keras_serializable(package="tests")
class Hidden(L.Conv2D):
    """A convolution that does not take symbolic tensors."""

    def call(self, x):
        return super().call(hidden(x))


@keras.saving.register_keras_serializable(package="tests")
class Inner(keras.Model):
    """A model with a weight that no layer has."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.last = L.Conv2D(3, 1)
        self.shift = self.add_weight(shape=(3,), name="shift")

    def call(self, x):
        return self.last(hidden(x)) + self.shift


def open_axes():
    """A fully convolutional network for images of any size."""
    x = inputs = keras.Input((None, None, 3))
    x = L.Concatenate()([block(x, 4, "a"), block(x, 4, "b")])
    model = randomize(keras.Model(inputs, L.Conv2D(2, 1, name="c")(x)))
    zero(model, "c", -2, [0, 1, 5])
    return model, {"a": 2, "b": 3, "c": 2}


def sequential():
    """A Sequential model."""
    layers = [keras.Input((6,), name="features"), L.Dense(8, "relu", name="a"), L.Dense(3, name="b")]
    model = randomize(keras.Sequential(layers, name="plain"))
    zero(model, "b", 0, [0, 7])
    return model, {"a": 6, "b": 3}


def dictionaries():
    """Inputs and outputs in dictionaries."""
    inputs = {"image": keras.Input((6,), name="image"), "meta": keras.Input((2,), name="meta")}
    x = L.Concatenate()([L.Dense(8, "relu", name="a")(inputs["image"]), inputs["meta"]])
    model = randomize(keras.Model(inputs, {"x": L.Dense(3, name="d")(x), "y": L.Dense(1, name="e")(x)}))
    zero(model, "d", 0, [0, 1])
    zero(model, "e", 0, [1, 2])
    return model, {"a": 7, "d": 3, "e": 1}


def depthwise():
    """Multiplier 1: a channel goes with its input; multiplier 3: channels 3k to 3k + 2 read channel k, equally many
    stay of each."""
    x = inputs = keras.Input((8, 8, 3))
    x = L.DepthwiseConv2D(3, padding="same", name="one")(block(x, 6, "a"))
    x = L.DepthwiseConv2D(3, depth_multiplier=3, name="three")(L.Conv2D(4, 1, name="b")(x))
    model = randomize(keras.Model(inputs, L.Dense(2, name="d")(L.GlobalAveragePooling2D()(x))))
    zero(model, "b", -2, [0, 1])
    zero(model, "one", -2, [5])
    zero(model, "d", 0, [0, 1, 2, 4, 6, 7, 9])
    return model, {"a": 3, "one": 3, "b": 3, "three": 6, "d": 2}


def groups():
    """Of four groups of two inputs and three outputs, an unread and an unwritten one go; equally many stay in each."""
    x = inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(12, 3, groups=4, activation="relu", name="g")(L.Conv2D(8, 1, name="a")(x))
    model = randomize(keras.Model(inputs, L.Conv2D(5, 1, name="b")(x)))
    zero(model, "b", -2, [0, 1, 2, 6, 9, 10])
    zero(model, "g", -1, [3, 4, 5])
    kernel = np.array(keras.ops.convert_to_numpy(model.get_layer("g").kernel))
    kernel[:, :, 1, 6:9] = kernel[:, :, 0, 9:12] = 0
    model.get_layer("g").kernel.assign(kernel)
    return model, {"a": 2, "g": 4, "b": 5}


def resnext():
    """A grouped bottleneck: group 1 is unread, group 3 a constant that the normalization behind its reader takes."""
    x = inputs = keras.Input((8, 8, 3))
    x = y = block(x, 8, "stem")
    y = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 1, use_bias=False, name="reduce")(y)))
    y = block(y, 8, "grouped", groups=4)
    x = L.ReLU()(L.Add()([x, L.BatchNormalization()(L.Conv2D(8, 1, use_bias=False, name="expand")(y))]))
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(L.GlobalAveragePooling2D()(x))))
    zero(model, "expand", -2, [2, 3])
    zero(model, "grouped", -1, [6, 7])
    zero(model, "reduce", -2, [0])
    zero(model, "d", 0, [0, 1])
    return model, {"stem": 7, "reduce": 4, "grouped": 4, "expand": 7, "d": 3}


def separable():
    """An input goes if both of its channels between the kernels are unread, or its depthwise filters are zero."""
    x = inputs = keras.Input((8, 8, 3))
    x = L.SeparableConv2D(5, 3, depth_multiplier=2, name="s")(block(x, 6, "a"))
    model = randomize(keras.Model(inputs, L.Conv2D(4, 1, name="b")(x)))
    zero(model, "s", -2, [0, 1, 2], "pointwise_kernel")
    zero(model, "s", -2, [3], "depthwise_kernel")
    zero(model, "b", -2, [4])
    return model, {"a": 4, "s": 4, "b": 4}


def transposed():
    """A transposed convolution takes no constants but zero, and makes some."""
    x = inputs = keras.Input((6, 6, 3))
    x = L.Conv2DTranspose(5, 3, strides=2, padding="same", activation="relu", name="up")(block(x, 6, "a"))
    model = randomize(keras.Model(inputs, L.Conv2D(4, 1, name="b")(x)))
    zero(model, "up", -1, [0, 1])
    zero(model, "a_norm", 0, [2, 3], "gamma")
    zero(model, "a_norm", 0, [2], "beta", 2.0)
    zero(model, "a_norm", 0, [3], "beta", -2.0)
    zero(model, "b", -2, [3])
    zero(model, "up", -2, [4])
    return model, {"a": 3, "up": 3, "b": 4}


def squeeze_and_excite():
    """A channel goes if neither the squeeze nor the reader of the product wants it, or if it is zero."""
    x = inputs = keras.Input((8, 8, 3))
    x = block(x, 8, "a")
    y = L.Reshape((1, 1, 8))(L.GlobalAveragePooling2D()(x))
    y = L.Conv2D(4, 1, activation="relu", name="squeeze")(y)
    y = L.Conv2D(8, 1, activation="sigmoid", name="excite")(y)
    model = randomize(keras.Model(inputs, L.Conv2D(5, 1, name="b")(L.Multiply()([x, y]))))
    zero(model, "b", -2, [0, 1])
    zero(model, "squeeze", -2, [0])
    zero(model, "excite", -2, [1])
    zero(model, "a_norm", 0, [2], "gamma")
    zero(model, "a_norm", 0, [2], "beta")
    return model, {"a": 6, "squeeze": 3, "excite": 6, "b": 5}


def raw_operations():
    """Operations that are no layers; a constant that is not zero ends at a border of zeros."""
    x = inputs = keras.Input((8, 8, 3))
    y = ops.relu(L.Conv2D(6, 3, name="a")(x) + L.Conv2D(6, 3, name="b")(x))
    y = ops.concatenate([y, 2 * L.Conv2D(4, 3, name="c")(x)], axis=-1)
    y = ops.pad(y, [(0, 0), (1, 1), (1, 1), (0, 0)])
    y = ops.mean(L.Conv2D(5, 3, activation="relu", name="e")(y), axis=(1, 2))
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(y)))
    zero(model, "e", -2, [0, 7, 8])
    for name, channels in {"a": [1, 2], "b": [2], "c": [0]}.items():
        zero(model, name, -1, channels)
    for name in ("a", "b"):
        zero(model, name, 0, [2], "bias")
    zero(model, "d", 0, [4])
    return model, {"a": 4, "b": 4, "c": 2, "e": 4, "d": 3}


class Residual(L.Layer):
    """A block as users write them: a layer that consists of layers."""

    def __init__(self, filters, **arguments):
        super().__init__(**arguments)
        self.first = L.Conv2D(2 * filters, 3, padding="same", name="first")
        self.norm = L.BatchNormalization(name="norm")
        self.drop = L.Dropout(0.5, name="drop")
        self.second = L.Conv2D(filters, 1, name="second")

    def call(self, x, training=None):
        y = ops.relu(self.norm(self.first(x), training=training))
        return x + self.second(self.drop(y, training=training))


class Join(keras.Model):
    """Two blocks and another tensor, in a model of its own."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.one, self.two = Residual(6, name="one"), Residual(6, name="two")
        self.last = L.Dense(5, name="last")

    def call(self, x, other, scale=1.0):
        return {"y": self.last(ops.concatenate([self.two(self.one(x)), other], axis=-1)) * scale}


def blocks_of_layers():
    """Layers and models written as code, within each other, with several tensors and a number as arguments."""
    x, other = inputs = [keras.Input((8, 8, 3)), keras.Input((8, 8, 4))]
    x = L.Conv2D(6, 3, padding="same", name="a")(x)
    other = L.Conv2D(7, 3, padding="same", name="b")(other)
    y = Join(name="join")(x, other=other, scale=0.5)["y"]
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(y)))
    zero(model, "join/one/second", -2, [0, 3])
    zero(model, "join/two/second", -2, [5])
    zero(model, "join/two/first", -2, [1])
    zero(model, "join/one/first", -2, [1])
    zero(model, "join/last", 0, [1, 6, 7])
    zero(model, "d", 0, [4])
    kept = {"a": 5, "b": 5, "join/one/first": 10, "join/one/second": 5, "join/two/first": 11, "join/two/second": 5}
    return model, kept | {"join/last": 4, "d": 3}


def raw_positions():
    """Operations that take, sum, stack and reorder positions, and compare and select numbers."""
    x = inputs = keras.Input((6, 5))
    x = L.Dense(8, name="a")(x)
    y = L.Dense(8, name="b")(ops.flip(x, axis=1)[:, 1:5])
    y = ops.where(y > 0.1, y, ops.zeros_like(y)) * ops.ones_like(L.Dense(8, name="unread")(y))
    y = ops.concatenate([y[:, None, 0], x[:, -1:], ops.stack([y[:, 1], y[:, 2]], axis=1)], axis=1)
    y = ops.swapaxes(ops.sum(ops.moveaxis(y[..., None], 1, 3), axis=-1), 1, 2)[:, 0]
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(y)))
    zero(model, "d", 0, [1, 4])
    zero(model, "b", -2, [1])
    for attribute in ("kernel", "bias"):
        zero(model, "a", -1, [6], attribute)
        zero(model, "b", -1, [6], attribute)
    return model, {"a": 7, "b": 7, "unread": 7, "d": 3}


def masked_gate():
    """Where a position is masked, Keras multiplies by one: a zero channel does not make a product zero."""
    x = inputs = keras.Input((6,), dtype="int32")
    x = L.Embedding(2, 4, mask_zero=True, name="a")(x)
    gate = L.Dense(4, activation="sigmoid", name="gate")(L.GlobalMaxPooling1D(keepdims=True)(x))
    x = L.Conv1D(5, 2, name="b")(L.Multiply()([gate, x]))
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(x)))
    zero(model, "a", -1, [1], "embeddings")
    zero(model, "b", -2, [2])
    zero(model, "gate", -2, [2])
    return model, {"a": 3, "gate": 3, "b": 5, "d": 3}


def dense_into_image():
    """Channel 1 of the image is unread and 2 zero; 3 is zero at all positions but one and stays."""
    x = inputs = keras.Input((7,))
    x = L.Reshape((3, 3, 4))(L.Dense(36, activation="relu", name="a")(x))
    model = randomize(keras.Model(inputs, L.Conv2D(5, 2, name="b")(x)))
    zero(model, "b", -2, [1])
    for axis, attribute in ((-1, "kernel"), (0, "bias")):
        zero(model, "a", axis, [4 * p + 2 for p in range(9)] + [4 * p + 3 for p in range(8)], attribute)
    return model, {"a": 18, "b": 5}


def permuted():
    """Channels in front: flattened, each is a run of 16; and back again."""
    x = inputs = keras.Input((6, 6, 3))
    x = L.Permute((3, 1, 2))(L.Conv2D(5, 3, name="a")(x))
    y = L.Conv2D(4, 1, name="b")(L.Permute((2, 3, 1))(L.Activation("tanh")(x)))
    model = randomize(keras.Model(inputs, [L.Dense(3, name="d")(L.Flatten()(x)), y]))
    zero(model, "d", 0, range(16, 47))
    zero(model, "b", -2, [1, 2, 3])
    return model, {"a": 4, "b": 4, "d": 3}


def normalizations():
    """Layer normalization needs all it gets; groups of a group normalization go as a whole; a zero has no norm."""
    x = inputs = keras.Input((5,))
    x = L.LayerNormalization()(L.Dense(6, name="a")(x))
    x = L.GroupNormalization(4, name="grouped")(L.Dense(8, name="b")(x))
    x = L.UnitNormalization()(L.Dense(6, activation="relu", name="c")(x))
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(x)))
    zero(model, "b", 0, [0, 1])
    zero(model, "c", 0, [0, 1, 2])
    zero(model, "c", -1, [0, 1])
    zero(model, "c", 0, [0, 1], "bias")
    zero(model, "d", 0, [2])
    return model, {"a": 6, "b": 6, "c": 4, "d": 3}


def normalizations_of_all_numbers():
    """One mean for all numbers: channels go, of images and of what is flattened."""
    x = inputs = keras.Input((6, 6, 2))
    x = L.Normalization(axis=None, mean=0.3, variance=2.0)(L.Conv2D(6, 3, name="a")(x))
    x = L.Normalization(axis=None, mean=0.5, variance=4.0)(L.Flatten()(L.Conv2D(4, 3, name="b")(x)))
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(x)))
    zero(model, "b", 2, [0, 1])
    zero(model, "d", 0, [k for k in range(16) if k % 4 == 1])
    return model, {"a": 4, "b": 3, "d": 3}


def slopes():
    """PReLU: a negative constant stays one if its slope is the same everywhere."""
    x = inputs = keras.Input((8, 8, 3))
    x = L.PReLU(shared_axes=[1, 2])(L.Conv2D(6, 3, name="a")(x))
    x = L.PReLU()(L.Conv2D(5, 3, name="b")(x))
    x = L.PReLU(shared_axes=[1, 2, 3])(L.Conv2D(4, 1, name="c")(x))
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(L.GlobalAveragePooling2D()(x))))
    zero(model, "b", -2, [0])
    zero(model, "a", -1, [1])
    zero(model, "a", 0, [1], "bias", -2.0)
    zero(model, "c", -2, [2])
    zero(model, "b", -1, [3, 4])
    zero(model, "b", 0, [3], "bias")
    zero(model, "b", 0, [4], "bias", -2.0)
    zero(model, "d", 0, [1])
    return model, {"a": 4, "b": 3, "c": 3, "d": 3}


def recurrent():
    """A unit that nobody reads goes, and one that is read by such a unit only, or whose candidate is always zero."""
    x = inputs = keras.Input((5, 3))
    x = L.SimpleRNN(6, return_sequences=True, name="simple")(x)
    x = L.GRU(4, name="gru")(L.LSTM(5, return_sequences=True, name="lstm")(x))
    model = randomize(keras.Model(inputs, L.Dense(2, name="d")(x)))
    zero(model, "lstm", 0, [0, 1, 2], "cell.kernel")
    zero_recurrence(model, "simple", 0, keep=[0])
    zero_recurrence(model, "simple", 2, keep=[0, 2])
    zero(model, "gru", 0, [0, 3], "cell.kernel")
    zero_recurrence(model, "lstm", 0)
    zero(model, "d", 0, [1])
    zero_recurrence(model, "gru", 1)
    for name, candidate in {"lstm": 2 * 5 + 4, "gru": 2 * 4 + 2}.items():
        for attribute in ("kernel", "recurrent_kernel", "bias"):
            zero(model, name, -1, [candidate], f"cell.{attribute}")
    return model, {"simple": 4, "lstm": 3, "gru": 2, "d": 2}


def both_directions():
    """Two units of one direction and one of the other are not needed: both lose one."""
    x = inputs = keras.Input((5, 4))
    x = L.Bidirectional(L.LSTM(4, return_sequences=True), name="both")(x)
    x = L.TimeDistributed(L.Dense(6, activation="relu"), name="rows")(x)
    model = randomize(keras.Model(inputs, L.Dense(2, name="d")(L.GlobalAveragePooling1D()(x))))
    zero(model, "rows", 0, [0, 1, 5], "layer.kernel")
    zero_recurrence(model, "both", 0, attribute="forward_layer.cell")
    zero_recurrence(model, "both", 1, attribute="forward_layer.cell")
    zero_recurrence(model, "both", 1, attribute="backward_layer.cell")
    zero(model, "d", 0, [2])
    return model, {"both": 6, "rows": 5, "d": 2}


def attention():
    """Head 1 is not read; no head is asked at positions 1 and 2; position 0 of the values is not read."""
    x = inputs = keras.Input((5, 6))
    x = L.Dense(8, name="a")(x)
    x = L.MultiHeadAttention(3, 4, name="attention")(x, x)
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(x)))
    for part in ("query", "key", "value"):
        zero(model, "attention", 0, [0], f"{part}_dense.kernel")
    zero(model, "attention", 0, [1], "output_dense.kernel")
    zero(model, "attention", 1, [0], "output_dense.kernel")
    zero(model, "attention", -1, [1, 2], "query_dense.kernel")
    zero(model, "attention", -1, [1, 2], "query_dense.bias")
    zero(model, "d", 0, [7])
    return model, {"a": 7, "attention": 7, "d": 3}


def grouped_query_attention():
    """Query heads 0 and 1 share keys and values, which go with both, and not those of 2 and 3 with one. The output has
    the channels of the queries; a head keeps the three positions that its keys need, one more than its values."""
    x = inputs = keras.Input((5, 6))
    x = L.Dense(6, name="a")(x)
    x = L.GroupQueryAttention(4, 4, 2, name="attention")(x, x)
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(x)))
    for part in ("query", "key", "value"):
        zero(model, "attention", 0, [0], f"_{part}_dense.kernel")
    zero(model, "attention", 0, [0, 1, 2], "_output_dense.kernel")
    zero(model, "attention", 1, [0, 1], "_output_dense.kernel")
    zero(model, "attention", -1, [3], "_query_dense.kernel")
    zero(model, "attention", -1, [3], "_query_dense.bias")
    zero(model, "d", 0, [0, 1])
    return model, {"a": 5, "attention": 5, "d": 3}


def einsum():
    """What is written along two axes is cut along the last."""
    x = inputs = keras.Input((5, 4))
    x = L.EinsumDense("abc,cd->abd", (None, 6), "relu", bias_axes="d", name="e")(L.Dense(7, name="a")(x))
    x = L.EinsumDense("abc,cde->abde", (None, 2, 6), bias_axes="de", name="f")(x)
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(x)))
    zero(model, "e", 0, [0, 1])
    zero(model, "e", -1, [3])
    zero(model, "e", 0, [3], "bias")
    zero(model, "f", 0, [2])
    zero(model, "d", 0, [4])
    return model, {"a": 5, "e": 4, "f": 5, "d": 3}


def embedding():
    """Columns of the table that are unread, zero, or the same in all rows."""
    x = inputs = keras.Input((5,), dtype="int32")
    x = L.Conv1D(6, 3, activation="relu", name="c")(L.Embedding(10, 8, name="e")(x))
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(L.GlobalMaxPooling1D()(x))))
    zero(model, "c", -2, [0, 1])
    zero(model, "e", -1, [2], "embeddings")
    zero(model, "e", -1, [3], "embeddings", 1.5)
    zero(model, "d", 0, [5])
    return model, {"e": 4, "c": 5, "d": 3}


def models_in_models():
    """Channels inside of models, and those that they read and write."""
    x = inputs = keras.Input((8, 8, 3))
    deep = keras.Sequential([L.Conv2D(5, 3, padding="same", activation="relu", name="conv")], name="deep")
    y = image = keras.Input((8, 8, 6))
    y = L.Conv2D(6, 1, name="out")(deep(y))
    x = keras.Model(image, y, name="inner")(L.Conv2D(6, 1, name="a")(x))
    layers = [L.Conv2D(7, 1, activation="relu", name="first"), L.Conv2D(4, 1, name="second")]
    x = L.GlobalAveragePooling2D()(keras.Sequential(layers, name="tail")(x))
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(x)))
    zero(model, "inner/deep/conv", -2, [0])
    zero(model, "inner/out", -2, [1, 2])
    zero(model, "tail/first", -2, [3])
    zero(model, "tail/second", -2, [0, 1])
    zero(model, "d", 0, [0])
    kept = {"a": 5, "inner/deep/conv": 3, "inner/out": 5, "tail/first": 5, "tail/second": 3, "d": 3}
    return model, kept


def siamese():
    """A model that is called twice loses what is read of neither of its outputs."""
    a, b = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    layers = [keras.Input((6,)), L.Dense(8, activation="relu", name="one"), L.Dense(5, name="two")]
    tower = keras.Sequential(layers, name="tower")
    model = randomize(keras.Model([a, b], L.Dense(3, name="d")(L.Concatenate()([tower(a), tower(b)]))))
    zero(model, "tower/two", 0, [3])
    zero(model, "d", 0, [0, 1, 5 + 0, 5 + 2])
    return model, {"tower/one": 7, "tower/two": 4, "d": 3}


def shared_layer_on_itself():
    """A layer that reads what it writes; one of the two channels that are unread in the end is read in between."""
    x = inputs = keras.Input((6,))
    shared = L.Dense(5, activation="tanh", name="shared")
    x = shared(shared(L.Dense(5, name="a")(x)))
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(x)))
    zero(model, "d", 0, [0, 1])
    zero(model, "shared", 0, [0])
    return model, {"a": 4, "shared": 4, "d": 3}


def constants_for_a_normalization():
    """A reader without bias leaves a constant to the batch normalization behind it."""
    x = inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(5, 1, use_bias=False, name="b")(block(x, 6, "a"))
    x = L.ReLU()(L.BatchNormalization()(x))
    model = randomize(keras.Model(inputs, L.Dense(3, name="d")(L.GlobalAveragePooling2D()(x))))
    zero(model, "a", -1, [0, 1])
    zero(model, "a_norm", 0, [0, 1], "moving_mean")
    zero(model, "a_norm", 0, [0, 1], "beta", 2.0)
    return model, {"a": 4, "b": 5, "d": 3}


ZOO = [
    chain,
    flatten_needs_every_position,
    residual,
    residual_that_only_feeds_itself,
    concatenation,
    constants_fold,
    constants_at_a_border,
    constants_through_zero_padding,
    no_bias_for_a_constant,
    dead_branch,
    dead_constants,
    softmax_in_the_middle,
    shared_layer,
    shared_layer_of_rows,
    shared_layer_that_is_opaque_once,
    channels_first_axis,
    one_dimension,
    three_dimensions,
    unknown_layers,
    open_axes,
    sequential,
    dictionaries,
    depthwise,
    groups,
    resnext,
    separable,
    transposed,
    squeeze_and_excite,
    raw_operations,
    raw_positions,
    masked_gate,
    blocks_of_layers,
    dense_into_image,
    permuted,
    normalizations,
    normalizations_of_all_numbers,
    slopes,
    recurrent,
    both_directions,
    attention,
    grouped_query_attention,
    einsum,
    embedding,
    models_in_models,
    siamese,
    shared_layer_on_itself,
    constants_for_a_normalization,
]
