"""Networks of keras.applications: as much goes as counting by hand gives. All of them: benchmarks/applications.py."""

import math

import keras
import numpy as np
import pytest
from graphs import close
from keras import layers as L

import keras_rmda as kr
from keras_rmda.platform.compat import layers_of
from keras_rmda.structure.verification import difference

CLASSES, COLORS = 10, 3


def network(name, **arguments):
    """Return a network with random weights and statistics; nothing is zero by initialization."""
    keras.utils.set_random_seed(0)
    builder = getattr(keras.applications, name)
    model = builder(
        weights=None, input_shape=(64, 64, COLORS), classes=CLASSES, classifier_activation=None, **arguments
    )
    random = np.random.default_rng(0)
    for weight in model.weights:
        if weight.path.endswith(("beta", "bias", "moving_mean")):
            weight.assign(random.normal(scale=0.1, size=weight.shape))
        elif weight.path.endswith(("gamma", "moving_variance")):
            weight.assign(random.uniform(0.5, 1.5, size=weight.shape))
    return model


def written(layer):
    """Return (weight, axis) of everything that writes the layer's channels."""
    if isinstance(layer, L.DepthwiseConv2D):
        return [(layer.kernel, 2)] + ([(layer.bias, 0)] if layer.use_bias else [])
    if isinstance(layer, (L.Conv2D, L.Dense)):
        return [(layer.kernel, -1)] + ([(layer.bias, 0)] if layer.use_bias else [])
    if isinstance(layer, L.BatchNormalization):
        return [(weight, 0) for weight in (layer.gamma, layer.beta) if weight is not None]
    return []


def halved(weight):
    """Return the number of weights that are left where every number of channels is half; not colors and classes."""
    shape = list(weight.shape)
    first = 2 if len(shape) == 4 else 0
    return math.prod(shape[:first]) * math.prod(n if n in (1, COLORS, CLASSES) else n // 2 for n in shape[first:])


@pytest.mark.parametrize("name", ["VGG16", "ResNet50", "DenseNet121", "MobileNet", "MobileNetV2", "EfficientNetB0"])
def test_half_of_all_channels_zeroed_leaves_what_counting_by_hand_gives(name):
    model = network(name)
    for layer in model.layers[:-1]:
        for weight, axis in written(layer):
            value = np.moveaxis(np.array(keras.ops.convert_to_numpy(weight)), axis, 0)
            if len(value) != CLASSES:
                value[1::2] = 0
                weight.assign(np.moveaxis(value, 0, axis))
    expected = sum(halved(weight) for weight in model.weights)
    small = kr.strip(model)
    assert small.count_params() == expected
    if name == "MobileNet":
        assert expected == network("MobileNet", alpha=0.5).count_params()
    assert kr.analyze(small).removable == 0


def test_zeroed_groups_of_grouped_convolutions_go_as_groups():
    """ConvNeXt writes its depthwise convolutions as grouped ones, between stages that layer normalization mixes."""
    model = network("ConvNeXtTiny")
    wide = [layer for layer in model.layers if isinstance(layer, L.Dense) and layer.units == 4 * layer.kernel.shape[0]]
    for layer in wide:
        kernel = np.array(keras.ops.convert_to_numpy(layer.kernel))
        bias = np.array(keras.ops.convert_to_numpy(layer.bias))
        kernel[:, ::2], bias[::2] = 0, 0
        layer.kernel.assign(kernel)
        layer.bias.assign(bias)
    small = kr.strip(model)
    assert len(wide) == 18
    for layer in wide:
        assert small.get_layer(layer.name).units * 2 == layer.units
    assert kr.analyze(model).opaque == {}


@pytest.mark.parametrize(
    ("name", "kind", "where"),
    [
        ("MobileNetV2", "dep_l0", "everywhere"),
        ("EfficientNetB0", "l0", "everywhere"),
        ("DenseNet121", "dep_l0", "inside"),
    ],
)
def test_gates_open_change_nothing_and_closed_ones_go(name, kind, where):
    model = network(name)
    gated = kr.gates.insert(model, kind, where=where, seed=0)
    images = np.random.default_rng(0).normal(size=(2, 64, 64, COLORS)).astype("float32")
    assert difference(model(images, training=False), gated(images, training=False)) < 1e-6
    close(gated, np.random.default_rng(1))
    small = kr.strip(gated)
    assert not [layer.name for layer in layers_of(small) if type(layer).__module__.startswith("keras_rmda")]
    assert small.count_params() == kr.analyze(gated).parameters_after < 0.7 * model.count_params()
    assert difference(gated(images, training=False), small(images, training=False)) < 1e-5
