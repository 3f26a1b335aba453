"""Models with channels zeroed in known places, and how many stay; shared by the tests of the converter."""

import keras
import numpy as np
from keras import layers as L


def randomize(model, seed=0):
    """Give every weight a random value, so that nothing is zero or one by initialization."""
    random = np.random.default_rng(seed)
    for weight in model.weights:
        value = random.normal(scale=0.3, size=weight.shape)
        weight.assign(np.abs(value) + 0.5 if "variance" in weight.path else value)
    return model


def zero(model, name, axis, indices, attribute="kernel", value=0.0):
    """Set slices of a weight along an axis."""
    weight = getattr(model.get_layer(name), attribute)
    array = np.array(keras.ops.convert_to_numpy(weight))
    array[(slice(None),) * (axis % array.ndim) + (list(indices),)] = value
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
    """A Lambda, a layer that the table does not know and a model with a call of its own stay, with what they touch."""
    x = inputs = keras.Input((8, 8, 3))
    x = L.Lambda(same, name="unknown")(block(x, 6, "a"))
    x = L.Conv2D(5, 1, name="b")(x)
    x = L.Conv2D(4, 1, name="c")(x)
    x = L.SpectralNormalization(L.Conv2D(4, 1), name="wrapped")(x)
    model = randomize(keras.Model(inputs, Inner(name="inner")(x)))
    zero(model, "b", -2, [0])
    zero(model, "c", -2, [1])
    return model, {"a": 6, "b": 4, "c": 4}


@keras.saving.register_keras_serializable(package="tests")
def same(x):
    return x


@keras.saving.register_keras_serializable(package="tests")
class Inner(keras.Model):
    """A model whose code says what it computes."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.last = L.Conv2D(3, 1)

    def call(self, x):
        return self.last(x)


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
]
